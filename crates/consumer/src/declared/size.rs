use std::fmt;
use std::str::FromStr;

use serde::Deserialize;

/// A number of bytes, written with a unit: `"64KiB"`, `"1MiB"`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub(crate) struct Size(usize);

/// The largest message that NATS allows; a result has to fit into one.
const MAX: usize = 64 << 20;

impl Size {
    pub(crate) const fn get(self) -> usize {
        self.0
    }
}

impl Default for Size {
    fn default() -> Self {
        Self(1 << 20)
    }
}

impl FromStr for Size {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let digits = text.bytes().take_while(u8::is_ascii_digit).count();
        let (number, unit) = text.split_at(digits);
        let shift = match unit.trim_start() {
            "B" => Some(0),
            "KiB" => Some(10),
            "MiB" => Some(20),
            _ => None,
        };
        shift
            .and_then(|shift| number.parse::<usize>().ok()?.checked_mul(1 << shift))
            .filter(|size| (1..=MAX).contains(size))
            .map(Self)
            .ok_or_else(|| {
                let shown: String = text.chars().take(64).collect();
                format!(
                    "invalid size {shown:?}: a number with B, KiB or MiB, from \"1B\" to \"64MiB\""
                )
            })
    }
}

impl TryFrom<String> for Size {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            bytes if bytes % (1 << 20) == 0 => write!(f, "{}MiB", bytes >> 20),
            bytes if bytes % (1 << 10) == 0 => write!(f, "{}KiB", bytes >> 10),
            bytes => write!(f, "{bytes}B"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_as_they_are_shown() {
        for (text, bytes) in [
            ("1B", 1),
            ("1000B", 1000),
            ("64KiB", 65_536),
            ("64MiB", MAX),
        ] {
            let size: Size = text.parse().unwrap();
            assert_eq!((size.get(), size.to_string().as_str()), (bytes, text));
        }
        assert_eq!("1 MiB".parse(), Ok(Size::default()));
    }

    #[test]
    fn what_is_no_size_is_refused() {
        for text in [
            "",
            "0B",
            "12",
            "MiB",
            "-1B",
            "1MB",
            "1.5MiB",
            "65MiB",
            "99999999999999999999B",
            "1MiBs",
        ] {
            assert!(text.parse::<Size>().is_err(), "{text:?} was taken");
        }
    }
}
