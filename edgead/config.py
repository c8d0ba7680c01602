"""train.yaml and station.yaml: what may stand in them.

Relative paths, also those in ``dir://``, ``file://`` and ``dataset://``, count from the folder of the file that names
them.
"""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, ValidationInfo, model_validator

from edgead.datasets import Dataset, DatasetOptions, open_dataset
from edgead.errors import ConfigError, nearest
from edgead.output_config import FilePath, Name, OutboxConfig, OutputConfig, Section, from_file
from edgead.web_config import PageConfig
from edgead.yaml_file import load

_PATH_SCHEMES = ("dir://", "file://", "dataset://")


def _uri_from_file(uri: str, info: ValidationInfo) -> str:
    for scheme in _PATH_SCHEMES:
        if uri.startswith(scheme):
            path, mark, query = uri[len(scheme) :].partition("?")
            return f"{scheme}{from_file(Path(path), info)}{mark}{query}" if path else uri
    return uri


def _path_or_url(value: str, info: ValidationInfo) -> str:
    return value if "://" in value else str(from_file(Path(value), info))


CameraUri = Annotated[str, AfterValidator(_uri_from_file)]
PathOrUrl = Annotated[str, AfterValidator(_path_or_url)]
NetworkName = Literal["cfrg-wrn50", "cfrg-r18", "cfrg-duo0", "cfrg-lite0", "cfrg-nano0"]
SIZES: dict[str, int] = {"cfrg-wrn50": 256, "cfrg-r18": 256, "cfrg-duo0": 256, "cfrg-lite0": 256, "cfrg-nano0": 192}
"""Side of the images that a network is made for, pixels."""
Synthesis = Literal["reference", "rich", "wide"]
SegmentationLoss = Literal["cross-entropy", "focal-dice"]


class DatasetConfig(Section):
    """Which dataset, and which of its categories."""

    kind: Literal["mvtec", "3cad", "visa", "real-iad", "indu-defect", "manifest", "sim"]
    root: FilePath
    category: str = ""
    validation: float = Field(default=0.1, gt=0, lt=1)
    options: dict[str, Any] = Field(default_factory=dict)

    def open(self) -> Dataset:
        """Open the dataset that this names.

        Raises:
            ConfigError: an option that no dataset has.
            DataError: files that are missing, empty or leak between the splits.
        """
        known = [option.name for option in fields(DatasetOptions)]
        for name in self.options:
            if name not in known:
                raise ConfigError(f"dataset.options has no '{name}'{nearest(name, known)}")
        return open_dataset(
            self.kind, self.root, self.category, validation=self.validation, options=DatasetOptions(**self.options)
        )


def _network(given: dict[str, Any]) -> str:
    """Return the network of a configuration whose later keys are still to be filled in."""
    return str(given.get("network", "cfrg-lite0"))  # a wrong name is told as such, not as a missing key


class TrainConfig(Section):
    """One training: train.yaml.

    Attributes:
        size: height and width of the network's images, pixels; a multiple of 32. 256 where it is not given, but 192 for
            ``cfrg-nano0``. Besides, ``cfrg-duo0`` has synthesis ``"wide"`` and the loss ``"focal-dice"``.
        learning_rate: the largest; ``schedule`` says how it falls.
        schedule: ``"one-cycle"`` warms up and follows a cosine; ``"steps"`` is the reference's 1, 0.2, 0.04.
        clean_share: share of the images that a step leaves uncorrupted.
        synthesis: ``"reference"`` corrupts by textures under Perlin masks; ``"rich"`` also by scratches, shifted
            patches and shading; ``"wide"`` also by patches of other Good images, cracks and spots, and varies the Good
            images themselves: mirrored, turned and moved a little, re-exposed.
        segmentation_loss: ``"cross-entropy"`` is the paper's; ``"focal-dice"`` weighs rare and doubtful pixels more.
        fusion: ``"balanced"`` weights the parts of the anomaly map by their spread on held-out Good images; ``"sum"``
            adds them as the paper does.
        statistics: ``"positions"`` adds the distance of the teacher's features from what Good images have at the same
            place; ``"none"`` is the paper's.
        jitter: largest relative change of gain and gamma, for lamps that age and exposures that differ.
        textures: folder of textures such as DTD's images/; None draws procedural ones.
        teacher_weights: file or URL; None takes the network's standard ImageNet weights.
        precision: Lightning Fabric's name, or ``"auto"``: bf16-mixed where the hardware multiplies bf16, else 32-true.
    """

    network: NetworkName = "cfrg-lite0"
    dataset: DatasetConfig
    size: int = Field(default_factory=lambda given: SIZES[_network(given)], ge=64, le=4096, multiple_of=32)
    epochs: int = Field(default=50, ge=1)
    batch: int = Field(default=16, ge=2)
    learning_rate: float = Field(default=2e-3, gt=0)
    schedule: Literal["one-cycle", "steps"] = "one-cycle"
    weight_decay: float = Field(default=1e-4, ge=0)
    seed: int = Field(default=42, ge=0, lt=2**32)
    clean_share: float = Field(default=0.2, ge=0, lt=1)
    synthesis: Synthesis = Field(default_factory=lambda given: "wide" if _network(given) == "cfrg-duo0" else "rich")
    segmentation_loss: SegmentationLoss = Field(
        default_factory=lambda given: "focal-dice" if _network(given) == "cfrg-duo0" else "cross-entropy"
    )
    fusion: Literal["balanced", "sum"] = "balanced"
    statistics: Literal["positions", "none"] = "positions"
    jitter: float = Field(default=0.0, ge=0, le=1)
    textures: FilePath | None = None
    teacher_weights: PathOrUrl | None = None
    precision: Literal["auto", "32-true", "bf16-mixed", "16-mixed"] = "auto"
    devices: Annotated[int, Field(ge=1)] | Literal["auto"] = "auto"
    workers: int = Field(default=0, ge=0)


class CameraConfig(Section):
    """One camera: where its frames come from, and what they show.

    Attributes:
        view: name of its view; None keeps the views that the source itself names.
        illuminations: names of its lights in the order in which they flash; empty keeps those of the source.
    """

    name: Name
    uri: CameraUri
    view: Name | None = None
    illuminations: tuple[Name, ...] = ()


class PicturesConfig(Section):
    """Pictures of NG parts: the oldest go when there are more than ``limit`` files or ``limit_mib``."""

    limit: int = Field(default=1000, ge=0)
    limit_mib: float = Field(default=500, gt=0)
    per_part: int = Field(default=4, ge=1)


class RollConfig(Section):
    """When ``verdicts.ndjson`` becomes ``verdicts-NUMBER.ndjson`` and a new one is begun; null is never.

    Attributes:
        mib: before a write that would make it larger than this.
        days: at the first verdict of a day (UTC) so many days after the file's first one.
        keep_mib: of the rolled files, the oldest go when together they are larger than this; null keeps all.
    """

    mib: float | None = Field(default=None, gt=0)
    days: int | None = Field(default=None, ge=1)
    keep_mib: float | None = Field(default=None, gt=0)

    @model_validator(mode="after")
    def _something_is_rolled(self) -> RollConfig:
        if self.keep_mib is not None and self.mib is None and self.days is None:
            raise ValueError("keep_mib is about rolled files: say with mib or days when to roll")
        return self


class SinksConfig(Section):
    """Where verdicts go, within the output folder; null switches the pictures off."""

    roll: RollConfig = RollConfig()
    pictures: PicturesConfig | None = PicturesConfig()


class StationConfig(Section):
    """One station: station.yaml.

    Attributes:
        backend: what runs the artefact; None takes the usual one of its kind, ONNX Runtime for a model.
        unproven: run the artefact although nothing, or a missed gate, speaks for its verdicts; the report says so.
        takt_ms: time between two triggers; without it, recorded frames come as fast as the engine judges them, and live
            ones trigger their parts themselves.
        timeout_ms: longest wait for the frames of a part after its trigger, with a takt or live cameras.
        deadline_ms: from a part's trigger to its verdict; later ones are counted as misses; null is the takt.
        fusion: how the scores of a part's frames become one: the largest, or their conformal p-values combined.
        trace: file for the times of the last 2000 parts, to be opened in ui.perfetto.dev or chrome://tracing.
        page: the operators' page; null is none.
        silence_ms: longest wait for a frame of a camera; then it counts as vanished.
        parts_in_flight: parts that are admitted at the same time; the memory for their frames is fixed by it.
        outputs: brokers, web servers and controllers that get each verdict; see docs/verdict.schema.json.
    """

    name: Name = "station"
    bundle: FilePath
    artefact: str = "fp32"
    backend: str | None = None
    unproven: bool = False
    threads: int = Field(default=0, ge=0)
    takt_ms: float | None = Field(default=None, gt=0)
    timeout_ms: float = Field(default=2000, gt=0)
    deadline_ms: float | None = Field(default=None, gt=0)
    silence_ms: float = Field(default=10_000, gt=0)
    fusion: Literal["max", "conformal"] = "max"
    parts_in_flight: int = Field(default=4, ge=1, le=1024)
    cameras: tuple[CameraConfig, ...] = Field(min_length=1)
    output: FilePath
    sinks: SinksConfig = SinksConfig()
    outputs: tuple[OutputConfig, ...] = ()
    outbox: OutboxConfig = OutboxConfig()
    page: PageConfig | None = None
    trace: FilePath | None = None

    @model_validator(mode="after")
    def _names_differ(self) -> StationConfig:
        names = [camera.name for camera in self.cameras]
        doubled = sorted({name for name in names if names.count(name) > 1})
        if doubled:
            raise ValueError(f"two cameras are called '{doubled[0]}'; give each its own name")
        titles = [output.title for output in self.outputs]
        doubled = sorted({title for title in titles if titles.count(title) > 1})
        if doubled:
            raise ValueError(f"two outputs are called '{doubled[0]}'; give each its own name")
        return self


def load_train(path: str | Path) -> TrainConfig:
    """Read train.yaml.

    Raises:
        ConfigError: the file, a key or a value is wrong.
    """
    return load(TrainConfig, path)


def load_station(path: str | Path) -> StationConfig:
    """Read station.yaml.

    Raises:
        ConfigError: the file, a key or a value is wrong.
    """
    return load(StationConfig, path)
