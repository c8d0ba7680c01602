"""Metrics of a station, and what Prometheus, Grafana and the compose file make of them."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from outputs_bench import free_port, wait_until
from web_bench import Station, layout_of, numbers_of, stage, station

from edgead.runtime.board import Board, Numbers

pytest.importorskip("prometheus_client", reason="metrics need prometheus-client: pip install '.[page]'")
from prometheus_client.parser import text_string_to_metric_families

from edgead.web.metrics import Metrics, buckets

DOCKER = Path(__file__).parents[1] / "docker"
DASHBOARD = json.loads((DOCKER / "grafana" / "dashboards" / "edgead.json").read_text("utf-8"))
Labels = frozenset[tuple[str, str]]


def samples(numbers: Numbers, **layout: Any) -> dict[str, dict[Labels, float]]:
    """Return what is exported, read back by Prometheus' own parser: by name, then by labels without the station."""
    board = Board.create(layout_of(**layout))
    board.count(numbers)
    text = Metrics(board, board.layout, lambda: 1.5, lambda: 3).text().decode()
    board.close()
    found: dict[str, dict[Labels, float]] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            labels = dict(sample.labels)
            assert labels.pop("station") == "line-1", sample
            found.setdefault(sample.name, {})[frozenset(labels.items())] = sample.value
    return found


def of(**labels: str) -> Labels:
    return frozenset(labels.items())


def test_every_number_of_the_board_is_exported() -> None:
    found = samples(numbers_of())
    for outcome, count in {"OK": 90, "UNSURE": 5, "NG": 4, "INCOMPLETE": 3, "MISSED": 2, "REJECTED": 1}.items():
        assert found["edgead_parts_total"][of(outcome=outcome)] == count
    for name, value in {
        "edgead_triggers_total": 107,
        "edgead_parts_open": 2,
        "edgead_parts_unaccounted": 0,
        "edgead_frames_total": 412,
        "edgead_unused_frames_total": 7,
        "edgead_batches_total": 80,
        "edgead_takt_misses_total": 9,
        "edgead_takt_seconds": 0.2,
        "edgead_deadline_seconds": 0.15,
        "edgead_heartbeat_age_seconds": 1.5,
        "edgead_page_viewers": 3,
        "edgead_ended": 0,
        "edgead_max_batch": 8,
    }.items():
        assert found[name] == {of(): value}, name
    assert found["edgead_threshold"] == {of(limit="unsure"): 0.5, of(limit="ng"): 0.75}
    assert found["edgead_busy_share"] == {of(resource="engine"): 0.81, of(resource="camera top"): 0.12}
    assert found["edgead_camera_frames_total"] == {of(camera="top"): 210, of(camera="side"): 202}
    for name, value in {"incomplete": 1, "missed": 2, "reconnects": 3}.items():
        assert found[f"edgead_camera_{name}_total"][of(camera="top")] == value
    assert 0 <= found["edgead_camera_silence_seconds"][of(camera="top")] < 60
    for name, value in {
        "delivered_total": 99,
        "pending": 6,
        "refused_total": 1,
        "dropped_total": 2,
        "errors_total": 4,
    }.items():
        assert found[f"edgead_output_{name}"] == {of(output="mqtt"): value}
    ((info, one),) = found["edgead_info"].items()
    assert one == 1
    assert dict(info).items() >= {"artefact": "int8", "backend": "openvino", "runner": "openvino-cpu"}.items()


def test_a_broken_conservation_law_shows() -> None:
    assert samples(numbers_of(triggers=109))["edgead_parts_unaccounted"][of()] == 2
    assert samples(numbers_of(open=3))["edgead_parts_unaccounted"][of()] == -1


def test_a_station_that_has_just_begun_exports_zeros() -> None:
    found = samples(Numbers(), takt_ms=None, deadline_ms=None)
    assert found["edgead_triggers_total"][of()] == 0
    assert "edgead_takt_misses_total" not in found, "without a deadline nothing is late"
    assert "edgead_takt_seconds" not in found


def test_the_buckets_hold_exactly_what_lies_below_their_bounds() -> None:
    seconds = np.random.default_rng(1).lognormal(-5, 1.5, 3000)
    bins, sum_s = stage([*seconds.tolist(), 500.0, 1e-7])
    found = samples(numbers_of(stages={"engine": (bins, sum_s)}))
    counts = {dict(labels)["le"]: count for labels, count in found["edgead_stage_seconds_bucket"].items()}
    assert counts["+Inf"] == found["edgead_stage_seconds_count"][of(stage="engine")] == 3002
    assert found["edgead_stage_seconds_sum"][of(stage="engine")] == pytest.approx(seconds.sum() + 500, rel=1e-9)
    bounds = sorted(float(bound) for bound in counts if bound != "+Inf")
    assert (bounds[0], bounds[-1], len(bounds)) == (1e-5, 100, 29)
    for bound in bounds:
        below = int((seconds <= bound).sum()) + 1
        assert abs(counts[f"{bound:.4g}"] - below) <= 1, "bounds are rounded to four digits"
    assert [count for _, count in buckets([])] == [0] * 30


def names_in(promql: str) -> set[str]:
    without_labels = re.sub(r"\{[^}]*\}", "", promql)
    return set(re.findall(r"\bedgead_[a-z_]+", without_labels))


def dashboard_queries() -> list[str]:
    return [target["expr"] for panel in DASHBOARD["panels"] for target in panel["targets"]]


def rules() -> list[dict[str, Any]]:
    document = yaml.safe_load((DOCKER / "rules.yml").read_text("utf-8"))
    return [rule for group in document["groups"] for rule in group["rules"]]


def test_the_dashboard_and_the_rules_ask_for_metrics_that_exist() -> None:
    found = set(samples(numbers_of()))
    variables = [one["definition"] for one in DASHBOARD["templating"]["list"]]
    asked = [*dashboard_queries(), *variables, *(rule["expr"] for rule in rules())]
    assert len(asked) > 25
    for promql in asked:
        assert names_in(promql) <= found, promql
        assert names_in(promql) or promql.startswith("up{"), promql
    unasked = found - {name for promql in asked for name in names_in(promql)}
    assert "edgead_parts_total" not in unasked
    assert names_in('rate(edgead_gone_total{a="b"}[5m])') == {"edgead_gone_total"}, "the check can fail"


def test_the_dashboard_is_sound() -> None:
    ids = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(set(ids)) == len(ids) > 12
    sources = yaml.safe_load((DOCKER / "grafana/provisioning/datasources/prometheus.yaml").read_text("utf-8"))
    uids = {source["uid"] for source in sources["datasources"]}
    taken: set[tuple[int, int]] = set()
    for panel in DASHBOARD["panels"]:
        assert panel["datasource"]["uid"] in uids
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert max(x for x, _ in cells) < 24
        assert not cells & taken, f"{panel['title']} lies over another panel"
        taken |= cells


def test_the_compose_file_is_sound() -> None:
    compose = yaml.safe_load((DOCKER / "compose.yaml").read_text("utf-8"))
    assert set(compose) == {"name", "services", "volumes"}
    services = compose["services"]
    assert set(services) == {"broker", "prometheus", "grafana", "station"}
    known = {"image", "build", "restart", "ports", "volumes", "command", "environment", "depends_on", "network_mode"}
    known |= {"profiles", "init", "stop_grace_period"}
    for name, service in services.items():
        assert set(service) <= known, name
        assert re.fullmatch(r"[\w./-]+(:[\w.-]+)?", service["image"]), name
        assert not service["image"].endswith(":latest")
        assert set(service.get("depends_on", ())) <= set(services)
        for port in service.get("ports", ()):
            assert port.startswith("127.0.0.1:"), "reached from this machine only"
        for volume in service.get("volumes", ()):
            source = volume.rsplit(":", 2 if volume.endswith(":ro") else 1)[0]
            if source.startswith("./"):
                assert (DOCKER / source).exists(), source
            elif not source.startswith("$"):
                assert source in compose["volumes"], source
    assert services["station"]["profiles"] == ["station"]
    assert (DOCKER.parent / services["station"]["build"]["dockerfile"]).is_file()
    assert "--web.listen-address=127.0.0.1:9090" in services["prometheus"]["command"]
    assert services["grafana"]["environment"]["GF_SERVER_HTTP_ADDR"] == "127.0.0.1"
    provisioning = yaml.safe_load((DOCKER / "grafana/provisioning/dashboards/edgead.yaml").read_text("utf-8"))
    mounted = [volume.split(":")[1] for volume in services["grafana"]["volumes"]]
    assert provisioning["providers"][0]["options"]["path"] in mounted
    readme = (DOCKER / "README.md").read_text("utf-8")
    assert "docker compose -f docker/compose.yaml up -d" in readme


def test_the_broker_s_file_starts_a_broker(tmp_path: Path) -> None:
    program = shutil.which("mosquitto") or shutil.which("mosquitto", path="/usr/sbin")
    if program is None:
        pytest.skip("no broker: apt-get install mosquitto")
    port, data = free_port(), tmp_path / "data"
    data.mkdir()
    text = (DOCKER / "mosquitto.conf").read_text("utf-8").replace("listener 1883", f"listener {port} 127.0.0.1")
    (tmp_path / "mosquitto.conf").write_text(f"{text.replace('/mosquitto/data/', f'{data}/')}\nuser root\n")
    broker = subprocess.Popen([program, "-c", str(tmp_path / "mosquitto.conf")], stderr=subprocess.PIPE, text=True)
    try:
        import socket

        def answers() -> bool:
            assert broker.poll() is None, broker.stderr.read() if broker.stderr else ""
            with socket.socket() as client:
                return client.connect_ex(("127.0.0.1", port)) == 0

        wait_until(answers)
    finally:
        broker.terminate()
        broker.communicate(timeout=20)


@pytest.fixture(scope="module")
def page() -> Iterator[Station]:
    with station(free_port()) as made:
        yield made


@pytest.fixture(scope="module")
def prometheus(page: Station, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The real Prometheus with the committed configuration, but for the ports and how often it looks."""
    program = shutil.which("prometheus")
    if program is None:
        pytest.skip("no Prometheus: apt-get install prometheus")
    folder, port = tmp_path_factory.mktemp("prometheus"), free_port()
    config = yaml.safe_load((DOCKER / "prometheus.yml").read_text("utf-8"))
    config["global"] = {"scrape_interval": "500ms", "evaluation_interval": "500ms"}
    config["scrape_configs"][0]["static_configs"][0]["targets"] = [f"127.0.0.1:{page.page['port']}"]
    (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
    shutil.copy(DOCKER / "rules.yml", folder)
    words = [program, f"--config.file={folder}/prometheus.yml", f"--storage.tsdb.path={folder}/data"]
    process = subprocess.Popen(
        [*words, f"--web.listen-address=127.0.0.1:{port}", "--log.level=error"], stderr=subprocess.PIPE, text=True
    )
    url = f"http://127.0.0.1:{port}"

    def is_ready() -> bool:
        assert process.poll() is None, process.stderr.read() if process.stderr else ""
        try:
            return len(ask(url, 'edgead_info{job="edgead"}')) == 1 and len(ask(url, "up == 1")) == 1
        except (urllib.error.URLError, ConnectionError):
            return False

    try:
        wait_until(is_ready, 60)
        for _ in range(6):  # a rate needs two scrapes with something between them
            page.shown = replace(
                page.shown,
                triggers=page.shown.triggers + 6,
                frames=page.shown.frames + 24,
                batches=page.shown.batches + 6,
                counts={name: count + 1 for name, count in page.shown.counts.items()},
                stages={name: stage([0.01] * 50) for name in ("engine", "part")},
            )
            time.sleep(0.6)
        yield url
    finally:
        process.terminate()
        process.communicate(timeout=30)


def ask(url: str, promql: str) -> list[dict[str, Any]]:
    query = urllib.parse.urlencode({"query": promql})
    with urllib.request.urlopen(f"{url}/api/v1/query?{query}", timeout=10) as answer:
        said = json.load(answer)
    assert said["status"] == "success", said
    return list(said["data"]["result"])


def test_prometheus_answers_every_query_of_the_dashboard(prometheus: str) -> None:
    for promql in dashboard_queries():
        filled = promql.replace("$station", ".*").replace("$__rate_interval", "30s")
        wait_until(lambda filled=filled: ask(prometheus, filled), 20)  # type: ignore[misc]


def test_the_alarms_ring_when_they_should(prometheus: str, page: Station) -> None:
    def states() -> dict[str, str]:
        with urllib.request.urlopen(f"{prometheus}/api/v1/rules", timeout=10) as answer:
            groups = json.load(answer)["data"]["groups"]
        assert all(rule["health"] in ("ok", "unknown") for group in groups for rule in group["rules"])
        return {rule["name"]: rule["state"] for group in groups for rule in group["rules"]}

    assert states()["PartsUnaccounted"] == "inactive"
    page.shown = replace(page.shown, triggers=page.shown.triggers + 1)
    wait_until(lambda: states()["PartsUnaccounted"] == "pending")
    page.shown = replace(page.shown, triggers=page.shown.triggers - 1)
    wait_until(lambda: states()["PartsUnaccounted"] == "inactive")


def test_the_committed_files_pass_prometheus_own_check() -> None:
    if shutil.which("promtool") is None:
        pytest.skip("no promtool: apt-get install prometheus")
    done = subprocess.run(
        ["promtool", "check", "config", str(DOCKER / "prometheus.yml")], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert f"{len(rules())} rules found" in done.stdout


def test_metrics_can_be_left_out() -> None:
    with station(free_port(), metrics=False) as made, pytest.raises(urllib.error.HTTPError) as error:
        urllib.request.urlopen(f"{made.url}/metrics", timeout=10)
    assert error.value.code == 404
