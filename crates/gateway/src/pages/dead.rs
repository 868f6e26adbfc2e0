//! The page of the dead letters: grouped by error, and fifty at a time, the newest first.

use askama::Template;
use axum::extract::{Query, State};
use axum::response::Response;
use client::Which;
use client::dead_letters::{self, Cursor};
use common::{DeadReason, JobId, JobKind};
use serde::{Deserialize, Serialize};

use super::Pages;
use super::bulk::Progress;
use super::frame::{Done, Frame, html};
use super::jobs::Choice;
use super::problem::Problem;
use super::text::{self, Moment};

/// How many are on a page.
const PAGE: usize = 50;

/// The most groups on the page.
const MOST_GROUPS: usize = 50;

/// How much of an error is in a list.
const ERROR_LENGTH: usize = 160;

/// What stands where no message is known.
const NO_ERROR: &str = "no error is known";

/// Which letters are meant, as it stands in addresses and forms.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Chosen {
    pub(crate) kind: String,
    pub(crate) reason: String,
    /// The message of a group, to the letter; it may be empty, and `None` means any.
    pub(crate) error: Option<String>,
}

/// What is asked for beside it.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Asked {
    cursor: String,
    /// What a person has typed to find a message; nothing if it is empty.
    message: String,
    done: Option<Done>,
}

#[derive(Template)]
#[template(path = "dead.html")]
struct DeadPage {
    frame: Frame,
    which: Chosen,
    reasons: Vec<Choice>,
    filtered: bool,
    wrong: Option<String>,
    bulk: Option<Progress>,
    groups: Vec<Group>,
    groups_caption: String,
    rows: Vec<Row>,
    /// The filter, as it stands in addresses.
    query: String,
    first: bool,
    next: Option<String>,
}

struct Group {
    message: String,
    code: String,
    kind: String,
    reason: &'static str,
    count: String,
    newest: Moment,
    oldest: Moment,
    query: String,
}

struct Row {
    id: JobId,
    kind: String,
    reason: &'static str,
    at: Moment,
    attempts: usize,
    error: Option<String>,
}

impl Chosen {
    /// What the lane is asked for, or which field is wrong.
    pub(crate) fn which(&self) -> Result<Which, String> {
        let (kind, reason) = (self.kind.trim(), self.reason.trim());
        let kind = match kind {
            "" => None,
            kind => Some(kind.parse::<JobKind>().map_err(|error| error.to_string())?),
        };
        let reason = match reason {
            "" => None,
            word => Some(
                DeadReason::ALL
                    .into_iter()
                    .find(|reason| reason.as_str() == word)
                    .ok_or_else(|| format!("invalid reason {:?}", text::cut(word, 64)))?,
            ),
        };
        Ok(Which {
            kind,
            reason,
            error: self.error.clone(),
        })
    }

    /// Whether these are some of the letters, or all of them.
    pub(crate) fn is_all(&self) -> bool {
        let blank = |text: &str| text.trim().is_empty();
        blank(&self.kind) && blank(&self.reason) && self.error.is_none()
    }

    /// The message, for a field.
    pub(crate) fn message(&self) -> &str {
        self.error.as_deref().unwrap_or_default()
    }

    /// The message in words, if only one is meant.
    pub(crate) fn shown_message(&self) -> Option<&str> {
        let error = self.error.as_deref();
        error.map(|error| if error.is_empty() { NO_ERROR } else { error })
    }

    /// The reason in words.
    pub(crate) fn reason(&self) -> &'static str {
        let found = DeadReason::ALL
            .into_iter()
            .find(|reason| reason.as_str() == self.reason);
        found.map_or("", text::reason)
    }

    pub(crate) fn query(&self) -> String {
        // Three texts can always be written so.
        serde_urlencoded::to_string(self).unwrap_or_default()
    }
}

pub(crate) async fn page(
    State(pages): State<Pages>,
    Query(mut chosen): Query<Chosen>,
    Query(asked): Query<Asked>,
) -> Result<Response, Problem> {
    if !asked.message.is_empty() {
        chosen.error = Some(asked.message);
    }
    pages.app.check_nats()?;
    let client = &pages.app.nats.client;
    let cursor = match asked.cursor.as_str() {
        "" => None,
        cursor => Some(cursor.parse::<Cursor>().map_err(|_| {
            Problem::wrong("The address of this page is damaged; begin with the newest letters.")
        })?),
    };
    let first = cursor.is_none();
    let which = chosen.which();
    let filtered = !chosen.is_all();
    let mut page = DeadPage {
        // Letters have to be read to group them, so this is done less often.
        frame: Frame::new(&pages, "Dead letters", "dead")
            .live(if first && !filtered { 3 } else { 0 })
            .after(asked.done),
        query: chosen.query(),
        reasons: DeadReason::ALL
            .map(|reason| Choice {
                value: reason.as_str(),
                label: text::reason(reason),
                chosen: reason.as_str() == chosen.reason,
            })
            .into(),
        filtered,
        wrong: which.as_ref().err().map(|error| format!("{error}.")),
        which: chosen,
        bulk: pages.bulk.progress(),
        groups: Vec::new(),
        groups_caption: String::new(),
        rows: Vec::new(),
        first,
        next: None,
    };
    if let Ok(which) = which {
        let found = dead_letters::newest(client, &which, cursor, PAGE).await;
        let found = found.map_err(Problem::away)?;
        page.rows = found.letters.iter().map(Row::of).collect();
        page.next = found.next.map(|next| next.to_string());
        let counted = pages.history.borrow().dead;
        if first && !filtered && counted.is_some_and(|dead| (dead == 0) != page.rows.is_empty()) {
            pages.shown.doubt_dead().await;
        }
        if first && !filtered && !page.rows.is_empty() {
            let found = pages.groups.of_all(&pages.app).await?;
            let looked_at = text::count(found.looked_at);
            page.groups_caption = match (found.complete, found.groups.len()) {
                (true, ..=MOST_GROUPS) => format!("All {looked_at} letters"),
                (true, _) => format!("The {MOST_GROUPS} largest groups of all {looked_at} letters"),
                (false, _) => {
                    format!("The newest {looked_at} letters, and at most {MOST_GROUPS} groups")
                }
            };
            let largest = found.groups.iter().take(MOST_GROUPS);
            page.groups = largest.map(Group::of).collect();
        }
    }
    html(&page)
}

impl Group {
    fn of(group: &dead_letters::Group) -> Self {
        let chosen = Chosen {
            kind: group.kind.to_string(),
            reason: group.reason.map_or("", DeadReason::as_str).to_owned(),
            error: Some(group.message.clone()),
        };
        Self {
            message: if group.message.is_empty() {
                NO_ERROR.to_owned()
            } else {
                group.message.clone()
            },
            code: group.code.clone(),
            query: chosen.query(),
            kind: chosen.kind,
            reason: group.reason.map_or("-", text::reason),
            count: text::count(group.count),
            newest: Moment::of(group.newest),
            oldest: Moment::of(group.oldest),
        }
    }
}

impl Row {
    fn of(letter: &dead_letters::Summary) -> Self {
        Self {
            id: letter.id,
            kind: letter.kind.to_string(),
            reason: letter.reason.map_or("-", text::reason),
            at: Moment::of(letter.at),
            attempts: letter.attempts,
            error: letter.error.as_ref().map(|error| {
                text::cut(&format!("{}: {}", error.code, error.message), ERROR_LENGTH)
            }),
        }
    }
}
