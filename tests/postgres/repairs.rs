//! What a verification says is so: of keys that are null, of triggers in its way, of what a repair did and did not do.

use crate::servers::{Databases, Run, key, range, spec, sql, value};
use longhaul::postgres::{Kind, Unmetered, check_repair, cursor, examine_to_read, verify};
use longhaul::table::{Difference, Findings, Key, KeyRange, OnConflict, Plan};

const TABLE: &str = "CREATE TABLE t (id int PRIMARY KEY, a text)";
const ROWS: &str = "INSERT INTO t SELECT i, 'x' FROM generate_series(1, 1000) i";

async fn compared(databases: &Databases, plan: &Plan) -> Findings {
    verify::against_source(databases.sides(plan), &range(None, "5000"), true)
        .await
        .unwrap_or_else(|error| panic!("{}", error.chain()))
}

async fn plan_to_read(databases: &Databases) -> Plan {
    let wanted = spec("t", OnConflict::Error);
    examine_to_read(&databases.source, &databases.target, &wanted)
        .await
        .unwrap_or_else(|error| panic!("{}", error.chain()))
}

fn changed(id: &str) -> Difference {
    Difference::Changed {
        key: key(&[id]),
        columns: vec!["a".to_owned()],
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_with_a_null_in_their_key_are_counted_and_are_no_rows_of_an_empty_key() {
    for unique in ["", ", UNIQUE (x, \"Y y\")"] {
        let columns = "x text, \"Y y\" text, a text";
        let databases = Databases::new("", "").await;
        let fill = "INSERT INTO t SELECT i, i, 'v' FROM generate_series(100, 109) i";
        let source = format!("CREATE TABLE t ({columns}, PRIMARY KEY (x, \"Y y\")); {fill}");
        sql(&databases.source_url, &source).await;
        sql(
            &databases.target_url,
            &format!("CREATE TABLE t ({columns}{unique})"),
        )
        .await;
        let run = databases.opened("t").await;
        databases.copy_all(&run, 4).await;
        let asked = async || verify::refuse_null_keys(&databases.target, &run.plan).await;
        asked().await.unwrap_or_else(|error| panic!("{}", error.chain()));
        let planted = "INSERT INTO t SELECT 'extra', i, 'v' FROM generate_series(1, 8) i; INSERT INTO t VALUES (NULL, 'q', 'v')";
        sql(&databases.target_url, planted).await;
        let highest = cursor::highest_key(&databases.target, &run.plan).await;
        assert!(highest.unwrap_err().chain().contains("has a null in its key"));
        sql(&databases.target_url, "INSERT INTO t VALUES ('100', NULL, 'v')").await;
        let error = asked().await.unwrap_err();
        assert_eq!(error.kind(), Kind::Unsupported);
        assert!(
            error.chain().contains(
                "2 rows of target table public.t with a null in the key (x, Y y): no row of the source"
            ),
            "{}",
            error.chain()
        );
        let way_out = error.hint().split_once(": ").expect("a statement").1;
        assert_eq!(
            way_out,
            "DELETE FROM ONLY \"public\".\"t\" WHERE \"x\" IS NULL OR \"Y y\" IS NULL"
        );
        sql(&databases.target_url, way_out).await;
        asked().await.unwrap_or_else(|error| panic!("{}", error.chain()));
        let all = KeyRange {
            low: None,
            high: key(&["z", ""]),
        };
        let found = verify::against_source(databases.sides(&run.plan), &all, true)
            .await
            .unwrap();
        assert_eq!((found.extra, found.differences(), found.rows), (8, 8, 10));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repair_fires_no_trigger_and_meets_no_rule_of_the_target() {
    let databases = Databases::new(TABLE, ROWS).await;
    let target = &databases.target_url;
    sql(
        target,
        "INSERT INTO t SELECT i, 'x' FROM generate_series(2, 1000) i; UPDATE t SET a = 'y' WHERE id = 7; INSERT INTO t VALUES (2000, 'z');
         CREATE TABLE noted (id int); CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS
         $$BEGIN INSERT INTO public.noted VALUES (1); RETURN coalesce(NEW, OLD); END$$",
    )
    .await;
    let job = spec("t", OnConflict::Error);
    let count = "SELECT (SELECT count(*) FROM noted) || ' ' || (SELECT count(*) FROM t)";
    for (made, on_delete_alone, way_out) in [
        (
            "TRIGGER it BEFORE UPDATE ON t FOR EACH ROW EXECUTE FUNCTION note()",
            false,
            "TRIGGER \"it\"",
        ),
        (
            "TRIGGER it AFTER UPDATE ON t FOR EACH STATEMENT EXECUTE FUNCTION note()",
            false,
            "TRIGGER \"it\"",
        ),
        (
            "TRIGGER it BEFORE INSERT ON t FOR EACH ROW EXECUTE FUNCTION note()",
            false,
            "TRIGGER \"it\"",
        ),
        (
            "TRIGGER it BEFORE DELETE ON t FOR EACH ROW EXECUTE FUNCTION note()",
            true,
            "TRIGGER \"it\"",
        ),
        (
            "RULE it AS ON UPDATE TO t DO INSTEAD NOTHING",
            false,
            "RULE \"it\"",
        ),
        (
            "RULE it AS ON DELETE TO t DO INSTEAD NOTHING",
            true,
            "RULE \"it\"",
        ),
    ] {
        sql(target, &format!("CREATE {made}")).await;
        // Where nothing is written, it is in nobody's way.
        let plan = plan_to_read(&databases).await;
        let found = compared(&databases, &plan).await;
        assert_eq!((found.missing, found.changed, found.extra), (1, 1, 1), "{made}");
        let sides = databases.sides(&plan);
        let all = range(None, "5000");
        let error = verify::repair(sides, &job, None, &all, &found, true)
            .await
            .unwrap_err();
        assert!(
            error.chain().contains("repair") && error.chain().contains("it"),
            "{}",
            error.chain()
        );
        assert!(!error.hint().contains("--"), "{}", error.hint());
        let statement = error.hint().split_once(": ").expect("a statement").1.to_owned();
        assert_eq!(
            statement,
            format!("ALTER TABLE \"public\".\"t\" DISABLE {way_out}"),
            "{made}"
        );
        assert_eq!(value(target, count).await, "0 1000", "{made}: nothing is written");
        let without_deleting = check_repair(&databases.target, &plan, &job, false).await;
        assert_eq!(without_deleting.is_ok(), on_delete_alone, "{made}");
        sql(target, &statement).await;
        assert!(
            !check_repair(&databases.target, &plan, &job, true).await.unwrap(),
            "{made}"
        );
        let what = made.split(' ').next().unwrap();
        sql(target, &format!("DROP {what} it ON t")).await;
    }
    let plan = plan_to_read(&databases).await;
    let found = compared(&databases, &plan).await;
    let repaired = verify::repair(
        databases.sides(&plan),
        &job,
        None,
        &range(None, "5000"),
        &found,
        true,
    )
    .await;
    assert_eq!(repaired.unwrap(), 3);
    databases.assert_same("t").await;
    assert_eq!(value(target, count).await, "0 1000");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_with_triggers_fires_those_of_its_own_events_and_none_of_a_deletion() {
    let databases = Databases::new(
        "CREATE TABLE t (id int PRIMARY KEY, a text); CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN RETURN NEW; END$$",
        "",
    )
    .await;
    for (events, on_conflict, fires, deletes) in [
        ("INSERT", OnConflict::Error, true, true),
        ("INSERT OR UPDATE", OnConflict::Error, true, true),
        ("UPDATE", OnConflict::Error, false, false),
        ("UPDATE", OnConflict::Update, true, true),
        ("INSERT OR DELETE", OnConflict::Update, true, false),
    ] {
        let made = format!("CREATE TRIGGER it BEFORE {events} ON t FOR EACH ROW EXECUTE FUNCTION note()");
        sql(&databases.target_url, &made).await;
        let mut job = spec("t", on_conflict);
        job.fire_triggers = true;
        let plan = plan_to_read(&databases).await;
        let asked = async |delete: bool| check_repair(&databases.target, &plan, &job, delete).await.ok();
        let yes = |allowed: bool| allowed.then_some(true);
        assert_eq!(asked(false).await, yes(fires), "{events} {on_conflict:?}");
        assert_eq!(asked(true).await, yes(deletes), "{events} {on_conflict:?}");
        sql(&databases.target_url, "DROP TRIGGER it ON t").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_that_a_trigger_keeps_different_are_not_put_right_and_no_receipt_vouches_for_them() {
    let databases = Databases::new(TABLE, ROWS).await;
    sql(
        &databases.target_url,
        "CREATE FUNCTION spoil() RETURNS trigger LANGUAGE plpgsql AS
         $$BEGIN IF NEW.id = 100 THEN NEW.a := 'spoilt'; END IF; RETURN NEW; END$$;
         CREATE TRIGGER it BEFORE INSERT OR UPDATE ON t FOR EACH ROW EXECUTE FUNCTION spoil()",
    )
    .await;
    let mut wanted = spec("t", OnConflict::Error);
    wanted.fire_triggers = true;
    let run: Run = databases.run(wanted).await;
    databases.copy_all(&run, 1000).await;
    sql(&databases.target_url, "DELETE FROM t WHERE id = 200").await;
    let found = compared(&databases, &run.plan).await;
    assert_eq!((found.missing, found.changed), (1, 1));
    let (sides, unit) = (databases.sides(&run.plan), range(None, "1000"));
    let repaired = verify::repair(sides, &run.spec, Some(&run.fence), &unit, &found, false).await;
    assert_eq!(repaired.unwrap_or_else(|error| panic!("{}", error.chain())), 1);
    assert_eq!(compared(&databases, &run.plan).await.told, [changed("100")]);
    let receipts = verify::against_receipts(&databases.target, &run.plan, &run.spec, &unit, &Unmetered).await;
    assert_eq!(receipts.unwrap().ranges_different, 1);
    // Once the trigger lets it be, it is put right, and vouched for.
    let mended =
        "CREATE OR REPLACE FUNCTION spoil() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN RETURN NEW; END$$";
    sql(&databases.target_url, mended).await;
    let found = compared(&databases, &run.plan).await;
    let repaired = verify::repair(sides, &run.spec, Some(&run.fence), &unit, &found, false).await;
    assert_eq!(repaired.unwrap_or_else(|error| panic!("{}", error.chain())), 1);
    let receipts = verify::against_receipts(&databases.target, &run.plan, &run.spec, &unit, &Unmetered).await;
    assert_eq!(receipts.unwrap().differences(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_delete_extra_no_row_of_the_target_is_deleted() {
    let databases = Databases::new("CREATE TABLE t (id int NOT NULL, a text)", "").await;
    sql(
        &databases.source_url,
        &format!("ALTER TABLE t ADD PRIMARY KEY (id); {ROWS}"),
    )
    .await;
    let run = databases.opened("t").await;
    databases.copy_all(&run, 1000).await;
    sql(
        &databases.target_url,
        "DELETE FROM t WHERE id = 5; UPDATE t SET a = 'y' WHERE id IN (6, 10);
         INSERT INTO t VALUES (7, 'x'), (8, 'y'), (8, 'x'), (9, 'y'), (2000, 'z'); UPDATE t SET a = 'z' WHERE id = 9",
    )
    .await;
    let sides = databases.sides(&run.plan);
    let found = compared(&databases, &run.plan).await;
    assert_eq!((found.missing, found.changed, found.extra), (1, 3, 5));
    // One of those that were different is no row of the source any more.
    sql(&databases.source_url, "DELETE FROM t WHERE id = 10").await;
    let repair = async |found: &Findings| {
        let all = range(None, "5000");
        verify::repair(sides, &run.spec, Some(&run.fence), &all, found, false)
            .await
            .unwrap_or_else(|error| panic!("{}", error.chain()))
    };
    let kept = "SELECT string_agg(id || a, ' ' ORDER BY id, a) FROM t WHERE id BETWEEN 5 AND 10 OR id = 2000";
    assert_eq!(repair(&found).await, 2);
    let all_but_two = "5x 6x 7x 7x 8x 8x 8y 9z 9z 10y 2000z";
    assert_eq!(value(&databases.target_url, kept).await, all_but_two);
    let left = compared(&databases, &run.plan).await;
    assert_eq!((left.missing, left.changed, left.extra), (0, 1, 6));
    // Nor where the second row of a key was not among those that could be named.
    let mut some = Findings::default();
    some.add(changed("9"));
    assert_eq!(repair(&some).await, 0);
    assert_eq!(value(&databases.target_url, kept).await, all_but_two);
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_beyond_what_is_copied_are_not_missing_and_not_compared() {
    let databases = Databases::new(TABLE, ROWS).await;
    let plan = databases.examine("t").await.unwrap();
    let beyond = async |low: &str| {
        let range = range(Some(low), "5000");
        verify::against_source(databases.sides(&plan), &range, false)
            .await
            .unwrap()
    };
    let found = beyond("400").await;
    assert_eq!(
        (found.not_copied_yet, found.rows, found.differences()),
        (600, 0, 0)
    );
    sql(
        &databases.target_url,
        "INSERT INTO t VALUES (500, 'y'), (600, 'x'), (2000, 'z')",
    )
    .await;
    let found = beyond("400").await;
    assert_eq!((found.not_copied_yet, found.rows), (598, 2));
    assert_eq!((found.missing, found.changed, found.extra), (0, 1, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_are_the_sources_and_bytes_are_counted_in_whatever_order() {
    for target in ["\"en-x-icu\"", "\"C\""] {
        let databases = Databases::new("", "").await;
        let table = "CREATE TABLE t (k text COLLATE \"en-x-icu\" PRIMARY KEY, v text)";
        let fill = "INSERT INTO t SELECT 'k' || i, repeat('v', 10) FROM generate_series(100, 399) i";
        sql(&databases.source_url, &format!("{table}; {fill}")).await;
        sql(&databases.target_url, &table.replace("\"en-x-icu\"", target)).await;
        let run = databases.opened("t").await;
        databases.copy_all(&run, 300).await;
        sql(&databases.target_url, "INSERT INTO t VALUES ('a', ''), ('b', '')").await;
        let (sides, all) = (
            databases.sides(&run.plan),
            KeyRange {
                low: None,
                high: Key(vec!["z".to_owned()]),
            },
        );
        let found = if run.plan.same_order {
            verify::against_source(sides, &all, true).await.unwrap()
        } else {
            let mut found = verify::by_keys(sides, &all, true).await.unwrap();
            // As COPY sends a key of 4 bytes and a value of 10.
            assert_eq!(found.bytes, 300 * (2 + 4 + 4 + 4 + 10));
            let none = KeyRange {
                low: None,
                high: key(&["k101"]),
            };
            sql(&databases.target_url, "DELETE FROM t WHERE k = 'k100'").await;
            let beyond = verify::by_keys(sides, &none, false).await.unwrap();
            assert_eq!(
                (beyond.not_copied_yet, beyond.rows, beyond.differences()),
                (1, 1, 0)
            );
            sql(
                &databases.target_url,
                "INSERT INTO t VALUES ('k100', repeat('v', 10))",
            )
            .await;
            found += verify::only_on_target(sides, &all).await.unwrap();
            found
        };
        assert_eq!(
            (found.rows, found.extra, found.differences()),
            (300, 2, 2),
            "{target}"
        );
        assert_eq!(found.bytes, 300 * (2 + 4 + 4 + 4 + 10), "{target}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn children_of_either_table_are_warned_of() {
    let databases = Databases::new(TABLE, "").await;
    assert!(databases.examine("t").await.unwrap().warnings.is_empty());
    for url in [&databases.source_url, &databases.target_url] {
        sql(url, "CREATE TABLE child () INHERITS (t)").await;
    }
    for plan in [
        databases.examine("t").await.unwrap(),
        plan_to_read(&databases).await,
    ] {
        for side in ["source", "target"] {
            let words = format!("other tables inherit from {side} table public.t");
            assert!(
                plan.warnings.iter().any(|warning| warning.contains(&words)),
                "{:?}",
                plan.warnings
            );
        }
    }
}
