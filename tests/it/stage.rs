//! A stage for one test: a table on two servers, a state directory, the binary, and the comparison at the end.

use std::path::PathBuf;
use std::process::Command;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

use longhaul::postgres::ThrowawayServer;
use serde_json::Value;
use tempfile::TempDir;
use tokio::runtime::Runtime;

use crate::binary::{Ended, Process, longhaul, until};
use crate::servers::{pair, sql, try_sql, value};

pub const JOB: &str = "audio_downloads";

const TABLE: &str = "CREATE TABLE audio_downloads (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, url text, title text, duration_ms int, checksum bytea,
    tags text[], meta jsonb, created_at timestamptz DEFAULT now())";

/// The rows of one SELECT, computed by PostgreSQL from every value of every row.
const SUM: &str = "SET timezone = 'UTC'; SELECT count(*) || ' rows, ' || count(DISTINCT id) || ' keys, sum '
    || coalesce(sum(hashtextextended(t::text, 0)::numeric), 0) FROM audio_downloads t";

/// The driver's runtime, for all tests.
pub fn runtime() -> &'static Runtime {
    static RUNTIME: OnceLock<Runtime> = OnceLock::new();
    RUNTIME.get_or_init(|| {
        let mut builder = tokio::runtime::Builder::new_multi_thread();
        builder.worker_threads(2).enable_all().build().unwrap()
    })
}

/// The first value of what a query gives.
pub fn ask(url: &str, query: &str) -> String {
    runtime().block_on(value(url, query))
}

pub fn tell(url: &str, statements: &str) {
    runtime().block_on(sql(url, statements));
}

/// One test's databases, state directory and files.
pub struct Stage {
    pub source: String,
    pub target: String,
    directory: TempDir,
}

impl Stage {
    /// On the servers of all tests; the source's table has `rows` rows.
    pub fn new(rows: u64) -> Self {
        let (source, target) = pair();
        Self::on(source, target, rows)
    }

    /// On servers that may be stopped.
    pub fn on(source: &ThrowawayServer, target: &ThrowawayServer, rows: u64) -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let name = format!("it{}", NUMBER.fetch_add(1, Ordering::Relaxed));
        for server in [source, target] {
            tell(&server.url("postgres"), &format!("CREATE DATABASE {name}"));
            tell(&server.url(&name), TABLE);
        }
        let directory = tempfile::tempdir().unwrap();
        let stage = Self {
            source: source.url(&name),
            target: target.url(&name),
            directory,
        };
        stage.add(rows);
        tell(&stage.source, "ANALYZE audio_downloads");
        stage
    }

    /// Adds rows to the source's table.
    pub fn add(&self, rows: u64) {
        tell(
            &self.source,
            &format!(
                "INSERT INTO audio_downloads (url, title, duration_ms, checksum, tags, meta)
                 SELECT 'https://cdn.example.net/' || md5(i::text), 'Track ' || i || repeat(' x', i % 9), i % 6000,
                     decode(md5(i::text) || md5(i::text), 'hex'), ARRAY['t' || i % 7, NULL, 'ünï'],
                     jsonb_build_object('n', i, 'deep', jsonb_build_array(i % 5, NULL, 'é'))
                 FROM generate_series(1, {rows}) i"
            ),
        );
    }

    /// A place for a file or directory of the test's own.
    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    pub fn state(&self) -> PathBuf {
        self.path("state")
    }

    /// The target as it was before the first run, and no state directory.
    pub fn forget(&self) {
        tell(
            &self.target,
            "DROP SCHEMA IF EXISTS longhaul CASCADE; TRUNCATE audio_downloads",
        );
        if self.state().exists() {
            std::fs::remove_dir_all(self.state()).unwrap();
        }
    }

    /// Keeps a copy of the target's database, once the last session of a dead process has left it.
    pub fn keep_target(&self) {
        let (server, name) = self.target.rsplit_once('/').unwrap();
        let copy = format!("CREATE DATABASE {name}_kept TEMPLATE {name}");
        until("a target without sessions", || {
            runtime()
                .block_on(try_sql(&format!("{server}/postgres"), &copy))
                .ok()
        });
    }

    /// The target's database as it was kept.
    pub fn bring_target_back(&self) {
        let (server, name) = self.target.rsplit_once('/').unwrap();
        let maintenance = format!("{server}/postgres");
        let drop = format!("DROP DATABASE {name}");
        until("a target without sessions", || {
            runtime().block_on(try_sql(&maintenance, &drop)).ok()
        });
        tell(
            &maintenance,
            &format!("CREATE DATABASE {name} TEMPLATE {name}_kept"),
        );
    }

    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = longhaul(&self.state());
        command.args(arguments);
        command
    }

    /// `migrate` or `sync` of the table from one to the other.
    pub fn copy(&self, kind: &str, arguments: &[&str]) -> Command {
        self.copy_of(JOB, kind, arguments)
    }

    /// The same of another table.
    pub fn copy_of(&self, table: &str, kind: &str, arguments: &[&str]) -> Command {
        let ends = [
            "--source",
            &self.source,
            "--target",
            &self.target,
            "--table",
            table,
            "--progress",
            "none",
        ];
        let mut command = self.command(&[kind]);
        command.args(ends).args(arguments);
        command
    }

    pub fn migrate(&self, arguments: &[&str]) -> Command {
        self.copy("migrate", arguments)
    }

    pub fn begin(&self, command: &mut Command) -> Process {
        Process::begin(command, self.directory.path())
    }

    pub fn run(&self, arguments: &[&str]) -> Ended {
        self.begin(&mut self.command(arguments)).end()
    }

    /// What `status --json` says of the job; `None` before there is one.
    pub fn try_status(&self) -> Option<Value> {
        self.try_status_of(JOB)
    }

    /// The same of another job.
    pub fn try_status_of(&self, job: &str) -> Option<Value> {
        let ended = self.run(&["status", job, "--json"]);
        if ended.code == Some(2) {
            return None;
        }
        let ended = ended.assert_code(0);
        Some(serde_json::from_str(&ended.stdout).unwrap_or_else(|error| panic!("{error}: {ended:?}")))
    }

    pub fn status(&self) -> Value {
        self.try_status().expect("there is a job")
    }

    /// Waits until the job is in that state.
    pub fn until_state(&self, state: &str) -> Value {
        until(state, || {
            self.try_status().filter(|status| status["state"] == state)
        })
    }

    /// Waits until the target has more than so many rows.
    pub fn until_rows(&self, more_than: u64) -> u64 {
        until("rows on the target", || {
            Some(self.rows()).filter(|rows| *rows > more_than)
        })
    }

    /// Rows of the target's table.
    pub fn rows(&self) -> u64 {
        ask(&self.target, "SELECT count(*) FROM audio_downloads")
            .parse()
            .unwrap()
    }

    pub fn sums(&self) -> (String, String) {
        (ask(&self.source, SUM), ask(&self.target, SUM))
    }

    /// Every row is on the target once, unchanged, and the ledger accounts for each of them.
    #[track_caller]
    pub fn assert_moved(&self) {
        let (source, target) = self.sums();
        assert_eq!(source, target);
        let keys = ask(&self.target, "SELECT count(DISTINCT id) FROM audio_downloads");
        assert_eq!(keys, self.rows().to_string(), "no key comes twice");
        self.assert_ledger_complete();
    }

    /// The ledger's ranges form one chain from the first key to the last, each with the rows that it says.
    #[track_caller]
    pub fn assert_ledger_complete(&self) {
        let rows = ask(
            &self.target,
            "SELECT coalesce(sum(rows), 0) FROM longhaul.batches",
        );
        assert_eq!(rows, self.rows().to_string(), "the ledger's rows");
        let chain = "WITH ranges AS (
                SELECT coalesce(low[1]::bigint, 0) low, high[1]::bigint high, rows FROM longhaul.batches WHERE pass = 0),
            chained AS (SELECT *, lag(high, 1, 0::bigint) OVER (ORDER BY low, high) AS before FROM ranges)
            SELECT count(*) FILTER (WHERE low <> before) || ' broken, ' || count(*) FILTER (WHERE high <= low) || ' empty, '
                || count(*) FILTER (WHERE rows <> (SELECT count(*) FROM audio_downloads WHERE id > low AND id <= high))
                || ' wrong, ends at ' || max(high) FROM chained";
        let last = ask(&self.target, "SELECT max(id) FROM audio_downloads");
        let expected = format!("0 broken, 0 empty, 0 wrong, ends at {last}");
        assert_eq!(ask(&self.target, chain), expected, "the ledger's ranges");
    }
}
