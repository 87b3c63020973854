//! A sync goes on along a key only as long as new rows get keys above those that are there.

use crate::servers::{Databases, spec, sql};
use longhaul::postgres::{Ask, Error, Kind, Side, check_growth, cursor, look};
use longhaul::table::OnConflict;

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
