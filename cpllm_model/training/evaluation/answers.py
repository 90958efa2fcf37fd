"""Ask a model about every video of a data set and about a sample of pairs, and keep what it says as tables.

In: a predictor and labelled videos. Out: an answer, or the reason there is none, for each; compared pairs; two Parquet
files. Judges nothing.

Shape legend: N videos.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from cpllm_model.errors import VideoError
from cpllm_model.predictor import Comparison, Description, QualityPredictor, Rating, VisualTokens
from cpllm_model.training.data.manifests import LabelledVideo

#: Labels that differ by no more are not asked to be told apart, MOS units.
LEAST_GAP = 0.05
#: Pairs compared within contents, and as many across.
PAIRS = 500
PAIR_SEED = 0
REPORT_EVERY = 50
PREDICTIONS = pa.schema(
    [
        pa.field("dataset", pa.string(), nullable=False),
        pa.field("video_id", pa.string(), nullable=False),
        pa.field("content_id", pa.string(), nullable=False),
        ("ladder", pa.string()),
        ("ladder_rung", pa.int32()),
        ("mos", pa.float64()),
        ("severities", pa.map_(pa.string(), pa.float64())),
        pa.field("status", pa.string(), nullable=False),
        ("score", pa.float64()),
        ("score_std", pa.float64()),
        ("level", pa.string()),
        ("level_probabilities", pa.list_(pa.float64())),
        ("description", pa.string()),
        ("distortions", pa.list_(pa.struct(
            [("name", pa.string()), ("severity", pa.float64()), ("probability", pa.float64()), ("named", pa.bool_())]
        ))),
        ("error_type", pa.string()),
        ("error_message", pa.string()),
    ]
)  # fmt: skip
COMPARED = pa.schema(
    [
        ("dataset", pa.string()), ("video_id_a", pa.string()), ("video_id_b", pa.string()),
        ("same_content", pa.bool_()), ("mos_a", pa.float64()), ("mos_b", pa.float64()),
        ("probability_a_better", pa.float64()), ("order_gap", pa.float64()), ("first_bias", pa.float64()),
    ]
)  # fmt: skip


@dataclass(frozen=True)
class Answer:
    """A labelled video and what the model said of it."""

    video: LabelledVideo
    rating: Rating
    description: Description


@dataclass(frozen=True)
class ComparedPair:
    """Two rated videos and what the model said of them."""

    a: Answer
    b: Answer
    comparison: Comparison

    @property
    def same_content(self) -> bool:
        """Tell whether both are versions of one content."""
        return self.a.video.content_id == self.b.video.content_id


@dataclass(frozen=True)
class DataSetAnswers:
    """What a model said of a data set.

    Args:
        videos: as asked.
        outcomes: each one's answer, or why there is none.
        pairs: compared ones.
        failed_pairs: chosen pairs that could not be compared, mostly because one of the two had failed.
    """

    videos: list[LabelledVideo]
    outcomes: list[Answer | VideoError]
    pairs: list[ComparedPair]
    failed_pairs: int

    @property
    def answers(self) -> list[Answer]:
        """Give the answers there are."""
        return [one for one in self.outcomes if isinstance(one, Answer)]


def answer(predictor: QualityPredictor, videos: list[LabelledVideo], report: Callable[[str], None]) -> DataSetAnswers:
    """Ask a model about every video and about a sample of pairs.

    Args:
        predictor: the model.
        videos: of one data set.
        report: takes a line of progress.
    """
    chosen = choose_pairs(videos, PAIRS, PAIR_SEED)
    # Only the tokens of videos that will be compared are kept: those of a large model are large.
    compared = {index for pair in chosen for index in pair}
    outcomes: list[Answer | VideoError] = []
    tokens: dict[int, VisualTokens] = {}
    for index, (video, seen) in enumerate(zip(videos, predictor.look([v.file for v in videos]), strict=True)):
        outcomes.append(_ask(predictor, video, seen))
        if index in compared and isinstance(seen, VisualTokens) and isinstance(outcomes[-1], Answer):
            tokens[index] = seen
        if (index + 1) % REPORT_EVERY == 0 or index + 1 == len(videos):
            report(f"{index + 1}/{len(videos)} videos")
    report(f"comparing {len(chosen)} pairs")
    pairs = []
    for a, b in chosen:
        first, second = outcomes[a], outcomes[b]
        if isinstance(first, Answer) and isinstance(second, Answer):
            try:
                pairs.append(ComparedPair(first, second, predictor.compare_tokens([tokens[a]], [tokens[b]])[0]))
            except VideoError as error:
                report(f"not compared: {error}")
    return DataSetAnswers(videos, outcomes, pairs, len(chosen) - len(pairs))


def choose_pairs(videos: Sequence[LabelledVideo], count: int, seed: int) -> list[tuple[int, int]]:
    """Draw pairs of videos with labels more than LEAST_GAP apart, uniformly, each pair once and in a random order.

    Args:
        videos: of one data set.
        count: at most so many within contents, and as many across.
        seed: decides the draw.

    Returns:
        indices of both videos.
    """
    rng = np.random.default_rng(seed)
    mos_N = np.array([np.nan if video.mos is None else video.mos for video in videos])
    versions = defaultdict(list)
    for index, video in enumerate(videos):
        versions[video.content_id].append(index)
    within = np.array([pair for group in versions.values() for pair in combinations(group, 2)], int).reshape(-1, 2)
    # Nearly all pairs of a large set are across contents, so that enough of the drawn ones are left.
    across = np.unique(np.sort(rng.integers(0, len(videos), (20 * count, 2)), 1), axis=0)
    number_N = np.unique([video.content_id for video in videos], return_inverse=True)[1]
    across = across[number_N[across[:, 0]] != number_N[across[:, 1]]]
    chosen = []
    for pairs in (within, across):
        # A label that is missing is NaN, and its gap is above nothing.
        apart = pairs[np.abs(mos_N[pairs[:, 0]] - mos_N[pairs[:, 1]]) > LEAST_GAP]
        chosen.append(rng.permuted(rng.permutation(apart)[:count], axis=1))
    return [(int(a), int(b)) for a, b in np.concatenate(chosen)]


def _ask(predictor: QualityPredictor, video: LabelledVideo, seen: VisualTokens | VideoError) -> Answer | VideoError:
    if isinstance(seen, VideoError):
        return seen
    try:
        return Answer(video, predictor.rate([seen])[0], predictor.describe_tokens([seen])[0])
    except VideoError as error:
        return error


def write_tables(found: Mapping[str, DataSetAnswers], out: Path) -> None:
    """Write `predictions.parquet`, every video, and `pairs.parquet`, the compared pairs, of all data sets."""
    predictions = [
        {"dataset": name, **_prediction(video, outcome)}
        for name, one in found.items()
        for video, outcome in zip(one.videos, one.outcomes, strict=True)
    ]
    pairs = [
        {
            "dataset": name,
            "video_id_a": pair.a.video.video_id,
            "video_id_b": pair.b.video.video_id,
            "same_content": pair.same_content,
            "mos_a": pair.a.video.mos,
            "mos_b": pair.b.video.mos,
            **asdict(pair.comparison),
        }
        for name, one in found.items()
        for pair in one.pairs
    ]
    pq.write_table(pa.Table.from_pylist(predictions, PREDICTIONS), out / "predictions.parquet", compression="zstd")
    pq.write_table(pa.Table.from_pylist(pairs, COMPARED), out / "pairs.parquet", compression="zstd")


def _prediction(video: LabelledVideo, outcome: Answer | VideoError) -> dict[str, Any]:
    known = {name: getattr(video, name) for name in ("video_id", "content_id", "ladder", "ladder_rung", "mos")}
    known["severities"] = None if video.severities is None else list(video.severities.items())
    if isinstance(outcome, VideoError):
        return known | {"status": "failed", "error_type": outcome.error_type, "error_message": outcome.cause}
    rating, description = outcome.rating, outcome.description
    return known | {
        "status": "ok",
        "score": rating.score,
        "score_std": rating.score_std,
        "level": rating.level,
        "level_probabilities": rating.level_probabilities,
        "description": description.text,
        "distortions": [asdict(one) for one in description.distortions],
    }
