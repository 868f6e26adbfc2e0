//! Finds overdue jobs and restores them: waiting jobs whose due time has passed and whose message
//! was lost, so that nothing would end the wait.
//!
//! A consumer that puts a job off stores a marker in the same batch as the record, on
//! `jobs.overdue.<slot>.<id>`. The slot is the quarter of a minute after the job's due time and a
//! grace. When the slot has begun, any consumer reads the markers in it, looks up the records of
//! their jobs, and then purges the markers. Most jobs no longer wait. If a record says that its job
//! still waits, the watch looks for a message of the job. If there is none, the watch schedules the
//! job again, with the bytes in the marker. If the job was too large for a marker, and no other
//! message has its bytes, the job becomes a dead letter.
//!
//! There is no leader. A cursor in the stream says up to which slot all markers were read, and
//! which consumer reads at the moment, so that the consumers of a fleet do not repeat each other's
//! work. The cursor is not a lock. Correctness depends on the record of the job alone: it is
//! replaced only if it has not changed since it was read.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use async_nats::HeaderMap;
use bootstrap::{Beat, NatsClient};
use common::{
    JobId, JobKind, JobMessage, JobRecord, JobState, JobSubject, Priority, Timestamp, subjects,
};
use futures_util::{StreamExt as _, stream};
use jetstream::headers::{EXPECTED_LAST, scheduled_time};
use jetstream::job_messages::{self, Found};
use jetstream::records::{self, Records, StoredRecord};
use jetstream::{
    Message, NotStored, ServerClock, StoredMessage, Stream, batch, direct_get, is_clustered, manage,
};
use serde::{Deserialize, Serialize};
use tokio::time::Instant;
use tracing::{debug, info, warn};

use super::failures::Failures;
use crate::counters::Counters;
use crate::decide;
use crate::lease::Lease;
use crate::phases::Phases;
use crate::store::{JobStore, Marker, Restored, SCHEDULED, slot_after, slot_of};

/// The average time between two rounds. With slot and grace, a lost job is found within 35 seconds
/// of its due time.
const PERIOD: Duration = Duration::from_secs(12);

/// A job whose message exists is checked again after as long a time as it is overdue, but not
/// sooner than this.
const SOONEST: Duration = Duration::from_secs(30);

/// It is checked again after this time at the latest.
const LATEST: Duration = Duration::from_hours(1);

/// A schedule that is still there after this time was missed by the server.
const MISSED: Duration = Duration::from_secs(5);

/// How many markers are read at a time.
const PAGE: usize = 500;

/// The most bytes of markers that are read at a time.
const PAGE_BYTES: usize = 2 << 20;

/// How many jobs are checked at the same time.
const ABREAST: usize = 32;

/// How long a round may take. Each of its requests has its own time-out.
const LONGEST_ROUND: Duration = Duration::from_mins(10);

/// For how long a consumer that reads markers keeps other consumers from reading.
const BUSY: Duration = Duration::from_secs(30);

/// After this many slots without a marker, the cursor is stored nevertheless: ten minutes.
const FAR: i64 = 40;

/// Over a gap of more slots than this, slots are not read one by one: a day.
const TOO_FAR: i64 = 5760;

/// The server's clock has jumped if it is off by more than this.
const JUMP: Duration = Duration::from_secs(5);

/// The most jobs that a round names in the log.
const NAMED: usize = 10;

/// The subject of the cursor.
const CURSOR: &str = subjects::OVERDUE_CURSOR;

pub(crate) struct OverdueWatch {
    pub(crate) client: NatsClient,
    pub(crate) store: Arc<JobStore>,
    pub(crate) clock: Arc<ServerClock>,
    pub(crate) counters: Arc<Counters>,
    pub(crate) phases: Phases,
}

impl OverdueWatch {
    /// Watches until the consumer leaves.
    pub(crate) async fn run(self, mut life: Beat) {
        let mut watch = Watch::default();
        let mut failures = Failures::default();
        loop {
            // Jitter, so that consumers that were started together do not look at the same time.
            let wait = PERIOD.mul_f64(0.75 + 0.5 * rand::random::<f64>());
            tokio::select! {
                () = life.during(wait, tokio::time::sleep(wait)) => {}
                () = self.phases.leaving() => return life.done(),
            }
            let looked = life.during(LONGEST_ROUND, watch.round(&self)).await;
            failures.note("cannot look for overdue jobs", looked);
        }
    }
}

#[derive(Default)]
struct Watch {
    /// This watch has found no markers left up to this slot, whatever the cursor says.
    checked: Option<i64>,
    /// When the server's clock was read, and its time then.
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
            // A watch that has just started relies on the cursor. After a jump of the clock, the
            // cursor is not reliable.
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
            // The cursor is ahead if the clock was put back.
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

    /// Handles all markers of a slot; false if another consumer does so, or if this consumer
    /// leaves.
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
            let client = &of.client;
            let page =
                direct_get::batch_to_the_end(client, stream, &filter, from, PAGE, PAGE_BYTES)
                    .await?;
            let Some(last) = page.last().map(|kept| kept.sequence) else {
                return Ok(true);
            };
            if of.phases.is_leaving() || !cursor.claim(of).await? {
                return Ok(false);
            }
            *claimed = true;
            handle_page(of, page, named).await?;
            // One purge for the whole page. It spares markers that came meanwhile.
            manage::purge_below(&of.client, stream, &filter, last + 1).await?;
            from = last + 1;
        }
    }
}

/// The slots that have begun and have markers. Reads the markers of all waiting jobs to find these.
async fn begun_slots(client: &NatsClient, due: i64) -> anyhow::Result<Vec<i64>> {
    let mut slots = BTreeSet::new();
    let mut from = 1;
    loop {
        let page = direct_get::batch_to_the_end(
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

/// Up to which slot markers were read, and which consumer reads now.
#[derive(Default, Serialize, Deserialize)]
struct Cursor {
    /// All markers up to this slot were read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    until: Option<i64>,
    /// The consumer `by` reads the slots after `until`, for no longer than up to this time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    busy_until: Option<Timestamp>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    by: Option<String>,
    #[serde(skip)]
    sequence: u64,
}

impl Cursor {
    async fn read(client: &NatsClient) -> anyhow::Result<Self> {
        let kept = direct_get::last(client, Stream::State, CURSOR).await?;
        // A cursor that cannot be read counts as none.
        Ok(kept.map_or_else(Self::default, |kept| Self {
            sequence: kept.sequence,
            ..serde_json::from_slice(&kept.payload).unwrap_or_default()
        }))
    }

    fn is_busy(&self, of: &OverdueWatch, now: Timestamp) -> bool {
        let another = self.by.as_ref() != Some(&of.store.instance);
        // A time further ahead is from another clock.
        let mut left = self.busy_until.iter().map(|until| until.since(now));
        another && left.any(|left| !left.is_zero() && left <= BUSY)
    }

    /// Keeps other consumers from reading for a while; false if another consumer has stored the
    /// cursor first.
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

    /// Stores the cursor; false if it has changed since it was read.
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
            Err(error) => Err(error).context("cannot store the cursor of the overdue watch"),
        }
    }
}

/// A waiting job whose due time has passed.
struct Overdue {
    marker: Marker,
    found: StoredRecord,
    subject: JobSubject,
    /// The due time; the current time if the record cannot be read.
    since: Timestamp,
}

impl Overdue {
    /// The job of a marker; `None` if it is not overdue.
    fn of(marker: Marker, found: StoredRecord, now: Timestamp) -> Option<Self> {
        let of_marker = marker.subject();
        let Some(record) = &found.record else {
            // The record cannot be read, so only the marker describes the job.
            let subject = of_marker?;
            return Some(Self {
                since: now,
                marker,
                found,
                subject,
            });
        };
        let waits = matches!(record.state, JobState::Scheduled | JobState::Retrying);
        // A job that was put off again has another marker.
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

/// The result for one overdue job.
enum Fate {
    /// Nothing is left to do.
    Done,
    /// The job has a message. The marker is stored again, in this slot.
    Waits(Marker, i64),
    Restored(JobId, JobKind),
    Lost(JobId, JobKind),
}

/// Handles the jobs of one page of markers.
async fn handle_page(
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
    // The records of a page are looked up in one request.
    const { assert!(PAGE <= records::MOST) };
    let mut found = Records::new(&of.client)
        .await?
        .of(markers.keys().copied())
        .await?;
    if is_clustered(&of.client) {
        // A marker whose job does not wait is removed for good, so an older record must not say so. A job
        // that has ended does not wait again, unless its dead letter is replayed.
        let doubtful = markers.keys().copied().filter(|id| {
            let record = found.get(id).and_then(|found| found.record.as_ref());
            !record.is_some_and(decide::is_over)
        });
        let doubtful: Vec<_> = doubtful.collect();
        records::confirm(&of.client, &mut found, doubtful).await?;
    }
    let overdue: Vec<_> = markers
        .into_values()
        .filter_map(|marker| Overdue::of(marker.clone(), found.remove(&marker.id)?, now))
        .collect();
    let fates: Vec<_> = stream::iter(overdue)
        .map(|job| restore(of, job, now))
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
    log_jobs(
        named,
        &restored,
        "the message of a waiting job was lost: the job is scheduled again",
    );
    log_jobs(
        named,
        &lost,
        "the message of a waiting job was lost, and the job was too large for its marker: the job becomes a dead letter",
    );
    if let Some(error) = failed {
        return Err(error);
    }
    let stored = of.store.store_markers(again).await;
    stored.context("cannot store the marker of a waiting job")
}

/// Logs what was done with jobs. Names jobs up to the number that is left in `named`, and counts
/// the others.
fn log_jobs(named: &mut usize, jobs: &[(JobId, JobKind)], what: &str) {
    let (first, others) = jobs.split_at(jobs.len().min(*named));
    *named -= first.len();
    for (id, kind) in first {
        warn!(job.id = %id, job.kind = %kind, "{what}");
    }
    if !others.is_empty() {
        warn!(
            jobs = others.len(),
            "further jobs, which are not named: {what}"
        );
    }
}

/// Whether the server should have published a scheduled message long ago. In a cluster, the server (2.15.1)
/// sometimes forgets schedules that are due while the leader or the replicas of their stream change. They
/// stay in the stream.
fn is_missed(schedule: &StoredMessage, now: Timestamp) -> bool {
    scheduled_time(&schedule.headers).is_some_and(|due| now.since(due) > MISSED)
}

/// Whether a schedule is for a later time than now, although its job is overdue: the job was to be run now, and
/// the consumer that had its record say so was lost before it replaced the schedule.
fn is_later(schedule: &StoredMessage, now: Timestamp) -> bool {
    scheduled_time(&schedule.headers).is_some_and(|due| due > now)
}

/// Stores the schedule of an overdue job again, for a second from now.
async fn schedule_again(of: &OverdueWatch, schedule: &StoredMessage, now: Timestamp) {
    let subject = schedule.subject.as_str();
    match of
        .store
        .schedule_again(schedule, now.after(SCHEDULED))
        .await
    {
        Ok(true) => info!(subject, "the schedule of an overdue job is stored again"),
        Ok(false) => {}
        // The watch comes back to it.
        Err(error) => debug!(subject, "cannot store a schedule again: {error}"),
    }
}

/// Restores a job if none of its messages is left.
async fn restore(of: &OverdueWatch, job: Overdue, now: Timestamp) -> anyhow::Result<Fate> {
    let Overdue {
        marker,
        found,
        subject,
        since,
    } = job;
    let (id, kind) = (subject.id, subject.kind.clone());
    let earlier = match job_messages::find_message(&of.client, &subject).await? {
        Found::Waits(schedule) => {
            if let Some(schedule) = schedule
                && (is_later(&schedule, now)
                    || is_clustered(&of.client) && is_missed(&schedule, now))
            {
                schedule_again(of, &schedule, now).await;
            }
            let wait = now.since(since).clamp(SOONEST, LATEST);
            return Ok(Fate::Waits(marker, slot_after(now.after(wait))));
        }
        Found::Nothing(earlier) => earlier,
    };
    let is_job = |payload: &[u8]| {
        JobMessage::decode(payload)
            .is_ok_and(|job| job.kind == kind && job.id.is_none_or(|its| its == id))
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
