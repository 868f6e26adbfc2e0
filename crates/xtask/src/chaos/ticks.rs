//! The recurring schedules of a run, and the ticks that they have to have.

use std::time::Duration;

use anyhow::Context as _;
use client::schedules::{self, Expected, Schedule, ScheduleRecord};
use common::Timestamp;
use schedule::{Timetable, pending_job};
use serde_json::json;

use super::history::{Event, History, micros};
use super::ledger::Kind;
use super::stand::Stand;

/// Stores the schedules, which last as long as the load, and notes all their ticks.
pub(super) async fn store(stand: &Stand, history: &History, span: Duration) -> anyhow::Result<()> {
    let now = Timestamp::now();
    let start = now.after(Duration::from_secs(1));
    let end = now.after(span);
    for (name, mut times) in [
        ("interval", json!({"every": "1s"})),
        ("cron", json!({"cron": "*/2 * * * * *"})),
    ] {
        times["job"] = json!({"kind": Kind::Tick.name(), "max_attempts": 50});
        times["catch_up"] = json!({"all": 100});
        times["start_at"] = json!(start);
        times["end_at"] = json!(end);
        let wanted = Schedule::decode(times.to_string().as_bytes())?;
        let name = name.parse()?;
        let nats = stand.operator.nats();
        let stored = schedules::put(nats, &name, &wanted, Expected::Nothing, None).await;
        let stored = stored.context("cannot store a schedule")?;
        for event in ticks(&stored)? {
            history.note(event);
        }
    }
    Ok(())
}

fn ticks(stored: &ScheduleRecord) -> anyhow::Result<Vec<Event>> {
    let timetable = Timetable::of(&stored.schedule)?;
    let ticks = std::iter::successors(stored.next, |tick| timetable.after(*tick));
    let events = ticks.map(|tick| Event::Tick {
        due: micros(tick),
        id: pending_job(&stored.name, &stored.schedule, tick).id,
        schedule: stored.name.to_string(),
    });
    Ok(events.collect())
}
