//! A batch commits only where the target still knows the run, and both tables are as they were planned.

use crate::servers::{Databases, Run, another_look, batch, key, range, session, sql};
use longhaul::postgres::{Kind, Retry, Side, ledger};
use longhaul::table::{Batch, OnConflict};

const TABLE: &str = "CREATE TABLE t (id int PRIMARY KEY, a text)";
const ROWS: &str = "INSERT INTO t SELECT i, 'x' || i FROM generate_series(1, 100) i";

/// One way in which a run is not known any more: made on the target, in the fence, on the source.
struct Case {
    target: &'static str,
    fence: fn(&mut Run),
    source: &'static str,
    kind: Kind,
    side: Side,
    words: &'static str,
}

const fn on_target(target: &'static str, kind: Kind, words: &'static str) -> Case {
    Case {
        target,
        fence: |_| {},
        source: "",
        kind,
        side: Side::Target,
        words,
    }
}

const CASES: [Case; 12] = [
    on_target(
        "UPDATE longhaul.tables SET epoch = epoch + 1",
        Kind::Fenced,
        "job j was taken over by another process at 20",
    ),
    on_target(
        "UPDATE longhaul.tables SET epoch = epoch - 1",
        Kind::TargetRewound,
        "older state",
    ),
    on_target("DELETE FROM longhaul.tables", Kind::TargetRewound, "older state"),
    on_target(
        "DELETE FROM longhaul.batches WHERE batch = 1",
        Kind::TargetRewound,
        "older state",
    ),
    on_target(
        "UPDATE longhaul.batches SET job = 'another' WHERE batch = 1",
        Kind::TargetRewound,
        "older state",
    ),
    on_target(
        "TRUNCATE t",
        Kind::TableChanged,
        "target table public.t was changed",
    ),
    on_target(
        "ALTER TABLE t ADD COLUMN b int",
        Kind::TableChanged,
        "target table public.t",
    ),
    on_target("DROP TABLE t", Kind::UndefinedObject, "does not exist"),
    Case {
        target: "",
        fence: |run| run.fence.digest.target = "another".to_owned(),
        source: "",
        kind: Kind::TableChanged,
        side: Side::Target,
        words: "target table public.t was changed",
    },
    Case {
        target: "",
        fence: |run| run.fence.digest.source = "another".to_owned(),
        source: "",
        kind: Kind::TableChanged,
        side: Side::Source,
        words: "source table public.t was changed",
    },
    Case {
        target: "",
        fence: |_| {},
        source: "ALTER TABLE t ALTER COLUMN a SET NOT NULL",
        kind: Kind::TableChanged,
        side: Side::Source,
        words: "source table public.t was changed",
    },
    Case {
        target: "",
        fence: |_| {},
        source: "DROP TABLE t",
        kind: Kind::UndefinedObject,
        side: Side::Source,
        words: "does not exist",
    },
];

#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_is_not_known_any_more_writes_nothing() {
    for case in CASES {
        for (on_conflict, wanted) in [
            (OnConflict::Error, batch(2, range(Some("60"), "100"))),
            (OnConflict::Skip, batch(2, range(Some("60"), "100"))),
            (OnConflict::Error, another_look(2, range(None, "100"))),
        ] {
            let name = format!(
                "{} {} {on_conflict:?} {:?}",
                case.target, case.source, wanted.pass
            );
            let databases = Databases::new(TABLE, ROWS).await;
            let mut run = databases.opened_for("t", on_conflict).await;
            for before in [batch(0, range(None, "30")), batch(1, range(Some("30"), "60"))] {
                databases.copy(&run, &before).await.unwrap();
                run.fence.witnesses = vec![before.number];
            }
            (case.fence)(&mut run);
            let (on_target, on_source) = (case.target, case.source);
            sql(&databases.target_url, &format!("SELECT 1; {on_target}")).await;
            sql(&databases.source_url, &format!("SELECT 1; {on_source}")).await;
            let state = "SELECT (SELECT string_agg(b::text, ' ' ORDER BY batch) FROM longhaul.batches b),
                query_to_xml('SELECT count(*), max(id) FROM ' || coalesce(to_regclass('t'), 'longhaul.format')
                             || ' AS t(id)', true, true, '')::text";
            let before = sql(&databases.target_url, state).await;
            let error = databases.copy(&run, &wanted).await.unwrap_err();
            assert_eq!(
                (error.kind(), error.side()),
                (case.kind, case.side),
                "{name}: {}",
                error.chain()
            );
            assert!(error.chain().contains(case.words), "{name}: {}", error.chain());
            let retry = match case.kind {
                Kind::TableChanged | Kind::TargetRewound => Retry::Again,
                // It may be swapped for another one.
                Kind::UndefinedObject => Retry::RetryBriefly,
                _ => Retry::Never,
            };
            assert_eq!(error.retry(), retry, "{name}");
            assert_eq!(
                sql(&databases.target_url, state).await,
                before,
                "{name}: nothing is kept"
            );
            // Asked for itself, the target says the same; it knows nothing of the source.
            let (spec, plan) = (&run.spec, &run.plan);
            let target = session(&databases.target_url, Side::Target).await;
            let checked = ledger::check(&target, spec, plan, &run.fence).await;
            match case.side {
                Side::Target => {
                    let checked = checked.unwrap_err();
                    assert_eq!(
                        (checked.kind(), checked.side()),
                        (case.kind, Side::Target),
                        "{name}: {}",
                        checked.chain()
                    );
                }
                Side::Source => checked.unwrap(),
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_is_known_passes() {
    let databases = Databases::new(TABLE, ROWS).await;
    let mut run = databases.opened("t").await;
    databases.copy(&run, &batch(0, range(None, "30"))).await.unwrap();
    databases
        .copy(&run, &batch(7, range(Some("30"), "60")))
        .await
        .unwrap();
    run.fence.witnesses = vec![0, 7];
    ledger::check(&databases.target, &run.spec, &run.plan, &run.fence)
        .await
        .unwrap();
    databases
        .copy(&run, &batch(8, range(Some("60"), "100")))
        .await
        .unwrap();
    assert_eq!(databases.kept("t").await, "100 3");
    databases.assert_same("t").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_migrate_ends_only_where_the_ledger_has_all_that_was_confirmed() {
    let databases = Databases::new(TABLE, ROWS).await;
    let run = databases.opened("t").await;
    let conclude = async |position: &longhaul::table::Position| {
        let (target, source) = (&databases.target, &databases.source);
        ledger::conclude(target, source, &run.spec, &run.plan, &run.fence, position).await
    };
    databases.copy(&run, &batch(0, range(None, "50"))).await.unwrap();
    databases
        .copy(&run, &batch(1, range(Some("80"), "100")))
        .await
        .unwrap();
    let with_a_gap = databases.position(&run).await;
    let error = conclude(&with_a_gap).await.unwrap_err();
    assert_eq!(
        error.kind(),
        Kind::TargetRewound,
        "a gap is no end: {}",
        error.chain()
    );
    databases
        .copy(&run, &batch(2, range(Some("50"), "80")))
        .await
        .unwrap();
    let position = databases.position(&run).await;
    assert_eq!(position.copied, Some(key(&["100"])));
    conclude(&position).await.unwrap();
    let mut other = position.clone();
    other.tally.checksum ^= 1;
    assert_eq!(conclude(&other).await.unwrap_err().kind(), Kind::TargetRewound);
    let mut other = position.clone();
    other.copied = Some(key(&["101"]));
    assert_eq!(conclude(&other).await.unwrap_err().kind(), Kind::TargetRewound);
    sql(
        &databases.target_url,
        "DELETE FROM longhaul.batches WHERE batch = 2",
    )
    .await;
    let error = conclude(&position).await.unwrap_err();
    assert_eq!((error.kind(), error.retry()), (Kind::TargetRewound, Retry::Again));
    assert!(
        error.to_string().contains("2 batches of 70 rows") && error.to_string().contains("3 of 100"),
        "{error}"
    );
    let now = databases.position(&run).await;
    let lost = ledger::lost(&databases.target, &run.spec, &run.plan, &position, &now).await;
    let lost = lost.unwrap().unwrap();
    assert_eq!((lost.batches, lost.rows), (1, 30));
    assert!(
        lost.since.unwrap().starts_with("20"),
        "the newest that is still there has a time"
    );
}

/// What is found of a batch, by what the ledger has: first copies 0 and 1, a look 2 over the range of 1.
#[tokio::test(flavor = "multi_thread")]
async fn a_batch_is_found_by_number_and_pass_and_a_first_copy_by_its_range_too() {
    let databases = Databases::new(TABLE, ROWS).await;
    let run = databases.opened("t").await;
    let (first, second) = (range(None, "30"), range(Some("30"), "60"));
    databases.copy(&run, &batch(0, first.clone())).await.unwrap();
    let copied = databases.copy(&run, &batch(1, second.clone())).await.unwrap();
    sql(&databases.target_url, "DELETE FROM t WHERE id IN (40, 41)").await;
    let looked = databases
        .copy(&run, &another_look(2, second.clone()))
        .await
        .unwrap();
    assert_eq!((looked.rows, copied.rows), (2, 30));
    let find =
        async |batch: Batch| ledger::find(&databases.target, &run.spec, &run.plan, &run.fence, &batch).await;
    let found = async |batch: Batch| find(batch).await.unwrap();
    assert_eq!(found(batch(1, second.clone())).await, Some(copied));
    assert_eq!(found(another_look(2, second.clone())).await, Some(looked));
    assert_eq!(
        found(batch(9, second.clone())).await,
        Some(copied),
        "by its range"
    );
    assert_eq!(
        found(another_look(9, second.clone())).await,
        None,
        "a range is looked at again and again"
    );
    assert_eq!(
        found(another_look(9, first.clone())).await,
        None,
        "nor is the first copy a look"
    );
    assert_eq!(found(batch(9, range(None, "60"))).await, None);
    assert_eq!(found(batch(9, range(Some("30"), "59"))).await, None);
    for wrong in [
        batch(0, second.clone()),
        batch(2, first),
        another_look(1, second.clone()),
        another_look(2, range(Some("30"), "61")),
    ] {
        let shown = format!("{wrong:?}");
        match find(wrong).await {
            Err(error) => assert_eq!(error.kind(), Kind::Ledger, "{shown}"),
            // Its number is another's, and its range is there: what it did is known.
            Ok(found) => assert_eq!(
                (found, shown.contains("number: 0")),
                (Some(copied), true),
                "{shown}"
            ),
        }
    }
}

/// The later run's batches are cut where it likes: their numbers are its own.
#[tokio::test(flavor = "multi_thread")]
async fn a_repeat_of_a_run_that_was_taken_over_is_told_so_whatever_the_later_run_has_copied() {
    let databases = Databases::new(TABLE, ROWS).await;
    let earlier = databases.opened("t").await;
    let later = databases.opened("t").await;
    databases
        .copy(&later, &batch(0, range(None, "40")))
        .await
        .unwrap();
    let (source, target) = (&databases.source, &databases.target);
    for again in [
        batch(0, range(None, "30")),
        batch(1, range(None, "40")),
        batch(1, range(Some("30"), "60")),
    ] {
        let error = earlier.copy(source, target, &again, true).await.unwrap_err();
        let words = error.chain();
        assert_eq!(error.kind(), Kind::Fenced, "{again:?}: {words}");
        assert!(
            words.contains("was taken over by another process at 20"),
            "{words}"
        );
        assert!(
            error.hint().contains("the same command continues"),
            "{}",
            error.hint()
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_shares_a_table_without_a_unique_index_is_stopped_as_often_as_it_is_run() {
    for is_unique in [true, false] {
        let databases = Databases::new(TABLE, ROWS).await;
        if !is_unique {
            sql(&databases.target_url, "ALTER TABLE t DROP CONSTRAINT t_pkey").await;
        }
        let one = databases.opened("t").await;
        let mut spec = one.spec.clone();
        spec.job = "other".to_owned();
        let other = databases.run(spec).await;
        databases.copy(&one, &batch(0, range(None, "100"))).await.unwrap();
        // Whoever comes second.
        let copied = databases.copy(&other, &batch(0, range(Some("100"), "200"))).await;
        let must_be_refused = |done: longhaul::postgres::Result<()>, rival: &str| {
            if is_unique {
                return done.unwrap();
            }
            let error = done.unwrap_err();
            assert_eq!((error.kind(), error.retry()), (Kind::NotEmpty, Retry::Never));
            let said = error.chain();
            assert!(said.contains(rival) && said.contains("no unique index"), "{said}");
            assert!(error.hint().contains("TRUNCATE"), "{}", error.hint());
        };
        must_be_refused(copied.map(drop), "job j has");
        // Whose batches were in flight at the same time.
        let both = "INSERT INTO longhaul.batches (job, table_name, batch, pass, low, high, low_hash, rows, rows_written, bytes, checksum)
            SELECT 'other', table_name, batch, pass, low, high, low_hash, rows, rows_written, bytes, checksum
            FROM longhaul.batches WHERE job = 'j' ON CONFLICT DO NOTHING";
        sql(&databases.target_url, both).await;
        for _ in 0..2 {
            let again = databases.run(one.spec.clone()).await;
            let concluded = ledger::conclude(
                &databases.target,
                &databases.source,
                &again.spec,
                &again.plan,
                &again.fence,
                &again.position,
            );
            must_be_refused(concluded.await, "job other has");
        }
        // The way out.
        sql(&databases.target_url, "TRUNCATE t").await;
        ledger::forget(&databases.target, &one.spec, &one.plan)
            .await
            .unwrap();
        let anew = databases.run(one.spec.clone()).await;
        databases
            .copy(&anew, &batch(0, range(None, "100")))
            .await
            .unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_migrate_does_not_end_on_a_source_that_was_changed_during_its_last_batch() {
    let ddl = "CREATE TYPE mood AS ENUM ('sad', 'ok'); CREATE TABLE t (id int PRIMARY KEY, m mood)";
    let databases = Databases::new(ddl, "INSERT INTO t SELECT i, 'sad' FROM generate_series(1, 10) i").await;
    let run = databases.opened("t").await;
    databases.copy(&run, &batch(0, range(None, "10"))).await.unwrap();
    let position = databases.position(&run).await;
    let conclude = async || {
        let (target, source) = (&databases.target, &databases.source);
        ledger::conclude(target, source, &run.spec, &run.plan, &run.fence, &position).await
    };
    conclude().await.unwrap();
    let renamed = "ALTER TYPE mood RENAME VALUE 'sad' TO 'blue'";
    sql(&databases.source_url, renamed).await;
    let error = conclude().await.unwrap_err();
    assert_eq!(
        (error.kind(), error.side()),
        (Kind::TableChanged, Side::Source),
        "{}",
        error.chain()
    );
    sql(&databases.source_url, "DROP TABLE t").await;
    let error = conclude().await.unwrap_err();
    assert_eq!(error.side(), Side::Source, "{}", error.chain());
}
