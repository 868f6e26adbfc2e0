//! Replays or discards many dead letters.

use std::num::NonZeroU32;

use bootstrap::NatsClient;
use client::dead_letters::{self, Action, Remaining};
use client::{Replayed, Which};
use serde_json::json;
use tokio_util::sync::CancellationToken;

use crate::command::dead::Chosen;
use crate::confirm::{Answer, ask};
use crate::interrupt::until;
use crate::print::{Printer, counted, note, print};
use crate::summary::{line, summary};

/// How many dead letters are read at a time.
const PAGE: usize = 500;

const DEAD_LETTER: &str = "dead letter";

/// The result for one dead letter, in words.
pub(crate) fn told(action: Action, done: Replayed) -> &'static str {
    match done {
        Replayed::Yes => action.did(),
        Replayed::Already => "not replayed: already replayed, or being replayed by another client",
    }
}

/// Asks for confirmation, then replays or discards all dead letters that match, at most `rate` a
/// second. Returns false if some were not changed.
pub(crate) async fn run(
    client: &NatsClient,
    out: Printer,
    stop: &CancellationToken,
    action: Action,
    rate: Option<NonZeroU32>,
    chosen: &Chosen,
) -> anyhow::Result<bool> {
    let which = chosen.filter.which();
    if chosen.dry_run {
        return until(stop, rehearse(client, out, action, &which)).await;
    }
    if !chosen.yes {
        let asking = stop.run_until_cancelled(ask_about(client, action, &which));
        match asking.await.transpose()? {
            Some(Answer::Yes) => {}
            Some(Answer::NothingMatches) => return report(out, action, &Counts::default(), true),
            Some(Answer::No) | None => {
                note("nothing was changed");
                return Ok(false);
            }
        }
    }
    let mut counts = Counts::default();
    let mut letters = Remaining::new(client, &which, rate).await?;
    while let Some(next) = stop.run_until_cancelled(letters.next()).await {
        let Some(letter) = next? else { break };
        match action.apply(client, &letter).await {
            Ok(Replayed::Yes) => counts.done += 1,
            Ok(Replayed::Already) => counts.already += 1,
            Err(error) => {
                counts.failed += 1;
                note(&format!("job {} is not changed: {error:#}", letter.id));
            }
        }
    }
    report(out, action, &counts, !stop.is_cancelled())
}

/// Lists the dead letters that would be replayed or discarded, the oldest first, and their number.
async fn rehearse(
    client: &NatsClient,
    out: Printer,
    action: Action,
    which: &Which,
) -> anyhow::Result<bool> {
    let (mut count, mut after) = (0_u64, 0);
    loop {
        let letters = dead_letters::list(client, which, after, PAGE).await?;
        for letter in &letters {
            out.either(&summary(letter), || line(letter))?;
            after = letter.position();
        }
        count += letters.len() as u64;
        if letters.len() < PAGE {
            break;
        }
    }
    if !out.json {
        print(&format!(
            "{} would be {}",
            counted(count, DEAD_LETTER),
            action.did()
        ))?;
    }
    Ok(true)
}

/// Asks for confirmation on the terminal, with the number of dead letters that match.
async fn ask_about(client: &NatsClient, action: Action, which: &Which) -> anyhow::Result<Answer> {
    let count = dead_letters::count_matching(client, which).await?;
    let verb = match action {
        Action::Replay => "replay",
        Action::Discard => "discard",
    };
    ask(verb, count, DEAD_LETTER).await
}

#[derive(Debug, Default)]
struct Counts {
    done: u64,
    already: u64,
    failed: u64,
}

fn report(out: Printer, action: Action, counts: &Counts, complete: bool) -> anyhow::Result<bool> {
    let (
        did,
        Counts {
            done,
            already,
            failed,
        },
    ) = (action.did(), counts);
    let mut json = json!({did: done, "failed": failed, "complete": complete});
    if action == Action::Replay {
        json["already"] = json!(already);
    }
    out.either(&json, || {
        let parts = [
            (*done, did),
            (*already, told(action, Replayed::Already)),
            (*failed, "not changed"),
        ];
        let parts = parts.iter().filter(|(count, _)| *count > 0);
        let lines: Vec<_> = parts
            .map(|(count, what)| format!("{count} {what}"))
            .collect();
        if lines.is_empty() {
            "no dead letters match".to_owned()
        } else {
            lines.join("\n")
        }
    })?;
    if !complete {
        note("stopped: some dead letters were not reached");
    }
    Ok(*failed == 0 && complete)
}
