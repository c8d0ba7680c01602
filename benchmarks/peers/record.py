"""The results file of peers, written after each method and seed: a run that was killed goes on where it was."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks import results
from benchmarks.peers.measuring import medians
from edgead.errors import ConfigError

Row = dict[str, Any]


class Record:
    """Rows by method and seed.

    Args:
        path: the file; what it holds of the same conditions stays.
        command: how to measure it again.
        conditions: what all rows have in common.

    Raises:
        ConfigError: the file was measured under other conditions.
        DataError: the file is no results file.
    """

    def __init__(self, path: Path, command: str, conditions: Mapping[str, Any]) -> None:
        self._path, self._command = path, command
        self._conditions: dict[str, Any] = {**conditions, "methods": {}}
        self.rows: list[Row] = []
        if path.exists():
            self._take_over(results.read(path))

    def _take_over(self, before: results.Results) -> None:
        known = dict(before.conditions)
        methods = known.pop("methods", {})
        wanted = {key: value for key, value in self._conditions.items() if key != "methods"}
        for key in sorted(known.keys() | wanted.keys()):
            if known.get(key) != wanted.get(key):
                raise ConfigError(
                    f"{self._path}: was measured with {key} {known.get(key)}, not {wanted.get(key)}; "
                    "choose another --save, or delete the file"
                )
        self._conditions["methods"] = methods
        self.rows = [dict(row) for row in before.rows if row.get("seed") != "median"]

    def has(self, method: str, seed: int, settings: Mapping[str, Any]) -> bool:
        """Tell whether a method and seed have been measured.

        Raises:
            ConfigError: with other settings.
        """
        known = self._conditions["methods"].get(method)
        if known is not None and known != settings:
            changed = sorted(key for key in known.keys() | settings.keys() if known.get(key) != settings.get(key))
            raise ConfigError(
                f"{self._path}: {method} was measured with other settings ({', '.join(changed)}); "
                "choose another --save, or delete the file"
            )
        return any((row["method"], row["seed"]) == (method, seed) for row in self.rows)

    def add(self, row: Row, settings: Mapping[str, Any]) -> None:
        """Keep a row and write the file anew: a row a seed, then the medians of each method."""
        self._conditions["methods"][row["method"]] = dict(settings)
        self.rows.append(row)
        results.save(
            self._path, command=self._command, conditions=self._conditions, rows=[*self.rows, *self.summaries()]
        )

    def summaries(self) -> list[Row]:
        """Return the medians of each method, in the order in which they were measured."""
        methods = dict.fromkeys(row["method"] for row in self.rows)
        return [medians([row for row in self.rows if row["method"] == method]) for method in methods]
