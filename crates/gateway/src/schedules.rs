//! Changes schedules, for the API and the pages.

use client::schedules::{self, Expected, ScheduleName, ScheduleRecord};
use common::JobId;
use tracing::info;

use crate::app::App;
use crate::auth::Operator;
use crate::http::Problem;

/// Pauses or resumes a schedule.
///
/// # Errors
/// When NATS is away or refuses it, or there is no such schedule.
pub(crate) async fn set_paused(
    app: &App,
    operator: &Operator,
    name: &ScheduleName,
    paused: bool,
) -> Result<ScheduleRecord, Problem> {
    app.check_nats()?;
    let (shared, of, by) = (app.clone(), name.clone(), operator.name.to_string());
    let changing = async move {
        let client = &shared.nats.client;
        Ok(if paused {
            schedules::pause(client, &of, Some(by)).await?
        } else {
            schedules::resume(client, &of, Some(by)).await?
        })
    };
    let record = app.finish(changing).await?;
    let did = if paused { "paused" } else { "resumed" };
    info!(schedule = %name, by = %operator.name, "{did} a schedule");
    Ok(record)
}

/// Submits a job of a schedule, and returns its id.
///
/// # Errors
/// When NATS is away or refuses it, or there is no such schedule.
pub(crate) async fn run_now(
    app: &App,
    operator: &Operator,
    name: &ScheduleName,
) -> Result<JobId, Problem> {
    app.check_nats()?;
    app.check_safety().await?;
    let (shared, of) = (app.clone(), name.clone());
    let running = async move { Ok(schedules::run_now(&shared.nats.client, &of).await?) };
    let id = app.finish(running).await?;
    info!(schedule = %name, by = %operator.name, job.id = %id, "ran a schedule by hand");
    Ok(id)
}

/// Deletes a schedule.
///
/// # Errors
/// When NATS is away or refuses it, or there is no such schedule.
pub(crate) async fn delete(
    app: &App,
    operator: &Operator,
    name: &ScheduleName,
    expected: Expected,
) -> Result<(), Problem> {
    app.check_nats()?;
    let (shared, of) = (app.clone(), name.clone());
    let deleting = async move { Ok(schedules::delete(&shared.nats.client, &of, expected).await?) };
    if !app.finish(deleting).await? {
        return Err(Problem::from(&schedules::Refused::Unknown(name.clone())));
    }
    info!(schedule = %name, by = %operator.name, "deleted a schedule");
    Ok(())
}
