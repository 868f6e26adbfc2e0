//! Shows queues and consumers repeatedly.

use std::io::{IsTerminal as _, Write as _};

use anyhow::Context as _;
use bootstrap::Nats;
use client::Queues;
use common::{Fleet, Timestamp};
use serde_json::json;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use crate::command::Top;
use crate::print::{Printer, moment, print};
use crate::{fleet, queues};

/// The most kinds, and the most consumers, in a view that is not on a terminal.
const MOST: usize = 20;

/// The most lines of a view that show neither a kind nor a consumer.
const FRAME: usize = 12;

/// Control sequences of a terminal: move to the top left, and clear the rest of a line, all lines
/// below, or the whole screen.
const HOME: &str = "\x1b[H";
const CLEAR_LINE: &str = "\x1b[K";
const CLEAR_BELOW: &str = "\x1b[J";
const CLEAR_ALL: &str = "\x1b[2J";

pub(crate) async fn run(
    nats: &Nats,
    out: Printer,
    stop: &CancellationToken,
    top: Top,
) -> anyhow::Result<bool> {
    let on_terminal = std::io::stdout().is_terminal() && !out.json;
    let mut ticks = tokio::time::interval(top.interval);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut shown = 0_u64;
    while top.count.is_none_or(|count| shown < count.get()) {
        let view = async {
            ticks.tick().await;
            View::take(nats).await
        };
        // Without a count only Ctrl-C ends it, so that is a success.
        let Some(view) = stop.run_until_cancelled(view).await else {
            break;
        };
        if out.json {
            print(&view.json().to_string())?;
        } else if on_terminal {
            draw(&view, shown == 0)?;
        } else {
            let blank = if shown > 0 { "\n" } else { "" };
            print(&format!("{blank}{}", view.lines(MOST).join("\n")))?;
        }
        shown += 1;
    }
    Ok(true)
}

/// The queues and the fleet at one time, or why they are not known.
struct View {
    at: Timestamp,
    queues: Result<Queues, String>,
    fleet: Result<Fleet, String>,
}

impl View {
    async fn take(nats: &Nats) -> Self {
        let (queues, fleet) = tokio::join!(
            client::queues(&nats.client, 200),
            fleet::ask(&nats.client, None, 1)
        );
        Self {
            at: Timestamp::now(),
            queues: queues.map_err(|error| format!("{error:#}")),
            fleet: fleet.map_err(|error| format!("{error:#}")),
        }
    }

    fn json(&self) -> serde_json::Value {
        let queues = self.queues.as_ref().map(|queues| {
            let all: Vec<_> = queues.queues.iter().map(queues::as_json).collect();
            let mut json = json!({"waiting": queues.waiting, "queues": all});
            if let Some(all) = &queues.all_paused {
                json["all_paused"] = queues::paused_as_json(all);
            }
            json
        });
        json!({
            "at": self.at,
            "queues": queues.unwrap_or_else(|error| json!({"error": error})),
            "fleet": match &self.fleet {
                Ok(fleet) => json!(fleet),
                Err(error) => json!({"error": error}),
            },
        })
    }

    /// The view as lines, with at most `most` kinds and `most` consumers.
    fn lines(&self, most: usize) -> Vec<String> {
        let mut lines = vec![moment(self.at), String::new()];
        match &self.queues {
            Ok(queues) => lines.extend(queues::lines(queues, most)),
            Err(error) => lines.push(format!("queues: {error}")),
        }
        lines.push(String::new());
        match &self.fleet {
            Ok(fleet) => lines.extend(fleet::lines(fleet, most)),
            Err(error) => lines.push(format!("fleet: {error}")),
        }
        lines
    }
}

/// Draws a view over the one before it.
fn draw(view: &View, first: bool) -> anyhow::Result<()> {
    let size = rustix::termios::tcgetwinsize(std::io::stdout()).ok();
    let (rows, columns) = size.map_or((24, 80), |size| (size.ws_row, size.ws_col));
    let screen = screen(view, usize::from(rows), usize::from(columns));
    let clear = if first { CLEAR_ALL } else { "" };
    let mut stdout = std::io::stdout().lock();
    write!(stdout, "{clear}{HOME}{screen}{CLEAR_BELOW}")
        .and_then(|()| stdout.flush())
        .context("cannot write to the terminal")
}

/// A view cut to the size of the terminal.
fn screen(view: &View, rows: usize, columns: usize) -> String {
    let most = (rows.saturating_sub(FRAME) / 2).max(1);
    let lines = view.lines(most);
    // A line in the last row would move all others up.
    let fitting = lines.iter().take(rows.saturating_sub(1));
    fitting.fold(String::new(), |mut screen, line| {
        screen.extend(line.chars().take(columns));
        screen.push_str(CLEAR_LINE);
        screen.push('\n');
        screen
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn view() -> View {
        let queue = |number: usize| client::Queue {
            kind: format!("kind{number}").parse().unwrap(),
            waiting: 1,
            priorities: false,
            waiting_high: 0,
            waiting_low: 0,
            at_least: false,
            running: 0,
            redelivered: 0,
            oldest: None,
            served: Some(true),
            paused: None,
        };
        View {
            at: "2026-01-31T09:30:00Z".parse().unwrap(),
            queues: Ok(Queues {
                queues: (0..100).map(queue).collect(),
                waiting: 100,
                all_paused: None,
            }),
            fleet: Err("no status service is there: jobs.fleet has no responders".to_owned()),
        }
    }

    #[test]
    fn a_view_fits_into_the_terminal_and_shows_why_something_is_missing() {
        let screen = screen(&view(), 24, 30);
        let lines: Vec<_> = screen.lines().collect();
        assert!(lines.len() < 24, "{lines:#?}");
        assert!(
            lines
                .iter()
                .all(|line| line.chars().count() <= 30 + CLEAR_LINE.len())
        );
        assert!(lines.contains(&"and 94 more kinds\u{1b}[K"), "{lines:#?}");
        assert!(
            lines
                .iter()
                .any(|line| line.starts_with("fleet: no status")),
            "{lines:#?}"
        );
    }

    #[test]
    fn a_program_reads_what_is_not_known_as_an_error() {
        let json = view().json();
        assert_eq!(json["queues"]["waiting"], 100);
        assert!(
            json["fleet"]["error"]
                .as_str()
                .unwrap()
                .contains("jobs.fleet")
        );
    }
}
