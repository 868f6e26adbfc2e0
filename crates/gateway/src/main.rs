//! The gateway: see the library of this package.

use std::process::ExitCode;

use gateway::Config;

fn main() -> ExitCode {
    bootstrap::run(
        gateway::ABOUT,
        |config: &Config| &config.options,
        gateway::serve,
    )
}
