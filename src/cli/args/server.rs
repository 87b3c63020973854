//! The flags of `longhaul server`.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::Args as ArgGroup;

/// Lines of at most 79 columns, so that they are wrapped nowhere.
pub(super) const EXAMPLES: &str = "\
Examples:
  longhaul server
  longhaul server --listen 127.0.0.1:0 --state-dir /var/lib/workflows
  longhaul server --listen 0.0.0.0:7233 --tls-cert server.crt \\
                  --tls-key server.key --api-key-file keys

Durable workflows for programs of your own, in the namespace `default`, with the
journal in the state directory. It runs until Ctrl-C or SIGTERM, and then exits
with 0. Whoever reaches the address may start, read and end workflows: another
one than this machine's own needs TLS, and a client CA or an API key.
On this machine's own every user of it may, unless an API key is asked for.";

/// `longhaul server`.
#[derive(Debug, ArgGroup)]
pub struct ServerArgs {
    /// Where to listen; port 0 takes one that is free, and says which
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "127.0.0.1:7233", value_parser = address)]
    pub listen: SocketAddr,
    /// Certificate to show, in PEM, with those between it and its CA
    #[arg(long, value_name = "FILE", requires = "tls_key")]
    pub tls_cert: Option<PathBuf>,
    /// Private key of the certificate, in PEM, readable by its owner alone
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    pub tls_key: Option<PathBuf>,
    /// Certificate of the CA whose certificates clients must show, in PEM
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    pub tls_client_ca: Option<PathBuf>,
    /// File of API keys, a line each, of which clients must send one; readable by its owner alone
    #[arg(long, value_name = "FILE")]
    pub api_key_file: Option<PathBuf>,
    /// Let anybody in who reaches the address, also from other machines: do without TLS, and without a client CA or API key
    #[arg(long)]
    pub unprotected: bool,
}

fn address(text: &str) -> Result<SocketAddr, String> {
    let numeric = match text.strip_prefix("localhost:") {
        Some(port) => format!("127.0.0.1:{port}"),
        None => text.to_owned(),
    };
    numeric.parse().map_err(|_| {
        "it must be an address and a port, such as 127.0.0.1:7233, 0.0.0.0:7233 or [::1]:7233".to_owned()
    })
}
