//! What README.md says is so: its tables are those of `--help`, and its examples run.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use common::{Job, Outcome};
use test_support::{DEADLINE, NatsServer, Service, ServiceBuilder, eventually, project_root};

fn read(file: &str) -> String {
    fs::read_to_string(project_root().join(file)).unwrap_or_else(|error| panic!("{file}: {error}"))
}

/// The code blocks of README.md in a language.
fn blocks(language: &str) -> Vec<String> {
    let readme = read("README.md");
    let opening = format!("\n```{language}\n");
    let found: Vec<String> = readme
        .split(&opening)
        .skip(1)
        .map(|rest| rest.split_once("```").expect("a block ends").0.to_owned())
        .collect();
    assert!(!found.is_empty(), "README.md has no block of {language}");
    found
}

/// The code block that holds a text.
fn block(language: &str, text: &str) -> String {
    let found = blocks(language)
        .into_iter()
        .find(|block| block.contains(text));
    found.unwrap_or_else(|| panic!("no block of {language} in README.md holds {text:?}"))
}

/// Of a flag, its variable and its default.
type Flags = BTreeMap<String, (String, String)>;

async fn flags_of(service: &str) -> Flags {
    let mut help = Service::named(service).arg("--help").start();
    assert!(help.wait().await.success());
    let mut flags = Flags::new();
    let mut current = None;
    for line in help.stdout() {
        let line = line.trim();
        if let Some(flag) = line.split([' ', ',']).find(|word| word.starts_with("--"))
            && (line.starts_with("--") || line.starts_with('-'))
        {
            current = Some((flag.to_owned(), String::new()));
        } else if let Some((flag, text)) = &mut current {
            *text = format!("{text} {line}");
            let between = |start: &str| Some(text.split_once(start)?.1.split_once(']')?.0);
            if let Some(variable) = between("[env: ") {
                let variable = variable.split('=').next().unwrap_or_default();
                let default = between("[default: ").unwrap_or_default();
                flags.insert(
                    flag.clone(),
                    (variable.to_owned(), default.replace('`', "")),
                );
            }
        }
    }
    assert!(flags.len() > 15, "{flags:?}");
    flags
}

/// The table below a heading of README.md; `*` in a variable is filled in.
fn table(heading: &str, prefix: &str) -> Flags {
    let readme = read("README.md");
    let section = readme
        .split_once(&format!("\n### {heading}\n"))
        .unwrap_or_else(|| panic!("README.md has no heading {heading}"))
        .1;
    let section = section.split("\n#").next().unwrap_or_default();
    let rows = section.lines().filter(|line| line.starts_with("| `--"));
    rows.map(|row| {
        let cells: Vec<String> = row
            .split('|')
            .map(|cell| cell.trim().replace('`', ""))
            .collect();
        let [_, flag, variable, default, ..] = &cells[..] else {
            panic!("a row has too few cells: {row}")
        };
        let variable = variable.replacen('*', prefix, 1);
        (flag.clone(), (variable, default.clone()))
    })
    .collect()
}

#[tokio::test]
async fn each_flag_stands_in_the_tables_with_its_variable_and_default() {
    for (service, heading, prefix) in [
        ("publisher", "Publisher", "PUBLISHER"),
        ("consumer", "Consumer", "CONSUMER"),
        ("status-service", "Status service", "STATUS"),
        ("gateway", "Gateway", "GATEWAY"),
    ] {
        let mut told = table(heading, prefix);
        told.append(&mut table("Every service", prefix));
        assert_eq!(told, flags_of(service).await, "{service}");
    }
}

#[test]
fn the_handler_in_rust_is_the_example_that_the_library_compiles() {
    let library = read("crates/consumer/src/lib.rs");
    let documentation: Vec<&str> = library
        .lines()
        .map_while(|line| line.strip_prefix("//!"))
        .map(|line| line.strip_prefix(' ').unwrap_or(line))
        .collect();
    let documentation = documentation.join("\n");
    for block in blocks("rust") {
        assert!(
            documentation.contains(&block),
            "not in the documentation of the consumer:\n{block}"
        );
    }
}

#[test]
fn each_job_that_is_shown_is_one() {
    for block in blocks("json") {
        for line in block.lines() {
            Job::decode(line.as_bytes()).unwrap_or_else(|error| panic!("{error}: {line}"));
        }
    }
}

#[test]
fn each_code_of_the_publisher_is_told() {
    let source = read("crates/publisher/src/answer.rs");
    let codes: Vec<&str> = source
        .lines()
        .filter(|line| line.trim().starts_with("pub const "))
        .filter_map(|line| line.split('"').nth(1))
        .collect();
    assert!(codes.len() >= 3, "{codes:?}");
    let readme = read("README.md");
    for code in codes {
        assert!(readme.contains(&format!("`{code}`")), "{code} is not told");
    }
}

#[test]
fn each_link_leads_to_a_file() {
    let mut links = 0;
    for file in ["README.md", "docs/architecture.md"] {
        let text = read(file);
        let folder = project_root()
            .join(file)
            .parent()
            .map(Path::to_owned)
            .unwrap();
        for link in text.split("](").skip(1) {
            let target = link.split([')', '#']).next().unwrap_or_default();
            links += 1;
            assert!(folder.join(target).exists(), "{file} links to {target}");
        }
    }
    assert!(links >= 8, "only {links} links were found");
}

/// A script of README.md that runs as it stands there.
fn python(script: &str) -> ServiceBuilder {
    let command = test_support::python();
    let mut builder = Service::program(command.get_program())
        .args(["-u", "-c"])
        .arg(script);
    for (name, value) in command.get_envs() {
        builder = builder.env(name, value.unwrap_or_default());
    }
    builder
}

fn password(server: &NatsServer, user: &str) -> String {
    let env = server.env_for(user).into_iter();
    let password = env.into_iter().find(|(name, _)| name == "NATS_PASSWORD");
    password.expect("each user has a password").1
}

/// The example ends well, and says what the checksum of its job is.
async fn tells_the_checksum(mut example: Service) {
    assert!(example.wait().await.success());
    let said = example.stdout().join("\n");
    assert!(
        said.starts_with("succeeded {'hex': 'ba7816bf8f01cfea"),
        "{said}"
    );
}

#[tokio::test]
async fn a_client_in_python_submits_a_job_and_asks_how_consumers_are() {
    let server = NatsServer::start().await;
    let mut consumer = Service::named("consumer")
        .envs(server.env_for("worker"))
        .env("CONSUMER_INSTANCE", "consumer-1")
        .start();
    consumer
        .wait_for_line(|line| line.contains("taking jobs"))
        .await;

    let submit = python(&block("python", "jobs.create"))
        .env("NATS_URL", server.url())
        .env("NATS_PUBLISHER_PASSWORD", password(&server, "publisher"))
        .start();
    tells_the_checksum(submit).await;

    let mut ask = python(&block("python", "jobs.status"))
        .env("NATS_URL", server.url())
        .env("NATS_STATUS_PASSWORD", password(&server, "status"))
        .start();
    assert!(ask.wait().await.success());
    assert_eq!(ask.stdout(), ["consumer-1 running 1"]);
}

#[tokio::test]
async fn a_client_in_python_submits_a_durable_job_and_waits_for_its_end() {
    let server = NatsServer::start().await;
    let mut consumer = Service::named("consumer")
        .envs(server.env_for("worker"))
        .start();
    consumer
        .wait_for_line(|line| line.contains("taking durable jobs"))
        .await;
    let submit = python(&block("python", "jobs.durable"))
        .env("NATS_URL", server.url())
        .env("NATS_PUBLISHER_PASSWORD", password(&server, "publisher"))
        .env("NATS_OPERATOR_PASSWORD", password(&server, "operator"))
        .start();
    tells_the_checksum(submit).await;
}

#[tokio::test]
async fn the_commands_for_durable_jobs_are_subcommands() {
    let commands = block("sh", "operator info $ID") + &block("sh", "operator dead list");
    let mut tried = 0;
    for line in commands.lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        let [first, words @ ..] = &words[..] else {
            continue;
        };
        assert_eq!(*first, "operator", "{line}");
        let subcommand = words
            .iter()
            .take_while(|word| word.chars().all(char::is_alphabetic));
        let mut help = Service::named("publisher")
            .args(subcommand)
            .arg("--help")
            .start();
        assert!(help.wait().await.success(), "{line}");
        let said = help.stdout().join("\n");
        for flag in words.iter().take_while(|word| **word != "#") {
            let known = !flag.starts_with("--") || said.contains(flag);
            assert!(known, "{flag} of {line}");
        }
        tried += 1;
    }
    assert!(tried >= 8, "only {tried} commands were found");
}

#[tokio::test]
async fn the_tokens_that_are_shown_are_taken() {
    let server = NatsServer::builder().open().start().await;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("tokens.toml");
    fs::write(&file, block("toml", "[[token]]")).unwrap();
    let mut gateway = Service::named("gateway")
        .envs(server.env_for("gateway"))
        .args(["--listen", "127.0.0.1:0", "--tokens"])
        .arg(&file)
        .start();
    let address = gateway
        .wait_for_line(|line| line.contains("serving http"))
        .await;
    let address = address.rsplit("://").next().unwrap();
    // The hash that is shown is that of a text that is known, if too short for a real token.
    let answer = test_support::http("GET", address, "/v1/queues").await;
    assert_eq!(answer.unwrap().status, 401);
}

#[tokio::test]
async fn the_declared_handlers_are_taken_and_run() {
    let server = NatsServer::builder().open().start().await;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("handlers.toml");
    fs::write(&file, block("toml", "[handlers.")).unwrap();
    let mut consumer = Service::named("consumer")
        .envs(server.env_for("worker"))
        .env("CONSUMER_HANDLERS", &file)
        .env("WEBHOOK_TOKEN", "secret")
        .start();
    let kinds = consumer
        .wait_for_line(|line| line.contains("taking jobs"))
        .await;
    assert!(kinds.contains("web.hook"), "{kinds}");

    let client = server.connect_as("publisher").await;
    let outcome = async |job: serde_json::Value| {
        let request = client.request("jobs.create", job.to_string().into());
        let answer = tokio::time::timeout(DEADLINE, request).await;
        let answer = answer.expect("an answer in time").expect("an answer");
        serde_json::from_slice::<Outcome>(&answer.payload).expect("an outcome")
    };
    let path = file.to_str().unwrap();
    let checksum = serde_json::json!({"kind": "checksum.file", "payload": {"path": path}});
    let checksum = outcome(checksum).await;
    let result = checksum.result.expect("a result").get().to_owned();
    assert!(result.ends_with(&format!("  {path}\"")), "{result}");

    let _service = python(&block("python", "handlers.reverse"))
        .env("NATS_URL", server.url())
        .env("NATS_REVERSER_PASSWORD", "any")
        .start();
    let reversed = eventually(DEADLINE, "the service that reverses texts", async || {
        let job = serde_json::json!({"kind": "text.reverse", "payload": {"text": "abc"}});
        outcome(job).await.result
    })
    .await;
    assert_eq!(reversed.get(), r#"{"text": "cba"}"#);
}
