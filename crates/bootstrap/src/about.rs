/// Names of a service.
#[derive(Clone, Copy, Debug)]
pub struct About {
    /// Its name as a command, in logs and as a NATS micro service.
    pub name: &'static str,
    /// The prefix of its environment variables, without the underscore.
    pub prefix: &'static str,
    /// Its version, three numbers with dots.
    pub version: &'static str,
    /// The prefix of its inbox subjects, unless `NATS_INBOX_PREFIX` sets another. Its user on NATS may
    /// subscribe to no other inboxes.
    pub inbox_prefix: &'static str,
    /// The port of the loopback interface that serves its metrics, unless that port is taken or
    /// `--monitor` sets another address.
    pub monitor_port: u16,
}
