"""GStreamer and Aravis through GObject introspection: Debian's packages, also from a virtual environment.

The distribution's ``gi`` is compiled for the distribution's Python, so no wheel of it exists for a virtual environment.
Where the running Python has the same ABI, ``gi`` alone is taken from the distribution's folder; nothing else of that
folder becomes visible, since its numpy and OpenCV would hide the newer ones.
"""

from __future__ import annotations

import importlib
import importlib.machinery
import importlib.util
import sys
import sysconfig
import threading
from pathlib import Path
from typing import Any

from edgead.errors import MissingError

DISTRIBUTION = Path("/usr/lib/python3/dist-packages")
_PACKAGES = {
    "Aravis": ("0.8", "gir1.2-aravis-0.8"),
    "Gst": ("1.0", "gir1.2-gstreamer-1.0 gstreamer1.0-plugins-base gstreamer1.0-plugins-good"),
}
_lock = threading.Lock()


def load(namespace: str, *, distribution: Path = DISTRIBUTION) -> Any:
    """Return an introspected library such as ``Aravis``.

    Args:
        distribution: where to look for ``gi`` if the running Python has none.

    Raises:
        MissingError: it, or ``gi`` itself, is not installed, or was compiled for another Python.
    """
    version, packages = _PACKAGES[namespace]
    install = f"apt-get install python3-gi {packages}"
    with _lock:
        gi = _gi(distribution, install)
        try:
            gi.require_version(namespace, version)
            return importlib.import_module(f"gi.repository.{namespace}")
        except (ValueError, ImportError) as error:
            raise MissingError(f"{namespace} {version} is not installed ({error}); {install}") from error


def _gi(distribution: Path, install: str) -> Any:
    try:
        return importlib.import_module("gi")
    except ImportError as error:
        if not (distribution / "gi").is_dir():
            raise MissingError(f"gi, which {install.split()[3]} needs, is not installed; {install}") from error
        suffix = sysconfig.get_config_var("EXT_SUFFIX")
        if not (distribution / "gi" / f"_gi{suffix}").is_file():
            found = sorted(path.name for path in (distribution / "gi").glob("_gi.*.so"))
            raise MissingError(
                f"gi in {distribution} is compiled for another Python ({', '.join(found) or 'none'}; expected "
                f"_gi{suffix}); make the virtual environment with the system's: /usr/bin/python3 -m venv .venv"
            ) from error
    spec = importlib.machinery.PathFinder.find_spec("gi", [str(distribution)])
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["gi"] = module
    try:
        spec.loader.exec_module(module)
    except ImportError as error:
        del sys.modules["gi"]
        raise MissingError(f"gi in {distribution} cannot be imported ({error}); {install}") from error
    return module
