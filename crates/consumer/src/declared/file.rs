//! Reads the file, and reports all mistakes in it with their lines.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Path, PathBuf};

use common::JobKind;
use serde::Deserialize;
use serde_path_to_error::Segment;
use toml::Spanned;
use toml::de::{DeTable, DeValue, ValueDeserializer};

use super::environment::Variables;
use super::exec::{self, Exec};
use super::http::{self, Http};
use super::mistake::{KeyMistake, Lines, Mistake, Mistakes};
use super::nats::{self, LateClient};
use super::nearest::nearest;
use crate::registry::Registry;

/// Why a handlers file was not loaded.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LoadError {
    /// It cannot be read.
    #[error("cannot read the handlers file {}: {source}", path.display())]
    Unreadable {
        path: PathBuf,
        source: std::io::Error,
    },
    /// The file has mistakes; the error shows one a line.
    #[error("{}", Mistakes(path, mistakes))]
    Mistaken {
        path: PathBuf,
        mistakes: Vec<Mistake>,
    },
}

/// A declared handler that was checked.
enum Declared {
    Exec(Exec),
    Http(Box<Http>),
    Nats(nats::Declaration),
}

/// Adds the handlers that a file declares.
///
/// A kind that has a handler already is an error when the consumer starts.
///
/// # Errors
/// When the file cannot be read or has mistakes; the error names every mistake with its line.
pub(crate) fn load(
    path: &Path,
    registry: Registry,
    nats: &LateClient,
) -> Result<Registry, LoadError> {
    let unreadable = |source| LoadError::Unreadable {
        path: path.to_owned(),
        source,
    };
    let text = std::fs::read_to_string(path).map_err(unreadable)?;
    let folder = std::path::absolute(path).map_err(unreadable)?;
    let folder = folder.parent().unwrap_or(Path::new("/"));
    let declared = read(&text, folder, &|name| std::env::var_os(name));
    let declared = declared.map_err(|mistakes| LoadError::Mistaken {
        path: path.to_owned(),
        mistakes,
    })?;
    Ok(declared
        .into_iter()
        .fold(registry, |registry, (kind, declared)| {
            let name = kind.as_str().to_owned();
            registry.with_any(
                &name,
                match declared {
                    Declared::Exec(exec) => Box::new(exec),
                    Declared::Http(http) => http,
                    Declared::Nats(declaration) => {
                        Box::new(declaration.handler(kind, nats.clone()))
                    }
                },
            )
        }))
}

/// Reads the text of a file. Relative paths in it start at `folder`.
fn read(
    text: &str,
    folder: &Path,
    variables: Variables<'_>,
) -> Result<Vec<(JobKind, Declared)>, Vec<Mistake>> {
    let reader = Reader {
        lines: Lines(text),
        folder,
        variables,
    };
    let document = DeTable::parse(text)
        .map_err(|error| vec![reader.lines.mistake(error.span(), "", error.message())])?;
    let mut mistakes = Vec::new();
    let mut declared = Vec::new();
    for (key, value) in document.into_inner() {
        if key.get_ref() != "handlers" {
            let text = "unknown key: handlers are declared as [handlers.\"kind\"]";
            mistakes.push(
                reader
                    .lines
                    .mistake(Some(key.span()), &shown(key.get_ref()), text),
            );
            continue;
        }
        let span = value.span();
        let DeValue::Table(handlers) = value.into_inner() else {
            mistakes.push(reader.lines.mistake(
                Some(span),
                "handlers",
                "handlers are declared as [handlers.\"kind\"]",
            ));
            continue;
        };
        for (kind, declaration) in handlers {
            match reader.handler(&kind, declaration) {
                Ok(handler) => declared.push(handler),
                Err(mistake) => mistakes.push(mistake),
            }
        }
    }
    mistakes.sort_by_key(|mistake| mistake.line);
    if mistakes.is_empty() {
        Ok(declared)
    } else {
        Err(mistakes)
    }
}

struct Reader<'a> {
    lines: Lines<'a>,
    folder: &'a Path,
    variables: Variables<'a>,
}

impl Reader<'_> {
    fn handler(
        &self,
        kind: &Spanned<std::borrow::Cow<'_, str>>,
        declaration: Spanned<DeValue<'_>>,
    ) -> Result<(JobKind, Declared), Mistake> {
        let name = format!("handlers.{:?}", kind.get_ref());
        let mistake = |text: String| self.lines.mistake(Some(kind.span()), &name, &text);
        let parsed: JobKind = kind
            .get_ref()
            .parse()
            .map_err(|error: common::InvalidKind| mistake(error.to_string()))?;
        let DeValue::Table(table) = declaration.get_ref() else {
            return Err(mistake(
                "a handler is a table: [handlers.\"kind\"]".to_owned(),
            ));
        };
        let keys: BTreeMap<String, Range<usize>> = table
            .keys()
            .map(|key| (key.get_ref().to_string(), key.span()))
            .collect();
        let ways: Vec<&str> = WAYS
            .into_iter()
            .filter(|way| keys.contains_key(*way))
            .collect();
        let entry = Entry {
            lines: &self.lines,
            name: &name,
            keys,
            whole: kind.span(),
        };
        let declared = match ways[..] {
            ["exec"] => {
                let declaration: exec::Declaration = entry.read(declaration)?;
                let handler = declaration.handler(parsed.clone(), self.folder, self.variables);
                Declared::Exec(handler.map_err(|mistake| entry.mistake(&mistake))?)
            }
            ["http"] => {
                let declaration: http::Declaration = entry.read(declaration)?;
                let handler = declaration.handler(parsed.clone(), self.variables);
                Declared::Http(Box::new(
                    handler.map_err(|mistake| entry.mistake(&mistake))?,
                ))
            }
            ["nats"] => Declared::Nats(entry.read(declaration)?),
            [] if table
                .values()
                .any(|value| matches!(value.get_ref(), DeValue::Table(_))) =>
            {
                return Err(mistake(
                    "a kind with dots needs quotes: [handlers.\"mail.send\"]".to_owned(),
                ));
            }
            [] => return Err(entry.without_way()),
            _ => {
                return Err(mistake(format!(
                    "`{}`: only one of these keys is allowed",
                    ways.join("` and `")
                )));
            }
        };
        Ok((parsed, declared))
    }
}

/// The keys that say what runs the jobs.
const WAYS: [&str; 3] = ["exec", "http", "nats"];

/// The table of one handler.
struct Entry<'a> {
    lines: &'a Lines<'a>,
    name: &'a str,
    keys: BTreeMap<String, Range<usize>>,
    whole: Range<usize>,
}

impl Entry<'_> {
    fn read<'de, D: Deserialize<'de>>(
        &self,
        declaration: Spanned<DeValue<'de>>,
    ) -> Result<D, Mistake> {
        let deserializer = ValueDeserializer::from(declaration);
        serde_path_to_error::deserialize(deserializer).map_err(|located| {
            let path = located.path().clone();
            let error = located.into_inner();
            let mut key = self.name.to_owned();
            // The text names an unknown key itself.
            if path.iter().len() > 0 && !error.message().starts_with("unknown field") {
                key = format!("{key}.{path}");
            }
            let mut text = error.message().to_owned();
            let mut quoted = error.message().split('`').skip(1).step_by(2);
            if text.starts_with("unknown field")
                && let Some(unknown) = quoted.next()
                && let Some(meant) = nearest(unknown, quoted)
            {
                text = format!("unknown key `{unknown}`: did you mean `{meant}`?");
            }
            if text.starts_with("invalid type")
                && let Some(Segment::Map { key }) = path.iter().next()
            {
                text.push_str(example(key));
            }
            let span = error.span().unwrap_or_else(|| self.whole.clone());
            self.lines.mistake(Some(span), &key, &text)
        })
    }

    /// The mistake of a table that does not say what runs the jobs.
    fn without_way(&self) -> Mistake {
        let misspelt = self.keys.iter().find_map(|(key, span)| {
            let meant = nearest(key, WAYS)?;
            Some((
                span,
                format!("unknown key {}: did you mean `{meant}`?", quoted(key)),
            ))
        });
        let (span, text) = misspelt.unwrap_or_else(|| {
            let text =
                "one of the keys `exec`, `http` and `nats` is required: it says what runs the jobs";
            let here: Vec<String> = self.keys.keys().map(|key| quoted(key)).collect();
            let text = if here.is_empty() {
                text.to_owned()
            } else {
                format!("{text}; found {}", here.join(" and "))
            };
            (&self.whole, text)
        });
        self.lines.mistake(Some(span.clone()), self.name, &text)
    }

    fn mistake(&self, KeyMistake { key, text }: &KeyMistake) -> Mistake {
        let span = self.keys.get(*key).unwrap_or(&self.whole);
        self.lines
            .mistake(Some(span.clone()), &format!("{}.{key}", self.name), text)
    }
}

/// An example of the right value: "expected a string" does not tell which unit to write.
fn example(key: &str) -> &'static str {
    match key {
        "timeout" => ", such as \"30s\"",
        "keep" => ", \"all\" or \"failures\"",
        "max-output" => ", such as \"1MiB\"",
        "success-codes" | "transient-codes" => ", such as [0, 3]",
        "env" => ", such as [\"LANG\", \"MODE=fast\"]",
        "headers" => ", such as { Authorization = \"Bearer ${TOKEN}\" }",
        "secret" => ", such as \"${WEBHOOK_SECRET}\"",
        "redirects" => ", such as 3",
        _ => "",
    }
}

/// A key of the file in a sentence.
fn quoted(key: &str) -> String {
    format!("`{}`", key.escape_debug())
}

fn shown(key: &str) -> String {
    if key
        .bytes()
        .all(|byte| byte.is_ascii_alphanumeric() || b"_-".contains(&byte))
    {
        key.to_owned()
    } else {
        format!("{key:?}")
    }
}

#[cfg(test)]
mod tests;
