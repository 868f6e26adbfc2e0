//! The command line of a program, and how parts of a payload become arguments.

use std::fmt;

use serde::de::{SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::Value;

/// A program and its arguments. No shell is involved: each argument reaches the program as it is.
#[derive(Clone, Debug)]
pub(super) struct CommandLine {
    pub(super) program: String,
    pub(super) arguments: Vec<Argument>,
}

/// One argument, in which `{payload}` and `{payload.field}` stand for values of the job.
///
/// A value never splits an argument in two, and never turns an argument into an option: a job
/// chooses values, not what the program does.
#[derive(Clone, Debug, Deserialize)]
#[serde(try_from = "String")]
pub(super) struct Argument(Vec<Piece>);

#[derive(Clone, Debug, PartialEq)]
enum Piece {
    Text(String),
    /// The path of a field within the payload.
    Field(Vec<String>),
}

const PAYLOAD: &str = "{payload";

impl CommandLine {
    /// Whether the arguments use the payload.
    pub(super) fn read_payload(&self) -> bool {
        let mut pieces = self.arguments.iter().flat_map(|argument| &argument.0);
        pieces.any(|piece| matches!(piece, Piece::Field(_)))
    }
}

impl<'de> Deserialize<'de> for CommandLine {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct List;

        impl<'de> Visitor<'de> for List {
            type Value = CommandLine;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(
                    "a list of strings, the program and its arguments, such as [\"sha256sum\", \"-\"]",
                )
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<CommandLine, A::Error> {
                let program: Option<String> = list.next_element()?;
                let program =
                    program.filter(|program| !program.is_empty() && !program.contains('\0'));
                let program = program.ok_or_else(|| {
                    serde::de::Error::custom(
                        "the program is missing: it is the first string of the list",
                    )
                })?;
                if program.contains(PAYLOAD) {
                    let text =
                        format!("{program:?}: a job cannot choose the program, only arguments");
                    return Err(serde::de::Error::custom(text));
                }
                let mut arguments = Vec::new();
                while let Some(argument) = list.next_element()? {
                    arguments.push(argument);
                }
                Ok(CommandLine { program, arguments })
            }
        }

        deserializer.deserialize_seq(List)
    }
}

impl TryFrom<String> for Argument {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        if text.contains('\0') {
            return Err(format!("{text:?}: an argument cannot hold NUL"));
        }
        let mut pieces = Vec::new();
        let mut rest = text.as_str();
        while let Some((before, after)) = rest.split_once(PAYLOAD) {
            let Some((path, after)) = after.split_once('}') else {
                return Err(format!("{text:?}: \"}}\" is missing after \"{PAYLOAD}\""));
            };
            let path = match path.strip_prefix('.') {
                Some(path) => path.split('.').map(str::to_owned).collect(),
                None if path.is_empty() => Vec::new(),
                None => vec![String::new()],
            };
            if path.iter().any(String::is_empty) {
                return Err(format!(
                    "{text:?}: write \"{{payload}}\" or \"{{payload.field}}\""
                ));
            }
            if !before.is_empty() {
                pieces.push(Piece::Text(before.to_owned()));
            }
            pieces.push(Piece::Field(path));
            rest = after;
        }
        if !rest.is_empty() || pieces.is_empty() {
            pieces.push(Piece::Text(rest.to_owned()));
        }
        Ok(Self(pieces))
    }
}

impl Argument {
    /// The argument for a job with this payload.
    ///
    /// # Errors
    /// When the payload lacks a field, or its value cannot be an argument; the error names the field.
    pub(super) fn fill(&self, payload: &Value) -> Result<String, String> {
        let mut filled = String::new();
        for piece in &self.0 {
            match piece {
                Piece::Text(text) => filled.push_str(text),
                Piece::Field(path) => {
                    let value = field(payload, path)?;
                    if filled.is_empty() && value.starts_with('-') {
                        return Err(format!(
                            "field `{}`: {:?} begins with \"-\", and the program would take it for an option",
                            name(path),
                            value.chars().take(64).collect::<String>()
                        ));
                    }
                    filled.push_str(&value);
                }
            }
        }
        Ok(filled)
    }
}

fn field(payload: &Value, path: &[String]) -> Result<String, String> {
    let missing = || {
        format!(
            "field `{}` is missing: the handler passes it to its program",
            name(path)
        )
    };
    let mut value = payload;
    for key in path {
        value = value.get(key).ok_or_else(missing)?;
    }
    match value {
        Value::String(text) if text.contains('\0') => Err(format!(
            "field `{}`: an argument cannot hold NUL",
            name(path)
        )),
        Value::String(text) => Ok(text.clone()),
        Value::Number(number) => Ok(number.to_string()),
        Value::Bool(truth) => Ok(truth.to_string()),
        Value::Null => Err(missing()),
        Value::Array(_) | Value::Object(_) => Err(format!(
            "field `{}`: a text, a number or a truth value, because the handler passes it to its program",
            name(path)
        )),
    }
}

fn name(path: &[String]) -> String {
    std::iter::once("payload")
        .chain(path.iter().map(String::as_str))
        .collect::<Vec<_>>()
        .join(".")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn fill(argument: &str, payload: &Value) -> Result<String, String> {
        Argument::try_from(argument.to_owned())?.fill(payload)
    }

    #[test]
    fn fields_of_the_payload_stand_anywhere_in_an_argument() {
        let payload = json!({"path": "a b; rm -rf $(x)", "size": {"width": 64}, "fast": true});
        assert_eq!(
            fill("{payload.path}", &payload).unwrap(),
            "a b; rm -rf $(x)"
        );
        assert_eq!(
            fill("--width={payload.size.width}", &payload).unwrap(),
            "--width=64"
        );
        assert_eq!(
            fill("{payload.fast}/{payload.size.width}.png", &payload).unwrap(),
            "true/64.png"
        );
        assert_eq!(fill("{payload}", &json!("text")).unwrap(), "text");
        assert_eq!(fill("", &payload).unwrap(), "");
        assert_eq!(fill("{print $1} {}", &payload).unwrap(), "{print $1} {}");
    }

    #[test]
    fn what_cannot_be_an_argument_is_named() {
        let payload = json!({"none": null, "list": [1], "nul": "a\0b", "deep": {"x": {}}});
        for (argument, field) in [
            ("{payload.gone}", "payload.gone"),
            ("{payload.none}", "payload.none"),
            ("{payload.list}", "payload.list"),
            ("{payload.list.0}", "payload.list.0"),
            ("{payload.nul}", "payload.nul"),
            ("{payload.deep.x}", "payload.deep.x"),
            ("{payload}", "payload"),
        ] {
            let error = fill(argument, &payload).unwrap_err();
            assert!(error.starts_with(&format!("field `{field}`")), "{error}");
        }
    }

    #[test]
    fn a_payload_cannot_smuggle_an_option_in() {
        for value in [
            json!("-rf"),
            json!("--output=/etc/passwd"),
            json!("-"),
            json!(-5),
        ] {
            let error = fill("{payload}", &value).unwrap_err();
            assert!(error.contains("begins with \"-\""), "{error}");
            assert!(fill("{payload.a}{payload.b}", &json!({"a": "", "b": value})).is_err());
            assert!(fill("./{payload}", &value).is_ok());
        }
    }

    #[test]
    fn broken_references_are_refused() {
        for argument in [
            "{payload",
            "{payload.}",
            "{payload.a..b}",
            "{payloads}",
            "{payload[0]}",
            "a\0",
        ] {
            assert!(
                Argument::try_from(argument.to_owned()).is_err(),
                "{argument:?} was taken"
            );
        }
    }

    proptest! {
        #[test]
        fn no_text_becomes_an_option_or_holds_nul(text in any::<String>()) {
            if let Ok(filled) = fill("{payload}", &json!(text.clone())) {
                prop_assert_eq!(&filled, &text);
                prop_assert!(!filled.starts_with('-') && !filled.contains('\0'));
            }
        }
    }
}
