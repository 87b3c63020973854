//! One file a group of commands: what each does, in the order in which it does it.

mod arrived;
mod check;
mod config;
mod control;
mod copy;
mod demo;
mod deserted;
mod ends;
mod history;
mod inspect;
mod jobs;
mod kept;
mod prune;
mod run;
mod server;
mod service;
mod standing;
mod trouble;
mod verify;
mod worker;

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::path::Path;

use super::args::{Args, Command};
use super::exit::ExitStatus;
use super::interrupts::Interrupts;
use super::printer::Printer;
use super::report::{Outcome, Report};
use super::settings::Settings;
use super::state_dir::StateDir;
use crate::job::status::JobKind;

pub use config::manual;
use service::{Reached, unreachable};

/// What every command has at hand.
pub(super) struct Context<'a> {
    pub printer: &'a Printer,
    pub settings: &'a Settings,
    pub state_dir: StateDir,
    pub interrupts: Interrupts,
    reached: Reached,
    /// What was warned of once.
    warned: RefCell<BTreeSet<String>>,
}

impl Context<'_> {
    /// Warns, unless it was said already.
    fn warn_once(&self, words: &str) {
        let mut warned = self.warned.borrow_mut();
        if warned.insert(words.to_owned()) {
            self.printer.warn(words);
        }
    }

    fn path(&self) -> &Path {
        self.state_dir.path()
    }

    /// Whether anything was ever run from the state directory; says what had to be done to it.
    fn has_state(&self) -> Result<bool, Report> {
        let found = self.state_dir.find()?;
        for warning in found.iter().flatten() {
            self.printer.warn(warning);
        }
        Ok(found.is_some())
    }
}

/// Carries out what was typed, or ends where it is interrupted. Needs a `LocalSet` on a multi-threaded runtime.
pub async fn execute(args: &Args, settings: &Settings, printer: &Printer) -> Outcome {
    if let Command::Demo(demo) = &args.command {
        // It has servers to take away, however it is interrupted.
        return demo::run(demo, printer, settings).await;
    }
    let interrupts = Interrupts::listen(printer)?;
    let state_dir = StateDir::locate(settings.state_dir.as_deref())?;
    let context = Context {
        printer,
        settings,
        state_dir,
        interrupts: interrupts.clone(),
        reached: Reached::new(),
        warned: RefCell::default(),
    };
    tokio::select! {
        outcome = carry_out(args, context) => outcome,
        words = interrupts.unattended() => {
            printer.talk(words);
            Ok(ExitStatus::Interrupted)
        }
    }
}

async fn carry_out(args: &Args, context: Context<'_>) -> Outcome {
    let (settings, printer) = (context.settings, context.printer);
    match &args.command {
        Command::Check(args) => {
            let kind = if args.sync {
                JobKind::Sync
            } else {
                JobKind::Migrate
            };
            check::check(&context, kind, args.job.copy.restart, args.json).await
        }
        Command::Migrate(args) if args.dry.dry_run => {
            check::check(&context, JobKind::Migrate, args.copy.restart, args.dry.json).await
        }
        Command::Sync(args) if args.dry.dry_run => {
            check::check(&context, JobKind::Sync, args.copy.restart, args.dry.json).await
        }
        Command::Migrate(migrate) => copy::copy(&context, JobKind::Migrate, &migrate.copy).await,
        Command::Verify(verify) => verify::verify(&context, verify).await,
        Command::Sync(sync) => copy::copy(&context, JobKind::Sync, &sync.copy).await,
        Command::Resume(resume) => copy::resume(&context, resume).await,
        Command::Status(status) => {
            if status.watch {
                return inspect::watch(&context, status.job.as_deref(), status.json).await;
            }
            inspect::status(&context, status.job.as_deref(), status.json).await
        }
        Command::List(list) => inspect::list(&context, list.json).await,
        Command::History(args) => history::history(&context, args).await,
        Command::Pause(pause) => control::pause(&context, &pause.job, pause.wait).await,
        Command::Cancel(cancel) => control::cancel(&context, &cancel.job, cancel.wait).await,
        Command::Tune(tune) => control::tune(&context, &tune.job, tune.change()).await,
        Command::Worker(args) => worker::worker(&context, args).await,
        Command::Prune(args) => prune::prune(&context, args).await,
        Command::Server(args) => server::server(&context, args).await,
        Command::Demo(demo) => demo::run(demo, printer, settings).await,
        Command::Config(args) => config::config(&args.command, settings, printer),
        Command::Completions(_) | Command::Man(_) => manual(args, printer).unwrap_or(Ok(ExitStatus::Done)),
    }
}

/// What a service answers who tells a workflow something that has ended since it was looked for.
const ENDED: &str = "workflow execution already completed";

/// An RPC that failed in a way that no operator can mend; in the service's own words where it has answered.
fn refused(error: &(dyn std::error::Error + 'static)) -> Report {
    let mut cause = Some(error);
    while let Some(error) = cause {
        if let Some(status) = error.downcast_ref::<tonic::Status>() {
            if status.message() == ENDED {
                return Report::of("the job has ended meanwhile", ExitStatus::Service)
                    .with_hint("longhaul status says how; its own command continues it".to_owned());
            }
            return Report::of(status.message(), ExitStatus::Service);
        }
        cause = error.source();
    }
    Report::new(error, ExitStatus::Service)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_job_that_has_ended_between_two_looks_is_said_to() {
        let shown = |words: &str| refused(&tonic::Status::not_found(words)).render(false);
        let ended = shown(ENDED);
        assert!(ended.contains("the job has ended meanwhile"), "{ended}");
        assert!(shown("no such namespace").contains("no such namespace"));
    }
}
