"""The verbs and their flags. Nothing here imports more than argparse, so that ``--help`` is instant."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from edgead import __version__
from edgead.errors import nearest

Run = Callable[[argparse.Namespace], Any]


class Parser(argparse.ArgumentParser):
    """argparse with errors of one line, and without abbreviations, which change their meaning as flags are added."""

    def __init__(self, **values: Any) -> None:
        super().__init__(allow_abbrev=False, formatter_class=argparse.RawDescriptionHelpFormatter, **values)

    def error(self, message: str) -> NoReturn:
        """Print one line and end with code 2."""
        self.exit(2, f"{self.prog}: {' '.join(message.splitlines())}; all flags: {self.prog} --help\n")

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if action.choices is not None and value not in action.choices:
            words = [str(choice) for choice in action.choices]
            raise argparse.ArgumentError(action, f"there is no '{value}'{nearest(str(value), words)}")

    @property
    def flags(self) -> list[str]:
        """Long flags."""
        return [flag for action in self._actions for flag in action.option_strings if flag.startswith("--")]


class Verbs:
    """The verbs of the command line, as their modules add them."""

    def __init__(self, parser: Parser) -> None:
        self._added = parser.add_subparsers(metavar="VERB", dest="verb", parser_class=Parser, title="verbs")
        self.parsers: dict[str, Parser] = {}

    def add(self, name: str, run: Run, *, summary: str, example: str, more: str = "") -> Parser:
        """Add a verb; ``run`` takes what was parsed and imports what it needs."""
        told = f"{summary[0].upper()}{summary[1:]}.\n{more}".rstrip()
        verb: Parser = self._added.add_parser(name, help=summary, description=told, epilog=f"example: {example}")
        verb.add_argument("--json", action="store_true", help="print one JSON document on stdout, and nothing else")
        verb.set_defaults(run=run)
        self.parsers[name] = verb
        return verb


def parse(words: Sequence[str]) -> argparse.Namespace:
    """Parse a command line; the namespace has ``run``, the function of its verb.

    Raises:
        SystemExit: help was asked for (0), or the line is wrong (2); it has been printed.
    """
    parser, verbs = _build()
    wanted, unknown = parser.parse_known_args(words)
    if wanted.verb is None:
        parser.error("a verb is missing" + nearest("", verbs.parsers))
    if unknown:
        verb = verbs.parsers[wanted.verb]
        word = unknown[0].partition("=")[0]
        hint = nearest(word, verb.flags) if word.startswith("-") else ""
        verb.error(f"unknown flag '{word}'{hint}" if hint else f"'{word}' is one word too many")
    return wanted


def _build() -> tuple[Parser, Verbs]:
    from edgead.cli import (
        building,
        certifying,
        demo,
        making,
        measuring,
        proving,
        quantizing,
        running,
        serving,
        simulating,
        trading,
    )

    parser = Parser(
        prog="edgead",
        description="Visual anomaly detection: from Good images to verdicts on a production line.",
        epilog="start here: edgead demo\neach verb explains itself: edgead train --help",
    )
    parser.add_argument("--version", action="version", version=f"edgead {__version__}")
    verbs = Verbs(parser)
    for module in (
        demo,
        simulating,
        making,
        quantizing,
        building,
        measuring,
        certifying,
        proving,
        trading,
        running,
        serving,
    ):
        module.add_verbs(verbs)
    return parser, verbs
