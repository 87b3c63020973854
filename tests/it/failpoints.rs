//! A death at every named place of the code, as a power cut would bring it; then the same command again.

use longhaul::failpoint;

use crate::binary::Ended;
use crate::random::Random;
use crate::stage::Stage;

const ROWS: u64 = 20_000;
const BATCHES: [&str; 2] = ["--batch-rows", "500"];
const SIGABRT: i32 = 6;

/// Runs with one failpoint armed: it is passed so many times, then the process dies there.
fn run_to(stage: &Stage, failpoint: &str, passages: u32) -> Ended {
    let action = match passages {
        0 => format!("{failpoint}=return"),
        passages => format!("{failpoint}={passages}*off->return"),
    };
    stage
        .begin(stage.migrate(&BATCHES).env("FAILPOINTS", action))
        .end()
}

#[track_caller]
fn assert_died(ended: &Ended, failpoint: &str, passages: u32) {
    let place = format!("at {failpoint} after {passages} passages");
    assert_eq!(ended.signal, Some(SIGABRT), "it dies {place}: {ended:?}");
}

#[track_caller]
fn finish(stage: &Stage) {
    stage.begin(&mut stage.migrate(&BATCHES)).end().assert_code(0);
    stage.assert_moved();
}

/// After how many passages the process dies; a job is taken over once, the rest is passed for each batch or oftener.
fn passages(failpoint: &str) -> &'static [u32] {
    match failpoint {
        "ledger::after_take_over" => &[0],
        _ => &[0, 3, 17],
    }
}

fn die_at_each(chosen: impl Fn(&str) -> bool) {
    let chosen: Vec<_> = failpoint::ALL.into_iter().filter(|name| chosen(name)).collect();
    assert!(!chosen.is_empty());
    let stage = Stage::new(ROWS);
    for name in chosen {
        for passages in passages(name) {
            println!("{name} after {passages} passages");
            assert_died(&run_to(&stage, name, *passages), name, *passages);
            finish(&stage);
            stage.forget();
        }
    }
}

#[test]
fn a_death_before_or_after_each_write_and_flush_of_the_journal_loses_nothing() {
    die_at_each(|name| name.starts_with("journal::"));
}

#[test]
fn a_death_between_an_answer_and_its_event_or_at_a_commit_of_the_target_loses_nothing() {
    die_at_each(|name| !name.starts_with("journal::"));
}

#[test]
fn two_deaths_in_a_row_lose_nothing() {
    let mut random = Random::seeded();
    let stage = Stage::new(ROWS);
    let mut pairs = vec![
        ("copy::after_commit", "copy::before_first_row"),
        ("ledger::after_take_over", "ledger::after_take_over"),
        (
            "service::before_activity_answer",
            "service::before_activity_answer",
        ),
        ("journal::after_flush", "journal::before_flush"),
    ];
    // The second death must be at a place that a job passes which is already prepared.
    let second: Vec<_> = failpoint::ALL
        .into_iter()
        .filter(|name| !name.starts_with("ledger::"))
        .collect();
    pairs.extend((0..4).map(|_| (*random.pick(&failpoint::ALL), *random.pick(&second))));
    for (first, second) in pairs {
        println!("{first}, then {second}");
        let passages = *passages(first).last().unwrap();
        assert_died(&run_to(&stage, first, passages), first, passages);
        assert_died(&run_to(&stage, second, 0), second, 0);
        finish(&stage);
        stage.forget();
    }
}
