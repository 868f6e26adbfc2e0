//! The streams and durable consumers of durable jobs, declared in one place.

mod limit;
mod reconcile;

use std::collections::HashMap;
use std::fmt;
use std::time::Duration;

use async_nats::jetstream::consumer::{AckPolicy, pull};
use async_nats::jetstream::stream::{
    Config, DiscardPolicy, Republish, RetentionPolicy, StorageType,
};
use common::{JobKind, KindPattern, Priority, Retention, subjects};

pub(crate) use limit::declared_limit;

/// How long a consumer may hold a delivered job without an ack or an in-progress ack. After this, the
/// server redelivers the job.
pub const ACK_WAIT: Duration = Duration::from_secs(15);

/// How often a message is delivered before the server gives it up. Consumers give a job up long before:
/// this limit is for a message that no consumer ever gets to handle.
const MAX_DELIVER: i64 = 1000;

/// How many messages of one durable consumer may be delivered and not acknowledged at a time. A kind
/// has a durable consumer on each of `JOBS` and `JOBS_LATER`, so it may have twice as many; and three more on
/// `JOBS` if its priorities are heeded.
const MAX_ACK_PENDING: i64 = 65_536;

/// The name of the durable consumer of ticks whose time has come. It is no name of a kind's durable consumer.
pub const TICKS: &str = "~ticks";

/// A stream of durable jobs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Stream {
    /// Jobs that wait for a consumer, and the locks of unique jobs.
    Jobs,
    /// Jobs that wait for their time, and those whose time has come; the same of ticks of recurring
    /// schedules.
    Later,
    /// Records, requests to cancel, dead letters, the markers of the watch for overdue jobs, the settings
    /// of kinds, and recurring schedules.
    State,
    /// The server's advisories about messages that it gave up.
    Advisories,
}

/// The declaration of the streams, with their limits.
#[derive(Clone, Copy, Debug, Default)]
pub struct Topology {
    /// How much the streams may hold.
    pub limits: Limits,
    /// On how many servers of a cluster each stream is stored, and so its durable consumers. `None` for
    /// three if the server is in a cluster that has them, and for one if not; a stream that is on more
    /// servers then stays there.
    pub replicas: Option<usize>,
}

/// How much the streams may hold. A full stream refuses new messages, and keeps all old ones.
///
/// Only the queue has a limit of its own, so that waiting jobs cannot take the room for records and
/// dead letters. The other streams are bounded only by the storage of the account: with a limit of its
/// own, a stream would cost the server a third more for each record, because the server adds up whole
/// batches again and again.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Jobs that wait or run, in bytes. The server enforces this only while the queue is large: see
    /// [`queue_limit`](crate::queue_limit).
    pub jobs_bytes: i64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            jobs_bytes: 2 << 30,
        }
    }
}

impl Stream {
    /// All streams.
    pub const ALL: [Self; 4] = [Self::Jobs, Self::Later, Self::State, Self::Advisories];

    /// Its name on the server.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Jobs => "JOBS",
            Self::Later => "JOBS_LATER",
            Self::State => "JOBS_STATE",
            Self::Advisories => "JOBS_ADVISORIES",
        }
    }
}

impl fmt::Display for Stream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl Topology {
    /// The declared configuration of a stream.
    fn stream(self, stream: Stream) -> Config {
        let fixed: &[&str] = match stream {
            Stream::Jobs => &[subjects::ALL_DURABLE, subjects::ALL_UNIQUE],
            Stream::Later => &[
                subjects::ALL_LATER,
                subjects::ALL_DUE,
                subjects::ALL_NEXT_TICKS,
                subjects::ALL_DUE_TICKS,
            ],
            Stream::State => &[
                subjects::ALL_STATES,
                subjects::ALL_CANCELS,
                subjects::ALL_DEAD,
                subjects::ALL_OVERDUE,
                subjects::ALL_KIND_SETTINGS,
                subjects::ALL_SCHEDULES,
            ],
            Stream::Advisories => &[
                "$JS.EVENT.ADVISORY.CONSUMER.MAX_DELIVERIES.JOBS.*",
                "$JS.EVENT.ADVISORY.CONSUMER.MAX_DELIVERIES.JOBS_LATER.*",
                "$JS.EVENT.ADVISORY.CONSUMER.MSG_TERMINATED.JOBS.*",
                "$JS.EVENT.ADVISORY.CONSUMER.MSG_TERMINATED.JOBS_LATER.*",
            ],
        };
        let ended = (stream == Stream::State).then(|| Retention::all().map(subjects::all_ended));
        let fixed = fixed.iter().map(|&subject| subject.to_owned());
        let max_bytes = match stream {
            Stream::Jobs => self.limits.jobs_bytes,
            Stream::Later | Stream::State => -1,
            Stream::Advisories => 64 << 20,
        };
        Config {
            name: stream.name().to_owned(),
            subjects: fixed.chain(ended.into_iter().flatten()).collect(),
            // There are so few advisories that each one may be removed when it is acknowledged.
            retention: if stream == Stream::Advisories {
                RetentionPolicy::WorkQueue
            } else {
                RetentionPolicy::Limits
            },
            storage: StorageType::File,
            num_replicas: self.replicas.unwrap_or(1),
            max_bytes,
            max_messages: -1,
            max_messages_per_subject: if stream == Stream::Advisories { -1 } else { 1 },
            // A stream with schedules must not refuse new messages, so with a limit it would have to
            // drop old ones. Without a limit it does neither.
            discard: if stream == Stream::Later {
                DiscardPolicy::Old
            } else {
                DiscardPolicy::New
            },
            // The stream refuses a job that it holds, whichever client submits it again.
            discard_new_per_subject: stream == Stream::Jobs,
            max_consumers: -1,
            max_message_size: -1,
            allow_direct: true,
            allow_atomic_publish: stream != Stream::Advisories,
            allow_message_schedules: stream == Stream::Later,
            allow_message_ttl: stream == Stream::State,
            republish: (stream == Stream::State).then(|| Republish {
                source: subjects::ALL_RECORDS.to_owned(),
                destination: "jobs.events.{{wildcard(2)}}".to_owned(),
                headers_only: false,
            }),
            metadata: self.metadata(stream),
            ..Config::default()
        }
    }

    fn metadata(self, stream: Stream) -> HashMap<String, String> {
        let mut metadata = reconcile::revision();
        if stream == Stream::Jobs {
            metadata.extend(limit::metadata(self.limits.jobs_bytes));
        }
        metadata
    }
}

/// The declared configuration of a durable pull consumer.
fn pull_consumer(name: &str, filter: &str) -> pull::Config {
    pull::Config {
        durable_name: Some(name.to_owned()),
        ack_policy: AckPolicy::Explicit,
        ack_wait: ACK_WAIT,
        max_deliver: MAX_DELIVER,
        max_ack_pending: MAX_ACK_PENDING,
        filter_subject: filter.to_owned(),
        max_waiting: 4096,
        metadata: reconcile::revision(),
        ..pull::Config::default()
    }
}

/// The name of the durable consumer of a kind: `=` replaces the dots, which a name must not have.
#[must_use]
pub fn consumer_name(kind: &JobKind) -> String {
    kind.to_token()
}

/// The name of the durable consumer on `JOBS` for one priority of a kind whose priorities are heeded.
#[must_use]
pub fn consumer_of_priority(kind: &JobKind, priority: Priority) -> String {
    format!("{}{OF_PRIORITY}{priority}", consumer_name(kind))
}

/// What separates kind and priority in the name of a durable consumer; a kind cannot have it.
const OF_PRIORITY: char = '~';

/// The kind that a durable consumer of this name serves, and the priority if it serves only one: the inverse
/// of [`consumer_name`] and [`consumer_of_priority`].
#[must_use]
pub fn parse_consumer(name: &str) -> Option<(JobKind, Option<Priority>)> {
    let Some((kind, priority)) = name.split_once(OF_PRIORITY) else {
        return Some((JobKind::from_token(name)?, None));
    };
    Some((JobKind::from_token(kind)?, Some(priority.parse().ok()?)))
}

/// The subjects of all queued jobs of a kind in a stream, with wildcards.
#[must_use]
pub fn jobs_of_kind(stream: Stream, kind: &JobKind) -> String {
    let first = queued_in(stream);
    format!("{first}.*.*.*.{kind}")
}

/// The subjects of no job of a kind, for a durable consumer that delivers no more: a filter cannot be empty,
/// and has to be one that the stream could hold.
#[must_use]
pub fn no_jobs_of_kind(kind: &JobKind) -> String {
    format!("{}.*.none.*.{kind}", subjects::DURABLE)
}

/// The subjects of all queued jobs of the kinds that match in a stream, with wildcards.
#[must_use]
pub fn jobs_of_kinds(stream: Stream, kinds: &KindPattern) -> String {
    let first = queued_in(stream);
    format!("{first}.*.*.*.{kinds}")
}

/// The first tokens of the subjects of queued jobs in a stream.
fn queued_in(stream: Stream) -> &'static str {
    if stream == Stream::Later {
        subjects::DUE
    } else {
        subjects::DURABLE
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_of_a_durable_consumer_is_read_back_and_no_other_is_taken_for_one() {
        let kind: JobKind = "mail.send".parse().unwrap();
        let names = Priority::ALL.map(|priority| consumer_of_priority(&kind, priority));
        assert_eq!(
            names,
            ["mail=send~high", "mail=send~normal", "mail=send~low"]
        );
        assert_eq!(parse_consumer("mail=send"), Some((kind.clone(), None)));
        for (name, priority) in names.iter().zip(Priority::ALL) {
            assert_eq!(parse_consumer(name), Some((kind.clone(), Some(priority))));
        }
        for name in ["", "~", "~high", "mail=send~", "a~b", "a~high~low", "a.b"] {
            assert_eq!(parse_consumer(name), None, "{name}");
        }
    }
}
