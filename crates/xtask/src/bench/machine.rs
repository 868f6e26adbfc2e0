//! Where and with what it was measured.

use std::fs;
use std::process::Command;
use std::thread::available_parallelism;

use serde_json::{Value, json};
use test_support::{NatsServer, project_root};

pub(super) fn machine() -> Value {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let value = |text: &str, name: &str| {
        let line = text.lines().find(|line| line.starts_with(name))?;
        Some(line.split_once(':')?.1.trim().to_owned())
    };
    json!({
        "cores": available_parallelism().ok(),
        "cpu": value(&read("/proc/cpuinfo"), "model name"),
        "memory": value(&read("/proc/meminfo"), "MemTotal"),
        "kernel": read("/proc/sys/kernel/osrelease").trim(),
        "load": read("/proc/loadavg").split(' ').next(),
    })
}

pub(super) async fn versions(nats: &NatsServer) -> Value {
    json!({
        "system": env!("CARGO_PKG_VERSION"),
        "revision": said_by("git", &["describe", "--always", "--dirty"]),
        "rustc": said_by("rustc", &["--version"]),
        "nats-server": nats.varz().await["version"],
        "async-nats": locked("async-nats"),
        "tokio": locked("tokio"),
    })
}

/// What a program prints, if it is there.
fn said_by(program: &str, arguments: &[&str]) -> Option<String> {
    let output = Command::new(program)
        .args(arguments)
        .current_dir(project_root())
        .output()
        .ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    output.status.success().then(|| text.trim().to_owned())
}

/// The version of a package that this workspace is built with.
fn locked(package: &str) -> Option<String> {
    let lock = fs::read_to_string(project_root().join("Cargo.lock")).ok()?;
    let name = format!("name = \"{package}\"");
    let mut lines = lock.lines().skip_while(|line| *line != name);
    let version = lines.nth(1)?.strip_prefix("version = ")?;
    Some(version.trim_matches('"').to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_versions_of_packages_are_found() {
        assert!(locked("async-nats").unwrap().starts_with("0."));
        assert_eq!(locked("no-such-package"), None);
    }
}
