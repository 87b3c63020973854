//! What an error means for who has to do something about it, by what a server really says.

use crate::servers::{Databases, batch, range, session, spec, sql};
use longhaul::postgres::{Error, Kind, Retry, ServerOptions, Side, ThrowawayServer, examine, ledger};
use longhaul::table::{CopyFormat, OnConflict};

const TABLE: &str = "CREATE TABLE t (id int PRIMARY KEY, a text)";

#[tokio::test(flavor = "multi_thread")]
async fn a_target_that_takes_no_writes_is_named_and_waited_for() {
    let databases = Databases::new(TABLE, "INSERT INTO t VALUES (1, 'a')").await;
    let run = databases.opened("t").await;
    let database = databases.target.database();
    sql(
        &databases.target_url,
        &format!("ALTER DATABASE {database} SET default_transaction_read_only = on"),
    )
    .await;
    let target = session(&databases.target_url, Side::Target).await;
    let (source, wanted) = (&databases.source, batch(0, range(None, "1")));
    let errors = [
        ledger::take_over(&target, source, &run.spec, &run.plan)
            .await
            .unwrap_err(),
        run.copy(source, &target, &wanted, false).await.unwrap_err(),
    ];
    for error in errors {
        assert_eq!(
            (error.kind(), error.side()),
            (Kind::ReadOnly, Side::Target),
            "{}",
            error.chain()
        );
        assert_eq!((error.sqlstate(), error.retry()), (Some("25006"), Retry::Retry));
        let hint = error.hint();
        assert!(
            hint.contains("standby") && hint.contains("default_transaction_read_only"),
            "{hint}"
        );
    }
    assert_eq!(databases.kept("t").await, "0 0");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_target_that_is_a_standby_is_named_before_the_job_starts() {
    let databases = Databases::new("", &format!("{TABLE}; INSERT INTO t VALUES (1, 'a')")).await;
    let options = ServerOptions {
        fsync: false,
        ..ServerOptions::default()
    };
    let start = move || ThrowawayServer::start(&options).expect("a server");
    let server = tokio::task::spawn_blocking(start).await.unwrap();
    sql(&server.url("postgres"), TABLE).await;
    let standby = tokio::task::block_in_place(|| server.standby()).unwrap();
    let target = session(&standby.url("postgres"), Side::Target).await;
    let wanted = spec("t", OnConflict::Error);
    let ask = longhaul::postgres::Ask::default();
    let error: Error = longhaul::postgres::look(&databases.source, &target, &wanted, &ask)
        .await
        .unwrap_err()
        .into();
    assert_eq!(
        (error.kind(), error.side()),
        (Kind::ReadOnly, Side::Target),
        "{}",
        error.chain()
    );
    assert!(error.hint().contains("it is a standby"), "{}", error.hint());
}

/// Whatever the server raises for a row of a batch, by its SQLSTATE: a trigger raises it, which says what it is told to.
#[tokio::test(flavor = "multi_thread")]
async fn each_sqlstate_is_tried_again_or_final_at_once() {
    let databases = Databases::new(TABLE, "INSERT INTO t VALUES (1, 'a')").await;
    let raising = "CREATE TABLE raised (code text, message text, detail text); INSERT INTO raised VALUES ('', '', '');
        CREATE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS $$ DECLARE r raised; BEGIN SELECT * INTO r FROM public.raised;
            RAISE EXCEPTION USING ERRCODE = r.code, MESSAGE = r.message, DETAIL = r.detail; END $$;
        CREATE TRIGGER g BEFORE INSERT ON t FOR EACH ROW EXECUTE FUNCTION f()";
    sql(&databases.target_url, raising).await;
    let mut wanted = spec("t", OnConflict::Error);
    wanted.fire_triggers = true;
    let run = databases.run(wanted).await;
    let too_large = "invalid memory alloc request size 1200000003";
    let out_of_memory = "Cannot enlarge string buffer containing 600000000 bytes by 600000000 more bytes.";
    for (code, message, detail, kind, retry) in [
        ("54000", "index row size exceeds", "", Kind::Limit, Retry::Never),
        (
            "54001",
            "stack depth limit exceeded",
            "",
            Kind::Limit,
            Retry::Never,
        ),
        ("54011", "too many columns", "", Kind::Limit, Retry::Never),
        ("XX000", too_large, "", Kind::Limit, Retry::Never),
        ("53200", "out of memory", out_of_memory, Kind::Limit, Retry::Never),
        (
            "53200",
            "out of memory",
            "Failed on request of size 8192.",
            Kind::Transient,
            Retry::Retry,
        ),
        (
            "XX000",
            "cache lookup failed",
            "",
            Kind::Unknown,
            Retry::RetryLimited,
        ),
        (
            "XX001",
            "invalid page in block 7",
            "",
            Kind::Unknown,
            Retry::RetryLimited,
        ),
        (
            "428C9",
            "column \"a\" can only be updated to DEFAULT",
            "",
            Kind::Unsupported,
            Retry::Never,
        ),
        (
            "42P10",
            "invalid column reference",
            "",
            Kind::Unsupported,
            Retry::Never,
        ),
        (
            "42P17",
            "invalid object definition",
            "",
            Kind::Unsupported,
            Retry::Never,
        ),
        ("42601", "syntax error", "", Kind::Unsupported, Retry::Never),
        ("42P21", "collation mismatch", "", Kind::Unsupported, Retry::Never),
        ("42725", "ambiguous function", "", Kind::Unsupported, Retry::Never),
        ("42501", "permission denied", "", Kind::Privilege, Retry::Never),
        (
            "42P01",
            "relation does not exist",
            "",
            Kind::UndefinedObject,
            Retry::RetryBriefly,
        ),
        (
            "28000",
            "no pg_hba.conf entry for host",
            "",
            Kind::Authentication,
            Retry::RetryBriefly,
        ),
        (
            "28P01",
            "password authentication failed",
            "",
            Kind::Authentication,
            Retry::Never,
        ),
        (
            "42883",
            "function does not exist",
            "",
            Kind::UndefinedObject,
            Retry::Never,
        ),
        ("0A000", "not supported", "", Kind::Unsupported, Retry::Never),
        (
            "25006",
            "cannot execute INSERT in a read-only transaction",
            "",
            Kind::ReadOnly,
            Retry::Retry,
        ),
        (
            "53100",
            "could not extend file",
            "",
            Kind::Transient,
            Retry::Retry,
        ),
        ("40P01", "deadlock detected", "", Kind::Transient, Retry::Retry),
        ("57014", "canceling statement", "", Kind::Transient, Retry::Retry),
        (
            "23503",
            "violates foreign key constraint",
            "",
            Kind::Constraint,
            Retry::Never,
        ),
        (
            "22003",
            "s3cret out of range",
            "",
            Kind::InvalidValue,
            Retry::Never,
        ),
        ("P0001", "s3cret", "s3cret", Kind::Constraint, Retry::Never),
    ] {
        let raised = format!("UPDATE raised SET code = '{code}', message = '{message}', detail = '{detail}'");
        sql(&databases.target_url, &raised).await;
        let error = databases
            .copy(&run, &batch(0, range(None, "1")))
            .await
            .unwrap_err();
        let found = (error.kind(), error.retry(), error.side(), error.sqlstate());
        assert_eq!(
            found,
            (kind, retry, Side::Target, Some(code)),
            "{code}: {}",
            error.chain()
        );
        assert!(
            !error.chain().contains("s3cret") && !error.chain().contains("Failed on request"),
            "{}",
            error.chain()
        );
        assert!(!error.hint().is_empty());
        assert_eq!(databases.kept("t").await, "0 0");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_value_that_is_too_large_for_a_message_is_final_at_once() {
    // 600 MB of bytes are 1.2 GB of text: more than PostgreSQL puts into one message.
    let ddl = "CREATE TABLE t (id int PRIMARY KEY, a bytea)";
    let databases = Databases::new(
        ddl,
        "INSERT INTO t SELECT 1, convert_to(repeat('x', 600000000), 'UTF8')",
    )
    .await;
    let mut run = databases.opened("t").await;
    run.plan.format = CopyFormat::Text;
    let error = databases
        .copy(&run, &batch(0, range(None, "1")))
        .await
        .unwrap_err();
    let found = (error.kind(), error.side(), error.retry());
    assert_eq!(
        found,
        (Kind::Limit, Side::Source, Retry::Never),
        "{}",
        error.chain()
    );
    assert!(error.hint().contains("too large"), "{}", error.hint());
    assert_eq!(databases.kept("t").await, "0 0");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_index_of_the_target_that_cannot_hold_a_value_is_final_at_once() {
    let fill = "INSERT INTO t SELECT 1, string_agg(encode(sha256(n::text::bytea), 'base64'), '') FROM generate_series(1, 200) n";
    let databases = Databases::new(TABLE, fill).await;
    sql(&databases.target_url, "CREATE INDEX ON t (a)").await;
    let run = databases.opened("t").await;
    let error = databases
        .copy(&run, &batch(0, range(None, "1")))
        .await
        .unwrap_err();
    let found = (error.kind(), error.retry(), error.sqlstate());
    assert_eq!(
        found,
        (Kind::Limit, Retry::Never, Some("54000")),
        "{}",
        error.chain()
    );
    assert_eq!(databases.kept("t").await, "0 0");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_update_cannot_write_is_final_at_once() {
    let databases = Databases::new(
        "CREATE TABLE t (id int PRIMARY KEY, a int NOT NULL)",
        "INSERT INTO t VALUES (1, 2)",
    )
    .await;
    sql(&databases.target_url, "INSERT INTO t VALUES (1, 1)").await;
    let mut run = databases.opened_for("t", OnConflict::Update).await;
    // Looked at again, it is refused before the job starts: the fence is told that it is as it was planned.
    sql(
        &databases.target_url,
        "ALTER TABLE t ALTER COLUMN a ADD GENERATED ALWAYS AS IDENTITY",
    )
    .await;
    let now = examine(
        &databases.source,
        &databases.target,
        &spec("t", OnConflict::Error),
    )
    .await
    .unwrap();
    run.fence.digest = now.digest;
    let error = databases
        .copy(&run, &batch(0, range(None, "1")))
        .await
        .unwrap_err();
    let found = (error.kind(), error.retry(), error.sqlstate());
    assert_eq!(
        found,
        (Kind::Unsupported, Retry::Never, Some("428C9")),
        "{}",
        error.chain()
    );
    assert_eq!(databases.kept("t").await, "1 0");
}
