//! The status service as a program.

use std::process::ExitCode;

use bootstrap::About;
use status_service::Config;

fn main() -> ExitCode {
    let about = About {
        name: "status-service",
        prefix: "STATUS",
        version: env!("CARGO_PKG_VERSION"),
        inbox_prefix: "_INBOX_status",
        monitor_port: 9473,
    };
    bootstrap::run(
        about,
        |config: &Config| &config.options,
        status_service::serve,
    )
}
