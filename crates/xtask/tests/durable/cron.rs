//! Each tick of a recurring schedule has one job, whatever breaks meanwhile.

use std::collections::BTreeSet;
use std::time::Duration;

use client::NatsClient;
use client::schedules::{self, Expected, Schedule, ScheduleName, ScheduleRecord};
use common::{JobId, JobState, PendingJob, Tick, Timestamp, subjects};
use schedule::Timetable;
use serde_json::{Value, json};
use test_support::{DEADLINE, NatsServer, Service, eventually};

use crate::fixture::stop;
use crate::lane::{ACK_WAIT, Lane};

/// Within this time a consumer finds a tick that nobody has told it of.
const SEEN: Duration = Duration::from_secs(75);

fn name() -> ScheduleName {
    "tested".parse().unwrap()
}

fn schedule(text: &Value) -> Schedule {
    Schedule::decode(text.to_string().as_bytes()).unwrap()
}

/// A schedule on a lane.
struct Tested<'a> {
    lane: &'a Lane,
    client: NatsClient,
    name: ScheduleName,
}

impl<'a> Tested<'a> {
    async fn put(lane: &'a Lane, text: Value) -> Self {
        let tested = Self {
            lane,
            client: lane.operator.clone().into(),
            name: name(),
        };
        tested.change(text).await;
        tested
    }

    async fn change(&self, text: Value) -> ScheduleRecord {
        let wanted = schedule(&text);
        let put = schedules::put(&self.client, &self.name, &wanted, Expected::Anything, None);
        put.await.unwrap()
    }

    async fn record(&self) -> ScheduleRecord {
        let found = schedules::get(&self.client, &self.name).await.unwrap();
        found.expect("the schedule is there")
    }

    /// Stores the schedule as a consumer, or a test, leaves it.
    async fn store(&self, record: &ScheduleRecord) {
        let stored = jetstream::schedules::read(&self.client, &self.name).await;
        let sequence = stored.unwrap().map_or(0, |stored| stored.sequence);
        let message = jetstream::schedules::message(record, sequence);
        jetstream::batch::store(&self.client, vec![message])
            .await
            .unwrap();
    }

    async fn record_that(
        &self,
        deadline: Duration,
        what: &str,
        wanted: impl Fn(&ScheduleRecord) -> bool,
    ) -> ScheduleRecord {
        eventually(deadline, what, async || {
            Some(self.record().await).filter(&wanted)
        })
        .await
    }

    /// Waits until nothing is left to do but to wait for the next tick.
    async fn settles(&self) -> ScheduleRecord {
        eventually(DEADLINE, "the timer of the next tick", async || {
            let record = self.record().await;
            let timer = self
                .lane
                .last("JOBS_LATER", &subjects::next_tick(&self.name))
                .await;
            let timer = timer.and_then(|timer| {
                let timer = timer.headers?;
                jetstream::headers::scheduled_time(&timer)
            });
            (record.pending.is_empty() && timer.is_some() && timer == record.next).then_some(record)
        })
        .await
    }

    /// The server delivers a tick again, because the consumer that had it was lost.
    async fn tick_again(&self) {
        self.lane
            .admin
            .publish(subjects::due_tick(&self.name), "".into())
            .await
            .unwrap();
    }

    fn id_of(&self, schedule: &Schedule, tick: Timestamp) -> JobId {
        schedule::pending_job(&self.name, schedule, tick).id
    }

    /// Checks that each of these ticks has had its job, and that there were no other jobs.
    async fn all_ran(&self, schedule: &Schedule, ticks: &[Timestamp]) {
        let ids: Vec<_> = ticks
            .iter()
            .map(|tick| self.id_of(schedule, *tick))
            .collect();
        let ended = self.lane.all_end(&ids, 2 * DEADLINE).await;
        assert_eq!(ended.len(), ids.len());
        let ran: BTreeSet<_> = self.lane.ledger().jobs().into_keys().collect();
        assert_eq!(ran, ids.into_iter().collect(), "other jobs have run");
    }
}

async fn fleet(lane: &Lane) -> [Service; 3] {
    [
        lane.consumer("one", &[]).await,
        lane.consumer("two", &[]).await,
        lane.consumer("three", &[]).await,
    ]
}

#[tokio::test]
async fn each_tick_has_one_job_while_consumers_are_killed_and_stopped_and_the_schedule_is_edited() {
    let lane = Lane::start().await;
    let mut consumers = fleet(&lane).await;
    let text = |note: u32| json!({"every": "1s", "catch_up": {"all": 100}, "note": note.to_string(), "job": {"kind": "note"}});
    let tested = Tested::put(&lane, text(0)).await;
    let first = tested.record().await.next.unwrap();
    lane.runs(2).await;
    // A consumer that awakes after others have taken its ticks.
    consumers[0].pause();
    for round in 1..=4 {
        let begun = lane.ledger().0.len();
        for edit in 0..5 {
            tested.change(text(round * 10 + edit)).await;
        }
        lane.runs(begun + 2).await;
        consumers[2].kill().await;
        consumers[2] = lane.consumer("three", &[]).await;
    }
    let stopped = Timestamp::now();
    tested
        .record_that(2 * DEADLINE, "ticks after the ack wait", |record| {
            record
                .last
                .is_some_and(|last| last.tick >= stopped.after(ACK_WAIT))
        })
        .await;
    consumers[0].resume();
    let begun = lane.ledger().0.len();
    lane.runs(begun + 3).await;
    schedules::pause(&tested.client, &tested.name, None)
        .await
        .unwrap();
    let last = tested
        .record_that(DEADLINE, "no more ticks", |record| {
            record.next.is_none() && record.pending.is_empty()
        })
        .await;
    let (end, schedule) = (last.last.unwrap().tick, last.schedule);
    let timetable = Timetable::of(&schedule).unwrap();
    let mut ticks = vec![first];
    ticks.extend(
        timetable
            .upcoming(first, 1000)
            .into_iter()
            .take_while(|tick| *tick <= end),
    );
    assert!(ticks.len() > 20, "{ticks:?}");
    tested.all_ran(&schedule, &ticks).await;
    assert_eq!(last.skipped, 0);
}

#[tokio::test]
async fn a_step_that_was_done_before_the_consumer_was_lost_is_not_done_twice() {
    let lane = Lane::start().await;
    let mut consumer = lane.consumer("first", &[]).await;
    let hourly = json!({"every": "1h", "catch_up": "skip", "job": {"kind": "note"}});
    let tested = Tested::put(&lane, hourly).await;
    let fresh = tested.settles().await;
    let schedule = fresh.schedule.clone();
    let (now, future) = (Timestamp::now(), fresh.next.unwrap());
    let mut expected = BTreeSet::new();
    for (step, second) in ["decide", "submit", "note", "timer"].into_iter().zip(1..) {
        stop(&mut consumer).await;
        let tick = now.before(Duration::from_secs(second)).unwrap();
        let id = tested.id_of(&schedule, tick);
        let decided = ScheduleRecord {
            changed: false,
            pending: vec![PendingJob {
                id,
                tick,
                run_at: None,
                replaces: None,
            }],
            last: Some(Tick { tick, id }),
            next: Some(future),
            ..fresh.clone()
        };
        let noted = ScheduleRecord {
            pending: vec![],
            ..decided.clone()
        };
        let timer = subjects::next_tick(&tested.name);
        let purge = json!({"filter": timer}).to_string();
        lane.admin
            .request("$JS.API.STREAM.PURGE.JOBS_LATER", purge.into())
            .await
            .unwrap();
        // What a consumer that was lost before this step leaves.
        match step {
            "decide" => {
                tested
                    .store(&ScheduleRecord {
                        next: Some(tick),
                        pending: vec![],
                        last: None,
                        ..decided
                    })
                    .await;
            }
            "submit" => tested.store(&decided).await,
            "note" => {
                tested.store(&decided).await;
                let job = schedule.job.job(id, tick, None);
                let job: Value = serde_json::from_slice(&job).unwrap();
                lane.submit_as(id, job).await.unwrap();
            }
            _ => {
                let job = schedule.job.job(id, tick, None);
                let job: Value = serde_json::from_slice(&job).unwrap();
                lane.submit_as(id, job).await.unwrap();
                tested.store(&noted).await;
            }
        }
        tested.tick_again().await;
        consumer = lane.consumer(step, &[]).await;
        let record = tested.settles().await;
        assert_eq!(
            (record.next, record.last.unwrap().id),
            (Some(future), id),
            "{step}"
        );
        lane.becomes(id, JobState::Succeeded).await;
        expected.insert(id);
        // Again, with nothing left to do.
        let before = jetstream::schedules::read(&tested.client, &tested.name)
            .await
            .unwrap();
        tested.tick_again().await;
        ticks_are_taken(&lane).await;
        let after = jetstream::schedules::read(&tested.client, &tested.name)
            .await
            .unwrap();
        assert_eq!(before.unwrap().sequence, after.unwrap().sequence, "{step}");
    }
    let ran = lane.ledger().jobs();
    assert_eq!(ran.keys().copied().collect::<BTreeSet<_>>(), expected);
    assert!(ran.values().all(|runs| *runs == 1), "{ran:?}");
}

/// Waits until consumers have taken all ticks whose time has come.
async fn ticks_are_taken(lane: &Lane) {
    eventually(DEADLINE, "no more ticks", async || {
        let subject = "$JS.API.CONSUMER.INFO.JOBS_LATER.~ticks";
        let info = lane.admin.request(subject, "".into()).await.ok()?;
        let info: Value = serde_json::from_slice(&info.payload).unwrap();
        (info["num_pending"] == 0 && info["num_ack_pending"] == 0).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_timer_that_was_lost_is_set_again() {
    let lane = Lane::start().await;
    let _consumer = lane.consumer("only", &[]).await;
    let tested = Tested::put(&lane, json!({"every": "1h", "job": {"kind": "note"}})).await;
    let mut record = tested.settles().await;
    let tick = Timestamp::now().before(Duration::from_secs(25)).unwrap();
    (record.next, record.changed) = (Some(tick), false);
    tested.store(&record).await;
    let due = |record: &ScheduleRecord| record.last.is_some_and(|last| last.tick == tick);
    tested.record_that(SEEN, "the overdue tick", due).await;
    tested.settles().await;
    tested.all_ran(&record.schedule, &[tick]).await;
}

#[tokio::test]
async fn after_a_downtime_ticks_are_caught_up_as_the_schedule_says() {
    for (catch_up, jobs) in [
        (json!("skip"), 0),
        (json!("once"), 1),
        (json!({"all": 3}), 3),
    ] {
        let lane = Lane::start().await;
        let mut consumer = lane.consumer("before", &[]).await;
        let text = json!({"every": "1h", "catch_up": catch_up, "job": {"kind": "note"}});
        let tested = Tested::put(&lane, text).await;
        let mut record = tested.settles().await;
        stop(&mut consumer).await;
        // Five ticks ago. In the minute after a full hour, one of them is in time.
        let next = record.next.unwrap();
        let missed: Vec<_> = (1..=5)
            .filter_map(|hours| next.before(Duration::from_hours(hours)))
            .collect();
        record.next = missed.last().copied();
        tested.store(&record).await;
        tested.tick_again().await;
        let _consumer = lane.consumer("after", &[]).await;
        let after = tested
            .record_that(DEADLINE, "the next tick", |record| {
                record.next == Some(next)
            })
            .await;
        let in_time = usize::from(Timestamp::now().since(missed[0]) <= Duration::from_secs(90));
        let ran = usize::try_from(5 - after.skipped).unwrap();
        assert!(
            ran == jobs || (ran > jobs && in_time == 1),
            "{catch_up}: {ran} jobs"
        );
        let ticks: Vec<_> = missed.into_iter().take(ran).collect();
        tested.settles().await;
        tested.all_ran(&record.schedule, &ticks).await;
    }
}

#[tokio::test]
async fn jobs_overlap_only_if_the_schedule_allows_it() {
    for overlap in ["allow", "skip", "replace"] {
        let lane = Lane::start().await;
        let _consumers = fleet(&lane).await;
        lane.hold(1);
        let text = json!({"every": "1s", "overlap": overlap, "job": {"kind": "held"}});
        let tested = Tested::put(&lane, text).await;
        let first = lane.runs(1).await.0[0].id;
        match overlap {
            "allow" => {
                let ledger = lane.runs(3).await;
                assert_eq!(ledger.jobs().len(), 3, "{ledger:?}");
                // It may run before its first record is stored.
                let record = lane.record(first).await;
                assert!(record.is_none_or(|record| !record.state.is_final()));
            }
            "skip" => {
                let record = tested
                    .record_that(DEADLINE, "ticks without jobs", |record| record.skipped >= 3)
                    .await;
                assert_eq!(record.last.unwrap().id, first);
                assert!(record.last_skipped.is_some());
                assert_eq!(lane.ledger().0.len(), 1);
                lane.release(1);
                lane.becomes(first, JobState::Succeeded).await;
                lane.runs(2).await;
            }
            _ => {
                let runs = lane.runs(3).await.0;
                lane.becomes(first, JobState::Cancelled).await;
                lane.becomes(runs[1].id, JobState::Cancelled).await;
                assert_eq!(tested.record().await.skipped, 0);
            }
        }
        schedules::pause(&tested.client, &tested.name, None)
            .await
            .unwrap();
    }
}

#[tokio::test]
async fn a_tick_that_is_due_before_an_edit_has_the_edited_job() {
    let lane = Lane::start().await;
    let mut consumer = lane.consumer("before", &[]).await;
    let tested = Tested::put(&lane, json!({"every": "1h", "job": {"kind": "refuse"}})).await;
    let mut record = tested.settles().await;
    stop(&mut consumer).await;
    let tick = Timestamp::now().before(Duration::from_secs(5)).unwrap();
    (record.next, record.changed) = (Some(tick), false);
    tested.store(&record).await;
    let edited = tested
        .change(json!({"every": "2h", "job": {"kind": "note"}}))
        .await;
    assert_eq!((edited.next, edited.revision), (Some(tick), 2));
    let _consumer = lane.consumer("after", &[]).await;
    tested
        .record_that(DEADLINE, "the tick", |record| record.next > Some(tick))
        .await;
    tested.settles().await;
    tested.all_ran(&edited.schedule, &[tick]).await;
    lane.becomes(tested.id_of(&edited.schedule, tick), JobState::Succeeded)
        .await;

    let stale = schedules::put(
        &tested.client,
        &tested.name,
        &record.schedule,
        Expected::Revision(1),
        None,
    );
    let stale = stale.await.unwrap_err();
    let found = schedules::Refused::Changed {
        name: name(),
        found: 2,
    };
    assert_eq!(stale.downcast_ref(), Some(&found));
}

#[tokio::test]
async fn a_deleted_schedule_has_no_more_jobs_when_its_timer_ends() {
    let lane = Lane::start().await;
    let _consumer = lane.consumer("only", &[]).await;
    let in_a_moment = Timestamp::now().after(Duration::from_secs(3));
    let text = json!({"every": "1h", "start_at": in_a_moment, "job": {"kind": "note"}});
    let tested = Tested::put(&lane, text).await;
    tested.settles().await;
    assert!(
        schedules::delete(&tested.client, &tested.name, Expected::Revision(1))
            .await
            .unwrap()
    );
    assert!(
        !schedules::delete(&tested.client, &tested.name, Expected::Anything)
            .await
            .unwrap()
    );
    eventually(DEADLINE, "the tick", async || {
        lane.last("JOBS_LATER", &subjects::due_tick(&tested.name))
            .await
    })
    .await;
    ticks_are_taken(&lane).await;
    assert!(lane.ledger().0.is_empty());
    assert_eq!(lane.count("JOBS", "jobs.durable.>").await, 0);
    assert_eq!(
        schedules::get(&tested.client, &tested.name).await.unwrap(),
        None
    );
}

#[tokio::test]
async fn a_pause_survives_restarts_and_its_ticks_are_not_caught_up() {
    let mut lane = Lane::start().await;
    let mut consumer = lane.consumer("before", &[]).await;
    let begun = {
        let text = json!({"every": "1s", "catch_up": {"all": 100}, "job": {"kind": "note"}});
        let tested = Tested::put(&lane, text).await;
        lane.runs(2).await;
        let paused =
            schedules::pause(&tested.client, &tested.name, Some("somebody".to_owned())).await;
        assert_eq!(paused.unwrap().by.as_deref(), Some("somebody"));
        tested
            .record_that(DEADLINE, "no jobs to submit", |record| {
                record.pending.is_empty()
            })
            .await;
        ticks_are_taken(&lane).await;
        lane.queue_empties().await;
        lane.ledger().0.len()
    };
    consumer.kill().await;
    lane.fixture.server.kill().await;
    lane.fixture.server.start_again().await;
    let _consumer = lane.consumer("after", &[]).await;
    // While it is paused, a job runs when it is asked for.
    let client: NatsClient = lane.operator.clone().into();
    let id = schedules::run_now(&client, &name()).await.unwrap();
    lane.becomes(id, JobState::Succeeded).await;
    assert_eq!(lane.ledger().0.len(), begun + 1);
    let resumed = Timestamp::now();
    let record = schedules::resume(&client, &name(), None).await.unwrap();
    assert_eq!(record.last.unwrap().id, id);
    assert!(record.next.unwrap() > resumed, "{record:?}");
    lane.runs(begun + 3).await;
    schedules::pause(&client, &name(), None).await.unwrap();
}

#[tokio::test]
async fn whatever_is_stored_in_place_of_a_schedule_the_others_go_on() {
    let lane = Lane::on(NatsServer::start().await).await;
    let _consumer = lane.consumer("only", &[]).await;
    let tested = Tested::put(&lane, json!({"every": "1s", "job": {"kind": "note"}})).await;
    lane.runs(1).await;
    let never = json!({
        "name": "never", "revision": 1, "at": Timestamp::now(), "changed": true, "next": Timestamp::now(),
        "schedule": {"cron": "0 0 30 2 *", "job": {"kind": "note"}},
    });
    let garbage: [(&str, &str, String); 8] = [
        ("cron", "empty", String::new()),
        ("cron", "bytes", "\u{0}{".to_owned()),
        ("cron", "never", never.to_string()),
        // It is the record of another schedule.
        ("cron", "other", never.to_string()),
        ("tick.due", "tested", "{}".to_owned()),
        ("tick.due", "nobody", "x".to_owned()),
        ("tick.due", "empty", String::new()),
        ("tick.next", "tested", "no timer".to_owned()),
    ];
    for (place, name, payload) in garbage {
        let subject = format!("jobs.{place}.{name}");
        lane.admin.publish(subject, payload.into()).await.unwrap();
    }
    let begun = lane.ledger().0.len();
    lane.runs(begun + 3).await;
    ticks_are_taken(&lane).await;
    // A copy of a schedule, as whoever may read the stream can have it stored.
    let copied = "jobs.cron.never";
    let reader = lane.fixture.server.connect_as("application").await;
    let copy = json!({"last_by_subj": copied}).to_string();
    reader
        .publish_with_reply("$JS.API.DIRECT.GET.JOBS_STATE", copied, copy.into())
        .await
        .unwrap();
    eventually(DEADLINE, "the copy", async || {
        let last = lane.last("JOBS_STATE", copied).await?;
        jetstream::headers::is_copy(&last.headers?).then_some(())
    })
    .await;
    let listed = schedules::list(&tested.client).await.unwrap();
    let readable: Vec<_> = listed
        .iter()
        .map(|(name, stored)| (name.as_str(), stored.record.is_some()))
        .collect();
    assert_eq!(
        readable,
        [
            ("bytes", false),
            ("empty", false),
            ("never", false),
            ("other", false),
            ("tested", true)
        ]
    );
    // What cannot be read is replaced and deleted like any other.
    let empty: ScheduleName = "empty".parse().unwrap();
    let unreadable = schedules::pause(&tested.client, &empty, None)
        .await
        .unwrap_err();
    assert_eq!(
        unreadable.downcast_ref(),
        Some(&schedules::Refused::Unreadable(empty.clone()))
    );
    let hourly = schedule(&json!({"every": "1h", "job": {"kind": "note"}}));
    let put = schedules::put(&tested.client, &empty, &hourly, Expected::Anything, None);
    assert_eq!(put.await.unwrap().revision, 1);
    let other: ScheduleName = "other".parse().unwrap();
    assert!(
        schedules::delete(&tested.client, &other, Expected::Anything)
            .await
            .unwrap()
    );
    schedules::pause(&tested.client, &tested.name, None)
        .await
        .unwrap();
}

#[tokio::test]
async fn timers_are_no_jobs_in_lists_and_counts() {
    let lane = Lane::start().await;
    let _consumer = lane.consumer("only", &[]).await;
    let tested = Tested::put(&lane, json!({"every": "1h", "job": {"kind": "note"}})).await;
    tested.settles().await;
    tested.tick_again().await;
    let admin = lane.admin.clone().into();
    let streams = client::streams(&admin).await.unwrap().unwrap();
    let later = streams
        .iter()
        .find(|depth| depth.stream == client::Stream::Later)
        .unwrap();
    assert_eq!((later.messages, later.without_ticks), (2, 0));
    for state in [None, Some(JobState::Queued), Some(JobState::Scheduled)] {
        let filter = client::Filter {
            state,
            ..client::Filter::default()
        };
        let page = client::list(&tested.client, &filter, None, 10)
            .await
            .unwrap();
        assert!(page.jobs.is_empty(), "{:?}", page.jobs);
    }
}

#[tokio::test]
async fn the_jitter_of_a_tick_delays_its_job() {
    let lane = Lane::start().await;
    let _consumer = lane.consumer("only", &[]).await;
    let text = json!({"every": "1h", "jitter": "1h", "job": {"kind": "note"}});
    let tested = Tested::put(&lane, text).await;
    let mut record = tested.settles().await;
    let second = Duration::from_secs(1);
    let due = |seconds: u32| Timestamp::now().before(second * seconds).unwrap();
    let is_delayed = |tick: &Timestamp| {
        let job = schedule::pending_job(&tested.name, &record.schedule, *tick);
        job.run_at.unwrap().since(*tick) > Duration::from_mins(5)
    };
    let tick = (1..50).map(due).find(is_delayed).unwrap();
    (record.next, record.changed) = (Some(tick), true);
    tested.store(&record).await;
    let id = tested.id_of(&record.schedule, tick);
    let waiting = lane.becomes(id, JobState::Scheduled).await;
    let job = schedule::pending_job(&tested.name, &record.schedule, tick);
    assert_eq!(waiting.next_at, job.run_at);
    assert!(lane.ledger().0.is_empty());
}

#[tokio::test]
async fn the_record_of_a_job_names_its_schedule_from_its_submission_to_its_end() {
    let lane = Lane::start().await;
    let mut consumer = lane.consumer("only", &[]).await;
    let text = json!({"every": "1h", "job": {"kind": "held", "max_attempts": 2}});
    let tested = Tested::put(&lane, text).await;
    tested.settles().await;
    stop(&mut consumer).await;
    let id = schedules::run_now(&tested.client, &tested.name)
        .await
        .unwrap();
    let named = async |id| {
        let record = client::look_up(&tested.client, id).await.unwrap().unwrap();
        record.schedule == Some(tested.name.clone())
    };
    assert!(named(id).await, "while only its message exists");
    lane.hold(1);
    let _next = lane.consumer("next", &[]).await;
    lane.begun(id, 1, DEADLINE).await;
    lane.release(1);
    lane.becomes(id, JobState::Succeeded).await;
    assert!(named(id).await, "in its last record");
    let other = lane.submit(json!({"kind": "note"})).await;
    assert_eq!(
        lane.becomes(other, JobState::Succeeded).await.schedule,
        None
    );
}
