"""Take a picture of a station's page: ``python -m benchmarks.page_picture runs/demo/station.yaml --out docs/page.png``.

Runs the station with a takt and a page of its own, into a folder that is thrown away, and waits in a headless Chromium
for a part that is NG.
"""

from __future__ import annotations

import argparse
import contextlib
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from edgead.config import load_station
from edgead.errors import MissingError, require

_START_S, _WAIT_MS = 60.0, 60_000


@contextlib.contextmanager
def running(config: Path, *, takt_ms: float, parts: int) -> Iterator[str]:
    """Run a station with a page, and give the page's address."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    values = load_station(config).model_dump(mode="json", exclude_unset=True)
    for camera in values["cameras"]:
        camera["uri"] = camera["uri"].replace("parts=24", f"parts={parts}")  # the demo's end too soon
    with tempfile.TemporaryDirectory() as folder:
        values |= {"name": "line-1", "page": {"port": port}, "takt_ms": takt_ms, "output": f"{folder}/out"}
        path = Path(folder) / "station.yaml"
        path.write_text(yaml.safe_dump(values), encoding="utf-8")
        command = "import sys; from edgead.cli import main; sys.exit(main())"
        station = subprocess.Popen([sys.executable, "-c", command, "stream", str(path)], stdout=subprocess.DEVNULL)
        try:
            yield _answered(f"http://127.0.0.1:{port}/", station)
        finally:
            station.send_signal(signal.SIGINT)
            station.wait()


def _answered(url: str, station: subprocess.Popen[bytes]) -> str:
    """Wait until a page answers."""
    give_up_s = time.monotonic() + _START_S
    while True:
        try:
            urllib.request.urlopen(url, timeout=1).close()
            return url
        except OSError:
            if station.poll() is not None or time.monotonic() > give_up_s:
                raise
            time.sleep(0.2)


def shoot(url: str, path: Path, size: tuple[int, int], after_s: float) -> None:
    """Wait for an NG part, and write the picture.

    Raises:
        MissingError: no Playwright, or no browser.
    """
    playwright: Any = require("playwright.sync_api", extra="dev")
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    if browser is None:
        raise MissingError("no browser; apt-get install chromium")
    with playwright.sync_playwright() as started:
        opened = started.chromium.launch(executable_path=browser, args=["--no-sandbox", "--disable-gpu"])
        page = opened.new_page(viewport={"width": size[0], "height": size[1]})
        page.goto(url)
        page.wait_for_timeout(1000 * after_s)
        page.locator("#verdict.NG").wait_for(timeout=_WAIT_MS)
        page.screenshot(path=str(path))
        opened.close()


def main() -> int:
    """Take the picture that the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("config", type=Path, metavar="station.yaml")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE.png")
    parser.add_argument("--size", type=int, nargs=2, default=(1280, 800), metavar=("WIDTH", "HEIGHT"))
    parser.add_argument("--takt-ms", type=float, default=1000)
    parser.add_argument("--parts", type=int, default=400, help="instead of the demo's 24 (%(default)s)")
    parser.add_argument("--after-s", type=float, default=60, help="of running (%(default)s)")
    wanted = parser.parse_args()
    with running(wanted.config, takt_ms=wanted.takt_ms, parts=wanted.parts) as url:
        shoot(url, wanted.out, tuple(wanted.size), wanted.after_s)
    return 0


if __name__ == "__main__":
    sys.exit(main())
