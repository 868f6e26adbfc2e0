use std::ffi::OsString;

use super::*;

fn variables(name: &str) -> Option<OsString> {
    match name {
        "TOKEN" => Some("s3cret".into()),
        "BROKEN" => Some("s3cret\n".into()),
        "EMPTY" => Some("".into()),
        "SECRET" => Some("s3cret-s3cret-s3cret-s3cret".into()),
        _ => None,
    }
}

/// The kinds that a file declares, or what is wrong with it.
fn kinds(text: &str) -> Result<Vec<String>, String> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"));
    match read(text, folder, &variables) {
        Ok(declared) => Ok(declared
            .into_iter()
            .map(|(kind, _)| kind.to_string())
            .collect()),
        Err(mistakes) => Err(Mistakes(Path::new("handlers.toml"), &mistakes).to_string()),
    }
}

fn mistakes(text: &str) -> String {
    let text = kinds(text).unwrap_err();
    assert!(!text.contains("s3cret"), "{text}");
    text.replace(env!("CARGO_MANIFEST_DIR"), "/folder")
}

#[test]
fn every_key_is_taken() {
    let text = r#"
        [handlers.checksum]
        exec = ["sha256sum", "--", "{payload.path}"]
        timeout = "30s"
        stdin = "none"
        result = "text"
        env = ["TOKEN", "MODE=fast", "PATH=/usr/bin:/bin"]
        dir = "src"
        success-codes = [0, 1]
        transient-codes = [75, 255]
        max-output = "64KiB"

        [handlers."image.resize"]
        nats = "handlers.resize"
        timeout = "1m 30s"
        result = "json"

        [handlers."web_hook"]
        http = "https://example.org:8443/${TOKEN}?q=1"
        method = "PUT"
        headers = { Authorization = "Bearer ${TOKEN}", Accept = "text/plain" }
        secret = "${SECRET}"
        timeout = "500ms"
        redirects = 3
        result = "none"
        max-output = "1B"
    "#;
    assert_eq!(
        kinds(text).unwrap(),
        ["checksum", "image.resize", "web_hook"]
    );
}

#[test]
fn a_file_without_handlers_declares_none() {
    assert_eq!(kinds("").unwrap(), [""; 0]);
    assert_eq!(kinds("[handlers]\n").unwrap(), [""; 0]);
}

#[test]
fn mistakes_in_the_shape_of_the_file_are_reported_with_their_line() {
    let shapes = [
        "[handlers.a\nexec = [\"true\"]\n",
        "[handlers.a]\nexec = [\"true\"]\n\n[handlers.a]\nnats = \"b\"\n",
        "[handlers]\na = 1\n[handler.b]\nexec = [\"true\"]\n",
        "handlers = 5\n",
        "[[handlers]]\nkind = \"a\"\n",
        "[handlers.mail.send]\nexec = [\"true\"]\n",
        "[handlers.\"mail..send\"]\nexec = [\"true\"]\n",
        "[handlers.a]\n",
        "[handlers.a]\ntimeout = \"1s\"\nexce = [\"true\"]\n",
        "[handlers.a]\nrun = \"true\"\ntimeout = \"1s\"\n",
        "[handlers.a]\nexec = [\"true\"]\nnats = \"b\"\n",
        "\u{feff}[handlers.a]\nexec = 1",
        "[handlers.a]\nexec = [\"true\"]\nnul = \"\0\"",
    ];
    insta::assert_snapshot!(shapes.map(mistakes).join("\n---\n"));
}

#[test]
fn all_handlers_with_mistakes_are_reported_at_once() {
    let text = "[handlers.b]\nhttp = \"ftp://x\"\n[handlers.a]\nnats = \"a b\"\n[other]\n";
    insta::assert_snapshot!(mistakes(text));
}

fn each(declarations: &[&str]) -> String {
    let mistakes = declarations.iter().map(|declaration| {
        let mistake = mistakes(&format!("[handlers.\"a.b\"]\n{declaration}\n"));
        format!("{declaration}\n  {mistake}\n")
    });
    mistakes.collect()
}

#[test]
fn mistakes_in_programs_are_reported_with_the_right_form() {
    let declarations = [
        "exec = \"sha256sum -\"",
        "exec = []",
        "exec = [\"\"]",
        "exec = [\"true\", 5]",
        "exec = [\"no-such-program\"]",
        "exec = [\"./src\"]",
        "exec = [\"./Cargo.toml\"]",
        "exec = [\"/no/such/program\"]",
        "exec = [\"{payload}\"]",
        "exec = [\"true\", \"{payload.}\"]",
        "exec = [\"true\", \"a\\u0000b\"]",
        "exec = [\"true\"]\nenv = [\"PATH=/nowhere\"]",
        "exec = [\"true\"]\nenv = [\"MISSING\"]",
        "exec = [\"true\"]\nenv = [\"JOB_ID=7\"]",
        "exec = [\"true\"]\nenv = [\"A B\"]",
        "exec = [\"true\"]\ndir = \"nowhere\"",
        "exec = [\"true\"]\nstdin = \"yaml\"",
        "exec = [\"true\"]\nresult = \"binary\"",
        "exec = [\"true\"]\nsuccess-codes = []",
        "exec = [\"true\"]\nsuccess-codes = [256]",
        "exec = [\"true\"]\nsuccess-codes = [0, 75]\ntransient-codes = [75]",
        "exec = [\"true\"]\ntransient_codes = [1]",
        "exec = [\"true\"]\nmax-output = \"1GB\"",
        "exec = [\"true\"]\nmax-output = 5",
        "exec = [\"true\"]\ntimeout = \"soon\"",
        "exec = [\"true\"]\ntimeout = \"0s\"",
        "exec = [\"true\"]\ntimeout = 30",
        "exec = [\"true\"]\nsuccess-codes = 0",
        "exec = [\"true\"]\nenv = { A = 1 }",
        "exec = [\"true\"]\nmethod = \"POST\"",
    ];
    insta::assert_snapshot!(each(&declarations));
}

#[test]
fn mistakes_in_calls_of_web_services_show_no_secret() {
    let declarations = [
        "http = \"\"",
        "http = \"example.org/hook\"",
        "http = \"file:///etc/passwd\"",
        "http = \"gopher://example.org\"",
        "http = \"https://\"",
        "http = \"https://exa mple.org\"",
        "http = \"https://example.org/${MISSING}\"",
        "http = \"https://example.org/${EMPTY}\"",
        "http = \"${TOKEN}\"",
        "http = \"https://example.org/${\"",
        "http = \"https://example.org\"\nmethod = \"post\"",
        "http = \"https://example.org\"\nmethod = \"CONNECT\"",
        "http = \"https://example.org\"\nheaders = { \"a b\" = \"c\" }",
        "http = \"https://example.org\"\nheaders = { a = \"${MISSING}\" }",
        "http = \"https://example.org\"\nheaders = { a = \"${BROKEN}\" }",
        "http = \"https://example.org\"\nheaders = { a = \"${A B}\" }",
        "http = \"https://example.org\"\nheaders = { a = 5 }",
        "http = \"https://example.org\"\nheaders = { a = \"1\", A = \"2\" }",
        "http = \"https://example.org\"\nheaders = { Content-Length = \"2\" }",
        "http = \"https://example.org\"\nheaders = { Idempotency-Key = \"2\" }",
        "http = \"https://example.org\"\nheaders = { Webhook-Id = \"2\" }",
        "http = \"https://example.org\"\nsecret = \"a text that stands in the file\"",
        "http = \"https://example.org\"\nsecret = \"${MISSING}\"",
        "http = \"https://example.org\"\nsecret = \"${TOKEN}\"",
        "http = \"https://example.org\"\nsecret = \"whsec_${TOKEN}!\"",
        "http = \"https://example.org\"\nsecret = 5",
        "http = \"https://example.org\"\nredirects = 11",
        "http = \"https://example.org\"\nredirects = true",
        "http = \"https://example.org\"\nstdin = \"json\"",
    ];
    insta::assert_snapshot!(each(&declarations));
}

#[test]
fn mistakes_in_subjects_are_reported_with_the_right_form() {
    let declarations = [
        "nats = \"\"",
        "nats = \"handlers.*\"",
        "nats = \"handlers.>\"",
        "nats = \"handlers..resize\"",
        "nats = \"handlers resize\"",
        "nats = \"jobs.create\"",
        "nats = \"$JS.API.STREAM.DELETE.JOBS\"",
        "nats = \"_INBOX_publisher.a\"",
        "nats = 5",
        "nats = \"handlers.resize\"\nmax-output = \"1MiB\"",
    ];
    insta::assert_snapshot!(each(&declarations));
}

#[test]
fn the_example_is_in_order() {
    let path = test_support::project_root().join("deploy/handlers.toml");
    let text = std::fs::read_to_string(&path).unwrap();
    let declared = read(&text, path.parent().unwrap(), &|_| None);
    let declared = declared.unwrap_or_else(|mistakes| panic!("{}", Mistakes(&path, &mistakes)));
    assert!(declared.len() >= 2);
}

proptest::proptest! {
    #[test]
    fn no_text_makes_the_reader_panic(
        text in r#"(\[handlers(\.[a-z"]{1,3})?\]|exec|http|nats|=|\[|"|\$\{|[a-z{}., \n]){0,40}"#,
    ) {
        let _ = kinds(&text);
    }
}
