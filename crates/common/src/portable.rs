use memchr::memchr;
use serde_json::value::RawValue;

/// The most levels that a payload or a result may be nested. Its own top level is the first; a
/// number, a text, `true`, `false` and `null` have none.
///
/// Most JSON libraries stop at 128 to 1,000 levels.
pub const MAX_DEPTH: usize = 128;

/// Why other libraries cannot read a JSON text, though the grammar allows it.
///
/// ```
/// use common::{NotPortable, check_portable};
///
/// let half = serde_json::value::RawValue::from_string(r#""\ud800""#.to_owned())?;
/// assert_eq!(check_portable(&half), Err(NotPortable::UnpairedSurrogate));
/// # Ok::<(), serde_json::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotPortable {
    /// There are more than [`MAX_DEPTH`] arrays and objects within each other.
    #[error("nested deeper than {MAX_DEPTH} levels")]
    TooDeep,
    /// An escape such as `\ud800` is one half of a character, and the other half is missing.
    #[error(r"a string has an unpaired surrogate such as \ud800, which is no character")]
    UnpairedSurrogate,
}

/// Checks that other libraries can read a payload or a result, which is carried as it was written.
///
/// It costs little where there is neither a backslash nor more than [`MAX_DEPTH`] brackets.
///
/// # Errors
/// What is wrong with it.
#[inline]
pub fn check_portable(json: &RawValue) -> Result<(), NotPortable> {
    let text = json.get().as_bytes();
    if let Some(at) = memchr(b'\\', text)
        && has_unpaired_surrogate(&text[at..])
    {
        return Err(NotPortable::UnpairedSurrogate);
    }
    // Each level takes two bytes.
    if text.len() > 2 * MAX_DEPTH && is_deeper(text, MAX_DEPTH) {
        return Err(NotPortable::TooDeep);
    }
    Ok(())
}

/// Whether arrays and objects are nested in more than so many levels, the top level being the first.
#[must_use]
pub fn is_deeper_than(json: &RawValue, levels: usize) -> bool {
    let text = json.get().as_bytes();
    text.len() > 2 * levels && is_deeper(text, levels)
}

fn is_deeper(text: &[u8], levels: usize) -> bool {
    if count_opened(text) <= levels {
        return false;
    }
    let mut depth = 0_usize;
    let mut bytes = text.iter();
    while let Some(byte) = bytes.next() {
        match byte {
            b'[' | b'{' if depth == levels => return true,
            b'[' | b'{' => depth += 1,
            b']' | b'}' => depth = depth.saturating_sub(1),
            b'"' => {
                // The brackets in a string do not count.
                while let Some(byte) = bytes.next()
                    && *byte != b'"'
                {
                    if *byte == b'\\' {
                        bytes.next();
                    }
                }
            }
            _ => {}
        }
    }
    false
}

/// How many brackets open something, and those in strings, which do not: a bound that the compiler
/// can find for 16 bytes at a time.
fn count_opened(text: &[u8]) -> usize {
    // The brackets differ in this bit alone.
    const BIT: u8 = b'[' ^ b'{';
    // As many bytes as can be counted in one.
    let chunks = text.chunks(240).map(|chunk| {
        let opened = chunk.iter().map(|byte| u8::from(byte | BIT == b'{'));
        usize::from(opened.sum::<u8>())
    });
    chunks.sum()
}

/// One half of a character above U+FFFF, which takes two escapes.
#[derive(PartialEq, Eq)]
enum Half {
    First,
    Second,
}

/// Whether one half of a character stands without the other. Backslashes are in strings only.
fn has_unpaired_surrogate(mut rest: &[u8]) -> bool {
    while let Some(at) = memchr(b'\\', rest) {
        rest = &rest[at..];
        let length = match half(rest) {
            None => 2,
            Some(Half::First) if rest.get(6..).and_then(half) == Some(Half::Second) => 12,
            Some(_) => return true,
        };
        rest = rest.get(length..).unwrap_or(&[]);
    }
    false
}

/// Which half the escape is that stands here: `\ud800` to `\udbff`, `\udc00` to `\udfff`, or none.
fn half(text: &[u8]) -> Option<Half> {
    let [b'\\', b'u', b'd' | b'D', next, ..] = text else {
        return None;
    };
    match next {
        b'8' | b'9' | b'a' | b'b' | b'A' | b'B' => Some(Half::First),
        b'c'..=b'f' | b'C'..=b'F' => Some(Half::Second),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::Value;

    use super::*;

    fn check(text: &str) -> Result<(), NotPortable> {
        check_portable(serde_json::from_str(text).expect(text))
    }

    /// The rule in other words: the most arrays and objects on the way to any place.
    fn depth(value: &Value) -> usize {
        let inner = match value {
            Value::Array(array) => array.iter().map(depth).max(),
            Value::Object(object) => object.values().map(depth).max(),
            _ => return 0,
        };
        1 + inner.unwrap_or(0)
    }

    #[test]
    fn the_levels_of_arrays_and_objects_count_and_brackets_in_strings_do_not() {
        let arrays = |levels| format!("{}{}", "[".repeat(levels), "]".repeat(levels));
        let objects = |levels| format!("{}0{}", r#"{"[":"#.repeat(levels), "}".repeat(levels));
        for text in [arrays(MAX_DEPTH), objects(MAX_DEPTH)] {
            assert_eq!(check(&text), Ok(()));
        }
        for text in [
            arrays(MAX_DEPTH + 1),
            objects(MAX_DEPTH + 1),
            arrays(1_000_000),
        ] {
            assert_eq!(check(&text), Err(NotPortable::TooDeep));
        }
        let wide = format!("[{}]", vec!["[{}]"; 1_000].join(","));
        let in_text = format!(r#"["{}","\"{}\\"]"#, "[".repeat(1_000), "{".repeat(1_000));
        for text in ["1", "null", "\"\"", &*wide, &*in_text] {
            assert_eq!(check(text), Ok(()), "{text}");
        }
        // More brackets are closed in the text than opened before it.
        let closed = format!(r#"[["{}"],{}]"#, "]".repeat(500), arrays(MAX_DEPTH));
        assert_eq!(check(&closed), Err(NotPortable::TooDeep));
    }

    /// JSON of some depth, with brackets, quotes and backslashes in its texts.
    fn nested() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<i32>().prop_map(Value::from),
            r#"[\[\]{}"\\a😀]{0,12}"#.prop_map(Value::from),
        ];
        let tree = leaf.prop_recursive(6, 64, 4, |inner| {
            prop_oneof![
                proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                proptest::collection::hash_map(r#"[\[\]{}"\\a]{0,4}"#, inner, 0..4)
                    .prop_map(|map| Value::Object(map.into_iter().collect())),
            ]
        });
        // Around the bound, and with brothers on some levels.
        let around = proptest::collection::vec(any::<(bool, bool)>(), 110..135);
        (tree, around).prop_map(|(tree, around)| {
            around.into_iter().fold(tree, |inner, (array, brother)| {
                let beside = if brother { "]}\"" } else { "" };
                if array {
                    Value::from(vec![Value::from(beside), inner])
                } else {
                    serde_json::json!({"{": beside, "[\\": inner})
                }
            })
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(100))]

        #[test]
        fn depth_is_judged_as_by_a_reader_that_builds_the_tree(value in nested()) {
            let deep = depth(&value) > MAX_DEPTH;
            for text in [serde_json::to_string(&value).unwrap(), format!("{value:#}")] {
                prop_assert_eq!(check(&text).is_err(), deep, "{}", text);
            }
        }

        #[test]
        fn escapes_are_judged_as_by_a_reader_that_makes_characters_of_them(
            text in r#"(\\\\|\\"|\\n|\\u[0d][08]00|\\u[dD][89abAB][0-9a-f]{2}|\\u[dD][c-fC-F][0-9A-F]{2}|u|d800|x|é|\[){0,12}"#,
        ) {
            let text = format!("[\"{text}\"]");
            // What is no JSON never comes so far.
            if let Ok(json) = serde_json::from_str::<&RawValue>(&text) {
                let readable = serde_json::from_str::<Value>(&text).is_ok();
                prop_assert_eq!(check_portable(json).is_ok(), readable, "{}", text);
            }
        }
    }
}
