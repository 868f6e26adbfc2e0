use clap::Parser;
use common::WireDuration;

/// Asks every consumer on jobs.status for its status, and logs the totals of the fleet.
#[derive(Clone, Debug, Parser)]
pub struct Config {
    /// Time from one round of questions to the next
    #[arg(long, value_name = "DURATION", default_value = "5s")]
    pub interval: WireDuration,

    /// How long one round waits for known consumers that do not answer
    #[arg(long, value_name = "DURATION", default_value = "1s")]
    pub timeout: WireDuration,

    /// How long a consumer without an answer counts as missing; after that it is gone
    #[arg(long, value_name = "DURATION", default_value = "30s")]
    pub gone_after: WireDuration,

    /// The options that every service has.
    #[command(flatten)]
    pub options: bootstrap::Options,
}
