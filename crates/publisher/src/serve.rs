use std::path::Path;
use std::process::ExitCode;

use bootstrap::{Context, Misconfigured, Nats};
use tracing::warn;

use crate::config::{Config, Guarantee};
use crate::delivery::Delivery;
use crate::input::{Source, same_file};
use crate::jobs::Jobs;
use crate::output::Output;
use crate::progress::{Bar, LogWriter};
use crate::run::Run;
use crate::stored::StoreOptions;
use crate::submitter::SubmitOptions;

/// Hands jobs over until there are no more, or the service is told to stop; then waits for those
/// that are under way, as long as the grace period allows.
///
/// The exit code is 0 if all jobs succeeded. Jobs without end are no task that could fail: what
/// became of them is in the log, and the exit code is 0.
///
/// # Errors
/// When the configuration is wrong, NATS refuses the service, or an outcome cannot be written.
pub async fn serve(context: Context, config: Config) -> anyhow::Result<ExitCode> {
    let (source, output) = open(&config).map_err(|error| Misconfigured(format!("{error:#}")))?;
    let bar = source
        .as_ref()
        .and_then(|source| Bar::on_terminal(source.length));
    let outcomes_on_stdout = config.output.as_deref() == Some(Path::new("-"));
    if bar.is_some() || outcomes_on_stdout {
        bootstrap::redirect_logs(LogWriter::new(bar.as_ref(), outcomes_on_stdout));
    }
    let nats = context.connect("jobs").await?;
    // It is found as long as this is kept.
    let _service = context.register(&nats).await?;
    let delivery = match config.delivery {
        Guarantee::Confirmed => {
            let options = SubmitOptions {
                in_flight: config.in_flight(),
                confirm_timeout: config.confirm_timeout,
                max_attempts: config.max_attempts,
                by_kind: config.by_kind,
            };
            Delivery::confirmed(&nats, options).await?
        }
        Guarantee::Durable => {
            examine(&nats, config.accept_unsafe_server).await?;
            Delivery::durable(
                &nats,
                StoreOptions {
                    in_flight: config.in_flight(),
                    confirm_timeout: config.confirm_timeout,
                    // A bulk takes its time, whereas whoever makes a job wants to know.
                    wait_for_room: config.input.is_some(),
                    all_or_none: config.all_or_none,
                },
            )
        }
        Guarantee::FireAndForget => Delivery::fire_and_forget(&nats, config.by_kind),
    };
    let jobs = Jobs::new(source, &config, &nats)?;
    let run = Run::new(context, nats, &config, jobs, delivery, bar, output);
    let all_well = run.until_the_end().await?;
    let finite = config.input.is_some() || config.count.is_some();
    Ok(if all_well || !finite {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// Refuses a server that does not keep what it confirms, unless that is wanted.
async fn examine(nats: &Nats, accept: bool) -> anyhow::Result<()> {
    for finding in client::examine(&nats.client, client::Topology::default()).await? {
        if finding.breaks && !accept {
            return Err(anyhow::Error::new(Misconfigured(format!(
                "{finding}; or tell the publisher to go on all the same by --accept-unsafe-server"
            ))));
        }
        warn!("{finding}");
    }
    Ok(())
}

/// Opens what jobs are read from and what outcomes are written to.
fn open(config: &Config) -> anyhow::Result<(Option<Source>, Option<Output>)> {
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
            anyhow::ensure!(
                !given,
                "{flag} is for --delivery durable: nothing else can keep a job"
            );
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
    let source = config.input.as_deref().map(Source::open).transpose()?;
    let output = config.output.as_deref().map(Output::open).transpose()?;
    Ok((source, output))
}
