use common::{JobId, PendingJob, Schedule, ScheduleName, Timestamp};
use sha2::{Digest as _, Sha256};

/// The job of a tick. Its id, and how much later it runs, depend on the schedule's name and the time of the
/// tick only, so a tick has one job however often this is called.
///
/// ```
/// use common::Schedule;
///
/// let schedule = Schedule::decode(br#"{"every": "1h", "jitter": "5m", "job": {"kind": "report"}}"#)?;
/// let (name, tick) = ("hourly".parse().unwrap(), "2026-01-31T10:00:00Z".parse().unwrap());
/// let job = schedule::pending_job(&name, &schedule, tick);
/// assert_eq!(job, schedule::pending_job(&name, &schedule, tick));
/// assert!(job.run_at.is_some_and(|run_at| run_at.since(tick).as_secs() < 300));
/// # Ok::<(), common::InvalidSchedule>(())
/// ```
#[must_use]
pub fn pending_job(name: &ScheduleName, schedule: &Schedule, tick: Timestamp) -> PendingJob {
    let mut hash = Sha256::new();
    // The prefix keeps it apart from other hashes.
    hash.update(b"jobs: tick of a schedule\0");
    hash.update(name.as_str());
    hash.update(b"\0");
    hash.update(tick.unix_nanos().to_be_bytes());
    let hash = hash.finalize();
    let (mut id, mut random) = ([0; 16], [0; 8]);
    id.copy_from_slice(&hash[..16]);
    random.copy_from_slice(&hash[16..24]);
    let run_at = schedule.jitter.map(|jitter| {
        let most = u64::try_from(jitter.get().as_millis()).unwrap_or(u64::MAX);
        let later = u64::from_be_bytes(random) % most.max(1);
        tick.after(std::time::Duration::from_millis(later))
    });
    PendingJob {
        id: JobId::from_custom_bytes(id),
        tick,
        run_at,
        replaces: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_tick_has_an_id_of_its_own_that_never_changes() {
        let schedule = Schedule::decode(br#"{"every":"1h","job":{"kind":"a"}}"#).unwrap();
        let id = |name: &str, tick: &str| {
            let (name, tick) = (name.parse().unwrap(), tick.parse().unwrap());
            pending_job(&name, &schedule, tick).id.to_string()
        };
        let one = id("a", "2026-01-31T10:00:00Z");
        // The ids of ticks that have had their job must not change with a version.
        assert_eq!(one, "f5eb5be8-cd71-8d83-a0ae-4c1053210f53");
        assert_eq!(one, id("a", "2026-01-31T11:00:00+01:00"));
        assert_ne!(one, id("b", "2026-01-31T10:00:00Z"));
        assert_ne!(one, id("a", "2026-01-31T11:00:00Z"));
    }
}
