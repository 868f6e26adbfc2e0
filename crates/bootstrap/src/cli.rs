//! Command lines and environment variables. One rule holds for all services: the variable of a flag is
//! the prefix of the service and the name of the flag.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use clap::builder::Resettable;
use clap::error::{ContextKind, ContextValue};
use clap::{Arg, ArgMatches, Command, Id, Parser};

use crate::about::About;
use crate::monitor::MonitorAddress;
use crate::trace::TraceOptions;
use crate::{LogFormat, NatsOptions};

/// The options of every service.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// Name of this instance in logs, status and answers [default: the service's name and six random hex digits]
    #[arg(long, value_name = "NAME", value_parser = instance_name)]
    pub instance: Option<String>,

    /// How long work that has begun may take after SIGTERM or SIGINT before it is given up
    #[arg(long, value_name = "DURATION", default_value = "10s", value_parser = humantime::parse_duration)]
    pub grace: Duration,

    /// Unix socket on which the health check is answered; none if absent
    #[arg(long, value_name = "PATH")]
    pub health_socket: Option<PathBuf>,

    /// Where /metrics, /livez and /readyz are served over HTTP: an IP address and a port, or `off`
    /// [default: the service's port of 127.0.0.1, or a free one where that is taken]
    #[arg(long, value_name = "ADDRESS")]
    pub(crate) monitor: Option<MonitorAddress>,

    /// What is logged: a level (error, warn, info, debug, trace), or directives such as `info,consumer=debug`
    #[arg(
        long = "log",
        value_name = "FILTER",
        env = "RUST_LOG",
        default_value = "info"
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

    /// Traces.
    #[command(flatten)]
    pub trace: TraceOptions,

    /// The connection to NATS.
    #[command(flatten)]
    pub nats: NatsOptions,
}

/// Checks a name, which appears in subjects of micro services, in log lines and in JSON.
fn instance_name(text: &str) -> Result<String, String> {
    let good = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    if (1..=64).contains(&text.len()) && text.bytes().all(good) {
        Ok(text.to_owned())
    } else {
        Err("1 to 64 characters of A-Z a-z 0-9 - _ .".to_owned())
    }
}

/// Reads the command line and variables. Ends the process with 0 after help or version, and with 2
/// after a mistake.
pub(crate) fn parse<C: Parser>(command: &Command) -> (C, ArgMatches) {
    let result = command.clone().try_get_matches().and_then(|matches| {
        let config = C::from_arg_matches(&matches)?;
        Ok((config, matches))
    });
    result.unwrap_or_else(|error| name_variables(error, command).exit())
}

/// The command of a service: its flags, their variables, and the subcommand `healthcheck`.
pub(crate) fn command<C: Parser>(about: &About) -> Command {
    with_variables(C::command(), Some(about.prefix))
        .name(about.name)
        .version(about.version)
        .max_term_width(100)
        .subcommand_negates_reqs(true)
        .subcommand(
            Command::new("healthcheck")
                .about("Ask the instance at --health-socket whether it is healthy; exit with 0 if it is, else 1"),
        )
}

/// Gives each flag its variable: the one that the flag names, else one made from the prefix, if there
/// is one.
pub(crate) fn with_variables(command: Command, prefix: Option<&str>) -> Command {
    let overridden = excluded(&command, is_on_command_line);
    command.mut_args(|arg| {
        let variable = match (arg.get_env(), arg.get_long(), prefix) {
            (Some(variable), _, _) => variable.to_owned(),
            (None, Some("help" | "version") | None, _) | (None, _, None) => return arg,
            (None, Some(long), Some(prefix)) => OsString::from(variable(prefix, long)),
        };
        // Compose files pass on unset variables as empty ones.
        let empty = std::env::var_os(&variable).is_some_and(|value| value.is_empty());
        let ignored = empty || overridden.contains(arg.get_id());
        arg.env(if ignored {
            Resettable::Reset
        } else {
            Resettable::Value(clap::builder::OsStr::from(variable))
        })
    })
}

fn variable(prefix: &str, flag: &str) -> String {
    format!("{prefix}_{}", flag.replace('-', "_").to_uppercase())
}

/// Whether a flag is given on the command line.
fn is_on_command_line(long: &str) -> bool {
    std::env::args_os().any(|arg| {
        let flag = arg.to_str().and_then(|arg| arg.strip_prefix("--"));
        flag.is_some_and(|flag| flag.split('=').next() == Some(long))
    })
}

/// The flags that conflict with a flag on the command line. Their variables are ignored: otherwise a
/// variable that is always set would make the conflicting flag unusable.
fn excluded(command: &Command, is_on_command_line: impl Fn(&str) -> bool) -> BTreeSet<Id> {
    let given = |arg: &Arg| arg.get_long().is_some_and(&is_on_command_line);
    let mut excluded = BTreeSet::new();
    for arg in command.get_arguments() {
        for other in command.get_arg_conflicts_with(arg) {
            // Only one of the two declares the conflict, but it holds for both.
            for (arg, other) in [(arg, other), (other, arg)] {
                if given(arg) {
                    excluded.insert(other.get_id().clone());
                }
            }
        }
    }
    excluded
}

/// Adds the variable to errors about a flag that was set by it: clap names only the flag.
fn name_variables(mut error: clap::Error, command: &Command) -> clap::Error {
    for kind in [ContextKind::InvalidArg, ContextKind::PriorArg] {
        let named = match error.get(kind) {
            Some(ContextValue::String(shown)) => {
                ContextValue::String(match variable_behind(shown, command) {
                    // Clap puts a single flag in quotes ...
                    Some(variable) => format!("{shown}' from the variable '{variable}"),
                    None => shown.clone(),
                })
            }
            Some(ContextValue::Strings(list)) => {
                let named = list
                    .iter()
                    .map(|shown| match variable_behind(shown, command) {
                        // ... and lists several one a line, without quotes.
                        Some(variable) => format!("{shown} from the variable {variable}"),
                        None => shown.clone(),
                    });
                ContextValue::Strings(named.collect())
            }
            _ => continue,
        };
        error.insert(kind, named);
    }
    error
}

/// The variable that set a flag; `None` if it was set on the command line.
fn variable_behind(shown: &str, command: &Command) -> Option<String> {
    let long = shown
        .trim_start_matches('-')
        .split([' ', '='])
        .next()
        .unwrap_or_default();
    let mut flags = command.get_arguments();
    let flag = flags.find(|flag| flag.get_long() == Some(long))?;
    let variable = flag.get_env()?;
    let is_set = !is_on_command_line(long) && std::env::var_os(variable).is_some();
    is_set.then(|| variable.to_string_lossy().into_owned())
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[derive(Debug, Parser)]
    struct Config {
        /// How many
        #[arg(long, default_value_t = 1)]
        in_flight: u32,
        #[command(flatten)]
        options: Options,
    }

    const ABOUT: About = About {
        name: "publisher",
        prefix: "PUBLISHER",
        version: "1.2.3",
        inbox_prefix: "_INBOX_publisher",
        monitor_port: 9471,
    };

    #[test]
    fn every_flag_has_a_variable_and_the_rule_for_its_name_is_kept() {
        let command = command::<Config>(&ABOUT);
        let variable = |flag: &str| {
            let arg = command
                .get_arguments()
                .find(|arg| arg.get_long() == Some(flag))
                .unwrap();
            arg.get_env().unwrap().to_str().unwrap().to_owned()
        };
        assert_eq!(variable("in-flight"), "PUBLISHER_IN_FLIGHT");
        assert_eq!(variable("grace"), "PUBLISHER_GRACE");
        assert_eq!(variable("nats-url"), "NATS_URL");
        assert_eq!(variable("log"), "RUST_LOG");
        for arg in command
            .get_arguments()
            .filter(|arg| arg.get_long().is_some())
        {
            assert!(arg.get_env().is_some(), "{arg} has no variable");
        }
        command.debug_assert();
    }

    #[test]
    fn a_flag_on_the_command_line_overrides_flags_that_conflict_in_either_direction() {
        let command = Config::command();
        let excluded_by = |flag: &str| {
            let excluded = excluded(&command, |long| long == flag);
            excluded.iter().map(Id::to_string).collect::<Vec<_>>()
        };
        assert_eq!(excluded_by("nats-token"), ["nats_user"]);
        assert_eq!(excluded_by("nats-user"), ["nats_token"]);
        assert!(excluded_by("grace").is_empty());
    }

    #[test]
    fn names_that_would_break_a_line_or_a_subject_are_refused() {
        for bad in ["", "a b", "a\nb", "a>", "*", &"n".repeat(65)] {
            assert!(instance_name(bad).is_err(), "{bad:?} was taken");
        }
        assert_eq!(instance_name("worker-1.eu").unwrap(), "worker-1.eu");
    }
}
