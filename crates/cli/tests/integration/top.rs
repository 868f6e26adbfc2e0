//! Queues and fleet, again and again.

use test_support::Signal;

use crate::support::{Desk, end};

#[tokio::test]
async fn without_a_terminal_views_follow_one_another_as_plain_text() {
    let desk = Desk::new().await;
    desk.answer_for_the_fleet().await;
    desk.submit(r#"{"kind":"mail"}"#).await;
    let (code, text) = desk
        .ask(&["top", "--count", "2", "--interval", "100ms"])
        .await;
    assert_eq!(code, 0);
    assert!(!text.contains('\u{1b}'), "{text}");
    for part in ["1 jobs wait", "mail", "consumer-a"] {
        assert_eq!(text.matches(part).count(), 2, "{part}: {text}");
    }
}

#[tokio::test]
async fn a_view_is_shown_though_nobody_knows_the_fleet() {
    let desk = Desk::new().await;
    let (code, text) = desk.ask(&["top", "--count", "1"]).await;
    assert_eq!(code, 0);
    assert!(
        text.contains("0 jobs wait") && text.contains("fleet: no status service"),
        "{text}"
    );
    let views = desk
        .tell(&["top", "--count", "2", "--interval", "100ms", "--json"])
        .await
        .lines();
    assert_eq!(views.len(), 2);
    assert_eq!(views[0]["queues"]["waiting"], 0);
    assert!(views[0]["fleet"]["error"].is_string());
}

#[tokio::test]
async fn it_goes_on_until_it_is_stopped_and_that_is_no_failure() {
    let desk = Desk::new().await;
    let mut top = desk.command(&["top", "--interval", "100ms"]).start();
    top.wait_for_lines(3, |line| line == "0 jobs wait").await;
    top.signal(Signal::SIGINT);
    assert_eq!(end(top).await.code, 0);
}
