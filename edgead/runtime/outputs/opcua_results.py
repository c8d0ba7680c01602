"""The last results of a station as OPC 40100-1 has them, kept for clients that ask later."""

from __future__ import annotations

import json
import math
from datetime import datetime, timedelta
from typing import Any, NamedTuple

from edgead.errors import require
from edgead.runtime.outputs.recipe import Recipe

COMPLETED, FAILED = 1, 4  # ResultStateDataType
_JUDGED = ("OK", "UNSURE", "NG")
_LONGEST = 4096  # characters of a name
_ANSWER, _OVERHEAD = 500_000, 700  # bytes of an answer, and of a result beside its body


class Result(NamedTuple):
    """One verdict.

    Attributes:
        fields: the event of docs/verdict.schema.json, as text in ``body``.
        data: a ResultDataType.
    """

    fields: dict[str, Any]
    body: str
    data: Any

    @property
    def values(self) -> dict[str, Any]:
        """Return what stands in the plain variables."""
        fields = self.fields
        return {
            "Sequence": fields["sequence"],
            "EventId": fields["event_id"],
            "Trigger": fields["trigger"],
            "Part": clean(fields["part"] or ""),
            "Verdict": fields["verdict"],
            "Score": math.nan if fields["score"] is None else fields["score"],
            "Unsure": fields["unsure"],
            "Ng": fields["ng"],
            "LatencyMs": fields["latency_ms"],
            "Json": self.body,
        }


class Results:
    """The last ``keep`` results, the oldest first."""

    def __init__(self, recipe: Recipe, keep: int) -> None:
        self._ua: Any = require("asyncua.ua", extra="opcua")
        self._keep = keep
        self._recipe = recipe
        self._kept: dict[str, Result] = {}

    @property
    def recipe_id(self) -> Any:
        """Return the id of what the station runs: a RecipeIdInternalDataType."""
        sha256 = bytes.fromhex(self._recipe.sha256)
        made = self._ua.RecipeIdInternalDataType(Id=self._recipe.name)
        if sha256:
            made.Hash, made.HashAlgorithm = sha256, "SHA-256"
        return made

    def add(self, body: bytes) -> Result:
        """Keep an event, in place of an older one with its id, and of the oldest where there are too many."""
        fields = json.loads(body)
        result = Result(fields, body.decode(), self._data(fields, body.decode()))
        event_id = fields["event_id"]
        self._kept.pop(event_id, None)
        self._kept[event_id] = result
        if len(self._kept) > self._keep:
            del self._kept[next(iter(self._kept))]
        return result

    def by_id(self, event_id: str) -> Result | None:
        """Return the result of an event, if it is still kept."""
        return self._kept.get(event_id)

    def after(self, sequence: int, most: int) -> tuple[list[Result], bool]:
        """Return results after a sequence number, and whether those are all."""
        return _first([result for result in self._kept.values() if result.fields["sequence"] > sequence], most)

    def filtered(self, state: int, ids: dict[str, str], begin: int, most: int) -> tuple[list[Result], bool]:
        """Return results that have a state (0: any) and the ids that are not empty, and whether those are all.

        Args:
            ids: field of ResultDataType to the ``Id`` in it.
            begin: how many to pass over.
        """
        wanted = {name: value for name, value in ids.items() if value}
        found = [
            result
            for result in self._kept.values()
            if state in (0, result.data.ResultState)
            and all(_id(getattr(result.data, name)) == value for name, value in wanted.items())
        ]
        return _first(found[begin:], most)

    def _data(self, fields: dict[str, Any], body: str) -> Any:
        ua = self._ua
        end = datetime.fromisoformat(fields["time"])
        begin = end - timedelta(milliseconds=fields["latency_ms"])
        return ua.ResultDataType(
            ResultId=ua.ResultIdDataType(Id=fields["event_id"]),
            HasTransferableDataOnFile=False,
            IsPartial=False,
            ResultState=COMPLETED if fields["verdict"] in _JUDGED else FAILED,
            MeasId=ua.MeasIdDataType(Id=str(fields["trigger"])),
            PartId=ua.PartIdDataType(Id=clean(fields["part"] or "")),
            InternalRecipeId=self.recipe_id,
            InternalConfigurationId=ua.ConfigurationIdDataType(Id=fields["artefact"]),
            JobId=ua.JobIdDataType(Id=fields["event_id"].rpartition("-")[0]),
            CreationTime=end,
            ProcessingTimes=ua.ProcessingTimesDataType(StartTime=begin, EndTime=end),
            ResultContent=[ua.Variant(body, ua.VariantType.String)],
        )


def _first(found: list[Result], most: int) -> tuple[list[Result], bool]:
    """Return the first results, as many as one answer holds, and whether those are all; 0 is as many as it holds."""
    size = count = 0
    for result in found[: most or None]:
        size += len(result.body) + _OVERHEAD
        if count and size > _ANSWER:
            break
        count += 1
    return found[:count], count == len(found)


def clean(name: str) -> str:
    """Return a name that can travel as UTF-8."""
    return name[:_LONGEST].encode(errors="replace").decode()


def _id(value: Any) -> str | None:
    return None if value is None else value.Id
