"""The results file of peers, written after each method and seed: a run that was killed goes on where it was.

Its rows are the medians of each method; what each seed gave stands in the conditions, as ``runs``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from benchmarks import results
from benchmarks.peers.measuring import medians
from edgead.errors import ConfigError

Row = dict[str, Any]


class Record:
    """Measurements by method and seed.

    Args:
        path: the file; what it holds of the same conditions stays.
        command: tells how to measure it again, from the methods and the number of seeds.
        conditions: what all rows have in common.

    Raises:
        ConfigError: the file was measured under other conditions.
        DataError: the file is no results file.
    """

    def __init__(self, path: Path, command: Callable[[list[str], int], str], conditions: Mapping[str, Any]) -> None:
        self._path, self._command = path, command
        self._conditions = dict(conditions)
        self._methods: dict[str, Any] = {}
        self._runs: list[Row] = []
        if path.exists():
            self._take_over(results.read(path))

    def _take_over(self, before: results.Results) -> None:
        known: dict[str, Any] = dict(before.conditions)
        self._methods, self._runs = known.pop("methods", {}), known.pop("runs", [])
        for key in sorted(known.keys() | self._conditions.keys()):
            if known.get(key) != self._conditions.get(key):
                raise ConfigError(
                    f"{self._path}: was measured with {key} {known.get(key)}, not {self._conditions.get(key)}; "
                    "choose another --save, or delete the file"
                )

    def has(self, method: str, seed: int, settings: Mapping[str, Any]) -> bool:
        """Tell whether a method and seed have been measured.

        Raises:
            ConfigError: with other settings.
        """
        known = self._methods.get(method)
        if known is not None and known != settings:
            changed = sorted(key for key in known.keys() | settings.keys() if known.get(key) != settings.get(key))
            raise ConfigError(
                f"{self._path}: {method} was measured with other settings ({', '.join(changed)}); "
                "choose another --save, or delete the file"
            )
        return any((row["method"], row["seed"]) == (method, seed) for row in self._runs)

    def add(self, row: Row, settings: Mapping[str, Any]) -> None:
        """Keep what a seed gave, and write the file anew."""
        self._methods[row["method"]] = dict(settings)
        self._runs.append(row)
        conditions = {**self._conditions, "methods": self._methods, "runs": self._runs}
        command = self._command(list(self._methods), 1 + max(each["seed"] for each in self._runs))
        results.save(self._path, command=command, conditions=conditions, rows=self.summaries())

    def summaries(self) -> list[Row]:
        """Return the medians of each method, those with the highest image AUROC first."""
        methods = dict.fromkeys(row["method"] for row in self._runs)
        found = [medians([row for row in self._runs if row["method"] == method]) for method in methods]
        return sorted(found, key=lambda row: row["image_AUROC"] or 0.0, reverse=True)
