//! Tables that are not the same on both sides: what fits is copied and verified, what the operator said is what is read, and
//! what would lose something is refused with what it would lose.

use crate::servers::{Databases, Run, another_look, batch, key, range, spec, sql, value};
use longhaul::postgres::{Kind, Side, Unmetered, cursor, examine, verify};
use longhaul::table::{CopyFormat, KeyRange, OnConflict, Shape, TableSpec};

/// Two databases, each with its own tables; rows are the source's.
async fn databases(source: &str, target: &str) -> Databases {
    let databases = Databases::new("", source).await;
    sql(&databases.target_url, target).await;
    databases
}

fn shape(columns: &str, filter: &str, renames: &str, selections: &str) -> Shape {
    Shape {
        columns: (!columns.is_empty()).then(|| columns.parse().unwrap()),
        filter: (!filter.is_empty()).then(|| filter.parse().unwrap()),
        renames: match renames {
            "" => Default::default(),
            renames => renames.parse().unwrap(),
        },
        selections: match selections {
            "" => Default::default(),
            selections => selections.parse().unwrap(),
        },
    }
}

fn shaped(table: &str, shape: Shape) -> TableSpec {
    TableSpec {
        shape,
        ..spec(table, OnConflict::Error)
    }
}

/// Copies a table in batches of three rows, and holds the target against receipts and source.
async fn copied(databases: &Databases, spec: TableSpec) -> Run {
    let run = databases.run(spec).await;
    databases.copy_all(&run, 3).await;
    assert_eq!(differences(databases, &run).await, (0, 0));
    run
}

/// How many differences receipts tell of, and the source.
async fn differences(databases: &Databases, run: &Run) -> (u64, u64) {
    let plan = &run.plan;
    let high = cursor::highest_key(&databases.source, plan)
        .await
        .unwrap()
        .unwrap();
    let whole = KeyRange { low: None, high };
    let receipts = verify::against_receipts(&databases.target, plan, &run.spec, &whole, &Unmetered).await;
    let sides = databases.sides(plan);
    let source = match plan.same_order {
        true => verify::against_source(sides, &whole, true).await,
        false => verify::by_keys(sides, &whole, true).await,
    };
    let count = |found: longhaul::postgres::Result<longhaul::table::Findings>| {
        found
            .unwrap_or_else(|error| panic!("{}", error.chain()))
            .differences()
    };
    (count(receipts), count(source))
}

/// What a query gives on both sides must be the same, and something.
async fn same(databases: &Databases, query: &str) {
    let query = format!("SET timezone = 'UTC'; SELECT string_agg(r::text, ' ' ORDER BY r) FROM ({query}) r");
    let here = value(&databases.source_url, &query).await;
    assert_eq!(here, value(&databases.target_url, &query).await, "{query}");
    assert!(!here.is_empty(), "{query}");
}

#[tokio::test(flavor = "multi_thread")]
async fn shapes_that_only_look_different_are_copied() {
    for (source, target, query) in [
        (
            "CREATE TABLE t (gone int, id int PRIMARY KEY, a text, b text); ALTER TABLE t DROP COLUMN gone;
             INSERT INTO t SELECT i, 'a' || i, 'b' || i FROM generate_series(1, 10) i",
            "CREATE TABLE t (b text, x int, a text, id int PRIMARY KEY); ALTER TABLE t DROP COLUMN x",
            "SELECT id, a, b FROM t",
        ),
        (
            "CREATE TABLE t (id int PRIMARY KEY); INSERT INTO t SELECT generate_series(1, 10)",
            "CREATE TABLE t (extra text, id int PRIMARY KEY, seen timestamptz NOT NULL DEFAULT now(), n bigserial)",
            "SELECT id FROM t",
        ),
        (
            "CREATE TABLE t (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, g int GENERATED ALWAYS AS (id * 2) STORED, h int
                 GENERATED ALWAYS AS (id + 1) STORED);
             INSERT INTO t OVERRIDING SYSTEM VALUE SELECT i * 7 FROM generate_series(1, 10) i",
            "CREATE TABLE t (h int, id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, g int GENERATED ALWAYS AS (id * 2) STORED)",
            "SELECT id, g, h FROM t",
        ),
        (
            "CREATE TABLE t (id int PRIMARY KEY, a int) PARTITION BY RANGE (id);
             CREATE TABLE t1 PARTITION OF t FOR VALUES FROM (0) TO (4); CREATE TABLE t2 PARTITION OF t DEFAULT;
             INSERT INTO t SELECT i, -i FROM generate_series(1, 10) i",
            "CREATE TABLE t (a int, id int PRIMARY KEY) PARTITION BY RANGE (id);
             CREATE TABLE u1 PARTITION OF t FOR VALUES FROM (0) TO (7) PARTITION BY RANGE (id);
             CREATE TABLE u11 PARTITION OF u1 FOR VALUES FROM (0) TO (2); CREATE TABLE u12 PARTITION OF u1 DEFAULT;
             CREATE TABLE u2 PARTITION OF t FOR VALUES FROM (7) TO (100)",
            "SELECT id, a FROM t",
        ),
        (
            "CREATE TABLE t (id int PRIMARY KEY, a int); INSERT INTO t SELECT i, -i FROM generate_series(1, 10) i",
            "CREATE TABLE t (id int PRIMARY KEY, a int) PARTITION BY HASH (id);
             CREATE TABLE t1 PARTITION OF t FOR VALUES WITH (MODULUS 2, REMAINDER 0);
             CREATE TABLE t2 PARTITION OF t FOR VALUES WITH (MODULUS 2, REMAINDER 1)",
            "SELECT id, a FROM t",
        ),
        (
            "CREATE TABLE t (id int PRIMARY KEY, a int); CREATE TABLE child () INHERITS (t);
             INSERT INTO t SELECT i, -i FROM generate_series(1, 10) i; INSERT INTO child VALUES (11, 0)",
            "CREATE TABLE t (id int PRIMARY KEY, a int)",
            "SELECT id, a FROM ONLY t",
        ),
        (
            "CREATE DOMAIN positive AS int CHECK (VALUE > 0);
             CREATE TABLE t (id int PRIMARY KEY, a positive, b int); INSERT INTO t SELECT i, i, i FROM generate_series(1, 10) i",
            "CREATE DOMAIN positive AS int CHECK (VALUE > 0); CREATE TABLE t (id int PRIMARY KEY, a int, b positive)",
            "SELECT id, a, b FROM t",
        ),
    ] {
        let databases = databases(source, target).await;
        copied(&databases, spec("t", OnConflict::Error)).await;
        same(&databases, query).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn names_of_every_kind_are_copied_into_another_schema_and_name() {
    let columns = r#"("Id" int, "order" int, "User" text, "größe" text, "a.b" text, "%s" text, t text, s text, excluded text,
        "select ""x""" text, "日本" text, PRIMARY KEY ("order", "größe", "Id"))"#;
    let fill = r#"INSERT INTO "Sch emä"."Tab.le" SELECT i, i % 3, 'u', 'g' || i, 'ab', '%', 't', 's', 'e', 'x', '本' FROM generate_series(1, 10) i"#;
    let databases = databases(
        &format!(r#"CREATE SCHEMA "Sch emä"; CREATE TABLE "Sch emä"."Tab.le" {columns}; {fill}"#),
        &format!(r#"CREATE SCHEMA "table"; CREATE TABLE "table"."GROUP" {columns}"#),
    )
    .await;
    for on_conflict in [OnConflict::Error, OnConflict::Update, OnConflict::Skip] {
        let spec = TableSpec {
            job: format!("j{on_conflict}"),
            source_table: r#""Sch emä"."Tab.le""#.parse().unwrap(),
            target_table: r#""table"."GROUP""#.parse().unwrap(),
            ..spec("x", on_conflict)
        };
        let run = databases.run(spec).await;
        databases.copy_all(&run, 3).await;
        assert_eq!(differences(&databases, &run).await.1, 0);
    }
    let sum = |table: &str| {
        format!("SELECT count(*) || ' ' || sum(hashtextextended(x::text, 0)::numeric) FROM {table} x")
    };
    assert_eq!(
        value(&databases.source_url, &sum(r#""Sch emä"."Tab.le""#)).await,
        value(&databases.target_url, &sum(r#""table"."GROUP""#)).await
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_columns_names_and_values_are_those_that_were_asked_for() {
    let databases = databases(
        "CREATE SCHEMA app; ALTER DATABASE CURRENT_DB SET search_path = app, public;
         CREATE FUNCTION app.masked(text) RETURNS text IMMUTABLE LANGUAGE sql AS $$ SELECT '*' || right($1, 1) $$;
         CREATE TABLE app.t (id int PRIMARY KEY, email text, \"Old\" int, secret text, kind char(1));
         INSERT INTO app.t SELECT i, 'mail' || i, i, 'secret', CASE WHEN i % 2 = 0 THEN 'x' ELSE 'y' END FROM generate_series(1, 20) i"
            .replace("ALTER DATABASE CURRENT_DB SET search_path = app, public;", "").as_str(),
        "CREATE TABLE t (id int PRIMARY KEY, email text, hash text, renamed int, note text DEFAULT 'none')",
    )
    .await;
    let name = databases.source_url.rsplit('/').next().unwrap().to_owned();
    sql(
        &databases.source_url,
        &format!("ALTER DATABASE {name} SET search_path = app, public"),
    )
    .await;
    let databases = Databases {
        source: crate::servers::session(&databases.source_url, Side::Source).await,
        ..databases
    };
    let asked = shape(
        "id, \"Old\", email",
        "kind = 'x' AND \"Old\" > 4",
        "\"Old\"=renamed",
        "email=masked(email), hash=md5(email || ',' || id)",
    );
    let run = copied(&databases, shaped("t", asked)).await;
    assert_eq!(
        value(&databases.target_url, "SELECT string_agg(x::text, ' ' ORDER BY id) FROM t x WHERE id < 9").await,
        value(
            &databases.source_url,
            "SELECT string_agg(ROW(id, '*' || right(email, 1), md5(email || ',' || id), \"Old\", 'none')::text, ' ' ORDER BY id)
             FROM app.t WHERE id IN (6, 8)"
        )
        .await
    );
    assert_eq!(databases.kept("t").await, "8 7", "of 20 rows, in 7 batches of 3");
    // Another look adds what is chosen, and nothing else.
    sql(
        &databases.source_url,
        "INSERT INTO app.t VALUES (0, 'late', 7, '', 'x'), (-1, 'late', 7, '', 'y')",
    )
    .await;
    let look = databases
        .copy(&run, &another_look(20, range(None, "5")))
        .await
        .unwrap();
    assert_eq!((look.rows, databases.kept("t").await.as_str()), (1, "9 8"));
    assert_eq!(differences(&databases, &run).await, (0, 0));
    // What is not chosen, and what is not the expression's value, differs.
    sql(
        &databases.target_url,
        "INSERT INTO t VALUES (3, 'y'); UPDATE t SET hash = '' WHERE id = 8",
    )
    .await;
    assert_eq!(differences(&databases, &run).await.1, 2);
    let whole = range(None, "20");
    let sides = databases.sides(&run.plan);
    let found = verify::against_source(sides, &whole, true).await.unwrap();
    assert_eq!((found.extra, found.changed, found.missing), (1, 1, 0));
    assert_eq!(
        verify::repair(sides, &run.spec, Some(&run.fence), &whole, &found, true)
            .await
            .unwrap(),
        2
    );
    assert_eq!(differences(&databases, &run).await, (0, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_may_have_another_name_and_a_wider_type_on_the_target() {
    let databases = databases(
        "CREATE TABLE t (id int, part text COLLATE \"C\", a text, PRIMARY KEY (part, id));
         INSERT INTO t SELECT i, 'p' || i % 2, 'a' || i FROM generate_series(1, 12) i",
        "CREATE TABLE t (part text DEFAULT 'of the target', number bigint, section text COLLATE \"C\", a text,
             PRIMARY KEY (section, number))",
    )
    .await;
    let asked = || shape("", "", "id=number, part=section", "");
    let run = copied(&databases, shaped("t", asked())).await;
    assert!(run.plan.same_order && run.plan.target_key_is_unique);
    let rows = "SELECT string_agg(number || section || a, ' ' ORDER BY number) FROM t";
    let all = value(
        &databases.source_url,
        "SELECT string_agg(id || part || a, ' ' ORDER BY id) FROM t",
    )
    .await;
    assert_eq!(value(&databases.target_url, rows).await, all);
    // Another look, a repair, and both ways to meet a row that is there.
    let whole = KeyRange {
        low: None,
        high: key(&["p1", "11"]),
    };
    sql(&databases.target_url, "DELETE FROM t WHERE number IN (3, 4)").await;
    let look = databases
        .copy(&run, &another_look(20, whole.clone()))
        .await
        .unwrap();
    assert_eq!(look.rows, 2);
    sql(&databases.target_url, "DELETE FROM t WHERE number = 5; UPDATE t SET a = '' WHERE number = 6; INSERT INTO t VALUES ('', 0, 'p', '')").await;
    let sides = databases.sides(&run.plan);
    let found = verify::against_source(sides, &whole, true).await.unwrap();
    assert_eq!((found.missing, found.changed, found.extra), (1, 1, 1));
    let repaired = verify::repair(sides, &run.spec, Some(&run.fence), &whole, &found, true).await;
    assert_eq!(repaired.unwrap(), 3);
    assert_eq!(differences(&databases, &run).await, (0, 0));
    for (on_conflict, kept) in [(OnConflict::Skip, "mine"), (OnConflict::Update, "a7")] {
        sql(
            &databases.target_url,
            "DELETE FROM t WHERE number < 4; UPDATE t SET a = 'mine' WHERE number = 7",
        )
        .await;
        let run = databases
            .run(TableSpec {
                job: format!("j{on_conflict}"),
                on_conflict,
                ..shaped("t", asked())
            })
            .await;
        databases.copy_all(&run, 5).await;
        let found = value(
            &databases.target_url,
            "SELECT count(*) || ' ' || max(a) FILTER (WHERE number = 7) FROM t",
        )
        .await;
        assert_eq!(found, format!("12 {kept}"));
    }
    assert_eq!(value(&databases.target_url, rows).await, all);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_difference_is_found_among_few_rows_of_many() {
    let databases = databases(
        "CREATE TABLE t (id int PRIMARY KEY, a int); INSERT INTO t SELECT i, i FROM generate_series(1, 60000) i",
        "CREATE TABLE t (id int PRIMARY KEY, a bigint)",
    )
    .await;
    let run = databases.run(shaped("t", shape("", "id % 40 = 0", "", ""))).await;
    assert_eq!(databases.copy_all(&run, 20_000).await, 3);
    assert_eq!(databases.kept("t").await, "1500 3");
    sql(
        &databases.target_url,
        "UPDATE t SET a = 0 WHERE id = 40000; DELETE FROM t WHERE id = 80; INSERT INTO t VALUES (81, 81)",
    )
    .await;
    let found = verify::against_source(databases.sides(&run.plan), &range(None, "60000"), true)
        .await
        .unwrap();
    assert_eq!((found.missing, found.changed, found.extra), (1, 1, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn another_shape_is_another_plan_and_what_was_copied_by_the_first_is_refused() {
    let table = "CREATE TABLE t (id int PRIMARY KEY, a int)";
    let databases = Databases::new(table, "INSERT INTO t SELECT i, i FROM generate_series(1, 10) i").await;
    let whole = databases.run(spec("t", OnConflict::Error)).await;
    assert_eq!(whole.plan.digest.shape, "");
    let json = serde_json::to_string(&whole.plan).unwrap();
    assert!(
        !json.contains("filter") && !json.contains("shape") && !json.contains("read_as"),
        "{json}"
    );
    databases.copy(&whole, &batch(0, range(None, "5"))).await.unwrap();
    for (asked, words) in [
        (
            shape("", "a > 3", "", ""),
            "the rows that are copied were all of them and are those where a > 3",
        ),
        (
            shape("", "", "", "a=a + 1"),
            "column \"a\" was filled with itself and is with the expression a + 1",
        ),
        (shape("id", "", "", ""), "column \"a\" is not copied any more"),
    ] {
        let error = databases
            .try_run(shaped("t", asked))
            .await
            .map(|_| ())
            .unwrap_err();
        assert_eq!(error.kind(), Kind::Incompatible);
        assert!(error.to_string().contains(words), "{error}");
    }
    let (one, other) = (
        examine(
            &databases.source,
            &databases.target,
            &shaped("t", shape("", "a > 3", "", "")),
        )
        .await,
        examine(
            &databases.source,
            &databases.target,
            &shaped("t", shape("", "a > 4", "", "")),
        )
        .await,
    );
    let (one, other) = (one.unwrap(), other.unwrap());
    assert!(one.digest.source == other.digest.source && one.digest != other.digest);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_loses_nothing_is_cast_on_the_source() {
    let mood = "CREATE TYPE mood AS ENUM ('sad', 'ok')";
    let source = format!(
        "{mood}; CREATE TABLE t (id int PRIMARY KEY, s smallint, i int, big bigint, o oid, f real, v varchar(20), c char(9), c2 char(3),
             ints int[], j json, jb jsonb, bits bit(3), m mood, n numeric(6, 2));
         INSERT INTO t SELECT i, i, i, i, i::oid, i / 10.0, i::text || ' ', 'c' || i, NULL, ARRAY[i, NULL],
             '[ {{\"a\": 1, \"a\": 1.00}}]', '{{\"b\": 1.0}}', B'101', 'sad', i / 7.0 FROM generate_series(1, 9) i;
         INSERT INTO t VALUES (2147483647, 32767, 2147483647, -9223372036854775808, 4294967295, 'NaN', '', '', 'x', '{{}}', 'null',
             'null', B'000', NULL, 'NaN')"
    );
    let target = format!(
        "{mood}; CREATE TABLE t (id bigint PRIMARY KEY, s int, i numeric(12, 2), big numeric, o bigint, f double precision, v text,
             c text, c2 char(8), ints bigint[], j text, jb json, bits bit varying, m text, n numeric(9, 4))"
    );
    for (forced, format) in [
        ("SELECT", CopyFormat::Binary),
        (
            "ALTER TABLE t ADD COLUMN forced mood DEFAULT 'ok'",
            CopyFormat::Text,
        ),
    ] {
        let databases = databases(&format!("{source}; {forced}"), &format!("{target}; {forced}")).await;
        let run = copied(&databases, spec("t", OnConflict::Error)).await;
        assert_eq!(
            run.plan.format, format,
            "what is sent is built in but for what forces text"
        );
        same(
            &databases,
            "SELECT id::bigint, s::int, i::numeric(12, 2), big::numeric, o::bigint, f::double precision, v::text, c::text,
                 c2::char(8), ints::bigint[], j::text, jb::json::text, bits::bit varying, m::text, n::numeric(9, 4) FROM t",
        )
        .await;
        // Another look finds keys of the narrower type.
        sql(&databases.target_url, "DELETE FROM t WHERE id IN (3, 2147483647)").await;
        let look = another_look(20, range(None, "2147483647"));
        let look = databases.copy(&run, &look).await.unwrap();
        assert_eq!((look.rows, differences(&databases, &run).await.1), (2, 0));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_would_lose_something_is_refused_with_what_it_would_lose() {
    for (from, to, words, hint) in [
        (
            "json",
            "jsonb",
            "keeps neither the order of keys nor keys that are repeated",
            "--select COLUMN=SQL",
        ),
        ("timestamp", "timestamptz", "of which time zone", "--select"),
        (
            "bigint",
            "int",
            "bigint on the source (public.t) and integer on the target",
            "same type",
        ),
        ("double precision", "real", "rounded", "--select"),
        ("timestamp", "timestamp(3)", "timestamp(3)", "widen"),
        ("text", "varchar(10)", "character varying(10)", "--select"),
        ("char(9)", "varchar(8)", "whole ends", "--select"),
        ("bpchar", "text", "blanks", "--select"),
    ] {
        let table = |of: &str| format!("CREATE TABLE t (id int PRIMARY KEY, v {of})");
        let databases = databases(&table(from), &table(to)).await;
        let error = databases.examine("t").await.unwrap_err();
        assert_eq!(
            (error.side(), error.kind()),
            (Side::Target, Kind::TypeMismatch),
            "{from} {to}"
        );
        assert!(error.to_string().contains(words), "{error}");
        assert!(error.hint().contains(hint), "{}", error.hint());
    }
    // On the operator's word.
    let databases = databases(
        "CREATE TABLE t (id int PRIMARY KEY, v json, w text); INSERT INTO t VALUES (1, '{\"a\": 1, \"a\": 2}', 'abcdef')",
        "CREATE TABLE t (id int PRIMARY KEY, v jsonb, w varchar(3))",
    )
    .await;
    let asked = shape("", "", "", "v=v::jsonb, w=w::varchar(3)");
    copied(&databases, shaped("t", asked)).await;
    assert_eq!(
        value(&databases.target_url, "SELECT t::text FROM t").await,
        "(1,\"{\"\"a\"\": 2}\",abc)"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_makes_no_sense_is_told_before_a_row_moves() {
    let ddl = "CREATE TABLE t (id int PRIMARY KEY, email text, tags text[], n int);
        CREATE FUNCTION moody(int) RETURNS int LANGUAGE sql AS 'SELECT $1'";
    let databases = Databases::new(ddl, "").await;
    for (asked, kind, words) in [
        (
            shape("id, emial", "", "", ""),
            Kind::MissingColumn,
            "source table public.t has no column \"emial\", which --columns",
        ),
        (
            shape("", "", "a=b", ""),
            Kind::MissingColumn,
            "has no column \"a\", which --rename",
        ),
        (
            shape("", "", "", "x=1"),
            Kind::MissingColumn,
            "target table public.t has no column \"x\", which --select",
        ),
        (
            shape("email", "", "", ""),
            Kind::MissingColumn,
            "needs a value for column \"id\", which is not copied",
        ),
        (
            shape("", "", "", "id=id + 1"),
            Kind::Unsupported,
            "key column \"id\"",
        ),
        (
            shape("", "", "email=n", ""),
            Kind::InvalidInput,
            "would both go into column \"n\"",
        ),
        (shape("", "emial = ''", "", ""), Kind::InvalidInput, "--where"),
        (shape("", "n", "", ""), Kind::InvalidInput, "--where"),
        (shape("", "random() < 0.5", "", ""), Kind::InvalidInput, "--where"),
        (
            shape("", "", "", "n=moody_not(n)"),
            Kind::InvalidInput,
            "--select n",
        ),
        (
            shape("", "", "", "email=unnest(tags)"),
            Kind::InvalidInput,
            "--select email",
        ),
        (
            shape("", "", "", "n=row_number() OVER ()"),
            Kind::InvalidInput,
            "--select n",
        ),
        (
            shape("", "", "", "n=(count(*))::int"),
            Kind::InvalidInput,
            "--select n",
        ),
        (
            shape("", "", "", "n=email"),
            Kind::TypeMismatch,
            "the expression of --select n gives text",
        ),
    ] {
        let told = examine(&databases.source, &databases.target, &shaped("t", asked)).await;
        let error = told.map(|plan| panic!("{words}: {plan:?}")).unwrap_err();
        assert_eq!(error.kind(), kind, "{}", error.chain());
        assert!(error.to_string().contains(words), "{error}");
    }
    let of = async |asked| examine(&databases.source, &databases.target, &shaped("t", asked)).await;
    let error = of(shape("", "random() < 0.5", "", "")).await.unwrap_err();
    assert!(error.chain().contains("volatile"), "{}", error.chain());
    // A function is what it is marked as.
    let error = of(shape("", "moody(n) = 1", "", "")).await.unwrap_err();
    assert!(
        error.hint().contains("ALTER FUNCTION .. STABLE"),
        "{}",
        error.hint()
    );
    sql(&databases.source_url, "ALTER FUNCTION moody STABLE").await;
    of(shape("", "moody(n) = 1", "", "")).await.unwrap();
}
