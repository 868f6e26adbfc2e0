//! Names for the schemas of `common`, and schemas that the derive macro cannot make.

use std::borrow::Cow;

use schemars::generate::SchemaSettings;
use schemars::{JsonSchema, SchemaGenerator};
use serde_json::{Map, Value, json};
use utoipa::openapi::schema::{OneOfBuilder, Ref, Schema};
use utoipa::openapi::{ObjectBuilder, RefOr};
use utoipa::{PartialSchema, ToSchema};

use super::body::MAX_JOBS;

macro_rules! wire {
    ($($name:ident is $wire:ty as $text:literal;)*) => {
        $(
            pub(crate) struct $name;

            impl PartialSchema for $name {
                /// A placeholder: [`definitions`] has the schema.
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

        /// All these schemas, and those that they refer to.
        pub(super) fn definitions() -> Map<String, Value> {
            let mut generator = generator();
            let mut all = Map::new();
            $(
                let name = <$wire as JsonSchema>::schema_name();
                let schema = generator.subschema_for::<$wire>();
                // Some schemas are inlined where they are used.
                if schema.as_object().is_none_or(|object| !object.contains_key("$ref")) {
                    all.insert($text.to_owned(), schema.to_value());
                } else if name != $text {
                    all.insert($text.to_owned(), reference(&name));
                }
            )*
            all.extend(generator.take_definitions(true));
            all.values_mut().for_each(flatten_words);
            all
        }
    };
}

wire! {
    Job is common::JobMessage<'_> as "Job";
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
    Schedule is common::Schedule as "Schedule";
    ScheduleName is common::ScheduleName as "ScheduleName";
}

/// Makes one list of words of a schema that is one of several constants, each with a description:
/// generators of clients know enumerations, and few know constants. The descriptions are put together.
fn flatten_words(schema: &mut Value) {
    let Some(object) = schema.as_object_mut() else {
        return;
    };
    let mut words = Vec::new();
    let mut described = Vec::new();
    for one in object
        .get("oneOf")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
    {
        // Variants without a description share one list.
        let listed = one["enum"].as_array().into_iter().flatten();
        let named: Vec<_> = one["const"]
            .as_str()
            .into_iter()
            .chain(listed.filter_map(Value::as_str))
            .collect();
        if named.is_empty() {
            return;
        }
        for word in &named {
            let description = one["description"].as_str().unwrap_or_default();
            described.push(format!("- `{word}`: {description}"));
        }
        words.extend(named.into_iter().map(ToOwned::to_owned));
    }
    if words.is_empty() {
        return;
    }
    object.remove("oneOf");
    let description = object.get("description").and_then(Value::as_str);
    let description = format!(
        "{}\n\n{}",
        description.unwrap_or_default(),
        described.join("\n")
    );
    object.insert("type".to_owned(), "string".into());
    object.insert("enum".to_owned(), words.into());
    object.insert("description".to_owned(), description.into());
}

fn generator() -> SchemaGenerator {
    let settings = SchemaSettings::draft2020_12().with(|settings| {
        settings.definitions_path = "/components/schemas".into();
    });
    SchemaGenerator::new(settings)
}

/// The event stream of a job. `OpenAPI` 3.1 cannot describe the events of a stream, so they are named by
/// an extension.
pub(super) fn events() -> [(&'static str, Value); 2] {
    let stream = json!({
        "type": "string",
        "contentMediaType": "text/event-stream",
        "description": "Server-Sent Events, each a `RecordEvent`, with comments while nothing happens.",
        "x-event": reference("RecordEvent"),
    });
    let event = json!({
        "type": "object",
        "description": "The fields of one event, as a client reads them.",
        "required": ["event", "id", "data"],
        "properties": {
            "event": {"const": "record"},
            "id": {
                "type": "string",
                "pattern": "^[0-9]+-[0-9]+-[0-9]+$",
                "description": "The position of the record in the history of the job: send it as `Last-Event-ID` to go on from there.",
            },
            "retry": {
                "type": "integer",
                "description": "How long to wait before connecting again if the stream breaks off, in milliseconds.",
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
    /// The result of one job that has ended, or of many jobs; or the job that holds a key.
    OutcomeOrEnded as "OutcomeOrEnded": "Outcome", "Ended", "Many", "Accepted";
    /// The result of one job, or of many jobs.
    AcceptedOrMany as "AcceptedOrMany": "Accepted", "Many";
    /// A stored schedule, or the ticks of one that was not stored.
    ViewOrPreview as "ScheduleViewOrPreview": "ScheduleView", "SchedulePreview";
}

/// The body of a submission.
pub(crate) struct OneOrMany;

impl PartialSchema for OneOrMany {
    fn schema() -> RefOr<Schema> {
        let job = Ref::from_schema_name("Job");
        let jobs = utoipa::openapi::ArrayBuilder::new()
            .items(job.clone())
            .min_items(Some(1))
            .max_items(Some(MAX_JOBS));
        OneOfBuilder::new().item(job).item(jobs).into()
    }
}

impl ToSchema for OneOrMany {
    fn name() -> Cow<'static, str> {
        Cow::Borrowed("OneOrMany")
    }
}
