//! A service with a task that fails, in the way that the variable `FAILING_WHAT` names: the tests of this
//! crate look at how it ends.

use std::env;
use std::future::pending;
use std::process::ExitCode;

use bootstrap::{About, Context, Options};
use clap::Parser;

const ABOUT: About = About {
    name: "failing",
    prefix: "FAILING",
    version: "1.2.3",
    inbox_prefix: "_INBOX_failing",
    monitor_port: 0,
};

#[derive(Parser)]
struct Config {
    #[command(flatten)]
    options: Options,
}

async fn serve(context: Context, what: String) -> anyhow::Result<ExitCode> {
    let panics = what != "ends";
    let work = context.health.supervise("heart", async move |_heartbeat| {
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
    let what = env::var("FAILING_WHAT").unwrap_or_default();
    bootstrap::run(ABOUT, |config: &Config| &config.options, {
        async |context, _config| serve(context, what).await
    })
}
