//! A client that a generator makes of `/openapi.json` drives the gateway.

use std::fs;
use std::path::Path;
use std::process::Command;

use test_support::python_with;

use crate::fixture::Fixture;

/// Runs a command to its end, and returns what it said.
async fn succeeds(mut command: Command) -> String {
    let run = move || {
        let output = command.output().unwrap();
        let said = [output.stdout, output.stderr].map(|text| String::from_utf8(text).unwrap());
        assert!(output.status.success(), "{command:?}: {}", said.concat());
        said.concat()
    };
    tokio::task::spawn_blocking(run).await.unwrap()
}

#[tokio::test]
async fn a_generated_client_submits_waits_follows_lists_cancels_and_replays() {
    let fixture = Fixture::start().await;
    let mut consumer = fixture.consumer("a", &[]).await;
    consumer
        .wait_for_line(|line| line.contains("taking durable jobs"))
        .await;
    let (_gateway, address) = fixture.gateway().await;
    let document = test_support::http("GET", &*address, "/openapi.json").await;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("openapi.json");
    fs::write(&file, document.unwrap().body).unwrap();

    let here = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/system");
    let requirements = here.join("openapi-python-client.requirements.txt");
    let python = || {
        let mut command = python_with(&requirements);
        let packages = command.get_envs().next().unwrap().1.unwrap().to_owned();
        let path = std::env::join_paths([folder.path().as_os_str(), &packages]).unwrap();
        command.env("PYTHONPATH", path);
        command
    };
    let mut generate = python();
    generate
        .args(["-m", "openapi_python_client", "generate", "--meta", "none"])
        .arg("--path")
        .arg(&file)
        .arg("--output-path")
        .arg(folder.path().join("gen"));
    let said = succeeds(generate).await;
    // Of a submission, it leaves out the alternative as lines of JSON.
    let skipped = said.matches("WARNING parsing").count();
    assert_eq!(skipped, 1, "{said}");
    assert!(said.contains("application/x-ndjson"), "{said}");

    let mut drive = python();
    drive.arg(here.join("generated_client.py"));
    drive.arg(format!("http://{address}"));
    let said = succeeds(drive).await;
    assert!(said.ends_with("replayed\n"), "{said}");
}
