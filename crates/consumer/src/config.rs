use std::num::NonZeroU32;
use std::path::PathBuf;
use std::time::Duration;

use bootstrap::Options;
use common::KindPattern;

use crate::declared::Size;

/// Run jobs: take them from `jobs.create` in the queue group `workers`, hand each to the handler
/// of its kind, and answer with the outcome.
#[derive(Clone, Debug, clap::Parser)]
pub struct Config {
    /// The most jobs that run at a time [default: twice the number of cores]
    #[arg(long, value_name = "JOBS", value_parser = concurrency)]
    pub concurrency: Option<NonZeroU32>,

    /// The most jobs that wait here; when as many do, the consumer leaves the queue group until half are left
    #[arg(long, value_name = "JOBS", default_value = "1024")]
    pub inbox: NonZeroU32,

    /// The longest run of one attempt, unless the job or its handler says otherwise
    #[arg(long, value_name = "DURATION", default_value = "30s", value_parser = timeout)]
    pub timeout: Duration,

    /// Serve only these kinds, separated by commas; `*` stands for one token, a `>` at the end for the rest [default: all that have a handler]
    #[arg(long, value_name = "KINDS", value_delimiter = ',')]
    pub kinds: Vec<KindPattern>,

    /// Whether jobs of the durable lane are run too: if the server has JetStream (auto), never
    /// (off), or always, and without it the consumer does not start (required)
    #[arg(long, value_name = "WHETHER", default_value = "auto")]
    pub durable: Durable,

    /// Serve the durable lane also on a server that may lose what it has confirmed, with a warning
    #[arg(long, value_parser = clap::builder::BoolishValueParser::new())]
    pub accept_unsafe_server: bool,

    /// How long the records of durable jobs that have ended are kept; those of dead letters are kept until these are replayed or discarded
    #[arg(long, value_name = "DURATION", default_value = "1h", value_parser = keep)]
    pub keep_outcomes: Duration,

    /// The largest payload that the record of a durable job keeps when the job has ended, so that it can be looked at; 0 keeps none, the job's options are kept all the same
    #[arg(long, value_name = "SIZE", default_value = "4KiB", value_parser = keep_payload)]
    pub keep_payload: usize,

    /// TOML file that declares handlers: programs, web services, NATS services
    #[arg(long, value_name = "FILE")]
    pub handlers: Option<PathBuf>,

    /// What every service can be told.
    #[command(flatten)]
    pub options: Options,
}

/// Whether the durable lane is served.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Durable {
    /// If the server has JetStream.
    Auto,
    /// No.
    Off,
    /// Yes; without JetStream it is an error.
    Required,
}

impl Config {
    /// The most jobs that run at a time.
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

/// Each slot is a task that lives as long as the consumer.
const MAX_CONCURRENCY: u32 = 100_000;

fn concurrency(text: &str) -> Result<NonZeroU32, String> {
    text.parse()
        .ok()
        .filter(|number: &NonZeroU32| number.get() <= MAX_CONCURRENCY)
        .ok_or_else(|| format!("a number from 1 to {MAX_CONCURRENCY}"))
}

/// The server takes whole seconds.
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
