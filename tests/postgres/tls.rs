//! sslmode against a server with a certificate: what is accepted, and what is not.

use longhaul::postgres::{Kind, ServerOptions, Side, StopMode, ThrowawayServer, connect};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::process::Command;

fn openssl(directory: &Path, arguments: &str) {
    let output = Command::new("openssl")
        .args(arguments.split(' '))
        .current_dir(directory)
        .output()
        .expect("openssl");
    assert!(
        output.status.success(),
        "openssl {arguments}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
}

/// An authority and a certificate of `localhost` by it, another authority, and a client's certificate.
fn certificates(directory: &Path) {
    for authority in ["ca", "other"] {
        openssl(
            directory,
            &format!(
                "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN={authority} -keyout {authority}.key -out {authority}.crt"
            ),
        );
    }
    for (name, subject) in [("server", "localhost"), ("client", "postgres")] {
        std::fs::write(
            directory.join(format!("{name}.ext")),
            format!("subjectAltName=DNS:{subject}\n"),
        )
        .unwrap();
        openssl(
            directory,
            &format!(
                "req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj /CN={subject} -keyout {name}.key -out {name}.csr"
            ),
        );
        openssl(
            directory,
            &format!(
                "x509 -req -in {name}.csr -CA ca.crt -CAkey ca.key -CAcreateserial -days 2 -extfile {name}.ext -out {name}.crt"
            ),
        );
    }
}

fn server_with_tls(directory: &Path) -> ThrowawayServer {
    certificates(directory);
    let server = ThrowawayServer::start(&ServerOptions {
        fsync: false,
        ..ServerOptions::default()
    })
    .expect("a server");
    let data = server.data();
    let owner = std::fs::metadata(&data).unwrap();
    for name in ["server.crt", "server.key", "ca.crt"] {
        let file = data.join(name);
        std::fs::copy(directory.join(name), &file).unwrap();
        std::os::unix::fs::chown(&file, Some(owner.uid()), Some(owner.gid())).unwrap();
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).unwrap();
    }
    let add = |name: &str, text: &str| {
        let old = std::fs::read_to_string(data.join(name)).unwrap();
        let new = if name == "pg_hba.conf" {
            format!("{text}{old}")
        } else {
            format!("{old}{text}")
        };
        std::fs::write(data.join(name), new).unwrap();
    };
    add("postgresql.conf", "\nssl = on\nssl_ca_file = 'ca.crt'\n");
    add(
        "pg_hba.conf",
        "hostssl postgres postgres all trust\nhostssl certified postgres all cert\nhost postgres postgres all reject\n",
    );
    let port = server.port().to_string();
    let made = Command::new(server.programs().join("createdb"))
        .args(["-h", "127.0.0.1", "-U", "postgres", "-p", &port, "certified"])
        .status();
    assert!(made.expect("createdb").success());
    server.stop(StopMode::Fast).unwrap();
    server.restart().unwrap();
    server
}

#[tokio::test(flavor = "multi_thread")]
async fn each_sslmode_verifies_what_it_says() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().to_owned();
    let server = tokio::task::spawn_blocking(move || server_with_tls(&path))
        .await
        .unwrap();
    let (port, d) = (server.port(), directory.path().display());
    for (settings, accepted) in [
        ("host=localhost sslmode=prefer".to_owned(), true),
        ("host=localhost sslmode=allow".to_owned(), true),
        ("host=localhost sslmode=require".to_owned(), true),
        ("host=127.0.0.1 sslmode=require".to_owned(), true),
        ("host=localhost sslmode=disable".to_owned(), false),
        (
            format!("host=localhost sslmode=verify-ca sslrootcert={d}/ca.crt"),
            true,
        ),
        (
            format!("host=127.0.0.1 sslmode=verify-ca sslrootcert={d}/ca.crt"),
            true,
        ),
        (
            format!("host=localhost sslmode=verify-full sslrootcert={d}/ca.crt"),
            true,
        ),
        (
            format!("host=127.0.0.1 sslmode=verify-full sslrootcert={d}/ca.crt"),
            false,
        ),
        (
            format!("host=localhost sslmode=verify-ca sslrootcert={d}/other.crt"),
            false,
        ),
        (
            format!("host=localhost sslmode=require sslrootcert={d}/other.crt"),
            false,
        ),
        (
            format!("host=localhost sslmode=verify-full sslrootcert={d}/server.crt"),
            true,
        ),
        (
            format!("host=localhost sslmode=verify-full sslrootcert={d}/none.crt"),
            false,
        ),
    ] {
        let text = format!("{settings} port={port} user=postgres dbname=postgres");
        let connected = connect(&text.parse().unwrap(), Side::Source, "longhaul test").await;
        match connected {
            Ok(_) => assert!(accepted, "{settings}"),
            Err(error) => {
                assert!(!accepted, "{settings}: {}", error.chain());
                let wanted = if settings.contains("disable") {
                    Kind::Authentication
                } else {
                    Kind::Tls
                };
                assert_eq!(error.kind(), wanted, "{settings}: {}", error.chain());
            }
        }
    }
    let text = |more: &str| {
        format!("host=localhost port={port} user=postgres dbname=postgres sslmode=require {more}")
    };
    let certified = |more: &str| text(more).replace("dbname=postgres", "dbname=certified");
    let error = connect(&certified("").parse().unwrap(), Side::Source, "x")
        .await
        .unwrap_err();
    assert_eq!(error.kind(), Kind::Authentication, "{}", error.chain());
    let client = certified(&format!("sslcert={d}/client.crt sslkey={d}/client.key"));
    connect(&client.parse().unwrap(), Side::Source, "x")
        .await
        .unwrap_or_else(|error| panic!("{}", error.chain()));
}
