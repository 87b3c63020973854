//! Values arrive as they left, in both formats, along every kind of key, once.

use crate::servers::{Databases, another_look, batch, key, range, spec, sql, value};
use longhaul::postgres::{Kind, Side, Unmetered, cursor, ledger, target_is_empty, verify};
use longhaul::table::{CopyFormat, OnConflict, Tally};

const BUILTIN: &str = "CREATE TABLE t (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, b boolean, i int, s smallint,
    n numeric, n2 numeric(12, 3), f real, d double precision, txt text, v varchar(40), c char(7), raw bytea, u uuid, j json,
    jb jsonb, ts timestamp, tz timestamptz(3), da date, ti time, tiz timetz, iv interval, ia int[], ta text[], net inet, ci cidr,
    mac macaddr, bits bit(5), vb bit varying(9), p point, poly polygon, r int4range, tr tstzrange, mr int4multirange,
    tsv tsvector, x xml, m money, o oid, lsn pg_lsn, \"weird \"\"name\" text)";

const BUILTIN_ROWS: &str = r#"INSERT INTO t OVERRIDING SYSTEM VALUE VALUES
    (1, true, -2147483648, 32767, 'NaN', 1.5, 'Infinity', '-Infinity', '', '', '', '', md5('u')::uuid, '{"a": 1.0}', '{"a": [1, null, "é"]}',
     'infinity', '-infinity', '-infinity', '24:00', '23:59:59.999999+14', '-1 year 2 mons -3 days 04:05:06.7', '{}', '{a,NULL,"NULL","","\\","{"}', '10.1.2.3/8', '10.0.0.0/8',
     '08:00:2b:01:02:03', '10101', '1', '(1.1,-0)', '((0,0),(1,1))', 'empty', '[2020-01-01 00:00+00,)', '{[1,3),[5,7)}', 'a:1 b:2', '<a>é</a>', '12.34', 4294967295, '16/B374D848', 'x'),
    (2, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL,
     NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL),
    (3, false, 0, -1, 'Infinity', -0.001, 0.1, 1.7976931348623157e308, E'tab\t nl\n cr\r bs\\ \\N \\.', E'\\.', 'pad', '\x00ff5c27', md5('u')::uuid, '[ ]', '{}',
     '4713-01-01 BC', '2026-03-29 02:30:00.123+02', '5874897-12-31', '00:00', '00:00-14', '00:00', '[0:1]={1,NULL}', '{{a,b},{c,d}}', '::1', '2001:db8::/32',
     'ff:ff:ff:ff:ff:ff', '00000', '', '(NaN,Infinity)', '((0,0))', '(,)', 'empty', '{}', '', '', '-0.01', 0, '0/0', '😀 ünï 漢字')"#;

#[tokio::test(flavor = "multi_thread")]
async fn every_builtin_type_arrives_unchanged_in_binary() {
    // Multiranges and infinite numerics came with PostgreSQL 14.
    let server = Databases::new("", "").await.source.server_version();
    let (mut ddl, mut rows) = (BUILTIN.to_owned(), BUILTIN_ROWS.to_owned());
    if server < 140_000 {
        ddl = ddl.replace("int4multirange", "text");
        rows = rows.replace("(3, false, 0, -1, 'Infinity'", "(3, false, 0, -1, '-1e-20'");
    }
    let databases = Databases::new(&ddl, &rows).await;
    let run = databases.opened("t").await;
    assert_eq!(run.plan.format, CopyFormat::Binary);
    assert_eq!(databases.copy_all(&run, 2).await, 2);
    databases.assert_same("t").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn types_of_users_arrive_unchanged_in_text() {
    let ddl = "CREATE SCHEMA s; CREATE TYPE s.mood AS ENUM ('sad', 'it''s \"ok\"'); CREATE DOMAIN small AS int CHECK (value < 10);
        CREATE TYPE pair AS (a int, b text); CREATE TYPE floats AS RANGE (subtype = float8);
        CREATE TABLE t (id int PRIMARY KEY, m s.mood, ms s.mood[], d small, p pair, ps pair[], r floats, reg regclass, txt text, raw bytea, x jsonb)";
    // The same types under other OIDs.
    let databases = Databases::new("", "CREATE TYPE filler AS (a int); CREATE TABLE filler2 (a int)").await;
    sql(&databases.source_url, ddl).await;
    sql(&databases.target_url, ddl).await;
    sql(
        &databases.source_url,
        r#"INSERT INTO t VALUES (1, 'it''s "ok"', '{sad,NULL,"it''s \"ok\""}', 9, ROW(1, E'a,"b"\\\n'), ARRAY[ROW(NULL, '')::pair, NULL], '[1.5,2)', 't', E'\t\\.\\N\n', '\x0a5c', '{"a":"\\n"}'),
           (2, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL), (3, 'sad', '{}', -1, ROW(NULL, NULL), '{}', 'empty', 'pg_class', '', '', 'null')"#,
    )
    .await;
    let run = databases.opened("t").await;
    assert_eq!(run.plan.format, CopyFormat::Text);
    assert_eq!(databases.copy_all(&run, 2).await, 2);
    databases.assert_same("t").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_kind_of_key_pages_through_all_rows() {
    let ddl = "CREATE TABLE composite (a int, b text, c timestamptz, v int, PRIMARY KEY (b, a, c));
        CREATE TABLE uuids (id uuid PRIMARY KEY); CREATE TYPE mood AS ENUM ('z', 'm', 'a');
        CREATE TABLE moods (m mood, n numeric, PRIMARY KEY (m, n));
        CREATE TABLE chars (c char(6), d date, PRIMARY KEY (c, d));
        CREATE TABLE floats (f float8 PRIMARY KEY); CREATE TABLE raw (b bytea PRIMARY KEY); CREATE TABLE flags (b boolean, n int, PRIMARY KEY (b, n));
        CREATE TABLE arrays (a text[] PRIMARY KEY); CREATE TABLE \"Format's\" (format text PRIMARY KEY, \"k\"\"2\" int);
        CREATE TABLE second (a int, b int NOT NULL UNIQUE)";
    let fill = "INSERT INTO composite SELECT i % 7, chr(97 + i % 5) || '''\\', now() + i * interval '1 us', i FROM generate_series(1, 500) i;
        INSERT INTO uuids SELECT md5(i::text)::uuid FROM generate_series(1, 500) i;
        INSERT INTO moods SELECT (ARRAY['z','m','a'])[1 + i % 3]::mood, i / 7.0 FROM generate_series(1, 500) i;
        INSERT INTO chars SELECT chr(65 + i % 20), date '2020-01-01' + i FROM generate_series(1, 500) i;
        INSERT INTO floats SELECT sin(i) * 10 ^ (i % 40) FROM generate_series(1, 500) i; INSERT INTO floats VALUES ('NaN'), ('Infinity'), ('-Infinity');
        INSERT INTO raw SELECT decode(md5(i::text), 'hex') FROM generate_series(1, 500) i;
        INSERT INTO flags SELECT i % 2 = 0, i FROM generate_series(1, 500) i;
        INSERT INTO arrays SELECT ARRAY[i::text, NULL, 'a\"b'] FROM generate_series(1, 500) i;
        INSERT INTO \"Format's\" SELECT 'it''s ' || i || E'\\n\\\\' , i FROM generate_series(1, 500) i;
        INSERT INTO second SELECT i, -i FROM generate_series(1, 500) i; ANALYZE";
    let databases = Databases::new(ddl, fill).await;
    for table in [
        "composite",
        "uuids",
        "moods",
        "chars",
        "floats",
        "raw",
        "flags",
        "arrays",
        "\"Format's\"",
        "second",
    ] {
        let run = databases.opened(table).await;
        assert_eq!(databases.copy_all(&run, 37).await, 14, "{table}");
        databases.assert_same(table).await;
        let position = databases.opened(table).await.position;
        assert!(
            position.copied.is_some() && position.beyond.is_empty(),
            "{table}: {position:?}"
        );
        assert_eq!(position.tally.batches, 14, "{table}");
        ledger::forget(&databases.target, &run.spec, &run.plan)
            .await
            .unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repeat_returns_the_receipt_and_writes_nothing() {
    let fill = "INSERT INTO t SELECT i, repeat('x', i) FROM generate_series(1, 100) i";
    let databases = Databases::new("CREATE TABLE t (id int PRIMARY KEY, a text)", fill).await;
    let run = databases.opened("t").await;
    let mut wanted = batch(0, range(None, "60"));
    let first = databases.copy(&run, &wanted).await.unwrap();
    assert_eq!((first.rows, first.written(), first.batches), (60, 60, 1));
    let (plan, target) = (&run.plan, &databases.target);
    let on_target = verify::checksum_range(target, plan, plan.format, &wanted.range, &Unmetered)
        .await
        .unwrap();
    assert_eq!(
        (on_target.rows, on_target.bytes, on_target.checksum),
        (60, first.bytes, first.checksum)
    );
    assert_eq!(databases.repeat(&run, &wanted).await.unwrap(), first);
    // Without the word that it is a repeat, the rows themselves tell.
    assert_eq!(databases.copy(&run, &wanted).await.unwrap(), first);
    wanted.number = 9;
    assert_eq!(
        databases.copy(&run, &wanted).await.unwrap(),
        first,
        "the same range under another number"
    );
    assert_eq!(
        value(
            &databases.target_url,
            "SELECT count(*) || ' ' || (SELECT sum(rows) FROM longhaul.batches) FROM t"
        )
        .await,
        "60 60"
    );
    let other = batch(0, range(Some("60"), "70"));
    let error = databases.repeat(&run, &other).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Ledger, "{}", error.chain());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_row_that_is_there_already_is_a_conflict_or_kept_or_updated() {
    let databases = Databases::new(
        "CREATE TABLE t (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, a text, g text GENERATED ALWAYS AS (a || '!') STORED)",
        "INSERT INTO t (a) SELECT 'new' || i FROM generate_series(1, 10) i",
    )
    .await;
    sql(
        &databases.target_url,
        "INSERT INTO t OVERRIDING SYSTEM VALUE VALUES (3, 'old secret'), (20, 'own')",
    )
    .await;
    let g = "SELECT g FROM t WHERE id = 3";
    let run = databases.opened("t").await;
    assert_eq!(
        run.plan.columns.len(),
        2,
        "the generated column is the target's own"
    );
    let error = databases
        .copy(&run, &batch(0, range(None, "10")))
        .await
        .unwrap_err();
    assert_eq!(error.kind(), Kind::ConflictingRow);
    assert!(error.hint().contains("--on-conflict"), "{}", error.hint());
    assert!(
        !error.chain().contains("(3)") && !error.chain().contains("secret"),
        "{}",
        error.chain()
    );
    assert_eq!(databases.kept("t").await, "2 0", "rolled back");
    let run = databases.opened_for("t", OnConflict::Skip).await;
    let tally = databases.copy(&run, &batch(0, range(None, "5"))).await.unwrap();
    assert_eq!((tally.rows, tally.skipped, tally.written()), (5, 1, 4));
    assert_eq!(value(&databases.target_url, g).await, "old secret!");
    sql(&databases.target_url, "DELETE FROM longhaul.batches").await;
    let run = databases.opened_for("t", OnConflict::Update).await;
    let tally = databases.copy(&run, &batch(1, range(None, "10"))).await.unwrap();
    assert_eq!((tally.rows, tally.skipped, tally.written()), (10, 0, 10));
    assert_eq!(value(&databases.target_url, g).await, "new3!");
    sql(&databases.target_url, "DELETE FROM t WHERE id IN (4, 5)").await;
    let tally = databases.copy(&run, &another_look(2, range(None, "10"))).await;
    assert_eq!((tally.as_ref().unwrap().rows, tally.unwrap().written()), (2, 2));
    let tally = databases.copy(&run, &another_look(3, range(None, "10"))).await;
    assert_eq!(tally.unwrap(), Tally::default());
    let passes = sql(
        &databases.target_url,
        "SELECT batch, pass, rows, rows_written FROM longhaul.batches ORDER BY 1",
    )
    .await;
    let passes: Vec<_> = passes
        .into_iter()
        .map(|row| row.into_iter().flatten().collect::<Vec<_>>().join(" "))
        .collect();
    assert_eq!(
        passes,
        ["1 0 10 10", "2 1 2 2"],
        "a look that found nothing leaves no entry"
    );
    sql(&databases.target_url, "DELETE FROM t WHERE id = 20").await;
    databases.assert_same("t").await;
    assert!(run.plan.target_key_is_unique);
}

#[tokio::test(flavor = "multi_thread")]
async fn missing_rows_are_found_without_a_unique_index_on_the_target() {
    let databases = Databases::new("CREATE TABLE t (id int NOT NULL, a text)", "").await;
    sql(
        &databases.source_url,
        "ALTER TABLE t ADD PRIMARY KEY (id); INSERT INTO t SELECT i, 'x' FROM generate_series(1, 10) i",
    )
    .await;
    sql(&databases.target_url, "INSERT INTO t VALUES (2, 'x'), (4, 'x')").await;
    let run = databases.opened("t").await;
    assert!(
        !run.plan.target_key_is_unique && run.plan.warnings.iter().any(|w| w.contains("unique")),
        "{:?}",
        run.plan
    );
    let tally = databases
        .copy(&run, &another_look(0, range(None, "10")))
        .await
        .unwrap();
    assert_eq!((tally.rows, tally.written()), (8, 8));
    databases.assert_same("t").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_trigger_that_drops_rows_is_noticed_and_nothing_is_kept() {
    let dropping = "CREATE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN IF new.id = 7 THEN RETURN NULL; END IF; RETURN new; END $$;
         CREATE TRIGGER g BEFORE INSERT ON t FOR EACH ROW EXECUTE FUNCTION f()";
    let rows = "INSERT INTO t SELECT generate_series(1, 10)";
    // Made after the plan was.
    let databases = Databases::new("CREATE TABLE t (id int PRIMARY KEY)", rows).await;
    let run = databases.opened("t").await;
    sql(&databases.target_url, dropping).await;
    let wanted = batch(0, range(None, "10"));
    let error = databases.copy(&run, &wanted).await.unwrap_err();
    assert_eq!(
        (error.kind(), error.side()),
        (Kind::TableChanged, Side::Target),
        "{}",
        error.chain()
    );
    assert_eq!(databases.kept("t").await, "0 0");
    // There before, and allowed to fire: of the table, and of one of its partitions.
    let partitioned = "CREATE TABLE t (id int PRIMARY KEY) PARTITION BY RANGE (id);
        CREATE TABLE t1 PARTITION OF t FOR VALUES FROM (0) TO (5); CREATE TABLE t2 PARTITION OF t DEFAULT";
    for (table, trigger) in [
        ("CREATE TABLE t (id int PRIMARY KEY)", dropping.to_owned()),
        (partitioned, dropping.to_owned()),
        (partitioned, dropping.replace("ON t ", "ON t2 ")),
    ] {
        for on_conflict in [OnConflict::Error, OnConflict::Skip, OnConflict::Update] {
            let databases = Databases::new(table, rows).await;
            let is_whole = table == partitioned && trigger == dropping;
            if is_whole && databases.target.server_version() < 130_000 {
                // It has no such trigger of a partitioned table.
                continue;
            }
            sql(&databases.target_url, &trigger).await;
            let mut spec = spec("t", on_conflict);
            let error = databases.try_run(spec.clone()).await.err().unwrap();
            assert!(error.hint().contains("--fire-triggers"), "{}", error.chain());
            spec.fire_triggers = true;
            let run = databases.run(spec).await;
            let error = databases.copy(&run, &wanted).await.unwrap_err();
            assert_eq!(
                error.kind(),
                Kind::CountMismatch,
                "{trigger} {on_conflict:?}: {}",
                error.chain()
            );
            assert!(error.to_string().contains("9 rows of 10"), "{error}");
            assert_eq!(databases.kept("t").await, "0 0", "{trigger} {on_conflict:?}");
            // What it lets through is written, and counted.
            let tally = databases.copy(&run, &batch(1, range(None, "6"))).await.unwrap();
            assert_eq!((tally.rows, tally.skipped), (6, 0), "{trigger} {on_conflict:?}");
            assert_eq!(databases.kept("t").await, "6 1");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn partitions_are_copied_into_one_table_and_children_are_not() {
    let databases = Databases::new("", "").await;
    sql(
        &databases.source_url,
        "CREATE TABLE p (id int, at date, PRIMARY KEY (id, at)) PARTITION BY RANGE (at);
         CREATE TABLE p1 PARTITION OF p FOR VALUES FROM ('2020-01-01') TO ('2021-01-01');
         CREATE TABLE p2 PARTITION OF p DEFAULT; INSERT INTO p SELECT i, date '2020-06-01' + i FROM generate_series(1, 1000) i; ANALYZE;
         CREATE TABLE parent (id int PRIMARY KEY); CREATE TABLE child () INHERITS (parent);
         INSERT INTO parent VALUES (1), (3); INSERT INTO child VALUES (2)",
    )
    .await;
    sql(
        &databases.target_url,
        "CREATE TABLE p (id int, at date, PRIMARY KEY (id, at)); CREATE TABLE parent (id int PRIMARY KEY)",
    )
    .await;
    let run = databases.opened("p").await;
    assert_eq!(
        (run.plan.source_is_partitioned, run.plan.rows_estimate),
        (true, Some(1000))
    );
    assert_eq!(databases.copy_all(&run, 300).await, 4);
    databases.assert_same("p").await;
    let plan = databases.examine("parent").await.unwrap();
    assert!(
        plan.warnings.iter().any(|warning| warning.contains("inherit")),
        "{:?}",
        plan.warnings
    );
    let end = cursor::highest_key(&databases.source, &plan).await.unwrap();
    assert_eq!(end, Some(key(&["3"])));
    let all = range(None, "9");
    let read = verify::checksum_range(&databases.source, &plan, plan.format, &all, &Unmetered)
        .await
        .unwrap();
    assert_eq!(read.rows, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_empty_range_commits_a_receipt_of_no_rows() {
    let databases = Databases::new(
        "CREATE TABLE t (id int PRIMARY KEY)",
        "INSERT INTO t VALUES (100)",
    )
    .await;
    let run = databases.opened("t").await;
    let tally = databases.copy(&run, &batch(0, range(None, "10"))).await.unwrap();
    assert_eq!(
        (tally.rows, tally.bytes, tally.checksum, tally.batches),
        (0, 0, 0, 1)
    );
    assert!(target_is_empty(&databases.target, &run.plan).await.unwrap());
    assert_eq!(databases.kept("t").await, "0 1");
}
