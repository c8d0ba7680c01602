"""The parts of any data set that edgead reads, shown to simulated cameras in a seeded order, Good and defective."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple
from urllib.parse import quote

import numpy as np
import numpy.typing as npt
from pydantic import BeforeValidator, Field

from edgead.config import CameraConfig, DatasetConfig
from edgead.datasets import Dataset, DatasetOptions, categories
from edgead.datasets.sample import GOOD, Sample
from edgead.errors import CameraError, ConfigError, DataError
from edgead.images import Image, read_image
from edgead.runtime.frames import address_of
from edgead.runtime.parts import Slot
from edgead.runtime.sim_faults import FaultOptions
from edgead.yaml_file import check

_LINEUP, _GOOD_ORDER, _DEFECTIVE_ORDER = range(100, 103)  # streams of random numbers, apart from those of the faults


class _Part(NamedTuple):
    name: str
    defect: str
    images: Mapping[Slot, Path]


def _by_commas(value: object) -> object:
    """Take ``image:path,part_id:serial`` as a mapping."""
    if not isinstance(value, str):
        return value
    pairs = [pair.partition(":") for pair in value.split(",")]
    if not all(ours and theirs for ours, _, theirs in pairs):
        raise ValueError("our names and theirs, such as image:path,part_id:serial")
    return {ours: theirs for ours, _, theirs in pairs}


class DatasetCameraOptions(FaultOptions):
    """What may stand in the query of a ``dataset://`` address, besides the faults.

    Attributes:
        kind: layout of the data set, as in train.yaml.
        category: the product; may be left out where there is only one.
        show: the split whose parts are shown, or all.
        ng_share: share of the parts that have a defect; they are shown in an order of their own, again and again.
        cache: number of parts whose images are kept decoded, the only ones then shown; 0 decodes each when it is read.
        pattern, columns, test_share, split, resolution, duplicates, validation: as in train.yaml; columns as
            ``image:path,part_id:serial``.
    """

    parts: int = Field(default=100, ge=1, le=10_000_000)  # their order is kept in memory
    kind: Literal["mvtec", "3cad", "visa", "real-iad", "indu-defect", "manifest", "sim"]
    category: str = ""
    show: Literal["train", "validation", "test", "all"] = "test"
    ng_share: float = Field(default=0.2, ge=0, le=1)
    cache: int = Field(default=0, ge=0)
    validation: float = Field(default=0.1, gt=0, lt=1)
    duplicates: str | None = None
    pattern: str | None = None
    columns: Annotated[dict[str, str] | None, BeforeValidator(_by_commas)] = None
    test_share: float | None = Field(default=None, ge=0, lt=1)
    split: str | None = None
    resolution: str | None = None

    @property
    def layout(self) -> dict[str, Any]:
        """Return what the data set's own reader takes."""
        names = ("duplicates", "pattern", "columns", "test_share", "split", "resolution")
        return {name: value for name in names if (value := getattr(self, name)) is not None}


class DatasetParts:
    """Parts of a data set, called what the data set calls them; the same for all cameras with the seed.

    A part that lacks one of the images that most parts have is left out.
    """

    def __init__(self, config: CameraConfig, options: DatasetCameraOptions) -> None:
        self._config = config
        self._options = options
        self.slots: tuple[Slot, ...] = ()
        self._parts: list[_Part] = []
        self._order: npt.NDArray[np.int32] = np.zeros(0, np.int32)
        self._kept: dict[int, list[Image]] = {}

    def open(self) -> None:
        """Read the data set, and choose what is shown when."""
        options = self._options
        name = f"camera '{self._config.name}'"
        try:
            samples = _samples(_opened(Path(address_of(self._config)), options), options.show)
        except (DataError, ConfigError) as error:
            raise type(error)(f"{name}: {error}") from error
        parts, slots = _complete(samples)
        self.slots = self._chosen(slots)
        good = [part for part in parts if part.defect == GOOD]
        defective = [part for part in parts if part.defect != GOOD]
        for kind, some, share in (("Good", good, 1 - options.ng_share), ("defective", defective, options.ng_share)):
            if share > 0 and not some:
                raise CameraError(
                    f"{name}: there are no {kind} parts to show in {address_of(self._config)} (show={options.show}); "
                    "choose another show or ng_share"
                )
        self._parts = [*good, *defective]
        self._order = _lineup(options, len(good), len(defective))
        if options.cache:
            for place in np.unique(self._order).tolist():
                self._kept[place] = [self._read(place, shot) for shot in range(len(self.slots))]

    def part(self, trigger: int) -> str:
        """Return the name that the data set gives to the part of a trigger."""
        return self._parts[int(self._order[trigger])].name

    def defect(self, trigger: int) -> str:
        """Return the defect of the part of a trigger."""
        return self._parts[int(self._order[trigger])].defect

    def image(self, trigger: int, shot: int) -> Image:
        """Decode an image, or take it from those that are kept."""
        place = int(self._order[trigger])
        return self._kept[place][shot] if self._kept else self._read(place, shot)

    def close(self) -> None:
        """Forget the images."""
        self._kept = {}

    def _read(self, place: int, shot: int) -> Image:
        return read_image(self._parts[place].images[self.slots[shot]])

    def _chosen(self, there: Sequence[Slot]) -> tuple[Slot, ...]:
        view, lights = self._config.view, self._config.illuminations
        own = [slot for slot in there if view in (None, slot.view)]
        if lights:
            views = dict.fromkeys(slot.view for slot in own)
            own = [Slot(seen, light) for seen in views for light in lights]
        missing = [slot for slot in own if slot not in there]
        if missing or not own:
            wanted = missing[0] if missing else Slot(str(view), "")
            raise ConfigError(
                f"camera '{self._config.name}': its data set has no view '{wanted.view}'"
                f"{f' with illumination {wanted.illumination!r}' if missing else ''}; it has "
                f"{', '.join('/'.join(slot) for slot in there)}"
            )
        return tuple(own)


def _opened(root: Path, options: DatasetCameraOptions) -> Dataset:
    config = check(
        DatasetConfig,
        {"kind": options.kind, "root": root, "validation": options.validation, "options": options.layout},
        name="the data set",
    )
    return _read_once(config.model_dump_json(), options.category)


@lru_cache(maxsize=4)  # the cameras of a line look at one data set, and reading it compares its files
def _read_once(config: str, category: str) -> Dataset:
    found = DatasetConfig.model_validate_json(config)
    if not category:
        names = categories(found.kind, found.root, options=DatasetOptions(**found.options))
        if len(names) > 1:
            said = " | ".join(quote(name) for name in names)
            raise ConfigError(f"{found.root} has {len(names)} categories; say which: category={said}")
        category = names[0]
    return found.model_copy(update={"category": category}).open()


def _samples(dataset: Dataset, show: str) -> Sequence[Sample]:
    every = {"train": dataset.train, "validation": dataset.validation, "test": dataset.test}
    return [sample for name, some in every.items() if show in (name, "all") for sample in some]


def _complete(samples: Sequence[Sample]) -> tuple[list[_Part], list[Slot]]:
    """Return the parts that have all the images that most parts have, and which images these are.

    Of several images for one place one is shown, and if any has a defect, one that has.
    """
    shots: dict[str, dict[Slot, Sample]] = defaultdict(dict)
    for sample in samples:
        own, slot = shots[sample.part], Slot(sample.view, sample.illumination)
        if slot not in own or (own[slot].is_good and not sample.is_good):
            own[slot] = sample
    if not shots:
        return [], []
    usual = Counter(frozenset(own) for own in shots.values()).most_common(1)[0][0]
    slots = sorted(usual)
    parts = []
    for name, own in shots.items():
        if usual <= own.keys():
            defects = [own[slot].defect for slot in slots if not own[slot].is_good]
            parts.append(_Part(name, defects[0] if defects else GOOD, {slot: own[slot].image for slot in slots}))
    return parts, slots


def _lineup(options: DatasetCameraOptions, good: int, defective: int) -> npt.NDArray[np.int32]:
    """Choose the part of each trigger; Good ones are numbered first."""
    lineup, good_order, defective_order = (
        np.random.default_rng((options.seed, stream)) for stream in (_LINEUP, _GOOD_ORDER, _DEFECTIVE_ORDER)
    )
    is_defective = lineup.random(options.parts) < options.ng_share
    kept_good, kept_defective = _kept(options, good, defective)
    order = np.empty(options.parts, np.int32)
    for wanted, places in (
        (~is_defective, good_order.permutation(good)[:kept_good]),
        (is_defective, good + defective_order.permutation(defective)[:kept_defective]),
    ):
        count = int(wanted.sum())
        if count:
            order[wanted] = places[np.arange(count) % len(places)]
    return order


def _kept(options: DatasetCameraOptions, good: int, defective: int) -> tuple[int, int]:
    """Return how many Good and defective parts are shown: with a cache so many in all, but one of each kind."""
    if not options.cache:
        return good, defective
    few = max(1, round(options.cache * options.ng_share))
    return min(good, max(1, options.cache - few)), min(defective, few)
