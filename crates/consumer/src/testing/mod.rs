//! Tests of handlers and of programs that submit jobs. Needs the feature `testing`.
//!
//! - [`run`] makes one attempt at a job, without a server and without waiting.
//! - A [`Queue`] holds any number of jobs, also without a server, and has a clock of its own: retries and
//!   delays cost no time.
//! - A [`System`] is a nats-server and a consumer, started for one test. The program under test connects
//!   to it as it does in production.
//!
//! ```
//! use consumer::testing::{Decision, Queue};
//! use consumer::{Failure, Job, Registry};
//! use serde::{Deserialize, Serialize};
//!
//! #[derive(Serialize, Deserialize)]
//! struct SendMail {
//!     to: String,
//! }
//!
//! impl Job for SendMail {
//!     const KIND: &'static str = "mail.send";
//!     type Output = ();
//! }
//!
//! # tokio::runtime::Runtime::new().unwrap().block_on(async {
//! let away = async |_: SendMail| Err(Failure::transient(std::io::Error::other("away")));
//! let mut queue = Queue::new(Registry::new().with_job(away));
//! queue.submit(&SendMail { to: "a@example.org".to_owned() });
//! let attempts = queue.drain().await;
//! assert_eq!(attempts.len(), 5);
//! assert!(matches!(attempts[0].decision, Decision::Retry { .. }));
//! assert!(matches!(attempts[4].decision, Decision::Dead { .. }));
//! # });
//! ```
//!
//! The same with a server:
//!
//! ```no_run
//! # use consumer::{Failure, Job, Registry};
//! # use serde::{Deserialize, Serialize};
//! # #[derive(Serialize, Deserialize)]
//! # struct SendMail {
//! #     to: String,
//! # }
//! # impl Job for SendMail {
//! #     const KIND: &'static str = "mail.send";
//! #     type Output = ();
//! # }
//! use std::time::Duration;
//!
//! use consumer::testing::{End, System};
//!
//! # async fn example() -> anyhow::Result<()> {
//! let away = async |_: SendMail| Err(Failure::transient(std::io::Error::other("away")));
//! let mut system = System::start(Registry::new().with_job(away)).await?;
//! let jobs = system.client().clone();
//! let mail = SendMail { to: "a@example.org".to_owned() };
//! let handle = jobs.submit(mail).delay(Duration::from_hours(1)).await?;
//! assert!(system.run_due().await?.is_empty());
//! system.advance(Duration::from_hours(1)).await?;
//! let ended = system.drain().await?;
//! assert_eq!((ended[0].id, ended[0].attempts), (handle.id(), 5));
//! assert!(matches!(ended[0].end, End::Dead { .. }));
//! system.stop().await?;
//! # Ok(())
//! # }
//! ```

mod queue;
#[cfg(feature = "testing")]
mod server;
#[cfg(feature = "testing")]
mod system;

pub use queue::{Attempted, Decision, Queue, run};
#[cfg(feature = "testing")]
pub use system::{End, Ended, System};
