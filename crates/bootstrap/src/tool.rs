//! A command-line tool: it reaches NATS as a service does, and has no health and no metrics to show.

use std::process::ExitCode;
use std::time::Duration;

use clap::{Command, Parser};
use tokio_util::sync::CancellationToken;

use crate::monitor::MonitorAddress;
use crate::service::live;
use crate::trace::TraceOptions;
use crate::{About, Context, LogFormat, NatsOptions, Options, cli, redirect_logs};

/// How long work that has begun may take after the tool was told to stop.
const GRACE: Duration = Duration::from_secs(10);

/// Which tool this is.
#[derive(Clone, Copy, Debug)]
pub struct Tool {
    /// Its name as a command.
    pub name: &'static str,
    /// Its version, three numbers with dots.
    pub version: &'static str,
    /// What its inbox subjects begin with unless `NATS_INBOX_PREFIX` says otherwise.
    pub inbox_prefix: &'static str,
}

/// What every command of a tool can be told.
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

    /// Where NATS is, and who the tool is there.
    #[command(flatten)]
    pub nats: NatsOptions,
}

impl Tool {
    /// The whole command; the flags of `C` itself may also stand behind any subcommand. Those that
    /// have a variable are left out of the short help: they are the same everywhere.
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

    /// Runs the tool: reads its command line, starts logs on standard error and signals, and works.
    ///
    /// `work` answers with the exit code. An error is printed with its causes to standard error; the
    /// process then exits with 2 if it is [`Misconfigured`](crate::Misconfigured), else with 1.
    #[must_use]
    pub fn run<C: Parser>(
        self,
        options: impl FnOnce(&C) -> &ToolOptions,
        work: impl AsyncFnOnce(Context, C) -> anyhow::Result<ExitCode>,
    ) -> ExitCode {
        let (config, _) = cli::parse::<C>(&self.command::<C>());
        // What the tool prints is on standard output.
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
        live(&context, false, report, |context| work(context, config))
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
    fn the_connection_may_be_named_before_and_behind_what_is_to_be_done() {
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
    fn no_variable_says_what_is_to_be_done() {
        let command = TOOL.command::<Config>();
        command.clone().debug_assert();
        for arg in command.get_subcommands().flat_map(Command::get_arguments) {
            assert!(arg.get_env().is_none(), "{arg}");
        }
    }
}
