//! Sessions, the pool, and the errors of connecting.

use crate::servers::{Databases, batch, pair, range, session, spec, sql, try_sql, value};
use longhaul::postgres::{Kind, Pool, Retry, Side, connect, copy_batch};
use longhaul::table::{CopyFormat, OnConflict};
use std::time::Duration;

#[tokio::test(flavor = "multi_thread")]
async fn each_way_not_to_connect_has_its_kind_and_no_secret() {
    let server = &tokio::task::spawn_blocking(pair).await.unwrap().0;
    let hba = server.data().join("pg_hba.conf");
    let rules = std::fs::read_to_string(&hba).unwrap();
    if !rules.contains("keeper") {
        std::fs::write(
            &hba,
            format!("host all keeper 127.0.0.1/32 scram-sha-256\n{rules}"),
        )
        .unwrap();
    }
    let url = server.url("postgres");
    sql(&url, "SELECT pg_reload_conf()").await;
    _ = try_sql(
        &url,
        "SET password_encryption = 'scram-sha-256'; CREATE ROLE keeper LOGIN PASSWORD 'Tr0ub4dor-and-3'",
    )
    .await;
    let free = std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port();
    let port = server.port();
    for (text, kind, words) in [
        (
            format!("postgres://postgres@127.0.0.1:{free}/postgres"),
            Kind::Unreachable,
            free.to_string(),
        ),
        (
            "postgres://postgres@no-such-host.invalid/postgres".to_owned(),
            Kind::Unreachable,
            "no-such-host.invalid".to_owned(),
        ),
        (
            format!("postgres://postgres@127.0.0.1:{port}/nowhere"),
            Kind::UndefinedObject,
            "\"nowhere\"".to_owned(),
        ),
        (
            format!("postgres://keeper:wr0ng@127.0.0.1:{port}/postgres"),
            Kind::Authentication,
            "password".to_owned(),
        ),
        (
            format!("postgres://keeper@127.0.0.1:{port}/postgres"),
            Kind::Authentication,
            "password".to_owned(),
        ),
        (
            format!("postgres://postgres@127.0.0.1:{port}/postgres?sslmode=require"),
            Kind::Tls,
            "does not support TLS".to_owned(),
        ),
        (
            "host=/no/such/directory user=x".to_owned(),
            Kind::Unreachable,
            "/no/such/directory".to_owned(),
        ),
    ] {
        let error = connect(&text.parse().unwrap(), Side::Source, "longhaul test")
            .await
            .unwrap_err();
        assert_eq!(error.kind(), kind, "{}", error.chain());
        assert!(
            error.chain().contains(&words) && !error.chain().contains("wr0ng"),
            "{}",
            error.chain()
        );
    }
    let connected = session(
        &format!("postgres://keeper:Tr0ub4dor-and-3@127.0.0.1:{port}/postgres"),
        Side::Source,
    )
    .await;
    assert!(!format!("{connected:?}").contains("Tr0ub4dor") && connected.server_version() >= 120_000);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_pool_is_bounded_reuses_sessions_and_replaces_dead_ones() {
    let databases = Databases::new("CREATE TABLE t (id int PRIMARY KEY)", "INSERT INTO t VALUES (1)").await;
    let pool = Pool::new(
        databases.source_url.parse().unwrap(),
        Side::Source,
        "longhaul pool",
        2,
    );
    let count = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'longhaul pool' AND datname = current_database()";
    let one = pool.acquire().await.unwrap();
    let two = pool.acquire().await.unwrap();
    assert!(
        tokio::time::timeout(Duration::from_millis(100), pool.acquire())
            .await
            .is_err(),
        "bounded"
    );
    drop((one, two));
    drop(pool.acquire().await.unwrap());
    assert_eq!(value(&databases.source_url, count).await, "2");
    // The server ends them; the pool notices.
    sql(
        &databases.source_url,
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'longhaul pool'",
    )
    .await;
    let plan = databases.examine("t").await.unwrap();
    for _ in 0..100 {
        if value(&databases.source_url, count).await == "0" {
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let lease = pool.acquire().await.unwrap();
    assert_eq!(
        longhaul::postgres::cursor::highest_key(&lease, &plan)
            .await
            .unwrap()
            .unwrap()
            .0,
        ["1"]
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dropped_copy_rolls_back_and_closes_its_sessions() {
    let databases = Databases::new(
        "CREATE TABLE t (id int PRIMARY KEY, a text)",
        "INSERT INTO t SELECT i, repeat('x', 500) FROM generate_series(1, 50000) i",
    )
    .await;
    let run = databases.opened("t").await;
    let wanted = batch(0, range(None, "50000"));
    let sources = Pool::new(
        databases.source_url.parse().unwrap(),
        Side::Source,
        "longhaul dropped",
        1,
    );
    let targets = Pool::new(
        databases.target_url.parse().unwrap(),
        Side::Target,
        "longhaul dropped",
        1,
    );
    {
        let (source, target) = (sources.acquire().await.unwrap(), targets.acquire().await.unwrap());
        let slow = longhaul::postgres::Throttle::new(std::num::NonZeroU64::new(1_000_000));
        fn may_move_between_threads<T: Send>(future: T) -> T {
            future
        }
        let copying = may_move_between_threads(copy_batch(
            &source, &target, &run.plan, &run.spec, &run.fence, &wanted, false, &slow,
        ));
        assert!(
            tokio::time::timeout(Duration::from_millis(500), copying)
                .await
                .is_err(),
            "25 MB at 1 MB/s"
        );
    }
    let busy = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'longhaul dropped' AND datname = current_database()";
    let deadline = std::time::Instant::now() + Duration::from_secs(10);
    while value(&databases.source_url, busy).await != "0" || value(&databases.target_url, busy).await != "0" {
        assert!(
            std::time::Instant::now() < deadline,
            "the server's sessions are still there"
        );
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(value(&databases.target_url, "SELECT count(*) FROM t").await, "0");
    // The permits came back, and new sessions do the work.
    let (source, target) = (sources.acquire().await.unwrap(), targets.acquire().await.unwrap());
    let tally = run.copy(&source, &target, &wanted, false).await.unwrap();
    assert_eq!(tally.rows, 50_000);
    databases.assert_same("t").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_value_of_a_row_gets_into_an_error() {
    let databases = Databases::new(
        "CREATE TABLE t (id int PRIMARY KEY, a text)",
        "INSERT INTO t VALUES (1, 's3cret'), (2, 'b')",
    )
    .await;
    // Tables as the target's will be, for the plan's digest alone.
    sql(
        &databases.source_url,
        "CREATE TABLE numbers (id int PRIMARY KEY, a int); CREATE TABLE short (id int PRIMARY KEY, a varchar(3))",
    )
    .await;
    let run = databases.opened("t").await;
    let wanted = batch(0, range(None, "9"));
    for (change, like, kind) in [
        ("ALTER TABLE t ADD CHECK (a <> 's3cret')", "t", Kind::Constraint),
        (
            "ALTER TABLE t DROP CONSTRAINT t_a_check; ALTER TABLE t ALTER a TYPE int USING NULL",
            "numbers",
            Kind::InvalidValue,
        ),
        (
            "ALTER TABLE t ALTER a TYPE text; CREATE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RAISE EXCEPTION ''bad %'', new.a; END';
             CREATE TRIGGER g BEFORE INSERT ON t FOR EACH ROW EXECUTE FUNCTION f()",
            "t",
            Kind::Constraint,
        ),
        (
            "DROP TRIGGER g ON t; ALTER TABLE t ALTER a TYPE varchar(3)",
            "short",
            Kind::InvalidValue,
        ),
    ] {
        sql(&databases.target_url, change).await;
        let mut run = run.clone();
        let mut now = spec("t", OnConflict::Error);
        (now.source_table, now.fire_triggers) = (like.parse().unwrap(), true);
        let now = longhaul::postgres::examine(&databases.source, &databases.target, &now).await;
        run.fence.digest.target = now.unwrap_or_else(|error| panic!("{}", error.chain())).digest.target;
        run.plan.format = CopyFormat::Text;
        let error = databases.copy(&run, &wanted).await.unwrap_err();
        assert_eq!((error.kind(), error.retry()), (kind, Retry::Never), "{change}: {}", error.chain());
        assert!(!error.chain().contains("s3cret") && !format!("{error:?}").contains("s3cret"), "{error:?}");
        assert!(error.chain().contains("SQLSTATE"), "{}", error.chain());
    }
}

/// Activities run on any thread: this need only compile.
#[tokio::test(flavor = "multi_thread")]
async fn every_future_may_move_between_threads() {
    use longhaul::postgres::{
        Ask, Unmetered, cursor, examine, ledger, look, target_is_empty, verify, writers,
    };
    let databases = Databases::new("CREATE TABLE t (id int PRIMARY KEY)", "").await;
    let spec = spec("t", OnConflict::Error);
    let pool = Pool::new(
        databases.source_url.parse().unwrap(),
        Side::Source,
        "longhaul test",
        1,
    );
    let work = async move {
        let (source, target) = (&databases.source, &databases.target);
        drop(pool.acquire().await?);
        let plan = examine(source, target, &spec).await?;
        look(source, target, &spec, &Ask::default()).await?;
        ledger::ensure(target, None).await?;
        ledger::inspect(target, &spec, &plan).await?;
        let run = databases.try_run(spec.clone()).await?;
        let noted = writers::note(source, &plan).await?;
        writers::still_open(source, &noted).await?;
        let high = cursor::next_range_end(source, &plan, None, None, 5).await?;
        assert_eq!((high, target_is_empty(target, &plan).await?), (None, true));
        let wanted = batch(0, range(None, "9"));
        ledger::find(target, &spec, &plan, &run.fence, &wanted).await?;
        ledger::check(target, &spec, &plan, &run.fence).await?;
        databases.copy(&run, &wanted).await?;
        databases
            .copy(&run, &crate::servers::another_look(1, wanted.range.clone()))
            .await?;
        let position = ledger::read(target, source, &spec, &plan).await?;
        ledger::conclude(target, source, &spec, &plan, &run.fence, &position).await?;
        ledger::lost(target, &spec, &plan, &position, &position).await?;
        ledger::stored_plan(target, &spec).await?;
        let settled = noted.key.as_ref();
        ledger::set_settled(target, &spec, &plan, run.fence.epoch, settled, None).await?;
        let all = &wanted.range;
        verify::checksum_range(source, &plan, plan.format, all, &Unmetered).await?;
        let end = verify::end_of_units(target, &plan, &spec, None).await?;
        assert_eq!(end.as_ref(), Some(&all.high));
        let sides = databases.sides(&plan);
        verify::against_receipts(target, &plan, &spec, all, &Unmetered).await?;
        let found = verify::against_source(sides, all, true).await?;
        verify::by_keys(sides, all, true).await?;
        verify::only_on_target(sides, all).await?;
        verify::repair(sides, &spec, Some(&run.fence), all, &found, true).await?;
        ledger::forget(target, &spec, &plan).await
    };
    tokio::spawn(work).await.unwrap().unwrap();
}
