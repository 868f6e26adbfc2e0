//! Dead letters: seen, corrected, replayed and discarded.

use serde_json::json;
use test_support::{DEADLINE, NatsServer, eventually};

use crate::support::{Gateway, consumer, send};

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
async fn many_are_replayed_and_discarded_by_what_they_have_in_common() {
    let nats = NatsServer::start().await;
    let _consumer = consumer(&nats, &[]).await;
    let gateway = Gateway::start(&nats).await;
    for number in 0..3 {
        gateway.dead_job(&format!("no such order {number}")).await;
    }
    let other = gateway.dead_job("another reason").await;
    let groups = gateway
        .get("/v1/dead-letters/groups?kind=fail")
        .await
        .json();
    let group = &groups["groups"][0];
    assert_eq!(group["count"], 3, "{groups}");
    let error = group["error"].as_str().unwrap();
    let query = |path: &str| {
        let url = reqwest::Url::parse_with_params("http://x/", [("error", error)]).unwrap();
        format!("{path}?{}", url.query().unwrap())
    };
    let list = gateway.get(&query("/v1/dead-letters")).await.json();
    assert_eq!(list["letters"].as_array().unwrap().len(), 3);

    // Nothing said is not everything meant.
    let replay = "/v1/dead-letters/replay";
    assert_eq!(
        gateway.post(replay, "").await.problem(),
        (400, Some("all".to_owned()))
    );
    assert_eq!(gateway.delete("/v1/dead-letters").await.problem().0, 400);
    assert_eq!(
        gateway
            .post(&format!("{replay}?rate=0&all=true"), "")
            .await
            .problem()
            .0,
        400
    );
    let came = gateway
        .post(&format!("{}&rate=100", query(replay)), "")
        .await;
    let expected = json!({"done": 3, "already": 0, "failed": 0, "complete": true});
    assert_eq!((came.status, came.json()), (200, expected));

    let path = format!("/v1/dead-letters/{other}");
    assert_eq!(gateway.delete(&path).await.status, 204);
    assert_eq!(gateway.delete(&path).await.problem().0, 404);
    let record = gateway.get(&format!("/v1/jobs/{other}")).await.json();
    let mark = record["failures"].as_array().unwrap().last().unwrap();
    assert_eq!(
        (&record["state"], &mark["attempt"], &mark["error"]["code"]),
        (&json!("dead"), &json!(0), &json!("discarded")),
        "{record}"
    );
    // Those that were replayed fail again.
    test_support::eventually(test_support::DEADLINE, "three dead letters", async || {
        let list = gateway.get("/v1/dead-letters").await.json();
        (list["letters"].as_array().unwrap().len() == 3).then_some(())
    })
    .await;
    let came = gateway.delete("/v1/dead-letters?kind=fail").await.json();
    assert_eq!(
        (&came["done"], &came["complete"]),
        (&json!(3), &json!(true))
    );
    let came = gateway.delete("/v1/dead-letters?all=true").await.json();
    assert_eq!(
        (&came["done"], &came["complete"]),
        (&json!(0), &json!(true))
    );
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
async fn whoever_does_it_with_many_is_told_what_went_wrong_and_what_was_done_before() {
    let nats = NatsServer::builder().open().start().await;
    let _consumer = consumer(&nats, &[]).await;
    let gateway = Gateway::start(&nats).await;
    for message in ["one", "two", "three"] {
        gateway.dead_job(message).await;
    }
    // Something behind them, so that they are to be listed once more.
    gateway.post("/v1/jobs?wait=1m", r#"{"kind":"echo"}"#).await;
    let request = gateway.request(reqwest::Method::DELETE, "/v1/dead-letters?all=true&rate=1");
    let discarding = tokio::spawn(send(request));
    let client = nats.connect_as("operator").await;
    eventually(DEADLINE, "one letter to be discarded", async || {
        let left = client::count_dead_letters(&client.clone().into())
            .await
            .ok()
            .flatten();
        left.filter(|&left| left < 3)
    })
    .await;
    let delete = "$JS.API.STREAM.DELETE.JOBS_STATE";
    client.request(delete, "".into()).await.unwrap();
    let answer = discarding.await.unwrap();
    let came = answer.json();
    let [done, failed] = ["done", "failed"].map(|name| came[name].as_u64().unwrap());
    assert_eq!(
        (answer.status, &came["complete"]),
        (200, &json!(false)),
        "{came}"
    );
    assert!(done > 0 && failed > 0 && done + failed == 3, "{came}");
    let error = came["error"].as_str().unwrap();
    assert!(
        error.contains("the dead letters cannot be listed"),
        "{error}"
    );
}
