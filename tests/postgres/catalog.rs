//! What cannot be copied is refused in words, before a row moves.

use crate::servers::{Databases, session, sql, try_sql, value};
use longhaul::postgres::{Error, Kind, Result, ServerOptions, Side, ThrowawayServer, examine};
use longhaul::table::{CopyFormat, Growth, OnConflict, Plan, Shape, TableSpec};

fn spec(source: &str, target: &str, on_conflict: OnConflict) -> TableSpec {
    TableSpec {
        job: "j".to_owned(),
        source_table: source.parse().unwrap(),
        target_table: target.parse().unwrap(),
        on_conflict,
        fire_triggers: false,
        ledger_owner: None,
        shape: Shape::default(),
        key: Default::default(),
    }
}

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
            "--key a,b",
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
            "column \"id\" is generated on target table public.t, and not on the source",
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
        (plan.format, plan.rows_estimate, plan.target_fires_triggers),
        (CopyFormat::Binary, Some(1000), false)
    );
    assert!(
        plan.target_key_is_unique
            && plan.warnings.is_empty()
            && plan.source_identity.system_identifier.is_some()
    );
    let json = serde_json::to_string(&plan).unwrap();
    assert_eq!(serde_json::from_str::<Plan>(&json).unwrap(), plan);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_is_not_copied_onto_itself() {
    let databases = Databases::new(
        "CREATE TABLE t (id int PRIMARY KEY); CREATE TABLE u (id int PRIMARY KEY)",
        "",
    )
    .await;
    let target = session(&databases.source_url, Side::Target).await;
    let error = examine(
        &databases.source,
        &target,
        &spec("t", "public.t", OnConflict::Error),
    )
    .await
    .unwrap_err();
    assert!(
        error.kind() == Kind::SameTable && error.to_string().contains("same"),
        "{error}"
    );
    examine(&databases.source, &target, &spec("t", "u", OnConflict::Error))
        .await
        .unwrap();
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
    let ask =
        async |table: &str, on_conflict| examine(&source, &target, &spec(table, table, on_conflict)).await;
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
            "the target's user lacks SELECT, INSERT, UPDATE on table s.t",
            Side::Target,
        ),
        (
            target_url,
            "GRANT SELECT ON s.t TO limited",
            "the target's user lacks INSERT, UPDATE on table s.t",
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
    let databases = Databases::new(
        "",
        "CREATE TABLE t (id int PRIMARY KEY); CREATE TABLE u () INHERITS (t)",
    )
    .await;
    sql(&databases.target_url, "CREATE UNLOGGED TABLE t (id int)").await;
    let plan = databases.examine("t").await.unwrap();
    for (warning, words) in plan.warnings.iter().zip([
        "is unlogged: a crash of the target empties it; the job then stops and says so",
        "other tables inherit from source table public.t",
        "no unique index on the key",
    ]) {
        assert!(warning.contains(words), "{warning}");
    }
    assert_eq!(plan.warnings.len(), 3, "{:?}", plan.warnings);
}

/// Two tables `t` that have one more column, each of a type of its side.
async fn of_types(source: &str, target: &str, column: &str) -> (Databases, Result<Plan>) {
    let databases = Databases::new("CREATE SCHEMA k", "").await;
    for (url, types) in [(&databases.source_url, source), (&databases.target_url, target)] {
        sql(
            url,
            &format!("{types}; CREATE TABLE t (id int PRIMARY KEY, v {column})"),
        )
        .await;
    }
    let plan = databases.examine("t").await;
    (databases, plan)
}

#[tokio::test(flavor = "multi_thread")]
async fn types_that_share_a_name_and_no_structure_are_refused_in_words() {
    for (source, target, words) in [
        (
            "CREATE DOMAIN k.d AS numeric(10,4)",
            "CREATE DOMAIN k.d AS numeric(10,2)",
            ["domain over numeric(10,4)", "domain over numeric(10,2)"],
        ),
        (
            "CREATE TYPE k.d AS (first text, last text)",
            "CREATE TYPE k.d AS (last text, first text)",
            [
                "composite (first text, last text)",
                "composite (last text, first text)",
            ],
        ),
        (
            "CREATE TYPE k.d AS ENUM ('a', 'b')",
            "CREATE TYPE k.d AS ENUM ('b')",
            ["enum (a, b)", "enum label 'a' is missing on the target"],
        ),
        (
            "CREATE TYPE k.d AS RANGE (subtype = float8)",
            "CREATE TYPE k.d AS RANGE (subtype = float4)",
            ["range over double precision", "range over real"],
        ),
        (
            "CREATE DOMAIN k.d AS float8",
            "CREATE DOMAIN k.d AS float4",
            ["domain over double precision", "domain over real"],
        ),
        (
            "CREATE TYPE k.c AS (n numeric(10,4)); CREATE DOMAIN k.d AS k.c[]",
            "CREATE TYPE k.c AS (n numeric(9,4)); CREATE DOMAIN k.d AS k.c[]",
            [
                "array of composite (n numeric(10,4))",
                "array of composite (n numeric(9,4))",
            ],
        ),
    ] {
        for column in ["k.d", "k.d[]"] {
            let error = of_types(source, target, column).await.1.expect_err(source);
            let text = error.to_string();
            assert_eq!(
                (error.kind(), error.side()),
                (Kind::TypeMismatch, Side::Target),
                "{text}"
            );
            assert!(text.contains("column \"v\""), "{text}");
            assert!(words.iter().all(|words| text.contains(words)), "{text}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn types_that_take_every_value_are_copied_whatever_their_names() {
    for (source, target, column) in [
        (
            "CREATE DOMAIN k.d AS numeric(10,2)",
            "CREATE DOMAIN k.d AS numeric(12,2)",
            "k.d",
        ),
        (
            "CREATE DOMAIN k.d AS varchar(5)",
            "CREATE DOMAIN k.d AS varchar",
            "k.d[]",
        ),
        (
            "CREATE TYPE k.d AS ENUM ('a')",
            "CREATE TYPE k.d AS ENUM ('b', 'a')",
            "k.d",
        ),
        (
            "CREATE TYPE k.e AS (a varchar(5), b int[]); CREATE TYPE k.d AS (e k.e)",
            "CREATE TYPE k.f AS (a varchar(6), b int[]); CREATE TYPE k.d AS (e k.f)",
            "k.d",
        ),
        (
            "CREATE TYPE k.d AS RANGE (subtype = text, collation = \"C\")",
            "CREATE TYPE k.d AS RANGE (subtype = text, collation = \"C\")",
            "k.d",
        ),
    ] {
        let plan = of_types(source, target, column).await.1;
        let plan = plan.unwrap_or_else(|error| panic!("{source} / {target}: {}", error.chain()));
        assert_eq!(plan.format, CopyFormat::Text);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_structure_stays_when_what_was_copied_stays_right() {
    let types = "CREATE DOMAIN k.d AS numeric(10,2); CREATE TYPE k.e AS ENUM ('a'); CREATE TYPE k.c AS (d k.d, e k.e[])";
    let (databases, plan) = of_types(types, types, "k.c").await;
    let plan = plan.unwrap();
    assert_eq!(
        plan.columns[1].structure,
        "(\"d\" domain(numeric(*,2)), \"e\" enum[])"
    );
    for url in [&databases.source_url, &databases.target_url] {
        sql(url, "ALTER TYPE k.e ADD VALUE 'b'").await;
    }
    let grown = databases.examine("t").await.unwrap();
    assert_ne!(grown.digest, plan.digest);
    assert_eq!(grown.differences_from(&plan), Vec::<String>::new());
    for url in [&databases.source_url, &databases.target_url] {
        sql(url, "ALTER TYPE k.c ADD ATTRIBUTE f text").await;
    }
    let another = databases.examine("t").await.unwrap();
    assert_eq!(
        another.differences_from(&plan),
        ["column \"v\" was k.c and is k.c"]
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_only_the_target_generates_would_be_lost() {
    let generated = |expression: &str| {
        format!("CREATE TABLE t (id int PRIMARY KEY, g int GENERATED ALWAYS AS ({expression}) STORED)")
    };
    let plain = "CREATE TABLE t (id int PRIMARY KEY, g int)";
    let error = refused(plain, &generated("id * 2")).await;
    assert_eq!(error.kind(), Kind::Unsupported);
    assert!(
        error.to_string().contains("its values would be dropped"),
        "{error}"
    );
    let hint = "make it an ordinary column on the target: ";
    assert!(error.hint().starts_with(hint), "{}", error.hint());
    let error = refused(&generated("id * 2"), &generated("id * 3")).await;
    assert_eq!(error.kind(), Kind::Unsupported);
    assert!(
        error.to_string().contains("(id * 2)") && error.to_string().contains("(id * 3)"),
        "{error}"
    );
    for (target, copied) in [(generated("id * 2"), 1), (plain.to_owned(), 2)] {
        let databases = Databases::new("", &generated("id * 2")).await;
        sql(&databases.target_url, &target).await;
        assert_eq!(databases.examine("t").await.unwrap().columns.len(), copied);
    }
}

const ODD: &str = "CREATE FUNCTION odd() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN new; END'";

#[tokio::test(flavor = "multi_thread")]
async fn triggers_that_would_fire_are_refused_unless_they_are_asked_for() {
    let plain = "CREATE TABLE t (id int PRIMARY KEY, v int)";
    let parted = "CREATE TABLE t (id int PRIMARY KEY, v int) PARTITION BY RANGE (id);
                  CREATE TABLE p PARTITION OF t FOR VALUES FROM (0) TO (1000)";
    let (append, update) = (OnConflict::Error, OnConflict::Update);
    for (table, trigger, on_conflict, names) in [
        (
            plain,
            "CREATE TRIGGER odd BEFORE INSERT ON t FOR EACH ROW EXECUTE FUNCTION odd()",
            append,
            Some("odd"),
        ),
        (
            plain,
            "CREATE TRIGGER odd AFTER INSERT ON t EXECUTE FUNCTION odd()",
            append,
            Some("odd"),
        ),
        (
            parted,
            "CREATE TRIGGER odd AFTER INSERT ON t FOR EACH ROW EXECUTE FUNCTION odd()",
            append,
            Some("odd"),
        ),
        (
            parted,
            "CREATE TRIGGER odd AFTER INSERT ON p FOR EACH ROW EXECUTE FUNCTION odd()",
            append,
            Some("odd of public.p"),
        ),
        (
            parted,
            "CREATE TRIGGER odd AFTER INSERT ON t FOR EACH ROW EXECUTE FUNCTION odd();
             ALTER TABLE ONLY t DISABLE TRIGGER odd; ALTER TABLE p ENABLE TRIGGER odd",
            append,
            Some("odd of public.p"),
        ),
        (
            plain,
            "CREATE TRIGGER odd AFTER UPDATE OF v ON t EXECUTE FUNCTION odd()",
            update,
            Some("odd"),
        ),
        (
            plain,
            "CREATE CONSTRAINT TRIGGER odd AFTER INSERT ON t FOR EACH ROW EXECUTE FUNCTION odd()",
            append,
            Some("odd"),
        ),
        // None of these fires for what is written.
        (
            plain,
            "CREATE TRIGGER odd AFTER UPDATE ON t EXECUTE FUNCTION odd()",
            append,
            None,
        ),
        (
            plain,
            "CREATE TRIGGER odd AFTER DELETE ON t EXECUTE FUNCTION odd()",
            update,
            None,
        ),
        (
            plain,
            "CREATE TRIGGER odd AFTER INSERT ON t EXECUTE FUNCTION odd(); ALTER TABLE t DISABLE TRIGGER odd",
            append,
            None,
        ),
        (
            parted,
            "CREATE TRIGGER odd AFTER INSERT ON p EXECUTE FUNCTION odd()",
            append,
            None,
        ),
        (
            plain,
            "ALTER TABLE t ADD FOREIGN KEY (v) REFERENCES t, ADD UNIQUE (v) DEFERRABLE",
            update,
            None,
        ),
    ] {
        let databases = Databases::new("", plain).await;
        sql(&databases.target_url, &format!("{ODD}; {table}; {trigger}")).await;
        let examined = databases.examine_for("t", on_conflict).await;
        let Some(names) = names else {
            let plan = examined.unwrap_or_else(|error| panic!("{trigger}: {}", error.chain()));
            assert!(
                !plan.target_fires_triggers && plan.warnings.is_empty(),
                "{:?}",
                plan.warnings
            );
            continue;
        };
        let error = examined.expect_err(trigger);
        assert_eq!(error.kind(), Kind::Unsupported);
        assert!(
            error.to_string().ends_with(&format!("drop or add rows: {names}")),
            "{error}"
        );
        assert!(
            error.hint().contains("DISABLE TRIGGER \"odd\"") && error.hint().contains("--fire-triggers"),
            "{}",
            error.hint()
        );
        let allowed = TableSpec {
            fire_triggers: true,
            ..spec("t", "t", on_conflict)
        };
        let plan = examine(&databases.source, &databases.target, &allowed)
            .await
            .unwrap();
        assert!(
            plan.target_fires_triggers && plan.warnings[0].contains(names),
            "{:?}",
            plan.warnings
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn rules_are_passed_by_or_refused() {
    let databases = Databases::new(
        "CREATE TABLE t (id int PRIMARY KEY, v int); CREATE TABLE u (LIKE t INCLUDING ALL)",
        "",
    )
    .await;
    sql(
        &databases.target_url,
        "CREATE RULE away AS ON INSERT TO t DO INSTEAD NOTHING",
    )
    .await;
    let plan = databases.examine("t").await.unwrap();
    assert!(
        plan.warnings[0].contains("rules for INSERT, which COPY passes by: away"),
        "{:?}",
        plan.warnings
    );
    for on_conflict in [OnConflict::Skip, OnConflict::Update] {
        let error = databases.examine_for("t", on_conflict).await.unwrap_err();
        assert!(
            error.kind() == Kind::Unsupported && error.to_string().contains("away"),
            "{error}"
        );
        assert!(error.hint().contains("DISABLE RULE \"away\""), "{}", error.hint());
    }
    sql(&databases.target_url, "ALTER TABLE t DISABLE RULE away").await;
    databases.examine_for("t", OnConflict::Skip).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_identity_that_no_update_can_write_is_refused_beforehand() {
    let databases = Databases::new(
        "CREATE TABLE t (id int PRIMARY KEY, n int GENERATED ALWAYS AS IDENTITY)",
        "",
    )
    .await;
    databases.examine_for("t", OnConflict::Skip).await.unwrap();
    let error = databases.examine_for("t", OnConflict::Update).await.unwrap_err();
    assert!(
        error.kind() == Kind::Unsupported && error.to_string().contains("column \"n\""),
        "{error}"
    );
    let hint = "ALTER TABLE \"public\".\"t\" ALTER COLUMN \"n\" SET GENERATED BY DEFAULT";
    assert_eq!(error.hint(), hint);
    sql(&databases.target_url, hint).await;
    databases.examine_for("t", OnConflict::Update).await.unwrap();
    let databases = Databases::new(
        "CREATE TABLE t (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, n int)",
        "",
    )
    .await;
    databases
        .examine_for("t", OnConflict::Update)
        .await
        .expect("an exact key stays as it is");
}

#[tokio::test(flavor = "multi_thread")]
async fn only_keys_that_the_source_counts_or_stamps_are_known_to_grow() {
    let filled = "nothing on the source fills it with growing values";
    for (table, why) in [
        ("CREATE TABLE t (id bigserial PRIMARY KEY)", ""),
        (
            "CREATE TABLE t (id int GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY)",
            "",
        ),
        (
            "CREATE SEQUENCE s INCREMENT 5; CREATE TABLE t (id numeric DEFAULT nextval('s') PRIMARY KEY)",
            "",
        ),
        (
            "CREATE DOMAIN d AS bigint; CREATE SEQUENCE s; CREATE TABLE t (id d DEFAULT nextval('s') PRIMARY KEY)",
            "",
        ),
        ("CREATE TABLE t (id timestamptz DEFAULT now() PRIMARY KEY)", ""),
        (
            "CREATE TABLE t (id timestamptz DEFAULT current_timestamp PRIMARY KEY)",
            "",
        ),
        (
            "CREATE TABLE t (id timestamptz(3) DEFAULT clock_timestamp() PRIMARY KEY)",
            "",
        ),
        (
            "CREATE TABLE t (id timestamp DEFAULT localtimestamp PRIMARY KEY)",
            "it has no time zone",
        ),
        (
            "CREATE TABLE t (a int, id bigserial, PRIMARY KEY (a, id))",
            "it has 2 columns",
        ),
        ("CREATE TABLE t (id bigint PRIMARY KEY)", filled),
        (
            "CREATE TABLE t (id uuid DEFAULT md5(random()::text)::uuid PRIMARY KEY)",
            filled,
        ),
        (
            "CREATE SEQUENCE s; CREATE TABLE t (id bigint DEFAULT -nextval('s') PRIMARY KEY)",
            filled,
        ),
        (
            "CREATE SEQUENCE s; CREATE TABLE t (id bigint DEFAULT nextval('s'::text) PRIMARY KEY)",
            filled,
        ),
        (
            "CREATE TABLE t (id timestamptz DEFAULT now() - interval '1 day' PRIMARY KEY)",
            filled,
        ),
        (
            "CREATE TABLE t (id int GENERATED ALWAYS AS IDENTITY (CACHE 20) PRIMARY KEY)",
            "hands out 20 values at a time (CACHE 20)",
        ),
        (
            "CREATE TABLE t (id int GENERATED ALWAYS AS IDENTITY (CYCLE) PRIMARY KEY)",
            "CYCLE",
        ),
        (
            "CREATE SEQUENCE s INCREMENT -1; CREATE TABLE t (id bigint DEFAULT nextval('s') PRIMARY KEY)",
            "INCREMENT -1",
        ),
    ] {
        let databases = Databases::new("", table).await;
        sql(&databases.target_url, table).await;
        let plan = databases
            .examine("t")
            .await
            .unwrap_or_else(|error| panic!("{table}: {}", error.chain()));
        match plan.growth {
            Growth::Grows => assert_eq!(why, "", "{table}"),
            Growth::Unknown(words) => assert!(!why.is_empty() && words.contains(why), "{table}: {words}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_is_exact_where_equal_values_have_one_spelling() {
    let types =
        "CREATE DOMAIN whole AS bigint; CREATE DOMAIN part AS numeric; CREATE TYPE mood AS ENUM ('a');
        CREATE COLLATION loose (provider = icu, locale = 'und-u-ks-level2', deterministic = false)";
    for (key, is_exact) in [
        ("smallint", true),
        ("bigint", true),
        ("uuid", true),
        ("date", true),
        ("timestamptz", true),
        ("timestamp(3)", true),
        ("boolean", true),
        ("bytea", true),
        ("inet", true),
        ("text", true),
        ("varchar(20)", true),
        ("text COLLATE \"C\"", true),
        ("name", true),
        ("whole", true),
        ("numeric", false),
        ("float8", false),
        ("char(20)", false),
        ("interval", false),
        ("text COLLATE loose", false),
        ("part", false),
        ("mood", false),
        ("int[]", false),
    ] {
        let databases = Databases::new(&format!("{types}; CREATE TABLE t (id {key} PRIMARY KEY)"), "").await;
        assert_eq!(
            databases.examine("t").await.unwrap().key[0].is_exact,
            is_exact,
            "{key}"
        );
    }
    let databases = Databases::new(types, "CREATE TABLE t (id text PRIMARY KEY)").await;
    sql(
        &databases.target_url,
        "CREATE TABLE t (id text COLLATE loose PRIMARY KEY)",
    )
    .await;
    assert!(
        !databases.examine("t").await.unwrap().key[0].is_exact,
        "the target has its say"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn both_sides_order_bytes_alike_and_nothing_else_that_is_collated() {
    let types = "CREATE TYPE up AS ENUM ('a', 'b'); CREATE COLLATION tongue (provider = icu, locale = 'und');
        CREATE COLLATION plain (provider = libc, locale = 'POSIX')";
    for (source, target, is_same) in [
        ("bigint", "bigint", true),
        ("name", "name", true),
        ("up", "up", true),
        ("mood", "mood", false),
        ("text COLLATE \"C\"", "text COLLATE \"C\"", true),
        ("text COLLATE \"C\"", "text COLLATE ucs_basic", true),
        ("varchar(5) COLLATE plain", "varchar(6) COLLATE \"POSIX\"", true),
        ("text[] COLLATE \"C\"", "text[] COLLATE \"C\"", true),
        ("text COLLATE \"C\"", "text COLLATE tongue", false),
        ("text COLLATE tongue", "text COLLATE tongue", false),
    ] {
        let databases = Databases::new(types, "CREATE TYPE mood AS ENUM ('a', 'b')").await;
        sql(&databases.target_url, "CREATE TYPE mood AS ENUM ('b', 'a')").await;
        for (url, column) in [(&databases.source_url, source), (&databases.target_url, target)] {
            sql(url, &format!("CREATE TABLE t (id {column} PRIMARY KEY)")).await;
        }
        let plan = databases
            .examine("t")
            .await
            .unwrap_or_else(|error| panic!("{source}: {}", error.chain()));
        assert_eq!(plan.same_order, is_same, "{source} / {target}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_digest_changes_with_all_that_a_plan_was_made_from() {
    let ddl = "CREATE TYPE mood AS ENUM ('a'); CREATE TYPE inner_type AS (m mood[]); CREATE TYPE pair AS (i inner_type, n int);
        CREATE DOMAIN pairs AS pair[];
        CREATE TABLE t (id int NOT NULL, v varchar(5), p pairs, n int, d int DEFAULT 1, PRIMARY KEY (id)) PARTITION BY RANGE (id);
        CREATE TABLE p1 PARTITION OF t FOR VALUES FROM (0) TO (1000);
        CREATE TABLE p2 (LIKE t); CREATE SEQUENCE s OWNED BY t.d; ALTER TABLE t ALTER d SET DEFAULT nextval('s');
        CREATE TABLE other (id int PRIMARY KEY)";
    let databases = Databases::new(&format!("{ODD}; {ddl}"), "INSERT INTO t VALUES (1, 'a', NULL, 1)").await;
    let mut last = databases.examine("t").await.unwrap();
    for (statement, changes, rewrites) in [
        ("ANALYZE t", false, false),
        ("INSERT INTO t VALUES (2, 'a', NULL, 1)", false, false),
        ("VACUUM t", false, false),
        ("CREATE INDEX ON t (v)", false, false),
        ("CREATE INDEX ON p1 (n)", false, false),
        ("ALTER TABLE other ADD COLUMN x int", false, false),
        ("ALTER SEQUENCE s RESTART WITH 5", false, false),
        ("ALTER TABLE t ADD COLUMN x int", true, false),
        ("ALTER TABLE t ALTER COLUMN v TYPE varchar(9)", true, false),
        ("ALTER TABLE t ALTER COLUMN n TYPE bigint", true, true),
        ("ALTER TABLE t ALTER COLUMN n SET NOT NULL", true, false),
        ("ALTER TABLE t ALTER COLUMN x SET DEFAULT 5", true, false),
        ("ALTER SEQUENCE s CACHE 20", true, false),
        ("ALTER TYPE mood ADD VALUE 'b'", true, false),
        ("ALTER TYPE inner_type ADD ATTRIBUTE o text", true, false),
        ("CREATE UNIQUE INDEX ON t (n, id)", true, false),
        ("TRUNCATE t", true, true),
        ("VACUUM FULL p1", true, true),
        (
            "CREATE TRIGGER odd AFTER UPDATE ON t EXECUTE FUNCTION odd()",
            true,
            false,
        ),
        (
            "CREATE TRIGGER odd AFTER DELETE ON p1 EXECUTE FUNCTION odd()",
            true,
            false,
        ),
        ("ALTER TABLE p1 DISABLE TRIGGER odd", true, false),
        (
            "CREATE RULE away AS ON DELETE TO t DO INSTEAD NOTHING",
            true,
            false,
        ),
        (
            "ALTER TABLE p2 ALTER n TYPE bigint, ALTER n SET NOT NULL, ALTER v TYPE varchar(9), ADD x int",
            false,
            false,
        ),
        (
            "ALTER TABLE t ATTACH PARTITION p2 FOR VALUES FROM (1000) TO (2000)",
            true,
            true,
        ),
        ("ALTER TABLE t DETACH PARTITION p1", true, true),
        ("ALTER TABLE t ENABLE ROW LEVEL SECURITY", true, false),
    ] {
        for url in [&databases.source_url, &databases.target_url] {
            sql(url, statement).await;
        }
        let plan = databases
            .examine("t")
            .await
            .unwrap_or_else(|error| panic!("{statement}: {}", error.chain()));
        assert_eq!(plan.digest.source != last.digest.source, changes, "{statement}");
        assert_eq!(plan.digest.target != last.digest.target, changes, "{statement}");
        assert_eq!(plan.source_files != last.source_files, rewrites, "{statement}");
        assert_eq!(plan.target_files != last.target_files, rewrites, "{statement}");
        last = plan;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_without_a_schema_is_looked_for_where_its_user_would() {
    let databases = Databases::new("CREATE SCHEMA a; CREATE TABLE a.t (id int PRIMARY KEY)", "").await;
    for url in [&databases.source_url, &databases.target_url] {
        let name = url.rsplit('/').next().unwrap();
        sql(url, &format!("ALTER DATABASE {name} SET search_path = a")).await;
    }
    let source = session(&databases.source_url, Side::Source).await;
    let target = session(&databases.target_url, Side::Target).await;
    let plan = examine(&source, &target, &spec("t", "t", OnConflict::Error))
        .await
        .unwrap();
    assert_eq!(
        (plan.source.to_string(), plan.target.to_string()),
        ("a.t".to_owned(), "a.t".to_owned())
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_column_that_is_not_null_from_now_on_may_be_null_in_a_key() {
    let databases = Databases::new("", "CREATE TABLE t (id int UNIQUE); INSERT INTO t VALUES (NULL)").await;
    sql(&databases.target_url, "CREATE TABLE t (id int PRIMARY KEY)").await;
    if databases.source.server_version() >= 180_000 {
        sql(&databases.source_url, "ALTER TABLE t ADD NOT NULL id NOT VALID").await;
    } else {
        eprintln!(
            "NOT NULL .. NOT VALID came with version 18: here the column is only not said to be not null"
        );
    }
    let plan = databases.examine("t").await.unwrap();
    assert_eq!(plan.key_basis.nullable(), ["id"]);
    sql(
        &databases.source_url,
        "DELETE FROM t; ALTER TABLE t ALTER id SET NOT NULL",
    )
    .await;
    if databases.source.server_version() >= 180_000 {
        sql(
            &databases.source_url,
            "ALTER TABLE t VALIDATE CONSTRAINT t_id_not_null",
        )
        .await;
    }
    assert!(databases.examine("t").await.unwrap().key_basis.is_index());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unlogged_target_is_in_other_files_after_a_crash_of_one_process() {
    let databases = Databases::new("", "CREATE TABLE t (id int PRIMARY KEY)").await;
    let server = tokio::task::spawn_blocking(|| {
        ThrowawayServer::start(&ServerOptions {
            fsync: false,
            ..ServerOptions::default()
        })
        .unwrap()
    });
    let server = server.await.unwrap();
    let url = server.url("postgres");
    sql(
        &url,
        "CREATE UNLOGGED TABLE t (id int PRIMARY KEY); CREATE TABLE u (LIKE t INCLUDING ALL)",
    )
    .await;
    let look = async |table: &str| {
        let target = session(&url, Side::Target).await;
        let plan = examine(&databases.source, &target, &spec("t", table, OnConflict::Error))
            .await
            .unwrap();
        (plan.target_files, plan.digest.target)
    };
    let (unlogged, logged) = (look("t").await, look("u").await);
    assert_eq!(look("t").await, unlogged);
    let victim = session(&url, Side::Target).await;
    let pid = value(
        &url,
        "SELECT pid FROM pg_stat_activity WHERE application_name = 'longhaul test' ORDER BY backend_start DESC LIMIT 1",
    )
    .await;
    let pid = rustix::process::Pid::from_raw(pid.parse().unwrap()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
    // The server ends every session, and takes none until it has recovered.
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(60);
    while !victim.is_closed() || try_connect(&url).await.is_err() {
        assert!(std::time::Instant::now() < deadline, "the server recovers");
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    let (unlogged_then, logged_then) = (look("t").await, look("u").await);
    assert!(unlogged_then.0 != unlogged.0 && unlogged_then.1 != unlogged.1);
    assert_eq!(logged_then, logged);
}

async fn try_connect(url: &str) -> Result<()> {
    let connected = longhaul::postgres::connect(&url.parse().unwrap(), Side::Target, "longhaul test").await;
    connected.map(drop)
}
