//! Finds the known word that is closest to a misspelt one.

/// The known word that is at most two letters away; `None` if there is none.
pub(super) fn nearest<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let known = known
        .into_iter()
        .map(|it| (strsim::levenshtein(word, it), it));
    let (away, nearest) = known.min_by_key(|(away, _)| *away)?;
    (away <= 2 && away < nearest.len()).then_some(nearest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_word_that_was_meant_is_found() {
        let known = ["exec", "http", "nats"];
        for (word, meant) in [
            ("exce", Some("exec")),
            ("https", Some("http")),
            ("nat", Some("nats")),
            ("run", None),
            ("timeout", None),
            ("", None),
        ] {
            assert_eq!(nearest(word, known), meant, "{word}");
        }
    }
}
