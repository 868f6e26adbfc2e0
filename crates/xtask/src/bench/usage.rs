//! What processes use, as Linux tells it in /proc.

use std::fs;
use std::time::Duration;

use anyhow::Context as _;
use nix::unistd::{SysconfVar, sysconf};

/// CPU time of a process, all threads together, in user and kernel mode.
pub(super) fn cpu_time(process: u32) -> anyhow::Result<Duration> {
    let stat = read(&format!("/proc/{process}/stat"))?;
    Ok(ticks(own_ticks(&stat).context("an odd /proc/.../stat")?))
}

/// CPU time of all children of this process that have ended.
pub(super) fn cpu_time_of_ended_children() -> anyhow::Result<Duration> {
    let stat = read("/proc/self/stat")?;
    Ok(ticks(
        ticks_of_ended_children(&stat).context("an odd /proc/self/stat")?,
    ))
}

/// Memory that a process has resident, in MB.
pub(super) fn resident_mb(process: u32) -> anyhow::Result<f64> {
    let status = read(&format!("/proc/{process}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib: f64 = line
        .and_then(|line| line.trim().strip_suffix(" kB")?.parse().ok())
        .context("an odd /proc/.../status")?;
    Ok(kib * 1024.0 / 1e6)
}

/// A moment in the life of this machine.
pub(super) struct Moment {
    /// Time of all cores together, in ticks.
    total: u64,
    /// What programs took of it.
    used: u64,
    /// What other machines on the same hardware took of it.
    stolen: u64,
    /// What we and our children took of it.
    ours: u64,
}

/// How quiet the machine was between two moments, in shares of all its cores.
#[derive(Clone, Copy, Debug, serde::Serialize)]
pub(super) struct Noise {
    /// What programs took that have nothing to do with the bench.
    pub(super) others: f64,
    /// What the hypervisor took.
    pub(super) stolen: f64,
}

impl Noise {
    /// For what no noise can change.
    pub(super) const NONE: Self = Self {
        others: 0.0,
        stolen: 0.0,
    };
}

impl Moment {
    pub(super) fn now() -> anyhow::Result<Self> {
        let stat = read("/proc/stat")?;
        let cores = stat.lines().next().context("an empty /proc/stat")?;
        let fields: Vec<u64> = cores
            .split_ascii_whitespace()
            .skip(1)
            .map(str::parse)
            .collect::<Result<_, _>>()?;
        let [user, nice, system, _, _, _, _, stolen, ..] = fields[..] else {
            anyhow::bail!("an odd /proc/stat");
        };
        Ok(Self {
            // The fields behind `steal` are parts of the first ones.
            total: fields[..8].iter().sum(),
            used: user + nice + system,
            stolen,
            ours: ticks_of_us_and_our_children()?,
        })
    }

    pub(super) fn noise_since(&self, earlier: &Self) -> Noise {
        let total = (self.total - earlier.total).max(1) as f64;
        let used = self.used - earlier.used;
        let ours = self.ours.saturating_sub(earlier.ours);
        Noise {
            others: used.saturating_sub(ours) as f64 / total,
            stolen: (self.stolen - earlier.stolen) as f64 / total,
        }
    }
}

fn ticks_of_us_and_our_children() -> anyhow::Result<u64> {
    let us = std::process::id();
    let stat = read("/proc/self/stat")?;
    // A child that has ended is counted by us when it was waited for.
    let mut sum = own_ticks(&stat)
        .zip(ticks_of_ended_children(&stat))
        .map(|(own, ended)| own + ended)
        .context("an odd /proc/self/stat")?;
    for entry in fs::read_dir("/proc")?.flatten() {
        // Processes come and go meanwhile.
        let stat = fs::read_to_string(entry.path().join("stat")).unwrap_or_default();
        if field(&stat, PARENT) == Some(u64::from(us)) {
            sum += own_ticks(&stat).unwrap_or(0);
        }
    }
    Ok(sum)
}

/// Numbers of fields as `proc_pid_stat(5)` counts them.
const PARENT: usize = 4;
const USER: usize = 14;
const SYSTEM: usize = 15;
const CHILDREN_USER: usize = 16;
const CHILDREN_SYSTEM: usize = 17;

fn own_ticks(stat: &str) -> Option<u64> {
    Some(field(stat, USER)? + field(stat, SYSTEM)?)
}

fn ticks_of_ended_children(stat: &str) -> Option<u64> {
    Some(field(stat, CHILDREN_USER)? + field(stat, CHILDREN_SYSTEM)?)
}

fn field(stat: &str, number: usize) -> Option<u64> {
    // The second field is a name in brackets, with any character in it.
    let (_, rest) = stat.rsplit_once(')')?;
    rest.split_ascii_whitespace().nth(number - 3)?.parse().ok()
}

fn ticks(count: u64) -> Duration {
    let per_second = sysconf(SysconfVar::CLK_TCK).ok().flatten().unwrap_or(100);
    Duration::from_secs_f64(count as f64 / per_second as f64)
}

fn read(path: &str) -> anyhow::Result<String> {
    fs::read_to_string(path).with_context(|| format!("cannot read {path}"))
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    #[test]
    fn fields_are_found_behind_any_name() {
        let stat = "7 (a) b (c) S 42 7 7 0 -1 0 1 2 3 4 50 6 700 8 20";
        assert_eq!(field(stat, PARENT), Some(42));
        assert_eq!(own_ticks(stat), Some(56));
        assert_eq!(ticks_of_ended_children(stat), Some(708));
        assert_eq!(own_ticks(""), None);
    }

    #[test]
    fn what_this_process_uses_is_seen() {
        let before = Moment::now().unwrap();
        let start = cpu_time(std::process::id()).unwrap();
        let begun = Instant::now();
        while cpu_time(std::process::id()).unwrap() < start + Duration::from_millis(50) {
            assert!(begun.elapsed() < Duration::from_mins(1));
        }
        let after = Moment::now().unwrap();
        assert!(after.ours >= before.ours + 5);
        assert!(after.used >= before.used);
        let noise = after.noise_since(&before);
        assert!((0.0..=1.0).contains(&noise.others), "{noise:?}");
        let mb = resident_mb(std::process::id()).unwrap();
        assert!((0.5..1e5).contains(&mb), "{mb}");
    }
}
