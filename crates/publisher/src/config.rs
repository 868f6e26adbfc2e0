use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use clap::Parser;
use common::{JobKind, MaxAttempts, Priority, WireDuration, check_portable};
use serde_json::value::RawValue;

/// Submits jobs to the consumers: one by one, at a rate, or in bulk from newline-delimited JSON.
///
/// By default it generates one job a second, without end, and follows each until a consumer has
/// answered with its outcome.
#[derive(Clone, Debug, Parser)]
#[command(next_help_heading = "Generated jobs")]
pub struct Config {
    /// Time between two jobs; 0s generates them as fast as they are taken
    #[arg(
        long, value_name = "DURATION", default_value = "1s", conflicts_with = "rate",
        value_parser = humantime::parse_duration
    )]
    pub(crate) interval: Duration,

    /// Jobs a second, in place of an interval
    #[arg(long, value_name = "NUMBER", value_parser = rate)]
    pub(crate) rate: Option<f64>,

    /// How many jobs to generate [default: no end]
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) count: Option<u64>,

    /// Kind of the jobs; it decides which handler runs them
    #[arg(long, value_name = "KIND", default_value = "echo")]
    pub(crate) kind: JobKind,

    /// Payload of the jobs: JSON, or @ and the path of a file that holds it
    #[arg(
        long,
        value_name = "JSON|@FILE",
        default_value = r#"{"message":"hello"}"#
    )]
    pub(crate) payload: Payload,

    /// Longest run of one attempt [default: the handler's]
    #[arg(long, value_name = "DURATION")]
    pub(crate) timeout: Option<WireDuration>,

    /// How long after its creation a job may still start [default: no end]
    #[arg(long, value_name = "DURATION")]
    pub(crate) deadline: Option<WireDuration>,

    /// Delivery durable: high, normal or low; it is stored with the job and has no effect yet
    #[arg(long, value_name = "PRIORITY", default_value = "normal")]
    pub(crate) priority: Priority,

    /// Delivery durable: how long after its creation a job may start at the earliest [default: at
    /// once]
    #[arg(long, value_name = "DURATION")]
    pub(crate) delay: Option<WireDuration>,

    /// Read jobs from a file, one JSON object a line, or from standard input with `-`, instead of
    /// generating them
    #[arg(
        long, value_name = "FILE|-", help_heading = "Jobs in bulk",
        conflicts_with_all = ["interval", "rate", "count", "kind", "payload", "timeout", "deadline", "priority", "delay"]
    )]
    pub(crate) input: Option<PathBuf>,

    /// Write the outcome of each job to a file, one JSON object a line, or to standard output with
    /// `-`; logs then go to standard error. An existing file is replaced
    #[arg(long, value_name = "FILE|-", help_heading = "Jobs in bulk")]
    pub(crate) output: Option<PathBuf>,

    /// How often each job runs: at least once while this publisher lives (confirmed); at most once,
    /// without an outcome (fire-and-forget); at least once whatever crashes, as soon as the server
    /// has stored it (durable)
    #[arg(
        long,
        value_name = "GUARANTEE",
        default_value = "confirmed",
        help_heading = "Delivery"
    )]
    pub(crate) delivery: Guarantee,

    /// Most jobs that wait at the same time for their outcome, or with durable to be stored; 1 to
    /// 65536 [default: 256; with durable 4096]
    #[arg(
        long, value_name = "NUMBER", help_heading = "Delivery",
        value_parser = clap::value_parser!(u32).range(1..=65_536)
    )]
    pub(crate) in_flight: Option<u32>,

    /// How long to wait for an outcome before the job is submitted again; at least the job's own
    /// time-out plus 5s. With durable: how long the server may take to store a job
    #[arg(
        long, value_name = "DURATION", default_value = "30s", help_heading = "Delivery",
        value_parser = positive_duration
    )]
    pub(crate) confirm_timeout: Duration,

    /// Most attempts of a job without a `max_attempts` of its own, 1 to 100
    #[arg(
        long,
        value_name = "NUMBER",
        default_value = "5",
        help_heading = "Delivery"
    )]
    pub(crate) max_attempts: MaxAttempts,

    /// Send each job to the subject of its kind, `jobs.create.<kind>`, instead of `jobs.create`
    #[arg(
        long,
        help_heading = "Delivery",
        value_parser = clap::builder::BoolishValueParser::new()
    )]
    pub(crate) by_kind: bool,

    /// Delivery durable: store all jobs of the input or none, at most 1000
    #[arg(
        long,
        requires = "input",
        help_heading = "Delivery",
        value_parser = clap::builder::BoolishValueParser::new()
    )]
    pub(crate) all_or_none: bool,

    /// Delivery durable: use a server that may lose jobs it has confirmed, with a warning
    #[arg(
        long,
        help_heading = "Delivery",
        value_parser = clap::builder::BoolishValueParser::new()
    )]
    pub(crate) accept_unsafe_server: bool,

    #[command(flatten, next_help_heading = "Service")]
    pub(crate) options: bootstrap::Options,
}

/// The values of `--delivery`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Guarantee {
    Confirmed,
    FireAndForget,
    Durable,
}

/// Any JSON, exactly as it was written.
#[derive(Clone, Debug)]
pub(crate) struct Payload(pub(crate) Box<RawValue>);

impl Config {
    /// The options that every service has.
    #[must_use]
    pub fn options(&self) -> &bootstrap::Options {
        &self.options
    }

    /// The most jobs under way at the same time.
    pub(crate) fn in_flight(&self) -> usize {
        let default = match self.delivery {
            Guarantee::Durable => 4096,
            _ => 256,
        };
        self.in_flight.map_or(default, |number| number as usize)
    }

    /// The time between two generated jobs.
    pub(crate) fn interval_between_jobs(&self) -> Duration {
        match self.rate {
            Some(rate) => Duration::try_from_secs_f64(1.0 / rate).unwrap_or(Duration::MAX),
            None => self.interval,
        }
    }
}

impl FromStr for Payload {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (json, file) = match text.strip_prefix('@') {
            None => (text.to_owned(), String::new()),
            Some(path) => {
                let json = std::fs::read_to_string(path)
                    .map_err(|error| format!("cannot read {path}: {error}"))?;
                (json, format!("{path}: "))
            }
        };
        // Parsed, because `RawValue::from_string` would keep white space around the value.
        let payload: Box<RawValue> = serde_json::from_str(json.trim())
            .map_err(|error| format!("{file}not JSON: {error}"))?;
        check_portable(&payload).map_err(|error| format!("{file}{error}"))?;
        Ok(Self(payload))
    }
}

fn rate(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(rate) if rate > 0.0 && rate.is_finite() => Ok(rate),
        _ => Err("expected jobs a second: a number above 0, such as 50 or 0.5".to_owned()),
    }
}

fn positive_duration(text: &str) -> Result<Duration, String> {
    match humantime::parse_duration(text) {
        Ok(duration) if duration.is_zero() => Err("must be more than 0s".to_owned()),
        Ok(duration) if duration > WireDuration::MAX => Err("must be at most 366 days".to_owned()),
        Ok(duration) => Ok(duration),
        Err(error) => Err(error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(arguments: &[&str]) -> Result<Config, String> {
        Config::try_parse_from([&["publisher"], arguments].concat())
            .map_err(|error| error.to_string())
    }

    #[test]
    fn the_defaults_are_as_documented() {
        let config = parse(&[]).unwrap();
        assert_eq!(config.interval, Duration::from_secs(1));
        assert_eq!(config.delivery, Guarantee::Confirmed);
        assert_eq!(config.payload.0.get(), r#"{"message":"hello"}"#);
        assert!(config.count.is_none() && config.input.is_none() && !config.by_kind);
    }

    #[test]
    fn a_payload_is_json_or_a_file_that_holds_it() {
        assert_eq!(
            parse(&["--payload", " [1.50, 2] "])
                .unwrap()
                .payload
                .0
                .get(),
            "[1.50, 2]"
        );
        let error = parse(&["--payload", "{"]).unwrap_err();
        assert!(
            error.contains("--payload") && error.contains("not JSON"),
            "{error}"
        );
        let error = parse(&["--payload", "@/no/such/file"]).unwrap_err();
        assert!(error.contains("cannot read /no/such/file"), "{error}");
        let deep = format!("{}{}", "[".repeat(129), "]".repeat(129));
        for (payload, expected) in [
            (&*deep, "nested deeper than 128 levels"),
            (r#""\udc00""#, "unpaired surrogate"),
        ] {
            let error = parse(&["--payload", payload]).unwrap_err();
            assert!(error.contains(expected), "{error}");
        }
        let manifest = concat!("@", env!("CARGO_MANIFEST_DIR"), "/Cargo.toml");
        let error = parse(&["--payload", manifest]).unwrap_err();
        assert!(error.contains("Cargo.toml: not JSON"), "{error}");
    }

    #[test]
    fn flags_that_exclude_each_other_are_refused() {
        for arguments in [
            &["--rate", "5", "--interval", "1s"][..],
            &["--input", "-", "--rate", "5"],
            &["--input", "-", "--interval", "1s"],
            &["--input", "-", "--count", "5"],
            &["--input", "-", "--kind", "echo"],
            &["--input", "-", "--payload", "1"],
            &["--input", "-", "--timeout", "1s"],
            &["--input", "-", "--deadline", "1s"],
        ] {
            let error = parse(arguments).unwrap_err();
            assert!(
                error.contains("cannot be used with"),
                "{arguments:?}: {error}"
            );
        }
        parse(&["--input", "-", "--output", "-", "--by-kind"]).unwrap();
    }

    #[test]
    fn values_out_of_bounds_are_refused() {
        for arguments in [
            ["--rate", "0"],
            ["--rate", "inf"],
            ["--rate", "NaN"],
            ["--count", "0"],
            ["--kind", "a..b"],
            ["--in-flight", "0"],
            ["--in-flight", "65537"],
            ["--confirm-timeout", "0s"],
            ["--confirm-timeout", "367d"],
            ["--max-attempts", "0"],
            ["--interval", "soon"],
            ["--timeout", "0s"],
            ["--deadline", "30"],
        ] {
            let error = parse(&arguments).unwrap_err();
            assert!(error.contains(arguments[0]), "{arguments:?}: {error}");
        }
    }
}
