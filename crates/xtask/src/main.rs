//! For development only: starts the whole system as local processes, and runs every check.

mod bench;
mod chaos;
mod check;
mod documents;
mod printer;
mod process;
mod system;
mod up;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// What a developer does with this project.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    Up(up::Up),
    Test(check::Test),
    Bench(bench::Bench),
    #[command(hide = true)]
    BenchRole(bench::BenchRole),
    Chaos(chaos::Chaos),
    #[command(hide = true)]
    ChaosRole(chaos::ChaosRole),
    Documents(documents::Documents),
}

fn main() -> ExitCode {
    let result = match Cli::parse().task {
        Task::Up(up) => up.run(),
        Task::Test(test) => test.run(),
        Task::Bench(bench) => bench.run(),
        Task::BenchRole(role) => role.run(),
        Task::Chaos(chaos) => chaos.run(),
        Task::ChaosRole(role) => role.run(),
        Task::Documents(documents) => documents.run(),
    };
    result.unwrap_or_else(|error| {
        eprintln!("error: {error:#}");
        ExitCode::FAILURE
    })
}
