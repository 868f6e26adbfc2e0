//! Finds out when the server has stopped storing.
//!
//! After a write error (a full disk, a disk that fails, a file system that became read-only)
//! nats-server 2.15.1 freezes the stream: it does not answer messages published to this stream, and
//! continues everything else. No acknowledged message is lost, but the stream stores nothing until the
//! server is restarted, even if the disk works again. The server reports this when it is asked for its
//! health.

use std::time::Duration;

use connection::{Beat, Health, NatsClient};
use serde_json::Value;
use tracing::{error, info};

use crate::each_server;
use crate::request::{self, ApiError};
use crate::unanswered::Unanswered;

/// The subject on which a server of this system reports its health; see deploy/nats.conf.
const SERVER_HEALTH: &str = "jobs.server.health";

/// The name of this problem in the health of a service.
const RESPECT: &str = "storage";

/// If a write is unanswered for this long, the server is asked for its health.
const SUSPICIOUS: Duration = Duration::from_secs(2);

/// Whether the server stores messages.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WriteHealth {
    /// The server stores.
    Works,
    /// The server has stopped storing: what is wrong, and what to do.
    Stopped(String),
    /// Not known: the configuration of the server does not offer its health.
    Unknown,
}

/// Asks the server whether it stores, and sets the health of the service accordingly. A change is
/// logged.
///
/// # Errors
/// When the server does not answer in time.
pub async fn check(client: &NatsClient, health: &Health) -> anyhow::Result<WriteHealth> {
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

async fn ask(client: &NatsClient) -> Result<WriteHealth, ApiError> {
    match each_server::ask(client, SERVER_HEALTH).await {
        // In a cluster, any of them may lead the stream.
        Ok(answers) => {
            let mut found = answers.iter().map(read);
            let stopped = found.find(|found| *found != WriteHealth::Works);
            Ok(stopped.unwrap_or(WriteHealth::Works))
        }
        Err(ApiError::NoJetStream(_)) => Ok(WriteHealth::Unknown),
        Err(error) => Err(error),
    }
}

fn read(answer: &Value) -> WriteHealth {
    let error = answer["data"]["error"].as_str().unwrap_or_default();
    // A server can be unhealthy for other reasons, for example while it recovers its streams.
    if !error.contains("write error") {
        return WriteHealth::Works;
    }
    let error: String = error
        .chars()
        .filter(|char| !char.is_control())
        .take(400)
        .collect();
    WriteHealth::Stopped(format!(
        "the server has stopped storing: {error}; check that its disk works and has room, then restart \
         nats-server; until then nothing is stored, but no acknowledged message is lost"
    ))
}

/// Asks the server for its health while writes are unanswered, until it stores again. Runs until
/// dropped.
pub async fn watch(client: NatsClient, health: Health, writes: Vec<Unanswered>, mut life: Beat) {
    loop {
        life.tick().await;
        let silent = writes.iter().filter_map(Unanswered::length).max();
        if stopped(&health).is_none() && silent.is_none_or(|silent| silent < SUSPICIOUS) {
            continue;
        }
        // An error means that there is no connection, which is reported elsewhere. The next round asks
        // again.
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
