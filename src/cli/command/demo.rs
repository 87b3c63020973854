//! `longhaul demo`: two throwaway servers, a table, a worker that is killed on the way, and a comparison at the end.
//!
//! The worker is this same program, run as an operator would run it. Everything stands in a [`Theatre`], which is cleared
//! however the demo ends: done, failed or interrupted. The comparison is PostgreSQL's own.

mod theatre;

use std::time::{Duration, Instant};

use tokio::signal::unix::{Signal, SignalKind, signal};

use self::theatre::Theatre;
use crate::cli::args::DemoArgs;
use crate::cli::exit::ExitStatus;
use crate::cli::printer::Printer;
use crate::cli::report::{Outcome, Report};
use crate::cli::settings::Settings;
use crate::observe::Terminal;
use crate::observe::figures::{bytes, count, counted};
use crate::postgres::{Session, sample};

/// So many batches a job, that a kill lands in the middle of one; but none above [`BATCH_ROWS_MAX`].
const BATCHES: u64 = 200;
const BATCH_ROWS_MAX: u64 = 5000;
/// How often the ledger is read to find the moment of a kill.
const LOOK_EVERY: Duration = Duration::from_millis(10);
/// A dead worker's sessions end when their server notices; it is given so long.
const SESSIONS_END_WITHIN: Duration = Duration::from_secs(10);

/// Runs the demo. Leaves nothing behind, whatever happens, unless it is told to keep the servers' directories.
///
/// # Errors
/// If PostgreSQL's programs are missing, a server fails, or the worker ends with an error.
pub async fn run(args: &DemoArgs, printer: &Printer, settings: &Settings) -> Outcome {
    let began = Instant::now();
    let mut interrupt = Interrupt::listen()?;
    printer.talk(&format!(
        "demo: {} from one throwaway PostgreSQL server to another; the worker is killed {} on the way",
        counted(args.rows, "row"),
        times(args.kills),
    ));
    // Begun servers are waited for even where a signal comes: they must be there to be removed.
    let mut theatre = match Theatre::set().await {
        Ok(theatre) => theatre,
        Err(_) if interrupt.has_come().await => return Ok(interrupted(printer)),
        Err(report) => return Err(report),
    };
    let outcome = tokio::select! {
        biased;
        () = interrupt.comes() => Ok(interrupted(printer)),
        outcome = play(&mut theatre, args, printer, settings) => outcome,
    };
    theatre.clear(args.keep, printer).await?;
    if let Ok(ExitStatus::Done) = outcome {
        let left = if args.keep {
            "kept what it made"
        } else {
            "nothing is left of it"
        };
        printer.talk(&format!(
            "the demo took {:.1} s; {left}",
            began.elapsed().as_secs_f64()
        ));
    }
    outcome
}

fn interrupted(printer: &Printer) -> ExitStatus {
    printer.talk("interrupted: the demo ends, and takes its servers and files away");
    ExitStatus::Interrupted
}

async fn play(theatre: &mut Theatre, args: &DemoArgs, printer: &Printer, settings: &Settings) -> Outcome {
    let (source, target) = theatre.sessions().await?;
    printer.talk(&format!(
        "two servers run, PostgreSQL {}.{}, fsync off: only the worker will die, not they",
        source.server_version() / 10_000,
        source.server_version() % 10_000,
    ));
    load(theatre, &source, &target, args.rows, printer).await?;
    let batch_rows = (args.rows / BATCHES).clamp(1, BATCH_ROWS_MAX);
    printer.talk(&format!(
        "the same command each time: longhaul migrate --source .. --target .. --table {} --batch-rows {batch_rows}\n\
         (batches that small are for the demo, so that a kill lands among many of them)",
        sample::TABLE
    ));
    let mut same = true;
    for run in 1..=args.kills + 1 {
        let rows = args.rows * u64::from(run) / u64::from(args.kills + 1);
        let rows = (run <= args.kills).then_some(rows);
        match run_worker(theatre, &target, run, batch_rows, rows, printer, settings).await? {
            Ran::Killed { agrees } => same &= agrees,
            Ran::Done => break,
        }
    }
    same &= compare(&source, &target, printer).await?;
    if same {
        return Ok(ExitStatus::Done);
    }
    Err(Report::of("the tables or the ledger differ", ExitStatus::Failed))
}

/// Makes the table on both sides and fills the source's, by as many statements at a time as there are cores.
async fn load(
    theatre: &Theatre,
    source: &Session,
    target: &Session,
    rows: u64,
    printer: &Printer,
) -> Result<(), Report> {
    let began = Instant::now();
    printer.talk(&format!(
        "loading {} of {} into the source",
        counted(rows, "row"),
        sample::TABLE
    ));
    sample::create(source).await.map_err(of_postgres)?;
    sample::create(target).await.map_err(of_postgres)?;
    let parts = std::thread::available_parallelism().map_or(2, |cores| cores.get().clamp(2, 8) as u64);
    let parts = (1..=parts).map(|part| (rows * (part - 1) / parts + 1, rows * part / parts));
    let fill = |(first, last)| async move {
        let session = theatre.source_session().await?;
        sample::fill(&session, first, last).await.map_err(of_postgres)
    };
    futures_util::future::try_join_all(parts.map(fill)).await?;
    let size = sample::analyze(source).await.map_err(of_postgres)?;
    printer.talk(&format!(
        "loaded in {:.1} s: {}, {} bytes a row",
        began.elapsed().as_secs_f64(),
        bytes(size as f64),
        size / rows.max(1),
    ));
    Ok(())
}

/// How a run of the worker ended.
enum Ran {
    Done,
    /// And whether table and ledger agreed about what was committed.
    Killed {
        agrees: bool,
    },
}

/// Runs the worker to its end, or until `kill_at` rows are committed.
async fn run_worker(
    theatre: &mut Theatre,
    target: &Session,
    run: u32,
    batch_rows: u64,
    kill_at: Option<u64>,
    printer: &Printer,
    settings: &Settings,
) -> Result<Ran, Report> {
    let began = Instant::now();
    let pid = theatre.start_worker(batch_rows, settings)?;
    printer.talk(&format!("run {run}: process {pid}"));
    let ended = match kill_at {
        Some(rows) => tokio::select! {
            ended = theatre.worker_ends() => Some(ended?),
            reached = reaches(target, rows) => { reached?; None }
        },
        None => Some(theatre.worker_ends().await?),
    };
    let seconds = began.elapsed().as_secs_f64();
    if let Some(status) = ended {
        if !status.success() {
            let words = format!("run {run} of the worker failed ({status})");
            return Err(Report::of(words, ExitStatus::Failed));
        }
        if kill_at.is_some() {
            printer.talk(&format!(
                "run {run} was done before it could be killed; more --rows give more time"
            ));
        }
        printer.talk(&format!(
            "run {run} ended by itself after {seconds:.1} s, with exit status 0"
        ));
        return Ok(Ran::Done);
    }
    let (_, writing) = sample::sessions(target).await.map_err(of_postgres)?;
    theatre.kill_worker().await?;
    if Terminal::stderr_is_terminal() {
        // The dead worker's progress bar has left the cursor at the end of its line.
        printer.talk("");
    }
    sessions_end(target).await?;
    let held = sample::held(target).await.map_err(of_postgres)?;
    let agrees = held.rows == held.batch_rows;
    printer.talk(&format!(
        "run {run} killed with SIGKILL after {seconds:.1} s, while {} being written\n  \
         committed on the target: {}; the ledger has {} of {}: {}",
        if writing == 1 {
            "1 batch was".to_owned()
        } else {
            format!("{writing} batches were")
        },
        counted(held.rows, "row"),
        counted(held.batches, "batch"),
        counted(held.batch_rows, "row"),
        if agrees { "they agree" } else { "THEY DIFFER" },
    ));
    Ok(Ran::Killed { agrees })
}

/// Waits until the ledger has so many rows.
async fn reaches(target: &Session, rows: u64) -> Result<(), Report> {
    while sample::ledger(target).await.map_err(of_postgres)?.1 < rows {
        tokio::time::sleep(LOOK_EVERY).await;
    }
    Ok(())
}

/// Waits until the dead worker's transactions have committed or rolled back.
async fn sessions_end(target: &Session) -> Result<(), Report> {
    let end = Instant::now() + SESSIONS_END_WITHIN;
    while sample::sessions(target).await.map_err(of_postgres)?.0 > 0 {
        if Instant::now() > end {
            let words = "the target has not noticed that the worker is dead";
            return Err(Report::of(words, ExitStatus::Failed));
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
    Ok(())
}

/// Has both servers sum up their tables, and says whether all is there once.
async fn compare(source: &Session, target: &Session, printer: &Printer) -> Result<bool, Report> {
    let (there, here, held) = tokio::try_join!(sample::sum(source), sample::sum(target), async {
        sample::ledger(target).await
    })
    .map_err(of_postgres)?;
    let (batches, batch_rows) = held;
    for (side, sum) in [("source", &there), ("target", &here)] {
        printer.talk(&format!(
            "{side}: {}, {} different ids, sum of the rows' hashes {}",
            counted(sum.rows, "row"),
            count(sum.keys),
            sum.hash
        ));
    }
    printer.talk(&format!(
        "ledger: {} of {}",
        counted(batches, "batch"),
        counted(batch_rows, "row")
    ));
    let verdict = |what: &str, good: bool| {
        printer.talk(&format!("  {} {what}", if good { "yes" } else { "NO " }));
        good
    };
    let equal = verdict(
        "every row of the source is on the target, unchanged, by the servers' own count and hash",
        there == here,
    );
    let once = verdict("no row is there twice", here.rows == here.keys);
    let told = verdict("the ledger accounts for every row", batch_rows == here.rows);
    Ok(equal && once && told)
}

fn times(number: u32) -> String {
    match number {
        0 => "never".to_owned(),
        1 => "once".to_owned(),
        2 => "twice".to_owned(),
        more => format!("{more} times"),
    }
}

fn of_postgres(error: crate::postgres::Error) -> Report {
    Report::new(&error, ExitStatus::Failed).with_hint(error.hint().to_owned())
}

/// The signals that end the demo early. Once listened to, they do nothing else.
struct Interrupt {
    signals: Vec<Signal>,
}

impl Interrupt {
    fn listen() -> Result<Self, Report> {
        let kinds = [
            SignalKind::interrupt(),
            SignalKind::terminate(),
            SignalKind::hangup(),
        ];
        let signals = kinds.into_iter().map(signal).collect::<Result<_, _>>();
        let unheard = |error: std::io::Error| Report::new(&error, ExitStatus::Failed);
        Ok(Self {
            signals: signals.map_err(unheard)?,
        })
    }

    /// Waits for the first of them. Cancel-safe.
    async fn comes(&mut self) {
        let waits = self.signals.iter_mut().map(|signal| Box::pin(signal.recv()));
        futures_util::future::select_all(waits).await;
    }

    /// Whether one has come: to a server's program it comes a moment before it comes to us.
    async fn has_come(&mut self) -> bool {
        tokio::time::timeout(Duration::from_millis(100), self.comes())
            .await
            .is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_small_number_is_said_in_a_word() {
        assert_eq!([0, 1, 2, 3].map(times), ["never", "once", "twice", "3 times"]);
    }
}
