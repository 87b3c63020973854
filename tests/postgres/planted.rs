//! Whoever may make objects in a schema of the user's search path gets nothing run by it, and no ledger believed.

use crate::servers::{Databases, Run, another_look, batch, key, range, session, spec, sql, try_sql, value};
use longhaul::postgres::{
    Ask, Kind, ServerOptions, Side, ThrowawayServer, Unmetered, cursor, ledger, look, verify, writers,
};
use longhaul::table::{Difference, KeyRange, OnConflict};

/// Operators, functions, types and tables that fit what we write better than PostgreSQL's own, each of which raises.
const TRAPS: &str = r#"
CREATE SCHEMA trap;
DO $$
DECLARE kind text; name text;
BEGIN
    FOREACH kind IN ARRAY ARRAY['int2', 'int4', 'int8', 'oid', 'bool', '"char"', 'text', 'varchar', 'name', 'numeric', 'float8',
                                'timestamptz', 'text[]', 'int2[]', 'oid[]', 'regnamespace', 'jsonb'] LOOP
        EXECUTE format('CREATE FUNCTION public.trap(pg_catalog.%1$s, pg_catalog.%1$s) RETURNS bool LANGUAGE plpgsql AS
            ''BEGIN RAISE EXCEPTION ''''trapped by an operator of %1$s''''; END''', kind);
        EXECUTE format('CREATE FUNCTION public.trapped(pg_catalog.%1$s, pg_catalog.%1$s) RETURNS pg_catalog.%1$s LANGUAGE plpgsql AS
            ''BEGIN RAISE EXCEPTION ''''trapped by an operator of %1$s''''; END''', kind);
        FOREACH name IN ARRAY ARRAY['=', '<>', '<', '<=', '>', '>=', '~', '!~'] LOOP
            EXECUTE format('CREATE OPERATOR public.%2$s (LEFTARG = pg_catalog.%1$s, RIGHTARG = pg_catalog.%1$s, FUNCTION = public.trap)', kind, name);
        END LOOP;
        FOREACH name IN ARRAY ARRAY['+', '-', '*', '/', '||', '&'] LOOP
            EXECUTE format('CREATE OPERATOR public.%2$s (LEFTARG = pg_catalog.%1$s, RIGHTARG = pg_catalog.%1$s, FUNCTION = public.trapped)', kind, name);
        END LOOP;
        FOREACH name IN ARRAY ARRAY['to_json', 'json_agg', 'quote_ident', 'quote_literal', 'sha256', 'round', 'to_jsonb', 'unnest',
            'current_setting', 'has_table_privilege', 'pg_get_expr', 'pg_partition_tree', 'convert_to', 'left', 'abs'] LOOP
            EXECUTE format('CREATE FUNCTION public.%2$s(pg_catalog.%1$s) RETURNS text LANGUAGE plpgsql AS
                ''BEGIN RAISE EXCEPTION ''''trapped by function %2$s''''; END''', kind, name);
        END LOOP;
        EXECUTE format('CREATE AGGREGATE public.sum(pg_catalog.%1$s) (SFUNC = public.trapped, STYPE = pg_catalog.%1$s)', kind);
        EXECUTE format('CREATE AGGREGATE public.max(pg_catalog.%1$s) (SFUNC = public.trapped, STYPE = pg_catalog.%1$s)', kind);
        EXECUTE format('CREATE AGGREGATE public.min(pg_catalog.%1$s) (SFUNC = public.trapped, STYPE = pg_catalog.%1$s)', kind);
    END LOOP;
    FOREACH name IN ARRAY ARRAY['now', 'clock_timestamp', 'pg_backend_pid', 'current_database', 'current_schemas', 'getdatabaseencoding',
        'pg_is_in_recovery', 'pg_postmaster_start_time', 'pg_current_wal_lsn'] LOOP
        EXECUTE format('CREATE FUNCTION public.%1$s() RETURNS text LANGUAGE plpgsql AS
            ''BEGIN RAISE EXCEPTION ''''trapped by function %1$s''''; END''', name);
    END LOOP;
    CREATE FUNCTION public.trap() RETURNS bool LANGUAGE plpgsql AS 'BEGIN RAISE EXCEPTION ''trapped by a type or table''; END';
    FOREACH name IN ARRAY ARRAY['text', 'name', 'oid', 'int2', 'int4', 'int8', 'bool', 'numeric', 'regclass', 'jsonb', 'timestamptz'] LOOP
        EXECUTE format('CREATE DOMAIN public.%1$s AS pg_catalog.%1$s CHECK (public.trap())', name);
    END LOOP;
    FOREACH name IN ARRAY ARRAY['pg_class', 'pg_namespace', 'pg_attribute', 'pg_type', 'pg_index', 'pg_settings', 'pg_roles', 'pg_locks',
        'pg_stat_activity', 'pg_database', 'pg_constraint', 'pg_trigger'] LOOP
        EXECUTE format('CREATE VIEW public.%1$s AS SELECT public.trap()', name);
    END LOOP;
END $$;
"#;

/// The path under which the traps come first, for whoever connects from now on.
async fn lure(url: &str) {
    let name = url.rsplit('/').next().unwrap();
    let role = "ALTER ROLE CURRENT_USER IN DATABASE";
    sql(
        url,
        &format!("ALTER DATABASE {name} SET search_path = public, pg_catalog; {role} {name} SET search_path = public, pg_catalog"),
    )
    .await;
}

async fn trapped(ddl: &str, fill: &str) -> Databases {
    let mut databases = Databases::new(ddl, fill).await;
    for url in [&databases.source_url, &databases.target_url] {
        sql(url, TRAPS).await;
        lure(url).await;
        let caught = try_sql(url, "SELECT 1 WHERE 'a'::pg_catalog.text = 'b'::pg_catalog.text").await;
        assert!(caught.is_err(), "the traps are where they would be stepped on");
    }
    databases.source = session(&databases.source_url, Side::Source).await;
    databases.target = session(&databases.target_url, Side::Target).await;
    databases
}

fn said<T>(error: longhaul::postgres::Error) -> T {
    panic!("{}", error.chain())
}

/// Everything that a job does with a table: look, copy in each mode, look again, note writers, verify and repair.
async fn walk(databases: &Databases, last: &str) {
    let (source, target) = (&databases.source, &databases.target);
    let ask = Ask {
        lookback: true,
        sync: true,
        ..Ask::default()
    };
    for mode in [OnConflict::Error, OnConflict::Skip, OnConflict::Update] {
        let wanted = spec("t", mode);
        look(source, target, &wanted, &ask)
            .await
            .unwrap_or_else(|troubles| said(troubles.into()));
        let run = databases.run(wanted).await;
        let all = range(None, last);
        let number = run.position.next_batch;
        if mode == OnConflict::Error {
            assert!(databases.copy_all(&run, 30).await > 2);
        } else {
            databases
                .copy(&run, &batch(number, all.clone()))
                .await
                .unwrap_or_else(said);
        }
        databases
            .copy(&run, &another_look(90 + number, all.clone()))
            .await
            .unwrap_or_else(said);
        ledger::check(target, &run.spec, &run.plan, &run.fence)
            .await
            .unwrap_or_else(said);
        ledger::set_settled(
            target,
            &run.spec,
            &run.plan,
            run.fence.epoch,
            Some(&key(&[last])),
            None,
        )
        .await
        .unwrap_or_else(said);
        let noted = writers::note(source, &run.plan).await.unwrap_or_else(said);
        writers::still_open(source, &noted).await.unwrap_or_else(said);
        cursor::key_before(source, &run.plan, &key(&[last]), 3)
            .await
            .unwrap_or_else(said);
        let stored = ledger::stored_plan(target, &run.spec).await.unwrap_or_else(said);
        assert_eq!(stored.key, run.plan.key);
        if mode == OnConflict::Error {
            let unit = unit_of(&run, databases).await;
            let found = verify::against_receipts(target, &run.plan, &run.spec, &unit, &Unmetered)
                .await
                .unwrap_or_else(said);
            assert!(found.differences() == 0, "{found:?}");
            sql(
                &databases.target_url,
                "SET search_path = pg_catalog; UPDATE public.t SET v = 'changed' WHERE v = '7'",
            )
            .await;
            let sides = databases.sides(&run.plan);
            let found = verify::against_source(sides, &all, true)
                .await
                .unwrap_or_else(said);
            assert!(
                matches!(found.told.as_slice(), [Difference::Changed { .. }]),
                "{found:?}"
            );
            let mended = verify::repair(
                sides,
                &run.spec,
                Some(&run.fence),
                &unit_of(&run, databases).await,
                &found,
                true,
            )
            .await;
            assert_eq!(mended.unwrap_or_else(said), 1);
            sql(
                &databases.target_url,
                "SET search_path = pg_catalog; DELETE FROM longhaul.batches; DELETE FROM longhaul.tables;
                DELETE FROM longhaul.jobs; DELETE FROM public.t WHERE v > '5'",
            )
            .await;
        }
    }
    let count = "SET search_path = pg_catalog; SELECT count(*) FROM public.t";
    assert_eq!(value(&databases.target_url, count).await, "100");
}

/// The whole ledger as one unit.
async fn unit_of(run: &Run, databases: &Databases) -> KeyRange {
    let end = verify::end_of_units(&databases.target, &run.plan, &run.spec, None)
        .await
        .unwrap();
    KeyRange {
        low: None,
        high: end.unwrap(),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_that_others_have_planted_runs() {
    for (kind, value, last) in [
        ("int", "i", "100"),
        ("varchar(40)", "lpad(i::text, 3, '0')", "100"),
        ("timestamptz", "to_timestamp(i)", "1970-01-01 00:01:40+00"),
    ] {
        let databases = trapped(
            &format!("CREATE TABLE t (k {kind} PRIMARY KEY, v text)"),
            &format!("INSERT INTO t SELECT {value}, i::text FROM generate_series(1, 100) i"),
        )
        .await;
        walk(&databases, last).await;
    }
}

/// Keys of an extension's type, which is in another schema on each side, and in neither's search path.
#[tokio::test(flavor = "multi_thread")]
async fn keys_of_an_extension_that_is_on_no_path_are_compared_as_that_extension_does() {
    for (key, order) in [
        ("k", ""),
        ("n, k", "n int NOT NULL,"),
        ("k, n", "n int NOT NULL,"),
    ] {
        let mut databases = Databases::new("", "").await;
        for (url, schema) in [
            (&databases.source_url, "here"),
            (&databases.target_url, "\"the re\""),
        ] {
            sql(
                url,
                &format!(
                    "CREATE SCHEMA {schema}; CREATE EXTENSION citext SCHEMA {schema};
                CREATE TABLE t ({order} k {schema}.citext NOT NULL, v text, PRIMARY KEY ({key}))"
                ),
            )
            .await;
        }
        let columns = if order.is_empty() { "k, v" } else { "n, k, v" };
        let number = if order.is_empty() { "" } else { "i % 3, " };
        sql(&databases.source_url, &format!("INSERT INTO t ({columns})
            SELECT {number} CASE WHEN i % 2 = 0 THEN 'a' ELSE 'B' END || lpad(i::text, 3, '0'), i::text FROM generate_series(1, 100) i")).await;
        databases.source = session(&databases.source_url, Side::Source).await;
        databases.target = session(&databases.target_url, Side::Target).await;
        let run = databases.opened("t").await;
        assert!(databases.copy_all(&run, 9).await > 10);
        databases.assert_same("t").await;
        let end = verify::end_of_units(&databases.target, &run.plan, &run.spec, None)
            .await
            .unwrap();
        let all = KeyRange {
            low: None,
            high: end.unwrap(),
        };
        // Another spelling of a key that is there is the same key: nothing is missing.
        sql(
            &databases.target_url,
            "UPDATE t SET k = upper(k::text)::\"the re\".citext WHERE v = '50'; DELETE FROM t WHERE v = '51'",
        )
        .await;
        let looked = databases.copy(&run, &another_look(90, all.clone())).await;
        assert_eq!(
            looked.unwrap_or_else(|error| panic!("{}", error.chain())).rows,
            1,
            "{key}"
        );
        let found = verify::against_source(databases.sides(&run.plan), &all, true).await;
        let found = found.unwrap_or_else(|error| panic!("{}", error.chain()));
        // Only its spelling differs.
        assert_eq!(
            (found.missing, found.extra, found.changed),
            (1, 1, 0),
            "{key}: {found:?}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ledger_that_somebody_else_has_made_is_refused() {
    let databases = Databases::new("", "").await;
    let url = &databases.target_url;
    _ = try_sql(url, "CREATE ROLE planter").await;
    ledger::ensure(&databases.target, None).await.unwrap();
    let refused = async |owner: Option<&str>, words: &str| {
        let error = ledger::ensure(&databases.target, owner).await.unwrap_err();
        assert_eq!(error.kind(), Kind::Ledger);
        assert!(error.chain().contains(words), "{}", error.chain());
        error.hint().to_owned()
    };
    for (plant, words, uproot) in [
        (
            "ALTER SCHEMA longhaul OWNER TO planter",
            "it belongs to role planter",
            "ALTER SCHEMA longhaul OWNER TO CURRENT_USER",
        ),
        (
            "ALTER TABLE longhaul.jobs OWNER TO planter",
            "table jobs belongs to role planter",
            "ALTER TABLE longhaul.jobs OWNER TO CURRENT_USER",
        ),
    ] {
        sql(url, plant).await;
        assert!(refused(None, words).await.contains("--ledger-owner"));
        ledger::ensure(&databases.target, Some("planter")).await.unwrap();
        sql(url, uproot).await;
    }
    sql(
        url,
        "CREATE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END';
        CREATE FUNCTION g(text) RETURNS text IMMUTABLE LANGUAGE sql AS 'SELECT $1'",
    )
    .await;
    for (plant, words, uproot) in [
        (
            "CREATE TRIGGER x BEFORE INSERT ON longhaul.jobs FOR EACH ROW EXECUTE FUNCTION f()",
            "table jobs has trigger x",
            "DROP TRIGGER x ON longhaul.jobs",
        ),
        (
            "CREATE RULE x AS ON INSERT TO longhaul.tables DO ALSO SELECT f()",
            "table tables has rule x",
            "DROP RULE x ON longhaul.tables",
        ),
        (
            "ALTER TABLE longhaul.jobs ADD CONSTRAINT x CHECK (g(job) = job)",
            "table jobs has constraint x",
            "ALTER TABLE longhaul.jobs DROP CONSTRAINT x",
        ),
        (
            "CREATE INDEX x ON longhaul.batches (g(job))",
            "table batches has index x",
            "DROP INDEX longhaul.x",
        ),
        (
            "ALTER TABLE longhaul.jobs ADD COLUMN x text",
            "table jobs has column x",
            "ALTER TABLE longhaul.jobs DROP COLUMN x",
        ),
        (
            "ALTER TABLE longhaul.tables ALTER COLUMN target_files SET DEFAULT g('a')",
            "table tables has column target_files",
            "ALTER TABLE longhaul.tables ALTER COLUMN target_files DROP DEFAULT",
        ),
        (
            "ALTER TABLE longhaul.format ENABLE ROW LEVEL SECURITY",
            "format is not an ordinary table",
            "ALTER TABLE longhaul.format DISABLE ROW LEVEL SECURITY",
        ),
        (
            "CREATE TABLE c () INHERITS (longhaul.batches)",
            "batches is not an ordinary table",
            "DROP TABLE c",
        ),
    ] {
        sql(url, plant).await;
        refused(Some("planter"), words).await;
        sql(url, uproot).await;
    }
    ledger::ensure(&databases.target, None).await.unwrap();
}

/// Whoever gets to it is its superuser: the demo's servers are for their user alone.
#[test]
fn a_private_server_is_reached_by_its_socket_only() {
    let options = ServerOptions {
        fsync: false,
        is_private: true,
        ..ServerOptions::default()
    };
    let server = ThrowawayServer::start(&options).unwrap();
    assert!(std::net::TcpStream::connect(("127.0.0.1", server.port())).is_err());
    let directory = server.data().parent().unwrap().to_owned();
    let mode = std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(directory).unwrap().permissions());
    assert_eq!(mode & 0o777, 0o700);
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let reached = runtime.block_on(session(&server.url("postgres"), Side::Target));
    assert_eq!(reached.database(), "postgres");
}

/// What a trigger, a check, an assertion or a cast puts into its message is in no error of ours.
#[tokio::test(flavor = "multi_thread")]
async fn a_message_that_can_hold_a_rows_value_is_not_shown() {
    for (target, code) in [
        ("CREATE FUNCTION c(text) RETURNS bool LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'has %', $1 USING ERRCODE = 'unique_violation'; END $$;
          CREATE TABLE t (k int PRIMARY KEY, v text CHECK (c(v)))", "23505"),
        ("CREATE FUNCTION c(text) RETURNS bool LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'has %', $1 USING ERRCODE = '57014', TABLE = $1; END $$;
          CREATE TABLE t (k int PRIMARY KEY, v text CHECK (c(v)))", "57014"),
        ("CREATE FUNCTION c(text) RETURNS bool LANGUAGE plpgsql AS $$ BEGIN ASSERT false, $1; RETURN true; END $$;
          CREATE TABLE t (k int PRIMARY KEY, v text CHECK (c(v)))", "P0004"),
        ("CREATE FUNCTION c(text) RETURNS bool LANGUAGE sql AS $$ SELECT $1::regproc IS NULL $$;
          CREATE TABLE t (k int PRIMARY KEY, v text CHECK (c(v)))", "42883"),
        ("CREATE TABLE t (k int PRIMARY KEY, v text CHECK (v::int > 0))", "22P02"),
        ("CREATE FUNCTION c(text) RETURNS bool LANGUAGE plpgsql AS $$ BEGIN
              EXECUTE format('CREATE TEMPORARY TABLE x (a int CONSTRAINT %I CHECK (a > 0)) ON COMMIT DROP', $1);
              INSERT INTO x VALUES (-1); RETURN true; END $$;
          CREATE TABLE t (k int PRIMARY KEY, v text CHECK (c(v)))", "23514"),
        ("CREATE FUNCTION c(text) RETURNS bool LANGUAGE plpgsql AS $$ BEGIN EXECUTE format('SELECT * FROM %I', $1); RETURN true; END $$;
          CREATE TABLE t (k int PRIMARY KEY, v text CHECK (c(v)))", "42P01"),
        ("CREATE TABLE t (k int PRIMARY KEY, v regclass)", "42P01"),
    ] {
        let kind = if target.contains("regclass") { "regclass" } else { "text" };
        let databases = Databases::new("", "").await;
        let source = format!("CREATE TABLE secretvalue (); CREATE TABLE t (k int PRIMARY KEY, v {kind}); INSERT INTO t VALUES (1, 'secretvalue')");
        sql(&databases.source_url, &source).await;
        sql(&databases.target_url, target).await;
        for mode in [OnConflict::Error, OnConflict::Skip] {
            let run = databases.opened_for("t", mode).await;
            let error = databases.copy(&run, &batch(run.position.next_batch, range(None, "1"))).await.unwrap_err();
            assert_eq!(error.sqlstate(), Some(code));
            assert!(!error.chain().contains("secretvalue") && error.chain().contains(code), "{}", error.chain());
            ledger::forget(&databases.target, &run.spec, &run.plan).await.unwrap();
        }
    }
}
