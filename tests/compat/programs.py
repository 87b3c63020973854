"""The programs: each starts a workflow, does something half-way, looks at what comes of it, and names the workflows
whose histories are worth a comparison."""

import asyncio
import time
import uuid

from temporalio.client import (
    WorkflowExecutionStatus,
    WorkflowFailureError,
    WorkflowHandle,
    WorkflowQueryFailedError,
    WorkflowUpdateFailedError,
    WorkflowUpdateStage,
)
from temporalio.exceptions import ApplicationError, CancelledError, TerminatedError, WorkflowAlreadyStartedError
from temporalio.service import RPCError, RPCStatusCode

import activity_programs
import run_programs
import task_programs
from workflows import Canceled, Counter, Failing, Generations, Greetings, Retries, Silence, Timers
from world import World, equal, fails, until


async def activities(world: World) -> list[WorkflowHandle]:
    handle = await world.start(Greetings.run, ["Ada", "Bo", "Cy"])
    await world.activities.gate.entered.wait()
    await world.half_way()
    world.activities.gate.open.set()
    equal(await handle.result(), ["hello Ada", "hello Bo", "hello Cy"])
    return [handle]


async def timers(world: World) -> list[WorkflowHandle]:
    began = time.monotonic()
    handle = await world.start(Timers.run, 1.5)
    await asyncio.sleep(0.7)
    await world.half_way()
    equal(await handle.result(), True)
    assert 1.5 <= time.monotonic() - began < 8, "neither too early nor begun anew"
    return [handle]


async def signals(world: World) -> list[WorkflowHandle]:
    handle = await world.start(Counter.run, 10, start_signal="add", start_signal_args=[1])
    value = 1
    for amount in [2, 3, 4]:
        await until(lambda: is_at(handle, value))
        if amount == 3:
            await world.half_way()
        await handle.signal(Counter.add, amount)
        value += amount
    equal(await handle.result(), 10)
    late = await fails(RPCError, handle.signal(Counter.add, 1))
    equal(late.status, RPCStatusCode.NOT_FOUND)
    return [handle]


async def is_at(handle: WorkflowHandle, value: int) -> bool:
    return await handle.query(Counter.current) == value


async def queries(world: World) -> list[WorkflowHandle]:
    handle = await world.start(Counter.run, 1)
    equal(await handle.query(Counter.current), 0)
    refused = await fails(WorkflowQueryFailedError, handle.query(Counter.refuses))
    assert "not to be asked" in str(refused), refused
    unknown = await fails(WorkflowQueryFailedError, handle.query("nobody knows it"))
    assert "nobody knows it" in str(unknown), unknown
    await world.half_way()
    equal(await handle.query(Counter.current), 0)
    await handle.signal(Counter.add, 1)
    equal(await handle.result(), 1)
    equal(await handle.query(Counter.current), 1)
    return [handle]


async def updates(world: World) -> list[WorkflowHandle]:
    handle = await world.start(Counter.run, 10)
    # Its first workflow task is over, so that the update has one of its own.
    equal(await handle.query(Counter.current), 0)
    equal(await handle.execute_update(Counter.set, 4), 0)
    failed = await fails(WorkflowUpdateFailedError, handle.execute_update(Counter.fails))
    equal(failed.cause.message, "an update that fails")
    update = await handle.start_update(
        Counter.add_when_released, 6, wait_for_stage=WorkflowUpdateStage.ACCEPTED, id="the slow one"
    )
    await world.half_way()
    await handle.signal(Counter.release)
    equal(await update.result(), "hello update")
    equal(await handle.result(), 10)
    # An update that is asked for again by its id is the same one.
    again = handle.get_update_handle_for(Counter.add_when_released, "the slow one")
    equal(await again.result(), "hello update")
    return [handle]


async def refused_update(world: World) -> list[WorkflowHandle]:
    handle = await world.start(Counter.run, 1)
    equal(await handle.query(Counter.current), 0)
    refused = await fails(WorkflowUpdateFailedError, handle.execute_update(Counter.set, -1))
    equal(refused.cause.message, "must not be negative")
    await world.half_way()
    equal(await handle.execute_update(Counter.set, 1), 0)
    equal(await handle.result(), 1)
    return [handle]


async def cancellation(world: World) -> list[WorkflowHandle]:
    handle = await world.start(Canceled.run)
    await world.activities.gate.entered.wait()
    await world.half_way()
    await handle.cancel()
    error = await fails(WorkflowFailureError, handle.result())
    assert isinstance(error.cause, CancelledError), error.cause
    return [handle]


async def termination(world: World) -> list[WorkflowHandle]:
    handle = await world.start(Counter.run, 10)
    equal(await handle.query(Counter.current), 0)
    await world.half_way()
    await handle.terminate("enough", reason="the program says so")
    error = await fails(WorkflowFailureError, handle.result())
    assert isinstance(error.cause, TerminatedError), error.cause
    return [handle]


async def continue_as_new(world: World) -> list[WorkflowHandle]:
    handle = await world.start(Generations.run, 0, 1)
    await world.activities.gate.entered.wait()
    await world.half_way()
    world.activities.gate.open.set()
    equal(await handle.result(), 1)
    last = world.client.get_workflow_handle(handle.id)
    equal(await (await last.describe()).memo(), {"generation": 1})
    first = world.client.get_workflow_handle(handle.id, run_id=handle.first_execution_run_id)
    return [first, last]


async def retries(world: World) -> list[WorkflowHandle]:
    handle = await world.start(Retries.run)
    await world.activities.gate.entered.wait()
    pending = (await handle.describe()).raw_description.pending_activities
    equal([(it.activity_type.name, it.attempt) for it in pending], [("flaky", 2)])
    await world.half_way()
    world.activities.gate.open.set()
    equal(await handle.result(), ["attempt 3", "ActivityError: Never: never"])
    return [handle]


async def silence(world: World) -> list[WorkflowHandle]:
    handle = await world.start(Silence.run)
    await world.activities.gate.entered.wait()
    await world.half_way()
    world.activities.gate.open.set()
    equal(await handle.result(), 10)
    return [handle]


async def failure(world: World) -> list[WorkflowHandle]:
    handle = await world.start(Failing.run)
    await world.half_way()
    error = await fails(WorkflowFailureError, handle.result())
    assert isinstance(error.cause, ApplicationError), error.cause
    equal((error.cause.type, error.cause.details[0]), ("OnPurpose", {"why": "a test"}))
    return [handle]


async def looked_at(world: World) -> list[WorkflowHandle]:
    """What is said of a workflow: its description, the lists, the count, and to who starts it twice."""
    memo = {"for": "a test"}
    handle = await world.start(Counter.run, 1, memo=memo, id_reuse_policy=1)
    await fails(WorkflowAlreadyStartedError, world.start(Counter.run, 1))
    await world.half_way()
    described = await handle.describe()
    equal((described.status, described.workflow_type), (WorkflowExecutionStatus.RUNNING, "Counter"))
    equal(await described.memo(), memo)
    query = f"WorkflowId = '{handle.id}'"
    equal([it.id async for it in world.client.list_workflows(query)], [handle.id])
    equal((await world.client.count_workflows(query)).count, 1)
    await handle.signal(Counter.add, 1)
    equal(await handle.result(), 1)
    equal((await handle.describe()).status, WorkflowExecutionStatus.COMPLETED)
    missing = world.client.get_workflow_handle(str(uuid.uuid4()))
    equal((await fails(RPCError, missing.describe())).status, RPCStatusCode.NOT_FOUND)
    return [handle]


ALL = [
    activities,
    timers,
    signals,
    queries,
    updates,
    refused_update,
    cancellation,
    termination,
    continue_as_new,
    retries,
    silence,
    failure,
    looked_at,
    *activity_programs.ALL,
    *run_programs.ALL,
    *task_programs.ALL,
]
