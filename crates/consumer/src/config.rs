use std::num::NonZeroU32;
use std::path::PathBuf;
use std::time::Duration;

use bootstrap::Options;
use common::KindPattern;

use crate::declared::Size;
use crate::keep::Keep;

/// Run jobs: take them from `jobs.create` in the queue group `workers`, call the handler of their
/// kind, and reply with the outcome.
///
/// ```
/// use clap::Parser as _;
/// use consumer::{Config, Durable, Replicas};
///
/// let config = Config::parse_from(["consumer", "--concurrency=4", "--durable=required"]);
/// assert_eq!(config.concurrency(), 4);
/// assert_eq!(config.replicas, Replicas::Auto);
/// assert_eq!(config.durable, Durable::Required);
/// ```
#[derive(Clone, Debug, clap::Parser)]
pub struct Config {
    /// Largest number of jobs that run at a time [default: twice the number of cores]
    #[arg(long, value_name = "JOBS", value_parser = concurrency)]
    pub concurrency: Option<NonZeroU32>,

    /// Largest number of core jobs that wait here; when it is reached, the consumer leaves the
    /// queue group until half of them are left
    #[arg(long, value_name = "JOBS", default_value = "1024")]
    pub inbox: NonZeroU32,

    /// Time-out of one attempt, unless the job or its handler sets one
    #[arg(long, value_name = "DURATION", default_value = "30s", value_parser = timeout)]
    pub timeout: Duration,

    /// Serve only these kinds, separated by commas; `*` stands for one token, a `>` at the end for
    /// the rest [default: all that have a handler]
    #[arg(long, value_name = "KINDS", value_delimiter = ',')]
    pub kinds: Vec<KindPattern>,

    /// Whether durable jobs are run too: if the server has JetStream (auto), never (off), or always
    /// (required: the consumer does not start without JetStream)
    #[arg(long, value_name = "WHETHER", default_value = "auto")]
    pub durable: Durable,

    /// Run durable jobs, with a warning, even if the server may lose what it has confirmed
    #[arg(long, value_parser = clap::builder::BoolishValueParser::new())]
    pub accept_unsafe_server: bool,

    /// On how many servers of a NATS cluster durable jobs are stored; auto: on 3 if the cluster has
    /// them, else on 1, and on no fewer than now
    #[arg(long, value_name = "SERVERS", default_value = "auto")]
    pub replicas: Replicas,

    /// Which durable jobs leave a record when they have ended, unless their handler says so; without a
    /// record, a job that succeeded has no result, and its id is forgotten
    #[arg(long, value_name = "WHICH", default_value = "all")]
    pub keep: Keep,

    /// How long records of durable jobs that have ended are kept, rounded up to a power of two in
    /// seconds; records of dead letters are kept until they are replayed or discarded
    #[arg(long, value_name = "DURATION", default_value = "1h", value_parser = keep)]
    pub keep_outcomes: Duration,

    /// Largest payload that the record of a durable job keeps after the job has ended; 0 keeps no
    /// payload, and the options of the job are always kept
    #[arg(long, value_name = "SIZE", default_value = "4KiB", value_parser = keep_payload)]
    pub keep_payload: usize,

    /// TOML file that declares handlers: programs, web services, NATS services
    #[arg(long, value_name = "FILE")]
    pub handlers: Option<PathBuf>,

    /// The options of every service.
    #[command(flatten)]
    pub options: Options,
}

/// Whether durable jobs are run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Durable {
    /// Yes, if the server has JetStream.
    Auto,
    /// No.
    Off,
    /// Yes; without JetStream the consumer does not start.
    Required,
}

/// On how many servers of a NATS cluster durable jobs are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Replicas {
    /// On three if the cluster has them, else on one; on no fewer than now.
    Auto,
    /// On one.
    #[value(name = "1")]
    One,
    /// On three.
    #[value(name = "3")]
    Three,
    /// On five.
    #[value(name = "5")]
    Five,
}

impl Replicas {
    /// The number; `None` for [`Replicas::Auto`].
    pub(crate) const fn number(self) -> Option<usize> {
        match self {
            Self::Auto => None,
            Self::One => Some(1),
            Self::Three => Some(3),
            Self::Five => Some(5),
        }
    }
}

impl Config {
    /// Largest number of jobs that run at a time.
    #[must_use]
    pub fn concurrency(&self) -> u32 {
        self.concurrency.map_or_else(
            || {
                let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
                u32::try_from(2 * cores).unwrap_or(u32::MAX)
            },
            NonZeroU32::get,
        )
    }
}

/// A bound on the number of slots, each of which is a task.
const MAX_CONCURRENCY: u32 = 100_000;

fn concurrency(text: &str) -> Result<NonZeroU32, String> {
    text.parse()
        .ok()
        .filter(|number: &NonZeroU32| number.get() <= MAX_CONCURRENCY)
        .ok_or_else(|| format!("a number from 1 to {MAX_CONCURRENCY}"))
}

/// Rounded down to whole seconds: the server takes no fractions.
fn keep(text: &str) -> Result<Duration, String> {
    let keep = timeout(text)?;
    if keep < Duration::from_secs(1) {
        return Err("at least 1s".to_owned());
    }
    Ok(Duration::from_secs(keep.as_secs()))
}

fn keep_payload(text: &str) -> Result<usize, String> {
    if text == "0" {
        return Ok(0);
    }
    text.parse().map(Size::get)
}

fn timeout(text: &str) -> Result<Duration, String> {
    text.parse::<common::WireDuration>()
        .map(common::WireDuration::get)
        .map_err(|error| error.to_string())
}
