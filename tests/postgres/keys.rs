//! Which key a table is copied along, what is asked of its rows, and that no row without a key is lost in silence.

use crate::servers::{Databases, batch, key, spec, sql, value};
use longhaul::postgres::{Ask, Error, Kind, Side, check_key, check_key_again, cursor, look, survey};
use longhaul::table::{KeyBasis, KeyRange, OnConflict, Plan, SourceKind, TableSpec};

fn along(table: &str, columns: &str) -> TableSpec {
    let mut spec = spec(table, OnConflict::Error);
    spec.key.columns = Some(columns.parse().expect("columns"));
    spec
}

fn names(plan: &Plan) -> Vec<&str> {
    plan.key.iter().map(|column| column.name.as_str()).collect()
}

async fn looked_at(databases: &Databases, spec: &TableSpec) -> Result<Plan, Error> {
    let looked = look(&databases.source, &databases.target, spec, &Ask::default()).await;
    looked.map(|look| look.plan).map_err(Error::from)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_key_is_the_one_that_is_named_and_the_reason_says_so() {
    let ddl = "CREATE TABLE t (id int PRIMARY KEY, a int NOT NULL, b text NOT NULL, c int, UNIQUE (a, b), UNIQUE (c))";
    let databases = Databases::new(
        ddl,
        "INSERT INTO t SELECT i, i % 7, i::text, i FROM generate_series(1, 500) i",
    )
    .await;
    for (columns, wanted) in [
        ("id", vec!["id"]),
        ("A,b", vec!["a", "b"]),
        ("b, a", vec!["a", "b"]),
        ("c", vec!["c"]),
    ] {
        let found = survey(
            &databases.source,
            &databases.target,
            &along("t", columns),
            &Ask::default(),
        )
        .await;
        assert!(found.troubles.is_empty(), "{columns}: {:?}", found.troubles);
        assert_eq!(names(found.plan.as_ref().expect("a plan")), wanted, "{columns}");
        assert!(
            found.key_reason.starts_with("named by --key"),
            "{}",
            found.key_reason
        );
    }
    for (columns, words, hint) in [
        ("b", "on exactly (b)", "(id), (c), (a, b)"),
        ("idd", "no column \"idd\"", "\"id\""),
        ("a,b,c", "on exactly (a, b, c)", "(a, b)"),
    ] {
        let error = looked_at(&databases, &along("t", columns)).await.unwrap_err();
        assert_eq!(
            (error.side(), error.kind()),
            (Side::Source, Kind::NoKey),
            "{error}"
        );
        assert!(
            error.to_string().contains(words) && error.hint().contains(hint),
            "{error}; {}",
            error.hint()
        );
    }
    let run = databases.run(along("t", "a,b")).await;
    assert!(databases.copy_all(&run, 90).await > 5);
    databases.assert_same("t").await;
    assert_eq!(
        value(
            &databases.target_url,
            "SELECT count(*) FROM longhaul.tables WHERE key_columns = '{a,b}'"
        )
        .await,
        "1"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_partial_or_computed_index_is_no_key_whoever_names_it() {
    let ddl = "CREATE TABLE t (a int NOT NULL, b int NOT NULL);
               CREATE UNIQUE INDEX ON t (a) WHERE b > 0; CREATE UNIQUE INDEX ON t ((b + 1))";
    let databases = Databases::new(ddl, "").await;
    for columns in ["a", "b"] {
        let error = looked_at(&databases, &along("t", columns)).await.unwrap_err();
        assert_eq!(error.kind(), Kind::NoKey);
        assert!(error.hint().contains("the table has none"), "{}", error.hint());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_unique_key_that_can_be_null_serves_where_no_row_has_a_null() {
    let ddl = "CREATE TABLE t (a int, b text, c int, UNIQUE (a, b))";
    let databases = Databases::new(
        ddl,
        "INSERT INTO t SELECT i / 10, i::text, i FROM generate_series(1, 1000) i",
    )
    .await;
    let found = survey(
        &databases.source,
        &databases.target,
        &spec("t", OnConflict::Error),
        &Ask::default(),
    )
    .await;
    assert!(
        found.key_reason.contains("null in a, b, which is asked"),
        "{}",
        found.key_reason
    );
    let run = databases.opened("t").await;
    let nullable = vec!["a".to_owned(), "b".to_owned()];
    assert_eq!(
        run.plan.key_basis,
        KeyBasis::Rows {
            nullable,
            repeatable: false
        }
    );
    databases.copy_all(&run, 70).await;
    databases.assert_same("t").await;
    check_key(&databases.source, &run.plan).await.expect("no null");
    // Where one is there, it is said at the start.
    for (null, restored) in [
        ("(5, NULL, 0)", "b IS NULL"),
        ("(NULL, 'x', 0)", "a IS NULL"),
        ("(NULL, NULL, 0)", "a IS NULL"),
    ] {
        sql(&databases.source_url, &format!("INSERT INTO t VALUES {null}")).await;
        let error = check_key(&databases.source, &run.plan).await.unwrap_err();
        assert_eq!((error.side(), error.kind()), (Side::Source, Kind::NoKey));
        assert!(
            error
                .to_string()
                .contains("1 row of source table public.t with a null in the key (a, b)"),
            "{error}"
        );
        // It is in no range, wherever that begins and ends, and is taken for no end.
        let highest = cursor::highest_key(&databases.source, &run.plan)
            .await
            .expect("a key");
        assert_eq!(highest, Some(key(&["100", "1000"])));
        sql(&databases.source_url, &format!("DELETE FROM t WHERE {restored}")).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_null_that_appears_meanwhile_is_told_and_its_row_is_found_once_it_has_a_key() {
    let ddl = "CREATE TABLE t (a int, b int, UNIQUE (a, b))";
    let databases = Databases::new(ddl, "INSERT INTO t SELECT i, i FROM generate_series(1, 100) i").await;
    let run = databases.opened("t").await;
    sql(&databases.source_url, "UPDATE t SET b = NULL WHERE a IN (20, 30)").await;
    databases.copy_all(&run, 10).await;
    assert_eq!(databases.kept("t").await, "98 10");
    let told = check_key_again(&databases.source, &databases.target, &run.spec, &run.plan)
        .await
        .unwrap_err();
    assert!(
        told.to_string()
            .starts_with("2 rows of source table public.t with a null"),
        "{told}"
    );
    let mark = "SELECT settled::text FROM longhaul.tables";
    assert_eq!(
        value(&databases.target_url, mark).await,
        "{}",
        "all of it is to be looked at again"
    );
    // A job that is begun again meanwhile is refused, and keeps the mark.
    sql(&databases.target_url, "UPDATE longhaul.tables SET settled = NULL").await;
    let refused = looked_at(&databases, &run.spec).await.unwrap_err();
    assert_eq!(refused.kind(), Kind::NoKey);
    assert_eq!(value(&databases.target_url, mark).await, "{}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deferrable_key_serves_and_finds_no_row_on_the_target() {
    let ddl = "CREATE TABLE t (id int PRIMARY KEY DEFERRABLE INITIALLY DEFERRED, a text)";
    let databases = Databases::new(
        ddl,
        "INSERT INTO t SELECT i, i::text FROM generate_series(1, 500) i",
    )
    .await;
    let error = databases.examine_for("t", OnConflict::Skip).await.unwrap_err();
    assert_eq!((error.side(), error.kind()), (Side::Target, Kind::Unsupported));
    assert!(error.to_string().contains("is deferrable"), "{error}");
    let run = databases.opened("t").await;
    assert_eq!(run.plan.key_basis, KeyBasis::Index);
    assert!(
        !run.plan.target_key_is_unique && run.plan.warnings.is_empty(),
        "{:?}",
        run.plan.warnings
    );
    // Two rows of one key within a transaction are none that anybody else sees.
    let writer = crate::servers::client(&databases.source_url).await;
    writer
        .batch_execute("BEGIN; INSERT INTO t VALUES (250, 'twice')")
        .await
        .unwrap();
    databases.copy_all(&run, 60).await;
    writer.batch_execute("ROLLBACK").await.unwrap();
    databases.assert_same("t").await;
    // A row that is there already is found at the commit: nothing of the batch is kept.
    sql(
        &databases.source_url,
        "INSERT INTO t SELECT i, 'more' FROM generate_series(501, 510) i",
    )
    .await;
    sql(&databases.target_url, "INSERT INTO t VALUES (505, 'theirs')").await;
    let range = KeyRange {
        low: Some(key(&["500"])),
        high: key(&["510"]),
    };
    let error = databases.copy(&run, &batch(100, range)).await.unwrap_err();
    assert_eq!(error.kind(), Kind::ConflictingRow, "{}", error.chain());
    assert_eq!(
        value(&databases.target_url, "SELECT count(*) FROM t").await,
        "501"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn views_and_their_like_are_copied_along_the_key_that_is_named() {
    let target =
        "CREATE TABLE v (id int, a text); CREATE TABLE m (id int, a text); CREATE TABLE f (id int, a text)";
    let databases = Databases::new("", "").await;
    sql(&databases.target_url, target).await;
    sql(
        &databases.source_url,
        "CREATE TABLE t (id int, a text); INSERT INTO t SELECT i, i::text FROM generate_series(1, 300) i;
         CREATE VIEW v AS SELECT id, a FROM t; CREATE MATERIALIZED VIEW m AS SELECT id, a FROM t",
    )
    .await;
    let error = looked_at(&databases, &spec("v", OnConflict::Error))
        .await
        .unwrap_err();
    assert_eq!(error.kind(), Kind::NotATable);
    assert!(error.hint().contains("--key a,b"), "{}", error.hint());
    for (name, kind) in [("v", SourceKind::View), ("m", SourceKind::MaterializedView)] {
        let mut spec = along(name, "id");
        spec.job = name.to_owned();
        let run = databases.run(spec.clone()).await;
        assert_eq!(run.plan.source_kind, kind);
        assert!(matches!(
            run.plan.key_basis,
            KeyBasis::Rows { repeatable: true, .. }
        ));
        assert!(
            run.plan
                .warnings
                .iter()
                .any(|warning| warning.contains("no index")),
            "{:?}",
            run.plan.warnings
        );
        looked_at(&databases, &spec).await.expect("a key");
        databases.copy_all(&run, 40).await;
        databases.assert_same(name).await;
    }
    // What is no key is said at the start, and at the end.
    let mut spec = along("v", "id");
    spec.job = "v".to_owned();
    let run = databases.run(spec).await;
    sql(&databases.source_url, "INSERT INTO t VALUES (7, 'again')").await;
    let error = check_key(&databases.source, &run.plan).await.unwrap_err();
    assert_eq!(error.kind(), Kind::NoKey);
    assert!(
        error
            .to_string()
            .contains("two rows of source table public.v have the same key (id)"),
        "{error}"
    );
    sql(
        &databases.source_url,
        "DELETE FROM t WHERE a = 'again'; INSERT INTO t VALUES (NULL, 'none')",
    )
    .await;
    let error = check_key(&databases.source, &run.plan).await.unwrap_err();
    assert!(
        error.to_string().contains("with a null in the key (id)"),
        "{error}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_materialized_views_own_index_serves_and_a_type_without_an_order_does_not() {
    let databases = Databases::new("", "").await;
    sql(
        &databases.target_url,
        "CREATE TABLE m (id int, j json); CREATE TABLE v (id int, j json)",
    )
    .await;
    sql(
        &databases.source_url,
        "CREATE MATERIALIZED VIEW m AS SELECT i AS id, '{}'::json AS j FROM generate_series(1, 50) i;
         CREATE UNIQUE INDEX ON m (id); CREATE VIEW v AS SELECT * FROM m",
    )
    .await;
    let run = databases.opened("m").await;
    assert_eq!(names(&run.plan), ["id"]);
    assert_eq!(
        run.plan.key_basis,
        KeyBasis::Rows {
            nullable: vec!["id".to_owned()],
            repeatable: false
        }
    );
    databases.copy_all(&run, 20).await;
    let error = looked_at(&databases, &along("v", "j")).await.unwrap_err();
    assert_eq!(error.kind(), Kind::NoKey);
    assert!(
        error.to_string().contains("of a type that has no order"),
        "{error}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_foreign_table_is_copied_along_the_key_that_is_named() {
    let databases = Databases::new("", "").await;
    sql(&databases.target_url, "CREATE TABLE f (id int, a text)").await;
    let foreign = "CREATE EXTENSION file_fdw; CREATE SERVER files FOREIGN DATA WRAPPER file_fdw;
         CREATE FOREIGN TABLE f (id int, a text) SERVER files OPTIONS (program 'seq 200 | sed s/$/,x/', format 'csv')";
    sql(&databases.source_url, foreign).await;
    let run = databases.run(along("f", "id")).await;
    assert_eq!(run.plan.source_kind, SourceKind::ForeignTable);
    databases.copy_all(&run, 30).await;
    databases.assert_same("f").await;
}
