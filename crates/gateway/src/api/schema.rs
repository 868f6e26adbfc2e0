//! What crosses the wire on NATS as well has its schema from `common`; here it has a name.

use std::borrow::Cow;

use schemars::generate::SchemaSettings;
use schemars::{JsonSchema, SchemaGenerator};
use serde_json::{Map, Value, json};
use utoipa::openapi::schema::{OneOfBuilder, Ref, Schema};
use utoipa::openapi::{ObjectBuilder, RefOr};
use utoipa::{PartialSchema, ToSchema};

use super::many::MOST;

macro_rules! wire {
    ($($name:ident is $wire:ty as $text:literal;)*) => {
        $(
            pub(crate) struct $name;

            impl PartialSchema for $name {
                /// A place for the schema that [`definitions`] gives.
                fn schema() -> RefOr<Schema> {
                    ObjectBuilder::new().into()
                }
            }

            impl ToSchema for $name {
                fn name() -> Cow<'static, str> {
                    Cow::Borrowed($text)
                }
            }
        )*

        /// The schemas of all of them, and of what they are made of.
        pub(super) fn definitions() -> Map<String, Value> {
            let mut generator = generator();
            let mut all = Map::new();
            $(
                let name = <$wire as JsonSchema>::schema_name();
                let schema = generator.subschema_for::<$wire>();
                // Some are written where they are used, instead of once.
                if schema.as_object().is_none_or(|object| !object.contains_key("$ref")) {
                    all.insert($text.to_owned(), schema.to_value());
                } else if name != $text {
                    all.insert($text.to_owned(), reference(&name));
                }
            )*
            all.extend(generator.take_definitions(true));
            all
        }
    };
}

wire! {
    Job is common::Job<'_> as "Job";
    Record is common::JobRecord as "JobRecord";
    State is common::JobState as "JobState";
    Reason is common::DeadReason as "DeadReason";
    Attempt is common::FailedAttempt as "FailedAttempt";
    Outcome is common::Outcome as "Outcome";
    Error is common::OutcomeError as "OutcomeError";
    Fleet is common::Fleet as "Fleet";
    Kind is common::JobKind as "JobKind";
    Moment is common::Timestamp as "Timestamp";
    Duration is common::WireDuration as "Duration";
}

fn generator() -> SchemaGenerator {
    let settings = SchemaSettings::draft2020_12().with(|settings| {
        settings.definitions_path = "/components/schemas".into();
    });
    SchemaGenerator::new(settings)
}

/// The stream of events of a job. `OpenAPI` 3.1 has no word for its items: they have
/// a name of ours.
pub(super) fn events() -> [(&'static str, Value); 2] {
    let stream = json!({
        "type": "string",
        "contentMediaType": "text/event-stream",
        "description": "Server-Sent Events, each a `RecordEvent`, and comments where nothing happens.",
        "x-event": reference("RecordEvent"),
    });
    let event = json!({
        "type": "object",
        "description": "One event: its fields as the client has read them.",
        "required": ["event", "id", "data"],
        "properties": {
            "event": {"const": "record"},
            "id": {
                "type": "string",
                "pattern": "^[0-9]+-[0-9]+-[0-9]+$",
                "description": "Where in its life the job was, to come back with as `Last-Event-ID`.",
            },
            "retry": {
                "type": "integer",
                "description": "When whoever loses the stream is to come back, in milliseconds.",
            },
            "data": {
                "type": "string",
                "contentMediaType": "application/json",
                "contentSchema": reference("JobRecord"),
            },
        },
    });
    [("RecordEvents", stream), ("RecordEvent", event)]
}

pub(super) fn reference(name: &str) -> Value {
    json!({"$ref": format!("#/components/schemas/{name}")})
}

macro_rules! either {
    ($(#[$doc:meta] $name:ident as $text:literal: $($one:literal),+;)*) => {
        $(
            #[$doc]
            pub(crate) struct $name;

            impl PartialSchema for $name {
                fn schema() -> RefOr<Schema> {
                    OneOfBuilder::new()
                        $(.item(Ref::from_schema_name($one)))+
                        .into()
                }
            }

            impl ToSchema for $name {
                fn name() -> Cow<'static, str> {
                    Cow::Borrowed($text)
                }
            }
        )*
    };
}

either! {
    /// The answer for one job that has ended, or for many.
    OutcomeOrEnded as "OutcomeOrEnded": "Outcome", "Ended", "Many";
    /// The answer for one job, or for many.
    AcceptedOrMany as "AcceptedOrMany": "Accepted", "Many";
}

/// The body of a submission.
pub(crate) struct OneOrMany;

impl PartialSchema for OneOrMany {
    fn schema() -> RefOr<Schema> {
        let job = Ref::from_schema_name("Job");
        let jobs = utoipa::openapi::ArrayBuilder::new()
            .items(job.clone())
            .min_items(Some(1))
            .max_items(Some(MOST));
        OneOfBuilder::new().item(job).item(jobs).into()
    }
}

impl ToSchema for OneOrMany {
    fn name() -> Cow<'static, str> {
        Cow::Borrowed("OneOrMany")
    }
}
