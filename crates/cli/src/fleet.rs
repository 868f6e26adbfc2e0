//! The consumers, as a status service reports them.

use bootstrap::{Nats, NatsClient};
use common::{Fleet, FleetMember, FleetRequest, Presence, Timestamp};

use crate::print::{Printer, duration, shown, table};

/// How many consumers are requested at a time.
const PAGE: u32 = 500;

pub(crate) async fn run(nats: &Nats, out: Printer, search: Option<String>) -> anyhow::Result<bool> {
    let fleet = ask(&nats.client, search, usize::MAX).await?;
    out.either(&fleet, || lines(&fleet, usize::MAX).join("\n"))?;
    Ok(true)
}

/// Requests the fleet, with at most `pages` pages of its consumers.
pub(crate) async fn ask(
    client: &NatsClient,
    search: Option<String>,
    pages: usize,
) -> anyhow::Result<Fleet> {
    let mut request = FleetRequest {
        after: None,
        limit: Some(PAGE),
        search,
    };
    let mut fleet = client::fleet(client, &request).await?;
    for _ in 1..pages {
        if fleet.next.is_none() {
            break;
        }
        request.after = fleet.next.take();
        let mut next = client::fleet(client, &request).await?;
        fleet.consumers.append(&mut next.consumers);
        fleet.next = next.next;
    }
    Ok(fleet)
}

/// The totals, and a table of at most `most` consumers.
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
