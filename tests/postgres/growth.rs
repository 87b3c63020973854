//! A sync goes on along a key only as long as new rows get keys above those that are there.

use crate::servers::{Databases, batch, range, spec, sql, value};
use longhaul::postgres::{Ask, Error, Kind, Side, check_growth, cursor, ledger, look, source_clock};
use longhaul::table::{Key, OnConflict, SourceClock};

/// What the start of a sync of table `t` says, and then a round of one whose plan was made before `change`.
async fn refused(table: &str, fill: &str, change: &str) -> (Error, Error) {
    let databases = Databases::new(table, fill).await;
    start(&databases, false).await.expect("a key that grows");
    let plan = databases.examine("t").await.unwrap();
    sql(&databases.source_url, change).await;
    let highest = cursor::highest_key(&databases.source, &plan).await.unwrap();
    let round = check_growth(&databases.source, &plan, highest.as_ref()).await;
    let begun = start(&databases, false).await;
    start(&databases, true)
        .await
        .expect("a lookback is the operator's word");
    (begun.expect_err("refused"), round.expect_err("refused"))
}

async fn start(databases: &Databases, lookback: bool) -> Result<(), Error> {
    let ask = Ask {
        sync: true,
        lookback,
        ..Ask::default()
    };
    let spec = spec("t", OnConflict::Error);
    let looked = look(&databases.source, &databases.target, &spec, &ask).await;
    Ok(looked.map(drop)?)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_partition_that_fills_the_key_in_a_way_of_its_own_is_refused_by_a_sync() {
    let table = "CREATE SEQUENCE other; CREATE TABLE t (id bigserial PRIMARY KEY) PARTITION BY RANGE (id);
        CREATE TABLE low PARTITION OF t FOR VALUES FROM (MINVALUE) TO (100);
        CREATE TABLE high PARTITION OF t FOR VALUES FROM (100) TO (MAXVALUE);
        ALTER TABLE high ALTER id DROP DEFAULT";
    let (begun, round) = refused(
        table,
        "INSERT INTO t DEFAULT VALUES",
        "ALTER TABLE low ALTER id SET DEFAULT nextval('other')",
    )
    .await;
    assert_eq!(begun.to_string(), round.to_string());
    assert_eq!((begun.kind(), begun.side()), (Kind::Unsupported, Side::Source));
    assert!(
        begun
            .to_string()
            .contains("partition public.low fills it in a way of its own (nextval('public.other'"),
        "{begun}"
    );
    assert!(begun.hint().contains("--lookback"), "{}", begun.hint());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_highest_key_in_the_future_of_the_sources_clock_is_refused_by_a_sync() {
    for (table, future) in [
        (
            "CREATE TABLE t (id timestamptz DEFAULT now() PRIMARY KEY)",
            "2130-01-01",
        ),
        (
            "CREATE TABLE t (id timestamptz(3) DEFAULT now() PRIMARY KEY)",
            "infinity",
        ),
        (
            "CREATE DOMAIN stamp AS timestamptz(0); CREATE TABLE t (id stamp DEFAULT now() PRIMARY KEY)",
            "2130-01-01",
        ),
    ] {
        let change = format!("INSERT INTO t VALUES ('{future}')");
        let (begun, round) = refused(table, "INSERT INTO t DEFAULT VALUES", &change).await;
        for error in [begun, round] {
            assert_eq!((error.kind(), error.side()), (Kind::Unsupported, Side::Source));
            assert!(error.to_string().contains(&format!(", {future}")), "{error}");
            assert!(
                error.to_string().contains("in the future of the source's clock"),
                "{error}"
            );
            assert!(error.hint().contains("--lookback"), "{}", error.hint());
        }
    }
}

/// What the ledger remembers of a clock that showed more than it does now is what a clock that was set back leaves there.
#[tokio::test(flavor = "multi_thread")]
async fn a_clock_that_was_set_back_unsettles_what_it_may_have_stamped_since() {
    let databases = Databases::new(
        "CREATE TABLE t (id timestamptz DEFAULT now() PRIMARY KEY); CREATE TABLE u (id bigserial PRIMARY KEY)",
        "INSERT INTO t DEFAULT VALUES",
    )
    .await;
    let run = databases.opened("t").await;
    let (source, target, spec, plan) = (&databases.source, &databases.target, &run.spec, &run.plan);
    let settled = cursor::highest_key(source, plan).await.unwrap();
    let look = async |earlier: Option<&SourceClock>, settled: Option<&Key>| {
        source_clock::look(source, spec, plan, earlier, settled)
            .await
            .unwrap()
    };
    let first = look(None, settled.as_ref()).await;
    assert_eq!(first.unsettled, None, "nothing is known of it");
    let clock = first.clock.unwrap();
    assert_eq!(
        look(Some(&clock), settled.as_ref()).await.unsettled,
        None,
        "it goes on"
    );

    let ahead = SourceClock {
        source_us: clock.source_us + 20_000_000,
        ..clock
    };
    let epoch = run.fence.epoch;
    let late = Some(Key(vec!["2100-01-01 00:00:00+00".to_owned()]));
    ledger::set_settled(target, spec, plan, epoch, late.as_ref(), Some(&ahead))
        .await
        .unwrap();
    // A run that comes after it finds what was kept.
    let again = databases.opened("t").await;
    assert_eq!(again.position.settled, late);
    let kept = ledger::source_clock(target, spec, plan).await.unwrap();
    assert_eq!(kept, Some(ahead));
    let back = look(kept.as_ref(), late.as_ref()).await;
    let key = back.unsettled.expect("it shows less than it did");
    let since = value(
        &databases.source_url,
        &format!(
            "SELECT now() - '{}'::timestamptz BETWEEN '0' AND '1 minute'",
            key.0[0]
        ),
    )
    .await;
    assert_eq!(since, "t", "{key:?}");
    let long_ago = Some(Key(vec!["2020-01-01 00:00:00+00".to_owned()]));
    assert_eq!(
        look(kept.as_ref(), long_ago.as_ref()).await.unsettled,
        None,
        "all that is settled was before"
    );
    assert_eq!(look(kept.as_ref(), None).await.unsettled, None);

    let other = databases.examine("u").await.unwrap();
    let stamped = source_clock::look(source, spec, &other, kept.as_ref(), late.as_ref())
        .await
        .unwrap();
    assert_eq!(stamped, source_clock::Stamped::default(), "no clock fills it");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_update_after_a_skip_is_told_what_stays_as_it_was() {
    let table = "CREATE TABLE t (id int PRIMARY KEY, a text)";
    let databases = Databases::new(
        table,
        "INSERT INTO t SELECT i, 'source' FROM generate_series(1, 9) i",
    )
    .await;
    sql(
        &databases.target_url,
        "INSERT INTO t VALUES (1, 'target'), (2, 'target')",
    )
    .await;
    let run = databases.opened_for("t", OnConflict::Skip).await;
    databases.copy(&run, &batch(0, range(None, "5"))).await.unwrap();
    for (on_conflict, told) in [
        (OnConflict::Update, 1),
        (OnConflict::Update, 1),
        (OnConflict::Skip, 0),
    ] {
        let spec = spec("t", on_conflict);
        let looked = look(&databases.source, &databases.target, &spec, &Ask::default())
            .await
            .unwrap();
        let warnings = &looked.plan.warnings;
        let about =
            |warning: &&String| warning.contains("2 rows of ranges that were copied with --on-conflict skip");
        assert_eq!(warnings.iter().filter(about).count(), told, "{warnings:?}");
        databases.opened_for("t", on_conflict).await;
    }
}
