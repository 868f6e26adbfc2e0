//! What deploy/observe asks for is what the services show.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeSet;
use std::env;
use std::fs;
use std::process::Command;

use serde_json::Value;
use test_support::{NatsServer, Service, project_root};

const FOLDER: &str = "deploy/observe";
const GUIDE: &str = "docs/guide/operations.md";

fn read(file: &str) -> String {
    let path = project_root().join(FOLDER).join(file);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn yaml(file: &str) -> Value {
    serde_saphyr::from_str(&read(file)).unwrap_or_else(|error| panic!("{file}: {error}"))
}

fn alerts() -> Vec<Value> {
    let groups = yaml("alerts.yml")["groups"].as_array().unwrap().clone();
    groups
        .iter()
        .flat_map(|group| group["rules"].as_array().unwrap().clone())
        .collect()
}

/// Each text below a key of this name, however deep.
fn texts_of(key: &str, value: &Value, found: &mut Vec<String>) {
    match value {
        Value::Object(object) => {
            for (name, value) in object {
                match value.as_str().filter(|_| name == key) {
                    Some(text) => found.push(text.to_owned()),
                    None => texts_of(key, value, found),
                }
            }
        }
        Value::Array(values) => values.iter().for_each(|value| texts_of(key, value, found)),
        _ => {}
    }
}

/// The metrics of our services that expressions name.
fn named(expressions: &[String]) -> BTreeSet<String> {
    let words = expressions.iter().flat_map(|expression| {
        expression.split(|c: char| !c.is_ascii_alphanumeric() && c != '_' && c != ':')
    });
    words
        .filter(|word| word.starts_with("jobs_") || word.starts_with("process_"))
        .map(str::to_owned)
        .collect()
}

/// The names of all that the services show, after each has done a bit of everything.
async fn shown() -> BTreeSet<String> {
    let nats = NatsServer::start().await;
    let start = |service: &str, user: &str, arguments: &[&str]| {
        let service = Service::named(service).envs(nats.env_for(user));
        service.args(arguments).start()
    };
    let mut consumer = start("consumer", "worker", &[]);
    consumer
        .wait_for_line(|line| line.contains("taking durable jobs"))
        .await;
    let mut confirmed = start("publisher", "publisher", &["--interval", "50ms"]);
    let mut durable = start(
        "publisher",
        "publisher",
        &["--interval", "50ms", "--delivery", "durable"],
    );
    let mut status = start("status-service", "status", &["--interval", "100ms"]);

    let mut names = BTreeSet::new();
    let ran = |lane: &str| format!("jobs_run_seconds_count{{lane=\"{lane}\",kind=\"echo\"}}");
    let metrics = consumer
        .scrape_until(|metrics| {
            metrics.get(&ran("core")) > Some(0.0) && metrics.get(&ran("durable")) > Some(0.0)
        })
        .await;
    names.extend(metrics.names());
    let outcomes = "jobs_publisher_outcomes_total";
    for publisher in [&mut confirmed, &mut durable] {
        let metrics = publisher
            .scrape_until(|metrics| metrics.sum(outcomes) > 0)
            .await;
        names.extend(metrics.names());
    }
    let metrics = status
        .scrape_until(|metrics| metrics.get("jobs_dead_letters").is_some())
        .await;
    names.extend(metrics.names());

    let mut gateway = start("gateway", "gateway", &["--listen", "127.0.0.1:0"]);
    let line = gateway
        .wait_for_line(|line| line.contains("serving http://"))
        .await;
    let address = line.split_once("serving http://").unwrap().1;
    let address = address.split([' ', '/']).next().unwrap();
    // Whatever it answers, it counts.
    test_support::http("GET", address, "/v1/jobs")
        .await
        .unwrap();
    let metrics = gateway
        .scrape_until(|metrics| metrics.sum("jobs_http_requests_total") > 0)
        .await;
    names.extend(metrics.names());
    names
}

#[tokio::test]
async fn each_metric_that_alerts_dashboard_and_guide_name_is_one_that_services_show_and_none_is_untold()
 {
    let mut expressions = Vec::new();
    for alert in alerts() {
        texts_of("expr", &alert, &mut expressions);
    }
    let dashboard: Value = serde_json::from_str(&read("grafana/jobs.json")).unwrap();
    texts_of("expr", &dashboard, &mut expressions);
    let named = named(&expressions);
    assert!(named.len() > 25, "{named:?}");
    let shown = shown().await;
    let unknown: Vec<_> = named.difference(&shown).collect();
    assert!(unknown.is_empty(), "{unknown:?} of {shown:#?}");

    // A histogram is written under its own name.
    let families: BTreeSet<_> = shown.iter().map(|name| family_of(name, &shown)).collect();
    let told = in_guide();
    let untold: Vec<_> = families.difference(&told).collect();
    assert!(untold.is_empty(), "not in {GUIDE}: {untold:?}");
    let unknown: Vec<_> = told.difference(&families).collect();
    assert!(unknown.is_empty(), "only in {GUIDE}: {unknown:?}");
}

fn family_of(name: &str, shown: &BTreeSet<String>) -> String {
    let suffixes = ["_bucket", "_sum", "_count"];
    let stem = suffixes.iter().find_map(|suffix| name.strip_suffix(suffix));
    let histogram = stem.filter(|stem| shown.contains(&format!("{stem}_bucket")));
    histogram.unwrap_or(name).to_owned()
}

/// The metrics that the guide names in its tables of them.
fn in_guide() -> BTreeSet<String> {
    let guide = fs::read_to_string(project_root().join(GUIDE)).unwrap();
    let section = guide.split_once("\n## Metrics and alerts\n").unwrap().1;
    let section = section.split("\n## ").next().unwrap();
    let rows = section.lines().filter(|line| line.starts_with('|'));
    let words = rows.flat_map(|row| row.split('`').skip(1).step_by(2));
    let metric = |word: &&str| word.starts_with("jobs_") || word.starts_with("process_");
    words.filter(metric).map(str::to_owned).collect()
}

#[test]
fn each_alert_waits_says_how_bad_it_is_and_what_to_do() {
    let alerts = alerts();
    assert!(alerts.len() > 10, "{alerts:?}");
    for alert in &alerts {
        let name = alert["alert"].as_str().unwrap();
        assert!(alert["for"].is_string(), "{name} does not wait");
        let severity = alert["labels"]["severity"].as_str();
        assert!(
            matches!(severity, Some("critical" | "warning")),
            "{name}: {severity:?}"
        );
        let summary = alert["annotations"]["summary"].as_str().unwrap_or_default();
        assert!(
            summary.len() > 60,
            "{name} does not say what to do: {summary}"
        );
    }
}

#[test]
fn each_service_is_scraped_on_the_port_that_the_composition_gives_it() {
    let path = project_root().join("docker-compose.yml");
    let compose = fs::read_to_string(path).unwrap();
    let mut composed = 0;
    for job in yaml("prometheus.yml")["scrape_configs"].as_array().unwrap() {
        let found = &job["dns_sd_configs"][0];
        let service = found["names"][0].as_str().unwrap();
        assert_eq!(job["job_name"], service);
        let Some((_, section)) = compose.split_once(&format!("\n  {service}:\n")) else {
            continue;
        };
        composed += 1;
        let section = section.split("\n\n").next().unwrap();
        let port = format!("_MONITOR: 0.0.0.0:{}\n", found["port"]);
        assert!(section.contains(&port), "{service} is without {port}");
    }
    assert_eq!(composed, 4, "services");
}

/// Where Prometheus is installed, and in CI, its own tool looks at the files, too.
#[test]
fn promtool_finds_no_fault_where_it_is_installed() {
    for arguments in [
        ["check", "config", "prometheus.yml"],
        ["test", "rules", "alerts.test.yml"],
    ] {
        let promtool = Command::new("promtool")
            .args(arguments)
            .current_dir(project_root().join(FOLDER))
            .output();
        let Ok(output) = promtool else {
            let in_ci = env::var_os("CI").is_some_and(|ci| ci == "true");
            assert!(!in_ci, "promtool is not installed");
            eprintln!("promtool is not installed (Debian package prometheus): not asked");
            return;
        };
        let said = String::from_utf8_lossy(&output.stdout);
        let more = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{arguments:?}: {said}{more}");
    }
}
