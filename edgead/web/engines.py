"""Bundles that are served, each by one inference thread that takes what waits, up to its engine's largest batch."""

from __future__ import annotations

import asyncio
import queue
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edgead.bundle import Bundle
from edgead.errors import ArtefactError, ConfigError, EdgeadError
from edgead.images import Image
from edgead.runtime.inspector import Inspection, Inspector
from edgead.runtime.open import backend_of, doubt, open_runner
from edgead.runtime.runner import Runner
from edgead.thresholds import Threshold


@dataclass(frozen=True, eq=False)
class Judged:
    """Images that were judged in one request.

    Attributes:
        queue_ms: until the inference thread took them.
        engine_ms: of the batch, or batches, that they were in, with the resize before it.
    """

    inspections: list[Inspection]
    queue_ms: float
    engine_ms: float


@dataclass(frozen=True, eq=False)
class _Order:
    images: Sequence[Image]
    given_s: float
    loop: asyncio.AbstractEventLoop
    answer: asyncio.Future[Judged]

    def settle(self, result: Judged | EdgeadError) -> None:
        """Hand the result over to the thread that waits; it may have gone."""

        def hand_over() -> None:
            if self.answer.done():
                return
            if isinstance(result, Judged):
                self.answer.set_result(result)
            else:
                self.answer.set_exception(result)

        try:
            self.loop.call_soon_threadsafe(hand_over)
        except RuntimeError:  # the loop has ended: nobody waits any more
            return


class Engine:
    """An open bundle and its inference thread; closed by ``close``.

    Attributes:
        threshold: of its artefact.

    Raises:
        ArtefactError: the engine does not run.
    """

    def __init__(self, name: str, runner: Runner, threshold: Threshold, about: Mapping[str, Any]) -> None:
        self.name, self.threshold = name, threshold
        self.about = {
            **about,
            "name": name,
            "runner": runner.name,
            "size_hw": list(runner.size_hw),
            "max_batch": runner.max_batch,
            "threshold": {**threshold.to_dict(), "explained": threshold.explain()},
        }
        self._runner = runner
        self._inspector = Inspector(runner, threshold)
        self._inspector.inspect(
            [np.zeros((*runner.size_hw, 3), np.uint8)]
        )  # the first is slow: no request waits for it
        self._orders: queue.Queue[_Order | None] = queue.Queue()  # bounded by the places of the server
        self._thread = threading.Thread(None, self._live, f"engine {name}", daemon=True)
        self._thread.start()

    async def inspect(self, images: Sequence[Image]) -> Judged:
        """Judge the images of one request.

        Raises:
            EdgeadError: the engine failed.
        """
        loop = asyncio.get_running_loop()
        order = _Order(images, time.monotonic(), loop, loop.create_future())
        self._orders.put(order)
        return await order.answer

    def close(self) -> None:
        """End the thread and close the runner; twice is allowed."""
        self._orders.put(None)
        self._thread.join()
        self._runner.close()

    def _live(self) -> None:
        is_over = False
        while not is_over:
            orders = [self._orders.get()]
            while orders[-1] is not None and sum(len(one.images) for one in orders if one) < self._runner.max_batch:
                try:
                    orders.append(self._orders.get_nowait())
                except queue.Empty:
                    break
            is_over = orders[-1] is None
            self._judge([order for order in orders if order is not None])

    def _judge(self, orders: Sequence[_Order]) -> None:
        if not orders:
            return
        begin_s = time.monotonic()
        try:
            inspections = self._inspector.inspect([image for order in orders for image in order.images])
        except EdgeadError as error:
            result: EdgeadError = error
        except Exception as error:  # no request may take the engine with it
            result = ArtefactError(f"the engine failed ({type(error).__name__}); open the bundle again")
        else:
            engine_ms, at = 1e3 * (time.monotonic() - begin_s), 0
            for order in orders:
                own = inspections[at : at + len(order.images)]
                at += len(order.images)
                order.settle(Judged(own, 1e3 * (begin_s - order.given_s), engine_ms))
            return
        for order in orders:
            order.settle(result)


def open_engines(
    runs: Sequence[Path],
    *,
    artefact: str,
    backend: str | None,
    threads: int,
    keep: Callable[[Callable[[], None]], object],
) -> dict[str, Engine]:
    """Open bundles; each is named after its folder.

    Args:
        keep: is given what closes an engine as soon as that is open, such as ``ExitStack.callback``.

    Raises:
        ConfigError: two of one name.
        ArtefactError: no bundle, no such artefact, no threshold, or nothing has proven the artefact.
        MissingError: the backend is not installed.
    """
    engines: dict[str, Engine] = {}
    for run in runs:
        name = run.absolute().name
        if name in engines:
            raise ConfigError(f"two bundles are called '{name}'; rename one of the folders")
        bundle = Bundle.open(run)
        word = backend_of(bundle, artefact, backend)
        reason = doubt(bundle, artefact, word)
        if reason is not None:
            raise ArtefactError(f"{bundle.path}: {reason}")
        threshold = bundle.threshold(artefact)
        info = bundle.info
        about = {"network": info.network, "category": info.category, "artefact": artefact, "backend": word}
        runner = open_runner(bundle, artefact, backend=backend, threads=threads)
        engines[name] = Engine(name, runner, threshold, about)
        keep(engines[name].close)
    return engines
