use std::io::{self, BufRead, BufReader, Read};

/// The byte order mark that some editors write at the start of a file.
const BYTE_ORDER_MARK: &[u8] = "\u{feff}".as_bytes();

/// Reads lines of any bytes, one at a time. It never keeps much more than `longest` bytes of a line.
pub(super) struct Lines<R> {
    reader: BufReader<R>,
    longest: usize,
    number: u64,
    line: Vec<u8>,
}

/// A line without its end.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Line<'a> {
    /// Its number, from 1. Blank lines count.
    pub(super) number: u64,
    /// Its length in bytes, with its end and the blank lines before it.
    pub(super) bytes: u64,
    /// The line without white space around it; `None` if it is longer than `longest`.
    pub(super) content: Option<&'a [u8]>,
}

impl<R: Read> Lines<R> {
    pub(super) fn new(reader: R, longest: usize) -> Self {
        Self {
            reader: BufReader::with_capacity(64 * 1024, reader),
            longest,
            number: 0,
            line: Vec::new(),
        }
    }

    /// The next line that is not blank; `None` at the end of the input.
    pub(super) fn next(&mut self) -> io::Result<Option<Line<'_>>> {
        let mut bytes = 0;
        loop {
            let length = self.read_line()?;
            if length == 0 {
                return Ok(None);
            }
            bytes += length;
            self.number += 1;
            let kept_whole = self.line.len() as u64 == length;
            let start = match self.line.strip_prefix(BYTE_ORDER_MARK) {
                Some(_) if self.number == 1 => BYTE_ORDER_MARK.len(),
                _ => 0,
            };
            if kept_whole && self.line[start..].trim_ascii().is_empty() {
                continue;
            }
            let content = self.line[start..].trim_ascii();
            return Ok(Some(Line {
                number: self.number,
                bytes,
                content: (kept_whole && content.len() <= self.longest).then_some(content),
            }));
        }
    }

    /// Whether the next line is in the buffer already.
    pub(super) fn next_is_buffered(&self) -> bool {
        self.reader.buffer().contains(&b'\n')
    }

    /// Reads up to and including the end of a line, and returns how many bytes that were. Keeps the
    /// line, or its beginning if it is too long.
    fn read_line(&mut self) -> io::Result<u64> {
        let longest = self.longest + BYTE_ORDER_MARK.len() + "\r\n".len();
        self.line.clear();
        let mut length = 0;
        loop {
            let buffer = match self.reader.fill_buf() {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                buffer => buffer?,
            };
            let end = buffer.iter().position(|&byte| byte == b'\n');
            let read = end.map_or(buffer.len(), |end| end + 1);
            let room = longest.saturating_sub(self.line.len());
            self.line.extend_from_slice(&buffer[..read.min(room)]);
            self.reader.consume(read);
            length += read as u64;
            if end.is_some() || read == 0 {
                return Ok(length);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(input: &[u8], longest: usize) -> Vec<(u64, u64, Option<String>)> {
        let mut lines = Lines::new(input, longest);
        let mut found = Vec::new();
        while let Some(line) = lines.next().unwrap() {
            let content = line
                .content
                .map(|line| String::from_utf8_lossy(line).into());
            found.push((line.number, line.bytes, content));
        }
        found
    }

    fn line(number: u64, bytes: u64, content: &str) -> (u64, u64, Option<String>) {
        (number, bytes, Some(content.to_owned()))
    }

    #[test]
    fn blank_lines_count_and_are_skipped() {
        assert_eq!(
            read(b"one\n\n  \r\ntwo\r\n\n", 9),
            [line(1, 4, "one"), line(4, 10, "two")]
        );
        assert_eq!(read(b"", 9), []);
        assert_eq!(read(b"\n \n", 9), []);
    }

    #[test]
    fn the_last_line_needs_no_end_and_the_first_may_have_a_byte_order_mark() {
        assert_eq!(
            read("\u{feff}one\n\u{feff}two".as_bytes(), 9),
            [line(1, 7, "one"), line(2, 6, "\u{feff}two")]
        );
    }

    #[test]
    fn a_line_that_is_too_long_is_skipped_and_not_kept() {
        let mut input = vec![b'x'; 1_000_000];
        input.extend_from_slice(b"\nshort\n123456789\n1234567890");
        let mut lines = Lines::new(&input[..], 9);
        assert_eq!(
            lines.next().unwrap().unwrap(),
            Line {
                number: 1,
                bytes: 1_000_001,
                content: None
            }
        );
        assert!(lines.line.capacity() < 1_000, "{}", lines.line.capacity());
        assert_eq!(lines.next().unwrap().unwrap().content, Some(&b"short"[..]));
        assert_eq!(
            lines.next().unwrap().unwrap().content,
            Some(&b"123456789"[..])
        );
        assert_eq!(lines.next().unwrap().unwrap().content, None);
    }

    #[test]
    fn a_line_that_was_cut_off_is_never_taken_for_a_shorter_one() {
        let input = format!(
            "{}x\n{}\n",
            " ".repeat(12),
            "y".to_owned() + &" ".repeat(20)
        );
        assert_eq!(read(input.as_bytes(), 9), [line(1, 14, "x"), (2, 22, None)]);
        let input = format!("{{}}{}{{}}\n", " ".repeat(100));
        assert_eq!(read(input.as_bytes(), 9), [(1, 105, None)]);
    }

    #[test]
    fn the_next_line_is_buffered_if_it_was_read_already() {
        let mut lines = Lines::new(&b"one\ntwo\nthr"[..], 9);
        assert!(!lines.next_is_buffered());
        lines.next().unwrap();
        assert!(lines.next_is_buffered());
        lines.next().unwrap();
        assert!(!lines.next_is_buffered());
    }

    /// Gives its bytes in pieces.
    struct Pieces<'a>(&'a [u8], usize);

    impl Read for Pieces<'_> {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            let piece = &self.0[..self.1.min(self.0.len()).min(buffer.len())];
            buffer[..piece.len()].copy_from_slice(piece);
            self.0 = &self.0[piece.len()..];
            Ok(piece.len())
        }
    }

    proptest! {
        #[test]
        fn lines_are_what_the_standard_library_splits(text in "[a ä\r\n]{0,60}", piece in 1_usize..9) {
            let mut lines = Lines::new(Pieces(text.as_bytes(), piece), 1_000);
            let mut found = Vec::new();
            let mut bytes = 0;
            while let Some(line) = lines.next().unwrap() {
                found.push((line.number, String::from_utf8(line.content.unwrap().to_vec()).unwrap()));
                bytes += line.bytes;
            }
            let expected: Vec<_> = (1_u64..)
                .zip(text.split('\n'))
                .map(|(number, line)| (number, line.trim_ascii().to_owned()))
                .filter(|(_, line)| !line.is_empty())
                .collect();
            prop_assert_eq!(found, expected);
            prop_assert!(bytes <= text.len() as u64);
        }
    }
}
