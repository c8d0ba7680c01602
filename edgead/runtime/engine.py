"""An engine: one runner, and the thread that judges whatever its stations have, up to the largest batch at once."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence

from edgead.runtime.flow import Batch, Flow
from edgead.runtime.parts import Evidence
from edgead.runtime.runner import Prediction, Runner

_WARM_UP_S = 2.0


class Engine:
    """A runner that stations share; ``flow`` takes their lines, then ``open``, then ``start``.

    Attributes:
        error: what the runner failed with; all that came after it is given up.
        frames, batches, busy_s: what it has inferred, and the time that it took.
    """

    def __init__(self, runner: Runner) -> None:
        self.runner = runner
        self.flow = Flow(runner.size_hw)
        self.error: BaseException | None = None
        self.frames = self.batches = 0
        self.busy_s = 0.0
        self._first_s = self._last_s = 0.0

    def open(self) -> None:
        """Take the memory for frames, and warm the runner up: no part should wait for its slow first inference.

        TensorRT prepares each size of batch at its first use, so all of them are used, within two seconds.

        Raises:
            ArtefactError: the runner does not run.
        """
        self.flow.open()
        give_up_s = time.monotonic() + _WARM_UP_S
        for count in range(1, self.runner.max_batch + 1):
            self.runner.infer(self.flow.images[:count])
            if time.monotonic() > give_up_s:
                break

    def start(self, crashed: Callable[[], None]) -> threading.Thread:
        """Judge in a thread until all cameras have ended and all is judged.

        Args:
            crashed: called when the thread itself fails, which is a fault of this program.
        """

        def live() -> None:
            try:
                self._judge()
            except BaseException as error:
                self.error = self.error or error
                self.flow.end_all()
                crashed()

        thread = threading.Thread(None, live, "engine", daemon=True)
        thread.start()
        return thread

    @property
    def fps(self) -> float:
        """Frames a second of all its stations, from the first image in its slot to the last score."""
        return self.frames / (self._last_s - self._first_s) if self.frames else 0.0

    @property
    def mean_batch(self) -> float:
        """Frames an inference."""
        return self.frames / self.batches if self.batches else 0.0

    def _judge(self) -> None:
        flow, runner = self.flow, self.runner
        while (batch := flow.next_batch(runner.max_batch)) is not None:
            begin_s = time.monotonic()
            if self.error is not None:
                flow.settle(batch, begin_s, None, ())
                continue
            try:
                prediction = runner.infer(batch.images)
            except Exception as error:
                self.error = error
                flow.settle(batch, begin_s, None, ())
                flow.end_all()
                continue
            self._last_s = time.monotonic()
            if not self.batches:
                self._first_s = min(owner.times.filled_s for owner in batch.owners)
            self.busy_s += self._last_s - begin_s
            self.frames += len(batch.owners)
            self.batches += 1
            scores = prediction.pred_score.tolist()
            flow.settle(batch, begin_s, scores, _seen(batch, prediction, scores))


def _seen(batch: Batch, prediction: Prediction, scores: Sequence[float]) -> Sequence[Evidence | None]:
    """Show each frame to its station before its slot is written again."""
    seen: list[Evidence | None] = [None] * len(scores)
    for index, owner in enumerate(batch.owners):
        if owner.line.see is not None and not owner.times.is_lost:
            image, anomaly_map = batch.images[index], prediction.anomaly_map[index]
            seen[index] = owner.line.see(owner.trigger, owner.times.slot, scores[index], image, anomaly_map)
    return seen
