//! Recurring schedules: lists, shows, changes and declares them.

use std::collections::HashMap;

use bootstrap::{Nats, NatsClient};
use client::schedules::{
    self, CatchUp, Expected, Overlap, Schedule, ScheduleName, ScheduleRecord, StoredSchedule,
};
use common::{JobId, JobState, Timestamp};
use serde_json::{Value, json};

use crate::command::schedules::{Apply, Preview, Schedules, Set};
use crate::print::{Printer, counted, moment, note, print, shown, table};
use crate::schedules_file::{Change, Declared};
use crate::user::user;

pub(crate) async fn run(nats: &Nats, out: Printer, command: Schedules) -> anyhow::Result<bool> {
    let client = &nats.client;
    match command {
        Schedules::List => list(client, out).await,
        Schedules::Show { name } => show(client, out, &name).await,
        Schedules::Set(set) => put(client, out, *set).await,
        Schedules::Pause { name } => {
            let record = schedules::pause(client, &name, user()).await?;
            out.either(&record, || format!("schedule {name} is paused"))?;
            Ok(true)
        }
        Schedules::Resume { name } => {
            let record = schedules::resume(client, &name, user()).await?;
            out.either(&record, || {
                format!("schedule {name} is resumed; {}", next(&record))
            })?;
            Ok(true)
        }
        Schedules::Run { name } => {
            let id = schedules::run_now(client, &name).await?;
            out.either(&json!({"name": name, "id": id}), || id.to_string())?;
            Ok(true)
        }
        Schedules::Delete { name } => {
            let deleted = schedules::delete(client, &name, Expected::Anything).await?;
            let text = || {
                let did = if deleted { "deleted" } else { "unknown" };
                format!("schedule {name} is {did}")
            };
            out.either(&json!({"name": name, "deleted": deleted}), text)?;
            Ok(deleted)
        }
        Schedules::Preview(preview) => self::preview(client, out, preview).await,
        Schedules::Apply(apply) => self::apply(client, out, apply).await,
    }
}

async fn list(client: &NatsClient, out: Printer) -> anyhow::Result<bool> {
    let all = schedules::list(client).await?;
    let records = all.iter().filter_map(|(_, stored)| stored.record.as_ref());
    let states = schedules::last_states(client, records).await?;
    if out.json {
        for (name, stored) in &all {
            let line = match &stored.record {
                Some(record) => as_json(record, &states),
                None => json!({"name": name, "unreadable": true}),
            };
            print(&line.to_string())?;
        }
    } else if all.is_empty() {
        print("there are no schedules")?;
    } else {
        let rows: Vec<_> = all
            .iter()
            .map(|(name, stored)| row(name, stored, &states))
            .collect();
        let names = ["NAME", "KIND", "WHEN", "NEXT", "LAST", "ITS JOB"];
        print(&table(names, &rows).join("\n"))?;
    }
    Ok(true)
}

fn row(
    name: &ScheduleName,
    stored: &StoredSchedule,
    states: &HashMap<JobId, JobState>,
) -> [String; 6] {
    let Some(record) = &stored.record else {
        let text = |text: &str| text.to_owned();
        return [
            name.to_string(),
            text("?"),
            text("unreadable"),
            text("-"),
            text("-"),
            text("-"),
        ];
    };
    let last = record.last.map_or("-".to_owned(), |last| moment(last.tick));
    [
        name.to_string(),
        record.schedule.job.message().kind.to_string(),
        when(&record.schedule),
        upcoming(record),
        last,
        last_state(record, states).map_or("-".to_owned(), |state| state.as_str().to_owned()),
    ]
}

fn when(schedule: &Schedule) -> String {
    match (&schedule.cron, schedule.every) {
        (Some(cron), _) if schedule.time_zone == "UTC" => shown(cron),
        (Some(cron), _) => shown(&format!("{cron} {}", schedule.time_zone)),
        (None, every) => every.map_or_else(String::new, |every| format!("every {every}")),
    }
}

fn upcoming(record: &ScheduleRecord) -> String {
    match record.next {
        _ if record.schedule.paused => "paused".to_owned(),
        Some(next) => moment(next),
        None => "ended".to_owned(),
    }
}

fn next(record: &ScheduleRecord) -> String {
    match record.next {
        Some(next) => format!("its next tick is at {}", moment(next)),
        None => "it has no next tick".to_owned(),
    }
}

/// The state of the last job; one that waits, or has just begun, has no record.
fn last_state(record: &ScheduleRecord, states: &HashMap<JobId, JobState>) -> Option<JobState> {
    states.get(&record.last?.id).copied()
}

/// The same fields as on HTTP.
fn as_json(record: &ScheduleRecord, states: &HashMap<JobId, JobState>) -> Value {
    let mut all = json!(record);
    if let (Some(state), Some(last)) = (last_state(record, states), all.get_mut("last")) {
        last["state"] = json!(state);
    }
    if let Value::Object(fields) = &mut all {
        fields.remove("changed");
        fields.remove("pending");
    }
    all
}

async fn show(client: &NatsClient, out: Printer, name: &ScheduleName) -> anyhow::Result<bool> {
    let Some(record) = schedules::get(client, name).await? else {
        out.either(&json!({"name": name, "known": false}), || {
            format!("schedule {name} is unknown")
        })?;
        return Ok(false);
    };
    let states = schedules::last_states(client, [&record]).await?;
    let ticks = schedules::preview(&record.schedule, Timestamp::now())?;
    let mut json = as_json(&record, &states);
    json["upcoming"] = json!(ticks);
    out.either(&json, || text(&record, &states, &ticks))?;
    Ok(true)
}

fn text(record: &ScheduleRecord, states: &HashMap<JobId, JobState>, ticks: &[Timestamp]) -> String {
    let schedule = &record.schedule;
    let by = record
        .by
        .as_deref()
        .map_or(String::new(), |by| format!(" by {}", shown(by)));
    let mut lines = vec![
        format!(
            "schedule {}, revision {}, changed at {}{by}",
            record.name,
            record.revision,
            moment(record.at)
        ),
        format!("when      {}", when(schedule)),
        format!("job       {}", shown(schedule.job.as_json())),
        format!("overlap   {}", word(schedule.overlap)),
        format!("catch up  {}", catch_up(schedule.catch_up)),
    ];
    let mut add = |name: &str, value: Option<String>| {
        lines.extend(value.map(|value| format!("{name:<10}{value}")));
    };
    add("jitter", schedule.jitter.map(|jitter| jitter.to_string()));
    add("start", schedule.start_at.map(moment));
    add("end", schedule.end_at.map(moment));
    add("note", schedule.note.as_deref().map(shown));
    add(
        "last",
        record.last.map(|last| {
            let state = last_state(record, states)
                .map_or("waits, or is not known any more", JobState::as_str);
            format!("{} job {} {state}", moment(last.tick), last.id)
        }),
    );
    add(
        "skipped",
        record.last_skipped.map(|last| {
            format!(
                "{}, the last at {}",
                counted(record.skipped, "tick"),
                moment(last)
            )
        }),
    );
    add("next", Some(upcoming(record)));
    if record.next.is_some() {
        lines.extend(
            ticks
                .iter()
                .map(|tick| format!("          {}", moment(*tick))),
        );
    }
    lines.join("\n")
}

fn word(overlap: Overlap) -> &'static str {
    match overlap {
        Overlap::Allow => "allow",
        Overlap::Skip => "skip",
        Overlap::Replace => "replace",
    }
}

fn catch_up(catch_up: CatchUp) -> String {
    match catch_up {
        CatchUp::Skip => "skip".to_owned(),
        CatchUp::Once => "once".to_owned(),
        CatchUp::All(most) => format!("the last {most}"),
    }
}

async fn put(client: &NatsClient, out: Printer, set: Set) -> anyhow::Result<bool> {
    let expected = match set.revision {
        None => Expected::Anything,
        Some(0) => Expected::Nothing,
        Some(revision) => Expected::Revision(revision),
    };
    let (name, schedule) = set.schedule()?;
    let record = schedules::put(client, &name, &schedule, expected, user()).await?;
    out.either(&as_json(&record, &HashMap::new()), || {
        format!("schedule {name} is stored; {}", next(&record))
    })?;
    Ok(true)
}

async fn preview(client: &NatsClient, out: Printer, preview: Preview) -> anyhow::Result<bool> {
    let schedule = match preview.name {
        None => preview.when.of_any_jobs()?,
        Some(name) => match schedules::get(client, &name).await? {
            Some(record) => record.schedule,
            None => anyhow::bail!("there is no schedule {name}"),
        },
    };
    let ticks = schedules::preview(&schedule, Timestamp::now())?;
    out.either(&ticks, || {
        if ticks.is_empty() {
            return "there are no more ticks".to_owned();
        }
        let lines: Vec<_> = ticks.iter().map(|tick| moment(*tick)).collect();
        lines.join("\n")
    })?;
    Ok(true)
}

async fn apply(client: &NatsClient, out: Printer, apply: Apply) -> anyhow::Result<bool> {
    let declared = Declared::read(&apply.file)?;
    let stored = schedules::list(client).await?;
    let changes = declared.changes(stored, apply.prune);
    for (name, change) in &changes {
        let (sign, did, lines) = match change {
            Change::Create(_) => ('+', "create", &[][..]),
            Change::Replace(_, _, lines) => ('~', "replace", &lines[..]),
            Change::Delete => ('-', "delete", &[][..]),
        };
        // Printed before it is done: if it fails, the last line says what.
        out.either(
            &json!({"name": name, "change": did, "differences": lines}),
            || {
                let lines = lines.iter().map(|line| format!("\n    {}", shown(line)));
                format!("{sign} {name}{}", lines.collect::<String>())
            },
        )?;
        if apply.dry_run {
            continue;
        }
        match change {
            Change::Create(schedule) => {
                schedules::put(client, name, schedule, Expected::Nothing, user()).await?;
            }
            Change::Replace(schedule, revision, _) => {
                let expected = Expected::Revision(*revision);
                schedules::put(client, name, schedule, expected, user()).await?;
            }
            Change::Delete => {
                schedules::delete(client, name, Expected::Anything).await?;
            }
        }
    }
    let count = counted(changes.len() as u64, "schedule");
    note(&match (changes.is_empty(), apply.dry_run) {
        (true, _) => "all schedules are as declared".to_owned(),
        (false, true) => format!("{count} would change"),
        (false, false) => format!("{count} changed"),
    });
    Ok(true)
}
