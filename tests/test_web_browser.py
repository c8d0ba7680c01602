"""The operators' page in a real browser: Debian's Chromium, without a screen."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from outputs_bench import free_port, wait_until
from web_bench import COLOURS, SIZE, TOKEN, Station, event, fill, layout_of, numbers_of, station

pytest.importorskip("fastapi", reason="the page needs fastapi: pip install '.[page]'")
playwright = pytest.importorskip("playwright.sync_api", reason="pip install '.[dev]'")

WAIT_MS = 30_000  # for a machine that is busy


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    path = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if path is None:
        pytest.skip("no browser: apt-get install chromium")
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=path, args=["--no-sandbox", "--disable-gpu"])
        yield browser
        browser.close()


@pytest.fixture
def tab(chromium: Any) -> Iterator[Any]:
    """A tab that fails the test where a script fails, or asks for something from elsewhere."""
    context = chromium.new_context(viewport={"width": 1280, "height": 800})
    page = context.new_page()
    page.set_default_timeout(WAIT_MS)
    wrong: list[str] = []
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("console", lambda said: wrong.append(said.text) if "Security Policy" in said.text else None)
    page.on("request", lambda asked: wrong.append(asked.url) if "127.0.0.1" not in asked.url[:30] else None)
    yield page
    context.close()
    assert [line for line in wrong if not line.startswith(("data:", "blob:"))] == []


@pytest.fixture(scope="module")
def shown() -> Iterator[Station]:
    with station(free_port()) as made:
        yield made


def pixel(tab: Any, index: int, x: int, y: int) -> list[int]:
    """Return red, green and blue of a pixel of a tile's canvas."""
    script = "(canvas, [x, y]) => [...canvas.getContext('2d').getImageData(x, y, 1, 1).data]"
    return list(tab.locator(".tile canvas").nth(index).evaluate(script, [x, y]))[:3]


def shows(tab: Any, selector: str, text: str) -> None:
    """Wait until an element shows a text."""
    playwright.expect(tab.locator(selector)).to_contain_text(text, timeout=WAIT_MS)


def is_drawn(tab: Any) -> None:
    playwright.expect(tab.locator(".tile[data-verdict]")).to_have_count(4, timeout=WAIT_MS)


def test_the_tiles_are_the_board_s_pictures(tab: Any, shown: Station) -> None:
    fill(shown.board)
    tab.goto(shown.url)
    is_drawn(tab)
    assert [tab.locator(".tile .where").nth(index).inner_text() for index in range(4)] == [
        "top · left", "top · right", "side · left", "side · right",
    ]  # fmt: skip
    boxes = [tab.locator(".tile").nth(index).bounding_box() for index in range(4)]
    assert boxes[0]["y"] == boxes[1]["y"] < boxes[2]["y"] == boxes[3]["y"], "views are rows"
    assert boxes[0]["x"] == boxes[2]["x"] < boxes[1]["x"] == boxes[3]["x"], "lights are columns"
    for index, colour in enumerate(COLOURS):
        assert np.abs(np.subtract(pixel(tab, index, SIZE - 4, SIZE - 4), colour)).max() < 10, "a Good place"
        assert np.abs(np.subtract(pixel(tab, index, 8, 8), colour)).max() > 20, "the map is laid over"
    tab.keyboard.press("h")
    for index, colour in enumerate(COLOURS):
        assert np.abs(np.subtract(pixel(tab, index, 8, 8), colour)).max() < 10, "and taken away"
    tab.keyboard.press("h")
    tab.locator("#opacity").fill("10")
    faint = np.abs(np.subtract(pixel(tab, 2, 8, 8), COLOURS[2])).max()
    tab.locator("#opacity").fill("100")
    assert np.abs(np.subtract(pixel(tab, 2, 8, 8), COLOURS[2])).max() > 2 * faint
    black = np.zeros((SIZE, SIZE, 3), np.uint8)
    shown.board.show(3, black, np.zeros((SIZE, SIZE), np.float32), trigger=110, score=0.1, captured_s=0.0)
    playwright.expect(tab.locator(".tile").nth(3)).to_have_attribute("data-verdict", "OK", timeout=WAIT_MS)
    assert max(pixel(tab, 3, 16, 16)) < 10


def test_verdicts_arrive_and_can_be_filtered(tab: Any, shown: Station) -> None:
    tab.goto(shown.url)
    shows(tab, "#state", "RUNNING")
    first = 1000
    for offset, verdict in enumerate(("OK", "UNSURE", "INCOMPLETE", "MISSED", "REJECTED", "NG")):
        shown.board.tell([event(first + offset, verdict)])
        shows(tab, "#word", verdict)
        shows(tab, "#part", f"part-{first + offset:05}")
    shows(tab, "#score", "0.93")
    shows(tab, "#history tbody tr:first-child", "NG")
    assert tab.locator("#history tbody tr:visible").count() >= 6
    tab.keyboard.press("n")
    wait_until(lambda: tab.locator("#history tbody tr:visible").count() >= 1)
    assert tab.locator("#history tbody tr:visible:not(.NG)").count() == 0
    tab.get_by_role("button", name="all but OK").click()
    assert tab.locator("#history tbody tr.OK:visible").count() == 0
    tab.get_by_role("button", name="all", exact=True).click()
    shown.board.tell([event(2000 + number) for number in range(300)])
    shows(tab, "#part", "part-02299")
    assert tab.locator("#history tbody tr").count() == 256
    assert tab.locator("#strip").get_attribute("aria-label").startswith("last 256 verdicts: 256 OK")


def test_the_figures_are_the_board_s(tab: Any, shown: Station) -> None:
    tab.goto(shown.url)
    for name, count in {"triggers": 107, "OK": 90, "UNSURE": 5, "NG": 4, "INCOMPLETE": 3, "REJECTED": 1}.items():
        shows(tab, f"#count-{name}", str(count))
    shows(tab, "#law", "every part accounted for")
    shows(tab, "#stages", "engine")
    shows(tab, "#stages tr.slowest", "part")
    shows(tab, "#bottleneck", "Bottleneck: engine. Busy: engine 81 %, camera top 12 %")
    shows(tab, "#cameras", "no frame for 2.0 s")
    shows(tab, "#outputs", "connection refused")
    shows(tab, "#provenance", "at most 1998 of a million Good parts are rejected")
    shows(tab, "#limits", "UNSURE above 0.5 · NG above 0.75")
    shows(tab, "#problems", "unproven: by hand")
    shows(tab, "#takt", "9")
    shown.shown = replace(shown.shown, triggers=109)
    shows(tab, "#law", "2 PARTS UNACCOUNTED FOR")
    shown.shown = replace(shown.shown, triggers=107)
    shows(tab, "#law", "every part accounted for")


def test_a_server_that_dies_and_comes_back(tab: Any) -> None:
    with station(free_port()) as made:
        tab.goto(made.url)
        is_drawn(tab)
        assert tab.locator("#alarm").is_hidden()
        made.kill()
        shows(tab, "#alarm", "DISCONNECTED")
        shows(tab, "#alarm", "No connection to the server of this page")
        assert tab.locator("#alarm-what").bounding_box()["height"] > 40, "large"
        shows(tab, "#state", "DISCONNECTED")
        made.start()
        shows(tab, "#state", "RUNNING")
        assert tab.locator("#alarm").is_hidden()
        made.board.tell([event(5, "NG")])
        shows(tab, "#part", "part-00005")


def test_a_station_without_a_heartbeat_is_another_text(tab: Any) -> None:
    with station(free_port()) as made:
        tab.goto(made.url)
        shows(tab, "#state", "RUNNING")
        made.beats = False
        shows(tab, "#alarm", "DISCONNECTED")
        shows(tab, "#alarm", "No sign of life from the station for")
        assert "No connection" not in tab.locator("#alarm").inner_text()
        made.beats = True
        shows(tab, "#state", "RUNNING")
        assert tab.locator("#alarm").is_hidden()
        made.end()
        shows(tab, "#alarm", "The station's process has died")
    with station(free_port()) as made:
        tab.goto(made.url)
        shows(tab, "#state", "RUNNING")
        made.shown = replace(made.shown, ended=True)
        shows(tab, "#alarm", "STATION ENDED")


def test_names_are_shown_and_never_run(tab: Any) -> None:
    evil = '<script>document.title="owned"</script><img src=x onerror="document.title=\'owned\'">"\'&lt;'
    camera = {"frames": 1, "incomplete": 0, "missed": 0, "reconnects": 0, "last_error": evil, "seen_s": None}
    output = {"name": evil, "kind": "mqtt", "delivered": 0, "pending": 0, "errors": 0, "last_error": evil}
    shown = numbers_of(cameras={evil: camera}, problems=[evil], bottleneck=evil, busy={evil: 0.9}, outputs=[output])
    layout = layout_of(station=evil, artefact=evil, runner=evil, provenance=evil, slots=[(evil, evil)], fusion=evil)
    with station(free_port(), layout) as made:
        made.shown = shown
        made.board.tell([event(1, "NG", part=evil, worst=evil), event(2, "MISSED", part=evil, missing=[evil])])
        tab.goto(made.url)
        shows(tab, "#part", evil)
        shows(tab, "#station", evil)
        shows(tab, "#cameras", evil)
        shows(tab, "#outputs", evil)
        shows(tab, "#problems", evil)
        shows(tab, "#history tbody tr:last-child", evil)
        assert tab.locator("#main img, #main script, header img, header script").count() == 0
        assert tab.title() != "owned"


def test_the_token_is_asked_for(tab: Any, tmp_path: Path) -> None:
    (tmp_path / "token").write_text(TOKEN)
    with station(free_port(), token_file=str(tmp_path / "token")) as made:
        tab.goto(made.url)
        assert tab.url == made.url + "/login"
        tab.get_by_label("Token").fill("wrong-but-long-enough")
        tab.keyboard.press("Enter")
        shows(tab, "#wrong", "This token is wrong")
        tab.get_by_label("Token").fill(TOKEN)
        tab.keyboard.press("Enter")
        shows(tab, "#state", "RUNNING")
        made.kill()
        shows(tab, "#alarm", "DISCONNECTED")
        made.start()  # the cookie outlives the server
        shows(tab, "#state", "RUNNING")
        tab.context.clear_cookies()
        made.kill()
        made.start()
        tab.wait_for_url("**/login")
        tab.goto(f"{made.url}/login#token={TOKEN}")  # a screen without a keyboard
        shows(tab, "#state", "RUNNING")
        assert TOKEN not in tab.url


@pytest.mark.parametrize("size", [(1280, 800), (1920, 1080)])
def test_the_screen_is_filled_and_nothing_hangs_out(tab: Any, shown: Station, size: tuple[int, int]) -> None:
    width, height = size
    tab.set_viewport_size({"width": width, "height": height})
    tab.goto(shown.url)
    is_drawn(tab)
    shows(tab, "#stages", "engine")
    extent = tab.evaluate("[document.documentElement.scrollWidth, document.documentElement.scrollHeight]")
    assert extent[0] <= width
    assert extent[1] <= height
    for selector in ("#verdict", "#counters", "#law", "#strip", "#stages", "#cameras", "#limits"):
        box = tab.locator(selector).bounding_box()
        assert box["x"] >= 0, selector
        assert box["x"] + box["width"] <= width, selector
        assert box["y"] + box["height"] <= height, selector
    assert tab.locator("#word").evaluate("e => parseFloat(getComputedStyle(e).fontSize)") >= 30


def luminance(colour: list[float]) -> float:
    """Return the relative luminance of sRGB (WCAG 2.2)."""
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in (v / 255 for v in colour)]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def test_all_text_can_be_read(tab: Any, shown: Station) -> None:
    """Contrast of 4.5 at least (WCAG 2.2, 1.4.3), measured on what the browser has made of the style sheet."""
    shown.board.tell([event(9000 + number, verdict) for number, verdict in enumerate(("MISSED", "NG", "UNSURE", "OK"))])
    tab.goto(shown.url)
    is_drawn(tab)
    shows(tab, "#cameras", "top")
    found = tab.evaluate(
        """() => [...document.querySelectorAll('body *')].filter((e) => e.checkVisibility() &&
          [...e.childNodes].some((n) => n.nodeType === 3 && n.data.trim())).map((e) => {
            let ground = 'rgba(0, 0, 0, 0)';
            for (let at = e; at && /, 0(\\.\\d+)?\\)$/.test(ground); at = at.parentElement)
              ground = getComputedStyle(at).backgroundColor;
            return [e.textContent.slice(0, 30), getComputedStyle(e).color, ground];
          })"""
    )
    assert len(found) > 60
    for text, *colours in found:
        front, ground = (luminance([float(v) for v in colour.strip("rgba()").split(",")[:3]]) for colour in colours)
        contrast = (max(front, ground) + 0.05) / (min(front, ground) + 0.05)
        assert contrast >= 4.5, (text, colours, contrast)


def test_all_can_be_reached_by_the_keyboard(tab: Any, shown: Station) -> None:
    tab.goto(shown.url)
    is_drawn(tab)
    reached = []
    who = "e => e.id || e.className || e.dataset.show"
    for _ in range(8):
        tab.keyboard.press("Tab")
        reached.append(tab.locator("*:focus").evaluate(who))
    assert reached == ["heat", "opacity", "panel scroll", "column", "all", "ng", "bad", "scroll"]


def test_what_the_page_sends_is_small(tab: Any, shown: Station) -> None:
    """Nothing but 'a' goes to the server."""
    sent: list[str] = []
    tab.on("websocket", lambda socket: socket.on("framesent", lambda frame: sent.append(str(frame))))
    tab.goto(shown.url)
    is_drawn(tab)
    wait_until(lambda: tab.evaluate("1") and len(sent) >= 2)
    assert set(sent) == {"a"}
