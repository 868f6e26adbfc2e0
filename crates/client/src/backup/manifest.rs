//! What a backup holds.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use anyhow::{Context as _, ensure};
use common::Timestamp;
use jetstream::Stream;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// The name of the manifest. It is written last, so a folder without it is no whole backup.
pub const MANIFEST: &str = "manifest.json";

/// The version of the format.
const FORMAT: u32 = 1;

/// The most bytes that a manifest may have.
const LARGEST: u64 = 4 << 20;

/// The dead letters that were replayed or discarded while the backup was made.
pub(super) const LETTERS: &str = "dead-letters.ndjson";

/// What became of `JOBS_LATER` while its snapshot was made, and of `JOBS_STATE`.
pub(super) const LATER_TAIL: &str = "JOBS_LATER.ndjson";
pub(super) const STATE_TAIL: &str = "JOBS_STATE.ndjson";

/// All files of a backup besides the manifest.
const FILES: [&str; 7] = [
    "JOBS.snapshot",
    "JOBS_ADVISORIES.snapshot",
    LATER_TAIL,
    "JOBS_LATER.snapshot",
    STATE_TAIL,
    "JOBS_STATE.snapshot",
    LETTERS,
];

/// The file with the snapshot of a stream.
pub(super) const fn snapshot_of(stream: Stream) -> &'static str {
    match stream {
        Stream::Jobs => "JOBS.snapshot",
        Stream::Later => "JOBS_LATER.snapshot",
        Stream::State => "JOBS_STATE.snapshot",
        Stream::Advisories => "JOBS_ADVISORIES.snapshot",
    }
}

/// The description of a backup, which is stored in it as [`MANIFEST`].
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// The version of the format: 1.
    pub format: u32,
    /// The version of the program that made the backup.
    pub version: String,
    /// When the backup began, by the clock of the machine that made it.
    pub time: Timestamp,
    /// The same by the clock of the NATS server. Every job that the server had acknowledged by then is in the backup.
    pub server_time: Timestamp,
    /// When the last stream was copied, by the clock of the NATS server.
    pub server_time_at_end: Timestamp,
    /// The streams by their names.
    pub streams: BTreeMap<String, StreamCopy>,
    /// The files by their names.
    pub files: BTreeMap<String, FileCopy>,
}

/// A stream in a backup.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StreamCopy {
    /// How many messages it held when its snapshot began.
    pub messages: u64,
    /// Their size in bytes, as the server counts it.
    pub bytes: u64,
    /// Its configuration.
    pub config: Value,
    /// What it held, as the server described it.
    pub state: Value,
}

/// A file of a backup.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileCopy {
    /// Its size in bytes.
    pub bytes: u64,
    /// Its SHA-256 in hexadecimal digits.
    pub sha256: String,
}

impl Manifest {
    pub(super) fn new(time: Timestamp, server_time: Timestamp) -> Self {
        Self {
            format: FORMAT,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            time,
            server_time,
            server_time_at_end: server_time,
            streams: BTreeMap::new(),
            files: BTreeMap::new(),
        }
    }

    /// Reads the manifest of a backup, and checks that it names what a backup has.
    pub(super) fn read(folder: &Path) -> anyhow::Result<Self> {
        let path = folder.join(MANIFEST);
        let shown = path.display();
        let about = fs::symlink_metadata(&path).with_context(|| {
            format!(
                "{shown} cannot be read: the folder holds no backup, or one that was broken off"
            )
        })?;
        ensure!(about.is_file(), "{shown} is not a file");
        ensure!(
            about.len() <= LARGEST,
            "{shown} has {} bytes, and a manifest has at most {LARGEST}",
            about.len()
        );
        let text = fs::read(&path).with_context(|| format!("cannot read {shown}"))?;
        Self::parse(&text).with_context(|| format!("{shown} is not the manifest of a backup"))
    }

    fn parse(text: &[u8]) -> anyhow::Result<Self> {
        #[derive(Deserialize)]
        struct Format {
            format: u32,
        }
        let Format { format } = serde_json::from_slice(text)?;
        ensure!(
            format == FORMAT,
            "it has the format {format}, and this program reads the format {FORMAT}: use the program that made it, or a \
             newer one"
        );
        let manifest: Self = serde_json::from_slice(text)?;
        let mut names: Vec<_> = Stream::ALL.iter().map(|stream| stream.name()).collect();
        names.sort_unstable();
        ensure!(
            manifest.streams.keys().eq(&names),
            "it must name the streams {}",
            names.join(", ")
        );
        ensure!(
            manifest.files.keys().eq(FILES),
            "it must name the files {}",
            FILES.join(", ")
        );
        for (name, stream) in &manifest.streams {
            let config = &stream.config;
            ensure!(
                config["name"] == **name,
                "the configuration of {name} is that of another stream"
            );
            // Such a stream would fill itself from others.
            for field in ["mirror", "sources"] {
                ensure!(config[field].is_null(), "{name} must not have `{field}`");
            }
            ensure!(
                stream.state.is_object(),
                "the state of {name} is not an object"
            );
        }
        Ok(manifest)
    }

    /// A stream of the backup.
    pub(super) fn stream(&self, stream: Stream) -> &StreamCopy {
        // `parse` and `take` see to that.
        &self.streams[stream.name()]
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn manifest() -> Value {
        let time = "2026-01-31T09:30:00Z".parse().unwrap();
        let mut manifest = Manifest::new(time, time);
        for stream in Stream::ALL {
            let copy = StreamCopy {
                messages: 1,
                bytes: 1,
                config: json!({"name": stream.name()}),
                state: json!({}),
            };
            manifest.streams.insert(stream.name().to_owned(), copy);
        }
        for name in FILES {
            let (bytes, sha256) = (1, "00".repeat(32));
            manifest
                .files
                .insert(name.to_owned(), FileCopy { bytes, sha256 });
        }
        serde_json::to_value(manifest).unwrap()
    }

    fn complaint(change: impl FnOnce(&mut Value)) -> String {
        let mut manifest = manifest();
        change(&mut manifest);
        let error = Manifest::parse(manifest.to_string().as_bytes()).unwrap_err();
        format!("{error:#}")
    }

    #[test]
    fn a_manifest_is_read_back() {
        let read = Manifest::parse(manifest().to_string().as_bytes()).unwrap();
        assert_eq!(serde_json::to_value(read).unwrap(), manifest());
    }

    #[test]
    fn an_odd_manifest_is_refused_with_a_reason() {
        let remove = |value: &mut Value, name: &str| {
            value.as_object_mut().unwrap().remove(name).unwrap();
        };
        let copy = json!({"bytes": 1, "sha256": "00"});
        for (error, wanted) in [
            (
                complaint(|it| it["format"] = json!(2)),
                "it has the format 2",
            ),
            (
                complaint(|it| remove(it, "format")),
                "missing field `format`",
            ),
            (
                complaint(|it| remove(it, "version")),
                "missing field `version`",
            ),
            (
                complaint(|it| it["more"] = json!(1)),
                "unknown field `more`",
            ),
            (
                complaint(|it| remove(&mut it["streams"], "JOBS")),
                "it must name the streams",
            ),
            (
                complaint(|it| it["files"]["../../etc/passwd"] = copy.clone()),
                "it must name the files",
            ),
            (
                complaint(|it| remove(&mut it["files"], LETTERS)),
                "it must name the files",
            ),
            (
                complaint(|it| it["files"][LETTERS]["bytes"] = json!(-1)),
                "invalid value",
            ),
            (
                complaint(|it| it["streams"]["JOBS"]["config"]["name"] = json!("OTHER")),
                "that of another stream",
            ),
            (
                complaint(|it| it["streams"]["JOBS"]["config"]["sources"] = json!([{"name": "X"}])),
                "must not have `sources`",
            ),
            (
                complaint(|it| it["streams"]["JOBS"]["state"] = json!([])),
                "not an object",
            ),
            (complaint(|it| *it = json!(null)), "invalid type"),
        ] {
            assert!(error.contains(wanted), "{wanted}: {error}");
        }
    }
}
