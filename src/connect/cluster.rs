//! A client of a Temporal cluster: which one, how it is reached, and why it is not, in words.
//!
//! What is given wins; what is not is looked for where every client of Temporal looks: TEMPORAL_* variables, then the profile
//! in temporal.toml. Only what asks for a cluster (`Given`) leads to one: such a variable alone never does. A key is sent in
//! clear to this machine only.

use std::error::Error;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use temporalio_client::envconfig::{
    ClientConfigProfile, ConfigError, DataSource, LoadClientConfigProfileOptions,
};
use temporalio_client::errors::ClientConnectError;
use temporalio_client::tonic::IntoRequest;
use temporalio_client::{Client, ClientOptions, Connection, ConnectionOptions};
use temporalio_common::envconfig::{ClientConfigTLS, load_client_config_profile};
use temporalio_protos::temporal::api::workflowservice::v1::DescribeNamespaceRequest;
use tonic::{Code, Status};
use url::{Host, Url};

use super::{Connected, identity};

/// The port and namespace that every client of Temporal takes where none is named.
const DEFAULT_ADDRESS: &str = "localhost:7233";
const DEFAULT_NAMESPACE: &str = "default";
/// A cluster that has not answered by then is said not to.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);
/// Certificates of every authority that there is are shorter; a file that is longer is another one.
const FILE_BYTES_MAX: u64 = 4 * 1024 * 1024;
const API_KEY: &str = "API key";
const CLIENT_KEY: &str = "client's key";

/// What was given of a cluster; the rest is in variables and temporal.toml.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Given {
    /// `HOST:PORT`, or a URL whose scheme says whether it is TLS.
    pub address: Option<String>,
    /// The profile in temporal.toml.
    pub profile: Option<String>,
    /// The namespace.
    pub namespace: Option<String>,
    /// Certificates that the cluster's is to be signed by, PEM; as each of the next two it makes the connection TLS.
    pub tls_ca: Option<PathBuf>,
    /// The client's certificate, PEM.
    pub tls_cert: Option<PathBuf>,
    /// Its key, PEM.
    pub tls_key: Option<PathBuf>,
    /// The name in the cluster's certificate, where it is not the host.
    pub tls_server_name: Option<String>,
    /// A file with an API key, its owner's alone.
    pub api_key_file: Option<PathBuf>,
}

/// A cluster, as it is spoken of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cluster {
    /// Host and port.
    pub address: String,
    /// The namespace.
    pub namespace: String,
}

/// Why there is no client of a cluster.
#[derive(Debug, thiserror::Error)]
pub enum ClusterError {
    /// The profile, a variable or an address cannot be understood.
    #[error("the way to the Temporal cluster is not understood: {0}")]
    Config(String),
    /// A certificate or key.
    #[error("cannot read the {what} in {}", .path.display())]
    File {
        /// What it has.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Others can read a key.
    #[error("the {what} in {} can be read by others", .path.display())]
    KeyOpen {
        /// Which key.
        what: &'static str,
        /// Its file.
        path: PathBuf,
    },
    /// The key would be sent in clear.
    #[error("the API key would be sent to {0} without TLS, for everybody on the way to read")]
    KeyInClear(String),
    /// Nobody answers there.
    #[error("the Temporal cluster at {address} is not reached")]
    Unreachable {
        /// Host and port.
        address: String,
        /// Why.
        source: Box<dyn Error + Send + Sync>,
    },
    /// The two do not agree on TLS.
    #[error("no TLS connection with the Temporal cluster at {address}")]
    Tls {
        /// Host and port.
        address: String,
        /// Why.
        source: Box<dyn Error + Send + Sync>,
    },
    /// It ends a connection without TLS: another kind of server, or one that is spoken to by TLS alone.
    #[error("what answers at {address} hangs up: it is not a Temporal service, or one with TLS alone")]
    HungUp {
        /// Host and port.
        address: String,
        /// Why.
        source: Box<dyn Error + Send + Sync>,
    },
    /// It answers, and is not Temporal.
    #[error("what answers at {0} is not a Temporal service")]
    Foreign(String),
    /// It does not know us, or does not let us.
    #[error("the Temporal cluster at {address} refuses: {words}")]
    Denied {
        /// Host and port.
        address: String,
        /// Its words.
        words: String,
    },
    /// It has no such namespace.
    #[error("the Temporal cluster at {} has no namespace {}", .0.address, .0.namespace)]
    NoNamespace(Cluster),
}

impl ClusterError {
    /// What the operator may do.
    #[must_use]
    pub fn hint(&self) -> String {
        match self {
            Self::Config(_) => "look at --temporal, the TEMPORAL_* variables and temporal.toml (TEMPORAL_CONFIG_FILE, \
                                TEMPORAL_PROFILE)"
                .to_owned(),
            Self::File { what: API_KEY, .. } => "give --api-key-file a file with the key and nothing else".to_owned(),
            Self::File { .. } => "look at the path, and at who may read the file".to_owned(),
            Self::KeyOpen { path, .. } => format!("chmod 0600 {}", path.display()),
            Self::KeyInClear(_) => "leave http:// and TEMPORAL_TLS=false out: with a key the connection is TLS".to_owned(),
            Self::Unreachable { .. } => {
                "is it running, and is the address right? 7233 is the usual port; what is started runs on with its workers"
                    .to_owned()
            }
            Self::Tls { .. } => "with TLS: https://HOST:PORT, --tls-ca where its certificate is not signed by an authority that \
                                 this machine trusts, --tls-server-name where it has another name, --tls-cert and --tls-key \
                                 where it asks for ours; without TLS: http://HOST:PORT"
                .to_owned(),
            Self::HungUp { .. } => "give the address of its frontend, usually port 7233; where that is spoken to by TLS: \
                                    https://HOST:PORT, with --tls-ca where its certificate is not signed by an authority that \
                                    this machine trusts"
                .to_owned(),
            Self::Foreign(_) => "give the address of its frontend, usually port 7233; the web UI has another one".to_owned(),
            Self::Denied { .. } => {
                "look at the API key (--api-key-file, TEMPORAL_API_KEY) or at the client's certificate (--tls-cert, --tls-key), \
                 and at what it may do in that namespace"
                    .to_owned()
            }
            Self::NoNamespace(cluster) => format!(
                "name another with --namespace, or make it: temporal operator namespace create --address {} --namespace {}",
                cluster.address, cluster.namespace
            ),
        }
    }
}

/// Reaches the cluster that is given, and sees that it has the namespace.
///
/// # Errors
/// Whatever is in the way, after at most `ANSWER_WITHIN` twice.
pub async fn reach_cluster(given: &Given) -> Result<Connected, ClusterError> {
    let profile = profile(given)?;
    let namespace = profile.namespace.clone().filter(|name| !name.is_empty());
    let namespace = namespace.unwrap_or_else(|| DEFAULT_NAMESPACE.to_owned());
    let mut options = ConnectionOptions::try_from(profile).map_err(config)?;
    let address = shown(&options.target);
    must_not_tell_the_key(&options, &address)?;
    options.identity = identity();
    options.connect_timeout = Some(ANSWER_WITHIN);
    // Its balancer takes every address of a name for a server of its own, also those of both IP versions of one server.
    options.dns_load_balancing = None;
    let is_tls = options.tls_options.is_some();
    let cluster = Cluster { address, namespace };
    let connecting = tokio::time::timeout(2 * ANSWER_WITHIN, Connection::connect(options));
    let connection = match connecting.await {
        Ok(connected) => connected.map_err(|error| refusal(&cluster, is_tls, given, error))?,
        Err(_) => {
            return Err(ClusterError::Unreachable {
                address: cluster.address,
                source: format!("no answer within {} s", 2 * ANSWER_WITHIN.as_secs()).into(),
            });
        }
    };
    let client = Client::new(connection, ClientOptions::new(cluster.namespace.clone()).build());
    let client = client.map_err(|error| ClusterError::Config(error.to_string()))?;
    must_have_namespace(&client, &cluster).await?;
    Ok(Connected::of_cluster(client, cluster))
}

/// What is given, over what variables and temporal.toml say.
fn profile(given: &Given) -> Result<ClientConfigProfile, ClusterError> {
    let options = LoadClientConfigProfileOptions::builder().maybe_config_file_profile(given.profile.clone());
    let mut profile = load_client_config_profile(options.build(), None).map_err(config)?;
    overlay(&mut profile, given)?;
    Ok(profile)
}

fn overlay(profile: &mut ClientConfigProfile, given: &Given) -> Result<(), ClusterError> {
    let is_set = |text: &Option<String>| text.as_ref().is_some_and(|text| !text.is_empty());
    if is_set(&given.address) {
        profile.address.clone_from(&given.address);
    }
    if !is_set(&profile.address) {
        profile.address = Some(DEFAULT_ADDRESS.to_owned());
    }
    if is_set(&given.namespace) {
        profile.namespace.clone_from(&given.namespace);
    }
    if let Some(path) = &given.api_key_file {
        profile.api_key = Some(read_api_key(path)?);
    }
    profile.api_key = profile.api_key.take().filter(|key| !key.is_empty());
    let files = [
        ("certificate", &given.tls_ca),
        ("client's certificate", &given.tls_cert),
        (CLIENT_KEY, &given.tls_key),
    ];
    if files.iter().any(|(_, file)| file.is_some()) || given.tls_server_name.is_some() {
        let tls = profile.tls.get_or_insert_default();
        tls.disabled = Some(false);
        let ends = [&mut tls.server_ca_cert, &mut tls.client_cert, &mut tls.client_key];
        for (end, (what, file)) in ends.into_iter().zip(files) {
            if let Some(file) = file {
                *end = Some(DataSource::Data(read(what, file)?));
            }
        }
        if given.tls_server_name.is_some() {
            tls.server_name.clone_from(&given.tls_server_name);
        }
    }
    obey_the_scheme(profile);
    match &profile.tls {
        // The SDK's client would check it all the same, and say that the certificate is wrong.
        Some(tls) if tls.disable_host_verification => Err(ClusterError::Config(
            "TEMPORAL_TLS_DISABLE_HOST_VERIFICATION (disable_host_verification) is not offered: name the certificate's authority"
                .to_owned(),
        )),
        _ => Ok(()),
    }
}

/// An address with a scheme says by it whether it is TLS.
fn obey_the_scheme(profile: &mut ClientConfigProfile) {
    let address = profile.address.as_deref().unwrap_or_default();
    let disabled = match address.split_once("://") {
        Some(("http", _)) => true,
        Some(("https", _)) => false,
        _ => return,
    };
    profile.tls.get_or_insert_with(ClientConfigTLS::default).disabled = Some(disabled);
}

fn read_api_key(path: &Path) -> Result<String, ClusterError> {
    let key = String::from_utf8(read(API_KEY, path)?).unwrap_or_default();
    match key.trim() {
        "" => Err(ClusterError::File {
            what: API_KEY,
            path: path.to_owned(),
            source: io::Error::other("there is no text in it"),
        }),
        key => Ok(key.to_owned()),
    }
}

/// Reads a file; one with a key is its owner's alone.
fn read(what: &'static str, path: &Path) -> Result<Vec<u8>, ClusterError> {
    let path = path.to_owned();
    let read = || {
        let file = File::open(&path)?;
        let mode = file.metadata()?.mode();
        let mut bytes = Vec::new();
        file.take(FILE_BYTES_MAX).read_to_end(&mut bytes)?;
        io::Result::Ok((mode, bytes))
    };
    match read() {
        Ok((mode, _)) if [API_KEY, CLIENT_KEY].contains(&what) && mode & 0o077 != 0 => {
            Err(ClusterError::KeyOpen { what, path })
        }
        Ok((_, bytes)) => Ok(bytes),
        Err(source) => Err(ClusterError::File { what, path, source }),
    }
}

fn must_not_tell_the_key(options: &ConnectionOptions, address: &str) -> Result<(), ClusterError> {
    let is_here = match options.target.host() {
        Some(Host::Domain(name)) => name == "localhost",
        Some(Host::Ipv4(address)) => address.is_loopback(),
        Some(Host::Ipv6(address)) => address.is_loopback(),
        None => false,
    };
    match options.api_key.is_some() && options.tls_options.is_none() && !is_here {
        true => Err(ClusterError::KeyInClear(address.to_owned())),
        false => Ok(()),
    }
}

async fn must_have_namespace(client: &Client, cluster: &Cluster) -> Result<(), ClusterError> {
    let request = DescribeNamespaceRequest {
        namespace: cluster.namespace.clone(),
        ..Default::default()
    };
    let mut service = client.connection().workflow_service();
    let asked = tokio::time::timeout(ANSWER_WITHIN, service.describe_namespace(request.into_request()));
    match asked.await {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(status)) if status.code() == Code::NotFound => Err(ClusterError::NoNamespace(cluster.clone())),
        Ok(Err(status)) => Err(answered(cluster, status)),
        Err(_) => Err(ClusterError::Unreachable {
            address: cluster.address.clone(),
            source: format!("no answer within {} s", ANSWER_WITHIN.as_secs()).into(),
        }),
    }
}

/// What kept us from connecting.
fn refusal(cluster: &Cluster, is_tls: bool, given: &Given, error: ClientConnectError) -> ClusterError {
    let address = cluster.address.clone();
    if bottom(&error).contains("KeyMismatch") {
        let file = |given: &Option<PathBuf>| given.as_ref().map(|path| path.display().to_string());
        let key = file(&given.tls_key).unwrap_or_else(|| "the client's key".to_owned());
        let certificate = file(&given.tls_cert).unwrap_or_else(|| "the client's certificate".to_owned());
        return ClusterError::Config(format!("{key} is not the key of {certificate}"));
    }
    match error {
        ClientConnectError::SystemInfoCallError(status) if status.source().is_none() => {
            answered(cluster, status)
        }
        ClientConnectError::SystemInfoCallError(status) => broken(address, is_tls, status.into()),
        ClientConnectError::TonicTransportError(error) => broken(address, is_tls, error.into()),
        other => ClusterError::Config(other.to_string()),
    }
}

/// What is wrong with a certificate, by what the TLS library calls it.
const PLAIN_WORDS: [(&str, &str); 4] = [
    (
        "UnknownIssuer",
        "its certificate is signed by no authority that is trusted here",
    ),
    ("Expired", "its certificate has expired"),
    (
        "CaUsedAsEndEntity",
        "its certificate is that of an authority, not of a server",
    ),
    ("CertificateRequired", "it asks for a certificate of ours"),
];

/// A connection that was not made, or was lost before the first answer.
fn broken(address: String, is_tls: bool, error: Box<dyn Error + Send + Sync>) -> ClusterError {
    let words = bottom(&*error);
    let says = |parts: &[&str]| parts.iter().any(|part| words.contains(part));
    let plain = PLAIN_WORDS.iter().find(|(part, _)| words.contains(part));
    let source = plain
        .map_or(words.clone(), |(_, plain)| (*plain).to_owned())
        .into();
    // A server that expects TLS takes the beginning of HTTP/2 for garbage, and hangs up; one that does not like our certificate
    // does so once its own handshake is done.
    let hung_up = says(&["broken pipe", "reset", "closed", "eof"])
        || (!is_tls && says(&["frame", "unexpected", "preface"]));
    let of_tls = says(&[
        "certificate",
        "corrupt message",
        "alert",
        "tls",
        "handshake",
        "InvalidContentType",
    ]);
    if hung_up && !is_tls {
        ClusterError::HungUp { address, source }
    } else if hung_up || of_tls {
        ClusterError::Tls { address, source }
    } else {
        ClusterError::Unreachable { address, source }
    }
}

/// What it has answered.
fn answered(cluster: &Cluster, status: Status) -> ClusterError {
    let address = cluster.address.clone();
    match status.code() {
        Code::Unauthenticated | Code::PermissionDenied => ClusterError::Denied {
            address,
            words: match status.message() {
                "" => format!("{:?}", status.code()),
                words => words.to_owned(),
            },
        },
        Code::Unimplemented | Code::Internal => ClusterError::Foreign(address),
        _ => ClusterError::Unreachable {
            address,
            source: format!("{}: {:?}", status.message(), status.code()).into(),
        },
    }
}

/// The last cause, which knows best.
fn bottom(error: &(dyn Error + 'static)) -> String {
    let mut last = error;
    while let Some(cause) = last.source() {
        last = cause;
    }
    last.to_string()
}

/// Only the first line: the next ones of a reader of TOML show the file, and a key with it.
fn config(error: ConfigError) -> ClusterError {
    let words = error.to_string();
    ClusterError::Config(words.lines().next().unwrap_or_default().to_owned())
}

/// Host and port, without whatever else a URL may hold.
fn shown(target: &Url) -> String {
    let host = target.host_str().unwrap_or_default();
    match target.port_or_known_default() {
        Some(port) => format!("{host}:{port}"),
        None => host.to_owned(),
    }
}
