//! Keys are found by the index, in the source's own order.

use crate::servers::{Databases, key, sql, value};
use longhaul::postgres::cursor::{highest_key, key_before, next_range_end, sort_keys};

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_ends_after_so_many_rows_at_the_stop_or_at_the_last_row() {
    let databases = Databases::new(
        "CREATE TABLE t (id bigint PRIMARY KEY); CREATE TABLE e (id int PRIMARY KEY)",
        "INSERT INTO t SELECT i * 10 FROM generate_series(1, 100) i",
    )
    .await;
    let plan = databases.examine("t").await.unwrap();
    for (low, stop, rows, end) in [
        (None, None, 10, Some("100")),
        (Some("100"), None, 10, Some("200")),
        (Some("995"), None, 10, Some("1000")),
        (Some("1000"), None, 10, None),
        (None, Some("35"), 10, Some("35")),
        (None, Some("35"), 2, Some("20")),
        (Some("35"), Some("35"), 2, None),
        (Some("1000"), Some("2000"), 5, Some("2000")),
        (None, None, 1, Some("10")),
        (None, None, u64::from(u32::MAX), Some("1000")),
    ] {
        let (low_key, stop_key) = (low.map(|low| key(&[low])), stop.map(|stop| key(&[stop])));
        let found = next_range_end(
            &databases.source,
            &plan,
            low_key.as_ref(),
            stop_key.as_ref(),
            rows,
        )
        .await
        .unwrap();
        assert_eq!(found, end.map(|end| key(&[end])), "{low:?} {stop:?} {rows}");
    }
    assert_eq!(
        highest_key(&databases.source, &plan).await.unwrap(),
        Some(key(&["1000"]))
    );
    assert_eq!(
        key_before(&databases.source, &plan, &key(&["505"]), 3)
            .await
            .unwrap(),
        Some(key(&["470"]))
    );
    assert_eq!(
        key_before(&databases.source, &plan, &key(&["505"]), 500)
            .await
            .unwrap(),
        None
    );
    let empty = databases.examine("e").await.unwrap();
    assert_eq!(highest_key(&databases.source, &empty).await.unwrap(), None);
    assert_eq!(
        next_range_end(&databases.source, &empty, None, None, 5)
            .await
            .unwrap(),
        None
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_are_sorted_by_the_columns_own_collation() {
    let available = "SELECT quote_ident(collname) FROM pg_collation WHERE collprovider = 'i' AND collname IN ('de-x-icu', 'en-x-icu') LIMIT 1";
    let databases = Databases::new("", "").await;
    let collation = value(&databases.source_url, available).await;
    assert!(!collation.is_empty(), "this server was built without ICU");
    let ddl = format!("CREATE TABLE t (name text COLLATE {collation}, n int, PRIMARY KEY (name, n))");
    sql(&databases.source_url, &format!("{ddl}; INSERT INTO t SELECT x, i FROM unnest(ARRAY['a','B','c','D','ä','z','Z','é']) x, generate_series(1, 50) i")).await;
    sql(&databases.target_url, &ddl.replace(&collation, "\"C\"")).await;
    let run = databases.opened("t").await;
    assert!(run.plan.key[0].collation.is_some() && !run.plan.same_order);
    assert_eq!(databases.copy_all(&run, 30).await, 14);
    databases.assert_same("t").await;
    let keys = [
        ["z", "1"],
        ["B", "10"],
        ["ä", "1"],
        ["B", "9"],
        ["a", "1"],
        ["c", "1"],
    ]
    .map(|k| key(&k));
    let sorted = sort_keys(&databases.source, &run.plan, keys.to_vec())
        .await
        .unwrap();
    let expected = [
        ["a", "1"],
        ["ä", "1"],
        ["B", "9"],
        ["B", "10"],
        ["c", "1"],
        ["z", "1"],
    ]
    .map(|k| key(&k));
    assert_eq!(sorted, expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_index_is_used_without_statistics() {
    let databases = Databases::new(
        "CREATE TABLE t (a int, b text, v text, PRIMARY KEY (a, b))",
        "ALTER TABLE t SET (autovacuum_enabled = off); INSERT INTO t SELECT i / 10, i::text, repeat('x', 200) FROM generate_series(1, 200000) i",
    )
    .await;
    let plan = databases.examine("t").await.unwrap();
    let row = "SELECT a || '|' || b FROM t WHERE (a, b) > (9000, 'x') ORDER BY a, b OFFSET 999 LIMIT 1";
    let wanted = value(&databases.source_url, row).await;
    // Before PostgreSQL 15 statistics come when they come; there only the time tells.
    let flush = "SELECT count(*) FROM pg_proc WHERE proname = 'pg_stat_force_next_flush'";
    let flushes = value(&databases.source_url, flush).await == "1";
    let counted = if flushes {
        "pg_stat_force_next_flush()::text || seq_scan"
    } else {
        "0"
    };
    let scans = &format!("SELECT {counted} FROM pg_stat_user_tables WHERE relname = 't'");
    let before = value(&databases.source_url, scans).await;
    let (low, start) = (key(&["9000", "x"]), std::time::Instant::now());
    for _ in 0..20 {
        let end = next_range_end(&databases.source, &plan, Some(&low), None, 1000)
            .await
            .unwrap();
        assert_eq!(end.map(|end| end.0.join("|")), Some(wanted.clone()));
    }
    let took = start.elapsed();
    assert!(took.as_millis() < 1000, "20 steps of 1,000 rows took {took:?}");
    assert_eq!(value(&databases.source_url, scans).await, before);
}
