//! Tables and columns that are others under the same names, and rows that went without a word, on real servers.

use crate::servers::{Databases, batch, range, spec, sql};
use longhaul::postgres::{Ask, Error, Kind, Retry, Side, look};
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
    let Err(troubles) = found else {
        return databases.try_run(wanted).await.err();
    };
    Some(troubles.into())
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
