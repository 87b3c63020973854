//! What differs is found, named and put right: exactly that, and nothing that changes while it is looked at.

use crate::servers::{Databases, Run, another_look, client, key, range, sql, value};
use longhaul::postgres::{Kind, Unmetered, cursor, ledger, verify};
use longhaul::table::{Difference, Findings, Key, KeyRange, OnConflict};
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

const TABLE: &str = "CREATE TABLE t (id int PRIMARY KEY, a text, n numeric, at timestamptz)";
const ROWS: &str =
    "INSERT INTO t SELECT i, 'x' || i, i / 7.0, to_timestamp(i) FROM generate_series(10, 50000, 10) i";

/// 5,000 rows, copied in batches of 700.
async fn copied() -> (Databases, Run) {
    let databases = Databases::new(TABLE, ROWS).await;
    let run = databases.opened("t").await;
    assert_eq!(databases.copy_all(&run, 700).await, 8);
    (databases, run)
}

async fn receipts(databases: &Databases, run: &Run, range: &KeyRange) -> Findings {
    verify::against_receipts(&databases.target, &run.plan, &run.spec, range, &Unmetered)
        .await
        .unwrap_or_else(|error| panic!("{}", error.chain()))
}

/// All units of the ledger, one after the other, of at least so many rows.
async fn units(databases: &Databases, run: &Run, rows: u64) -> Vec<KeyRange> {
    let (mut units, mut low) = (Vec::new(), None);
    let next = async |low: Option<&Key>| {
        verify::next_unit(&databases.target, &run.plan, &run.spec, low, rows)
            .await
            .unwrap()
    };
    while let Some(high) = next(low.as_ref()).await {
        units.push(KeyRange {
            low,
            high: high.clone(),
        });
        low = Some(high);
    }
    units
}

async fn against_all_receipts(databases: &Databases, run: &Run, rows: u64) -> Findings {
    let mut findings = Findings::default();
    for unit in units(databases, run, rows).await {
        findings += receipts(databases, run, &unit).await;
    }
    findings
}

/// Numbers that look random, and are the same again for the same seed.
struct Random(u64);

impl Random {
    fn new() -> Self {
        let seed = std::time::SystemTime::now()
            .duration_since(std::time::UNIX_EPOCH)
            .unwrap();
        let seed = u64::from(seed.subsec_nanos()) | 1;
        println!("seed {seed}");
        Self(seed)
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % bound
    }
}

/// Makes thirty differences at random keys; gives what is to be found.
async fn differ(databases: &Databases) -> BTreeMap<Vec<String>, Difference> {
    let (mut random, mut wanted) = (Random::new(), BTreeMap::new());
    let mut statements = String::new();
    while wanted.len() < 30 {
        let id = (1 + random.below(5000)) * 10;
        let (key, difference) = match wanted.len() % 4 {
            0 => {
                statements.push_str(&format!("DELETE FROM t WHERE id = {id}; "));
                let key = key(&[&id.to_string()]);
                (key.clone(), Difference::Missing { key })
            }
            1 => {
                let id = id - 1 - random.below(9);
                statements.push_str(&format!("INSERT INTO t VALUES ({id}, 'extra'); "));
                let key = key(&[&id.to_string()]);
                (key.clone(), Difference::Extra { key })
            }
            other => {
                let (set, columns) = match other {
                    2 => ("at = at + interval '1 us'", vec!["at"]),
                    _ => ("a = a || ' ', n = NULL", vec!["a", "n"]),
                };
                statements.push_str(&format!("UPDATE t SET {set} WHERE id = {id}; "));
                let columns = columns.into_iter().map(str::to_owned).collect();
                let key = key(&[&id.to_string()]);
                (key.clone(), Difference::Changed { key, columns })
            }
        };
        if wanted.insert(key.0.clone(), difference).is_some() {
            // That key was drawn before: begin again.
            (statements, wanted) = (String::new(), BTreeMap::new());
        }
    }
    sql(&databases.target_url, &statements).await;
    wanted
}

fn by_key(findings: &Findings) -> BTreeMap<Vec<String>, Difference> {
    let keys = findings.told.iter().map(|difference| match difference {
        Difference::Missing { key } | Difference::Extra { key } | Difference::Changed { key, .. } => {
            (key.0.clone(), difference.clone())
        }
        Difference::Range { .. } => panic!("{difference:?}"),
    });
    keys.collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn thirty_differences_in_five_thousand_rows_are_named_and_put_right() {
    let (databases, run) = copied().await;
    let all = range(None, "50000");
    let sides = databases.sides(&run.plan);
    let found = verify::against_source(sides, &all, true).await.unwrap();
    assert_eq!((found.differences(), found.rows), (0, 5000));
    assert_eq!(against_all_receipts(&databases, &run, 1).await.differences(), 0);
    let wanted = differ(&databases).await;
    let found = verify::against_source(sides, &all, true).await.unwrap();
    assert_eq!(by_key(&found), wanted);
    assert_eq!(
        (found.missing, found.extra, found.changed, found.told.len()),
        (8, 8, 14, 30)
    );
    // What only the source has is passed over where it is not due yet.
    let later = verify::against_source(sides, &all, false).await.unwrap();
    assert_eq!((later.missing, later.differences()), (0, 22));
    assert!(against_all_receipts(&databases, &run, 1).await.ranges_different > 0);
    // Unit by unit, as a job does it; extra rows stay until they are told to go.
    for delete_extra in [false, true] {
        let mut repaired = 0;
        for unit in units(&databases, &run, 700).await {
            let found = verify::against_source(sides, &unit, true).await.unwrap();
            let fence = Some(&run.fence);
            repaired += verify::repair(sides, &run.spec, fence, &unit, &found, delete_extra)
                .await
                .unwrap();
            // No receipt vouches for rows that were never sent.
            let different = u64::from(!delete_extra && found.extra > 0);
            assert_eq!(
                receipts(&databases, &run, &unit).await.differences(),
                different,
                "{unit:?}"
            );
        }
        assert_eq!(repaired, if delete_extra { 8 } else { 22 });
        let found = verify::against_source(sides, &all, true).await.unwrap();
        assert_eq!(found.differences(), if delete_extra { 0 } else { 8 });
    }
    databases.assert_same("t").await;
    assert_eq!(against_all_receipts(&databases, &run, 1).await.differences(), 0);
    let position = databases.position(&run).await;
    assert_eq!(
        (position.tally.rows, position.copied),
        (5000, Some(key(&["50000"])))
    );
    assert!(position.beyond.is_empty() && position.tally.batches == 8);
}

#[tokio::test(flavor = "multi_thread")]
async fn receipts_tell_of_any_change_of_the_target_in_the_range_where_it_is() {
    let (databases, run) = copied().await;
    for (change, rows_found) in [
        ("UPDATE t SET a = a || ' ' WHERE id = 7010", 700),
        ("DELETE FROM t WHERE id = 7020", 699),
        ("INSERT INTO t VALUES (7021, NULL)", 701),
        ("UPDATE t SET id = id + 1 WHERE id = 7030", 700),
        ("UPDATE t SET n = n::numeric(20, 15) WHERE id = 7040", 700),
    ] {
        let changing = client(&databases.target_url).await;
        changing
            .batch_execute(&format!("BEGIN; {change}; COMMIT"))
            .await
            .unwrap();
        let found = against_all_receipts(&databases, &run, 1).await;
        assert_eq!(
            (found.ranges, found.ranges_different, found.ranges_unproved),
            (8, 1, 0),
            "{change}"
        );
        let told = Difference::Range {
            range: range(Some("7000"), "14000"),
            rows_sent: 700,
            rows_found,
        };
        assert_eq!(found.told, [told], "{change}");
        sql(
            &databases.target_url,
            "DELETE FROM t WHERE id BETWEEN 7001 AND 14000",
        )
        .await;
        let target = &databases.target_url;
        let rows = sql(
            &databases.source_url,
            "SELECT format('(%s, %L, %s, %L)', id, a, n, at) FROM t WHERE id BETWEEN 7001 AND 14000",
        )
        .await;
        let rows: Vec<_> = rows.into_iter().flatten().flatten().collect();
        sql(target, &format!("INSERT INTO t VALUES {}", rows.join(", "))).await;
        assert_eq!(
            against_all_receipts(&databases, &run, 1).await.differences(),
            0,
            "put back"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_unit_is_as_long_as_the_looks_that_are_in_it() {
    let (databases, run) = copied().await;
    sql(
        &databases.source_url,
        "INSERT INTO t VALUES (1, 'late'), (10001, 'late'), (20001, 'late'), (36000 + 1, 'late')",
    )
    .await;
    // One look ends within a range, one goes over two of them, one is a range of its own.
    for (number, low, high) in [
        (20, None, "5000"),
        (21, Some("8000"), "20010"),
        (22, Some("35000"), "42000"),
    ] {
        let tally = databases
            .copy(&run, &another_look(number, range(low, high)))
            .await
            .unwrap();
        assert_eq!(tally.rows, if number == 21 { 2 } else { 1 });
    }
    let ends = async |rows| {
        let units = units(&databases, &run, rows).await;
        units
            .into_iter()
            .map(|unit| unit.high.0.concat())
            .collect::<Vec<_>>()
            .join(" ")
    };
    assert_eq!(ends(1).await, "7000 21000 28000 35000 42000 49000 50000");
    assert_eq!(ends(1500).await, "21000 42000 50000");
    assert_eq!(ends(1_000_000).await, "50000");
    let end = verify::end_of_units(&databases.target, &run.plan, &run.spec, None)
        .await
        .unwrap();
    assert_eq!(end, Some(key(&["50000"])));
    let nowhere = verify::next_unit(&databases.target, &run.plan, &run.spec, Some(&key(&["123"])), 1).await;
    assert_eq!(nowhere.unwrap(), None);
    for rows in [1, 1500, 1_000_000] {
        let found = against_all_receipts(&databases, &run, rows).await;
        assert_eq!((found.differences(), found.rows), (0, 5004), "{rows}");
    }
    // A repair puts one receipt in the place of the unit's: first copies and looks alike.
    sql(&databases.target_url, "DELETE FROM t WHERE id IN (10001, 15000)").await;
    let sides = databases.sides(&run.plan);
    let unit = range(Some("7000"), "21000");
    let found = verify::against_source(sides, &unit, true).await.unwrap();
    assert_eq!(found.missing, 2);
    let repaired = verify::repair(sides, &run.spec, Some(&run.fence), &unit, &found, false)
        .await
        .unwrap();
    assert_eq!(repaired, 2);
    for rows in [1, 1500, 1_000_000] {
        let found = against_all_receipts(&databases, &run, rows).await;
        assert_eq!((found.differences(), found.rows), (0, 5004), "{rows}");
    }
    let position = databases.position(&run).await;
    assert_eq!((position.tally.rows, position.tally.batches), (5004, 7 + 2));
    assert_eq!(
        (position.copied, position.beyond),
        (Some(key(&["50000"])), Vec::new())
    );
    databases.assert_same("t").await;
}

/// A text key that the target orders in another way, with rows that only one side has.
async fn with_another_order() -> (Databases, Run) {
    let databases = Databases::new("", "").await;
    let table = "CREATE TABLE t (k text COLLATE \"en-x-icu\", n int, v text, PRIMARY KEY (k, n))";
    sql(
        &databases.source_url,
        &format!("{table}; INSERT INTO t SELECT x, i, 'v' || i FROM unnest(ARRAY['a','B','c','D','ä','z','Z','é']) x, generate_series(1, 300) i"),
    )
    .await;
    sql(&databases.target_url, &table.replace("\"en-x-icu\"", "\"C\"")).await;
    let run = databases.opened("t").await;
    assert!(!run.plan.same_order);
    assert_eq!(databases.copy_all(&run, 400).await, 6);
    (databases, run)
}

async fn all_of(databases: &Databases, run: &Run, session: &longhaul::postgres::Session) -> KeyRange {
    let high = cursor::highest_key(session, &run.plan).await.unwrap();
    assert!(databases.source.side() != databases.target.side());
    KeyRange {
        low: None,
        high: high.unwrap(),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_that_the_target_orders_in_another_way_are_looked_up_one_by_one() {
    let (databases, run) = with_another_order().await;
    let sides = databases.sides(&run.plan);
    let (here, there) = (
        all_of(&databases, &run, &databases.source).await,
        all_of(&databases, &run, &databases.target).await,
    );
    assert_ne!(here.high, there.high);
    let found = verify::by_keys(sides, &here, true).await.unwrap();
    assert_eq!((found.differences(), found.rows), (0, 2400));
    let sent = databases.position(&run).await.tally.bytes;
    assert_eq!(found.bytes, sent, "as they travel, however they are compared");
    assert_eq!(
        verify::only_on_target(sides, &there).await.unwrap().differences(),
        0
    );
    assert_eq!(receipts(&databases, &run, &here).await.differences(), 0);
    sql(
        &databases.target_url,
        "DELETE FROM t WHERE (k, n) IN (('a', 7), ('ä', 300), ('Z', 1)); UPDATE t SET v = 'other' WHERE (k, n) = ('B', 5);
         INSERT INTO t VALUES ('Q', 1, 'extra'), ('zz', 1, 'extra'), ('', 1, 'extra')",
    )
    .await;
    let missing = |k: &str, n: &str| Difference::Missing { key: key(&[k, n]) };
    let extra = |k: &str| Difference::Extra { key: key(&[k, "1"]) };
    let changed = Difference::Changed {
        key: key(&["B", "5"]),
        columns: vec!["v".to_owned()],
    };
    let wanted = [missing("Z", "1"), missing("a", "7"), missing("ä", "300"), changed];
    let found = verify::by_keys(sides, &here, true).await.unwrap();
    let mut told = found.told.clone();
    told.sort_by_key(|difference| format!("{difference:?}"));
    assert_eq!(told.len(), 4, "{told:?}");
    assert!(
        wanted.iter().all(|difference| told.contains(difference)),
        "{told:?}"
    );
    let there = all_of(&databases, &run, &databases.target).await;
    let only = verify::only_on_target(sides, &there).await.unwrap();
    assert_eq!(only.told.len(), 3, "{:?}", only.told);
    assert!(
        [extra("Q"), extra("zz"), extra("")]
            .iter()
            .all(|difference| only.told.contains(difference))
    );
    assert_eq!(receipts(&databases, &run, &here).await.ranges_different, 1);
    // Put right. Ranges mean nothing on the target: the receipts say that they prove nothing any more.
    let fence = Some(&run.fence);
    assert_eq!(
        verify::repair(sides, &run.spec, fence, &here, &found, false)
            .await
            .unwrap(),
        4
    );
    assert_eq!(
        verify::repair(sides, &run.spec, fence, &there, &only, true)
            .await
            .unwrap(),
        3
    );
    databases.assert_same("t").await;
    assert_eq!(
        verify::by_keys(sides, &here, true).await.unwrap().differences(),
        0
    );
    let found = receipts(&databases, &run, &here).await;
    assert_eq!((found.differences(), found.ranges_unproved), (0, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn receipts_of_looks_count_whatever_the_targets_order() {
    let (databases, run) = with_another_order().await;
    sql(
        &databases.source_url,
        "INSERT INTO t VALUES ('b', 1, 'late'), ('Z', 0, 'late')",
    )
    .await;
    // The end of a look, `a`, lies above the last key, `Z`, where bytes decide.
    for (number, low, high) in [
        (20, None, key(&["ä", "1"])),
        (21, Some(key(&["ä", "1"])), key(&["Z", "300"])),
    ] {
        let range = KeyRange { low, high };
        databases.copy(&run, &another_look(number, range)).await.unwrap();
    }
    let looks = value(
        &databases.target_url,
        "SELECT sum(rows) FROM longhaul.batches WHERE pass = 1",
    )
    .await;
    assert_eq!(looks, "2");
    sql(&databases.source_url, "INSERT INTO t VALUES ('A', 0, 'late')").await;
    let wanted = another_look(
        22,
        KeyRange {
            low: None,
            high: key(&["a", "300"]),
        },
    );
    assert_eq!(
        databases.copy(&run, &wanted).await.unwrap().rows,
        0,
        "A comes after a"
    );
    let wanted = another_look(
        23,
        KeyRange {
            low: None,
            high: key(&["b", "1"]),
        },
    );
    assert_eq!(databases.copy(&run, &wanted).await.unwrap().rows, 1);
    let all = all_of(&databases, &run, &databases.source).await;
    let found = receipts(&databases, &run, &all).await;
    assert_eq!((found.differences(), found.rows), (0, 2403), "{found:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_changes_between_the_two_looks_is_no_difference() {
    const DEADLINE: Duration = Duration::from_secs(30);
    let (databases, run) = copied().await;
    sql(
        &databases.target_url,
        "UPDATE t SET a = 'behind' WHERE id = 100; DELETE FROM t WHERE id = 200; UPDATE t SET a = 'wrong' WHERE id = 300",
    )
    .await;
    let sides = databases.sides(&run.plan);
    // Few enough to be compared row by row at once.
    let few = range(None, "4000");
    // The first look is over when the target has been asked for rows, and not only for their sums.
    let looked =
        "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'longhaul test' AND state = 'idle'
        AND datname = current_database() AND query LIKE '%; SELECT %'";
    let changing = async {
        let end = Instant::now() + DEADLINE;
        let asking = client(&databases.target_url).await;
        loop {
            let rows = asking.simple_query(looked).await.unwrap();
            let is_over = rows.iter().any(|message| {
                matches!(message, tokio_postgres::SimpleQueryMessage::Row(row) if row.get(0) == Some("1"))
            });
            if is_over {
                break;
            }
            assert!(Instant::now() < end, "nobody compares rows within {DEADLINE:?}");
        }
        let catching_up = "UPDATE t SET a = 'x100' WHERE id = 100; INSERT INTO t VALUES (200, 'x200', 200 / 7.0, to_timestamp(200))";
        asking.batch_execute(catching_up).await.unwrap();
    };
    let (found, ()) = tokio::join!(verify::against_source(sides, &few, true), changing);
    let wrong = Difference::Changed {
        key: key(&["300"]),
        columns: vec!["a".to_owned()],
    };
    assert_eq!(found.unwrap().told, [wrong]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repair_writes_only_under_the_fence_that_holds() {
    let (databases, run) = copied().await;
    sql(&databases.target_url, "DELETE FROM t WHERE id = 100").await;
    let sides = databases.sides(&run.plan);
    let unit = range(None, "7000");
    let found = verify::against_source(sides, &unit, true).await.unwrap();
    let repair = async |run: &Run| {
        verify::repair(
            databases.sides(&run.plan),
            &run.spec,
            Some(&run.fence),
            &unit,
            &found,
            true,
        )
        .await
    };
    let later = databases.opened("t").await;
    // Another run has it now: looked at again, the repair goes on under that one's epoch.
    assert_eq!(repair(&run).await.unwrap_err().kind(), Kind::TableChanged);
    let mut other = later.clone();
    other.fence.digest.target = "another".to_owned();
    assert_eq!(repair(&other).await.unwrap_err().kind(), Kind::TableChanged);
    let mut other = later.clone();
    other.fence.witnesses = vec![99];
    assert_eq!(repair(&other).await.unwrap_err().kind(), Kind::TargetRewound);
    assert_eq!(databases.kept("t").await, "4999 8");
    assert_eq!(repair(&later).await.unwrap(), 1);
    databases.assert_same("t").await;
    // Said twice, it is done once; and without a ledger there is none to keep.
    assert_eq!(repair(&later).await.unwrap(), 1);
    databases.assert_same("t").await;
    ledger::forget(&databases.target, &run.spec, &run.plan)
        .await
        .unwrap();
    sql(&databases.target_url, "DELETE FROM t WHERE id = 100").await;
    let alone = verify::repair(sides, &run.spec, None, &unit, &found, true).await;
    assert_eq!(alone.unwrap(), 1);
    assert_eq!(databases.kept("t").await, "5000 0");
    databases.assert_same("t").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_are_repaired_without_a_unique_index_on_the_target() {
    let databases = Databases::new("CREATE TABLE t (id int NOT NULL, a text)", "").await;
    sql(
        &databases.source_url,
        "ALTER TABLE t ADD PRIMARY KEY (id); INSERT INTO t SELECT i, 'x' FROM generate_series(1, 1000) i",
    )
    .await;
    let run = databases.opened_for("t", OnConflict::Error).await;
    databases.copy_all(&run, 300).await;
    let all = range(None, "2000");
    let missing = |id: &str| Difference::Missing { key: key(&[id]) };
    let extra = |id: &str| Difference::Extra { key: key(&[id]) };
    let changed = |id: &str| Difference::Changed {
        key: key(&[id]),
        columns: vec!["a".to_owned()],
    };
    for (unique, what) in [
        (
            false,
            "a row that is there twice, and three times, as it is and changed",
        ),
        (true, "the same with a unique index, but for those"),
    ] {
        sql(
            &databases.target_url,
            "DELETE FROM t WHERE id = 5; UPDATE t SET a = 'y' WHERE id = 6; INSERT INTO t VALUES (2000, 'z')",
        )
        .await;
        let mut wanted = vec![missing("5"), changed("6"), extra("2000")];
        if !unique {
            let twice = "INSERT INTO t VALUES (7, 'x'), (8, 'y'), (8, 'x'), (9, 'y'); UPDATE t SET a = 'z' WHERE id = 9";
            sql(&databases.target_url, twice).await;
            wanted.extend([extra("7"), extra("8"), extra("8"), changed("9"), extra("9")]);
        }
        let plan = databases.examine("t").await.unwrap();
        assert_eq!(plan.target_key_is_unique, unique);
        let sides = databases.sides(&plan);
        let found = verify::against_source(sides, &all, true).await.unwrap();
        let (mut told, count) = (found.told.clone(), wanted.len() as u64);
        told.sort_by_key(|difference| format!("{difference:?}"));
        wanted.sort_by_key(|difference| format!("{difference:?}"));
        assert_eq!((told, found.differences()), (wanted.clone(), count), "{what}");
        // By keys each of them is told once, by one side or the other.
        let from_source = verify::by_keys(sides, &all, true).await.unwrap();
        let from_target = verify::only_on_target(sides, &all).await.unwrap();
        assert_eq!(
            (from_source.extra, from_target.differences()),
            (0, from_target.extra)
        );
        assert_eq!(
            from_source.differences() + from_target.differences(),
            count,
            "{what}"
        );
        let repaired = verify::repair(sides, &run.spec, None, &all, &found, true)
            .await
            .unwrap();
        assert_eq!(repaired, count, "{what}");
        databases.assert_same("t").await;
        sql(
            &databases.target_url,
            "CREATE UNIQUE INDEX IF NOT EXISTS one ON t (id)",
        )
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_extra_row_that_the_source_has_by_now_is_not_deleted() {
    for target in [
        "CREATE TABLE t (id int PRIMARY KEY, a text)",
        "CREATE TABLE t (id int NOT NULL, a text)",
    ] {
        let databases = Databases::new(
            "",
            "CREATE TABLE t (id int PRIMARY KEY, a text); INSERT INTO t VALUES (1, 'a')",
        )
        .await;
        sql(
            &databases.target_url,
            &format!("{target}; INSERT INTO t VALUES (2, 'early')"),
        )
        .await;
        let run = databases.opened_for("t", OnConflict::Error).await;
        let (sides, all) = (databases.sides(&run.plan), range(None, "9"));
        let found = verify::against_source(sides, &all, true).await.unwrap();
        assert_eq!((found.missing, found.extra), (1, 1));
        sql(&databases.source_url, "INSERT INTO t VALUES (2, 'b')").await;
        verify::repair(sides, &run.spec, None, &all, &found, true)
            .await
            .unwrap();
        databases.assert_same("t").await;
        assert_eq!(
            value(
                &databases.target_url,
                "SELECT string_agg(a, '' ORDER BY id) FROM t"
            )
            .await,
            "ab"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repair_that_leaves_extra_rows_makes_no_receipt_of_them() {
    let (databases, run) = copied().await;
    let planted = "DELETE FROM t WHERE id = 100; INSERT INTO t VALUES (101, 'never sent')";
    sql(&databases.target_url, planted).await;
    let unit = range(None, "7000");
    let found = verify::against_source(databases.sides(&run.plan), &unit, true)
        .await
        .unwrap();
    assert_eq!((found.missing, found.extra), (1, 1));
    let repair = async |delete_extra: bool| {
        let sides = databases.sides(&run.plan);
        verify::repair(sides, &run.spec, Some(&run.fence), &unit, &found, delete_extra)
            .await
            .unwrap()
    };
    assert_eq!(repair(false).await, 1);
    assert_eq!(receipts(&databases, &run, &unit).await.ranges_different, 1);
    repair(true).await;
    assert_eq!(receipts(&databases, &run, &unit).await.ranges_different, 0);
    databases.assert_same("t").await;
}
