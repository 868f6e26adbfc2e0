//! The consumers, as a status service knows them.

use std::time::Duration;

use anyhow::{Context as _, bail};
use async_nats::{Request, RequestErrorKind};
use bootstrap::{Client, Nats};
use common::subjects::FLEET;
use common::{Fleet, FleetMember, FleetRequest, Presence, Timestamp};

use crate::print::{Printer, duration, shown, table};

/// How long a status service may take to answer.
const PATIENCE: Duration = Duration::from_secs(2);

/// How many consumers are asked for at a time.
const PAGE: u32 = 500;

pub(crate) async fn run(nats: &Nats, out: Printer, search: Option<String>) -> anyhow::Result<bool> {
    let fleet = ask(&nats.client, search, usize::MAX).await?;
    out.either(&fleet, || lines(&fleet, usize::MAX).join("\n"))?;
    Ok(true)
}

/// The fleet, with as many pages of its consumers.
pub(crate) async fn ask(
    client: &Client,
    search: Option<String>,
    pages: usize,
) -> anyhow::Result<Fleet> {
    let mut request = FleetRequest {
        after: None,
        limit: Some(PAGE),
        search,
    };
    let mut fleet = page(client, &request).await?;
    for _ in 1..pages {
        if fleet.next.is_none() {
            break;
        }
        request.after = fleet.next.take();
        let mut next = page(client, &request).await?;
        fleet.consumers.append(&mut next.consumers);
        fleet.next = next.next;
    }
    Ok(fleet)
}

async fn page(client: &Client, request: &FleetRequest) -> anyhow::Result<Fleet> {
    let body = serde_json::to_vec(request)?;
    let request = Request::new().payload(body.into()).timeout(Some(PATIENCE));
    let answer = client.send_request(FLEET, request).await;
    let answer = match answer {
        Ok(answer) => answer,
        Err(error) => match error.kind() {
            RequestErrorKind::NoResponders => {
                bail!("nobody answers on {FLEET}: start a status service")
            }
            RequestErrorKind::TimedOut => bail!(
                "no answer on {FLEET} within {PATIENCE:?}: check the status service, and that this \
                 user may publish there"
            ),
            _ => return Err(error).context(format!("cannot ask on {FLEET}")),
        },
    };
    let header = answer.headers.as_ref();
    if let Some(error) = header.and_then(|headers| headers.get("Nats-Service-Error")) {
        bail!(
            "the status service refuses the request on {FLEET}: {}",
            shown(error.as_str())
        );
    }
    serde_json::from_slice(&answer.payload)
        .with_context(|| format!("the answer on {FLEET} cannot be read"))
}

/// The totals, and the consumers as a table; at most so many of them.
pub(crate) fn lines(fleet: &Fleet, most: usize) -> Vec<String> {
    let totals = &fleet.totals;
    let mut lines = vec![
        format!(
            "{} consumers answer, {} are missing; {} of {} slots run a job, {} jobs wait in consumers",
            fleet.answering, fleet.missing, fleet.in_flight, fleet.concurrency, fleet.waiting
        ),
        format!(
            "{} jobs processed: {} succeeded, {} failed, {} rejected, {} expired, {} cancelled",
            totals.processed,
            totals.succeeded,
            totals.failed,
            totals.rejected,
            totals.expired,
            totals.cancelled
        ),
    ];
    if !fleet.unserved_kinds.is_empty() {
        let kinds = fleet.unserved_kinds.iter().map(ToString::to_string);
        let kinds = kinds.collect::<Vec<_>>().join(", ");
        lines.push(format!("no consumer serves: {kinds}"));
    }
    if fleet.consumers.is_empty() {
        return lines;
    }
    let now = Timestamp::now();
    let row = |member: &FleetMember| {
        let state = match member.presence {
            Presence::Present => member.state.to_string(),
            Presence::Missing => "missing".to_owned(),
        };
        [
            shown(&member.consumer),
            shown(&member.host),
            state,
            format!("{}/{}", member.in_flight, member.concurrency),
            member.waiting.to_string(),
            member.counts.processed.to_string(),
            member.counts.failed.to_string(),
            format!("{:.1} ms", member.run_ms.p99),
            duration(now.since(member.started_at)),
        ]
    };
    let shown: Vec<_> = fleet.consumers.iter().take(most).map(row).collect();
    let names = [
        "CONSUMER",
        "HOST",
        "STATE",
        "LOAD",
        "WAITING",
        "PROCESSED",
        "FAILED",
        "P99",
        "UP",
    ];
    lines.extend(table(names, &shown));
    if fleet.consumers.len() > most || fleet.next.is_some() {
        lines.push("and more consumers".to_owned());
    }
    lines
}
