//! Makes the server pause the durable consumers of the kinds that are paused.
//!
//! Whoever pauses or resumes a kind, or all kinds, stores the setting, and then pauses the durable consumers or
//! lets them deliver. If a client stops in between, consumers do the rest. They also repair what
//! somebody else has changed.

use std::time::Duration;

use bootstrap::{Beat, Nats};
use common::{JobKind, KindSetting, subjects};
use futures_util::{FutureExt as _, StreamExt as _};
use jetstream::{Stream, kind_settings};
use tracing::{info, warn};

use super::Priorities;
use super::failures::Failures;

/// The average time between two looks.
const PERIOD: Duration = Duration::from_secs(10);

/// How long after a message on the subject of a setting the settings are read. Subscribers get such a
/// message before the server has stored it, and also if the server refuses it.
const STORED: Duration = Duration::from_millis(250);

/// How long a look may take: it sends some requests for each kind that has a setting.
const LOOK: Duration = Duration::from_mins(1);

/// How long after all kinds were resumed the kinds without a setting of their own are looked at each time.
const AFTER_RESUME: Duration = Duration::from_mins(5);

/// After that, one look in so many includes them, in case a client was lost with a request in transit.
const SELDOM: f64 = 30.0;

pub(crate) struct Pauses {
    pub(crate) nats: Nats,
    /// The kinds that this consumer serves.
    pub(crate) kinds: Vec<JobKind>,
    pub(crate) priorities: Priorities,
}

impl Pauses {
    pub(crate) async fn run(self, mut life: Beat) {
        let client = &self.nats.client;
        let subscribing = client.subscribe(subjects::ALL_KIND_SETTINGS);
        let mut settings = match life.during(Duration::MAX, subscribing).await {
            Ok(settings) => settings.left_stream(),
            Err(error) => {
                warn!(%error, "cannot subscribe to the settings of kinds: they are only read now and then");
                futures_util::stream::pending().right_stream()
            }
        };
        let mut connected = self.nats.connected();
        let mut failures = Failures::default();
        loop {
            let looked = life.during(LOOK, self.look()).await;
            failures.note("cannot follow the settings of kinds", looked);
            // Jitter, so that consumers that were started together do not look at the same time.
            let next = tokio::time::sleep(PERIOD.mul_f64(rand::random::<f64>() + 0.5));
            let mut next = std::pin::pin!(next);
            loop {
                tokio::select! {
                    () = &mut next => break,
                    setting = settings.next() => {
                        if setting.is_none() {
                            return;
                        }
                        life.during(STORED, tokio::time::sleep(STORED)).await;
                        while let Some(Some(_)) = settings.next().now_or_never() {}
                        break;
                    }
                    changed = connected.changed() => {
                        if changed.is_err() {
                            return;
                        }
                        break;
                    }
                    () = life.tick() => {}
                }
            }
        }
    }

    async fn look(&self) -> anyhow::Result<()> {
        let client = &self.nats.client;
        let mut settings = kind_settings::all(client).await?;
        let switched_on = self.priorities.switch_on(&mut settings.kinds).await;
        settings.kinds.retain(|kind, _| self.kinds.contains(kind));
        let kinds = settings.kinds.iter();
        let heed: Vec<_> = kinds
            .filter(|(_, setting)| setting.priorities)
            .map(|(kind, _)| kind)
            .collect();
        let separated = self.priorities.follow(&heed).await;
        let is_every_kind = self.looks_at_every_kind(settings.all.as_ref());
        for kind in &self.kinds {
            if !is_every_kind && !settings.kinds.contains_key(kind) {
                continue;
            }
            let followed = settings.of(kind);
            for stream in [Stream::Jobs, Stream::Later] {
                for consumer in kind_settings::paused_with(stream, kind, &followed) {
                    if kind_settings::enforce(client, stream, kind, &consumer).await? {
                        info!(job.kind = %kind, %stream, consumer, "paused or resumed a durable consumer, as the setting of its kind or of all kinds says");
                    }
                }
            }
        }
        switched_on.and(separated)
    }

    /// Whether a look includes the kinds without a setting of their own, which costs some requests for each.
    fn looks_at_every_kind(&self, all: Option<&KindSetting>) -> bool {
        let now = self.priorities.store.clock.now();
        all.is_some_and(|all| {
            all.is_paused(now)
                || now.since(all.at) < AFTER_RESUME
                || rand::random::<f64>() * SELDOM < 1.0
        })
    }
}
