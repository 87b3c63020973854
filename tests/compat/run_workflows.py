"""The workflows of the programs about runs."""

import asyncio
from datetime import timedelta
from typing import Any

from temporalio import workflow
from temporalio.common import Priority, RetryPolicy
from temporalio.exceptions import ApplicationError

with workflow.unsafe.imports_passed_through():
    from activities import Activities

SHORT = timedelta(seconds=60)


@workflow.defn
class Unlucky:
    """Fails until the attempt that succeeds."""

    @workflow.run
    async def run(self, succeeds_at: int) -> int:
        attempt = workflow.info().attempt
        if attempt < succeeds_at:
            raise ApplicationError(f"attempt {attempt}", {"attempt": attempt}, type="Unlucky")
        return attempt


@workflow.defn
class Waiting:
    """Waits for longer than it may."""

    @workflow.run
    async def run(self) -> None:
        await workflow.sleep(3600)


@workflow.defn
class Handing:
    """Continues as new when an update says so, with all that can be changed on the way changed."""

    def __init__(self) -> None:
        self.value = 0
        self.next: int | None = None
        self.ends = False

    @workflow.run
    async def run(self, value: int) -> int:
        self.value = value
        await workflow.wait_condition(lambda: self.next is not None or self.ends)
        if self.ends:
            return self.value
        workflow.continue_as_new(
            self.next,
            run_timeout=timedelta(seconds=50),
            task_timeout=timedelta(seconds=5),
            retry_policy=RetryPolicy(maximum_attempts=3),
            memo={"handed": "on"},
        )

    @workflow.query
    def generation(self) -> int:
        return self.value

    @workflow.update
    async def hand_on(self, value: int) -> int:
        self.next = value
        return self.value

    @workflow.update
    async def end(self) -> int:
        self.ends = True
        return self.value

    @workflow.update(unfinished_policy=workflow.HandlerUnfinishedPolicy.ABANDON)
    async def never(self) -> None:
        await workflow.wait_condition(lambda: False)


@workflow.defn
class Patched:
    """Code that was changed, and code that was changed so long ago that nobody runs the old one."""

    @workflow.run
    async def run(self) -> str:
        workflow.deprecate_patch("long ago")
        way = "the new way" if workflow.patched("a change") else "the old way"
        said = await workflow.execute_activity_method(Activities.greet_at_the_gate, way, start_to_close_timeout=SHORT)
        assert workflow.patched("a change")
        return said


@workflow.defn
class Described:
    """Says what it does, and changes its memo."""

    @workflow.run
    async def run(self) -> dict[str, Any]:
        workflow.set_current_details("at work")
        await workflow.sleep(0.01, summary="a nap")
        workflow.upsert_memo({"changed": 2, "added": [1], "empty": "", "removed": None})
        await workflow.execute_activity_method(
            Activities.seen_at_the_gate,
            start_to_close_timeout=SHORT,
            summary="an activity",
            priority=Priority(priority_key=4),
        )
        await workflow.execute_local_activity_method(
            Activities.greet, "you", start_to_close_timeout=SHORT, summary="a local one"
        )
        return dict(workflow.memo())


@workflow.defn
class Stubborn:
    """Goes on though it is canceled."""

    def __init__(self) -> None:
        self.times = 0
        self.ends = False

    @workflow.run
    async def run(self) -> int:
        while not self.ends:
            try:
                await workflow.wait_condition(lambda: self.ends)
            except asyncio.CancelledError:
                self.times += 1
        return self.times

    @workflow.query
    def heard(self) -> int:
        return self.times

    @workflow.signal
    def end(self) -> None:
        self.ends = True
