//! Lock, then look: who waited for somebody's DDL sees what that DDL left, and never an empty table.

use crate::servers::{
    Databases, another_look, batch, client, key, range, session, sql, until_waiting, value,
};
use longhaul::postgres::{Kind, Result, Side, Unmetered, cursor, verify};
use longhaul::table::Tally;

const ROWS: u64 = 1000;
const FILL: &str = "INSERT INTO t SELECT i, 'x' || i FROM generate_series(1, 1000) i";
const PLAIN: &str = "CREATE TABLE t (id int PRIMARY KEY, a text)";
const PARTITIONED: &str = "CREATE TABLE t (id int PRIMARY KEY, a text) PARTITION BY RANGE (id);
    CREATE TABLE t1 PARTITION OF t FOR VALUES FROM (0) TO (500); CREATE TABLE t2 PARTITION OF t DEFAULT";

/// What rewrites a table, each of the kinds that are not MVCC-safe, and leaves the same rows in it.
const REWRITES: [(&str, &str); 5] = [
    (PLAIN, "ALTER TABLE t ADD COLUMN c float8 DEFAULT random()"),
    (
        PLAIN,
        "TRUNCATE t; INSERT INTO t SELECT i, 'x' || i FROM generate_series(1, 1000) i",
    ),
    (PLAIN, "ALTER TABLE t ALTER COLUMN a TYPE text USING a || ''"),
    (
        PARTITIONED,
        "CREATE TEMPORARY TABLE kept ON COMMIT DROP AS TABLE t1; TRUNCATE t1; INSERT INTO t SELECT * FROM kept",
    ),
    (PARTITIONED, "ALTER TABLE t ADD COLUMN c float8 DEFAULT random()"),
];

/// Runs `waiting` while a transaction holds the table that has been rewritten; commits once it waits.
async fn behind<T>(url: &str, ddl: &str, waiting: impl Future<Output = T>) -> T {
    let other = client(url).await;
    other.batch_execute(&format!("BEGIN; {ddl}")).await.unwrap();
    let committing = async {
        until_waiting(url, 1).await;
        other.batch_execute("COMMIT").await.unwrap();
    };
    tokio::join!(waiting, committing).0
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_that_waits_for_a_rewrite_reads_all_rows_or_says_that_the_table_changed() {
    for (table, ddl) in REWRITES {
        for wanted in [
            batch(0, range(None, "1000")),
            another_look(0, range(None, "1000")),
        ] {
            let databases = Databases::new(table, FILL).await;
            let run = databases.opened("t").await;
            let copied = behind(&databases.source_url, ddl, databases.copy(&run, &wanted)).await;
            match copied {
                Ok(tally) => assert_eq!(tally.rows, ROWS, "{ddl}"),
                Err(error) => {
                    let found = (error.kind(), error.side());
                    assert_eq!(
                        found,
                        (Kind::TableChanged, Side::Source),
                        "{ddl}: {}",
                        error.chain()
                    );
                    assert_eq!(databases.kept("t").await, "0 0", "{ddl}");
                }
            }
            // Looked at again, it is copied, but for what the target's table does not have.
            sql(&databases.source_url, "ALTER TABLE t DROP COLUMN IF EXISTS c").await;
            let run = databases.opened("t").await;
            assert_eq!(databases.copy(&run, &wanted).await.unwrap().rows, ROWS, "{ddl}");
            databases.assert_same("t").await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_that_waits_for_the_target_says_that_the_table_changed() {
    for ddl in ["TRUNCATE t", "ALTER TABLE t ADD COLUMN c float8 DEFAULT random()"] {
        for wanted in [
            batch(1, range(Some("500"), "1000")),
            another_look(1, range(None, "1000")),
        ] {
            let databases = Databases::new(PLAIN, FILL).await;
            let run = databases.opened("t").await;
            databases.copy(&run, &batch(0, range(None, "500"))).await.unwrap();
            let url = &databases.target_url;
            let before = value(url, "SELECT count(*) FROM longhaul.batches").await;
            let error = behind(url, ddl, databases.copy(&run, &wanted)).await.unwrap_err();
            let found = (error.kind(), error.side());
            assert_eq!(
                found,
                (Kind::TableChanged, Side::Target),
                "{ddl}: {}",
                error.chain()
            );
            assert_eq!(value(url, "SELECT count(*) FROM longhaul.batches").await, before);
            let high = value(url, "SELECT coalesce(max(id), 0) FROM t").await;
            assert!(
                high == "500" || high == "0",
                "{ddl}: a row of the batch was kept: {high}"
            );
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_question_for_keys_that_waits_for_a_rewrite_is_answered_from_what_it_left() {
    for (table, ddl) in REWRITES {
        let databases = Databases::new(table, FILL).await;
        let plan = databases.examine("t").await.unwrap();
        let (source, url) = (&databases.source, &databases.source_url);
        let high = Ok::<_, String>(Some(key(&["1000"])));
        let told = |answer: Result<Option<longhaul::table::Key>>| answer.map_err(|error| error.chain());
        let answer = behind(url, ddl, cursor::highest_key(source, &plan)).await;
        assert_eq!(told(answer), high, "{ddl}");
        let again = ddl.replace("ADD COLUMN c ", "ADD COLUMN d ");
        let answer = behind(
            url,
            &again,
            cursor::next_range_end(source, &plan, None, None, 5000),
        )
        .await;
        assert_eq!(told(answer), high, "{ddl}");
        let again = ddl.replace("ADD COLUMN c ", "ADD COLUMN e ");
        let stop = key(&["990"]);
        let waiting = cursor::next_range_end(source, &plan, None, Some(&stop), 10);
        let answer = behind(url, &again, waiting).await;
        assert_eq!(
            told(answer),
            Ok(Some(key(&["10"]))),
            "{ddl}: all of it is no range of ten rows"
        );
        let again = ddl.replace("ADD COLUMN c ", "ADD COLUMN f ");
        let answer = behind(url, &again, cursor::key_before(source, &plan, &stop, 90)).await;
        assert_eq!(told(answer), Ok(Some(key(&["900"]))), "{ddl}");
        let again = ddl.replace("ADD COLUMN c ", "ADD COLUMN g ");
        let all = range(None, "1000");
        let waiting = verify::checksum_range(source, &plan, plan.format, &all, &Unmetered);
        assert_eq!(behind(url, &again, waiting).await.unwrap().rows, ROWS, "{ddl}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_that_is_rewritten_all_the_time_loses_no_row() {
    let databases = Databases::new(PLAIN, FILL).await;
    let url = databases.source_url.clone();
    let rewriting = tokio::spawn(async move {
        let other = client(&url).await;
        loop {
            let rewrite = "BEGIN; CREATE TEMPORARY TABLE kept ON COMMIT DROP AS TABLE t; TRUNCATE t;
                INSERT INTO t SELECT * FROM kept; COMMIT; SELECT pg_sleep(0.4)";
            other.batch_execute(rewrite).await.unwrap();
        }
    });
    let (mut low, mut number, mut sum, mut changed) = (None, 0, Tally::default(), 0);
    let source = session(&databases.source_url, Side::Source).await;
    while low != Some(key(&["1000"])) {
        let Ok(run) = databases
            .try_run(crate::servers::spec("t", Default::default()))
            .await
        else {
            continue; // It changed while it was looked at, five times.
        };
        loop {
            let high = cursor::next_range_end(&source, &run.plan, low.as_ref(), None, 200)
                .await
                .unwrap();
            let Some(high) = high else { break };
            let range = longhaul::table::KeyRange {
                low: low.clone(),
                high: high.clone(),
            };
            match databases.copy(&run, &batch(number, range)).await {
                Ok(tally) => (low, number, sum) = (Some(high), number + 1, [sum, tally].into_iter().sum()),
                Err(error) => {
                    assert_eq!(error.kind(), Kind::TableChanged, "{}", error.chain());
                    changed += 1;
                    break;
                }
            }
        }
        assert!(changed < 1_000, "it never gets on");
    }
    rewriting.abort();
    assert_eq!((sum.rows, sum.batches), (ROWS, 5));
    databases.assert_same("t").await;
}
