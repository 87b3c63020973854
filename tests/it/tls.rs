//! Jobs on a cluster behind TLS, with a certificate and an API key of ours: our own server, and Temporal's behind a terminator.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use crate::binary::{Ended, until};
use crate::cluster::Server;
use crate::stage::{Stage, runtime};
use crate::terminator::{certificates, terminate};

const KEY: &str = "a-key-of-a-test-0123456789";

/// The flags that lead there as `client`, with a key.
struct Way<'a> {
    directory: &'a Path,
    address: String,
    namespace: &'a str,
}

impl Way<'_> {
    fn flags(&self, client: &str) -> Vec<String> {
        let file = |name: &str| self.directory.join(name).to_str().unwrap().to_owned();
        let flags = [
            ("--temporal", self.address.clone()),
            ("--namespace", self.namespace.to_owned()),
            ("--tls-ca", file("ca.crt")),
            ("--tls-cert", file(&format!("{client}.crt"))),
            ("--tls-key", file(&format!("{client}.key"))),
            ("--tls-server-name", "localhost".to_owned()),
            ("--api-key-file", file("key")),
        ];
        flags
            .into_iter()
            .flat_map(|(flag, value)| [flag.to_owned(), value])
            .collect()
    }

    fn migrate(&self, stage: &Stage, client: &str) -> Ended {
        let mut command = stage.migrate(&[]);
        stage.begin(command.args(self.flags(client))).end()
    }

    /// A job is done and seen through it; a client with a certificate of nobody's is told so.
    fn is_right(&self, stage: &Stage) {
        let ended = self.migrate(stage, "stranger");
        ended.assert_code(5).assert_said(&["TLS"]);
        assert_eq!(stage.rows(), 0);
        self.migrate(stage, "client")
            .assert_code(0)
            .assert_said(&["is complete: 3,000 rows"]);
        stage.assert_moved();
        let listed = stage
            .begin(stage.command(&["list"]).args(self.flags("client")))
            .end();
        assert!(listed.assert_code(0).stdout.contains("completed"));
    }
}

fn write_key(directory: &Path, name: &str, key: &str) {
    let path = directory.join(name);
    std::fs::write(&path, format!("{key}\n")).unwrap();
    std::fs::set_permissions(path, PermissionsExt::from_mode(0o600)).unwrap();
}

#[test]
fn a_migrate_goes_through_tls_with_a_certificate_and_a_key_to_a_server_of_ours() {
    let directory = tempfile::tempdir().unwrap();
    certificates(directory.path());
    write_key(directory.path(), "key", KEY);
    write_key(directory.path(), "keys", KEY);
    let stage = Stage::new(3000);
    let file = |name: &str| directory.path().join(name).to_str().unwrap().to_owned();
    let mut command = stage.command(&["server", "--listen", "127.0.0.1:0"]);
    command.args([
        "--tls-cert",
        &file("server.crt"),
        "--tls-key",
        &file("server.key"),
    ]);
    command.args([
        "--tls-client-ca",
        &file("ca.crt"),
        "--api-key-file",
        &file("keys"),
    ]);
    let server = stage.begin(&mut command);
    let address = until("it listens", || {
        let said = server.said();
        let address = said.lines().find_map(|line| line.strip_prefix("listening on "))?;
        Some(address.split(' ').next()?.to_owned())
    });
    let way = Way {
        directory: directory.path(),
        address,
        namespace: "default",
    };
    way.is_right(&stage);
    write_key(directory.path(), "key", &format!("{KEY}0"));
    let refused = stage
        .begin(stage.command(&["list"]).args(way.flags("client")))
        .end();
    refused.assert_code(5).assert_said(&["refuses", "API key"]);
    // The certificate of one, the key of the other.
    let mut mixed = way.flags("client");
    let key = mixed.iter().position(|flag| flag == "--tls-key").unwrap() + 1;
    mixed[key] = file("stranger.key");
    let refused = stage.begin(stage.command(&["list"]).args(mixed)).end();
    refused
        .assert_code(2)
        .assert_said(&["stranger.key is not the key of", "client.crt"]);
}

#[test]
fn a_migrate_goes_through_tls_with_a_certificate_and_a_key_to_temporals_server() {
    let directory = tempfile::tempdir().unwrap();
    certificates(directory.path());
    write_key(directory.path(), "key", KEY);
    let server = Server::shared();
    let port = runtime().block_on(terminate(directory.path(), server.port()));
    let way = Way {
        directory: directory.path(),
        address: format!("127.0.0.1:{port}"),
        namespace: "secured",
    };
    way.is_right(&Stage::new(3000));
}
