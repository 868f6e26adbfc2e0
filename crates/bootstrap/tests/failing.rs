//! A service that cannot go on ends, and says why: this program is the service as well as its test.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::env;
use std::future::pending;
use std::process::ExitCode;
use std::time::Duration;

use bootstrap::{About, Context, Options};
use clap::Parser;
use test_support::Service;

const ABOUT: About = About {
    name: "failing",
    prefix: "FAILING",
    version: "1.2.3",
    inbox_prefix: "_INBOX_failing",
    monitor_port: 0,
};

/// Says what the service does.
const WHAT: &str = "FAILING_WHAT";

#[derive(Parser)]
struct Config {
    #[command(flatten)]
    options: Options,
}

async fn serve(context: Context, what: String) -> anyhow::Result<ExitCode> {
    let panics = what != "ends";
    let work = context.health.supervise("heart", async move |_life| {
        assert!(!panics, "on purpose");
    });
    tokio::spawn(work);
    if what == "hangs" {
        pending::<()>().await;
    }
    context.shutdown.cancelled().await;
    Ok(ExitCode::SUCCESS)
}

fn main() -> ExitCode {
    if let Ok(what) = env::var(WHAT) {
        return bootstrap::run(ABOUT, |config: &Config| &config.options, {
            async |context, _config| serve(context, what).await
        });
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    runtime.unwrap().block_on(async {
        for (what, why) in [
            ("panics", "the task \"heart\" has panicked"),
            ("ends", "the task \"heart\" has ended"),
            ("hangs", "the task \"heart\" has panicked"),
        ] {
            let mut service = Service::program(env::current_exe().unwrap())
                .env(WHAT, what)
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
            println!("a service whose task {what}: exit code 1");
        }
    });
    ExitCode::SUCCESS
}
