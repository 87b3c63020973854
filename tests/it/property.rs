//! Random histories of a job: begun, killed, its servers crashed, its target put back and emptied, its tables changed, its
//! settings and its state directory too. Whatever came before, the last command ends with a target that equals the source,
//! or is refused in words; it never ends well over a difference, and no row comes twice.
//!
//! LONGHAUL_TEST_SEED repeats a run; LONGHAUL_TEST_HISTORIES makes it as long as it is wanted. Each history prints a seed
//! of its own, which as LONGHAUL_TEST_SEED repeats that one first.

use std::time::{Duration, Instant};

use longhaul::postgres::{ServerOptions, StopMode, ThrowawayServer};
use tokio_postgres::Client;

use crate::binary::{DEADLINE, Ended, Process, until};
use crate::random::Random;
use crate::servers::{client, try_sql};
use crate::stage::{JOB, Stage, ask, runtime, tell};

/// So many histories, unless LONGHAUL_TEST_HISTORIES says another number.
const HISTORIES: u64 = 3;
const ROWS: u64 = 5000;
const STEPS: std::ops::Range<u64> = 6..18;
const KINDS: [&str; 2] = ["migrate", "sync"];

/// What may happen; what is named more often happens more often.
const HAPPENINGS: [Happening; 34] = [
    Happening::Begin,
    Happening::Begin,
    Happening::Begin,
    Happening::Begin,
    Happening::Kill,
    Happening::Kill,
    Happening::Interrupt,
    Happening::Cancel,
    Happening::Verify,
    Happening::Verify,
    Happening::Wait,
    Happening::CrashSource,
    Happening::CrashTarget,
    Happening::Keep,
    Happening::Keep,
    Happening::Keep,
    Happening::GoBack,
    Happening::GoBack,
    Happening::GoBack,
    Happening::GoBack,
    Happening::LoseSome,
    Happening::LoseSome,
    Happening::LoseSome,
    Happening::LoseSome,
    Happening::Empty,
    Happening::LoseState,
    Happening::OpenLate,
    Happening::OpenLate,
    Happening::CommitLate,
    Happening::Add,
    Happening::Tune,
    Happening::RewriteSource,
    Happening::RewriteTarget,
    Happening::AddColumn,
];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Happening {
    /// The job is begun, or goes on, with other settings.
    Begin,
    Kill,
    /// SIGINT.
    Interrupt,
    Cancel,
    /// The target is verified, or repaired, or the verification killed.
    Verify,
    Wait,
    CrashSource,
    CrashTarget,
    /// A copy of the target is kept.
    Keep,
    /// The target is what was kept, under a job that runs or not.
    GoBack,
    /// What the target took in one moment is gone.
    LoseSome,
    /// TRUNCATE of the target.
    Empty,
    LoseState,
    /// A transaction on the source takes a key, and commits later.
    OpenLate,
    CommitLate,
    Add,
    Tune,
    /// VACUUM FULL.
    RewriteSource,
    RewriteTarget,
    AddColumn,
}

struct Servers {
    source: ThrowawayServer,
    target: ThrowawayServer,
}

struct History<'a> {
    servers: &'a Servers,
    stage: Stage,
    random: Random,
    process: Option<Process>,
    /// What the job was last begun as.
    kind: &'static str,
    has_begun: bool,
    is_kept: bool,
    has_unique_key: bool,
    on_conflict: &'static str,
    /// Transactions on the source that have not committed.
    open: Vec<(Client, u64)>,
    /// Keys that committed behind a job that had begun: a migrate need not see them.
    late: Vec<u64>,
    /// Columns that were added to both sides, or are to be.
    columns: [u32; 2],
}

fn sessions_of(name: &str) -> String {
    format!("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}'")
}

impl<'a> History<'a> {
    fn new(servers: &'a Servers, mut random: Random) -> Self {
        let stage = Stage::on(&servers.source, &servers.target, ROWS);
        let has_unique_key = random.within(0..2) == 0;
        if !has_unique_key {
            tell(
                &stage.target,
                "ALTER TABLE audio_downloads DROP CONSTRAINT audio_downloads_pkey;
                 CREATE INDEX ON audio_downloads (id)",
            );
        }
        Self {
            servers,
            stage,
            random,
            process: None,
            kind: "migrate",
            has_begun: false,
            is_kept: false,
            has_unique_key,
            on_conflict: "error",
            open: Vec::new(),
            late: Vec::new(),
            columns: [0, 0],
        }
    }

    fn run(mut self) {
        self.begin();
        for _ in 0..self.random.within(STEPS) {
            let happening = *self.random.pick(&HAPPENINGS);
            println!("  {happening:?}");
            self.step(happening);
        }
        self.end();
    }

    fn step(&mut self, happening: Happening) {
        match happening {
            Happening::Begin => self.begin(),
            Happening::Kill => self.kill(),
            Happening::Interrupt => {
                if let Some(process) = self.process.take() {
                    process.interrupt();
                    process.end();
                }
            }
            Happening::Cancel => _ = self.stage.run(&["cancel", JOB]),
            Happening::Verify => self.verify_halfway(),
            Happening::Wait => self.wait(),
            Happening::CrashSource => {
                // What had not committed is gone.
                self.open.clear();
                crash(&self.servers.source);
            }
            Happening::CrashTarget => crash(&self.servers.target),
            Happening::Keep => self.keep(),
            Happening::GoBack => self.go_back(),
            Happening::LoseSome => {
                if self.process.is_none() {
                    self.begin();
                }
                self.keep();
                self.stage.add(self.random.within(1..400));
                // As long as a sync sleeps between two rounds.
                std::thread::sleep(Duration::from_millis(self.random.within(100..2500)));
                self.go_back();
            }
            Happening::Empty => self.try_on(1, "TRUNCATE audio_downloads"),
            Happening::LoseState => {
                self.kill();
                if self.stage.state().exists() {
                    std::fs::remove_dir_all(self.stage.state()).unwrap();
                }
            }
            Happening::OpenLate => self.open_late(),
            Happening::CommitLate => self.commit_late(),
            Happening::Add => self.stage.add(self.random.within(1..400)),
            Happening::Tune => self.tune(),
            Happening::RewriteSource => self.try_on(0, "VACUUM FULL audio_downloads"),
            Happening::RewriteTarget => self.try_on(1, "VACUUM FULL audio_downloads"),
            Happening::AddColumn => {
                let side = self.random.within(0..2) as usize;
                for side in [side, 1 - side] {
                    self.add_column(side);
                    self.wait();
                }
            }
        }
    }

    fn begin(&mut self) {
        if self.process.is_some() {
            self.kill();
        }
        let state = self.stage.try_status().map(|status| status["state"].clone());
        let is_open = state
            .is_some_and(|state| ["INTERRUPTED", "PAUSED"].contains(&state.as_str().unwrap_or_default()));
        if !is_open {
            self.kind = self.random.pick::<&str>(&KINDS);
        }
        // Some syncs come to the end of their first round, and are lost rows of later ones.
        let rate = match self.random.within(0..3) {
            0 => "none".to_owned(),
            _ => format!("{}KB/s", self.random.within(100..600)),
        };
        let mut arguments = self.settings();
        arguments.extend(["--max-rate".to_owned(), rate]);
        self.has_begun = true;
        println!("    {} {}", self.kind, arguments.join(" "));
        let arguments: Vec<_> = arguments.iter().map(String::as_str).collect();
        let mut command = self.stage.copy(self.kind, &arguments);
        // Then batches commit in another order than they began.
        if self.random.within(0..2) == 0 {
            command.env("FAILPOINTS", "copy::before_commit=25%sleep(90)");
        }
        self.process = Some(self.stage.begin(&mut command));
        self.wait();
    }

    fn settings(&mut self) -> Vec<String> {
        let mut arguments = vec![
            "--batch-rows".to_owned(),
            self.random.within(40..700).to_string(),
            "--concurrency".to_owned(),
            self.random.within(1..7).to_string(),
        ];
        if self.kind == "sync" {
            let interval = format!("{}s", self.random.within(1..3));
            arguments.extend(["--interval".to_owned(), interval]);
        }
        // Without a unique key nothing of the target can conflict.
        if self.has_unique_key {
            // Another one ends the run and begins one; the same lets it go on.
            if self.random.within(0..4) == 0 {
                self.on_conflict = self.random.pick::<&str>(&["error", "skip", "update"]);
            }
            arguments.extend(["--on-conflict".to_owned(), self.on_conflict.to_owned()]);
        }
        arguments
    }

    fn kill(&mut self) {
        if let Some(process) = self.process.take() {
            process.kill();
        }
    }

    /// The moment is what is random here; nothing is waited for.
    fn wait(&mut self) {
        std::thread::sleep(Duration::from_millis(self.random.within(20..800)));
    }

    fn verify_halfway(&mut self) {
        self.kill();
        let how = *self.random.pick::<&[&str]>(&[
            &[][..],
            &["--against", "source"],
            &["--against", "source", "--repair"],
            &["--repair"],
        ]);
        let mut command = self.stage.command(&["verify", JOB, "--progress", "none"]);
        command.args(how);
        println!("    {how:?}");
        let process = self.stage.begin(&mut command);
        if self.random.within(0..3) == 0 {
            self.wait();
            process.kill();
            return;
        }
        let ended = process.end();
        if ended.code != Some(0) && ended.stdout.is_empty() {
            assert_refused(&ended);
        }
    }

    fn tune(&mut self) {
        if self.process.is_some() {
            let (rows, number) = (self.random.within(40..700), self.random.within(1..7));
            let (rows, number) = (rows.to_string(), number.to_string());
            // It may have ended, or not have begun.
            self.stage
                .run(&["tune", JOB, "--batch-rows", &rows, "--concurrency", &number]);
        }
    }

    fn database(&self) -> (String, String) {
        let (server, name) = self.stage.target.rsplit_once('/').unwrap();
        (format!("{server}/postgres"), name.to_owned())
    }

    fn keep(&mut self) {
        let (maintenance, name) = self.database();
        let drop = format!("DROP DATABASE IF EXISTS {name}_kept");
        tell(&maintenance, &drop);
        let copy = format!("CREATE DATABASE {name}_kept TEMPLATE {name}");
        until("a copy of the target", || {
            _ = runtime().block_on(try_sql(&maintenance, &sessions_of(&name)));
            runtime().block_on(try_sql(&maintenance, &copy)).ok()
        });
        self.is_kept = true;
    }

    /// Puts what was kept in the target's place, at once: nobody finds no database.
    fn go_back(&mut self) {
        if !self.is_kept {
            return self.keep();
        }
        let (maintenance, name) = self.database();
        tell(
            &maintenance,
            &format!("CREATE DATABASE {name}_next TEMPLATE {name}_kept"),
        );
        let swap = format!(
            "BEGIN; ALTER DATABASE {name} RENAME TO {name}_old; ALTER DATABASE {name}_next RENAME TO {name}; COMMIT"
        );
        until("a target without sessions", || {
            _ = runtime().block_on(try_sql(&maintenance, &sessions_of(&name)));
            runtime().block_on(try_sql(&maintenance, &swap)).ok()
        });
        tell(&maintenance, &format!("DROP DATABASE {name}_old WITH (FORCE)"));
        // Its columns are those of then.
        let columns = "SELECT count(*) FROM information_schema.columns WHERE table_name = 'audio_downloads'
            AND column_name LIKE 'added%'";
        self.columns[1] = ask(&self.stage.target, columns).parse().unwrap();
    }

    fn url(&self, side: usize) -> &str {
        [&self.stage.source, &self.stage.target][side]
    }

    /// What waits for a lock waits for a moment only, and is left out then.
    fn try_on(&self, side: usize, statement: &str) {
        let client = runtime().block_on(client(self.url(side)));
        let done = runtime().block_on(async {
            client.batch_execute("SET lock_timeout = '2s'").await?;
            client.batch_execute(statement).await
        });
        if let Err(error) = done {
            println!("    left out: {error:?}");
        }
    }

    fn add_column(&mut self, side: usize) {
        let number = self.columns[side] + 1;
        let default = *self.random.pick(&["", " DEFAULT 7", " DEFAULT random() * 1000"]);
        let default = if side == 1 { "" } else { default };
        self.try_on(
            side,
            &format!("ALTER TABLE audio_downloads ADD COLUMN added{number} int{default}"),
        );
        let columns = "SELECT count(*) FROM information_schema.columns WHERE table_name = 'audio_downloads'
            AND column_name LIKE 'added%'";
        self.columns[side] = ask(self.url(side), columns).parse().unwrap();
    }

    fn open_late(&mut self) {
        let client = runtime().block_on(client(&self.stage.source));
        let sql = "BEGIN; INSERT INTO audio_downloads (url) VALUES ('late') RETURNING id";
        let taken = runtime().block_on(client.simple_query(sql)).unwrap();
        let id = taken.iter().find_map(|message| match message {
            tokio_postgres::SimpleQueryMessage::Row(row) => row.get(0)?.parse().ok(),
            _ => None,
        });
        self.open.push((client, id.unwrap()));
        self.stage.add(self.random.within(1..50));
    }

    fn commit_late(&mut self) {
        for (client, id) in self.open.drain(..) {
            // The source may have crashed under it.
            let committed = runtime().block_on(client.batch_execute("COMMIT")).is_ok();
            if committed && self.has_begun {
                self.late.push(id);
            }
        }
    }

    /// The last command, and what must be true then.
    fn end(&mut self) {
        self.commit_late();
        self.kill();
        let columns = self.columns[0].max(self.columns[1]);
        for side in [0, 1] {
            while self.columns[side] < columns {
                self.add_column(side);
            }
        }
        println!("  the end: {}", self.kind);
        let refused = match self.kind {
            "sync" => self.end_of_sync(),
            _ => self.end_of_migrate(),
        };
        let Some(ended) = refused else {
            return self.verify();
        };
        assert_refused(&ended);
        println!(
            "  refused: {}",
            ended
                .stderr
                .lines()
                .rev()
                .find(|line| line.starts_with("error"))
                .unwrap_or_default()
        );
        // The way out that always is: afresh.
        self.stage.run(&["cancel", JOB]);
        tell(&self.stage.target, "TRUNCATE audio_downloads");
        let afresh = self.command("migrate", &["--restart"]);
        assert_eq!(afresh.code, Some(0), "afresh: {afresh:?}");
        self.assert_same(&[]);
        self.late.clear();
        self.verify();
    }

    /// What is equal is called so, by the receipts and by the source.
    fn verify(&self) {
        let ended = self.stage.run(&["verify", JOB, "--progress", "none"]);
        assert_eq!(ended.code, Some(0), "against receipts: {ended:?}");
        let ended = self
            .stage
            .run(&["verify", JOB, "--progress", "none", "--against", "source"]);
        let missing = self.kind == "migrate" && !self.late.is_empty();
        assert!(ended.code == Some(0) || missing, "against the source: {ended:?}");
        let of_late = |line: &str| self.late.iter().any(|id| line == format!("missing ({id})"));
        assert!(ended.stdout.lines().all(of_late), "{:?}: {ended:?}", self.late);
    }

    fn command(&mut self, kind: &'static str, more: &[&str]) -> Ended {
        self.kind = kind;
        let mut arguments = self.settings();
        arguments.extend(["--max-rate", "none"].map(str::to_owned));
        println!("    {kind} {}", arguments.join(" "));
        let arguments: Vec<_> = arguments
            .iter()
            .map(String::as_str)
            .chain(more.iter().copied())
            .collect();
        self.stage.begin(&mut self.stage.copy(kind, &arguments)).end()
    }

    /// The run that was open copies up to the key that was the highest when it began; another one then brings the rest.
    fn end_of_migrate(&mut self) -> Option<Ended> {
        for _ in 0..2 {
            let ended = self.command("migrate", &[]);
            if ended.code != Some(0) {
                return Some(ended);
            }
            assert!(ended.stderr.contains("is complete"), "{ended:?}");
        }
        let late = self.late.clone();
        self.assert_same(&late);
        None
    }

    fn end_of_sync(&mut self) -> Option<Ended> {
        let mut arguments = self.settings();
        arguments.extend(["--max-rate", "none"].map(str::to_owned));
        println!("    sync {}", arguments.join(" "));
        let arguments: Vec<_> = arguments.iter().map(String::as_str).collect();
        let mut process = self.stage.begin(&mut self.stage.copy("sync", &arguments));
        let ends = Instant::now() + DEADLINE;
        // Equal it may be from the beginning; it is in step once a round of its own is over.
        let sleeps = |stage: &Stage, pid: u32| {
            let status = stage.try_status();
            status.is_some_and(|status| status["state"] == "SLEEPING" && status["worker_pid"] == pid)
        };
        while !(self.is_same(&[]) && sleeps(&self.stage, process.pid())) {
            if !process.is_alive() {
                return Some(process.end());
            }
            assert!(
                Instant::now() < ends,
                "a sync does not bring its target to the source's state: {:?} {:?}",
                self.sums(&[]),
                process.kill()
            );
            std::thread::sleep(Duration::from_millis(100));
        }
        process.interrupt();
        let ended = process.end();
        // It may have ended by itself in that very moment: then in words.
        if ended.code != Some(130) {
            return Some(ended);
        }
        self.assert_same(&[]);
        None
    }

    fn sums(&self, without: &[u64]) -> (String, String) {
        let without: Vec<_> = without.iter().map(ToString::to_string).collect();
        let sum = format!(
            "SET timezone = 'UTC'; SELECT count(*) || ' rows, sum ' || coalesce(sum(hashtextextended(t::text, 0)::numeric), 0)
             FROM audio_downloads t WHERE id <> ALL ('{{{}}}')",
            without.join(",")
        );
        (ask(&self.stage.source, &sum), ask(&self.stage.target, &sum))
    }

    fn is_same(&self, without: &[u64]) -> bool {
        let (source, target) = self.sums(without);
        source == target
    }

    #[track_caller]
    fn assert_same(&self, without: &[u64]) {
        let (source, target) = self.sums(without);
        assert_eq!(source, target, "it ended well, and the rows differ");
        let twice = "SELECT count(*) - count(DISTINCT id) FROM audio_downloads";
        assert_eq!(ask(&self.stage.target, twice), "0", "rows that came twice");
    }
}

fn crash(server: &ThrowawayServer) {
    server.stop(StopMode::Immediate).unwrap();
    server.restart().unwrap();
}

#[track_caller]
fn assert_refused(ended: &Ended) {
    assert!(ended.code.is_some_and(|code| code != 0), "{ended:?}");
    assert!(
        ended.stderr.contains("error: "),
        "refused without words: {ended:?}"
    );
}

#[test]
fn whatever_happens_to_a_job_it_ends_equal_or_is_refused() {
    let first = Random::seed();
    let histories = std::env::var("LONGHAUL_TEST_HISTORIES").ok();
    let histories = histories.map_or(HISTORIES, |number| number.parse().unwrap());
    let options = ServerOptions {
        fsync: false,
        ..ServerOptions::default()
    };
    let start = || ThrowawayServer::start(&options).unwrap();
    let servers = Servers {
        source: start(),
        target: start(),
    };
    for number in 0..histories {
        let seed = first.wrapping_add(number);
        println!("LONGHAUL_TEST_SEED={seed}");
        let began = Instant::now();
        History::new(&servers, Random::of(seed)).run();
        println!("  equal or refused, in {:.1?}", began.elapsed());
    }
}
