//! Many jobs are cancelled, or run now, by one request.

use reqwest::Method;
use serde_json::json;
use test_support::{DEADLINE, NatsServer, eventually};

use crate::support::{Gateway, consumer, send, streams_without_consumer};

#[tokio::test]
async fn many_jobs_are_cancelled_by_kind_and_state_and_a_rehearsal_changes_nothing() {
    let nats = NatsServer::start().await;
    streams_without_consumer(&nats).await;
    let gateway = Gateway::start(&nats).await;
    let mut sleeping = Vec::new();
    for _ in 0..3 {
        let job = r#"{"kind":"sleep","payload":{"ms":600000}}"#;
        sleeping.push(gateway.post("/v1/jobs", job).await.id());
    }
    let other = gateway.post("/v1/jobs", r#"{"kind":"echo"}"#).await.id();

    // Nothing said is not everything meant, and what has ended cannot be cancelled.
    let cancel = "/v1/jobs/cancel";
    for (query, field) in [
        ("", "kind"),
        ("?dry_run=true", "kind"),
        ("?state=succeeded", "state"),
        ("?kind=sleep&stat=queued", "stat"),
        ("?kind=sleep*", "kind"),
        ("?kind=sleep&expect=-1", "expect"),
    ] {
        let answer = gateway.post(&format!("{cancel}{query}"), "").await;
        assert_eq!(answer.problem(), (400, Some(field.to_owned())), "{query}");
    }
    let query = format!("{cancel}?kind=sleep&state=queued");
    let answer = gateway.post(&format!("{query}&dry_run=true"), "").await;
    let expected = json!({"matched": 3, "requested": 0, "failed": 0, "complete": true});
    assert_eq!((answer.status, answer.json()), (200, expected));
    // Not if the client is mistaken about their number.
    for wrong in [2, 4] {
        let answer = gateway.post(&format!("{query}&expect={wrong}"), "").await;
        assert_eq!(answer.problem(), (409, Some("expect".to_owned())));
        assert!(answer.text.contains("nothing was done"), "{answer:?}");
    }
    let text = gateway
        .post(&format!("{cancel}?text=600000&dry_run=true"), "")
        .await;
    assert_eq!(text.json()["matched"], 3, "{text:?}");
    let answer = gateway.post(&format!("{query}&expect=3"), "").await;
    let expected = json!({"matched": 3, "requested": 3, "failed": 0, "complete": true});
    assert_eq!((answer.status, answer.json()), (200, expected));

    let _consumer = consumer(&nats, &[]).await;
    for id in sleeping {
        gateway.job_is(&id, "cancelled").await;
    }
    gateway.job_is(&other, "succeeded").await;
}

#[tokio::test]
async fn the_page_cancels_what_a_search_finds_after_a_confirmation_that_repeats_the_count() {
    let nats = NatsServer::start().await;
    streams_without_consumer(&nats).await;
    let gateway = Gateway::start(&nats).await;
    let submit = async |kind: &str| {
        let job = json!({"kind": kind, "payload": {"ms": 600_000}}).to_string();
        gateway.post("/v1/jobs", &job).await.id()
    };
    let (one, two) = (submit("mail.send").await, submit("mail.read").await);
    let other = submit("echo").await;
    let page = async |path: &str| gateway.get(path).await;
    let post = async |form: &'static str| {
        let request = gateway.request(Method::POST, "/jobs/cancel");
        let request = request.header("origin", &gateway.url).body(form);
        send(request.header("content-type", "application/x-www-form-urlencoded")).await
    };
    // Only a search that finds something that can be cancelled leads there.
    let link = "/jobs/cancel?";
    assert!(page("/jobs?kind=mail.*").await.text.contains(link));
    for path in ["/jobs", "/jobs?state=dead", "/jobs?kind=report"] {
        assert!(!page(path).await.text.contains(link), "{path}");
    }
    let confirm = page("/jobs/cancel?kind=mail.*&state=queued").await;
    assert_eq!(confirm.status, 200);
    for part in [
        "Cancel 2 jobs",
        "name=\"expect\" value=\"2\"",
        "name=\"kind\" value=\"mail.*\"",
    ] {
        assert!(confirm.text.contains(part), "{part}: {confirm:?}");
    }
    assert!(
        page("/jobs/cancel?kind=report")
            .await
            .text
            .contains("nothing to cancel")
    );
    for path in [
        "/jobs/cancel",
        "/jobs/cancel?state=dead",
        "/jobs/cancel?kind=%3Cb%3E",
    ] {
        let refused = page(path).await;
        assert_eq!(refused.status, 400, "{path}");
        assert!(!refused.text.contains("<b>"), "{refused:?}");
    }
    // More match than were confirmed: nothing is done.
    let refused = post("kind=mail.*&state=queued&expect=1").await;
    assert_eq!(refused.status, 409, "{refused:?}");
    for form in [
        "expect=2",
        "kind=mail.*",
        "kind=mail.*&stat=queued&expect=2",
        "kind=>&expect=10001",
    ] {
        assert_eq!(post(form).await.status, 400, "{form}");
    }
    let done = post("kind=mail.*&state=queued&expect=2").await;
    assert_eq!(done.status, 303, "{done:?}");
    let location = done.headers["location"].to_str().unwrap().to_owned();
    let shown = page(&location).await;
    assert!(shown.text.contains("asked to cancel the jobs"), "{shown:?}");

    let _consumer = consumer(&nats, &[]).await;
    for id in [one, two] {
        gateway.job_is(&id, "cancelled").await;
    }
    gateway.job_is(&other, "succeeded").await;
}

#[tokio::test]
async fn waiting_jobs_are_run_now_one_by_one_and_by_a_filter() {
    let nats = NatsServer::start().await;
    streams_without_consumer(&nats).await;
    let gateway = Gateway::start(&nats).await;
    let wait = async |kind: &str| {
        let job = json!({"kind": kind, "payload": {"ms": 1}, "run_at": "2100-01-31T09:30:00Z"});
        let job = job.to_string();
        gateway.post("/v1/jobs", &job).await.id()
    };
    let one = wait("echo").await;
    let answer = gateway.post(&format!("/v1/jobs/{one}/run-now"), "").await;
    assert_eq!(answer.problem().0, 503, "without a consumer: {answer:?}");
    let _consumer = consumer(&nats, &[]).await;
    let put_off = async |id: &str| {
        eventually(DEADLINE, "a consumer to put the job off", async || {
            let page = gateway.get(&format!("/v1/jobs/{id}")).await.json();
            (page["run"] == 2).then_some(())
        })
        .await;
    };
    put_off(&one).await;
    let page = gateway.get(&format!("/jobs/{one}")).await.text;
    assert!(page.contains("id=\"run-now\""), "{page}");
    let answer = gateway.post(&format!("/v1/jobs/{one}/run-now"), "").await;
    assert_eq!(answer.status, 200, "{answer:?}");
    gateway.job_is(&one, "succeeded").await;
    let answer = gateway.post(&format!("/v1/jobs/{one}/run-now"), "").await;
    assert_eq!(answer.problem().0, 409, "{answer:?}");
    let nobody = "01890a5d-ac96-774b-bcce-b302099a8057";
    let answer = gateway
        .post(&format!("/v1/jobs/{nobody}/run-now"), "")
        .await;
    assert_eq!(answer.problem().0, 404, "{answer:?}");

    let mut waiting = Vec::new();
    for _ in 0..3 {
        waiting.push(wait("echo").await);
    }
    let other = wait("sleep").await;
    for id in waiting.iter().chain([&other]) {
        put_off(id).await;
    }
    let all = "/v1/jobs/run-now?kind=echo";
    for (query, field) in [("", "kind"), ("?state=queued", "state")] {
        let answer = gateway.post(&format!("/v1/jobs/run-now{query}"), "").await;
        assert_eq!(answer.problem(), (400, Some(field.to_owned())), "{query}");
    }
    let answer = gateway.post(&format!("{all}&dry_run=true"), "").await;
    let expected = json!({"matched": 3, "started": 0, "failed": 0, "complete": true});
    assert_eq!((answer.status, answer.json()), (200, expected));
    let answer = gateway.post(&format!("{all}&expect=2"), "").await;
    assert_eq!(answer.problem(), (409, Some("expect".to_owned())));
    let answer = gateway.post(&format!("{all}&expect=3"), "").await;
    let expected = json!({"matched": 3, "started": 3, "failed": 0, "complete": true});
    assert_eq!((answer.status, answer.json()), (200, expected));
    for id in &waiting {
        gateway.job_is(id, "succeeded").await;
    }

    // On the page.
    let search = gateway.get("/jobs?kind=sleep").await.text;
    assert!(search.contains("/jobs/run-now?"), "{search}");
    let confirm = gateway.get("/jobs/run-now?kind=sleep").await.text;
    assert!(confirm.contains("Run 1 job now"), "{confirm}");
    let form = async |path: &str, form: &'static str| {
        let request = gateway.request(Method::POST, path);
        let request = request.header("origin", &gateway.url).body(form);
        send(request.header("content-type", "application/x-www-form-urlencoded")).await
    };
    let done = form("/jobs/run-now", "kind=sleep&expect=1").await;
    assert_eq!(done.status, 303, "{done:?}");
    let location = done.headers["location"].to_str().unwrap();
    assert!(
        location.starts_with("/jobs?done=many-run-now"),
        "{location}"
    );
    gateway.job_is(&other, "succeeded").await;
    let done = form(&format!("/jobs/{other}/run-now"), "").await;
    let location = done.headers["location"].to_str().unwrap();
    assert_eq!(location, format!("/jobs/{other}?done=not-waiting"));
}
