//! The ledger's tables are brought from an earlier layout to this one, and a job goes on where it was.

use crate::servers::{Databases, batch, key, range, run, session, spec, sql, value};
use longhaul::postgres::{Kind, Side, Unmetered, ledger, verify};
use longhaul::table::{OnConflict, Tally};

/// What the version that wrote layout 1 ran, word for word.
const LAYOUT_1: &str = "
CREATE SCHEMA IF NOT EXISTS longhaul;
CREATE TABLE IF NOT EXISTS longhaul.format (version integer NOT NULL);
INSERT INTO longhaul.format SELECT 1 WHERE NOT EXISTS (SELECT FROM longhaul.format);
CREATE TABLE IF NOT EXISTS longhaul.jobs (
    job text PRIMARY KEY,
    source_system text,
    source_database text NOT NULL,
    source_table text NOT NULL,
    target_table text NOT NULL,
    key_columns text[] NOT NULL,
    epoch bigint NOT NULL,
    runs bigint NOT NULL DEFAULT 1,
    settled text[],
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now());
CREATE TABLE IF NOT EXISTS longhaul.batches (
    job text NOT NULL,
    table_name text NOT NULL,
    batch bigint NOT NULL,
    pass smallint NOT NULL,
    low text[] NOT NULL,
    high text[] NOT NULL,
    rows bigint NOT NULL,
    rows_written bigint NOT NULL,
    bytes bigint NOT NULL,
    checksum bigint NOT NULL,
    committed_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (job, table_name, batch));
CREATE UNIQUE INDEX IF NOT EXISTS batches_low ON longhaul.batches (job, table_name, low) WHERE pass = 0;
COMMENT ON SCHEMA longhaul IS 'longhaul''s ledger: what each job has copied. Rows here keep rows from coming twice.';
COMMENT ON COLUMN longhaul.batches.low IS 'the key before the first of the range; {} is the start of the table';
COMMENT ON COLUMN longhaul.batches.rows IS 'rows of the range; in passes after the first, those newly written';
";

/// An epoch of that version: microseconds since 1970, in 2024.
const EPOCH_1: u64 = 1_720_000_000_000_000;

const TABLES: &str =
    "CREATE TABLE t (id int PRIMARY KEY, a text); CREATE TABLE u (a text, b int, PRIMARY KEY (a, b))";
const ROWS: &str = "INSERT INTO t SELECT i, 'x' || i FROM generate_series(1, 100) i;
    INSERT INTO u SELECT 'it''s \\ \"' || i, i FROM generate_series(1, 9) i";

/// Jobs `j` of table t (two ranges that meet, one beyond, two looks) and `k` of table u, as layout 1 kept them.
async fn with_layout_1() -> Databases {
    let databases = Databases::new(TABLES, ROWS).await;
    let system = value(
        &databases.source_url,
        "SELECT system_identifier FROM pg_control_system()",
    )
    .await;
    let database = value(&databases.source_url, "SELECT current_database()").await;
    let jobs = format!(
        "INSERT INTO longhaul.jobs (job, source_system, source_database, source_table, target_table, key_columns, epoch, runs, settled)
         VALUES ('j', '{system}', '{database}', 'public.t', 'public.t', '{{id}}', {EPOCH_1}, 3, '{{40}}'),
                ('k', NULL, '{database}', 'public.u', 'public.u', '{{a,b}}', {EPOCH_1}, 1, NULL);
         INSERT INTO longhaul.batches (job, table_name, batch, pass, low, high, rows, rows_written, bytes, checksum) VALUES
             ('j', 'public.t', 0, 0, '{{}}', '{{30}}', 29, 29, 500, 9223372036854775807),
             ('j', 'public.t', 1, 0, '{{30}}', '{{60}}', 28, 26, 510, 3),
             ('j', 'public.t', 2, 1, '{{}}', '{{60}}', 1, 1, 17, -5),
             ('j', 'public.t', 3, 1, '{{}}', '{{60}}', 2, 2, 34, 7),
             ('j', 'public.t', 4, 0, '{{80}}', '{{90}}', 10, 10, 170, 11),
             ('k', 'public.u', 0, 0, '{{}}', ARRAY['it''s \\ \"5', '5'], 5, 5, 99, 1)"
    );
    sql(&databases.target_url, &format!("{LAYOUT_1}{jobs}")).await;
    sql(
        &databases.target_url,
        "INSERT INTO t SELECT i, 'x' || i FROM generate_series(1, 90) i WHERE i NOT BETWEEN 61 AND 80;
         INSERT INTO u SELECT 'it''s \\ \"' || i, i FROM generate_series(1, 5) i",
    )
    .await;
    databases
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ledger_of_the_first_layout_is_upgraded_once_and_its_jobs_go_on() {
    let databases = with_layout_1().await;
    let url = &databases.target_url;
    let mut sessions = Vec::new();
    for _ in 0..6 {
        sessions.push(session(url, Side::Target).await);
    }
    // At once from several sessions, and then again.
    for _ in 0..2 {
        let upgraded =
            futures_util::future::join_all(sessions.iter().map(|session| ledger::ensure(session, None)))
                .await;
        for result in upgraded {
            result.unwrap_or_else(|error| panic!("{}", error.chain()));
        }
        let counts = "SELECT (SELECT string_agg(version::text, ' ') FROM longhaul.format) || ' ' || (SELECT count(*) FROM longhaul.jobs)
            || ' ' || (SELECT count(*) FROM longhaul.tables) || ' ' || (SELECT count(*) FROM longhaul.batches)";
        assert_eq!(value(url, counts).await, "2 2 2 6");
    }
    let wanted = spec("t", OnConflict::Skip);
    let plan = databases.examine_for("t", OnConflict::Skip).await.unwrap();
    let sums = Tally {
        rows: 70,
        skipped: 2,
        bytes: 1231,
        batches: 5,
        checksum: (i64::MAX.cast_unsigned())
            .wrapping_add(3 + 7 + 11)
            .wrapping_sub(5),
    };
    let found = ledger::inspect(&databases.target, &wanted, &plan).await.unwrap();
    assert_eq!((found.known, found.tally), (true, sums));
    let error = ledger::stored_plan(&databases.target, &wanted).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Ledger);
    assert!(
        error.chain().contains("an earlier version of longhaul wrote it"),
        "{}",
        error.chain()
    );
    assert!(error.hint().contains("--against source"), "{}", error.hint());

    let run = databases.run(wanted.clone()).await;
    let position = &run.position;
    assert!(position.epoch > EPOCH_1);
    assert_eq!(position.copied, Some(key(&["60"])));
    assert_eq!(position.beyond, [range(Some("80"), "90")]);
    assert_eq!(
        (position.settled.clone(), position.next_batch),
        (Some(key(&["40"])), 5)
    );
    assert_eq!(position.tally, sums);
    assert_eq!(
        value(url, "SELECT runs FROM longhaul.tables WHERE job = 'j'").await,
        "4"
    );
    // A batch of before is found by its range, and the rest is copied.
    for known in [
        databases.repeat(&run, &batch(5, range(Some("30"), "60"))).await,
        databases.copy(&run, &batch(5, range(Some("30"), "60"))).await,
    ] {
        let known = known.unwrap_or_else(|error| panic!("{}", error.chain()));
        assert_eq!(
            (known.rows, known.skipped, known.bytes, known.checksum),
            (28, 2, 510, 3)
        );
    }
    databases
        .copy(&run, &batch(5, range(Some("60"), "80")))
        .await
        .unwrap();
    databases
        .copy(&run, &batch(6, range(Some("90"), "100")))
        .await
        .unwrap();
    databases.assert_same("t").await;
    let position = databases.position(&run).await;
    assert_eq!(
        (position.copied.as_ref(), position.beyond.len()),
        (Some(&key(&["100"])), 0)
    );
    let (target, source) = (&databases.target, &databases.source);
    ledger::conclude(target, source, &wanted, &run.plan, &run.fence, &position)
        .await
        .unwrap();
    assert_eq!(ledger::stored_plan(target, &wanted).await.unwrap(), run.plan);
    // Receipts of before cannot prove values, since their format is not known: they say so, and count.
    let first = verify::against_receipts(target, &run.plan, &wanted, &range(None, "60"), &Unmetered).await;
    let first = first.unwrap();
    assert_eq!(
        (first.differences(), first.ranges_unproved, first.rows),
        (0, 1, 60),
        "{first:?}"
    );

    let mut other = spec("u", OnConflict::Error);
    other.job = "k".to_owned();
    let run = databases.run(other).await;
    assert_eq!(run.position.copied, Some(key(&["it's \\ \"5", "5"])));
    let rest = longhaul::table::KeyRange {
        low: run.position.copied.clone(),
        high: key(&["it's \\ \"9", "9"]),
    };
    assert_eq!(databases.copy(&run, &batch(1, rest)).await.unwrap().rows, 4);
    databases.assert_same("u").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upgraded_job_whose_target_was_emptied_is_refused() {
    let databases = with_layout_1().await;
    sql(&databases.target_url, "DELETE FROM t WHERE id BETWEEN 81 AND 90").await;
    let error = databases
        .try_run(spec("t", OnConflict::Skip))
        .await
        .err()
        .unwrap();
    assert_eq!(error.kind(), Kind::Emptied, "{}", error.chain());
    assert!(error.to_string().contains("1 of 3 ranges"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upgrade_that_cannot_be_done_leaves_the_ledger_as_it_was() {
    let databases = with_layout_1().await;
    let url = &databases.target_url;
    sql(
        url,
        "CREATE VIEW longhaul.told AS SELECT job, epoch FROM longhaul.jobs",
    )
    .await;
    let error = ledger::ensure(&databases.target, None).await.unwrap_err();
    assert_eq!(error.sqlstate(), Some("2BP01"), "{}", error.chain());
    assert!(error.to_string().contains("to format 2"), "{error}");
    assert_eq!(value(url, "SELECT version FROM longhaul.format").await, "1");
    assert_eq!(
        value(url, "SELECT to_regclass('longhaul.tables') IS NULL").await,
        "t"
    );
    sql(url, "DROP VIEW longhaul.told").await;
    // The session that failed does it.
    ledger::ensure(&databases.target, None).await.unwrap();
    assert_eq!(
        databases
            .run(spec("t", OnConflict::Skip))
            .await
            .position
            .tally
            .batches,
        5
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ledger_of_a_later_version_is_refused() {
    for version in [3, 99] {
        let databases = Databases::new(TABLES, "").await;
        ledger::ensure(&databases.target, None).await.unwrap();
        sql(
            &databases.target_url,
            &format!("UPDATE longhaul.format SET version = {version}"),
        )
        .await;
        let wanted = spec("t", OnConflict::Error);
        for error in [
            ledger::ensure(&databases.target, None).await.unwrap_err(),
            ledger::stored_plan(&databases.target, &wanted).await.unwrap_err(),
            run(&databases.source, &databases.target, wanted)
                .await
                .err()
                .unwrap(),
        ] {
            assert_eq!(error.kind(), Kind::Ledger);
            let words = format!("has format {version}; this version of longhaul knows formats up to 2");
            assert!(error.to_string().contains(&words), "{error}");
            assert!(error.hint().contains("a later one"), "{}", error.hint());
        }
    }
}
