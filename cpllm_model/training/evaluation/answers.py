"""Ask a model about every video of a data set and about pairs, and keep what it says as tables.

In: a predictor and labelled videos. Out: an answer, or the reason there is none, for each; compared pairs: a random
sample, those of close scores, and some videos with themselves; scores with another video's tokens put in; two Parquet
files. Judges nothing.

Shape legend: N videos.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from cpllm_model.errors import VideoError
from cpllm_model.predictor import Comparison, Description, QualityPredictor, Rating, ViewedVideo
from cpllm_model.training.data.manifests import LEAST_GAP, LabelledVideo

#: Pairs compared within contents, and as many across.
PAIRS = 500
#: Scores of one content that are no further apart are close: there a comparison has to earn its place.
CLOSE_SCORES = 0.3
#: Close pairs compared at most.
CLOSE_PAIRS = 2000
#: Videos whose tokens are swapped for another's, and videos compared with themselves.
SWAPS, SELF_PAIRS = 200, 50
PAIR_SEED = 0
REPORT_EVERY = 50
PREDICTIONS = pa.schema(
    [
        pa.field("dataset", pa.string(), nullable=False),
        pa.field("video_id", pa.string(), nullable=False),
        pa.field("content_id", pa.string(), nullable=False),
        ("ladder", pa.string()),
        ("ladder_rung", pa.int32()),
        ("subset", pa.string()),
        ("mos", pa.float64()),
        ("quality_left", pa.float64()),
        ("severities", pa.map_(pa.string(), pa.float64())),
        pa.field("status", pa.string(), nullable=False),
        ("score", pa.float64()),
        ("score_std", pa.float64()),
        ("level", pa.string()),
        ("level_probabilities", pa.list_(pa.float64())),
        ("scene", pa.map_(pa.string(), pa.string())),
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
        ("dataset", pa.string()), ("chosen", pa.string()), ("video_id_a", pa.string()), ("video_id_b", pa.string()),
        ("same_content", pa.bool_()), ("mos_a", pa.float64()), ("mos_b", pa.float64()),
        ("quality_left_a", pa.float64()), ("quality_left_b", pa.float64()),
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
    """Two labelled videos and what the model said of them."""

    a: Answer
    b: Answer
    comparison: Comparison

    @property
    def same_content(self) -> bool:
        """Tell whether both are versions of one content."""
        return self.a.video.content_id == self.b.video.content_id

    @property
    def rated(self) -> bool:
        """Tell whether both have a MOS."""
        return self.a.video.mos is not None and self.b.video.mos is not None


@dataclass(frozen=True)
class Swapped:
    """A video's score when the tokens of one stream are those of a video of another content.

    Args:
        own, other: whose tokens they are.
        with_other_context, with_other_pixels: scores; NaN where the model has no such stream.
    """

    own: Answer
    other: Answer
    with_other_context: float
    with_other_pixels: float


@dataclass(frozen=True)
class DataSetAnswers:
    """What a model said of a data set.

    Args:
        videos: as asked.
        outcomes: each one's answer, or why there is none.
        pairs: compared ones, a random sample.
        failed_pairs: chosen pairs that could not be compared, mostly because one of the two had failed.
        close: compared pairs of one content whose scores are close.
        own: videos compared with themselves.
        swaps: scores with another video's tokens.
    """

    videos: list[LabelledVideo]
    outcomes: list[Answer | VideoError]
    pairs: list[ComparedPair]
    failed_pairs: int
    close: list[ComparedPair] = field(default_factory=list)
    own: list[ComparedPair] = field(default_factory=list)
    swaps: list[Swapped] = field(default_factory=list)

    @property
    def answers(self) -> list[Answer]:
        """Give the answers there are."""
        return [one for one in self.outcomes if isinstance(one, Answer)]


def order_label(video: LabelledVideo) -> float | None:
    """Give what orders versions of one content: the MOS or, unrated, 1 + 4 x the share of quality left; None without.

    Labels of rated and of unrated videos are on different scales and are never mixed.
    """
    if video.mos is not None or video.quality_left is None:
        return video.mos
    return 1 + 4 * video.quality_left


def answer(predictor: QualityPredictor, videos: list[LabelledVideo], report: Callable[[str], None]) -> DataSetAnswers:
    """Ask a model about every video and about pairs.

    Args:
        predictor: the model.
        videos: of one data set.
        report: takes a line of progress.
    """
    chosen = choose_pairs(videos, PAIRS, PAIR_SEED)
    sample = np.random.default_rng(PAIR_SEED).permutation(len(videos))[:SWAPS].tolist()
    versions = Counter(video.content_id for video in videos)
    # Only the tokens of videos that may be asked about again are kept: those of a large model are large.
    kept = {index for pair in chosen for index in pair} | set(sample)
    kept |= {index for index, video in enumerate(videos) if versions[video.content_id] > 1}
    outcomes: list[Answer | VideoError] = []
    tokens: dict[int, ViewedVideo] = {}
    for index, (video, seen) in enumerate(zip(videos, predictor.look([v.file for v in videos]), strict=True)):
        outcomes.append(_ask(predictor, video, seen))
        if index in kept and isinstance(seen, ViewedVideo) and isinstance(outcomes[-1], Answer):
            tokens[index] = seen
        if (index + 1) % REPORT_EVERY == 0 or index + 1 == len(videos):
            report(f"{index + 1}/{len(videos)} videos")

    def compare(pairs: Sequence[tuple[int, int]]) -> list[ComparedPair]:
        compared = []
        for a, b in pairs:
            first, second = outcomes[a], outcomes[b]
            if isinstance(first, Answer) and isinstance(second, Answer):
                try:
                    said = predictor.compare_tokens([tokens[a].tokens], [tokens[b].tokens])[0]
                    compared.append(ComparedPair(first, second, said))
                except VideoError as error:
                    report(f"not compared: {error}")
        return compared

    answered = {index: one for index, one in enumerate(outcomes) if isinstance(one, Answer)}
    near = choose_close_pairs(videos, {i: one.rating.score for i, one in answered.items()}, CLOSE_PAIRS, PAIR_SEED)
    own = [(index, index) for index in sample if index in answered][:SELF_PAIRS]
    report(f"comparing {len(chosen)} pairs, {len(near)} of close scores, {len(own)} videos with themselves")
    pairs, close, with_itself = compare(chosen), compare(near), compare(own)
    failed = len(chosen) + len(near) + len(own) - len(pairs) - len(close) - len(with_itself)
    swaps = _swap(predictor, [(answered[index], tokens[index]) for index in sample if index in answered], report)
    return DataSetAnswers(videos, outcomes, pairs, failed, close, with_itself, swaps)


def choose_pairs(videos: Sequence[LabelledVideo], count: int, seed: int) -> list[tuple[int, int]]:
    """Draw pairs of videos with labels more than LEAST_GAP apart, uniformly, each pair once and in a random order.

    Args:
        videos: of one data set.
        count: at most so many within contents, and as many across, where both have a MOS.
        seed: decides the draw.

    Returns:
        indices of both videos.
    """
    rng = np.random.default_rng(seed)
    within = _ordered_versions(videos)
    # Nearly all pairs of a large set are across contents, so that enough of the drawn ones are left.
    across = np.unique(np.sort(rng.integers(0, len(videos), (20 * count, 2)), 1), axis=0)
    number_N = np.unique([video.content_id for video in videos], return_inverse=True)[1]
    across = across[number_N[across[:, 0]] != number_N[across[:, 1]]]
    # A MOS that is missing is NaN, and its gap is above nothing.
    mos_N = np.array([np.nan if video.mos is None else video.mos for video in videos])
    across = across[np.abs(mos_N[across[:, 0]] - mos_N[across[:, 1]]) > LEAST_GAP]
    chosen = [rng.permuted(rng.permutation(pairs)[:count], axis=1) for pairs in (within, across)]
    return [(int(a), int(b)) for a, b in np.concatenate(chosen)]


def choose_close_pairs(
    videos: Sequence[LabelledVideo], score: Mapping[int, float], count: int, seed: int
) -> list[tuple[int, int]]:
    """Draw pairs of one content whose scores are at most CLOSE_SCORES apart and whose labels more than LEAST_GAP.

    Args:
        videos: of one data set.
        score: index of a video -> its score; without those that have none.
        count: at most so many.
        seed: decides the draw.

    Returns:
        indices of both videos, in a random order.
    """
    rng = np.random.default_rng(seed)
    score_N = np.array([score.get(index, np.nan) for index in range(len(videos))])
    pairs = _ordered_versions(videos)
    close = pairs[np.abs(score_N[pairs[:, 0]] - score_N[pairs[:, 1]]) <= CLOSE_SCORES]
    return [(int(a), int(b)) for a, b in rng.permuted(rng.permutation(close)[:count], axis=1)]


def _ordered_versions(videos: Sequence[LabelledVideo]) -> np.ndarray:
    """Give all pairs (P, 2) of versions of one content, both rated or both not, labels more than LEAST_GAP apart."""
    versions = defaultdict(list)
    for index, video in enumerate(videos):
        if order_label(video) is not None:
            versions[video.content_id, video.mos is None].append(index)
    pairs = np.array([pair for group in versions.values() for pair in combinations(group, 2)], int).reshape(-1, 2)
    label_N = np.array([order_label(video) for video in videos], float)
    return pairs[np.abs(label_N[pairs[:, 0]] - label_N[pairs[:, 1]]) > LEAST_GAP]


def _swap(
    predictor: QualityPredictor, sample: Sequence[tuple[Answer, ViewedVideo]], report: Callable[[str], None]
) -> list[Swapped]:
    """Score each video with the context tokens, and with the pixel tokens, of the next one of another content."""
    layout = predictor.processor.layout
    swaps = []
    for place, (own, seen) in enumerate(sample):
        later = [*sample[place + 1 :], *sample[:place]]
        fitting = (
            (other, its)
            for other, its in later
            if other.video.content_id != own.video.content_id and its.tokens_NLD.shape == seen.tokens_NLD.shape
        )
        other, its = next(fitting, (None, None))
        if other is None or its is None:
            continue
        found = []
        try:
            # In a segment the context's slots come first.
            for slots, there in (
                (slice(0, layout.context), layout.context),
                (slice(layout.context, None), layout.pixel),
            ):
                mixed_NLD = seen.tokens_NLD.copy()
                mixed_NLD[:, slots] = its.tokens_NLD[:, slots]
                mixed = predictor.view([mixed_NLD], [seen.times])
                found.append(predictor.rate(mixed)[0].score if there else float("nan"))
            swaps.append(Swapped(own, other, *found))
        except VideoError as error:
            report(f"not swapped: {error}")
    return swaps


def _ask(predictor: QualityPredictor, video: LabelledVideo, seen: ViewedVideo | VideoError) -> Answer | VideoError:
    if isinstance(seen, VideoError):
        return seen
    try:
        return Answer(video, predictor.rate([seen])[0], predictor.describe_viewed([seen])[0])
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
            "chosen": chosen,
            "video_id_a": pair.a.video.video_id,
            "video_id_b": pair.b.video.video_id,
            "same_content": pair.same_content,
            "mos_a": pair.a.video.mos,
            "mos_b": pair.b.video.mos,
            "quality_left_a": pair.a.video.quality_left,
            "quality_left_b": pair.b.video.quality_left,
            **asdict(pair.comparison),
        }
        for name, one in found.items()
        for chosen, pairs_of in (("sample", one.pairs), ("close", one.close), ("itself", one.own))
        for pair in pairs_of
    ]
    pq.write_table(pa.Table.from_pylist(predictions, PREDICTIONS), out / "predictions.parquet", compression="zstd")
    pq.write_table(pa.Table.from_pylist(pairs, COMPARED), out / "pairs.parquet", compression="zstd")


def _prediction(video: LabelledVideo, outcome: Answer | VideoError) -> dict[str, Any]:
    plain = ("video_id", "content_id", "ladder", "ladder_rung", "subset", "mos", "quality_left")
    known = {name: getattr(video, name) for name in plain}
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
        "scene": list(rating.scene.items()),
        "description": description.text,
        "distortions": [asdict(one) for one in description.distortions],
    }
