//! A service that cannot go on ends, and says why.

use std::time::Duration;

use test_support::{Service, example};

#[tokio::test]
async fn a_service_whose_task_fails_ends_and_says_why() {
    for (what, why) in [
        ("panics", "the task \"heart\" has panicked"),
        ("ends", "the task \"heart\" has ended"),
        ("hangs", "the task \"heart\" has panicked"),
    ] {
        let mut service = Service::program(example("bootstrap", "failing_service"))
            .env("FAILING_WHAT", what)
            .args(["--grace", "1s"])
            .start();
        let status = service.wait_within(Duration::from_secs(20)).await;
        assert_eq!(status.code(), Some(1), "{what}: {:?}", service.lines());
        let said = |words: &str| {
            let lines = service.lines();
            lines
                .iter()
                .any(|line| line.text.contains("ERROR") && line.text.contains(words))
        };
        assert!(said(&format!("{why}: the service cannot go on without it")));
        assert!(said(&format!("stopped because {why}")));
    }
}
