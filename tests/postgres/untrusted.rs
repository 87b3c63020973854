//! Servers that mean harm, or say nothing: what they get, and what they cost.

use crate::hostile::{Attack, hostile};
use longhaul::postgres::{Error, Kind, Side, connect};
use std::os::unix::fs::PermissionsExt;
use std::time::{Duration, Instant};

/// Growth of this process that shows an attack; other tests run beside this one and take some.
const GROWTH_MAX_KB: u64 = 200_000;

/// Attacks last until a deadline of this many seconds, or as long as it takes us to refuse.
const WITHIN: u64 = 2;

async fn error(text: &str) -> Error {
    match connect(&text.parse().unwrap(), Side::Source, "longhaul test").await {
        Ok(_) => panic!("connected: {text}"),
        Err(error) => error,
    }
}

/// The most that this process ever had.
fn memory_kb() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))
        .unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn no_flood_and_no_giant_message_grows_the_memory() {
    for (attack, kind, words) in [
        (
            Attack::HugeAtLogIn,
            Kind::Unknown,
            "a message of 2000000000 bytes",
        ),
        (
            Attack::FloodAtLogIn(b'N'),
            Kind::Unknown,
            "more than 1048576 bytes",
        ),
        (
            Attack::FloodAtLogIn(b'S'),
            Kind::Unknown,
            "more than 1048576 bytes",
        ),
        (Attack::Huge, Kind::Unknown, "a message of 2000000000 bytes"),
        (Attack::Flood(b'D'), Kind::Unknown, "more than 1048576 bytes"),
        (Attack::Flood(b'I'), Kind::Unknown, "more than 1048576 bytes"),
        (Attack::Flood(b'N'), Kind::Unreachable, "no answer within 2s"),
        (Attack::Flood(b'S'), Kind::Unreachable, "no answer within 2s"),
        (Attack::Silent, Kind::Unreachable, "no answer within 2s"),
        (Attack::SilentThen, Kind::Unreachable, "no answer within 2s"),
    ] {
        let port = hostile(attack).0;
        let (before, begun) = (memory_kb(), Instant::now());
        let text = format!("host=127.0.0.1 port={port} user=x sslmode=disable connect_timeout={WITHIN}");
        let error = error(&text).await;
        let grown = memory_kb().saturating_sub(before);
        assert_eq!(error.kind(), kind, "{attack:?}: {}", error.chain());
        assert!(error.chain().contains(words), "{attack:?}: {}", error.chain());
        assert!(grown < GROWTH_MAX_KB, "{attack:?}: {grown} KB more");
        assert!(begun.elapsed() < Duration::from_secs(3 * WITHIN), "{attack:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_of_one_host_goes_to_another() {
    let directory = tempfile::tempdir().unwrap();
    let (first, _) = hostile(Attack::HangUp);
    let (second, sent) = hostile(Attack::AskForPassword);
    let passfile = directory.path().join("pgpass");
    std::fs::write(
        &passfile,
        format!("127.0.0.1:{first}:*:*:s3cret\nlocalhost:*:*:*:s3cret\n"),
    )
    .unwrap();
    std::fs::set_permissions(&passfile, std::fs::Permissions::from_mode(0o600)).unwrap();
    let (d, passfile) = (directory.path().display(), passfile.display());
    let text = format!("host=127.0.0.1,127.0.0.1 port={first},{second} user=x passfile={passfile}");
    assert_eq!(error(&text).await.kind(), Kind::Authentication);
    assert!(!sent.lock().unwrap().is_empty(), "it was asked");
    // A socket first: the second host must be verified all the same.
    let made = std::process::Command::new("openssl")
        .args("req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=a -keyout a.key -out a.crt".split(' '))
        .current_dir(directory.path())
        .output();
    assert!(made.expect("openssl").status.success());
    let text = format!(
        "host={d},127.0.0.1 port={second} user=x password=s3cret sslmode=verify-full sslrootcert={d}/a.crt"
    );
    let refused = error(&text).await.chain();
    assert!(refused.contains("does not support TLS"), "{refused}");
    let sent = sent.lock().unwrap();
    assert!(!sent.windows(6).any(|bytes| bytes == b"s3cret"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_asks_for_too_little_gets_no_password() {
    let (port, sent) = hostile(Attack::AskForPassword);
    let text = format!("host=127.0.0.1 port={port} user=x password=s3cret sslmode=disable");
    for required in ["scram-sha-256", "!password", "scram-sha-256,md5"] {
        let error = error(&format!("{text} require_auth={required}")).await;
        assert_eq!(error.kind(), Kind::Authentication, "{}", error.chain());
        assert!(error.chain().contains("clear text"), "{}", error.chain());
    }
    assert!(!sent.lock().unwrap().windows(6).any(|bytes| bytes == b"s3cret"));
    // Without it, the password goes out: the test can see one.
    error(&text).await;
    assert!(sent.lock().unwrap().windows(6).any(|bytes| bytes == b"s3cret"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_socket_of_another_user_is_sent_nothing() {
    use std::io::Read;
    let directory = tempfile::tempdir().unwrap();
    let listener = std::os::unix::net::UnixListener::bind(directory.path().join(".s.PGSQL.5432")).unwrap();
    let text = |peer: &str| {
        format!(
            "host={} user=x requirepeer={peer} connect_timeout=1",
            directory.path().display()
        )
    };
    let refused = error(&text("nobody-of-this-name")).await;
    assert_eq!(refused.kind(), Kind::Authentication, "{}", refused.chain());
    assert!(refused.chain().contains("requirepeer"), "{}", refused.chain());
    let mut sent = Vec::new();
    listener.accept().unwrap().0.read_to_end(&mut sent).unwrap();
    assert!(sent.is_empty());
    let id = std::process::Command::new("id").arg("-un").output().unwrap();
    let own = String::from_utf8(id.stdout).unwrap();
    let silent = error(&text(own.trim())).await;
    assert_eq!(silent.kind(), Kind::Unreachable, "{}", silent.chain());
    listener.accept().unwrap().0.read_to_end(&mut sent).unwrap();
    assert!(!sent.is_empty(), "our own may be asked");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_postgresql_is_told_so() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let mut stream = stream;
            _ = std::io::Write::write_all(&mut stream, b"HTTP/1.1 400 Bad Request\r\n\r\n");
            _ = std::io::Read::read(&mut stream, &mut [0; 64]);
        }
    });
    for mode in ["disable", "prefer", "require"] {
        let error = error(&format!("host=127.0.0.1 port={port} user=x sslmode={mode}")).await;
        assert!(
            error.chain().contains("does not speak PostgreSQL"),
            "{}",
            error.chain()
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_first_host_that_will_do_is_taken() {
    let (one, two) = tokio::task::spawn_blocking(crate::servers::pair).await.unwrap();
    for server in [one, two] {
        crate::servers::sql(&server.url("postgres"), "CREATE DATABASE listed").await;
    }
    crate::servers::sql(
        &one.url("postgres"),
        "ALTER DATABASE listed SET default_transaction_read_only = on",
    )
    .await;
    let (silent, _) = hostile(Attack::Silent);
    let gone = std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port();
    let (one, two) = (one.port(), two.port());
    for (ports, settings, found) in [
        (vec![one, two], "", Some(one)),
        (vec![gone, silent, two], "connect_timeout=1", Some(two)),
        (vec![one, two], "target_session_attrs=read-write", Some(two)),
        (vec![two, one], "target_session_attrs=read-only", Some(one)),
        (vec![one, two], "target_session_attrs=primary", Some(one)),
        (vec![one, two], "target_session_attrs=standby", None),
        (vec![gone, two], "target_session_attrs=prefer-standby", Some(two)),
        (vec![gone, two, gone], "load_balance_hosts=random", Some(two)),
        (vec![gone, gone], "", None),
    ] {
        let hosts = vec!["127.0.0.1"; ports.len()].join(",");
        let ports = ports
            .iter()
            .map(ToString::to_string)
            .collect::<Vec<_>>()
            .join(",");
        let text = format!("host={hosts} port={ports} user=postgres dbname=listed {settings}");
        let connected = connect(&text.parse().unwrap(), Side::Target, "longhaul test").await;
        match (connected, found) {
            (Ok(session), Some(port)) => {
                let shown = format!("{session:?}");
                assert!(
                    shown.contains(&format!("127.0.0.1:{port}/listed")),
                    "{text}: {shown}"
                );
            }
            (Err(error), None) => assert_eq!(error.kind(), Kind::Unreachable, "{text}: {}", error.chain()),
            (connected, _) => panic!("{text}: {connected:?}"),
        }
    }
}
