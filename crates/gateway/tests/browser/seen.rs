//! What a person sees: every page, on a desk and on a phone, by day and by night, and live.

use serde_json::{Value, json};

use test_support::{NatsServer, Signal};

use crate::driven::assert_quiet;
use crate::system::{System, http};
use crate::webdriver::{Browser, DESK, Look, PHONE, in_browser};

/// A script in every text that somebody else writes.
const SCRIPT: &str =
    "</textarea></pre><script>window.ran = true</script><img src=x onerror='window.ran = true'>";

/// Every page of a system in which something has happened.
async fn pages(system: &System) -> Vec<String> {
    let dead = system.dead_letter().await;
    let echo = system
        .submit(&json!({"kind": "echo", "payload": "hello"}))
        .await;
    system.wait_for(&echo, "succeeded").await;
    let fixed = [
        "/",
        "/consumers",
        "/jobs",
        "/jobs?state=dead",
        "/jobs?kind=echo",
        "/jobs?kind=*&since=2026-01-31T09:30:00Z&text=hello",
        "/jobs/cancel?kind=*",
        "/jobs/run-now?kind=*",
        "/?kind=echo",
        "/docs",
        "/dead",
        "/dead?kind=sleep",
        "/dead/discard?kind=sleep",
        "/dead/replay",
    ];
    let mut pages: Vec<_> = fixed.map(str::to_owned).into();
    pages.extend([
        format!("/jobs/{dead}"),
        format!("/jobs/{echo}"),
        format!("/dead/{dead}"),
    ]);
    pages
}

#[tokio::test]
async fn each_page_loads_without_an_error_and_fits_a_phone_by_day_and_by_night() {
    let system = System::start(2).await;
    let pages = pages(&system).await;
    let night = Look {
        dark: true,
        ..PHONE
    };
    for look in [DESK, PHONE, night] {
        in_browser(&system.base, look, async |browser| {
            for page in &pages {
                browser.open_page(page).await;
                let title = browser.wait_for("h1", |_| true).await;
                assert!(!title.is_empty(), "{page}");
                let wide = "const all = document.scrollingElement; return all.scrollWidth - all.clientWidth";
                assert_eq!(browser.run(wide).await, 0, "{page} is wider than {}", look.width);
                let narrow = "return [...document.querySelectorAll('caption')].filter((caption) => caption.clientWidth < caption.parentElement.clientWidth).length";
                assert_eq!(browser.run(narrow).await, 0, "{page} has a narrow caption");
                assert_lit(browser, look).await;
                assert_labelled(browser, page).await;
            }
            assert_quiet(browser).await;
        })
        .await;
    }
}

#[tokio::test]
async fn names_of_streams_are_in_one_line_and_captions_in_whole_words_at_any_width() {
    let system = System::start(1).await;
    let pages = pages(&system).await;
    for width in [1400, 1150, 720, 360] {
        let look = Look { width, ..DESK };
        in_browser(&system.base, look, async |browser| {
            browser.open_page("/").await;
            browser.wait_for("#stream-JOBS_ADVISORIES", |_| true).await;
            // With figures as wide as those of a system that has worked for long.
            let wrapped = "const figures = ['1,234,567', '987.6 MiB, no limit of its own', '23 h 59 min ago'];
             for (const row of document.querySelectorAll('#streams tbody tr')) {
                 figures.forEach((figure, at) => row.cells[at + 1].firstChild.textContent = figure);
             }
             return [...document.querySelectorAll('#streams td.first')].filter((name) => {
                 const text = document.createRange();
                 text.selectNodeContents(name);
                 return text.getClientRects().length > 1;
             }).map((name) => name.textContent)";
            assert_eq!(browser.run(wrapped).await, json!([]), "{width}");
            for page in &pages {
                browser.open_page(page).await;
                let narrow = "return [...document.querySelectorAll('caption')].filter((caption) => caption.clientWidth < caption.parentElement.clientWidth).map((caption) => caption.textContent)";
                assert_eq!(browser.run(narrow).await, json!([]), "{page} at {width}");
            }
        })
        .await;
    }
}

/// The ground is dark by night and light by day, and the text the other way round.
async fn assert_lit(browser: &Browser, look: Look) {
    let brightness = browser
        .run(
            "const sum = (color) => color.match(/\\d+/g).slice(0, 3).reduce((sum, part) => sum + Number(part), 0);
             const style = getComputedStyle(document.body);
             return [sum(style.backgroundColor), sum(style.color)]",
        )
        .await;
    let [ground, text] = [0, 1].map(|at| brightness[at].as_u64().unwrap());
    assert_eq!(ground < text, look.dark, "{brightness}");
}

/// Whoever cannot see the page is told what each field and button is.
async fn assert_labelled(browser: &Browser, page: &str) {
    let nameless = browser
        .run(
            "const fields = document.querySelectorAll('input:not([type=hidden]), select, textarea');
             const nameless = [...fields].filter((field) => field.labels.length === 0);
             const buttons = document.querySelectorAll('button, a, summary');
             nameless.push(...[...buttons].filter((button) => !button.textContent.trim() && !button.ariaLabel));
             return nameless.map((element) => element.outerHTML)",
        )
        .await;
    assert_eq!(nameless, json!([]), "{page}");
}

#[tokio::test]
async fn what_happens_is_seen_without_a_reload() {
    let system = System::start(1).await;
    in_browser(&system.base, DESK, async |browser| {
        browser.open_page("/").await;
        browser.wait_for("#live-state", |text| text == "Live").await;
        browser.run("window.same = true").await;
        browser
            .wait_for("#tile-consumers .value", |text| text == "1")
            .await;
        let processed = "#tile-processed .value";
        browser.wait_for(processed, |text| text == "0").await;
        let echo = system.submit(&json!({"kind": "echo", "payload": 1})).await;
        browser.wait_for(processed, |text| text == "1").await;
        let kinds = browser
            .wait_for("#kinds", |text| text.contains("echo"))
            .await;
        assert!(!kinds.contains("No job has run yet"), "{kinds}");
        let charts = "return document.querySelectorAll('.chart .curve[d]:not([d=\"\"])').length";
        assert!(browser.run(charts).await.as_u64().unwrap() >= 3);
        // Without updates a page stays as it is.
        assert_eq!(browser.text("#updates").await.unwrap(), "Stop updates");
        browser.click("#updates").await;
        assert_eq!(browser.text("#live-state").await.unwrap(), "Not updating");
        assert_eq!(browser.text("#updates").await.unwrap(), "Resume updates");
        let another = system.submit(&json!({"kind": "echo", "payload": 2})).await;
        system.wait_for(&another, "succeeded").await;
        test_support::eventually(test_support::DEADLINE, "the fresh page", async || {
            let page = system.html("/").await;
            let tile = page.split("id=\"tile-processed\"").nth(1)?;
            tile.split("</div>").next()?.contains(">2<").then_some(())
        })
        .await;
        // Another viewer receives two events: after the first, this page would have been updated.
        let live = http().get(format!("{}/live", system.base)).send().await;
        let mut live = live.unwrap();
        for _ in 0..2 {
            assert!(live.chunk().await.unwrap().is_some());
        }
        assert_eq!(browser.text(processed).await.unwrap(), "1");
        browser.click("#updates").await;
        browser.wait_for(processed, |text| text == "2").await;
        assert_eq!(
            browser.run("return window.same").await,
            true,
            "it was reloaded"
        );
        assert_quiet(browser).await;
        // What somebody types into a page that is kept fresh stays.
        browser.open_page("/jobs").await;
        browser.fill("input[name=id]", &echo).await;
        let third = system.submit(&json!({"kind": "echo", "payload": 3})).await;
        browser
            .wait_for("#list", |text| text.contains(&third))
            .await;
        let typed =
            "return [document.querySelector('input[name=id]').value, document.activeElement.name]";
        assert_eq!(browser.run(typed).await, json!([echo, "id"]));
        browser.click("#search button").await;
        browser.wait_for("#state", |text| text == "succeeded").await;
        assert_eq!(browser.path().await, format!("/jobs/{echo}"));
    })
    .await;
}

#[tokio::test]
async fn a_script_in_a_payload_an_error_or_a_header_does_not_run() {
    let system = System::start(1).await;
    let failing = json!({"kind": "fail", "payload": {"message": SCRIPT, "permanent": true}});
    let echo = json!({"kind": "echo", "payload": {"text": SCRIPT}});
    let ids = [
        system.submit_with_header(&failing, "X-Note", SCRIPT).await,
        system.submit(&echo).await,
    ];
    system.wait_for(&ids[0], "dead").await;
    system.wait_for(&ids[1], "succeeded").await;
    let script = SCRIPT
        .replace('<', "%3C")
        .replace('>', "%3E")
        .replace(' ', "+");
    let pages = [
        "/".to_owned(),
        "/jobs".to_owned(),
        format!("/jobs/{}", ids[0]),
        format!("/jobs/{}", ids[1]),
        "/dead".to_owned(),
        format!("/dead/{}", ids[0]),
        format!("/jobs?id={script}"),
        format!("/jobs?kind={script}"),
        format!("/jobs?text={script}&since={script}&until={script}"),
        format!("/jobs?text={script}"),
        format!("/jobs/cancel?text={script}"),
        format!("/jobs/run-now?text={script}"),
        format!("/?kind={script}"),
        format!("/jobs/{script}"),
        format!("/dead?kind={script}&reason={script}&error={script}"),
        format!("/dead?error={script}"),
        format!("/dead/discard?error={script}"),
        format!("/consumers?search={script}&after={script}"),
        format!("/dead?done={script}"),
        format!("/sign-in?to={script}"),
    ];
    in_browser(&system.base, DESK, async |browser| {
        for page in &pages {
            browser.open_page(page).await;
            let seen = browser
                .run("return [window.ran, document.querySelectorAll('img').length, document.scripts.length]")
                .await;
            assert_eq!(seen[0], Value::Null, "{page}: it ran");
            assert_eq!(seen[1], 0, "{page}: it became a part of the page");
            assert!(seen[2].as_u64().unwrap() <= 1, "{page}");
        }
        // It is shown as what it is.
        browser.open_page(&format!("/dead/{}", ids[0])).await;
        let payload = browser.run("return document.querySelector('textarea').value").await;
        assert!(payload.as_str().unwrap().contains("<script>"), "{payload}");
        let result = browser.text("#facts").await.unwrap();
        assert!(result.contains("<script>"), "{result}");
        let header = "return [...document.querySelectorAll('#facts dt')].find((name) => name.innerText.toLowerCase() === 'x-note').nextElementSibling.textContent";
        assert_eq!(browser.run(header).await, SCRIPT);
    })
    .await;
}

#[tokio::test]
async fn pages_of_an_empty_system_say_what_to_do_next() {
    let system = System::start(0).await;
    let nobody = test_support::eventually(test_support::DEADLINE, "the first look", async || {
        let page = system.html("/").await;
        page.contains("id=\"no-consumer\"").then_some(page)
    })
    .await;
    assert!(nobody.contains("--scale consumer"), "{nobody}");
    let base = system.base.strip_prefix("http://").unwrap();
    assert!(
        nobody.contains(&format!("curl -X POST 'http://{base}/v1/jobs")),
        "{nobody}"
    );
    let consumers = system.html("/consumers").await;
    assert!(
        consumers.contains("No consumer has answered yet"),
        "{consumers}"
    );
    // There are no streams before the first consumer.
    for (page, empty) in [
        ("/jobs", "<strong>No durable job yet</strong>Submit one:"),
        (
            "/dead",
            "<strong>No dead letters</strong>A durable job comes here when",
        ),
    ] {
        let html = system.html(page).await;
        let none = html.split("id=\"none\">").nth(1).unwrap_or(&html);
        assert!(none.trim_start().starts_with(empty), "{html}");
        assert!(!html.contains("id=\"list\""), "{html}");
    }
}

#[tokio::test]
async fn pages_say_at_once_that_nats_is_away() {
    let mut nats = NatsServer::start().await;
    let (mut gateway, base) = System::gateway(&nats, &[]).await;
    nats.kill().await;
    gateway
        .wait_for_line(|line| line.contains("lost NATS"))
        .await;
    let id = "01890a5d-ac96-774b-bcce-b302099a8057";
    for page in [
        "/jobs",
        "/dead",
        "/dead/replay",
        &*format!("/jobs/{id}"),
        &*format!("/dead/{id}"),
    ] {
        let answer = http().get(format!("{base}{page}")).send().await.unwrap();
        assert_eq!(answer.status().as_u16(), 503, "{page}");
        assert!(answer.headers().contains_key("retry-after"), "{page}");
        let html = answer.text().await.unwrap();
        // Nobody has waited for an answer that cannot come.
        assert!(html.contains("there is no connection to NATS"), "{html}");
        assert!(html.contains("<h1>NATS does not answer</h1>"), "{html}");
    }
}

#[tokio::test]
async fn a_gateway_that_is_stopped_lets_its_viewers_go() {
    let nats = NatsServer::start().await;
    let (mut gateway, base) = System::gateway(&nats, &[]).await;
    let mut viewers = Vec::new();
    for _ in 0..3 {
        let viewer = http().get(format!("{base}/live")).send().await.unwrap();
        assert_eq!(viewer.headers()["content-type"], "text/event-stream");
        viewers.push(viewer);
    }
    let news = viewers[0].chunk().await.unwrap().unwrap();
    assert!(news.starts_with(b"data: 2"), "{news:?}");
    gateway.signal(Signal::SIGTERM);
    assert!(gateway.wait().await.success());
    for mut viewer in viewers {
        // Each stream has an end, and none is torn.
        while viewer.chunk().await.unwrap().is_some() {}
    }
}

#[tokio::test]
async fn an_address_that_leads_nowhere_ends_on_a_page_and_no_script_in_it_runs() {
    let system = System::start(0).await;
    in_browser(&system.base, DESK, async |browser| {
        for path in ["/nothing", &format!("/nothing/{SCRIPT}?{SCRIPT}#{SCRIPT}")] {
            browser.open_page(path).await;
            browser.wait_for("h1", |title| title == "Not found").await;
            let text = browser.text("main").await.unwrap();
            assert!(text.contains("nothing at this path"), "{text}");
            assert_eq!(browser.run("return window.ran === undefined").await, true);
        }
        // It looks like the other pages, and leads back to them.
        assert_lit(browser, DESK).await;
        browser.click("main a").await;
        browser.wait_for("h1", |title| title != "Not found").await;
        assert_eq!(browser.path().await, "/");
    })
    .await;
}
