//! An event in Temporal's own JSON form: protobuf's canonical JSON, as `temporal workflow show --output json` prints it.
//!
//! The protobuf crate's serde form has other names and numbers for enums; this walks it and says the same canonically:
//! camelCase, enums by name, 64-bit integers as strings, defaults left out, `oneof`s without their wrapper.

use serde_json::{Map, Value};
use temporalio_protos::temporal::api::enums::v1::{
    ApplicationErrorCategory, ContinueAsNewInitiator, EventType, RetryState, SuggestContinueAsNewReason,
    TaskQueueKind, TimeoutType, WorkflowTaskFailedCause,
};
use temporalio_protos::temporal::api::history::v1::HistoryEvent;

/// Fields of 64 bits: JavaScript's numbers do not hold them.
const INT64: [&str; 15] = [
    "acceptedEventId",
    "acceptedRequestSequencingEventId",
    "buildIdRedirectCounter",
    "eventId",
    "externalInitiatedEventId",
    "forkEventVersion",
    "historySizeBytes",
    "initiatedEventId",
    "latestCancelRequestedEventId",
    "parentInitiatedEventId",
    "scheduledEventId",
    "startedEventId",
    "taskId",
    "version",
    "workflowTaskCompletedEventId",
];
/// Maps: their keys are data, not names.
const MAPS: [&str; 4] = ["fields", "metadata", "indexedFields", "details"];
/// Fields whose value is one of several messages, named by the message.
const ONE_OF: [&str; 3] = ["attributes", "failureInfo", "value"];

/// The event as one JSON object.
#[must_use]
pub fn event_json(event: &HistoryEvent) -> Value {
    serde_json::to_value(event).map_or(Value::Null, |value| canonical(value, false))
}

fn canonical(value: Value, is_map: bool) -> Value {
    match value {
        Value::Object(fields) => {
            let mut object = Map::new();
            for (name, value) in fields {
                let name = if is_map { name } else { camel_case(&name) };
                if is_map {
                    object.insert(name, canonical(value, false));
                } else if ONE_OF.contains(&name.as_str()) && value.is_object() {
                    flatten(value, &mut object);
                } else if let Some(value) = field(&name, value) {
                    object.insert(name, value);
                }
            }
            Value::Object(object)
        }
        Value::Array(values) => values.into_iter().map(|value| canonical(value, false)).collect(),
        Value::String(text) => Value::String(shorter_duration(text)),
        other => other,
    }
}

/// A field's value, or nothing where it is the default of its type.
fn field(name: &str, value: Value) -> Option<Value> {
    let is_default = match &value {
        Value::Null | Value::Bool(false) => true,
        Value::Number(number) => number.as_f64() == Some(0.0),
        Value::String(text) => text.is_empty(),
        Value::Array(values) => values.is_empty(),
        _ => false,
    };
    if is_default {
        return None;
    }
    if let Some(number) = value.as_i64() {
        if let Some(name) = enum_name(name, number) {
            return Some(Value::String(name.to_owned()));
        }
        if INT64.contains(&name) {
            return Some(Value::String(number.to_string()));
        }
    }
    if let (true, Value::Array(numbers)) = (name == "suggestContinueAsNewReasons", &value) {
        let names = numbers
            .iter()
            .filter_map(|number| enum_name(name, number.as_i64()?));
        return Some(names.map(|name| Value::String(name.to_owned())).collect());
    }
    Some(canonical(value, MAPS.contains(&name)))
}

/// `{"Variant": {..}}` becomes `"variant": {..}`.
fn flatten(value: Value, into: &mut Map<String, Value>) {
    let Value::Object(variants) = value else { return };
    for (variant, value) in variants {
        let mut letters = variant.chars();
        let first = letters.next().map(|first| first.to_ascii_lowercase());
        into.insert(
            first.into_iter().chain(letters).collect(),
            canonical(value, false),
        );
    }
}

fn enum_name(field: &str, number: i64) -> Option<&'static str> {
    let number = i32::try_from(number).ok()?;
    Some(match field {
        "eventType" => EventType::try_from(number).ok()?.as_str_name(),
        "kind" => TaskQueueKind::try_from(number).ok()?.as_str_name(),
        "initiator" => ContinueAsNewInitiator::try_from(number).ok()?.as_str_name(),
        "retryState" => RetryState::try_from(number).ok()?.as_str_name(),
        "timeoutType" => TimeoutType::try_from(number).ok()?.as_str_name(),
        "category" => ApplicationErrorCategory::try_from(number).ok()?.as_str_name(),
        "cause" => WorkflowTaskFailedCause::try_from(number).ok()?.as_str_name(),
        "suggestContinueAsNewReasons" => SuggestContinueAsNewReason::try_from(number).ok()?.as_str_name(),
        _ => return None,
    })
}

fn camel_case(name: &str) -> String {
    let mut words = name.split('_');
    let mut camel = words.next().unwrap_or_default().to_owned();
    for word in words {
        let mut letters = word.chars();
        camel.extend(letters.next().map(|first| first.to_ascii_uppercase()));
        camel.extend(letters);
    }
    camel
}

/// `10.000000000s` is `10s`, and `0.500000000s` is `0.500s`: fractions have 0, 3, 6 or 9 digits.
fn shorter_duration(text: String) -> String {
    let parts = text.strip_suffix('s').and_then(|number| number.split_once('.'));
    let digits = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
    match parts {
        Some((seconds, nanos))
            if nanos.len() == 9 && digits(seconds.trim_start_matches('-')) && digits(nanos) =>
        {
            let mut nanos = nanos;
            while let Some(shorter) = nanos.strip_suffix("000") {
                nanos = shorter;
            }
            let point = if nanos.is_empty() { "" } else { "." };
            format!("{seconds}{point}{nanos}s")
        }
        _ => text,
    }
}

#[cfg(test)]
mod tests {
    use temporalio_protos::temporal::api::common::v1::{ActivityType, Header, Payload, Payloads};
    use temporalio_protos::temporal::api::failure::v1::failure::FailureInfo;
    use temporalio_protos::temporal::api::failure::v1::{ApplicationFailureInfo, Failure};
    use temporalio_protos::temporal::api::history::v1::history_event::Attributes;
    use temporalio_protos::temporal::api::history::v1::{
        ActivityTaskFailedEventAttributes, ActivityTaskScheduledEventAttributes,
    };
    use temporalio_protos::temporal::api::taskqueue::v1::TaskQueue;

    use super::*;

    fn json(event_type: EventType, attributes: Attributes) -> Value {
        event_json(&HistoryEvent {
            event_id: 5,
            event_time: Some(prost_types::Timestamp { seconds: 0, nanos: 0 }),
            event_type: event_type as i32,
            attributes: Some(attributes),
            ..Default::default()
        })
    }

    #[test]
    fn a_scheduled_activity_reads_as_temporal_writes_it() {
        let payload = Payload {
            metadata: [("encoding".to_owned(), b"json/plain".to_vec())].into(),
            data: b"{\"a_b\":1}".to_vec(),
            ..Default::default()
        };
        let seconds = |seconds| {
            Some(prost_types::Duration {
                seconds,
                nanos: 500_000_000 * i32::from(seconds == 0),
            })
        };
        let event = json(
            EventType::ActivityTaskScheduled,
            Attributes::ActivityTaskScheduledEventAttributes(ActivityTaskScheduledEventAttributes {
                activity_id: "1".into(),
                activity_type: Some(ActivityType {
                    name: "copy_batch".into(),
                }),
                task_queue: Some(TaskQueue {
                    name: "q".into(),
                    kind: 1,
                    ..Default::default()
                }),
                header: Some(Header::default()),
                input: Some(Payloads {
                    payloads: vec![payload],
                }),
                start_to_close_timeout: seconds(10),
                heartbeat_timeout: seconds(0),
                workflow_task_completed_event_id: 4,
                ..Default::default()
            }),
        );
        let expected = serde_json::json!({
            "eventId": "5",
            "eventTime": "1970-01-01T00:00:00Z",
            "eventType": "EVENT_TYPE_ACTIVITY_TASK_SCHEDULED",
            "activityTaskScheduledEventAttributes": {
                "activityId": "1",
                "activityType": {"name": "copy_batch"},
                "taskQueue": {"name": "q", "kind": "TASK_QUEUE_KIND_NORMAL"},
                "header": {},
                "input": {"payloads": [{"metadata": {"encoding": "anNvbi9wbGFpbg=="}, "data": "eyJhX2IiOjF9"}]},
                "startToCloseTimeout": "10s",
                "heartbeatTimeout": "0.500s",
                "workflowTaskCompletedEventId": "4"
            }
        });
        assert_eq!(event, expected);
    }

    #[test]
    fn a_failure_has_its_kind_by_name() {
        let info = ApplicationFailureInfo {
            r#type: "TypeMismatch".into(),
            non_retryable: true,
            ..Default::default()
        };
        let failure = Failure {
            message: "no".into(),
            failure_info: Some(FailureInfo::ApplicationFailureInfo(info)),
            ..Default::default()
        };
        let attributes = ActivityTaskFailedEventAttributes {
            failure: Some(failure),
            scheduled_event_id: 5,
            retry_state: 2,
            ..Default::default()
        };
        let event = json(
            EventType::ActivityTaskFailed,
            Attributes::ActivityTaskFailedEventAttributes(attributes),
        );
        let failed = &event["activityTaskFailedEventAttributes"];
        assert_eq!(
            failed["failure"]["applicationFailureInfo"]["type"], "TypeMismatch",
            "{event}"
        );
        assert_eq!(failed["retryState"], "RETRY_STATE_NON_RETRYABLE_FAILURE");
        assert_eq!(failed["scheduledEventId"], "5");
    }
}
