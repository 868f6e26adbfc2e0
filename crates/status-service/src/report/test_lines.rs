//! Captures log lines in tests.

use std::io::Write;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use common::Counts;
use tracing_subscriber::fmt::MakeWriter;

use crate::asking::InstanceId;
use crate::fleet::{Progress, Spread, Summary};

#[derive(Clone, Default)]
struct Captured(Arc<Mutex<Vec<u8>>>);

impl Captured {
    fn text(&self) -> String {
        let bytes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        String::from_utf8(bytes.clone()).unwrap()
    }
}

impl Write for Captured {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let mut captured = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        captured.write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Captured {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}

/// What `log` logs as text, without time and instance.
pub(super) fn lines(log: impl FnOnce()) -> String {
    let captured = Captured::default();
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(tracing::Level::DEBUG)
        .with_writer(captured.clone())
        .with_ansi(false)
        .with_target(false)
        .without_time()
        .finish();
    tracing::subscriber::with_default(subscriber, log);
    captured.text()
}

/// What `log` logs as JSON, without time and instance.
pub(super) fn json(log: impl FnOnce()) -> String {
    let captured = Captured::default();
    let subscriber = tracing_subscriber::fmt()
        .json()
        .flatten_event(true)
        .with_writer(captured.clone())
        .with_target(false)
        .without_time()
        .finish();
    tracing::subscriber::with_default(subscriber, log);
    captured.text()
}

/// A fleet with a value in each field.
pub(super) fn fleet() -> Summary {
    Summary {
        consumers: 4,
        running: 2,
        saturated: 1,
        draining: 1,
        missing: 1,
        in_flight: 7,
        waiting: 1_030,
        totals: Counts {
            processed: 12_345,
            succeeded: 12_340,
            failed: 3,
            rejected: 2,
            ..Counts::default()
        },
        progress: Some(Progress {
            processed: 502,
            elapsed: Duration::from_millis(5_003),
        }),
        spread: Some(Spread {
            consumers: 4,
            min: 0.2412,
            max: 0.2579,
        }),
        round_trip: Duration::from_micros(2_140),
    }
}

pub(super) fn id(consumer: &str) -> InstanceId {
    InstanceId {
        consumer: consumer.to_owned(),
        started_at: "2026-01-31T09:30:00Z".parse().unwrap(),
    }
}
