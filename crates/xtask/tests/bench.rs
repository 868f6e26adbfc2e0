//! The bench as a whole, short and not optimised: that it measures, and that nothing is lost
//! meanwhile.

use std::fs;
use std::process::{Command, Stdio};

use serde_json::Value;
use test_support::{BuildDir, build_services};

#[test]
fn every_scenario_gives_its_figures_and_loses_no_job() {
    build_services(&BuildDir::current(), Stdio::inherit()).expect("the services can be built");
    let folder = tempfile::tempdir().expect("a temporary folder can be created");
    let file = folder.path().join("bench.json");
    let output = Command::new(env!("CARGO_BIN_EXE_xtask"))
        .args(["bench-role", "measure", "--rounds", "1", "--span", "100ms"])
        .arg("--json")
        .arg(&file)
        .output()
        .expect("the bench can be started");
    let words = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{words}");

    let table = String::from_utf8(output.stdout).expect("a table is text");
    let report: Value = serde_json::from_slice(&fs::read(&file).expect("the numbers are there"))
        .expect("the numbers are JSON");
    for version in ["rustc", "nats-server", "async-nats"] {
        assert!(report["versions"][version].is_string(), "{report:#}");
    }
    let figures = report["figures"].as_array().expect("there are figures");
    for (name, with_bare) in [
        ("fire-and-forget, 1 consumer", true),
        ("fire-and-forget, 4 consumers: CPU a job", true),
        ("confirmed, 4 consumers", true),
        ("fire-and-forget, publisher alone", true),
        ("submit to handler start, p99", true),
        ("jobs.status in a flood of jobs, p99", true),
        ("jobs.status, all slots computing, p99", true),
        ("submission, raw and ours", true),
        ("submission to acknowledgement, raw and ours", true),
        ("the same, with a record and with keep = failures", true),
        ("consumer, idle: resident", true),
        ("status-service, idle: resident", false),
        (
            "durable, submission by the crate client (in place of bare: by the publisher)",
            true,
        ),
        ("gateway, durable submit, p50", true),
        ("gateway, durable submits over 256 connections", true),
        ("gateway, idle: resident", false),
        ("gateway, start to ready", false),
        ("consumer, start to first outcome", true),
        ("publisher, size of the binary", false),
    ] {
        let figure = figures
            .iter()
            .find(|figure| figure["name"] == name)
            .unwrap_or_else(|| panic!("no figure {name:?} in {report:#}"));
        let round = &figure["rounds"][0];
        assert!(round["ours"].as_f64() > Some(0.0), "{figure:#}");
        assert_eq!(round["bare"].as_f64() > Some(0.0), with_bare, "{figure:#}");
        assert_eq!(figure["ratio"]["median"].is_f64(), with_bare, "{figure:#}");
        assert!(table.contains(name), "{table}");
    }
}
