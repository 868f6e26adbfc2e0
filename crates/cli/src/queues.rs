//! The queues: how many jobs wait and run, by kind.

use bootstrap::Nats;
use client::{Queue, Queues};
use common::{KindSetting, Priority, Timestamp};
use serde_json::{Value, json};

use crate::kinds::paused as paused_text;
use crate::print::{Printer, duration, note, print, table};

/// The most kinds that are shown.
const MOST: usize = 1000;

pub(crate) async fn run(nats: &Nats, out: Printer) -> anyhow::Result<bool> {
    let queues = client::queues(&nats.client, MOST).await?;
    if out.json {
        // For people, it is in the table.
        if let Some(all) = &queues.all_paused {
            note(&all_paused(all));
        }
        for queue in &queues.queues {
            print(&as_json(queue).to_string())?;
        }
    } else {
        print(&lines(&queues, MOST).join("\n"))?;
    }
    Ok(true)
}

/// The same fields as on HTTP.
pub(crate) fn as_json(queue: &Queue) -> Value {
    let mut all = json!({
        "kind": queue.kind,
        "waiting": queue.waiting,
        "waiting_high": Some(queue.waiting_high).filter(|jobs| *jobs > 0),
        "waiting_low": Some(queue.waiting_low).filter(|jobs| *jobs > 0),
        "running": queue.running,
        "redelivered": queue.redelivered,
        "served": queue.served,
        "oldest": queue.oldest,
        "oldest_age_ms": queue.oldest.map(|at| Timestamp::now().milliseconds_ahead_of(at).max(0)),
        "at_least": queue.at_least.then_some(true),
        "paused": queue.paused.as_ref().map(paused_as_json),
    });
    drop_absent(&mut all);
    all
}

/// How many of the waiting jobs are of high and of low priority.
fn by_priority(queue: &Queue) -> String {
    let count = |jobs: u64, priority| (jobs > 0).then(|| format!("{jobs} {priority}"));
    let high = count(queue.waiting_high, Priority::High);
    let low = count(queue.waiting_low, Priority::Low);
    let both: Vec<_> = high.into_iter().chain(low).collect();
    if both.is_empty() {
        String::new()
    } else {
        format!(" ({})", both.join(", "))
    }
}

pub(crate) fn paused_as_json(setting: &KindSetting) -> Value {
    let mut all = json!({
        "until": setting.paused_until,
        "reason": setting.reason,
        "by": setting.by,
        "since": setting.at,
    });
    drop_absent(&mut all);
    all
}

/// That all kinds are paused, in words.
fn all_paused(setting: &KindSetting) -> String {
    format!("all kinds are {}", paused_text(setting))
}

fn drop_absent(object: &mut Value) {
    if let Value::Object(fields) = object {
        fields.retain(|_, value| !value.is_null());
    }
}

/// A line with the total, and a table of at most `most` queues.
pub(crate) fn lines(queues: &Queues, most: usize) -> Vec<String> {
    let all = &queues.queues;
    let mut lines = vec![format!("{} jobs wait", queues.waiting)];
    lines.extend(queues.all_paused.as_ref().map(all_paused));
    if all.is_empty() {
        return lines;
    }
    let now = Timestamp::now();
    let row = |queue: &Queue| {
        let more = if queue.at_least { "+" } else { "" };
        let oldest = queue.oldest.map(|at| duration(now.since(at)));
        let served = match queue.served {
            Some(true) => "yes",
            Some(false) => "no",
            None if queue.waiting > 0 => "unknown",
            // It is looked up only for kinds with waiting jobs.
            None => "-",
        };
        let paused = queue.paused.as_ref();
        let paused = paused.map_or(String::new(), |setting| {
            format!(", {}", paused_text(setting))
        });
        [
            queue.kind.to_string(),
            format!("{}{more}{}", queue.waiting, by_priority(queue)),
            queue.running.to_string(),
            oldest.unwrap_or_else(|| "-".to_owned()),
            format!("{served}{paused}"),
        ]
    };
    let rows: Vec<_> = all.iter().take(most).map(row).collect();
    let names = ["KIND", "WAITING", "RUNNING", "OLDEST", "SERVED"];
    lines.extend(table(names, &rows));
    if all.len() > most {
        lines.push(format!("and {} more kinds", all.len() - most));
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_queue_says_how_many_wait_and_who_serves_them() {
        let queue = |kind: &str, waiting, served, at_least| Queue {
            kind: kind.parse().unwrap(),
            waiting,
            priorities: waiting > 0,
            waiting_high: u64::from(waiting == 12),
            waiting_low: waiting / 4,
            at_least,
            running: 2,
            redelivered: 0,
            oldest: None,
            served,
            paused: None,
        };
        let queues = Queues {
            queues: vec![
                queue("mail.send", 12, Some(true), false),
                queue("report", 5, Some(false), true),
                queue("c", 0, None, false),
            ],
            waiting: 17,
            all_paused: None,
        };
        assert_eq!(
            lines(&queues, 2),
            [
                "17 jobs wait",
                "KIND       WAITING             RUNNING  OLDEST  SERVED",
                "mail.send  12 (1 high, 3 low)  2        -       yes",
                "report     5+ (1 low)          2        -       no",
                "and 1 more kinds",
            ]
        );
        // For an empty queue this is not looked up. For others there may be no answer in time.
        let served = |waiting| {
            let queues = Queues {
                queues: vec![queue("c", waiting, None, false)],
                waiting,
                all_paused: None,
            };
            lines(&queues, 1)[2].rsplit(' ').next().map(str::to_owned)
        };
        assert_eq!(served(0).as_deref(), Some("-"));
        assert_eq!(served(1).as_deref(), Some("unknown"));
        let mut paused = queue("c", 0, None, false);
        paused.paused = Some(KindSetting {
            paused: true,
            paused_until: Some("2026-01-31T09:30:00Z".parse().unwrap()),
            reason: Some("the\nmove".to_owned()),
            priorities: false,
            by: None,
            at: "2026-01-31T09:00:00Z".parse().unwrap(),
            others: serde_json::Map::new(),
        });
        let expected = json!({
            "until": "2026-01-31T09:30:00Z", "reason": "the\nmove", "since": "2026-01-31T09:00:00Z",
        });
        assert_eq!(as_json(&paused)["paused"], expected);
        let one = Queues {
            queues: vec![paused],
            waiting: 0,
            all_paused: None,
        };
        let line = lines(&one, 1).remove(2);
        let end = "-, paused until 2026-01-31T09:30:00Z: the\\nmove";
        assert!(line.ends_with(end), "{line}");
        let all = Queues {
            all_paused: one.queues[0].paused.clone(),
            ..one
        };
        assert_eq!(
            lines(&all, 1)[1],
            "all kinds are paused until 2026-01-31T09:30:00Z: the\\nmove"
        );
        let unknown = as_json(&queues.queues[2]);
        assert!(unknown.get("served").is_none() && unknown.get("at_least").is_none());
    }
}
