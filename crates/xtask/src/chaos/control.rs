//! The negative control: a consumer that acknowledges jobs before it has stored their records, and is killed
//! in between. It loses jobs, and the suite has to say so.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use common::{JobId, JobKind};
use futures_util::StreamExt as _;
use jetstream::{Stream, consumer_name};
use serde_json::json;
use tokio::time::timeout;

use super::check::{Rule, check};
use super::history::{Event, History, RunOutcome, now};
use super::ledger::Kind;
use super::run::close;
use super::settle::settle;
use super::stand::{Fleet, Stand};
use super::submit::Load;
use super::workload::Spec;

const JOBS: usize = 10;

/// How many of them the hasty consumer takes.
const TAKEN: usize = 3;

/// How long the server may take to deliver a job.
const DELIVERY: Duration = Duration::from_secs(30);

/// Loses jobs, and returns how many, once the checker has found exactly these.
pub(super) async fn run(history: &History) -> anyhow::Result<usize> {
    let stand = Arc::new(Stand::start(false, Fleet::One).await?);
    let [consumer] = &stand.consumers[..] else {
        anyhow::bail!("the control has one consumer");
    };
    let mut service = consumer.service.lock().await;
    service.kill().await;
    for _ in 0..JOBS {
        let load = Load::new(&stand, history);
        load.by_client(Spec::plain(Kind::Quick)).await?;
    }
    let mut taken = BTreeSet::new();
    for _ in 0..TAKEN {
        taken.insert(take_hastily(&stand).await?);
    }
    history.note(Event::LoadEnded { at: now() });
    consumer.start_again(&mut service);
    drop(service);
    settle(&stand, history).await?;
    close(&stand, history).await?;

    let verdict = check(&history.events()?);
    let found: BTreeSet<_> = verdict
        .violations
        .iter()
        .map(|it| (it.rule, it.job))
        .collect();
    let expected: BTreeSet<_> = taken.iter().map(|id| (Rule::Lost, Some(*id))).collect();
    ensure!(
        found == expected,
        "the control passed: {taken:?} were lost on purpose, and this was found:\n{verdict}"
    );
    Ok(taken.len())
}

/// Takes a job, acknowledges it and runs it; what would store the record is not reached any more.
async fn take_hastily(stand: &Stand) -> anyhow::Result<JobId> {
    let kind: JobKind = Kind::Quick.name().parse()?;
    let inbox = stand.admin.new_inbox();
    let mut deliveries = stand.admin.subscribe(inbox.clone()).await?;
    let pull = format!(
        "$JS.API.CONSUMER.MSG.NEXT.{}.{}",
        Stream::Jobs,
        consumer_name(&kind)
    );
    let request = json!({"batch": 1, "expires": DELIVERY.as_nanos()}).to_string();
    stand
        .admin
        .publish_with_reply(pull, inbox, request.into())
        .await?;
    let delivery = timeout(DELIVERY, deliveries.next()).await;
    let delivery = delivery
        .context("no job was delivered")?
        .context("the connection ended")?;
    let reply = delivery.reply.context("what was delivered is no job")?;
    let job = common::subjects::JobSubject::parse(&delivery.subject);
    let job = job.with_context(|| format!("{} is no job", delivery.subject))?;
    // The server confirms it, so it is known to have happened.
    stand.admin.request(reply, "+ACK".into()).await?;
    let run = stand.ledger.start(job.id, 1, kind.as_str(), "hasty")?;
    stand.ledger.end(&run, RunOutcome::Succeeded)?;
    Ok(job.id)
}
