//! The copy of a job in its record, after the job has ended.

use common::{JobMessage, MAX_DEPTH, is_deeper_than};
use serde_json::value::RawValue;

/// How deep a kept job may be nested. The record around it adds one level, and must not be nested
/// deeper than every reader accepts.
const MOST_LEVELS: usize = MAX_DEPTH - 1;

/// The job as it was submitted, but without its payload if the payload has more than `most_payload`
/// bytes or is nested too deep for a record.
///
/// `None` if the bytes are not a job that every reader accepts. `has_run` says that the handler was
/// called, which shows that the bytes are a job.
pub(super) fn kept_job(
    message: &[u8],
    most_payload: usize,
    has_run: bool,
) -> Option<Box<RawValue>> {
    // A payload is never larger than its message. So a small message, which most are, is not
    // decoded again.
    if has_run && message.len() <= most_payload {
        let whole = copied(message)?;
        if !is_deeper_than(&whole, MOST_LEVELS) {
            return Some(whole);
        }
    }
    let job = JobMessage::decode(message).ok()?;
    match job.payload {
        Some(payload)
            if payload.get().len() > most_payload || is_deeper_than(payload, MOST_LEVELS - 1) =>
        {
            let without_payload = JobMessage {
                payload: None,
                ..job
            };
            serde_json::value::to_raw_value(&without_payload).ok()
        }
        _ => copied(message),
    }
}

fn copied(json: &[u8]) -> Option<Box<RawValue>> {
    let json = serde_json::from_slice::<&RawValue>(json).ok()?;
    Some(json.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_small_job_is_kept_as_it_is_and_of_a_large_one_all_but_its_payload() {
        let small = br#"{"kind": "echo", "payload": [1, 2],  "max_attempts": 3}"#;
        let text = std::str::from_utf8(small).unwrap();
        let kept = |message: &[u8], most| {
            let [ran, not_run] = [true, false]
                .map(|has_run| kept_job(message, most, has_run).map(|kept| kept.get().to_owned()));
            assert_eq!(ran, not_run);
            ran
        };
        assert_eq!(kept(small, 4096).as_deref(), Some(text));
        // The payload alone counts, not the options beside it.
        assert_eq!(kept(small, 6).as_deref(), Some(text));
        let options = r#"{"kind":"echo","max_attempts":3}"#;
        for most in [5, 0] {
            assert_eq!(kept(small, most).as_deref(), Some(options));
        }
        assert_eq!(
            kept(b"{\"kind\": \"echo\"}", 0).as_deref(),
            Some("{\"kind\": \"echo\"}")
        );
        assert_eq!(kept(b"no json", 4096), None);
    }

    #[test]
    fn what_others_cannot_read_is_not_kept() {
        let surrogate = br#"{"kind": "echo", "payload": "\ud800"}"#;
        let unknown_field = br#"{"kind": "echo", "colour": 1}"#;
        for message in [&surrogate[..], unknown_field] {
            assert!(kept_job(message, 4096, false).is_none());
        }
    }

    #[test]
    fn a_record_that_keeps_a_job_is_nested_no_deeper_than_others_can_read() {
        let job = |levels: usize| {
            let payload = format!("{}{}", "[".repeat(levels), "]".repeat(levels));
            format!(r#"{{"kind":"echo","payload":{payload}}}"#)
        };
        for has_run in [true, false] {
            let kept = |levels: usize| kept_job(job(levels).as_bytes(), 4096, has_run).unwrap();
            assert_eq!(kept(126).get(), job(126));
            for levels in [127, 128] {
                assert_eq!(kept(levels).get(), r#"{"kind":"echo"}"#);
            }
        }
    }
}
