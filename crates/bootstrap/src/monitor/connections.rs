use std::fmt;

use connection::Health;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::DescriptorEncoder;

use super::Families;

/// The metrics of the connections to NATS.
#[derive(Clone, Debug)]
pub(super) struct ConnectionMetrics(pub(super) Health);

impl Collector for ConnectionMetrics {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let summaries = self.0.connections();
        let each = || {
            summaries
                .iter()
                .map(|(purpose, summary)| ([("connection", purpose.as_str())], summary))
        };
        let mut families = Families::new(encoder);
        families.gauge(
            "jobs_nats_connected",
            "Whether the connection to NATS is up and the server has answered on it within 7 s",
            each().map(|(labels, summary)| (labels, u32::from(!summary.has_problem))),
        )?;
        families.gauge(
            "jobs_nats_round_trip_seconds",
            "Round-trip time to the NATS server, measured every 2 s; absent while it does not answer",
            each()
                .filter_map(|(labels, summary)| Some((labels, summary.round_trip?.as_secs_f64()))),
        )?;
        families.counter(
            "jobs_nats_reconnects_total",
            "How often the connection to NATS was made again",
            each().map(|(labels, summary)| (labels, summary.reconnects)),
        )?;
        families.counter(
            "jobs_nats_dropped_messages_total",
            "How often the NATS client reported that it dropped messages of a subscription",
            each().map(|(labels, summary)| (labels, summary.dropped)),
        )?;
        families.counter(
            "jobs_nats_unreadable_messages_total",
            "Messages whose subject or headers could not be read, and that were passed on without them",
            each().map(|(labels, summary)| (labels, summary.unreadable)),
        )
    }
}
