"""What the NVIDIA driver says of the GPU, asked without any library but the driver's own.

Full TensorRT must not be touched before: without a driver, version 11 ends the whole process.
"""

from __future__ import annotations

import ctypes
import sys
from typing import Any, NamedTuple

from edgead.errors import MissingError


class Gpu(NamedTuple):
    """The GPU that TensorRT takes: the first that the process may see.

    Attributes:
        capability: compute capability, such as ``"8.6"``.
        driver: newest CUDA version that its driver serves, such as ``"12.6"``.
    """

    name: str
    capability: str
    driver: str


def gpu() -> Gpu:
    """Return the first GPU that this process may see, asked of the driver itself.

    Raises:
        MissingError: no driver, no GPU, or a driver that does not answer.
    """
    library = "nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1"
    try:
        cuda = ctypes.CDLL(library)
    except OSError as error:
        raise MissingError(
            f"no NVIDIA driver ({library} cannot be loaded); TensorRT needs one and a GPU: run this where they "
            "are, or install the driver (edgead doctor)"
        ) from error

    def ask(function: str, *arguments: Any) -> None:
        if code := getattr(cuda, function)(*arguments):
            raise MissingError(
                f"the NVIDIA driver finds no GPU that it can use ({function} answers {code}); edgead doctor, nvidia-smi"
            )

    count, device, version = ctypes.c_int(), ctypes.c_int(), ctypes.c_int()
    major, minor = ctypes.c_int(), ctypes.c_int()
    name = ctypes.create_string_buffer(256)
    ask("cuInit", 0)
    ask("cuDeviceGetCount", ctypes.byref(count))
    if not count.value:
        raise MissingError("the NVIDIA driver sees no GPU; look at CUDA_VISIBLE_DEVICES and nvidia-smi")
    ask("cuDeviceGet", ctypes.byref(device), 0)
    ask("cuDeviceGetName", name, len(name), device)
    ask("cuDeviceGetAttribute", ctypes.byref(major), 75, device)
    ask("cuDeviceGetAttribute", ctypes.byref(minor), 76, device)
    ask("cuDriverGetVersion", ctypes.byref(version))
    driver = f"{version.value // 1000}.{version.value % 1000 // 10}"
    return Gpu(name.value.decode(errors="replace"), f"{major.value}.{minor.value}", driver)
