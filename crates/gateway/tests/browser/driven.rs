//! What a person does: look, correct, replay, cancel, discard.

use serde_json::json;
use test_support::NatsServer;

use crate::system::System;
use crate::webdriver::{Browser, DESK, Look, in_browser};

/// The key that follows a link or presses a button.
const ENTER: &str = "\u{E007}";
const TAB: &str = "\u{E004}";

#[tokio::test]
async fn a_failed_job_is_found_corrected_replayed_and_seen_to_succeed() {
    let system = System::start(1).await;
    let id = system.dead_letter().await;
    in_browser(&system.base, DESK, async |browser| {
        browser.open_page("/").await;
        browser
            .wait_for("#tile-dead .value", |text| text == "1")
            .await;
        browser.click("nav a[href='/dead']").await;
        let groups = browser.wait_for("#groups", |_| true).await;
        assert!(groups.contains("invalid_payload"), "{groups}");
        browser.click("#groups td a").await;
        browser.click(&format!("#letter-{id} a")).await;
        browser.wait_for("#payload", |_| true).await;
        let payload = browser.value("textarea").await;
        assert!(payload.contains(r#""ms": "soon""#), "{payload}");
        browser.fill("textarea", "{\"ms\": 1,").await;
        browser.click("#payload button.main").await;
        let wrong = browser.wait_for("#wrong", |_| true).await;
        assert!(wrong.contains("not JSON"), "{wrong}");
        assert_eq!(
            browser.value("textarea").await,
            "{\"ms\": 1,",
            "what was typed is lost"
        );
        let log = browser.log().await;
        assert!(
            log.iter().all(|line| line.to_string().contains("422")),
            "{log:#?}"
        );
        browser.fill("textarea", r#"{"ms": 1}"#).await;
        browser.click("#payload button.main").await;
        browser
            .wait_for("#notice", |text| text.contains("replayed"))
            .await;
        // Nobody reloads: the page hears of it.
        browser.wait_for("#state", |text| text == "succeeded").await;
        let life = browser.text(".timeline").await.unwrap();
        for part in ["Submitted", "Attempt 1 failed", "Replayed", "Succeeded"] {
            assert!(life.contains(part), "{life}");
        }
        browser.open_page("/dead").await;
        browser
            .wait_for("#none", |text| text.contains("No dead letters"))
            .await;
        assert_quiet(browser).await;
    })
    .await;
}

#[tokio::test]
async fn a_running_job_is_cancelled() {
    let system = System::start(1).await;
    let job = json!({"kind": "sleep", "payload": {"ms": 600_000}});
    let id = system.submit(&job).await;
    system.wait_for(&id, "running").await;
    in_browser(&system.base, DESK, async |browser| {
        browser.open_page("/jobs").await;
        browser.click(&format!("#job-{id} a")).await;
        browser.wait_for("#state", |text| text == "running").await;
        browser.click("#cancel summary").await;
        // What a person has opened stays open while the page is kept fresh.
        let before = browser.text("#footer").await.unwrap();
        browser.wait_for("#footer", |text| text != before).await;
        browser.click("#cancel button").await;
        browser.wait_for("#state", |text| text == "cancelled").await;
        assert_quiet(browser).await;
    })
    .await;
    system.wait_for(&id, "cancelled").await;
}

#[tokio::test]
async fn many_jobs_are_searched_and_cancelled_after_a_confirmation_without_script() {
    let system = System::start(1).await;
    let mut ids = Vec::new();
    for _ in 0..2 {
        let job = json!({"kind": "sleep", "payload": {"ms": 600_000}});
        let id = system.submit(&job).await;
        system.wait_for(&id, "running").await;
        ids.push(id);
    }
    let no_script = Look {
        script: false,
        ..DESK
    };
    in_browser(&system.base, no_script, async |browser| {
        browser.open_page("/jobs").await;
        browser.fill("input[name=text]", "600000").await;
        browser.fill("input[name=since]", "1h").await;
        browser.click("#search button").await;
        browser.click("#many a").await;
        browser.wait_for("#count", |text| text == "2").await;
        browser.click("button.bad").await;
        browser
            .wait_for("#notice", |text| text.contains("asked to cancel"))
            .await;
    })
    .await;
    for id in ids {
        system.wait_for(&id, "cancelled").await;
    }
}

#[tokio::test]
async fn many_dead_letters_are_replayed_or_discarded_after_a_confirmation_without_script() {
    let system = System::start(1).await;
    let (first, second) = (system.dead_letter().await, system.dead_letter().await);
    let third = system
        .submit(&json!({"kind": "fail", "payload": {"permanent": true}}))
        .await;
    system.wait_for(&third, "dead").await;
    let no_script = Look {
        script: false,
        ..DESK
    };
    in_browser(&system.base, no_script, async |browser| {
        browser.open_page("/dead?kind=sleep").await;
        browser
            .click("#list .actions a[href^='/dead/discard']")
            .await;
        browser.wait_for("#count", |text| text == "2").await;
        browser.click("button.bad").await;
        wait_by_reloading(browser, "/dead", "#bulk", "2 dead letters were discarded").await;
        let rest = browser.text("#list").await.unwrap();
        assert!(
            rest.contains(&third) && !rest.contains(&first) && !rest.contains(&second),
            "{rest}"
        );
        browser
            .click("#list .actions a[href^='/dead/replay']")
            .await;
        browser.wait_for("#count", |text| text == "1").await;
        browser.click("button.main").await;
        wait_by_reloading(browser, "/dead", "#bulk", "1 dead letter was replayed").await;
        // One dead letter by itself; it has failed again.
        system.wait_for(&third, "dead").await;
        browser.open_page(&format!("/dead/{third}")).await;
        browser.click("#discard summary").await;
        browser.click("#discard button").await;
        browser
            .wait_for("#notice", |text| text.contains("discarded"))
            .await;
        browser
            .wait_for("#none", |text| text.contains("No dead letters"))
            .await;
    })
    .await;
}

#[tokio::test]
async fn whoever_has_a_token_signs_in_and_does_what_it_allows() {
    let nats = NatsServer::start().await;
    let tokens = tempfile::NamedTempFile::new().unwrap();
    let (reader, operator) = ("reader-0123456789abcdef0123", "operator-0123456789abcdef01");
    let text = format!(
        "[[token]]\nname = \"r\"\nscopes = [\"read\"]\ntoken = {reader:?}\n\
         [[token]]\nname = \"o\"\nscopes = [\"read\", \"operate\"]\ntoken = {operator:?}\n"
    );
    std::fs::write(tokens.path(), text).unwrap();
    let path = tokens.path().to_str().unwrap();
    let (_gateway, base) = System::gateway(&nats, &["--tokens", path]).await;
    in_browser(&base, DESK, async |browser| {
        browser.open_page("/consumers").await;
        browser.wait_for("h1", |text| text == "Sign in").await;
        browser.fill("input[name=token]", "guessed").await;
        browser.click("form button").await;
        browser
            .wait_for("#wrong", |text| text.contains("not known"))
            .await;
        let status = "return performance.getEntriesByType('navigation')[0].responseStatus";
        assert_eq!(browser.run(status).await, 401);
        browser.fill("input[name=token]", reader).await;
        browser.click("form button").await;
        browser.wait_for("h1", |text| text == "Consumers").await;
        assert_eq!(
            browser.run("return document.cookie").await,
            "",
            "a script could read it"
        );
        browser.wait_for("#live-state", |text| text == "Live").await;
        browser.open_page("/dead/replay").await;
        browser.wait_for("h1", |text| text == "Not allowed").await;
        browser.open_page("/").await;
        browser.click("#footer button").await;
        browser.wait_for("h1", |text| text == "Sign in").await;
        browser.fill("input[name=token]", operator).await;
        browser.click("form button").await;
        browser.wait_for("h1", |text| text == "Overview").await;
        browser.open_page("/dead/replay").await;
        browser
            .wait_for("h1", |text| text == "Replay these dead letters?")
            .await;
    })
    .await;
}

#[tokio::test]
async fn what_is_done_with_a_group_is_done_with_its_dead_letters_only() {
    let system = System::start(1).await;
    let mut ids = Vec::new();
    for message in ["", " two\nlines ", "two lines"] {
        let job = json!({"kind": "fail", "payload": {"message": message, "permanent": true}});
        let id = system.submit(&job).await;
        system.wait_for(&id, "dead").await;
        ids.push(id);
    }
    in_browser(&system.base, DESK, async |browser| {
        // The group without a message, and the one whose message has odd spaces.
        for (group, letter) in [("error=", 0), ("error=+two%0Alines+", 1)] {
            browser.open_page("/dead").await;
            browser.click(&format!("#groups a[href$='{group}']")).await;
            let list = browser.wait_for("#list", |_| true).await;
            for (number, id) in ids.iter().enumerate() {
                assert_eq!(list.contains(id), number == letter, "{group}: {list}");
            }
            browser
                .click("#list .actions a[href^='/dead/discard']")
                .await;
            browser.wait_for("#count", |text| text == "1").await;
            browser.click("button.bad").await;
            let rest = ids.len() - letter - 1;
            test_support::eventually(test_support::DEADLINE, "the discard", async || {
                browser.open_page("/dead").await;
                let list = browser.text("#list").await?;
                (!list.contains(&ids[letter])).then(|| {
                    let left = ids.iter().filter(|id| list.contains(*id));
                    assert_eq!(left.count(), rest, "{list}");
                })
            })
            .await;
        }
    })
    .await;
}

/// Without script a person reloads.
async fn wait_by_reloading(browser: &Browser, page: &str, selector: &str, wanted: &str) {
    test_support::eventually(test_support::DEADLINE, wanted, async || {
        browser.open_page(page).await;
        let text = browser.text(selector).await?;
        text.contains(wanted).then_some(())
    })
    .await;
}

#[tokio::test]
async fn the_main_actions_are_reached_by_keyboard() {
    let system = System::start(1).await;
    let id = system.dead_letter().await;
    in_browser(&system.base, DESK, async |browser| {
        browser.open_page("/").await;
        browser.press(TAB).await;
        assert_eq!(focus(browser).await, "Skip to the content");
        tab_to(browser, "Dead letters").await;
        browser.press(ENTER).await;
        browser.wait_for("#list", |text| text.contains(&id)).await;
        tab_to(browser, &id).await;
        browser.press(ENTER).await;
        browser.wait_for("#payload", |_| true).await;
        tab_to(browser, "Discard…").await;
        browser.press(ENTER).await;
        tab_to(browser, "Discard for good").await;
        browser.press(ENTER).await;
        browser
            .wait_for("#notice", |text| text.contains("discarded"))
            .await;
    })
    .await;
}

async fn focus(browser: &Browser) -> String {
    let text = browser.run("return document.activeElement.innerText").await;
    text.as_str().unwrap_or_default().trim().to_owned()
}

/// Presses Tab until the focus is on what begins with a text, and sees that it is shown.
async fn tab_to(browser: &Browser, text: &str) {
    for _ in 0..60 {
        browser.press(TAB).await;
        if focus(browser).await.starts_with(text) {
            let outline = "return getComputedStyle(document.activeElement).outlineStyle";
            assert_eq!(browser.run(outline).await, "solid", "{text} shows no focus");
            return;
        }
    }
    panic!("Tab does not lead to {text:?}");
}

/// Nothing went wrong in the page, and the policy forbade nothing.
pub(crate) async fn assert_quiet(browser: &Browser) {
    let log = browser.log().await;
    assert!(log.is_empty(), "{log:#?}");
}
