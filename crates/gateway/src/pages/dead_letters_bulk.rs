//! The forms that replay or discard many dead letters in the background.

use std::num::NonZeroU32;

use axum::Extension;
use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::{IntoResponse as _, Redirect, Response};
use client::Which;
use client::dead_letters::Action;
use serde::Deserialize;
use tracing::info;

use super::bulk_slot::Occupied;
use super::dead_letter_filter::DeadLetterFilter;
use super::form::Form;
use super::problem::Problem;
use super::state::Pages;
use crate::auth::{Operator, Scope};
use crate::bulk::{self, BulkWork};

/// Which dead letters, and how many a second. A misspelt field is refused: it must not widen the
/// choice.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct BulkForm {
    kind: String,
    reason: String,
    error: Option<String>,
    /// All dead letters. Needed if no other field says which.
    all: bool,
    /// The most dead letters a second; `None` is no bound.
    rate: Option<NonZeroU32>,
}

impl BulkForm {
    fn which(self) -> Result<(Which, Option<NonZeroU32>), Problem> {
        let filter = DeadLetterFilter {
            kind: self.kind,
            reason: self.reason,
            // Browsers send line breaks in forms as CR LF.
            error: self.error.map(|error| error.replace("\r\n", "\n")),
        };
        if filter.is_all() != self.all {
            return Err(Problem::wrong(
                "The form has to say which dead letters, or that it means all of them.",
            ));
        }
        bulk::check_rate(self.rate).map_err(|text| Problem::wrong(format!("{text}.")))?;
        let which = filter.which().map_err(Problem::wrong)?;
        Ok((which, self.rate))
    }
}

pub(crate) async fn replay(
    State(pages): State<Pages>,
    Extension(operator): Extension<Operator>,
    headers: HeaderMap,
    Form(form): Form<BulkForm>,
) -> Result<Response, Problem> {
    if form.rate.is_none() {
        return Err(Problem::wrong(
            "The form has to say how many dead letters a second.",
        ));
    }
    begin(&pages, Action::Replay, form, operator, &headers)
}

pub(crate) async fn discard(
    State(pages): State<Pages>,
    Extension(operator): Extension<Operator>,
    headers: HeaderMap,
    Form(form): Form<BulkForm>,
) -> Result<Response, Problem> {
    begin(&pages, Action::Discard, form, operator, &headers)
}

fn begin(
    pages: &Pages,
    action: Action,
    form: BulkForm,
    operator: Operator,
    headers: &HeaderMap,
) -> Result<Response, Problem> {
    let (which, rate) = form.which()?;
    pages.app.check_nats()?;
    let work = BulkWork {
        action,
        which,
        rate,
        by: operator.name,
    };
    let grant = pages.app.access.grant(headers, Scope::Operate)?;
    let begun = pages.bulk.begin(&pages.app, work, grant);
    begun.map_err(|Occupied| {
        Problem::busy(
            "Dead letters are being replayed or discarded already. Wait until that ends, or stop it.",
        )
    })?;
    Ok(Redirect::to("/dead").into_response())
}

/// Stops the bulk work that runs.
pub(crate) async fn stop(
    State(pages): State<Pages>,
    Extension(operator): Extension<Operator>,
) -> Redirect {
    pages.bulk.stop();
    info!(by = %operator.name, "asked to stop the bulk work on dead letters");
    Redirect::to("/dead")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn which(form: &str) -> Result<(Which, Option<NonZeroU32>), ()> {
        let form: BulkForm = serde_urlencoded::from_str(form).map_err(drop)?;
        form.which().map_err(drop)
    }

    #[test]
    fn an_empty_or_misspelt_form_does_not_mean_all_dead_letters() {
        for form in [
            "",
            "kind=&reason=",
            "knd=sleep",
            "all=false",
            "all=1",
            "all=true&kind=sleep",
            "all=true&error=",
            "kind=a..b",
            "reason=because",
            "all=true&rate=0",
            "all=true&rate=100001",
            "all=true&rate=4294967295",
        ] {
            assert!(which(form).is_err(), "{form}");
        }
        let (all, rate) = which("all=true&rate=100000").unwrap();
        assert!(all.kind.is_none() && all.reason.is_none() && all.error.is_none());
        assert_eq!(rate.map(NonZeroU32::get), Some(100_000));
        assert!(which("kind=sleep").unwrap().0.kind.is_some());
    }

    #[test]
    fn a_message_is_matched_exactly_also_if_it_is_empty() {
        let error = |form: &str| which(form).unwrap().0.error;
        assert_eq!(error("error=").as_deref(), Some(""));
        assert_eq!(error("error=+a%0D%0Ab+").as_deref(), Some(" a\nb "));
        assert_eq!(error("kind=sleep&reason="), None);
    }
}
