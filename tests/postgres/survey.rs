//! The look before the start finds everything that is wrong at once, and writes nothing.

use crate::servers::{Databases, session, spec, sql, try_sql, value};
use longhaul::postgres::ledger::{self, State};
use longhaul::postgres::{Ask, Kind, Side, look, look_at_one, read_some, survey};
use longhaul::table::OnConflict;

const LEDGER: &str = "SELECT to_regnamespace('longhaul') IS NOT NULL";

#[tokio::test(flavor = "multi_thread")]
async fn everything_that_is_wrong_with_two_tables_is_told_at_once() {
    let databases = Databases::new(
        "",
        "CREATE TABLE t (id int, a text, b int, c text); INSERT INTO t VALUES (1, 'a', 1, 'c')",
    )
    .await;
    let target = "CREATE TABLE t (id int, a int, d text NOT NULL, e text NOT NULL);
        CREATE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';
        CREATE TRIGGER g BEFORE INSERT ON t FOR EACH ROW EXECUTE FUNCTION f()";
    sql(&databases.target_url, target).await;
    let wanted = spec("t", OnConflict::Error);
    let ask = Ask::default();
    let troubles = look(&databases.source, &databases.target, &wanted, &ask)
        .await
        .expect_err("all of it is wrong");
    let told: Vec<_> = troubles.iter().map(ToString::to_string).collect();
    for words in [
        "column \"a\" is text on the source",
        "lacks column \"b\" (integer)",
        "lacks column \"c\" (text)",
        "needs a value for column \"d\"",
        "needs a value for column \"e\"",
        "has no key to copy along",
        "triggers of target table public.t would fire",
    ] {
        let found = told.iter().filter(|told| told.contains(words)).count();
        assert_eq!(found, 1, "{words}: {told:?}");
    }
    assert_eq!(told.len(), 7, "{told:?}");
    assert_eq!(
        value(&databases.target_url, LEDGER).await,
        "f",
        "nothing was written"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_does_not_grow_a_full_target_and_missing_rights_come_together() {
    let databases = Databases::new(
        "CREATE TABLE t (id int PRIMARY KEY, a text)",
        "INSERT INTO t VALUES (1, 'a')",
    )
    .await;
    sql(&databases.target_url, "INSERT INTO t VALUES (7, 'b')").await;
    for url in [&databases.source_url, &databases.target_url] {
        _ = try_sql(url, "CREATE ROLE surveyor LOGIN").await;
    }
    sql(&databases.target_url, "GRANT SELECT ON t TO surveyor").await;
    let as_surveyor = databases.target_url.replace("postgres@", "surveyor@");
    let target = session(&as_surveyor, Side::Target).await;
    let ask = Ask {
        sync: true,
        ..Ask::default()
    };
    let found = survey(&databases.source, &target, &spec("t", OnConflict::Error), &ask).await;
    let told: Vec<_> = found
        .troubles
        .iter()
        .map(|trouble| (trouble.side(), trouble.kind()))
        .collect();
    assert_eq!(
        told,
        [
            (Side::Source, Kind::Unsupported),
            (Side::Target, Kind::Privilege),
            (Side::Target, Kind::Privilege),
            (Side::Target, Kind::NotEmpty),
        ],
        "{:?}",
        found.troubles
    );
    let missing: Vec<_> = found
        .rights
        .iter()
        .filter(|right| !right.granted)
        .map(|right| right.right)
        .collect();
    assert_eq!(missing, ["INSERT", "CREATE"], "{:?}", found.rights);
    assert!(
        found.troubles[2]
            .hint()
            .contains("CREATE SCHEMA longhaul AUTHORIZATION \"surveyor\""),
        "{}",
        found.troubles[2].hint()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_survey_writes_nothing_and_sees_the_ledger_as_it_is() {
    let databases = Databases::new(
        "CREATE TABLE t (id int PRIMARY KEY, a text)",
        "INSERT INTO t SELECT i, repeat('x', 100) FROM generate_series(1, 200) i",
    )
    .await;
    let wanted = spec("t", OnConflict::Error);
    let ask = Ask::default();
    let found = survey(&databases.source, &databases.target, &wanted, &ask).await;
    assert!(found.troubles.is_empty(), "{:?}", found.troubles);
    assert_eq!((found.ledger, found.found.batches), (Some(State::Absent), 0));
    assert!(
        found.rights.iter().all(|right| right.granted),
        "{:?}",
        found.rights
    );
    assert_eq!(found.key_reason, "it is the primary key");
    assert_eq!(found.text_reason, None);
    assert_eq!(
        value(&databases.target_url, LEDGER).await,
        "f",
        "nothing was written"
    );
    let plan = found.plan.expect("it can be copied");
    let read = read_some(&databases.source, &plan)
        .await
        .unwrap()
        .expect("it has rows");
    assert!(read.rows == 200 && read.bytes > 200 * 100, "{read:?}");

    let run = databases.run(wanted.clone()).await;
    databases.copy_all(&run, 50).await;
    let found = survey(&databases.source, &databases.target, &wanted, &ask).await;
    assert!(found.troubles.is_empty(), "{:?}", found.troubles);
    assert_eq!(found.ledger, Some(State::Current));
    assert_eq!((found.found.batches, found.found.rows), (4, 200));
    assert_eq!(
        found
            .rights
            .iter()
            .filter(|right| right.on.contains("longhaul"))
            .count(),
        10,
        "{:?}",
        found.rights
    );

    // A right on one of the ledger's tables is enough to keep a job from it.
    sql(
        &databases.target_url,
        "REVOKE INSERT ON longhaul.batches FROM PUBLIC",
    )
    .await;
    _ = try_sql(&databases.target_url, "CREATE ROLE reader LOGIN").await;
    sql(
        &databases.target_url,
        "GRANT SELECT, INSERT ON t TO reader; GRANT USAGE ON SCHEMA longhaul TO reader;
         GRANT SELECT, INSERT, UPDATE ON ALL TABLES IN SCHEMA longhaul TO reader; REVOKE INSERT ON longhaul.batches FROM reader",
    )
    .await;
    let reader = session(
        &databases.target_url.replace("postgres@", "reader@"),
        Side::Target,
    )
    .await;
    let probe = ledger::probe(&reader, None).await.unwrap();
    let missing: Vec<_> = probe.rights.iter().filter(|right| !right.granted).collect();
    assert_eq!(missing.len(), 1, "{missing:?}");
    assert_eq!(
        (missing[0].right, missing[0].on.as_str()),
        ("INSERT", "table longhaul.batches")
    );
    assert_eq!(probe.state, None);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_that_is_misspelt_is_told_once_and_two_names_are_two() {
    let databases = Databases::new("CREATE TABLE songs (id int PRIMARY KEY)", "").await;
    let ask = Ask::default();
    let mut wanted = spec("song", OnConflict::Error);
    let told = |troubles: &[longhaul::postgres::Error]| -> Vec<_> {
        troubles
            .iter()
            .map(|trouble| (trouble.side(), trouble.kind()))
            .collect()
    };
    let once = survey(&databases.source, &databases.target, &wanted, &ask).await;
    assert_eq!(told(&once.troubles), [(Side::Source, Kind::UndefinedObject)]);
    wanted.target_table = "song2".parse().unwrap();
    let twice = survey(&databases.source, &databases.target, &wanted, &ask).await;
    assert_eq!(
        told(&twice.troubles),
        [
            (Side::Source, Kind::UndefinedObject),
            (Side::Target, Kind::UndefinedObject)
        ]
    );
    // One side is looked at though the other is not there.
    sql(&databases.source_url, "CREATE TABLE keyless (a int)").await;
    let alone = survey(
        &databases.source,
        &databases.target,
        &spec("keyless", OnConflict::Error),
        &ask,
    )
    .await;
    assert_eq!(
        told(&alone.troubles),
        [(Side::Source, Kind::NoKey), (Side::Target, Kind::UndefinedObject)]
    );
    let source_only = look_at_one(&databases.source, &spec("keyless", OnConflict::Error)).await;
    assert_eq!(told(&source_only.troubles), [(Side::Source, Kind::NoKey)]);
}
