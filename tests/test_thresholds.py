"""Thresholds: the promise held by scipy's distributions and by simulation, and what is refused."""

from __future__ import annotations

import json

import numpy as np
import pytest
from scipy import stats

from edgead.errors import ConfigError, DataError, EdgeadError
from edgead.thresholds import Threshold, Verdict, threshold_from_good


def _threshold(scores, **options):
    return threshold_from_good(scores, **{"unit": "image", "source": "test", **options})


def _rank(threshold, n):
    """How many of the scores 0 .. n-1 lie above the NG threshold."""
    return n - 1 - int(threshold.ng)


@pytest.mark.parametrize("n", [1, 20, 148, 149, 1496, 1497, 2362, 6000])
@pytest.mark.parametrize("ppm", [500, 2000, 20_000, 90_000])
@pytest.mark.parametrize("confidence", [0.5, 0.95, 0.999])
def test_the_order_statistic_is_the_lowest_that_keeps_the_budget(n, ppm, confidence):
    threshold = _threshold(np.arange(n), false_reject_ppm=ppm, confidence=confidence)
    above, share, doubt = _rank(threshold, n), ppm / 1e6, 1 - confidence
    allowed = stats.binom.cdf(np.arange(n), n, share) <= doubt
    assert above == max(int(allowed.sum()) - 1, 0)
    assert threshold.guaranteed_ppm == pytest.approx(1e6 * stats.beta.ppf(confidence, above + 1, n - above), rel=1e-6)
    assert threshold.holds_budget == (threshold.guaranteed_ppm <= ppm * (1 + 1e-9))
    loose = int((stats.binom.cdf(np.arange(n), n, 10 * share) <= doubt).sum())
    assert threshold.unsure == min(threshold.ng, n - max(loose, 1))


def test_too_few_good_images_take_the_largest_and_say_how_many_are_missing():
    threshold = _threshold(np.linspace(0.1, 0.9, 500))
    assert threshold.needed_good == 1497
    assert threshold.ng == 0.9
    assert threshold.guaranteed_ppm == pytest.approx(1e6 * (1 - 0.05 ** (1 / 500)))
    assert not threshold.holds_budget
    assert "needs 997 more Good images" in threshold.explain()
    assert "\n" not in threshold.explain()


def test_enough_good_parts_promise_the_budget():
    threshold = _threshold(np.linspace(0, 1, 1497), unit="part")
    assert threshold.holds_budget
    assert 1990 < threshold.guaranteed_ppm <= 2000
    assert "more Good" not in threshold.explain()
    assert "1497 Good parts" in threshold.explain()


def _rejects(random, n, draws, **options):
    """True false reject rates of thresholds from exponential scores, whose tail P(score > t) is exp(-t)."""
    return np.array([np.exp(-_threshold(random.exponential(size=n), **options).ng) for _ in range(draws)])


@pytest.mark.parametrize(("n", "ppm", "confidence"), [(300, 20_000, 0.95), (300, 50_000, 0.8), (100, 100_000, 0.9)])
def test_the_promise_holds_in_simulation_with_at_least_its_confidence(n, ppm, confidence):
    random, draws, share = np.random.default_rng(n), 1500, ppm / 1e6
    options = {"false_reject_ppm": ppm, "confidence": confidence, "unsure_ratio": 2}
    kept = np.mean(_rejects(random, n, draws, **options) <= share)
    above = _rank(_threshold(np.arange(n), **options), n)
    exact = 1 - stats.binom.cdf(above, n, share)
    spread = 4 * np.sqrt(exact * (1 - exact) / draws)
    assert exact >= confidence
    assert kept == pytest.approx(exact, abs=spread)


def test_the_promise_holds_below_the_budget_when_there_are_too_few():
    random = np.random.default_rng(7)
    promised = _threshold(np.arange(50), confidence=0.9).guaranteed_ppm / 1e6
    assert np.mean(_rejects(random, 50, 1500, confidence=0.9) <= promised) == pytest.approx(0.9, abs=0.03)


def test_ties_only_make_the_promise_safer():
    random, kept = np.random.default_rng(3), []
    for _ in range(500):
        threshold = _threshold(random.geometric(0.3, size=200), false_reject_ppm=50_000, confidence=0.9)
        kept.append(0.7**threshold.ng <= 0.05)  # P(score > t) of a geometric score
    assert np.mean(kept) >= 0.9


@pytest.mark.parametrize("seed", range(20))
def test_unsure_never_lies_above_ng_and_its_band_is_kept(seed):
    random = np.random.default_rng(seed)
    good = np.round(random.normal(size=int(random.integers(1, 900))), 1)
    threshold = _threshold(good, false_reject_ppm=float(random.uniform(100, 90_000)))
    verdicts = [threshold.verdict(score) for score in good]
    assert threshold.unsure <= threshold.ng
    assert verdicts.count(Verdict.NG) / len(good) <= threshold.false_reject_ppm / 1e6
    looser = _threshold(good, false_reject_ppm=threshold.false_reject_ppm, unsure_ratio=1)
    assert looser.unsure == looser.ng == threshold.ng


def test_scores_on_a_limit_belong_below_it():
    threshold = Threshold(1.0, 2.0, "image", 2000, 0.95, 10, 3000.0, 1497, "test")
    cases = {0.5: "OK", 1.0: "OK", 1.0000001: "UNSURE", 2.0: "UNSURE", 2.0000001: "NG", 9.0: "NG"}
    assert {score: threshold.verdict(score).value for score in cases} == cases
    assert Verdict.NG == "NG"


def test_float32_scores_judge_as_they_were_learnt():
    good = np.random.default_rng(0).random(100, dtype=np.float32)
    threshold = Threshold.from_dict(json.loads(json.dumps(_threshold(good).to_dict())))
    assert threshold.verdict(float(good.max())) is not Verdict.NG
    assert threshold.verdict(float(np.nextafter(good.max(), np.float32(2)))) is Verdict.NG


def test_round_trip_through_json_is_exact():
    threshold = _threshold(np.random.default_rng(0).normal(size=321), unit="part", source="validation of tiles")
    assert Threshold.from_dict(json.loads(json.dumps(threshold.to_dict()))) == threshold


_GOOD = [0.1, 0.2, 0.3]
_STORED = Threshold(1.0, 2.0, "image", 2000.0, 0.95, 10, 3000.0, 1497, "test").to_dict()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: _threshold([]), "at least one score"),
        (lambda: _threshold([[0.1, 0.2]]), r"shape \(1, 2\)"),
        (lambda: _threshold([0.1, float("nan"), 0.2]), "1 of 3 Good scores"),
        (lambda: _threshold([0.1, float("inf")]), "1 of 2 Good scores"),
        (lambda: _threshold(_GOOD, false_reject_ppm=0), "false_reject_ppm is 0"),
        (lambda: _threshold(_GOOD, false_reject_ppm=-5), "false_reject_ppm is -5"),
        (lambda: _threshold(_GOOD, false_reject_ppm=1e6), "false_reject_ppm is 1000000"),
        (lambda: _threshold(_GOOD, false_reject_ppm=float("nan")), "false_reject_ppm is nan"),
        (lambda: _threshold(_GOOD, confidence=1), "confidence is 1"),
        (lambda: _threshold(_GOOD, confidence=0), "confidence is 0"),
        (lambda: _threshold(_GOOD, false_reject_ppm=200_000), "less than 5"),
        (lambda: _threshold(_GOOD, unsure_ratio=0.5), "unsure_ratio is 0.5"),
        (lambda: _threshold(_GOOD, unit="view"), "unit is 'view'"),
        (lambda: Threshold.from_dict({**_STORED, "unsure": 3.0}), "unsure <= ng"),
        (lambda: Threshold.from_dict({**_STORED, "ng": float("nan")}), "finite"),
        (lambda: Threshold.from_dict({**_STORED, "ng": "high"}), "is no number"),
        (lambda: Threshold.from_dict({**_STORED, "extra": 1}), "extra"),
        (lambda: Threshold.from_dict({"ng": 1.0}), "unsure"),
        (lambda: _threshold(_GOOD).verdict(float("nan")), "score is nan"),
        (lambda: _threshold(_GOOD).verdict(float("inf")), "score is inf"),
    ],
)
def test_bad_input_is_refused_in_one_line(call, message):
    with pytest.raises(EdgeadError, match=message) as refusal:
        call()
    assert isinstance(refusal.value, (ConfigError, DataError))
    assert "\n" not in str(refusal.value)
