//! What is in a certificate, for what webpki leaves out and OpenSSL does not: X.509 v1, and a host's name in the CN.
//!
//! `openssl x509 -req` made certificates of version 1 until lately, and the recipe in PostgreSQL's own manual does so.
//! Such a certificate is taken as libpq takes it: signed by a certificate of sslrootcert's itself, within its time.

use rustls::pki_types::{CertificateDer, SignatureVerificationAlgorithm, SubjectPublicKeyInfoDer, UnixTime};
use rustls::{CertificateError, Error};
use x509_cert::certificate::Version;
use x509_cert::der::{Decode, Encode, Reader, SliceReader, Tag, Tagged};
use x509_cert::ext::pkix::name::GeneralName;
use x509_cert::ext::pkix::{BasicConstraints, SubjectAltName};
use x509_cert::spki::{AlgorithmIdentifierOwned, SubjectPublicKeyInfoOwned};

/// The most of a certificate's names that is shown.
const SHOWN_CHARS: usize = 200;

/// A certificate, taken apart.
pub(super) struct Certificate {
    inner: x509_cert::Certificate,
    /// The part that is signed, as it was sent.
    signed: Vec<u8>,
}

impl Certificate {
    pub(super) fn read(der: &[u8]) -> Result<Self, Error> {
        let bad = |_| Error::InvalidCertificate(CertificateError::BadEncoding);
        let inner = x509_cert::Certificate::from_der(der).map_err(bad)?;
        let signed = SliceReader::new(der).and_then(|mut outer| {
            outer.sequence(|inside| {
                let signed = inside.tlv_bytes()?.to_vec();
                let rest = inside.remaining_len();
                inside.read_slice(rest)?;
                Ok(signed)
            })
        });
        Ok(Self {
            inner,
            signed: signed.map_err(bad)?,
        })
    }

    pub(super) fn is_v1(&self) -> bool {
        self.inner.tbs_certificate.version == Version::V1
    }

    /// Who issued it, for people.
    pub(super) fn issuer(&self) -> String {
        shown(&self.inner.tbs_certificate.issuer.to_string())
    }

    /// The names that it is for, for people.
    pub(super) fn names(&self) -> String {
        let mut names: Vec<String> = Vec::new();
        for name in self.alternative_names() {
            match name {
                GeneralName::DnsName(name) => names.push(name.to_string()),
                GeneralName::IpAddress(bytes) => {
                    names.extend(address(bytes.as_bytes()).map(|a| a.to_string()))
                }
                _ => {}
            }
        }
        if names.is_empty() {
            names.extend(self.common_name());
        }
        match names.is_empty() {
            true => "nobody".to_owned(),
            false => shown(&names.join(", ")),
        }
    }

    fn alternative_names(&self) -> Vec<GeneralName> {
        let found = self.inner.tbs_certificate.get::<SubjectAltName>();
        found.ok().flatten().map_or_else(Vec::new, |(_, names)| names.0)
    }

    fn common_name(&self) -> Option<String> {
        const COMMON_NAME: &str = "2.5.4.3";
        let attributes = self
            .inner
            .tbs_certificate
            .subject
            .0
            .iter()
            .flat_map(|name| name.0.iter());
        let mut names = attributes.filter(|a| a.oid.to_string() == COMMON_NAME);
        let last = names.next_back()?;
        let textual = [
            Tag::Utf8String,
            Tag::PrintableString,
            Tag::TeletexString,
            Tag::Ia5String,
        ];
        let text = textual.contains(&last.value.tag()).then(|| last.value.value())?;
        String::from_utf8(text.to_vec()).ok()
    }

    /// libpq's last resort: the CN counts where there is no alternative name of the host's own sort.
    pub(super) fn common_name_is(&self, host: &str) -> bool {
        let is_address = host.parse::<std::net::IpAddr>().is_ok();
        let of_its_sort = |name: &GeneralName| match name {
            GeneralName::DnsName(_) => !is_address,
            GeneralName::IpAddress(_) => is_address,
            _ => false,
        };
        !self.alternative_names().iter().any(of_its_sort)
            && self.common_name().is_some_and(|name| matches(&name, host))
    }

    /// Whether its time has come, and has not passed.
    pub(super) fn check_time(&self, now: UnixTime) -> Result<(), Error> {
        let validity = &self.inner.tbs_certificate.validity;
        let (not_before, not_after) = (
            validity.not_before.to_unix_duration(),
            validity.not_after.to_unix_duration(),
        );
        let at = UnixTime::since_unix_epoch;
        let seconds = std::time::Duration::from_secs(now.as_secs());
        let error = if seconds < not_before {
            CertificateError::NotValidYetContext {
                time: now,
                not_before: at(not_before),
            }
        } else if seconds > not_after {
            CertificateError::ExpiredContext {
                time: now,
                not_after: at(not_after),
            }
        } else {
            return Ok(());
        };
        Err(Error::InvalidCertificate(error))
    }

    /// Whether one of these signed it, as one that may.
    pub(super) fn check_issuer(
        &self,
        roots: &[CertificateDer<'_>],
        algorithms: &[&dyn SignatureVerificationAlgorithm],
        now: UnixTime,
    ) -> Result<(), Error> {
        let roots = roots.iter().filter_map(|root| Self::read(root).ok());
        let named =
            roots.filter(|root| root.inner.tbs_certificate.subject == self.inner.tbs_certificate.issuer);
        for root in named.filter(Self::may_sign) {
            let key = root.key();
            if check_signature(
                key,
                algorithms,
                Some(&self.inner.signature_algorithm),
                &self.signed,
                self.inner.signature.raw_bytes(),
            ) {
                return root.check_time(now);
            }
        }
        Err(Error::InvalidCertificate(CertificateError::UnknownIssuer))
    }

    /// As OpenSSL: an authority says that it is one; of version 1 it cannot say so, and signs itself.
    fn may_sign(&self) -> bool {
        let certificate = &self.inner.tbs_certificate;
        match certificate.get::<BasicConstraints>() {
            Ok(Some((_, constraints))) => constraints.ca,
            Ok(None) => self.is_v1() && certificate.subject == certificate.issuer,
            Err(_) => false,
        }
    }

    /// Whether a message of the handshake's was signed by its key, by one of these algorithms.
    pub(super) fn has_signed(
        &self,
        algorithms: &[&dyn SignatureVerificationAlgorithm],
        message: &[u8],
        signature: &[u8],
    ) -> bool {
        check_signature(self.key(), algorithms, None, message, signature)
    }

    /// Its key, as a key without a certificate is written.
    pub(super) fn bare_key(&self) -> Result<SubjectPublicKeyInfoDer<'static>, Error> {
        let der = self.key().to_der();
        der.map(SubjectPublicKeyInfoDer::from)
            .map_err(|_| Error::InvalidCertificate(CertificateError::BadEncoding))
    }

    fn key(&self) -> &SubjectPublicKeyInfoOwned {
        &self.inner.tbs_certificate.subject_public_key_info
    }
}

fn check_signature(
    key: &SubjectPublicKeyInfoOwned,
    algorithms: &[&dyn SignatureVerificationAlgorithm],
    by: Option<&AlgorithmIdentifierOwned>,
    message: &[u8],
    signature: &[u8],
) -> bool {
    let (Some(of_key), Some(bits)) = (identifier(&key.algorithm), key.subject_public_key.as_bytes()) else {
        return false;
    };
    let by = by.map(identifier);
    algorithms
        .iter()
        .filter(|algorithm| *algorithm.public_key_alg_id() == *of_key)
        .filter(|algorithm| {
            by.as_ref()
                .is_none_or(|by| by.as_deref() == Some(&*algorithm.signature_alg_id()))
        })
        .any(|algorithm| algorithm.verify_signature(bits, message, signature).is_ok())
}

/// An algorithm as rustls writes it: without the header of its sequence.
fn identifier(algorithm: &AlgorithmIdentifierOwned) -> Option<Vec<u8>> {
    let der = algorithm.to_der().ok()?;
    let mut reader = SliceReader::new(&der).ok()?;
    let inside = reader.sequence(|inside| {
        let length = inside.remaining_len();
        inside.read_slice(length).map(<[u8]>::to_vec)
    });
    inside.ok()
}

/// As libpq: without regard to case, and `*.` stands for one label.
fn matches(pattern: &str, host: &str) -> bool {
    let host = host.strip_suffix('.').unwrap_or(host);
    match pattern.strip_prefix("*.") {
        Some(rest) => host.split_once('.').is_some_and(|(label, host)| {
            !label.is_empty() && !rest.is_empty() && host.eq_ignore_ascii_case(rest)
        }),
        None => pattern.eq_ignore_ascii_case(host),
    }
}

fn address(bytes: &[u8]) -> Option<std::net::IpAddr> {
    let four = <[u8; 4]>::try_from(bytes).map(Into::into);
    four.or_else(|_| <[u8; 16]>::try_from(bytes).map(Into::into)).ok()
}

/// A text that somebody else wrote, for a line of ours.
fn shown(text: &str) -> String {
    let plain = text.chars().map(|c| if c.is_control() { '?' } else { c });
    let mut text: String = plain.clone().take(SHOWN_CHARS).collect();
    if plain.count() > SHOWN_CHARS {
        text.push('…');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_common_name_matches_as_libpq_has_it() {
        for (pattern, host, same) in [
            ("db.example.com", "DB.example.com", true),
            ("*.example.com", "db.example.com", true),
            ("*.example.com", "a.db.example.com", false),
            ("*.example.com", "example.com", false),
            ("*.", "db.", false),
            ("*", "db", false),
            ("db", "db.example.com", false),
        ] {
            assert_eq!(matches(pattern, host), same, "{pattern} {host}");
        }
    }

    #[test]
    fn what_is_no_certificate_is_told() {
        assert!(Certificate::read(b"nonsense").is_err());
        assert_eq!(shown("a\x1b[31m\r\n"), "a?[31m??");
    }
}
