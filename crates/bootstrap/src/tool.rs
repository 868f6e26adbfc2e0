//! Command-line tools: they connect to NATS like a service, but have no health check and no metrics.

use std::process::ExitCode;
use std::time::Duration;

use clap::{Command, Parser};
use tokio_util::sync::CancellationToken;

use crate::monitor::MonitorAddress;
use crate::service::run_work;
use crate::trace::TraceOptions;
use crate::{About, Context, LogFormat, NatsOptions, Options, cli, redirect_logs};

/// How long running work may take after the tool was told to stop.
const GRACE: Duration = Duration::from_secs(10);

/// Names of a tool.
#[derive(Clone, Copy, Debug)]
pub struct Tool {
    /// Its name as a command.
    pub name: &'static str,
    /// Its version, three numbers with dots.
    pub version: &'static str,
    /// The prefix of its inbox subjects, unless `NATS_INBOX_PREFIX` sets another.
    pub inbox_prefix: &'static str,
}

/// The options of every command of a tool.
#[derive(Clone, Debug, clap::Args)]
pub struct ToolOptions {
    /// What is logged to standard error: a level (error, warn, info, debug, trace), or directives
    #[arg(
        long = "log",
        value_name = "FILTER",
        env = "RUST_LOG",
        default_value = "warn"
    )]
    pub filter: String,

    /// How log lines look
    #[arg(
        long,
        value_name = "FORMAT",
        env = "LOG_FORMAT",
        default_value = "pretty"
    )]
    pub log_format: LogFormat,

    /// The connection to NATS.
    #[command(flatten)]
    pub nats: NatsOptions,
}

impl Tool {
    /// The whole command. The flags of `C` itself may also follow a subcommand. Flags with a variable are
    /// left out of the short help, because they are the same everywhere.
    #[must_use]
    pub fn command<C: Parser>(&self) -> Command {
        cli::with_variables(C::command(), None)
            .name(self.name)
            .version(self.version)
            .max_term_width(100)
            .mut_args(|arg| {
                let has_variable = arg.get_env().is_some();
                arg.global(true).hide_short_help(has_variable)
            })
    }

    /// Runs the tool: reads its command line, starts logs on standard error and signals, then calls
    /// `work`.
    ///
    /// `work` returns the exit code. An error is printed with its causes to standard error; the process
    /// then exits with 2 if it is [`Misconfigured`](crate::Misconfigured), else with 1.
    #[must_use]
    pub fn run<C: Parser>(
        self,
        options: impl FnOnce(&C) -> &ToolOptions,
        work: impl AsyncFnOnce(Context, C) -> anyhow::Result<ExitCode>,
    ) -> ExitCode {
        let (config, _) = cli::parse::<C>(&self.command::<C>());
        // Standard output is for the results of the tool.
        redirect_logs(std::io::stderr());
        let about = About {
            name: self.name,
            prefix: "",
            version: self.version,
            inbox_prefix: self.inbox_prefix,
            monitor_port: 0,
        };
        let options = options(&config).to_options();
        let context = Context::new(about, options, CancellationToken::new());
        let report = |error: &anyhow::Error| eprintln!("error: {error:#}");
        run_work(&context, false, report, |context| work(context, config))
    }
}

impl ToolOptions {
    fn to_options(&self) -> Options {
        Options {
            instance: None,
            grace: GRACE,
            health_socket: None,
            monitor: Some(MonitorAddress::Off),
            filter: self.filter.clone(),
            log_format: self.log_format,
            trace: TraceOptions {
                otlp_endpoint: None,
                trace_ratio: 1.0,
            },
            nats: self.nats.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOOL: Tool = Tool {
        name: "tool",
        version: "1.2.3",
        inbox_prefix: "_INBOX_tool",
    };

    #[derive(Debug, Parser)]
    struct Config {
        #[command(subcommand)]
        work: Work,
        #[command(flatten)]
        options: ToolOptions,
    }

    #[derive(Debug, clap::Subcommand)]
    enum Work {
        /// Does it
        Do {
            /// All of it
            #[arg(long)]
            all: bool,
        },
    }

    #[test]
    fn connection_flags_may_stand_before_and_after_the_subcommand() {
        for args in [
            ["tool", "--nats-url", "nats://example:1", "do", "--all"],
            ["tool", "do", "--all", "--nats-url", "nats://example:1"],
        ] {
            let matches = TOOL.command::<Config>().try_get_matches_from(args).unwrap();
            let config = <Config as clap::FromArgMatches>::from_arg_matches(&matches).unwrap();
            let options = config.options.to_options();
            assert!(format!("{:?}", options.nats).contains("example:1"));
            assert_eq!(options.monitor, Some(MonitorAddress::Off));
            let Work::Do { all } = config.work;
            assert!(all);
        }
    }

    #[test]
    fn flags_of_subcommands_have_no_variable() {
        let command = TOOL.command::<Config>();
        command.clone().debug_assert();
        for arg in command.get_subcommands().flat_map(Command::get_arguments) {
            assert!(arg.get_env().is_none(), "{arg}");
        }
    }
}
