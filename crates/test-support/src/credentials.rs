//! Who may do what on a server with `deploy/nats.conf`.

use std::collections::BTreeMap;

use async_nats::ConnectOptions;
use rand::RngExt as _;
use rand::distr::{Alphabetic, Alphanumeric};

/// A password of its own for each user of `deploy/nats.conf`: `publisher`, `worker` and `status`.
#[derive(Clone)]
pub struct Credentials {
    passwords: BTreeMap<&'static str, String>,
}

impl Credentials {
    const USERS: [&str; 3] = ["publisher", "worker", "status"];

    /// Draws new passwords.
    #[must_use]
    pub fn random() -> Self {
        let passwords = Self::USERS.map(|user| (user, random_password()));
        Self {
            passwords: passwords.into(),
        }
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
            .unwrap_or_else(|| panic!("no user {user}: there are {:?}", Self::USERS))
    }
}

/// The one prefix under which the server lets `user` receive replies.
pub(crate) fn inbox_prefix(user: &str) -> String {
    format!("_INBOX_{user}")
}

/// The server reads variables as part of its configuration: a value that looks like a number, or
/// that holds punctuation, would not be taken for a string. So a letter comes first.
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
    fn passwords_are_long_begin_with_a_letter_and_differ() {
        let credentials = Credentials::random();
        let mut passwords: Vec<_> = credentials
            .server_env()
            .map(|(_, password)| password)
            .collect();
        for password in &passwords {
            assert!(password.len() >= 24, "{password}");
            assert!(
                password.starts_with(|first: char| first.is_ascii_alphabetic()),
                "{password}"
            );
            assert!(
                password.chars().all(|it| it.is_ascii_alphanumeric()),
                "{password}"
            );
        }
        passwords.sort();
        passwords.dedup();
        assert_eq!(passwords.len(), 3);
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
    #[should_panic(expected = "no user admin")]
    fn an_unknown_user_is_named() {
        let _ = Credentials::random().client_env("admin");
    }
}
