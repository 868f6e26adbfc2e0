//! Changes the setting of a kind, for the API and the pages.

use client::kinds::{self, Pause, PauseEnd};
use common::{JobKind, KindSetting};
use tracing::info;

use crate::app::App;
use crate::auth::Operator;
use crate::http::Problem;

/// Pauses a kind. The inner error is that of [`kinds::pause`].
///
/// # Errors
/// When NATS is away, or the work ended by a panic.
pub(crate) async fn pause(
    app: &App,
    operator: &Operator,
    kind: &JobKind,
    end: PauseEnd,
    reason: Option<String>,
) -> Result<anyhow::Result<KindSetting>, Problem> {
    app.check_nats()?;
    let pause = Pause {
        end,
        reason,
        by: Some(operator.name.to_string()),
    };
    let (shared, of) = (app.clone(), kind.clone());
    let pausing = async move { Ok(kinds::pause(&shared.nats.client, &of, &pause).await) };
    let setting = app.finish(pausing).await?;
    if let Ok(setting) = &setting {
        info!(job.kind = %kind, by = %operator.name, until = ?setting.paused_until, "paused a kind");
    }
    Ok(setting)
}

/// Resumes a kind. The inner error is that of [`kinds::resume`].
///
/// # Errors
/// When NATS is away, or the work ended by a panic.
pub(crate) async fn resume(
    app: &App,
    operator: &Operator,
    kind: &JobKind,
) -> Result<anyhow::Result<KindSetting>, Problem> {
    app.check_nats()?;
    let (shared, of, by) = (app.clone(), kind.clone(), operator.name.to_string());
    let resuming = async move { Ok(kinds::resume(&shared.nats.client, &of, Some(by)).await) };
    let setting = app.finish(resuming).await?;
    if setting.is_ok() {
        info!(job.kind = %kind, by = %operator.name, "resumed a kind");
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
