//! TLS of the TCP address: its certificate and key, and where clients must show a certificate, who issues those.

use std::fs::File;
use std::io::{Read, Take};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};

/// No file of certificates or of a key is larger.
const MAX_BYTES: u64 = 4 << 20;

/// Why there can be no TLS. The words name the file.
#[derive(Debug, thiserror::Error)]
#[error("cannot use {} for TLS: {words}", .path.display())]
pub struct TlsError {
    path: PathBuf,
    words: String,
}

/// A certificate with its key, and whose certificates are asked for.
#[derive(Clone)]
pub struct Tls {
    pub(super) config: Arc<ServerConfig>,
    /// Whether clients must show a certificate.
    pub(super) asks_clients: bool,
}

impl Tls {
    /// Reads them. With a client CA, a client that shows no certificate of it is turned away in the handshake.
    ///
    /// # Errors
    /// Names the file, and what is wrong with it.
    pub fn read(certificate: &Path, key: &Path, client_ca: Option<&Path>) -> Result<Self, TlsError> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let wrong = |path: &Path, words: String| TlsError {
            path: path.to_owned(),
            words,
        };
        let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .map_err(|error| wrong(certificate, error.to_string()))?;
        let builder = match client_ca {
            None => builder.with_no_client_auth(),
            Some(path) => {
                let mut roots = RootCertStore::empty();
                for root in certificates(path)? {
                    let added = roots.add(root);
                    added.map_err(|error| wrong(path, format!("not the certificate of a CA ({error})")))?;
                }
                let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build();
                builder.with_client_cert_verifier(
                    verifier
                        .map_err(|error| wrong(path, format!("not the certificate of a CA ({error})")))?,
                )
            }
        };
        let chain = certificates(certificate)?;
        let private = private_key(key)?;
        let mut config = builder
            .with_single_cert(chain, private)
            .map_err(|error| match error {
                rustls::Error::InconsistentKeys(_) => wrong(
                    key,
                    format!("not the key of the certificate in {}", certificate.display()),
                ),
                rustls::Error::InvalidCertificate(_) => {
                    wrong(certificate, format!("not a certificate that TLS takes ({error})"))
                }
                error => wrong(key, format!("not a key that TLS takes ({error})")),
            })?;
        config.alpn_protocols = vec![b"h2".to_vec()];
        Ok(Self {
            config: Arc::new(config),
            asks_clients: client_ca.is_some(),
        })
    }
}

/// A file, up to where none is longer: one without an end has one.
fn opened(path: &Path) -> Result<Take<File>, TlsError> {
    let opened = File::open(path).map_err(|error| TlsError {
        path: path.to_owned(),
        words: error.to_string(),
    });
    Ok(opened?.take(MAX_BYTES))
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let wrong = |words: String| TlsError {
        path: path.to_owned(),
        words,
    };
    let found: Result<Vec<_>, _> = CertificateDer::pem_reader_iter(opened(path)?).collect();
    match found {
        Ok(found) if found.is_empty() => Err(wrong("no certificate in it".to_owned())),
        Ok(found) => Ok(found),
        Err(error) => Err(wrong(in_words(&error))),
    }
}

fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>, TlsError> {
    let wrong = |words: String| TlsError {
        path: path.to_owned(),
        words,
    };
    let file = std::fs::File::open(path).map_err(|error| wrong(error.to_string()))?;
    let metadata = file.metadata().map_err(|error| wrong(error.to_string()))?;
    let open = if metadata.uid() == 0 { 0o037 } else { 0o077 };
    if metadata.mode() & open != 0 {
        return Err(wrong(
            "the key can be read by others: chmod 0600 it (0640 if root owns it)".to_owned(),
        ));
    }
    PrivateKeyDer::from_pem_reader(file.take(MAX_BYTES)).map_err(|error| match error {
        rustls::pki_types::pem::Error::NoItemsFound => wrong("no key in it that is not encrypted".to_owned()),
        error => wrong(in_words(&error)),
    })
}

fn in_words(error: &rustls::pki_types::pem::Error) -> String {
    match error {
        rustls::pki_types::pem::Error::Io(error) => error.to_string(),
        error => format!("not PEM ({error})"),
    }
}
