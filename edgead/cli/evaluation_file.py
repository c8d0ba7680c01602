"""``evaluation.<artefact>@<backend>.json`` in a run: accuracy, and the score of every test image."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgead.cli.answer import write_text
from edgead.errors import DataError

if TYPE_CHECKING:
    from edgead.bundle import Bundle
    from edgead.datasets import Sample
    from edgead.evaluate import Evaluation

SCHEMA = "edgead.evaluation/1"


def write_evaluation(bundle: Bundle, document: Mapping[str, Any], samples: Sequence[Sample], found: Evaluation) -> Path:
    """Keep an evaluation of the document's artefact by its backend in the run; returns the file."""
    images = [{**_identity(sample), "score": score} for sample, score in zip(samples, found.scores, strict=True)]
    sha256 = bundle.artefacts[document["artefact"]].sha256
    path = _path(bundle, document["artefact"], document["backend"])
    text = json.dumps({"schema": SCHEMA, "sha256": sha256, **document, "images": images}, indent=1, allow_nan=False)
    write_text(path, text + "\n")
    return path


def read_evaluation(bundle: Bundle, artefact: str, backend: str, samples: Sequence[Sample]) -> Evaluation | None:
    """Return the evaluation of an artefact's present bytes by a backend on these samples; None where there is none.

    Raises:
        DataError: the file is damaged.
    """
    from edgead.evaluate import Accuracy, Counts, Evaluation

    path = _path(bundle, artefact, backend)
    if not path.is_file():
        return None
    try:
        fields = json.loads(path.read_text(encoding="utf-8"))
        measured = [{key: image[key] for key in image if key != "score"} for image in fields["images"]]
        if fields["sha256"] != bundle.artefacts[artefact].sha256 or measured != [_identity(s) for s in samples]:
            return None
        accuracy = dict(fields["accuracy"])
        accuracy["counts"] = Counts(**accuracy["counts"])
        return Evaluation(Accuracy(**accuracy), tuple(float(image["score"]) for image in fields["images"]))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path}: damaged ({error}); measure again: edgead evaluate {bundle.path}") from error


def _path(bundle: Bundle, artefact: str, backend: str) -> Path:
    return bundle.path / f"evaluation.{artefact}@{backend}.json"


def _identity(sample: Sample) -> dict[str, str]:
    return {
        "image": str(sample.image),
        "part": sample.part,
        "view": sample.view,
        "illumination": sample.illumination,
        "defect": sample.defect,
    }
