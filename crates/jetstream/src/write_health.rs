//! Finds out when the server has stopped storing.
//!
//! After a write error (a full disk, a disk that fails, a file system that became read-only) nats-server
//! 2.15.1 freezes the stream: it answers nothing to what is published there, and goes on with everything
//! else. Nothing that it had acknowledged is lost, but it does not store again before it is restarted,
//! though the disk is well. It says so of itself, to whoever asks for its health.

use std::time::Duration;

use bootstrap::{Beat, Client, Health};
use serde_json::Value;
use tracing::{error, info};

use crate::request::{self, ApiError};
use crate::unanswered::Unanswered;

/// Where a server of this system answers how it is; see deploy/nats.conf.
const SERVER_HEALTH: &str = "jobs.server.health";

/// The respect in which a service that knows of it has a problem.
const RESPECT: &str = "storage";

/// A write that is answered later than this makes us ask.
const SUSPICIOUS: Duration = Duration::from_secs(2);

/// What the server says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WriteHealth {
    /// It stores.
    Works,
    /// It has stopped: what is wrong, and what to do.
    Stopped(String),
    /// It does not say: its configuration lets nobody ask.
    Unknown,
}

/// Asks the server whether it stores. What it says is from then on the service's health, and a line in
/// its log when it changes.
///
/// # Errors
/// When the server does not answer in time.
pub async fn check(client: &Client, health: &Health) -> anyhow::Result<WriteHealth> {
    let found = ask(client).await?;
    match &found {
        WriteHealth::Stopped(problem) => {
            if health.set_problem(RESPECT, Some(problem.clone())) {
                error!("{problem}");
            }
        }
        WriteHealth::Works => {
            if health.set_problem(RESPECT, None) {
                info!("the server stores again");
            }
        }
        WriteHealth::Unknown => {}
    }
    Ok(found)
}

/// Why the server stores nothing, as far as this service knows; `None` while it stores.
#[must_use]
pub fn stopped(health: &Health) -> Option<String> {
    health.problem(RESPECT)
}

async fn ask(client: &Client) -> Result<WriteHealth, ApiError> {
    match request::ask::<Value>(client, SERVER_HEALTH.to_owned(), &Value::Null).await {
        Ok(answer) => Ok(read(&answer)),
        Err(ApiError::NoJetStream(_)) => Ok(WriteHealth::Unknown),
        Err(error) => Err(error),
    }
}

fn read(answer: &Value) -> WriteHealth {
    let error = answer["data"]["error"].as_str().unwrap_or_default();
    // There are other reasons for which a server is not healthy: it looks for its streams, say.
    if !error.contains("write error") {
        return WriteHealth::Works;
    }
    let error: String = error
        .chars()
        .filter(|char| !char.is_control())
        .take(400)
        .collect();
    WriteHealth::Stopped(format!(
        "the server has stopped storing: {error}; see that its disk is well and has room, then restart \
         nats-server: until then nothing is stored, and nothing acknowledged is lost"
    ))
}

/// Asks while writes are unanswered, until the server stores again; ends when dropped.
pub async fn watch(client: Client, health: Health, writes: Vec<Unanswered>, mut life: Beat) {
    loop {
        life.tick().await;
        let silent = writes.iter().filter_map(Unanswered::length).max();
        if stopped(&health).is_none() && silent.is_none_or(|silent| silent < SUSPICIOUS) {
            continue;
        }
        // Without a connection nobody answers; that is known anyway, and this asks again.
        if let Ok(WriteHealth::Works) = life
            .during(request::PATIENCE, check(&client, &health))
            .await
        {
            writes.iter().for_each(Unanswered::over);
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_write_error_alone_is_one_that_a_restart_mends() {
        let says = |error: &str| read(&json!({"data": {"status": "unavailable", "error": error}}));
        let error = "JetStream stream 'JOBS > JOBS' write error: write /data/1.blk: no space left on device";
        let WriteHealth::Stopped(problem) = says(error) else {
            panic!("not seen")
        };
        assert!(
            problem.starts_with("the server has stopped storing: JetStream stream"),
            "{problem}"
        );
        assert!(problem.contains("restart nats-server"), "{problem}");
        assert_eq!(
            says("JetStream is not current with the meta leader"),
            WriteHealth::Works
        );
        assert_eq!(read(&json!({"data": {"status": "ok"}})), WriteHealth::Works);
    }
}
