from __future__ import annotations

from pathlib import Path

import pytest

from edgead.config import StationConfig, TrainConfig, load_station, load_train
from edgead.errors import ConfigError

STATION = """
bundle: bundle
output: out
cameras:
  - {name: left, uri: "dir://images?pattern=x", view: 1, illuminations: [1, 2]}
  - {name: right, uri: "sim://ceramic_tile?seed=3"}
"""
TRAIN = "dataset: {kind: mvtec, root: data, category: tile}\n"


def write(folder: Path, text: str, name: str = "station.yaml") -> Path:
    path = folder / name
    path.write_text(text)
    return path


def test_a_station_resolves_paths_from_its_own_folder(tmp_path: Path) -> None:
    config = load_station(write(tmp_path, STATION))
    assert config.bundle == tmp_path / "bundle"
    assert config.output == tmp_path / "out"
    assert config.cameras[0].uri == f"dir://{tmp_path}/images?pattern=x"
    assert config.cameras[1].uri == "sim://ceramic_tile?seed=3"
    assert config.cameras[0].view == "1"
    assert config.cameras[0].illuminations == ("1", "2")


def test_a_station_keeps_absolute_paths(tmp_path: Path) -> None:
    config = load_station(write(tmp_path, STATION.replace("bundle: bundle", "bundle: /somewhere/else")))
    assert config.bundle == Path("/somewhere/else")


def test_a_training_needs_no_more_than_its_dataset(tmp_path: Path) -> None:
    config = load_train(write(tmp_path, TRAIN))
    assert (config.network, config.size, config.seed, config.devices) == ("cfrg-lite0", 256, 42, "auto")
    assert config.textures is None
    assert config.dataset.root == tmp_path / "data"


def test_the_smallest_network_takes_smaller_images_where_no_size_is_given(tmp_path: Path) -> None:
    assert load_train(write(tmp_path, TRAIN + "network: cfrg-nano0\n")).size == 192
    assert load_train(write(tmp_path, TRAIN + "network: cfrg-nano0\nsize: 256\n")).size == 256


def test_training_reads_yaml_floats_without_a_dot(tmp_path: Path) -> None:
    # YAML 1.1 reads 5e-4 as text; a person means a number.
    assert load_train(write(tmp_path, TRAIN + "learning_rate: 1e-3\n")).learning_rate == 1e-3


def test_teacher_weights_are_a_path_or_a_url(tmp_path: Path) -> None:
    url = "https://download.pytorch.org/models/resnet18-f37072fd.pth"
    assert load_train(write(tmp_path, TRAIN + f"teacher_weights: {url}\n")).teacher_weights == url
    assert load_train(write(tmp_path, TRAIN + "teacher_weights: w.pth\n")).teacher_weights == str(tmp_path / "w.pth")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (STATION + "takt: 5\n", ["unknown key 'takt'", "did you mean 'takt_ms'"]),
        (STATION.replace("view:", "veiw:"), ["unknown key 'cameras.0.veiw'", "did you mean 'view'"]),
        (STATION + "sinks: {pictures: {limits: 3}}\n", ["'sinks.pictures.limits'", "did you mean 'limit'"]),
        (STATION + "threads: many\n", ["threads: 'many' is wrong", "integer"]),
        (STATION + "takt_ms: -1\n", ["takt_ms: -1 is wrong", "greater than 0"]),
        (STATION + "takt_ms: .nan\n", ["takt_ms: nan is wrong", "finite"]),
        (STATION.replace("bundle: bundle", ""), ["'bundle' is missing"]),
        (STATION.replace("right", "left"), ["two cameras are called 'left'"]),
        (STATION.replace("name: left", "name: ../left"), ["cameras.0.name: '../left' is wrong"]),
        ("bundle: b\noutput: o\ncameras: []\n", ["cameras: [] is wrong", "at least 1 item"]),
        ("bundle: b\noutput: o\ncameras: left\n", ["cameras: 'left' is wrong", "tuple"]),
        ("bundle: b\nbundle: c\n", ["station.yaml:2:", "'bundle' stands twice"]),
        ("bundle: b\noutput: [1, 2\ncameras: 3\n", ["station.yaml:3:", "mend the YAML"]),
        ("bundle: b\n\toutput: c\n", ["station.yaml:2:"]),
        ("", ["holds nothing"]),
        ("- 1\n- 2\n", ["holds list"]),
        ("a: \0\n", ["mend the YAML"]),
        ("!!python/object/apply:os.system ['true']\n", ["station.yaml:1:"]),
    ],
)
def test_a_wrong_station_is_refused_in_one_line(tmp_path: Path, text: str, words: list[str]) -> None:
    refused(StationConfig, tmp_path, text, words)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (TRAIN + "network: cfrg-lit0\n", ["network: unknown value 'cfrg-lit0'", "did you mean 'cfrg-lite0'"]),
        (TRAIN.replace("mvtec", "mvtek"), ["dataset.kind: unknown value 'mvtek'", "did you mean 'mvtec'"]),
        (TRAIN + "size: 250\n", ["size: 250 is wrong", "multiple of 32"]),
        (TRAIN + "clean_share: 1.5\n", ["clean_share: 1.5 is wrong"]),
        (TRAIN + "learning_rates: 0.1\n", ["did you mean 'learning_rate'"]),
        (TRAIN + "learning_rate: .inf\n", ["learning_rate: inf is wrong"]),
        (TRAIN + "epochs: 0\nbatch: 0\n", ["epochs: 0 is wrong", "and 1 more"]),
        (TRAIN + "devices: many\n", [": devices: 'many' is wrong", "integer"]),
        (TRAIN + "devices: 0\n", [": devices: 0 is wrong", "greater than or equal to 1"]),
        ("epochs: 3\n", ["'dataset' is missing"]),
    ],
)
def test_a_wrong_training_is_refused_in_one_line(tmp_path: Path, text: str, words: list[str]) -> None:
    refused(TrainConfig, tmp_path, text, words)


def test_a_network_brings_what_it_is_made_for_unless_the_file_says_otherwise(tmp_path: Path) -> None:
    def kinds(text: str) -> tuple[int, str, str]:
        path = tmp_path / "train.yaml"
        path.write_text(TRAIN + text)
        found = load_train(path)
        return found.size, found.synthesis, found.segmentation_loss

    assert kinds("") == (256, "rich", "cross-entropy")
    assert kinds("network: cfrg-nano0\n") == (192, "rich", "cross-entropy")
    assert kinds("network: cfrg-duo0\n") == (256, "wide", "focal-dice")
    assert kinds("network: cfrg-duo0\nsynthesis: rich\nsize: 128\n") == (128, "rich", "focal-dice")


def refused(model: type[StationConfig] | type[TrainConfig], folder: Path, text: str, words: list[str]) -> None:
    path = write(folder, text)
    with pytest.raises(ConfigError) as caught:
        (load_station if model is StationConfig else load_train)(path)
    message = str(caught.value)
    assert message.startswith(str(path))
    assert "\n" not in message
    for word in words:
        assert word in message


def test_a_file_that_is_missing_a_folder_or_no_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00\x01\x80")
    for path in (tmp_path / "none.yaml", tmp_path, tmp_path / "binary.yaml"):
        with pytest.raises(ConfigError, match="expected a YAML file"):
            load_station(path)
