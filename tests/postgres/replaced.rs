//! Tables and columns that are others under the same names, and rows that went without a word, on real servers.

use crate::servers::{Databases, batch, range, spec, sql};
use longhaul::postgres::{Ask, Error, Kind, Retry, Side, ledger, look};
use longhaul::table::OnConflict;

const TABLE: &str = "CREATE TABLE t (id int PRIMARY KEY, a text, b text)";
const ROWS: &str = "INSERT INTO t SELECT i, 'a' || i, 'b' || i FROM generate_series(1, 100) i";

/// What a migrate says whose first 60 rows were copied in three batches, after `source` and `target` were run.
async fn refused(table: &str, source: &str, target: &str) -> Option<Error> {
    let databases = Databases::new(table, ROWS).await;
    let run = databases.opened("t").await;
    for (number, low) in [(0, None), (1, Some("20")), (2, Some("40"))] {
        let range = range(low, &(20 * (number + 1)).to_string());
        databases.copy(&run, &batch(number, range)).await.unwrap();
    }
    for (url, ddl) in [(&databases.source_url, source), (&databases.target_url, target)] {
        if !ddl.is_empty() {
            sql(url, ddl).await;
        }
    }
    let wanted = spec("t", OnConflict::Error);
    let found = look(&databases.source, &databases.target, &wanted, &Ask::default()).await;
    let plan = match found {
        Ok(found) => found.plan,
        Err(troubles) => return Some(troubles.into()),
    };
    let read_back = ledger::check_rewritten(&databases.target, &databases.source, &wanted, &plan).await;
    match read_back {
        Ok(()) => databases.try_run(wanted).await.err(),
        Err(error) => Some(error),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_column_or_a_source_table_that_is_another_one_under_its_name_is_refused() {
    let readd = "ALTER TABLE t DROP COLUMN b; ALTER TABLE t ADD COLUMN b text DEFAULT 'q'";
    let swap = "ALTER TABLE t RENAME a TO c; ALTER TABLE t RENAME b TO a; ALTER TABLE t RENAME c TO b";
    let replace = "ALTER TABLE t RENAME TO old; CREATE TABLE t (LIKE old INCLUDING ALL);
                   INSERT INTO t SELECT id, 'other', b FROM old";
    for (source, target, words) in [
        (readd, "", "column \"b\" of the source is another one"),
        ("", readd, "column \"b\" of the target is another one"),
        (swap, "", "column \"a\" of the source is another one"),
        ("", swap, "column \"a\" of the target is another one"),
        (replace, "", "the source table is another one under that name"),
    ] {
        let error = refused(TABLE, source, target).await.unwrap();
        assert_eq!((error.kind(), error.retry()), (Kind::Incompatible, Retry::Never));
        assert!(error.to_string().contains(words), "{source}{target}: {error}");
    }
    assert!(refused(TABLE, "VACUUM FULL t", "VACUUM FULL t").await.is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_source_that_was_emptied_under_a_migrate_is_refused() {
    for (ddl, empty) in [
        ("TRUNCATE t", "3 of 3"),
        (
            "TRUNCATE t; INSERT INTO t SELECT i, 'other', 'b' FROM generate_series(1, 30) i",
            "1 of 3",
        ),
    ] {
        let error = refused(TABLE, ddl, "").await.unwrap();
        assert_eq!((error.kind(), error.side()), (Kind::Emptied, Side::Source));
        assert!(error.to_string().contains(empty), "{ddl}: {error}");
        assert!(error.hint().contains("--restart"), "{}", error.hint());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_partition_that_was_emptied_and_has_some_rows_again_is_found_by_counting() {
    let table = "CREATE TABLE t (id int PRIMARY KEY, a text, b text) PARTITION BY HASH (id);
                 CREATE TABLE t0 PARTITION OF t FOR VALUES WITH (MODULUS 2, REMAINDER 0);
                 CREATE TABLE t1 PARTITION OF t FOR VALUES WITH (MODULUS 2, REMAINDER 1)";
    let again =
        "CREATE TABLE one AS SELECT * FROM t0 LIMIT 1; TRUNCATE t0; INSERT INTO t TABLE one; DROP TABLE one";
    let error = refused(table, "", again).await.unwrap();
    assert_eq!((error.kind(), error.side()), (Kind::Emptied, Side::Target));
    assert!(error.to_string().contains("and 60 were"), "{error}");
    assert!(refused(table, "", "VACUUM FULL t").await.is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_partition_of_the_target_that_is_a_foreign_table_is_refused() {
    let databases = Databases::new(TABLE, ROWS).await;
    sql(
        &databases.target_url,
        "DROP TABLE t; CREATE TABLE t (id int NOT NULL, a text, b text) PARTITION BY RANGE (id);
         CREATE FOREIGN DATA WRAPPER nothing; CREATE SERVER elsewhere FOREIGN DATA WRAPPER nothing;
         CREATE FOREIGN TABLE t1 PARTITION OF t FOR VALUES FROM (0) TO (50) SERVER elsewhere;
         CREATE TABLE t2 PARTITION OF t FOR VALUES FROM (50) TO (1000)",
    )
    .await;
    let error = databases.examine("t").await.unwrap_err();
    assert_eq!((error.kind(), error.side()), (Kind::Unsupported, Side::Target));
    assert!(error.to_string().contains("public.t1"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_target_that_was_rewritten_is_read_back_and_held_against_what_was_sent() {
    for again in [
        "CREATE TABLE few AS SELECT * FROM t WHERE id % 20 = 7; TRUNCATE t; INSERT INTO t TABLE few; DROP TABLE few",
        "DROP TABLE t; CREATE TABLE t (id int PRIMARY KEY, a text, b text); INSERT INTO t SELECT i, 'other', 'b' || i FROM generate_series(1, 60) i",
        "ALTER TABLE t ALTER a TYPE varchar(2) USING left(a, 2); ALTER TABLE t ALTER a TYPE text",
        "BEGIN; ALTER TABLE t RENAME TO old; CREATE TABLE t (LIKE old INCLUDING ALL); INSERT INTO t SELECT id, a, 'x' FROM old; COMMIT",
    ] {
        let error = refused(TABLE, "", again)
            .await
            .unwrap_or_else(|| panic!("{again}"));
        assert_eq!(
            (error.kind(), error.side()),
            (Kind::Emptied, Side::Target),
            "{again}"
        );
        assert!(
            error
                .to_string()
                .contains("rows are missing or have other values"),
            "{again}: {error}"
        );
    }
    for same in [
        "VACUUM FULL t",
        "ALTER TABLE t SET UNLOGGED",
        "ALTER TABLE t RENAME TO old; CREATE TABLE t (LIKE old INCLUDING ALL); INSERT INTO t TABLE old",
    ] {
        let error = refused(TABLE, "", same).await;
        assert!(error.is_none(), "{same}: {error:?}");
    }
}

/// A ledger from before `--restart` comes back with a target that is restored: what it says is of other rows.
#[tokio::test(flavor = "multi_thread")]
async fn a_ledger_of_the_time_before_the_job_was_begun_anew_is_refused() {
    let databases = Databases::new(TABLE, ROWS).await;
    let run = databases.opened("t").await;
    databases.copy_all(&run, 50).await;
    let before = run.position.clone();
    ledger::forget(&databases.target, &run.spec, &run.plan)
        .await
        .unwrap();
    sql(&databases.target_url, "TRUNCATE t").await;
    let anew = databases.opened("t").await;
    databases.copy_all(&anew, 50).await;
    assert!(anew.position.begun > before.begun && before.begun > 0);
    let (target, spec, plan) = (&databases.target, &anew.spec, &anew.plan);
    assert_eq!(
        ledger::lost(target, spec, plan, &before, &anew.position)
            .await
            .unwrap(),
        None
    );
    let error = ledger::lost(target, spec, plan, &anew.position, &before)
        .await
        .unwrap_err();
    assert_eq!((error.kind(), error.retry()), (Kind::Emptied, Retry::Never));
    assert!(error.to_string().contains("--restart"), "{error}");
}

/// Its sequence was set back, or keys were inserted by hand: new rows come below those that a sync has seen.
#[tokio::test(flavor = "multi_thread")]
async fn a_sequence_below_the_highest_key_is_refused_by_a_sync() {
    let table = "CREATE TABLE t (id bigserial PRIMARY KEY, a text); CREATE TABLE u (id int GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY)";
    let databases = Databases::new(
        table,
        "INSERT INTO t (a) SELECT 'x' FROM generate_series(1, 50); INSERT INTO u VALUES (7)",
    )
    .await;
    let ask = |lookback| Ask {
        sync: true,
        lookback,
        ..Ask::default()
    };
    let looked = async |table: &str, lookback: bool| {
        look(
            &databases.source,
            &databases.target,
            &spec(table, OnConflict::Error),
            &ask(lookback),
        )
        .await
    };
    assert!(looked("t", false).await.is_ok());
    let error = Error::from(looked("u", false).await.unwrap_err());
    assert_eq!((error.kind(), error.side()), (Kind::Unsupported, Side::Source));
    assert!(
        error
            .to_string()
            .contains("stands at 0, below the highest key, 7"),
        "{error}"
    );
    assert!(
        looked("u", true).await.is_ok(),
        "a lookback is the operator's word"
    );
    sql(&databases.target_url, "INSERT INTO u VALUES (1)").await;
    let troubles = looked("u", false).await.unwrap_err().into_vec();
    let kinds: Vec<_> = troubles.iter().map(Error::kind).collect();
    assert_eq!(kinds, [Kind::Unsupported, Kind::NotEmpty], "each is told");
    let plan = databases.examine("t").await.unwrap();
    let highest = longhaul::postgres::cursor::highest_key(&databases.source, &plan)
        .await
        .unwrap();
    longhaul::postgres::check_growth(&databases.source, &plan, highest.as_ref())
        .await
        .unwrap();
    sql(&databases.source_url, "SELECT setval('t_id_seq', 20)").await;
    let error = longhaul::postgres::check_growth(&databases.source, &plan, highest.as_ref())
        .await
        .unwrap_err();
    assert!(
        error.hint().contains("SELECT setval('public.t_id_seq', 50)"),
        "{}",
        error.hint()
    );
    sql(&databases.source_url, "SELECT setval('public.t_id_seq', 50)").await;
    longhaul::postgres::check_growth(&databases.source, &plan, highest.as_ref())
        .await
        .unwrap();
}
