"""A GigE Vision camera that shows the images of a folder in turn: ``gige_folder.py ADDRESS SERIAL FOLDER``.

Aravis' fake camera in this process, with its picture filled in here; prints ``ready`` and runs until it is killed. To
be run in a network namespace of its own.
"""

from __future__ import annotations

import ctypes
import itertools
import signal
import sys
from pathlib import Path

import cv2
import numpy as np

from edgead.runtime import introspection

SIZE = 512  # of the fake camera, as it starts


def main(address: str, serial: str, folder: str) -> None:
    aravis = introspection.load("Aravis")
    library = ctypes.CDLL("libaravis-0.8.so.0")
    get_data = library.arv_buffer_get_data
    get_data.restype, get_data.argtypes = ctypes.c_void_p, [ctypes.c_void_p, ctypes.c_void_p]
    images = [cv2.imread(str(path), cv2.IMREAD_GRAYSCALE) for path in sorted(Path(folder).glob("*.png"))]
    assert images
    assert all(image.shape == (SIZE, SIZE) for image in images)
    shown = itertools.cycle(np.ascontiguousarray(image) for image in images)

    @ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint32, ctypes.c_uint32, ctypes.c_uint32)
    def fill(buffer: int, _user: int, _exposure: int, _gain: int, _format: int) -> None:
        ctypes.memmove(get_data(buffer, None), next(shown).ctypes.data, SIZE * SIZE)

    server = aravis.GvFakeCamera.new(address, serial)
    assert server.is_running()
    camera = server.get_fake_camera()
    library.arv_fake_camera_set_fill_pattern.argtypes = [ctypes.c_void_p, type(fill), ctypes.c_void_p]
    library.arv_fake_camera_set_fill_pattern(hash(camera), fill, None)
    print("ready", flush=True)
    signal.pause()


if __name__ == "__main__":
    main(*sys.argv[1:])
