//! Checks whether a server can keep the guarantees of durable jobs.

use std::fmt;

use connection::NatsClient;
use serde_json::Value;

use crate::request::ApiError;
use crate::topology::{Stream, Topology};
use crate::{each_server, manage};

/// The subject on which a server of this system reports its settings; see deploy/nats.conf.
const SERVER: &str = "jobs.server";

/// A setting of the server that breaks or weakens the guarantees of durable jobs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// Whether a guarantee is broken; otherwise it only cannot be verified.
    pub breaks: bool,
    /// What is wrong, and what to do.
    pub what: String,
}

impl Finding {
    fn breaks(what: String) -> Self {
        Self { breaks: true, what }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)
    }
}

/// Checks the server and the streams that exist.
///
/// # Errors
/// When the server does not answer in time.
pub async fn examine(client: &NatsClient, topology: Topology) -> anyhow::Result<Vec<Finding>> {
    if manage::existing(manage::account(client).await)?.is_none() {
        let what = "the server has no JetStream for this user, so nothing can be stored";
        return Ok(vec![Finding::breaks(what.to_owned())]);
    }
    examine_jetstream(client, topology).await
}

/// The same for a server that is known to have JetStream.
///
/// # Errors
/// When the server does not answer in time.
pub async fn examine_jetstream(
    client: &NatsClient,
    topology: Topology,
) -> anyhow::Result<Vec<Finding>> {
    let mut findings = Vec::new();
    match each_server::ask(client, SERVER).await {
        Ok(answers) => findings.extend(servers(&answers)),
        Err(ApiError::NoJetStream(_)) => findings.push(Finding {
            breaks: false,
            what: format!(
                "{SERVER} has no responders, so it is not known whether the server syncs each write \
                 before it confirms it: make sure that its jetstream block has `sync_interval: \
                 always`, or let it answer on {SERVER} as in deploy/nats.conf"
            ),
        }),
        Err(error) => return Err(error.into()),
    }
    // The stream of advisories holds no jobs, and not every user may read its configuration.
    for stream in [Stream::Jobs, Stream::Later, Stream::State] {
        // It may not exist yet, or this user may not read its configuration.
        if let Some(info) = manage::existing(manage::stream_info(client, stream).await)? {
            findings.extend(self::stream(stream, &info.config, topology));
        }
    }
    Ok(findings)
}

/// Whether each write is on the disk before it is confirmed; `None` if the server does not say. In a cluster,
/// all servers that answer must do so.
///
/// # Errors
/// See [`ApiError`].
pub async fn is_synced(client: &NatsClient) -> Result<Option<bool>, ApiError> {
    match each_server::ask(client, SERVER).await {
        Ok(answers) => Ok(Some(answers.iter().all(|answer| {
            answer["data"]["jetstream"]["config"]["sync_always"] == Value::Bool(true)
        }))),
        Err(ApiError::NoJetStream(_)) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Checks the answers of one server, or of the servers of a cluster.
fn servers(answers: &[Value]) -> Vec<Finding> {
    let mut findings = Vec::new();
    for answer in answers {
        for mut finding in server(answer) {
            if answers.len() > 1 {
                let name = answer["server"]["name"].as_str().unwrap_or_default();
                finding.what = format!("{}: {}", name.escape_debug(), finding.what);
            }
            findings.push(finding);
        }
    }
    if let Some(all) = each_server::count(answers).filter(|all| *all > answers.len()) {
        findings.push(Finding {
            breaks: false,
            what: format!(
                "of the {all} servers of the cluster, {} did not say whether each write is synced before it \
                 is confirmed: start them, and let all servers answer on {SERVER} as in deploy/nats.conf \
                 (`response: stream`)",
                all - answers.len()
            ),
        });
    }
    findings
}

fn server(answer: &Value) -> Vec<Finding> {
    let mut findings = Vec::new();
    let config = &answer["data"]["jetstream"]["config"];
    if config["sync_always"] != Value::Bool(true) {
        findings.push(Finding::breaks(
            "the server confirms jobs before they are on its disk, so a power cut loses some that \
             were confirmed: set `sync_interval: always` in its jetstream block, and restart it"
                .to_owned(),
        ));
    }
    if config["strict"] != Value::Bool(true) {
        findings.push(Finding {
            breaks: false,
            what: "the server accepts requests with unknown fields, so it may take an \
                   acknowledgement that a client sends to its API for a request, such as a purge: \
                   set `strict: true` in its jetstream block"
                .to_owned(),
        });
    }
    findings
}

fn stream(stream: Stream, config: &Value, topology: Topology) -> Vec<Finding> {
    let mut findings = Vec::new();
    let limited = ["max_bytes", "max_msgs", "max_age"]
        .iter()
        .any(|limit| config[limit].as_i64().is_some_and(|limit| limit > 0));
    if config["discard"] == "old" && limited {
        findings.push(Finding::breaks(format!(
            "the stream {stream} drops old messages when it is full: give it `discard: new`, or no \
             limits"
        )));
    }
    let (wanted, there) = (
        topology.replicas.unwrap_or(1) as u64,
        config["num_replicas"].as_u64().unwrap_or(1),
    );
    if there < wanted {
        findings.push(Finding::breaks(format!(
            "the stream {stream} is stored on {there} servers, but {wanted} replicas are configured"
        )));
    }
    if config["storage"] != "file" {
        findings.push(Finding::breaks(format!(
            "the stream {stream} is stored in memory: a restart of the server loses it"
        )));
    }
    findings
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_server_that_confirms_too_early_breaks_the_promise() {
        let answer = |always, strict| json!({"data": {"jetstream": {"config": {"sync_always": always, "strict": strict}}}});
        assert!(server(&answer(true, true)).is_empty());
        let lazy = server(&answer(false, true));
        assert!(
            lazy[0].breaks && lazy[0].what.contains("sync_interval: always"),
            "{lazy:?}"
        );
        assert!(!server(&answer(true, false))[0].breaks);
        // A server without JetStream, say.
        assert!(server(&json!({}))[0].breaks);
    }

    #[test]
    fn one_server_of_a_cluster_that_confirms_too_early_breaks_the_promise() {
        let answer = |name, always| {
            json!({"server": {"name": name}, "data": {"jetstream": {
                "config": {"sync_always": always, "strict": true}, "meta": {"cluster_size": 3},
            }}})
        };
        let all = [answer("a", true), answer("b", true), answer("c", true)];
        assert!(servers(&all).is_empty());
        let found = servers(&[answer("a", true), answer("b", false), answer("c", true)]);
        assert!(found.len() == 1 && found[0].breaks, "{found:?}");
        assert!(found[0].what.starts_with("b: "), "{found:?}");
        let found = servers(&all[..2]);
        assert!(found.len() == 1 && !found[0].breaks, "{found:?}");
        assert!(
            found[0]
                .what
                .contains("of the 3 servers of the cluster, 1 did not say")
        );
    }

    #[test]
    fn a_stream_that_forgets_breaks_the_promise() {
        let good = json!({"discard": "new", "max_bytes": 5, "num_replicas": 1, "storage": "file"});
        let all = |config: &Value, replicas| {
            let topology = Topology {
                replicas: Some(replicas),
                ..Topology::default()
            };
            stream(Stream::Jobs, config, topology)
        };
        assert!(all(&good, 1).is_empty());
        assert!(all(&good, 3)[0].what.contains("1 servers"));
        let mut drops = good.clone();
        drops["discard"] = "old".into();
        assert!(all(&drops, 1)[0].what.contains("drops old messages"));
        drops["max_bytes"] = (-1).into();
        assert!(
            all(&drops, 1).is_empty(),
            "without limits nothing is dropped"
        );
        let mut memory = good;
        memory["storage"] = "memory".into();
        assert!(all(&memory, 1)[0].what.contains("in memory"));
    }
}
