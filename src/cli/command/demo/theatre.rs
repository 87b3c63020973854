//! Where the demo happens: two servers, a directory for the worker's journal, and the worker. Owns all that must be gone
//! at the end, and takes it away in order: the worker first, since it writes into the directory and to the servers.

use std::fs::DirBuilder;
use std::os::unix::fs::DirBuilderExt;
use std::path::PathBuf;
use std::process::{ExitStatus as WorkerStatus, Stdio};

use tokio::process::{Child, Command};
use tokio::task::spawn_blocking;

use super::of_postgres;
use crate::cli::exit::ExitStatus;
use crate::cli::printer::{ColorChoice, Printer};
use crate::cli::report::Report;
use crate::cli::settings::Settings;
use crate::observe::progress::ProgressMode;
use crate::postgres::{
    ConnectionString, ServerError, ServerOptions, Session, Side, StopMode, ThrowawayServer, connect, sample,
};

/// A name that the sessions of jobs (`longhaul ...`) do not have.
const APPLICATION: &str = "demo";

pub(super) struct Theatre {
    directory: Directory,
    source: ThrowawayServer,
    target: ThrowawayServer,
    worker: Option<Child>,
}

/// A directory that goes when this does.
struct Directory {
    path: PathBuf,
    keep: bool,
}

impl Drop for Directory {
    fn drop(&mut self) {
        if !self.keep {
            // Nobody is left to tell.
            _ = std::fs::remove_dir_all(&self.path);
        }
    }
}

impl Theatre {
    /// Makes the directory and starts both servers. What was made is removed again where the rest fails.
    pub(super) async fn set() -> Result<Self, Report> {
        let name = format!("longhaul-demo-{}", uuid::Uuid::new_v4().simple());
        let path = std::env::temp_dir().join(name);
        let made = DirBuilder::new().mode(0o700).create(&path);
        made.map_err(|error| {
            Report::of(format!("cannot create {}", path.display()), ExitStatus::Failed)
                .caused_by(&error.to_string())
        })?;
        let directory = Directory { path, keep: false };
        let (source, target) = tokio::join!(spawn_blocking(start), spawn_blocking(start));
        let (source, target) = (joined(source), joined(target));
        Ok(Self {
            directory,
            source: source?,
            target: target?,
            worker: None,
        })
    }

    /// One session to each server.
    pub(super) async fn sessions(&self) -> Result<(Session, Session), Report> {
        Ok((self.source_session().await?, session(&self.target).await?))
    }

    /// One more session to the source.
    pub(super) async fn source_session(&self) -> Result<Session, Report> {
        session(&self.source).await
    }

    /// Starts the worker: this program again, as an operator would run it. Gives its process id.
    pub(super) fn start_worker(&mut self, batch_rows: u64, settings: &Settings) -> Result<u32, Report> {
        let failed = |error: std::io::Error| {
            Report::of("cannot run this program again", ExitStatus::Failed).caused_by(&error.to_string())
        };
        let mut command = Command::new(std::env::current_exe().map_err(failed)?);
        command
            .arg("migrate")
            .args(["--source", &url(&self.source), "--target", &url(&self.target)])
            .args(["--table", sample::TABLE, "--batch-rows", &batch_rows.to_string()])
            .args([
                "--progress",
                progress_name(settings.progress),
                "--color",
                color_name(settings.color),
            ])
            .arg("--state-dir")
            .arg(self.directory.path.join("state"))
            .stdin(Stdio::null())
            // A terminal's Ctrl-C is ours to answer, and not the worker's too.
            .process_group(0)
            .kill_on_drop(true);
        // What the operator has set for real jobs is not meant for this one.
        let theirs = std::env::vars_os().map(|(name, _)| name);
        theirs
            .filter(|name| {
                ["LONGHAUL_", "PG"]
                    .iter()
                    .any(|prefix| name.to_string_lossy().starts_with(prefix))
            })
            .for_each(|name| _ = command.env_remove(name));
        let worker = command.spawn().map_err(failed)?;
        let pid = worker.id().unwrap_or_default();
        self.worker = Some(worker);
        Ok(pid)
    }

    /// Waits until the worker ends by itself. Cancel-safe.
    pub(super) async fn worker_ends(&mut self) -> Result<WorkerStatus, Report> {
        let Some(worker) = &mut self.worker else {
            return Err(Report::of("no worker runs", ExitStatus::Failed));
        };
        let ended = worker.wait().await.map_err(lost)?;
        self.worker = None;
        Ok(ended)
    }

    /// Kills the worker with SIGKILL, if there is one, and waits until it is dead.
    pub(super) async fn kill_worker(&mut self) -> Result<(), Report> {
        match &mut self.worker {
            Some(worker) => worker.kill().await.map_err(lost)?,
            None => return Ok(()),
        }
        self.worker = None;
        Ok(())
    }

    /// Takes everything away: the worker, the servers, the directory. With `keep`, what is on disk stays, and is named.
    pub(super) async fn clear(mut self, keep: bool, printer: &Printer) -> Result<(), Report> {
        // A worker that cannot be killed is dropped, which kills it; the rest goes in any case.
        let killed = self.kill_worker().await;
        let Self {
            mut directory,
            source,
            target,
            worker,
        } = self;
        drop(worker);
        directory.keep = keep;
        let path = directory.path.clone();
        let kept = spawn_blocking(move || {
            let kept: Vec<_> = [source, target]
                .into_iter()
                .filter_map(|server| put_away(server, keep))
                .collect();
            drop(directory);
            kept
        });
        for directory in kept.await.unwrap_or_default() {
            printer.talk(&format!("kept {} and its log beside it", directory.display()));
        }
        if keep {
            printer.talk(&format!("kept {}", path.display()));
        }
        killed
    }
}

fn put_away(server: ThrowawayServer, keep: bool) -> Option<PathBuf> {
    if !keep {
        return None;
    }
    // It may be stopped already.
    _ = server.stop(StopMode::Fast);
    let data = server.data();
    // Its destructor would remove the directory.
    std::mem::forget(server);
    Some(data)
}

fn start() -> Result<ThrowawayServer, ServerError> {
    let settings = [
        "autovacuum = off",
        "synchronous_commit = off",
        "wal_level = minimal",
        "max_wal_senders = 0",
    ];
    let settings = settings.map(str::to_owned).to_vec();
    ThrowawayServer::start(&ServerOptions {
        fsync: false,
        settings,
        // Whoever gets in is its superuser, and so can do all that this user can.
        is_private: true,
        ..ServerOptions::default()
    })
}

fn joined(
    started: Result<Result<ThrowawayServer, ServerError>, tokio::task::JoinError>,
) -> Result<ThrowawayServer, Report> {
    match started {
        Ok(Ok(server)) => Ok(server),
        Ok(Err(error)) => Err(Report::new(&error, ExitStatus::Failed).with_hint(error.hint().to_owned())),
        Err(error) => Err(Report::new(&error, ExitStatus::Failed)),
    }
}

/// Complete, so that no PGSSLMODE asks for more.
fn url(server: &ThrowawayServer) -> String {
    format!("{}&sslmode=disable", server.url("postgres"))
}

/// Both are written to: a session of the source's side only reads.
async fn session(server: &ThrowawayServer) -> Result<Session, Report> {
    let connection: Result<ConnectionString, String> = url(server).parse();
    let connection = connection.map_err(|rule| Report::of(rule, ExitStatus::Failed))?;
    connect(&connection, Side::Target, APPLICATION)
        .await
        .map_err(of_postgres)
}

fn lost(error: std::io::Error) -> Report {
    Report::of("cannot wait for the worker", ExitStatus::Failed).caused_by(&error.to_string())
}

fn progress_name(mode: ProgressMode) -> &'static str {
    match mode {
        ProgressMode::Auto => "auto",
        ProgressMode::Bar => "bar",
        ProgressMode::Plain => "plain",
        ProgressMode::Json => "json",
        ProgressMode::None => "none",
    }
}

fn color_name(color: ColorChoice) -> &'static str {
    match color {
        ColorChoice::Auto => "auto",
        ColorChoice::Always => "always",
        ColorChoice::Never => "never",
    }
}
