//! `server`: the state directory's service on a TCP address, for clients that others wrote, until it is told to stop.

use std::time::Duration;

use super::super::args::ServerArgs;
use super::super::exit::ExitStatus;
use super::super::report::{Outcome, Report};
use super::{Context, unreachable};
use crate::connect::{self, ApiKeys, ListenError, Member, NAMESPACE, Place, TcpOptions, Tls};

/// How soon a journal that has failed ends the server.
const LOOK_EVERY: Duration = Duration::from_secs(1);

pub async fn server(context: &Context<'_>, args: &ServerArgs) -> Outcome {
    // What was typed is looked at before anything is touched.
    let options = options(args)?;
    let is_open = args.api_key_file.is_none() && args.tls_client_ca.is_none();
    for warning in context.state_dir.prepare()? {
        context.printer.warn(&warning);
    }
    let connected = connect::share(context.path()).await;
    let connected = connected.map_err(|error| unreachable(&error))?;
    let Place::Shared(member) = &connected.place else {
        return Err(Report::of("the journal is served elsewhere", ExitStatus::Service));
    };
    let listening = member.listen(options).await.map_err(|error| deaf(&error))?;
    context.interrupts.attend("the server was stopped".to_owned());
    let served_by = member.served_by();
    let who = served_by.map_or_else(String::new, |pid| format!(", whose journal process {pid} serves"));
    context.printer.talk(&format!(
        "listening on {} (namespace {NAMESPACE}, state directory {}{who})",
        listening.address(),
        context.path().display()
    ));
    if is_open {
        context.printer.warn(
            "every user of this machine may start, read and end workflows here, and take their tasks, longhaul's own jobs among \
             them: --api-key-file keeps others out",
        );
    }
    let failed = tokio::select! {
        () = context.interrupts.heard(1) => None,
        report = failure(context, member, served_by) => Some(report),
    };
    listening.stop().await;
    match failed {
        Some(report) => Err(report),
        // It was to run until it is told to stop, and so it is done.
        None => Ok(ExitStatus::Done),
    }
}

/// Waits until the journal has failed, and says who serves it whenever that changes.
async fn failure(context: &Context<'_>, member: &Member, mut served_by: Option<u32>) -> Report {
    loop {
        if let Err(error) = member.check() {
            let hint = "nothing that was answered is lost: make room or repair the disk, then start the server again";
            return Report::new(&error, ExitStatus::Service).with_hint(hint.to_owned());
        }
        let now = member.served_by();
        match (served_by, now) {
            (Some(pid), None) if !member.is_served_elsewhere() => {
                let words = format!("process {pid} serves the journal no more: this one does");
                context.printer.talk(&words);
                served_by = now;
            }
            (_, Some(pid)) if now != served_by => {
                context
                    .printer
                    .talk(&format!("process {pid} serves the journal now"));
                served_by = now;
            }
            _ => {}
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

fn options(args: &ServerArgs) -> Result<TcpOptions, Report> {
    let tls = match (&args.tls_cert, &args.tls_key) {
        (Some(certificate), Some(key)) => {
            let tls = Tls::read(certificate, key, args.tls_client_ca.as_deref());
            Some(tls.map_err(|error| Report::new(&error, ExitStatus::Usage))?)
        }
        _ => None,
    };
    let keys = args.api_key_file.as_deref().map(ApiKeys::read).transpose();
    let options = TcpOptions {
        address: args.listen,
        tls,
        keys: keys.map_err(|error| Report::new(&error, ExitStatus::Usage))?,
        is_unprotected: args.unprotected,
    };
    options.check().map_err(|error| deaf(&error))?;
    Ok(options)
}

/// Why it cannot listen, and the way out.
fn deaf(error: &ListenError) -> Report {
    use std::io::ErrorKind;
    let (status, hint) = match error {
        ListenError::Unprotected { .. } => (
            ExitStatus::Usage,
            "give --tls-cert and --tls-key, and --tls-client-ca or --api-key-file; or --unprotected, which lets in anybody who reaches it",
        ),
        ListenError::Address { source, .. } => {
            let hint = match source.kind() {
                ErrorKind::AddrInUse => {
                    "another process listens there: end it, or give another port (0 takes a free one)"
                }
                ErrorKind::AddrNotAvailable => "this machine has no such address: see `ip address`",
                ErrorKind::PermissionDenied => {
                    "ports below 1024 need a right of their own: give a higher one"
                }
                _ => "give another address with --listen",
            };
            (ExitStatus::Service, hint)
        }
        ListenError::Socket { .. } => (ExitStatus::Service, "look at the rights of the state directory"),
    };
    Report::new(error, status).with_hint(hint.to_owned())
}
