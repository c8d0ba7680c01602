"""How long a frame was on its way, from a camera's clock that started nobody knows when."""

from __future__ import annotations

_DRIFT = 1e-3  # more than any two clocks have


class Lag:
    """The delay of frames beyond that of the fastest; the clocks may drift apart, by 0.1 %."""

    def __init__(self) -> None:
        self._offset_s: float | None = None  # of our clock from the camera's, for the frames with the least delay
        self._looked_s = 0.0

    def of(self, sent_s: float | None, now_s: float) -> float:
        """Return the delay of a frame that has come now and that the camera dates ``sent_s``; 0 without a date."""
        if sent_s is None:
            return 0.0
        offset_s = now_s - sent_s
        if self._offset_s is None:
            self._offset_s = offset_s
        else:
            self._offset_s = min(offset_s, self._offset_s + _DRIFT * (now_s - self._looked_s))
        self._looked_s = now_s
        return offset_s - self._offset_s
