//! Workflows for the tests of the service: each uses a few of its features.

use std::sync::Arc;
use std::time::Duration;

use temporalio_macros::{activities, workflow, workflow_methods};
use temporalio_sdk::activities::{ActivityContext, ActivityError};
use temporalio_sdk::{
    ActivityOptions, ApplicationFailure, ContinueAsNewOptions, SyncWorkflowContext, TimerOptions,
    TimerResult, WorkflowContext, WorkflowContextView, WorkflowResult, WorkflowTermination,
};
use temporalio_workflow::{RetryPolicy, WorkflowCancellationToken};

/// Waits until its value is large enough.
#[workflow]
#[derive(Default)]
pub struct Counting {
    value: i64,
}

#[workflow_methods]
impl Counting {
    #[run]
    pub async fn run(ctx: &mut WorkflowContext<Self>, wanted: i64) -> WorkflowResult<i64> {
        // Its own token: the SDK panics, attempt after attempt, if a workflow's cancellation and the end of a timer that
        // the cancellation ends are news of one task, in this order. A server may send them so.
        let options = TimerOptions::builder(Duration::from_millis(20))
            .cancellation_token(WorkflowCancellationToken::new())
            .build();
        ctx.timer(options).await;
        let reached = ctx.wait_condition(|state| state.value >= wanted).await;
        reached.map_err(|_| WorkflowTermination::cancelled())?;
        Ok(ctx.state(|state| state.value))
    }

    #[signal]
    pub fn add(&mut self, _: &mut SyncWorkflowContext<Self>, amount: i64) {
        self.value += amount;
    }

    #[query]
    pub fn value(&self, _: &WorkflowContextView) -> i64 {
        self.value
    }

    #[update_validator(set)]
    fn validate_set(
        &self,
        _: &WorkflowContextView,
        value: &i64,
    ) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
        if *value < 0 {
            Err("the value must not be negative".into())
        } else {
            Ok(())
        }
    }

    #[update]
    pub fn set(&mut self, _: &mut SyncWorkflowContext<Self>, value: i64) -> i64 {
        std::mem::replace(&mut self.value, value)
    }
}

/// Sleeps for an hour.
#[workflow]
#[derive(Default)]
pub struct Sleeping;

#[workflow_methods]
impl Sleeping {
    #[run]
    pub async fn run(ctx: &mut WorkflowContext<Self>) -> WorkflowResult<()> {
        match ctx.timer(Duration::from_secs(3600)).await {
            TimerResult::Fired => Ok(()),
            TimerResult::Cancelled => Err(WorkflowTermination::cancelled()),
        }
    }
}

/// Activities for the tests.
#[derive(Default)]
pub struct Sample;

#[activities]
impl Sample {
    /// Fails until it was tried `attempts` times; a negative number fails for good.
    #[activity]
    pub async fn flaky(self: Arc<Self>, ctx: ActivityContext, attempts: i64) -> Result<i64, ActivityError> {
        if attempts < 0 {
            return Err(ActivityError::application(ApplicationFailure::non_retryable(
                anyhow::anyhow!("never"),
            )));
        }
        if i64::from(ctx.info().attempt) < attempts {
            return Err(anyhow::anyhow!("not yet").into());
        }
        Ok(attempts)
    }

    /// One more.
    #[activity]
    pub async fn increment(self: Arc<Self>, _: ActivityContext, value: i64) -> Result<i64, ActivityError> {
        Ok(value + 1)
    }
}

/// Runs one activity that needs several attempts.
#[workflow]
#[derive(Default)]
pub struct Flaky;

#[workflow_methods]
impl Flaky {
    #[run]
    pub async fn run(ctx: &mut WorkflowContext<Self>, attempts: i64) -> WorkflowResult<i64> {
        let retry = RetryPolicy::builder()
            .initial_interval(Duration::from_millis(10))
            .build();
        let options = ActivityOptions::with_start_to_close_timeout(Duration::from_secs(5))
            .retry_policy(retry)
            .build();
        Ok(ctx.execute_activity(Sample::flaky, attempts, options).await?)
    }
}

/// Counts by activities, and continues as new whenever the service suggests it.
#[workflow]
#[derive(Default)]
pub struct Long;

#[workflow_methods]
impl Long {
    #[run]
    pub async fn run(
        ctx: &mut WorkflowContext<Self>,
        (mut value, wanted): (i64, i64),
    ) -> WorkflowResult<i64> {
        while value < wanted {
            if ctx.continue_as_new_suggested() {
                ctx.continue_as_new((value, wanted), ContinueAsNewOptions::default())?;
            }
            let options = ActivityOptions::start_to_close_timeout(Duration::from_secs(5));
            value = ctx.execute_activity(Sample::increment, value, options).await?;
        }
        Ok(value)
    }
}
