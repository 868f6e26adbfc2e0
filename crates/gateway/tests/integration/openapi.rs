//! The document that describes the API says what is true.

use std::collections::BTreeSet;

use serde_json::{Value, json};
use test_support::{DEADLINE, NatsServer, eventually};

use crate::support::{Answer, Gateway, consumer, send, status_service};

/// Checks that an answer is as the document says.
fn check(document: &Value, method: &str, path: &str, answer: &Answer) {
    let responses = &document["paths"][path][method]["responses"];
    let response = &responses[answer.status.to_string()];
    assert!(
        response.is_object(),
        "{method} {path} {}: not described",
        answer.status
    );
    let kind = answer.headers["content-type"].to_str().unwrap();
    let schema = &response["content"][kind]["schema"];
    assert!(
        schema.is_object(),
        "{method} {path} {} {kind}: no schema",
        answer.status
    );
    let schema = json!({
        "allOf": [schema], "components": document["components"],
        "$schema": "https://json-schema.org/draft/2020-12/schema",
    });
    let validator = jsonschema::validator_for(&schema).unwrap();
    let body = answer.json();
    let errors: Vec<_> = validator
        .iter_errors(&body)
        .map(|error| error.to_string())
        .collect();
    assert!(
        errors.is_empty(),
        "{method} {path} {}: {errors:#?}\n{body:#}",
        answer.status
    );
}

/// Whether a JSON body is one that the document takes.
fn takes(document: &Value, path: &str, body: &str) -> bool {
    let schema =
        &document["paths"][path]["post"]["requestBody"]["content"]["application/json"]["schema"];
    let schema = json!({"allOf": [schema], "components": document["components"]});
    let validator = jsonschema::validator_for(&schema).unwrap();
    validator.is_valid(&serde_json::from_str(body).unwrap())
}

#[tokio::test]
async fn a_token_is_optional_where_there_are_none() {
    let nats = NatsServer::start().await;
    let gateway = Gateway::start(&nats).await;
    let document = gateway.get("/openapi.json").await.json();
    assert_eq!(document["security"], json!([{}, {"token": []}]));
    let folder = tempfile::tempdir().unwrap();
    let tokens = folder.path().join("tokens.toml");
    std::fs::write(&tokens, "[[token]]\nname = \"a\"\nscopes = [\"read\"]\ntoken = \"0123456789abcdef0123456789abcdef\"\n").unwrap();
    let gateway = Gateway::with(&nats, &["--tokens", tokens.to_str().unwrap()]).await;
    let document = gateway.get("/openapi.json").await.json();
    assert_eq!(document["security"], json!([{"token": []}]));
    let scheme = &document["components"]["securitySchemes"]["token"];
    assert_eq!(scheme["scheme"], "bearer");
}

#[tokio::test]
async fn an_event_of_a_job_is_as_described() {
    let nats = NatsServer::start().await;
    let _consumer = consumer(&nats, &[]).await;
    let gateway = Gateway::start(&nats).await;
    let document = gateway.get("/openapi.json").await.json();
    let path = "/v1/jobs/{id}/events";
    let content = &document["paths"][path]["get"]["responses"]["200"]["content"];
    let stream = content["text/event-stream"]["schema"]["$ref"]
        .as_str()
        .unwrap();
    assert_eq!(stream, "#/components/schemas/RecordEvents");
    let ended = gateway.post("/v1/jobs?wait=1m", r#"{"kind":"echo"}"#).await;
    let answer = gateway.get(&path.replace("{id}", &ended.id())).await;
    let mut event = json!({});
    for line in answer.text.lines().filter(|line| !line.is_empty()) {
        let (name, value) = line.split_once(": ").unwrap();
        event[name] = match name {
            "retry" => value.parse::<u64>().unwrap().into(),
            _ => value.into(),
        };
    }
    let valid = |name: &str, value: &Value| {
        let schema = format!("#/components/schemas/{name}");
        let schema = json!({"$ref": schema, "components": document["components"]});
        jsonschema::validate(&schema, value).unwrap_or_else(|error| panic!("{error}: {value:#}"));
    };
    valid("RecordEvent", &event);
    let data = &document["components"]["schemas"]["RecordEvent"]["properties"]["data"];
    assert_eq!(
        data["contentSchema"]["$ref"],
        "#/components/schemas/JobRecord"
    );
    valid(
        "JobRecord",
        &serde_json::from_str(event["data"].as_str().unwrap()).unwrap(),
    );
}

#[tokio::test]
async fn every_route_is_described_and_answers_are_as_described() {
    let nats = NatsServer::start().await;
    let _consumer = consumer(&nats, &[]).await;
    let _status = status_service(&nats);
    let gateway = Gateway::start(&nats).await;
    let document = gateway.get("/openapi.json").await.json();
    assert!(document["openapi"].as_str().unwrap().starts_with("3.1"));
    let paths = document["paths"].as_object().unwrap().iter();
    let paths: BTreeSet<_> = paths
        .flat_map(|(path, methods)| {
            let methods = methods.as_object().unwrap().keys();
            methods.map(move |method| format!("{path} {method}"))
        })
        .collect();
    let paths: Vec<_> = paths.into_iter().collect();
    insta::assert_snapshot!(paths.join("\n"));
    // A generator makes a function of each operation, and a name has one meaning.
    let operations = document["paths"].as_object().unwrap().values();
    let operations = operations.flat_map(|path| path.as_object().unwrap().values());
    let ids: Vec<_> = operations
        .map(|operation| operation["operationId"].as_str())
        .collect();
    let different: BTreeSet<_> = ids.iter().map(|id| id.unwrap()).collect();
    assert_eq!(ids.len(), different.len(), "{ids:?}");
    // What a reference names is there.
    let text = document.to_string();
    for reference in text.split("#/components/schemas/").skip(1) {
        let name = reference.split('"').next().unwrap();
        let schema = &document["components"]["schemas"][name];
        assert!(
            schema.as_object().is_some_and(|schema| !schema.is_empty()),
            "{name}"
        );
    }

    let post = async |path: &str, query: &str, body: &str| {
        let answer = gateway.post(&format!("{path}{query}"), body).await;
        check(&document, "post", path, &answer);
        answer
    };
    let job = r#"{"kind":"echo","payload":1}"#;
    post("/v1/jobs", "", job).await;
    let id = post("/v1/jobs", "?wait=1m", job).await.id();
    post("/v1/jobs", "?delivery=confirmed", job).await;
    post("/v1/jobs", "", r#"[{"kind":"echo"},{"kind":"echo"}]"#).await;
    post("/v1/jobs", "", r#"[{"kind":"echo"},7]"#).await;
    unique_jobs(&document, &gateway).await;
    post("/v1/jobs", "", "{").await;
    post("/v1/jobs", "", r#"{"kind":7}"#).await;
    for body in ["[]", "null", "[null]", "[[]]"] {
        let answer = post("/v1/jobs", "", body).await;
        assert!([400, 422].contains(&answer.status), "{body}: {answer:?}");
        let taken = takes(&document, "/v1/jobs", body);
        assert!(!taken, "the document takes {body}");
    }
    assert!(takes(&document, "/v1/jobs", job) && takes(&document, "/v1/jobs", &format!("[{job}]")));
    post("/v1/jobs/cancel", "?kind=nothing", "").await;
    post("/v1/jobs/cancel", "", "").await;
    let dead = gateway.dead_job("an error").await;
    eventually(DEADLINE, "the fleet", async || {
        let answer = gateway.get("/v1/fleet").await;
        (answer.status == 200 && answer.json()["answering"] == 1).then_some(())
    })
    .await;
    for (path, id) in [
        ("/v1/jobs", ""),
        ("/v1/jobs/{id}", &*id),
        ("/v1/jobs/{id}", &*dead),
        ("/v1/jobs/{id}/why", &*id),
        ("/v1/jobs/{id}/why", "01890a5d-ac96-774b-bcce-b302099a8057"),
        ("/v1/jobs/{id}", "7"),
        ("/v1/jobs/{id}", "01890a5d-ac96-774b-bcce-b302099a8057"),
        ("/v1/dead-letters", ""),
        ("/v1/dead-letters/groups", ""),
        ("/v1/dead-letters/{id}", &*dead),
        ("/v1/dead-letters/{id}", &*id),
        ("/v1/fleet", ""),
        ("/v1/streams", ""),
        ("/v1/queues", ""),
    ] {
        let answer = gateway.get(&path.replace("{id}", id)).await;
        check(&document, "get", path, &answer);
    }
    let replay = "/v1/dead-letters/{id}/replay";
    for body in ["[]", "null", "[1]"] {
        let answer = gateway.post(&replay.replace("{id}", &dead), body).await;
        check(&document, "post", replay, &answer);
        assert_eq!(answer.status, 422, "{body}: {answer:?}");
        assert!(!takes(&document, replay, body), "the document takes {body}");
    }
    assert!(takes(&document, replay, r#"{"payload":null}"#) && takes(&document, replay, "{}"));
    let required = &document["paths"][replay]["post"]["requestBody"]["required"];
    assert_eq!(required, false);
    pauses(&document, &gateway).await;
    schedules(&document, &gateway).await;
    let answer = gateway.delete(&format!("/v1/jobs/{id}")).await;
    check(&document, "delete", "/v1/jobs/{id}", &answer);
    let answer = gateway
        .post(&format!("/v1/dead-letters/{dead}/replay"), "")
        .await;
    check(&document, "post", "/v1/dead-letters/{id}/replay", &answer);
    gateway.job_is(&dead, "dead").await;
    let answer = gateway.delete("/v1/dead-letters?all=true").await;
    check(&document, "delete", "/v1/dead-letters", &answer);
}

/// Answers about unique jobs are as they are described.
async fn unique_jobs(document: &Value, gateway: &Gateway) {
    let post = async |body: &str| {
        let answer = gateway.post("/v1/jobs", body).await;
        check(document, "post", "/v1/jobs", &answer);
        answer
    };
    let unique = |on_conflict: &str| {
        let unique = json!({"key": "a", "on_conflict": on_conflict});
        let job = json!({"kind": "echo", "run_at": "2100-01-31T09:30:00Z", "unique": unique});
        job.to_string()
    };
    let first = post(&unique("reject")).await.id();
    let held = post(&unique("reject")).await;
    assert_eq!((held.status, &held.json()["holder"]), (409, &json!(first)));
    let kept = post(&unique("keep")).await;
    assert_eq!((kept.status, kept.id()), (200, first));
}

/// The routes of kinds, and the one that runs jobs now, answer as they are described.
async fn pauses(document: &Value, gateway: &Gateway) {
    let pause = "/v1/kinds/{kind}/pause";
    for (kind, body) in [
        ("echo", r#"{"for":"1h","reason":"a move"}"#),
        ("echo", ""),
        ("a%20b", ""),
        ("echo", "["),
        ("echo", "[]"),
    ] {
        let answer = gateway.post(&pause.replace("{kind}", kind), body).await;
        check(document, "post", pause, &answer);
    }
    let answer = gateway.get("/v1/queues").await;
    check(document, "get", "/v1/queues", &answer);
    let answer = gateway.post("/v1/kinds/echo/resume", "").await;
    check(document, "post", "/v1/kinds/{kind}/resume", &answer);
    let run_now = "/v1/jobs/run-now";
    for query in ["?kind=nothing", "?state=queued"] {
        let answer = gateway.post(&format!("{run_now}{query}"), "").await;
        check(document, "post", run_now, &answer);
    }
    let pause = "/v1/kinds/=all/pause";
    for body in [r#"{"for":"1h","reason":"a move"}"#, "", "[", "[]"] {
        let answer = gateway.post(pause, body).await;
        check(document, "post", pause, &answer);
    }
    for list in ["/v1/queues", "/v1/kinds"] {
        check(document, "get", list, &gateway.get(list).await);
    }
    let resume = "/v1/kinds/=all/resume";
    let answer = gateway.post(resume, "").await;
    check(document, "post", resume, &answer);
    let priorities = "/v1/kinds/{kind}/priorities";
    for kind in ["echo", "a%20b"] {
        let answer = gateway.post(&priorities.replace("{kind}", kind), "").await;
        check(document, "post", priorities, &answer);
    }
    let answer = gateway.get("/v1/kinds").await;
    check(document, "get", "/v1/kinds", &answer);
}

/// The routes of schedules answer as they are described.
async fn schedules(document: &Value, gateway: &Gateway) {
    let one = "/v1/schedules/{name}";
    let path = one.replace("{name}", "nightly");
    let daily = r#"{"cron":"@daily","job":{"kind":"echo"},"catch_up":{"all":3},"jitter":"1m"}"#;
    for (query, body) in [
        ("", daily),
        ("", daily),
        ("?preview=true", daily),
        ("", "{"),
        ("", r#"{"cron":"0 0 30 2 *","job":{"kind":"echo"}}"#),
    ] {
        let answer = gateway.putting(&format!("{path}{query}"), body);
        check(document, "put", one, &send(answer).await);
    }
    let stale = gateway.putting(&path, daily).header("if-match", "\"9\"");
    check(document, "put", one, &send(stale).await);
    for (route, name) in [
        ("/v1/schedules", ""),
        (one, "nightly"),
        (one, "none"),
        (one, "a%20b"),
    ] {
        let answer = gateway.get(&route.replace("{name}", name)).await;
        check(document, "get", route, &answer);
    }
    for change in ["pause", "resume", "run"] {
        for name in ["nightly", "none"] {
            let route = format!("{one}/{change}");
            let answer = gateway.post(&route.replace("{name}", name), "").await;
            check(document, "post", &route, &answer);
        }
    }
    for status in [204, 404] {
        assert_eq!(gateway.delete(&path).await.status, status);
    }
}

#[tokio::test]
async fn the_page_of_the_api_shows_each_operation_and_needs_no_other_host() {
    let nats = NatsServer::start().await;
    let gateway = Gateway::start(&nats).await;
    let page = gateway.get("/docs").await;
    assert_eq!(page.status, 200);
    let document = gateway.get("/openapi.json").await.json();
    for (path, methods) in document["paths"].as_object().unwrap() {
        for method in methods.as_object().unwrap().keys() {
            let title = format!("<code>{} {path}</code>", method.to_uppercase());
            assert!(page.text.contains(&title), "{title}");
        }
    }
    for name in document["components"]["schemas"]
        .as_object()
        .unwrap()
        .keys()
    {
        assert!(
            page.text.contains(&format!("id=\"schema-{name}\"")),
            "{name}"
        );
    }
    for word in [
        "src=\"http",
        "href=\"http",
        "<style",
        " style=",
        " onclick=",
    ] {
        assert!(!page.text.contains(word), "{word}");
    }
}
