//! Every RPC of the API with bytes that mean nothing and with values that nobody would send: an error or an answer, never a
//! panic, never a word of an inner fault, and a service and a journal that are as good as before.

use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::time::{Duration, Instant};

use prost::Message;
use prost_reflect::{
    DescriptorPool, DynamicMessage, FieldDescriptor, Kind, MapKey, MessageDescriptor, Value,
};
use temporalio_protos::temporal::api::command::v1::command::Attributes as Do;
use temporalio_protos::temporal::api::command::v1::{Command, ScheduleActivityTaskCommandAttributes};
use temporalio_protos::temporal::api::common::v1::{ActivityType, WorkflowType};
use temporalio_protos::temporal::api::taskqueue::v1::TaskQueue;
use temporalio_protos::temporal::api::workflowservice::v1::*;
use tonic::{Code, Status};

use super::super::journal::{Journal, MemoryJournal, Store};
use super::super::listen::DESCRIPTORS;
use super::super::{Caller, Clock, Mode, NAMESPACE, Service, WORKFLOW_SERVICE};

/// A long poll is let go of after so long.
const PATIENCE: Duration = Duration::from_millis(20);
/// So many requests of each RPC, or as many as there is time for.
const REQUESTS: usize = 200;
const TIME_FOR_ONE_RPC: Duration = Duration::from_millis(700);
/// Messages in messages, at most so deep.
const DEPTH: usize = 5;

/// Bytes that are no message of any type.
fn malformed() -> [Vec<u8>; 4] {
    [
        vec![0xff; 11],
        // A field that is longer than the message.
        vec![0x0a, 0xff, 0xff, 0xff, 0xff, 0x0f],
        // Groups in groups in groups.
        vec![0x0b; 10_000],
        // The end of a group that never began.
        vec![0x0c],
    ]
}

/// SplitMix64.
struct Random(u64);

impl Random {
    fn below(&mut self, end: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        usize::try_from((mixed ^ (mixed >> 31)) % u64::try_from(end).unwrap()).unwrap()
    }

    fn one_of<T: Clone>(&mut self, these: &[T]) -> T {
        these[self.below(these.len())].clone()
    }
}

/// Makes requests of any type: now and then what the service knows, else what it does not expect.
struct Absurd {
    random: Random,
    known_texts: Vec<String>,
    known_bytes: Vec<Vec<u8>>,
}

impl Absurd {
    fn message(&mut self, descriptor: &MessageDescriptor, depth: usize) -> DynamicMessage {
        let mut message = DynamicMessage::new(descriptor.clone());
        for field in descriptor.fields() {
            if self.random.below(3) > 0 && (depth < DEPTH || !matches!(field.kind(), Kind::Message(_))) {
                let value = self.field(&field, depth);
                message.set_field(&field, value);
            }
        }
        message
    }

    fn field(&mut self, field: &FieldDescriptor, depth: usize) -> Value {
        let several = self.random.below(3);
        if field.is_map() {
            let kind = field.kind();
            let entry = kind.as_message().unwrap();
            let (key, value) = (entry.map_entry_key_field(), entry.map_entry_value_field());
            let entries = (0..several).filter_map(|_| {
                let key = match self.single(&key, depth) {
                    Value::String(key) => MapKey::String(key),
                    Value::I32(key) => MapKey::I32(key),
                    Value::I64(key) => MapKey::I64(key),
                    _ => return None,
                };
                Some((key, self.single(&value, depth + 1)))
            });
            return Value::Map(entries.collect());
        }
        if field.is_list() {
            return Value::List((0..several).map(|_| self.single(field, depth)).collect());
        }
        self.single(field, depth)
    }

    fn single(&mut self, field: &FieldDescriptor, depth: usize) -> Value {
        let random = &mut self.random;
        let number = random.one_of(&[0, 1, 2, 5, -1, 1 << 40, i64::MAX, i64::MIN, i64::MAX / 1_000_000]);
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "any value will do"
        )]
        match field.kind() {
            Kind::Message(message) => Value::Message(self.message(&message, depth + 1)),
            Kind::Enum(_) => {
                Value::EnumNumber(random.one_of(&[0, 1, 2, 3, 4, 7, 99, -1, i32::MAX, i32::MIN]))
            }
            Kind::Bool => Value::Bool(random.below(2) == 0),
            Kind::Int32 | Kind::Sint32 | Kind::Sfixed32 => Value::I32(number as i32),
            Kind::Int64 | Kind::Sint64 | Kind::Sfixed64 => Value::I64(number),
            Kind::Uint32 | Kind::Fixed32 => Value::U32(number as u32),
            Kind::Uint64 | Kind::Fixed64 => Value::U64(number as u64),
            Kind::Float => Value::F32(random.one_of(&[0.0, f32::NAN, f32::INFINITY, -1.0])),
            Kind::Double => Value::F64(random.one_of(&[0.0, 0.5, f64::NAN, f64::NEG_INFINITY, 1e300])),
            Kind::String => Value::String(self.text(field.name())),
            Kind::Bytes => {
                let bytes = if random.below(4) > 0 {
                    random.one_of(&self.known_bytes)
                } else {
                    random.one_of(&[vec![], vec![0xff; 40], b"nobody/7".to_vec(), vec![0; 100_000]])
                };
                Value::Bytes(bytes.into())
            }
        }
    }

    fn text(&mut self, field: &str) -> String {
        let random = &mut self.random;
        if field == "namespace" && random.below(10) > 0 {
            return NAMESPACE.to_owned();
        }
        let long = "x".repeat(1001);
        match random.below(5) {
            0 => random
                .one_of(&["", "\0", "a/b", "' OR 1=1", "\u{202e}", &long])
                .to_owned(),
            _ => random.one_of(&self.known_texts),
        }
    }
}

async fn call<Q: Message, A: Message + Default>(
    service: &Service,
    rpc: &str,
    request: Q,
) -> Result<A, Status> {
    let path = format!("/{WORKFLOW_SERVICE}/{rpc}");
    let answer = service
        .call(Caller::Remote, &path, &request.encode_to_vec())
        .await?;
    Ok(A::decode(answer.as_slice()).unwrap())
}

/// Starts a workflow that schedules an activity; its tokens and names are known from then on.
async fn meet(service: &Service, absurd: &mut Absurd) {
    let queue = format!("q{}", absurd.random.below(usize::MAX));
    let task_queue = Some(TaskQueue {
        name: queue.clone(),
        ..Default::default()
    });
    let start = StartWorkflowExecutionRequest {
        namespace: NAMESPACE.into(),
        workflow_id: format!("w{queue}"),
        workflow_type: Some(WorkflowType { name: "T".into() }),
        task_queue: task_queue.clone(),
        ..Default::default()
    };
    let started: StartWorkflowExecutionResponse =
        call(service, "StartWorkflowExecution", start).await.unwrap();
    let poll = || PollWorkflowTaskQueueRequest {
        namespace: NAMESPACE.into(),
        task_queue: task_queue.clone(),
        ..Default::default()
    };
    let task: PollWorkflowTaskQueueResponse = call(service, "PollWorkflowTaskQueue", poll()).await.unwrap();
    let minute = Some(prost_types::Duration {
        seconds: 60,
        nanos: 0,
    });
    let schedule = Do::ScheduleActivityTaskCommandAttributes(ScheduleActivityTaskCommandAttributes {
        activity_id: "a".into(),
        activity_type: Some(ActivityType { name: "A".into() }),
        task_queue: task_queue.clone(),
        start_to_close_timeout: minute,
        ..Default::default()
    });
    let completed = RespondWorkflowTaskCompletedRequest {
        task_token: task.task_token,
        commands: vec![Command {
            attributes: Some(schedule),
            ..Default::default()
        }],
        force_create_new_workflow_task: true,
        ..Default::default()
    };
    let _: RespondWorkflowTaskCompletedResponse = call(service, "RespondWorkflowTaskCompleted", completed)
        .await
        .unwrap();
    let activity = PollActivityTaskQueueRequest {
        namespace: NAMESPACE.into(),
        task_queue: task_queue.clone(),
        ..Default::default()
    };
    let activity: PollActivityTaskQueueResponse =
        call(service, "PollActivityTaskQueue", activity).await.unwrap();
    let next: PollWorkflowTaskQueueResponse = call(service, "PollWorkflowTaskQueue", poll()).await.unwrap();
    absurd.known_bytes = vec![
        activity.task_token,
        next.task_token,
        format!("{}/1", started.run_id).into_bytes(),
        format!("{}/-9", started.run_id).into_bytes(),
    ];
    let texts = [
        format!("w{queue}"),
        started.run_id,
        queue,
        "a".into(),
        "T".into(),
        String::new(),
    ];
    absurd.known_texts = texts.to_vec();
    let queries = [
        "WorkflowId = 'w'",
        "ExecutionStatus='Running' AND",
        "a = b = c",
        "ORDER BY",
    ];
    absurd.known_texts.extend(queries.map(str::to_owned));
}

/// What is wrong with what became of a request, if anything is.
async fn fault(service: &Service, rpc: &str, request: Vec<u8>, is_malformed: bool) -> Option<String> {
    let path = format!("/{WORKFLOW_SERVICE}/{rpc}");
    let called = service.clone();
    let asked = tokio::spawn(async move {
        let answer = called.call(Caller::Remote, &path, &request);
        tokio::time::timeout(PATIENCE, answer).await
    });
    match asked.await {
        Err(panic) => Some(format!("it panics: {panic}")),
        // A long poll, which has found nothing wrong.
        Ok(Err(_)) if is_malformed => Some("it waits".to_owned()),
        Ok(Err(_)) => None,
        Ok(Ok(Ok(_))) => is_malformed.then(|| "it is answered".to_owned()),
        Ok(Ok(Err(status))) => match status.code() {
            Code::Internal | Code::Unknown | Code::DataLoss => Some(format!("{status:?}")),
            _ => None,
        },
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_rpc_panics_whatever_it_is_sent() {
    let given = std::env::var("LONGHAUL_TEST_SEED").ok();
    let seed = given.map_or_else(|| RandomState::new().hash_one(()), |seed| seed.parse().unwrap());
    let tried = tokio::spawn(try_every_rpc(seed)).await;
    tried.unwrap_or_else(|error| panic!("LONGHAUL_TEST_SEED={seed}: {error}"));
}

async fn try_every_rpc(seed: u64) {
    let pool = DescriptorPool::decode(DESCRIPTORS).unwrap();
    let api = pool.get_service_by_name(WORKFLOW_SERVICE).unwrap();
    let journal: Arc<dyn Journal> = Arc::new(MemoryJournal::default());
    let open = || {
        Service::open(
            Store::open(Arc::clone(&journal)).unwrap(),
            Clock::System,
            Mode::Serve,
        )
        .unwrap()
    };
    let service = open();
    let mut absurd = Absurd {
        random: Random(seed),
        known_texts: Vec::new(),
        known_bytes: Vec::new(),
    };
    let mut faults = Vec::new();
    let (mut rpcs, mut implemented) = (0, 0);
    for method in api.methods() {
        let rpc = method.name();
        rpcs += 1;
        for request in malformed() {
            let wrong = fault(&service, rpc, request, true).await;
            faults.extend(wrong.map(|words| format!("{rpc}, malformed: {words}")));
        }
        let empty = call::<(), ()>(&service, rpc, ());
        let empty = tokio::time::timeout(PATIENCE, empty).await;
        if matches!(&empty, Ok(Err(status)) if status.code() == Code::Unimplemented) {
            continue;
        }
        implemented += 1;
        let end = Instant::now() + TIME_FOR_ONE_RPC;
        for number in 0..REQUESTS {
            if Instant::now() > end {
                break;
            }
            if number % 5 == 0 {
                meet(&service, &mut absurd).await;
            }
            let seed = absurd.random.0;
            let request = absurd.message(&method.input(), 0).encode_to_vec();
            let wrong = fault(&service, rpc, request, false).await;
            faults.extend(wrong.map(|words| format!("{rpc}, from {seed}: {words}")));
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
    assert!(
        rpcs > 80 && implemented > 20,
        "{rpcs} RPCs, {implemented} of them implemented"
    );
    // It goes on as before, and so does the next process.
    meet(&service, &mut absurd).await;
    drop(service);
    meet(&open(), &mut absurd).await;
}

#[tokio::test]
async fn no_rpc_knows_another_namespace() {
    let pool = DescriptorPool::decode(DESCRIPTORS).unwrap();
    let api = pool.get_service_by_name(WORKFLOW_SERVICE).unwrap();
    let store = Store::open(Arc::new(MemoryJournal::default())).unwrap();
    let service = Service::open(store, Clock::System, Mode::Serve).unwrap();
    let mut asked = 0;
    for method in api.methods() {
        let Some(field) = method.input().get_field_by_name("namespace") else {
            continue;
        };
        let mut request = DynamicMessage::new(method.input());
        request.set_field(&field, Value::String("other".to_owned()));
        let path = format!("/{WORKFLOW_SERVICE}/{}", method.name());
        let answer = service
            .call(Caller::Remote, &path, &request.encode_to_vec())
            .await;
        let status = answer.expect_err("there is no such namespace");
        if status.code() == Code::Unimplemented {
            continue;
        }
        asked += 1;
        assert_eq!(status.code(), Code::NotFound, "{path}: {status}");
        let details = String::from_utf8_lossy(status.details()).into_owned();
        assert!(details.contains("NamespaceNotFoundFailure"), "{path}: {status}");
    }
    assert!(asked >= 30, "{asked} RPCs");
}
