//! `longhaul server` as an operator runs it: where it listens, how it ends, and what it refuses. Clients: `tests/compat`.

use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use temporalio_protos::temporal::api::command::v1::command::Attributes;
use temporalio_protos::temporal::api::command::v1::{
    Command as Decision, CompleteWorkflowExecutionCommandAttributes,
};
use temporalio_protos::temporal::api::common::v1::{Payload, Payloads};
use temporalio_protos::temporal::api::enums::v1::CommandType;
use temporalio_protos::temporal::api::workflowservice::v1::{
    GetWorkflowExecutionHistoryRequest, GetWorkflowExecutionHistoryResponse,
    RespondWorkflowTaskCompletedRequest, RespondWorkflowTaskCompletedResponse,
    SignalWorkflowExecutionRequest, SignalWorkflowExecutionResponse,
};

use crate::binary::{Ended, Process, longhaul, until};
use crate::stage::{JOB, Stage, runtime};
use crate::wire::{Wire, execution};

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

#[test]
fn told_to_stop_a_server_ends_in_time_and_is_done_whoever_waits_for_it() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let stops: [fn(&Process); 2] = [Process::interrupt, Process::terminate];
    for stop in stops {
        let directory = tempfile::tempdir().unwrap();
        let server = server(directory.path(), &["--listen", "127.0.0.1:0"]);
        let address = address(&server);
        let waits = address.clone();
        let poll = runtime.spawn(async move { Wire::to(&waits).await.poll("q", "a test").await });
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
        assert_eq!(
            ended.stderr.lines().count(),
            2,
            "the address, and who may come: {ended:?}"
        );
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
fn an_address_that_another_has_is_said_to_be_taken() {
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
    first.terminate();
    first.end().assert_code(0);
}

fn signal(id: &str, bytes: usize) -> SignalWorkflowExecutionRequest {
    let payload = Payload {
        data: vec![b'x'; bytes],
        ..Default::default()
    };
    SignalWorkflowExecutionRequest {
        namespace: "default".into(),
        workflow_execution: execution(id),
        signal_name: "s".into(),
        input: Some(Payloads {
            payloads: vec![payload],
        }),
        ..Default::default()
    }
}

fn history(id: &str) -> GetWorkflowExecutionHistoryRequest {
    GetWorkflowExecutionHistoryRequest {
        namespace: "default".into(),
        execution: execution(id),
        ..Default::default()
    }
}

#[test]
fn a_server_beside_the_process_that_serves_passes_calls_on_and_serves_once_that_is_killed() {
    let directory = tempfile::tempdir().unwrap();
    let first = server(directory.path(), &["--listen", "127.0.0.1:0"]);
    address(&first);
    let second = server(directory.path(), &["--listen", "127.0.0.1:0"]);
    let address = address(&second);
    let words = format!("whose journal process {} serves", first.pid());
    assert!(second.said().contains(&words), "{}", second.said());
    let (pid, killed) = (first.pid(), first);
    runtime().block_on(async {
        let client = Wire::to(&address).await;
        let waits = Wire::to(&address).await;
        let waiting = tokio::spawn(async move { waits.poll("q", "a worker").await });
        client.start("Any", "one", "q", "null").await;
        let task = waiting.await.unwrap().unwrap();
        assert_eq!(
            task.workflow_execution.unwrap().workflow_id,
            "one",
            "a long poll is answered"
        );
        // More than one message of a gRPC client's default size.
        for _ in 0..3 {
            let _: SignalWorkflowExecutionResponse = client
                .call("SignalWorkflowExecution", signal("one", 1_900_000))
                .await
                .unwrap();
        }
        let whole: GetWorkflowExecutionHistoryResponse = client
            .call("GetWorkflowExecutionHistory", history("one"))
            .await
            .unwrap();
        let events = whole.history.unwrap().events.len();
        assert!(events >= 2, "{events}");
        let missing =
            client.call::<GetWorkflowExecutionHistoryResponse>("GetWorkflowExecutionHistory", history("two"));
        assert_eq!(
            missing.await.unwrap_err().code(),
            tonic::Code::NotFound,
            "an error comes as it is"
        );
        let waits = Wire::to(&address).await;
        let waiting = tokio::spawn(async move { waits.poll("other", "a worker").await });
        killed.kill();
        let cut = waiting.await.unwrap().unwrap_err();
        assert_eq!(cut.code(), tonic::Code::Unavailable, "SDKs try that again: {cut}");
        let again: GetWorkflowExecutionHistoryResponse = client
            .call_until("GetWorkflowExecutionHistory", history("one"))
            .await;
        assert!(again.history.unwrap().events.len() >= events);
    });
    let words = format!("process {pid} serves the journal no more: this one does");
    until("words about it", || second.said().contains(&words).then_some(()));
    second.terminate();
    second.end().assert_code(0);
}

/// Whether a task of a worker by TCP is handed out again, once clients of the socket have come and gone, and so have looked
/// who of this machine is dead. `passes_on`: through a server beside the one that serves.
fn is_taken_away(passes_on: bool) -> bool {
    let directory = tempfile::tempdir().unwrap();
    let flags = ["--listen", "127.0.0.1:0"];
    let mut servers = vec![server(directory.path(), &flags)];
    address(&servers[0]);
    if passes_on {
        servers.push(server(directory.path(), &flags));
    }
    let address = address(servers.last().unwrap());
    let mut dead = Command::new("id")
        .stdout(std::process::Stdio::null())
        .spawn()
        .unwrap();
    dead.wait().unwrap();
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap();
    // As that of a worker in a container beside this one, or on another machine of that name.
    let identity = format!("{}@{}", dead.id(), host.trim());
    runtime().block_on(async {
        let client = Wire::to(&address).await;
        client.start("Any", "one", "q", "null").await;
        let task = client.poll("q", &identity).await.unwrap();
        assert_eq!(task.workflow_execution.unwrap().workflow_id, "one");
    });
    let mut list = longhaul(&directory.path().join("state"));
    let listed = Process::begin(list.arg("list"), directory.path()).end();
    listed.assert_code(0);
    runtime().block_on(async {
        let client = Wire::to(&address).await;
        let again = client.poll("q", "another");
        tokio::time::timeout(Duration::from_secs(2), again).await.is_ok()
    })
}

#[test]
fn a_worker_that_came_by_tcp_is_not_taken_for_a_dead_process_of_this_machine() {
    for passes_on in [false, true] {
        assert!(!is_taken_away(passes_on), "through another process: {passes_on}");
    }
}

/// Takes the first workflow task of a job, and says that the workflow is over.
async fn take_and_complete(client: &Wire) {
    let task = client
        .poll(&format!("longhaul/{JOB}"), "somebody else")
        .await
        .unwrap();
    let result = Payload {
        metadata: [("encoding".to_owned(), b"binary/null".to_vec())].into(),
        ..Default::default()
    };
    let attributes = CompleteWorkflowExecutionCommandAttributes {
        result: Some(Payloads {
            payloads: vec![result],
        }),
    };
    let answer = RespondWorkflowTaskCompletedRequest {
        task_token: task.task_token,
        namespace: "default".into(),
        commands: vec![Decision {
            command_type: CommandType::CompleteWorkflowExecution.into(),
            attributes: Some(Attributes::CompleteWorkflowExecutionCommandAttributes(attributes)),
            ..Default::default()
        }],
        ..Default::default()
    };
    let _: RespondWorkflowTaskCompletedResponse =
        client.call("RespondWorkflowTaskCompleted", answer).await.unwrap();
}

#[test]
fn a_migrate_that_somebody_else_calls_complete_is_not() {
    let stage = Stage::new(1000);
    let mut command = stage.command(&["server", "--listen", "127.0.0.1:0"]);
    let server = stage.begin(&mut command);
    let address = address(&server);
    assert!(
        server.said().contains("every user of this machine"),
        "{}",
        server.said()
    );
    let waits = runtime().spawn(async move {
        let client = Wire::to(&address).await;
        take_and_complete(&client).await;
    });
    // It polls before the job's own worker does.
    std::thread::sleep(Duration::from_millis(500));
    let ended = stage.begin(&mut stage.migrate(&[])).end();
    runtime().block_on(waits).unwrap();
    let words = [
        "is called complete, and is not",
        "the ledger on the target",
        "longhaul/audio_downloads",
    ];
    ended.assert_code(1).assert_said(&words);
    assert_eq!(stage.rows(), 0);
    let again = stage.begin(&mut stage.migrate(&[])).end();
    again.assert_code(0);
    stage.assert_moved();
}

#[test]
fn a_workflow_that_nobody_can_read_hides_no_job_and_its_words_move_no_terminal() {
    let stage = Stage::new(100);
    stage.begin(&mut stage.migrate(&[])).end().assert_code(0);
    let server = stage.begin(&mut stage.command(&["server", "--listen", "127.0.0.1:0"]));
    let address = address(&server);
    runtime().block_on(async {
        let client = Wire::to(&address).await;
        client.start("CopyTable", "theirs", "longhaul/theirs", r#"{"bucket":"reports"}"#).await;
        let spec = r#"{"spec":{"name":"evil","kind":"migrate","source":"postgres://a\u001b[31m\nerror: drop the source\u001b[8m@h/db",
            "target":"postgres://x@h/x","source_table":{"schema":null,"name":"s"},"target_table":{"schema":null,"name":"s"},
            "tuning":{"concurrency":4,"batch_rows":2000,"max_rate_bytes_per_second":null},"on_conflict":"error",
            "fire_triggers":false,"lookback_keys":null},"paused":false,"state":null}"#;
        client.start("CopyTable", "evil", "longhaul/evil", spec).await;
    });
    for command in ["list", "status"] {
        let told = stage
            .run(&[command])
            .assert_code(0)
            .assert_said(&["theirs", "cannot be read"]);
        assert!(
            told.stdout.contains(JOB) && told.stdout.contains("evil"),
            "{told:?}"
        );
        assert_harmless(&told);
        let told = stage.run(&[command, "--color", "always"]);
        assert!(!told.stdout.contains("\x1b[8m"), "{told:?}");
        assert!(
            !told.stdout.lines().any(|line| line.starts_with("error")),
            "{told:?}"
        );
        let told = stage.run(&[command, "--json"]).assert_code(0);
        assert_eq!(told.stdout.lines().count(), 2, "{told:?}");
    }
    assert_harmless(&stage.run(&["history", "evil"]));
    stage
        .run(&["status", "theirs"])
        .assert_code(2)
        .assert_said(&["cannot be read"]);
}

fn assert_harmless(told: &Ended) {
    let both = format!("{}{}", told.stdout, told.stderr);
    assert!(!both.contains('\x1b'), "{both}");
    assert!(
        !told.stdout.lines().any(|line| line.starts_with("error")),
        "{both}"
    );
}
