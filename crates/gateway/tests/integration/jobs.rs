//! Looking jobs up, listing and cancelling them.

use std::io::Write as _;
use std::net::TcpStream;

use serde_json::{Value, json};
use test_support::{DEADLINE, NatsServer, eventually};

use crate::support::{Gateway, consumer, send, streams_without_consumer};

const NOBODY: &str = "01890a5d-ac96-774b-bcce-b302099a8057";

/// A text that a page must never run, wherever it is shown.
const SCRIPT: &str = "<script>alert('x')</script>\" onload=\"";

#[tokio::test]
async fn the_history_of_a_job_is_told() {
    let nats = NatsServer::start().await;
    let _consumer = consumer(&nats, &[]).await;
    let gateway = Gateway::start(&nats).await;
    let job = json!({
        "kind": "fail", "payload": {"message": SCRIPT}, "max_attempts": 2,
        "backoff": {"initial": "1ms", "max": "1ms"},
    });
    let answer = gateway.post("/v1/jobs?wait=1m", &job.to_string()).await;
    let record = gateway.get(&format!("/v1/jobs/{}", answer.id())).await;
    assert_eq!(record.status, 200);
    // A browser takes it for nothing but data.
    assert_eq!(record.headers["content-type"], "application/json");
    assert_eq!(record.headers["x-content-type-options"], "nosniff");
    let record = record.json();
    assert_eq!(
        (&record["state"], &record["reason"]),
        (&json!("dead"), &json!("attempts_used_up"))
    );
    let failures = record["failures"].as_array().unwrap();
    assert_eq!(failures.len(), 2);
    assert!(
        failures[0]["error"]["message"]
            .as_str()
            .unwrap()
            .contains(SCRIPT)
    );
}

#[tokio::test]
async fn unknown_jobs_and_bad_ids_are_told_apart() {
    let nats = NatsServer::start().await;
    streams_without_consumer(&nats).await;
    let gateway = Gateway::start(&nats).await;
    assert_eq!(
        gateway.get(&format!("/v1/jobs/{NOBODY}")).await.problem().0,
        404
    );
    assert_eq!(
        gateway.get("/v1/jobs/7").await.problem(),
        (400, Some("id".to_owned()))
    );
    assert_eq!(
        gateway
            .get(&format!("/v1/jobs/{NOBODY}/events"))
            .await
            .problem()
            .0,
        404
    );
    assert_eq!(
        gateway
            .delete(&format!("/v1/jobs/{NOBODY}"))
            .await
            .problem()
            .0,
        404
    );
    assert_eq!(gateway.get("/v1/nothing").await.problem().0, 404);
    assert_eq!(gateway.delete("/v1/fleet").await.problem().0, 405);
}

#[tokio::test]
async fn a_job_is_told_as_it_was_submitted_if_that_is_asked_and_when_it_has_ended() {
    let nats = NatsServer::start().await;
    streams_without_consumer(&nats).await;
    let gateway = Gateway::start(&nats).await;
    let job = json!({"kind": "mail", "payload": {"to": SCRIPT}}).to_string();
    let id = gateway.post("/v1/jobs", &job).await.id();
    let plain = gateway.get(&format!("/v1/jobs/{id}")).await.json();
    assert!(plain["job"].is_null(), "{plain}");
    let path = format!("/v1/jobs/{id}?job=true");
    let asked = gateway.get(&path).await;
    assert_eq!(asked.headers["content-type"], "application/json");
    let asked = asked.json();
    assert_eq!(
        (&asked["state"], &asked["job"]["payload"]["to"]),
        (&json!("queued"), &json!(SCRIPT)),
        "{asked}"
    );
    let page = gateway.get(&format!("/jobs/{id}")).await;
    assert!(page.text.contains("id=\"payload\""), "{page:?}");
    let publisher = nats.connect_as("publisher").await;
    let subject = format!("jobs.durable.{NOBODY}.normal.1.echo");
    let stored = publisher.request(subject, "<script>\u{0}".into()).await;
    assert!(stored.unwrap().payload.starts_with(b"{"));
    let other = gateway.get(&format!("/v1/jobs/{NOBODY}?job=true")).await;
    let other = other.json();
    assert_eq!(
        (&other["base64"], &other["job"]),
        (&json!("PHNjcmlwdD4A"), &Value::Null),
        "{other}"
    );
    let wrong = gateway.get(&format!("/v1/jobs/{id}?jobs=true")).await;
    assert_eq!(wrong.problem(), (400, Some("jobs".to_owned())));

    let _consumer = consumer(&nats, &[]).await;
    let long = r#"{"kind":"sleep","payload":{"ms":600000},"timeout":"1h"}"#;
    let running = gateway.post("/v1/jobs", long).await.id();
    gateway.job_is(&running, "running").await;
    let path = format!("/v1/jobs/{running}?job=true");
    let asked = gateway.get(&path).await.json();
    assert_eq!(asked["job"]["payload"]["ms"], 600_000, "{asked}");
    gateway.delete(&format!("/v1/jobs/{running}")).await;
    gateway.job_is(&running, "cancelled").await;
    let plain = format!("/v1/jobs/{running}");
    let ended = gateway.get(&plain).await.json();
    assert_eq!(ended["job"]["payload"]["ms"], 600_000, "{ended}");
    assert_eq!(ended["job"]["timeout"], "1h", "{ended}");
    let page = gateway.get(&format!("/jobs/{running}")).await;
    assert!(
        page.text.contains("id=\"payload\"") && page.text.contains("600000"),
        "{page:?}"
    );
    assert!(page.text.contains("id=\"options\""), "{page:?}");
}

#[tokio::test]
async fn the_page_of_a_job_is_shown_though_its_message_cannot_be_read() {
    let nats = NatsServer::builder().open().start().await;
    streams_without_consumer(&nats).await;
    let gateway = Gateway::start(&nats).await;
    let client = nats.connect_as("admin").await;
    let fields = json!({"state": "running", "consumer": "consumer-1"});
    test_support::put_record(&client, NOBODY, fields).await;
    for stream in ["JOBS", "JOBS_LATER"] {
        let delete = format!("$JS.API.STREAM.DELETE.{stream}");
        client.request(delete, "".into()).await.unwrap();
    }
    let page = gateway.get(&format!("/jobs/{NOBODY}")).await;
    assert_eq!(page.status, 200, "{page:?}");
    for part in ["id=\"payload-unknown\"", "cannot be read now", "consumer-1"] {
        assert!(page.text.contains(part), "{part}: {page:?}");
    }
    // A program that asks for the message is told that it cannot have it.
    let asked = gateway.get(&format!("/v1/jobs/{NOBODY}?job=true")).await;
    assert_eq!(asked.problem().0, 503);
}

#[tokio::test]
async fn jobs_are_listed_page_by_page() {
    let nats = NatsServer::start().await;
    streams_without_consumer(&nats).await;
    let gateway = Gateway::start(&nats).await;
    let mut ids = Vec::new();
    for kind in ["a", "b", "a"] {
        ids.push(
            gateway
                .post("/v1/jobs", &json!({"kind": kind}).to_string())
                .await
                .id(),
        );
    }
    let listed = |body: &Value| -> Vec<String> {
        let jobs = body["jobs"].as_array().unwrap();
        jobs.iter()
            .map(|job| job["id"].as_str().unwrap().to_owned())
            .collect()
    };
    let page = gateway.get("/v1/jobs?limit=2").await.json();
    assert_eq!(listed(&page), [&*ids[2], &*ids[1]]);
    let next = page["next"].as_str().unwrap();
    let page = gateway
        .get(&format!("/v1/jobs?limit=2&cursor={next}"))
        .await
        .json();
    assert_eq!(listed(&page), [&*ids[0]]);
    let page = gateway.get("/v1/jobs?kind=b&state=queued").await.json();
    assert_eq!(listed(&page), [&*ids[1]]);
    for (query, field) in [
        ("limit=0", "limit"),
        ("limit=201", "limit"),
        ("cursor=%3Cscript%3E", "cursor"),
        ("state=lost", "state"),
        ("kind=a%20b", "kind"),
        ("sate=dead", "sate"),
    ] {
        let answer = gateway.get(&format!("/v1/jobs?{query}")).await;
        assert_eq!(
            answer.problem(),
            (400, Some(field.to_owned())),
            "{query}: {answer:?}"
        );
    }
}

#[tokio::test]
async fn jobs_are_searched_and_the_answer_says_how_much_was_read() {
    let nats = NatsServer::start().await;
    streams_without_consumer(&nats).await;
    let gateway = Gateway::start(&nats).await;
    let submit = async |kind: &str, to: &str| {
        let job = json!({"kind": kind, "payload": {"to": to}}).to_string();
        gateway.post("/v1/jobs", &job).await.id()
    };
    let basel = submit("mail.send", "Basel").await;
    let bern = submit("mail.read", SCRIPT).await;
    let report = submit("report", "Zürich").await;
    for (query, expected) in [
        ("kind=mail.*", &[&bern, &basel][..]),
        ("kind=%3E", &[&report, &bern, &basel]),
        ("text=basel", &[&basel]),
        ("text=Z%C3%9CRICH&state=queued", &[&report]),
        ("text=basel&kind=report", &[]),
        ("text=mail.send", &[]),
        ("since=2026-01-31T09:30:00Z", &[&report, &bern, &basel]),
        ("until=2026-01-31T09:30:00Z", &[]),
    ] {
        let page = gateway.get(&format!("/v1/jobs?{query}")).await.json();
        let jobs = page["jobs"].as_array().unwrap();
        let ids: Vec<_> = jobs.iter().map(|job| job["id"].as_str().unwrap()).collect();
        assert_eq!(ids, expected, "{query}: {page}");
        assert!(
            page["looked_at"].is_u64() && page["next"].is_null(),
            "{page}"
        );
        let html = gateway.get(&format!("/jobs?{query}")).await;
        assert_eq!(html.status, 200);
        let shown = html.text.matches("<tr id=\"job-").count();
        assert_eq!(shown, expected.len(), "{query}: {html:?}");
        assert!(html.text.contains("read"), "{html:?}");
    }
    for (query, known) in [("kind=mali.*", false), ("kind=mail.*&state=dead", true)] {
        let page = gateway.get(&format!("/v1/jobs?{query}")).await.json();
        assert_eq!(page["kind_known"], known, "{page}");
        let html = gateway.get(&format!("/jobs?{query}")).await.text;
        assert_eq!(
            html.contains("No kind of this name was ever seen"),
            !known,
            "{html}"
        );
    }
    let long = format!("text={}", "x".repeat(257));
    for (query, field) in [
        (&*long, "text"),
        ("text=", "text"),
        ("kind=mail*", "kind"),
        ("since=2h", "since"),
        ("until=soon", "until"),
    ] {
        let answer = gateway.get(&format!("/v1/jobs?{query}")).await;
        assert_eq!(
            answer.problem(),
            (400, Some(field.to_owned())),
            "{query}: {answer:?}"
        );
    }
    // The page names a wrong field too, and shows what was typed as text.
    let wrong = gateway
        .get("/jobs?since=%3Cscript%3E&kind=mail*&text=%3Cb%3E")
        .await;
    assert!(wrong.text.contains("id=\"wrong\""), "{wrong:?}");
    assert!(
        !wrong.text.contains("<script>") && !wrong.text.contains("<b>"),
        "{wrong:?}"
    );
    // The next page is about the same time.
    let html = gateway.get("/jobs?since=2h&state=&kind=").await.text;
    assert!(
        html.contains("3 jobs were read; there are no more."),
        "{html}"
    );
    assert!(html.contains("name=\"since\" value=\"20"), "{html}");
}

#[tokio::test]
async fn an_id_that_is_pasted_with_spaces_around_it_is_found() {
    let nats = NatsServer::start().await;
    streams_without_consumer(&nats).await;
    let gateway = Gateway::start(&nats).await;
    let id = gateway.post("/v1/jobs", r#"{"kind":"echo"}"#).await.id();
    for path in ["/v1/jobs/", "/jobs/"] {
        let answer = gateway.get(&format!("{path}%20{id}%C2%A0%0A")).await;
        assert_eq!(answer.status, 200, "{answer:?}");
    }
    let found = gateway.get(&format!("/jobs?id=+{id}+")).await;
    assert_eq!(found.headers["location"], format!("/jobs/{id}"));
}

#[tokio::test]
async fn a_job_that_has_ended_is_not_listed_as_queued_or_running_though_its_message_is_there() {
    let nats = NatsServer::start().await;
    let _consumer = consumer(&nats, &[]).await;
    let gateway = Gateway::start(&nats).await;
    // More than the records of one look-up.
    let crowd = json!(vec![json!({"kind": "echo"}); 1500]);
    let answer = gateway.post("/v1/jobs", &crowd.to_string()).await;
    assert_eq!(answer.status, 202, "{answer:?}");
    // The gateway may answer with a list of queues from before the submission.
    let client = nats.connect_as("gateway").await;
    eventually(DEADLINE, "the end of all of them", async || {
        let queues = client::queues(&client.clone().into(), 10).await.unwrap();
        let mut queues = queues.queues.iter();
        queues
            .all(|queue| queue.waiting == 0 && queue.running == 0)
            .then_some(())
    })
    .await;
    for round in 0..20 {
        for query in ["state=queued", "state=running", "state=queued&kind=echo"] {
            let page = gateway.get(&format!("/v1/jobs?{query}")).await.json();
            let jobs = page["jobs"].as_array().unwrap();
            assert!(jobs.is_empty(), "round {round}, {query}: {page}");
        }
        let kind = if round % 2 == 0 { "echo" } else { "fail" };
        let job = json!({"kind": kind, "max_attempts": 1}).to_string();
        gateway.post("/v1/jobs?wait=1m", &job).await.id();
    }
}

#[tokio::test]
async fn a_job_is_cancelled_while_it_waits_and_while_it_runs_but_not_after() {
    let nats = NatsServer::start().await;
    let _consumer = consumer(&nats, &[]).await;
    let gateway = Gateway::start(&nats).await;
    let later = r#"{"kind":"echo","run_at":"2099-01-01T00:00:00Z"}"#;
    let waiting = gateway.post("/v1/jobs", later).await.id();
    let answer = gateway.delete(&format!("/v1/jobs/{waiting}")).await;
    assert_eq!(
        (answer.status, &answer.json()["state"]),
        (200, &json!("cancelled")),
        "{answer:?}"
    );
    // Once more is no mistake.
    assert_eq!(
        gateway.delete(&format!("/v1/jobs/{waiting}")).await.status,
        200
    );

    let long = r#"{"kind":"sleep","payload":{"ms":600000},"timeout":"1h"}"#;
    let running = gateway.post("/v1/jobs", long).await.id();
    gateway.job_is(&running, "running").await;
    let answer = gateway.delete(&format!("/v1/jobs/{running}")).await;
    assert_eq!(
        (answer.status, &answer.json()["state"]),
        (200, &json!("cancelled")),
        "{answer:?}"
    );

    let done = gateway
        .post("/v1/jobs?wait=1m", r#"{"kind":"echo"}"#)
        .await
        .id();
    assert_eq!(
        gateway
            .delete(&format!("/v1/jobs/{done}"))
            .await
            .problem()
            .0,
        409
    );
    let dead = gateway.dead_job("x").await;
    assert_eq!(
        gateway
            .delete(&format!("/v1/jobs/{dead}"))
            .await
            .problem()
            .0,
        409
    );
}

#[tokio::test]
async fn an_acknowledgement_in_the_place_of_a_record_is_shown_as_that_until_the_job_goes_on() {
    let nats = NatsServer::start().await;
    streams_without_consumer(&nats).await;
    let gateway = Gateway::start(&nats).await;
    let id = gateway.post("/v1/jobs", r#"{"kind":"echo"}"#).await.id();
    // The server answers a submission wherever the publisher says.
    let mut publisher = TcpStream::connect(("127.0.0.1", nats.port())).unwrap();
    let env = nats.env_for("publisher");
    let password = env.into_iter().find(|(name, _)| name == "NATS_PASSWORD");
    let login = json!({"user": "publisher", "pass": password.unwrap().1, "verbose": false});
    let job = r#"{"kind":"echo"}"#;
    let other = common::JobId::generate();
    let commands = format!(
        "CONNECT {login}\r\nPUB jobs.durable.{other}.normal.1.echo jobs.state.{id} {}\r\n{job}\r\nPING\r\n",
        job.len()
    );
    publisher.write_all(commands.as_bytes()).unwrap();
    let record = eventually(DEADLINE, "the forged record", async || {
        let answer = gateway.get(&format!("/v1/jobs/{id}")).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        let record = answer.json();
        (record["state"] == "unreadable").then_some(record)
    })
    .await;
    assert_eq!(record["kind"], "echo");
    let error = &record["failures"][0]["error"];
    assert_eq!(error["code"], "unreadable_record", "{record}");
    let list = gateway.get("/v1/jobs").await;
    assert_eq!(list.status, 200, "{list:?}");
    let jobs = list.json()["jobs"].as_array().unwrap().clone();
    let listed = jobs.iter().find(|job| job["id"] == id.as_str()).unwrap();
    assert_eq!(listed["state"], "unreadable");
    for path in [format!("/jobs/{id}"), "/jobs".to_owned()] {
        let page = gateway.request(reqwest::Method::GET, &path);
        let page = send(page.header("accept", "text/html")).await;
        assert_eq!(page.status, 200, "{page:?}");
        assert!(page.text.contains("unreadable"), "{page:?}");
    }
    // The next record replaces it.
    let _consumer = consumer(&nats, &[]).await;
    gateway.job_is(&id, "succeeded").await;
}

#[tokio::test]
async fn a_job_for_later_is_scheduled_before_a_consumer_has_put_it_off_and_can_be_cancelled() {
    let nats = NatsServer::start().await;
    streams_without_consumer(&nats).await;
    let gateway = Gateway::start(&nats).await;
    let later = r#"{"kind":"nobody.serves","run_at":"2099-01-01T00:00:00Z"}"#;
    let id = gateway.post("/v1/jobs", later).await.id();
    let record = gateway.get(&format!("/v1/jobs/{id}")).await.json();
    let expected = (&json!("scheduled"), &json!("2099-01-01T00:00:00Z"));
    assert_eq!((&record["state"], &record["next_at"]), expected);
    for (query, count) in [("", 1), ("?state=scheduled", 1), ("?state=queued", 0)] {
        let page = gateway.get(&format!("/v1/jobs{query}")).await.json();
        let jobs = page["jobs"].as_array().unwrap();
        assert_eq!(jobs.len(), count, "{query}: {page}");
        for job in jobs {
            assert_eq!((&job["state"], &job["next_at"]), expected);
        }
    }
    let answer = gateway.delete(&format!("/v1/jobs/{id}")).await;
    assert_eq!((answer.status, &answer.json()["state"]), (202, expected.0));
    let _consumer = consumer(&nats, &[]).await;
    gateway.job_is(&id, "cancelled").await;
}

#[tokio::test]
async fn a_cancellation_waits_for_a_consumer_to_come() {
    let nats = NatsServer::start().await;
    streams_without_consumer(&nats).await;
    let gateway = Gateway::start(&nats).await;
    let id = gateway.post("/v1/jobs", r#"{"kind":"echo"}"#).await.id();
    let answer = gateway.delete(&format!("/v1/jobs/{id}")).await;
    assert_eq!(
        (answer.status, &answer.json()["state"]),
        (202, &json!("queued"))
    );
    let _consumer = consumer(&nats, &[]).await;
    eventually(DEADLINE, "the cancellation", async || {
        let answer = gateway.delete(&format!("/v1/jobs/{id}")).await;
        (answer.status == 200).then_some(())
    })
    .await;
}
