"""Committed measurements come back as written, and the README's tables are theirs."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.results import beside, fill, find, markdown, read, save
from edgead.errors import DataError

ROOT = Path(__file__).parents[1]
ROWS = [
    {"network": "cfrg-lite0", "accuracy": {"image_AUROC": 0.912345}, "n": 3, "passed": True},
    {"network": "a|b\n<c>", "accuracy": {"image_AUROC": None}, "n": 12345, "passed": False},
]


def write(folder: Path, name: str = "tiles") -> Path:
    path = folder / f"{name}.json"
    save(path, command="edgead evaluate runs/x", conditions={"seed": 1}, rows=ROWS)
    return path


def test_what_is_saved_is_read_again(tmp_path: Path) -> None:
    path = write(tmp_path)
    fields = json.loads(path.read_text())
    assert set(fields) == {"command", "machine", "date", "conditions", "rows"}
    assert fields["rows"] == ROWS
    assert fields["machine"]["cores"] >= 1
    results = read(path)
    assert (results.command, results.conditions, list(results.rows)) == ("edgead evaluate runs/x", {"seed": 1}, ROWS)
    assert results.date.tzinfo is not None
    assert [each.name for each in tmp_path.iterdir()] == ["tiles.json"]


def test_nan_is_refused_and_leaves_no_file(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="measure it again"):
        save(tmp_path / "bad.json", command="c", conditions={}, rows=[{"x": float("nan")}])
    assert list(tmp_path.iterdir()) == []


def test_the_table_shows_every_column_escaped(tmp_path: Path) -> None:
    lines = markdown(read(write(tmp_path))).splitlines()
    assert lines[:4] == [
        "| network | accuracy.image_AUROC | n | passed |",
        "| --- | ---: | ---: | --- |",
        "| cfrg-lite0 | 0.9123 | 3 | yes |",
        "| a\\|b &lt;c> | \N{EN DASH} | 12345 | no |",
    ]
    assert "`edgead evaluate runs/x`" in lines[5]


def test_columns_are_chosen_ordered_and_renamed(tmp_path: Path) -> None:
    results = read(write(tmp_path))
    lines = markdown(results, ["n", "accuracy.image_AUROC=image,AUROC"]).splitlines()
    assert lines[0] == "| n | image AUROC |"
    assert lines[2] == "| 3 | 0.9123 |"
    with pytest.raises(DataError, match="no column 'netwerk', did you mean 'network'"):
        markdown(results, ["netwerk"])


def test_a_readme_is_filled_between_its_markers_only(tmp_path: Path) -> None:
    table = markdown(read(write(tmp_path)), ["n"])
    text = "# Title\r\n<!-- results:tiles n -->\n| 99 | by hand |\n<!-- /results -->\nafter <!-- results --> it"
    filled = fill(text, tmp_path)
    assert filled == (f"# Title\r\n<!-- results:tiles n -->\n{table}\n<!-- /results -->\nafter <!-- results --> it")
    assert fill(filled, tmp_path) == filled


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a\n<!-- results:tiles -->\n", "line 2: results:tiles has no end"),
        ("<!-- results:tiles -->\n<!-- results:tiles -->\n<!-- /results -->", "line 1: results:tiles has no end"),
        ("<!-- results: -->\n<!-- /results -->", "line 1: '' is no name of results"),
        ("<!-- results:../x -->\n<!-- /results -->", "line 1: '../x' is no name of results"),
        ("<!-- results:tiles x -->\n<!-- /results -->", "line 1: results have no column 'x'"),
    ],
)
def test_wrong_markers_are_refused(tmp_path: Path, text: str, message: str) -> None:
    write(tmp_path)
    with pytest.raises(DataError, match=message):
        fill(text, tmp_path)


def test_what_is_not_measured_yet_is_said(tmp_path: Path) -> None:
    text = "<!-- results:tiles n -->\n| 99 |\n<!-- /results -->\n"
    filled = fill(text, tmp_path)
    assert "99" not in filled
    assert "*Not measured yet: there is no `benchmarks/results/tiles.json`.*" in filled
    write(tmp_path)
    assert fill(filled, tmp_path) == fill(text, tmp_path) != filled
    with pytest.raises(DataError, match="no results 'tilse', did you mean 'tiles'"):
        find("tilse", tmp_path)


def test_a_broken_file_is_refused_in_one_line(tmp_path: Path) -> None:
    path = write(tmp_path)
    path.write_text(path.read_text()[:50])
    with pytest.raises(DataError, match="measure it again"):
        find("tiles", tmp_path)
    path.write_text(
        '{"command": "c", "machine": {}, "date": "2026-01-01T00:00:00Z", "conditions": {}, "rows": [], "x": 1}'
    )
    with pytest.raises(DataError, match=r"tiles\.json: x: "):
        find("tiles", tmp_path)
    with pytest.raises(DataError, match=r"no results .tiles.: .* holds none"):
        find("tiles", tmp_path / "elsewhere")


def test_the_readme_holds_what_the_command_writes(tmp_path: Path) -> None:
    source = ROOT / "README.md"
    text = source.read_text(encoding="utf-8") if source.exists() else "no tables\n"
    assert fill(text) == text, "write its tables anew: python -m benchmarks.results --readme README.md"
    copy = tmp_path / "README.md"
    copy.write_text(text, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.results", "--readme", str(copy)], cwd=ROOT, capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert copy.read_text(encoding="utf-8") == text


def test_every_committed_file_is_readable_and_makes_a_table() -> None:
    for path in sorted((ROOT / "benchmarks" / "results").glob("*.json")):
        assert markdown(read(path)).startswith("| ")


def test_two_files_stand_beside_each_other_by_their_first_column(tmp_path: Path) -> None:
    accuracy = [{"method": "ours", "AUROC": 0.9}, {"method": "theirs", "AUROC": 0.8}]
    speed = [
        {"method": "ours", "artefact": "int8", "backend": "openvino", "fps": 200.0},
        {"method": "ours", "artefact": "fp32", "backend": "openvino", "fps": 100.0},
    ]
    save(tmp_path / "accuracy.json", command="measure it", conditions={}, rows=accuracy)
    save(tmp_path / "speed.json", command="time it", conditions={}, rows=speed)
    text = "<!-- results:accuracy+speed method AUROC int8@openvino.fps=FPS -->\n<!-- /results -->"
    lines = fill(text, tmp_path).splitlines()
    assert lines[1] == "| method | AUROC | FPS |"
    assert lines[3:5] == ["| ours | 0.9 | 200 |", "| theirs | 0.8 | \N{EN DASH} |"]
    assert "`measure it && time it`" in lines[6]
    assert "no `benchmarks/results/none.json`" in fill(text.replace("+speed", "+none"), tmp_path)


def test_files_that_do_not_fit_are_not_set_beside_each_other(tmp_path: Path) -> None:
    left = read(write(tmp_path))
    save(tmp_path / "twice.json", command="c", conditions={}, rows=[{"network": "a", "n": 1}, {"network": "a", "n": 2}])
    save(tmp_path / "other.json", command="c", conditions={}, rows=[{"method": "a", "n": 1}])
    with pytest.raises(DataError, match="begin with method, network"):
        beside(left, read(tmp_path / "other.json"))
    with pytest.raises(DataError, match="two rows of a are both named ''"):
        beside(left, read(tmp_path / "twice.json"))
