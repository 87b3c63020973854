"""The workflows of the programs: ordinary ones, as somebody writes them who has never heard of the service behind them."""

import asyncio
from datetime import timedelta

from temporalio import workflow
from temporalio.common import RetryPolicy
from temporalio.exceptions import ApplicationError

with workflow.unsafe.imports_passed_through():
    from activities import Activities

SHORT = timedelta(seconds=60)


@workflow.defn
class Greetings:
    """Activities, one after the other; the second one takes its time."""

    @workflow.run
    async def run(self, names: list[str]) -> list[str]:
        said = []
        for place, name in enumerate(names):
            greet = Activities.greet_at_the_gate if place == 1 else Activities.greet
            said.append(await workflow.execute_activity_method(greet, name, start_to_close_timeout=SHORT))
        return said


@workflow.defn
class Timers:
    """A timer that fires, and one that is canceled."""

    @workflow.run
    async def run(self, seconds: float) -> bool:
        began = workflow.now()
        await workflow.sleep(seconds)
        canceled = asyncio.create_task(workflow.sleep(3600))
        await workflow.sleep(0.01)
        canceled.cancel()
        try:
            await canceled
        except asyncio.CancelledError:
            pass
        return workflow.now() - began >= timedelta(seconds=seconds)


@workflow.defn
class Counter:
    """Signals, queries and updates on a number, until it is where it should be."""

    def __init__(self) -> None:
        self.value = 0
        self.released = False

    @workflow.run
    async def run(self, wanted: int) -> int:
        await workflow.wait_condition(lambda: self.value >= wanted)
        await workflow.wait_condition(workflow.all_handlers_finished)
        return self.value

    @workflow.signal
    async def add(self, amount: int) -> None:
        self.value += amount

    @workflow.signal
    async def release(self) -> None:
        self.released = True

    @workflow.query
    def current(self) -> int:
        return self.value

    @workflow.query
    def refuses(self) -> int:
        raise ValueError("not to be asked")

    @workflow.update
    async def set(self, value: int) -> int:
        before, self.value = self.value, value
        return before

    @set.validator
    def set_validator(self, value: int) -> None:
        if value < 0:
            raise ValueError("must not be negative")

    @workflow.update
    async def add_when_released(self, amount: int) -> str:
        await workflow.wait_condition(lambda: self.released)
        said = await workflow.execute_activity_method(Activities.greet, "update", start_to_close_timeout=SHORT)
        self.value += amount
        return said

    @workflow.update
    async def fails(self) -> None:
        raise ApplicationError("an update that fails", type="Update")


@workflow.defn
class Canceled:
    """Cleans up behind an activity that is canceled."""

    @workflow.run
    async def run(self) -> str:
        try:
            await workflow.execute_activity_method(
                Activities.never_ends,
                start_to_close_timeout=SHORT,
                heartbeat_timeout=timedelta(seconds=3),
                cancellation_type=workflow.ActivityCancellationType.WAIT_CANCELLATION_COMPLETED,
            )
            return "never"
        finally:
            await workflow.execute_activity_method(Activities.clean_up, start_to_close_timeout=SHORT)


@workflow.defn
class Generations:
    """A run after another, with what each has counted. The first waits at the gate."""

    @workflow.run
    async def run(self, generation: int, last: int) -> int:
        greet = Activities.greet_at_the_gate if generation == 0 else Activities.greet
        await workflow.execute_activity_method(greet, f"generation {generation}", start_to_close_timeout=SHORT)
        if generation < last:
            workflow.continue_as_new(args=[generation + 1, last], memo={"generation": generation + 1})
        return generation


@workflow.defn
class Retries:
    """Activities that fail: for a while, for good, and by silence."""

    @workflow.run
    async def run(self) -> list[str]:
        quick = RetryPolicy(initial_interval=timedelta(milliseconds=50), maximum_attempts=5)
        attempts = await workflow.execute_activity_method(
            Activities.flaky, 3, start_to_close_timeout=SHORT, retry_policy=quick
        )
        seen = [f"attempt {attempts}"]
        try:
            await workflow.execute_activity_method(Activities.fail_for_good, start_to_close_timeout=SHORT)
        except Exception as error:
            seen.append(f"{type(error).__name__}: {error.__cause__}")
        return seen


@workflow.defn
class Silence:
    """An activity whose first attempt falls silent, and whose second takes up its heartbeat's details."""

    @workflow.run
    async def run(self) -> int:
        return await workflow.execute_activity_method(
            Activities.count_up,
            10,
            start_to_close_timeout=SHORT,
            heartbeat_timeout=timedelta(seconds=1),
            retry_policy=RetryPolicy(initial_interval=timedelta(milliseconds=50)),
        )


@workflow.defn
class Failing:
    """Fails, with details."""

    @workflow.run
    async def run(self) -> None:
        await workflow.sleep(0.01)
        raise ApplicationError("on purpose", {"why": "a test"}, type="OnPurpose", non_retryable=True)
