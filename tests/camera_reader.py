"""Read what damaged files and addresses give, as a station would: ``camera_reader.py FOLDER``.

Each subfolder holds one case. Prints a line of JSON for each, and at the end the peak of the memory.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from pathlib import Path

from edgead.config import CameraConfig
from edgead.errors import EdgeadError
from edgead.runtime.cameras import open_cameras
from edgead.yaml_file import check


def address(path: Path) -> str:
    if path.suffix == ".json":
        return str(json.loads(path.read_text())).replace("{folder}", str(path.parent))
    return f"file://{path}" if path.stem == "video" else f"dir://{path.parent}"


def read(path: Path) -> dict[str, object]:
    begin_s = time.monotonic()
    frames, error = 0, None
    try:
        config = check(CameraConfig, {"name": "cam", "uri": address(path)}, name="station.yaml")
        (camera,) = open_cameras([config])
        try:
            while (frame := camera.read(1.0)) is not None:
                image = frame.image
                assert (image.dtype, image.ndim, image.shape[2]) == ("uint8", 3, 3)
                assert image.size
                frames += 1
        finally:
            camera.close()
    except EdgeadError as refusal:
        error = str(refusal)
    return {"name": path.parent.name, "frames": frames, "error": error, "seconds": time.monotonic() - begin_s}


def main(folder: str) -> None:
    for path in sorted(Path(folder).glob("*/*")):
        print(json.dumps(read(path)), flush=True)
    print(json.dumps({"peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}))


if __name__ == "__main__":
    main(sys.argv[1])
