//! `longhaul prune`: what has ended leaves the journal, whoever serves it, and nothing else does.

use serde_json::Value;
use temporalio_protos::temporal::api::workflowservice::v1::{
    DeleteWorkflowExecutionRequest, DeleteWorkflowExecutionResponse, DescribeWorkflowExecutionRequest,
    DescribeWorkflowExecutionResponse,
};

use crate::binary::{longhaul, until};
use crate::stage::{JOB, Stage, runtime};
use crate::wire::{Wire, execution};

fn prune(stage: &Stage, flags: &[&str]) -> Value {
    let arguments = [&["prune", "--json"], flags].concat();
    let ended = stage.run(&arguments).assert_code(0);
    serde_json::from_str(&ended.stdout).expect("JSON")
}

#[test]
fn what_was_followed_leaves_the_journal_and_a_jobs_last_run_only_where_it_is_asked_for() {
    let stage = Stage::new(500);
    for arguments in [
        &[][..],
        &["--restart", "--on-conflict", "skip"],
        &["--restart", "--on-conflict", "skip"],
    ] {
        stage.begin(&mut stage.migrate(arguments)).end().assert_code(0);
    }
    let young = prune(&stage, &[]);
    assert_eq!(
        (&young["runs"], &young["last_runs_kept"]),
        (&0.into(), &0.into()),
        "{young}"
    );
    let would = prune(&stage, &["--older-than", "0s", "--dry-run"]);
    let done = prune(&stage, &["--older-than", "0s"]);
    for told in [&would, &done] {
        assert_eq!(
            (&told["runs"], &told["jobs"], &told["last_runs_kept"]),
            (&2.into(), &1.into(), &1.into()),
            "{told}"
        );
        assert!(
            told["history_bytes"].as_u64() > Some(1000) && told["journal_bytes"].as_u64() > Some(0),
            "{told}"
        );
    }
    assert_eq!(
        (&would["dry_run"], &done["dry_run"]),
        (&true.into(), &false.into())
    );
    assert_eq!(prune(&stage, &["--older-than", "0s"])["runs"], 0);
    assert_eq!(stage.status()["state"], "COMPLETED");
    let ended = stage
        .run(&["prune", "--older-than", "0s", "--ended-jobs"])
        .assert_code(0);
    assert!(
        ended.stdout.starts_with("removed 1 run of 1 job, with "),
        "{ended:?}"
    );
    assert_eq!(stage.try_status(), None);
    // It is known to the ledger.
    let again = stage
        .begin(&mut stage.migrate(&["--on-conflict", "skip"]))
        .end()
        .assert_code(0);
    again.assert_said(&["continues from the ledger"]);
    assert_eq!(stage.status()["state"], "COMPLETED");
    stage.assert_moved();
}

#[test]
fn a_journal_that_another_process_serves_is_pruned_through_it_and_open_runs_stay() {
    let stage = Stage::new(500);
    for arguments in [&[][..], &["--restart", "--on-conflict", "skip"]] {
        stage.begin(&mut stage.migrate(arguments)).end().assert_code(0);
    }
    let server = stage.begin(&mut stage.command(&["server", "--listen", "127.0.0.1:0"]));
    let address = until("it listens", || {
        let said = server.said();
        Some(
            said.lines()
                .next()?
                .strip_prefix("listening on ")?
                .split(' ')
                .next()?
                .to_owned(),
        )
    });
    let deleted = |id: &str| DeleteWorkflowExecutionRequest {
        namespace: "default".into(),
        workflow_execution: execution(id),
    };
    let described = |id: &str| DescribeWorkflowExecutionRequest {
        namespace: "default".into(),
        execution: execution(id),
    };
    runtime().block_on(async {
        let client = Wire::to(&address).await;
        for id in ["open", "other"] {
            client.start("Any", id, "q", "null").await;
        }
        // As on a Temporal server, one that is open is terminated first.
        let _: DeleteWorkflowExecutionResponse = client
            .call("DeleteWorkflowExecution", deleted("other"))
            .await
            .unwrap();
        let gone =
            client.call::<DescribeWorkflowExecutionResponse>("DescribeWorkflowExecution", described("other"));
        assert_eq!(gone.await.unwrap_err().code(), tonic::Code::NotFound);
        let again =
            client.call::<DeleteWorkflowExecutionResponse>("DeleteWorkflowExecution", deleted("other"));
        assert_eq!(again.await.unwrap_err().code(), tonic::Code::NotFound);
    });
    let done = prune(&stage, &["--older-than", "0s", "--ended-jobs"]);
    assert_eq!((&done["runs"], &done["jobs"]), (&2.into(), &1.into()), "{done}");
    // What is left is whole.
    server.kill();
    let server = stage.begin(&mut stage.command(&["server", "--listen", &address]));
    until("it listens", || {
        server.said().contains("listening on").then_some(())
    });
    runtime().block_on(async {
        let client = Wire::to(&address).await;
        let open: DescribeWorkflowExecutionResponse = client
            .call("DescribeWorkflowExecution", described("open"))
            .await
            .unwrap();
        assert_eq!(open.workflow_execution_info.unwrap().status, 1, "it is open");
    });
    let listed = stage.run(&["list"]).assert_code(0);
    assert!(!listed.stdout.contains(JOB), "{listed:?}");
}

#[test]
fn where_nothing_was_journaled_there_is_nothing_to_remove() {
    let directory = tempfile::tempdir().unwrap();
    let mut command = longhaul(&directory.path().join("state"));
    let ended = crate::binary::Process::begin(command.arg("prune"), directory.path()).end();
    ended.assert_code(0).assert_said(&["nothing to remove"]);
    assert!(!directory.path().join("state").exists());
}
