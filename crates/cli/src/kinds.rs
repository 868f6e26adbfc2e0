//! Pauses and resumes a kind or all kinds, has the priorities of a kind heeded, and lists the settings.

use bootstrap::Nats;
use client::kinds::{self, PauseEnd};
use common::{JobKind, KindSetting, Timestamp};
use serde_json::json;

use crate::command::Pause;
use crate::print::{Printer, moment, note, print, shown, table};
use crate::user::user;

pub(crate) async fn pause(nats: &Nats, out: Printer, pause: Pause) -> anyhow::Result<bool> {
    let Pause {
        kind,
        length,
        reason,
    } = pause;
    let pause = kinds::Pause {
        end: length.map_or(PauseEnd::Resumed, PauseEnd::After),
        reason,
        by: user(),
    };
    let client = &nats.client;
    if let Some(kind) = kind.kind {
        let setting = kinds::pause(client, &kind, &pause).await?;
        let text = || format!("kind {kind} is {}", paused(&setting));
        out.either(&as_json(&kind, &setting), text)?;
    } else {
        let setting = kinds::pause_all(client, &pause).await?;
        let text = || format!("all kinds are {}", paused(&setting));
        out.either(&all_as_json(&setting), text)?;
    }
    Ok(true)
}

/// Resumes a kind, or without one all kinds.
pub(crate) async fn resume(
    nats: &Nats,
    out: Printer,
    kind: Option<JobKind>,
) -> anyhow::Result<bool> {
    let client = &nats.client;
    let Some(kind) = kind else {
        let setting = kinds::resume_all(client, user()).await?;
        let text = || "all kinds are resumed".to_owned();
        out.either(&all_as_json(&setting), text)?;
        let now = Timestamp::now();
        let still = kinds::list(client).await?;
        let still = still.iter().filter(|(_, setting)| setting.is_paused(now));
        let still: Vec<_> = still.map(|(kind, _)| kind.as_str()).collect();
        if !still.is_empty() {
            note(&format!("paused on their own: {}", still.join(", ")));
        }
        return Ok(true);
    };
    let setting = kinds::resume(client, &kind, user()).await?;
    let text = || format!("kind {kind} is resumed");
    out.either(&as_json(&kind, &setting), text)?;
    let all = kinds::get_all(client).await?;
    if let Some(all) = all.filter(|all| all.is_paused(Timestamp::now())) {
        note(&format!(
            "its jobs still wait: all kinds are {}",
            paused(&all)
        ));
    }
    Ok(true)
}

pub(crate) async fn heed_priorities(
    nats: &Nats,
    out: Printer,
    kind: JobKind,
) -> anyhow::Result<bool> {
    let setting = kinds::heed_priorities(&nats.client, &kind, user()).await?;
    let text = || format!("the priorities of kind {kind} are heeded");
    out.either(&as_json(&kind, &setting), text)?;
    Ok(true)
}

pub(crate) async fn list(nats: &Nats, out: Printer) -> anyhow::Result<bool> {
    let settings = kinds::list(&nats.client).await?;
    let all = kinds::get_all(&nats.client).await?;
    if out.json {
        if let Some(all) = &all {
            print(&all_as_json(all).to_string())?;
        }
        for (kind, setting) in &settings {
            print(&as_json(kind, setting).to_string())?;
        }
        return Ok(true);
    }
    let now = Timestamp::now();
    let row = |kind: &str, setting: &KindSetting| {
        let priorities = if setting.priorities { "heeded" } else { "-" };
        let pause = setting.is_paused(now).then(|| paused(setting));
        let by = setting.by.as_deref().map(shown);
        [
            kind.to_owned(),
            priorities.to_owned(),
            pause.unwrap_or_else(|| "-".to_owned()),
            by.unwrap_or_else(|| "-".to_owned()),
            moment(setting.at),
        ]
    };
    let all = all.iter().map(|setting| row("(all kinds)", setting));
    let each = settings
        .iter()
        .map(|(kind, setting)| row(kind.as_str(), setting));
    let rows: Vec<_> = all.chain(each).collect();
    let names = ["KIND", "PRIORITIES", "PAUSE", "BY", "CHANGED"];
    print(&table(names, &rows).join("\n"))?;
    Ok(true)
}

/// That a kind or all kinds are paused, until when, and why.
pub(crate) fn paused(setting: &KindSetting) -> String {
    let mut text = "paused".to_owned();
    if let Some(until) = setting.paused_until {
        text.push_str(" until ");
        text.push_str(&moment(until));
    }
    if let Some(reason) = &setting.reason {
        text.push_str(": ");
        text.push_str(&shown(reason));
    }
    text
}

fn as_json(kind: &JobKind, setting: &KindSetting) -> serde_json::Value {
    let mut all = json!(setting);
    all["kind"] = json!(kind);
    all
}

/// The setting of all kinds: no kind may have this name.
fn all_as_json(setting: &KindSetting) -> serde_json::Value {
    let mut all = json!(setting);
    all["kind"] = json!("=all");
    all
}
