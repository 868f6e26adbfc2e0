//! Recurring schedules over HTTP.

use reqwest::Method;
use serde_json::{Value, json};
use test_support::{DEADLINE, NatsServer, eventually};

use crate::support::{Gateway, consumer, send};

#[tokio::test]
async fn a_schedule_is_created_runs_and_is_replaced_only_by_whoever_has_seen_it() {
    let nats = NatsServer::start().await;
    let _consumer = consumer(&nats, &[]).await;
    let gateway = Gateway::start(&nats).await;
    let path = "/v1/schedules/often";
    let often = json!({"every": "1s", "job": {"kind": "echo", "payload": {"n": 1}}}).to_string();
    let preview = send(gateway.putting(&format!("{path}?preview=true"), &often)).await;
    assert_eq!(preview.json()["preview"].as_array().unwrap().len(), 10);
    assert_eq!(gateway.get(path).await.problem().0, 404);

    let new = gateway.putting(path, &often).header("if-none-match", "*");
    let created = send(new).await;
    assert_eq!(
        (created.status, &created.headers["etag"]),
        (201, &"\"1\"".parse().unwrap())
    );
    assert!(created.json()["next"].is_string(), "{created:?}");
    let ran = eventually(DEADLINE, "a job that succeeded", async || {
        let listed = gateway.get("/v1/schedules").await.json();
        let schedule = listed["schedules"][0].clone();
        (schedule["last"]["state"] == "succeeded").then_some(schedule)
    })
    .await;
    assert_eq!(ran["by"], created.json()["by"]);
    let paused = gateway.post(&format!("{path}/pause"), "").await;
    assert_eq!((paused.status, &paused.json()["next"]), (200, &Value::Null));
    // Ticks do not count as changes.
    assert_eq!(paused.headers["etag"], "\"2\"");
    let run = gateway.post(&format!("{path}/run"), "").await;
    assert_eq!(run.status, 202, "{run:?}");
    gateway
        .job_is(run.json()["id"].as_str().unwrap(), "succeeded")
        .await;

    let hourly = r#"{"every":"1h","job":{"kind":"echo"}}"#;
    for (name, value, status) in [
        ("if-match", "\"1\"", 412),
        ("if-none-match", "*", 412),
        ("if-match", "2", 400),
        ("if-match", "*", 400),
        ("if-none-match", "\"2\"", 400),
        ("if-match", "\"2\"", 200),
    ] {
        let answer = send(gateway.putting(path, hourly).header(name, value)).await;
        assert_eq!(answer.status, status, "{name}: {value}: {answer:?}");
    }
    let shown = gateway.get(path).await;
    assert_eq!(shown.headers["etag"], "\"3\"");
    assert_eq!(shown.json()["upcoming"][0], shown.json()["next"]);
    assert_eq!(gateway.delete(path).await.status, 204);
    assert_eq!(gateway.delete(path).await.problem().0, 404);
}

#[tokio::test]
async fn a_schedule_is_seen_paused_run_and_deleted_on_the_dashboard() {
    let nats = NatsServer::start().await;
    let _consumer = consumer(&nats, &[]).await;
    let gateway = Gateway::start(&nats).await;
    let empty = gateway.get("/schedules").await;
    assert!(empty.text.contains("There are no schedules"), "{empty:?}");
    let daily =
        r#"{"cron":"@daily","time_zone":"Europe/Berlin","note":"a <note>","job":{"kind":"echo"}}"#;
    send(gateway.putting("/v1/schedules/daily", daily)).await;
    let row = async || {
        let page = gateway.get("/schedules").await.text;
        let row = page.split("id=\"schedule-daily\"").nth(1)?;
        Some(row.split("</tr>").next()?.to_owned())
    };
    let act = async |what: &str| {
        let request = gateway.request(Method::POST, &format!("/schedules/daily/{what}"));
        let form = request.header("content-type", "application/x-www-form-urlencoded");
        send(form.body("")).await
    };
    let fresh = row().await.unwrap();
    for expected in [
        "@daily",
        "Europe/Berlin",
        "/schedules/daily/pause",
        "none yet",
    ] {
        assert!(fresh.contains(expected), "{fresh}");
    }
    assert!(
        !fresh.contains("<note>") && fresh.contains("note"),
        "{fresh}"
    );
    for (what, done, expected) in [
        ("pause", "schedule-paused", "/schedules/daily/resume"),
        ("resume", "schedule-resumed", "/schedules/daily/pause"),
        ("run", "schedule-run", "/jobs/"),
    ] {
        let answer = act(what).await;
        let to = format!("/schedules?done={done}");
        assert_eq!(
            (answer.status, &answer.headers["location"]),
            (303, &to.parse().unwrap())
        );
        let row = row().await.unwrap();
        assert!(row.contains(expected), "{what}: {row}");
    }
    let ended = eventually(DEADLINE, "the end of the job", async || {
        row().await.filter(|row| row.contains("succeeded"))
    })
    .await;
    let job = ended.split("/jobs/").nth(1).unwrap();
    let job = job.split('"').next().unwrap();
    let page = gateway.get(&format!("/jobs/{job}")).await.text;
    assert!(
        page.contains("href=\"/schedules#schedule-daily\""),
        "{page}"
    );
    let record = gateway.get(&format!("/v1/jobs/{job}")).await.json();
    assert_eq!(record["schedule"], "daily", "{record}");
    assert_eq!(act("delete").await.status, 303);
    assert_eq!(row().await, None);
    assert_eq!(act("delete").await.status, 404);
}

#[tokio::test]
async fn what_is_wrong_with_a_schedule_is_named() {
    let nats = NatsServer::start().await;
    let _consumer = consumer(&nats, &[]).await;
    let gateway = Gateway::start(&nats).await;
    for (name, body, problem) in [
        ("a%2Eb", "{}", (400, Some("name"))),
        ("a", "{", (422, None)),
        ("a", "[]", (422, None)),
        ("a", r#"{"cron":"* * * * *"}"#, (422, Some("job"))),
        ("a", r#"{"corn":"* * * * *"}"#, (422, Some("corn"))),
        (
            "a",
            r#"{"cron":"* * * *","job":{"kind":"a"}}"#,
            (422, Some("cron")),
        ),
        (
            "a",
            r#"{"cron":"@daily","time_zone":"Mars/Base","job":{"kind":"a"}}"#,
            (422, Some("time_zone")),
        ),
        (
            "a",
            r#"{"every":"1s","job":{"kind":"a","id":"01890a5d-ac96-774b-bcce-b302099a8057"}}"#,
            (422, Some("job")),
        ),
    ] {
        let answer = send(gateway.putting(&format!("/v1/schedules/{name}"), body)).await;
        let (status, field) = answer.problem();
        assert_eq!((status, field.as_deref()), problem, "{body}: {answer:?}");
    }
    let form = gateway.request(Method::PUT, "/v1/schedules/a");
    let form = form.header("content-type", "text/plain").body("{}");
    assert_eq!(send(form).await.status, 415);
    let listed = gateway.get("/v1/schedules").await.json();
    assert_eq!(listed, json!({"schedules": [], "unreadable": []}));
}
