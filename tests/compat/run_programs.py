"""Programs about runs: what follows one, what ends one, what is said about one."""

from datetime import timedelta

from temporalio.client import WorkflowFailureError, WorkflowHandle, WorkflowUpdateStage
from temporalio.common import Priority, RetryPolicy, WorkflowIDConflictPolicy, WorkflowIDReusePolicy
from temporalio.exceptions import TerminatedError, TimeoutError, WorkflowAlreadyStartedError
from temporalio.service import RPCError, RPCStatusCode

from run_workflows import Described, Handing, Patched, Stubborn, Unlucky, Waiting
from workflows import Counter
from world import World, equal, fails, until


async def tried_again(world: World) -> list[WorkflowHandle]:
    """A workflow that fails twice and succeeds then."""
    policy = RetryPolicy(initial_interval=timedelta(milliseconds=100), maximum_attempts=5)
    handle = await world.start(Unlucky.run, 3, retry_policy=policy, memo={"a": 1})
    await world.half_way()
    equal(await handle.result(), 3)
    # Each attempt is a run of its own.
    return [world.client.get_workflow_handle(handle.id)]


async def given_up(world: World) -> list[WorkflowHandle]:
    """A workflow that fails as often as it may."""
    policy = RetryPolicy(initial_interval=timedelta(milliseconds=100), maximum_attempts=2)
    handle = await world.start(Unlucky.run, 9, retry_policy=policy)
    await world.half_way()
    error = await fails(WorkflowFailureError, handle.result())
    equal(error.cause.message, "attempt 2")
    first = world.client.get_workflow_handle(handle.id, run_id=handle.first_execution_run_id)
    return [first, world.client.get_workflow_handle(handle.id)]


async def timed_out(world: World) -> list[WorkflowHandle]:
    """By its run's timeout, by its execution's, and by its run's with another attempt."""
    brief = timedelta(seconds=3)
    policy = RetryPolicy(initial_interval=timedelta(milliseconds=100), maximum_attempts=2)
    of_run = await world.start(Waiting.run, name="-run", run_timeout=brief)
    of_execution = await world.start(Waiting.run, name="-execution", execution_timeout=brief, retry_policy=policy)
    again = await world.start(Waiting.run, name="-again", run_timeout=brief, retry_policy=policy)
    await world.half_way()
    for handle in (of_run, of_execution, again):
        error = await fails(WorkflowFailureError, handle.result())
        assert isinstance(error.cause, TimeoutError), error.cause
    first = world.client.get_workflow_handle(again.id, run_id=again.first_execution_run_id)
    return [of_run, of_execution, first, world.client.get_workflow_handle(again.id)]


async def updated_and_continued(world: World) -> list[WorkflowHandle]:
    """An update that makes the workflow continue as new, and one that waits for its end."""
    handle = await world.start(Handing.run, 0, run_timeout=timedelta(seconds=60), task_timeout=timedelta(seconds=7))
    equal(await handle.query(Handing.generation), 0)
    await world.half_way()
    equal(await handle.execute_update(Handing.hand_on, 5), 0)
    last = world.client.get_workflow_handle(handle.id)
    await until(lambda: has_handed_on(last))
    equal(await last.execute_update(Handing.end, id="last words"), 5)
    equal(await last.result(), 5)
    first = world.client.get_workflow_handle(handle.id, run_id=handle.first_execution_run_id)
    return [first, last]


async def has_handed_on(handle: WorkflowHandle) -> bool:
    try:
        return await handle.query(Handing.generation) == 5
    except RPCError as error:
        # It is held back until the run before it is a second old.
        equal(error.status, RPCStatusCode.FAILED_PRECONDITION)
        return False


async def ended_with_an_update(world: World) -> list[WorkflowHandle]:
    """An update that was accepted and never completed."""
    handle = await world.start(Handing.run, 0)
    equal(await handle.query(Handing.generation), 0)
    update = await handle.start_update(Handing.never, wait_for_stage=WorkflowUpdateStage.ACCEPTED)
    await world.half_way()
    await handle.execute_update(Handing.end)
    equal(await handle.result(), 0)
    await fails(Exception, update.result())
    return [handle]


async def patched(world: World) -> list[WorkflowHandle]:
    handle = await world.start(Patched.run)
    await world.activities.gate.entered.wait()
    await world.half_way()
    world.activities.gate.open.set()
    equal(await handle.result(), "hello the new way")
    return [handle]


async def described(world: World) -> list[WorkflowHandle]:
    """What is said about a workflow and about what it does; and a memo that changes."""
    handle = await world.start(
        Described.run,
        memo={"kept": 1, "changed": 1, "removed": 1},
        static_summary="a summary",
        static_details="details",
        priority=Priority(priority_key=2, fairness_key="k", fairness_weight=2.0),
    )
    await world.activities.gate.entered.wait()
    await world.half_way()
    seen = await handle.describe()
    equal(await seen.memo(), {"kept": 1, "changed": 2, "added": [1], "empty": ""})
    equal((await seen.static_summary(), await seen.static_details()), ("a summary", "details"))
    priority = seen.raw_description.workflow_execution_info.priority
    equal((priority.priority_key, priority.fairness_key), (2, "k"))
    equal(world.activities.priority.priority_key, 4)
    world.activities.gate.open.set()
    equal(await handle.result(), {"kept": 1, "changed": 2, "added": [1], "empty": ""})
    return [handle]


async def replaced(world: World) -> list[WorkflowHandle]:
    """Ids that are taken."""
    first = await world.start(Counter.run, 1)
    equal(await first.query(Counter.current), 0)
    same = await world.start(Counter.run, 1, id_conflict_policy=WorkflowIDConflictPolicy.USE_EXISTING)
    equal(same.first_execution_run_id or same.result_run_id, first.first_execution_run_id)
    await world.half_way()
    second = await world.start(Counter.run, 1, id_conflict_policy=WorkflowIDConflictPolicy.TERMINATE_EXISTING)
    error = await fails(WorkflowFailureError, first.result())
    assert isinstance(error.cause, TerminatedError), error.cause
    await second.signal(Counter.add, 1)
    equal(await second.result(), 1)
    for policy in (WorkflowIDReusePolicy.REJECT_DUPLICATE, WorkflowIDReusePolicy.ALLOW_DUPLICATE_FAILED_ONLY):
        await fails(WorkflowAlreadyStartedError, world.start(Counter.run, 1, id_reuse_policy=policy))
    first = world.client.get_workflow_handle(first.id, run_id=first.first_execution_run_id)
    return [first, world.client.get_workflow_handle(first.id)]


async def signaled_into_life(world: World) -> list[WorkflowHandle]:
    """A signal that starts a workflow, and one that finds it."""
    handle = await world.start(Counter.run, 3, start_signal="add", start_signal_args=[1])
    equal(await handle.query(Counter.current), 1)
    await world.half_way()
    again = await world.start(Counter.run, 3, start_signal="add", start_signal_args=[2])
    equal(again.id, handle.id)
    equal(await handle.result(), 3)
    return [handle]


async def has_heard(handle: WorkflowHandle) -> bool:
    return await handle.query(Stubborn.heard) == 1


async def canceled_twice(world: World) -> list[WorkflowHandle]:
    """A workflow that hears that it is canceled once, and does not mind; and one that is canceled before anybody has seen it."""
    handle = await world.start(Stubborn.run)
    equal(await handle.query(Stubborn.heard), 0)
    await handle.cancel()
    await world.half_way()
    await until(lambda: has_heard(handle))
    await handle.cancel()
    await handle.signal(Stubborn.end)
    equal(await handle.result(), 1)
    unseen = await world.client.start_workflow(Waiting.run, id=f"{world.name}-unseen", task_queue="nobody")
    await unseen.cancel()
    await unseen.terminate(reason="nobody will see it")
    await fails(WorkflowFailureError, unseen.result())
    return [handle, unseen]


ALL = [
    tried_again,
    given_up,
    timed_out,
    updated_and_continued,
    ended_with_an_update,
    patched,
    described,
    replaced,
    signaled_into_life,
    canceled_twice,
]
