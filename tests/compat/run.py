"""Runs the programs against `longhaul server`: each as it is, and each with the server killed half-way and begun again.

    python run.py BINARY [PROGRAM ...]

Exit status 1 where a program fails, or where a history is not as a real server wrote it (histories/, differences.py).
"""

import asyncio
import json
import logging
import sys
import time
import traceback
from pathlib import Path

import activity_workflows
import programs
import run_workflows
import task_workflows
import workflows
from differences import EXPECTED
from histories import differences, normalised
from servers import Longhaul
from temporalio.client import Client
from temporalio.worker import Worker
from world import World

HISTORIES = Path(__file__).parent / "histories"
# A program that hangs ends here.
DEADLINE_S = 60
# Programs at a time: each has a server of its own, and waits more than it works.
AT_A_TIME = 6
IDENTITY = "compat"
WORKFLOWS = [
    it
    for module in (workflows, activity_workflows, run_workflows, task_workflows)
    for it in vars(module).values()
    if isinstance(it, type) and it.__module__ == module.__name__
]
WAYS = (", killed half-way", ", passed on, and its owner killed", "")


async def nothing() -> None:
    pass


async def run_program(program, address: str, half_way=nothing) -> dict[str, list]:
    """Runs one against a server, and gives the histories of its workflows."""
    client = await Client.connect(address, identity=IDENTITY)
    world = World(client, program.__name__, half_way)
    worker = Worker(client, task_queue=world.name, workflows=WORKFLOWS, activities=world.activities.all())
    async with worker:
        handles = await asyncio.wait_for(program(world), DEADLINE_S)
        return {f"{world.name}-{place}": await normalised(it) for place, it in enumerate(handles)}


async def against_ours(program, binary: str, is_killed: bool) -> dict[str, list]:
    server = Longhaul(binary)
    try:
        address = await asyncio.to_thread(server.begin)
        return await run_program(program, address, server.kill_and_begin_again if is_killed else nothing)
    finally:
        await asyncio.to_thread(server.stop)


async def against_one_that_passes_on(program, binary: str) -> dict[str, list]:
    """Against a server beside the one that serves, which is killed half-way: the other takes its place."""
    serves = Longhaul(binary)
    beside = Longhaul(binary, directory=serves.directory)
    try:
        await asyncio.to_thread(serves.begin)
        address = await asyncio.to_thread(beside.begin)

        async def kill() -> None:
            serves.process.kill()
            await asyncio.to_thread(serves.process.wait)

        return await run_program(program, address, kill)
    finally:
        await asyncio.to_thread(beside.stop)
        await asyncio.to_thread(serves.stop)


def frozen(name: str) -> list:
    return json.loads((HISTORIES / f"{name}.json").read_text())


async def main(binary: str, wanted: list[str]) -> int:
    slots = asyncio.Semaphore(AT_A_TIME)
    found: dict[tuple[str, str], str] = {}
    failed: list[str] = []

    async def one(program, way: str) -> None:
        name = f"{program.__name__}{way}"
        async with slots:
            began = time.monotonic()
            try:
                match way:
                    case "":
                        histories = await against_ours(program, binary, False)
                    case ", killed half-way":
                        histories = await against_ours(program, binary, True)
                    case _:
                        histories = await against_one_that_passes_on(program, binary)
            except BaseException:
                failed.append(name)
                print(f"FAILED {name}\n{traceback.format_exc()}", flush=True)
                return
            print(f"ok     {name} ({time.monotonic() - began:.1f} s)", flush=True)
        if not way:
            for run, events in histories.items():
                for event, attribute, words in differences(program.__name__, events, frozen(run)):
                    found.setdefault((event, attribute), words)

    chosen = [it for it in programs.ALL if not wanted or it.__name__ in wanted]
    await asyncio.gather(*(one(program, way) for way in WAYS for program in chosen))
    for difference in sorted(found.keys() - EXPECTED.keys()):
        failed.append("histories")
        print(f"DIFFERS {difference}: {found[difference]}")
    if not wanted:
        for difference in sorted(EXPECTED.keys() - found.keys()):
            failed.append("histories")
            print(f"DIFFERS no more, and is to leave differences.py: {difference}")
    return 1 if failed else 0


if __name__ == "__main__":
    logging.disable(logging.WARNING)
    sys.exit(asyncio.run(main(sys.argv[1], sys.argv[2:])))
