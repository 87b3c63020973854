"""The workflows of the programs about workflow tasks."""

from datetime import timedelta

from temporalio import workflow

with workflow.unsafe.imports_passed_through():
    from activities import Activities, block_once, happens_first

SHORT = timedelta(seconds=60)


@workflow.defn
class Slow:
    """Its first workflow task takes a while."""

    def __init__(self) -> None:
        self.heard: list[str] = []

    @workflow.run
    async def run(self) -> list[str]:
        self.heard.append("begun")
        block_once(workflow.info().run_id, 0.9)
        await workflow.wait_condition(lambda: "end" in self.heard)
        return self.heard

    @workflow.signal
    def say(self, word: str) -> None:
        self.heard.append(word)

    @workflow.update
    async def say_too(self, word: str) -> None:
        self.heard.append(word)

    @workflow.query
    def said(self) -> list[str]:
        return self.heard


@workflow.defn
class Hesitant:
    """Ends at once, but takes a while to say so."""

    def __init__(self) -> None:
        self.heard: list[str] = []

    @workflow.run
    async def run(self) -> list[str]:
        block_once(workflow.info().run_id, 0.9)
        return self.heard

    @workflow.signal
    def say(self, word: str) -> None:
        self.heard.append(word)


@workflow.defn
class Stumbling:
    """Its code is at fault now and then."""

    @workflow.run
    async def run(self) -> str:
        self.stumble("first")
        await workflow.execute_activity_method(Activities.greet_at_the_gate, "you", start_to_close_timeout=SHORT)
        self.stumble("second")
        await workflow.execute_activity_method(Activities.greet, "you", start_to_close_timeout=SHORT)
        return "up again"

    def stumble(self, when: str) -> None:
        if happens_first(f"{when} of {workflow.info().run_id}"):
            raise ValueError(f"the {when} time")
