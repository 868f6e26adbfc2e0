//! What every scenario starts from: a server, and programs that connect to it.

use std::env;
use std::path::PathBuf;
use std::process::Stdio;

use anyhow::{Context as _, ensure};
use async_nats::Client;
use bytes::Bytes;
use common::subjects;
use serde::de::DeserializeOwned;
use serde_json::Value;
use test_support::{DEADLINE, NatsServer, Service, ServiceBuilder, eventually};
use tokio::process::Command;

use super::Settings;
use super::usage::{Moment, Noise};

/// A nats-server as in production, and the optimised binaries.
pub(super) struct Stand {
    pub(super) nats: NatsServer,
    /// Where the binaries lie.
    folder: PathBuf,
}

/// Who does the work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Side {
    Bare,
    Ours,
}

/// What one round gave.
pub(super) struct Measured<T> {
    /// With async-nats alone, where there is such a thing.
    pub(super) bare: Option<T>,
    pub(super) ours: T,
    pub(super) noise: Noise,
}

impl Stand {
    pub(super) async fn start() -> anyhow::Result<Self> {
        let program = env::current_exe().context("cannot find this program")?;
        let folder = program.parent().context("this program lies nowhere")?;
        Ok(Self {
            nats: NatsServer::start().await,
            folder: folder.to_owned(),
        })
    }

    pub(super) fn binary(&self, name: &str) -> anyhow::Result<PathBuf> {
        let path = self.folder.join(name);
        ensure!(path.is_file(), "{} was not built", path.display());
        Ok(path)
    }

    /// One of our services.
    pub(super) fn service(&self, name: &str, user: &str) -> anyhow::Result<ServiceBuilder> {
        let binary = self.binary(name)?;
        Ok(Service::program(binary).envs(self.nats.env_for(user)))
    }

    /// One of the bench's own programs.
    pub(super) fn role(&self, role: &str, user: &str) -> anyhow::Result<ServiceBuilder> {
        let builder = self.service("xtask", user)?;
        Ok(builder.args(["bench-role", role]))
    }

    /// One of our services as a command, for a program whose end has to be seen at once.
    pub(super) fn command(&self, name: &str, user: &str) -> anyhow::Result<Command> {
        self.command_on(&self.nats, name, user)
    }

    /// The same on another server.
    pub(super) fn command_on(
        &self,
        nats: &NatsServer,
        name: &str,
        user: &str,
    ) -> anyhow::Result<Command> {
        let mut command = Command::new(self.binary(name)?);
        command
            .env_clear()
            .envs(nats.env_for(user))
            .stdin(Stdio::null())
            .kill_on_drop(true);
        Ok(command)
    }

    pub(super) async fn client(&self, user: &str) -> Client {
        self.nats.connect_as(user).await
    }

    /// Starts consumers, and returns when they take jobs and nobody else does.
    pub(super) async fn members(
        &self,
        count: usize,
        builder: impl Fn() -> anyhow::Result<ServiceBuilder>,
    ) -> anyhow::Result<Vec<Service>> {
        // Those of the last round may have left only just now.
        self.wait_for_members(subjects::CREATE, 0).await;
        let services = (0..count).map(|_| Ok(builder()?.start()));
        let services = services.collect::<anyhow::Result<Vec<_>>>()?;
        self.wait_for_members(subjects::CREATE, count).await;
        Ok(services)
    }

    /// Waits until so many connections subscribe to a subject.
    pub(super) async fn wait_for_members(&self, subject: &str, count: usize) {
        let what = format!("{count} subscriptions to {subject}");
        eventually(DEADLINE, &what, async || {
            let connections = self.nats.connz().await;
            let connections = connections["connections"].as_array()?;
            let members = connections.iter().filter(|connection| {
                let subscriptions = connection["subscriptions_list"].as_array();
                subscriptions.is_some_and(|list| list.contains(&Value::from(subject)))
            });
            (members.count() == count).then_some(())
        })
        .await;
    }

    /// Waits until the server has passed on what this client has published.
    pub(super) async fn settle(&self, client: &Client) -> anyhow::Result<()> {
        // Messages of one client are handled in their order, and nobody takes this kind.
        let answer = client.request("jobs.create.nobody", Bytes::new()).await;
        ensure!(answer.is_err(), "somebody answers on jobs.create.nobody");
        Ok(())
    }
}

/// Measures both sides in turn, several times.
///
/// The side that begins changes from round to round, so that a machine that becomes slower or
/// faster favours neither.
pub(super) async fn in_turn<T>(
    settings: &Settings,
    what: &str,
    mut measure: impl AsyncFnMut(Side) -> anyhow::Result<T>,
) -> anyhow::Result<Vec<Measured<T>>> {
    rounds(settings, what, async |round: u32| {
        if round.is_multiple_of(2) {
            let ours = measure(Side::Ours).await?;
            Ok((Some(measure(Side::Bare).await?), ours))
        } else {
            let bare = measure(Side::Bare).await?;
            Ok((Some(bare), measure(Side::Ours).await?))
        }
    })
    .await
}

/// Measures several times; each round gives what bare does, if that can be said, and ours.
pub(super) async fn rounds<T>(
    settings: &Settings,
    what: &str,
    mut measure: impl AsyncFnMut(u32) -> anyhow::Result<(Option<T>, T)>,
) -> anyhow::Result<Vec<Measured<T>>> {
    let mut measured = Vec::new();
    for round in 1..=settings.rounds() {
        // All of it takes a while, and the table comes in pieces.
        eprintln!("{what}: round {round} of {}", settings.rounds());
        let before = Moment::now()?;
        let (bare, ours) = measure(round).await?;
        let noise = Moment::now()?.noise_since(&before);
        measured.push(Measured { bare, ours, noise });
    }
    Ok(measured)
}

/// What a program tells when it ends: its last line on standard output, as JSON.
pub(super) async fn result<T: DeserializeOwned>(program: &mut Service) -> anyhow::Result<T> {
    let status = program.wait().await;
    let lines = program.stdout();
    ensure!(
        status.success(),
        "a program ended with {status}:\n{}",
        program.stderr().join("\n")
    );
    let last = lines.last().context("a program told nothing")?;
    serde_json::from_str(last).with_context(|| format!("a program told {last:?}"))
}
