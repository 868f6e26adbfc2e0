//! Changes the setting of a kind or of all kinds, for the API and the pages.

use client::kinds::{self, Pause, PauseEnd};
use common::{JobKind, KindSetting};
use tracing::info;

use crate::app::App;
use crate::auth::Operator;
use crate::http::Problem;

/// Pauses a kind, or without one all kinds. The inner error is that of [`kinds::pause`].
///
/// # Errors
/// When NATS is away, or the work ended by a panic.
pub(crate) async fn pause(
    app: &App,
    operator: &Operator,
    kind: Option<&JobKind>,
    end: PauseEnd,
    reason: Option<String>,
) -> Result<anyhow::Result<KindSetting>, Problem> {
    app.check_nats()?;
    let pause = Pause {
        end,
        reason,
        by: Some(operator.name.to_string()),
    };
    let (shared, of) = (app.clone(), kind.cloned());
    let pausing = async move {
        let client = &shared.nats.client;
        Ok(match of {
            Some(kind) => kinds::pause(client, &kind, &pause).await,
            None => kinds::pause_all(client, &pause).await,
        })
    };
    let setting = app.finish(pausing).await?;
    if let Ok(setting) = &setting {
        let until = setting.paused_until;
        if let Some(kind) = kind {
            info!(job.kind = %kind, by = %operator.name, ?until, "paused a kind");
        } else {
            info!(by = %operator.name, ?until, "paused all kinds");
        }
    }
    Ok(setting)
}

/// Resumes a kind, or without one all kinds. The inner error is that of [`kinds::resume`].
///
/// # Errors
/// When NATS is away, or the work ended by a panic.
pub(crate) async fn resume(
    app: &App,
    operator: &Operator,
    kind: Option<&JobKind>,
) -> Result<anyhow::Result<KindSetting>, Problem> {
    app.check_nats()?;
    let (shared, of, by) = (app.clone(), kind.cloned(), operator.name.to_string());
    let resuming = async move {
        let client = &shared.nats.client;
        Ok(match of {
            Some(kind) => kinds::resume(client, &kind, Some(by)).await,
            None => kinds::resume_all(client, Some(by)).await,
        })
    };
    let setting = app.finish(resuming).await?;
    if setting.is_ok() {
        if let Some(kind) = kind {
            info!(job.kind = %kind, by = %operator.name, "resumed a kind");
        } else {
            info!(by = %operator.name, "resumed all kinds");
        }
    }
    Ok(setting)
}

/// Has the priorities of a kind heeded. The inner error is that of [`kinds::heed_priorities`].
///
/// # Errors
/// When NATS is away, or the work ended by a panic.
pub(crate) async fn heed_priorities(
    app: &App,
    operator: &Operator,
    kind: &JobKind,
) -> Result<anyhow::Result<KindSetting>, Problem> {
    app.check_nats()?;
    let (shared, of, by) = (app.clone(), kind.clone(), operator.name.to_string());
    let heeding =
        async move { Ok(kinds::heed_priorities(&shared.nats.client, &of, Some(by)).await) };
    let setting = app.finish(heeding).await?;
    if setting.is_ok() {
        info!(job.kind = %kind, by = %operator.name, "the priorities of a kind are heeded");
    }
    Ok(setting)
}
