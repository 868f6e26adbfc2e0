//! The watch for overdue jobs: finds those that wait for a time that has passed although no message
//! is left that could end the wait, and brings them back.
//!
//! Whoever puts a job off stores a marker together with its record, in the same batch: on
//! `jobs.overdue.<slot>.<id>`, the slot being a quarter of a minute after the job's time. When the
//! slot has begun, any consumer reads its markers, looks at the records of their jobs, and removes
//! them. Most jobs have moved on. Of one whose record still says that it waits, the messages are
//! looked for. If none is there, the job is scheduled once more with the bytes that its marker has,
//! or ends as a dead letter where those were too many for a marker and are nowhere else.
//!
//! There is no leader. A cursor in the stream says up to which slot all markers were read, and who
//! reads at the moment, so that a fleet does not do the same work at the same time; that is no lock.
//! What decides is the record of the job: it is replaced only if it is still the one that was looked
//! at.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use async_nats::HeaderMap;
use bootstrap::{Beat, Client};
use common::{Job, JobId, JobKind, JobRecord, JobState, JobSubject, Priority, Timestamp, subjects};
use futures_util::{StreamExt as _, stream};
use jetstream::headers::EXPECTED_LAST;
use jetstream::job_messages::{self, Found};
use jetstream::records::{self, Records, StoredRecord};
use jetstream::{
    Message, NotStored, ServerClock, StoredMessage, Stream, batch, direct_get, manage,
};
use serde::{Deserialize, Serialize};
use tokio::time::Instant;
use tracing::{debug, warn};

use crate::counters::Counters;
use crate::lease::Lease;
use crate::phases::Phases;
use crate::store::{JobStore, Marker, Restored, slot_after, slot_of};

/// How often it is looked whether a slot has begun, more or less. With slot and grace, a lost job is
/// found within 35 seconds of its time.
const PERIOD: Duration = Duration::from_secs(12);

/// When a job whose message is there is looked at again: after as long a time as it is overdue, but
/// not sooner ...
const SOONEST: Duration = Duration::from_secs(30);

/// ... and not later than this.
const LATEST: Duration = Duration::from_hours(1);

/// How many markers are read at a time.
const PAGE: usize = 500;

/// How many bytes they may have together.
const PAGE_BYTES: usize = 2 << 20;

/// The messages of how many jobs are looked for at a time.
const ABREAST: usize = 32;

/// How long a round may take: each question of it has its own end.
const LONGEST_ROUND: Duration = Duration::from_mins(10);

/// For how long whoever reads markers keeps others from doing it.
const BUSY: Duration = Duration::from_secs(30);

/// After so many slots without a marker the cursor is stored all the same: ten minutes.
const FAR: i64 = 40;

/// Over more slots than these they are not gone through one by one: a day.
const TOO_FAR: i64 = 5760;

/// The clock of the server has jumped if it is off by more than this.
const JUMP: Duration = Duration::from_secs(5);

/// The most jobs that are named in the log, each time.
const NAMED: usize = 10;

/// Where the cursor is.
const CURSOR: &str = subjects::OVERDUE_CURSOR;

pub(crate) struct OverdueWatch {
    pub(crate) client: Client,
    pub(crate) store: Arc<JobStore>,
    pub(crate) clock: Arc<ServerClock>,
    pub(crate) counters: Arc<Counters>,
    pub(crate) phases: Phases,
}

impl OverdueWatch {
    /// Watches until the consumer leaves.
    pub(crate) async fn run(self, mut life: Beat) {
        let mut watch = Watch::default();
        let mut told = false;
        loop {
            // Consumers of a fleet that were started together do not look at the same moment.
            let wait = PERIOD.mul_f64(0.75 + 0.5 * rand::random::<f64>());
            tokio::select! {
                () = life.during(wait, tokio::time::sleep(wait)) => {}
                () = self.phases.leaving() => return life.done(),
            }
            match life.during(LONGEST_ROUND, watch.round(&self)).await {
                Ok(()) => told = false,
                Err(error) if std::mem::replace(&mut told, true) => {
                    debug!("cannot look for overdue jobs: {error:#}");
                }
                Err(error) => {
                    warn!(
                        "cannot look for overdue jobs, trying again (further ones are not reported until it works): {error:#}"
                    );
                }
            }
        }
    }
}

#[derive(Default)]
struct Watch {
    /// Up to this slot there were no markers left, whatever the cursor says.
    checked: Option<i64>,
    /// When the server's clock was looked at, and what it said.
    clock: Option<(Instant, Timestamp)>,
}

impl Watch {
    async fn round(&mut self, of: &OverdueWatch) -> anyhow::Result<()> {
        let now = of.clock.now();
        let due = slot_of(now);
        if self.has_jumped(now) {
            // There may be markers in slots that were read before.
            self.checked = None;
        }
        let mut cursor = Cursor::read(&of.client).await?;
        if cursor.is_busy(of, now) {
            return Ok(());
        }
        let until = match self.checked {
            Some(checked) => Some(cursor.until.map_or(checked, |until| until.max(checked))),
            // Whoever has just started relies on the cursor; who has seen the clock jump does not.
            None if self.clock.is_none() => cursor.until,
            None => None,
        };
        let slots = match until {
            // Another consumer's clock may be a little ahead.
            Some(until) if (due..=due + 2).contains(&until) => Vec::new(),
            Some(until) if (due - TOO_FAR..due).contains(&until) => (until + 1..=due).collect(),
            _ => begun_slots(&of.client, due).await?,
        };
        let (mut claimed, mut named) = (false, NAMED);
        for slot in slots {
            let read = self.read(of, &mut cursor, slot, &mut claimed, &mut named);
            if !read.await? {
                return Ok(());
            }
        }
        let behind = cursor.until.is_none_or(|until| {
            // Ahead is where the clock was put back.
            claimed || due - until >= FAR || until > due + 2
        });
        if behind {
            cursor.until = Some(due);
            cursor.busy_until = None;
            cursor.store(of).await?;
        }
        self.checked = Some(due);
        self.clock = Some((Instant::now(), now));
        Ok(())
    }

    fn has_jumped(&self, now: Timestamp) -> bool {
        self.clock.is_some_and(|(when, was)| {
            let expected = was.after(when.elapsed());
            now.since(expected).max(expected.since(now)) > JUMP
        })
    }

    /// Sees to all markers of a slot; false if another consumer does that, or this one leaves.
    async fn read(
        &self,
        of: &OverdueWatch,
        cursor: &mut Cursor,
        slot: i64,
        claimed: &mut bool,
        named: &mut usize,
    ) -> anyhow::Result<bool> {
        let filter = subjects::overdue_in(slot);
        let mut from = 1;
        loop {
            let stream = Stream::State;
            let page =
                direct_get::batch(&of.client, stream, &filter, from, PAGE, PAGE_BYTES).await?;
            let Some(last) = page.last().map(|kept| kept.sequence) else {
                return Ok(true);
            };
            if of.phases.is_leaving() || !cursor.claim(of).await? {
                return Ok(false);
            }
            *claimed = true;
            see_to(of, page, named).await?;
            // All at once, and none that came meanwhile.
            manage::purge_below(&of.client, stream, &filter, last + 1).await?;
            from = last + 1;
        }
    }
}

/// The slots with markers that have begun, found by a look at the markers of all jobs that wait.
async fn begun_slots(client: &Client, due: i64) -> anyhow::Result<Vec<i64>> {
    let mut slots = BTreeSet::new();
    let mut from = 1;
    loop {
        let page = direct_get::batch(
            client,
            Stream::State,
            subjects::ALL_OVERDUE,
            from,
            PAGE,
            PAGE_BYTES,
        )
        .await?;
        let Some(last) = page.last() else { break };
        from = last.sequence + 1;
        let slot = |kept: &StoredMessage| Some(subjects::parse_overdue(&kept.subject)?.0);
        slots.extend(page.iter().filter_map(slot).filter(|slot| *slot <= due));
    }
    Ok(slots.into_iter().collect())
}

/// Up to where markers were read, and who reads.
#[derive(Default, Serialize, Deserialize)]
struct Cursor {
    /// Up to this slot all were.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    until: Option<i64>,
    /// Somebody reads those after it, for no longer than this.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    busy_until: Option<Timestamp>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    by: Option<String>,
    #[serde(skip)]
    sequence: u64,
}

impl Cursor {
    async fn read(client: &Client) -> anyhow::Result<Self> {
        let kept = direct_get::last(client, Stream::State, CURSOR).await?;
        // One that cannot be read is as good as none.
        Ok(kept.map_or_else(Self::default, |kept| Self {
            sequence: kept.sequence,
            ..serde_json::from_slice(&kept.payload).unwrap_or_default()
        }))
    }

    fn is_busy(&self, of: &OverdueWatch, now: Timestamp) -> bool {
        let another = self.by.as_ref() != Some(&of.store.instance);
        // A time further ahead is that of another clock.
        let mut left = self.busy_until.iter().map(|until| until.since(now));
        another && left.any(|left| !left.is_zero() && left <= BUSY)
    }

    /// Keeps others away for a while; false if another one was faster.
    async fn claim(&mut self, of: &OverdueWatch) -> anyhow::Result<bool> {
        let now = of.clock.now();
        let mine = self.by.as_ref() == Some(&of.store.instance);
        if mine
            && self
                .busy_until
                .is_some_and(|until| until.since(now) > BUSY / 2)
        {
            return Ok(true);
        }
        self.busy_until = Some(now.after(BUSY));
        self.by = Some(of.store.instance.clone());
        self.store(of).await
    }

    /// Stores it, if it is still the one that was read.
    async fn store(&mut self, of: &OverdueWatch) -> anyhow::Result<bool> {
        let mut headers = HeaderMap::new();
        headers.insert(EXPECTED_LAST, self.sequence.to_string());
        let message = Message {
            subject: CURSOR.to_owned(),
            headers,
            payload: serde_json::to_vec(self)?.into(),
        };
        match batch::store(&of.client, vec![message]).await {
            Ok(sequence) => {
                self.sequence = sequence;
                Ok(true)
            }
            Err(NotStored::Conflict) => Ok(false),
            Err(error) => Err(error).context("the cursor of the watch cannot be stored"),
        }
    }
}

/// A job that waits for a time that has passed.
struct Overdue {
    marker: Marker,
    found: StoredRecord,
    subject: JobSubject,
    /// Since when.
    since: Timestamp,
}

impl Overdue {
    /// What is known of the job of a marker, if it still waits.
    fn of(marker: Marker, found: StoredRecord, now: Timestamp) -> Option<Self> {
        let of_marker = marker.subject();
        let Some(record) = &found.record else {
            // It cannot be read; the marker alone says how the job was.
            let subject = of_marker?;
            return Some(Self {
                since: now,
                marker,
                found,
                subject,
            });
        };
        let waits = matches!(record.state, JobState::Scheduled | JobState::Retrying);
        // If it was put off again meanwhile, it has another marker.
        let since = record.next_at.filter(|at| waits && *at <= now)?;
        let kind = of_marker.as_ref().map(|subject| subject.kind.clone());
        let subject = JobSubject {
            id: marker.id,
            priority: of_marker.map_or(Priority::Normal, |subject| subject.priority),
            run: record.run,
            kind: record.kind.clone().or(kind)?,
        };
        Some(Self {
            marker,
            found,
            subject,
            since,
        })
    }
}

/// What came of it.
enum Fate {
    /// Nothing has to be done any more.
    Done,
    /// It is to be looked at again.
    Waits(Marker, i64),
    Restored(JobId, JobKind),
    Lost(JobId, JobKind),
}

/// Sees to the jobs of markers.
async fn see_to(
    of: &OverdueWatch,
    page: Vec<StoredMessage>,
    named: &mut usize,
) -> anyhow::Result<()> {
    let now = of.clock.now();
    let markers: BTreeMap<_, _> = page
        .into_iter()
        .filter_map(Marker::read)
        .map(|marker| (marker.id, marker))
        .collect();
    // A page has no more than are asked for at a time.
    const { assert!(PAGE <= records::MOST) };
    let mut found = Records::new(&of.client)
        .await?
        .of(markers.keys().copied())
        .await?;
    let overdue: Vec<_> = markers
        .into_values()
        .filter_map(|marker| Overdue::of(marker.clone(), found.remove(&marker.id)?, now))
        .collect();
    let fates: Vec<_> = stream::iter(overdue)
        .map(|job| bring_back(of, job, now))
        .buffer_unordered(ABREAST)
        .collect()
        .await;
    let mut again = Vec::new();
    let (mut restored, mut lost) = (Vec::new(), Vec::new());
    let mut failed = None;
    for fate in fates {
        match fate {
            Ok(Fate::Done) => {}
            Ok(Fate::Waits(marker, slot)) => again.push((marker, slot)),
            Ok(Fate::Restored(id, kind)) => restored.push((id, kind)),
            Ok(Fate::Lost(id, kind)) => lost.push((id, kind)),
            Err(error) => failed = Some(error),
        }
    }
    of.counters.overdue(restored.len(), lost.len());
    tell(
        named,
        &restored,
        "the message of a job that waited was lost: the job is scheduled again",
    );
    tell(
        named,
        &lost,
        "the message of a job that waited was lost, and the job was too large to be kept elsewhere: it goes to the dead letters",
    );
    if let Some(error) = failed {
        return Err(error);
    }
    let stored = of.store.store_markers(again).await;
    stored.context("a marker of a job that waits cannot be stored")
}

/// Says what was done with jobs, and names as many as may still be named.
fn tell(named: &mut usize, jobs: &[(JobId, JobKind)], what: &str) {
    let (first, others) = jobs.split_at(jobs.len().min(*named));
    *named -= first.len();
    for (id, kind) in first {
        warn!(job.id = %id, job.kind = %kind, "{what}");
    }
    if !others.is_empty() {
        warn!(jobs = others.len(), "so it is with more jobs: {what}");
    }
}

/// Brings a job back if no message of it is left.
async fn bring_back(of: &OverdueWatch, job: Overdue, now: Timestamp) -> anyhow::Result<Fate> {
    let Overdue {
        marker,
        found,
        subject,
        since,
    } = job;
    let (id, kind) = (subject.id, subject.kind.clone());
    let earlier = match job_messages::find_message(&of.client, &subject).await? {
        Found::Waits => {
            let wait = now.since(since).clamp(SOONEST, LATEST);
            return Ok(Fate::Waits(marker, slot_after(now.after(wait))));
        }
        Found::Nothing(earlier) => earlier,
    };
    let is_job = |payload: &[u8]| {
        Job::decode(payload).is_ok_and(|job| job.kind == kind && job.id.is_none_or(|its| its == id))
    };
    let bytes = if is_job(&marker.payload) {
        Some((marker.headers, marker.payload))
    } else {
        earlier
            .filter(|kept| is_job(&kept.payload))
            .map(|kept| (kept.headers, kept.payload))
    };
    let is_there = bytes.is_some();
    let (headers, payload) = bytes.unwrap_or_default();
    let mut lease = Lease::without_delivery(subject, Some(headers), payload, Some(&found));
    let mut record = found
        .record
        .clone()
        .unwrap_or_else(|| JobRecord::new(id, Some(kind.clone()), JobState::Scheduled, now));
    record.run = lease.run;
    record.at = now;
    record.consumer = Some(of.store.instance.clone());
    lease.attempt = record.attempt;
    Ok(match of.store.restore(&lease, record, is_there).await {
        Restored::Scheduled => Fate::Restored(id, kind),
        Restored::Dead => Fate::Lost(id, kind),
        Restored::MovedOn => Fate::Done,
        Restored::GaveUp => anyhow::bail!("the lane has ended"),
    })
}
