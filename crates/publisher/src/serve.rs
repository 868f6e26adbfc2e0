use std::path::Path;
use std::process::ExitCode;

use bootstrap::{Context, Misconfigured, Nats};
use tracing::warn;

use crate::config::{Config, Guarantee};
use crate::confirmed::ConfirmedOptions;
use crate::delivery::Delivery;
use crate::durable::DurableOptions;
use crate::report::{LogWriter, Output, ProgressBar};
use crate::run::Run;
use crate::source::{JobSource, OpenInput, same_file};

/// Submits jobs until there are no more, or the service is told to stop. Then it waits for the jobs
/// under way, as long as the grace period allows.
///
/// The exit code is 0 if all jobs succeeded, and 1 otherwise. If jobs are generated without end, it is
/// always 0.
///
/// # Errors
/// When the configuration is wrong, NATS refuses the service, or an outcome cannot be written.
pub async fn serve(context: Context, config: Config) -> anyhow::Result<ExitCode> {
    let (input, output) = open(&config).map_err(|error| Misconfigured(format!("{error:#}")))?;
    let bar = input
        .as_ref()
        .and_then(|input| ProgressBar::on_terminal(input.length));
    let outcomes_on_stdout = config.output.as_deref() == Some(Path::new("-"));
    if bar.is_some() || outcomes_on_stdout {
        bootstrap::redirect_logs(LogWriter::new(bar.as_ref(), outcomes_on_stdout));
    }
    let nats = context.connect("jobs").await?;
    // The service is registered until this is dropped.
    let _registration = context.register(&nats).await?;
    let delivery = match config.delivery {
        Guarantee::Confirmed => {
            let options = ConfirmedOptions {
                in_flight: config.in_flight(),
                confirm_timeout: config.confirm_timeout,
                max_attempts: config.max_attempts,
                by_kind: config.by_kind,
            };
            Delivery::confirmed(&nats, options).await?
        }
        Guarantee::Durable => {
            check_server(&nats, config.accept_unsafe_server).await?;
            Delivery::durable(
                &nats,
                DurableOptions {
                    in_flight: config.in_flight(),
                    confirm_timeout: config.confirm_timeout,
                    // An input waits while the queue is full. Generated jobs fail, so that it is seen.
                    wait_for_room: config.input.is_some(),
                    all_or_none: config.all_or_none,
                },
            )
        }
        Guarantee::FireAndForget => Delivery::fire_and_forget(&nats, config.by_kind),
    };
    let source = JobSource::new(input, &config, &nats)?;
    let run = Run::new(context, nats, &config, source, delivery, bar, output);
    let all_succeeded = run.until_the_end().await?;
    let has_end = config.input.is_some() || config.count.is_some();
    Ok(if all_succeeded || !has_end {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// Refuses a server that may lose jobs that it has confirmed; with `accept`, logs a warning instead.
async fn check_server(nats: &Nats, accept: bool) -> anyhow::Result<()> {
    for finding in client::examine(&nats.client, client::Topology::default()).await? {
        if finding.breaks && !accept {
            return Err(anyhow::Error::new(Misconfigured(format!(
                "{finding}; to use this server anyway, give --accept-unsafe-server"
            ))));
        }
        warn!("{finding}");
    }
    Ok(())
}

/// Checks flags that exclude each other, and opens the input and the output.
fn open(config: &Config) -> anyhow::Result<(Option<OpenInput>, Option<Output>)> {
    if let (Some(output), Guarantee::FireAndForget) = (&config.output, config.delivery) {
        anyhow::bail!(
            "--output {} has nothing to write: with --delivery fire-and-forget there are no outcomes",
            output.display()
        );
    }
    if config.delivery != Guarantee::Durable {
        for (flag, given) in [
            ("--delay", config.delay.is_some()),
            ("--all-or-none", config.all_or_none),
        ] {
            anyhow::ensure!(!given, "{flag} needs --delivery durable");
        }
    }
    if let (Some(input), Some(output)) = (&config.input, &config.output)
        && same_file(input, output)
    {
        anyhow::bail!(
            "--output {} would overwrite what --input reads",
            output.display()
        );
    }
    let input = config.input.as_deref().map(OpenInput::open).transpose()?;
    let output = config.output.as_deref().map(Output::open).transpose()?;
    Ok((input, output))
}
