//! One dead letter: shown, corrected, replayed and discarded.

use serde_json::json;
use test_support::{DEADLINE, NatsServer, eventually};

use crate::support::{Gateway, consumer, send, streams_without_consumer};

const SCRIPT: &str = "<script>alert('x')</script>";

#[tokio::test]
async fn a_dead_letter_is_found_corrected_and_succeeds() {
    let nats = NatsServer::start().await;
    let _consumer = consumer(&nats, &[]).await;
    let gateway = Gateway::start(&nats).await;
    // A payload that the handler does not take.
    let job = json!({"kind": "sleep", "payload": {"ms": SCRIPT}});
    let answer = gateway.post("/v1/jobs?wait=1m", &job.to_string()).await;
    let id = answer.id();

    let list = gateway
        .get("/v1/dead-letters?kind=sleep&reason=permanent")
        .await
        .json();
    assert_eq!(list["letters"][0]["id"], id, "{list}");
    assert_eq!(list["letters"][0]["attempts"], 1);
    let groups = gateway.get("/v1/dead-letters/groups").await.json();
    assert_eq!(
        (&groups["complete"], &groups["groups"][0]["count"]),
        (&json!(true), &json!(1))
    );

    let path = format!("/v1/dead-letters/{id}");
    let letter = gateway.get(&path).await;
    assert_eq!(letter.headers["content-type"], "application/json");
    assert_eq!(letter.json()["job"]["payload"]["ms"], SCRIPT);
    let raw = gateway.get(&format!("{path}/raw")).await;
    assert_eq!(raw.headers["content-type"], "application/octet-stream");
    let disposition = raw.headers["content-disposition"].to_str().unwrap();
    assert!(disposition.starts_with("attachment"), "{disposition}");
    assert_eq!(raw.headers["x-content-type-options"], "nosniff");
    assert!(
        raw.headers["content-security-policy"]
            .to_str()
            .unwrap()
            .contains("sandbox")
    );
    assert!(raw.text.contains(SCRIPT));

    let replay = format!("{path}/replay");
    assert_eq!(
        gateway.post(&replay, r#"{"paylod":1}"#).await.problem().0,
        422
    );
    assert_eq!(gateway.post(&replay, "{").await.problem().0, 400);
    let deep = format!("{}{}", "[".repeat(129), "]".repeat(129));
    for payload in [&*deep, r#""\ud800""#] {
        let body = format!(r#"{{"payload":{payload}}}"#);
        let refused = gateway.post(&replay, &body).await;
        let expected = (422, Some("payload".to_owned()));
        assert_eq!(refused.problem(), expected, "{payload}");
        let form = gateway
            .request(reqwest::Method::POST, &format!("/dead/{id}/replay"))
            .header("content-type", "application/x-www-form-urlencoded")
            .body(format!("payload={}", payload.replace('\\', "%5C")));
        let page = send(form).await;
        assert_eq!(page.status, 422, "{page:?}");
        assert!(page.text.contains("Nothing was done"), "{page:?}");
    }
    let form = gateway
        .request(reqwest::Method::POST, &replay)
        .body("payload=1");
    assert_eq!(send(form).await.problem().0, 415);
    let almost = gateway
        .request(reqwest::Method::POST, &replay)
        .header("content-type", "application/json-patch+json")
        .body(r#"{"payload":{"ms":1}}"#);
    assert_eq!(send(almost).await.problem().0, 415);
    let too_fast = "/v1/dead-letters/replay?all=true&rate=4294967295";
    assert_eq!(gateway.post(too_fast, "").await.problem().0, 400);
    let answer = gateway.post(&replay, r#"{"payload":{"ms":1}}"#).await;
    assert_eq!(answer.status, 202, "{answer:?}");
    gateway.job_is(&id, "succeeded").await;
    assert_eq!(gateway.get(&path).await.problem().0, 404);
    assert_eq!(gateway.post(&replay, "").await.problem().0, 404);
}

#[tokio::test]
async fn what_is_not_json_is_shown_as_base64() {
    let nats = NatsServer::start().await;
    let _consumer = consumer(&nats, &[]).await;
    let gateway = Gateway::start(&nats).await;
    let id = "01890a5d-ac96-774b-bcce-b302099a8057";
    let publisher = nats.connect_as("publisher").await;
    let subject = format!("jobs.durable.{id}.normal.1.echo");
    let stored = publisher
        .request(subject, "<script>\u{0}".into())
        .await
        .unwrap();
    assert!(stored.payload.starts_with(b"{"));
    gateway.job_is(id, "dead").await;
    let letter = gateway.get(&format!("/v1/dead-letters/{id}")).await.json();
    assert_eq!(
        (&letter["base64"], &letter["job"]),
        (&json!("PHNjcmlwdD4A"), &json!(null))
    );
    assert_eq!(letter["reason"], "undecodable");
}

#[tokio::test]
async fn a_job_that_others_cannot_read_is_shown_as_base64() {
    let nats = NatsServer::start().await;
    let _consumer = consumer(&nats, &[]).await;
    let gateway = Gateway::start(&nats).await;
    let publisher = nats.connect_as("publisher").await;
    let nested = |levels| format!("{}{}", "[".repeat(levels), "]".repeat(levels));
    for (payload, readable) in [
        (nested(20_000), false),
        (r#""\ud800""#.to_owned(), false),
        (nested(128), true),
    ] {
        let id = common::JobId::generate();
        // It has ended as a dead letter either way: by what it is, or by its kind.
        let subject = format!("jobs.durable.{id}.normal.1.sleep");
        let job = format!(r#"{{"kind":"sleep","payload":{payload}}}"#);
        publisher.request(subject, job.into()).await.unwrap();
        gateway.job_is(&id.to_string(), "dead").await;
        let letter = gateway.get(&format!("/v1/dead-letters/{id}")).await;
        let has = |field: &str| letter.text.contains(&format!("\"{field}\":"));
        assert_eq!((has("job"), has("base64")), (readable, !readable), "{id}");
        let page = gateway.get(&format!("/dead/{id}")).await;
        assert_eq!(page.status, 200);
    }
}

#[tokio::test]
async fn a_page_after_letters_were_replayed_or_discarded_counts_those_that_are_left() {
    let nats = NatsServer::start().await;
    let _consumer = consumer(&nats, &[]).await;
    let gateway = Gateway::start(&nats).await;
    let first = gateway.dead_job("one").await;
    for message in ["two", "three", "four"] {
        gateway.dead_job(message).await;
    }
    let badge = async |path: &str| {
        let page = gateway.get(path).await.text;
        let badge = page.split("class=\"badge bad\">").nth(1)?;
        badge.split('<').next()?.parse::<u64>().ok()
    };
    // Others have made them: that is found out by looking.
    eventually(DEADLINE, "the letters to be counted", async || {
        (badge("/dead").await == Some(4)).then_some(())
    })
    .await;
    gateway.delete(&format!("/v1/dead-letters/{first}")).await;
    assert_eq!(badge("/jobs").await, Some(3));
    let list = gateway.get("/v1/dead-letters").await.json();
    let path = format!(
        "/dead/{}/discard",
        list["letters"][0]["id"].as_str().unwrap()
    );
    assert_eq!(gateway.post(&path, "").await.status, 303);
    assert_eq!(badge("/").await, Some(2));
    gateway.delete("/v1/dead-letters?all=true").await;
    assert_eq!(badge("/consumers").await, None);
}

#[tokio::test]
async fn a_discard_that_stopped_half_way_hides_nothing_and_can_be_finished() {
    let nats = NatsServer::start().await;
    streams_without_consumer(&nats).await;
    let gateway = Gateway::start(&nats).await;
    let worker = nats.connect_as("worker").await;
    let id = "01890a5d-ac96-774b-bcce-b302099a8057";
    test_support::bury(&worker, id, "mail", "permanent", "no such address").await;
    let mark = json!([{
        "attempt": 0, "at": "2026-01-31T09:31:00Z",
        "error": {"code": "discarded", "message": "the dead letter was discarded"},
    }]);
    let fields = json!({"kind": "mail", "state": "dead", "reason": "permanent", "failures": mark});
    test_support::put_record(&worker, id, fields).await;

    let job = format!("/v1/jobs/{id}");
    let link = format!("href=\"/dead/{id}\"");
    let page = format!("/jobs/{id}");
    assert_eq!(gateway.get(&job).await.json()["dead_letter"], true);
    let before = gateway.get(&page).await.text;
    assert!(before.contains(&link), "{before}");
    assert!(before.contains("Discard interrupted"), "{before}");

    let path = format!("/v1/dead-letters/{id}");
    assert_eq!(gateway.delete(&path).await.status, 204);
    assert_eq!(gateway.get(&job).await.json()["dead_letter"], false);
    let after = gateway.get(&page).await.text;
    assert!(!after.contains(&link), "{after}");
    assert!(after.contains("removed for good"), "{after}");
}

#[tokio::test]
async fn the_page_of_a_job_without_a_record_leads_to_its_dead_letter() {
    let nats = NatsServer::start().await;
    streams_without_consumer(&nats).await;
    let gateway = Gateway::start(&nats).await;
    let worker = nats.connect_as("worker").await;
    let id = "01890a5d-ac96-774b-bcce-b302099a8057";
    let page = format!("/jobs/{id}");
    assert_eq!(gateway.get(&page).await.status, 404);
    let subject = format!("jobs.dead.{id}.mail");
    let headers = async_nats::HeaderMap::new();
    test_support::put(&worker, subject, headers, "{}".to_owned()).await;
    let answer = gateway.get(&page).await;
    let location = answer.headers["location"].to_str().unwrap();
    assert_eq!((answer.status, location), (303, &*format!("/dead/{id}")));
}

#[tokio::test]
async fn the_badge_agrees_with_the_page_of_the_dead_letters() {
    let nats = NatsServer::start().await;
    let _consumer = consumer(&nats, &[]).await;
    let gateway = Gateway::start(&nats).await;
    let badge = |page: &str| {
        let nav = page.split("</nav>").next().unwrap();
        let badge = nav.split("class=\"badge bad\">").nth(1)?;
        Some(badge.split('<').next().unwrap().to_owned())
    };
    gateway.dead_job("first").await;
    eventually(DEADLINE, "the count of the overview", async || {
        (badge(&gateway.get("/").await.text).as_deref() == Some("1")).then_some(())
    })
    .await;
    // The overview counts them every 30 seconds; this page has just read them.
    let second = gateway.dead_job("second").await;
    let page = gateway.get("/dead").await.text;
    assert!(page.contains(&second), "{page}");
    assert_eq!(badge(&page).as_deref(), Some("2"), "{page}");
}
