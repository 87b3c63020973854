"""The workflows of the programs about activities."""

import asyncio
from datetime import timedelta
from typing import Any

from temporalio import workflow
from temporalio.common import RetryPolicy
from temporalio.exceptions import ActivityError, FailureError, TimeoutError
from temporalio.workflow import ActivityCancellationType

with workflow.unsafe.imports_passed_through():
    from activities import Activities

SHORT = timedelta(seconds=60)
ONCE = RetryPolicy(maximum_attempts=1)


async def caught(what: Any) -> str:
    """What an activity gives, or what it fails with."""
    try:
        return await what
    except ActivityError as error:
        if isinstance(error.cause, TimeoutError):
            return error.cause.type.name
        return str(error.cause)


@workflow.defn
class Local:
    """Activities that the worker carries out with its workflow task, one that waits at the gate."""

    @workflow.run
    async def run(self) -> list[Any]:
        quick = RetryPolicy(initial_interval=timedelta(milliseconds=20), maximum_attempts=5)
        said: list[Any] = [await self.local(Activities.greet, "Ada")]
        said.append(await self.local(Activities.flaky_at_once, 3, retry_policy=quick))
        try:
            await self.local(Activities.fail_for_good)
        except FailureError as error:
            said.append(str(error))
        said.append(await self.local(Activities.greet_at_the_gate, "Bo"))
        return said

    def local(self, method: Any, *args: Any, **options: Any) -> Any:
        return workflow.execute_local_activity_method(method, args=args, start_to_close_timeout=SHORT, **options)


@workflow.defn
class Elsewhere:
    """Activities whose outcome somebody else reports."""

    def __init__(self) -> None:
        self.canceled = asyncio.Event()

    @workflow.run
    async def run(self) -> list[str]:
        said = [await caught(self.begin()) for _ in range(3)]
        last = self.begin()
        await self.canceled.wait()
        last.cancel()
        try:
            said.append(await last)
        except ActivityError:
            said.append("canceled")
        return said

    @workflow.signal
    def cancel(self) -> None:
        self.canceled.set()

    def begin(self) -> Any:
        return workflow.start_activity_method(
            Activities.done_elsewhere,
            start_to_close_timeout=SHORT,
            heartbeat_timeout=SHORT,
            cancellation_type=ActivityCancellationType.WAIT_CANCELLATION_COMPLETED,
        )


@workflow.defn
class Persistent:
    """An activity that fails twice, and tells in between how far it is."""

    @workflow.run
    async def run(self) -> list[list[str]]:
        return await workflow.execute_activity_method(
            Activities.tells_and_fails,
            3,
            start_to_close_timeout=SHORT,
            retry_policy=RetryPolicy(initial_interval=timedelta(milliseconds=50)),
        )


@workflow.defn
class Patient:
    """Each timeout of an activity, one after the other."""

    @workflow.run
    async def run(self) -> list[str]:
        brief = timedelta(milliseconds=700)

        def silent(method: Any = Activities.falls_silent, **options: Any) -> Any:
            return workflow.execute_activity_method(method, retry_policy=ONCE, **options)

        return [
            await caught(silent(start_to_close_timeout=brief)),
            await caught(silent(start_to_close_timeout=SHORT, heartbeat_timeout=brief)),
            await caught(silent(start_to_close_timeout=SHORT, schedule_to_start_timeout=brief, task_queue="nobody")),
            await caught(silent(schedule_to_close_timeout=brief)),
            # There is no time for a second attempt.
            await caught(workflow.execute_activity_method(Activities.fails_slowly, schedule_to_close_timeout=brief)),
        ]


@workflow.defn
class CanceledInEachWay:
    """An activity that is asked to cancel: the workflow does not wait, waits, or does not even ask; and one that nobody has."""

    @workflow.run
    async def run(self) -> list[str]:
        await workflow.execute_activity_method(Activities.greet_at_the_gate, "all", start_to_close_timeout=SHORT)
        said = []
        for kind in ("TRY_CANCEL", "WAIT_CANCELLATION_COMPLETED", "ABANDON"):
            await self.cancel(Activities.until_canceled, ActivityCancellationType[kind])
            said.append(kind)
            await workflow.sleep(0.3)
        await self.cancel(Activities.greet, ActivityCancellationType.TRY_CANCEL, "nobody", task_queue="nobody")
        said.append("nobody had it")
        return said

    async def cancel(self, method: Any, kind: ActivityCancellationType, *args: Any, **options: Any) -> None:
        handle = workflow.start_activity_method(
            method,
            args=args,
            start_to_close_timeout=SHORT,
            heartbeat_timeout=timedelta(seconds=5),
            cancellation_type=kind,
            **options,
        )
        await workflow.sleep(0.5)
        handle.cancel()
        try:
            await handle
        except ActivityError:
            pass


@workflow.defn
class Nested:
    """A cancellation that reaches what is not shielded from it, and is handed on in the end."""

    @workflow.run
    async def run(self) -> str:
        shielded = workflow.start_activity_method(Activities.greet_at_the_gate, "nobody", start_to_close_timeout=SHORT)
        timer = asyncio.create_task(workflow.sleep(3600))
        try:
            await asyncio.gather(timer, asyncio.shield(shielded))
            return "never"
        except asyncio.CancelledError:
            await shielded
            await workflow.execute_activity_method(Activities.clean_up, start_to_close_timeout=SHORT)
            raise
