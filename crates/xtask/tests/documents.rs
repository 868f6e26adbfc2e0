//! docs/asyncapi.yaml and docs/schemas agree with the types that cross the wire.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::process::Command;
use std::time::Duration;

use common::{
    Backoff, ConsumerState, ConsumerStatus, Counts, DeadReason, FailedAttempt, Fleet, FleetKind,
    FleetMember, FleetRequest, JobId, JobKind, JobMessage, JobRecord, JobState, KeyHolder,
    KindSetting, KindStatus, LaneStatus, Outcome, OutcomeError, Presence, Priority, Retention,
    RunCounts, RunNowAnswer, RunTime, ScheduleRecord, Status, Timestamp, UniqueHash, UniqueLock,
    subjects,
};
use serde_json::{Value, json};
use test_support::project_root;

fn read(file: &str) -> String {
    fs::read_to_string(project_root().join(file)).unwrap_or_else(|error| panic!("{file}: {error}"))
}

fn asyncapi() -> Value {
    serde_saphyr::from_str(&read("docs/asyncapi.yaml")).expect("asyncapi.yaml is YAML")
}

fn schema(name: &str) -> Value {
    let file = format!("docs/schemas/{name}.schema.json");
    serde_json::from_str(&read(&file)).unwrap_or_else(|error| panic!("{file}: {error}"))
}

fn validator(schema: &Value) -> jsonschema::Validator {
    jsonschema::options()
        .should_validate_formats(true)
        .build(schema)
        .expect("the schema is one, and what it refers to is there")
}

/// The constants of a source file that hold a text, by name.
fn constants(file: &str) -> BTreeMap<String, String> {
    let source = read(file);
    let found = source.lines().filter_map(|line| {
        let (name, value) = line
            .trim()
            .strip_prefix("pub const ")?
            .split_once(": &str = \"")?;
        Some((name.to_owned(), value.strip_suffix("\";")?.to_owned()))
    });
    found.collect()
}

/// The headers that are this project's own.
fn names_of_headers() -> BTreeSet<String> {
    let constants = constants("crates/common/src/subjects.rs").into_iter();
    constants
        .filter_map(|(name, value)| name.ends_with("_HEADER").then_some(value))
        .collect()
}

/// Calls `visit` with each object of a document.
fn walk(value: &Value, visit: &mut impl FnMut(&serde_json::Map<String, Value>)) {
    match value {
        Value::Object(object) => {
            visit(object);
            object.values().for_each(|value| walk(value, visit));
        }
        Value::Array(list) => list.iter().for_each(|value| walk(value, visit)),
        _ => {}
    }
}

/// Whether the type takes a document.
fn decodes(name: &str, document: &Value) -> Result<(), String> {
    let bytes = document.to_string().into_bytes();
    let text = |error: serde_json::Error| error.to_string();
    match name {
        "job" => JobMessage::decode(&bytes)
            .map(drop)
            .map_err(|error| error.to_string()),
        "outcome" => serde_json::from_slice::<Outcome>(&bytes)
            .map(drop)
            .map_err(text),
        "consumer-status" => serde_json::from_slice::<ConsumerStatus>(&bytes)
            .map(drop)
            .map_err(text),
        "job-record" => serde_json::from_slice::<JobRecord>(&bytes)
            .map(drop)
            .map_err(text),
        "kind-setting" => serde_json::from_slice::<KindSetting>(&bytes)
            .map(drop)
            .map_err(text),
        "unique-lock" => serde_json::from_slice::<UniqueLock>(&bytes)
            .map(drop)
            .map_err(text),
        "run-now-answer" => serde_json::from_slice::<RunNowAnswer>(&bytes)
            .map(|_| ())
            .map_err(|error| error.to_string()),
        "key-holder" => serde_json::from_slice::<KeyHolder>(&bytes)
            .map(drop)
            .map_err(text),
        "schedule-record" => serde_json::from_slice::<ScheduleRecord>(&bytes)
            .map(drop)
            .map_err(text),
        "fleet-request" => serde_json::from_slice::<FleetRequest>(&bytes)
            .map(drop)
            .map_err(text),
        "fleet" => serde_json::from_slice::<Fleet>(&bytes)
            .map(drop)
            .map_err(text),
        _ => panic!("no type for the schema {name}"),
    }
}

#[test]
fn the_schemas_are_those_of_the_types() {
    let output = Command::new(env!("CARGO_BIN_EXE_xtask"))
        .args(["documents", "--check"])
        .output()
        .expect("xtask can be started");
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
}

#[test]
fn each_reference_leads_somewhere() {
    let document = asyncapi();
    let mut references = 0;
    walk(&document, &mut |object| {
        let Some(reference) = object.get("$ref") else {
            return;
        };
        references += 1;
        let reference = reference.as_str().expect("a reference is a text");
        if let Some(pointer) = reference.strip_prefix('#') {
            assert!(
                document.pointer(pointer).is_some(),
                "{reference} leads nowhere"
            );
        } else {
            let name = reference
                .strip_prefix("schemas/")
                .and_then(|file| file.strip_suffix(".schema.json"));
            validator(&schema(
                name.unwrap_or_else(|| panic!("{reference} is no schema")),
            ));
        }
    });
    assert!(references > 20, "only {references} references were found");
}

#[test]
fn the_channels_are_the_subjects_and_no_others() {
    const PARAMETER: &str = "KIND";
    let id: JobId = "01890a5d-ac96-774b-bcce-b302099a8057".parse().unwrap();
    let hash = UniqueHash::from([7; 16]);
    let filled_in = |address: &str| {
        let address = address.replace("{kind}", PARAMETER);
        let address = address.replace("{id}", &id.to_string());
        let address = address.replace("{priority}", "high").replace("{run}", "7");
        let address = address.replace("{slot}", "9").replace("{name}", "nightly");
        let address = address.replace("{hash}", &hash.to_string());
        address.replace("{seconds}", "4096")
    };
    let document = asyncapi();
    let addresses: BTreeSet<String> = document["channels"]
        .as_object()
        .unwrap()
        .values()
        // A reply subject has no address of its own.
        .filter_map(|channel| Some(filled_in(channel["address"].as_str()?)))
        .collect();
    let kind: JobKind = PARAMETER.parse().unwrap();
    let name = "nightly".parse().unwrap();
    let expected = BTreeSet::from([
        subjects::CREATE.to_owned(),
        subjects::create_kind(&kind),
        subjects::STATUS.to_owned(),
        subjects::FLEET.to_owned(),
        subjects::serves_kind(&kind),
        subjects::durable_job(id, Priority::High, 7, &kind),
        subjects::due_job(id, Priority::High, 7, &kind),
        subjects::later(id),
        subjects::state(id),
        subjects::ended(Retention::at_least(Duration::from_hours(1)), id),
        subjects::events(id),
        subjects::cancel(id),
        subjects::kind_setting(&kind),
        subjects::unique(hash),
        subjects::release(hash),
        subjects::run_now(id),
        subjects::schedule(&name),
        subjects::next_tick(&name),
        subjects::due_tick(&name),
        subjects::dead(id, &kind),
        subjects::overdue(9, id),
        // The server's own, by deploy/nats.conf.
        "jobs.server".to_owned(),
        "jobs.server.health".to_owned(),
    ]);
    assert_eq!(addresses, expected);

    let constants = constants("crates/common/src/subjects.rs");
    let below_jobs = constants
        .values()
        .filter(|value| value.starts_with("jobs."));
    // Consumers alone write and read it.
    let below_jobs = below_jobs.filter(|value| *value != subjects::OVERDUE_CURSOR);
    // It is described with the settings of single kinds.
    let below_jobs = below_jobs.filter(|value| *value != subjects::SETTING_OF_ALL_KINDS);
    for subject in below_jobs {
        assert!(
            expected.iter().any(|address| is_below(address, subject)),
            "no channel for {subject}"
        );
    }
    assert!(constants.len() >= 6, "{constants:?}");
}

/// Whether a subject is that of a constant, which may hold wildcards, or below it.
fn is_below(subject: &str, constant: &str) -> bool {
    let mut tokens = subject.split('.');
    constant.split('.').all(|wanted| {
        let token = tokens.next();
        token.is_some_and(|token| wanted == "*" || wanted == ">" || wanted == token)
    })
}

#[test]
fn whoever_takes_jobs_joins_the_queue_group() {
    let document = asyncapi();
    let jobs = ["#/channels/jobs", "#/channels/jobsOfKind"];
    let mut receivers = 0;
    for (name, operation) in document["operations"].as_object().unwrap() {
        let channel = operation["channel"]["$ref"].as_str().unwrap();
        if operation["action"] == "receive" && jobs.contains(&channel) {
            receivers += 1;
            assert_eq!(
                operation["bindings"]["nats"]["queue"],
                subjects::WORKERS,
                "{name}"
            );
        }
    }
    assert_eq!(receivers, 2);
}

#[test]
fn the_headers_the_codes_and_the_version_are_told() {
    let document = asyncapi();
    let headers = |message: &str| {
        let headers = &document["components"]["messages"][message]["headers"]["properties"];
        let headers = headers.as_object().expect("the message has headers");
        headers.keys().cloned().collect::<BTreeSet<_>>()
    };
    let told = ["job", "durableJob", "deadLetter", "marker"].map(headers);
    let told = told.into_iter().flatten();
    let told: BTreeSet<_> = told.filter(|name| name.starts_with("Jobs-")).collect();
    assert!(told.len() >= 5, "{told:?}");
    assert_eq!(told, names_of_headers());

    let outcome = &document["components"]["messages"]["outcome"];
    let told = outcome["description"].as_str().unwrap();
    let codes = constants("crates/common/src/outcome.rs");
    assert!(codes.len() >= 13, "{codes:?}");
    for code in codes.values() {
        assert!(
            told.contains(&format!("| `{code}` |")),
            "the code {code} is not told"
        );
    }
    for status in [
        Status::Succeeded,
        Status::Failed,
        Status::Rejected,
        Status::Busy,
        Status::Interrupted,
        Status::Expired,
    ] {
        validator(&schema("outcome"))
            .validate(&json!({"id": null, "status": status, "consumer": "c", "attempt": 1, "duration_ms": 0}))
            .unwrap_or_else(|error| panic!("{status}: {error}"));
    }

    assert_eq!(document["info"]["version"], env!("CARGO_PKG_VERSION"));
}

#[test]
fn the_examples_are_what_they_are_examples_of() {
    let document = asyncapi();
    let mut examples = 0;
    for (name, message) in document["components"]["messages"].as_object().unwrap() {
        for example in message["examples"].as_array().into_iter().flatten() {
            examples += 1;
            let payload = &example["payload"];
            let valid = |schema: &Value| {
                validator(schema).validate(payload).unwrap_or_else(|error| {
                    panic!("{name}: {error} at {}: {payload}", error.instance_path())
                });
            };
            // What is the server's has no type here.
            match message["payload"]["$ref"].as_str() {
                Some(file) => {
                    let schema_name = file
                        .trim_start_matches("schemas/")
                        .trim_end_matches(".schema.json");
                    valid(&schema(schema_name));
                    decodes(schema_name, payload)
                        .unwrap_or_else(|error| panic!("{name}: {error}: {payload}"));
                }
                None => valid(&message["payload"]),
            }
            if let Some(headers) = example.get("headers") {
                validator(&message["headers"])
                    .validate(headers)
                    .unwrap_or_else(|error| panic!("{name}: {error}: {headers}"));
            }
        }
    }
    assert!(examples >= 14, "only {examples} examples were found");
}

#[test]
fn what_the_type_refuses_the_schema_refuses_too() {
    let id = "01890a5d-ac96-774b-bcce-b302099a8057";
    let refused = [
        json!({}),
        json!([]),
        json!({"kind": ""}),
        json!({"kind": "a..b"}),
        json!({"kind": "a b"}),
        json!({"kind": "k".repeat(129)}),
        json!({"kind": "a", "prioritty": "high"}),
        json!({"kind": "a", "priority": "urgent"}),
        json!({"kind": "a", "id": 7}),
        json!({"kind": "a", "timeout": 30}),
        json!({"kind": "a", "deadline": "tomorrow"}),
        json!({"kind": "a", "max_attempts": 0}),
        json!({"kind": "a", "max_attempts": 101}),
        json!({"kind": "a", "backoff": {"factor": 0.5}}),
        json!({"kind": "a", "backoff": {"faktor": 2}}),
        json!({"kind": "a", "unique": {}}),
        json!({"kind": "a", "unique": {"key": ""}}),
        json!({"kind": "a", "unique": {"key": "b", "until": "later"}}),
        json!({"kind": "a", "unique": {"key": "b", "scope": "c"}}),
    ];
    let validator = validator(&schema("job"));
    for job in &refused {
        assert!(decodes("job", job).is_err(), "the type takes {job}");
        assert!(!validator.is_valid(job), "the schema takes {job}");
    }
    let taken = [
        json!({"kind": "a"}),
        json!({"kind": "A_1-.b", "id": null, "payload": null, "timeout": null}),
        json!({"kind": "a", "id": id, "payload": [1, {"x": null}], "max_attempts": 100}),
        json!({"kind": "a", "backoff": {"factor": 1}, "priority": "low"}),
    ];
    for job in &taken {
        decodes("job", job).unwrap_or_else(|error| panic!("the type refuses {job}: {error}"));
        assert!(validator.is_valid(job), "the schema refuses {job}");
    }
}

#[test]
fn a_setting_of_a_kind_is_what_the_schema_says() {
    let mut setting = KindSetting {
        paused: true,
        paused_until: Some(Timestamp::now()),
        reason: Some("r".to_owned()),
        priorities: true,
        by: None,
        at: Timestamp::now(),
        others: serde_json::Map::new(),
    };
    let validator = validator(&schema("kind-setting"));
    for concurrency in [None, Some(json!(3))] {
        // A later version may add a field.
        let added = concurrency.map(|value| ("concurrency".to_owned(), value));
        setting.others.extend(added);
        let setting = serde_json::to_value(&setting).unwrap();
        validator
            .validate(&setting)
            .unwrap_or_else(|error| panic!("{error}: {setting}"));
    }
}

#[test]
fn what_is_sent_is_what_the_schemas_say() {
    let check = |name: &str, document: Value| {
        validator(&schema(name))
            .validate(&document)
            .unwrap_or_else(|error| panic!("{name}: {error}: {document}"));
    };
    let now = Timestamp::now();
    let job = JobMessage {
        id: Some(JobId::generate()),
        created_at: Some(now),
        deadline: Some(now),
        backoff: Some(Backoff::default()),
        priority: Priority::High,
        max_attempts: Some(common::MaxAttempts::default()),
        ..JobMessage::new("mail.send".parse().unwrap())
    };
    check("job", serde_json::to_value(job).unwrap());

    let mut outcome = Outcome {
        id: None,
        status: Status::Failed,
        consumer: "c".to_owned(),
        attempt: 1,
        result: None,
        error: Some(OutcomeError::new(common::codes::PANIC, "m")),
        duration_ms: 0.0,
    };
    check("outcome", serde_json::to_value(&outcome).unwrap());
    outcome.error = Some(OutcomeError {
        retry_after_ms: Some(1),
        ..OutcomeError::new(common::codes::TRANSIENT, "m")
    });
    check("outcome", serde_json::to_value(&outcome).unwrap());

    let mut record = JobRecord::new(JobId::generate(), None, JobState::Scheduled, now);
    check("job-record", serde_json::to_value(&record).unwrap());
    record.kind = "mail.send".parse().ok();
    record.consumer = Some("c".to_owned());
    record.next_at = Some(now);
    record.result = serde_json::value::to_raw_value(&json!({"n": 1})).ok();
    record.duration_ms = Some(1.5);
    record.settled_deliveries = 3;
    record.failures = vec![FailedAttempt {
        attempt: 1,
        consumer: None,
        at: now,
        error: OutcomeError::new(common::codes::LOST, "m"),
    }];
    for state in JobState::stored() {
        record.state = state;
        check("job-record", serde_json::to_value(&record).unwrap());
    }
    let headers = validator(&asyncapi()["components"]["messages"]["deadLetter"]["headers"]);
    for reason in DeadReason::ALL {
        record.reason = Some(reason);
        check("job-record", serde_json::to_value(&record).unwrap());
        let letter = json!({
            subjects::DEAD_REASON_HEADER: reason,
            subjects::DEAD_FAILURES_HEADER: "[]",
            subjects::PRIORITY_HEADER: Priority::Low,
            subjects::RUN_HEADER: "1",
        });
        headers
            .validate(&letter)
            .unwrap_or_else(|error| panic!("{error}: {letter}"));
    }

    let kinds = [vec![], vec![0, 1]].map(RunCounts::from);
    let kinds = kinds.map(|counts| (format!("{counts:?}"), of_runs(counts)));
    let lane = LaneStatus {
        kinds: kinds.into(),
        ..LaneStatus::default()
    };
    let status = ConsumerStatus {
        consumer: "c".to_owned(),
        host: "h".to_owned(),
        version: "0.1.0".to_owned(),
        started_at: now,
        uptime_ms: 0,
        state: ConsumerState::Draining,
        concurrency: 1,
        in_flight: 0,
        inbox: 1,
        waiting: 0,
        received: 0,
        dropped: 0,
        unserved_kinds: Vec::new(),
        totals: Counts::default(),
        lanes: [(subjects::CORE_LANE.to_owned(), lane)].into(),
    };
    check("consumer-status", serde_json::to_value(status).unwrap());
}

fn of_runs(run_counts: RunCounts) -> KindStatus {
    KindStatus {
        run_counts,
        ..KindStatus::default()
    }
}

#[test]
fn what_is_told_of_the_fleet_is_what_the_schema_says() {
    let check = |name: &str, document: Value| {
        validator(&schema(name))
            .validate(&document)
            .unwrap_or_else(|error| panic!("{name}: {error}: {document}"));
    };
    let now = Timestamp::now();
    let mut request = FleetRequest::default();
    check("fleet-request", serde_json::to_value(&request).unwrap());
    request.limit = Some(1);
    request.search = Some("worker".to_owned());
    check("fleet-request", serde_json::to_value(&request).unwrap());
    let misspelt = json!({"lim": 1});
    assert!(!validator(&schema("fleet-request")).is_valid(&misspelt));
    assert!(decodes("fleet-request", &misspelt).is_err());

    let mut fleet = Fleet::new("s".to_owned(), now, Duration::from_secs(5));
    check("fleet", serde_json::to_value(&fleet).unwrap());
    fleet.asked_at = Some(now);
    fleet.spread_percent = Some([1.5, 2.5]);
    fleet.unserved_kinds = vec!["mail.send".parse().unwrap()];
    fleet.kinds = vec![FleetKind {
        kind: "echo".to_owned(),
        counts: Counts::default(),
        run_ms: RunTime::default(),
        run_counts: Some(vec![0, 1].into()),
    }];
    fleet.next = Some("n".to_owned());
    for presence in [Presence::Present, Presence::Missing] {
        fleet.consumers.push(FleetMember {
            consumer: "c".to_owned(),
            host: "h".to_owned(),
            version: "0.1.0".to_owned(),
            started_at: now,
            presence,
            state: ConsumerState::Running,
            concurrency: 1,
            in_flight: 0,
            waiting: 0,
            counts: Counts::default(),
            run_ms: RunTime::default(),
            answered_at: now,
            took_ms: 0.5,
        });
    }
    check("fleet", serde_json::to_value(&fleet).unwrap());
}

#[test]
fn the_services_are_built_without_what_only_the_documents_need() {
    let output = Command::new(env!("CARGO"))
        .current_dir(project_root())
        .args([
            "tree",
            "--locked",
            "--edges",
            "normal,build",
            "--prefix",
            "none",
        ])
        // The gateway describes its API itself, from the same types.
        .args(
            test_support::SERVICES
                .iter()
                .filter(|service| **service != "gateway")
                .map(|service| format!("--package={}", test_support::package_of(service))),
        )
        .output()
        .expect("cargo can be started");
    let tree = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    assert!(tree.contains("async-nats v"), "{tree}");
    assert!(!tree.contains("schemars"), "{tree}");
}
