"""Scores of Good parts, one for each view and light: what conformal fusion is calibrated with."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Any

from edgead.errors import ConfigError, DataError
from edgead.thresholds import check_budget

if TYPE_CHECKING:
    from edgead.datasets.sample import Sample

FEWEST = 8
"""Good parts below which the spread of a view's scores is not worth the name."""

AGAIN = "score them again: edgead threshold --fusion conformal"

Place = tuple[str, str]  # view and illumination


@dataclass(frozen=True)
class GoodParts:
    """Scores of Good parts held out of training, and the budget that a threshold is to keep.

    Attributes:
        slots: view and illumination of each column.
        scores: ``(N, len(slots))``, one row a part, raw; in an order that has nothing to do with the parts, so that the
            first ones are as good a draw as the last ones.
        false_reject_ppm, confidence, unsure_ratio: as ``thresholds.threshold_from_good`` takes them.
        source: where the scores came from, in words.
        aliases: what else stations may call the slots, in their order; empty where there are no other names.
    """

    slots: tuple[Place, ...]
    scores: tuple[tuple[float, ...], ...]
    false_reject_ppm: float
    confidence: float
    unsure_ratio: float
    source: str
    aliases: tuple[Place, ...] = ()

    def __post_init__(self) -> None:
        check_budget(self.false_reject_ppm, self.confidence, self.unsure_ratio)
        if self.aliases and len(self.aliases) != len(self.slots):
            raise ConfigError(f"{len(self.aliases)} aliases of {len(self.slots)} views and lights; {AGAIN}")
        if not self.slots or len(set(self.slots)) < len(self.slots):
            raise DataError(f"Good parts are scored by {list(self.slots)}; expected different views and lights")
        if len(self.scores) < FEWEST:
            raise DataError(
                f"only {len(self.scores)} Good parts with all {len(self.slots)} views and lights are held out of "
                f"training; conformal fusion needs at least {FEWEST}, and better 100: add Good parts and train again"
            )
        if any(len(row) != len(self.slots) for row in self.scores):
            raise DataError(f"a Good part lacks scores; expected {len(self.slots)} of each")
        for (view, light), column in zip(self.slots, zip(*self.scores, strict=True), strict=True):
            bad = sum(not math.isfinite(score) for score in column)
            if bad:
                raise DataError(
                    f"view '{view}', light '{light}': {bad} of {len(column)} Good scores are NaN or infinite; "
                    "the model or its input is broken"
                )

    @classmethod
    def from_samples(
        cls,
        samples: Sequence[Sample],
        scores: Sequence[float],
        *,
        aliases: Mapping[Place, Place] | None = None,
        false_reject_ppm: float,
        confidence: float,
        unsure_ratio: float,
        source: str,
    ) -> GoodParts:
        """Arrange the scores of Good images by part; parts without all views and lights are left out.

        Args:
            aliases: what else stations may call a view and its light.

        Raises:
            DataError: two images of one view and light of a part, scores that are not finite, or too few whole parts.
            ConfigError: a budget or a confidence out of range.
        """
        by_part: dict[str, dict[Place, float]] = {}
        for sample, score in zip(samples, scores, strict=True):
            place = (sample.view, sample.illumination)
            row = by_part.setdefault(sample.part, {})
            if place in row:
                raise DataError(
                    f"{sample.image}: part '{sample.part}' has two images of view '{place[0]}', light '{place[1]}'; "
                    "a station takes one: name views and lights apart, or keep --fusion max"
                )
            row[place] = float(score)
        places = sorted({place for row in by_part.values() for place in row})
        drawn = sorted(by_part, key=lambda part: hashlib.sha256(part.encode()).digest())
        whole = (by_part[part] for part in drawn if len(by_part[part]) == len(places))
        return cls(
            slots=tuple(places),
            scores=tuple(tuple(row[place] for place in places) for row in whole),
            false_reject_ppm=float(false_reject_ppm),
            confidence=float(confidence),
            unsure_ratio=float(unsure_ratio),
            source=source,
            aliases=tuple(aliases.get(place, place) for place in places) if aliases else (),
        )

    def columns(self, slots: Iterable[Place]) -> list[tuple[float, ...]]:
        """Return a row of scores a part, in the order of ``slots``.

        Raises:
            ConfigError: no Good part was ever scored by one of them.
        """
        at = []
        for view, light in slots:
            called = next((names for names in (self.slots, self.aliases) if (view, light) in names), None)
            if called is None:
                known = ", ".join(f"{v}/{i}" for v, i in self.slots)
                raise ConfigError(
                    f"no Good part was scored by view '{view}', light '{light}'; known: {known}. Name the cameras' "
                    "view and illuminations in station.yaml so, or hold out Good parts that show it"
                )
            at.append(called.index((view, light)))
        return [tuple(row[index] for index in at) for row in self.scores]

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return {name: _listed(value) for name, value in asdict(self).items()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> GoodParts:
        """Read what ``to_dict`` wrote.

        Raises:
            ConfigError: keys missing or unknown, or a value that is none.
            DataError: too few parts, or scores that are not finite.
        """
        names = {field.name for field in fields(cls)}
        if set(values) != names:
            wrong = ", ".join(sorted(names.symmetric_difference(values)))
            raise ConfigError(f"keys of Good parts missing or unknown: {wrong}; {AGAIN}")
        try:
            return cls(
                slots=_places(values["slots"]),
                scores=tuple(tuple(float(score) for score in row) for row in values["scores"]),
                false_reject_ppm=float(values["false_reject_ppm"]),
                confidence=float(values["confidence"]),
                unsure_ratio=float(values["unsure_ratio"]),
                source=str(values["source"]),
                aliases=_places(values["aliases"]),
            )
        except (TypeError, ValueError) as error:
            raise ConfigError(f"a value of the Good parts is wrong ({error}); {AGAIN}") from error


def _places(values: Iterable[Any]) -> tuple[Place, ...]:
    return tuple((str(view), str(light)) for view, light in values)


def _listed(value: Any) -> Any:
    return [_listed(each) for each in value] if isinstance(value, tuple) else value
