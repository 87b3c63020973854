//! A job that the first version of longhaul began and did not end: its own command goes on from the ledger it left.
//!
//! What that version leaves is made here: its workflow, open, in the journal, and its ledger (layout 1) on the target.

use std::os::unix::fs::PermissionsExt;

use longhaul::connect;
use serde_json::json;
use temporalio_client::WorkflowStartOptions;
use temporalio_macros::{workflow, workflow_methods};
use temporalio_workflow::{WorkflowContext, WorkflowResult};

use crate::binary::until;
use crate::stage::{JOB, Stage, ask, tell};

const ROWS: u64 = 3000;

/// By name, what the first version ran.
#[workflow]
#[derive(Default)]
struct MigrateTable;

#[workflow_methods]
impl MigrateTable {
    #[run]
    async fn run(_: &mut WorkflowContext<Self>, _: serde_json::Value) -> WorkflowResult<()> {
        Ok(())
    }
}

const LAYOUT_1: &str = "
    ALTER TABLE longhaul.jobs ADD source_table text, ADD target_table text, ADD key_columns text[], ADD epoch bigint,
        ADD runs bigint NOT NULL DEFAULT 1, ADD settled text[];
    UPDATE longhaul.jobs j SET source_table = t.table_name, target_table = t.target_table, key_columns = t.key_columns,
        epoch = t.epoch, settled = t.settled FROM longhaul.tables t WHERE t.job = j.job;
    ALTER TABLE longhaul.jobs ALTER source_table SET NOT NULL, ALTER target_table SET NOT NULL,
        ALTER key_columns SET NOT NULL, ALTER epoch SET NOT NULL;
    DROP TABLE longhaul.tables;
    DROP INDEX longhaul.batches_low;
    ALTER TABLE longhaul.batches DROP format, DROP low_hash;
    CREATE UNIQUE INDEX batches_low ON longhaul.batches (job, table_name, low) WHERE pass = 0;
    UPDATE longhaul.format SET version = 1";

/// A job of the first version in its middle, that nobody runs.
fn left_open(kind: &serde_json::Value) -> Stage {
    let stage = Stage::new(ROWS);
    let slow = ["--batch-rows", "100", "--max-rate", "300kB/s"];
    let process = stage.begin(&mut stage.migrate(&slow));
    stage.until_rows(ROWS / 6);
    assert_eq!(process.kill().signal, Some(9));
    until("a target without sessions", || {
        let ours = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND application_name LIKE 'longhaul%'";
        (ask(&stage.target, ours) == "0").then_some(())
    });
    tell(&stage.target, LAYOUT_1);
    std::fs::remove_dir_all(stage.state()).unwrap();
    std::fs::create_dir(stage.state()).unwrap();
    let closed = std::fs::Permissions::from_mode(0o700);
    std::fs::set_permissions(stage.state(), closed).unwrap();
    let table = json!({"schema": null, "name": JOB});
    let spec = json!({
        "name": JOB, "kind": kind, "source": stage.source, "target": stage.target, "source_table": table,
        "target_table": table, "on_conflict": "error", "lookback_keys": null,
        "tuning": {"concurrency": 4, "batch_rows": 100, "max_rate_bytes_per_second": null}
    });
    let input = json!({"spec": spec, "paused": false, "resumption": null});
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    let runtime = runtime.worker_threads(2).enable_all().build().unwrap();
    tokio::task::LocalSet::new().block_on(&runtime, async {
        let owned = connect::share(&stage.state()).await.unwrap();
        let options = WorkflowStartOptions::new(format!("longhaul/{JOB}"), JOB).build();
        owned
            .client
            .start_workflow(MigrateTable::run, input, options)
            .await
            .unwrap();
    });
    drop(runtime);
    stage
}

#[track_caller]
fn assert_told(stage: &Stage) {
    let status = stage.status();
    assert_eq!(status["state"], "INTERRUPTED");
    let words = status["last_failure"].as_str().unwrap();
    assert!(
        words.contains("an earlier version of longhaul began it"),
        "{words}"
    );
    let cancel = stage.run(&["cancel", JOB]).assert_code(1);
    cancel.assert_said(&["an earlier version", "its own command"]);
}

#[test]
fn a_migrate_of_the_first_version_is_gone_on_with_by_its_own_command() {
    let stage = left_open(&json!("migrate"));
    assert_told(&stage);
    let before = ask(&stage.target, "SELECT count(*) FROM longhaul.batches");
    let ended = stage.begin(&mut stage.migrate(&[])).end().assert_code(0);
    ended.assert_said(&[
        "continues from the ledger found on the target",
        "is complete: 3,000 rows",
    ]);
    stage.assert_moved();
    let status = stage.status();
    assert_eq!(
        (&status["state"], &status["last_failure"]),
        (&"COMPLETED".into(), &serde_json::Value::Null)
    );
    let kept = "SELECT count(*) FILTER (WHERE format IS NULL) || ' of layout ' || (SELECT version FROM longhaul.format)
                FROM longhaul.batches";
    assert_eq!(
        ask(&stage.target, kept),
        format!("{before} of layout 2"),
        "none was copied again"
    );
}

#[test]
fn a_migrate_of_the_first_version_is_gone_on_with_by_resume() {
    let stage = left_open(&json!("migrate"));
    let resumed = stage.run(&["resume"]).assert_code(0);
    resumed.assert_said(&["continues from the ledger found on the target"]);
    stage.assert_moved();
}

#[test]
fn a_sync_of_the_first_version_is_gone_on_with_by_its_own_command() {
    let stage = left_open(&json!({"sync": {"interval_ms": 60_000}}));
    assert_told(&stage);
    let process = stage.begin(&mut stage.copy("sync", &["--interval", "1s"]));
    stage.until_rows(ROWS - 1);
    stage.add(50);
    stage.until_rows(ROWS + 49);
    stage.until_state("SLEEPING");
    process.interrupt();
    process.end().assert_code(130);
    stage.assert_moved();
}
