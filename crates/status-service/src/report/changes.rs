use tracing::{info, warn};

use super::fleet::summary;
use super::rounding::seconds;
use crate::fleet::{Answering, Change, ConsumerEvent, RoundChanges};

/// The most events of one round that are logged one by one, so that lines stay readable when hundreds
/// of consumers change at the same time.
const MAX_EVENTS: usize = 100;

/// Logs what has changed with a round.
pub(crate) fn changes(changes: &RoundChanges) {
    // Warnings first, so that they are not among the events that are left out.
    let mut events: Vec<_> = changes.events.iter().collect();
    events.sort_by_key(|event| !is_warning(&event.change));
    for event in events.iter().take(MAX_EVENTS) {
        log(event);
    }
    if let Some(more @ [first, ..]) = events.get(MAX_EVENTS..) {
        let (more, what) = (more.len(), "more consumer events, not logged one by one");
        if is_warning(&first.change) {
            warn!(more, "{what}");
        } else {
            info!(more, "{what}");
        }
    }
    match changes.answering {
        Some(Answering::NotYet) => info!("no consumer answers on jobs.status yet"),
        Some(Answering::No) => warn!("no consumer answers on jobs.status"),
        Some(Answering::Yes) => info!("consumers answer on jobs.status"),
        Some(Answering::Again) => info!("consumers answer on jobs.status again"),
        None => {}
    }
    // Without answers the line above is enough.
    if changes.summary.consumers > 0 {
        summary(&changes.summary, changes.news);
    }
}

/// Whether the event is logged as a warning.
fn is_warning(change: &Change) -> bool {
    match change {
        Change::Missing { .. } | Change::TooLate | Change::Dropped { .. } => true,
        Change::Restarted {
            in_flight,
            waiting,
            announced,
        } => !announced && (*in_flight, *waiting) != (0, 0),
        Change::Joined { .. } | Change::Back | Change::Left { .. } | Change::Gone { .. } => false,
    }
}

fn log(event: &ConsumerEvent) {
    let (consumer, host) = (&event.id.consumer, &event.host);
    match &event.change {
        Change::Joined { version } => info!(?consumer, ?host, ?version, "consumer joined"),
        Change::Back => info!(?consumer, ?host, "consumer answers again"),
        Change::Left { processed } => info!(?consumer, ?host, processed, "consumer left"),
        Change::Gone { silent, processed } => info!(
            ?consumer,
            ?host,
            silent_s = seconds(*silent),
            processed,
            "consumer is gone, its counts stay"
        ),
        Change::Missing {
            silent,
            in_flight,
            waiting,
        } => warn!(
            ?consumer,
            ?host,
            silent_s = seconds(*silent),
            in_flight,
            waiting,
            "consumer is missing"
        ),
        Change::TooLate => warn!(
            ?consumer,
            ?host,
            "consumer answers too late, a longer --timeout would wait for it"
        ),
        Change::Restarted {
            in_flight, waiting, ..
        } if is_warning(&event.change) => warn!(
            ?consumer,
            ?host,
            in_flight,
            waiting,
            "consumer restarted unexpectedly, with jobs in it"
        ),
        Change::Restarted { .. } => info!(?consumer, ?host, "consumer restarted"),
        Change::Dropped { messages } => warn!(
            ?consumer,
            ?host,
            messages,
            "consumer lost messages: its NATS client had to drop them"
        ),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::fleet::Summary;
    use crate::report::test_lines::{fleet, id, lines};

    #[test]
    fn an_event_is_one_line_and_text_from_messages_is_escaped() {
        let (silent, processed) = (Duration::from_millis(5_012), 3_086);
        let (in_flight, waiting) = (2, 3);
        let version = "0.1.0".to_owned();
        let restarted = |announced| Change::Restarted {
            in_flight,
            waiting,
            announced,
        };
        let all = [
            Change::Joined { version },
            Change::Missing {
                silent,
                in_flight,
                waiting,
            },
            Change::TooLate,
            Change::Back,
            restarted(true),
            restarted(false),
            Change::Left { processed },
            Change::Gone { silent, processed },
            Change::Dropped { messages: 12 },
        ];
        let event = |change| ConsumerEvent {
            id: id("consumer-3f9a1c\n\x1b[31m"),
            host: "worker \" 1".to_owned(),
            change,
        };
        insta::assert_snapshot!(lines(|| all.map(event).iter().for_each(log)));
    }

    #[test]
    fn at_most_a_hundred_events_of_a_round_are_logged_and_warnings_come_first() {
        let logged = |warnings: usize| {
            let change = |n| {
                if n < 200 - warnings {
                    Change::Back
                } else {
                    Change::TooLate
                }
            };
            let event = |n| ConsumerEvent {
                id: id(&format!("consumer-{n}")),
                host: "worker-1".to_owned(),
                change: change(n),
            };
            let changed = RoundChanges {
                events: (0..200).map(event).collect(),
                answering: Some(Answering::No),
                news: true,
                summary: Summary {
                    consumers: 0,
                    ..fleet()
                },
            };
            lines(|| changes(&changed))
        };
        let few: Vec<_> = logged(3).lines().map(str::to_owned).collect();
        assert!(
            few[2].contains("WARN consumer answers too late"),
            "{}",
            few[2]
        );
        assert!(few[3].contains("INFO consumer answers again"), "{}", few[3]);
        insta::assert_snapshot!(few[MAX_EVENTS..].join("\n"));
        let many = logged(101);
        let left_out = many.lines().nth(MAX_EVENTS).unwrap();
        assert!(left_out.contains("WARN more consumer events"), "{left_out}");
    }
}
