//! `cargo xtask up`, from the start to Ctrl-C.

use std::process::Stdio;
use std::sync::Once;

use test_support::{BuildDir, Service, ServiceBuilder, Signal, build_services};

/// The binary itself, as cargo runs it for `cargo xtask`.
fn xtask() -> ServiceBuilder {
    static BUILT: Once = Once::new();
    // It builds the services itself; done before, that takes no part of the time for a line.
    BUILT.call_once(|| {
        let build_dir = BuildDir::current().with_profile("dev");
        build_services(&build_dir, Stdio::piped()).expect("the services can be built");
    });
    Service::program(env!("CARGO_BIN_EXE_xtask"))
}

#[tokio::test]
async fn the_system_comes_up_shares_the_jobs_and_goes_down_on_ctrl_c() {
    let mut up = xtask()
        .args(["up", "--consumers", "2", "--port", "0"])
        .env("PUBLISHER_INTERVAL", "20ms")
        .env("STATUS_INTERVAL", "500ms")
        .env("RUST_LOG", "debug")
        .start();
    for consumer in ["consumer_1 ", "consumer_2 "] {
        up.wait_for_line(|line| line.starts_with(consumer) && line.contains("job succeeded"))
            .await;
    }
    up.wait_for_line(|line| line.starts_with("status-service ") && line.contains("consumers=2"))
        .await;
    up.signal(Signal::SIGINT);
    assert_eq!(up.wait().await.code(), Some(0));

    let lines = up.stdout();
    let end_of = |name: &str| {
        let end = format!("{name} exited with code 0");
        lines
            .iter()
            .position(|line| *line == end)
            .unwrap_or_else(|| panic!("no line {end:?}"))
    };
    for service in [
        "consumer_1",
        "consumer_2",
        "publisher",
        "status-service",
        "gateway",
    ] {
        assert!(
            end_of(service) < end_of("nats"),
            "NATS left before {service}"
        );
    }
}

#[tokio::test]
async fn a_port_that_is_taken_is_named() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    let mut up = xtask().args(["up", "--port", &port]).start();
    assert_eq!(up.wait().await.code(), Some(1));
    let words = up.stderr().join("\n");
    assert!(
        words.contains(&format!("port {port} of 127.0.0.1")),
        "{words}"
    );
    assert!(words.contains("--port"), "{words}");
}

#[tokio::test]
async fn a_service_that_cannot_start_is_named_and_the_rest_goes_on_until_ctrl_c() {
    let mut up = xtask()
        .args(["up", "--port", "0"])
        .env("CONSUMER_CONCURRENCY", "many")
        // Nobody will ever answer the publisher.
        .env("PUBLISHER_GRACE", "100ms")
        .start();
    up.wait_for_line(|line| line == "consumer_1 exited with code 2")
        .await;
    up.wait_for_line(|line| {
        line.starts_with("consumer_1 ") && line.contains("CONSUMER_CONCURRENCY")
    })
    .await;
    // From then on it stops by itself.
    up.wait_for_line(|line| {
        line.starts_with("status-service ") && line.contains("connected to NATS")
    })
    .await;
    up.signal(Signal::SIGTERM);
    assert_eq!(up.wait().await.code(), Some(1));
    // Not so the publisher, whose jobs found no consumer.
    assert!(
        up.stdout()
            .contains(&"status-service exited with code 0".to_owned())
    );
}

#[tokio::test]
async fn a_publisher_that_is_done_leaves_the_rest_running() {
    let mut up = xtask()
        .args(["up", "--port", "0"])
        .env("PUBLISHER_COUNT", "3")
        .env("PUBLISHER_INTERVAL", "1ms")
        .env("STATUS_INTERVAL", "100ms")
        .start();
    up.wait_for_line(|line| line == "publisher exited with code 0")
        .await;
    up.wait_for_line(|line| line.starts_with("status-service ") && line.contains("processed=3"))
        .await;
    up.signal(Signal::SIGTERM);
    assert_eq!(up.wait().await.code(), Some(0));
}
