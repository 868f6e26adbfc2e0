//! Schedules that are declared in a file, and how they differ from those that are stored.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context as _, bail};
use client::schedules::{Schedule, ScheduleName, StoredSchedule, preview};
use common::Timestamp;
use serde_json::{Map, Value};

/// The schedules of a file; of each, whether the file says that it is paused or not.
pub(crate) struct Declared(BTreeMap<ScheduleName, (Schedule, bool)>);

/// What is to be done with a schedule.
#[derive(Debug, PartialEq)]
pub(crate) enum Change {
    /// It is stored, as it is declared.
    Create(Box<Schedule>),
    /// It replaces the one with this revision, 0 if that cannot be read. The lines say what differs.
    Replace(Box<Schedule>, u64, Vec<String>),
    /// It is deleted.
    Delete,
}

impl Declared {
    pub(crate) fn read(file: &Path) -> anyhow::Result<Self> {
        let shown = file.display();
        let text = std::fs::read_to_string(file).with_context(|| format!("cannot read {shown}"))?;
        Self::parse(&text).with_context(|| format!("{shown} declares no schedules"))
    }

    fn parse(text: &str) -> anyhow::Result<Self> {
        let mut file: toml::Table = text.parse()?;
        let Some(toml::Value::Table(schedules)) = file.remove("schedules") else {
            bail!("it has no tables [schedules.NAME]");
        };
        if let Some(other) = file.keys().next() {
            bail!("unknown key {other:?}: all tables are named [schedules.NAME]");
        }
        let mut declared = BTreeMap::new();
        for (name, schedule) in schedules {
            let of_this = || format!("[schedules.{name}]");
            let says_paused = schedule.get("paused").is_some();
            let json = as_json(schedule).to_string();
            let schedule = Schedule::decode(json.as_bytes()).with_context(of_this)?;
            preview(&schedule, Timestamp::now()).with_context(of_this)?;
            let name: ScheduleName = name.parse()?;
            declared.insert(name, (schedule, says_paused));
        }
        Ok(Self(declared))
    }

    /// What makes the stored schedules those of the file. Others are deleted only if `prune` is set.
    pub(crate) fn changes(
        self,
        stored: Vec<(ScheduleName, StoredSchedule)>,
        prune: bool,
    ) -> BTreeMap<ScheduleName, Change> {
        let mut stored: BTreeMap<_, _> = stored.into_iter().collect();
        let mut changes = BTreeMap::new();
        for (name, (mut wanted, says_paused)) in self.0 {
            let change = match stored.remove(&name) {
                None => Some(Change::Create(Box::new(wanted))),
                Some(StoredSchedule { record: None, .. }) => {
                    let lines = vec!["what is stored cannot be read".to_owned()];
                    Some(Change::Replace(Box::new(wanted), 0, lines))
                }
                Some(StoredSchedule {
                    record: Some(record),
                    ..
                }) => {
                    if !says_paused {
                        wanted.paused = record.schedule.paused;
                    }
                    let differences = differences(&record.schedule, &wanted);
                    let differs = !differences.is_empty();
                    differs.then(|| Change::Replace(Box::new(wanted), record.revision, differences))
                }
            };
            changes.extend(change.map(|change| (name, change)));
        }
        if prune {
            changes.extend(stored.into_keys().map(|name| (name, Change::Delete)));
        }
        changes
    }
}

/// The fields that differ, each with both values; those of the job one by one.
fn differences(stored: &Schedule, wanted: &Schedule) -> Vec<String> {
    let (before, after) = (fields(stored), fields(wanted));
    let mut names: Vec<_> = before.keys().chain(after.keys()).collect();
    names.sort_unstable();
    names.dedup();
    let shown = |fields: &BTreeMap<String, Value>, name: &str| {
        fields
            .get(name)
            .map_or_else(|| "(none)".to_owned(), ToString::to_string)
    };
    names
        .into_iter()
        .filter(|name| before.get(*name) != after.get(*name))
        .map(|name| {
            format!(
                "{name}: {} -> {}",
                shown(&before, name),
                shown(&after, name)
            )
        })
        .collect()
}

fn fields(schedule: &Schedule) -> BTreeMap<String, Value> {
    let Ok(Value::Object(mut fields)) = serde_json::to_value(schedule) else {
        return BTreeMap::new();
    };
    let job = match fields.remove("job") {
        Some(Value::Object(job)) => job,
        _ => Map::new(),
    };
    let of_job = job
        .into_iter()
        .map(|(name, value)| (format!("job.{name}"), value));
    fields.into_iter().chain(of_job).collect()
}

/// A time is a text in JSON.
fn as_json(value: toml::Value) -> Value {
    match value {
        toml::Value::String(text) => text.into(),
        toml::Value::Integer(number) => number.into(),
        toml::Value::Float(number) => number.into(),
        toml::Value::Boolean(yes) => yes.into(),
        toml::Value::Datetime(time) => time.to_string().into(),
        toml::Value::Array(list) => list.into_iter().map(as_json).collect(),
        toml::Value::Table(table) => {
            let fields = table.into_iter();
            Value::Object(fields.map(|(name, value)| (name, as_json(value))).collect())
        }
    }
}

#[cfg(test)]
mod tests {
    use common::ScheduleRecord;
    use serde_json::json;

    use super::*;

    const FILE: &str = r#"
        [schedules.nightly]
        cron = "30 2 * * *"
        time_zone = "Europe/Berlin"
        start_at = 2026-01-31T09:30:00Z
        job = { kind = "report", payload = { days = 1, share = 0.5, mails = ["a"] }, timeout = "1h" }

        [schedules.often]
        every = "10m"
        paused = false
        [schedules.often.job]
        kind = "poll"
    "#;

    fn stored(name: &str, schedule: &Value) -> (ScheduleName, StoredSchedule) {
        let name: ScheduleName = name.parse().unwrap();
        let text = json!({
            "name": name, "revision": 7, "at": "2026-01-31T09:30:00Z", "changed": false,
            "schedule": schedule,
        });
        let record: ScheduleRecord = serde_json::from_str(&text.to_string()).unwrap();
        let sequence = 1;
        let record = Some(record);
        (name, StoredSchedule { record, sequence })
    }

    #[test]
    fn a_file_is_compared_field_by_field_and_keeps_pauses_that_it_does_not_name() {
        let nightly = json!({
            "cron": "30 3 * * *", "time_zone": "Europe/Berlin", "start_at": "2026-01-31T09:30:00Z", "paused": true,
            "job": {"kind": "report", "payload": {"share": 0.5, "mails": ["a"], "days": 2}, "timeout": "1h"},
        });
        let often = json!({"every": "10m", "paused": true, "job": {"kind": "poll"}});
        let other = json!({"every": "1h", "job": {"kind": "poll"}});
        let unreadable = StoredSchedule {
            record: None,
            sequence: 4,
        };
        let all = || {
            vec![
                stored("nightly", &nightly),
                stored("often", &often),
                stored("other", &other),
                ("broken".parse().unwrap(), unreadable.clone()),
            ]
        };
        let changes = Declared::parse(FILE).unwrap().changes(all(), false);
        let lines = |name: &str| match &changes[&name.parse::<ScheduleName>().unwrap()] {
            Change::Replace(schedule, 7, lines) => (schedule.paused, lines.clone()),
            change => panic!("{change:?}"),
        };
        let (paused, nightly) = lines("nightly");
        assert!(paused);
        assert_eq!(
            nightly,
            [
                "cron: \"30 3 * * *\" -> \"30 2 * * *\"".to_owned(),
                format!(
                    "job.payload: {} -> {}",
                    json!({"share": 0.5, "mails": ["a"], "days": 2}),
                    json!({"days": 1, "share": 0.5, "mails": ["a"]})
                )
            ]
        );
        assert_eq!(
            lines("often"),
            (false, vec!["paused: true -> (none)".to_owned()])
        );
        assert_eq!(changes.len(), 2);

        let pruned = Declared::parse(FILE).unwrap().changes(all(), true);
        let deleted = pruned
            .iter()
            .filter(|(_, change)| **change == Change::Delete);
        let deleted: Vec<_> = deleted.map(|(name, _)| name.as_str()).collect();
        assert_eq!(deleted, ["broken", "other"]);
        let new = Declared::parse(FILE).unwrap().changes(vec![], true);
        assert!(
            new.values()
                .all(|change| matches!(change, Change::Create(_)))
        );
    }

    #[test]
    fn mistakes_are_named_with_the_schedule() {
        for (text, expected) in [
            ("", "no tables [schedules.NAME]"),
            ("[schedules]\n[schedule.a]", "unknown key \"schedule\""),
            (
                "[schedules.a]\ncorn = 1",
                "[schedules.a]: field `corn`: unknown field `corn`",
            ),
            (
                "[schedules.a]\ncron = '* * 30 2 *'\njob.kind = 'a'",
                "no date matches it",
            ),
            (
                "[schedules.'a.b']\nevery = '1s'\njob.kind = 'a'",
                "invalid name of a schedule",
            ),
        ] {
            let error = format!("{:#}", Declared::parse(text).err().unwrap());
            assert!(error.contains(expected), "{text}: {error}");
        }
    }
}
