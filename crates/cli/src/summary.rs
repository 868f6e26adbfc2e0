//! Shows a dead letter in a list.

use client::dead_letters;
use common::DeadReason;
use serde_json::{Value, json};

use crate::print::shown;

pub(crate) fn summary(letter: &dead_letters::Summary) -> Value {
    json!({
        "id": letter.id,
        "kind": letter.kind,
        "reason": letter.reason,
        "at": letter.at,
        "attempts": letter.attempts,
        "error": letter.error,
        "bytes": letter.size,
    })
}

pub(crate) fn line(letter: &dead_letters::Summary) -> String {
    let reason = letter.reason.map_or("?", DeadReason::as_str);
    let error = letter.error.as_ref();
    let error = error.map_or(String::new(), |error| {
        format!(": {}", shown(&error.message))
    });
    format!(
        "{} {} {} {reason}{error}",
        letter.at, letter.id, letter.kind
    )
}
