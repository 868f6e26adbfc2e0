//! The publisher as a program.

use std::process::ExitCode;

use bootstrap::About;
use publisher::Config;

fn main() -> ExitCode {
    let about = About {
        name: "publisher",
        prefix: "PUBLISHER",
        version: env!("CARGO_PKG_VERSION"),
        inbox_prefix: "_INBOX_publisher",
        monitor_port: 9471,
    };
    bootstrap::run(about, |config: &Config| config.options(), publisher::serve)
}
