use async_nats::Subject;

/// The reply subject of the message with this sequence number, sent for the job in this slot. Slot and
/// number are one token after `inbox`, so one subscription receives all replies.
pub(super) fn reply_subject(inbox: &str, slot: u16, sequence: u64) -> Subject {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let token = (u64::from(slot) << 48) | (sequence & SEQUENCE_MASK);
    let mut subject = String::with_capacity(inbox.len() + 16);
    subject.push_str(inbox);
    for shift in (0..16).rev() {
        let digit = (token >> (shift * 4)) & 0xf;
        subject.push(char::from(DIGITS[digit as usize]));
    }
    subject.into()
}

/// The slot and the sequence number in a reply subject; `None` if it is not one of ours.
pub(super) fn parse_reply_subject(inbox: &str, subject: &str) -> Option<(u16, u64)> {
    let token = u64::from_str_radix(subject.strip_prefix(inbox)?, 16).ok()?;
    Some((u16::try_from(token >> 48).ok()?, token & SEQUENCE_MASK))
}

/// The bits of the sequence number. At a million messages a second they last for nine years.
const SEQUENCE_MASK: u64 = (1 << 48) - 1;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reply_subject_leads_back_to_its_job() {
        for (slot, sequence) in [(0, 1), (u16::MAX, SEQUENCE_MASK), (4711, 123_456_789)] {
            let subject = reply_subject("_INBOX.x.", slot, sequence);
            assert_eq!(subject.len(), "_INBOX.x.".len() + 16);
            assert_eq!(
                parse_reply_subject("_INBOX.x.", &subject),
                Some((slot, sequence))
            );
        }
        for other in ["_INBOX.y.0", "_INBOX.x.", "_INBOX.x.zz", "_INBOX.x.1.2", ""] {
            assert_eq!(parse_reply_subject("_INBOX.x.", other), None, "{other}");
        }
    }
}
