"""``edgead demo``: the whole line on simulated parts, each step by the command that a user would type."""

from __future__ import annotations

import argparse
import json
import shlex
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgead.cli.answer import Answer, percent, table, write_text
from edgead.errors import ConfigError, DataError, require

if TYPE_CHECKING:
    from rich.table import Table

    from edgead.cli.parser import Verbs
    from edgead.datasets.simulated import ObjectSpec

AUROC_GATE = 0.95

_NETWORK = "cfrg-lite0"
_CHOICES = "demo.json"  # what the parts in the folder were made with
_STATION_SEED = 1000  # the station sees parts that are neither in training nor in test
_STATION_PARTS = 24
_NG_SHARE = 0.3
_CALIBRATED = 60  # images
_HELD_OUT = 0.25  # of the few Good parts, for a threshold that promises something


def add_verbs(verbs: Verbs) -> None:
    """Add demo."""
    parser = verbs.add(
        "demo",
        demo,
        summary="run the whole line on simulated parts and leave a report: start here",
        example="edgead demo",
        more="Prints each step with the command that does it. Code 1 when a gate is missed.",
    )
    parser.add_argument("--out", type=Path, default=Path("runs/demo"), metavar="RUN", help="folder (%(default)s)")
    parser.add_argument("--object", default="chip_inductor", metavar="NAME", help="what to simulate (%(default)s)")
    parser.add_argument("--seed", type=int, default=1, metavar="N", help="other seeds, other parts (%(default)s)")
    parser.add_argument("--good", type=int, default=60, metavar="N", help="Good parts (%(default)s)")
    parser.add_argument("--defective", type=int, default=2, metavar="N", help="parts of each defect (%(default)s)")
    parser.add_argument("--size", type=int, default=128, metavar="PIXELS", help="side of the images (%(default)s)")
    parser.add_argument("--epochs", type=int, default=12, metavar="N", help="passes over the Good images (%(default)s)")


def demo(wanted: argparse.Namespace) -> Answer:
    """Run all steps, then judge them by the demo's own gates."""
    from edgead.datasets.simulated.objects import object_spec

    for module, extra in (
        ("torch", "train"),
        ("lightning_fabric", "train"),
        ("onnx", "export"),
        ("onnxscript", "export"),
        ("openvino", "openvino"),
    ):
        require(module, extra=extra)  # now, not after minutes
    spec = object_spec(wanted.object)
    begin = time.monotonic()
    steps = _Steps(_commands(wanted, spec), rendered=_same_parts(wanted, spec))
    write_text(wanted.out / "station.yaml", _station(wanted, spec))
    answers = steps.run()
    seconds = time.monotonic() - begin
    return _summary(wanted, answers, seconds)


class _Steps:
    """Commands that run one after the other in this process."""

    def __init__(self, commands: Mapping[str, tuple[str, list[str]]], *, rendered: bool) -> None:
        self._commands = dict(commands)
        if rendered:
            print("the simulated parts are there already", file=sys.stderr)
            del self._commands["simulate"]

    def run(self) -> dict[str, Answer]:
        """Return the answers by step; a gate that is missed does not stop the steps that follow."""
        from edgead.cli.parser import parse

        answers = {}
        for number, (step, (title, words)) in enumerate(self._commands.items(), 1):
            line = f"[{number}/{len(self._commands)}] {title}: edgead {shlex.join(words)}"
            print(line, file=sys.stderr, flush=True)
            asked = parse(words)
            answers[step] = asked.run(asked)
        return answers


def _commands(wanted: argparse.Namespace, spec: ObjectSpec) -> dict[str, tuple[str, list[str]]]:
    """Return title and words of each step, by its verb, and by its artefact where a verb comes twice."""
    run, data = str(wanted.out), str(wanted.out / "data")
    numbers = ["--good", str(wanted.good), "--defective", str(wanted.defective)]
    shape = ["--size", str(wanted.size), "--seed", str(wanted.seed)]
    what = ["--dataset", "sim", "--root", data, "--category", spec.folder, "--validation", str(_HELD_OUT)]
    lists = ["--calibration-data", str(wanted.out / "calibration_data"), "--images", str(_CALIBRATED), "--choose-again"]
    return {
        "simulate": ("Render parts", ["simulate", wanted.object, "--out", data, *numbers, *shape]),
        "train": ("Train on Good images only", [
            "train", *what, "--network", _NETWORK, "--epochs", str(wanted.epochs), *shape, "--out", run,
        ]),
        "export": ("Export to ONNX", ["export", run]),
        "threshold": ("Set the threshold from Good images", ["threshold", run]),
        "parity": ("Prove parity with torch", ["parity", run]),
        "evaluate": ("Measure accuracy", ["evaluate", run]),
        "quantize": ("Quantise to INT8", ["quantize", run, *lists]),
        "parity int8": ("Prove what INT8 keeps", ["parity", run, "--artefact", "int8", "--backend", "openvino"]),
        "bench": ("Measure speed", ["bench", run, "--artefacts", "checkpoint,fp32,int8@openvino", "--n", "50"]),
        "stream": ("Run a station", ["stream", str(wanted.out / "station.yaml")]),
        "report": ("Write the report", ["report", run]),
    }  # fmt: skip


def _same_parts(wanted: argparse.Namespace, spec: ObjectSpec) -> bool:
    """Tell whether the folder holds the parts wanted; remember what they are made with.

    Raises:
        ConfigError: it holds others.
    """
    choices = {
        "object": wanted.object,
        **{name: getattr(wanted, name) for name in ("seed", "good", "defective", "size")},
    }
    path = wanted.out / _CHOICES
    if path.exists():
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise DataError(
                f"{path}: cannot be read ({error}); delete {wanted.out}, or choose another --out"
            ) from error
        if found != choices:
            raise ConfigError(f"{wanted.out}: holds a demo with {found}; choose another --out, or delete that folder")
    write_text(path, json.dumps(choices) + "\n")
    written_last = wanted.out / "data" / spec.folder / "attributes.csv"
    return bool(written_last.exists())


def _station(wanted: argparse.Namespace, spec: ObjectSpec) -> str:
    """Return a station.yaml with one simulated camera a view."""
    query = f"seed={wanted.seed + _STATION_SEED}&parts={_STATION_PARTS}&ng_share={_NG_SHARE}&size={wanted.size}"
    lines = ["name: demo", "bundle: .", "artefact: fp32", "output: station", "cameras:"]
    for view in spec.views:
        lines += [f"  - name: {view}", f"    view: {view}", f"    uri: sim://{wanted.object}?{query}"]
    return "\n".join(lines) + "\n"


def _summary(wanted: argparse.Namespace, answers: Mapping[str, Answer], seconds: float) -> Answer:
    from benchmarks.speed import peak_rss_mib

    accuracy = answers["evaluate"].document["accuracy"]
    fast, station = answers["bench"].document["rows"][1:], answers["stream"].document
    limits = answers["threshold"].document["threshold"]
    peak, auroc = peak_rss_mib(), accuracy["image_AUROC"]
    document: dict[str, Any] = {
        "run": str(wanted.out),
        "report": answers["report"].document["report"],
        "seconds": round(seconds, 1),
        "peak_rss_mib": peak,
        "gates": {"image_AUROC": AUROC_GATE, "parity": answers["parity"].missed is None},
        "steps": {verb: dict(answer.document) for verb, answer in answers.items()},
    }
    rows = [
        ("image AUROC", f"{percent(auroc)} %", f"at least {percent(AUROC_GATE)} %"),
        ("part AUROC", f"{percent(accuracy['part_AUROC'])} %", ""),
        ("pixel AUPRO", f"{percent(accuracy['pixel_AUPRO'])} %", ""),
        ("parity of fp32 with torch", "kept" if answers["parity"].missed is None else "missed", "kept"),
        ("parity of INT8 with torch", "kept" if answers["parity int8"].missed is None else "missed", ""),
        ("NG above", f"{limits['ng']:.4g}, from {limits['n_good']} Good {limits['unit']}s", ""),
        *(
            (
                f"one image, {each['runner']}",
                f"{each['p50_ms']:.1f} ms, {each['times_faster']:.1f} times as fast as torch",
                "",
            )
            for each in fast
        ),
        ("station", ", ".join(f"{count} {name}" for name, count in station["verdicts"].items() if count), ""),
        ("time", f"{seconds:.0f} s", ""),
        ("memory, at most", "unknown" if peak is None else f"{peak:.0f} MiB", ""),
    ]
    missed = answers["parity"].missed
    if auroc is None or auroc < AUROC_GATE:
        missed = f"image_AUROC is {percent(auroc)} %, the gate is {percent(AUROC_GATE)} %"
    body: list[Table | str] = [
        table(f"Demo on {wanted.object}", ("", "", "gate"), rows),
        f"report: {document['report']}",
    ]
    return Answer(document, body, missed)
