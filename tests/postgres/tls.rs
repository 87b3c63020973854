//! sslmode against a server with a certificate: what is accepted, and what is not.

use crate::servers::sql;
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

/// Certificates of `localhost` that somebody has an objection to, each by the same authority, and what was revoked.
fn odd_certificates(directory: &Path) {
    let sign = |name: &str, more: &str| {
        openssl(
            directory,
            &format!(
                "x509 -req -in server.csr -CA ca.crt -CAkey ca.key -CAcreateserial -out {name}.crt {more}"
            ),
        );
    };
    // As PostgreSQL's manual does it: of version 1 with OpenSSL 3.0, with nothing but a CN.
    sign("plain", "-days 2");
    std::fs::write(
        directory.join("elsewhere.ext"),
        "subjectAltName=DNS:db.example.com,IP:10.1.2.3\n",
    )
    .unwrap();
    sign("elsewhere", "-days 2 -extfile elsewhere.ext");
    // An authority of version 1, and one of ours by it.
    openssl(
        directory,
        "req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj /CN=old -keyout old.key -out old.csr",
    );
    openssl(
        directory,
        "x509 -req -in old.csr -signkey old.key -days 2 -out old.crt",
    );
    openssl(
        directory,
        "x509 -req -in server.csr -CA old.crt -CAkey old.key -CAcreateserial -days 2 -extfile server.ext -out by-old.crt",
    );
    openssl(
        directory,
        "x509 -req -in client.csr -CA ca.crt -CAkey ca.key -CAcreateserial -days 2 -out plain-client.crt",
    );
    std::fs::write(
        directory.join("ca.conf"),
        "[ca]\ndefault_ca=one\n[one]\ndatabase=index.txt\ncrlnumber=number\ndefault_md=sha256\ndefault_crl_days=2\n\
         serial=number\nnew_certs_dir=.\npolicy=any\nunique_subject=no\n[any]\ncommonName=supplied\n",
    )
    .unwrap();
    std::fs::write(directory.join("index.txt"), "").unwrap();
    std::fs::write(directory.join("number"), "01\n").unwrap();
    let authority = |command: &str| {
        openssl(
            directory,
            &format!("ca -batch -config ca.conf -cert ca.crt -keyfile ca.key {command}"),
        );
    };
    authority(
        "-in server.csr -extfile server.ext -startdate 200101000000Z -enddate 200202000000Z -out expired.crt",
    );
    authority("-gencrl -out none.crl");
    authority("-revoke server.crt");
    authority("-gencrl -out server.crl");
}

/// Gives the server another certificate.
fn present(server: &ThrowawayServer, directory: &Path, name: &str) {
    let file = server.data().join("server.crt");
    std::fs::write(&file, std::fs::read(directory.join(name)).unwrap()).unwrap();
    server.stop(StopMode::Immediate).unwrap();
    server.restart().unwrap();
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
        "hostssl all keeper all scram-sha-256\nhostssl postgres postgres all trust\nhostssl certified postgres all cert\nhost postgres postgres all reject\n",
    );
    let url = server.url("postgres");
    tokio::runtime::Handle::current().block_on(sql(&url, "CREATE DATABASE certified"));
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
    // SCRAM is bound to the TLS channel, and only where the server asks for it.
    let made = Command::new(server.programs().join("psql"))
        .args([
            "-q",
            "-h",
            "127.0.0.1",
            "-U",
            "postgres",
            "-p",
            &port.to_string(),
            "-c",
        ])
        .arg("SET password_encryption = 'scram-sha-256'; CREATE ROLE keeper LOGIN PASSWORD 'kept'")
        .status();
    assert!(made.expect("psql").success());
    for (more, accepted) in [
        (
            "user=keeper password=kept channel_binding=require require_auth=scram-sha-256",
            true,
        ),
        ("user=keeper password=kept channel_binding=disable", true),
        (
            "user=keeper password=kept channel_binding=require sslmode=disable",
            false,
        ),
        ("user=keeper password=kept require_auth=!scram-sha-256", false),
        ("channel_binding=require", false),
        ("require_auth=scram-sha-256", false),
        ("require_auth=scram-sha-256,none", true),
    ] {
        let connected = connect(&text(more).parse().unwrap(), Side::Source, "x").await;
        match connected {
            Ok(_) => assert!(accepted, "{more}"),
            Err(error) => assert!(
                !accepted && error.kind() == Kind::Authentication,
                "{more}: {}",
                error.chain()
            ),
        }
    }
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

#[tokio::test(flavor = "multi_thread")]
async fn certificates_are_taken_as_libpq_takes_them_and_refused_in_words() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().to_owned();
    let server = tokio::task::spawn_blocking(move || {
        let server = server_with_tls(&path);
        odd_certificates(&path);
        server
    });
    let server = server.await.unwrap();
    let (port, d) = (server.port(), directory.path().display());
    let roots = format!("sslrootcert={d}/ca.crt");
    let tried = async |settings: &str| {
        let text = format!("port={port} user=postgres dbname=postgres {settings}");
        let connected = connect(&text.parse().unwrap(), Side::Source, "longhaul test").await;
        connected.map(drop).map_err(|error| {
            assert_eq!(error.kind(), Kind::Tls, "{settings}: {}", error.chain());
            error.chain()
        })
    };
    let refused = async |settings: &str, words: &str| {
        let said = tried(settings).await.expect_err(settings);
        assert!(said.contains(words), "{settings}: {said}");
    };
    let full = format!("host=localhost sslmode=verify-full {roots}");
    for settings in [
        "ssl_min_protocol_version=TLSv1.3",
        "ssl_max_protocol_version=TLSv1.2",
    ] {
        tried(&format!("{full} {settings}")).await.unwrap();
    }
    tried(&format!("{full} sslcrl={d}/none.crl")).await.unwrap();
    refused(&format!("{full} sslcrl={d}/server.crl"), "was revoked").await;
    let verify_ca = full.replace("verify-full", "verify-ca");
    refused(&format!("{verify_ca} sslcrl={d}/server.crl"), "was revoked").await;
    refused(&format!("{full} sslcrl={d}/nothing.crl"), "nothing.crl").await;
    let unknown = format!("host=localhost sslmode=verify-ca sslrootcert={d}/other.crt");
    refused(&unknown, "issued by CN=ca, who is not in").await;
    let address = full.replace("localhost", "127.0.0.1");
    refused(&address, "is for localhost, and not for 127.0.0.1").await;
    let key = directory.path().join("client.key");
    std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o644)).unwrap();
    refused(
        &format!("{full} sslcert={d}/client.crt sslkey={d}/client.key"),
        "can be read by others",
    )
    .await;

    std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o600)).unwrap();
    let text = format!(
        "host=localhost port={port} user=postgres dbname=certified sslmode=require sslkey={d}/client.key \
         sslcert={d}/plain-client.crt"
    );
    let connected = connect(&text.parse().unwrap(), Side::Source, "longhaul test").await;
    connected.unwrap_or_else(|error| panic!("{}", error.chain()));

    present(&server, directory.path(), "plain.crt");
    for settings in ["", "ssl_max_protocol_version=TLSv1.2"] {
        tried(&format!("{full} {settings}")).await.unwrap();
        tried(&format!("host=127.0.0.1 sslmode=require {settings}"))
            .await
            .unwrap();
    }
    refused(&address, "is for localhost, and not for 127.0.0.1").await;
    refused(&unknown, "issued by CN=ca, who is not in").await;

    present(&server, directory.path(), "by-old.crt");
    tried(&full.replace("ca.crt", "old.crt")).await.unwrap();
    refused(&full, "issued by CN=old, who is not in").await;

    present(&server, directory.path(), "expired.crt");
    refused(&full, "expired at 2020-02-02T00:00:00Z").await;
    tried("host=localhost sslmode=require").await.unwrap();

    present(&server, directory.path(), "elsewhere.crt");
    refused(&full, "is for db.example.com, 10.1.2.3, and not for localhost").await;
    tried(&verify_ca).await.unwrap();
}
