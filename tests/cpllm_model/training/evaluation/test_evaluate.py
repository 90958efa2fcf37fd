"""Evaluation: figures of made-up answers with known results, and one real run from files to the page."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cpllm_model.errors import CorruptVideoError, DataSetError
from cpllm_model.metrics import Bootstrap, Estimate, auc, pair_accuracy
from cpllm_model.predictor import Comparison, Description, Distortion, QualityPredictor, Rating
from cpllm_model.scale import DISTORTIONS, level_of
from cpllm_model.training.data.encode import write_video
from cpllm_model.training.data.manifests import LabelledVideo, read_manifest, write_manifest
from cpllm_model.training.data.scenes import render_scene
from cpllm_model.training.evaluation import answers as answers_module
from cpllm_model.training.evaluation import evaluate
from cpllm_model.training.evaluation.answers import (
    LEAST_GAP,
    Answer,
    ComparedPair,
    DataSetAnswers,
    Swapped,
    choose_pairs,
)
from cpllm_model.training.evaluation.comparisons import (
    close_figures,
    comparison_figures,
    order_figures,
    self_figures,
    swap_figures,
)
from cpllm_model.training.evaluation.metrics import (
    calibration_figures,
    figures_of,
    ladder_figures,
    level_figures,
    part_figures,
    same_content_figures,
    score_figures,
)
from cpllm_model.training.evaluation.naming import distortion_figures, scene_figures, text_figures
from cpllm_model.training.evaluation.published import published_on
from cpllm_model.training.evaluation.report import as_json, write_matrix, write_report

QUICK = Bootstrap(resamples=60)
HOSTILE = '<script>alert("1")</script> $x_{1'


def made_up(
    mos: float | None,
    score: float,
    content: str = "c",
    *,
    std: float = 0.5,
    there: Sequence[str] | None = None,
    named: Sequence[str] = (),
    text: str = "",
    rung: int | None = None,
    name: str = "v",
    left: float | None = None,
    subset: str | None = None,
    scene: dict[str, str] | None = None,
    said_of_scene: dict[str, str] | None = None,
) -> Answer:
    """Give an answer; distortions in `there` have severity 3, those in `named` are named."""
    video = LabelledVideo(
        video_id=name,
        content_id=content,
        dataset="made up",
        split="test",
        file="none.mp4",
        mos=mos,
        quality_left=left,
        subset=subset,
        scene=scene,
        severities=None if there is None else {family: 3.0 * (family in there) for family in DISTORTIONS},
        ladder=None if rung is None else "a ladder",
        ladder_rung=rung,
        recipe=None if rung is None else json.dumps([{"kind": "vp9", "severity": rung, "seed": 0}]),
    )
    distortions = tuple(
        Distortion(family, 3.0 * (family in named), 0.9 if family in named else 0.1, family in named)
        for family in DISTORTIONS
    )
    rating = Rating(
        score, std, level_of(score), (0.2,) * 5, (0.0,), (1.0,), (score,), score, 0.0, 1.0, said_of_scene or {}
    )
    return Answer(video, rating, Description(text, distortions))


def predicted(predict: Callable[..., np.ndarray]) -> list[Answer]:
    """Give 30 contents of 4 versions with the scores that `predict` makes of their labels."""
    mos = np.random.default_rng(3).uniform(1, 5, 120)
    return [
        made_up(m, s, f"c{i // 4}") for i, (m, s) in enumerate(zip(mos.tolist(), predict(mos).tolist(), strict=True))
    ]


def said(answers: list[Answer], **asked: Any) -> DataSetAnswers:
    """Give answers as those of a whole data set."""
    return DataSetAnswers([one.video for one in answers], list(answers), **{"pairs": [], "failed_pairs": 0, **asked})


def compared(a: Answer, b: Answer, probability: float, bias: float = 0.0) -> ComparedPair:
    """Give a compared pair whose both orders lean to the first by `bias`."""
    return ComparedPair(a, b, Comparison(probability, 2 * abs(bias), bias))


@pytest.mark.parametrize(
    ("predict", "srcc", "right"),
    [(lambda mos: mos, 1.0, 1.0), (lambda mos: 6 - mos, -1.0, 0.0), (lambda mos: np.full(len(mos), 3.0), np.nan, 0.5)],
    ids=["perfect", "reversed", "constant"],
)
def test_perfect_reversed_and_constant_scores(predict: Callable[..., np.ndarray], srcc: float, right: float) -> None:
    rated = predicted(predict)
    found = score_figures(rated, QUICK)
    for name in ("srcc", "krcc", "plcc"):
        assert found[name].value == pytest.approx(srcc, nan_ok=True)
        assert found[name].low == pytest.approx(srcc, nan_ok=True)
    assert same_content_figures(rated, QUICK)["right"] == Estimate(right, right, right)
    assert level_figures(rated, QUICK)["right"].value == (1.0 if srcc == 1 else pytest.approx(0.2, abs=0.2))
    error = np.mean([abs(one.rating.score - one.video.mos) for one in rated if one.video.mos])
    assert found["mae"].value == pytest.approx(error)


def test_random_scores_are_told_from_nothing() -> None:
    rated = predicted(lambda mos: np.random.default_rng(1).uniform(1, 5, len(mos)))
    srcc = score_figures(rated, Bootstrap(resamples=25))["srcc"]
    assert srcc.low < 0 < srcc.high
    right = same_content_figures(rated, QUICK)["right"]
    assert right.low < 0.5 < right.high


def test_intervals_hold_the_truth_as_often_as_they_say_only_over_groups() -> None:
    rng = np.random.default_rng(0)
    groups = [str(i // 4) for i in range(120)]
    covered = {"groups": 0, "rows": 0}
    for trial in range(80):
        # Versions of one content share its error: 120 rows hold the evidence of 30.
        value = np.repeat(rng.normal(0, 1, 30), 4)
        for name, group in (("groups", groups), ("rows", [str(i) for i in range(120)])):
            bootstrap = Bootstrap(resamples=150, seed=trial)
            mean = bootstrap.estimate(lambda counts, value=value: {"mean": counts @ value / counts.sum()}, group)[
                "mean"
            ]
            covered[name] += mean.low <= 0 <= mean.high
    assert covered["groups"] / 80 > 0.86 and covered["rows"] / 80 < 0.8


def test_a_pair_counts_as_often_as_both_of_its_groups() -> None:
    seen = []

    def figures(counts: np.ndarray) -> dict[str, float]:
        seen.append(counts.tolist())
        return {"sum": float(counts.sum())}

    Bootstrap(resamples=40).estimate(figures, ["a", "a", "b"], ["b", "a", "b"])
    assert seen[0] == [1, 1, 1]
    assert {tuple(counts) for counts in seen[1:]} <= {(1, 1, 1), (0, 2, 0), (0, 0, 2)}
    assert len({tuple(counts) for counts in seen}) == 3


def test_one_content_has_no_interval() -> None:
    found = same_content_figures([made_up(1, 1), made_up(2, 2), made_up(3, 1.5)], QUICK)
    assert found["pairs"] == 3 and found["right"].value == pytest.approx(2 / 3)
    assert as_json(found["right"]) == {"value": pytest.approx(2 / 3), "low": None, "high": None}


@given(
    value=st.lists(st.integers(0, 4), min_size=6, max_size=6),
    there=st.lists(st.booleans(), min_size=6, max_size=6),
    counts=st.lists(st.integers(0, 3), min_size=6, max_size=6),
)
@settings(max_examples=40, deadline=None)
def test_auc_is_the_share_of_pairs_in_order(value: list[int], there: list[bool], counts: list[int]) -> None:
    v, t, c = np.array(value), np.array(there), np.array(counts)
    above = (np.sign(v[t][:, None] - v[~t][None]) + 1) / 2
    weight = c[t][:, None] * c[~t][None]
    expected = (above * weight).sum() / weight.sum() if weight.sum() else np.nan
    assert auc(v, t, c) == pytest.approx(expected, nan_ok=True)


def test_rated_and_unrated_videos_are_never_mixed() -> None:
    rated = [made_up(mos, mos, "a", left=0.2 * mos) for mos in (1.5, 2.5, 4.0)]
    unrated = [made_up(None, score, "a", left=left) for score, left in ((4.0, 0.9), (3.0, 0.5), (3.5, 0.2))]
    unrated += [made_up(None, 3.0, "b", left=0.505), made_up(None, 2.0, "b", left=0.5)]
    found = figures_of(said(rated + unrated), QUICK)
    assert found["score"]["videos"] == 3 and found["score"]["srcc"].value == pytest.approx(1)
    assert found["same_content_pairs"]["pairs"] == 3 and found["same_content_pairs"]["right"].value == 1
    # The two of "b" differ by 0.02 of the scale, less than LEAST_GAP.
    assert (found["unrated"]["pairs"], found["unrated"]["contents"]) == (3, 1)
    assert found["unrated"]["right"].value == pytest.approx(2 / 3)
    assert found["unrated"]["srcc_within"].value == pytest.approx(0.5)
    pairs = [frozenset(pair) for pair in choose_pairs([one.video for one in rated + unrated], 100, seed=0)]
    assert {frozenset((a, b)) for a, b in ((0, 1), (0, 2), (1, 2), (3, 4), (3, 5), (4, 5))} == set(pairs)


def test_parts_are_reported_by_themselves() -> None:
    mos = np.linspace(1.2, 4.8, 8).tolist()
    answers = [made_up(m, m, f"{m}", subset="ss01", std=0.1) for m in mos]
    answers += [made_up(m, 6 - m, f"{m}b", subset="ss02", std=0.1) for m in mos]
    answers += [made_up(None, 1 + 4 * left, "clip-1.0", left=left) for left in (0.2, 0.6, 1.0)]
    answers += [made_up(2.0, 2.1, "clip-2.0"), made_up(3.0, 3.4, "clip-2.0"), made_up(None, 3.0, "clip-2.0")]
    rows = {(row["part"], row["labels"]): row for row in part_figures(answers, QUICK)}
    assert set(rows) == {
        ("subset ss01", "rated"), ("subset ss02", "rated"), ("source clip", "rated"), ("source clip", "unrated"),
    }  # fmt: skip
    first, second = rows["subset ss01", "rated"], rows["subset ss02", "rated"]
    assert (first["videos"], first["srcc"].value, second["srcc"].value) == (8, pytest.approx(1), pytest.approx(-1))
    assert (first["pairs_right"].value, second["pairs_right"].value) == pytest.approx((1, 0))
    assert (first["within_1_std"].value, second["within_2_std"].value) == (1, 0)
    clips = rows["source clip", "unrated"]
    assert (clips["videos"], clips["same_content_pairs"], clips["same_content_right"].value) == (3, 3, 1)
    assert "srcc" not in clips and rows["source clip", "rated"]["rmse"].value == pytest.approx(np.sqrt(0.085))


@given(
    score=st.lists(st.integers(0, 4), min_size=7, max_size=7), mos=st.lists(st.integers(0, 4), min_size=7, max_size=7)
)
@settings(max_examples=40, deadline=None)
def test_pairs_in_order_are_those_that_are_counted(score: list[int], mos: list[int]) -> None:
    rated = [made_up(1.0 + m, 1.0 + s, f"c{i}") for i, (s, m) in enumerate(zip(score, mos, strict=True))]
    found = score_figures(rated, Bootstrap(resamples=1))["pairs_right"].value
    assert found == pytest.approx(pair_accuracy(np.array(score, float), np.array(mos, float)), nan_ok=True)


def test_coverage_and_error_by_stated_uncertainty() -> None:
    rated = [made_up(3, 3 + error, f"c{i}", std=std) for i, (error, std) in enumerate(
        [(0.1, 0.25), (-0.2, 0.25), (0.4, 0.25), (0.6, 0.5), (-1.2, 0.5)])]  # fmt: skip
    found = calibration_figures(rated, QUICK)
    assert [round(one.value, 2) for one in found["coverage"].values()] == [0.2, 0.4, 0.6, 0.8, 1.0]
    assert (found["within_1_std"].value, found["within_2_std"].value) == (0.4, 0.8)
    assert found["plcc_std_error"].value > 0.5
    assert [part["mean_std"] for part in found["by_std"]] == [0.25, 0.25, 0.25, 0.5, 0.5]
    assert found["by_std"][-1]["rmse"].value == pytest.approx(1.2)


def test_namings_counted_by_hand() -> None:
    known = [
        made_up(3, 3, "a", there=["blur", "noise"], named=["blur", "noise"]),
        made_up(3, 3, "b", there=["blur"], named=["noise"]),
        made_up(3, 3, "c", there=["blur"], named=["blur"]),
        made_up(3, 3, "d", there=[], named=[]),
    ]
    found = distortion_figures(known, QUICK)
    value = {name: one.value for name, one in found.items() if isinstance(one, Estimate)}
    assert value["exact"] == 0.75
    assert (value["micro_precision"], value["micro_recall"], value["micro_f1"]) == (0.75, 0.75, 0.75)
    blur, noise = found["by_family"]["blur"], found["by_family"]["noise"]
    assert (blur["videos"], blur["precision"].value, blur["recall"].value) == (3, 1, pytest.approx(2 / 3))
    assert (noise["precision"].value, noise["recall"].value, noise["f1"].value) == (0.5, 1, pytest.approx(2 / 3))
    assert value["macro_f1"] == pytest.approx((0.8 + 2 / 3) / 2)
    assert blur["auc"].value == pytest.approx(5 / 6) and noise["auc"].value == pytest.approx(5 / 6)
    assert value["mean_auc"] == pytest.approx(5 / 6)
    assert np.isnan(found["by_family"]["banding"]["f1"].value)


def test_a_severity_that_nobody_knows_is_in_no_figure() -> None:
    known = [made_up(3, 3, "a", there=["blur"], named=["blur"]), made_up(3, 3, "b", there=[], named=[])]
    unknown = made_up(3, 3, "c", there=[], named=["blur", "noise"])
    severities = (unknown.video.severities or {}) | {"blur": float("nan")}
    found = distortion_figures([*known, replace(unknown, video=replace(unknown.video, severities=severities))], QUICK)
    assert found["by_family"]["blur"]["precision"].value == 1 and found["by_family"]["blur"]["auc"].value == 1
    assert found["by_family"]["noise"]["precision"].value == 0
    assert (found["exact"].value, found["micro_precision"].value) == (1, 0.5)


def test_words_that_contradict_the_other_answers() -> None:
    answers = [
        made_up(None, 4, "a", named=["blur"], text="The quality is good. It shows slight blur."),
        made_up(None, 4, "b", named=["blur"], text="The quality is good. Nothing disturbs the picture."),
        made_up(None, 4, "c", named=[], text="The quality is good. It shows slight blur."),
        made_up(None, 2, "d", named=[], text="This looks good."),
    ]
    answers += [
        made_up(
            None, 4, c, text="The scene is dark, plain and still.", said_of_scene={"light": light, "kind": "screen"}
        )
        for c, light in (("e", "dark"), ("f", "bright"))
    ] * 2
    assert text_figures(answers[4:], QUICK)["says_other_scene"].value == 0.5
    assert text_figures(answers[4:], QUICK)["contradicts"].value == 0.5
    found = {name: getattr(one, "value", one) for name, one in text_figures(answers[:4], QUICK).items()}
    assert found == {"videos": 4, "says_level": 0.75, "says_other_level": 0.25, "mentions_unnamed": 0.25,
                     "omits_named": 0.25, "says_other_scene": 0, "contradicts": 0.75}  # fmt: skip


def test_ladders_and_the_smallest_step_told_apart() -> None:
    rated = []
    for content in range(12):
        # The top two rungs, 0.15 apart, are told apart by every second content only.
        score = [4.8, 4.7 if content % 2 else 4.9, 3.0, 2.0]
        for rung, (mos, said) in enumerate(zip((4.8, 4.65, 3.5, 2.0), score, strict=True)):
            rated.append(made_up(mos, said, f"c{content}", rung=rung))
    found = ladder_figures(rated[::-1], QUICK)
    assert (found["ladders"], found["steps"]) == (12, 36)
    assert found["monotone"].value == 0.5 and found["steps_right"].value == pytest.approx(5 / 6)
    assert found["by_codec"]["vp9"]["ladders"] == 12
    assert [part["right"].value for part in found["by_label_gap"]] == [0.5, 1, 1]
    assert found["smallest_step"] == 1.0
    assert not ladder_figures([made_up(3, 3), made_up(2, 2)], QUICK)


def test_comparisons_by_gap_by_confidence_and_by_order() -> None:
    high, middle, low = made_up(4, 4, "a"), made_up(3, 2, "a"), made_up(2.9, 3, "b")
    pairs = [
        compared(high, middle, 0.95, 0.04),
        compared(middle, high, 0.65, 0.02),
        compared(low, high, 0.2, -0.06),
        compared(middle, low, 0.5),
    ]
    found = comparison_figures(pairs, QUICK)
    assert found["right"].value == pytest.approx(2.5 / 4)
    assert found["right_by_score"].value == 0.75
    assert found["confidence"].value == pytest.approx((0.95 + 0.65 + 0.8 + 0.5) / 4)
    assert found["first_bias"].value == pytest.approx(0) and found["order_gap"].value == pytest.approx(0.06)
    assert [(part["from"], part["pairs"], part["right"].value) for part in found["by_label_gap"]] == [
        (0.1, 1, 0.5), (1.0, 3, pytest.approx(2 / 3)),
    ]  # fmt: skip
    assert sum(part["pairs"] for part in found["by_confidence"]) == 4


def test_close_pairs_earn_their_place_or_do_not() -> None:
    pairs = []
    for content in range(10):
        better, worse = made_up(4, 3.0, f"c{content}"), made_up(3, 3.1, f"c{content}")
        # The scores are always wrong; the comparison is right in seven contents of ten, and once undecided.
        pairs.append(compared(better, worse, 0.9 if content < 7 else 0.5 if content == 7 else 0.2))
        pairs.append(compared(worse, better, 0.1 if content < 7 else 0.5 if content == 7 else 0.8))
    found = close_figures(pairs, QUICK)
    assert (found["pairs"], found["contents"]) == (20, 10)
    assert (found["right"].value, found["right_by_score"].value) == (0.75, 0.0)
    assert found["gain"].value == 0.75 and 0.3 < found["gain"].low < found["gain"].high <= 1


def test_close_pairs_are_of_one_content_close_in_score_and_apart_in_label() -> None:
    answers = [
        made_up(4, 3.0, "a"), made_up(3, 3.2, "a"), made_up(2, 3.6, "a"), made_up(3.96, 3.0, "a"), made_up(1, 3.0, "b"),
        made_up(None, 3.0, "c", left=0.5), made_up(None, 3.1, "c", left=0.9), made_up(None, 3.1, "a", left=0.9),
    ]  # fmt: skip
    videos, score = [one.video for one in answers], {i: one.rating.score for i, one in enumerate(answers)}
    chosen = answers_module.choose_close_pairs(videos, score, 100, 0)
    assert {frozenset(pair) for pair in chosen} == {frozenset(pair) for pair in ((0, 1), (1, 3), (5, 6))}
    assert len(answers_module.choose_close_pairs(videos, score, 2, 0)) == 2
    del score[1]
    assert [set(pair) for pair in answers_module.choose_close_pairs(videos, score, 100, 0)] == [{5, 6}]


def test_order_bias_and_videos_compared_with_themselves() -> None:
    one = [made_up(3, 3, f"c{i}") for i in range(11)]
    found = order_figures([compared(a, a, 0.5, i / 40) for i, a in enumerate(one)], QUICK)
    assert found["order_gap_median"].value == pytest.approx(0.25)
    assert found["order_gap_p90"].value == pytest.approx(0.45) and found["order_gap_max"] == 0.5
    assert found["first_bias"].value == pytest.approx(0.125)
    assert self_figures([compared(a, a, 0.5) for a in one], QUICK)["order_gap"] == Estimate(0, 0, 0)


def test_swapped_tokens_move_scores_by_what_they_carry() -> None:
    own, other = made_up(3, 3.0, "a"), made_up(2, 1.0, "b")
    found = swap_figures([Swapped(own, other, 2.9, 1.2), Swapped(other, own, 1.3, 2.8)], QUICK)
    assert (found["context_shift"].value, found["pixel_shift"].value) == (pytest.approx(0.2), pytest.approx(1.8))
    assert found["score_gap"].value == 2
    without = swap_figures([Swapped(own, other, np.nan, 1.2)], QUICK)
    assert np.isnan(without["context_shift"].value) and without["pixel_shift"].value == pytest.approx(1.8)
    assert not swap_figures([], QUICK)


def test_scene_words_that_are_known_and_were_asked() -> None:
    known, other = {"light": "dark", "motion": "fast"}, {"light": "bright"}
    answers = [
        made_up(3, 3, "a", scene=known, said_of_scene={"light": "dark", "motion": "still"}),
        made_up(3, 3, "b", scene=other, said_of_scene={"light": "dark", "motion": "still"}),
        made_up(3, 3, "c", scene=known, said_of_scene={"light": "dark"}),
        made_up(3, 3, "d", said_of_scene={"light": "dark"}),
    ]
    found = scene_figures(answers, QUICK)
    assert set(found) == {"light", "motion"}
    assert (found["light"]["videos"], found["light"]["right"].value) == (3, pytest.approx(2 / 3))
    assert found["light"]["most_frequent"] == pytest.approx(2 / 3)
    assert (found["motion"]["videos"], found["motion"]["right"].value) == (1, 0)


def test_others_figures_stand_only_beside_the_same_split() -> None:
    found = {one.method: one.srcc for one in published_on(["biq2021", "biq2021"], "test")}
    assert found == {"NIQE": 0.27, "BRISQUE": 0.60, "Inception-ResNet-V2": 0.66, "NASNet-Large": 0.67}
    assert not published_on(["biq2021"], "validation") and not published_on(["konvid-1k"], "test")


def test_pairs_are_drawn_once_labelled_and_apart() -> None:
    mos = np.random.default_rng(0).uniform(1, 5, 300).round(1)
    videos = [one.video for one in (made_up(m, 3, f"c{i // 5}") for i, m in enumerate(mos.tolist()))]
    videos += [made_up(None, 3, "c0").video] * 20
    chosen = choose_pairs(videos, 100, seed=1)
    assert chosen == choose_pairs(videos, 100, seed=1) != choose_pairs(videos, 100, seed=2)
    assert len({frozenset(pair) for pair in chosen}) == len(chosen) == 200
    assert sum(videos[a].content_id == videos[b].content_id for a, b in chosen) == 100
    assert all(abs((videos[a].mos or 9) - (videos[b].mos or 0)) > LEAST_GAP for a, b in chosen)
    first_is_better = np.mean([(videos[a].mos or 0) > (videos[b].mos or 0) for a, b in chosen])
    assert 0.35 < first_is_better < 0.65
    assert not choose_pairs([made_up(None, 3).video] * 3, 100, seed=0)


def test_a_section_without_labels_is_left_out() -> None:
    assert set(figures_of(said([made_up(None, 3, "a"), made_up(None, 4, "b")]), QUICK)) == {"text"}
    assert set(figures_of(said([made_up(3, 3, "a"), made_up(4, 4, "b")]), QUICK)) == {
        "text", "score", "levels", "calibration",
    }  # fmt: skip
    assert not figures_of(said([]), QUICK)


def test_hostile_names_and_single_answers_make_a_page(tmp_path: Path) -> None:
    rated = [
        made_up(mos, mos, f"c{i // 4}", there=["blur"], rung=i % 4, name=HOSTILE, text=HOSTILE)
        for i, mos in enumerate([4.0, 3.0, 2.0, 1.0] * 3)
    ]
    videos = [one.video for one in rated]
    outcomes = [*rated[:-1], CorruptVideoError(HOSTILE, HOSTILE + "\x1b[31m")]
    sets = {
        HOSTILE: DataSetAnswers(videos, outcomes, [compared(rated[0], rated[1], 0.9)], 1),
        "one": DataSetAnswers(videos[:1], list(rated[:1]), [], 0),
        "none": DataSetAnswers(videos[:1], [CorruptVideoError("x", "y")], [], 0),
    }
    result = {
        "model_id": HOSTILE,
        "split": "test",
        "bootstrap": {"confidence": 0.95, "resamples": 60},
        "data_sets": {name: evaluate._summary(one) | figures_of(one, QUICK) for name, one in sets.items()},
    }
    written = write_report(result, sets, tmp_path)
    (tmp_path / "all").mkdir()
    write_matrix([written, written], [HOSTILE, "b"], tmp_path / "all")
    for page in ((tmp_path / "index.html").read_text(), (tmp_path / "all" / "index.html").read_text()):
        assert "<script" not in page and "&lt;script&gt;" in page and "\x1b" not in page
    assert len(list(tmp_path.glob("1_*.png"))) == 6
    assert written["data_sets"]["none"]["failed"] == {"corrupt_video": 1}


@pytest.fixture(scope="module")
def real_run(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict, Path, list[Path]]:
    """A corpus of two scenes' rate ladders and a broken file, and a rated set without severities, really evaluated."""
    folder = tmp_path_factory.mktemp("data")
    videos, rated, unrated = [], [], []
    for seed in (100_002, 100_003):
        frames = render_scene(seed, 320, 240, 8)
        for rung, crf in enumerate((20, 32, 44)):
            clip = write_video(frames, folder / f"{seed}-{crf}.mp4", crf=crf)
            severities = dict.fromkeys(DISTORTIONS, 0.0) | {"compression": 2.0 * rung}
            recipe = json.dumps([{"kind": "x264", "severity": rung, "seed": 0}])
            known = LabelledVideo(
                clip.stem, str(seed), "scenes", "test", clip.name, 4.8 - 1.2 * rung, severities=severities
            )
            videos.append(replace(known, recipe=recipe, ladder="x264", ladder_rung=rung))
            rated.append(LabelledVideo(clip.stem, clip.stem, HOSTILE, "test", clip.name, 4.5 - rung + seed % 2 / 4))
            unrated.append(LabelledVideo(clip.stem, f"clip-{seed}.0", "biq2021", "test", clip.name,
                                         quality_left=1 - 0.3 * rung, subset="ss01"))  # fmt: skip
    (folder / "broken.mp4").write_text("no video")
    videos.append(LabelledVideo("broken", "broken", "scenes", "test", "broken.mp4", 3.0))
    videos.append(LabelledVideo("gone", "gone", "scenes", "test", "gone.mp4", 3.0))
    data = [write_manifest(videos, folder / "manifest.parquet").parent]
    data += [write_manifest(rated, folder / "rated.parquet"), write_manifest(unrated, folder / "unrated.parquet")]
    lines: list[str] = []
    out = tmp_path_factory.mktemp("evaluation") / "reports"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(answers_module, "PAIRS", 4)
        patch.setattr(evaluate, "PAIRS", 4)
        results = evaluate.evaluate_models(["tiny"], data, out, report=lines.append, bootstrap=QUICK)
    assert "scenes: 8/8 videos" in lines
    assert 'href="1-tiny/index.html"' in (out / "index.html").read_text()
    assert json.loads((out / "evaluations.json").read_text()) == results
    return results[0], out / "1-tiny", data


def test_every_video_is_a_row_and_failures_are_counted(real_run: tuple[dict, Path, list[Path]]) -> None:
    result, out, data = real_run
    rows = pq.read_table(out / "predictions.parquet").to_pylist()
    assert len(rows) == 8 + 6 + 6
    failed = {row["video_id"]: row["error_type"] for row in rows if row["status"] == "failed"}
    assert failed == {"broken": "not_a_video", "gone": "object_missing"}
    scenes = result["data_sets"]["scenes"]
    assert (scenes["videos"], scenes["scored"], scenes["contents"]) == (8, 6, 2)
    assert scenes["failed"] == {"not_a_video": 1, "object_missing": 1}
    chosen = [
        pair["chosen"] for pair in pq.read_table(out / "pairs.parquet").to_pylist() if pair["dataset"] == "scenes"
    ]
    assert chosen.count("sample") + scenes["failed_pairs"] == 8 and chosen.count("itself") == 6
    assert scenes["compared_pairs"] == len(chosen)
    one = next(row for row in rows if row["status"] == "ok")
    rating = QualityPredictor.from_pretrained("tiny").score([data[0] / f"{one['video_id']}.mp4"])[0]
    assert isinstance(rating, Rating) and rating.score == pytest.approx(one["score"], abs=1e-6)
    assert {d["name"] for d in one["distortions"]} == set(DISTORTIONS)


def test_the_report_holds_what_was_computed(real_run: tuple[dict, Path, list[Path]]) -> None:
    result, out, _ = real_run
    assert json.loads((out / "evaluation.json").read_text()) == result
    assert result["model_id"].startswith("tiny-") and result["bootstrap"]["resamples"] == QUICK.resamples
    assert set(result["data_sets"]) == {"scenes", HOSTILE, "biq2021"}
    unrated = result["data_sets"]["biq2021"]
    assert {"unrated", "parts", "published", "swaps", "self_comparisons"} <= set(unrated) and "score" not in unrated
    assert unrated["unrated"]["pairs"] == 6 and unrated["swaps"]["videos"] == 6
    assert [(row["part"], row["labels"]) for row in unrated["parts"]] == [
        ("source clip", "unrated"), ("subset ss01", "unrated"),
    ]  # fmt: skip
    assert {"score", "same_content_pairs", "comparisons", "ladders", "distortions", "calibration", "text"} <= set(
        result["data_sets"]["scenes"]
    )
    assert not {"same_content_pairs", "ladders", "distortions"} & set(result["data_sets"][HOSTILE])
    assert result["data_sets"]["scenes"]["ladders"]["by_codec"]["x264"]["steps"] == 4
    page = (out / "index.html").read_text()
    for heading in ("Published on the same split", "Parts", "Distortions by family", "Rate ladders by codec",
                    "Tokens of another video put in", "Videos compared with themselves", "unrated"):  # fmt: skip
        assert heading in page
    assert "<script" not in page and "not_a_video" in page and page.count("data:image/png") == len([*out.glob("*.png")])
    pairs = pq.read_table(out / "pairs.parquet").to_pylist()
    assert {pair["dataset"] for pair in pairs} == {"scenes", HOSTILE, "biq2021"}
    assert all(abs(2 * abs(pair["first_bias"]) - pair["order_gap"]) < 1e-9 for pair in pairs)


def test_a_manifest_from_before_a_column_is_read_and_one_without_a_split_is_refused(tmp_path: Path) -> None:
    video = LabelledVideo("v", "c", "d", "test", "v.mp4", 3.0, subset="ss01")
    path = write_manifest([video], tmp_path / "manifest.parquet")
    assert read_manifest(path)[0].subset == "ss01"
    table = pq.read_table(path)
    pq.write_table(table.drop_columns(["subset", "scene", "dialogue"]), path)
    (again,) = read_manifest(path)
    assert (again.mos, again.subset, again.scene, again.dialogue) == (3.0, None, None, ())
    pq.write_table(table.drop_columns(["split"]), path)
    with pytest.raises(DataSetError, match="is not a manifest"):
        read_manifest(path)


def test_data_sets_of_one_name_are_kept_apart_and_missing_ones_refused(tmp_path: Path) -> None:
    video = LabelledVideo("v", "c", "same", "test", "v.mp4", 3.0)
    first, second = (write_manifest([video], tmp_path / f"{name}.parquet") for name in "ab")
    assert len(evaluate.read_data_sets([first, second, first], "test")) == 2
    for data, split in (([first], "train"), ([first], "nowhere"), ([tmp_path / "none"], "test")):
        with pytest.raises(DataSetError):
            evaluate.read_data_sets(data, split)
