//! The command line, and its error messages.

use test_support::{NatsServer, Service};

use crate::support::{file_of, publisher};

async fn refused(args: &[&str], variable: &str) -> String {
    let mut service = Service::named("publisher").args(args);
    if let Some((name, value)) = variable.split_once('=') {
        service = service.env(name, value);
    }
    let mut service = service.start();
    let status = service.wait().await;
    let lines: Vec<_> = service.lines().into_iter().map(|line| line.text).collect();
    let text = lines.join("\n");
    assert_eq!(status.code(), Some(2), "{args:?} {variable}: {text}");
    text
}

#[tokio::test]
async fn the_help_documents_each_flag() {
    let mut service = Service::named("publisher")
        .arg("--help")
        .env("COLUMNS", "100")
        .start();
    assert!(service.wait().await.success());
    insta::assert_snapshot!(service.stdout().join("\n"));
}

#[tokio::test]
async fn it_says_its_version() {
    let mut service = Service::named("publisher").arg("--version").start();
    assert!(service.wait().await.success());
    let version = format!("publisher {}", env!("CARGO_PKG_VERSION"));
    assert_eq!(service.stdout(), [version]);
}

#[tokio::test]
async fn a_mistake_is_named_by_flag_or_variable_and_ends_with_2() {
    let cases = [
        (
            &["--in-flight", "0"][..],
            "",
            &["--in-flight", "1..=65536"][..],
        ),
        (&[], "PUBLISHER_IN_FLIGHT=many", &["PUBLISHER_IN_FLIGHT"]),
        (&[], "PUBLISHER_BY_KIND=perhaps", &["PUBLISHER_BY_KIND"]),
        (&["--kind", "a b"], "", &["--kind", "invalid kind"]),
        (&["info"], "", &["unrecognized subcommand", "info"]),
        (&["--payload", "{"], "", &["--payload", "not JSON"]),
        (
            &["--interval", "1s", "--rate", "5"],
            "",
            &["--interval", "cannot be used with", "--rate"],
        ),
        (&["--input", "/no/such/file"], "", &["/no/such/file"]),
        // A flag wins, also over the variable of one that it excludes.
        (
            &["--input", "/no/such/file"],
            "PUBLISHER_INTERVAL=20ms",
            &["/no/such/file"],
        ),
        (
            &["--output", "-", "--delivery", "fire-and-forget"],
            "",
            &["there are no outcomes"],
        ),
    ];
    for (args, variable, words) in cases {
        let text = refused(args, variable).await;
        for word in words {
            assert!(text.contains(word), "{args:?} {variable}: {text}");
        }
    }
}

#[tokio::test]
async fn variables_that_exclude_each_other_are_all_named() {
    let variables = [
        ("PUBLISHER_INTERVAL", "1s"),
        ("PUBLISHER_RATE", "5"),
        ("PUBLISHER_INPUT", "/no/such/file"),
    ];
    for count in [2, 3] {
        let mut service = Service::named("publisher");
        for (name, value) in &variables[..count] {
            service = service.env(name, value);
        }
        let mut service = service.start();
        assert_eq!(service.wait().await.code(), Some(2));
        let text = service.stderr().join("\n");
        assert!(text.contains("cannot be used with"), "{text}");
        for (name, _) in &variables[..count] {
            assert!(
                text.contains(&format!("from the variable {name}"))
                    || text.contains(&format!("from the variable '{name}'")),
                "{text}"
            );
        }
    }
}

#[tokio::test]
async fn an_input_is_not_overwritten_by_its_outcomes() {
    let (_folder, input) = file_of([r#"{"kind":"a"}"#.to_owned()]);
    let path = input.to_str().unwrap();
    let text = refused(&["--input", path, "--output", path], "").await;
    assert!(text.contains("would overwrite"), "{text}");
    assert_eq!(
        std::fs::read_to_string(&input).unwrap(),
        "{\"kind\":\"a\"}\n"
    );
}

#[tokio::test]
async fn credentials_that_nats_refuses_are_a_mistake_in_the_configuration() {
    let nats = NatsServer::start().await;
    let mut service = publisher(&nats).env("NATS_PASSWORD", "guessed").start();
    assert_eq!(service.wait().await.code(), Some(2));
    let lines = service.stdout();
    assert!(
        lines.iter().any(|line| line.contains("NATS_PASSWORD")),
        "{lines:?}"
    );
}
