use std::time::Duration;

use common::{ConsumerState, Counts, Presence, RunTime};

use super::*;

fn timestamp() -> Timestamp {
    "2026-01-31T09:30:00Z".parse().unwrap()
}

fn member(consumer: String, host: &str) -> FleetMember {
    FleetMember {
        consumer,
        host: host.to_owned(),
        version: "0.1.0".to_owned(),
        started_at: timestamp(),
        presence: Presence::Present,
        state: ConsumerState::Running,
        concurrency: 4,
        in_flight: 2,
        waiting: 0,
        counts: Counts::default(),
        run_ms: RunTime::default(),
        answered_at: timestamp(),
        took_ms: 1.5,
    }
}

fn fleet(consumers: Vec<FleetMember>) -> Fleet {
    let interval = Duration::from_secs(5);
    Fleet {
        asked_at: Some(timestamp()),
        answering: consumers.len() as u64,
        consumers,
        ..Fleet::new("status-1".to_owned(), timestamp(), interval)
    }
}

fn many(count: usize) -> Fleet {
    let names = (0..count).map(|number| format!("consumer-{number:05}"));
    fleet(names.map(|name| member(name, "worker-1")).collect())
}

fn ask(fleet: &Fleet, request: &FleetRequest, max_payload: usize) -> Fleet {
    let question = serde_json::to_vec(request).unwrap();
    let answer = page(fleet, &question, max_payload).unwrap();
    assert!(answer.len() <= max_payload);
    serde_json::from_slice(&answer).unwrap()
}

/// The names on all pages, and the lengths of the pages.
fn all(fleet: &Fleet, mut request: FleetRequest, max_payload: usize) -> (Vec<String>, Vec<usize>) {
    let (mut names, mut lengths) = (Vec::new(), Vec::new());
    loop {
        let page = ask(fleet, &request, max_payload);
        assert_eq!(page.answering, fleet.answering, "each page has the totals");
        lengths.push(page.consumers.len());
        names.extend(page.consumers.into_iter().map(|member| member.consumer));
        if page.next.is_none() {
            return (names, lengths);
        }
        request.after = page.next;
    }
}

#[test]
fn pages_hold_all_consumers_whatever_fits_into_a_message() {
    for (count, limit, max_payload, lengths) in [
        (
            1203,
            None,
            1 << 20,
            Some(vec![200, 200, 200, 200, 200, 200, 3]),
        ),
        (1203, Some(10_000), 1 << 20, Some(vec![500, 500, 203])),
        (1203, Some(401), 1 << 20, Some(vec![401, 401, 401])),
        (103, Some(500), 20_000, None),
        (103, Some(500), 1500, None),
    ] {
        let fleet = many(count);
        let consumers = fleet.consumers.iter();
        let expected: Vec<_> = consumers.map(|it| it.consumer.clone()).collect();
        let request = FleetRequest {
            limit,
            ..FleetRequest::default()
        };
        let (names, page_lengths) = all(&fleet, request, max_payload);
        assert!(names == expected, "{limit:?} in {max_payload}");
        if let Some(lengths) = lengths {
            assert_eq!(page_lengths, lengths);
        }
    }
    let (names, pages) = all(&many(0), FleetRequest::default(), 1 << 20);
    assert!(names.is_empty() && pages == [0]);
}

#[test]
fn instances_of_one_consumer_differ_and_any_name_can_be_paged_over() {
    let mut consumers = Vec::new();
    for name in ["a", "a b", "ä \"\\ 日", "z z z"] {
        for second in 0..3 {
            let mut instance = member(name.to_owned(), "worker-1");
            instance.started_at = timestamp().shifted(second * 1000);
            consumers.push(instance);
        }
    }
    consumers.sort_by(|a, b| (&a.consumer, a.started_at).cmp(&(&b.consumer, b.started_at)));
    let request = FleetRequest {
        limit: Some(1),
        ..FleetRequest::default()
    };
    let (names, lengths) = all(&fleet(consumers), request, 1 << 20);
    assert_eq!(lengths, [1; 12]);
    assert_eq!(names.iter().filter(|name| *name == "a b").count(), 3);
}

#[test]
fn consumers_are_found_by_a_part_of_their_name_or_host() {
    let consumers = vec![
        member("alpha".to_owned(), "host-1"),
        member("beta".to_owned(), "HOST-2"),
        member("gamma".to_owned(), "other"),
    ];
    let fleet = fleet(consumers);
    for (search, expected) in [
        ("host", vec!["alpha", "beta"]),
        ("GAMMA", vec!["gamma"]),
        ("", vec!["alpha", "beta", "gamma"]),
        ("nobody", vec![]),
    ] {
        let request = FleetRequest {
            search: Some(search.to_owned()),
            ..FleetRequest::default()
        };
        assert_eq!(all(&fleet, request, 1 << 20).0, expected, "{search:?}");
    }
}

#[test]
fn an_invalid_request_is_refused_in_one_line() {
    let fleet = many(3);
    let long = format!("{{\"search\":\"{}\"}}", "x".repeat(257));
    let huge = " ".repeat(4097);
    for (question, expected) in [
        ("[]", "not a question"),
        ("{", "not a question"),
        ("{\"limit\":\"1\"}", "not a question"),
        ("{\"limit\":0}", "`limit` is 0"),
        ("{\"after\":\"x\"}", "`after` is not"),
        ("{\"after\":\"x y\"}", "`after` is not"),
        (
            "{\"a\\r\\nNats-Service-Error-Code: 200\":1}",
            "unknown field",
        ),
        (long.as_str(), "`search` is longer"),
        (huge.as_str(), "longer than 4096"),
    ] {
        let error = page(&fleet, question.as_bytes(), 1 << 20).unwrap_err();
        assert_eq!(error.code, 400, "{question}");
        assert!(error.status.contains(expected), "{}", error.status);
        assert!(!error.status.contains(char::is_control), "{}", error.status);
    }
    let error = page(&fleet, b"", 100).unwrap_err();
    assert_eq!(error.code, 500);
}

proptest::proptest! {
    #[test]
    fn arbitrary_requests_never_panic(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..200)) {
        let _ = page(&many(2), &bytes, 1 << 20);
    }
}
