//! `cargo xtask documents`: the JSON Schemas of what crosses the wire.

use std::fs;
use std::io::ErrorKind;
use std::process::ExitCode;

use anyhow::{Context as _, bail};
use clap::Args;
use common::{
    ConsumerStatus, Fleet, FleetRequest, JobMessage, JobRecord, KeyHolder, KindSetting, Outcome,
    RunNowAnswer, ScheduleRecord, UniqueLock,
};
use schemars::generate::SchemaSettings;
use schemars::{JsonSchema, Schema};
use test_support::project_root;

/// Write docs/schemas/*.schema.json from the types that cross the wire
#[derive(Args)]
pub(crate) struct Documents {
    /// Write nothing, and fail if a file is not what would be written
    #[arg(long)]
    check: bool,
}

impl Documents {
    pub(crate) fn run(&self) -> anyhow::Result<ExitCode> {
        let mut outdated = Vec::new();
        for (name, schema) in schemas() {
            let file = format!("docs/schemas/{name}.schema.json");
            let path = project_root().join(&file);
            let written = match fs::read(&path) {
                Ok(bytes) => serde_json::from_slice(&bytes).ok(),
                Err(error) if error.kind() == ErrorKind::NotFound => None,
                Err(error) => return Err(error).with_context(|| format!("cannot read {file}")),
            };
            // As values, because the order of keys in a text depends on what else is built with it.
            if written.as_ref() == Some(&schema) {
                continue;
            }
            if !self.check {
                let text = serde_json::to_string_pretty(&schema)? + "\n";
                fs::write(&path, text).with_context(|| format!("cannot write {file}"))?;
                println!("wrote {file}");
            }
            outdated.push(file);
        }
        if self.check && !outdated.is_empty() {
            bail!(
                "{} differs from the types in crates/common: write it anew with cargo xtask documents",
                outdated.join(", ")
            );
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// The schemas by the names of their files.
fn schemas() -> [(&'static str, Schema); 11] {
    // Draft 7 is what every AsyncAPI tool has to understand.
    let settings = SchemaSettings::draft07();
    // What a consumer takes: a sender may leave out what has a default.
    let taken = settings.clone().for_deserialize();
    // What a consumer sends: a reader finds each field that is always there.
    let sent = settings.for_serialize();
    [
        ("job", schema::<JobMessage<'_>>(&taken)),
        ("outcome", schema::<Outcome>(&sent)),
        ("consumer-status", schema::<ConsumerStatus>(&sent)),
        ("job-record", schema::<JobRecord>(&sent)),
        ("kind-setting", schema::<KindSetting>(&sent)),
        ("unique-lock", schema::<UniqueLock>(&sent)),
        ("key-holder", schema::<KeyHolder>(&sent)),
        ("run-now-answer", schema::<RunNowAnswer>(&sent)),
        // A sender may leave out what has a default.
        ("schedule-record", schema::<ScheduleRecord>(&taken)),
        ("fleet-request", schema::<FleetRequest>(&taken)),
        ("fleet", schema::<Fleet>(&sent)),
    ]
}

fn schema<T: JsonSchema>(settings: &SchemaSettings) -> Schema {
    settings
        .clone()
        .into_generator()
        .into_root_schema_for::<T>()
}
