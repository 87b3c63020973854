//! TLS by rustls, with the meanings that libpq gives to `sslmode`.
//!
//! `require` encrypts and verifies nothing, `verify-ca` looks at the chain and the lists of what was revoked,
//! `verify-full` at the host's name as well. A self-signed server certificate that is itself the root certificate is
//! accepted, as OpenSSL does; so are certificates of version 1 and names in the CN. Errors are in words.

use super::certificate::Certificate;
use super::reach::Socket;
use super::resolved::{SslMode, TlsSettings};
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{
    CryptoProvider, verify_tls12_signature, verify_tls13_signature, verify_tls13_signature_with_raw_key,
};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{
    AlertDescription, CertificateError, ClientConfig, DigitallySignedStruct, InconsistentKeys, RootCertStore,
    SignatureScheme,
};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use tokio_postgres::tls::{MakeTlsConnect, TlsConnect};
use tokio_postgres_rustls::MakeRustlsConnect;

/// A stream within TLS.
pub(super) type Stream = <MakeRustlsConnect as MakeTlsConnect<Socket>>::Stream;

/// What a connection's TLS needs.
pub(super) struct Connector {
    inner: MakeRustlsConnect,
    verifier: Arc<Verifier>,
}

impl Connector {
    /// Reads what the settings name; the error is in words and names the file.
    pub(super) fn new(settings: &TlsSettings, mode: SslMode) -> Result<Self, String> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let trust = match mode {
            SslMode::VerifyCa | SslMode::VerifyFull => {
                Some(Trust::read(settings, mode == SslMode::VerifyFull, &provider)?)
            }
            _ => None,
        };
        let verifier = Arc::new(Verifier {
            trust,
            provider: Arc::clone(&provider),
            seen: Mutex::default(),
        });
        let versions: Vec<_> = [&rustls::version::TLS12, &rustls::version::TLS13]
            .into_iter()
            .zip(settings.versions)
            .filter_map(|(version, spoken)| spoken.then_some(version))
            .collect();
        let builder = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&versions)
            .map_err(|error| error.to_string())?
            .dangerous()
            .with_custom_certificate_verifier(Arc::clone(&verifier) as _);
        let mut config = match (&settings.certificate, &settings.key) {
            (Some(certificate), Some(key)) => {
                let ours = read_ours(certificate, key, &verifier.provider)?;
                builder.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(ours)))
            }
            (Some(_), None) => return Err("sslcert is given without sslkey".to_owned()),
            (None, _) => builder.with_no_client_auth(),
        };
        config.enable_sni = settings.server_name_indication;
        // PostgreSQL 17 asks for it where TLS comes without PostgreSQL's own first question.
        config.alpn_protocols = vec![b"postgresql".to_vec()];
        Ok(Self {
            inner: MakeRustlsConnect::new(config),
            verifier,
        })
    }

    /// The handshake. `host` is the name that the certificate is held against.
    pub(super) async fn connect(&self, host: &str, socket: Socket) -> io::Result<Stream> {
        let host = host.strip_suffix('.').unwrap_or(host);
        let Ok(connect) = MakeTlsConnect::<Socket>::make_tls_connect(&mut self.inner.clone(), host);
        connect.connect(socket).await
    }

    /// The server's certificate, where it was looked at.
    pub(super) fn seen(&self) -> Option<Vec<u8>> {
        self.verifier
            .seen
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}

fn read_certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let wrong = |error| format!("cannot read certificates from {}: {error}", path.display());
    CertificateDer::pem_file_iter(path)
        .map_err(wrong)?
        .collect::<Result<_, _>>()
        .map_err(wrong)
}

/// Our own certificate with its key.
fn read_ours(certificate: &Path, key: &Path, provider: &CryptoProvider) -> Result<CertifiedKey, String> {
    let wrong = |error: rustls::Error| format!("cannot use sslcert {}: {error}", certificate.display());
    let chain = read_certificates(certificate)?;
    let key = provider
        .key_provider
        .load_private_key(read_key(key)?)
        .map_err(wrong)?;
    let is_v1 = chain.first().is_some_and(|own| v1(own).is_some());
    let ours = CertifiedKey::new(chain, key);
    match ours.keys_match() {
        Ok(()) | Err(rustls::Error::InconsistentKeys(InconsistentKeys::Unknown)) => Ok(ours),
        // rustls cannot compare it; the server will.
        Err(_) if is_v1 => Ok(ours),
        Err(error) => Err(wrong(error)),
    }
}

/// A key that others can read is none: as libpq, 0600, or 0640 of root's.
fn read_key(path: &Path) -> Result<PrivateKeyDer<'static>, String> {
    let wrong = |error: &dyn std::fmt::Display| format!("cannot read sslkey {}: {error}", path.display());
    let file = std::fs::File::open(path).map_err(|error| wrong(&error))?;
    let metadata = file.metadata().map_err(|error| wrong(&error))?;
    if !metadata.is_file() {
        return Err(wrong(&"it is not a plain file"));
    }
    let open = if metadata.uid() == 0 { 0o037 } else { 0o077 };
    if metadata.mode() & open != 0 {
        return Err(format!(
            "sslkey {} can be read by others; chmod 0600 it (0640 if root owns it)",
            path.display()
        ));
    }
    PrivateKeyDer::from_pem_reader(file).map_err(|error| match error {
        rustls::pki_types::pem::Error::NoItemsFound => wrong(&"there is no key in it that is not encrypted"),
        error => wrong(&error),
    })
}

fn read_revoked(settings: &TlsSettings) -> Result<Vec<CertificateRevocationListDer<'static>>, String> {
    let mut files: Vec<_> = settings.revoked.clone().into_iter().collect();
    if let Some(directory) = &settings.revoked_directory {
        let wrong = |error| format!("cannot read sslcrldir {}: {error}", directory.display());
        for entry in std::fs::read_dir(directory).map_err(wrong)? {
            files.push(entry.map_err(wrong)?.path());
        }
    }
    let mut lists = Vec::new();
    for file in files {
        let wrong = |error| format!("cannot read sslcrl {}: {error}", file.display());
        for list in CertificateRevocationListDer::pem_file_iter(&file).map_err(wrong)? {
            lists.push(list.map_err(wrong)?);
        }
    }
    let asked = settings.revoked.is_some() || settings.revoked_directory.is_some();
    if asked && lists.is_empty() {
        return Err("there is no list of revoked certificates in sslcrl or sslcrldir".to_owned());
    }
    Ok(lists)
}

/// Whom a server's certificate must come from.
#[derive(Debug)]
struct Trust {
    chain: Arc<WebPkiServerVerifier>,
    certificates: Vec<CertificateDer<'static>>,
    /// Whether the host's name must be in it.
    names: bool,
    /// Whether it must be held against lists of what was revoked.
    revocation: bool,
}

impl Trust {
    fn read(settings: &TlsSettings, names: bool, provider: &Arc<CryptoProvider>) -> Result<Self, String> {
        let source = settings.root_certificate.as_deref().unwrap_or("system");
        let certificates = match source {
            "system" => rustls_native_certs::load_native_certs().certs,
            path => read_certificates(path.as_ref())?,
        };
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(certificates.iter().cloned());
        if roots.is_empty() {
            return Err(format!("there is no root certificate in {source}"));
        }
        let lists = read_revoked(settings)?;
        let revocation = !lists.is_empty();
        let chain = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), Arc::clone(provider))
            .with_crls(lists)
            .enforce_revocation_expiration()
            .build()
            .map_err(|error| format!("cannot use sslcrl: {error}"))?;
        Ok(Self {
            chain,
            certificates,
            names,
            revocation,
        })
    }
}

/// Verifies as much of the server's certificate as `sslmode` asks for, and always the handshake's signature.
#[derive(Debug)]
struct Verifier {
    trust: Option<Trust>,
    provider: Arc<CryptoProvider>,
    /// The server's certificate, for the words of an error.
    seen: Mutex<Option<Vec<u8>>>,
}

impl Verifier {
    /// One of version 1, which webpki takes for an authority's only.
    fn check_v1(&self, certificate: &Certificate, trust: &Trust, now: UnixTime) -> Result<(), rustls::Error> {
        if trust.revocation {
            // Whether it was revoked is webpki's to find.
            return Err(CertificateError::UnknownRevocationStatus.into());
        }
        let algorithms = self.provider.signature_verification_algorithms.all;
        certificate.check_issuer(&trust.certificates, algorithms, now)
    }
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        *self.seen.lock().unwrap_or_else(PoisonError::into_inner) = Some(end_entity.to_vec());
        let Some(trust) = &self.trust else {
            return Ok(ServerCertVerified::assertion());
        };
        let itself_a_root = trust.certificates.iter().any(|root| root == end_entity);
        let read = Certificate::read(end_entity);
        let named = match &read {
            Ok(certificate) if itself_a_root || certificate.is_v1() => {
                certificate.check_time(now)?;
                if !itself_a_root {
                    self.check_v1(certificate, trust, now)?;
                }
                match certificate.is_v1() {
                    // It has no place for a name but the CN.
                    true => Err(CertificateError::NotValidForName.into()),
                    false => rustls::server::ParsedCertificate::try_from(end_entity)
                        .and_then(|parsed| rustls::client::verify_server_name(&parsed, server_name)),
                }
            }
            // Names are looked at last: with another error the chain is not right.
            _ => trust
                .chain
                .verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now)
                .map(drop),
        };
        let by_common_name =
            || read.is_ok_and(|certificate| certificate.common_name_is(&server_name.to_str()));
        match named {
            Err(error) if !is_about_the_name(&error) => Err(error),
            Err(error) if trust.names && !by_common_name() => Err(error),
            _ => Ok(ServerCertVerified::assertion()),
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let known = &self.provider.signature_verification_algorithms;
        let Some(read) = v1(certificate) else {
            return verify_tls12_signature(message, certificate, signed, known);
        };
        let algorithms = known.mapping.iter().find(|(scheme, _)| *scheme == signed.scheme);
        let is_right = algorithms
            .is_some_and(|(_, algorithms)| read.has_signed(algorithms, message, signed.signature()));
        match is_right {
            true => Ok(HandshakeSignatureValid::assertion()),
            false => Err(CertificateError::BadSignature.into()),
        }
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let known = &self.provider.signature_verification_algorithms;
        match v1(certificate) {
            Some(read) => verify_tls13_signature_with_raw_key(message, &read.bare_key()?, signed, known),
            None => verify_tls13_signature(message, certificate, signed, known),
        }
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider
            .signature_verification_algorithms
            .supported_schemes()
    }
}

fn v1(certificate: &CertificateDer<'_>) -> Option<Certificate> {
    Certificate::read(certificate).ok().filter(Certificate::is_v1)
}

fn is_about_the_name(error: &rustls::Error) -> bool {
    use CertificateError::{NotValidForName, NotValidForNameContext};
    matches!(
        error,
        rustls::Error::InvalidCertificate(NotValidForName | NotValidForNameContext { .. })
    )
}

/// rustls' error in an error of I/O's, or the error itself.
pub(super) fn of_rustls<'a>(error: &'a (dyn std::error::Error + 'static)) -> Option<&'a rustls::Error> {
    let inner = error
        .downcast_ref::<io::Error>()
        .and_then(|error| error.get_ref())
        .and_then(|inner| inner.downcast_ref());
    inner.or_else(|| error.downcast_ref())
}

/// What went wrong, for a person, and what to do. `seen` is the server's certificate, `roots` what sslrootcert says.
pub(super) fn words(
    error: &rustls::Error,
    seen: Option<&[u8]>,
    host: &str,
    roots: Option<&str>,
) -> (String, Option<String>) {
    let (words, hint) = match error {
        rustls::Error::InvalidCertificate(error) => {
            let certificate = seen.and_then(|der| Certificate::read(der).ok());
            match of_certificate(error, certificate.as_ref(), host, roots) {
                Some(told) => told,
                None => return (format!("the server's certificate is not accepted: {error}"), None),
            }
        }
        rustls::Error::AlertReceived(alert) if is_about_ours(*alert) => (
            format!("the server does not accept our certificate ({alert:?})"),
            "look at sslcert, and at ssl_ca_file of the server",
        ),
        rustls::Error::AlertReceived(
            AlertDescription::ProtocolVersion | AlertDescription::HandshakeFailure,
        )
        | rustls::Error::PeerIncompatible(_) => (
            "the server and we have no version of TLS, or no cipher, in common".to_owned(),
            "TLS 1.2 and 1.3 are spoken: look at ssl_min_protocol_version and ssl_max_protocol_version, here and there",
        ),
        other => return (other.to_string(), None),
    };
    (words, Some(hint.to_owned()))
}

fn of_certificate(
    error: &CertificateError,
    certificate: Option<&Certificate>,
    host: &str,
    roots: Option<&str>,
) -> Option<(String, &'static str)> {
    use CertificateError as Bad;
    let day = |time: &UnixTime| {
        let time = std::time::UNIX_EPOCH + std::time::Duration::from_secs(time.as_secs());
        humantime::format_rfc3339_seconds(time).to_string()
    };
    Some(match error {
        Bad::ExpiredContext { not_after, .. } => (
            format!(
                "the server's certificate, or its issuer's, expired at {}",
                day(not_after)
            ),
            "have it renewed",
        ),
        Bad::Expired => (
            "the server's certificate, or its issuer's, has expired".to_owned(),
            "have it renewed",
        ),
        Bad::NotValidYetContext { not_before, .. } => (
            format!("the server's certificate is not valid before {}", day(not_before)),
            "compare this machine's clock with the server's",
        ),
        Bad::UnknownIssuer => (
            format!(
                "the server's certificate was issued by {}, who is not in {}",
                certificate.map_or_else(|| "somebody".to_owned(), Certificate::issuer),
                roots.unwrap_or("sslrootcert")
            ),
            "give the issuer's certificate as sslrootcert (a file), or `sslrootcert=system` for a public one",
        ),
        Bad::NotValidForName | Bad::NotValidForNameContext { .. } => (
            format!(
                "the server's certificate is for {}, and not for {host}",
                certificate.map_or_else(|| "another".to_owned(), Certificate::names)
            ),
            "connect by a name that the certificate has (with hostaddr=ADDRESS beside it, if need be), or accept any of \
             the issuer's certificates: sslmode=verify-ca",
        ),
        Bad::Revoked => (
            "the server's certificate was revoked".to_owned(),
            "have the server given another certificate",
        ),
        Bad::UnknownRevocationStatus => (
            "no list in sslcrl or sslcrldir is of who issued the server's certificate".to_owned(),
            "add the issuer's list, or leave sslcrl and sslcrldir out",
        ),
        Bad::ExpiredRevocationListContext { next_update, .. } => (
            format!("the list of revoked certificates expired at {}", day(next_update)),
            "fetch the issuer's latest list into sslcrl",
        ),
        _ => return None,
    })
}

fn is_about_ours(alert: AlertDescription) -> bool {
    matches!(
        alert,
        AlertDescription::BadCertificate
            | AlertDescription::UnsupportedCertificate
            | AlertDescription::CertificateRevoked
            | AlertDescription::CertificateExpired
            | AlertDescription::CertificateUnknown
            | AlertDescription::UnknownCA
            | AlertDescription::CertificateRequired
            | AlertDescription::AccessDenied
    )
}
