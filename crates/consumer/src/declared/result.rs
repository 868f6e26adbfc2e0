use anyhow::anyhow;
use serde::Deserialize;
use serde_json::value::{RawValue, to_raw_value};

use super::excerpt;
use crate::any_handler::Returned;
use crate::handler::Failure;

/// How the output of a program or service becomes the result of a job.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Form {
    /// JSON if it is JSON, else a string; `null` if it is empty.
    #[default]
    Auto,
    /// JSON; anything else is a failure.
    Json,
    /// A string, even if it looks like JSON.
    Text,
    /// The output is not read, and the job has no result.
    None,
}

impl Form {
    /// Reads a result from the output of `source`, which error messages name.
    ///
    /// # Errors
    /// A permanent failure when the output is not of this form.
    pub(super) fn read(self, source: &str, bytes: &[u8]) -> Result<Returned, Failure> {
        if self == Self::None {
            return Ok(None);
        }
        let text = std::str::from_utf8(bytes).map_err(|_| {
            Failure::permanent(anyhow!(
                "{source} is not UTF-8 text, as a result has to be: encode it, for example as Base64, or \
                 store it elsewhere"
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
                // The line end after the last line is not part of the text.
                let text = text.trim_end_matches(['\r', '\n']);
                to_raw_value(text).map(Some).map_err(Failure::permanent)
            }
        }
    }
}

/// Outcomes are written one per line, so line ends become spaces. JSON allows line ends only between
/// tokens, where a space means the same.
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
    fn json_stays_as_it_is_and_anything_else_becomes_a_string() {
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
    fn binary_output_is_a_failure_unless_the_result_is_none() {
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
