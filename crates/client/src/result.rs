use common::Job;
use serde_json::value::RawValue;

/// Reads the result of a job. A handler that returns nothing has the result `null`.
///
/// # Errors
/// Why it is not of the type that is expected, in words.
pub(crate) fn read_result<J: Job>(result: Option<&RawValue>) -> Result<J::Output, String> {
    let text = result.map_or("null", RawValue::get);
    serde_json::from_str(text).map_err(|error| error.to_string())
}
