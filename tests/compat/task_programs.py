"""Programs about workflow tasks: slow ones, ones that fail, and what comes meanwhile."""

import asyncio

from temporalio.client import WorkflowHandle

from activities import HAPPENED
from task_workflows import Hesitant, Slow, Stumbling
from world import World, equal, until


async def asked_meanwhile(world: World) -> list[WorkflowHandle]:
    """A query, a signal and an update that come while a workflow task is out."""
    handle = await world.start(Slow.run)
    await until(lambda: begun(handle))
    query = asyncio.create_task(handle.query(Slow.said))
    update = asyncio.create_task(handle.execute_update(Slow.say_too, "updated", id="an update"))
    await handle.signal(Slow.say, "signaled")
    equal(await query, ["begun", "signaled", "updated"])
    await world.half_way()
    equal(await update, None)
    equal(await handle.query(Slow.said), ["begun", "signaled", "updated"])
    await handle.signal(Slow.say, "end")
    equal(await handle.result(), ["begun", "signaled", "updated", "end"])
    return [handle]


async def begun(handle: WorkflowHandle) -> bool:
    return handle.first_execution_run_id in HAPPENED


async def news_before_the_end(world: World) -> list[WorkflowHandle]:
    """A signal that comes while the workflow decides that it has ended: it decides again."""
    handle = await world.start(Hesitant.run)
    await until(lambda: begun(handle))
    await handle.signal(Hesitant.say, "wait")
    await world.half_way()
    equal(await handle.result(), ["wait"])
    return [handle]


async def stumbling(world: World) -> list[WorkflowHandle]:
    """Workflow tasks that fail: the first, and one in a cache; each is taken up again."""
    handle = await world.start(Stumbling.run)
    await world.activities.gate.entered.wait()
    await world.half_way()
    world.activities.gate.open.set()
    equal(await handle.result(), "up again")
    return [handle]


ALL = [asked_meanwhile, news_before_the_end, stumbling]
