//! Lists of jobs, the newest first.
//!
//! No list of jobs is stored. The streams hold records, and the messages of jobs that have no record
//! yet. A page is merged from up to three of these sources, in the order of the time at which each
//! message was stored. A job with a record is listed at the place of its record; a job without one, at
//! the place of its message.
//!
//! A job that does not change is listed once on all pages together. A job that changes while the pages
//! are read belongs at the top of a new list; in this list it may appear twice: at its old place and at
//! the place of its message.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::str::FromStr;

use anyhow::Context as _;
use common::{JobId, JobRecord, JobState, JobSubject, Timestamp, subjects};
use connection::NatsClient;

use jetstream::records::{self, Records, StoredRecord};
use jetstream::{StoredMessage, Stream, direct_get, jobs_of_kinds, manage};

use crate::cursor::BadCursor;
use crate::dead_letters::DeadLetter;
use crate::filter::Filter;
use crate::listed::{Listed, id};
use crate::lookup::read;
use crate::reverse_scan::{PAGE_BYTES, ReverseScan};

/// The most messages that are read for one page. If the filter matches few of them, a page may be short
/// or empty although more follow.
const LOOKED_AT: usize = 5000;

/// How long after the begin of a state its record is stored at the latest, in milliseconds. A record
/// that was stored later than that is not found by the end of a time range.
const STORED_WITHIN: i64 = 60_000;

/// A page of a list.
///
/// ```no_run
/// use client::{Client, Cursor, Filter, JobState, Listed, Page};
///
/// # async fn example(jobs: Client) -> anyhow::Result<()> {
/// let dead = Filter { state: Some(JobState::Dead), ..Filter::default() };
/// let mut cursor: Option<Cursor> = None;
/// loop {
///     let page: Page = jobs.list(&dead, cursor, 100).await?;
///     for Listed { id, at, .. } in page.jobs {
///         println!("{at} {id}");
///     }
///     cursor = page.next;
///     if cursor.is_none() {
///         break;
///     }
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct Page {
    /// The jobs, the newest first.
    pub jobs: Vec<Listed>,
    /// Where the next page starts; absent at the end of the list.
    pub next: Option<Cursor>,
    /// How many messages were read for this page.
    pub looked_at: usize,
}

/// A position in a list. Its text is short, and consists of letters, digits and hyphens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cursor {
    /// The sequence down to which each [`ReverseScan`] was read; 0 is the end.
    seen: [u64; 3],
    /// The sequence of the newest record when the list began; later records are not in the list.
    newest_record: u64,
}

impl fmt::Display for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [state, jobs, later] = self.seen;
        write!(f, "{state:x}-{jobs:x}-{later:x}-{:x}", self.newest_record)
    }
}

impl FromStr for Cursor {
    type Err = BadCursor;

    fn from_str(text: &str) -> Result<Self, BadCursor> {
        let number = |digits: &str| {
            // A number has one spelling: no sign, no leading zeros, lower case.
            let number = u64::from_str_radix(digits, 16).map_err(|_| BadCursor)?;
            (format!("{number:x}") == digits)
                .then_some(number)
                .ok_or(BadCursor)
        };
        let numbers: Vec<_> = text
            .split('-')
            .take(5)
            .map(number)
            .collect::<Result<_, _>>()?;
        let [state, jobs, later, newest_record] = numbers[..] else {
            return Err(BadCursor);
        };
        Ok(Self {
            seen: [state, jobs, later],
            newest_record,
        })
    }
}

/// A page of the jobs that match `filter`, the newest first, from the position of the cursor; at most
/// `most`.
///
/// The number of messages that are read for a page is bounded, however many there are. If the filter
/// matches few of them, the page may be short although the list goes on: see [`Page::next`].
///
/// # Errors
/// When the server does not answer in time.
pub async fn list(
    client: &NatsClient,
    filter: &Filter,
    cursor: Option<Cursor>,
    most: usize,
) -> anyhow::Result<Page> {
    let mut list = List::new(client, filter, cursor, most).await?;
    let mut page = Page {
        jobs: Vec::new(),
        next: None,
        looked_at: 0,
    };
    let mut rest = false;
    while page.jobs.len() < most && page.looked_at < LOOKED_AT && list.bytes_read() < PAGE_BYTES {
        let wanted = if filter.is_all() {
            (most - page.jobs.len()).min(records::MOST)
        } else {
            records::MOST
        };
        let candidates = list.candidates(wanted).await?;
        if candidates.is_empty() {
            break;
        }
        let mut known = list.records_of(&candidates).await?;
        let mut candidates = candidates.into_iter();
        for candidate in candidates.by_ref() {
            // A state begins before its record is stored, so all that follow began earlier, too.
            if filter.since.is_some_and(|since| candidate.kept.at < since) {
                return Ok(page);
            }
            page.looked_at += 1;
            list.seen[candidate.place] = candidate.kept.sequence;
            page.jobs.extend(list.listed(candidate, &mut known));
            if page.jobs.len() == most {
                break;
            }
        }
        rest = candidates.next().is_some();
    }
    page.next = list.cursor(rest);
    Ok(page)
}

/// What a message of a scan is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Source {
    Records,
    Letters,
    Jobs,
    Later,
}

/// A message that may show a job.
struct Candidate {
    /// The number of its scan.
    place: usize,
    kept: StoredMessage,
    /// Whether the text of the filter is in its payload. True without such a text, and false for
    /// records: see [`SearchText::is_in_record`](crate::SearchText).
    has_text: bool,
}

struct List<'a> {
    client: &'a NatsClient,
    filter: &'a Filter,
    records: Option<Records>,
    /// In the order of the cursor.
    tails: [Option<(Source, ReverseScan)>; 3],
    seen: [u64; 3],
    newest_record: u64,
    shown: HashSet<JobId>,
}

impl<'a> List<'a> {
    async fn new(
        client: &'a NatsClient,
        filter: &'a Filter,
        cursor: Option<Cursor>,
        most: usize,
    ) -> anyhow::Result<Self> {
        let of_kind = |stream| {
            let kind = filter.kind.as_ref();
            kind.map(|kind| jobs_of_kinds(stream, kind))
        };
        let all = || ">".to_owned();
        let records = (
            Source::Records,
            Stream::State,
            subjects::ALL_RECORDS.to_owned(),
        );
        let jobs = (
            Source::Jobs,
            Stream::Jobs,
            of_kind(Stream::Jobs).unwrap_or_else(all),
        );
        let later = |filter| (Source::Later, Stream::Later, filter);
        let sources = match filter.state {
            None => [Some(records), Some(jobs), Some(later(all()))],
            Some(JobState::Queued) => {
                let due = of_kind(Stream::Later);
                let due = due.unwrap_or_else(|| subjects::ALL_DUE.to_owned());
                [None, Some(jobs), Some(later(due))]
            }
            Some(JobState::Scheduled) => [
                None,
                Some(jobs),
                Some(later(subjects::ALL_LATER.to_owned())),
            ],
            // Dead jobs are listed by their dead letters.
            Some(JobState::Dead) => {
                let letters = filter.kind.as_ref().map(subjects::dead_of_kinds);
                let letters = letters.unwrap_or_else(|| subjects::ALL_DEAD.to_owned());
                [Some((Source::Letters, Stream::State, letters)), None, None]
            }
            // The payload of a job that has not ended is in its message.
            Some(state) if filter.text.is_some() && !state.is_final() => {
                [Some(records), Some(jobs), Some(later(all()))]
            }
            Some(_) => [Some(records), None, None],
        };
        let most = if filter.is_all() { most } else { records::MOST };
        let mut tails = [None, None, None];
        for (place, source) in sources.into_iter().enumerate() {
            if let Some((source, stream, subjects)) = source {
                let before = match cursor {
                    Some(cursor) => Some(cursor.seen[place]),
                    None => after_range(client, stream, filter).await?,
                };
                let tail = if source == Source::Letters {
                    ReverseScan::new(client, stream, subjects, before, most).await?
                } else {
                    ReverseScan::roughly(client, stream, subjects, before, most).await?
                };
                // Only records need their payloads: of a job, the headers and `run_at` are enough, unless
                // the payload is searched.
                let tail = if source == Source::Records || filter.text.is_some() {
                    tail
                } else {
                    tail.without_payloads()
                };
                tails[place] = Some((source, tail));
            }
        }
        // The records are read first: a message of another stream is then compared with its record.
        let mut newest_record = cursor.map_or(u64::MAX, |cursor| cursor.newest_record);
        if cursor.is_none()
            && let Some((Source::Records, tail)) = &mut tails[0]
        {
            tail.fill().await?;
            // If this message is not a record, no record is newer than it either.
            newest_record = tail.peek().map_or(0, |kept| kept.sequence);
        }
        Ok(Self {
            client,
            filter,
            records: None,
            seen: cursor.map_or([u64::MAX; 3], |cursor| cursor.seen),
            tails,
            newest_record,
            shown: HashSet::new(),
        })
    }

    /// How many bytes the scans have read, without the records that were looked up for other messages.
    fn bytes_read(&self) -> usize {
        let tails = self.tails.iter().flatten();
        tails.map(|(_, tail)| tail.bytes_read()).sum()
    }

    /// The next messages of all streams, the newest first.
    async fn candidates(&mut self, wanted: usize) -> anyhow::Result<Vec<Candidate>> {
        let mut candidates = Vec::new();
        while candidates.len() < wanted && (candidates.is_empty() || self.bytes_read() < PAGE_BYTES)
        {
            let mut newest: Option<(usize, Timestamp)> = None;
            for (place, tail) in self.tails.iter_mut().enumerate() {
                let Some((_, tail)) = tail else { continue };
                tail.fill().await?;
                if self.seen[place] == u64::MAX {
                    // Messages stored later are not in this list, even if nothing was listed yet.
                    let newest = tail.peek().map(|kept| kept.sequence.saturating_add(1));
                    self.seen[place] = newest.unwrap_or_else(|| tail.reached());
                }
                if let Some(kept) = tail.peek()
                    && newest.is_none_or(|(_, at)| kept.at > at)
                {
                    newest = Some((place, kept.at));
                }
            }
            let Some((place, _)) = newest else { break };
            let taken = self.tails[place].as_mut().and_then(|(_, tail)| tail.take());
            candidates.extend(taken.map(|kept| self.candidate(place, kept)));
        }
        Ok(candidates)
    }

    fn candidate(&self, place: usize, kept: StoredMessage) -> Candidate {
        let has_text = match &self.filter.text {
            None => true,
            Some(_) if self.source(place) == Some(Source::Records) => false,
            Some(text) => text.is_in_message(&kept.payload),
        };
        Candidate {
            place,
            kept,
            has_text,
        }
    }

    /// Looks up the records of the jobs whose messages are not records themselves.
    async fn records_of(
        &mut self,
        candidates: &[Candidate],
    ) -> anyhow::Result<HashMap<JobId, StoredRecord>> {
        let ids: Vec<_> = candidates
            .iter()
            .filter(|candidate| self.source(candidate.place) != Some(Source::Records))
            .filter(|candidate| self.may_be_wanted(candidate))
            .filter_map(|candidate| id(&candidate.kept.subject))
            .collect();
        if ids.is_empty() {
            return Ok(HashMap::new());
        }
        let records = match &mut self.records {
            Some(records) => records,
            none => none.insert(Records::new(self.client).await?),
        };
        let found = records.of(ids).await;
        found.context("cannot look up the records of a list")
    }

    /// Whether the job of a message may match the filter, as far as the message shows.
    fn may_be_wanted(&self, candidate: &Candidate) -> bool {
        let place = JobSubject::parse(&candidate.kept.subject);
        let of_kind = place.is_none_or(|place| self.filter.has_kind(Some(&place.kind)));
        // Its errors are in its record, which is listed at its own place if that is scanned.
        of_kind && (candidate.has_text || !self.scans_records())
    }

    fn scans_records(&self) -> bool {
        self.source(0) == Some(Source::Records)
    }

    fn source(&self, place: usize) -> Option<Source> {
        self.tails[place].as_ref().map(|(source, _)| *source)
    }

    /// The job of a message, if it is to be listed.
    fn listed(
        &mut self,
        candidate: Candidate,
        known: &mut HashMap<JobId, StoredRecord>,
    ) -> Option<Listed> {
        let source = self.source(candidate.place)?;
        let wanted = self.may_be_wanted(&candidate);
        let Candidate { kept, has_text, .. } = candidate;
        let listed = if source == Source::Records {
            if subjects::parse_record(&kept.subject).is_none() || kept.sequence > self.newest_record
            {
                return None;
            }
            let record = read(id(&kept.subject)?, &kept);
            if !self.record_has_text(&record) {
                return None;
            }
            Listed::of(record, kept.sequence)
        } else {
            if !wanted {
                return None;
            }
            match known.remove(&id(&kept.subject)?) {
                Some(found) => self.by_record(source, &kept, has_text, found)?,
                None if source == Source::Letters => {
                    let letter = DeadLetter::of(kept)?;
                    let text = self.filter.text.as_ref();
                    let fails = |letter: &DeadLetter| {
                        text.is_some_and(|text| text.is_in_failures(&letter.failures))
                    };
                    (has_text || fails(&letter)).then(|| Listed::of_letter(letter))?
                }
                None => has_text.then(|| Listed::of_message(&kept))??,
            }
        };
        let filter = self.filter;
        let wanted = filter.state.is_none_or(|state| state == listed.state)
            && filter.has_kind(listed.kind.as_ref())
            && filter.has_time(listed.at);
        (wanted && self.shown.insert(listed.id)).then_some(listed)
    }

    /// The job of a message that has a record, if it is to be listed at the place of the message.
    fn by_record(
        &self,
        source: Source,
        kept: &StoredMessage,
        has_text: bool,
        found: StoredRecord,
    ) -> Option<Listed> {
        let (record, filter) = (found.record?, self.filter);
        // If records are scanned, the job is listed at the place of its record, unless the record is newer
        // than the list, older than the time range, or only the message has the text.
        let elsewhere = self.scans_records()
            && found.sequence <= self.newest_record
            && filter.since.is_none_or(|since| record.at >= since)
            && self.record_has_text(&record);
        if elsewhere || !(has_text || self.record_has_text(&record)) {
            return None;
        }
        // A message of an earlier run is about to be removed.
        let outlived = source != Source::Letters
            && JobSubject::parse(&kept.subject).is_some_and(|place| place.run != record.run);
        let any_run = filter.state.is_none() && filter.text.is_none();
        (!outlived || any_run).then(|| Listed::of(record, found.sequence))
    }

    /// Whether the text of the filter, if it has one, is in a record.
    fn record_has_text(&self, record: &JobRecord) -> bool {
        let text = self.filter.text.as_ref();
        text.is_none_or(|text| text.is_in_record(record))
    }

    /// Where the list goes on; `rest` says that messages were taken from the scans but not listed.
    fn cursor(&self, rest: bool) -> Option<Cursor> {
        let mut seen = [0; 3];
        let mut over = !rest;
        for (place, tail) in self.tails.iter().enumerate() {
            let Some((_, tail)) = tail else { continue };
            over &= tail.is_over();
            // Messages that were taken but not listed are below the last one that was listed.
            let taken_all = !rest && tail.peek().is_none();
            seen[place] = if taken_all {
                tail.reached()
            } else {
                self.seen[place]
            };
        }
        (!over).then_some(Cursor {
            seen,
            newest_record: self.newest_record,
        })
    }
}

/// The sequence from which on all messages of a stream were stored too late for the time range of a
/// filter.
async fn after_range(
    client: &NatsClient,
    stream: Stream,
    filter: &Filter,
) -> anyhow::Result<Option<u64>> {
    let Some(until) = filter.until else {
        return Ok(None);
    };
    let late = until.shifted(STORED_WITHIN);
    let first = direct_get::next_since(client, stream, ">", late).await;
    Ok(manage::existing(first)?
        .flatten()
        .map(|first| first.sequence))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_is_no_cursor_is_refused() {
        for text in [
            "",
            "-",
            "1-2-3",
            "1-2-3-4-5",
            "1-2-3-G",
            "01-2-3-4",
            "+1-2-3-4",
            "1-2-3-A",
            "1-2-3-4 ",
            "1-2-3-10000000000000000",
            "1--2-3",
            "ä-2-3-4",
            "1-2-3-4-",
        ] {
            assert_eq!(text.parse::<Cursor>(), Err(BadCursor), "{text}");
        }
    }

    proptest! {
        #[test]
        fn a_cursor_survives_the_round_trip(seen: [u64; 3], newest_record: u64) {
            let cursor = Cursor { seen, newest_record };
            prop_assert_eq!(cursor.to_string().parse::<Cursor>(), Ok(cursor));
        }

        #[test]
        fn no_text_makes_a_cursor_panic(text in ".{0,40}") {
            let _ = text.parse::<Cursor>();
        }
    }
}
