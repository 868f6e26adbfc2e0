use clap::Parser;
use common::WireDuration;

/// Asks every consumer on jobs.status how it is, and logs the totals of the fleet.
#[derive(Clone, Debug, Parser)]
pub struct Config {
    /// Time from one round of questions to the next
    #[arg(long, value_name = "DURATION", default_value = "5s")]
    pub interval: WireDuration,

    /// How long one round waits for consumers that are known but do not answer
    #[arg(long, value_name = "DURATION", default_value = "1s")]
    pub timeout: WireDuration,

    /// How long a consumer that no longer answers counts as missing; then it is gone
    #[arg(long, value_name = "DURATION", default_value = "30s")]
    pub gone_after: WireDuration,

    /// What every service can be told.
    #[command(flatten)]
    pub options: bootstrap::Options,
}
