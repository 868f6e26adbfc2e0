//! The page of the consumers: two hundred at a time, in the order of their names.

use askama::Template;
use axum::extract::{Query, State};
use axum::response::Response;
use common::{Fleet, FleetMember, FleetRequest, Presence};
use serde::Deserialize;

use super::Pages;
use super::frame::{Frame, html};
use super::problem::Problem;
use super::text::{self, Moment};
use crate::fleet::fleet;

/// How many are on a page: as many as a status service tells at a time, so that the first page is
/// the one that the overview has asked for.
const PAGE: u32 = 200;

/// The longest text that is searched for.
const LONGEST_SEARCH: usize = 128;

/// What is asked for.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Asked {
    search: String,
    after: String,
}

#[derive(Template)]
#[template(path = "consumers.html")]
pub(crate) struct ConsumersPage {
    frame: Frame,
    search: String,
    pub(crate) unknown: Option<String>,
    summary: String,
    rows: Vec<Row>,
    first: bool,
    next: Option<String>,
}

struct Row {
    id: String,
    name: String,
    host: String,
    version: String,
    started: Moment,
    state: String,
    tone: &'static str,
    in_flight: u32,
    concurrency: u32,
    load: String,
    load_tone: &'static str,
    waiting: String,
    processed: String,
    failed: String,
    p50: String,
    p90: String,
    p99: String,
    answered: Moment,
    took: String,
}

pub(crate) async fn page(
    State(pages): State<Pages>,
    Query(asked): Query<Asked>,
) -> Result<Response, Problem> {
    let search: String = asked.search.trim().chars().take(LONGEST_SEARCH).collect();
    let some = |text: &str| (!text.is_empty()).then(|| text.to_owned());
    let request = if asked.after.is_empty() && search.is_empty() {
        FleetRequest::default()
    } else {
        FleetRequest {
            after: some(&asked.after),
            limit: Some(PAGE),
            search: some(&search),
        }
    };
    let frame = Frame::new(&pages, "Consumers", "consumers").live(1);
    let mut page = ConsumersPage::of(frame, search, asked.after.is_empty());
    match fleet(&pages.app, &request).await {
        Ok(fleet) => page.show(&fleet),
        Err(error) => page.unknown = Some(error.detail.into_owned()),
    }
    html(&page)
}

impl ConsumersPage {
    pub(crate) fn of(frame: Frame, search: String, first: bool) -> Self {
        Self {
            frame,
            search,
            unknown: None,
            summary: String::new(),
            rows: Vec::new(),
            first,
            next: None,
        }
    }

    pub(crate) fn show(&mut self, fleet: &Fleet) {
        self.summary = format!(
            "{} answer, {} do not; {} of {} slots are busy. In the order of their names, {PAGE} a \
             page. Run times are those of the slowest kind.",
            text::count(fleet.answering),
            text::count(fleet.missing),
            text::count(fleet.in_flight),
            text::count(fleet.concurrency),
        );
        self.rows = fleet.consumers.iter().map(Row::of).collect();
        self.next.clone_from(&fleet.next);
    }
}

impl Row {
    fn of(member: &FleetMember) -> Self {
        let load = text::percent(member.in_flight.into(), member.concurrency.into());
        let (state, tone) = match (member.presence, member.state) {
            (Presence::Missing, _) => ("missing".to_owned(), "bad"),
            (Presence::Present, state) => (state.to_string(), text::consumer_tone(state)),
        };
        let began = member.started_at.to_string();
        Self {
            id: format!("consumer-{}-{began}", member.consumer),
            name: member.consumer.clone(),
            host: member.host.clone(),
            version: member.version.clone(),
            started: Moment::of(member.started_at),
            state,
            tone,
            in_flight: member.in_flight,
            concurrency: member.concurrency,
            load: format!("{:.0}", load.min(100.0)),
            load_tone: if load >= 100.0 { "warn" } else { "" },
            waiting: text::count(member.waiting),
            processed: text::count(member.counts.processed),
            failed: text::count(member.counts.failed),
            p50: text::milliseconds(member.run_ms.p50),
            p90: text::milliseconds(member.run_ms.p90),
            p99: text::milliseconds(member.run_ms.p99),
            answered: Moment::of(member.answered_at),
            took: text::milliseconds(member.took_ms),
        }
    }
}
