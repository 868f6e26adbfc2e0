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
use common::{
    DeadReason, JobId, JobKind, JobRecord, JobState, JobSubject, OutcomeError, Timestamp, subjects,
};
use connection::NatsClient;

use jetstream::job_messages::{future_run_at, subject_in_queue};
use jetstream::records::{self, Records, StoredRecord};
use jetstream::{StoredMessage, Stream, headers, jobs_of_kind};

use crate::cursor::BadCursor;
use crate::dead_letters::DeadLetter;
use crate::lookup::{as_of_now, read};
use crate::reverse_scan::{PAGE_BYTES, ReverseScan};

/// The most messages that are read for one page. If the filter matches few of them, a page may be short
/// or empty although more follow.
const LOOKED_AT: usize = 5000;

/// Selects jobs.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    /// Only jobs in this state.
    pub state: Option<JobState>,
    /// Only jobs of this kind.
    pub kind: Option<JobKind>,
}

/// A job in a list.
#[derive(Clone, Debug)]
pub struct Listed {
    /// The job.
    pub id: JobId,
    /// Its kind; absent if it could not be read.
    pub kind: Option<JobKind>,
    /// Its state.
    pub state: JobState,
    /// Since when it is in this state, by the clock of the NATS server.
    pub at: Timestamp,
    /// The number of the last attempt that started, from 1; 0 before the first.
    pub attempt: u32,
    /// The consumer that had it last.
    pub consumer: Option<String>,
    /// Scheduled or retrying: when it runs.
    pub next_at: Option<Timestamp>,
    /// Dead: why.
    pub reason: Option<DeadReason>,
    /// The error of its last failed attempt.
    pub error: Option<OutcomeError>,
    /// Succeeded: how long the last attempt ran, in milliseconds.
    pub duration_ms: Option<f64>,
}

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
        let wanted = if filter.state.is_some() || filter.kind.is_some() {
            records::MOST
        } else {
            (most - page.jobs.len()).min(records::MOST)
        };
        let candidates = list.candidates(wanted).await?;
        if candidates.is_empty() {
            break;
        }
        let mut known = list.records_of(&candidates).await?;
        let mut candidates = candidates.into_iter();
        for (place, kept) in candidates.by_ref() {
            page.looked_at += 1;
            list.seen[place] = kept.sequence;
            page.jobs.extend(list.listed(place, kept, &mut known));
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
            kind.map(|kind| jobs_of_kind(stream, kind))
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
                let letters = crate::dead_letters::filter(filter.kind.as_ref());
                [Some((Source::Letters, Stream::State, letters)), None, None]
            }
            Some(_) => [Some(records), None, None],
        };
        let most = if filter.state.is_some() || filter.kind.is_some() {
            records::MOST
        } else {
            most
        };
        let mut tails = [None, None, None];
        for (place, source) in sources.into_iter().enumerate() {
            if let Some((source, stream, filter)) = source {
                let before = cursor.map(|cursor| cursor.seen[place]);
                let tail = if source == Source::Letters {
                    ReverseScan::new(client, stream, filter, before, most).await?
                } else {
                    ReverseScan::roughly(client, stream, filter, before, most).await?
                };
                // Only records need their payloads: of a job, the headers and `run_at` are enough.
                let tail = if source == Source::Records {
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
    async fn candidates(&mut self, wanted: usize) -> anyhow::Result<Vec<(usize, StoredMessage)>> {
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
            candidates.extend(taken.map(|kept| (place, kept)));
        }
        Ok(candidates)
    }

    /// Looks up the records of the jobs whose messages are not records themselves.
    async fn records_of(
        &mut self,
        candidates: &[(usize, StoredMessage)],
    ) -> anyhow::Result<HashMap<JobId, StoredRecord>> {
        let ids: Vec<_> = candidates
            .iter()
            .filter(|(place, _)| self.source(*place) != Some(Source::Records))
            .filter(|(_, kept)| self.may_be_wanted(kept))
            .filter_map(|(_, kept)| id(&kept.subject))
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

    /// Whether the job of a message may match the filter, as far as the subject shows.
    fn may_be_wanted(&self, kept: &StoredMessage) -> bool {
        let place = self
            .filter
            .kind
            .as_ref()
            .zip(JobSubject::parse(&kept.subject));
        place.is_none_or(|(kind, place)| *kind == place.kind)
    }

    fn source(&self, place: usize) -> Option<Source> {
        self.tails[place].as_ref().map(|(source, _)| *source)
    }

    /// The job of a message, if it is to be listed.
    fn listed(
        &mut self,
        place: usize,
        kept: StoredMessage,
        known: &mut HashMap<JobId, StoredRecord>,
    ) -> Option<Listed> {
        let source = self.source(place)?;
        let listed = if source == Source::Records {
            if subjects::parse_record(&kept.subject).is_none() || kept.sequence > self.newest_record
            {
                return None;
            }
            Listed::of(read(id(&kept.subject)?, &kept))
        } else {
            if !self.may_be_wanted(&kept) {
                return None;
            }
            match known.remove(&id(&kept.subject)?) {
                Some(found) => self.by_record(source, &kept, found)?,
                None if source == Source::Letters => Listed::of_letter(DeadLetter::of(kept)?),
                None => Listed::of_message(&kept)?,
            }
        };
        let filter = self.filter;
        let wanted = filter.state.is_none_or(|state| state == listed.state)
            && (filter.kind.is_none() || filter.kind == listed.kind);
        (wanted && self.shown.insert(listed.id)).then_some(listed)
    }

    /// The job of a message that has a record, if it is to be listed at the place of the message.
    fn by_record(
        &self,
        source: Source,
        kept: &StoredMessage,
        found: StoredRecord,
    ) -> Option<Listed> {
        // Without a filter by state, the job is listed at the place of its record, unless the record is
        // newer than the list.
        let elsewhere = self.filter.state.is_none() && found.sequence <= self.newest_record;
        let record = found.record.filter(|_| !elsewhere)?;
        // A message of an earlier run is about to be removed.
        let outlived = source != Source::Letters
            && JobSubject::parse(&kept.subject).is_some_and(|place| place.run != record.run);
        (!outlived || self.filter.state.is_none()).then(|| Listed::of(record))
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

/// The id of the job of a message.
fn id(subject: &str) -> Option<JobId> {
    subject.split('.').nth(2)?.parse().ok()
}

impl Listed {
    fn of(record: JobRecord) -> Self {
        let record = as_of_now(record);
        Self {
            id: record.id,
            kind: record.kind,
            state: record.state,
            at: record.at,
            attempt: record.attempt,
            consumer: record.consumer,
            next_at: record.next_at,
            reason: record.reason,
            error: record
                .failures
                .into_iter()
                .rfind(|failure| !failure.is_mark())
                .map(|failure| failure.error),
            duration_ms: record.duration_ms,
        }
    }

    fn of_letter(letter: DeadLetter) -> Self {
        let mut failures = letter.failures.into_iter();
        let last = failures.rfind(|failure| !failure.is_mark());
        Self {
            attempt: last.as_ref().map_or(0, |failure| failure.attempt),
            consumer: last.as_ref().and_then(|failure| failure.consumer.clone()),
            reason: letter.reason,
            error: last.map(|failure| failure.error),
            ..Self::fresh(letter.id, Some(letter.kind), JobState::Dead, letter.at)
        }
    }

    fn of_message(kept: &StoredMessage) -> Option<Self> {
        if !kept.subject.starts_with("jobs.later.") {
            let place = JobSubject::parse(&kept.subject)?;
            let in_queue = kept.subject.starts_with(subjects::DURABLE);
            let next_at = future_run_at(kept, place.run).filter(|_| in_queue);
            let state = if next_at.is_some() {
                JobState::Scheduled
            } else {
                JobState::Queued
            };
            return Some(Self {
                next_at,
                ..Self::fresh(place.id, Some(place.kind), state, kept.at)
            });
        }
        let kind = subject_in_queue(kept).map(|subject| subject.kind);
        Some(Self {
            next_at: headers::scheduled_time(&kept.headers),
            ..Self::fresh(id(&kept.subject)?, kind, JobState::Scheduled, kept.at)
        })
    }

    fn fresh(id: JobId, kind: Option<JobKind>, state: JobState, at: Timestamp) -> Self {
        Self {
            id,
            kind,
            state,
            at,
            attempt: 0,
            consumer: None,
            next_at: None,
            reason: None,
            error: None,
            duration_ms: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use common::{FailedAttempt, codes};
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_list_shows_the_last_error_of_a_job_also_of_an_unreadable_one_and_no_marks() {
        let shown = |failures: &[(u32, &'static str)]| {
            let at = Timestamp::now();
            let failures = failures.iter().map(|(attempt, code)| FailedAttempt {
                attempt: *attempt,
                consumer: None,
                at,
                error: OutcomeError::new(code, ""),
            });
            let mut record = JobRecord::new(JobId::generate(), None, JobState::Dead, at);
            record.failures = failures.collect();
            Listed::of(record)
                .error
                .map(|error| error.code.into_owned())
        };
        let (replayed, discarded) = ((0, codes::REPLAYED), (0, codes::DISCARDED));
        let last = shown(&[(1, codes::TIMEOUT), replayed, (1, codes::PANIC), discarded]);
        assert_eq!(last.as_deref(), Some(codes::PANIC));
        let unreadable = shown(&[(0, codes::INVALID_JOB), discarded]);
        assert_eq!(unreadable.as_deref(), Some(codes::INVALID_JOB));
        assert_eq!(shown(&[replayed]), None);
    }

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
