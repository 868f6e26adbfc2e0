//! Many dead letters: replayed and discarded by one request.

use serde_json::json;
use test_support::{DEADLINE, NatsServer, eventually};

use crate::support::{Gateway, consumer, send};

#[tokio::test]
async fn many_dead_letters_are_replayed_and_discarded_by_filter() {
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
    // Another number than expected: nothing is done, and both numbers are told.
    for wrong in [
        gateway
            .post(&format!("{}&expect=4", query(replay)), "")
            .await,
        gateway.delete("/v1/dead-letters?all=true&expect=3").await,
    ] {
        assert_eq!(wrong.problem(), (409, Some("expect".to_owned())));
        let detail = wrong.json()["detail"].to_string();
        assert!(detail.contains('3') && detail.contains('4'), "{detail}");
    }
    let left = gateway.get("/v1/dead-letters").await.json();
    assert_eq!(left["letters"].as_array().unwrap().len(), 4);
    let came = gateway
        .post(&format!("{}&rate=100&expect=3", query(replay)), "")
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
    let came = gateway
        .delete("/v1/dead-letters?kind=fail&expect=3")
        .await
        .json();
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
async fn bulk_work_that_fails_half_way_says_what_was_done_and_what_went_wrong() {
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

#[tokio::test]
async fn bulk_work_ends_when_its_token_is_withdrawn_and_says_so() {
    let nats = NatsServer::start().await;
    let _consumer = consumer(&nats, &[]).await;
    let open = Gateway::start(&nats).await;
    for _ in 0..20 {
        open.dead_job("for a program").await;
        open.dead_job("for a person").await;
    }
    let groups = open.get("/v1/dead-letters/groups").await.json();
    let query = |message: &str| {
        let groups = groups["groups"].as_array().unwrap();
        let mut errors = groups.iter().map(|group| group["error"].as_str().unwrap());
        let error = errors.find(|error| error.contains(message)).unwrap();
        let fields = [("error", error), ("rate", "1")];
        let url = reqwest::Url::parse_with_params("http://x/", fields).unwrap();
        url.query().unwrap().to_owned()
    };
    let entry = |name: &str, scope: &str| {
        let token = format!("token-of-{name}-0123456789");
        format!("[[token]]\nname = \"{name}\"\ntoken = \"{token}\"\nscopes = [\"{scope}\"]\n")
    };
    let file = tempfile::NamedTempFile::new().unwrap();
    let [gone, kept] = [entry("gone", "operate"), entry("kept", "read")];
    std::fs::write(file.path(), format!("{gone}{kept}")).unwrap();
    let mut gateway = Gateway::with(&nats, &["--tokens", file.path().to_str().unwrap()]).await;
    let request = |method, path: &str, name: &str| {
        let request = gateway.request(method, path);
        request.bearer_auth(format!("token-of-{name}-0123456789"))
    };
    let form = request(reqwest::Method::POST, "/dead/discard", "gone")
        .header("content-type", "application/x-www-form-urlencoded")
        .body(query("for a person"));
    assert_eq!(send(form).await.status, 303);
    let path = format!("/v1/dead-letters?{}", query("for a program"));
    let discarding = tokio::spawn(send(request(reqwest::Method::DELETE, &path, "gone")));
    let page = async || {
        send(request(reqwest::Method::GET, "/dead", "kept"))
            .await
            .text
    };
    eventually(DEADLINE, "both to be at work", async || {
        let left = open.get("/v1/dead-letters?limit=200").await.text;
        let begun = |message: &str| left.matches(message).count() < 20;
        (begun("for a program") && begun("for a person")).then_some(())
    })
    .await;
    assert!(page().await.contains("Working: "));

    std::fs::write(file.path(), kept).unwrap();
    let answer = discarding.await.unwrap();
    let outcome = answer.json();
    assert_eq!(
        (answer.status, &outcome["complete"]),
        (200, &json!(false)),
        "{outcome}"
    );
    let done = outcome["done"].as_u64().unwrap();
    assert!((1..20).contains(&done), "{outcome}");
    let error = outcome["error"].as_str().unwrap();
    assert!(error.contains("the token was withdrawn"), "{error}");
    eventually(DEADLINE, "the page to say so", async || {
        let page = page().await;
        let bulk = page.split("id=\"bulk\"").nth(1)?;
        let bulk = bulk.split("</div>").next().unwrap();
        bulk.contains("the token was withdrawn").then_some(())
    })
    .await;
    let left = open.get("/v1/dead-letters?limit=200").await.text;
    assert!(left.contains("for a program") && left.contains("for a person"));
    gateway.service.signal(test_support::Signal::SIGTERM);
    assert!(gateway.service.wait().await.success());
}
