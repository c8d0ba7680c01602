"""The verb bench: artefacts side by side, or a station against its engine."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from edgead.cli.answer import Answer, table
from edgead.cli.dataset import add_dataset_flags, of_bundle, pictures
from edgead.cli.measuring import add_backend
from edgead.errors import ConfigError

if TYPE_CHECKING:
    from edgead.bundle import Bundle
    from edgead.cli.parser import Verbs
    from edgead.config import StationConfig

_SHOWN = 32  # images that the calls walk through
_MOST, _WIDEST = 64, 4096
_LARGEST = 1024  # batch, or threads: more is a slip of the hand


def add_verbs(verbs: Verbs) -> None:
    """Add bench."""
    parser = verbs.add(
        "bench",
        bench,
        summary="measure the speed of artefacts side by side, or of a station against its engine",
        example="edgead bench runs/my_part --artefacts checkpoint,fp32,int8,int8@openvino --batch 1 --threads 2",
        more="With --station: the frames a second of a whole station over those of its bare engine. "
        "With --networks: how fast configurations would be here, before anything is trained.",
    )
    parser.add_argument("bundle", nargs="?", type=Path, metavar="RUN", help="folder of the run")
    parser.add_argument("--station", type=Path, metavar="station.yaml", help="measure this station instead of a run")
    parser.add_argument(
        "--artefacts",
        default="checkpoint,fp32",
        metavar="A,B",
        help="what to measure, each as NAME or NAME@BACKEND; ratios to the first (%(default)s)",
    )
    parser.add_argument("--stations", type=int, default=1, metavar="N", help="how many share the engine (%(default)s)")
    parser.add_argument(
        "--image-size", type=int, metavar="PIXELS", help="of what their cameras give (the engine's size)"
    )
    add_backend(parser, "for models without @BACKEND: onnxruntime")
    parser.add_argument("--networks", metavar="A,B", help="measure these configurations with random weights")
    parser.add_argument("--size", type=int, metavar="PIXELS", help="of their images (256; cfrg-nano0 192)")
    parser.add_argument("--save", type=Path, metavar="FILE", help="keep the measurements of these, or of a station")
    parser.add_argument("--batch", type=int, default=1, metavar="N", help="images a call (%(default)s)")
    parser.add_argument("--threads", type=int, default=0, metavar="N", help="CPU threads; 0: all cores (%(default)s)")
    parser.add_argument("--n", type=int, metavar="N", help="calls to time (as many as fit in 10 s)")
    add_dataset_flags(parser)


def bench(wanted: argparse.Namespace) -> Answer:
    """Measure speed: of artefacts, or of a station."""
    if sum(choice is not None for choice in (wanted.bundle, wanted.station, wanted.networks)) != 1:
        raise ConfigError(
            "say what to measure, and only one: edgead bench RUN, edgead bench --station station.yaml, "
            "or edgead bench --networks cfrg-lite0"
        )
    if not (1 <= wanted.batch <= _LARGEST and 0 <= wanted.threads <= _LARGEST):
        raise ConfigError(
            f"--batch {wanted.batch}, --threads {wanted.threads}; expected 1 to {_LARGEST}, and 0 to {_LARGEST}"
        )
    if not 1 <= wanted.stations <= _MOST or not 32 <= (wanted.image_size or 32) <= _WIDEST:
        raise ConfigError(
            f"--stations {wanted.stations}, --image-size {wanted.image_size}; expected 1 to {_MOST} and 32 to {_WIDEST}"
        )
    if wanted.save and wanted.save.is_dir():
        raise ConfigError(f"--save {wanted.save} is a folder; give the name of a JSON file")
    if wanted.networks:
        from edgead.cli.untrained import bench_networks

        return bench_networks(wanted)
    return _bench_station(wanted) if wanted.station else _bench_artefacts(wanted)


def _bench_artefacts(wanted: argparse.Namespace) -> Answer:
    from contextlib import ExitStack

    from benchmarks import results
    from benchmarks.report import SPEED_NAME
    from benchmarks.speed import measure, ratio
    from edgead.bundle import Bundle
    from edgead.runtime.open import open_runner

    names = artefacts_of(wanted)
    bundle = Bundle.open(wanted.bundle)
    choices = {name: choice(bundle, name, wanted.backend) for name in names}
    _, dataset = of_bundle(bundle, wanted)
    images = pictures(dataset.test or dataset.validation, bundle.info.size_hw, _SHOWN)
    options = {"threads": wanted.threads, "max_batch": max(8, wanted.batch)}
    with ExitStack() as stack:
        runners = {
            name: stack.enter_context(open_runner(bundle, artefact, backend=backend, **options))
            for name, (artefact, backend) in choices.items()
        }
        speeds = measure(runners, images, batch=wanted.batch, n=wanted.n)
    kept = results.save(
        bundle.path / SPEED_NAME,
        command=f"edgead bench {bundle.path} --artefacts {','.join(names)} --batch {wanted.batch} "
        f"--threads {wanted.threads}" + (f" --backend {wanted.backend}" if wanted.backend else ""),
        conditions={
            "network": bundle.info.network,
            "size_hw": list(bundle.info.size_hw),
            "sha256": {artefact: bundle.artefacts[artefact].sha256 for artefact, _ in choices.values()},
        },
        rows=[{**speed.to_dict(), "times_faster": ratio(speed, speeds[0])} for speed in speeds],
    )
    document = {"bundle": str(bundle.path), **kept.model_dump(mode="json")}
    columns = (
        "artefact", "backend", ">threads", ">batch", ">n", ">warm-up", ">mean ms", ">p50", ">p95", ">p99", ">FPS",
        ">x", ">peak MiB",
    )  # fmt: skip
    rows = [
        (s.runner, s.backend, s.threads, s.batch, s.n, s.warmup, f"{s.mean_ms:.2f}", f"{s.p50_ms:.2f}",
         f"{s.p95_ms:.2f}", f"{s.p99_ms:.2f}", f"{s.fps:.1f}", f"{ratio(s, speeds[0]):.2f}",
         None if s.peak_rss_mib is None else f"{s.peak_rss_mib:.0f}")
        for s in speeds
    ]  # fmt: skip
    title = (
        f"Speed of {bundle.info.network} at {bundle.info.size_hw[1]}x{bundle.info.size_hw[0]}, in turns on one machine"
    )
    line = f"x: times faster than {names[0]} by the medians; peak MiB: of the whole process, all runners open"
    return Answer(document, [table(title, columns, rows), line])


def _bench_station(wanted: argparse.Namespace) -> Answer:
    from benchmarks.station import measure_station
    from edgead.bundle import Bundle
    from edgead.config import load_station
    from edgead.runtime.open import open_runner

    config = load_station(wanted.station)
    name = _simulated(config, wanted.station)
    bundle = Bundle.open(config.bundle)
    backend, threads = wanted.backend or config.backend, wanted.threads or config.threads
    with open_runner(bundle, config.artefact, backend=backend, threads=threads) as runner:
        found = measure_station(runner, object_name=name, stations=wanted.stations, image_size=wanted.image_size)
    rows = [
        ("engine", f"{found.runner}, {config.artefact}"),
        ("stations and cameras", f"{found.stations}, {found.cameras} of {name}"),
        ("bare engine", f"{found.bare_fps:.1f} frames/s"),
        ("station", f"{found.station_fps:.1f} frames/s"),
        ("station over engine", f"{found.station_over_engine:.3f}, from {found.low:.3f} to {found.high:.3f}"),
        ("part, p50 and p99", f"{found.part_p50_ms:.1f} ms, {found.part_p99_ms:.1f} ms"),
        (
            "overhead a frame",
            f"{found.overhead_us:.0f} us by the clock, {found.overhead_cpu_us:.0f} us of processor time",
        ),
        ("of the clock, beside it", ", ".join(f"{stage} {us:.1f} us" for stage, us in found.stage_us.items())),
        ("measured", f"{found.rounds} rounds of {found.frames} frames"),
    ]
    document = {"station": str(wanted.station), "bundle": str(bundle.path), "speed": found.to_dict()}
    if wanted.save:
        from benchmarks import results

        results.save(
            wanted.save,
            command=f"edgead bench --station {wanted.station} --threads {wanted.threads}"
            + (f" --backend {wanted.backend}" if wanted.backend else "")
            + (f" --stations {wanted.stations}" if wanted.stations > 1 else "")
            + (f" --image-size {wanted.image_size}" if wanted.image_size else ""),
            conditions={"network": bundle.info.network, "artefact": config.artefact, "object": name},
            rows=[found.to_dict()],
        )
    return Answer(document, [table("Speed of the station", ("", ""), rows)])


def artefacts_of(wanted: argparse.Namespace) -> list[str]:
    """Return the words of ``--artefacts``.

    Raises:
        ConfigError: none, or one twice.
    """
    names = [name.strip() for name in wanted.artefacts.split(",") if name.strip()]
    if not names or len(set(names)) < len(names):
        raise ConfigError(f"--artefacts is '{wanted.artefacts}'; expected different names, such as checkpoint,fp32")
    return names


def choice(bundle: Bundle, name: str, backend: str | None) -> tuple[str, str]:
    """Return artefact and backend of ``int8@openvino``, or of ``int8`` with the backend given for models."""
    from edgead.runtime.open import backend_of

    artefact, mark, own = name.partition("@")
    if mark:
        return artefact, backend_of(bundle, artefact, own)
    is_model = artefact in bundle.artefacts and bundle.artefacts[artefact].kind == "onnx"
    return artefact, backend_of(bundle, artefact, backend if is_model else None)


def _simulated(config: StationConfig, path: Path) -> str:
    """Return the object that a station's cameras simulate."""
    names = {camera.uri.partition("?")[0].removeprefix("sim://") for camera in config.cameras}
    if not all(camera.uri.startswith("sim://") for camera in config.cameras) or len(names) != 1:
        raise ConfigError(f"{path}: expected cameras sim:// of one object, which give frames faster than any engine")
    return names.pop()
