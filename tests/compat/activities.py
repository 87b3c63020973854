"""What the workflows have done by activities. An activity that stops at a gate lets its program do something meanwhile."""

import asyncio
import time

from temporalio import activity
from temporalio.client import AsyncActivityCancelledError, AsyncActivityHandle
from temporalio.common import Priority
from temporalio.exceptions import ApplicationError


# What workflows have come by, which outlives their caches: it happens once, however often a history is replayed.
HAPPENED: set[str] = set()


def happens_first(what: str) -> bool:
    seen = what in HAPPENED
    HAPPENED.add(what)
    return not seen


def block_once(what: str, seconds: float) -> None:
    """Keeps a workflow task for so long, the first time."""
    if happens_first(what):
        time.sleep(seconds)


class Gate:
    """Somebody comes, and is let through when the program says so."""

    def __init__(self) -> None:
        self.entered = asyncio.Event()
        self.open = asyncio.Event()

    async def pass_through(self) -> None:
        self.entered.set()
        await self.open.wait()


class Activities:
    """Those of one program's worker."""

    def __init__(self) -> None:
        self.gate = Gate()
        # Those that are to be completed elsewhere.
        self.begun: asyncio.Queue[activity.Info] = asyncio.Queue()
        self.told: list[list[str]] = []
        self.priority = Priority.default

    def all(self) -> list:
        methods = (getattr(self, name) for name in vars(Activities))
        return [it for it in methods if hasattr(it, "__temporal_activity_definition")]

    @activity.defn
    async def greet(self, name: str) -> str:
        return f"hello {name}"

    @activity.defn
    async def greet_at_the_gate(self, name: str) -> str:
        await self.gate.pass_through()
        return f"hello {name}"

    @activity.defn
    async def flaky(self, succeeds_at: int) -> int:
        """Fails until that attempt; the one before it waits at the gate."""
        attempt = activity.info().attempt
        if attempt == succeeds_at - 1:
            await self.gate.pass_through()
        if attempt < succeeds_at:
            raise ApplicationError(f"attempt {attempt}", {"attempt": attempt}, type="Flaky")
        return attempt

    @activity.defn
    async def fail_for_good(self) -> None:
        raise ApplicationError("never", type="Never", non_retryable=True)

    @activity.defn
    async def never_ends(self) -> None:
        """Until it hears in a heartbeat that it is canceled."""
        self.gate.entered.set()
        try:
            while True:
                activity.heartbeat("still there")
                await asyncio.sleep(0.1)
        except asyncio.CancelledError:
            activity.logger.debug("canceled")
            raise

    @activity.defn
    async def count_up(self, to: int) -> int:
        """Counts by heartbeats. The first attempt falls silent half-way; the second goes on where that one was."""
        details = activity.info().heartbeat_details
        value = details[0] if details else 0
        while value < to:
            value += 1
            activity.heartbeat(value)
            if value == to // 2 and activity.info().attempt == 1:
                await self.gate.pass_through()
                await asyncio.sleep(3600)
        return value

    @activity.defn
    async def clean_up(self) -> str:
        return "clean"

    @activity.defn
    async def flaky_at_once(self, succeeds_at: int) -> int:
        attempt = activity.info().attempt
        if attempt < succeeds_at:
            raise ApplicationError(f"attempt {attempt}", type="Flaky")
        return attempt

    @activity.defn
    async def done_elsewhere(self) -> str:
        await self.begun.put(activity.info())
        activity.raise_complete_async()

    async def hears_of_its_cancel(self, handle: AsyncActivityHandle) -> None:
        """Until a heartbeat from elsewhere brings the word."""
        while True:
            try:
                await handle.heartbeat()
            except AsyncActivityCancelledError:
                return
            await asyncio.sleep(0.05)

    @activity.defn
    async def tells_and_fails(self, succeeds_at: int) -> list[list[str]]:
        """What each attempt after the first has found."""
        attempt = activity.info().attempt
        if attempt > 1:
            self.told.append(list(activity.info().heartbeat_details))
        if attempt == 2:
            await self.gate.pass_through()
        if attempt < succeeds_at:
            activity.heartbeat(f"attempt {attempt}")
            raise ApplicationError(f"attempt {attempt}", type="Telling")
        return self.told

    @activity.defn
    async def falls_silent(self) -> None:
        activity.heartbeat("once")
        await asyncio.sleep(20)

    @activity.defn
    async def fails_slowly(self) -> None:
        raise ApplicationError("slowly", type="Slowly")

    @activity.defn
    async def until_canceled(self) -> None:
        for _ in range(100):
            activity.heartbeat("still there")
            await asyncio.sleep(0.1)

    @activity.defn
    async def seen_at_the_gate(self) -> None:
        self.priority = activity.info().priority
        await self.gate.pass_through()
