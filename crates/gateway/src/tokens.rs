//! The file that says whose token may do what.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use anyhow::{Context as _, bail};
use bootstrap::Health;
use serde::Deserialize;
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use crate::scope::{Scope, Scopes};

/// How often it is looked whether the file has changed.
const LOOK: Duration = Duration::from_secs(1);

/// How long that may take.
const SLOW: Duration = Duration::from_mins(1);

/// The shortest token; a text of this length that was made by chance is not guessed.
const SHORTEST: usize = 20;

/// The longest token.
const LONGEST: usize = 512;

/// The most tokens in a file: each request is compared with all of them.
const MOST: usize = 1000;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default)]
    token: Vec<Entry>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    name: String,
    sha256: Option<String>,
    token: Option<String>,
    scopes: Vec<Scope>,
}

/// The tokens that are accepted, as they are in a file.
#[derive(Clone)]
pub(crate) struct Tokens {
    known: Arc<watch::Sender<Vec<Known>>>,
}

/// What is allowed until the file says something else: whatever has no end of its own ends then.
pub(crate) struct Grant(Option<Held>);

struct Held {
    known: watch::Receiver<Vec<Known>>,
    hash: [u8; 32],
    scope: Scope,
}

struct Known {
    name: Arc<str>,
    hash: [u8; 32],
    scopes: Scopes,
}

/// What tells whether a file was replaced or written anew.
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
    /// Reads a file, and again whenever it has changed. One that is wrong then changes nothing.
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
                life.during(LOOK, tokio::time::sleep(LOOK)).await;
                // A file may be slow, on the disk of another machine say, and nobody else waits for it.
                let (file, last) = (path.clone(), version);
                let looking = tokio::task::spawn_blocking(move || {
                    let now = Version::of(&file);
                    let read = (now != last).then(|| read(&file));
                    (now, read)
                });
                let Ok((now, read)) = life.during(SLOW, looking).await else {
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

    /// Whose token it is, and what it allows. How long this takes tells nothing of how near a
    /// guess is: hashes are compared, and each of them whole.
    pub(crate) fn find(&self, token: &str) -> Option<(Arc<str>, Scopes)> {
        let hash = hash(token)?;
        find(&self.known.borrow(), &hash)
    }

    /// Lets somebody go on for as long as the token has the scope; none if it does not have it.
    pub(crate) fn grant(&self, token: &str, scope: Scope) -> Option<Grant> {
        let known = self.known.subscribe();
        let hash = hash(token)?;
        let held = Held { known, hash, scope };
        held.holds().then_some(Grant(Some(held)))
    }
}

impl Grant {
    /// Where no token is needed.
    pub(crate) const FOREVER: Self = Self(None);

    /// Waits until it does not hold any more.
    pub(crate) async fn withdrawn(&mut self) {
        if let Some(held) = &mut self.0 {
            while held.known.changed().await.is_ok() {
                if !held.holds() {
                    return;
                }
            }
        }
        std::future::pending::<()>().await;
    }
}

impl Held {
    fn holds(&self) -> bool {
        let found = find(&self.known.borrow(), &self.hash);
        found.is_some_and(|(_, scopes)| scopes.contain(self.scope))
    }
}

/// None of what is too long to be a token.
fn hash(token: &str) -> Option<[u8; 32]> {
    (token.len() <= LONGEST).then(|| Sha256::digest(token.as_bytes()).into())
}

fn find(known: &[Known], hash: &[u8; 32]) -> Option<(Arc<str>, Scopes)> {
    let mut found = None;
    for known in known {
        if bool::from(known.hash.ct_eq(hash)) {
            found = Some((Arc::clone(&known.name), known.scopes));
        }
    }
    found
}

fn read(path: &Path) -> anyhow::Result<Vec<Known>> {
    let shown = path.display();
    let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {shown}"))?;
    let known = parse(&text).with_context(|| format!("the tokens in {shown} are wrong"))?;
    if text.contains("token =") || text.contains("token=") {
        warn_if_open(path);
    }
    Ok(known)
}

fn warn_if_open(path: &Path) {
    use std::os::unix::fs::PermissionsExt as _;
    let open = std::fs::metadata(path).is_ok_and(|data| data.permissions().mode() & 0o004 != 0);
    if open {
        warn!(
            file = %path.display(),
            "everybody on this machine can read tokens: take the right away, or write down `sha256` instead of `token`"
        );
    }
}

fn parse(text: &str) -> anyhow::Result<Vec<Known>> {
    // The library's own words quote the line, which may hold a token.
    let file: File = toml::from_str(text).map_err(|error| {
        let before = error.span().and_then(|span| text.get(..span.start));
        let line = before.map_or(1, |before| before.matches('\n').count() + 1);
        // So may its message; of that only the name of a field that nobody knows is told.
        let field = error.message().strip_prefix("unknown field `");
        match field.and_then(|rest| rest.split('`').next()) {
            Some(field) => anyhow::anyhow!("line {line}: unknown field `{field}`"),
            None => anyhow::anyhow!("line {line} is not as it should be"),
        }
    })?;
    if file.token.is_empty() {
        bail!("there is no [[token]]");
    }
    if file.token.len() > MOST {
        bail!("{} tokens, and {MOST} are the most", file.token.len());
    }
    let mut known: Vec<Known> = Vec::with_capacity(file.token.len());
    for entry in file.token {
        let name = entry.name;
        let hash = match (entry.sha256, entry.token) {
            (Some(hash), None) => from_hex(&hash)
                .with_context(|| format!("sha256 of {name:?} is not 64 hex digits"))?,
            (None, Some(token)) => {
                let visible = token.bytes().all(is_token_byte);
                if !(SHORTEST..=LONGEST).contains(&token.len()) || !visible {
                    bail!(
                        "token of {name:?}: {SHORTEST} to {LONGEST} characters of A-Z a-z 0-9 - . _ ~ + / ="
                    );
                }
                Sha256::digest(token.as_bytes()).into()
            }
            _ => bail!("{name:?} needs either sha256 or token"),
        };
        if entry.scopes.is_empty() {
            bail!("{name:?} has no scopes: read, submit, operate");
        }
        if known.iter().any(|known| known.hash == hash) {
            bail!("{name:?} has the token of another one");
        }
        known.push(Known {
            name: name.into(),
            hash,
            scopes: entry.scopes.into_iter().collect(),
        });
    }
    Ok(known)
}

/// What a bearer token is made of after RFC 6750; none of it has a meaning in a cookie.
pub(crate) fn is_token_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-._~+/=".contains(&byte)
}

fn from_hex(text: &str) -> Option<[u8; 32]> {
    let mut bytes = [0; 32];
    if text.len() != 64 || !text.is_ascii() {
        return None;
    }
    for (byte, at) in bytes.iter_mut().zip((0..64).step_by(2)) {
        *byte = u8::from_str_radix(&text[at..at + 2], 16).ok()?;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HASH: &str = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08";

    fn wrong(text: &str) -> String {
        format!("{:#}", parse(text).err().unwrap())
    }

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

    #[test]
    fn what_is_wrong_is_named_and_no_token_is_quoted() {
        let entry = |rest: &str| format!("[[token]]\nname = \"ci\"\n{rest}");
        let cases = [
            (String::new(), "there is no [[token]]"),
            (entry("scopes = [\"read\"]"), "either sha256 or token"),
            (
                entry("token = \"short-secret\"\nscopes = [\"read\"]"),
                "20 to 512",
            ),
            (
                entry(&format!("sha256 = \"{HASH}\"\nscopes = []")),
                "no scopes",
            ),
            (
                entry("token = \"short-secret\"\nscopes = [\"write\"]"),
                "line 4",
            ),
            (
                entry("sha256 = \"9f\"\nscopes = [\"read\"]"),
                "64 hex digits",
            ),
            ("token = \"short-secret\"".to_owned(), "line 1"),
            (
                entry("sha256 = \"9f\"\nscopes = \"short-secret\""),
                "line 4",
            ),
            (entry("tokem = \"short-secret\""), "unknown field `tokem`"),
        ];
        for (text, words) in cases {
            let error = wrong(&text);
            assert!(error.contains(words), "{text}: {error}");
            assert!(!error.contains("short-secret"), "{error}");
        }
    }
}
