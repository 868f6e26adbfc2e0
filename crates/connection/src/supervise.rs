//! Watches one connection: replaces library clients that have ended, and probes the server.

use std::time::Duration;

use tokio::time::{Instant, MissedTickBehavior};
use tracing::{error, warn};

use crate::connector::{ConnectFailure, Connector, Gate, NewClient};
use crate::generations::Replacement;
use crate::round_trip::round_trip;
use crate::task::Beat;

/// How often the round trip to the server is measured.
const PROBE: Duration = Duration::from_secs(2);

/// Time-out of one measurement.
const PROBE_TIMEOUT: Duration = Duration::from_secs(3);

/// After this time without an answer from the server, the connection is closed and made again.
const SILENCE: Duration = Duration::from_secs(20);

/// The first wait between two attempts to connect a new library client; it doubles each time.
const FIRST_WAIT: Duration = Duration::from_millis(50);

/// The longest wait between two such attempts.
const LONGEST_WAIT: Duration = Duration::from_secs(4);

/// Replaces the library client when its connection task has ended, and measures whether the server
/// still answers. Returns when the connection is no longer used.
pub(crate) async fn supervise(
    connector: Connector,
    replacement: Replacement,
    mut gate: Gate,
    mut heartbeat: Beat,
) {
    let mut probe = tokio::time::interval(PROBE);
    probe.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut up = connector.up.subscribe();
    let mut answered_at = Instant::now();
    loop {
        tokio::select! {
            biased;
            () = replacement.ended() => {
                if let Some(state) = connector.state() {
                    state.set_lost();
                }
                gate.set_installed(false);
                if !replacement.is_wanted() {
                    return heartbeat.done();
                }
                error!(
                    connection = connector.purpose,
                    "the NATS client ended, perhaps at a message with unreadable headers: reconnecting"
                );
                let next = next_client(&connector, &replacement);
                let Some(new) = heartbeat.during(Duration::MAX, next).await else {
                    return heartbeat.done();
                };
                replacement.install(new.client, new.end).await;
                gate = new.gate;
                gate.set_installed(true);
                answered_at = Instant::now();
            }
            // Also at once when the connection comes up. The connector keeps the sender of `up`.
            () = async { tokio::select! { _ = probe.tick() => {}, _ = up.changed() => {} } } => {
                let Some(client) = replacement.current() else {
                    return heartbeat.done();
                };
                heartbeat.beat();
                if !gate.is_up() {
                    answered_at = Instant::now();
                    continue;
                }
                let asked_at = Instant::now();
                // If the client ends meanwhile, this is an error.
                if round_trip(&client, PROBE_TIMEOUT).await.is_ok() {
                    answered_at = Instant::now();
                    if let Some(state) = connector.state() {
                        state.set_answered(asked_at.elapsed());
                    }
                } else if answered_at.elapsed() >= SILENCE && gate.is_up() {
                    warn!(
                        connection = connector.purpose,
                        "NATS has not answered for {} s: reconnecting", SILENCE.as_secs()
                    );
                    answered_at = Instant::now();
                    // An error means that the client has ended.
                    let _ = client.force_reconnect().await;
                }
            }
        }
    }
}

/// Connects a new library client, trying until it succeeds; `None` if the connection is no longer
/// used.
async fn next_client(connector: &Connector, replacement: &Replacement) -> Option<NewClient> {
    let mut wait = FIRST_WAIT;
    let mut has_warned = false;
    for attempt in 0.. {
        if !replacement.is_wanted() {
            break;
        }
        match connector.connect(attempt, true).await {
            Ok(new) => return Some(new),
            Err(ConnectFailure::Misconfigured(error) | ConnectFailure::Unreachable(error)) => {
                if !std::mem::replace(&mut has_warned, true) {
                    warn!(
                        connection = connector.purpose,
                        "cannot reconnect to NATS, trying until it works: {error:#}"
                    );
                }
            }
        }
        tokio::time::sleep(wait).await;
        wait = (wait * 2).min(LONGEST_WAIT);
    }
    None
}
