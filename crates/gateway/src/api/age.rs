use common::Timestamp;

/// How long ago something was, in milliseconds; 0 if it is in the future.
pub(super) fn age_ms(at: Timestamp) -> u64 {
    u64::try_from(Timestamp::now().since(at).as_millis()).unwrap_or(u64::MAX)
}
