//! Pauses and resumes a kind, has its priorities heeded, and lists the settings of kinds.

use bootstrap::Nats;
use client::kinds::{self, PauseEnd};
use common::{JobKind, KindSetting, Timestamp};
use serde_json::json;

use crate::command::Pause;
use crate::print::{Printer, moment, print, shown, table};
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
    let setting = kinds::pause(&nats.client, &kind, &pause).await?;
    let text = || format!("kind {kind} is {}", paused(&setting));
    out.either(&as_json(&kind, &setting), text)?;
    Ok(true)
}

pub(crate) async fn resume(nats: &Nats, out: Printer, kind: JobKind) -> anyhow::Result<bool> {
    let setting = kinds::resume(&nats.client, &kind, user()).await?;
    let text = || format!("kind {kind} is resumed");
    out.either(&as_json(&kind, &setting), text)?;
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
    if out.json {
        for (kind, setting) in &settings {
            print(&as_json(kind, setting).to_string())?;
        }
        return Ok(true);
    }
    let now = Timestamp::now();
    let row = |(kind, setting): &(JobKind, KindSetting)| {
        let priorities = if setting.priorities { "heeded" } else { "-" };
        let pause = setting.is_paused(now).then(|| paused(setting));
        let by = setting.by.as_deref().map(shown);
        [
            kind.to_string(),
            priorities.to_owned(),
            pause.unwrap_or_else(|| "-".to_owned()),
            by.unwrap_or_else(|| "-".to_owned()),
            moment(setting.at),
        ]
    };
    let rows: Vec<_> = settings.iter().map(row).collect();
    let names = ["KIND", "PRIORITIES", "PAUSE", "BY", "CHANGED"];
    print(&table(names, &rows).join("\n"))?;
    Ok(true)
}

/// That a kind is paused, until when, and why.
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
