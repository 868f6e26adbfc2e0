//! The settings of kinds: pauses a kind or all kinds, resumes them, has the priorities of a kind heeded, and
//! lists the settings.
//!
//! A paused kind accepts jobs, and none of them is started; those that run end normally. This is about
//! durable jobs: core jobs are not affected. Jobs that a consumer received just before the pause are
//! still run. A job whose consumer is lost, or that is given back, waits as well.

use std::time::Duration;

use anyhow::{Context as _, ensure};
use common::{JobKind, KindSetting, Timestamp};
use connection::NatsClient;
use jetstream::kind_settings::Followed;
use jetstream::{ServerClock, Stream, kind_settings};

/// How a kind is paused.
#[derive(Clone, Debug, Default)]
pub struct Pause {
    /// When the pause ends.
    pub end: PauseEnd,
    /// Why, for people; at most [`KindSetting::MAX_REASON`] bytes.
    pub reason: Option<String>,
    /// Who pauses it, for people.
    pub by: Option<String>,
}

/// When a pause ends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PauseEnd {
    /// When somebody resumes the kind.
    #[default]
    Resumed,
    /// By itself after this time, by the clock of the NATS server.
    After(Duration),
    /// By itself at this time.
    At(Timestamp),
}

/// Why a kind cannot be paused as it was asked for; found in an error by [`anyhow::Error::downcast_ref`].
///
/// ```no_run
/// use client::kinds::{Pause, WrongPause, pause};
///
/// # async fn example(jobs: client::Client, wanted: Pause) -> anyhow::Result<()> {
/// let kind = "mail.send".parse()?;
/// if let Err(error) = pause(jobs.nats(), &kind, &wanted).await {
///     match error.downcast_ref::<WrongPause>() {
///         Some(WrongPause::Past(now)) => println!("it is {now} already"),
///         _ => println!("not paused: {error:#}"),
///     }
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WrongPause {
    /// The pause would end in the past.
    #[error("the pause would end in the past: it is {0} now")]
    Past(Timestamp),
    /// The reason is longer than [`KindSetting::MAX_REASON`].
    #[error("the reason has more than {} bytes", KindSetting::MAX_REASON)]
    LongReason,
}

/// Pauses a kind, also one that is paused already, and one that no consumer has served yet. Returns the
/// new setting.
///
/// First the setting is stored, then the server pauses the durable consumers of the kind. If this stops in
/// between, consumers do the rest within some seconds.
///
/// ```no_run
/// use std::time::Duration;
///
/// use client::kinds::{Pause, PauseEnd, pause, resume};
///
/// # async fn example(jobs: client::Client) -> anyhow::Result<()> {
/// let kind = "mail.send".parse()?;
/// let hour = Pause {
///     end: PauseEnd::After(Duration::from_hours(1)),
///     reason: Some("the mail server moves".to_owned()),
///     by: None,
/// };
/// pause(jobs.nats(), &kind, &hour).await?;
/// resume(jobs.nats(), &kind, None).await?;
/// # Ok(())
/// # }
/// ```
///
/// # Errors
/// [`WrongPause`]; also when the server refuses it or does not answer in time.
pub async fn pause(
    client: &NatsClient,
    kind: &JobKind,
    pause: &Pause,
) -> anyhow::Result<KindSetting> {
    change(client, kind, |setting| paused(setting, pause)).await
}

/// Pauses all kinds, also those that no consumer has served yet. A kind that is paused on its own stays so when
/// all kinds are resumed. Returns the new setting of all kinds.
///
/// First the setting is stored, then the server pauses the durable consumers. If this stops in between,
/// consumers do the rest within some seconds.
///
/// ```no_run
/// use client::kinds::{Pause, pause_all, resume_all};
///
/// # async fn example(jobs: client::Client) -> anyhow::Result<()> {
/// pause_all(jobs.nats(), &Pause::default()).await?;
/// resume_all(jobs.nats(), None).await?;
/// # Ok(())
/// # }
/// ```
///
/// # Errors
/// [`WrongPause`]; also when the server refuses it or does not answer in time.
pub async fn pause_all(client: &NatsClient, pause: &Pause) -> anyhow::Result<KindSetting> {
    change_all(client, |setting| paused(setting, pause)).await
}

/// Changes a setting to a pause.
fn paused(setting: &mut KindSetting, pause: &Pause) -> anyhow::Result<()> {
    let reason = pause.reason.as_ref();
    ensure!(
        reason.is_none_or(|reason| reason.len() <= KindSetting::MAX_REASON),
        WrongPause::LongReason
    );
    setting.paused = true;
    setting.paused_until = match pause.end {
        PauseEnd::Resumed => None,
        PauseEnd::After(length) => Some(setting.at.after(length)),
        PauseEnd::At(until) => Some(until),
    };
    ensure!(setting.is_paused(setting.at), WrongPause::Past(setting.at));
    setting.reason.clone_from(&pause.reason);
    setting.by.clone_from(&pause.by);
    Ok(())
}

/// Resumes a kind, also one that is not paused: its waiting jobs are run, unless all kinds are paused. Returns
/// the new setting.
///
/// # Errors
/// When the server refuses it or does not answer in time.
pub async fn resume(
    client: &NatsClient,
    kind: &JobKind,
    by: Option<String>,
) -> anyhow::Result<KindSetting> {
    change(client, kind, |setting| resumed(setting, by.as_deref())).await
}

/// Resumes all kinds but those that are paused on their own: their waiting jobs are run. Returns the new
/// setting of all kinds.
///
/// # Errors
/// When the server refuses it or does not answer in time.
pub async fn resume_all(client: &NatsClient, by: Option<String>) -> anyhow::Result<KindSetting> {
    change_all(client, |setting| resumed(setting, by.as_deref())).await
}

/// Ends the pause of a setting.
#[expect(
    clippy::unnecessary_wraps,
    reason = "a change may fail, and this is one"
)]
fn resumed(setting: &mut KindSetting, by: Option<&str>) -> anyhow::Result<()> {
    setting.paused = false;
    setting.paused_until = None;
    setting.reason = None;
    setting.by = by.map(str::to_owned);
    Ok(())
}

/// Has the priorities of a kind heeded, also of one that no consumer has served yet. Returns the new
/// setting. Consumers follow it within some seconds, and not at all while none serves the kind.
///
/// Consumers also do this by themselves when they get the first job that is not of normal priority. It is
/// not undone: it costs three durable consumers on the server.
///
/// # Errors
/// When the server refuses it or does not answer in time.
pub async fn heed_priorities(
    client: &NatsClient,
    kind: &JobKind,
    by: Option<String>,
) -> anyhow::Result<KindSetting> {
    let clock = ServerClock::default();
    clock.read(client).await?;
    let stored = kind_settings::change(client, kind, clock.now(), |setting| {
        setting.priorities = true;
        setting.by.clone_from(&by);
        Ok(())
    });
    stored
        .await
        .with_context(|| format!("the setting of the kind {kind} is not changed"))
}

/// The setting of a kind; `None` if it has none. The kind is also paused while [all kinds](get_all) are.
///
/// # Errors
/// When the server does not answer in time.
pub async fn get(client: &NatsClient, kind: &JobKind) -> anyhow::Result<Option<KindSetting>> {
    Ok(kind_settings::read(client, kind).await?.setting)
}

/// The setting of all kinds; `None` if there is none.
///
/// # Errors
/// When the server does not answer in time.
pub async fn get_all(client: &NatsClient) -> anyhow::Result<Option<KindSetting>> {
    Ok(kind_settings::read_of_all(client).await?.setting)
}

/// The settings of the kinds that have one of their own, in the order of their names.
///
/// # Errors
/// When the server does not answer in time.
pub async fn list(client: &NatsClient) -> anyhow::Result<Vec<(JobKind, KindSetting)>> {
    let settings = kind_settings::all(client).await?;
    Ok(settings.kinds.into_iter().collect())
}

/// Changes the setting of a kind, then the durable consumers.
async fn change(
    client: &NatsClient,
    kind: &JobKind,
    change: impl Fn(&mut KindSetting) -> anyhow::Result<()>,
) -> anyhow::Result<KindSetting> {
    let clock = ServerClock::default();
    clock.read(client).await?;
    let setting = kind_settings::change(client, kind, clock.now(), change)
        .await
        .with_context(|| format!("the setting of the kind {kind} is not changed"))?;
    let all = kind_settings::read_of_all(client).await?.setting;
    let own = Some(setting.clone());
    let followed = Followed { own, all };
    let until = followed.pause_until(clock.now());
    for stream in [Stream::Jobs, Stream::Later] {
        for consumer in kind_settings::paused_with(stream, kind, &followed) {
            let paused = kind_settings::pause(client, stream, &consumer, until).await;
            paused.with_context(|| {
                format!(
                    "the setting of the kind {kind} is stored, but the server does not follow it yet; \
                     consumers that serve the kind see to that within some seconds"
                )
            })?;
        }
    }
    Ok(setting)
}

/// Changes the setting of all kinds, then the durable consumers.
async fn change_all(
    client: &NatsClient,
    change: impl Fn(&mut KindSetting) -> anyhow::Result<()>,
) -> anyhow::Result<KindSetting> {
    let clock = ServerClock::default();
    clock.read(client).await?;
    let setting = kind_settings::change_of_all(client, clock.now(), change)
        .await
        .context("the setting of all kinds is not changed")?;
    let enforced = kind_settings::enforce_all(client, clock.now()).await;
    enforced.context(
        "the setting of all kinds is stored, but the server does not follow it yet; consumers see to \
         that within some seconds",
    )?;
    Ok(setting)
}
