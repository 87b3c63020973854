"""Programs about activities: in the worker's own process, completed from outside, too slow, canceled in each way."""

import asyncio

from temporalio.client import WorkflowFailureError, WorkflowHandle
from temporalio.exceptions import ActivityError, ApplicationError, CancelledError

from activity_workflows import CanceledInEachWay, Elsewhere, Local, Nested, Patient, Persistent
from world import World, equal, fails


TIMEOUTS = ["START_TO_CLOSE", "HEARTBEAT", "SCHEDULE_TO_START", "SCHEDULE_TO_CLOSE", "Slowly: slowly"]


async def local_activities(world: World) -> list[WorkflowHandle]:
    handle = await world.start(Local.run)
    await world.activities.gate.entered.wait()
    await world.half_way()
    world.activities.gate.open.set()
    equal(await handle.result(), ["hello Ada", 3, "Never: never", "hello Bo"])
    return [handle]


async def completed_elsewhere(world: World) -> list[WorkflowHandle]:
    """By its token, then by its id; then failed, then canceled."""
    handle = await world.start(Elsewhere.run)
    client, begun = world.client, world.activities.begun
    token = (await begun.get()).task_token
    await world.half_way()
    by_token = client.get_async_activity_handle(task_token=token)
    await by_token.heartbeat("from elsewhere")
    await by_token.complete("by its token")

    async def next_by_id():
        info = await begun.get()
        ids = {"workflow_id": info.workflow_id, "run_id": info.workflow_run_id, "activity_id": info.activity_id}
        return client.get_async_activity_handle(**ids)

    by_id = await next_by_id()
    await by_id.heartbeat("by its id")
    await by_id.complete("by its id")
    await (await next_by_id()).fail(ApplicationError("from elsewhere", type="Elsewhere", non_retryable=True))
    canceled = await next_by_id()
    await handle.signal(Elsewhere.cancel)
    await world.activities.hears_of_its_cancel(canceled)
    await canceled.report_cancellation("canceled elsewhere")
    equal(await handle.result(), ["by its token", "by its id", "Elsewhere: from elsewhere", "canceled"])
    return [handle]


async def details_of_heartbeats(world: World) -> list[WorkflowHandle]:
    """What an attempt has told the next one finds, also where it failed."""
    handle = await world.start(Persistent.run)
    await world.activities.gate.entered.wait()
    await world.half_way()
    world.activities.gate.open.set()
    equal(await handle.result(), [["attempt 1"], ["attempt 2"]])
    return [handle]


async def activity_timeouts(world: World) -> list[WorkflowHandle]:
    handle = await world.start(Patient.run)
    await world.half_way()
    equal(await handle.result(), TIMEOUTS)
    return [handle]


async def kinds_of_cancellation(world: World) -> list[WorkflowHandle]:
    handle = await world.start(CanceledInEachWay.run)
    await world.activities.gate.entered.wait()
    await world.half_way()
    world.activities.gate.open.set()
    equal(await handle.result(), ["TRY_CANCEL", "WAIT_CANCELLATION_COMPLETED", "ABANDON", "nobody had it"])
    return [handle]


async def nested_cancellation(world: World) -> list[WorkflowHandle]:
    """What is shielded goes on, and ends in its own time."""
    handle = await world.start(Nested.run)
    await world.activities.gate.entered.wait()
    await world.half_way()
    await handle.cancel()
    await asyncio.sleep(0.2)
    world.activities.gate.open.set()
    error = await fails(WorkflowFailureError, handle.result())
    assert isinstance(error.cause, (CancelledError, ActivityError)), error.cause
    return [handle]


ALL = [
    local_activities,
    completed_elsewhere,
    details_of_heartbeats,
    activity_timeouts,
    kinds_of_cancellation,
    nested_cancellation,
]
