use async_nats::Subject;

/// Where the answer to number `wire` of the clock goes: one token, so that one subscription gets
/// all of them.
pub(crate) fn reply_subject(inbox: &str, slot: u16, wire: u64) -> Subject {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let token = (u64::from(slot) << 48) | (wire & WIRE_MASK);
    let mut subject = String::with_capacity(inbox.len() + 16);
    subject.push_str(inbox);
    for shift in (0..16).rev() {
        let digit = (token >> (shift * 4)) & 0xf;
        subject.push(char::from(DIGITS[digit as usize]));
    }
    subject.into()
}

/// The slot and the number that a subject names, if it is one of ours.
pub(crate) fn parse_reply_subject(inbox: &str, subject: &str) -> Option<(u16, u64)> {
    let token = u64::from_str_radix(subject.strip_prefix(inbox)?, 16).ok()?;
    Some((u16::try_from(token >> 48).ok()?, token & WIRE_MASK))
}

/// A million jobs a second reach the end of it after nine years.
const WIRE_MASK: u64 = (1 << 48) - 1;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_subject_of_an_answer_leads_back_to_its_job() {
        for (slot, wire) in [(0, 1), (u16::MAX, WIRE_MASK), (4711, 123_456_789)] {
            let subject = reply_subject("_INBOX.x.", slot, wire);
            assert_eq!(subject.len(), "_INBOX.x.".len() + 16);
            assert_eq!(
                parse_reply_subject("_INBOX.x.", &subject),
                Some((slot, wire))
            );
        }
        for other in ["_INBOX.y.0", "_INBOX.x.", "_INBOX.x.zz", "_INBOX.x.1.2", ""] {
            assert_eq!(parse_reply_subject("_INBOX.x.", other), None, "{other}");
        }
    }
}
