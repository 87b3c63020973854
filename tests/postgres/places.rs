//! Tables without a key: their rows are gone over where they lie, each once, and whoever writes to them meanwhile is found out.

use crate::servers::{Databases, Run, batch, spec, sql, value};
use longhaul::postgres::{
    Ask, Error, Kind, Session, Side, Unmetered, check_still, cursor, look, note_still, survey, verify,
};
use longhaul::table::{Key, KeyBasis, KeyRange, OnConflict, TableSpec, Tally};

const ROWS: &str = "INSERT INTO t SELECT i % 100, repeat(chr(97 + i % 26), i % 50), NULLIF(i % 3, 0)
                    FROM generate_series(1, 20000) i";
const TABLE: &str = "CREATE TABLE t (a int, b text, c int)";

/// Databases whose rows are older than any transaction that is still open on their server, which others use as well.
async fn databases(ddl: &str, fill: &str) -> Databases {
    let databases = Databases::new(ddl, fill).await;
    let snapshot = "txid_current_snapshot()";
    let next = value(
        &databases.source_url,
        &format!("SELECT txid_snapshot_xmax({snapshot})"),
    )
    .await;
    let is_over = format!("SELECT txid_snapshot_xmin({snapshot}) >= {next}");
    let end = std::time::Instant::now() + std::time::Duration::from_secs(120);
    while value(&databases.source_url, &is_over).await != "t" {
        assert!(
            std::time::Instant::now() < end,
            "transactions of others do not end"
        );
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    databases
}

fn quiet(table: &str) -> TableSpec {
    let mut spec = spec(table, OnConflict::Error);
    spec.key.source_is_quiet = true;
    spec
}

async fn opened(databases: &Databases, table: &str) -> Run {
    let run = databases.run(quiet(table)).await;
    let epoch = run.position.epoch;
    let done = &run.position.tally;
    note_still(
        &databases.source,
        &databases.target,
        &run.spec,
        &run.plan,
        epoch,
        done,
    )
    .await
    .unwrap_or_else(|error| panic!("{}", error.chain()));
    run
}

/// Copies from where the ledger says, up to the end that there is now; the sum of all that the ledger has then.
async fn copy(databases: &Databases, run: &Run, rows: u64, batches: usize) -> Tally {
    let position = databases.position(run).await;
    let stop = cursor::highest_key(&databases.source, &run.plan)
        .await
        .expect("an end");
    let (mut low, mut number) = (position.copied, position.next_batch);
    for _ in 0..batches {
        let next =
            cursor::next_range_end(&databases.source, &run.plan, low.as_ref(), stop.as_ref(), rows).await;
        let Some(high) = next.expect("a range") else { break };
        let range = KeyRange {
            low,
            high: high.clone(),
        };
        let copied = databases.copy(run, &batch(number, range)).await;
        copied.unwrap_or_else(|error| panic!("{}", error.chain()));
        (low, number) = (Some(high), number + 1);
    }
    databases.position(run).await.tally
}

async fn still(databases: &Databases, run: &Run, copied: &Tally) -> Result<(), Error> {
    let Databases { source, target, .. } = databases;
    check_still(source, target, &run.spec, &run.plan, &run.fence, copied).await
}

async fn looked_at(databases: &Databases, spec: &TableSpec) -> Result<(), Error> {
    let looked = look(&databases.source, &databases.target, spec, &Ask::default()).await;
    looked.map(drop).map_err(Error::from)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_without_a_key_is_copied_where_its_rows_lie_and_goes_on_there() {
    let databases = databases(TABLE, ROWS).await;
    sql(&databases.source_url, "DELETE FROM t WHERE a BETWEEN 10 AND 60").await;
    sql(&databases.source_url, "VACUUM t").await;
    let refused = databases.examine("t").await.unwrap_err();
    assert_eq!((refused.side(), refused.kind()), (Side::Source, Kind::NoKey));
    assert!(refused.hint().contains("--source-is-quiet"), "{}", refused.hint());
    let run = opened(&databases, "t").await;
    assert!(run.plan.key_basis.is_places() && run.plan.warnings[0].contains("nobody may write"));
    let some = copy(&databases, &run, 500, 5).await;
    assert!(some.rows > 500 && some.batches == 5, "{some:?}");
    let ledger = "SELECT string_agg(high::text, ' ' ORDER BY batch) FROM longhaul.batches";
    let ends = value(&databases.target_url, ledger).await;
    assert!(ends.starts_with("{\"(") && ends.ends_with(",0)\"}"), "{ends}");
    // Another run goes on from there; plain VACUUMs, with FREEZE too, move nothing.
    sql(&databases.source_url, "VACUUM FREEZE t").await;
    let run = opened(&databases, "t").await;
    assert_eq!(run.position.tally, some);
    let all = copy(&databases, &run, 500, usize::MAX).await;
    databases.assert_same("t").await;
    still(&databases, &run, &all).await.expect("nobody has written");
    // A range that is sent once more is known by its place.
    let position = databases.position(&run).await;
    let again = batch(
        all.batches + 5,
        KeyRange {
            low: None,
            high: first_end(&databases).await,
        },
    );
    let repeated = databases.repeat(&run, &again).await.expect("known");
    assert!(repeated.rows > 0 && databases.position(&run).await == position);
    databases.assert_same("t").await;
}

async fn first_end(databases: &Databases) -> Key {
    let first = value(
        &databases.target_url,
        "SELECT high[1] FROM longhaul.batches WHERE batch = 0",
    )
    .await;
    Key(vec![first])
}

#[tokio::test(flavor = "multi_thread")]
async fn servers_that_go_over_no_range_of_places_are_told_each_place() {
    let databases = databases(TABLE, ROWS).await;
    let mut run = opened(&databases, "t").await;
    let KeyBasis::Places { by_place, .. } = &mut run.plan.key_basis else {
        panic!("{:?}", run.plan.key_basis)
    };
    *by_place = true;
    let all = copy(&databases, &run, 3000, usize::MAX).await;
    databases.assert_same("t").await;
    still(&databases, &run, &all).await.expect("nobody has written");
    sql(&databases.source_url, "INSERT INTO t VALUES (1)").await;
    assert_eq!(
        still(&databases, &run, &all).await.unwrap_err().kind(),
        Kind::Incompatible
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_writes_to_it_meanwhile_is_found_out_whatever_was_written() {
    for (name, before, after) in [
        ("a row more at the end", "", "INSERT INTO t VALUES (7, 'more')"),
        ("a row changed", "", "UPDATE t SET c = 7 WHERE ctid = '(3,5)'"),
        (
            "a row changed to what it was",
            "",
            "UPDATE t SET c = c WHERE ctid = '(3,5)'",
        ),
        ("a row gone", "", "DELETE FROM t WHERE ctid = '(2,1)'"),
        (
            "one gone, one come",
            "",
            "DELETE FROM t WHERE ctid = '(2,1)'; INSERT INTO t VALUES (7, 'other')",
        ),
        (
            "a row that came and went",
            "INSERT INTO t VALUES (7, 'shortly')",
            "DELETE FROM t WHERE b = 'shortly'",
        ),
        (
            "a row in a free place",
            "",
            "DELETE FROM t WHERE ctid = '(0,1)'; VACUUM t; INSERT INTO t VALUES (1, 'in its place')",
        ),
    ] {
        let databases = databases(TABLE, ROWS).await;
        let run = opened(&databases, "t").await;
        if !before.is_empty() {
            sql(&databases.source_url, before).await;
        }
        let all = copy(&databases, &run, 4000, usize::MAX).await;
        for statement in after.split("; ") {
            sql(&databases.source_url, statement).await;
        }
        let error = still(&databases, &run, &all).await.expect_err(name);
        assert_eq!(
            (error.side(), error.kind()),
            (Side::Source, Kind::Incompatible),
            "{name}"
        );
        assert!(
            error.to_string().contains("was written to since job j began"),
            "{name}: {error}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_writer_that_was_open_when_the_job_began_is_found_out_and_savepoints_too() {
    let databases = databases(TABLE, ROWS).await;
    let writer = crate::servers::client(&databases.source_url).await;
    let opened_before =
        "BEGIN; INSERT INTO t VALUES (1, 'open'); SAVEPOINT s; INSERT INTO t VALUES (2, 'open')";
    writer.batch_execute(opened_before).await.unwrap();
    let run = opened(&databases, "t").await;
    let all = copy(&databases, &run, 4000, usize::MAX).await;
    still(&databases, &run, &all)
        .await
        .expect("nothing was committed");
    writer.batch_execute("COMMIT").await.unwrap();
    let error = still(&databases, &run, &all).await.unwrap_err();
    assert!(
        error
            .to_string()
            .contains("20002 rows are there, of which 2 are of later transactions"),
        "{error}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rewrite_in_the_middle_is_refused_even_where_nothing_was_found_yet() {
    for statement in [
        "VACUUM FULL t",
        "ALTER TABLE t ALTER c TYPE bigint USING c; ALTER TABLE t ALTER c TYPE int",
    ] {
        let databases = databases(TABLE, ROWS).await;
        // The first half of the table is empty: a rewrite moves rows there.
        sql(&databases.source_url, "DELETE FROM t WHERE ctid < '(60,0)'").await;
        let run = opened(&databases, "t").await;
        let some = copy(&databases, &run, 1, 2).await;
        assert_eq!((some.rows, some.batches), (0, 2));
        for statement in statement.split("; ") {
            sql(&databases.source_url, statement).await;
        }
        let refused = looked_at(&databases, &run.spec).await.unwrap_err();
        assert_eq!(
            (refused.side(), refused.kind()),
            (Side::Source, Kind::Incompatible),
            "{statement}"
        );
        assert!(
            refused.to_string().contains("its rows lie in other places"),
            "{refused}"
        );
        let range = KeyRange {
            low: Some(Key(vec!["(2,0)".to_owned()])),
            high: Key(vec!["(90,0)".to_owned()]),
        };
        let stopped = databases.copy(&run, &batch(7, range)).await.unwrap_err();
        assert_eq!(stopped.kind(), Kind::TableChanged);
        let stopped = still(&databases, &run, &some).await.unwrap_err();
        assert_eq!(stopped.kind(), Kind::TableChanged);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn partitions_are_gone_over_one_after_the_other() {
    let source = "CREATE TABLE t (a int, b text) PARTITION BY RANGE (a);
         CREATE TABLE t0 PARTITION OF t FOR VALUES FROM (0) TO (100);
         CREATE TABLE t1 (b text, a int); ALTER TABLE t ATTACH PARTITION t1 FOR VALUES FROM (100) TO (200);
         CREATE TABLE t2 PARTITION OF t FOR VALUES FROM (200) TO (900) PARTITION BY RANGE (a);
         CREATE TABLE \"T 2.1\" PARTITION OF t2 FOR VALUES FROM (200) TO (300);
         CREATE TABLE t3 PARTITION OF t DEFAULT;
         INSERT INTO t SELECT i % 300, i::text FROM generate_series(1, 30000) i";
    let databases = databases("", source).await;
    sql(&databases.target_url, "CREATE TABLE t (b text, a int)").await;
    let run = opened(&databases, "t").await;
    assert_eq!(run.plan.key_names(), "tableoid, ctid");
    let all = copy(&databases, &run, 2000, usize::MAX).await;
    assert!(all.rows == 30_000 && all.batches > 12, "{all:?}");
    let sum = "SELECT count(*) || ' ' || sum(hashtext(a || '-' || b)) FROM t";
    assert_eq!(
        value(&databases.source_url, sum).await,
        value(&databases.target_url, sum).await
    );
    still(&databases, &run, &all).await.expect("nobody has written");
    // A row that goes from one partition to another is written anew.
    sql(
        &databases.source_url,
        "UPDATE t SET a = 150 WHERE a = 5 AND b = '5'",
    )
    .await;
    assert_eq!(
        still(&databases, &run, &all).await.unwrap_err().kind(),
        Kind::Incompatible
    );
    sql(&databases.source_url, "ALTER TABLE t DETACH PARTITION t3").await;
    let refused = looked_at(&databases, &run.spec).await.unwrap_err();
    assert_eq!(refused.kind(), Kind::Incompatible, "{refused}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_copied_is_held_against_receipts_and_source_as_a_whole() {
    let databases = databases(TABLE, ROWS).await;
    let run = opened(&databases, "t").await;
    copy(&databases, &run, 3000, usize::MAX).await;
    let high = databases.position(&run).await.copied.expect("copied");
    let range = KeyRange { low: None, high };
    let both = async || {
        let target: &Session = &databases.target;
        let receipts = verify::against_receipts(target, &run.plan, &run.spec, &range, &Unmetered)
            .await
            .unwrap();
        let source = verify::as_a_whole(databases.sides(&run.plan), &range)
            .await
            .unwrap();
        (receipts.differences(), source.differences(), source.rows)
    };
    assert_eq!(both().await, (0, 0, 20_000));
    sql(&databases.target_url, "UPDATE t SET b = 'x' WHERE ctid = '(5,5)'").await;
    assert_eq!(both().await, (1, 1, 20_000));
    sql(
        &databases.target_url,
        "DELETE FROM t WHERE b = 'x'; INSERT INTO t SELECT * FROM t LIMIT 1",
    )
    .await;
    assert_eq!(both().await, (1, 1, 20_000));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_needs_a_key_is_refused_where_there_is_none() {
    let databases = databases(TABLE, ROWS).await;
    for on_conflict in [OnConflict::Skip, OnConflict::Update] {
        let spec = TableSpec {
            on_conflict,
            ..quiet("t")
        };
        let error = looked_at(&databases, &spec).await.unwrap_err();
        assert_eq!(error.kind(), Kind::NoKey, "{error}");
    }
    for lookback in [false, true] {
        let ask = Ask {
            sync: true,
            lookback,
            restart: false,
        };
        let found = survey(&databases.source, &databases.target, &quiet("t"), &ask).await;
        assert_eq!(found.troubles.len(), 1, "{:?}", found.troubles);
        assert!(
            found.troubles[0]
                .to_string()
                .contains("a sync finds new rows by their key")
        );
    }
    // A key that is there is gone along all the same, unless a null may be in it.
    sql(
        &databases.source_url,
        "CREATE UNIQUE INDEX ON t (a, b, c) WHERE false; CREATE TABLE u (a int UNIQUE, b int)",
    )
    .await;
    sql(&databases.target_url, "CREATE TABLE u (a int, b int)").await;
    let plan = databases.examine("u").await.unwrap();
    assert_eq!(plan.key_names(), "a");
    let run = databases.run(quiet("u")).await;
    assert!(run.plan.key_basis.is_places());
    sql(&databases.source_url, "ALTER TABLE u ALTER a SET NOT NULL").await;
    let plan = databases
        .run(TableSpec {
            job: "k".to_owned(),
            ..quiet("u")
        })
        .await
        .plan;
    assert!(plan.key_basis.is_index());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_empty_table_and_a_materialized_view_are_copied_too() {
    let databases = databases(TABLE, "").await;
    let run = opened(&databases, "t").await;
    assert_eq!(
        cursor::highest_key(&databases.source, &run.plan).await.unwrap(),
        None
    );
    still(&databases, &run, &Tally::default())
        .await
        .expect("nobody has written");
    sql(
        &databases.source_url,
        "CREATE MATERIALIZED VIEW m AS SELECT i AS a FROM generate_series(1, 5000) i",
    )
    .await;
    sql(&databases.target_url, "CREATE TABLE m (a int)").await;
    let mut spec = quiet("m");
    spec.job = "m".to_owned();
    let run = databases.run(spec).await;
    note_still(
        &databases.source,
        &databases.target,
        &run.spec,
        &run.plan,
        run.position.epoch,
        &Tally::default(),
    )
    .await
    .unwrap();
    let all = copy(&databases, &run, 1000, usize::MAX).await;
    databases.assert_same("m").await;
    still(&databases, &run, &all).await.expect("nobody has written");
    sql(&databases.source_url, "REFRESH MATERIALIZED VIEW m").await;
    assert_eq!(
        still(&databases, &run, &all).await.unwrap_err().kind(),
        Kind::TableChanged
    );
}
