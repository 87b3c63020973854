"""What every program has at hand, and what it says where something is not as it should be."""

import asyncio
import time
from typing import Any, Awaitable, Callable

from temporalio.client import Client, WorkflowHandle

from activities import Activities


class World:
    """What a program has: a client, its worker's activities and queue, and something that happens half-way."""

    def __init__(self, client: Client, name: str, half_way: Callable[[], Awaitable[None]]) -> None:
        self.client = client
        self.name = name
        self.half_way = half_way
        self.activities = Activities()

    async def start(self, run: Any, *args: Any, name: str = "", **options: Any) -> WorkflowHandle:
        id = f"{self.name}{name}"
        return await self.client.start_workflow(run, args=args, id=id, task_queue=self.name, **options)


def equal(found: Any, expected: Any) -> None:
    assert found == expected, f"{found!r} is not {expected!r}"


async def until(look: Callable[[], Awaitable[bool]]) -> None:
    end = time.monotonic() + 20
    while not await look():
        assert time.monotonic() < end, "it does not come about"
        await asyncio.sleep(0.02)


async def fails(expected: type, what: Awaitable[Any]) -> Any:
    try:
        result = await what
    except expected as error:
        return error
    raise AssertionError(f"it does not fail, but gives {result!r}")
