"""The native kernel: the antialiased area resize of ``area.cpp``, where a compiler was at hand at installation.

Imports nothing but Python's own library. ``edgead.images.resize`` is its only caller and checks what it passes on.
"""

from __future__ import annotations

import ctypes
from pathlib import Path
from typing import Any

_VERSIONS = 3


def _open() -> ctypes.CDLL | None:
    """Open the library beside this file; None where none was built, or the one that was does not run here."""
    for path in sorted(Path(__file__).parent.glob("_area*.so")):
        try:
            library = ctypes.CDLL(str(path))
            name, resize = library.edgead_area_version, library.edgead_area_resize
        except (OSError, AttributeError):  # built for another processor or C library, or by another release
            continue
        size, pointer, number = ctypes.c_int64, ctypes.c_void_p, ctypes.c_int
        name.argtypes, name.restype = [number], ctypes.c_char_p
        resize.argtypes = [number, pointer, size, size, size, size, pointer, size, size, size, number]
        resize.restype = number
        return library
    return None


_LIBRARY = _open()


def versions() -> tuple[str, ...]:
    """Return the versions that this processor runs, the slowest first; empty without the library."""
    if _LIBRARY is None:
        return ()
    names = (_LIBRARY.edgead_area_version(version) for version in range(_VERSIONS))
    return tuple(name.decode("ascii") for name in names if name is not None)


def in_use() -> str:
    """Say in one line what resizes images."""
    if _USED >= 0:
        return f"native ({VERSIONS[_USED]})"
    return "OpenCV; install g++ and then edgead again to make it several times faster"


VERSIONS = versions()
_USED = len(VERSIONS) - 1


def shrink(source: Any, target: Any, *, swap: bool = False, version: int = _USED) -> bool:
    """Average areas of one array into another, without the lock of the interpreter; False if it cannot be done here.

    Args:
        source: NumPy's uint8 ``(H, W, 3)`` or ``(H, W)``, each row without gaps.
        target: the same of ``(h, w, 3)``, writable, no larger than the source and nowhere the same memory.
        swap: turn the order of the channels around.
        version: index into ``VERSIONS``; all of them give the same bytes.
    """
    if _LIBRARY is None or target.shape[0] > source.shape[0] or target.shape[1] > source.shape[1]:
        return False
    failed = _LIBRARY.edgead_area_resize(
        version,
        source.__array_interface__["data"][0],
        source.shape[0],
        source.shape[1],
        1 if source.ndim == 2 else 3,
        source.strides[0],
        target.__array_interface__["data"][0],
        target.shape[0],
        target.shape[1],
        target.strides[0],
        swap,
    )
    return not failed
