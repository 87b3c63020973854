//! What a batch does where the target has rows already: another look adds what is missing, and the modes of conflict.

use crate::servers::{Databases, another_look, batch, key, range, sql, value};
use longhaul::postgres::{Kind, Retry, Unmetered, verify};
use longhaul::table::{KeyRange, OnConflict, Tally};

const TABLE: &str = "CREATE TABLE t (id int PRIMARY KEY, a text)";
const EVEN: &str = "INSERT INTO t SELECT i, repeat('x', i) FROM generate_series(2, 200, 2) i";

/// No temporary table is left in the session's schema, and no transaction.
async fn assert_nothing_left(databases: &Databases) {
    let temporary =
        "SELECT count(*) FROM pg_class c WHERE c.relpersistence = 't' AND c.relname LIKE 'longhaul%'";
    assert_eq!(value(&databases.target_url, temporary).await, "0");
    let open = "SELECT count(*) FROM pg_stat_activity
        WHERE application_name = 'longhaul test' AND datname = current_database() AND xact_start IS NOT NULL";
    assert_eq!(value(&databases.target_url, open).await, "0");
}

#[tokio::test(flavor = "multi_thread")]
async fn another_look_adds_the_rows_that_came_late_and_counts_just_them() {
    let databases = Databases::new(TABLE, EVEN).await;
    let run = databases.opened("t").await;
    let first = databases.copy(&run, &batch(0, range(None, "200"))).await.unwrap();
    assert_eq!(first.rows, 100);
    sql(
        &databases.source_url,
        "INSERT INTO t VALUES (1, 'late'), (77, 'later'), (199, 'latest'), (201, 'beyond');
         UPDATE t SET a = 'changed' WHERE id = 50; DELETE FROM t WHERE id = 60",
    )
    .await;
    let tally = databases
        .copy(&run, &another_look(1, range(None, "200")))
        .await
        .unwrap();
    let mut expected = Tally {
        batches: 1,
        ..Tally::default()
    };
    for (low, high) in [(None, "1"), (Some("76"), "77"), (Some("198"), "199")] {
        let (source, plan) = (&databases.source, &run.plan);
        let row = verify::checksum_range(source, plan, plan.format, &range(low, high), &Unmetered).await;
        expected += row.unwrap();
    }
    assert_eq!((expected.rows, tally), (3, expected));
    let entry = "SELECT batch || ' ' || pass || ' ' || rows || ' ' || rows_written || ' ' || format || ' ' || low::text || ' ' || high::text
        FROM longhaul.batches WHERE batch = 1";
    assert_eq!(
        value(&databases.target_url, entry).await,
        "1 1 3 3 binary {} {200}"
    );
    let rows = "SELECT string_agg(id || ' ' || left(a, 8), ', ' ORDER BY id) FROM t WHERE id % 2 = 1 OR id IN (50, 60)";
    assert_eq!(
        value(&databases.target_url, rows).await,
        "1 late, 50 xxxxxxxx, 60 xxxxxxxx, 77 later, 199 latest",
        "what is there stays as it is"
    );
    assert_eq!(databases.kept("t").await, "103 2");
    // A repeat returns what it did, and writes nothing.
    let again = databases
        .repeat(&run, &another_look(1, range(None, "200")))
        .await
        .unwrap();
    assert_eq!(again, tally);
    assert_eq!(databases.kept("t").await, "103 2");
    let position = databases.position(&run).await;
    assert_eq!(position.tally, [first, tally].into_iter().sum());
    assert_nothing_left(&databases).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn another_look_that_finds_nothing_writes_nothing() {
    let databases = Databases::new(TABLE, EVEN).await;
    let run = databases.opened("t").await;
    databases.copy(&run, &batch(0, range(None, "200"))).await.unwrap();
    // Nothing is missing, and nothing is there at all.
    for nothing in [range(None, "200"), range(Some("200"), "900")] {
        for repeated in [false, true] {
            let wanted = another_look(1, nothing.clone());
            let source =
                crate::servers::session(&databases.source_url, longhaul::postgres::Side::Source).await;
            let tally = run
                .copy(&source, &databases.target, &wanted, repeated)
                .await
                .unwrap();
            assert_eq!(tally, Tally::default());
            assert_eq!(databases.kept("t").await, "100 1");
            assert_nothing_left(&databases).await;
        }
    }
    // The number was not used, and the session goes on.
    sql(&databases.target_url, "DELETE FROM t WHERE id = 2").await;
    let tally = databases
        .copy(&run, &another_look(1, range(None, "200")))
        .await
        .unwrap();
    assert_eq!((tally.rows, tally.batches), (1, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn another_look_adds_thousands_of_rows_of_any_key() {
    let databases = Databases::new(
        "CREATE TABLE t (a text COLLATE \"C\", b timestamptz, \"c d\" numeric, v jsonb, PRIMARY KEY (a, b, \"c d\"))",
        "INSERT INTO t SELECT E'it''s \\\\ \\t' || chr(64 + i % 60), now() + i * interval '1 us', i / 8.0, '{\"a\": 1}'
         FROM generate_series(1, 5000) i",
    )
    .await;
    let run = databases.opened("t").await;
    let high = longhaul::postgres::cursor::highest_key(&databases.source, &run.plan)
        .await
        .unwrap();
    let all = KeyRange {
        low: None,
        high: high.unwrap(),
    };
    databases.copy(&run, &batch(0, all.clone())).await.unwrap();
    sql(
        &databases.target_url,
        "DELETE FROM t WHERE (\"c d\" * 8) % 5 <> 0",
    )
    .await;
    let tally = databases.copy(&run, &another_look(1, all)).await.unwrap();
    assert_eq!(tally.rows, 4000);
    databases.assert_same("t").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_conflict_on_another_unique_index_is_an_error_in_every_pass() {
    let databases = Databases::new(TABLE, "INSERT INTO t VALUES (1, 'a'), (2, 'b'), (3, 'c')").await;
    sql(&databases.target_url, "CREATE UNIQUE INDEX ON t (a)").await;
    let run = databases.opened_for("t", OnConflict::Skip).await;
    databases.copy(&run, &batch(0, range(None, "3"))).await.unwrap();
    sql(
        &databases.source_url,
        "INSERT INTO t VALUES (0, 'c'); INSERT INTO t VALUES (4, 'a')",
    )
    .await;
    for (on_conflict, wanted) in [
        (OnConflict::Error, another_look(1, range(None, "3"))),
        (OnConflict::Skip, another_look(1, range(None, "3"))),
        (OnConflict::Error, batch(1, range(Some("3"), "4"))),
        (OnConflict::Skip, batch(1, range(Some("3"), "4"))),
        (OnConflict::Update, batch(1, range(Some("3"), "4"))),
    ] {
        let run = databases.opened_for("t", on_conflict).await;
        let name = format!("{on_conflict:?} {:?}", wanted.pass);
        for repeat in [false, true] {
            let error = match repeat {
                false => databases.copy(&run, &wanted).await.unwrap_err(),
                true => databases.repeat(&run, &wanted).await.unwrap_err(),
            };
            assert_eq!(
                (error.kind(), error.retry()),
                (Kind::ConflictingRow, Retry::Never),
                "{name}"
            );
            assert_eq!(databases.kept("t").await, "3 1", "{name}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_that_are_skipped_are_counted_as_such() {
    let databases = Databases::new(TABLE, EVEN).await;
    sql(
        &databases.target_url,
        "INSERT INTO t SELECT i, 'own' FROM generate_series(4, 40, 4) i; INSERT INTO t VALUES (1, 'own')",
    )
    .await;
    let run = databases.opened_for("t", OnConflict::Skip).await;
    let tally = databases.copy(&run, &batch(0, range(None, "200"))).await.unwrap();
    assert_eq!((tally.rows, tally.skipped, tally.written()), (100, 10, 90));
    let (plan, all) = (&run.plan, range(None, "200"));
    let sent = verify::checksum_range(&databases.source, plan, plan.format, &all, &Unmetered)
        .await
        .unwrap();
    assert_eq!(
        (tally.bytes, tally.checksum),
        (sent.bytes, sent.checksum),
        "of the rows that were sent"
    );
    let entry = "SELECT rows || ' ' || rows_written FROM longhaul.batches";
    assert_eq!(value(&databases.target_url, entry).await, "100 90");
    assert_eq!(databases.position(&run).await.tally, tally);
    assert_eq!(
        databases.repeat(&run, &batch(0, all.clone())).await.unwrap(),
        tally
    );
    let own = "SELECT count(*) FROM t WHERE a = 'own'";
    assert_eq!(value(&databases.target_url, own).await, "11");
    // Its receipt proves no values, and says so; a row that has gone is seen.
    let receipts = async || {
        verify::against_receipts(&databases.target, plan, &run.spec, &all, &Unmetered)
            .await
            .unwrap()
    };
    sql(&databases.target_url, "DELETE FROM t WHERE id = 1").await;
    let found = receipts().await;
    assert_eq!(
        (found.differences(), found.ranges_unproved, found.rows),
        (0, 1, 100)
    );
    sql(&databases.target_url, "DELETE FROM t WHERE id = 4").await;
    assert_eq!(receipts().await.ranges_different, 1);
    assert_nothing_left(&databases).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_equal_key_of_another_spelling_gets_the_sources_or_stays_as_it_is() {
    for (extension, key_type, one, other) in [
        ("CREATE EXTENSION citext", "citext", "'abc'", "'ABC'"),
        ("SELECT", "numeric", "1.00", "1"),
    ] {
        let ddl = format!("{extension}; CREATE TABLE t (k {key_type} PRIMARY KEY, a text)");
        for (on_conflict, spelling, tally) in [
            (OnConflict::Update, one, (1, 0)),
            (OnConflict::Skip, other, (1, 1)),
        ] {
            let databases = Databases::new(&ddl, &format!("INSERT INTO t VALUES ({one}, 'new')")).await;
            sql(
                &databases.target_url,
                &format!("INSERT INTO t VALUES ({other}, 'old')"),
            )
            .await;
            let run = databases.opened_for("t", on_conflict).await;
            assert!(!run.plan.key[0].is_exact);
            let high = longhaul::postgres::cursor::highest_key(&databases.source, &run.plan)
                .await
                .unwrap();
            let all = KeyRange {
                low: None,
                high: high.unwrap(),
            };
            let found = databases.copy(&run, &batch(0, all.clone())).await.unwrap();
            assert_eq!((found.rows, found.skipped), tally, "{key_type} {on_conflict:?}");
            let spelt = value(&databases.target_url, "SELECT k::text FROM t").await;
            assert_eq!(spelt, spelling.trim_matches('\''), "{key_type} {on_conflict:?}");
            // A row that is there under another spelling is not missing.
            let looked = databases.copy(&run, &another_look(1, all)).await.unwrap();
            assert_eq!(looked, Tally::default(), "{key_type} {on_conflict:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_that_only_the_target_takes_for_one_are_never_tried_for_ever() {
    for on_conflict in [OnConflict::Error, OnConflict::Skip, OnConflict::Update] {
        let databases = Databases::new("", "").await;
        sql(
            &databases.source_url,
            "CREATE TABLE t (k text PRIMARY KEY); INSERT INTO t VALUES ('a'), ('A')",
        )
        .await;
        sql(
            &databases.target_url,
            "CREATE COLLATION blind (provider = icu, locale = 'und-u-ks-level2', deterministic = false);
             CREATE TABLE t (k text COLLATE blind PRIMARY KEY)",
        )
        .await;
        if on_conflict != OnConflict::Error {
            let error = databases.examine_for("t", on_conflict).await.unwrap_err();
            assert_eq!(error.kind(), Kind::Unsupported, "{}", error.chain());
            assert!(
                error.chain().contains("nondeterministic collation"),
                "{}",
                error.chain()
            );
            continue;
        }
        let run = databases.opened_for("t", on_conflict).await;
        let refused = longhaul::postgres::check_repair(&databases.target, &run.plan, &run.spec, false).await;
        assert_eq!(refused.unwrap_err().kind(), Kind::Unsupported);
        let high = longhaul::postgres::cursor::highest_key(&databases.source, &run.plan)
            .await
            .unwrap();
        let all = KeyRange {
            low: None,
            high: high.unwrap(),
        };
        let error = databases.copy(&run, &batch(0, all)).await.unwrap_err();
        assert_ne!(error.retry(), Retry::Retry, "{on_conflict:?}: {}", error.chain());
        assert_eq!(databases.kept("t").await, "0 0");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_may_be_longer_than_what_an_index_of_the_ledger_could_hold() {
    // Bytes that do not compress: as texts, which the ledger keeps, they are twice as long.
    let databases = Databases::new(
        "CREATE TABLE t (k bytea, k2 text COLLATE \"C\", v int, PRIMARY KEY (k, k2))",
        "INSERT INTO t SELECT (SELECT string_agg(sha256((i || ' ' || n)::bytea), '' ORDER BY n) FROM generate_series(1, 70) n), 'x', i
         FROM generate_series(1, 6) i",
    )
    .await;
    let run = databases.opened("t").await;
    assert_eq!(databases.copy_all(&run, 2).await, 3);
    databases.assert_same("t").await;
    let url = &databases.target_url;
    let longest = value(
        url,
        "SELECT max(pg_column_size(low)) > 2704 AND max(length(low::text)) > 4480 FROM longhaul.batches",
    );
    assert_eq!(longest.await, "t");
    let index = "CREATE UNIQUE INDEX ON longhaul.batches (job, table_name, low)";
    let error = crate::servers::try_sql(url, index).await.unwrap_err();
    assert_eq!(
        error.code().map(|code| code.code()),
        Some("54000"),
        "an index could not hold them"
    );
    // Found by number, and by range.
    let middle = "SELECT low[1], low[2], high[1], high[2], batch, rows FROM longhaul.batches WHERE batch = 1";
    let row = sql(url, middle)
        .await
        .remove(0)
        .into_iter()
        .flatten()
        .collect::<Vec<_>>();
    let wanted = KeyRange {
        low: Some(key(&[&row[0], &row[1]])),
        high: key(&[&row[2], &row[3]]),
    };
    for number in [1, 9] {
        let tally = databases
            .repeat(&run, &batch(number, wanted.clone()))
            .await
            .unwrap();
        assert_eq!(tally.rows, 2, "{number}");
        let tally = databases
            .copy(&run, &batch(number, wanted.clone()))
            .await
            .unwrap();
        assert_eq!(tally.rows, 2, "{number}, without the word that it is a repeat");
    }
    assert_eq!(databases.kept("t").await, "6 3");
    let position = databases.opened("t").await.position;
    assert_eq!((position.beyond.len(), position.tally.rows), (0, 6));
    // One range begins where another does: the ledger refuses the second of them.
    let mut shorter = wanted.clone();
    shorter.high = position.copied.unwrap();
    let error = databases
        .copy(&databases.opened("t").await, &batch(10, shorter))
        .await
        .unwrap_err();
    assert_eq!(error.kind(), Kind::ConflictingRow);
    // A unit of them is walked and verified.
    let (plan, target) = (&run.plan, &databases.target);
    let end = verify::next_unit(target, plan, &run.spec, None, 4)
        .await
        .unwrap()
        .unwrap();
    let unit = KeyRange { low: None, high: end };
    let found = verify::against_receipts(target, plan, &run.spec, &unit, &Unmetered)
        .await
        .unwrap();
    assert_eq!((found.differences(), found.rows), (0, 4));
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_of_a_table_that_inherits_from_the_target_are_not_the_targets() {
    let databases = Databases::new("CREATE TABLE t (id int PRIMARY KEY, a text)", "").await;
    sql(
        &databases.source_url,
        "INSERT INTO t SELECT i, 'x' FROM generate_series(1, 100) i",
    )
    .await;
    sql(
        &databases.target_url,
        "CREATE TABLE child (PRIMARY KEY (id)) INHERITS (t); INSERT INTO child VALUES (7, 'not of t')",
    )
    .await;
    let run = databases.opened("t").await;
    databases.copy_all(&run, 30).await;
    sql(&databases.target_url, "DELETE FROM ONLY t WHERE id = 7").await;
    let sides = databases.sides(&run.plan);
    let found = verify::against_source(sides, &range(None, "100"), true)
        .await
        .unwrap();
    assert_eq!(
        (found.missing, found.extra, found.changed),
        (1, 0, 0),
        "{found:?}"
    );
}
