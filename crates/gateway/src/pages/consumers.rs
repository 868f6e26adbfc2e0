//! The page of the consumers: two hundred on a page, in the order of their names.

use askama::Template;
use axum::extract::{Query, State};
use axum::response::Response;
use common::{Fleet, FleetMember, FleetRequest, Presence};
use serde::Deserialize;

use super::layout::Layout;
use super::problem::Problem;
use super::render::html;
use super::state::Pages;
use super::widgets::{Moment, text};

/// How many consumers are on a page: as many as on a page of the status service, so that the first page
/// can share the cached answer.
const PAGE_SIZE: u32 = 200;

/// The most characters of a search.
const MAX_SEARCH: usize = 128;

/// The parameters of the page.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Asked {
    search: String,
    after: String,
}

#[derive(Template)]
#[template(path = "consumers.html")]
pub(crate) struct ConsumersPage {
    layout: Layout,
    search: String,
    /// Why the consumers are not known; `None` if they are.
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
    let search: String = asked.search.trim().chars().take(MAX_SEARCH).collect();
    let some = |text: &str| (!text.is_empty()).then(|| text.to_owned());
    let request = if asked.after.is_empty() && search.is_empty() {
        FleetRequest::default()
    } else {
        FleetRequest {
            after: some(&asked.after),
            limit: Some(PAGE_SIZE),
            search: some(&search),
        }
    };
    let layout = Layout::new(&pages, "Consumers", "consumers").live(1);
    let mut page = ConsumersPage::of(layout, search, asked.after.is_empty());
    match pages.app.fleet(&request).await {
        Ok(fleet) => page.show(&fleet),
        Err(error) => page.unknown = Some(error.detail.into_owned()),
    }
    html(&page)
}

impl ConsumersPage {
    pub(crate) fn of(layout: Layout, search: String, first: bool) -> Self {
        Self {
            layout,
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
            "{} consumers answer, {} are missing; {} of {} slots are busy. In the order of their \
             names, {PAGE_SIZE} on a page. Run times are those of the slowest kind.",
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
        let started = member.started_at.to_string();
        Self {
            id: format!("consumer-{}-{started}", member.consumer),
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
