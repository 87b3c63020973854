//! The rights that docs/operations.md names are enough, for the first user of a ledger and for a second one.

use crate::servers::{Databases, another_look, batch, range, session, spec, sql, try_sql, value};
use longhaul::postgres::{
    Ask, Kind, Session, Side, Unmetered, copy_batch, examine, examine_to_read, ledger, look, verify,
};
use longhaul::table::{Batch, Difference, Fence, OnConflict, TableSpec, Tally};

const TABLE: &str = "CREATE TABLE t (id int PRIMARY KEY, a text);
    REVOKE ALL ON SCHEMA public FROM PUBLIC";
const ROWS: &str = "INSERT INTO t SELECT i, 'x' || i FROM generate_series(1, 100) i";

struct User {
    source: Session,
    target: Session,
}

impl User {
    /// A role on both servers with no right but these.
    async fn new(databases: &Databases, name: &str, on_source: &str, on_target: &str) -> Self {
        for (url, rights) in [
            (&databases.source_url, on_source),
            (&databases.target_url, on_target),
        ] {
            // Roles are those of the server, which other tests share.
            _ = try_sql(url, &format!("CREATE ROLE {name} LOGIN")).await;
            let database = url.rsplit('/').next().unwrap();
            sql(
                url,
                &format!("REVOKE ALL ON DATABASE {database} FROM PUBLIC; GRANT CONNECT ON DATABASE {database} TO {name}; {rights}"),
            )
            .await;
        }
        let session =
            async |url: &str, side| session(&url.replace("postgres@", &format!("{name}@")), side).await;
        Self {
            source: session(&databases.source_url, Side::Source).await,
            target: session(&databases.target_url, Side::Target).await,
        }
    }

    /// What a job does, up to its first batch.
    async fn begin(
        &self,
        spec: &TableSpec,
        ask: &Ask,
    ) -> longhaul::postgres::Result<(longhaul::table::Plan, Fence)> {
        let found = look(&self.source, &self.target, spec, ask).await?;
        let position = ledger::take_over(&self.target, &self.source, spec, &found.plan).await?;
        let fence = Fence {
            epoch: position.epoch,
            digest: found.plan.digest.clone(),
            witnesses: Vec::new(),
            snapshot: None,
        };
        Ok((found.plan, fence))
    }

    async fn copy(
        &self,
        spec: &TableSpec,
        plan: &longhaul::table::Plan,
        fence: &Fence,
        batch: &Batch,
    ) -> Tally {
        copy_batch(
            &self.source,
            &self.target,
            plan,
            spec,
            fence,
            batch,
            false,
            &Unmetered,
        )
        .await
        .unwrap_or_else(|error| panic!("{}", error.chain()))
    }
}

fn said<T>(error: longhaul::postgres::Error) -> T {
    panic!("{}", error.chain())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_rights_that_are_documented_are_enough_for_a_first_and_a_second_user() {
    let databases = Databases::new(TABLE, ROWS).await;
    let database = databases.target_url.rsplit('/').next().unwrap().to_owned();
    let reading = |name: &str| format!("GRANT USAGE ON SCHEMA public TO {name}; GRANT SELECT ON t TO {name}");
    let first = User::new(
        &databases,
        "first_user",
        &reading("first_user"),
        &format!(
            "{}; GRANT INSERT ON t TO first_user; GRANT CREATE ON DATABASE {database} TO first_user",
            reading("first_user")
        ),
    )
    .await;
    let wanted = spec("t", OnConflict::Error);
    let (plan, fence) = first.begin(&wanted, &Ask::default()).await.unwrap_or_else(said);
    assert_eq!(
        first
            .copy(&wanted, &plan, &fence, &batch(0, range(None, "50")))
            .await
            .rows,
        50
    );

    // A sync looks again by way of a temporary table.
    let ask = Ask {
        sync: true,
        lookback: true,
        ..Ask::default()
    };
    let error = first.begin(&wanted, &ask).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Privilege, "{}", error.chain());
    assert!(error.chain().contains("TEMPORARY"), "{}", error.chain());
    sql(
        &databases.target_url,
        &format!("GRANT TEMPORARY ON DATABASE {database} TO first_user"),
    )
    .await;
    let (plan, fence) = first.begin(&wanted, &ask).await.unwrap_or_else(said);
    let looked = first
        .copy(&wanted, &plan, &fence, &another_look(1, range(None, "50")))
        .await;
    assert_eq!(looked.rows, 0);

    let second = User::new(
        &databases,
        "second_user",
        &reading("second_user"),
        &format!(
            "{}; GRANT INSERT, UPDATE, DELETE ON t TO second_user; GRANT TEMPORARY ON DATABASE {database} TO second_user;
             GRANT USAGE ON SCHEMA longhaul TO second_user;
             GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA longhaul TO second_user",
            reading("second_user")
        ),
    )
    .await;
    let mut wanted = spec("t", OnConflict::Update);
    let error = second.begin(&wanted, &ask).await.unwrap_err();
    assert!(
        error.chain().contains("belongs to role first_user"),
        "{}",
        error.chain()
    );
    wanted.ledger_owner = Some("first_user".to_owned());
    let (plan, fence) = second.begin(&wanted, &ask).await.unwrap_or_else(said);
    let tally = second
        .copy(&wanted, &plan, &fence, &batch(2, range(Some("50"), "100")))
        .await;
    assert_eq!(tally.rows, 50);
    databases.assert_same("t").await;
    sql(&databases.target_url, "UPDATE t SET a = 'other' WHERE id = 3; DELETE FROM t WHERE id = 4; INSERT INTO t VALUES (0, 'extra')").await;
    let sides = verify::Sides {
        source: &second.source,
        target: &second.target,
        plan: &plan,
        meter: &Unmetered,
    };
    let all = range(None, "100");
    let found = verify::against_source(sides, &all, true)
        .await
        .unwrap_or_else(said);
    assert!(
        found
            .told
            .iter()
            .any(|told| matches!(told, Difference::Extra { .. }))
    );
    assert_eq!(
        verify::repair(sides, &wanted, Some(&fence), &all, &found, true)
            .await
            .unwrap_or_else(said),
        3
    );
    databases.assert_same("t").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_verification_that_repairs_nothing_needs_no_right_to_write() {
    let databases = Databases::new(TABLE, ROWS).await;
    let reading = "GRANT USAGE ON SCHEMA public TO only_reader; GRANT SELECT ON t TO only_reader";
    let reader = User::new(&databases, "only_reader", reading, reading).await;
    for on_conflict in [OnConflict::Error, OnConflict::Update] {
        let wanted = spec("t", on_conflict);
        let refused = examine(&reader.source, &reader.target, &wanted).await;
        assert_eq!(refused.unwrap_err().kind(), Kind::Privilege);
        let plan = examine_to_read(&reader.source, &reader.target, &wanted)
            .await
            .unwrap_or_else(said);
        let sides = verify::Sides {
            source: &reader.source,
            target: &reader.target,
            plan: &plan,
            meter: &Unmetered,
        };
        verify::refuse_null_keys(&reader.target, &plan)
            .await
            .unwrap_or_else(said);
        let found = verify::against_source(sides, &range(None, "100"), true).await;
        assert_eq!(found.unwrap_or_else(said).missing, 100);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_superuser_is_told_whose_code_runs_with_its_rights() {
    let databases = Databases::new("CREATE TABLE t (id int PRIMARY KEY)", "").await;
    let plan = databases.examine("t").await.unwrap();
    assert!(plan.warnings.is_empty(), "{:?}", plan.warnings);
    _ = try_sql(&databases.target_url, "CREATE ROLE table_owner").await;
    sql(&databases.target_url, "ALTER TABLE t OWNER TO table_owner").await;
    let plan = databases.examine("t").await.unwrap();
    assert!(
        matches!(plan.warnings.as_slice(), [only] if only.contains("belongs to role table_owner, and you connect as a superuser")),
        "{:?}",
        plan.warnings
    );
    // A domain behind an array, and a partition, are as good.
    let ddl = "CREATE DOMAIN d AS text; CREATE TABLE u (id int PRIMARY KEY, v d[]);
        CREATE TABLE p (id int PRIMARY KEY) PARTITION BY RANGE (id); CREATE TABLE p1 PARTITION OF p FOR VALUES FROM (0) TO (9)";
    for url in [&databases.source_url, &databases.target_url] {
        sql(url, ddl).await;
    }
    for (table, handed_over) in [
        ("u", "ALTER DOMAIN d OWNER TO table_owner"),
        ("p", "ALTER TABLE p1 OWNER TO table_owner"),
    ] {
        let plan = databases.examine(table).await.unwrap();
        assert!(plan.warnings.is_empty(), "{:?}", plan.warnings);
        sql(&databases.target_url, handed_over).await;
        let plan = databases.examine(table).await.unwrap();
        assert!(
            matches!(plan.warnings.as_slice(), [only] if only.contains("belongs to role table_owner, and you connect")),
            "{table}: {:?}",
            plan.warnings
        );
    }
    // So are functions of its triggers, defaults, checks and indexes, whoever owns the table.
    let ddl = "CREATE FUNCTION f(int) RETURNS int LANGUAGE sql IMMUTABLE AS 'SELECT 1';
        CREATE FUNCTION g() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN new; END';
        CREATE TABLE v1 (id int PRIMARY KEY, w int); CREATE TABLE v2 (id int PRIMARY KEY, w int);
        CREATE TABLE v3 (id int PRIMARY KEY, w int); CREATE TABLE v4 (id int PRIMARY KEY, w int)";
    for url in [&databases.source_url, &databases.target_url] {
        sql(url, ddl).await;
    }
    let uses = "CREATE TRIGGER a BEFORE INSERT ON v1 FOR EACH ROW EXECUTE FUNCTION g(); ALTER TABLE v2 ALTER w SET DEFAULT f(1);
        ALTER TABLE v3 ADD CHECK (f(w) = 1); CREATE INDEX ON v4 (f(w))";
    sql(&databases.target_url, uses).await;
    let is_warned = async |table: &str| {
        let mut spec = spec(table, OnConflict::Error);
        spec.fire_triggers = true;
        let plan = examine(&databases.source, &databases.target, &spec)
            .await
            .unwrap();
        plan.warnings
            .iter()
            .any(|warning| warning.contains("belongs to role table_owner"))
    };
    for table in ["v1", "v2", "v3", "v4"] {
        assert!(!is_warned(table).await, "{table}");
    }
    let handed_over = "ALTER FUNCTION f(int) OWNER TO table_owner; ALTER FUNCTION g() OWNER TO table_owner";
    sql(&databases.target_url, handed_over).await;
    for table in ["v1", "v2", "v3", "v4"] {
        assert!(is_warned(table).await, "{table}");
    }
    assert_eq!(value(&databases.target_url, "SELECT count(*) FROM t").await, "0");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_migrate_that_will_look_again_says_so_and_asks_for_the_right_that_it_takes() {
    let table = "CREATE TABLE t (id int GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY, a text);
        REVOKE ALL ON SCHEMA public FROM PUBLIC";
    let rows = format!("{ROWS}; SELECT setval('t_id_seq', 100)");
    let databases = Databases::new(table, &rows).await;
    let database = databases.target_url.rsplit('/').next().unwrap().to_owned();
    let reading = "GRANT USAGE ON SCHEMA public TO again_user; GRANT SELECT ON t TO again_user";
    let writing = format!(
        "{reading}; GRANT INSERT ON t TO again_user; GRANT CREATE ON DATABASE {database} TO again_user"
    );
    let user = User::new(&databases, "again_user", reading, &writing).await;
    let wanted = spec("t", OnConflict::Error);
    let (plan, fence) = user.begin(&wanted, &Ask::default()).await.unwrap_or_else(said);
    user.copy(&wanted, &plan, &fence, &batch(0, range(None, "50")))
        .await;

    // As a version left it that kept no settled key.
    let error = user.begin(&wanted, &Ask::default()).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Privilege, "{}", error.chain());
    assert!(error.chain().contains("TEMPORARY"), "{}", error.chain());
    let grant = format!("GRANT TEMPORARY ON DATABASE {database} TO again_user");
    sql(&databases.target_url, &grant).await;
    let warnings = async || {
        let (plan, _) = user.begin(&wanted, &Ask::default()).await.unwrap_or_else(said);
        plan.warnings.join("; ")
    };
    let told = warnings().await;
    assert!(
        told.contains("looks again at all keys of public.t that it has copied, up to (50)"),
        "{told}"
    );

    let settle = async |key: &str| {
        let sql_text = format!("UPDATE longhaul.tables SET settled = '{{{key}}}'");
        sql(&databases.target_url, &sql_text).await;
    };
    settle("20").await;
    let told = warnings().await;
    assert!(told.contains("after (20) up to (50)"), "{told}");
    for settled in ["50", "100"] {
        settle(settled).await;
        let told = warnings().await;
        assert!(!told.contains("looks again"), "{told}");
    }
}
