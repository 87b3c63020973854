//! One connection, from its client's end: what it is answered, in which encoding, and when it is sent away.

use std::sync::Arc;

use bytes::Bytes;
use prost::Message;
use temporalio_protos::grpc::health::v1::{HealthCheckRequest, HealthCheckResponse};
use temporalio_protos::temporal::api::common::v1::{Payload, Payloads, WorkflowType};
use temporalio_protos::temporal::api::taskqueue::v1::TaskQueue;
use temporalio_protos::temporal::api::workflowservice::v1::{
    GetSystemInfoResponse, GetWorkflowExecutionHistoryRequest, PollWorkflowTaskQueueRequest,
    StartWorkflowExecutionRequest,
};
use tokio::io::AsyncReadExt;
use tokio::net::UnixStream;
use tonic::client::Grpc;
use tonic::codec::CompressionEncoding::Gzip;
use tonic::transport::Channel;
use tonic::{Code, Request, Response, Status};

use super::super::journal::{MemoryJournal, Store};
use super::super::{Clock, Mode, NAMESPACE, WORKFLOW_SERVICE};
use super::*;

const IDLE: Duration = Duration::from_millis(300);
const KEY: &str = "0123456789abcdef";

/// A service behind a door, and the other end of a connection to it.
struct Served {
    stream: UnixStream,
    task: tokio::task::JoinHandle<()>,
    close: watch::Sender<bool>,
}

fn service() -> Service {
    let store = Store::open(Arc::new(MemoryJournal::default())).expect("a journal");
    Service::open(store, Clock::System, Mode::Serve).expect("a service")
}

fn served(keys: Option<ApiKeys>, idle_for: Duration) -> Served {
    let (stream, theirs) = UnixStream::pair().expect("two sockets");
    let (close, closing) = watch::channel(false);
    let door = Door {
        behind: Arc::new(service()),
        caller: Caller::Remote,
        keys: keys.map(Arc::new),
        idle_for,
        closing,
    };
    Served {
        stream,
        task: tokio::spawn(door.serve(theirs)),
        close,
    }
}

async fn channel(stream: UnixStream) -> Channel {
    let stream = std::sync::Mutex::new(Some(stream));
    let connector = tower::service_fn(move |_| {
        let stream = stream.lock().expect("nobody panicked").take();
        async move { stream.map(TokioIo::new).ok_or(std::io::Error::other("used")) }
    });
    let endpoint = tonic::transport::Endpoint::from_static("http://socket");
    let channel = endpoint.connect_with_connector(connector).await;
    channel.expect("connected")
}

async fn ask(
    grpc: &mut Grpc<Channel>,
    path: &str,
    request: Request<Vec<u8>>,
) -> Result<Response<Bytes>, Status> {
    grpc.ready().await.expect("ready");
    let path = path.parse().expect("a path");
    grpc.unary(request.map(Bytes::from), path, BytesCodec).await
}

fn rpc(name: &str) -> String {
    format!("/{WORKFLOW_SERVICE}/{name}")
}

fn poll(queue: usize) -> Request<Vec<u8>> {
    let poll = PollWorkflowTaskQueueRequest {
        namespace: NAMESPACE.into(),
        task_queue: Some(TaskQueue {
            name: format!("q{queue}"),
            ..Default::default()
        }),
        identity: "1@host".into(),
        ..Default::default()
    };
    Request::new(poll.encode_to_vec())
}

fn keys() -> ApiKeys {
    ApiKeys::parse(KEY).expect("a key")
}

fn empty() -> Request<Vec<u8>> {
    Request::new(Vec::new())
}

#[tokio::test]
async fn a_client_that_says_nothing_is_sent_away() {
    let mut served = served(None, IDLE);
    let mut heard = Vec::new();
    let read = tokio::time::timeout(10 * IDLE, served.stream.read_to_end(&mut heard));
    read.await
        .expect("the connection is closed")
        .expect("and not broken");
    served.task.await.expect("it has ended");
}

#[tokio::test]
async fn a_client_that_waits_for_an_answer_is_left_to_wait() {
    let served = served(None, IDLE);
    let mut grpc = Grpc::new(channel(served.stream).await);
    let long_poll = rpc("PollWorkflowTaskQueue");
    let long_poll = ask(&mut grpc, &long_poll, poll(0));
    let answer = tokio::time::timeout(4 * IDLE, long_poll).await;
    assert!(answer.is_err(), "it still waits: {answer:?}");
    // Let go of, it is idle.
    tokio::time::timeout(10 * IDLE, served.task)
        .await
        .expect("closed")
        .expect("it has ended");
}

#[tokio::test]
async fn when_the_door_closes_who_waits_is_sent_away_too() {
    let served = served(None, IDLE_FOR);
    let mut grpc = Grpc::new(channel(served.stream).await);
    ask(&mut grpc, &rpc("GetSystemInfo"), empty())
        .await
        .expect("an answer");
    let long_poll = rpc("PollWorkflowTaskQueue");
    let waiting = ask(&mut grpc, &long_poll, poll(0));
    let close = async {
        tokio::time::sleep(IDLE).await;
        served.close.send_replace(true);
    };
    let both = async { tokio::join!(waiting, close) };
    let (waited, ()) = tokio::time::timeout(5 * LEAVE_WITHIN, both)
        .await
        .expect("it does not hang");
    waited.expect_err("its long poll is not answered");
    served.task.await.expect("it has ended");
}

#[tokio::test]
async fn what_is_compressed_is_taken_and_large_answers_are_given_compressed() {
    let served = served(None, IDLE_FOR);
    let grpc = Grpc::new(channel(served.stream).await);
    let mut grpc = grpc.send_compressed(Gzip).accept_compressed(Gzip);
    let info = ask(&mut grpc, &rpc("GetSystemInfo"), empty())
        .await
        .expect("an answer");
    let info = GetSystemInfoResponse::decode(info.into_inner()).expect("of its type");
    assert!(!info.server_version.is_empty());
    let start = StartWorkflowExecutionRequest {
        namespace: NAMESPACE.into(),
        workflow_id: "w".into(),
        workflow_type: Some(WorkflowType { name: "T".into() }),
        task_queue: Some(TaskQueue {
            name: "q".into(),
            ..Default::default()
        }),
        input: Some(Payloads {
            payloads: vec![Payload {
                data: vec![b'x'; 1 << 20],
                ..Default::default()
            }],
        }),
        ..Default::default()
    };
    let start = Request::new(start.encode_to_vec());
    ask(&mut grpc, &rpc("StartWorkflowExecution"), start)
        .await
        .expect("started");
    let history = GetWorkflowExecutionHistoryRequest {
        namespace: NAMESPACE.into(),
        execution: Some(temporalio_protos::temporal::api::common::v1::WorkflowExecution {
            workflow_id: "w".into(),
            run_id: String::new(),
        }),
        ..Default::default()
    };
    let history = Request::new(history.encode_to_vec());
    let history = ask(&mut grpc, &rpc("GetWorkflowExecutionHistory"), history)
        .await
        .expect("a history");
    let encoding = history.metadata().get("grpc-encoding");
    assert_eq!(encoding.expect("an encoding").as_bytes(), b"gzip");
    assert!(history.into_inner().len() > 1 << 20);
}

#[tokio::test]
async fn a_request_that_is_too_large_is_refused_in_the_words_that_sdks_know() {
    let served = served(None, IDLE_FOR);
    let channel = channel(served.stream).await;
    for (mebibytes, is_compressed) in [(5, false), (17, false), (5, true), (100, true)] {
        let mut grpc = Grpc::new(channel.clone());
        if is_compressed {
            grpc = grpc.send_compressed(Gzip);
        }
        let large = Request::new(vec![0; mebibytes << 20]);
        let refused = ask(&mut grpc, &rpc("StartWorkflowExecution"), large).await;
        let status = refused.expect_err("too large");
        assert_eq!(status.code(), Code::ResourceExhausted, "{mebibytes}: {status:?}");
        assert!(
            status
                .message()
                .starts_with("grpc: received message larger than max"),
            "{mebibytes}: {status:?}"
        );
    }
}

#[tokio::test]
async fn an_rpc_of_another_service_is_not_taken_for_one_of_ours() {
    let served = served(None, IDLE_FOR);
    let mut grpc = Grpc::new(channel(served.stream).await);
    for path in [
        "/GetSystemInfo",
        "/WorkflowService/GetSystemInfo",
        "/temporal.api.operatorservice.v1.OperatorService/GetSystemInfo",
        "/a/temporal.api.workflowservice.v1.WorkflowService/GetSystemInfo",
    ] {
        let status = ask(&mut grpc, path, empty()).await.expect_err(path);
        assert_eq!(status.code(), Code::Unimplemented, "{path}");
    }
    ask(&mut grpc, &rpc("GetSystemInfo"), empty())
        .await
        .expect("ours is answered");
}

#[tokio::test]
async fn a_client_behind_many_long_polls_is_answered() {
    let served = served(None, IDLE_FOR);
    let channel = channel(served.stream).await;
    let mut polls = tokio::task::JoinSet::new();
    for queue in 0..500 {
        let mut grpc = Grpc::new(channel.clone());
        polls.spawn(async move { ask(&mut grpc, &rpc("PollWorkflowTaskQueue"), poll(queue)).await });
    }
    // All of them are on their way before the one that is timed.
    let mut grpc = Grpc::new(channel);
    for _ in 0..2 {
        let info = rpc("GetSystemInfo");
        let asked = ask(&mut grpc, &info, empty());
        let answer = tokio::time::timeout(Duration::from_secs(10), asked).await;
        answer.expect("in time").expect("an answer");
        tokio::time::sleep(IDLE).await;
    }
    assert!(polls.try_join_next().is_none(), "the polls still wait");
}

#[tokio::test]
async fn who_has_no_key_is_told_the_health_and_nothing_else() {
    let served = served(Some(keys()), IDLE_FOR);
    let mut grpc = Grpc::new(channel(served.stream).await);
    let with = |authorization: &str| {
        let mut request = empty();
        let authorization = authorization.parse().expect("a header");
        request.metadata_mut().insert("authorization", authorization);
        request
    };
    let info = rpc("GetSystemInfo");
    for request in [empty(), with("Bearer another-key-0123"), with(KEY)] {
        let status = ask(&mut grpc, &info, request).await.expect_err("refused");
        assert_eq!(status.code(), Code::Unauthenticated);
    }
    ask(&mut grpc, &info, with(&format!("Bearer {KEY}")))
        .await
        .expect("let in");
    let check = "/grpc.health.v1.Health/Check";
    for (name, expected) in [
        ("", Ok(1)),
        (WORKFLOW_SERVICE, Ok(1)),
        ("else", Err(Code::NotFound)),
    ] {
        let request = HealthCheckRequest { service: name.into() };
        let answer = ask(&mut grpc, check, Request::new(request.encode_to_vec())).await;
        let status = answer
            .map(|it| {
                HealthCheckResponse::decode(it.into_inner())
                    .expect("of its type")
                    .status
            })
            .map_err(|status| status.code());
        assert_eq!(status, expected, "{name}");
    }
}

#[tokio::test]
async fn who_watches_the_health_is_told_at_once() {
    let served = served(None, IDLE_FOR);
    let mut grpc = Grpc::new(channel(served.stream).await);
    grpc.ready().await.expect("ready");
    let watch = http::uri::PathAndQuery::from_static("/grpc.health.v1.Health/Watch");
    let request = Request::new(Bytes::new());
    let watched = grpc.server_streaming(request, watch, BytesCodec).await;
    let mut watched = watched.expect("watched").into_inner();
    let first = watched.message().await.expect("a message").expect("not the end");
    assert_eq!(HealthCheckResponse::decode(first).expect("of its type").status, 1);
    let second = tokio::time::timeout(IDLE, watched.message()).await;
    assert!(second.is_err(), "nothing has changed: {second:?}");
}

#[tokio::test]
async fn who_asks_what_there_is_is_told_the_services_that_are_answered() {
    use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
    use tonic_reflection::pb::v1::server_reflection_request::MessageRequest as Ask;
    use tonic_reflection::pb::v1::server_reflection_response::MessageResponse as Told;
    use tonic_reflection::pb::v1::{ServerReflectionRequest, ServiceResponse};
    let served = served(None, IDLE_FOR);
    let mut client = ServerReflectionClient::new(channel(served.stream).await);
    let asked = [
        Ask::ListServices(String::new()),
        Ask::FileContainingSymbol(format!("{WORKFLOW_SERVICE}.StartWorkflowExecution")),
        Ask::FileContainingSymbol("temporal.api.enums.v1.EventType".into()),
    ];
    let asked = asked.map(|message_request| ServerReflectionRequest {
        message_request: Some(message_request),
        ..Default::default()
    });
    let told = client
        .server_reflection_info(futures_util::stream::iter(asked))
        .await;
    let mut told = told.expect("told").into_inner();
    let mut next = async || {
        told.message()
            .await
            .expect("a message")
            .expect("not the end")
            .message_response
    };
    let Some(Told::ListServicesResponse(services)) = next().await else {
        panic!("no list of services");
    };
    let names: Vec<_> = services
        .service
        .into_iter()
        .map(|ServiceResponse { name }| name)
        .collect();
    assert!(names.iter().any(|name| name == WORKFLOW_SERVICE), "{names:?}");
    assert!(
        !names.iter().any(|name| name.contains("OperatorService")),
        "{names:?}"
    );
    for _ in 0..2 {
        assert!(matches!(next().await, Some(Told::FileDescriptorResponse(_))));
    }
}

#[tokio::test]
async fn an_address_that_others_reach_needs_what_keeps_them_out() {
    let options = |address: &str, keys, is_unprotected| TcpOptions {
        address: address.parse().expect("an address"),
        tls: None,
        keys,
        is_unprotected,
    };
    for (options, expected) in [
        (options("127.0.0.1:0", None, false), None),
        (options("[::ffff:127.0.0.1]:0", None, false), None),
        (options("0.0.0.0:0", None, true), None),
        (options("0.0.0.0:0", None, false), Some("neither TLS")),
        (options("[::]:0", None, false), Some("neither TLS")),
        (options("0.0.0.0:0", Some(keys()), false), Some("in the clear")),
    ] {
        let shown = format!("{options:?}");
        let listening = listen_on_tcp(Arc::new(service()), options).await;
        match (listening, expected) {
            (Ok(listening), None) => assert_ne!(listening.address().port(), 0),
            (Err(error @ ListenError::Unprotected { .. }), Some(words)) => {
                assert!(error.to_string().contains(words), "{error}");
            }
            (other, _) => panic!("{shown}: {:?}", other.err()),
        }
    }
}

#[test]
fn this_user_and_root_are_trusted_and_nobody_else_is() {
    let us = rustix::process::geteuid().as_raw();
    assert!(is_trusted(us) && is_trusted(0));
    assert!(!is_trusted(us + 1));
}
