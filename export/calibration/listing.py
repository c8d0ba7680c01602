"""``calibration_data/<category>/calibration.txt``: which images were chosen, so that a calibration can be made again.

One image a line as ``sha256  path``, with paths below the data set's root: in that folder ``sha256sum -c LIST`` checks
them too.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from edgead.bundle_file import sha256, write_whole
from edgead.datasets.sample import Dataset, Sample
from edgead.errors import DataError
from export.calibration.choice import Chosen, refuse_too_few

FILE_NAME = "calibration.txt"

_TITLE = "# edgead calibration list, format 1"
_KEYS = ("dataset", "category", "method", "seed", "count")
_LINE = re.compile(r"([0-9a-f]{64})  (\S.*)")
_AGAIN = "choose anew: edgead quantize RUN --choose-again"


@dataclass(frozen=True)
class Listed:
    """A calibration list that agrees with the data set and its files.

    Attributes:
        samples: the data set's, in the order of the list.
        paths: the same, below the data set's root, with forward slashes.
        sha256: of the list itself.
        dataset, category: what the list is for.
        method, seed: how the images were chosen.
    """

    samples: tuple[Sample, ...]
    paths: tuple[str, ...]
    sha256: str
    dataset: str
    category: str
    method: str
    seed: int

    def counts(self) -> dict[str, dict[str, int]]:
        """Count the images by view and by illumination."""
        return {
            "views": dict(sorted(Counter(sample.view for sample in self.samples).items())),
            "illuminations": dict(sorted(Counter(sample.illumination for sample in self.samples).items())),
        }


def list_path(folder: Path, category: str) -> Path:
    """Return where the list of a category stands below ``calibration_data``.

    Raises:
        DataError: the category's name cannot be that of a folder.
    """
    if category in ("", ".", "..") or re.search(r"[/\\:\0\n]", category):
        raise DataError(
            f"the category '{category}' cannot name a folder of calibration lists; rename it, without / \\ :"
        )
    return folder / category / FILE_NAME


def write_list(path: Path, chosen: Chosen, dataset: Dataset, root: Path) -> None:
    """Write the images chosen, whole or not at all.

    Args:
        root: the data set's, as ``open_dataset`` took it.

    Raises:
        DataError: an image that lies outside the root or cannot be read.
        ArtefactError: the folder cannot be written.
    """
    home = _home(root)
    header = {
        "dataset": dataset.name,
        "category": dataset.category,
        "method": chosen.method,
        "seed": chosen.seed,
        "count": len(chosen.samples),
    }
    lines = [_TITLE, *(f"# {key}: {value}" for key, value in header.items())]
    lines += [f"{_digest(sample.image)}  {_below(home, sample.image)}" for sample in chosen.samples]
    text = "\n".join(lines) + "\n"
    write_whole(path, lambda temporary: _write_text(temporary, text))


def read_list(path: Path, dataset: Dataset, root: Path) -> Listed:
    """Read a list back and hold it against the data set and the files.

    Args:
        root: the data set's, as ``open_dataset`` took it.

    Raises:
        DataError: the list is missing, damaged, of another data set, or names an image that is missing, changed,
            outside the root, listed twice, defective, or in the test part.
    """
    header, entries, digest = _parse(path)
    for key, found, wanted in (
        ("dataset", header["dataset"], dataset.name),
        ("category", header["category"], dataset.category),
    ):
        if found != wanted:
            raise DataError(f"{path}: is for {key} '{found}', not '{wanted}'; {_AGAIN}")
    home = _home(root)
    known = _known(dataset, home)
    samples = tuple(_checked(f"{path}, line {number}", home, name, sha, known) for number, name, sha in entries)
    return Listed(
        samples=samples,
        paths=tuple(name for _, name, _ in entries),
        sha256=digest,
        dataset=dataset.name,
        category=dataset.category,
        method=header["method"],
        seed=int(header["seed"]),
    )


def _parse(path: Path) -> tuple[dict[str, str], list[tuple[int, str, str]], str]:
    """Return the header, number, path and sha256 of each image line, and the sha256 of the file."""
    try:
        data = path.read_bytes()
        text = data.decode("utf-8")
    except OSError as error:
        raise DataError(f"{path}: no calibration list here ({error.strerror}); {_AGAIN}") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not UTF-8 text (byte {error.start}); {_AGAIN}") from error
    lines = text.splitlines()
    if not lines:
        raise DataError(f"{path}: the list is empty; {_AGAIN}")
    if lines[0] != _TITLE:
        raise DataError(f"{path}, line 1: expected '{_TITLE}'; {_AGAIN}")
    header: dict[str, str] = {}
    entries: list[tuple[int, str, str]] = []
    first: dict[str, int] = {}
    for number, line in enumerate(lines[1:], start=2):
        if line.startswith("#"):
            key, _, value = line.removeprefix("#").partition(":")
            header[key.strip()] = value.strip()
        elif line.strip():
            sha, name = _entry(line, f"{path}, line {number}")
            if (seen := first.setdefault(name, number)) != number:
                raise DataError(f"{path}, line {number}: {name} stands in line {seen} already; {_AGAIN}")
            entries.append((number, name, sha))
    _check_header(header, len(entries), path)
    return header, entries, hashlib.sha256(data).hexdigest()


def _check_header(header: dict[str, str], images: int, path: Path) -> None:
    for key in _KEYS:
        if key not in header:
            raise DataError(f"{path}: the line '# {key}: ...' is missing; {_AGAIN}")
    for key in ("seed", "count"):
        if not re.fullmatch(r"-?[0-9]{1,18}", header[key]):
            raise DataError(f"{path}: {key} '{header[key]}' is no whole number; {_AGAIN}")
    if images == 0:
        raise DataError(f"{path}: lists no image; {_AGAIN}")
    if images != int(header["count"]):
        raise DataError(f"{path}: lists {images} images, its header says {header['count']}: cut or edited; {_AGAIN}")
    refuse_too_few(images, f" in {path}")


def _entry(line: str, place: str) -> tuple[str, str]:
    found = _LINE.fullmatch(line)
    if found is None:
        raise DataError(f"{place}: '{line[:80]}' is no line of a list; expected 'sha256  path'; {_AGAIN}")
    sha, name = found.groups()
    parts = PurePosixPath(name).parts
    if name.startswith("/") or ".." in parts or "\\" in name or re.match(r"[A-Za-z]:", name):
        raise DataError(f"{place}: {name} leaves the data set's root; expected a path below it; {_AGAIN}")
    return sha, name


def _known(dataset: Dataset, home: Path) -> dict[str, tuple[Sample, bool]]:
    """Return every sample of the data set, and whether calibration may take it, by path below the root."""
    parts = ((dataset.train, True), (dataset.validation, True), (dataset.test, False))
    return {_relative(home, sample.image): (sample, legal) for samples, legal in parts for sample in samples}


def _checked(place: str, home: Path, name: str, sha: str, known: dict[str, tuple[Sample, bool]]) -> Sample:
    if not (home / name).is_file():
        raise DataError(f"{place}: {home / name} is missing; copy it back, or {_AGAIN}")
    if name not in known:
        raise DataError(f"{place}: {name} is no image of this data set and category; {_AGAIN}")
    sample, legal = known[name]
    if not sample.is_good:
        raise DataError(f"{place}: {name} shows the defect '{sample.defect}'; only Good images calibrate; {_AGAIN}")
    if not legal:
        raise DataError(f"{place}: {name} is a test image; calibrating by it would flatter the accuracy; {_AGAIN}")
    if _digest(sample.image) != sha:
        raise DataError(f"{place}: {name} has changed since it was chosen (sha256 differs); copy it back, or {_AGAIN}")
    return sample


def _home(root: Path) -> Path:
    """Return the folder that paths count from: a manifest's root may be the file."""
    return root.parent if root.is_file() else root


def _below(home: Path, image: Path) -> str:
    name = _relative(home, image)
    if name.startswith("../") or os.path.isabs(name):
        raise DataError(
            f"{image}: lies outside the data set's root {home}, and a list names images below it: move them there, or "
            "the manifest to a folder above them"
        )
    if name != name.strip() or not name.isprintable():
        raise DataError(f"{image}: a list cannot hold this name; rename it, without line breaks and blanks at its ends")
    return name


def _relative(home: Path, image: Path) -> str:
    return Path(os.path.relpath(image, home)).as_posix()


def _digest(image: Path) -> str:
    try:
        return sha256(image)
    except OSError as error:
        raise DataError(f"{image}: cannot be read ({error.strerror}); copy it back, or {_AGAIN}") from error


def _write_text(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8", newline="\n")
