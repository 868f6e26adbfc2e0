//! Values that declarations take from the environment of the consumer.

use std::ffi::{OsStr, OsString};

use bootstrap::trace::{TRACEPARENT, TRACESTATE};
use serde::Deserialize;

/// Looks up an environment variable; `None` if it is not set.
pub(super) type Variables<'a> = &'a dyn Fn(&str) -> Option<OsString>;

/// A text in which `${NAME}` stands for an environment variable. It keeps secrets out of the file.
#[derive(Clone, Debug, Deserialize)]
#[serde(try_from = "String")]
pub(super) struct Template(Vec<Piece>);

#[derive(Clone, Debug)]
enum Piece {
    Text(String),
    Variable(String),
}

impl TryFrom<String> for Template {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let mut pieces = Vec::new();
        let mut rest = text.as_str();
        while let Some((before, after)) = rest.split_once("${") {
            let name = after.split_once('}').map(|(name, after)| {
                rest = after;
                name
            });
            match name {
                Some(name) if is_name(name) => {
                    pieces.push(Piece::Text(before.to_owned()));
                    pieces.push(Piece::Variable(name.to_owned()));
                }
                _ => {
                    return Err(format!(
                        "{text:?} holds \"${{\" without the name of a variable and \"}}\" after it"
                    ));
                }
            }
        }
        pieces.push(Piece::Text(rest.to_owned()));
        Ok(Self(pieces))
    }
}

impl Template {
    /// Whether part of the text comes from a variable.
    pub(super) fn has_variable(&self) -> bool {
        let is_variable = |piece: &Piece| matches!(piece, Piece::Variable(_));
        self.0.iter().any(is_variable)
    }

    /// The text with the values of its variables.
    ///
    /// # Errors
    /// When a variable is not set, empty or not UTF-8. The error shows its name, never its value.
    pub(super) fn fill(&self, variables: Variables<'_>) -> Result<String, String> {
        self.0
            .iter()
            .map(|piece| match piece {
                Piece::Text(text) => Ok(text.clone()),
                Piece::Variable(name) => variables(name)
                    .filter(|value| !value.is_empty())
                    .ok_or_else(|| {
                        format!("the variable {name} is not set in the environment of the consumer")
                    })?
                    .into_string()
                    .map_err(|_| format!("the value of the variable {name} is not UTF-8")),
            })
            .collect()
    }
}

/// An environment variable of a program: `NAME` copies the consumer's, `NAME=value` sets it.
#[derive(Clone, Debug, Deserialize)]
#[serde(try_from = "String")]
pub(super) struct Variable {
    pub(super) name: String,
    value: Option<String>,
}

/// The prefix of variables that the consumer sets for every program.
const RESERVED: &str = "JOB_";

impl TryFrom<String> for Variable {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let (name, value) = text
            .split_once('=')
            .map_or((text.as_str(), None), |(name, value)| (name, Some(value)));
        if !is_name(name) || value.is_some_and(|value| value.contains('\0')) {
            return Err(format!(
                "{text:?} is neither the name of a variable to pass on nor \"NAME=value\""
            ));
        }
        if name.starts_with(RESERVED) {
            return Err(format!(
                "{name}: variables that begin with {RESERVED} are set by the consumer"
            ));
        }
        if [TRACEPARENT, TRACESTATE].contains(&name.to_lowercase().as_str()) {
            return Err(format!("{name} is set by the consumer"));
        }
        let (name, value) = (name.to_owned(), value.map(str::to_owned));
        Ok(Self { name, value })
    }
}

impl Variable {
    /// The value for the program.
    ///
    /// # Errors
    /// When the variable is to be copied from the consumer, but is not set there.
    pub(super) fn value(&self, variables: Variables<'_>) -> Result<OsString, String> {
        let name = &self.name;
        let value = self
            .value
            .as_ref()
            .map(|value| OsStr::new(value).to_owned());
        value.or_else(|| variables(name)).ok_or_else(|| {
            format!(
                "the variable {name} is not set in the environment of the consumer; \
                 \"{name}=value\" would set it here"
            )
        })
    }
}

fn is_name(name: &str) -> bool {
    name.bytes()
        .all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
        && name
            .bytes()
            .next()
            .is_some_and(|first| !first.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn variables(name: &str) -> Option<OsString> {
        match name {
            "TOKEN" => Some("s3cret".into()),
            "EMPTY" => Some("".into()),
            _ => None,
        }
    }

    fn fill(text: &str) -> Result<String, String> {
        Template::try_from(text.to_owned())?.fill(&variables)
    }

    #[test]
    fn variables_stand_anywhere_in_a_text() {
        assert_eq!(fill("Bearer ${TOKEN}").unwrap(), "Bearer s3cret");
        assert_eq!(
            fill("${TOKEN}${TOKEN}/$TOKEN}").unwrap(),
            "s3crets3cret/$TOKEN}"
        );
        assert_eq!(fill("").unwrap(), "");
    }

    #[test]
    fn a_variable_without_a_value_is_named() {
        for (text, name) in [("${MISSING}", "MISSING"), ("a${EMPTY}b", "EMPTY")] {
            let error = fill(text).unwrap_err();
            assert!(
                error.starts_with(&format!("the variable {name} is not set")),
                "{error}"
            );
        }
    }

    #[test]
    fn broken_references_are_refused() {
        for text in ["${", "${}", "${TOKEN", "${1A}", "${A B}", "x${A-b}"] {
            assert!(
                Template::try_from(text.to_owned()).is_err(),
                "{text:?} was taken"
            );
        }
    }

    #[test]
    fn a_program_is_given_what_is_listed() {
        let value = |text: &str| Variable::try_from(text.to_owned())?.value(&variables);
        assert_eq!(value("TOKEN").unwrap(), "s3cret");
        assert_eq!(value("MODE=a=b").unwrap(), "a=b");
        assert_eq!(value("MODE=").unwrap(), "");
        assert!(
            value("MISSING")
                .unwrap_err()
                .contains("\"MISSING=value\" would set it")
        );
        for text in [
            "",
            "=",
            "1A=b",
            "A B",
            "A-B",
            "JOB_ID",
            "JOB_ID=7",
            "TRACEPARENT",
            "A=\0",
        ] {
            assert!(
                Variable::try_from(text.to_owned()).is_err(),
                "{text:?} was taken"
            );
        }
    }
}
