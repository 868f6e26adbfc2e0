use anyhow::anyhow;
use serde::Deserialize;
use serde_json::value::{RawValue, to_raw_value};

use super::excerpt;
use crate::any_handler::Returned;
use crate::handler::Failure;

/// How the result of a job is read from what a program or service said.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Form {
    /// What is JSON is taken as it is, anything else as text; nothing is `null`.
    #[default]
    Auto,
    /// Anything but JSON is a failure.
    Json,
    /// A text, also if it looks like JSON.
    Text,
    /// Not read: the job has no result.
    None,
}

impl Form {
    /// Reads a result from what `source` said.
    ///
    /// # Errors
    /// When it has not the form, which no repetition will change.
    pub(super) fn read(self, source: &str, bytes: &[u8]) -> Result<Returned, Failure> {
        if self == Self::None {
            return Ok(None);
        }
        let text = std::str::from_utf8(bytes).map_err(|_| {
            Failure::permanent(anyhow!(
                "{source} is not UTF-8 text, which a result has to be: it should be encoded, as in \
                 Base64, or stored elsewhere"
            ))
        })?;
        let json = serde_json::from_str::<&RawValue>(text);
        match (self, json) {
            (Self::Auto | Self::Json, Ok(json)) => Ok(Some(on_one_line(json))),
            (Self::Json, Err(error)) => Err(Failure::permanent(anyhow!(
                "{source} is not JSON, which `result = \"json\"` asks for: {error}; it begins: {}",
                excerpt::head(bytes, 200)
            ))),
            (Self::Auto, _) if text.trim().is_empty() => Ok(Some(RawValue::NULL.to_owned())),
            _ => {
                // A program ends its last line, which is no part of what it has to say.
                let text = text.trim_end_matches(['\r', '\n']);
                to_raw_value(text).map(Some).map_err(Failure::permanent)
            }
        }
    }
}

/// Outcomes are kept one a line. Between the tokens of JSON a line end is as good as a space, and
/// within a token there is none.
fn on_one_line(json: &RawValue) -> Box<RawValue> {
    if !json.get().contains(['\r', '\n']) {
        return json.to_owned();
    }
    let text = json.get().replace(['\r', '\n'], " ");
    RawValue::from_string(text).unwrap_or_else(|_| json.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(form: Form, text: &str) -> String {
        match form.read("standard output", text.as_bytes()) {
            Ok(Some(result)) => result.get().to_owned(),
            Ok(None) => "nothing".to_owned(),
            Err(Failure::Permanent(error)) => format!("permanent: {error:#}"),
            Err(transient @ Failure::Transient { .. }) => panic!("{transient}"),
        }
    }

    #[test]
    fn what_is_json_is_taken_as_it_is_and_anything_else_as_text() {
        assert_eq!(read(Form::Auto, " {\"a\": 1.50}\n"), "{\"a\": 1.50}");
        assert_eq!(
            read(Form::Auto, "12345678901234567890123\n"),
            "12345678901234567890123"
        );
        assert_eq!(read(Form::Auto, "0123abc  -\n"), "\"0123abc  -\"");
        assert_eq!(
            read(Form::Auto, "{\"a\": 1} trailing"),
            "\"{\\\"a\\\": 1} trailing\""
        );
        assert_eq!(read(Form::Auto, "two\nlines\r\n"), "\"two\\nlines\"");
        assert_eq!(read(Form::Auto, " \n"), "null");
    }

    #[test]
    fn a_text_stays_one_even_if_it_looks_like_a_number() {
        assert_eq!(read(Form::Text, "0042\n"), "\"0042\"");
        assert_eq!(read(Form::Text, "42\n"), "\"42\"");
        assert_eq!(read(Form::Text, ""), "\"\"");
    }

    #[test]
    fn a_result_that_has_to_be_json_says_what_it_is_instead() {
        assert_eq!(read(Form::Json, "[1]"), "[1]");
        let error = read(Form::Json, "done\n");
        assert!(
            error.starts_with("permanent: standard output is not JSON"),
            "{error}"
        );
        assert!(error.ends_with("it begins: done"), "{error}");
    }

    #[test]
    fn a_result_of_several_lines_is_put_on_one() {
        assert_eq!(
            read(Form::Json, "{\r\n  \"a\": \"x\\ny\"\n}\n"),
            "{    \"a\": \"x\\ny\" }"
        );
    }

    #[test]
    fn binary_output_is_a_failure_unless_nobody_reads_it() {
        let png = b"\x89PNG\r\n\x1a\n";
        for form in [Form::Auto, Form::Json, Form::Text] {
            let Err(Failure::Permanent(error)) = form.read("standard output", png) else {
                panic!("was taken")
            };
            assert!(error.to_string().contains("is not UTF-8 text"), "{error}");
        }
        assert!(Form::None.read("standard output", png).unwrap().is_none());
    }

    #[test]
    fn deep_nesting_costs_no_stack() {
        let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
        assert_eq!(read(Form::Auto, &deep), deep);
    }
}
