//! Bounds what clients cost: requests under way, waiting requests, event streams, bytes of bodies.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::http::{HeaderMap, StatusCode, header};
use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt as _;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, SemaphorePermit};

use super::problem::Problem;
use crate::config::LimitOptions;

/// The most bytes of a body that holds many jobs.
pub(crate) const MAX_BODY_OF_MANY_JOBS: usize = 8 << 20;

/// The most bytes of all bodies in memory at a time.
const MAX_BODIES: usize = 128 << 20;

/// How long a client may take to send a body, however fast each piece of it comes.
const BODY_TIMEOUT: Duration = Duration::from_mins(1);

/// Counts what clients use.
pub(crate) struct Limits {
    requests: Semaphore,
    waiting: Arc<Semaphore>,
    streams: Arc<Semaphore>,
    bodies: Arc<Semaphore>,
    idle: Duration,
}

/// The body of a request, and its share of the memory for bodies.
pub(crate) struct ReceivedBody {
    pub(crate) bytes: Bytes,
    _share: Option<OwnedSemaphorePermit>,
}

impl Limits {
    pub(crate) fn new(options: &LimitOptions) -> Self {
        Self {
            requests: Semaphore::new(options.requests as usize),
            waiting: Arc::new(Semaphore::new(options.waiting as usize)),
            streams: Arc::new(Semaphore::new(options.waiting as usize)),
            bodies: Arc::new(Semaphore::new(MAX_BODIES)),
            idle: options.idle,
        }
    }

    /// A place among the requests that are being answered.
    pub(crate) fn request(&self) -> Result<SemaphorePermit<'_>, Problem> {
        let full = |_| Problem::too_many("too many requests are under way (--requests)");
        self.requests.try_acquire().map_err(full)
    }

    /// A place among the requests that wait for a long time.
    pub(crate) fn wait(&self) -> Result<OwnedSemaphorePermit, Problem> {
        self.wait_for(1)
    }

    /// A place among the event streams. They have no end of their own, so they are counted apart.
    pub(crate) fn stream(&self) -> Result<OwnedSemaphorePermit, Problem> {
        let full = |_| Problem::too_many("too many event streams are open (--waiting)");
        Arc::clone(&self.streams).try_acquire_owned().map_err(full)
    }

    /// So many places among the requests that wait for a long time.
    pub(crate) fn wait_for(&self, jobs: u32) -> Result<OwnedSemaphorePermit, Problem> {
        let full = |_| Problem::too_many("too many requests wait for the end of a job (--waiting)");
        Arc::clone(&self.waiting)
            .try_acquire_many_owned(jobs)
            .map_err(full)
    }

    /// Reads a body. Reading ends early if it is too large, or comes too slowly.
    pub(crate) async fn read(
        &self,
        headers: &HeaderMap,
        body: Body,
        max: usize,
    ) -> Result<ReceivedBody, Problem> {
        let too_large = || {
            let text = format!("the body is larger than {max} bytes");
            Problem::new(StatusCode::PAYLOAD_TOO_LARGE, text)
        };
        let announced = headers
            .get(header::CONTENT_LENGTH)
            .and_then(|value| value.to_str().ok()?.parse::<usize>().ok());
        if announced.is_some_and(|announced| announced > max) {
            return Err(too_large());
        }
        let reading = self.read_pieces(body, max, too_large);
        let slow = || Problem::new(StatusCode::REQUEST_TIMEOUT, "the body came too slowly");
        let read = tokio::time::timeout(BODY_TIMEOUT, reading).await;
        read.map_err(|_| slow())?
    }

    async fn read_pieces(
        &self,
        mut body: Body,
        max: usize,
        too_large: impl Fn() -> Problem,
    ) -> Result<ReceivedBody, Problem> {
        let mut share: Option<OwnedSemaphorePermit> = None;
        let mut first = Bytes::new();
        let mut all = BytesMut::new();
        loop {
            let frame = match tokio::time::timeout(self.idle, body.frame()).await {
                Ok(Some(Ok(frame))) => frame,
                Ok(Some(Err(error))) => {
                    let text = format!("the body broke off: {error}");
                    return Err(Problem::new(StatusCode::BAD_REQUEST, text));
                }
                Ok(None) => break,
                Err(_) => {
                    let text = "the body came too slowly";
                    return Err(Problem::new(StatusCode::REQUEST_TIMEOUT, text));
                }
            };
            let Ok(piece) = frame.into_data() else {
                continue;
            };
            let length = first.len() + all.len() + piece.len();
            if length > max {
                return Err(too_large());
            }
            let pieces = u32::try_from(piece.len()).map_err(|_| too_large())?;
            let more = Arc::clone(&self.bodies).try_acquire_many_owned(pieces);
            let more = more.map_err(|_| {
                Problem::too_many(
                    "the bodies of requests use all the memory that is set apart for them",
                )
            })?;
            match &mut share {
                Some(share) => share.merge(more),
                None => share = Some(more),
            }
            // Most bodies are one piece, which is not copied.
            if first.is_empty() && all.is_empty() {
                first = piece;
            } else {
                if all.is_empty() {
                    all.extend_from_slice(&std::mem::take(&mut first));
                }
                all.extend_from_slice(&piece);
            }
        }
        let bytes = if all.is_empty() { first } else { all.freeze() };
        Ok(ReceivedBody {
            bytes,
            _share: share,
        })
    }
}
