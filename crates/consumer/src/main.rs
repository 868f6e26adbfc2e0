//! The consumer with the built-in handlers and those declared in a file.

use std::process::ExitCode;

fn main() -> ExitCode {
    consumer::run(consumer::Registry::built_in())
}
