"""Times of parts as a trace in Chrome's JSON format: open it in ui.perfetto.dev or chrome://tracing."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from edgead.errors import DataError
from edgead.runtime.ledger import spans
from edgead.runtime.parts import PartVerdict

_PID = 1


def write_trace(path: Path, station: str, parts: Iterable[tuple[PartVerdict, float]]) -> None:
    """Write the times of parts, each with the moment of its publication, monotonic seconds.

    One track for each camera (decode, resize), one for the engine (batches), one for verdicts; and asynchronous ones
    for each part, and for each of its frames with all its stages.

    Raises:
        DataError: the file cannot be written.
    """
    parts = list(parts)
    begin_s = min((verdict.triggered_s for verdict, _ in parts), default=0.0)
    begin_s = min([begin_s, *(times.captured_s - times.decode_s for verdict, _ in parts for times in verdict.times)])
    events: list[dict[str, Any]] = [_meta("process_name", 0, f"station {station}")]
    tracks: dict[str, int] = {}
    for event in _events(parts):
        if "track" in event:
            name = event.pop("track")
            event["tid"] = tracks.setdefault(name, len(tracks) + 1)
        event["ts"] = round(1e6 * (event["ts"] - begin_s), 1)
        events.append({"pid": _PID, **event})
    events += [_meta("thread_name", number, name) for name, number in tracks.items()]
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({"traceEvents": events, "displayTimeUnit": "ms"}), encoding="utf-8")
    except OSError as error:
        raise DataError(f"{path}: the trace cannot be written ({error.strerror}); name another file") from error


def _events(parts: list[tuple[PartVerdict, float]]) -> Iterator[dict[str, Any]]:
    batches: dict[tuple[float, float], int] = {}
    for verdict, published_s in parts:
        name, number = f"part {verdict.part or verdict.trigger}", str(verdict.trigger)
        told = {"verdict": verdict.outcome.value, "score": verdict.score, "trigger": verdict.trigger}
        yield {"ph": "b", "cat": "part", "id": number, "name": name, "ts": verdict.triggered_s, "tid": 0, "args": told}
        for times in verdict.times:
            slot = f"{times.slot.view}/{times.slot.illumination}"
            frame = {"cat": "frame", "id": f"{number} {slot}", "tid": 0}
            stages = list(spans(times, None))
            yield {"ph": "b", **frame, "name": f"{slot} of {name}", "ts": stages[0][1]}
            for stage, begin_s, end_s in stages:
                yield {"ph": "b", **frame, "name": stage, "ts": begin_s}
                yield {"ph": "e", **frame, "name": stage, "ts": end_s}
                if stage in ("decode", "resize"):
                    yield _span(f"{stage} {slot}", f"camera {times.camera}", begin_s, end_s, number)
            yield {"ph": "e", **frame, "name": f"{slot} of {name}", "ts": stages[-1][2]}
            batch = (times.taken_s, times.judged_s)
            batches[batch] = batches.get(batch, 0) + 1
        yield {"ph": "e", "cat": "part", "id": number, "name": name, "ts": verdict.decided_s, "tid": 0}
        yield _span(f"publish {name}", "verdicts", verdict.decided_s, published_s, number)
    for (begin_s, end_s), frames in batches.items():
        yield _span(f"batch, {frames} frames here", "engine", begin_s, end_s, "")


def _span(name: str, track: str, begin_s: float, end_s: float, part: str) -> dict[str, Any]:
    duration_us = round(1e6 * max(0.0, end_s - begin_s), 1)
    return {"ph": "X", "name": name, "track": track, "ts": begin_s, "dur": duration_us, "args": {"part": part}}


def _meta(kind: str, thread: int, name: str) -> dict[str, Any]:
    return {"ph": "M", "pid": _PID, "tid": thread, "name": kind, "args": {"name": name}}
