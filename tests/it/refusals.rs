//! Bad input: a clear error, a hint, the right exit status, and not a row moved.

use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;

use longhaul::service::journal::{FORMAT_VERSION, Journal, SledJournal, Store, Write};

use crate::binary::until;
use crate::stage::{JOB, Stage, tell};

const FAR: &str = "postgres://postgres@127.0.0.1:1/postgres";

/// What is typed after `migrate --progress none`, how it ends, and the words that must be in what is said.
struct Case {
    name: &'static str,
    ends: Option<(String, String)>,
    table: &'static str,
    more: Vec<String>,
    code: i32,
    words: Vec<String>,
}

/// Runs each; tells of all that are wrong at once.
fn refuse(stage: &Stage, cases: Vec<Case>) {
    let mut wrong = Vec::new();
    for case in cases {
        let (source, target) = case.ends.unwrap_or((stage.source.clone(), stage.target.clone()));
        let mut command = stage.command(&["migrate", "--progress", "none", "--source", &source]);
        command
            .args(["--target", &target, "--table", case.table])
            .args(&case.more);
        let ended = stage.begin(&mut command).end();
        let missing: Vec<_> = case
            .words
            .iter()
            .filter(|word| !ended.stderr.contains(*word))
            .collect();
        if ended.code != Some(case.code) || !missing.is_empty() || !ended.stderr.starts_with("error:") {
            wrong.push(format!(
                "{}: exit {}, words {:?}, missing {missing:?}: {ended:?}",
                case.name, case.code, case.words
            ));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert_eq!(stage.rows(), 0, "nothing moved");
}

fn case(name: &'static str, table: &'static str, code: i32, words: &[&str]) -> Case {
    let words = words.iter().map(|word| (*word).to_owned()).collect();
    Case {
        name,
        ends: None,
        table,
        more: Vec::new(),
        code,
        words,
    }
}

impl Case {
    fn between(mut self, source: &str, target: &str) -> Self {
        self.ends = Some((source.to_owned(), target.to_owned()));
        self
    }

    fn with(mut self, more: &[&str]) -> Self {
        self.more = more.iter().map(|word| (*word).to_owned()).collect();
        self
    }
}

#[test]
fn tables_that_cannot_be_copied_are_refused_before_a_row_moves() {
    let stage = Stage::new(1000);
    let (source, target) = (&stage.source, &stage.target);
    for (name, on_source, on_target) in [
        ("keyless", "(a int)", Some("(a int)")),
        ("nullable_key", "(a int UNIQUE)", Some("(a int UNIQUE)")),
        ("only_here", "(id int PRIMARY KEY)", None),
        (
            "narrow",
            "(id int PRIMARY KEY, title text)",
            Some("(id int PRIMARY KEY, titel text)"),
        ),
        (
            "typed",
            "(id int PRIMARY KEY, a text)",
            Some("(id int PRIMARY KEY, a int)"),
        ),
        (
            "wanting",
            "(id int PRIMARY KEY)",
            Some("(id int PRIMARY KEY, needed text NOT NULL)"),
        ),
        ("full_table", "(id int PRIMARY KEY)", Some("(id int PRIMARY KEY)")),
    ] {
        tell(source, &format!("CREATE TABLE {name} {on_source}"));
        if let Some(on_target) = on_target {
            tell(target, &format!("CREATE TABLE {name} {on_target}"));
        }
    }
    tell(
        source,
        "INSERT INTO full_table SELECT generate_series(1, 100); INSERT INTO nullable_key VALUES (1), (NULL); CREATE VIEW seen AS SELECT 1 AS id",
    );
    tell(target, "INSERT INTO full_table VALUES (7777)");
    tell(target, "CREATE TABLE only_there (id int PRIMARY KEY)");
    refuse(
        &stage,
        vec![
            case(
                "no such source table",
                "audio_download",
                3,
                &["source", "audio_download", "did you mean", "audio_downloads"],
            ),
            case(
                "no such schema",
                "nowhere.audio_downloads",
                3,
                &["nowhere.audio_downloads", "source"],
            ),
            case(
                "no such target table",
                "only_here",
                4,
                &["target", "only_here", "only_there"],
            ),
            case(
                "named target table unknown",
                JOB,
                4,
                &["target", "audio_download", "audio_downloads"],
            )
            .with(&["--target-table", "audio_download"]),
            case("a view", "seen", 3, &["seen", "not a table", "--key a,b"]),
            case("no key", "keyless", 3, &["keyless", "key", "--source-is-quiet"]),
            case(
                "a key that is null somewhere",
                "nullable_key",
                3,
                &[
                    "1 row of source table public.nullable_key with a null in the key (a)",
                    "--key COLUMNS",
                ],
            ),
            case(
                "a key that is none",
                JOB,
                3,
                &["no unique index", "(url)", "these serve: (id)"],
            )
            .with(&["--key", "url"]),
            case(
                "a column that is not there",
                JOB,
                3,
                &["no column \"idd\"", "did you mean \"id\"?"],
            )
            .with(&["--key", "idd"]),
            case("a key that is no list", JOB, 2, &["--key", "between commas"]).with(&["--key", "id,"]),
            case(
                "target lacks a column",
                "narrow",
                4,
                &["narrow", "title", "titel"],
            ),
            case("source lacks a column", "wanting", 4, &["wanting", "needed"]),
            case("another type", "typed", 4, &["typed", "a", "text", "integer"]),
            case(
                "target not empty",
                "full_table",
                4,
                &["full_table", "not empty", "--on-conflict"],
            ),
            case("source is target", JOB, 4, &["same"]).between(source, source),
        ],
    );
    let kept = crate::stage::ask(target, "SELECT string_agg(id::text, ',') FROM full_table");
    assert_eq!(kept, "7777", "found before any row moves");
}

#[test]
fn servers_that_cannot_be_reached_end_the_command_at_once() {
    let stage = Stage::new(10);
    let (source, target) = (stage.source.clone(), stage.target.clone());
    let other = |url: &str| format!("{}/nowhere", url.rsplit_once('/').unwrap().0);
    let unknown = "postgres://postgres@no-such-host.invalid/postgres";
    let tls = |url: &str| format!("{url}?sslmode=require");
    refuse(
        &stage,
        vec![
            case("source's port", JOB, 3, &["source", "127.0.0.1:1", "refused"]).between(FAR, &target),
            case("target's port", JOB, 4, &["target", "127.0.0.1:1", "refused"]).between(&source, FAR),
            case("source's host", JOB, 3, &["source", "no-such-host.invalid"]).between(unknown, &target),
            case("target's host", JOB, 4, &["target", "no-such-host.invalid"]).between(&source, unknown),
            case("source's database", JOB, 3, &["source", "nowhere"]).between(&other(&source), &target),
            case("target's database", JOB, 4, &["target", "nowhere"]).between(&source, &other(&target)),
            case("source without TLS", JOB, 3, &["source", "TLS"]).between(&tls(&source), &target),
            case("target without TLS", JOB, 4, &["target", "TLS"]).between(&source, &tls(&target)),
            case("no URL", JOB, 2, &["--source"]).between("http://example.net/x", &target),
        ],
    );
}

#[test]
fn settings_out_of_range_are_refused_by_name() {
    let stage = Stage::new(10);
    let file = stage.path("job.toml");
    std::fs::write(&file, "# a job\nbatch_rows = 10\nbatch_rowz = 3\n").unwrap();
    let file = file.to_str().unwrap();
    refuse(
        &stage,
        vec![
            case(
                "a job file's key",
                JOB,
                2,
                &["batch_rowz", "line 3", "job.toml", "batch_rows"],
            )
            .with(&["--config", file]),
            case("no such job file", JOB, 2, &["nowhere.toml"]).with(&["--config", "/nowhere.toml"]),
            case("batches of none", JOB, 2, &["--batch-rows", "1 to 10000000"]).with(&["--batch-rows", "0"]),
            case("a million batches", JOB, 2, &["--concurrency", "1 to 64"])
                .with(&["--concurrency", "1000000"]),
            case("no batch at all", JOB, 2, &["--concurrency", "1 to 64"]).with(&["--concurrency", "0"]),
            case("no rate", JOB, 2, &["--max-rate"]).with(&["--max-rate", "fast"]),
            case("a password for a port", JOB, 2, &["a port is"]).between("postgres://u:hunter2/d", FAR),
            case("a misspelt sslmode", JOB, 2, &["verify-ca, verify-full"])
                .between(&format!("{FAR}?sslmode=requird"), FAR),
            case("an unknown flag", JOB, 2, &["--batch-row"]).with(&["--batch-row", "7"]),
        ],
    );
    assert!(
        !stage.state().exists(),
        "settings are read before anything is made"
    );
}

#[test]
fn a_job_that_nobody_knows_is_refused_with_the_nearest_name() {
    let stage = Stage::new(10);
    for command in ["status", "history", "pause", "resume", "cancel"] {
        stage
            .run(&[command, "audio_download"])
            .assert_code(2)
            .assert_said(&["error:", "audio_download"]);
    }
    stage.begin(&mut stage.migrate(&[])).end().assert_code(0);
    for command in ["status", "history", "pause", "resume", "cancel"] {
        let ended = stage.run(&[command, "audio_download"]).assert_code(2);
        ended.assert_said(&["no job named audio_download", "did you mean audio_downloads"]);
    }
    let tune = stage
        .run(&["tune", "nobody", "--concurrency", "2"])
        .assert_code(2);
    tune.assert_said(&["no job named nobody", "longhaul list"]);
}

#[test]
fn a_state_directory_that_cannot_be_used_is_refused_with_its_path() {
    let stage = Stage::new(10);
    let file = stage.path("afile");
    std::fs::write(&file, "x").unwrap();
    let shared = stage.path("shared");
    std::fs::create_dir(&shared).unwrap();
    std::fs::write(shared.join("letter"), "dear").unwrap();
    std::fs::set_permissions(&shared, std::fs::Permissions::from_mode(0o777)).unwrap();
    let inside = file.join("deep/state");
    let inside = ["--state-dir", inside.to_str().unwrap()];
    let shared = ["--state-dir", shared.to_str().unwrap()];
    // Not even root writes there.
    let proc = ["--state-dir", "/proc/self/state"];
    refuse(
        &stage,
        vec![
            case("inside a file", JOB, 5, &["afile is a file", "--state-dir"]).with(&inside),
            case(
                "where nobody writes",
                JOB,
                5,
                &["/proc/self/state", "--state-dir"],
            )
            .with(&proc),
            case("in use for other things", JOB, 5, &["holds other things", "0777"]).with(&shared),
        ],
    );
}

#[test]
fn a_journal_of_a_later_version_is_refused_and_left_as_it_is() {
    let stage = Stage::new(100);
    stage.begin(&mut stage.migrate(&[])).end().assert_code(0);
    let path = stage.state().join("journal");
    {
        let journal: Arc<dyn Journal> = Arc::new(SledJournal::open(&path).unwrap());
        let store = Store::open(Arc::clone(&journal)).unwrap();
        let later = FORMAT_VERSION + 1;
        store
            .apply(vec![Write::Put(
                b"mformat".to_vec(),
                later.to_le_bytes().to_vec(),
            )])
            .unwrap();
        journal.flush().unwrap();
        drop(store);
        until("the flushing thread's end", || {
            (Arc::strong_count(&journal) == 1).then_some(())
        });
    }
    let words = format!("format {}", FORMAT_VERSION + 1);
    for ended in [
        stage.run(&["status"]),
        stage.begin(&mut stage.migrate(&["--restart"])).end(),
    ] {
        ended.assert_code(5).assert_said(&["error:", &words]);
    }
    let set_aside = |entry: std::io::Result<std::fs::DirEntry>| {
        entry.unwrap().file_name().to_string_lossy().contains("damaged")
    };
    assert!(
        !std::fs::read_dir(stage.state()).unwrap().any(set_aside),
        "it is not damaged"
    );
    stage.assert_moved();
}
