//! The state directory is lost or its journal damaged: the ledger on the target knows as much.

use std::io::{Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::random::Random;
use crate::stage::{JOB, Stage};

const WOUNDS: u64 = 10;
/// Rows of the batches whose receipts one flush may carry: four in flight, of a hundred rows each.
const UNFLUSHED_ROWS: u64 = 400;
const WOUND_BYTES: usize = 64;

/// A stage whose job was killed with more than so many rows on the target.
fn interrupted(rows: u64, batch_rows: &str) -> Stage {
    let stage = Stage::new(60_000);
    let slow = ["--batch-rows", batch_rows, "--max-rate", "6MB/s"];
    let process = stage.begin(&mut stage.migrate(&slow));
    stage.until_rows(rows);
    assert_eq!(process.kill().signal, Some(9));
    stage
}

#[test]
fn a_lost_state_directory_costs_no_row_and_brings_none_twice_whatever_the_size_of_batches() {
    let stage = interrupted(20_000, "700");
    std::fs::remove_dir_all(stage.state()).unwrap();
    let mut command = stage.command(&["migrate", "--table", JOB, "--progress", "json"]);
    command.args(["--source", &stage.source, "--target", &stage.target]);
    command.args(["--batch-rows", "1100", "--max-rate", "none"]);
    let again = stage.begin(&mut command).end();
    let again = again.assert_code(0).assert_said(&["ledger found on the target"]);
    let first: Value = serde_json::from_str(again.stdout.lines().next().unwrap()).unwrap();
    let rows_done = first["tables"][0]["rows_done"].as_u64();
    assert!(
        rows_done > Some(20_000),
        "what the ledger has, from the first line: {first}"
    );
    stage.assert_moved();
    assert_eq!(stage.status()["tables"][0]["rows_done"], 60_000);
}

#[test]
fn a_state_directory_that_is_lost_again_and_again_costs_no_row() {
    let stage = Stage::new(20_000);
    for batch_rows in ["300", "700", "150", "900"] {
        let rows = stage.rows();
        let slow = ["--batch-rows", batch_rows, "--max-rate", "2MB/s"];
        let process = stage.begin(&mut stage.migrate(&slow));
        stage.until_rows(rows);
        assert_eq!(process.kill().signal, Some(9));
        std::fs::remove_dir_all(stage.state()).unwrap();
    }
    stage.begin(&mut stage.migrate(&[])).end().assert_code(0);
    stage.assert_moved();
}

#[test]
fn a_damaged_journal_costs_no_row_and_brings_none_twice_wherever_the_damage_is() {
    let mut random = Random::seeded();
    let stage = interrupted(30_000, "100");
    let kept = stage.path("kept");
    copy_directory(&stage.state(), &kept);
    let whole = stage.status();
    stage.keep_target();
    let (mut refused, mut answered) = (0, 0);
    for number in 0..WOUNDS {
        std::fs::remove_dir_all(stage.state()).unwrap();
        copy_directory(&kept, &stage.state());
        stage.bring_target_back();
        wound(&largest_file(&stage.state().join("journal")), number, &mut random);
        let ended = stage.run(&["status", JOB, "--json"]);
        let is_refused = ended.code == Some(5);
        if is_refused {
            refused += 1;
            println!("wound {number}: refused");
            ended.assert_said(&["journal", "damaged", "hint:"]);
        } else {
            answered += 1;
            let status: Value = serde_json::from_str(&ended.assert_code(0).stdout).unwrap();
            let rows = |status: &Value| status["tables"][0]["rows_done"].as_u64().unwrap();
            println!("wound {number}: {} of {} rows", rows(&status), rows(&whole));
            // What was not flushed yet when the process was killed may be cut off; what was durable may not.
            let (left, had) = (rows(&status), rows(&whole));
            assert!(
                left <= had && had - left <= UNFLUSHED_ROWS,
                "wound {number}: {left} of {had} rows"
            );
        }
        let again = stage
            .begin(&mut stage.migrate(&["--batch-rows", "150", "--max-rate", "none"]))
            .end();
        let again = again.assert_code(0);
        if is_refused {
            again.assert_said(&["damaged", "set aside", "ledger found on the target"]);
            assert_eq!(
                set_aside(&stage),
                1,
                "the damaged journal is kept for whoever wants to look"
            );
        }
        stage.assert_moved();
    }
    assert!(
        refused > 0,
        "no wound of {WOUNDS} was seen; {answered} were harmless"
    );
}

fn set_aside(stage: &Stage) -> usize {
    let entries = std::fs::read_dir(stage.state()).unwrap();
    let names = entries.map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned());
    names.filter(|name| name.starts_with("journal.damaged-")).count()
}

/// Overwrites some bytes, in a different part of the file for each number.
fn wound(file: &Path, number: u64, random: &mut Random) {
    let part = std::fs::metadata(file).unwrap().len() / WOUNDS;
    let mut opened = std::fs::File::options().write(true).open(file).unwrap();
    opened
        .seek(SeekFrom::Start(part * number + random.within(0..part)))
        .unwrap();
    let bytes: [u8; WOUND_BYTES] = std::array::from_fn(|_| random.next() as u8);
    opened.write_all(&bytes).unwrap();
}

fn largest_file(directory: &Path) -> PathBuf {
    let (mut folders, mut files) = (vec![directory.to_owned()], Vec::new());
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let entry = entry.unwrap();
            let metadata = entry.metadata().unwrap();
            if metadata.is_dir() {
                folders.push(entry.path());
            } else {
                files.push((metadata.len(), entry.path()));
            }
        }
    }
    files.into_iter().max().expect("a journal has files").1
}

/// Everything but sockets.
fn copy_directory(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let (kind, copy) = (entry.file_type().unwrap(), to.join(entry.file_name()));
        if kind.is_dir() {
            copy_directory(&entry.path(), &copy);
        } else if kind.is_file() {
            std::fs::copy(entry.path(), copy).unwrap();
        }
    }
    let mode = std::fs::metadata(from).unwrap().permissions();
    std::fs::set_permissions(to, mode).unwrap();
}
