//! Pictures for the README, taken when `GATEWAY_SCREENSHOTS` names the folder to put them into.

use std::path::PathBuf;

use serde_json::json;

use crate::system::System;
use crate::webdriver::{DESK, Look, PHONE, in_browser};

#[tokio::test]
#[ignore = "it writes the pictures of the README: GATEWAY_SCREENSHOTS=docs/screenshots"]
async fn the_main_pages_are_pictured() {
    let folder =
        std::env::var_os("GATEWAY_SCREENSHOTS").expect("GATEWAY_SCREENSHOTS names a folder");
    // Tests run in the folder of their package.
    let folder = test_support::project_root().join(PathBuf::from(folder));
    std::fs::create_dir_all(&folder).unwrap();
    let system = System::start(4).await;
    let id = system.dead_letter().await;
    for number in 0..6 {
        let message = format!("mailbox {number} is over its quota");
        let payload = json!({"message": message, "permanent": true});
        system
            .submit(&json!({"kind": "fail", "payload": payload}))
            .await;
    }
    let retried = json!({
        "kind": "fail", "payload": {"message": "upstream does not answer"}, "max_attempts": 3,
        "backoff": {"initial": "100ms"},
    });
    let retried = system.submit(&retried).await;
    system.wait_for(&retried, "dead").await;
    // Waves of work, so that the charts have something to show; nothing waits for their end.
    for wave in 1..=24_u64 {
        let jobs = (0..150 + 250 * (wave % 3)).map(|number| match number % 4 {
            0 => json!({"kind": "echo", "payload": number}),
            1 => json!({"kind": "sha256", "payload": {"text": "of a picture"}}),
            _ => json!({"kind": "sleep", "payload": {"ms": 20 + number % 60}}),
        });
        system.submit_all(&jobs.collect::<Vec<_>>()).await;
        tokio::time::sleep(std::time::Duration::from_millis(2_500)).await;
    }
    let tall = Look {
        height: 1_240,
        ..DESK
    };
    let night = Look { dark: true, ..tall };
    let pictures = [
        ("overview", "/".to_owned(), tall),
        ("overview-dark", "/".to_owned(), night),
        ("overview-phone", "/".to_owned(), PHONE),
        ("consumers", "/consumers".to_owned(), DESK),
        ("job", format!("/jobs/{retried}"), DESK),
        ("dead-letters", "/dead".to_owned(), DESK),
        ("dead-letter", format!("/dead/{id}"), DESK),
    ];
    for (name, page, look) in pictures {
        in_browser(&system.base, look, async |browser| {
            browser.open_page(&page).await;
            browser.wait_for("h1", |_| true).await;
            browser
                .wait_for("#live-state", |text| text == "Live" || text.is_empty())
                .await;
            let picture = browser.screenshot().await;
            std::fs::write(folder.join(format!("{name}.png")), picture).unwrap();
        })
        .await;
    }
}
