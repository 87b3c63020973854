//! Values arrive as they left, in both formats, along every kind of key, once.

use crate::servers::{Databases, key, range, request, sql, value};
use longhaul::postgres::{CopyMode, Kind, Unmetered, copy, copy_range};
use longhaul::table::{CopyFormat, KeyRange, OnConflict};

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
    let (plan, epoch) = databases.opened("t").await;
    assert_eq!(plan.format, CopyFormat::Binary);
    assert_eq!(databases.copy_all(&plan, epoch, 2, CopyMode::Append).await, 2);
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
    let (plan, epoch) = databases.opened("t").await;
    assert_eq!(plan.format, CopyFormat::Text);
    assert_eq!(databases.copy_all(&plan, epoch, 2, CopyMode::Append).await, 2);
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
    longhaul::postgres::ledger::ensure(&databases.target)
        .await
        .expect("a ledger");
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
        let plan = databases
            .examine(table)
            .await
            .unwrap_or_else(|error| panic!("{table}: {}", error.chain()));
        sql(&databases.target_url, "DELETE FROM longhaul.jobs").await;
        let state = longhaul::postgres::ledger::open(&databases.target, &databases.source, "j", &plan).await;
        let epoch = state.unwrap_or_else(|error| panic!("{}", error.chain())).epoch;
        let batches = databases.copy_all(&plan, epoch, 37, CopyMode::Append).await;
        assert_eq!(batches, 14, "{table}");
        databases.assert_same(table).await;
        let state = longhaul::postgres::ledger::open(&databases.target, &databases.source, "j", &plan)
            .await
            .unwrap();
        assert_eq!((state.segments.len(), state.batches), (1, 14), "{table}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repeat_returns_the_receipt_and_writes_nothing() {
    let fill = "INSERT INTO t SELECT i, repeat('x', i) FROM generate_series(1, 100) i";
    let databases = Databases::new("CREATE TABLE t (id int PRIMARY KEY, a text)", fill).await;
    let (plan, epoch) = databases.opened("t").await;
    let mut wanted = request(epoch, 0, range(None, "60"), CopyMode::Append);
    let copy =
        async |wanted: &_| copy_range(&databases.source, &databases.target, &plan, wanted, &Unmetered).await;
    let first = copy(&wanted).await.unwrap();
    assert_eq!((first.rows, first.rows_written), (60, 60));
    let on_target = copy::checksum_range(&databases.target, &plan, &wanted.range)
        .await
        .unwrap();
    assert_eq!(
        (on_target.rows, on_target.bytes, on_target.checksum),
        (60, first.bytes, first.checksum)
    );
    wanted.repeat = true;
    assert_eq!(copy(&wanted).await.unwrap(), first);
    // Without the word that it is a repeat, the rows themselves tell.
    wanted.repeat = false;
    assert_eq!(copy(&wanted).await.unwrap(), first);
    wanted.batch = 9;
    assert_eq!(
        copy(&wanted).await.unwrap(),
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
    let other = request(epoch, 0, range(Some("60"), "70"), CopyMode::Append);
    let error = copy(&longhaul::postgres::CopyRequest {
        repeat: true,
        ..other
    })
    .await
    .unwrap_err();
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
    let (plan, epoch) = databases.opened("t").await;
    assert_eq!(plan.columns.len(), 2, "the generated column is the target's own");
    let copy = async |batch, mode, pass| {
        let request = longhaul::postgres::CopyRequest {
            pass,
            ..request(epoch, batch, range(None, "10"), mode)
        };
        copy_range(&databases.source, &databases.target, &plan, &request, &Unmetered).await
    };
    let error = copy(0, CopyMode::Append, 0).await.unwrap_err();
    assert_eq!(error.kind(), Kind::ConflictingRow);
    assert!(error.hint().contains("--on-conflict"), "{}", error.hint());
    assert!(
        !error.chain().contains("(3)") && !error.chain().contains("secret"),
        "{}",
        error.chain()
    );
    assert_eq!(
        value(&databases.target_url, "SELECT count(*) FROM t").await,
        "2",
        "rolled back"
    );
    let receipt = copy(0, CopyMode::Skip, 0).await.unwrap();
    assert_eq!((receipt.rows, receipt.rows_written), (10, 9));
    assert_eq!(
        value(&databases.target_url, "SELECT g FROM t WHERE id = 3").await,
        "old secret!"
    );
    let receipt = copy(1, CopyMode::Update, 1).await.unwrap();
    assert_eq!((receipt.rows, receipt.rows_written), (10, 10));
    assert_eq!(
        value(&databases.target_url, "SELECT g FROM t WHERE id = 3").await,
        "new3!"
    );
    sql(&databases.target_url, "DELETE FROM t WHERE id IN (4, 5)").await;
    let receipt = copy(2, CopyMode::Missing, 1).await.unwrap();
    assert_eq!((receipt.rows, receipt.rows_written), (2, 2));
    let receipt = copy(3, CopyMode::Missing, 1).await.unwrap();
    assert_eq!((receipt.rows, receipt.rows_written), (0, 0));
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
        ["0 0 10 9", "1 1 10 10", "2 1 2 2"],
        "a look that found nothing leaves no entry"
    );
    sql(&databases.target_url, "DELETE FROM t WHERE id = 20").await;
    databases.assert_same("t").await;
    for on_conflict in [OnConflict::Skip, OnConflict::Update] {
        assert!(
            databases
                .examine_for("t", on_conflict)
                .await
                .unwrap()
                .target_key_is_unique
        );
    }
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
    let (plan, epoch) = databases.opened("t").await;
    assert!(
        !plan.target_key_is_unique && plan.warnings.iter().any(|w| w.contains("unique")),
        "{plan:?}"
    );
    let request = longhaul::postgres::CopyRequest {
        pass: 1,
        ..request(epoch, 0, range(None, "10"), CopyMode::Missing)
    };
    let receipt = copy_range(&databases.source, &databases.target, &plan, &request, &Unmetered)
        .await
        .unwrap();
    assert_eq!(receipt.rows_written, 8);
    databases.assert_same("t").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_trigger_that_drops_rows_is_noticed_and_nothing_is_kept() {
    let databases = Databases::new(
        "CREATE TABLE t (id int PRIMARY KEY)",
        "INSERT INTO t SELECT generate_series(1, 10)",
    )
    .await;
    let (plan, epoch) = databases.opened("t").await;
    // Made after the plan was.
    sql(
        &databases.target_url,
        "CREATE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN IF new.id = 7 THEN RETURN NULL; END IF; RETURN new; END $$;
         CREATE TRIGGER g BEFORE INSERT ON t FOR EACH ROW EXECUTE FUNCTION f()",
    )
    .await;
    let request = request(epoch, 0, range(None, "10"), CopyMode::Append);
    let error = copy_range(&databases.source, &databases.target, &plan, &request, &Unmetered)
        .await
        .unwrap_err();
    assert_eq!(error.kind(), Kind::CountMismatch, "{}", error.chain());
    assert_eq!(
        value(
            &databases.target_url,
            "SELECT count(*) + (SELECT count(*) FROM longhaul.batches) FROM t"
        )
        .await,
        "0"
    );
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
    let (plan, epoch) = databases.opened("p").await;
    assert_eq!(
        (plan.source_is_partitioned, plan.rows_estimate),
        (true, Some(1000))
    );
    assert_eq!(databases.copy_all(&plan, epoch, 300, CopyMode::Append).await, 4);
    databases.assert_same("p").await;
    let plan = databases.examine("parent").await.unwrap();
    assert!(
        plan.warnings.iter().any(|warning| warning.contains("inherit")),
        "{:?}",
        plan.warnings
    );
    let end = longhaul::postgres::cursor::highest_key(&databases.source, &plan)
        .await
        .unwrap();
    assert_eq!(end, Some(key(&["3"])));
    let read = copy::checksum_range(
        &databases.source,
        &plan,
        &KeyRange {
            low: None,
            high: key(&["9"]),
        },
    )
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
    let (plan, epoch) = databases.opened("t").await;
    let request = request(epoch, 0, range(None, "10"), CopyMode::Append);
    let receipt = copy_range(&databases.source, &databases.target, &plan, &request, &Unmetered)
        .await
        .unwrap();
    assert_eq!((receipt.rows, receipt.bytes, receipt.checksum), (0, 0, 0));
    assert!(
        longhaul::postgres::target_is_empty(&databases.target, &plan)
            .await
            .unwrap()
    );
    assert_eq!(
        value(&databases.target_url, "SELECT count(*) FROM longhaul.batches").await,
        "1"
    );
}
