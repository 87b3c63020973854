//! SIGKILL at random moments.

use std::time::Duration;

use crate::random::Random;
use crate::stage::Stage;

const ROWS: u64 = 300_000;
const KILLS: u32 = 20;
/// So slow that the table takes far longer than all the runs that are killed.
const SLOW: [&str; 4] = ["--batch-rows", "2000", "--max-rate", "8MB/s"];
const FAST: [&str; 4] = ["--batch-rows", "2000", "--max-rate", "none"];

#[test]
fn a_process_that_is_killed_twenty_times_at_random_moments_moves_every_row_once() {
    let mut random = Random::seeded();
    let stage = Stage::new(ROWS);
    let (mut kills, mut copied_before) = (0, Vec::new());
    while kills < KILLS {
        let process = stage.begin(&mut stage.migrate(&SLOW));
        // The moment is what is random here; nothing is waited for.
        std::thread::sleep(Duration::from_millis(random.within(30..900)));
        let ended = process.kill();
        assert_eq!(ended.signal, Some(9), "the kill hits a live process: {ended:?}");
        kills += 1;
        copied_before.push(stage.rows());
    }
    let halfway = copied_before
        .iter()
        .filter(|rows| (1..ROWS).contains(rows))
        .count();
    assert!(
        halfway >= 10,
        "most kills hit in the middle of the table: {copied_before:?}"
    );
    stage.begin(&mut stage.migrate(&FAST)).end().assert_code(0);
    stage.assert_moved();
    assert_eq!(stage.rows(), ROWS);
    let status = stage.status();
    assert_eq!(status["state"], "COMPLETED");
    assert_eq!(
        status["tables"][0]["rows_done"], ROWS,
        "what was found in the ledger counts once"
    );
}

#[test]
fn a_process_that_is_killed_as_soon_as_a_batch_commits_moves_every_row_once() {
    let stage = Stage::new(20_000);
    let slow = ["--batch-rows", "500", "--max-rate", "2MB/s", "--concurrency", "8"];
    for _ in 0..8 {
        let rows = stage.rows();
        let process = stage.begin(&mut stage.migrate(&slow));
        stage.until_rows(rows);
        assert_eq!(process.kill().signal, Some(9));
    }
    stage
        .begin(&mut stage.migrate(&["--max-rate", "none"]))
        .end()
        .assert_code(0);
    stage.assert_moved();
}
