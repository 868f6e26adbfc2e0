//! What the handlers did: one line a run, written by the program that is run, and so true also when
//! the consumer that started it is killed.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use common::JobId;

/// Runs as long as the file of its attempt is there.
const HELD: &str = r#"begin; while [ -e "$FOLDER/hold.$JOB_ATTEMPT" ]; do sleep 0.05; done"#;

/// The handlers that all tests share. Each notes in the file `LEDGER` that it begins.
const SCRIPTS: &[(&str, &str)] = &[
    ("note", "begin"),
    // Succeeds at the third attempt.
    (
        "flaky",
        r#"begin; [ "$JOB_ATTEMPT" -gt 2 ] || { echo "not yet" >&2; exit 75; }"#,
    ),
    // Each attempt runs as long as its file is there.
    ("held", HELD),
    ("mail.send", "begin"),
    // As `held`: for tests that need several kinds.
    ("step.1", HELD),
    ("step.2", HELD),
    ("step.3", HELD),
    ("step.4", HELD),
    ("step.5", HELD),
    ("step.6", HELD),
    ("refuse", "begin; echo 'no such address' >&2; exit 3"),
    ("poison", r#"begin; kill -9 "$PPID""#),
    ("endless", "begin; head -c 3000000 /dev/zero"),
    (
        "deep",
        "begin; for end in '[' ']'; do printf %129s '' | tr ' ' $end; done; exit",
    ),
    ("surrogate", r#"begin; printf '%s' '"\ud800"'; exit"#),
    // Fits into what a program may say, but with its record not into a message.
    (
        "large",
        "begin; head -c 1046000 /dev/zero | tr '\\0' x; exit",
    ),
    // Says a lot each time that it fails, and ends with a result that leaves that little room.
    (
        "late",
        r#"begin; [ "$JOB_ATTEMPT" -gt 30 ] || { head -c 5000 /dev/zero | tr '\0' x >&2; exit 75; }
        head -c 1044000 /dev/zero | tr '\0' x; exit"#,
    ),
];

/// The declarations of the handlers, for a folder of files that they share with the test.
pub(crate) fn handlers(folder: &Path) -> String {
    let folder = folder.display();
    let declarations = SCRIPTS.iter().map(|(kind, script)| {
        format!(
            r#"
            [handlers."{kind}"]
            exec = ["/bin/sh", "-c", '''
                begin() {{ echo "$JOB_ID $JOB_ATTEMPT $CONSUMER_INSTANCE" >> "$FOLDER/ledger"; }}
                {script}
                echo "$CONSUMER_INSTANCE"
            ''']
            env = ["FOLDER={folder}", "CONSUMER_INSTANCE"]
            stdin = "none"
            timeout = "1h"
            "#
        )
    });
    declarations.collect()
}

/// A run that began.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Run {
    pub(crate) id: JobId,
    pub(crate) attempt: u32,
    pub(crate) consumer: String,
}

/// All runs so far, in their order.
#[derive(Debug)]
pub(crate) struct Ledger(pub(crate) Vec<Run>);

impl Ledger {
    pub(crate) fn read(folder: &Path) -> Self {
        // Nothing has run before there is a file.
        let text = fs::read_to_string(folder.join("ledger")).unwrap_or_default();
        let run = |line: &str| {
            let mut words = line.split(' ');
            let mut word = || words.next().unwrap();
            Run {
                id: word().parse().unwrap(),
                attempt: word().parse().unwrap(),
                consumer: word().to_owned(),
            }
        };
        Self(text.lines().map(run).collect())
    }

    /// The runs of one job.
    pub(crate) fn of(&self, id: JobId) -> Vec<&Run> {
        self.0.iter().filter(|run| run.id == id).collect()
    }

    /// How many runs there were beyond one for each attempt that the records speak of; at most one
    /// of each job is looked for.
    pub(crate) fn jobs(&self) -> BTreeMap<JobId, usize> {
        let mut jobs = BTreeMap::new();
        for run in &self.0 {
            *jobs.entry(run.id).or_default() += 1;
        }
        jobs
    }
}
