//! Who may do what on a server with `deploy/nats.conf`.

use std::collections::BTreeMap;

use anyhow::ensure;
use async_nats::ConnectOptions;
use rand::RngExt as _;
use rand::distr::{Alphabetic, Alphanumeric};

/// A user that only the servers of tests have, and that may do everything: what a test does to a
/// system from outside needs no rights in `deploy/nats.conf`.
pub(crate) const ADMIN: &str = "admin";

/// A password of its own for each user of `deploy/nats.conf`: `publisher`, `application`, `worker`,
/// `status`, `operator`, `restore` and `gateway`.
#[derive(Clone)]
pub struct Credentials {
    passwords: BTreeMap<&'static str, String>,
}

impl Credentials {
    const USERS: [&str; 7] = [
        "publisher",
        "application",
        "worker",
        "status",
        "operator",
        "restore",
        "gateway",
    ];

    /// Draws new passwords.
    #[must_use]
    pub fn random() -> Self {
        let passwords = Self::USERS.map(|user| (user, random_password()));
        Self {
            passwords: passwords.into(),
        }
    }

    /// Adds the user [`ADMIN`], with a password of its own.
    #[must_use]
    pub(crate) fn with_admin(mut self) -> Self {
        self.passwords.insert(ADMIN, random_password());
        self
    }

    /// Takes the passwords that `lookup` knows by the name of the server's variable.
    ///
    /// # Errors
    ///
    /// When the server would misread one of them, naming the variable.
    pub fn overridden_by(
        mut self,
        lookup: impl Fn(&str) -> Option<String>,
    ) -> anyhow::Result<Self> {
        for (user, password) in &mut self.passwords {
            let variable = server_variable(user);
            if let Some(given) = lookup(&variable) {
                ensure!(
                    is_safe(&given),
                    "{variable} must have {SHORTEST} or more letters and digits, a letter first"
                );
                *password = given;
            }
        }
        Ok(self)
    }

    /// The environment from which the server reads the passwords.
    pub fn server_env(&self) -> impl Iterator<Item = (String, String)> {
        self.passwords.iter().map(|(user, password)| {
            (
                format!("NATS_{}_PASSWORD", user.to_uppercase()),
                password.clone(),
            )
        })
    }

    /// The environment with which one of our services connects as `user`.
    ///
    /// # Panics
    ///
    /// When the server knows no such user.
    #[must_use]
    pub fn client_env(&self, user: &str) -> Vec<(String, String)> {
        vec![
            ("NATS_USER".to_owned(), user.to_owned()),
            ("NATS_PASSWORD".to_owned(), self.password(user).to_owned()),
            ("NATS_INBOX_PREFIX".to_owned(), inbox_prefix(user)),
        ]
    }

    /// Options to connect as `user` from within a test.
    ///
    /// # Panics
    ///
    /// When the server knows no such user.
    #[must_use]
    pub fn options_for(&self, user: &str) -> ConnectOptions {
        ConnectOptions::with_user_and_password(user.to_owned(), self.password(user).to_owned())
            .custom_inbox_prefix(inbox_prefix(user))
    }

    fn password(&self, user: &str) -> &str {
        self.passwords
            .get(user)
            .unwrap_or_else(|| panic!("no user {user}: there are {:?}", self.passwords.keys()))
    }
}

/// The one prefix under which the server lets `user` receive replies.
pub(crate) fn inbox_prefix(user: &str) -> String {
    format!("_INBOX_{user}")
}

fn server_variable(user: &str) -> String {
    format!("NATS_{}_PASSWORD", user.to_uppercase())
}

/// An empty password would let anybody in.
const SHORTEST: usize = 24;

/// The server reads variables as part of its configuration: a value that looks like a number, or
/// that holds punctuation, would not be taken for a string.
fn is_safe(password: &str) -> bool {
    password.len() >= SHORTEST
        && password.starts_with(|first: char| first.is_ascii_alphabetic())
        && password.bytes().all(|byte| byte.is_ascii_alphanumeric())
}

fn random_password() -> String {
    let mut rng = rand::rng();
    let first = char::from(rng.sample(Alphabetic));
    std::iter::once(first)
        .chain(rng.sample_iter(Alphanumeric).take(31).map(char::from))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn random_passwords_are_safe_and_differ() {
        let credentials = Credentials::random();
        let mut passwords: Vec<_> = credentials
            .server_env()
            .map(|(_, password)| password)
            .collect();
        assert!(
            passwords.iter().all(|password| is_safe(password)),
            "{passwords:?}"
        );
        passwords.sort();
        passwords.dedup();
        assert_eq!(passwords.len(), Credentials::USERS.len());
    }

    #[test]
    fn server_and_client_are_told_the_same_password() {
        let credentials = Credentials::random();
        let server: BTreeMap<_, _> = credentials.server_env().collect();
        let client: BTreeMap<_, _> = credentials.client_env("worker").into_iter().collect();
        assert_eq!(server["NATS_WORKER_PASSWORD"], client["NATS_PASSWORD"]);
        assert_eq!(client["NATS_USER"], "worker");
        assert_eq!(client["NATS_INBOX_PREFIX"], "_INBOX_worker");
    }

    #[test]
    fn given_passwords_replace_random_ones() {
        let given = "a".repeat(24);
        let lookup = |name: &str| (name == "NATS_WORKER_PASSWORD").then(|| given.clone());
        let credentials = Credentials::random().overridden_by(lookup).unwrap();
        assert_eq!(credentials.password("worker"), given);
        assert_ne!(credentials.password("status"), given);
    }

    #[test]
    fn a_password_that_the_server_would_misread_is_refused_by_name() {
        for bad in [
            "",
            "short",
            &"1".repeat(24),
            &"a;".repeat(12),
            &"a ".repeat(12),
        ] {
            let lookup = |name: &str| (name == "NATS_WORKER_PASSWORD").then(|| bad.to_owned());
            let error = Credentials::random()
                .overridden_by(lookup)
                .err()
                .expect(bad);
            assert!(
                error.to_string().contains("NATS_WORKER_PASSWORD"),
                "{error}"
            );
        }
    }

    #[test]
    fn only_a_test_has_an_admin() {
        let server: BTreeMap<_, _> = Credentials::random().with_admin().server_env().collect();
        assert!(is_safe(&server["NATS_ADMIN_PASSWORD"]));
    }

    #[test]
    #[should_panic(expected = "no user admin")]
    fn an_unknown_user_is_named() {
        let _ = Credentials::random().client_env("admin");
    }
}
