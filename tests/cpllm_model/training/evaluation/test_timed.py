"""Tests in time: overlap, found and the bounds on made-up answers with known results, and one real run to the page."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from cpllm_model.decoding.samples import Event
from cpllm_model.errors import CorruptVideoError
from cpllm_model.metrics import Bootstrap
from cpllm_model.pooling import Stretch
from cpllm_model.predictor import Description, Distortion, Rating
from cpllm_model.scale import level_of
from cpllm_model.training.evaluation import evaluate, timed
from cpllm_model.training.evaluation.report import write_report
from cpllm_model.training.evaluation.stress import Said
from cpllm_model.training.evaluation.timed import TimedAnswer, measure, timed_figures, write_timed_table
from cpllm_model.training.evaluation.timed_clips import CLEAN, CLEAN_START, FROZEN, HALF, SLIDES, SWAPPED, Clip

QUICK = Bootstrap(resamples=40)


def said(
    segment_scores: Sequence[float | None] = (4.0, 4.0, 4.0, 4.0),
    score: float = 4.0,
    named: dict[str, Sequence[Stretch]] | None = None,
    events: Sequence[Event] = (),
) -> Said:
    """Give what was said of a video of 5 s a segment."""
    count = len(segment_scores)
    starts, ends = tuple(5.0 * index for index in range(count)), tuple(5.0 * index + 5 for index in range(count))
    rating = Rating(
        score, 0.5, level_of(score), (0.2,) * 5, starts, ends, tuple(segment_scores), score, 0.0, ends[-1], {}
    )
    distortions = [Distortion(name, 3.0, 0.9, True, tuple(there)) for name, there in (named or {}).items()]
    unnamed = Distortion("banding", 0.1, 0.1, False)
    return Said("v", rating, Description("", (*distortions, unnamed), tuple(events)))


@pytest.mark.parametrize(
    ("found", "is_met"),
    [
        ((4.0, 6.0), True),
        ((0.0, 60.0), True),
        ((9.5, 10.5), True),
        ((9.6, 10.6), False),
        ((0.0, 7.5), True),
        ((0.0, 7.4), False),
        ((10.0, 11.0), False),
        ((0.0, 5.0), False),
    ],
)
def test_half_of_the_shorter_stretch_must_be_shared(found: Stretch, is_met: bool) -> None:
    assert timed.meets(found, (5.0, 10.0)) is is_met
    assert timed.meets((5.0, 10.0), found) is is_met


def test_overlap_is_intersection_over_union() -> None:
    assert timed.overlap([(5.0, 10.0)], (5.0, 10.0)) == 1
    assert timed.overlap([(0.0, 10.0)], (5.0, 10.0)) == pytest.approx(0.5)
    assert timed.overlap([(4.0, 6.0), (9.0, 11.0)], (5.0, 10.0)) == pytest.approx(2 / 7)
    assert timed.overlap([(4.0, 6.0), (5.0, 6.0)], (5.0, 10.0)) == pytest.approx(1 / 6)
    assert timed.overlap([], (5.0, 10.0)) == timed.overlap([(0.0, 5.0)], (5.0, 10.0)) == 0


def test_low_segments_lie_under_the_median_of_those_with_a_picture() -> None:
    assert timed.low_segments(said([4.0, 3.71, 3.7, 4.0]).rating) == []
    assert timed.low_segments(said([4.0, 4.0, 3.7, 4.0]).rating) == [(10.0, 15.0)]
    assert timed.low_segments(said([None, 4.0, 4.0, 3.0]).rating) == [(15.0, 20.0)]
    assert timed.low_segments(said([None, None]).rating) == []


def test_a_bad_stretch_is_found_by_a_worse_segment_or_by_its_name() -> None:
    clip, clean = Clip("blur", (6.0, 8.0)), said()
    worse = measure(clip, said([4.0, 3.0, 4.0, 4.0], 3.8), clean, clean)
    assert (worse["found"], worse["found_on_clean"], worse["falls"], worse["in_time"]) == (1, 0, 1, 0)
    assert worse["overlap"] == pytest.approx(2 / 5) and worse["shift"] == pytest.approx(-0.2)
    assert (worse["start_off_s"], worse["end_off_s"]) == (1, 2) and "called_distorted" not in worse
    named = measure(clip, said(named={"blur": [(6.25, 8.5), (15.0, 20.0)]}), clean, clean)
    assert (named["found"], named["in_time"], named["falls"]) == (1, 1, 0)
    assert named["overlap"] == pytest.approx(1.75 / 2.5)
    for other in (said([4.0, 4.0, 3.0, 4.0]), said(named={"noise": [(6.0, 8.0)]}), said(named={"blur": [(8.0, 9.0)]})):
        missed = measure(clip, other, clean, clean)
        assert (missed["found"], missed["in_time"]) == (0, 0) and "overlap" not in missed
        assert missed["found_newly"] == 0
    suspected = measure(clip, clean, said([4.0, 3.0, 4.0, 4.0]), clean)
    assert suspected["found_on_clean"] == 1 and "found_newly" not in suspected and worse["found_newly"] == 1


def test_a_freeze_is_found_by_its_event_alone() -> None:
    clip, clean = Clip("freeze", (6.0, 8.0)), said()
    right = measure(clip, said(events=[Event("freeze", 6.5, 8.25), Event("black", 0, 1)]), clean, clean)
    assert (right["found"], right["in_time"], right["called_frozen"]) == (1, 1, 1)
    late = measure(clip, said(events=[Event("freeze", 6.75, 8.0)]), clean, clean)
    assert (late["found"], late["in_time"]) == (1, 0) and late["overlap"] == pytest.approx(1.25 / 2)
    other = measure(clip, said([4.0, 1.0, 4.0, 4.0], events=[Event("black", 6.0, 8.0)]), clean, clean)
    assert (other["found"], other["called_frozen"]) == (0, 0)
    assert measure(Clip("green", (6.0, 8.0)), said(events=[Event("flat", 6.0, 8.0)]), clean, clean)["found"] == 1


def test_what_is_no_picture_is_called_a_distortion_where_the_clean_video_is_not() -> None:
    clip, clean = Clip("black", (6.0, 8.0)), said(named={"noise": [(5.0, 10.0)]})
    exposed = said(named={"noise": [(5.0, 10.0)], "exposure": [(5.0, 10.0)]})
    assert measure(clip, exposed, clean, clean)["called_distorted"] == 1
    assert measure(clip, clean, clean, clean)["called_distorted"] == 0
    beside = said(named={"exposure": [(0.0, 6.5)]})
    assert measure(clip, beside, clean, clean)["called_distorted"] == 0


def answers(video: str, blur: Said, freeze: Said) -> list[TimedAnswer]:
    """Give a video's answers, of which two differ."""
    still = [Event("freeze", 1.0, 19.0)]
    return [
        TimedAnswer(video, Clip(CLEAN), said()),
        TimedAnswer(video, Clip("blur", (5.0, 10.0)), blur),
        TimedAnswer(video, Clip("freeze", (6.0, 8.0)), freeze),
        TimedAnswer(video, Clip("black", (6.0, 8.0)), said(score=4.1, events=[Event("black", 6.0, 8.0)])),
        TimedAnswer(video, Clip(CLEAN_START), said()),
        TimedAnswer(video, Clip(FROZEN, (1.0, 19.0), CLEAN_START), said(score=2.0, events=still)),
        TimedAnswer(video, Clip(HALF, (0.0, 10.0)), said(score=3.5)),
        TimedAnswer(video, Clip(SWAPPED, (10.0, 20.0), HALF), said(score=3.55)),
        TimedAnswer(video, Clip(SLIDES), said(events=[Event("freeze", 3.0, 4.0)] if video == "a" else [])),
    ]


def test_bounds_and_figures_by_kind_and_length(tmp_path: Path) -> None:
    found = answers("a", said([4.0, 3.0, 4.0, 4.0], 3.7), said(score=3.9, events=[Event("freeze", 6.0, 8.0)]))
    found += answers("b", said(), said())
    found += [
        TimedAnswer("b", Clip("noise", (6.0, 8.0)), CorruptVideoError("d", "broken <b>")),
        TimedAnswer("c", Clip("blur", (5.0, 10.0)), said([4.0, 3.0, 4.0, 4.0], 3.7)),  # its clean video has no answer
        TimedAnswer("c", Clip(CLEAN), CorruptVideoError("e", "broken")),
    ]
    figures = timed_figures(found, QUICK)
    assert (figures["videos"], figures["clips"], figures["failed"]) == (3, 21, {"corrupt_video": 2})
    rows = {(row["kind"], row["length_s"]): row for row in figures["stretches"]}
    assert rows["blur", 5.0]["clips"] == rows["all bad", 5.0]["clips"] == 2 and ("noise", 2.0) not in rows
    assert rows["blur", 5.0]["found"] == 0.5 and rows["blur", 5.0]["overlap"] == 1
    assert rows["blur", 5.0]["shift"] == pytest.approx(-0.15) and rows[HALF, 10.0]["shift"] == -0.5
    checks = {check["figure"]: check for check in figures["checks"]}
    values = {words: check["value"].value for words, check in checks.items()}
    held = {words: check["holds"] for words, check in checks.items()}
    assert values["bad stretches of 5 s or more found"] == 0.5 and not held["bad stretches of 5 s or more found"]
    assert "bad stretches of 2 s found" not in checks
    assert values["freezes of 2 s or more found, both ends within 0.5 s"] == 0.5
    assert held["all but a second at both ends frozen: found, both ends within 0.5 s"]
    assert held["all but a second at both ends frozen: score falls"]
    assert values["clean videos and slide shows called frozen"] == 0.25
    assert not held["clean videos and slide shows called frozen"]
    assert values["score shift when the halves are swapped (MOS)"] == pytest.approx(0.05)
    assert held["score shift when the halves are swapped (MOS)"]
    assert held["black, green, bars and credits called a distortion"]
    assert values["score shift with black, green, bars or credits (MOS)"] == pytest.approx(0.1)

    write_timed_table(found, tmp_path / "timed.parquet")
    table = pq.read_table(tmp_path / "timed.parquet").to_pylist()
    assert len(table) == 21 and [row["status"] for row in table].count("failed") == 2
    assert table[1]["found"] == 1 and table[2]["events"] == ["freeze 6.00-8.00"] and table[-2]["found"] is None
    result = {"model_id": "m", "split": "test", "data_sets": {}, "timed": figures}
    result["bootstrap"] = {"confidence": 0.95, "resamples": 40}
    written = write_report(result, {}, tmp_path)
    assert json.loads((tmp_path / "evaluation.json").read_text())["timed"] == written["timed"]
    page = (tmp_path / "index.html").read_text()
    holding = sum(held.values())
    assert f"{holding} of {len(held)} bounds hold" in page and "failed: 2 corrupt_video" in page
    assert "tests in time" in page and "first half blurred" in page and "does not hold" in page


@pytest.mark.slow
def test_a_run_goes_from_sources_to_the_page(tmp_path: Path) -> None:
    settings = timed.TimedSettings(1, (), 10.0, (2.0,), ("compression", "freeze"))
    result = evaluate.evaluate("tiny", [], tmp_path / "out", report=lambda line: None, bootstrap=QUICK, timed=settings)
    assert (result["timed"]["videos"], result["timed"]["clips"], result["timed"]["failed"]) == (1, 8, {})
    table = pq.read_table(tmp_path / "out" / "timed.parquet").to_pylist()
    assert [row["kind"] for row in table] == [
        CLEAN, "compression", "freeze", CLEAN_START, FROZEN, HALF, SWAPPED, SLIDES
    ]  # fmt: skip
    assert all(1 <= row["score"] <= 5 for row in table)
    assert "Tests in time" in (tmp_path / "out" / "index.html").read_text()
