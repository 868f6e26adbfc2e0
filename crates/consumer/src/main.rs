//! The consumer with the handlers that come with it, and those declared in a file.

use std::process::ExitCode;

fn main() -> ExitCode {
    consumer::run(consumer::Registry::built_in())
}
