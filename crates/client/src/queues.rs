//! Which kinds have waiting jobs, and how many.
//!
//! A kind that a consumer has served has durable consumers, which count its jobs. Jobs of other kinds
//! are found by their subjects: all of them if the stream holds few jobs, otherwise only among the
//! oldest jobs.

use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use common::{JobKind, JobSubject, KindSetting, Priority, Timestamp, subjects};
use connection::NatsClient;
use futures_util::future::join_all;
use jetstream::manage::{self, KindConsumer};
use jetstream::{
    ApiError, StoredMessage, Stream, direct_get, is_served, jobs_of_kind, kind_settings,
};

/// For how many queues two more things are looked up: when the oldest waiting job was stored, and
/// whether a consumer serves the kind.
const MOST_LOOKED_UP: usize = 50;

/// How long to wait for an answer of the consumers that serve a kind. If there are none, the server
/// reports no responders at once.
const SERVED: Duration = Duration::from_secs(1);

/// The server is asked for the subjects of all jobs, about 100 bytes each, only if the stream holds at
/// most this many more jobs than the oldest that were read.
const FEW: u64 = 10_000;

/// How many of the oldest jobs are read.
const OLDEST: usize = 200;

/// How many bytes of the oldest jobs are read.
const MOST_BYTES: usize = 256 * 1024;

/// The jobs that wait or run, by kind.
///
/// ```no_run
/// use client::{Client, Queue, Queues};
///
/// # async fn example(jobs: Client) -> anyhow::Result<()> {
/// let Queues { queues, waiting, .. } = jobs.queues(10).await?;
/// println!("{waiting} jobs wait");
/// for Queue { kind, waiting, running, .. } in queues {
///     println!("{kind}: {waiting} wait, {running} run");
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug, Default)]
pub struct Queues {
    /// The kinds, in the order of their number of jobs, the largest first.
    pub queues: Vec<Queue>,
    /// Jobs of all kinds that wait for a consumer, including kinds that are not in `queues`.
    ///
    /// If a stream holds more than 10,000 jobs, jobs that have just ended and are not removed yet are
    /// counted too: the number may be too large, but not too small.
    pub waiting: u64,
    /// The setting of all kinds, if all kinds are paused; see [`kinds`](crate::kinds).
    pub all_paused: Option<KindSetting>,
}

/// The jobs of one kind that wait or run.
#[derive(Clone, Debug)]
pub struct Queue {
    /// The kind.
    pub kind: JobKind,
    /// Jobs that wait for a consumer, or for the end of a pause.
    pub waiting: u64,
    /// Whether the priorities of the kind are heeded.
    pub priorities: bool,
    /// The waiting jobs that are of high priority, without due retries and delayed jobs; 0 if the priorities
    /// of the kind are not heeded.
    pub waiting_high: u64,
    /// Those of low priority, likewise.
    pub waiting_low: u64,
    /// Whether more jobs may wait than `waiting` says: no consumer has ever served the kind, and the
    /// stream holds more than 10,000 jobs, so that only the oldest were read.
    pub at_least: bool,
    /// Jobs that consumers have received and not acknowledged yet.
    pub running: u64,
    /// The running jobs that were delivered more than once.
    pub redelivered: u64,
    /// When the oldest waiting job was stored, if it was looked up.
    pub oldest: Option<Timestamp>,
    /// Whether a consumer serves the kind now, if it was looked up.
    pub served: Option<bool>,
    /// The setting of the kind, if the kind is paused on its own; see [`kinds`](crate::kinds). If
    /// [all kinds](Queues::all_paused) are paused, it is paused as well.
    pub paused: Option<KindSetting>,
}

/// A queue that is being built, and where its waiting jobs are: their subjects in a stream, and the
/// sequence from which on they wait.
struct Draft {
    queue: Queue,
    ahead: Vec<(Stream, String, u64)>,
}

impl Draft {
    fn new(kind: JobKind) -> Self {
        Self {
            queue: Queue {
                kind,
                waiting: 0,
                priorities: false,
                waiting_high: 0,
                waiting_low: 0,
                at_least: false,
                running: 0,
                redelivered: 0,
                oldest: None,
                served: None,
                paused: None,
            },
            ahead: Vec::new(),
        }
    }
}

/// Counts the jobs that wait or run, by kind. Returns at most `most` kinds, those with the most jobs
/// first. A paused kind is among them also if it has none.
///
/// # Errors
/// When the server does not answer in time.
pub async fn queues(client: &NatsClient, most: usize) -> anyhow::Result<Queues> {
    let mut drafts: BTreeMap<JobKind, Draft> = BTreeMap::new();
    let mut waiting = 0;
    for stream in [Stream::Jobs, Stream::Later] {
        // Read before the durable consumers, so that no job is missed when a consumer starts to serve
        // its kind between the two reads.
        let held = held(client, stream).await?;
        let consumers = manage::consumers_of_kinds(client, stream).await?;
        let (mut pending, mut running) = (0, 0);
        for KindConsumer {
            kind,
            priority,
            info: consumer,
            ..
        } in &consumers
        {
            let draft = drafts
                .entry(kind.clone())
                .or_insert_with(|| Draft::new(kind.clone()));
            draft.queue.priorities |= priority.is_some();
            match priority {
                Some(Priority::High) => draft.queue.waiting_high = consumer.num_pending,
                Some(Priority::Low) => draft.queue.waiting_low = consumer.num_pending,
                Some(Priority::Normal) | None => {}
            }
            pending += consumer.num_pending;
            running += consumer.num_ack_pending as u64;
            draft.queue.waiting += consumer.num_pending;
            draft.queue.running += consumer.num_ack_pending as u64;
            draft.queue.redelivered += consumer.num_redelivered as u64;
            if consumer.num_pending > 0 {
                let filter = consumer.config.filter_subject.clone();
                let from = consumer.delivered.stream_sequence + 1;
                draft.ahead.push((stream, filter, from));
            }
        }
        for (kind, count) in held.kinds {
            if consumers.iter().any(|consumer| consumer.kind == kind) {
                continue;
            }
            let filter = jobs_of_kind(stream, &kind);
            let draft = drafts
                .entry(kind.clone())
                .or_insert_with(|| Draft::new(kind));
            pending += count;
            draft.queue.waiting += count;
            draft.queue.at_least |= !held.all;
            draft.ahead.push((stream, filter, 1));
        }
        waiting += if held.all {
            pending
        } else {
            pending.max(held.jobs.saturating_sub(running))
        };
    }
    let now = Timestamp::now();
    let settings = kind_settings::all(client).await?;
    for (kind, setting) in settings.kinds {
        if setting.is_paused(now) {
            let draft = drafts.entry(kind.clone());
            let draft = draft.or_insert_with(|| Draft::new(kind));
            draft.queue.paused = Some(setting);
        }
    }
    let mut drafts: Vec<_> = drafts.into_values().collect();
    drafts.sort_by_key(|draft| Reverse((draft.queue.waiting, draft.queue.running)));
    drafts.truncate(most);
    let looked_up = drafts
        .iter_mut()
        .filter(|draft| draft.queue.waiting > 0)
        .take(MOST_LOOKED_UP)
        .map(|draft| look_up(client, draft));
    for looked_up in join_all(looked_up).await {
        looked_up?;
    }
    Ok(Queues {
        queues: drafts.into_iter().map(|draft| draft.queue).collect(),
        waiting,
        all_paused: settings.all.filter(|all| all.is_paused(now)),
    })
}

/// Looks up when the oldest waiting job of a queue was stored, and whether a consumer serves its kind.
async fn look_up(client: &NatsClient, Draft { queue, ahead }: &mut Draft) -> Result<(), ApiError> {
    for (stream, filter, from) in ahead.drain(..) {
        let first = direct_get::next(client, stream, &filter, from).await?;
        let first = first.map(|kept| kept.at);
        queue.oldest = match (queue.oldest, first) {
            (Some(one), Some(other)) => Some(one.min(other)),
            (one, other) => one.or(other),
        };
    }
    // Without an answer in time, this is not known.
    queue.served = is_served(client, &queue.kind, SERVED).await.unwrap_or(None);
    Ok(())
}

/// The jobs in a stream, whether they wait, run or have just ended.
#[derive(Default)]
struct Held {
    /// How many jobs there are.
    jobs: u64,
    /// How many jobs of each kind were counted.
    kinds: HashMap<JobKind, u64>,
    /// Whether all jobs were counted.
    all: bool,
}

async fn held(client: &NatsClient, stream: Stream) -> anyhow::Result<Held> {
    let filter = match stream {
        Stream::Later => subjects::ALL_DUE,
        _ => ">",
    };
    let oldest = direct_get::batch(client, stream, filter, 1, OLDEST, MOST_BYTES).await;
    let oldest = manage::existing(oldest)?.unwrap_or_default();
    let left = oldest.last().map_or(0, StoredMessage::pending_after);
    let mut held = Held {
        jobs: left.saturating_add(oldest.len() as u64),
        all: left <= FEW,
        ..Held::default()
    };
    let mut count = |subject: &str, messages: u64| {
        if let Some(kind) = JobSubject::kind_in(subject) {
            *held.kinds.entry(kind).or_default() += messages;
        }
    };
    if left == 0 || left > FEW {
        for job in &oldest {
            count(&job.subject, 1);
        }
        if left > FEW && stream == Stream::Jobs {
            let locks = manage::count_subjects(client, stream, subjects::ALL_UNIQUE).await?;
            held.jobs = held.jobs.saturating_sub(locks);
        }
        return Ok(held);
    }
    for (subject, messages) in manage::subjects(client, stream, filter).await? {
        count(&subject, messages);
    }
    Ok(held)
}
