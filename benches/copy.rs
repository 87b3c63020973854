//! How long a copy takes beside `psql | psql`, on two throwaway servers that fsync: ratios, since machines differ.
//!
//! `cargo bench --bench copy -- --rows 5000000 --rounds 3 -- --concurrency 4`; what stands after the second `--` is given
//! to `migrate`. A first round of both is not measured: the first copy into a new server pays for WAL files and pages
//! that every later one finds. Then each round runs both ways, in turn first, and before each the target is truncated and
//! both servers write a checkpoint. CPU and memory are read from /proc, so this runs on Linux only.

use std::error::Error;
use std::path::Path;
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use longhaul::postgres::{ConnectionString, ServerOptions, Session, Side, ThrowawayServer, connect, sample};

type Fallible<T> = Result<T, Box<dyn Error>>;

/// The kernel's clock ticks a second, as /proc counts them: 100 on every Linux that there is.
const TICKS_PER_SECOND: f64 = 100.0;
/// How often a client is looked at: the error of the wall times.
const LOOK_EVERY: Duration = Duration::from_millis(5);

struct Asked {
    rows: u64,
    rounds: usize,
    longhaul: Vec<String>,
}

/// What one copy took.
struct Took {
    seconds: f64,
    client_cpu_seconds: f64,
    source_cpu_seconds: f64,
    target_cpu_seconds: f64,
    peak_kib: u64,
}

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Fallible<()> {
    let Some(asked) = arguments()? else { return Ok(()) };
    let settings = [
        "autovacuum = off",
        "checkpoint_timeout = 1h",
        "max_wal_size = 16GB",
    ]
    .map(str::to_owned)
    .to_vec();
    let options = ServerOptions {
        fsync: true,
        settings,
        ..ServerOptions::default()
    };
    let (source, target) = (
        ThrowawayServer::start(&options)?,
        ThrowawayServer::start(&options)?,
    );
    eprintln!("loading {} rows of {}", asked.rows, sample::TABLE);
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let bytes = runtime.block_on(load(&source, &target, asked.rows))?;
    eprintln!(
        "{} bytes a row on disk; servers with fsync on, {}",
        bytes / asked.rows,
        options.settings.join(", ")
    );
    let (mut pipes, mut longhauls) = (Vec::new(), Vec::new());
    // Round 0 warms both servers.
    for round in 0..=asked.rounds {
        for first in [round % 2 != 0, round % 2 == 0] {
            reset(&source, &target)?;
            let took = if first {
                pipe(&source, &target)?
            } else {
                longhaul(&source, &target, &asked.longhaul)?
            };
            let there = psql_says(&target, &format!("SELECT count(*) FROM {}", sample::TABLE))?;
            if there != asked.rows.to_string() {
                return Err(format!("the target has {there} rows, the source {}", asked.rows).into());
            }
            if round == 0 {
                continue;
            }
            print_line(
                if first { "psql | psql" } else { "longhaul" },
                round,
                asked.rows,
                &took,
            );
            if first {
                pipes.push(took)
            } else {
                longhauls.push(took)
            }
        }
    }
    let (here, there) = runtime.block_on(sums(&source, &target))?;
    if here != there {
        return Err(format!("the tables differ: {here:?} {there:?}").into());
    }
    print_ratios(&pipes, &longhauls);
    Ok(())
}

fn arguments() -> Fallible<Option<Asked>> {
    let mut asked = Asked {
        rows: 5_000_000,
        rounds: 3,
        longhaul: Vec::new(),
    };
    if let Ok(rows) = std::env::var("BENCH_ROWS") {
        asked.rows = rows.parse()?;
    }
    let mut given: Vec<String> = std::env::args().skip(1).collect();
    // Where cargo puts it: behind everything else, the flags of migrate too.
    let mut benchmarks = given.pop_if(|last| last == "--bench").is_some();
    let mut given = given.into_iter();
    while let Some(argument) = given.next() {
        let mut value = || given.next().ok_or(format!("{argument} wants a value"));
        match argument.as_str() {
            "--rows" => asked.rows = value()?.parse()?,
            "--rounds" => asked.rounds = value()?.parse()?,
            "--bench" => benchmarks = true,
            "--" => asked.longhaul = given.by_ref().collect(),
            other => {
                return Err(
                    format!("{other} is not understood: --rows N, --rounds N, -- FLAGS OF MIGRATE").into(),
                );
            }
        }
    }
    if !benchmarks {
        eprintln!("nothing is measured: `cargo bench` says --bench, `cargo test --all-targets` does not");
        return Ok(None);
    }
    if asked.rows == 0 || asked.rounds == 0 {
        return Err("there is nothing to measure in 0 rows or 0 rounds".into());
    }
    Ok(Some(asked))
}

/// Both are written to: a session of the source's side only reads.
async fn session(server: &ThrowawayServer) -> Fallible<Session> {
    let connection: ConnectionString = server.url("postgres").parse()?;
    Ok(connect(&connection, Side::Target, "bench").await?)
}

async fn load(source: &ThrowawayServer, target: &ThrowawayServer, rows: u64) -> Fallible<u64> {
    let (one, two) = (session(source).await?, session(source).await?);
    sample::create(&one).await?;
    sample::create(&session(target).await?).await?;
    tokio::try_join!(
        sample::fill(&one, 1, rows / 2),
        sample::fill(&two, rows / 2 + 1, rows)
    )?;
    Ok(sample::analyze(&one).await?)
}

async fn sums(source: &ThrowawayServer, target: &ThrowawayServer) -> Fallible<(sample::Sum, sample::Sum)> {
    let (source, target) = (session(source).await?, session(target).await?);
    Ok(tokio::try_join!(sample::sum(&source), sample::sum(&target))?)
}

/// psql, at a server, without anybody's settings.
fn psql(server: &ThrowawayServer, sql: &str) -> Command {
    let mut command = Command::new(server.programs().join("psql"));
    command.args([
        "-X",
        "-A",
        "-t",
        "-q",
        "-v",
        "ON_ERROR_STOP=1",
        "-c",
        sql,
        &server.url("postgres"),
    ]);
    without_settings(&mut command);
    command
}

fn without_settings(command: &mut Command) {
    for (name, _) in std::env::vars_os() {
        if ["LONGHAUL_", "PG"]
            .iter()
            .any(|prefix| name.to_string_lossy().starts_with(prefix))
        {
            command.env_remove(name);
        }
    }
}

fn psql_says(server: &ThrowawayServer, sql: &str) -> Fallible<String> {
    let output = psql(server, sql).stderr(Stdio::inherit()).output()?;
    if !output.status.success() {
        return Err(format!("psql: {}", output.status).into());
    }
    Ok(String::from_utf8(output.stdout)?.trim().to_owned())
}

fn reset(source: &ThrowawayServer, target: &ThrowawayServer) -> Fallible<()> {
    psql_says(
        target,
        &format!(
            "SET client_min_messages = error; DROP SCHEMA IF EXISTS longhaul CASCADE; TRUNCATE {}",
            sample::TABLE
        ),
    )?;
    psql_says(target, "CHECKPOINT")?;
    psql_says(source, "CHECKPOINT")?;
    Ok(())
}

fn pipe(source: &ThrowawayServer, target: &ThrowawayServer) -> Fallible<Took> {
    let table = sample::TABLE;
    let mut out = psql(source, &format!("COPY {table} TO STDOUT (FORMAT binary)"));
    let mut into = psql(target, &format!("COPY {table} FROM STDIN (FORMAT binary)"));
    measure(source, target, move || {
        let mut reader = out.stdout(Stdio::piped()).spawn()?;
        let rows = reader.stdout.take().ok_or("psql has no stdout")?;
        let writer = into.stdin(rows).spawn()?;
        // The pipe's end in this process must close, or the writer would not see its end.
        drop((out, into));
        Ok(vec![reader, writer])
    })
}

fn longhaul(source: &ThrowawayServer, target: &ThrowawayServer, flags: &[String]) -> Fallible<Took> {
    let directory = tempfile::Builder::new().prefix("longhaul-bench-").tempdir()?;
    let said = directory.path().join("said");
    let mut command = Command::new(env!("CARGO_BIN_EXE_longhaul"));
    command
        .args([
            "migrate",
            "--source",
            &source.url("postgres"),
            "--target",
            &target.url("postgres"),
        ])
        .args(["--table", sample::TABLE, "--progress", "none", "--state-dir"])
        .arg(directory.path().join("state"))
        .args(flags)
        .stdin(Stdio::null())
        .stderr(std::fs::File::create(&said)?);
    without_settings(&mut command);
    let took = measure(source, target, || Ok(vec![command.spawn()?]));
    took.or_else(|error| Err(format!("{error}\n{}", std::fs::read_to_string(&said)?).into()))
}

/// Starts clients and watches them and both servers until the clients have ended.
fn measure(
    source: &ThrowawayServer,
    target: &ThrowawayServer,
    start: impl FnOnce() -> Fallible<Vec<Child>>,
) -> Fallible<Took> {
    let (source_before, target_before) = (server_cpu(source)?, server_cpu(target)?);
    let began = Instant::now();
    let mut clients = start()?;
    let mut peaks = vec![0; clients.len()];
    loop {
        let mut running = false;
        for (client, peak) in clients.iter().zip(&mut peaks) {
            *peak = memory_peak_kib(client.id()).max(*peak);
            // An ended child stays readable as a zombie until it is waited for.
            running |= stat(client.id()).is_some_and(|stat| !stat.ended);
        }
        if !running {
            break;
        }
        std::thread::sleep(LOOK_EVERY);
    }
    let seconds = began.elapsed().as_secs_f64();
    let ticks: u64 = clients
        .iter()
        .filter_map(|client| stat(client.id()))
        .map(|stat| stat.own_ticks)
        .sum();
    for client in &mut clients {
        let status = client.wait()?;
        if !status.success() {
            return Err(format!("a client failed: {status}").into());
        }
    }
    // A backend is gone a moment after its client.
    std::thread::sleep(Duration::from_millis(100));
    Ok(Took {
        seconds,
        client_cpu_seconds: ticks as f64 / TICKS_PER_SECOND,
        source_cpu_seconds: (server_cpu(source)? - source_before) as f64 / TICKS_PER_SECOND,
        target_cpu_seconds: (server_cpu(target)? - target_before) as f64 / TICKS_PER_SECOND,
        peak_kib: peaks.iter().sum(),
    })
}

/// What /proc/PID/stat says.
struct Stat {
    parent: u32,
    ended: bool,
    own_ticks: u64,
    /// Of its children that have ended and been waited for.
    reaped_ticks: u64,
}

fn stat(pid: u32) -> Option<Stat> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name, in parentheses, may hold anything.
    let fields: Vec<&str> = text.rsplit_once(')')?.1.split_whitespace().collect();
    let number = |index: usize| fields.get(index)?.parse::<u64>().ok();
    Some(Stat {
        parent: u32::try_from(number(1)?).ok()?,
        ended: *fields.first()? == "Z",
        own_ticks: number(11)? + number(12)?,
        reaped_ticks: number(13)? + number(14)?,
    })
}

/// Ticks of a server: its postmaster's, those of its backends that have ended, and those of the ones that live.
fn server_cpu(server: &ThrowawayServer) -> Fallible<u64> {
    let pid = postmaster(&server.data())?;
    let own = stat(pid).ok_or("a server is gone")?;
    let mut ticks = own.own_ticks + own.reaped_ticks;
    for entry in std::fs::read_dir("/proc")? {
        let Some(child) = entry?.file_name().to_str().and_then(|name| name.parse().ok()) else {
            continue;
        };
        ticks += stat(child)
            .filter(|stat| stat.parent == pid)
            .map_or(0, |stat| stat.own_ticks);
    }
    Ok(ticks)
}

fn postmaster(data: &Path) -> Fallible<u32> {
    let text = std::fs::read_to_string(data.join("postmaster.pid"))?;
    Ok(text.lines().next().unwrap_or_default().trim().parse()?)
}

/// 0 for a process that has ended: its memory is gone, its last peak was read before.
fn memory_peak_kib(pid: u32) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    line.and_then(|rest| rest.split_whitespace().next()?.parse().ok())
        .unwrap_or(0)
}

fn print_line(name: &str, round: usize, rows: u64, took: &Took) {
    if round == 1 && name == "psql | psql" {
        println!(
            "round  copied by      wall s  client cpu s  source cpu s  target cpu s  peak MiB     rows/s"
        );
    }
    println!(
        "{round:>5}  {name:<11}  {:>8.2}  {:>12.2}  {:>12.2}  {:>12.2}  {:>8.1}  {:>9.0}",
        took.seconds,
        took.client_cpu_seconds,
        took.source_cpu_seconds,
        took.target_cpu_seconds,
        took.peak_kib as f64 / 1024.0,
        rows as f64 / took.seconds,
    );
}

fn print_ratios(pipes: &[Took], longhauls: &[Took]) {
    let mut ratios: Vec<f64> = pipes
        .iter()
        .zip(longhauls)
        .map(|(pipe, longhaul)| longhaul.seconds / pipe.seconds)
        .collect();
    let each: Vec<_> = ratios.iter().map(|ratio| format!("{ratio:.2}")).collect();
    println!(
        "\nwall time of longhaul / psql | psql, by round: {}",
        each.join(" ")
    );
    println!("median {:.2} (below 1 longhaul is faster)", median(&mut ratios));
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    if values.len() % 2 == 1 {
        values[middle]
    } else {
        f64::midpoint(values[middle - 1], values[middle])
    }
}
