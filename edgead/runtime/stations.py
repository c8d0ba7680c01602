"""Run stations: open what they name, let those with the same engine share it, and see all of them to their ends."""

from __future__ import annotations

import queue
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from functools import partial

from edgead.bundle import Bundle
from edgead.config import StationConfig
from edgead.errors import ArtefactError, ConfigError
from edgead.runtime.engine import Engine
from edgead.runtime.fusion import Largest, judge_of
from edgead.runtime.open import backend_of, doubt, open_runner
from edgead.runtime.report import StationReport
from edgead.runtime.runner import Runner
from edgead.runtime.signals import stop_signals
from edgead.runtime.station import JudgeOf, Station
from edgead.thresholds import Threshold

Progress = Callable[[str, int], AbstractContextManager[Callable[..., None]]]  # such as edgead.progress.task


def run_station(
    config: StationConfig,
    *,
    runner: Runner | None = None,
    threshold: Threshold | None = None,
    progress: Progress | None = None,
) -> StationReport:
    """Judge parts until all cameras have ended, or until SIGINT or SIGTERM.

    Args:
        runner: an open one, which stays open; None opens the bundle's artefact.
        threshold: None takes the one of the bundle's artefact.
        progress: ``edgead.progress.task``, to show how it goes.

    Raises:
        EdgeadError: parity is unproven, a camera, the bundle or the output folder cannot be opened, or the engine
            failed; what was admitted is in the verdict file by then, INCOMPLETE where it could not be judged.
    """
    if runner is not None and threshold is not None:
        with Stations() as stations:
            stations.add(config, Engine(runner), by_largest(threshold))
            return stations.run(progress)[0]
    return run_stations([config], runner=runner, threshold=threshold, progress=progress)[0]


def run_stations(
    configs: Sequence[StationConfig],
    *,
    runner: Runner | None = None,
    threshold: Threshold | None = None,
    progress: Progress | None = None,
) -> list[StationReport]:
    """Run several stations; those with the same bundle, artefact, backend and threads share an engine.

    Raises:
        EdgeadError: as ``run_station``; the error of one station leaves the others running to their ends.
    """
    for number, config in enumerate(configs):
        for other in configs[:number]:
            for what, ours, theirs in (
                ("are called", config.name, other.name),
                ("write into", config.output.resolve(), other.output.resolve()),
            ):
                if ours == theirs:
                    raise ConfigError(f"two stations {what} '{ours}'; give each its own name and output")
    with Stations() as stations:
        engines: dict[tuple[object, ...], Engine] = {}
        for config in configs:
            bundle = Bundle.open(config.bundle)
            problems = _unproven(config, bundle) if runner is None else ()
            judging = by_largest(threshold) if threshold else partial(judge_of, bundle, config.artefact, config.fusion)
            key = (bundle.path.resolve(), config.artefact, config.backend, config.threads)
            if key not in engines:
                opened = runner or stations.keep(
                    open_runner(bundle, config.artefact, backend=config.backend, threads=config.threads)
                )
                engines[key] = Engine(opened)
            stations.add(config, engines[key], judging, problems)
        return stations.run(progress)


def by_largest(threshold: Threshold) -> JudgeOf:
    """Return the judge of parts by the largest score of their frames, whatever frames they have."""
    judge = Largest(threshold)
    return lambda _slots: judge


def _unproven(config: StationConfig, bundle: Bundle) -> tuple[str, ...]:
    """Return what the report has to say about an artefact that is run unproven.

    Raises:
        ArtefactError: it is not deployable, and the station does not say ``unproven: true``.
    """
    reason = doubt(bundle, config.artefact, backend_of(bundle, config.artefact, config.backend))
    if reason is None:
        return ()
    if not config.unproven:
        raise ArtefactError(f"{bundle.path}: {reason}; or run it at your own risk: 'unproven: true' in station.yaml")
    return (f"unproven: {reason}",)


class Stations:
    """Stations and their engines: added, run once, closed."""

    def __init__(self) -> None:
        self._stations: list[Station] = []
        self._engines: list[Engine] = []
        self._life = ExitStack()

    def keep(self, runner: Runner) -> Runner:
        """Close a runner with the stations."""
        return self._life.enter_context(runner)

    def add(self, config: StationConfig, engine: Engine, judge_of: JudgeOf, problems: Sequence[str] = ()) -> None:
        """Open the cameras of a station.

        Args:
            judge_of: returns what judges parts that are made of these frames.

        Raises:
            ConfigError, CameraError: one of them cannot be opened.
        """
        station = Station(config, engine, judge_of, problems)
        self._life.callback(station.close)
        self._stations.append(station)
        if engine not in self._engines:
            self._engines.append(engine)

    def run(self, progress: Progress | None = None) -> list[StationReport]:
        """Judge parts until all cameras have ended, or until a signal.

        Raises:
            EdgeadError: an engine does not run, a sink cannot be opened, or one of them failed.
        """
        for engine in self._engines:
            engine.open()
        for station in self._stations:
            station.open()
        totals = [station.triggers for station in self._stations]
        total = 0 if None in totals else sum(count or 0 for count in totals)
        events: queue.SimpleQueue[str] = queue.SimpleQueue()  # its put may be called by a signal handler
        with ExitStack() as stack:
            showing = progress("Streaming", total) if progress else nullcontext(lambda _steps: None)
            advance = stack.enter_context(showing)
            stack.enter_context(stop_signals(events))
            threads = [engine.start(partial(events.put, "crashed")) for engine in self._engines]
            for station in self._stations:
                station.start(partial(events.put, "over"), advance)
            self._wait(events)
            for station in self._stations:
                station.join()
            for thread in threads:
                thread.join(1.0)
        errors = [engine.error for engine in self._engines] + [station.error for station in self._stations]
        for station in self._stations:
            station.close()
        for error in errors:
            if error is not None:
                raise error
        return [station.report() for station in self._stations]

    def _wait(self, events: queue.SimpleQueue[str]) -> None:
        running = len(self._stations)
        while running:
            match events.get():
                case "over":
                    running -= 1
                case "stop":
                    for station in self._stations:
                        station.stop("stopped by a signal; what was admitted is judged")
                case "crashed":
                    return

    def __enter__(self) -> Stations:
        return self

    def __exit__(self, *_error: object) -> None:
        self._life.close()
