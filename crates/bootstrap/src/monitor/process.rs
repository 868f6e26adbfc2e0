use std::fmt;
use std::time::{SystemTime, UNIX_EPOCH};

use prometheus_client::collector::Collector;
use prometheus_client::encoding::DescriptorEncoder;

use super::Families;
use crate::about::About;

/// The metrics of the process, under their usual names.
#[derive(Debug)]
pub(crate) struct Process {
    about: About,
    instance: String,
    started: SystemTime,
}

impl Process {
    pub(crate) fn new(about: About, instance: String) -> Self {
        Self {
            about,
            instance,
            started: SystemTime::now(),
        }
    }
}

impl Collector for Process {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let mut families = Families::new(encoder);
        families.info(
            "jobs_build_info",
            "The service, its version, and the name of the instance",
            &[
                ("service", self.about.name),
                ("version", self.about.version),
                ("name", self.instance.as_str()),
            ],
        )?;
        let started = self.started.duration_since(UNIX_EPOCH).unwrap_or_default();
        families.gauge(
            "process_start_time_seconds",
            "Start time of the process, since the Unix epoch",
            [([], started.as_secs_f64())],
        )?;
        families.gauge(
            "process_resident_memory_bytes",
            "Memory of the process that is in RAM",
            resident_bytes().map(|bytes| ([], bytes)),
        )
    }
}

/// Read from Linux; `None`, and no such metric, on other systems.
fn resident_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kibibytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kibibytes * 1024)
}
