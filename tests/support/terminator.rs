//! TLS in front of a server that speaks none: who comes in shows a certificate of ours, what he says is passed on.

use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::server::WebPkiClientVerifier;
use tokio_rustls::rustls::{RootCertStore, ServerConfig, crypto::ring};

/// `ca`, and of it `server` (for localhost) and `client`; `stranger` is of its own: `NAME.crt` and `NAME.key` in the directory.
pub fn certificates(directory: &Path) {
    let key = "-newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes";
    openssl(
        directory,
        &format!(
            "req -x509 {key} -days 2 -subj /CN=ca -keyout ca.key -out ca.crt -addext basicConstraints=critical,CA:TRUE"
        ),
    );
    std::fs::write(directory.join("extensions"), "subjectAltName=DNS:localhost\n").unwrap();
    for name in ["server", "client"] {
        openssl(
            directory,
            &format!("req {key} -subj /CN={name} -keyout {name}.key -out {name}.csr"),
        );
        openssl(
            directory,
            &format!(
                "x509 -req -in {name}.csr -CA ca.crt -CAkey ca.key -CAcreateserial -days 2 -extfile extensions -out {name}.crt"
            ),
        );
    }
    openssl(
        directory,
        &format!("req -x509 {key} -days 2 -subj /CN=stranger -keyout stranger.key -out stranger.crt"),
    );
    for name in ["ca", "server", "client", "stranger"] {
        let private = std::os::unix::fs::PermissionsExt::from_mode(0o600);
        std::fs::set_permissions(directory.join(format!("{name}.key")), private).unwrap();
    }
}

fn openssl(directory: &Path, arguments: &str) {
    let output = Command::new("openssl")
        .args(arguments.split(' '))
        .current_dir(directory)
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
}

/// Listens with the certificates in the directory, in front of a port of this machine; gives its own.
pub async fn terminate(directory: &Path, port: u16) -> u16 {
    let chain = |name: &str| -> Vec<CertificateDer<'static>> {
        let found = CertificateDer::pem_file_iter(directory.join(name)).unwrap();
        found.map(Result::unwrap).collect()
    };
    let provider = Arc::new(ring::default_provider());
    let mut roots = RootCertStore::empty();
    chain("ca.crt")
        .into_iter()
        .for_each(|root| roots.add(root).unwrap());
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider));
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_client_cert_verifier(verifier.build().unwrap())
        .with_single_cert(
            chain("server.crt"),
            PrivateKeyDer::from_pem_file(directory.join("server.key")).unwrap(),
        )
        .unwrap();
    config.alpn_protocols = vec![b"h2".to_vec()];
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let own = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                let Ok(mut client) = acceptor.accept(client).await else {
                    return;
                };
                let mut server = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
                _ = copy_bidirectional(&mut client, &mut server).await;
            });
        }
    });
    own
}
