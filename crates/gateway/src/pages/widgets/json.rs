//! JSON for people.

/// A JSON text with line breaks and indentation. Only white space changes, so that no number loses digits
/// in an editor.
pub(crate) fn pretty(json: &str) -> String {
    /// The deepest indentation: more would make the text much larger.
    const MAX_DEPTH: usize = 40;
    let mut out = String::with_capacity(json.len() * 2);
    let (mut depth, mut in_text, mut escaped) = (0_usize, false, false);
    let line = |out: &mut String, depth: usize| {
        out.push('\n');
        out.extend(std::iter::repeat_n("  ", depth.min(MAX_DEPTH)));
    };
    let mut characters = json.chars().peekable();
    while let Some(character) = characters.next() {
        if in_text {
            out.push(character);
            in_text = escaped || character != '"';
            escaped = character == '\\' && !escaped;
            continue;
        }
        match character {
            ' ' | '\n' | '\r' | '\t' => {}
            '{' | '[' => {
                out.push(character);
                while characters.next_if(char::is_ascii_whitespace).is_some() {}
                if let Some(end) = characters.next_if(|next| matches!(next, '}' | ']')) {
                    out.push(end);
                } else {
                    depth += 1;
                    line(&mut out, depth);
                }
            }
            '}' | ']' => {
                depth = depth.saturating_sub(1);
                line(&mut out, depth);
                out.push(character);
            }
            ',' => {
                out.push(character);
                line(&mut out, depth);
            }
            ':' => out.push_str(": "),
            character => {
                in_text = character == '"';
                out.push(character);
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pretty_json_keeps_its_digits_and_strings() {
        let json =
            r#"{"a":[1,{"b":"x, {y}: \"z\\"}],"big":12345678901234567890123,"e":{ },"n":[]}"#;
        let text = pretty(json);
        insta::assert_snapshot!(text, @r#"
        {
          "a": [
            1,
            {
              "b": "x, {y}: \"z\\"
            }
          ],
          "big": 12345678901234567890123,
          "e": {},
          "n": []
        }
        "#);
        let nested = format!("{}{}", "[".repeat(5_000), "]".repeat(5_000));
        assert!(pretty(&nested).len() < 1_000_000);
    }
}
