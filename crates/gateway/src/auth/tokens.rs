//! The accepted tokens, kept up to date with their file.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bootstrap::Health;
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::{error, info};

use super::scopes::{Scope, Scopes};
use super::token_file::{KnownToken, MAX_TOKEN, read};

/// How often the gateway checks whether the file has changed.
const CHECK_INTERVAL: Duration = Duration::from_secs(1);

/// How long one check may take.
const CHECK_TIMEOUT: Duration = Duration::from_mins(1);

/// The accepted tokens: those of the file. Clones share them.
#[derive(Clone)]
pub(crate) struct Tokens {
    known: Arc<watch::Sender<Vec<KnownToken>>>,
}

/// Permission for work that goes on for a long time. It ends when the token is removed from the file
/// or loses the scope.
pub(crate) struct Grant(Option<Granted>);

struct Granted {
    known: watch::Receiver<Vec<KnownToken>>,
    hash: [u8; 32],
    scope: Scope,
}

/// The time and size of a file, by which a change is noticed; `None` if it cannot be read.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Version(Option<(SystemTime, u64)>);

impl Version {
    fn of(path: &Path) -> Self {
        let data = std::fs::metadata(path);
        Self(
            data.and_then(|data| Ok((data.modified()?, data.len())))
                .ok(),
        )
    }
}

impl Tokens {
    /// Reads a file, and reads it again whenever it changes. A changed file that is wrong is ignored.
    ///
    /// # Errors
    /// When the file cannot be read, or is wrong.
    pub(crate) fn watch(
        path: PathBuf,
        health: &Health,
        until: CancellationToken,
    ) -> anyhow::Result<Self> {
        let mut version = Version::of(&path);
        let tokens = Self {
            known: Arc::new(watch::Sender::new(read(&path)?)),
        };
        let known = Arc::clone(&tokens.known);
        let watching = health.supervise("tokens", async move |mut life| {
            loop {
                life.during(CHECK_INTERVAL, tokio::time::sleep(CHECK_INTERVAL))
                    .await;
                // The file may be on a slow network disk, so it is read where nothing else waits.
                let (file, last) = (path.clone(), version);
                let looking = tokio::task::spawn_blocking(move || {
                    let now = Version::of(&file);
                    let read = (now != last).then(|| read(&file));
                    (now, read)
                });
                let Ok((now, read)) = life.during(CHECK_TIMEOUT, looking).await else {
                    return;
                };
                version = now;
                match read {
                    None => {}
                    Some(Ok(read)) => {
                        info!(tokens = read.len(), "read the tokens again");
                        drop(known.send_replace(read));
                    }
                    Some(Err(error)) => error!("the tokens stay as they were: {error:#}"),
                }
            }
        });
        tokio::spawn(async move { until.run_until_cancelled(watching).await });
        Ok(tokens)
    }

    /// The name and the scopes of a token; `None` if it is not known. The time that this takes does
    /// not depend on how similar a guess is: whole hashes are compared.
    pub(crate) fn find(&self, token: &str) -> Option<(Arc<str>, Scopes)> {
        let hash = hash(token)?;
        find(&self.known.borrow(), &hash)
    }

    /// Permission for as long as the token has the scope; `None` if it does not have it.
    pub(crate) fn grant(&self, token: &str, scope: Scope) -> Option<Grant> {
        let known = self.known.subscribe();
        let hash = hash(token)?;
        let granted = Granted { known, hash, scope };
        granted.holds().then_some(Grant(Some(granted)))
    }
}

impl Grant {
    /// Permission without an end: no token is needed.
    pub(crate) const FOREVER: Self = Self(None);

    /// Waits until the permission ends. It may be dropped and called again.
    pub(crate) async fn withdrawn(&mut self) {
        if let Some(granted) = &mut self.0 {
            while granted.known.changed().await.is_ok() {
                if !granted.holds() {
                    return;
                }
            }
        }
        std::future::pending::<()>().await;
    }
}

impl Granted {
    fn holds(&self) -> bool {
        let found = find(&self.known.borrow(), &self.hash);
        found.is_some_and(|(_, scopes)| scopes.contain(self.scope))
    }
}

/// The SHA-256 of a token; `None` for a text that is too long to be one.
fn hash(token: &str) -> Option<[u8; 32]> {
    (token.len() <= MAX_TOKEN).then(|| Sha256::digest(token.as_bytes()).into())
}

fn find(known: &[KnownToken], hash: &[u8; 32]) -> Option<(Arc<str>, Scopes)> {
    let mut found = None;
    for known in known {
        if bool::from(known.hash.ct_eq(hash)) {
            found = Some((Arc::clone(&known.name), known.scopes));
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::super::token_file::parse;
    use super::*;

    const HASH: &str = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08";

    #[test]
    fn a_token_is_found_by_itself_or_by_its_hash() {
        let text = format!(
            "[[token]]\nname = \"ci\"\nsha256 = \"{HASH}\"\nscopes = [\"submit\", \"read\"]\n\
             [[token]]\nname = \"ops\"\ntoken = \"a-token-of-twenty-one\"\nscopes = [\"operate\"]\n"
        );
        let tokens = Tokens {
            known: Arc::new(watch::Sender::new(parse(&text).unwrap())),
        };
        let (name, scopes) = tokens.find("test").unwrap();
        assert_eq!(&*name, "ci");
        assert!(scopes.contain(Scope::Submit) && scopes.contain(Scope::Read));
        assert!(!scopes.contain(Scope::Operate));
        assert_eq!(&*tokens.find("a-token-of-twenty-one").unwrap().0, "ops");
        assert!(tokens.find("a-token-of-twenty-two").is_none());
        assert!(tokens.find("").is_none());
    }
}
