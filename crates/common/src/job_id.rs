use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// The identity of a job: a UUID.
///
/// ```
/// use common::JobId;
///
/// let id = JobId::generate();
/// assert_eq!(id.to_string().parse::<JobId>()?, id);
/// assert!(id < JobId::generate());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct JobId(Uuid);

impl JobId {
    /// A new id; later ids sort after earlier ones.
    #[must_use]
    pub fn generate() -> Self {
        Self(Uuid::now_v7())
    }

    /// The bytes as a UUID of version 8. Its version and variant replace six of the bits.
    #[must_use]
    pub fn from_custom_bytes(bytes: [u8; 16]) -> Self {
        Self(uuid::Builder::from_custom_bytes(bytes).into_uuid())
    }

    /// The id for a message of the durable lane that has no readable id: its sequence in the stream, as
    /// a UUID of version 8.
    #[must_use]
    pub fn of_unreadable(stream_sequence: u64) -> Self {
        let mut bytes = [0; 16];
        bytes[8..].copy_from_slice(&stream_sequence.to_be_bytes());
        Self::from_custom_bytes(bytes)
    }
}

impl FromStr for JobId {
    type Err = uuid::Error;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.parse().map(Self)
    }
}

impl fmt::Display for JobId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(feature = "schema")]
mod schema {
    use std::borrow::Cow;

    use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};

    use super::JobId;

    impl JsonSchema for JobId {
        fn schema_name() -> Cow<'static, str> {
            "JobId".into()
        }

        fn json_schema(_: &mut SchemaGenerator) -> Schema {
            json_schema!({
                "type": "string",
                "format": "uuid",
                "description": "The identity of a job.",
            })
        }
    }
}
