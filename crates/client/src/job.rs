use async_nats::HeaderMap;
use bytes::Bytes;
use common::{DecodeError, JobId, JobKind, JobMessage, Priority, Timestamp};

/// A job to submit.
#[derive(Clone, Debug)]
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
        let kind = job.kind;
        Ok(Self {
            id,
            fresh,
            kind,
            priority,
            run_at,
            payload: rewritten.map_or(payload, Bytes::from),
            headers: HeaderMap::new(),
        })
    }
}
