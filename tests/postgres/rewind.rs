//! A source that has gone back in time is told from one whose last rows were deleted, and from a failover that lost nothing.

use crate::servers::{Run, key, run, session, spec};
use crate::shared::{pair, sql, value};
use crate::standby::until_received;
use longhaul::postgres::{
    Error, Kind, Retry, ServerOptions, Session, Side, Standby, StopMode, ThrowawayServer, cursor, ledger,
    rewind,
};
use longhaul::table::{Key, OnConflict, SourceSeen};
use tokio::task::block_in_place;

const TABLE: &str = "CREATE TABLE t (id int PRIMARY KEY)";

/// A source that can be failed over, a target, and a job between them.
struct Scene {
    source: ThrowawayServer,
    target: Session,
    run: Run,
}

impl Scene {
    async fn new(number: u32) -> Self {
        let options = ServerOptions {
            fsync: false,
            ..ServerOptions::default()
        };
        let source = block_in_place(|| ThrowawayServer::start(&options)).unwrap();
        let url = source.url("postgres");
        sql(&url, TABLE).await;
        sql(&url, "INSERT INTO t SELECT generate_series(1, 5)").await;
        let name = format!("rewind{number}");
        let other = block_in_place(pair);
        sql(&other.1.url("postgres"), &format!("CREATE DATABASE {name}")).await;
        let target_url = other.1.url(&name);
        sql(&target_url, TABLE).await;
        let target = session(&target_url, Side::Target).await;
        let from = session(&url, Side::Source).await;
        let run = run(&from, &target, spec("t", OnConflict::Error)).await.unwrap();
        Self { source, target, run }
    }

    fn url(&self) -> String {
        self.source.url("postgres")
    }

    /// What each round does, as some user.
    async fn note_as(&self, user: &str) -> Result<SourceSeen, Error> {
        let url = self.url().replace("postgres@", &format!("{user}@"));
        let source = session(&url, Side::Source).await;
        let Run {
            spec, plan, fence, ..
        } = &self.run;
        let highest = cursor::highest_key(&source, plan).await?;
        rewind::note(
            &source,
            &self.target,
            spec,
            plan,
            fence.epoch,
            highest.as_ref(),
            None,
        )
        .await?;
        Ok(ledger::source_seen(&self.target, spec, plan).await?.unwrap())
    }

    async fn note(&self) -> Result<SourceSeen, Error> {
        self.note_as("postgres").await
    }

    /// What each start does.
    async fn check(&self) -> Result<(), Error> {
        let source = session(&self.url(), Side::Source).await;
        let Run { spec, plan, .. } = &self.run;
        rewind::check(&source, &self.target, spec, plan).await
    }

    /// A standby that has all that there is by now, and receives nothing more.
    async fn standby(&self) -> Standby {
        let standby = block_in_place(|| self.source.standby()).unwrap();
        until_received(&self.url(), &standby.url("postgres")).await;
        block_in_place(|| standby.stop_receiving()).unwrap();
        standby
    }

    fn fail_over(&mut self, standby: Standby) {
        block_in_place(|| self.source.fail_over_to(standby)).unwrap();
    }

    async fn add(&self, from: u32, to: u32) {
        let rows = format!("INSERT INTO t SELECT generate_series({from}, {to})");
        sql(&self.url(), &rows).await;
    }
}

fn some(text: &str) -> Option<Key> {
    Some(key(&[text]))
}

#[track_caller]
fn assert_rewound(answer: Result<impl std::fmt::Debug, Error>, words: &[&str]) {
    let error = answer.unwrap_err();
    let said = format!("{} / {}", error.chain(), error.hint());
    assert_eq!(
        (error.kind(), error.side(), error.retry()),
        (Kind::SourceRewound, Side::Source, Retry::Never),
        "{said}"
    );
    for word in [words, &["gone back in time", "--restart --on-conflict update"]].concat() {
        assert!(said.contains(word), "{word} is not in: {said}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failover_that_lost_what_was_seen_is_told_and_one_that_lost_nothing_of_it_is_not() {
    let mut scene = Scene::new(1).await;
    let first = scene.note().await.unwrap();
    assert_eq!(
        (first.key.clone(), first.wal.unwrap().timeline),
        (some("5"), Some(1))
    );
    // The log grows; the key does not, and neither does what is remembered.
    sql(
        &scene.url(),
        "CREATE TABLE other AS SELECT generate_series(1, 1000)",
    )
    .await;
    assert_eq!(scene.note().await.unwrap(), first);
    let standby = scene.standby().await;
    // What nobody has seen is lost.
    scene.add(6, 8).await;
    scene.fail_over(standby);
    scene.check().await.unwrap();
    let second = scene.note().await.unwrap();
    let (before, after) = (first.wal.unwrap(), second.wal.unwrap());
    assert_eq!((second.key, second.told_below), (some("5"), false));
    assert_eq!((after.timeline, after.lsn), (Some(2), before.lsn));

    let standby = scene.standby().await;
    scene.add(6, 9).await;
    assert_eq!(scene.note().await.unwrap().key, some("9"));
    scene.fail_over(standby);
    // Even once the new log is longer than the old one was, and its keys have passed those that were lost.
    scene.add(6, 7).await;
    assert_rewound(scene.check().await, &["(9)", "(7)", "timeline 2", "timeline 3"]);
    scene.add(8, 5000).await;
    sql(
        &scene.url(),
        "CREATE TABLE more AS SELECT generate_series(1, 10000)",
    )
    .await;
    let here = value(&scene.url(), "SELECT pg_current_wal_flush_lsn()").await;
    assert!(here.parse::<longhaul::table::Lsn>().unwrap() > after.lsn);
    assert_rewound(scene.check().await, &["(5000)"]);
    assert_rewound(scene.note().await, &["(5000)"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_user_who_may_not_read_where_a_timeline_begins_goes_by_the_keys_and_a_standby_is_waited_for() {
    let mut scene = Scene::new(2).await;
    let grant = "CREATE ROLE reader LOGIN; GRANT SELECT ON t TO reader";
    sql(&scene.url(), grant).await;
    let standby = scene.standby().await;
    let standby_url = standby.url("postgres");
    scene.add(6, 9).await;
    assert_eq!(scene.note_as("reader").await.unwrap().key, some("9"));
    // The standby itself has not come as far; that may pass.
    let source = session(&standby_url, Side::Source).await;
    let Run { spec, plan, .. } = &scene.run;
    let lags = rewind::check(&source, &scene.target, spec, plan)
        .await
        .unwrap_err();
    assert_eq!((lags.kind(), lags.retry()), (Kind::Transient, Retry::Retry));
    assert!(lags.chain().contains("standby"), "{}", lags.chain());
    drop(source);
    scene.fail_over(standby);
    sql(
        &scene.url(),
        "CREATE TABLE more AS SELECT generate_series(1, 10000)",
    )
    .await;
    // Started anew since it was promoted, the server does not tell this user where it ended its recovery.
    assert_rewound(scene.note_as("reader").await, &["(9)", "(5)"]);
    // The keys alone prove nothing once they have passed those that were lost; whoever may read the history still knows.
    scene.add(6, 20).await;
    assert_rewound(scene.check().await, &["(20)"]);
    let seen = scene.note_as("reader").await.unwrap();
    assert_eq!((seen.key, seen.wal.unwrap().timeline), (some("20"), Some(2)));
}

#[tokio::test(flavor = "multi_thread")]
async fn last_rows_that_are_deleted_or_a_crash_are_no_way_back_in_time() {
    let scene = Scene::new(3).await;
    let first = scene.note().await.unwrap();
    sql(&scene.url(), "DELETE FROM t WHERE id > 3").await;
    let below = scene.note().await.unwrap();
    assert_eq!(
        (below.key, below.wal, below.told_below),
        (some("5"), first.wal, true)
    );
    scene.check().await.unwrap();
    block_in_place(|| scene.source.stop(StopMode::Immediate)).unwrap();
    block_in_place(|| scene.source.restart()).unwrap();
    scene.check().await.unwrap();
    assert!(scene.note().await.unwrap().told_below);
    scene.add(6, 6).await;
    let again = scene.note().await.unwrap();
    assert_eq!((again.key, again.told_below), (some("6"), false));
    // Taking the job over keeps what was seen.
    let from = session(&scene.url(), Side::Source).await;
    let later = run(&from, &scene.target, spec("t", OnConflict::Error))
        .await
        .unwrap();
    let kept = ledger::source_seen(&scene.target, &later.spec, &later.plan)
        .await
        .unwrap();
    assert_eq!(kept.and_then(|seen| seen.key), some("6"));
    // A run that was taken over writes nothing any more.
    scene.add(7, 7).await;
    assert_eq!(scene.note().await.unwrap_err().kind(), Kind::Fenced);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_source_that_is_put_back_to_a_backup_has_gone_back_in_time() {
    let scene = Scene::new(4).await;
    let backup = block_in_place(|| scene.source.backup()).unwrap();
    sql(
        &scene.url(),
        "CREATE TABLE more AS SELECT generate_series(1, 10000)",
    )
    .await;
    scene.add(6, 9).await;
    scene.note().await.unwrap();
    block_in_place(|| scene.source.restore(backup)).unwrap();
    assert_rewound(scene.check().await, &["(9)", "(5)"]);
}
