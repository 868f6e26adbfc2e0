//! Excerpts of foreign texts that are safe to show.

/// The last `limit` bytes; "…" marks a cut.
pub(super) fn tail(bytes: &[u8], limit: usize) -> String {
    let from = bytes.len().saturating_sub(limit);
    let text = shown(&bytes[from..]);
    if from > 0 { format!("…{text}") } else { text }
}

/// The first `limit` bytes; "…" marks a cut.
pub(super) fn head(bytes: &[u8], limit: usize) -> String {
    let to = bytes.len().min(limit);
    let text = shown(&bytes[..to]);
    if to < bytes.len() {
        format!("{text}…")
    } else {
        text
    }
}

/// Makes a text safe for terminals and logs: it cannot move the cursor or forge a log line. Line
/// ends become bars; other invisible characters, and bytes that are not UTF-8, become U+FFFD.
fn shown(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    let lines = text
        .lines()
        .map(str::trim_end)
        .filter(|line| !line.is_empty());
    let lines: Vec<String> = lines.map(visible).collect();
    lines.join(" | ")
}

fn visible(line: &str) -> String {
    line.chars()
        .map(|char| match char {
            '\t' => ' ',
            // Marks that change the direction of text, and Unicode line ends.
            '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => {
                char::REPLACEMENT_CHARACTER
            }
            char if char.is_control() => char::REPLACEMENT_CHARACTER,
            char => char,
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_cut_end_is_marked() {
        assert_eq!(tail(b"0123456789", 4), "…6789");
        assert_eq!(head(b"0123456789", 4), "0123…");
        assert_eq!(tail(b"0123", 4), "0123");
        assert_eq!(head(b"0123", 4), "0123");
    }

    #[test]
    fn lines_stay_apart_without_line_ends() {
        let text = "Traceback:\r\n\tin main\n\nValueError: é\n";
        assert_eq!(
            head(text.as_bytes(), 100),
            "Traceback: |  in main | ValueError: é"
        );
    }

    #[test]
    fn nothing_can_move_a_cursor_or_turn_the_direction() {
        assert_eq!(
            head(b"\x1b[31mred\0 \xff", 100),
            "\u{fffd}[31mred\u{fffd} \u{fffd}"
        );
        assert_eq!(head("a\u{202e}b".as_bytes(), 100), "a\u{fffd}b");
    }

    proptest! {
        #[test]
        fn any_bytes_become_one_line_of_bounded_length(
            bytes in proptest::collection::vec(any::<u8>(), 0..200), limit in 0_usize..50,
        ) {
            for text in [head(&bytes, limit), tail(&bytes, limit)] {
                prop_assert!(!text.chars().any(char::is_control));
                // A byte that is not UTF-8 takes three, and so does a bar between lines.
                prop_assert!(text.len() <= 3 * limit + "…".len());
            }
        }
    }
}
