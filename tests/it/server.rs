//! `longhaul server` as an operator runs it: where it listens, how it ends, and what it refuses. Clients: `tests/compat`.

use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use bytes::Bytes;
use longhaul::service::BytesCodec;
use prost::Message;
use temporalio_protos::temporal::api::taskqueue::v1::TaskQueue;
use temporalio_protos::temporal::api::workflowservice::v1::PollWorkflowTaskQueueRequest;

use crate::binary::{Process, longhaul, until};

/// It is gone so long after it was told to stop.
const ENDS_WITHIN: Duration = Duration::from_secs(5);

fn server(directory: &Path, flags: &[&str]) -> Process {
    let mut command = longhaul(&directory.join("state"));
    Process::begin(command.arg("server").args(flags), directory)
}

/// The address in its first line.
fn address(server: &Process) -> String {
    until("it listens", || {
        let said = server.said();
        let address = said.lines().next()?.strip_prefix("listening on ")?;
        Some(address.split(' ').next()?.to_owned())
    })
}

/// A worker's long poll, which nobody answers; gives what became of it.
async fn long_poll(address: &str) -> Result<(), tonic::Status> {
    let endpoint = tonic::transport::Endpoint::from_shared(format!("http://{address}")).unwrap();
    let mut grpc = tonic::client::Grpc::new(endpoint.connect().await.unwrap());
    grpc.ready().await.unwrap();
    let poll = PollWorkflowTaskQueueRequest {
        namespace: "default".into(),
        task_queue: Some(TaskQueue {
            name: "q".into(),
            ..Default::default()
        }),
        ..Default::default()
    };
    let path = http::uri::PathAndQuery::from_static(
        "/temporal.api.workflowservice.v1.WorkflowService/PollWorkflowTaskQueue",
    );
    let request = tonic::Request::new(Bytes::from(poll.encode_to_vec()));
    grpc.unary(request, path, BytesCodec).await.map(|_| ())
}

#[test]
fn told_to_stop_a_server_ends_in_time_and_is_done_whoever_waits_for_it() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let stops: [fn(&Process); 2] = [Process::interrupt, Process::terminate];
    for stop in stops {
        let directory = tempfile::tempdir().unwrap();
        let server = server(directory.path(), &["--listen", "127.0.0.1:0"]);
        let address = address(&server);
        let waits = address.clone();
        let poll = runtime.spawn(async move { long_poll(&waits).await });
        // Another command asks the same journal meanwhile.
        let mut list = longhaul(&directory.path().join("state"));
        Process::begin(list.arg("list"), directory.path())
            .end()
            .assert_code(0);
        assert!(!poll.is_finished(), "it waits");
        let began = Instant::now();
        stop(&server);
        let ended = server.end().assert_code(0);
        assert!(began.elapsed() < ENDS_WITHIN, "{:?}", began.elapsed());
        assert_eq!(ended.stderr.lines().count(), 1, "one line is enough: {ended:?}");
        runtime.block_on(poll).unwrap().unwrap_err();
        TcpListener::bind(address).expect("the address is free again");
    }
}

fn openssl(directory: &Path, name: &str) {
    let (key, certificate) = (format!("{name}.key"), format!("{name}.crt"));
    let mut command = Command::new("openssl");
    let arguments =
        "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=localhost";
    command
        .args(arguments.split(' '))
        .args(["-keyout", &key, "-out", &certificate]);
    let output = command.current_dir(directory).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    std::fs::set_permissions(directory.join(key), PermissionsExt::from_mode(0o600)).unwrap();
}

#[test]
fn what_a_server_cannot_do_it_says_in_words_before_it_listens() {
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name).to_str().unwrap().to_owned();
    let file = |name: &str, text: &str, mode| {
        std::fs::write(path(name), text).unwrap();
        std::fs::set_permissions(path(name), PermissionsExt::from_mode(mode)).unwrap();
        path(name)
    };
    openssl(directory.path(), "one");
    openssl(directory.path(), "other");
    let (certificate, key) = (path("one.crt"), path("one.key"));
    let other_key = path("other.key");
    let text = file("text", "no PEM at all\n", 0o600);
    let open_key = file("open.key", &std::fs::read_to_string(&key).unwrap(), 0o644);
    let open_keys = file("open-keys", "0123456789abcdef\n", 0o640 | 0o004);
    let everybody = ["--listen", "0.0.0.0:0"];
    let tls = ["--tls-cert", &certificate, "--tls-key", &key];
    let cases: Vec<(Vec<&str>, i32, &[&str])> = vec![
        (everybody.to_vec(), 2, &["neither TLS", "--unprotected"]),
        (
            [&everybody[..], &tls[..]].concat(),
            2,
            &["who may come in", "--tls-client-ca"],
        ),
        (
            vec!["--tls-cert", &certificate, "--tls-key", &other_key],
            2,
            &["other.key", "not the key of the certificate", "one.crt"],
        ),
        (
            vec!["--tls-cert", &text, "--tls-key", &key],
            2,
            &["text", "no certificate"],
        ),
        (
            vec!["--tls-cert", &certificate, "--tls-key", &text],
            2,
            &["text", "no key"],
        ),
        (
            vec!["--tls-cert", &certificate, "--tls-key", &open_key],
            2,
            &["open.key", "can be read by others"],
        ),
        (
            [&tls[..], &["--tls-client-ca", "/nowhere"]].concat(),
            2,
            &["/nowhere", "No such file"],
        ),
        (
            vec!["--api-key-file", &open_keys],
            2,
            &["open-keys", "can be read by others"],
        ),
        (vec!["--api-key-file", &text], 2, &["text", "at least 16"]),
    ];
    for (flags, code, words) in cases {
        let ended = server(directory.path(), &flags).end();
        ended.assert_code(code).assert_said(words);
        assert!(
            !directory.path().join("state").exists(),
            "{flags:?}: nothing was begun"
        );
    }
}

#[test]
fn an_address_or_a_directory_that_another_has_is_said_to_be_taken() {
    let directory = tempfile::tempdir().unwrap();
    let first = server(directory.path(), &["--listen", "127.0.0.1:0"]);
    let address = address(&first);
    let elsewhere = tempfile::tempdir().unwrap();
    let second = server(elsewhere.path(), &["--listen", &address]).end();
    let words = [
        &*format!("cannot listen on {address}"),
        "another process listens there",
    ];
    second.assert_code(5).assert_said(&words);
    let third = server(directory.path(), &["--listen", "127.0.0.1:0"]).end();
    let words = ["in use by process", &*first.pid().to_string()];
    third.assert_code(5).assert_said(&words);
    first.terminate();
    first.end().assert_code(0);
}
