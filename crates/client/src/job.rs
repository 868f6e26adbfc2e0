use async_nats::HeaderMap;
use bytes::Bytes;
use common::{DecodeError, JobId, JobKind, JobMessage, Priority, Timestamp, Unique};

/// A job to submit.
///
/// ```
/// use client::NewJob;
///
/// let job = NewJob::decode(r#"{"kind": "mail.send", "payload": {"to": "a@example.org"}}"#.into())?;
/// assert_eq!(job.kind.as_str(), "mail.send");
/// assert!(!format!("{job:?}").contains("example.org"), "payloads are not logged");
/// # Ok::<(), common::DecodeError>(())
/// ```
#[derive(Clone)]
pub struct NewJob {
    /// Its id: a job whose id is known is not stored again.
    pub id: JobId,
    /// Whether the id was generated for this job and no other program knows it. Such a job is cheaper
    /// to store and to take. Submit it only once: after an error, set this to `false` and submit it
    /// again.
    pub fresh: bool,
    /// Its kind.
    pub kind: JobKind,
    /// Its priority.
    pub priority: Priority,
    /// The job does not run before this time: a consumer that gets it earlier puts it off.
    pub run_at: Option<Timestamp>,
    /// The job is stored only if no other job of its kind holds the same key; see
    /// [`Draft::unique`](crate::Draft::unique).
    pub unique: Option<Unique>,
    /// The whole job as JSON, with all its fields. Its kind, and its id if it has one, must equal the
    /// fields above; otherwise consumers refuse the job.
    pub payload: Bytes,
    /// The headers of its message.
    pub headers: HeaderMap,
}

impl NewJob {
    /// Reads a job. A job without an id gets one, and a time of creation if it has none.
    ///
    /// # Errors
    /// When the bytes are not a job; the error names the field.
    pub fn decode(payload: Bytes) -> Result<Self, DecodeError> {
        let mut job = JobMessage::decode(&payload)?;
        let fresh = job.id.is_none();
        let id = *job.id.get_or_insert_with(JobId::generate);
        let (priority, run_at) = (job.priority, job.run_at);
        let rewritten = if fresh {
            job.created_at.get_or_insert_with(Timestamp::now);
            // A job that was decoded can be encoded, so this is always `Some`.
            serde_json::to_vec(&job).ok()
        } else {
            None
        };
        let (kind, unique) = (job.kind, job.unique);
        Ok(Self {
            id,
            fresh,
            kind,
            priority,
            run_at,
            unique,
            payload: rewritten.map_or(payload, Bytes::from),
            headers: HeaderMap::new(),
        })
    }
}

impl std::fmt::Debug for NewJob {
    /// Shows the size of the job in bytes instead of the job, and the headers without their values.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("NewJob")
            .field("id", &self.id)
            .field("fresh", &self.fresh)
            .field("kind", &self.kind)
            .field("priority", &self.priority)
            .field("run_at", &self.run_at)
            .field("unique", &self.unique)
            .field("bytes", &self.payload.len())
            .field("headers", &names(&self.headers))
            .finish()
    }
}

/// The names of headers, for people.
pub(crate) fn names(headers: &HeaderMap) -> Vec<&str> {
    headers.iter().map(|(name, _)| name.as_ref()).collect()
}
