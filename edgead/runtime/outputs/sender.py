"""What delivers events to one output: its protocol, and how it says that it cannot."""

from __future__ import annotations

import enum
import json
from pathlib import Path
from typing import NamedTuple, Protocol


class Parcel(NamedTuple):
    """An event with its place in the outbox; ``body`` is what goes out, UTF-8 JSON."""

    seq: int
    event_id: str
    body: bytes

    @classmethod
    def of(cls, seq: int, event_id: str, text: str) -> Parcel:
        """Enter the sequence number into an event's JSON."""
        return cls(seq, event_id, f'{text[:-1]}, "sequence": {seq}}}'.encode())

    def fields(self) -> dict[str, object]:
        """Return the event as a dictionary."""
        read: dict[str, object] = json.loads(self.body)
        return read


class Condition(str, enum.Enum):
    """How the station is that the events come from."""

    READY = "ready"  # it runs, and has room for one more part
    BUSY = "busy"  # it runs, and would reject the next part
    ENDED = "ended"  # it has ended; what is left is delivered
    DIED = "died"  # its process is gone


class SendError(Exception):
    """An event was not delivered, and is tried again after a while."""


class RefusedError(Exception):
    """An event will never be taken by this receiver."""


class Sender(Protocol):
    """One output. All calls come from one thread; ``wake`` and ``note`` of its constructor may be called from any."""

    def room(self) -> int:
        """Return how many events can be sent now."""
        ...

    def send(self, parcel: Parcel) -> None:
        """Hand one event over.

        Raises:
            SendError, RefusedError: it was not delivered.
        """
        ...

    def acknowledged(self) -> list[int]:
        """Return the sequence numbers that the receiver has acknowledged since the last call."""
        ...

    def show(self, condition: Condition) -> None:
        """Show how the station is, where the output has a place for that; READY before the first call."""
        ...

    def close(self) -> None:
        """Give the connection up, after saying good-bye."""
        ...


def secret(path: Path | None) -> str | None:
    """Return the first line of a file that keeps a password or a token."""
    if path is None:
        return None
    try:
        return path.read_text(encoding="utf-8").partition("\n")[0].strip()
    except (OSError, UnicodeDecodeError) as error:
        raise SendError(f"{path}: cannot be read ({error})") from error
