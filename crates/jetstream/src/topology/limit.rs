//! The declared limit of the queue: it is kept in the metadata of the stream, because the server does not
//! enforce it all the time. See [`crate::queue_limit`].

use std::collections::HashMap;

use serde_json::Value;

/// The key of the limit in the metadata of the stream.
const KEY: &str = "jobs.max_bytes";

/// The metadata of a stream with this limit.
pub(super) fn metadata(bytes: i64) -> HashMap<String, String> {
    HashMap::from([(KEY.to_owned(), bytes.to_string())])
}

/// Whether a stream has the declared limit, but the server does not enforce it now.
pub(super) fn is_lifted(declaration: &Value, existing: &Value) -> bool {
    let enforced = existing["max_bytes"]
        .as_u64()
        .is_some_and(|limit| limit > 0);
    let limit = declared_limit(declaration);
    !enforced && limit.is_some() && limit == declared_limit(existing)
}

/// The limit that the metadata of a stream holds, in bytes.
pub(crate) fn declared_limit(config: &Value) -> Option<u64> {
    let text = config["metadata"][KEY].as_str()?;
    text.parse().ok().filter(|limit| *limit > 0)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_lifted_limit_is_known_by_the_metadata() {
        let declaration = json!({"max_bytes": 2, "metadata": {KEY: "2"}});
        let lifted = json!({"max_bytes": -1, "metadata": {KEY: "2"}});
        assert!(is_lifted(&declaration, &lifted));
        for other in [
            json!({"max_bytes": -1, "metadata": {KEY: "3"}}),
            json!({"max_bytes": -1}),
            json!({"max_bytes": 2, "metadata": {KEY: "2"}}),
        ] {
            assert!(!is_lifted(&declaration, &other), "{other}");
        }
        assert!(!is_lifted(
            &json!({"max_bytes": -1}),
            &json!({"max_bytes": -1})
        ));
    }
}
