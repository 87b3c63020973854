//! A job is taken over where what it has copied is still right and still there, and from nobody who is at it.

use crate::servers::{Databases, batch, client, key, range, run, session, spec, sql, until_waiting, value};
use longhaul::postgres::{
    Kind, Meter, Retry, ServerOptions, Side, StopMode, ThrowawayServer, copy_batch, ledger,
};
use longhaul::table::OnConflict;
use std::pin::Pin;
use std::time::{Duration, Instant};

const TABLE: &str = "CREATE TABLE t (id int PRIMARY KEY, a varchar(10), n numeric(8, 2))";
const ROWS: &str = "INSERT INTO t SELECT i, 'x' || i, i FROM generate_series(1, 100) i";

/// A job that has copied ranges of 30, 30, 0 and 40 rows.
async fn copied(ddl: &str) -> Databases {
    let databases = Databases::new(ddl, ROWS).await;
    let run = databases.opened("t").await;
    for (number, low, high) in [
        (0, None, "30"),
        (1, Some("30"), "60"),
        (2, Some("100"), "200"),
        (3, Some("60"), "100"),
    ] {
        databases
            .copy(&run, &batch(number, range(low, high)))
            .await
            .unwrap();
    }
    databases
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_that_makes_copied_rows_wrong_is_named() {
    for (ddl, kind, words) in [
        (
            "ALTER TABLE t ADD COLUMN b int",
            Kind::Incompatible,
            "column \"b\" (integer) is new",
        ),
        (
            "ALTER TABLE t DROP COLUMN n",
            Kind::Incompatible,
            "column \"n\" is not copied any more",
        ),
        (
            "ALTER TABLE t RENAME COLUMN n TO m",
            Kind::Incompatible,
            "column \"n\" is not copied any more; column \"m\" (numeric(8,2)) is new",
        ),
        (
            "ALTER TABLE t ALTER COLUMN id TYPE bigint",
            Kind::Incompatible,
            "column \"id\" was integer and is bigint",
        ),
        (
            "ALTER TABLE t ALTER COLUMN n TYPE numeric(10, 3)",
            Kind::Incompatible,
            "column \"n\" was numeric(8,2) and is numeric(10,3)",
        ),
        (
            "ALTER TABLE t DROP CONSTRAINT t_pkey, ADD PRIMARY KEY (id, n)",
            Kind::Ledger,
            "along (id), and this one copies public.t",
        ),
        (
            "ALTER TABLE t RENAME COLUMN id TO no",
            Kind::Ledger,
            "to public.t along (no)",
        ),
    ] {
        let databases = copied(TABLE).await;
        for url in [&databases.source_url, &databases.target_url] {
            sql(url, ddl).await;
        }
        let before = value(&databases.target_url, "SELECT epoch FROM longhaul.tables").await;
        let error = databases
            .try_run(spec("t", OnConflict::Error))
            .await
            .err()
            .unwrap();
        assert_eq!(
            (error.kind(), error.retry()),
            (kind, Retry::Never),
            "{ddl}: {}",
            error.chain()
        );
        assert!(error.to_string().contains(words), "{ddl}: {error}");
        assert!(error.hint().contains("--restart"), "{}", error.hint());
        assert_eq!(
            value(&databases.target_url, "SELECT epoch FROM longhaul.tables").await,
            before
        );
        let plan = databases.examine("t").await.unwrap();
        let inspected = ledger::inspect(&databases.target, &spec("t", OnConflict::Error), &plan).await;
        assert_eq!(inspected.unwrap_err().to_string(), error.to_string());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_of_another_collation_is_another_key() {
    let table = "CREATE TABLE t (id text COLLATE \"C\" PRIMARY KEY, a varchar(10), n numeric(8, 2))";
    let databases = Databases::new(table, ROWS).await;
    let run = databases.opened("t").await;
    databases.copy(&run, &batch(0, range(None, "30"))).await.unwrap();
    let ddl = "ALTER TABLE t ALTER COLUMN id TYPE text COLLATE \"POSIX\"";
    sql(&databases.source_url, ddl).await;
    let error = databases
        .try_run(spec("t", OnConflict::Error))
        .await
        .err()
        .unwrap();
    assert_eq!(error.kind(), Kind::Incompatible, "{}", error.chain());
    assert!(
        error.to_string().contains("the key was (id collate") && error.to_string().contains("POSIX"),
        "{error}"
    );
}

/// Whatever it is called: the order of the keys may be another, and with it where a range begins and ends.
#[tokio::test(flavor = "multi_thread")]
async fn a_collation_that_was_made_anew_or_has_another_version_orders_another_key() {
    let anew = "BEGIN; ALTER TABLE t ALTER id TYPE text COLLATE \"C\"; DROP COLLATION tongue; CREATE COLLATION tongue FROM \"C\";
        ALTER TABLE t ALTER id TYPE text COLLATE tongue; COMMIT";
    let tongue = "CREATE COLLATION tongue (provider = icu, locale = 'en'); CREATE TABLE t (id text COLLATE tongue PRIMARY KEY, a text, n numeric)";
    let plain = "CREATE TABLE t (id text PRIMARY KEY, a text, n numeric)";
    for (table, change, words) in [
        (tongue, anew, "was icu en, version "),
        (
            tongue,
            "UPDATE pg_collation SET collversion = '1.2' WHERE collname = 'tongue'",
            "and is icu en, version 1.2, on the server ",
        ),
        (
            plain,
            "UPDATE pg_database SET datcollate = 'POSIX' WHERE datname = current_database()",
            "and is libc POSIX",
        ),
    ] {
        let databases = Databases::new(table, ROWS).await;
        let run = databases.opened("t").await;
        databases.copy(&run, &batch(0, range(None, "30"))).await.unwrap();
        sql(&databases.source_url, change).await;
        let error = databases
            .copy(&run, &batch(1, range(Some("30"), "60")))
            .await
            .unwrap_err();
        assert_eq!(
            error.kind(),
            Kind::TableChanged,
            "under a job that runs: {}",
            error.chain()
        );
        for _ in 0..2 {
            let error = databases
                .try_run(spec("t", OnConflict::Error))
                .await
                .err()
                .unwrap();
            assert_eq!(error.kind(), Kind::Incompatible, "{}", error.chain());
            assert!(
                error
                    .to_string()
                    .contains("the collation of key column \"id\" was")
                    && error.to_string().contains(words),
                "{error}"
            );
        }
        // Of a ledger that did not keep it nothing is known.
        sql(
            &databases.target_url,
            "UPDATE longhaul.tables SET plan = plan #- '{key,0,collation_definition}'",
        )
        .await;
        databases.opened("t").await;
    }
}

/// Rows that were copied have the labels of before, and stay as they are where the source's change with the label.
#[tokio::test(flavor = "multi_thread")]
async fn labels_of_an_enum_may_be_added_and_nothing_else() {
    let exchanged = "ALTER TYPE mood RENAME VALUE 'a' TO 'z'; ALTER TYPE mood RENAME VALUE 'b' TO 'a'; ALTER TYPE mood RENAME VALUE 'z' TO 'b'";
    let replaced = "ALTER TYPE mood RENAME VALUE 'a' TO 'z'; ALTER TYPE mood ADD VALUE 'a' BEFORE 'z'";
    let added = "ALTER TYPE mood ADD VALUE 'y' BEFORE 'a'; ALTER TYPE mood ADD VALUE 'x'";
    let table = "CREATE TYPE mood AS ENUM ('a', 'b'); CREATE TYPE moods AS (m mood[]); CREATE TABLE t (id int PRIMARY KEY, m moods)";
    for (source, target, words) in [
        (added, added, None),
        ("", added, None),
        (
            exchanged,
            "",
            Some("on the source had the labels a, b and has b, a"),
        ),
        (exchanged, exchanged, Some("an enum of column \"m\"")),
        (
            "",
            exchanged,
            Some("on the target had the labels a, b and has b, a"),
        ),
        (replaced, replaced, Some("had the labels a, b and has a, z, b")),
    ] {
        let databases = Databases::new(
            table,
            "INSERT INTO t SELECT i, ROW(ARRAY['a'])::moods FROM generate_series(1, 9) i",
        )
        .await;
        let run = databases.opened("t").await;
        databases.copy(&run, &batch(0, range(None, "5"))).await.unwrap();
        for (url, change) in [(&databases.source_url, source), (&databases.target_url, target)] {
            // One by one: a label that was added is used in no transaction of its own.
            for statement in change.split("; ") {
                sql(url, statement).await;
            }
        }
        if !source.is_empty() {
            let error = databases
                .copy(&run, &batch(1, range(Some("5"), "9")))
                .await
                .unwrap_err();
            assert_eq!(
                error.kind(),
                Kind::TableChanged,
                "under a job that runs: {}",
                error.chain()
            );
        }
        let again = databases.try_run(spec("t", OnConflict::Error)).await;
        match (words, again) {
            (None, again) => drop(again.unwrap_or_else(|error| panic!("{}", error.chain()))),
            (Some(words), again) => {
                let error = again.err().unwrap_or_else(|| panic!("{words}"));
                assert_eq!(error.kind(), Kind::Incompatible, "{}", error.chain());
                assert!(error.to_string().contains(words), "{error}");
                sql(
                    &databases.target_url,
                    "UPDATE longhaul.tables SET plan = plan #- '{columns,1,source_enums}' #- '{columns,1,target_enums}'",
                )
                .await;
                databases.opened("t").await;
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_that_leaves_copied_rows_right_is_taken() {
    for (source, target) in [
        ("", "VACUUM FULL t"),
        ("", "CLUSTER t USING t_pkey"),
        (
            "",
            "CREATE TABLE kept AS TABLE t; TRUNCATE t; INSERT INTO t TABLE kept",
        ),
        ("VACUUM FULL t", ""),
        ("CREATE INDEX ON t (a)", "CREATE INDEX ON t (a)"),
        ("", "ALTER TABLE t ALTER COLUMN a TYPE varchar(20)"),
        (
            "ALTER TABLE t ALTER COLUMN a TYPE varchar(12)",
            "ALTER TABLE t ALTER COLUMN a TYPE varchar(12)",
        ),
        ("", "DELETE FROM t WHERE id % 2 = 0"),
    ] {
        let databases = copied(TABLE).await;
        sql(&databases.source_url, source).await;
        // One by one: some of them go into no transaction.
        for statement in target.split("; ") {
            sql(&databases.target_url, statement).await;
        }
        let run = databases.opened("t").await;
        assert_eq!(run.position.copied, Some(key(&["200"])), "{source} / {target}");
        assert_eq!((run.position.tally.rows, run.position.next_batch), (100, 4));
        sql(&databases.source_url, "INSERT INTO t VALUES (300, 'new', 1)").await;
        let tally = databases
            .copy(&run, &batch(4, range(Some("200"), "300")))
            .await
            .unwrap();
        assert_eq!(tally.rows, 1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_target_that_was_emptied_is_refused_with_numbers() {
    let partitioned =
        "CREATE TABLE t (id int PRIMARY KEY, a varchar(10), n numeric(8, 2)) PARTITION BY RANGE (id);
        CREATE TABLE t1 PARTITION OF t FOR VALUES FROM (0) TO (61); CREATE TABLE t2 PARTITION OF t DEFAULT";
    let again = format!("DROP TABLE t; {TABLE}");
    for (table, emptied, words) in [
        (TABLE, "TRUNCATE t", "3 of 3 ranges"),
        (TABLE, again.as_str(), "3 of 3 ranges"),
        (TABLE, "DELETE FROM t", "3 of 3 ranges"),
        (partitioned, "TRUNCATE t1", "2 of 3 ranges"),
        (partitioned, "TRUNCATE t2", "1 of 3 ranges"),
        (partitioned, "ALTER TABLE t DETACH PARTITION t1", "2 of 3 ranges"),
        (
            TABLE,
            "DELETE FROM t WHERE id <= 30; ALTER TABLE t SET (fillfactor = 90); VACUUM FULL t",
            "1 of 3 ranges",
        ),
    ] {
        let databases = copied(table).await;
        for statement in emptied.split("; ") {
            sql(&databases.target_url, statement).await;
        }
        let before = value(&databases.target_url, "SELECT epoch FROM longhaul.tables").await;
        let error = databases
            .try_run(spec("t", OnConflict::Error))
            .await
            .err()
            .unwrap();
        let found = (error.kind(), error.side(), error.retry());
        assert_eq!(
            found,
            (Kind::Emptied, Side::Target, Retry::Never),
            "{emptied}: {}",
            error.chain()
        );
        assert!(error.to_string().contains(words), "{emptied}: {error}");
        assert!(error.hint().contains("--restart"), "{}", error.hint());
        assert_eq!(
            value(&databases.target_url, "SELECT epoch FROM longhaul.tables").await,
            before
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_partition_that_was_emptied_is_missed_though_every_range_has_rows() {
    const HASHED: &str = "CREATE TABLE t (id int PRIMARY KEY, a text) PARTITION BY HASH (id);
        CREATE TABLE t0 PARTITION OF t FOR VALUES WITH (MODULUS 2, REMAINDER 0);
        CREATE TABLE t1 PARTITION OF t FOR VALUES WITH (MODULUS 2, REMAINDER 1)";
    const SMALL: &str = "CREATE TABLE t (id int PRIMARY KEY, a text) PARTITION BY RANGE (id);
        CREATE TABLE t0 PARTITION OF t FOR VALUES FROM (120) TO (130); CREATE TABLE t1 PARTITION OF t DEFAULT;
        CREATE TABLE never PARTITION OF t FOR VALUES FROM (-9) TO (0)";
    for (table, change, is_emptied) in [
        (HASHED, "TRUNCATE t0", true),
        (HASHED, "ALTER TABLE t DETACH PARTITION t0", true),
        (HASHED, "DROP TABLE t1", true),
        (HASHED, "VACUUM FULL t0", false),
        (SMALL, "TRUNCATE t0", true),
        (SMALL, "VACUUM FULL t1", false),
        (SMALL, "DROP TABLE never", false),
    ] {
        let rows = "INSERT INTO t SELECT i, 'x' FROM generate_series(1, 1000) i";
        let databases = Databases::new(table, rows).await;
        let run = databases.opened("t").await;
        databases.copy_all(&run, 100).await;
        sql(&databases.target_url, change).await;
        let there = value(&databases.target_url, "SELECT count(*) FROM t").await;
        let again = databases.try_run(spec("t", OnConflict::Error)).await;
        if is_emptied {
            let error = again.err().unwrap();
            assert_eq!(error.kind(), Kind::Emptied, "{change}: {}", error.chain());
            let words = format!("{there} are there, and 1000 were");
            assert!(error.to_string().contains(&words), "{change}: {error}");
        } else {
            assert_eq!(again.unwrap().position.tally.rows, 1000, "{change}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unlogged_target_survives_a_stop_of_its_server_and_no_crash() {
    let options = ServerOptions {
        fsync: false,
        ..ServerOptions::default()
    };
    let start = move || ThrowawayServer::start(&options).expect("a server");
    let server = tokio::task::spawn_blocking(start).await.unwrap();
    let url = server.url("postgres");
    let databases = Databases::new(TABLE, ROWS).await;
    sql(&url, &TABLE.replace("TABLE", "UNLOGGED TABLE")).await;
    let wanted = spec("t", OnConflict::Error);
    let target = session(&url, Side::Target).await;
    let first = run(&databases.source, &target, wanted.clone()).await.unwrap();
    let wanted_batch = batch(0, range(None, "60"));
    first
        .copy(&databases.source, &target, &wanted_batch, false)
        .await
        .unwrap();
    for mode in [StopMode::Fast, StopMode::Immediate] {
        server.stop(mode).unwrap();
        server.restart().unwrap();
        let target = session(&url, Side::Target).await;
        let again = run(&databases.source, &target, wanted.clone()).await;
        match mode {
            StopMode::Fast => assert_eq!(again.unwrap().position.tally.rows, 60),
            StopMode::Immediate => {
                let error = again.err().unwrap();
                assert_eq!(error.kind(), Kind::Emptied, "{}", error.chain());
                assert!(error.to_string().contains("1 of 1 ranges"), "{error}");
                // The run of before does not go on either.
                let next = batch(1, range(Some("60"), "100"));
                let source = session(&databases.source_url, Side::Source).await;
                let error = first.copy(&source, &target, &next, false).await.unwrap_err();
                assert_eq!(error.kind(), Kind::Fenced, "{}", error.chain());
            }
        }
    }
    assert_eq!(value(&url, "SELECT count(*) FROM t").await, "0");
}

/// Lets nothing pass.
struct Stuck;

impl Meter for Stuck {
    fn pass(&self, _rows: u64, _bytes: u64) -> Pin<Box<dyn Future<Output = ()> + Send + '_>> {
        Box::pin(std::future::pending())
    }
}

/// What is logged.
#[derive(Clone, Default)]
struct Said(std::sync::Arc<std::sync::Mutex<Vec<u8>>>);

impl Said {
    fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
    }
}

impl std::io::Write for Said {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl tracing_subscriber::fmt::MakeWriter<'_> for Said {
    type Writer = Self;

    fn make_writer(&self) -> Self {
        self.clone()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_that_hangs_is_ended_after_ten_seconds_and_nothing_of_it_is_kept() {
    const WAITED: std::ops::Range<Duration> = Duration::from_secs(9)..Duration::from_secs(30);
    let databases = Databases::new(TABLE, ROWS).await;
    let url = &databases.target_url;
    let run = databases.opened("t").await;
    let (source, target) = (
        session(&databases.source_url, Side::Source).await,
        session(url, Side::Target).await,
    );
    let stuck = tokio::spawn(async move {
        let wanted = batch(0, range(None, "60"));
        copy_batch(
            &source, &target, &run.plan, &run.spec, &run.fence, &wanted, false, &Stuck,
        )
        .await
    });
    // The lock is the job's own: whoever else holds it is one of its sessions.
    let lock = "SELECT (classid::bigint << 32) | objid::bigint FROM pg_locks
        WHERE locktype = 'advisory' AND mode = 'ShareLock' AND objsubid = 1
          AND database = (SELECT oid FROM pg_database WHERE datname = current_database())";
    let end = Instant::now() + Duration::from_secs(30);
    let mut number = value(url, lock).await;
    while number.is_empty() && Instant::now() < end {
        tokio::time::sleep(Duration::from_millis(20)).await;
        number = value(url, lock).await;
    }
    let idle = client(url).await;
    let held = format!("BEGIN; SELECT pg_advisory_xact_lock_shared({number})");
    idle.batch_execute(&held).await.unwrap();
    let said = Said::default();
    let began = Instant::now();
    let now = {
        let log = tracing_subscriber::fmt().with_writer(said.clone()).finish();
        let _log = tracing::subscriber::set_default(log);
        databases.opened("t").await
    };
    let said = said.text();
    for words in [
        "held by another process, or what is left of one: waiting for its batches in flight (sessions ",
        "within 10s are ended",
        "do not end: their sessions are ended",
    ] {
        assert!(said.contains(words), "`{words}` is not in: {said}");
    }
    assert!(WAITED.contains(&began.elapsed()), "{:?}", began.elapsed());
    assert!(
        idle.batch_execute("SELECT 1").await.is_err(),
        "its session was ended"
    );
    assert_eq!(
        (now.position.next_batch, databases.kept("t").await),
        (0, "0 0".to_owned())
    );
    stuck.abort();
    databases.copy(&now, &batch(0, range(None, "60"))).await.unwrap();
    assert_eq!(databases.kept("t").await, "60 1");
}

#[tokio::test(flavor = "multi_thread")]
async fn two_that_take_over_at_once_take_turns_and_the_later_one_writes() {
    let databases = copied(TABLE).await;
    let plan = databases.examine("t").await.unwrap();
    let wanted = spec("t", OnConflict::Error);
    let mut sessions = Vec::new();
    for _ in 0..4 {
        sessions.push(session(&databases.target_url, Side::Target).await);
    }
    // All of them wait for the same one, and then come in turn.
    let first = client(&databases.target_url).await;
    first
        .batch_execute("BEGIN; SELECT FROM longhaul.tables FOR UPDATE")
        .await
        .unwrap();
    let takers = sessions.iter().map(async |target| {
        let source = session(&databases.source_url, Side::Source).await;
        ledger::take_over(target, &source, &wanted, &plan)
            .await
            .unwrap()
            .epoch
    });
    let letting = async {
        until_waiting(&databases.target_url, 4).await;
        first.batch_execute("COMMIT").await.unwrap();
    };
    let (epochs, ()) = tokio::join!(futures_util::future::join_all(takers), letting);
    let last = *epochs.iter().max().unwrap();
    let mut different = epochs.clone();
    different.sort_unstable();
    different.dedup();
    assert_eq!(different.len(), 4, "{epochs:?}");
    let mut run = databases.opened("t").await;
    assert!(run.fence.epoch > last);
    run.fence.epoch = last;
    let error = databases
        .copy(&run, &batch(9, range(Some("200"), "300")))
        .await
        .unwrap_err();
    assert_eq!(error.kind(), Kind::Fenced);
}
