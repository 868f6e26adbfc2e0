//! What README.md and the guide say is so: their tables are those of `--help`, their examples run, and
//! their links lead somewhere.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::process::Command;

use common::{JobMessage, Outcome};
use test_support::{DEADLINE, NatsServer, Service, ServiceBuilder, eventually, project_root};

const README: &str = "README.md";
const GUIDE: &str = "docs/guide";
const SUBMITTING: &str = "docs/guide/submitting.md";
const HANDLERS: &str = "docs/guide/handlers.md";
const DURABLE_JOBS: &str = "docs/guide/durable-jobs.md";
const HTTP_API: &str = "docs/guide/http-api.md";
const OPERATIONS: &str = "docs/guide/operations.md";
const CONFIGURATION: &str = "docs/guide/configuration.md";

fn read(file: &str) -> String {
    fs::read_to_string(project_root().join(file)).unwrap_or_else(|error| panic!("{file}: {error}"))
}

/// The files of the guide, by their names in its folder.
fn guide() -> BTreeSet<String> {
    let folder = fs::read_dir(project_root().join(GUIDE)).expect("there is a guide");
    let names = folder.map(|entry| entry.expect("it can be listed").file_name());
    names
        .map(|name| name.into_string().expect("names are plain"))
        .filter(|name| Path::new(name).extension().is_some_and(|it| it == "md"))
        .collect()
}

/// README.md, and the pages of the guide.
fn pages() -> Vec<String> {
    let guide = guide().into_iter().map(|name| format!("{GUIDE}/{name}"));
    [README.to_owned()].into_iter().chain(guide).collect()
}

/// The code blocks of a page in a language.
fn blocks(page: &str, language: &str) -> Vec<String> {
    let opening = format!("\n```{language}\n");
    read(page)
        .split(&opening)
        .skip(1)
        .map(|rest| rest.split_once("```").expect("a block ends").0.to_owned())
        .collect()
}

/// The code blocks of all pages in a language, each with its page.
fn all_blocks(language: &str) -> Vec<(String, String)> {
    let pages = pages().into_iter();
    let found: Vec<_> = pages
        .flat_map(|page| {
            let blocks = blocks(&page, language).into_iter();
            blocks
                .map(|block| (page.clone(), block))
                .collect::<Vec<_>>()
        })
        .collect();
    assert!(!found.is_empty(), "no page has a block of {language}");
    found
}

/// The code block of a page that holds a text.
fn block(page: &str, language: &str, text: &str) -> String {
    let found = blocks(page, language)
        .into_iter()
        .find(|block| block.contains(text));
    found.unwrap_or_else(|| panic!("no block of {language} in {page} holds {text:?}"))
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

/// The table below a heading of the page on configuration; `*` in a variable is filled in.
fn table(heading: &str, prefix: &str) -> Flags {
    let page = read(CONFIGURATION);
    let section = page
        .split_once(&format!("\n## {heading}\n"))
        .unwrap_or_else(|| panic!("{CONFIGURATION} has no heading {heading}"))
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
fn each_example_in_rust_is_compiled_in_the_library_or_here() {
    let documentation: Vec<String> = ["client", "common", "consumer"]
        .iter()
        .flat_map(|folder| sources(&format!("crates/{folder}/src")))
        .flat_map(|source| documented(&source))
        .collect();
    let documentation = documentation.join("\n");
    let program = read("crates/client/examples/submit.rs");
    let here = read("crates/xtask/tests/readme.rs");
    let examples = all_blocks("rust");
    assert!(examples.len() >= 5, "{examples:?}");
    for (page, example) in examples {
        let compiled = [&documentation, &here, &program]
            .iter()
            .any(|source| source.contains(&example));
        assert!(compiled, "{page}: this is not compiled:\n{example}");
    }
}

#[test]
fn each_public_type_for_users_is_in_an_example() {
    let mut missing = Vec::new();
    for folder in ["common", "client", "consumer"] {
        let sources = sources(&format!("crates/{folder}/src"));
        let examples: Vec<String> = sources.iter().flat_map(|text| examples(text)).collect();
        let is_shown = |name: &str| {
            let mut lines = examples.iter();
            lines.any(|line| {
                line.split(|c: char| !c.is_alphanumeric())
                    .any(|word| word == name)
            })
        };
        let types = sources.iter().flat_map(|text| public_types(text));
        let hidden = types.filter(|name| !is_shown(name));
        missing.extend(hidden.map(|name| format!("{folder}::{name}")));
    }
    assert!(missing.is_empty(), "no example has {}", missing.join(", "));
}

/// The packages that a program which only submits needs at most. Each costs time to build.
const MOST_PACKAGES: usize = 160;

#[test]
fn a_crate_elsewhere_gets_the_client_with_few_packages() {
    let page = read("docs/guide/rust.md");
    let (_, lines) = page
        .split_once("```toml\n")
        .expect("the lines for Cargo.toml");
    let lines = lines.split("```").next().unwrap_or_default();
    let lines = lines.lines().filter(|line| !line.starts_with("consumer"));
    let root = test_support::project_root();
    let dependencies = lines.collect::<Vec<_>>().join("\n");
    let dependencies = dependencies.replace("\"../jobs/", &format!("\"{}/", root.display()));
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let package = "[package]\nname = \"mine\"\nedition = \"2024\"\n";
    fs::write(path("Cargo.toml"), format!("{package}\n{dependencies}\n")).unwrap();
    fs::create_dir(path("src")).unwrap();
    fs::copy(
        root.join("crates/client/examples/submit.rs"),
        path("src/main.rs"),
    )
    .unwrap();
    // The same versions, which need not be fetched.
    fs::copy(root.join("Cargo.lock"), path("Cargo.lock")).unwrap();
    let tree = "tree --offline --edges normal,build --prefix none --format {p}";
    let tree = test_support::cargo()
        .args(tree.split(' '))
        .current_dir(folder.path())
        .output();
    let tree = tree.unwrap();
    let words = String::from_utf8_lossy(&tree.stderr);
    assert!(tree.status.success(), "{words}");
    let tree = String::from_utf8(tree.stdout).unwrap();
    let packages: BTreeSet<&str> = tree
        .lines()
        .map(|line| line.trim_end_matches(" (*)"))
        .collect();
    assert!(
        packages
            .iter()
            .any(|name| name.starts_with("nats-jobs-client ")),
        "{packages:?}"
    );
    println!("{} packages", packages.len());
    assert!(
        packages.len() <= MOST_PACKAGES,
        "{} packages: {packages:?}",
        packages.len()
    );
}

/// The public types of a source file, which the compiler finds out to be reachable from outside.
fn public_types(source: &str) -> impl Iterator<Item = &str> {
    source.lines().filter_map(|line| {
        let item = line.strip_prefix("pub ")?;
        let kinds = ["struct ", "enum ", "trait "];
        let item = kinds.iter().find_map(|kind| item.strip_prefix(kind))?;
        item.split(|c: char| !c.is_alphanumeric()).next()
    })
}

/// The lines of the examples in its doc comments, those that are not shown included.
fn examples(source: &str) -> Vec<String> {
    let mut inside = false;
    let mut examples = Vec::new();
    for line in source.lines().map(str::trim_start) {
        let Some(line) = line
            .strip_prefix("//!")
            .or_else(|| line.strip_prefix("///"))
        else {
            inside = false;
            continue;
        };
        if line.trim_start().starts_with("```") {
            inside = !inside;
        } else if inside {
            examples.push(line.to_owned());
        }
    }
    examples
}

// As README.md and the page on submitting show it.
async fn checksum(url: &str, password: &str) -> Result<String, Box<dyn std::error::Error>> {
    let options = async_nats::ConnectOptions::new()
        .user_and_password("publisher".into(), password.into())
        .custom_inbox_prefix("_INBOX_publisher");
    let nats = options.connect(url).await?;
    let job = r#"{"kind": "sha256", "payload": {"text": "abc"}}"#;
    let outcome = nats.request("jobs.create", job.into()).await?;
    Ok(String::from_utf8(outcome.payload.to_vec())?)
}

/// The source files of a folder, and of those below it.
fn sources(folder: &str) -> Vec<String> {
    let root = test_support::project_root().join(folder);
    let mut sources = Vec::new();
    for entry in fs::read_dir(&root).expect("the folder can be read") {
        let path = entry.expect("the folder can be read").path();
        let name = path.file_name().and_then(|name| name.to_str());
        let inner = format!("{folder}/{}", name.expect("names are text"));
        if path.is_dir() {
            sources.extend(self::sources(&inner));
        } else if path.extension().is_some_and(|it| it == "rs") {
            sources.push(read(&inner));
        }
    }
    sources
}

/// The lines of its doc comments, as rustdoc compiles them.
fn documented(source: &str) -> Vec<String> {
    let lines = source.lines().map(str::trim_start);
    let lines = lines.filter_map(|line| {
        let line = line
            .strip_prefix("//!")
            .or_else(|| line.strip_prefix("///"))?;
        let line = line.strip_prefix(' ').unwrap_or(line);
        // What begins with `# ` is compiled and not shown.
        (!line.starts_with("# ")).then(|| line.to_owned())
    });
    lines.collect()
}

#[tokio::test]
async fn a_client_in_rust_submits_a_job() {
    let server = NatsServer::start().await;
    let mut consumer = Service::named("consumer")
        .envs(server.env_for("worker"))
        .start();
    consumer
        .wait_for_line(|line| line.contains("taking jobs"))
        .await;
    let password = password(&server, "publisher");
    let outcome = checksum(&server.url(), &password).await.unwrap();
    assert!(outcome.contains("ba7816bf8f01cfea"), "{outcome}");
}

#[tokio::test]
async fn a_client_in_rust_submits_a_typed_job_and_prints_its_typed_result() {
    let server = NatsServer::start().await;
    let mut consumer = Service::named("consumer")
        .envs(server.env_for("worker"))
        .start();
    consumer
        .wait_for_line(|line| line.contains("taking durable jobs"))
        .await;
    let program = tokio::task::spawn_blocking(|| test_support::example("client", "submit"));
    let mut program = Service::program(program.await.unwrap())
        .envs(server.env_for("application"))
        .start();
    assert!(program.wait().await.success());
    let sha256 = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
    assert_eq!(program.stdout(), [sha256]);
}

#[test]
fn each_job_that_is_shown_is_one() {
    for (page, block) in all_blocks("json") {
        for line in block.lines() {
            JobMessage::decode(line.as_bytes())
                .unwrap_or_else(|error| panic!("{page}: {error}: {line}"));
        }
    }
}

#[test]
fn each_job_in_another_language_is_one() {
    for language in ["ts", "go"] {
        let examples = all_blocks(language);
        assert!(!examples.is_empty(), "{language}");
        for (page, example) in examples {
            let start = example.find(r#"{"kind""#).expect("a job in it");
            let quote = example[..start].chars().next_back().expect("a quote");
            let job = example[start..].split(quote).next().expect("its end");
            JobMessage::decode(job.as_bytes())
                .unwrap_or_else(|error| panic!("{page}: {error}: {job}"));
            let goes = ["\"jobs.create\"", "/jobs?wait="];
            let goes = goes.iter().any(|place| example.contains(place));
            assert!(goes, "{page}: {example}");
        }
    }
}

#[test]
fn each_code_of_the_publisher_is_told() {
    let source = read("crates/publisher/src/codes.rs");
    let codes: Vec<&str> = source
        .lines()
        .filter(|line| line.trim().starts_with("pub const "))
        .filter_map(|line| line.split('"').nth(1))
        .collect();
    assert!(codes.len() >= 3, "{codes:?}");
    let told: String = pages().iter().map(|page| read(page)).collect();
    for code in codes {
        assert!(told.contains(&format!("`{code}`")), "{code} is not told");
    }
}

/// The anchors of a page: its headings in the form that links use.
fn anchors(text: &str) -> BTreeSet<String> {
    let headings = text.lines().filter(|line| line.starts_with('#'));
    headings
        .map(|heading| {
            let words = heading.trim_start_matches('#').trim().to_lowercase();
            let kept = words.chars().filter_map(|letter| match letter {
                ' ' => Some('-'),
                '-' | '_' => Some(letter),
                _ => letter.is_alphanumeric().then_some(letter),
            });
            kept.collect()
        })
        .collect()
}

#[test]
fn each_link_leads_to_a_file_and_to_a_heading_in_it() {
    let others = ["docs/architecture.md", "CONTRIBUTING.md", "CHANGELOG.md"];
    let mut links = 0;
    for file in pages().into_iter().chain(others.map(str::to_owned)) {
        let text = read(&file);
        let folder = project_root()
            .join(&file)
            .parent()
            .map(Path::to_owned)
            .unwrap();
        for link in text.split("](").skip(1) {
            let target = link.split(')').next().unwrap_or_default();
            if target.starts_with("https://") {
                continue;
            }
            links += 1;
            let (path, anchor) = target.split_once('#').unwrap_or((target, ""));
            let path = if path.is_empty() {
                project_root().join(&file)
            } else {
                folder.join(path)
            };
            assert!(path.exists(), "{file} links to {target}");
            if !anchor.is_empty() {
                let anchors = anchors(&fs::read_to_string(&path).unwrap());
                assert!(anchors.contains(anchor), "{file} links to {target}");
            }
        }
    }
    assert!(links >= 60, "only {links} links were found");
}

#[test]
fn the_contents_of_the_guide_name_each_page() {
    let pages = guide();
    let contents = ["README.md", "SUMMARY.md"];
    assert!(pages.len() > contents.len(), "{pages:?}");
    for list in contents {
        let text = read(&format!("{GUIDE}/{list}"));
        for page in &pages {
            let named = contents.contains(&page.as_str()) || text.contains(&format!("]({page})"));
            assert!(named, "{list} does not name {page}");
        }
    }
}

#[test]
fn a_shell_can_read_each_command() {
    for (page, block) in all_blocks("sh") {
        let read = Command::new("bash").args(["-n", "-c", &block]).output();
        let read = read.expect("bash can be started");
        let said = String::from_utf8_lossy(&read.stderr);
        assert!(read.status.success(), "{page}: {said}\n{block}");
    }
}

/// The arguments of each call of one of our programs in the commands of the pages.
fn calls(program: &str) -> Vec<(String, Vec<String>)> {
    let path = format!("/{program}");
    let mut calls = Vec::new();
    for (page, block) in all_blocks("sh") {
        let block = block.replace("\\\n", " ");
        // A comment ends a line, and a pipe a command.
        let lines = block.lines().filter_map(|line| line.split(" #").next());
        for command in lines.flat_map(|line| line.split(" | ")) {
            let words: Vec<&str> = command.split_whitespace().collect();
            // A path, and not the address of something on the web.
            let is_program =
                |word: &&str| *word == program || (word.ends_with(&path) && !word.contains("://"));
            let Some(place) = words.iter().position(is_program) else {
                continue;
            };
            // `nats --user publisher` does not call the publisher, and `helm install jobs` not the tool.
            if ["nats", "helm", "kubectl", "docker", "for"].contains(&words[0]) {
                continue;
            }
            let arguments = words[place + 1..].iter();
            let arguments = arguments.take_while(|word| !word.starts_with(['"', '>', '<']));
            let arguments: Vec<_> = arguments.map(|word| (*word).to_owned()).collect();
            if !arguments.is_empty() {
                calls.push((page.clone(), arguments));
            }
        }
    }
    calls
}

#[tokio::test]
async fn each_call_of_our_programs_has_subcommands_and_flags_that_they_have() {
    for (program, fewest) in [("publisher", 6), ("jobs", 15)] {
        let calls = calls(program);
        assert!(calls.len() >= fewest, "{program}: {calls:?}");
        for (page, arguments) in calls {
            let is_name = |word: &str| word.chars().all(|sign| sign.is_alphabetic() || sign == '-');
            let subcommand = arguments
                .iter()
                .take_while(|word| !word.starts_with('-') && is_name(word));
            let mut help = Service::named(program)
                .args(subcommand)
                .arg("--help")
                .start();
            assert!(
                help.wait().await.success(),
                "{page}: {program} {arguments:?}"
            );
            let said = help.stdout().join("\n");
            for flag in arguments.iter().filter(|word| word.starts_with("--")) {
                assert!(
                    said.contains(flag.as_str()),
                    "{page}: {flag} of {program} {arguments:?}"
                );
            }
        }
    }
}

/// A script of a page, which runs as it stands there.
fn python(script: &str) -> ServiceBuilder {
    python_of(&test_support::python(), script)
}

fn python_of(command: &Command, script: &str) -> ServiceBuilder {
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

    for page in [README, SUBMITTING] {
        let submit = python(&block(page, "python", "jobs.create"))
            .env("NATS_URL", server.url())
            .env("NATS_PUBLISHER_PASSWORD", password(&server, "publisher"))
            .start();
        tells_the_checksum(submit).await;
    }

    let mut ask = python(&block(OPERATIONS, "python", "jobs.status"))
        .env("NATS_URL", server.url())
        .env("NATS_STATUS_PASSWORD", password(&server, "status"))
        .start();
    assert!(ask.wait().await.success());
    assert_eq!(ask.stdout(), ["consumer-1 running 2"]);
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
    let submit = python(&block(DURABLE_JOBS, "python", "jobs.durable"))
        .env("NATS_URL", server.url())
        .env("NATS_PUBLISHER_PASSWORD", password(&server, "publisher"))
        .env("NATS_OPERATOR_PASSWORD", password(&server, "operator"))
        .start();
    tells_the_checksum(submit).await;
}

#[tokio::test]
async fn the_tokens_that_are_shown_are_taken() {
    let server = NatsServer::builder().open().start().await;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("tokens.toml");
    fs::write(&file, block(HTTP_API, "toml", "[[token]]")).unwrap();
    let mut gateway = Service::named("gateway")
        .envs(server.env_for("gateway"))
        .args(["--listen", "127.0.0.1:0", "--tokens"])
        .arg(&file)
        .start();
    let address = gateway
        .wait_for_line(|line| line.contains("serving http"))
        .await;
    let address = address.rsplit("://").next().unwrap();
    // Nobody knows the token of the hash that is shown.
    let answer = test_support::http("GET", address, "/v1/queues").await;
    assert_eq!(answer.unwrap().status, 401);
}

/// The outcome of a job that is submitted as a request.
async fn outcome(client: &async_nats::Client, job: serde_json::Value) -> Outcome {
    let request = client.request("jobs.create", job.to_string().into());
    let answer = tokio::time::timeout(DEADLINE, request).await;
    let answer = answer.expect("an answer in time").expect("an answer");
    serde_json::from_slice(&answer.payload).expect("an outcome")
}

#[test]
fn compose_gives_nats_the_passwords_of_users_that_are_added() {
    let compose = read("docker-compose.yml");
    let (_, nats) = compose.split_once("\n  nats:\n").expect("NATS runs");
    let nats = nats.split("\n\n").next().unwrap_or_default();
    let (_, file) = nats
        .split_once("env_file: [\"${NATS_ENV_FILE:-./")
        .expect("it reads a file of variables");
    let file = file.split('}').next().unwrap_or_default();
    // It is versioned, and so no place for a password of ours.
    assert!(read(file).lines().all(|line| line.starts_with('#')));
    let told = block(HANDLERS, "sh", "--force-recreate nats");
    let own = "nats.secret.env";
    assert!(told.contains(&format!(">> {own}")), "{told}");
    assert!(
        told.contains(&format!("NATS_ENV_FILE=./{own} >> .env")),
        "{told}"
    );
    // Git keeps neither.
    let ignored = read(".gitignore");
    assert!(ignored.contains("\n.env\n") && ignored.contains("*.secret.env"));
}

const WEBHOOK_SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";

#[tokio::test]
async fn the_web_service_that_is_shown_does_signed_jobs_only() {
    let server = NatsServer::builder().open().start().await;
    let mut service = python(&block(HANDLERS, "python", "http.server"))
        .env("WEBHOOK_SECRET", WEBHOOK_SECRET)
        .env("PORT", "0")
        .start();
    let said = service.wait_for_line(|line| line.contains("port")).await;
    let port = said.rsplit(' ').next().unwrap();
    does_signed_jobs_only(&server, port).await;
}

#[tokio::test]
async fn the_route_of_fastapi_that_is_shown_does_signed_jobs_only() {
    let server = NatsServer::builder().open().start().await;
    let above = block(HANDLERS, "python", "http.server");
    let (above, _) = above.split_once("class Hook").unwrap();
    let script = format!("{above}{}", block(HANDLERS, "python", "import uvicorn"));
    let requirements = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/tests/fastapi.requirements.txt"
    );
    let command = test_support::python_with(Path::new(requirements));
    let service = python_of(&command, &script)
        .env("WEBHOOK_SECRET", WEBHOOK_SECRET)
        .env("PORT", "0")
        .start();
    let port = eventually(DEADLINE, "uvicorn to name its port", async || {
        let said = service.stderr().join("\n");
        let (_, rest) = said.split_once("running on http://127.0.0.1:")?;
        Some(rest.split(' ').next()?.to_owned())
    })
    .await;
    does_signed_jobs_only(&server, &port).await;
}

/// The service that listens on this port does a job whose request is signed, and no other.
async fn does_signed_jobs_only(server: &NatsServer, port: &str) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let file = folder.path().join("handlers.toml");
    let url = format!("http = \"http://127.0.0.1:{port}/hook\"");
    let handlers = format!(
        "[handlers.\"web.hook\"]\n{url}\nsecret = \"${{WEBHOOK_SECRET}}\"\n[handlers.unsigned]\n{url}\n"
    );
    fs::write(&file, handlers).expect("the file can be written");
    let mut consumer = Service::named("consumer")
        .envs(server.env_for("worker"))
        .env("CONSUMER_HANDLERS", &file)
        .env("WEBHOOK_SECRET", WEBHOOK_SECRET)
        .start();
    consumer
        .wait_for_line(|line| line.contains("taking jobs"))
        .await;
    let client = server.connect_as("publisher").await;
    let job = |kind| serde_json::json!({"kind": kind, "payload": {"text": "a b"}});

    let signed = outcome(&client, job("web.hook")).await;
    let result: serde_json::Value =
        serde_json::from_str(signed.result.expect("a result").get()).expect("JSON");
    assert_eq!(result, serde_json::json!({"words": 2}));
    let unsigned = outcome(&client, job("unsigned")).await;
    let error = format!("{:?}", unsigned.error);
    assert!(error.contains("answered 401 Unauthorized"), "{error}");
}

#[tokio::test]
async fn the_declared_handlers_are_taken_and_run() {
    for page in [README, HANDLERS] {
        let server = NatsServer::builder().open().start().await;
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("handlers.toml");
        fs::write(&file, block(page, "toml", "[handlers.")).unwrap();
        let mut consumer = Service::named("consumer")
            .envs(server.env_for("worker"))
            .env("CONSUMER_HANDLERS", &file)
            .env("WEBHOOK_TOKEN", "secret")
            .env("WEBHOOK_SECRET", WEBHOOK_SECRET)
            .start();
        let kinds = consumer
            .wait_for_line(|line| line.contains("taking jobs"))
            .await;

        let client = server.connect_as("publisher").await;
        let path = file.to_str().unwrap();
        let kind = if page == README {
            "file.checksum"
        } else {
            "checksum.file"
        };
        let checksum = serde_json::json!({"kind": kind, "payload": {"path": path}});
        let checksum = outcome(&client, checksum).await;
        let result = checksum.result.expect("a result").get().to_owned();
        assert!(result.ends_with(&format!("  {path}\"")), "{result}");
        if page == README {
            continue;
        }

        assert!(kinds.contains("web.hook"), "{kinds}");
        let _service = python(&block(page, "python", "handlers.reverse"))
            .env("NATS_URL", server.url())
            .env("NATS_REVERSER_PASSWORD", "any")
            .start();
        let reversed = eventually(DEADLINE, "the service that reverses texts", async || {
            let job = serde_json::json!({"kind": "text.reverse", "payload": {"text": "abc"}});
            outcome(&client, job).await.result
        })
        .await;
        assert_eq!(reversed.get(), r#"{"text": "cba"}"#);
    }
}
