"""The comparisons of a library's videos as a graph: which hold, which are still to be made, what strengths they give.

In: scores and comparisons as tables, answers of the model. Out: pairs for the next round, the table's rows, strengths.
Opens nothing, runs nothing; which pairs tell most and how strengths are fitted is ranking.py's matter.

Shapes: N scored videos in the order of their ids, P comparisons, 2 the two videos of a pair.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from cpllm_dagster.schemas import SCHEMAS
from cpllm_model.ranking import BradleyTerry, bradley_terry, next_pairs, round_count

if TYPE_CHECKING:
    from cpllm_model.predictor import Comparison, VisualTokens


class ComparisonGraph:
    """Comparisons between the scored videos of a library, all of one model and of the versions that are scored.

    Args:
        scores: rows of the scores table; failed videos are left out.
        model_id: the model that compares.
    """

    def __init__(self, scores: pa.Table, model_id: str) -> None:
        scored = scores.filter(pc.field("status") == "ok").sort_by("video_id")
        self.model_id = model_id
        self.video_ids: list[str] = scored["video_id"].to_pylist()
        self._videos = scored.select(["video_id", "etag"])
        self._row = {version: row for row, version in enumerate(_pairs_of(scored, "video_id", "etag"))}
        self._score_N = scored["score"].to_numpy()
        self._pairs_P2 = np.empty((0, 2), np.int64)
        self._probability_P = np.empty(0)
        self._order_gap_P = np.empty(0)
        self._settled_N = np.zeros(len(scored), bool)

    def __len__(self) -> int:
        return len(self.video_ids)

    def add_published(self, comparisons: pa.Table) -> None:
        """Take the published comparisons that hold; a video among them needs no further ones of its own."""
        self.add_table(comparisons)
        self._settled_N[self._pairs_P2.ravel()] = True

    def add_table(self, comparisons: pa.Table) -> None:
        """Take the comparisons that hold and are not there yet: of this model, of versions that are scored now."""
        comparisons = comparisons.filter(pc.field("model_id") == self.model_id)
        sides = (_pairs_of(comparisons, f"video_id_{side}", f"etag_{side}") for side in "ab")
        pairs_P2 = np.array([[self._row.get(version, -1) for version in side] for side in sides], np.int64).T
        known = np.isin(pairs_P2 @ [len(self), 1], self._pairs_P2 @ [len(self), 1])
        new_P = (pairs_P2 >= 0).all(axis=1) & ~known
        self._extend(
            pairs_P2[new_P],
            comparisons["probability_a_better"].to_numpy()[new_P],
            comparisons["order_gap"].to_numpy()[new_P],
        )

    def add_answers(self, answers: Sequence[tuple[str, str, Comparison]]) -> pa.Table:
        """Take answers of the model, each with the ids of its pair, and give their rows of the comparisons table."""
        before = len(self._pairs_P2)
        row = {video_id: index for index, video_id in enumerate(self.video_ids)}
        self._extend(
            np.array([(row[a], row[b]) for a, b, _ in answers], np.int64).reshape(-1, 2),
            np.array([answer.probability_a_better for *_, answer in answers], float),
            np.array([answer.order_gap for *_, answer in answers], float),
        )
        return self.table(before)

    def table(self, start: int = 0) -> pa.Table:
        """Give the rows of the comparisons table, from the one numbered `start` on."""
        sides = {side: self._videos.take(self._pairs_P2[start:, column]) for column, side in enumerate("ab")}
        columns = {f"{name}_{side}": sides[side][name] for side in sides for name in ("video_id", "etag")}
        columns["model_id"] = pa.array([self.model_id] * (len(self._pairs_P2) - start), pa.string())
        columns["probability_a_better"] = pa.array(self._probability_P[start:])
        columns["order_gap"] = pa.array(self._order_gap_P[start:])
        schema = SCHEMAS["comparisons"]
        return pa.table([columns[name] for name in schema.names], schema=schema)

    @property
    def unfinished(self) -> bool:
        """Whether there are comparisons to be made."""
        return len(self) > 1 and not (self._settled_N.all() and self._in_one_piece)

    def rounds(self) -> Iterator[list[tuple[str, str]]]:
        """Yield each round's pairs of video ids; the answers are to be added before the next round is asked for.

        Only pairs with a video that has no published comparison are made, so that a new video costs what one video
        costs. Where videos that were taken away left the rest in pieces, the first round joins all.
        """
        ids, in_one_piece, strengths = self.video_ids, self._in_one_piece, self.strengths()
        for round_index in range(round_count(len(self))):
            fitted_N = strengths.strength_N if len(self._pairs_P2) else None
            pairs_P2 = next_pairs(self._score_N, self._pairs_P2, fitted_N, round_index)
            if in_one_piece or round_index:
                pairs_P2 = pairs_P2[~self._settled_N[pairs_P2].all(axis=1)]
            yield [(ids[a], ids[b]) for a, b in pairs_P2]
            strengths = self.strengths(strengths.strength_N)

    def strengths(self, start_N: np.ndarray | None = None) -> BradleyTerry:
        """Fit strengths to the comparisons so far; `start_N` saves time."""
        return bradley_terry(len(self), self._pairs_P2, self._probability_P, start_N)

    @property
    def _in_one_piece(self) -> bool:
        """Whether published comparisons join all videos that have any."""
        return len(np.unique(self.strengths().component_N[self._settled_N])) <= 1

    def _extend(self, pairs_P2: np.ndarray, probability_P: np.ndarray, order_gap_P: np.ndarray) -> None:
        self._pairs_P2 = np.concatenate([self._pairs_P2, pairs_P2])
        self._probability_P = np.concatenate([self._probability_P, probability_P])
        self._order_gap_P = np.concatenate([self._order_gap_P, order_gap_P])


def _pairs_of(table: pa.Table, first: str, second: str) -> Iterator[tuple[str, str]]:
    return zip(table[first].to_pylist(), table[second].to_pylist(), strict=True)


class TokenTable(Mapping[str, "VisualTokens"]):
    """The visual tokens of a features table by video id, made as they are asked for."""

    def __init__(self, features: pa.Table) -> None:
        self._features = features.combine_chunks()
        self._row = {video_id: row for row, video_id in enumerate(features["video_id"].to_pylist())}

    def __getitem__(self, video_id: str) -> VisualTokens:
        from cpllm_model.predictor import VisualTokens  # imports torch

        row = self._row[video_id]
        data, shape, start_s = (self._features[name][row] for name in ("tokens", "tokens_shape", "segment_start_s"))
        tokens_NLD = np.frombuffer(data.as_buffer(), np.float16).reshape(shape.as_py())
        return VisualTokens(tokens_NLD, np.array(start_s.as_py()))

    def __iter__(self) -> Iterator[str]:
        return iter(self._row)

    def __len__(self) -> int:
        return len(self._row)
