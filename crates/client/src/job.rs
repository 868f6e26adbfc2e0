use async_nats::HeaderMap;
use bytes::Bytes;
use common::{DecodeError, Job, JobId, JobKind, Priority, Timestamp};

/// A job to be handed over.
#[derive(Clone, Debug)]
pub struct NewJob {
    /// Its identity: a job with an id that is known is not stored again.
    pub id: JobId,
    /// Whether the id was made for this job and given to nobody. Such a job is cheaper to store and
    /// to take. It is handed over once: after an error, set this to `false` and submit it again.
    pub fresh: bool,
    /// Its kind.
    pub kind: JobKind,
    /// Which jobs go first.
    pub priority: Priority,
    /// Not before this: a consumer that gets the job earlier puts it off.
    pub run_at: Option<Timestamp>,
    /// The whole job as JSON, with whatever else it says of itself. Its kind, and its id if it has
    /// one there, must be those above, or consumers refuse it.
    pub payload: Bytes,
    /// Headers that travel with it.
    pub headers: HeaderMap,
}

impl NewJob {
    /// Reads a job; one without an id or a time of creation is given one.
    ///
    /// # Errors
    /// When the bytes are not a job; the error names the field.
    pub fn decode(payload: Bytes) -> Result<Self, DecodeError> {
        let mut job = Job::decode(&payload)?;
        let fresh = job.id.is_none();
        let id = *job.id.get_or_insert_with(JobId::generate);
        let (priority, run_at) = (job.priority, job.run_at);
        let rewritten = if fresh {
            job.created_at.get_or_insert_with(Timestamp::now);
            // What was read can be written: this is never nothing.
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
