//! A compose project of its own, and its containers.

use std::env;
use std::io::Write as _;
use std::net::TcpListener;
use std::process::{Command, Output, Stdio};
use std::thread;

use async_nats::Client;
use serde_json::Value;
use tempfile::NamedTempFile;
use test_support::{Credentials, project_root};

/// What `docker-compose.yml` and `Dockerfile` stand on.
const BASE_IMAGES: [&str; 3] = [
    "debian:bookworm-slim",
    "rust:1.95-slim-bookworm",
    "nats:2.15-alpine",
];

/// Variables of whoever runs the test that would change what is tested.
const PREFIXES: [&str; 10] = [
    "NATS_",
    "GATEWAY_",
    "PUBLISHER_",
    "CONSUMER_",
    "STATUS_",
    "RUST_LOG",
    "LOG_FORMAT",
    "STOP_GRACE_PERIOD",
    "COMPOSE_PROJECT_NAME",
    "COMPOSE_FILE",
];

/// The system of `docker-compose.yml` under a name and on a port of its own.
///
/// Its containers, networks and images are removed when this is dropped, and its logs are shown
/// when the test panics. What docker keeps as its build cache stays.
pub(crate) struct Project {
    name: String,
    /// The arguments that name the files of compose; none for `docker-compose.yml` alone.
    files: &'static [&'static str],
    /// Where NATS is published on this machine.
    pub(crate) port: u16,
    /// Where the gateway is.
    pub(crate) gateway_port: u16,
    program: &'static [&'static str],
    /// Read in place of the `.env` of whoever runs the test.
    settings: NamedTempFile,
}

/// A container of the project.
pub(crate) struct Container {
    pub(crate) id: String,
    pub(crate) service: String,
}

impl Project {
    /// One that is not started yet, with these variables set.
    pub(crate) fn new(variables: &[(&str, &str)]) -> Self {
        Self::of("jobs-test", &[], variables)
    }

    /// The same with three servers.
    pub(crate) fn cluster(variables: &[(&str, &str)]) -> Self {
        let files = &[
            "-f",
            "docker-compose.yml",
            "-f",
            "deploy/cluster/compose.yml",
        ];
        Self::of("jobs-cluster-test", files, variables)
    }

    fn of(name: &str, files: &'static [&'static str], variables: &[(&str, &str)]) -> Self {
        let free = [(); 4].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
        let ports = free.map(|free| free.local_addr().unwrap().port());
        let [port, gateway_port, second, third] = ports;
        let mut settings = NamedTempFile::new().unwrap();
        writeln!(
            settings,
            "NATS_PORT={port}\nGATEWAY_PORT={gateway_port}\nNATS_2_PORT={second}\nNATS_3_PORT={third}"
        )
        .unwrap();
        for (name, value) in variables {
            writeln!(settings, "{name}={value}").unwrap();
        }
        let v1 = Command::new("docker-compose").arg("version").output();
        let program: &[&str] = if v1.is_ok_and(|output| output.status.success()) {
            &["docker-compose"]
        } else {
            &["docker", "compose"]
        };
        Self {
            name: format!("{name}-{}", std::process::id()),
            files,
            port,
            gateway_port,
            program,
            settings,
        }
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(self.program[0]);
        for (name, _) in env::vars_os() {
            let name = name.to_string_lossy();
            if PREFIXES.iter().any(|prefix| name.starts_with(prefix)) {
                command.env_remove(&*name);
            }
        }
        command
            .args(&self.program[1..])
            .arg("--env-file")
            .arg(self.settings.path())
            .args(["--project-name", &self.name])
            .args(self.files)
            .args(arguments)
            .current_dir(project_root())
            // A busy machine may keep docker busy for longer than the usual minute.
            .env("COMPOSE_HTTP_TIMEOUT", "600")
            .stdin(Stdio::null());
        command
    }

    /// Runs a command of compose, which has to succeed; what it printed to standard output.
    pub(crate) fn compose(&self, arguments: &[&str]) -> String {
        succeeded(&mut self.command(arguments))
    }

    /// The same, with something to read on standard input.
    pub(crate) fn compose_with_input(&self, arguments: &[&str], input: &str) -> String {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(input.as_bytes()).unwrap();
        std::io::Seek::rewind(&mut file).unwrap();
        succeeded(self.command(arguments).stdin(file))
    }

    /// Starts what does not run, in the background, and shows on the way what is built.
    pub(crate) fn up(&self, arguments: &[&str]) {
        let status = self
            .command(&[&["up", "--detach"], arguments].concat())
            .status()
            .unwrap_or_else(|error| panic!("cannot start {}: {error}", self.program.join(" ")));
        if !status.success() {
            let is_missing = |image: &&str| {
                let found = docker(&["image", "inspect", *image]).output();
                !found.is_ok_and(|output| output.status.success())
            };
            let missing: Vec<_> = BASE_IMAGES.into_iter().filter(is_missing).collect();
            assert!(
                missing.is_empty(),
                "these images are not here and could not be pulled: {}; deploy/base-images.sh makes them",
                missing.join(", ")
            );
            panic!(
                "{} up {arguments:?} failed ({status})",
                self.program.join(" ")
            );
        }
    }

    /// All containers, running or not, but those of `compose run`.
    pub(crate) fn containers(&self) -> Vec<Container> {
        let project = format!("label=com.docker.compose.project={}", self.name);
        let format = r#"{{.ID}} {{.Label "com.docker.compose.service"}}"#;
        let list = succeeded(&mut docker(&[
            "ps",
            "--all",
            "--no-trunc",
            "--filter",
            &project,
            "--filter",
            "label=com.docker.compose.oneoff=False",
            "--format",
            format,
        ]));
        let container = |line: &str| {
            let (id, service) = line.split_once(' ').unwrap();
            Container {
                id: id.to_owned(),
                service: service.to_owned(),
            }
        };
        list.lines().map(container).collect()
    }

    pub(crate) fn containers_of(&self, service: &str) -> Vec<Container> {
        let containers = self.containers().into_iter();
        containers.filter(|it| it.service == service).collect()
    }

    /// The full name of a network of `docker-compose.yml`.
    pub(crate) fn network(&self, name: &str) -> String {
        format!("{}_{name}", self.name)
    }

    /// The published port of NATS.
    fn url(&self) -> String {
        format!("nats://127.0.0.1:{}", self.port)
    }

    /// The environment of a program outside of the containers that connects as this user.
    pub(crate) fn env_for(&self, user: &str) -> Vec<(String, String)> {
        let mut env = credentials().client_env(user);
        env.push(("NATS_URL".to_owned(), self.url()));
        env
    }

    /// Connects over the published port, with the password that `docker-compose.yml` falls back on.
    pub(crate) async fn connect_as(&self, user: &str) -> Client {
        let client = credentials().options_for(user).connect(self.url()).await;
        client.unwrap_or_else(|error| panic!("cannot connect as {user}: {error}"))
    }
}

/// The passwords that `docker-compose.yml` falls back on.
fn credentials() -> Credentials {
    let compose = std::fs::read_to_string(project_root().join("docker-compose.yml")).unwrap();
    let fallback = |variable: &str| {
        let start = format!("${{{variable}:-");
        let (_, rest) = compose.split_once(&start)?;
        Some(rest.split_once('}')?.0.to_owned())
    };
    Credentials::random().overridden_by(fallback).unwrap()
}

impl Drop for Project {
    fn drop(&mut self) {
        if thread::panicking() {
            let logs = self.command(&["logs", "--no-color", "--timestamps"]);
            eprintln!(
                "--- logs of all containers ---\n{}--- end of the logs ---",
                shown(logs)
            );
        }
        let down = [
            "--profile",
            "tools",
            "down",
            "--volumes",
            "--remove-orphans",
            "--rmi",
            "local",
        ];
        let output = self.command(&down).output();
        if !output.is_ok_and(|output| output.status.success()) {
            eprintln!("the containers of {} could not be removed", self.name);
        }
    }
}

impl Container {
    /// What docker knows of it.
    pub(crate) fn inspect(&self) -> Value {
        inspect(&self.id)
    }

    /// What it logged so far, for a service that logs JSON.
    pub(crate) fn logs(&self) -> Vec<Value> {
        let lines = succeeded(&mut docker(&["logs", &self.id]));
        let parse = |line| {
            serde_json::from_str(line)
                .unwrap_or_else(|error| panic!("{} logged {line}: {error}", self.service))
        };
        lines.lines().map(parse).collect()
    }

    /// Runs a program in it; what that printed, or what it complained of.
    pub(crate) fn exec(&self, program: &[&str]) -> Result<String, String> {
        let output = docker(&[&["exec", &self.id], program].concat()).output();
        let output = output.unwrap();
        if output.status.success() {
            Ok(text(&output.stdout))
        } else {
            Err(text(&output.stderr))
        }
    }
}

/// What docker knows of a thing by its name.
pub(crate) fn inspect(name: &str) -> Value {
    let facts = succeeded(&mut docker(&["inspect", name]));
    let mut facts: Vec<Value> = serde_json::from_str(&facts).unwrap();
    facts.remove(0)
}

fn docker(arguments: &[&str]) -> Command {
    let mut command = Command::new("docker");
    command.args(arguments).stdin(Stdio::null());
    command
}

/// Standard output of a command that has to succeed.
fn succeeded(command: &mut Command) -> String {
    let output = command
        .output()
        .unwrap_or_else(|error| panic!("cannot start {command:?}: {error}"));
    assert!(
        output.status.success(),
        "{command:?} failed ({})\n{}",
        output.status,
        both(&output)
    );
    text(&output.stdout)
}

/// Everything that a command prints, whether it succeeds or not.
fn shown(mut command: Command) -> String {
    match command.output() {
        Ok(output) => both(&output),
        Err(error) => format!("cannot start {command:?}: {error}\n"),
    }
}

fn both(output: &Output) -> String {
    text(&output.stdout) + &text(&output.stderr)
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
