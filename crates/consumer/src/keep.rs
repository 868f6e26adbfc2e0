use serde::Deserialize;

/// Which durable jobs of a kind leave a record when they have ended.
///
/// Dead letters are always kept, and so are the records of cancelled and expired jobs. A job that ran for
/// longer than a second, or was retried, has a record all the same.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Keep {
    /// All.
    #[default]
    All,
    /// Not those that succeeded. This makes jobs cheaper: see the guide on what is lost.
    Failures,
}

/// ```
/// use consumer::{Attempt, Failure, Handler, Job, Keep};
/// use serde::{Deserialize, Serialize};
///
/// #[derive(Serialize, Deserialize)]
/// struct Count {
///     page: String,
/// }
///
/// impl Job for Count {
///     const KIND: &'static str = "page.count";
///     type Output = ();
/// }
///
/// /// Counts so many views that nothing is kept of each.
/// struct Counter;
///
/// impl Handler for Counter {
///     type Job = Count;
///
///     async fn handle(&self, count: Count, _: Attempt) -> Result<(), Failure> {
///         println!("{}", count.page);
///         Ok(())
///     }
///
///     fn keep(&self) -> Option<Keep> {
///         Some(Keep::Failures)
///     }
/// }
/// ```
impl Keep {
    /// Whether jobs that succeeded leave a record.
    pub(crate) fn successes(self) -> bool {
        self == Self::All
    }
}
