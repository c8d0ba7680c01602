"""A verdict as an event: one JSON object, the same for all sinks; docs/verdict.schema.json says what is in it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:  # so that the process that delivers events imports neither NumPy nor OpenCV
    from edgead.config import StationConfig
    from edgead.runtime.parts import PartVerdict, Slot
    from edgead.thresholds import Threshold

SCHEMA = "edgead.verdict/1"


class Event(NamedTuple):
    """A verdict on its way: what marks duplicates of it, and its JSON without a line end."""

    event_id: str
    text: str


class Events:
    """Makes events of the verdicts of one run.

    Args:
        run: identity of this run of the station; with the trigger it makes the ``event_id`` that marks duplicates.

    Attributes:
        constant: fields that all events of the run have in common.
    """

    def __init__(self, config: StationConfig, *, run: str, threshold: Threshold) -> None:
        self._run = run
        self.constant: dict[str, str | float] = {
            "station": config.name,
            "artefact": config.artefact,
            "unsure": threshold.unsure,
            "ng": threshold.ng,
        }

    def of(self, verdicts: Sequence[PartVerdict]) -> list[Event]:
        """Return an event for each verdict, with the time of now."""
        now = datetime.now(timezone.utc).isoformat(timespec="milliseconds")
        return [self._event(verdict, now) for verdict in verdicts]

    def _event(self, verdict: PartVerdict, now: str) -> Event:
        event_id = f"{self._run}-{verdict.trigger}"
        fields: dict[str, Any] = {
            "schema": SCHEMA,
            "event_id": event_id,
            "time": now,
            "trigger": verdict.trigger,
            "part": verdict.part,
            "verdict": verdict.outcome.value,
            "score": verdict.score,
            "worst": slot_name(verdict.worst) if verdict.worst else None,
            "frames": verdict.frames,
            "missing": [slot_name(slot) for slot in verdict.missing],
            "latency_ms": round(1e3 * (verdict.decided_s - verdict.triggered_s), 3),
            **self.constant,
        }
        return Event(event_id, json.dumps(fields, allow_nan=False))


def slot_name(slot: Slot) -> str:
    """Return "VIEW/ILLUMINATION"."""
    return f"{slot.view}/{slot.illumination}"
