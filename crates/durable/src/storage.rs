//! What the lane takes of the server, told to whoever may see neither jobs nor records.

use bootstrap::Client;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::api::{self, ApiError};
use crate::topology::Stream;

/// How much all streams of the account hold together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Storage {
    /// Bytes that are stored.
    pub bytes: u64,
    /// The most that may be, if there is a limit.
    pub limit_bytes: Option<u64>,
}

/// How much the account stores; `None` where there is no JetStream.
///
/// # Errors
/// When the server does not answer in time.
pub async fn storage(client: &Client) -> anyhow::Result<Option<Storage>> {
    #[derive(Deserialize)]
    struct Info {
        storage: u64,
        limits: Limits,
    }
    #[derive(Deserialize)]
    struct Limits {
        max_storage: i64,
    }
    let info = api::ask::<Info>(client, "$JS.API.INFO".to_owned(), &Value::Null).await;
    match info {
        Ok(info) => Ok(Some(Storage {
            bytes: info.storage,
            limit_bytes: u64::try_from(info.limits.max_storage)
                .ok()
                .filter(|limit| *limit > 0),
        })),
        Err(ApiError::Refused { .. } | ApiError::NoJetStream(_)) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// How many dead letters there are, without a look at any of them; `None` without the stream.
///
/// The server adds up their subjects for it, so this is not for every second.
///
/// # Errors
/// When the server does not answer in time.
pub async fn dead_letters(client: &Client) -> anyhow::Result<Option<u64>> {
    #[derive(Deserialize)]
    struct Info {
        /// Not there when there are none.
        #[serde(default)]
        total: u64,
    }
    // A page of subjects behind all that there can be: how many there are is told, but not which.
    let page = json!({"subjects_filter": "jobs.dead.>", "offset": i32::MAX});
    let subject = format!("$JS.API.STREAM.INFO.{}", Stream::State);
    match api::ask::<Info>(client, subject, &page).await {
        Ok(info) => Ok(Some(info.total)),
        Err(ApiError::Refused { .. } | ApiError::NoJetStream(_)) => Ok(None),
        Err(error) => Err(error.into()),
    }
}
