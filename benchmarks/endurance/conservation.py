"""What became of every trigger: lost, doubled, changed or wrong ones are counted, and none may be."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from edgead.runtime.journal import NAME as JOURNAL
from edgead.runtime.journal import parse
from edgead.runtime.recovery import KILLED

_LAST = 16  # parts in flight, and those that a camera may be ahead of another one


class Run(NamedTuple):
    """One life of a station, as its journal told when it ended."""

    run: str
    triggers: int
    unsettled: int


def triggers_of(output: Path) -> tuple[str, int, int]:
    """Read a journal: its run, how many triggers it has noted, and how many of them are unsettled."""
    content = (output / JOURNAL).read_bytes()
    dead, _ = parse(content)
    window = int.from_bytes(content[8:16], "little")
    words = np.frombuffer(content, np.uint64)[-2 * window :: 2]
    return dead.notes.run, int(words.max() >> np.uint64(2)), len(dead.unsettled)


def logged(output: Path) -> Iterator[dict[str, Any]]:
    """Read the verdicts of an output folder, the oldest first."""
    for path in sorted(output.glob("verdicts-*.ndjson")) + [output / "verdicts.ndjson"]:
        if path.exists():
            with path.open("rb") as lines:
                for line in lines:
                    yield json.loads(line)


def check(
    output: Path,
    runs: Sequence[Run],
    receivers: Mapping[str, Mapping[str, Sequence[bytes]]],
    is_right: Callable[[Mapping[str, Any], bool], bool],
) -> dict[str, Any]:
    """Count what became of every trigger of a station; what ``failures`` counts must be zero.

    Args:
        output: its output folder.
        runs: all its lives; only the last one came to its end.
        receivers: by name, by event id, the bodies that came.
        is_right: tells whether a verdict that no kill has made up can be right; its second argument is whether its part
            was among the last ones before the station was asked to end.
    """
    expected = {f"{run.run}-{trigger}" for run in runs for trigger in range(run.triggers)}
    last = {f"{runs[-1].run}-{trigger}" for trigger in range(max(0, runs[-1].triggers - _LAST), runs[-1].triggers)}
    ended = runs[-1].run
    lines = list(logged(output))
    by_id = {event["event_id"]: event for event in lines}
    wrong = [
        event_id
        for event_id, event in by_id.items()
        if (event_id.startswith(ended) if "reason" in event else not is_right(event, event_id in last))
    ]
    found: dict[str, Any] = {
        "runs": len(runs),
        "triggers": len(expected),
        "verdicts": dict(sorted(Counter(event["verdict"] for event in lines).items())),
        "made_up": sum(event.get("reason") == KILLED for event in lines),
        "lost": {"file": len(expected - by_id.keys())},
        "again": {"file": len(lines) - len(by_id)},
        "changed": {},
        "unknown": {"file": len(by_id.keys() - expected)},
        "wrong": len(wrong),
    }
    for name, heard in receivers.items():
        found["lost"][name] = len(expected - heard.keys())
        found["again"][name] = sum(map(len, heard.values())) - len(heard)
        found["changed"][name] = sum(_is_changed(bodies, by_id.get(event_id)) for event_id, bodies in heard.items())
        found["unknown"][name] = len(heard.keys() - expected)
    return found


def failures(counts: Mapping[str, Any]) -> list[str]:
    """Return what is not zero and has to be: a verdict may come again, but only as it was, and not in the file."""
    bad = [
        f"{key} in {where}: {count}" for key in ("lost", "changed", "unknown") for where, count in counts[key].items()
    ]
    bad += [f"again in file: {counts['again']['file']}", f"wrong: {counts['wrong']}"]
    return [line for line in bad if not line.endswith(": 0")]


def _is_changed(bodies: Sequence[bytes], event: Mapping[str, Any] | None) -> bool:
    """Tell whether what came under one event id differs, or is another event than the one in the file."""
    if any(body != bodies[0] for body in bodies):
        return True
    came = json.loads(bodies[0])
    came.pop("sequence", None)
    return event is not None and came != event
