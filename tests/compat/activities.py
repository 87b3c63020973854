"""What the workflows have done by activities. An activity that stops at a gate lets its program do something meanwhile."""

import asyncio

from temporalio import activity
from temporalio.exceptions import ApplicationError


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

    def all(self) -> list:
        return [self.greet, self.greet_at_the_gate, self.flaky, self.fail_for_good, self.never_ends, self.count_up, self.clean_up]

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
