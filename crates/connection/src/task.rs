//! Supervised tasks and their heartbeats.
//!
//! A task without a heartbeat makes the service unhealthy, and the health check names it. A task that
//! panics, or ends before the service stops, would leave a service that only looks alive: then the
//! service stops as on SIGTERM, and its process exits with 1.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::future::Future;
use std::pin::pin;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use tokio::time::{Interval, MissedTickBehavior};
use tokio_util::sync::CancellationToken;
use tracing::error;

use crate::health::{Health, lock};

/// The longest time between two heartbeats of a task that loops. With it, a task that stands still is
/// noticed within ten seconds.
pub const STILL: Duration = Duration::from_secs(7);

/// The time between two heartbeats of a task that waits.
const PERIOD: Duration = Duration::from_secs(2);

const ALIVE: u8 = 0;
const PANICKED: u8 = 1;
const ENDED: u8 = 2;
/// The task has nothing more to do, and may end.
const DONE: u8 = 3;

/// A task that has to send heartbeats.
#[derive(Debug)]
struct Task {
    name: Cow<'static, str>,
    /// The longest time between two heartbeats; [`Duration::MAX`] if none are expected.
    limit: Duration,
    began: Instant,
    /// The last heartbeat, in milliseconds since the task began.
    last: AtomicU64,
    /// One of the constants above.
    state: AtomicU8,
}

impl Task {
    /// Time since the last heartbeat.
    fn silent(&self) -> Duration {
        let last = Duration::from_millis(self.last.load(Ordering::Relaxed));
        self.began.elapsed().saturating_sub(last)
    }

    fn problem(&self) -> Option<String> {
        let name = &self.name;
        match self.state.load(Ordering::Relaxed) {
            PANICKED => return Some(format!("the task \"{name}\" has panicked")),
            ENDED => return Some(format!("the task \"{name}\" has ended")),
            _ => {}
        }
        let silent = self.silent();
        (silent > self.limit).then(|| {
            let seconds = silent.as_secs();
            format!("the task \"{name}\" stands still for {seconds} s")
        })
    }
}

/// All tasks that have to send heartbeats.
#[derive(Clone, Debug, Default)]
pub(crate) struct Tasks {
    all: Arc<Mutex<Vec<Arc<Task>>>>,
    /// Why the service cannot go on; empty while it can.
    failure: Arc<OnceLock<String>>,
    shutdown: CancellationToken,
}

impl Tasks {
    pub(crate) fn new(shutdown: CancellationToken) -> Self {
        Self {
            shutdown,
            ..Self::default()
        }
    }

    fn add(&self, task: &Arc<Task>) {
        lock(&self.all).push(Arc::clone(task));
    }

    fn remove(&self, task: &Arc<Task>) {
        lock(&self.all).retain(|other| !Arc::ptr_eq(task, other));
    }

    /// The problems of all tasks.
    pub(crate) fn problems(&self) -> Vec<String> {
        let tasks = lock(&self.all);
        tasks.iter().filter_map(|task| task.problem()).collect()
    }

    /// Time since the last heartbeat, by the name of the task. Among tasks of the same name the longest
    /// counts. Tasks without expected heartbeats are left out.
    pub(crate) fn silences(&self) -> BTreeMap<Cow<'static, str>, Duration> {
        let mut silences = BTreeMap::new();
        for task in lock(&self.all).iter() {
            if task.limit < Duration::MAX {
                let silence = silences.entry(task.name.clone()).or_insert(Duration::ZERO);
                *silence = task.silent().max(*silence);
            }
        }
        silences
    }

    /// Cancelled when the program has to stop.
    pub(crate) fn stop(&self) -> &CancellationToken {
        &self.shutdown
    }

    pub(crate) fn is_stopping(&self) -> bool {
        self.shutdown.is_cancelled()
    }

    /// Why the service cannot go on; `None` if it can.
    pub(crate) fn failure(&self) -> Option<&str> {
        self.failure.get().map(String::as_str)
    }

    fn fail(&self, task: &Task, state: u8) {
        task.state.store(state, Ordering::Relaxed);
        let why = task.problem().unwrap_or_default();
        if self.failure.set(why.clone()).is_ok() {
            error!("{why}: the service cannot go on without it, and stops");
            self.shutdown.cancel();
        }
    }
}

/// Sends the heartbeats of a task. After it is dropped no more are expected; if a panic drops it, the
/// task has failed.
#[derive(Debug)]
pub struct Beat {
    task: Arc<Task>,
    tasks: Tasks,
    interval: Option<Interval>,
}

impl Beat {
    /// Sends one heartbeat.
    pub fn beat(&self) {
        let since = self.task.began.elapsed().as_millis();
        let since = u64::try_from(since).unwrap_or(u64::MAX);
        self.task.last.store(since, Ordering::Relaxed);
    }

    /// Waits until a heartbeat is due, and sends it. A loop awaits this besides its own events, in a
    /// `tokio::select!`, which may drop it at any time.
    pub async fn tick(&mut self) {
        let interval = self.interval.get_or_insert_with(|| {
            let mut interval = tokio::time::interval(PERIOD);
            interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
            interval
        });
        interval.tick().await;
        self.beat();
    }

    /// Awaits work that may take long, and sends heartbeats meanwhile. After `longest` it sends no more.
    pub async fn during<T>(&mut self, longest: Duration, work: impl Future<Output = T>) -> T {
        let began = Instant::now();
        let mut work = pin!(work);
        loop {
            tokio::select! {
                biased;
                result = &mut work => {
                    self.beat();
                    return result;
                }
                () = self.tick(), if began.elapsed() < longest => {}
            }
        }
    }

    /// Says that the task ends because it has nothing more to do.
    pub fn done(self) {
        self.task.state.store(DONE, Ordering::Relaxed);
    }
}

/// Awaits work that may take any time, and sends the heartbeats of the task meanwhile, if somebody expects
/// them.
pub async fn alive<T>(life: &mut Option<Beat>, work: impl Future<Output = T>) -> T {
    match life {
        Some(life) => life.during(Duration::MAX, work).await,
        None => work.await,
    }
}

impl Drop for Beat {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.tasks.fail(&self.task, PANICKED);
        } else {
            self.tasks.remove(&self.task);
        }
    }
}

impl Health {
    /// Expects heartbeats of a task from now on, at least one in each `limit`. The task may end at any
    /// time; if it panics, the service stops.
    #[must_use]
    pub fn task(&self, name: impl Into<Cow<'static, str>>, limit: Duration) -> Beat {
        let task = Arc::new(Task {
            name: name.into(),
            limit,
            began: Instant::now(),
            last: AtomicU64::new(0),
            state: AtomicU8::new(ALIVE),
        });
        self.tasks.add(&task);
        Beat {
            task,
            tasks: self.tasks.clone(),
            interval: None,
        }
    }

    /// Runs a task that must not end before the service is told to stop, unless it calls
    /// [`Beat::done`]; if it does, the service stops. Dropping the returned future ends the task.
    pub fn supervise<N, W, F>(&self, name: N, work: W) -> impl Future<Output = ()> + use<N, W, F>
    where
        N: Into<Cow<'static, str>>,
        W: FnOnce(Beat) -> F,
        F: Future<Output = ()>,
    {
        let heartbeat = self.task(name, STILL);
        let (task, tasks) = (Arc::clone(&heartbeat.task), self.tasks.clone());
        let work = work(heartbeat);
        async move {
            work.await;
            if task.state.load(Ordering::Relaxed) == ALIVE && !tasks.is_stopping() {
                tasks.add(&task);
                tasks.fail(&task, ENDED);
            }
        }
    }

    /// Supervises a task on its own thread and runtime, which no other work can keep busy.
    ///
    /// # Errors
    /// When the runtime or the thread cannot be started; the error names the thread.
    pub fn on_own_thread<W, F>(&self, name: &'static str, work: W) -> anyhow::Result<()>
    where
        W: FnOnce(Beat) -> F + Send + 'static,
        F: Future<Output = ()>,
    {
        let failed = || format!("cannot start the thread {name}");
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .with_context(failed)?;
        let health = self.clone();
        std::thread::Builder::new()
            .name(name.to_owned())
            .spawn(move || runtime.block_on(health.supervise(name, work)))
            .with_context(failed)?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::future::pending;

    use test_support::{DEADLINE, eventually};

    use super::*;
    use crate::health::tests::healthy;

    #[test]
    fn a_task_that_stands_still_is_named_and_one_that_has_ended_is_not() {
        let (health, _connection, _up) = healthy();
        let ended = health.task("ended", Duration::ZERO);
        let alive = health.task("alive", Duration::from_hours(1));
        alive.beat();
        drop(ended);
        assert!(health.readiness().healthy, "{}", health.readiness().reason);
        let _silent = health.task("silent", Duration::ZERO);
        std::thread::sleep(Duration::from_millis(2));
        let answer = health.readiness();
        assert!(!answer.healthy);
        let told = "the task \"silent\" stands still for 0 s";
        assert!(answer.reason.contains(told), "{}", answer.reason);
        assert!(!health.tasks.is_stopping(), "it goes on");
    }

    #[tokio::test]
    async fn a_task_that_panics_or_ends_by_itself_stops_the_service_and_is_named() {
        for (panics, told) in [
            (true, "the task \"loop\" has panicked"),
            (false, "the task \"loop\" has ended"),
        ] {
            let (health, _connection, _up) = healthy();
            let work = async move |_heartbeat: Beat| assert!(!panics, "on purpose");
            let joined = tokio::spawn(health.supervise("loop", work)).await;
            assert_eq!(joined.is_err(), panics);
            let reason = health.readiness().reason;
            assert!(reason.contains(told), "{reason}");
            assert!(health.tasks.is_stopping());
            assert_eq!(health.tasks.failure(), Some(told));
        }
    }

    #[tokio::test]
    async fn a_task_that_is_done_or_dropped_or_ends_with_the_service_is_no_failure() {
        let (health, _connection, _up) = healthy();
        health
            .supervise("done", async |heartbeat: Beat| heartbeat.done())
            .await;
        let dropped = health.supervise("dropped", async |_heartbeat: Beat| pending().await);
        drop(dropped);
        let running =
            tokio::spawn(health.supervise("aborted", async |_heartbeat: Beat| pending().await));
        running.abort();
        running.await.unwrap_err();
        assert!(health.readiness().healthy, "{}", health.readiness().reason);
        assert!(!health.tasks.is_stopping());
        health.tasks.shutdown.cancel();
        health
            .supervise("told to stop", async |_heartbeat: Beat| ())
            .await;
        assert_eq!(health.tasks.failure(), None);
    }

    #[tokio::test]
    async fn a_task_that_waits_counts_as_alive_and_one_that_takes_too_long_does_not() {
        let (health, _connection, _up) = healthy();
        let mut heartbeat = health.task("loop", STILL);
        let moment = Duration::from_millis(5);
        let last = |heartbeat: &Beat| heartbeat.task.last.load(Ordering::Relaxed);
        heartbeat
            .during(Duration::MAX, tokio::time::sleep(moment))
            .await;
        let before = last(&heartbeat);
        assert!(before > 0);
        let long = heartbeat.during(Duration::ZERO, pending::<()>());
        assert!(tokio::time::timeout(PERIOD + moment, long).await.is_err());
        assert_eq!(last(&heartbeat), before, "no heartbeat");
        heartbeat.tick().await;
        assert!(last(&heartbeat) > before);
    }

    #[tokio::test]
    async fn a_thread_that_panics_or_is_stuck_is_named() {
        let (health, _connection, _up) = healthy();
        let (stuck, go_on) = std::sync::mpsc::channel::<()>();
        let work = async move |mut heartbeat: Beat| {
            heartbeat.tick().await;
            // It blocks the whole thread.
            let _ = go_on.recv();
            pending::<()>().await;
        };
        health.on_own_thread("stuck", work).unwrap();
        eventually(DEADLINE, "the stuck thread to be named", async || {
            let reason = health.readiness().reason;
            reason
                .contains("the task \"stuck\" stands still")
                .then_some(())
        })
        .await;
        drop(stuck);
        let work = async |_heartbeat: Beat| panic!("on purpose");
        health.on_own_thread("panicking", work).unwrap();
        eventually(DEADLINE, "the panic to be named", async || {
            let reason = health.readiness().reason;
            reason
                .contains("the task \"panicking\" has panicked")
                .then_some(())
        })
        .await;
        assert!(health.tasks.is_stopping());
    }
}
