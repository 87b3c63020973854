"""Histories without what differs from run to run, and how two of them differ."""

import base64
import json
import re
from typing import Any, Iterator

from temporalio.client import WorkflowHandle

# By whom a workflow task was asked for depends on how soon the news came: by a poll, or with an answer.
REQUEST_OF_AN_ANSWER = "request-from-RespondWorkflowTaskCompleted"
UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}|[0-9a-f]{32}")
# Times, and numbers that a server gives by its own lights.
DROPPED = {"eventTime", "taskId", "version", "historySizeBytes"}


async def normalised(handle: WorkflowHandle) -> list[dict[str, Any]]:
    """The events of a run: types, order, ids and attributes."""
    history = await handle.fetch_history()
    return [plain(event) for event in history.to_json_dict()["events"]]


def plain(value: Any, key: str = "") -> Any:
    if isinstance(value, dict):
        return {name: plain(it, name) for name, it in sorted(value.items()) if not is_dropped(name, it)}
    if isinstance(value, list):
        # The SDK's flags are a set, which it sends in any order.
        return [plain(it) for it in (sorted(value) if key == "coreUsedFlags" else value)]
    if key.endswith("Time"):
        return "a time"
    if isinstance(value, str):
        if key == "data" and (told := of_local_activity(value)):
            return plain(told)
        if key == "data" and (named := base64.b64decode(value).decode(errors="replace")) != UUID.sub("", named):
            return UUID.sub("an id", named)
        if key in ("buildId", "binaryChecksum"):
            return "a build"
        if key == "stackTrace":
            return "a stack"
        return UUID.sub("an id", value.replace(REQUEST_OF_AN_ANSWER, "an id"))
    return value


def is_dropped(key: str, value: Any) -> bool:
    # The pause before a run is what is left of a second since the one before it began.
    return key in DROPPED or (key == "firstWorkflowTaskBackoff" and value != "0s")


def of_local_activity(data: str) -> dict[str, Any] | None:
    """What the SDK notes of an activity that its worker carried out beside the workflow, without its times."""
    try:
        told = json.loads(base64.b64decode(data))
    except ValueError:
        return None
    if not isinstance(told, dict) or "original_schedule_time" not in told:
        return None
    return {key: value for key, value in told.items() if not key.endswith("_time")}


def name(event: dict[str, Any]) -> str:
    return event["eventType"].removeprefix("EVENT_TYPE_")


def differences(program: str, ours: list[dict], real: list[dict]) -> Iterator[tuple[str, str, str]]:
    """Where two histories differ: (program, event, attribute), with both values in words."""
    if [name(event) for event in ours] != [name(event) for event in real]:
        yield program, "order", f"ours {[name(it) for it in ours]}, a real server's {[name(it) for it in real]}"
        return
    for our, their in zip(ours, real):
        mine, theirs = dict(flat(our)), dict(flat(their))
        for attribute in sorted(mine.keys() | theirs.keys()):
            a, b = mine.get(attribute, "nothing"), theirs.get(attribute, "nothing")
            if a != b:
                yield name(our), attribute, f"ours {a!r}, a real server's {b!r} ({program}, event {our['eventId']})"


def flat(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict) and value:
        for key, it in value.items():
            # The event's type is said already.
            step = "" if key.endswith("EventAttributes") else key
            yield from flat(it, ".".join(filter(None, (path, step))))
    elif isinstance(value, list) and value:
        for place, it in enumerate(value):
            yield from flat(it, f"{path}[{place}]")
    else:
        yield path, value
