//! Reads the TOML file with the tokens.

use std::io;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context as _, anyhow, bail};
use serde::Deserialize;
use sha2::{Digest as _, Sha256};
use tracing::warn;

use super::credentials::is_token_byte;
use super::scopes::{Scope, Scopes};

/// The shortest token, in bytes: a random text of this length cannot be guessed.
const MIN_TOKEN: usize = 20;

/// The longest token, in bytes.
pub(super) const MAX_TOKEN: usize = 512;

/// The most tokens in a file: each request is compared with all of them.
const MAX_TOKENS: usize = 1000;

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

/// A token of the file.
pub(super) struct KnownToken {
    pub(super) name: Arc<str>,
    /// The SHA-256 of the token.
    pub(super) hash: [u8; 32],
    pub(super) scopes: Scopes,
}

/// Reads the tokens in a file.
///
/// # Errors
/// When the file cannot be read, or is wrong. The error quotes no token.
pub(super) fn read(path: &Path) -> anyhow::Result<Vec<KnownToken>> {
    let text = std::fs::read_to_string(path).map_err(|error| unreadable(path, error))?;
    let shown = path.display();
    let known = parse(&text).with_context(|| format!("the tokens in {shown} are wrong"))?;
    if text.contains("token =") || text.contains("token=") {
        warn_if_open(path);
    }
    Ok(known)
}

fn unreadable(path: &Path, error: io::Error) -> anyhow::Error {
    let shown = path.display();
    if error.kind() != io::ErrorKind::PermissionDenied {
        return anyhow::Error::new(error).context(format!("cannot read {shown}"));
    }
    let uid = rustix::process::geteuid();
    // What the system says adds nothing, and the way out should be what is read last.
    anyhow!(
        "the gateway runs as uid {uid}, which may not read {shown}: make the file readable for this user, for example \
         with `sudo chown {uid}` on it"
    )
}

fn warn_if_open(path: &Path) {
    use std::os::unix::fs::PermissionsExt as _;
    let open = std::fs::metadata(path).is_ok_and(|data| data.permissions().mode() & 0o004 != 0);
    if open {
        warn!(
            file = %path.display(),
            "everybody on this machine can read the tokens in this file: change its permissions, or write `sha256` instead of `token`"
        );
    }
}

pub(super) fn parse(text: &str) -> anyhow::Result<Vec<KnownToken>> {
    // The library's error quotes the line, which may hold a token.
    let file: File = toml::from_str(text).map_err(|error| {
        let before = error.span().and_then(|span| text.get(..span.start));
        let line = before.map_or(1, |before| before.matches('\n').count() + 1);
        // Its message may quote a token as well: only the name of an unknown field is taken from it.
        let field = error.message().strip_prefix("unknown field `");
        match field.and_then(|rest| rest.split('`').next()) {
            Some(field) => anyhow::anyhow!("line {line}: unknown field `{field}`"),
            None => anyhow::anyhow!("line {line} is wrong"),
        }
    })?;
    if file.token.is_empty() {
        bail!("there is no [[token]]");
    }
    if file.token.len() > MAX_TOKENS {
        bail!(
            "the file has {} tokens; the limit is {MAX_TOKENS}",
            file.token.len()
        );
    }
    let mut known: Vec<KnownToken> = Vec::with_capacity(file.token.len());
    for entry in file.token {
        let name = entry.name;
        let hash = match (entry.sha256, entry.token) {
            (Some(hash), None) => from_hex(&hash)
                .with_context(|| format!("sha256 of {name:?} is not 64 hex digits"))?,
            (None, Some(token)) => {
                let visible = token.bytes().all(is_token_byte);
                if !(MIN_TOKEN..=MAX_TOKEN).contains(&token.len()) || !visible {
                    bail!(
                        "token of {name:?}: {MIN_TOKEN} to {MAX_TOKEN} characters of A-Z a-z 0-9 - . _ ~ + / ="
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
            bail!("{name:?} has the same token as another entry");
        }
        known.push(KnownToken {
            name: name.into(),
            hash,
            scopes: entry.scopes.into_iter().collect(),
        });
    }
    Ok(known)
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
    fn a_file_that_may_not_be_read_is_named_with_the_user_and_the_way_out() {
        let path = Path::new("/etc/jobs/tokens.toml");
        let uid = rustix::process::geteuid();
        let error = unreadable(path, io::ErrorKind::PermissionDenied.into());
        let expected = format!(
            "the gateway runs as uid {uid}, which may not read /etc/jobs/tokens.toml: make the file readable for this \
             user, for example with `sudo chown {uid}` on it"
        );
        assert_eq!(format!("{error:#}"), expected);
        let missing = unreadable(path, io::ErrorKind::NotFound.into());
        assert!(format!("{missing:#}").starts_with("cannot read /etc/jobs/tokens.toml: "));
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
