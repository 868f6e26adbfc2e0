//! The fleet, the streams and the queues.

use futures_util::future::join_all;
use reqwest::Method;
use serde_json::{Value, json};
use test_support::{DEADLINE, NatsServer, eventually};

use crate::support::{Gateway, consumer, send, status_service, streams_without_consumer};

#[tokio::test]
async fn the_fleet_is_told_as_the_status_service_knows_it() {
    let nats = NatsServer::start().await;
    let _consumer = consumer(&nats, &["--instance", "consumer-one"]).await;
    let gateway = Gateway::start(&nats).await;
    let answer = gateway.get("/v1/fleet").await;
    assert_eq!(answer.problem().0, 503, "{answer:?}");
    assert!(answer.text.contains("no status service"), "{answer:?}");
    let _status = status_service(&nats);
    let fleet = eventually(DEADLINE, "a fleet of one", async || {
        let answer = gateway.get("/v1/fleet").await;
        (answer.status == 200 && answer.json()["answering"] == 1).then(|| answer.json())
    })
    .await;
    assert_eq!(fleet["consumers"][0]["consumer"], "consumer-one", "{fleet}");
    assert_eq!(gateway.get("/v1/fleet?limit=0").await.problem().0, 400);
    let none = gateway.get("/v1/fleet?search=nobody").await.json();
    assert_eq!(none["consumers"], json!([]));
}

#[tokio::test]
async fn run_times_of_the_last_minute_are_shown_for_the_kind_that_is_chosen() {
    let nats = NatsServer::start().await;
    let _consumer = consumer(&nats, &[]).await;
    let _status = status_service(&nats);
    let gateway = Gateway::start(&nats).await;
    let chart = async |kind: &str| {
        let page = gateway.get(&format!("/?kind={kind}")).await.text;
        let chart = page.split("id=\"chart-latency\"").nth(1).unwrap();
        chart.split("</section>").next().unwrap().to_owned()
    };
    let job = r#"{"kind":"sleep","payload":{"ms":30}}"#;
    let shown = eventually(DEADLINE, "run times of the kind", async || {
        assert_eq!(gateway.post("/v1/jobs?wait=1m", job).await.status, 200);
        let chart = chart("sleep").await;
        (!chart.contains("median <b>-</b>")).then_some(chart)
    })
    .await;
    assert!(shown.contains("Run time of sleep"), "{shown}");
    assert!(shown.contains("value=\"sleep\" selected"), "{shown}");
    let other = chart("echo").await;
    assert!(other.contains("median <b>-</b>"), "{other}");
    let fleet = gateway.get("/v1/fleet").await.json();
    assert_eq!(fleet["kinds"][0]["kind"], "sleep");
    assert!(fleet["kinds"][0]["run_counts"].is_array(), "{fleet}");
}

#[tokio::test]
async fn streams_and_queues_are_told() {
    let nats = NatsServer::start().await;
    let gateway = Gateway::start(&nats).await;
    assert_eq!(gateway.get("/v1/streams").await.problem().0, 503);
    let _consumer = consumer(&nats, &["--concurrency", "1"]).await;
    let long = r#"{"kind":"sleep","payload":{"ms":600000},"timeout":"1h"}"#;
    for _ in 0..3 {
        assert_eq!(gateway.post("/v1/jobs", long).await.status, 202);
    }
    let streams = gateway.get("/v1/streams").await.json();
    let jobs = &streams["streams"][0];
    assert_eq!(
        (&jobs["name"], &jobs["messages"]),
        (&json!("JOBS"), &json!(3)),
        "{streams}"
    );
    assert!(
        jobs["limit_bytes"].is_u64() && jobs["oldest_age_ms"].is_u64(),
        "{jobs}"
    );
    eventually(DEADLINE, "the queue of the kind", async || {
        let queues = gateway.get("/v1/queues").await.json();
        let queues = queues["queues"].as_array().unwrap().clone();
        let queue = queues.into_iter().find(|queue| queue["kind"] == "sleep")?;
        (queue["running"].as_u64()? + queue["waiting"].as_u64()? == 3).then_some(())
    })
    .await;
    let unserved = r#"{"kind":"nobody.does","payload":1}"#;
    assert_eq!(gateway.post("/v1/jobs", unserved).await.status, 202);
    // The answer before may still be shared.
    let queues = eventually(DEADLINE, "the queue without a consumer", async || {
        let queues = gateway.get("/v1/queues").await.json();
        queues["queues"]
            .to_string()
            .contains("nobody.does")
            .then_some(queues)
    })
    .await;
    let all = queues["queues"].as_array().unwrap();
    let of = |kind: &str| all.iter().find(|queue| queue["kind"] == kind).unwrap();
    let nobody = of("nobody.does");
    assert_eq!(
        (&nobody["waiting"], &nobody["running"], &nobody["served"]),
        (&json!(1), &json!(0), &json!(false)),
        "{queues}"
    );
    assert!(nobody["oldest_age_ms"].is_u64(), "{queues}");
    assert_eq!(of("sleep")["served"], true, "{queues}");
    assert_eq!(
        queues["waiting"].as_u64(),
        Some(1 + of("sleep")["waiting"].as_u64().unwrap()),
        "{queues}"
    );
}

#[tokio::test]
async fn whether_a_kind_is_served_is_unknown_where_its_consumer_does_not_answer_in_time() {
    let nats = NatsServer::start().await;
    streams_without_consumer(&nats).await;
    let gateway = Gateway::start(&nats).await;
    // A consumer that is there, and answers nothing.
    let silent = nats.connect_as("worker").await;
    let _questions = silent.subscribe("jobs.serves.slow").await.unwrap();
    silent.flush().await.unwrap();
    let job = r#"{"kind":"slow"}"#;
    assert_eq!(gateway.post("/v1/jobs", job).await.status, 202);
    let queue = eventually(DEADLINE, "the queue of the kind", async || {
        let queues = gateway.get("/v1/queues").await.json();
        let queues = queues["queues"].as_array().unwrap().clone();
        queues.into_iter().find(|queue| queue["kind"] == "slow")
    })
    .await;
    let served = queue.as_object().unwrap().get("served");
    assert_eq!(served, Some(&Value::Null), "{queue}");
    eventually(DEADLINE, "the page with the queue", async || {
        let page = gateway.get("/").await.text;
        let row = page.split("id=\"queue-slow\"").nth(1)?;
        let row = row.split("</tr>").next().unwrap();
        assert!(row.contains("consumer unknown"), "{row}");
        Some(())
    })
    .await;
}

#[tokio::test]
async fn the_page_of_a_job_says_that_no_consumer_serves_its_kind_until_one_does() {
    let nats = NatsServer::start().await;
    streams_without_consumer(&nats).await;
    let gateway = Gateway::start(&nats).await;
    let job = |kind| json!({"kind": kind, "payload": {"ms": 60_000}}).to_string();
    let submit = async |kind| gateway.post("/v1/jobs", &job(kind)).await.id();
    let waiting = submit("sleep").await;
    let page = async |id: &str| gateway.get(&format!("/jobs/{id}")).await.text;
    let says = "no consumer serves its kind sleep";
    eventually(DEADLINE, "the page to say it", async || {
        let page = page(&waiting).await;
        (page.contains(says) && page.contains("--scale consumer=")).then_some(())
    })
    .await;
    let why = gateway.get(&format!("/v1/jobs/{waiting}/why")).await.json();
    assert_eq!(why["state"], "queued", "{why}");
    assert_eq!(why["reasons"][0]["reason"], "no_consumer", "{why}");
    let nobody = format!("/v1/jobs/{}/why", common::JobId::generate());
    assert_eq!(gateway.get(&nobody).await.problem().0, 404);
    // One slot: the second job waits, but a consumer serves its kind.
    let _consumer = consumer(&nats, &["--concurrency", "1"]).await;
    gateway.job_is(&waiting, "running").await;
    assert!(!page(&waiting).await.contains("id=\"why-no_consumer\""));
    let second = submit("sleep").await;
    eventually(DEADLINE, "the page of the second job", async || {
        let page = page(&second).await;
        let waits = page.contains("It waits for a consumer.");
        (waits && !page.contains("id=\"why-no_consumer\"")).then_some(())
    })
    .await;
}

#[tokio::test]
async fn many_callers_share_one_list_of_the_queues() {
    const CALLERS: u64 = 200;
    let nats = NatsServer::start().await;
    streams_without_consumer(&nats).await;
    let gateway = Gateway::start(&nats).await;
    let client = nats.connect_as("admin").await;
    let requests = async || {
        let account = client.request("$JS.API.INFO", "".into()).await.unwrap();
        let account: Value = serde_json::from_slice(&account.payload).unwrap();
        account["api"]["total"].as_u64().unwrap()
    };
    let before = requests().await;
    let answers = join_all((0..CALLERS).map(|_| gateway.get("/v1/queues"))).await;
    assert!(answers.iter().all(|answer| answer.status == 200));
    let sent = requests().await - before;
    // Each list takes two requests, and the pages ask for other things meanwhile.
    assert!(sent < CALLERS, "{sent} requests for {CALLERS} callers");
}

#[tokio::test]
async fn what_was_asked_can_be_scraped_and_no_path_makes_a_series_of_its_own() {
    let nats = NatsServer::start().await;
    crate::support::streams_without_consumer(&nats).await;
    let mut gateway = Gateway::start(&nats).await;
    let line = gateway
        .service
        .wait_for_line(|line| line.contains("metrics on http://"))
        .await;
    let at = line.find("http://").unwrap();
    let url = line[at..].split_whitespace().next().unwrap();
    for path in [
        "/v1/jobs",
        "/v1/jobs/7",
        "/v1/jobs/8",
        "/.env",
        "/wp-login.php",
    ] {
        gateway.get(path).await;
    }
    let scrape = crate::support::send(crate::support::http().get(url))
        .await
        .text;
    for line in [
        r#"jobs_http_requests_total{method="GET",route="/v1/jobs",status="2xx"} 1"#,
        r#"jobs_http_requests_total{method="GET",route="/v1/jobs/{id}",status="4xx"} 2"#,
        r#"jobs_http_requests_total{method="GET",route="other",status="4xx"} 2"#,
        r#"jobs_http_request_duration_seconds_count{method="GET",route="/v1/jobs"} 1"#,
    ] {
        assert!(scrape.contains(line), "{line}: {scrape}");
    }
    assert!(!scrape.contains("wp-login"), "{scrape}");
}

#[tokio::test]
async fn a_kind_is_paused_and_resumed_over_http() {
    let nats = NatsServer::start().await;
    let gateway = Gateway::start(&nats).await;
    let _consumer = consumer(&nats, &[]).await;
    let paused_in_queues = async |paused: bool| {
        // The answer before may still be shared.
        eventually(DEADLINE, &format!("paused to be {paused}"), async || {
            let queues = gateway.get("/v1/queues").await.json();
            let mut queues = queues["queues"].as_array().unwrap().iter();
            let queue = queues.find(|queue| queue["kind"] == "echo")?.clone();
            (queue["paused"].is_object() == paused).then_some(queue)
        })
        .await
    };
    let asked = r#"{"for":"1h","reason":"the mail server moves"}"#;
    let setting = gateway.post("/v1/kinds/echo/pause", asked).await;
    assert_eq!(setting.status, 200, "{setting:?}");
    let setting = setting.json();
    assert_eq!(
        (&setting["kind"], &setting["paused"]),
        (&json!("echo"), &json!(true))
    );
    let accepted = gateway.post("/v1/jobs", r#"{"kind":"echo"}"#).await;
    assert_eq!(accepted.status, 202);
    // Another kind is run: so this one would have been run, too.
    let other = gateway.post("/v1/jobs?wait=1m", r#"{"kind":"sleep","payload":{"ms":1}}"#);
    assert_eq!(other.await.json()["state"], "succeeded");
    let id = accepted.id();
    gateway.job_is(&id, "queued").await;
    let queue = paused_in_queues(true).await;
    assert_eq!(
        queue["paused"]["reason"], "the mail server moves",
        "{queue}"
    );
    assert_eq!(queue["paused"]["until"], setting["paused_until"], "{queue}");
    assert_eq!(gateway.post("/v1/kinds/echo/resume", "").await.status, 200);
    gateway.job_is(&id, "succeeded").await;
    paused_in_queues(false).await;

    let long = json!({"reason": "x".repeat(1001)}).to_string();
    for (kind, body, problem) in [
        ("a%20b", "{}", (400, Some("kind"))),
        ("echo", "{", (400, None)),
        ("echo", "[]", (422, None)),
        ("echo", r#"{"forr":"1h"}"#, (422, None)),
        (
            "echo",
            r#"{"for":"1h","until":"2100-01-01T00:00:00Z"}"#,
            (422, Some("until")),
        ),
        ("echo", r#"{"for":"0s"}"#, (422, None)),
        ("echo", r#"{"until":"2020-01-01T00:00:00Z"}"#, (422, None)),
        ("echo", &*long, (422, Some("reason"))),
    ] {
        let answer = gateway.post(&format!("/v1/kinds/{kind}/pause"), body).await;
        let (status, field) = answer.problem();
        assert_eq!((status, field.as_deref()), problem, "{body}: {answer:?}");
    }
    paused_in_queues(false).await;
}

#[tokio::test]
async fn all_kinds_are_paused_and_resumed_over_http_and_on_the_dashboard() {
    let nats = NatsServer::start().await;
    let gateway = Gateway::start(&nats).await;
    let _consumer = consumer(&nats, &[]).await;
    let asked = r#"{"for":"1h","reason":"a <move>"}"#;
    let paused = gateway.post("/v1/kinds/=all/pause", asked).await;
    assert_eq!(paused.status, 200, "{paused:?}");
    let paused = paused.json();
    assert_eq!(paused["paused"], true, "{paused}");
    let id = gateway.post("/v1/jobs", r#"{"kind":"echo"}"#).await.id();
    let why = gateway.get(&format!("/v1/jobs/{id}/why")).await.json();
    assert_eq!(why["reasons"][0]["reason"], "all_paused", "{why}");
    let queues = eventually(DEADLINE, "the pause in the queues", async || {
        let queues = gateway.get("/v1/queues").await.json();
        queues["all_paused"].is_object().then_some(queues)
    })
    .await;
    assert_eq!(queues["all_paused"]["until"], paused["paused_until"]);
    let settings = gateway.get("/v1/kinds").await.json();
    assert_eq!(settings["all"]["paused"], true, "{settings}");
    assert_eq!(settings["kinds"], json!([]), "{settings}");
    let page = async |wanted: &str| {
        eventually(DEADLINE, &format!("{wanted} on the page"), async || {
            let page = gateway.get("/").await.text;
            page.contains(wanted).then_some(page)
        })
        .await
    };
    let noted = page("id=\"all-paused\"").await;
    assert!(noted.contains("/kinds/=all/resume") && !noted.contains("<move>"));
    assert!(!noted.contains("id=\"pause-all\""), "{noted}");
    let job = gateway.get(&format!("/jobs/{id}")).await.text;
    assert!(job.contains("id=\"why-all_paused\""), "{job}");

    let form = async |path: &str, fields: &'static str| {
        let request = gateway.request(Method::POST, path);
        let kind = "application/x-www-form-urlencoded";
        let answer = send(request.header("content-type", kind).body(fields)).await;
        let place = answer.headers.get("location");
        (
            answer.status,
            place.map(|place| place.to_str().unwrap().to_owned()),
        )
    };
    let done = |word: &str| (303, Some(format!("/?done={word}")));
    let resumed = form("/kinds/=all/resume", "").await;
    assert_eq!(resumed, done("all-resumed"));
    gateway.job_is(&id, "succeeded").await;
    page("id=\"pause-all\"").await;
    let paused = form("/kinds/=all/pause", "for=1h&reason=").await;
    assert_eq!(paused, done("all-paused"));
    assert_eq!(form("/kinds/=all/pause", "for=0s").await.0, 400);
    page("id=\"all-paused\"").await;
    let resumed = gateway.post("/v1/kinds/=all/resume", "").await;
    assert_eq!(
        (resumed.status, &resumed.json()["paused"]),
        (200, &json!(false))
    );
}

#[tokio::test]
async fn a_kind_is_paused_and_resumed_on_the_dashboard() {
    let nats = NatsServer::start().await;
    let gateway = Gateway::start(&nats).await;
    let _consumer = consumer(&nats, &[]).await;
    let form = async |path: &str, fields: &'static str| {
        let request = gateway.request(Method::POST, path);
        let kind = "application/x-www-form-urlencoded";
        send(request.header("content-type", kind).body(fields)).await
    };
    let asked = "for=1h&reason=a+%3Cmove%3E";
    let answer = form("/kinds/echo/pause", asked).await;
    assert_eq!(
        (answer.status, &answer.headers["location"]),
        (303, &"/?done=paused".parse().unwrap())
    );
    let accepted = gateway.post("/v1/jobs", r#"{"kind":"echo"}"#).await;
    let id = accepted.id();
    let page = gateway.get(&format!("/jobs/{id}")).await.text;
    let note = page
        .split("id=\"why-paused\"")
        .nth(1)
        .expect("a note of the pause");
    let note = note.split("</div>").next().unwrap();
    assert!(
        note.contains("is paused until") && note.contains("move"),
        "{note}"
    );
    assert!(!note.contains("<move>"), "{note}");
    let row = async |wanted: &str| {
        eventually(DEADLINE, &format!("{wanted} in the row"), async || {
            let page = gateway.get("/").await.text;
            let row = page.split("id=\"queue-echo\"").nth(1)?;
            let row = row.split("</tr>").next()?.to_owned();
            row.contains(wanted).then_some(row)
        })
        .await
    };
    let paused = row("/kinds/echo/resume").await;
    assert!(
        paused.contains(">paused<") && paused.contains("move"),
        "{paused}"
    );
    let wrong = form("/kinds/echo/pause", "for=soon").await;
    assert_eq!(wrong.status, 400, "{wrong:?}");
    let wrong = form("/kinds/echo/pause", "for=0s").await;
    assert_eq!(wrong.status, 400, "{wrong:?}");

    let answer = form("/kinds/echo/resume", "").await;
    assert_eq!(
        (answer.status, &answer.headers["location"]),
        (303, &"/?done=resumed".parse().unwrap())
    );
    gateway.job_is(&id, "succeeded").await;
    row("/kinds/echo/pause").await;
    let page = gateway.get(&format!("/jobs/{id}")).await.text;
    assert!(!page.contains("id=\"paused\""), "{page}");
}

#[tokio::test]
async fn the_priorities_of_a_kind_are_heeded_and_its_queue_says_how_many_jobs_of_each_wait() {
    let nats = NatsServer::start().await;
    let gateway = Gateway::start(&nats).await;
    let _consumer = consumer(&nats, &["--kinds", "echo"]).await;
    let before = gateway.get("/v1/kinds").await.json();
    assert_eq!(before, json!({"kinds": []}));
    let setting = gateway.post("/v1/kinds/echo/priorities", "").await;
    assert_eq!(setting.status, 200, "{setting:?}");
    assert_eq!(setting.json()["priorities"], true);
    let paused = gateway.post("/v1/kinds/echo/pause", "").await;
    assert_eq!(paused.status, 200, "{paused:?}");
    let settings = gateway.get("/v1/kinds").await.json();
    let settings = settings["kinds"].as_array().unwrap();
    assert_eq!(settings.len(), 1, "{settings:?}");
    let setting = &settings[0];
    assert_eq!(
        (&setting["kind"], &setting["priorities"], &setting["paused"]),
        (&json!("echo"), &json!(true), &json!(true))
    );
    let high = r#"{"kind":"echo","priority":"high"}"#;
    assert_eq!(gateway.post("/v1/jobs", high).await.status, 202);
    let low = r#"{"kind":"echo","priority":"low"}"#;
    assert_eq!(gateway.post("/v1/jobs", low).await.status, 202);
    eventually(DEADLINE, "the jobs in the queue", async || {
        let queues = gateway.get("/v1/queues").await.json();
        let mut queues = queues["queues"].as_array().unwrap().iter();
        let queue = queues.find(|queue| queue["kind"] == "echo")?.clone();
        let counts = json!([
            queue["waiting"],
            queue["waiting_high"],
            queue["waiting_low"]
        ]);
        (counts == json!([2, 1, 1])).then_some(())
    })
    .await;
    eventually(DEADLINE, "the numbers on the page", async || {
        let page = gateway.get("/").await.text;
        let all = ["<small>1 high</small>", "<small>1 low</small>"];
        all.iter().all(|number| page.contains(number)).then_some(())
    })
    .await;
}
