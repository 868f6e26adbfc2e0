//! What somebody probably meant who misspelt a word.

/// The known word that is at most two letters away; `None` if there is none.
pub(super) fn nearest<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let known = known.into_iter().map(|it| (distance(word, it), it));
    let (away, nearest) = known.min_by_key(|(away, _)| *away)?;
    (away <= 2 && away < nearest.len()).then_some(nearest)
}

/// How many letters have to be put in, left out or changed (Levenshtein).
fn distance(from: &str, to: &str) -> usize {
    let to: Vec<char> = to.chars().collect();
    // The distances of what was read of `from` to each beginning of `to`.
    let mut row: Vec<usize> = (0..=to.len()).collect();
    for (read, letter) in from.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = read + 1;
        for (at, other) in to.iter().enumerate() {
            let changed = diagonal + usize::from(letter != *other);
            diagonal = row[at + 1];
            row[at + 1] = changed.min(row[at] + 1).min(diagonal + 1);
        }
    }
    row[to.len()]
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
