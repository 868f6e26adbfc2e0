//! Groups dead letters by their error.

use std::collections::HashMap;

use common::{DeadReason, JobId, JobKind, Timestamp};
use connection::NatsClient;

use super::newest::within;
use super::{Cursor, Which};

/// The most groups in one answer.
const MOST_GROUPS: usize = 500;

/// The longest message of a group, in characters.
const LONGEST: usize = 200;

/// How many dead letters are read at a time.
const PAGE: usize = 256;

/// Dead letters of the same kind, with the same reason and the same error message.
#[derive(Clone, Debug)]
pub struct Group {
    /// Their kind.
    pub kind: JobKind,
    /// Why they were given up.
    pub reason: Option<DeadReason>,
    /// The code of the last error of the newest dead letter; empty if it is not known.
    pub code: String,
    /// The message of that error without the parts that differ from job to job: see [`normalised`].
    pub message: String,
    /// How many of the dead letters that were read are in this group.
    pub count: u64,
    /// When the newest of them was given up.
    pub newest: Timestamp,
    /// When the oldest of them was given up.
    pub oldest: Timestamp,
    /// The job of the newest of them.
    pub example: JobId,
}

/// Dead letters, grouped by their error.
///
/// ```no_run
/// use client::Client;
/// use client::dead_letters::{Group, Groups, Which, groups};
///
/// # async fn example(jobs: Client) -> anyhow::Result<()> {
/// let Groups { groups, .. } = groups(jobs.nats(), &Which::default(), 1000).await?;
/// for Group { kind, message, count, .. } in groups {
///     println!("{count} of {kind}: {message}");
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct Groups {
    /// The groups, the largest first.
    pub groups: Vec<Group>,
    /// How many dead letters are in the groups.
    pub looked_at: u64,
    /// Whether all dead letters that match are in the groups; otherwise only the newest are.
    pub complete: bool,
}

/// Groups the newest dead letters that match `which`; reads at most `most` dead letters.
///
/// # Errors
/// When the server does not answer in time.
pub async fn groups(client: &NatsClient, which: &Which, most: usize) -> anyhow::Result<Groups> {
    let mut groups: HashMap<_, Group> = HashMap::new();
    let (mut looked_at, mut left, mut cursor): (u64, _, Option<Cursor>) = (0, most, None);
    let mut complete = false;
    loop {
        if left == 0 || groups.len() >= MOST_GROUPS {
            break;
        }
        let page = within(client, which, cursor, left.min(PAGE), left).await?;
        // Dead letters that do not match count too: a filter that matches none would read all of them.
        left = left.saturating_sub(page.looked_at);
        for letter in &page.letters {
            looked_at += 1;
            let error = letter.error.as_ref();
            let message = error.map_or(String::new(), |error| normalised(&error.message));
            // A group is made of what [`Which`] can select, so that an action on a group changes only
            // the dead letters of this group.
            let key = (letter.kind.clone(), letter.reason, message);
            let group = groups.entry(key).or_insert_with_key(|key| Group {
                kind: letter.kind.clone(),
                reason: letter.reason,
                code: error.map_or(String::new(), |error| error.code.to_string()),
                message: key.2.clone(),
                count: 0,
                newest: letter.at,
                oldest: letter.at,
                example: letter.id,
            });
            group.count += 1;
            group.oldest = letter.at;
        }
        cursor = page.next;
        if cursor.is_none() {
            complete = true;
            break;
        }
    }
    let mut groups: Vec<_> = groups.into_values().collect();
    groups.sort_by(|one, other| {
        let order = |group: &Group| std::cmp::Reverse((group.count, group.newest));
        order(one)
            .cmp(&order(other))
            .then_with(|| one.message.cmp(&other.message))
    });
    Ok(Groups {
        groups,
        looked_at,
        complete,
    })
}

/// The message of an error without the parts that differ from job to job: numbers and ids are replaced
/// by `#`, and the text is cut after 200 characters.
#[must_use]
pub fn normalised(message: &str) -> String {
    let mut text = String::new();
    let mut rest = message;
    while let Some(first) = rest.chars().next() {
        let id = rest
            .get(..36)
            .filter(|id| uuid::Uuid::try_parse(id).is_ok());
        let word = rest
            .find(|character: char| !character.is_ascii_alphanumeric())
            .unwrap_or(rest.len());
        if id.is_some() {
            text.push('#');
            rest = &rest[36..];
        } else if word == 0 {
            text.push(first);
            rest = &rest[first.len_utf8()..];
        } else {
            without_numbers(&rest[..word], &mut text);
            rest = &rest[word..];
        }
    }
    text.chars().take(LONGEST).collect()
}

fn without_numbers(word: &str, text: &mut String) {
    let digits = word.bytes().any(|byte| byte.is_ascii_digit());
    let hex = word.bytes().all(|byte| byte.is_ascii_hexdigit());
    if digits && (word.len() >= 16 || hex && word.len() >= 8) {
        text.push('#');
        return;
    }
    let mut number = false;
    for character in word.chars() {
        if !character.is_ascii_digit() {
            text.push(character);
        } else if !number {
            text.push('#');
        }
        number = character.is_ascii_digit();
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_differs_from_job_to_job_is_left_out_of_a_message() {
        for (message, expected) in [
            ("no such address", "no such address"),
            ("line 12, column 7", "line #, column #"),
            (
                "job 01890a5d-ac96-774b-bcce-b302099a8057 is late",
                "job # is late",
            ),
            ("commit deadbeef42 of utf8", "commit # of utf#"),
            ("took 1.25s", "took #.#s"),
            ("ÄÖ 7 €", "ÄÖ # €"),
            ("", ""),
        ] {
            assert_eq!(normalised(message), expected);
        }
        assert_eq!(normalised(&"ä".repeat(500)).chars().count(), LONGEST);
    }

    proptest! {
        #[test]
        fn a_message_that_is_normalised_stays_as_it_is(message in ".{0,300}") {
            let once = normalised(&message);
            prop_assert_eq!(normalised(&once), once);
        }
    }
}
