//! SIGKILL at random moments.

use std::time::{Duration, Instant};

use crate::random::Random;
use crate::stage::Stage;

const ROWS: u64 = 300_000;
const KILLS: usize = 20;
/// So slow that the table takes far longer than all the runs that are killed.
const SLOW: [&str; 4] = ["--batch-rows", "2000", "--max-rate", "2MB/s"];
const FAST: [&str; 4] = ["--batch-rows", "2000", "--max-rate", "none"];

#[test]
fn a_process_that_is_killed_twenty_times_at_random_moments_moves_every_row_once() {
    let mut random = Random::seeded();
    let stage = Stage::new(ROWS);
    // How long a run takes to its first row is the machine's; the moments are on both sides of it.
    let (begun, process) = (Instant::now(), stage.begin(&mut stage.migrate(&SLOW)));
    stage.until_rows(0);
    let longest = 3 * u64::try_from(begun.elapsed().as_millis()).unwrap();
    assert_eq!(process.kill().signal, Some(9));
    let mut rows = vec![stage.rows()];
    for _ in 0..KILLS {
        let process = stage.begin(&mut stage.migrate(&SLOW));
        // The moment is what is random here; nothing is waited for.
        std::thread::sleep(Duration::from_millis(random.within(30..longest)));
        let ended = process.kill();
        assert_eq!(ended.signal, Some(9), "the kill hits a live process: {ended:?}");
        rows.push(stage.rows());
    }
    let copying = rows.windows(2).filter(|pair| pair[0] < pair[1]).count();
    assert!(
        copying >= 5 && rows[KILLS] < ROWS,
        "many kills hit while rows are being copied: {rows:?}"
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

#[test]
fn a_job_that_is_renewed_all_the_time_moves_every_row_once_though_it_is_killed() {
    let stage = Stage::new(10_000);
    let begin = |rate| {
        let mut command = stage.migrate(&["--batch-rows", "100", "--max-rate", rate]);
        stage.begin(command.env("FAILPOINTS", "service::renew_after=return(30)"))
    };
    let mut runs = std::collections::BTreeSet::new();
    for _ in 0..5 {
        let rows = stage.rows();
        let process = begin("1MB/s");
        stage.until_rows(rows + 1000);
        runs.insert(stage.status()["run_id"].to_string());
        assert_eq!(process.kill().signal, Some(9));
    }
    begin("none").end().assert_code(0);
    stage.assert_moved();
    assert!(runs.len() > 2, "it was renewed: {runs:?}");
    let table = &stage.status()["tables"][0];
    assert_eq!(
        (&table["rows_done"], &table["batches_done"]),
        (&10_000.into(), &100.into())
    );
}
