//! What cannot be copied is refused in words, before a row moves.

use crate::servers::{Databases, pair, session, sql, try_sql};
use longhaul::postgres::{Error, ExamineRequest, Kind, Side, examine};
use longhaul::table::{CopyFormat, OnConflict};

/// Examines table `t`, made by these statements on each side, and gives the error.
async fn refused(source: &str, target: &str) -> Error {
    let databases = Databases::new("", source).await;
    sql(&databases.target_url, target).await;
    databases.examine("t").await.expect_err("refused")
}

#[tokio::test(flavor = "multi_thread")]
async fn each_reason_names_the_object_and_says_what_to_do() {
    let plain = "CREATE TABLE t (id int PRIMARY KEY, a text)";
    for (source, target, side, kind, words, hint) in [
        (
            "CREATE TABLE tt (id int PRIMARY KEY)",
            plain,
            Side::Source,
            Kind::UndefinedObject,
            "table t does not exist on the source",
            "check the name",
        ),
        (
            plain,
            "SELECT",
            Side::Target,
            Kind::UndefinedObject,
            "table t does not exist on the target",
            "create it first",
        ),
        (
            "CREATE VIEW t AS SELECT 1 AS id",
            plain,
            Side::Source,
            Kind::NotATable,
            "public.t on the source is a view",
            "table",
        ),
        (
            plain,
            "CREATE MATERIALIZED VIEW t AS SELECT 1 AS id",
            Side::Target,
            Kind::NotATable,
            "a materialized view",
            "table",
        ),
        (
            "CREATE TABLE t (id int, a text)",
            plain,
            Side::Source,
            Kind::NoKey,
            "no key",
            "primary key",
        ),
        (
            "CREATE TABLE t (id int UNIQUE, a text)",
            plain,
            Side::Source,
            Kind::NoKey,
            "no key",
            "not-null",
        ),
        (
            "CREATE TABLE t (id int NOT NULL, a text); CREATE UNIQUE INDEX ON t (id) WHERE id > 5",
            plain,
            Side::Source,
            Kind::NoKey,
            "no key",
            "unique index",
        ),
        (
            "CREATE TABLE t (id int NOT NULL, a text); CREATE UNIQUE INDEX ON t ((id + 1))",
            plain,
            Side::Source,
            Kind::NoKey,
            "no key",
            "unique index",
        ),
        (
            "CREATE TABLE t (id int PRIMARY KEY DEFERRABLE, a text)",
            plain,
            Side::Source,
            Kind::NoKey,
            "no key",
            "unique index",
        ),
        (
            "CREATE TABLE t (id int NOT NULL, a text); CREATE UNIQUE INDEX ON t (id DESC)",
            plain,
            Side::Source,
            Kind::NoKey,
            "no key",
            "ascending",
        ),
        (
            "CREATE TABLE t (id int PRIMARY KEY, a text, b text)",
            plain,
            Side::Target,
            Kind::MissingColumn,
            "lacks column \"b\" (text)",
            "ADD COLUMN \"b\" text",
        ),
        (
            "CREATE TABLE t (id int PRIMARY KEY, colour text)",
            "CREATE TABLE t (id int PRIMARY KEY, color text)",
            Side::Target,
            Kind::MissingColumn,
            "\"colour\"",
            "\"color\"",
        ),
        (
            plain,
            "CREATE TABLE t (id int PRIMARY KEY, a int)",
            Side::Target,
            Kind::TypeMismatch,
            "\"a\" is text on the source (public.t) and integer on the target",
            "same type",
        ),
        (
            "CREATE TABLE t (id int PRIMARY KEY, a varchar(20))",
            "CREATE TABLE t (id int PRIMARY KEY, a varchar(10))",
            Side::Target,
            Kind::TypeMismatch,
            "character varying(10)",
            "widen",
        ),
        (
            "CREATE TABLE t (id int PRIMARY KEY, a numeric)",
            "CREATE TABLE t (id int PRIMARY KEY, a numeric(10,2))",
            Side::Target,
            Kind::TypeMismatch,
            "numeric(10,2)",
            "rounded",
        ),
        (
            plain,
            "CREATE TABLE t (id int PRIMARY KEY, a text, n int NOT NULL)",
            Side::Target,
            Kind::MissingColumn,
            "column \"n\"",
            "default",
        ),
        (
            plain,
            "CREATE TABLE t (x int, a text, id int GENERATED ALWAYS AS (x) STORED)",
            Side::Target,
            Kind::Unsupported,
            "key column \"id\" is generated",
            "ordinary",
        ),
    ] {
        let error = refused(source, target).await;
        assert_eq!(
            (error.side(), error.kind()),
            (side, kind),
            "{source} / {target}: {}",
            error.chain()
        );
        assert!(error.to_string().contains(words), "{error}");
        assert!(error.hint().contains(hint), "{}", error.hint());
        assert!(
            error.to_string().starts_with(|c: char| !c.is_uppercase()) && !error.to_string().ends_with('.')
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mistyped_name_brings_the_nearest_one() {
    let databases = Databases::new("CREATE TABLE audio_downloads (id int PRIMARY KEY); CREATE SCHEMA s; CREATE TABLE s.users (id int PRIMARY KEY)", "").await;
    for (typed, hint) in [
        ("audio_download", "did you mean audio_downloads?"),
        ("public.audio_dwonloads", "did you mean public.audio_downloads?"),
        ("users", "did you mean s.users?"),
        ("\"Users\"", "did you mean s.users?"),
    ] {
        let error = databases.examine(typed).await.unwrap_err();
        assert_eq!((error.hint(), error.side()), (hint, Side::Source), "{typed}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_fits_is_planned() {
    let databases = Databases::new("", "").await;
    sql(
        &databases.source_url,
        "CREATE TABLE t (a varchar(10), ts timestamp(3), n numeric(8,2), b bigint NOT NULL, c text NOT NULL, g int GENERATED ALWAYS AS (1) STORED, UNIQUE (c, b));
         INSERT INTO t SELECT '', now(), 1, i, i FROM generate_series(1, 1000) i; ANALYZE t",
    )
    .await;
    sql(
        &databases.target_url,
        "CREATE TABLE t (c text, g int, extra text, b bigint, a varchar(20), ts timestamp, n numeric(9,2), id bigserial NOT NULL, PRIMARY KEY (b, c))",
    )
    .await;
    let plan = databases
        .examine("t")
        .await
        .unwrap_or_else(|error| panic!("{}", error.chain()));
    assert_eq!(plan.source.to_string(), "public.t");
    assert_eq!(
        plan.key.iter().map(|key| key.name.as_str()).collect::<Vec<_>>(),
        ["c", "b"]
    );
    assert_eq!(
        plan.columns
            .iter()
            .map(|column| column.name.as_str())
            .collect::<Vec<_>>(),
        ["a", "ts", "n", "b", "c", "g"]
    );
    assert_eq!(
        (plan.format, plan.rows_estimate, plan.key_ascends),
        (CopyFormat::Binary, Some(1000), false)
    );
    assert!(
        plan.target_key_is_unique
            && plan.warnings.is_empty()
            && plan.source_identity.system_identifier.is_some()
    );
    let json = serde_json::to_string(&plan).unwrap();
    assert_eq!(
        serde_json::from_str::<longhaul::table::TablePlan>(&json).unwrap(),
        plan
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_is_not_copied_onto_itself() {
    let databases = Databases::new(
        "CREATE TABLE t (id int PRIMARY KEY); CREATE TABLE u (id int PRIMARY KEY)",
        "",
    )
    .await;
    let target = session(&databases.source_url, Side::Target).await;
    let request = |to: &str| ExamineRequest {
        source_table: "t".parse().unwrap(),
        target_table: to.parse().unwrap(),
        on_conflict: OnConflict::Error,
    };
    let error = examine(&databases.source, &target, &request("public.t"))
        .await
        .unwrap_err();
    assert!(
        error.kind() == Kind::SameTable && error.to_string().contains("same"),
        "{error}"
    );
    examine(&databases.source, &target, &request("u")).await.unwrap();
    databases
        .examine("t")
        .await
        .expect("a table of that name on another server is another table");
}

#[tokio::test(flavor = "multi_thread")]
async fn on_conflict_needs_a_unique_index_on_the_key() {
    let databases = Databases::new(
        "CREATE TABLE t (id int NOT NULL, a int)",
        "ALTER TABLE t ADD PRIMARY KEY (id)",
    )
    .await;
    sql(&databases.target_url, "CREATE UNIQUE INDEX ON t (id, a)").await;
    databases.examine("t").await.unwrap();
    let error = databases.examine_for("t", OnConflict::Skip).await.unwrap_err();
    assert!(
        error.kind() == Kind::Unsupported && error.to_string().contains("unique index"),
        "{error}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn missing_rights_are_named() {
    let databases = Databases::new(
        "CREATE SCHEMA s; CREATE TABLE s.t (id int PRIMARY KEY); CREATE TABLE s.r (id int PRIMARY KEY)",
        "",
    )
    .await;
    for url in [&databases.source_url, &databases.target_url] {
        _ = try_sql(url, "CREATE ROLE limited LOGIN").await;
    }
    let (source_url, target_url) = (&databases.source_url, &databases.target_url);
    let limited = |url: &str| url.replace("postgres@", "limited@");
    let source = session(&limited(source_url), Side::Source).await;
    let target = session(&limited(target_url), Side::Target).await;
    let ask = async |table: &str, on_conflict| {
        let table: longhaul::table::TableName = table.parse().unwrap();
        let request = ExamineRequest {
            source_table: table.clone(),
            target_table: table,
            on_conflict,
        };
        examine(&source, &target, &request).await
    };
    let steps = [
        (
            source_url,
            "SELECT",
            "permission denied for schema s",
            Side::Source,
        ),
        (
            source_url,
            "GRANT USAGE ON SCHEMA s TO limited",
            "permission denied for schema s",
            Side::Target,
        ),
        (
            target_url,
            "GRANT USAGE ON SCHEMA s TO limited",
            "the source's user lacks SELECT on table s.t",
            Side::Source,
        ),
        (
            source_url,
            "GRANT SELECT ON s.t TO limited",
            "the target's user lacks SELECT on table s.t",
            Side::Target,
        ),
        (
            target_url,
            "GRANT SELECT ON s.t TO limited",
            "the target's user lacks INSERT on table s.t",
            Side::Target,
        ),
        (
            target_url,
            "GRANT INSERT ON s.t TO limited",
            "the target's user lacks UPDATE on table s.t",
            Side::Target,
        ),
    ];
    for (url, grant, words, side) in steps {
        sql(url, grant).await;
        let error = ask("s.t", OnConflict::Update).await.unwrap_err();
        assert_eq!(
            (error.kind(), error.side()),
            (Kind::Privilege, side),
            "{}",
            error.chain()
        );
        assert!(error.chain().contains(words), "{}", error.chain());
    }
    ask("s.t", OnConflict::Error).await.unwrap();
    let hide = "GRANT SELECT, INSERT ON s.r TO limited; ALTER TABLE s.r ENABLE ROW LEVEL SECURITY; CREATE POLICY p ON s.r USING (id > 5)";
    sql(source_url, hide).await;
    sql(target_url, "GRANT SELECT, INSERT ON s.r TO limited").await;
    let error = ask("s.r", OnConflict::Error).await.unwrap_err();
    assert!(
        error.kind() == Kind::Privilege && error.to_string().contains("row security on source table s.r"),
        "{error}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_operator_should_know_is_a_warning() {
    let databases = Databases::new("", "CREATE TABLE t (id int PRIMARY KEY)").await;
    sql(
        &databases.target_url,
        "CREATE UNLOGGED TABLE t (id int PRIMARY KEY); CREATE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN new; END';
         CREATE TRIGGER g AFTER INSERT ON t FOR EACH ROW EXECUTE FUNCTION f()",
    )
    .await;
    let plan = databases.examine("t").await.unwrap();
    assert_eq!(plan.warnings.len(), 2, "{:?}", plan.warnings);
    assert!(pair().0.port() > 0);
}
