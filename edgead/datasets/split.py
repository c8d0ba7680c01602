"""Divide the images of a category into train, validation and test: by part, by content, the same way every time."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Literal

from edgead.datasets.options import DatasetOptions
from edgead.datasets.sample import Dataset, Sample
from edgead.errors import DataError

Split = Literal["train", "validation", "test"]
Entry = tuple[Sample, Split | None]  # None: the dataset does not say

_HELD_OUT: dict[Split, int] = {
    "train": 0,
    "validation": 1,
    "test": 2,
}  # of two equal images the more held out one stays
_HEAD_BYTES = 1 << 16


def divide(
    name: str, category: str, entries: Iterable[Entry], *, validation: float, options: DatasetOptions, expected: str
) -> Dataset:
    """Return the dataset that the entries of a category make.

    Parts without a split: any with a defect, and ``options.test_share`` of the Good ones, go to test. If the entries
    name no validation, that share of the Good training parts is carved out, at least one part where there are two.

    Args:
        entries: samples with the split that the dataset itself gives them.
        expected: the layout, for errors.

    Raises:
        DataError: no images, no Good ones, defects in training, missing files, a part or image content in two splits.
    """
    found = sorted(entries, key=lambda entry: (entry[0].image.as_posix(), entry[0].part))
    if not found:
        raise DataError(f"category '{category}' holds no images; expected {expected}")
    content = _content([sample for sample, _ in found])
    placed = _place(found, content, options.test_share)
    _refuse_defects_in_training(placed)
    _refuse_straddling_parts(placed)
    placed = _refuse_or_drop_duplicates(placed, content, options)
    train = [sample for sample, split in placed if split == "train"]
    if not train:
        defective = sum(not sample.is_good for sample, _ in found)
        raise DataError(
            f"category '{category}' has no Good images to train on ({defective} of its {len(found)} images are "
            f"defective); expected {expected}"
        )
    carved = [sample for sample, split in placed if split == "validation"]
    if not carved:
        carved, train = _take(_clusters(train, content), validation, _content_rank)
    test = [sample for sample, split in placed if split == "test"]
    return Dataset(name, category, tuple(train), tuple(carved), tuple(test))


def _place(found: Sequence[Entry], content: dict[Path, str], test_share: float) -> list[tuple[Sample, Split]]:
    """Give a split to the samples that have none; with a part that is in test already, they go there."""
    tested = {sample.part for sample, split in found if split == "test"}
    good, test = [], []
    for cluster in _clusters([sample for sample, split in found if split is None], content):
        if all(sample.is_good and sample.part not in tested for sample in cluster):
            good.append(cluster)
        else:
            test += cluster
    test += _take(good, test_share, _part_rank)[0]
    chosen = {sample.image for sample in test}
    return [(sample, split or ("test" if sample.image in chosen else "train")) for sample, split in found]


def _take(
    clusters: Sequence[list[Sample]], share: float, rank: Callable[[list[Sample]], str]
) -> tuple[list[Sample], list[Sample]]:
    """Take a share of the clusters, lowest rank first: at least one of two, never the last one."""
    order = sorted(clusters, key=rank)
    count = min(max(1, round(share * len(order))), len(order) - 1) if share > 0 and order else 0
    taken, left = ([sample for cluster in some for sample in cluster] for some in (order[:count], order[count:]))
    return _in_order(taken), _in_order(left)


def _in_order(samples: list[Sample]) -> list[Sample]:
    return sorted(samples, key=lambda sample: sample.image.as_posix())


def _part_rank(cluster: list[Sample]) -> str:
    return min(hashlib.sha256(sample.part.encode()).hexdigest() for sample in cluster)


def _content_rank(cluster: list[Sample]) -> str:
    return min(_head(sample.image) for sample in cluster)


def _clusters(samples: Sequence[Sample], content: dict[Path, str]) -> list[list[Sample]]:
    """Group the samples that share a part or an identical image, directly or through others."""
    parent: dict[str, str] = {}

    def top(key: str) -> str:
        while parent.setdefault(key, key) != key:
            parent[key] = key = parent[parent[key]]
        return key

    for sample in samples:
        parent[top(f"part {sample.part}")] = top(f"content {content[sample.image]}")
    clusters: dict[str, list[Sample]] = defaultdict(list)
    for sample in samples:
        clusters[top(f"part {sample.part}")].append(sample)
    return list(clusters.values())


def _refuse_defects_in_training(placed: Sequence[tuple[Sample, Split]]) -> None:
    wrong = [sample for sample, split in placed if split != "test" and not sample.is_good]
    if wrong:
        raise DataError(
            f"{wrong[0].image}: defect '{wrong[0].defect}' among the training images, and {len(wrong) - 1} more; "
            "training takes Good images only: move defective ones to test"
        )


def _refuse_straddling_parts(placed: Sequence[tuple[Sample, Split]]) -> None:
    home: dict[str, tuple[Sample, Split]] = {}
    for sample, split in placed:
        first, first_split = home.setdefault(sample.part, (sample, split))
        if first_split != split:
            raise DataError(
                f"part '{sample.part}' is in {first_split} ({first.image}) and in {split} ({sample.image}); "
                "its images look alike, so put them all on one side"
            )


def _refuse_or_drop_duplicates(
    placed: list[tuple[Sample, Split]], content: dict[Path, str], options: DatasetOptions
) -> list[tuple[Sample, Split]]:
    """Look for images that are byte-identical across splits; drop takes their parts out of the less held out split."""
    keeper: dict[str, tuple[Sample, Split]] = {}
    for sample, split in placed:
        _, kept = keeper.setdefault(content[sample.image], (sample, split))
        if _HELD_OUT[split] > _HELD_OUT[kept]:
            keeper[content[sample.image]] = (sample, split)
    leaks = [(sample, split) for sample, split in placed if split != keeper[content[sample.image]][1]]
    if not leaks:
        return placed
    if options.duplicates == "refuse":
        (sample, split), (twin, other) = leaks[0], keeper[content[leaks[0][0].image]]
        raise DataError(
            f"{sample.image} in {split} is byte-identical to {twin.image} in {other}, {len(leaks)} such images in all; "
            f"they would flatter the accuracy: take them out of {split} with --duplicates drop"
        )
    dropped = {(sample.part, split) for sample, split in leaks}
    return [(sample, split) for sample, split in placed if (sample.part, split) not in dropped]


def _content(samples: Sequence[Sample]) -> dict[Path, str]:
    """Return for each image a text that is equal exactly for byte-identical files.

    Only files of one size are opened, and only files with one beginning are read to the end.
    """
    content = {sample.image: str(_size(sample)) for sample in samples}
    for measure in (_head, _whole):
        alike: dict[str, list[Path]] = defaultdict(list)
        for path, text in content.items():
            alike[text].append(path)
        for text, paths in alike.items():
            for path in paths:
                content[path] = f"{text} {measure(path)}" if len(paths) > 1 else text
    return content


def _size(sample: Sample) -> int:
    for path, what in ((sample.mask, "mask"), (sample.image, "image")):
        if path is not None and not path.is_file():
            raise DataError(f"{path}: the dataset lists this {what}, but there is no such file; copy it, or unlist it")
    try:
        size = sample.image.stat().st_size
    except OSError as error:
        raise _unreadable(sample.image, error) from error
    if size == 0:
        raise DataError(f"{sample.image}: the file is empty; expected an image")
    return size


def _head(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.sha256(file.read(_HEAD_BYTES)).hexdigest()
    except OSError as error:
        raise _unreadable(path, error) from error


def _whole(path: Path) -> str:
    digest = hashlib.sha256()
    try:
        with path.open("rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    except OSError as error:
        raise _unreadable(path, error) from error
    return digest.hexdigest()


def _unreadable(path: Path, error: OSError) -> DataError:
    return DataError(f"{path}: cannot be read ({error.strerror}); allow reading it")
