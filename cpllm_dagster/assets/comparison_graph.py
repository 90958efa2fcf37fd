"""The comparisons of a library's videos as a graph: which hold, which are still to be made, what strengths they give.

In: scores and comparisons as tables, answers of the model. Out: pairs for the next round, the table's rows, strengths.
Opens nothing, runs nothing; which pairs tell most and how strengths are fitted is ranking.py's matter.

Shapes: N scored videos in the order of their ids, P comparisons, 2 the two videos of a pair.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from cpllm_dagster.lake.append_only import RowView
from cpllm_dagster.lake.rows import places
from cpllm_dagster.lake.schemas import SCHEMAS
from cpllm_model.errors import LakeError
from cpllm_model.pooling import frozen_share
from cpllm_model.ranking import (
    PRECISION,
    BradleyTerry,
    bradley_terry,
    components,
    next_pairs,
    pair_codes,
    refits,
    round_count,
    told_by_scores,
)

if TYPE_CHECKING:
    from cpllm_model.predictor import Comparison, VisualTokens

#: Strengths that choose pairs are fitted so closely, in log-odds: their order alone counts, and is shifted at random.
PRECISION_OF_A_ROUND = 1e-3


class Outcomes(NamedTuple):
    """Compared pairs: the rows of their videos, int32, and what came of each, float64.

    The gap is NaN where the scores told the videos apart and the model was not asked.
    """

    pairs_P2: np.ndarray
    probability_P: np.ndarray
    order_gap_P: np.ndarray

    def take(self, chosen_P: np.ndarray | slice) -> Outcomes:
        """Give some of them."""
        return Outcomes(*(column[chosen_P] for column in self))


NO_OUTCOMES = Outcomes(np.empty((0, 2), np.int32), np.empty(0), np.empty(0))


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
        self._score_N, self._std_N = (scored[name].to_numpy() for name in ("score", "score_std"))
        self._blocks = [NO_OUTCOMES]
        self._recovered = NO_OUTCOMES
        self._settled_N = np.zeros(len(scored), bool)
        #: Published comparisons, and how many of them hold.
        self._published = self._kept = 0

    def __len__(self) -> int:
        return len(self.video_ids)

    def add_published(self, comparisons: pa.Table) -> None:
        """Take the published comparisons that hold; a video among them needs no further ones of its own."""
        self._blocks.append(self._outcomes(comparisons))
        self._published, self._kept = len(comparisons), len(self._made.pairs_P2)
        self._settled_N[self._made.pairs_P2.ravel()] = True

    def add_recovered(self, comparisons: pa.Table) -> None:
        """Take the answers of a broken run that hold and are not published; `rounds` makes use of them."""
        found = self._outcomes(comparisons)
        self._recovered = found.take(~np.isin(self._codes(found.pairs_P2), self._codes(self._made.pairs_P2)))

    def add_answers(self, answers: Sequence[tuple[str, str, Comparison]]) -> pa.Table:
        """Take answers of the model, each with the ids of its pair, and give their rows of the comparisons table."""
        found = Outcomes(
            np.array([(self._row[a], self._row[b]) for a, b, _ in answers], np.int32).reshape(-1, 2),
            np.array([answer.probability_a_better for *_, answer in answers], float),
            np.array([answer.order_gap for *_, answer in answers], float),
        )
        self._blocks.append(found)
        return self._rows_of(found)

    def table(self, start: int = 0) -> pa.Table:
        """Give the rows of the comparisons table, from the one numbered `start` on."""
        return self._rows_of(self._made.take(slice(start, None)))

    @property
    def changed(self) -> bool:
        """Whether the comparisons are others than those published: some no longer hold, or more were made."""
        return not self._published == self._kept == len(self._made.pairs_P2)

    @property
    def unfinished(self) -> bool:
        """Whether there are comparisons to be made."""
        return len(self) > 1 and not (self._settled_N.all() and self._in_one_piece)

    def rounds(self) -> Iterator[list[tuple[str, str]]]:
        """Yield each round's pairs of video ids; the answers are to be added before the next round is asked for.

        Pairs whose scores differ by more than their uncertainty explains are answered by the scores and not yielded.
        Only pairs with a video that has no published comparison are made, so that a new video costs what one video
        costs. Where videos that were taken away left the rest in pieces, the first round joins all.

        A broken run's rounds are gone through again with its answers, so that the pairs are those of a run that did not
        break. If the library has changed since, its answers are taken in as they are.
        """
        ids, in_one_piece, strength_N = self.video_ids, self._in_one_piece, None

        def wanted() -> np.ndarray:
            pairs_P2 = next_pairs(self._score_N, self._made.pairs_P2, strength_N, round_index)
            join = not (in_one_piece or round_index)
            return pairs_P2 if join else pairs_P2[~self._settled_N[pairs_P2].all(axis=1)]

        for round_index in range(round_count(len(self))):
            if refits(round_index) and len(self._made.pairs_P2):
                strength_N = self._fit(strength_N, PRECISION_OF_A_ROUND).strength_N
            pairs_P2 = self._to_ask(wanted())
            answered_P = self._recover(pairs_P2)
            if not round_index and not answered_P.all() and len(self._recovered.pairs_P2):
                self._recover(self._recovered.pairs_P2)
                pairs_P2 = self._to_ask(wanted())
                answered_P = np.zeros(len(pairs_P2), bool)
            yield [(ids[a], ids[b]) for a, b in pairs_P2[~answered_P].tolist()]

    def strengths(self) -> BradleyTerry:
        """Fit strengths to the comparisons so far."""
        return self._fit(None, PRECISION)

    def _to_ask(self, pairs_P2: np.ndarray) -> np.ndarray:
        """Answer the pairs that the scores tell apart; give the others."""
        probability_P = told_by_scores(self._score_N, self._std_N, pairs_P2)
        is_told_P = ~np.isnan(probability_P)
        if is_told_P.any():
            gap_P = np.full(int(is_told_P.sum()), np.nan)
            self._blocks.append(Outcomes(pairs_P2[is_told_P].astype(np.int32), probability_P[is_told_P], gap_P))
        return pairs_P2[~is_told_P]

    def _recover(self, pairs_P2: np.ndarray) -> np.ndarray:
        """Take the recovered answers on these pairs, and tell which have one."""
        wanted, recovered = self._codes(pairs_P2), self._codes(self._recovered.pairs_P2)
        taken = np.isin(recovered, wanted)
        if taken.any():
            self._blocks.append(self._recovered.take(taken))
            self._recovered = self._recovered.take(~taken)
        return np.isin(wanted, recovered)

    def _fit(self, start_N: np.ndarray | None, precision: float) -> BradleyTerry:
        return bradley_terry(len(self), self._made.pairs_P2, self._made.probability_P, start_N, precision)

    @property
    def _made(self) -> Outcomes:
        """All comparisons that are made."""
        if len(self._blocks) > 1:
            self._blocks = [Outcomes(*map(np.concatenate, zip(*self._blocks, strict=True)))]
        return self._blocks[0]

    @cached_property
    def _row(self) -> dict[str, int]:
        return {video_id: row for row, video_id in enumerate(self.video_ids)}

    @property
    def _in_one_piece(self) -> bool:
        """Whether published comparisons join all videos that have any."""
        return len(np.unique(components(len(self), self._made.pairs_P2)[self._settled_N])) <= 1

    def _codes(self, pairs_P2: np.ndarray) -> np.ndarray:
        return pair_codes(len(self), *pairs_P2.T)

    def _outcomes(self, comparisons: pa.Table) -> Outcomes:
        """Give the comparisons that are of this model, and of versions that are scored now."""
        # By a mask: an expression gives many small chunks, each with the dictionaries of all names.
        comparisons = comparisons.filter(places(comparisons["model_id"], pa.array([self.model_id])) == 0)
        etags = self._videos["etag"].unique()
        etag_N = places(self._videos["etag"], etags)
        row_2P = np.stack([places(comparisons[f"video_id_{side}"], self._videos["video_id"]) for side in "ab"])
        etag_2P = np.stack([places(comparisons[f"etag_{side}"], etags) for side in "ab"])
        holds_P = np.array((row_2P >= 0).all(axis=0))
        holds_P[holds_P] = (etag_N[row_2P[:, holds_P]] == etag_2P[:, holds_P]).all(axis=0)
        columns = (comparisons[name].to_numpy() for name in ("probability_a_better", "order_gap"))
        return Outcomes(np.ascontiguousarray(row_2P.T), *columns).take(holds_P)

    def _rows_of(self, outcomes: Outcomes) -> pa.Table:
        """Give rows of the comparisons table."""
        columns = {
            f"{name}_{side}": pa.DictionaryArray.from_arrays(pa.array(row_P), values)
            for name, values in self._values.items()
            for side, row_P in zip("ab", outcomes.pairs_P2.T, strict=True)
        }
        here_P = pa.array(np.zeros(len(outcomes.pairs_P2), np.int32))
        columns["model_id"] = pa.DictionaryArray.from_arrays(here_P, pa.array([self.model_id]))
        columns["probability_a_better"] = pa.array(outcomes.probability_P)
        columns["order_gap"] = pa.array(outcomes.order_gap_P, from_pandas=True)  # NaN is null
        schema = SCHEMAS["comparisons"]
        return pa.table([columns[name] for name in schema.names], schema=schema)

    @cached_property
    def _values(self) -> dict[str, pa.Array]:
        """Ids and ETags of the videos, in one array each."""
        found = self._videos.combine_chunks()
        return {
            name: pa.concat_arrays(found[name].chunks or [pa.array([], pa.string())]) for name in found.column_names
        }


class TokenTable(Mapping[str, "VisualTokens"]):
    """Visual tokens by video id: fetched to the local disk for the videos of a round, and made as they are asked for.

    Args:
        features: the table `features` as it is published.
        scores: rows of the scores table, which know the events of each video.
    """

    def __init__(self, features: RowView, scores: pa.Table) -> None:
        self._features = features
        self._frozen_shares = frozen_shares(scores)
        self._place: dict[str, tuple[pa.RecordBatch, int]] = {}

    def fetch(self, video_ids: Iterable[str]) -> None:
        """Have the tokens of these videos at hand, beside those that were fetched before.

        Raises:
            LakeError: the table has no tokens of a video.
        """
        wanted = [video_id for video_id in video_ids if video_id not in self._place]
        if not wanted:
            return
        row_N = places(pa.array(wanted), self._features.versions["video_id"])
        if (row_N < 0).any():
            raise LakeError(f"the table features has no tokens of {(row_N < 0).sum()} videos that have a score")
        for batch in self._features.rows(row_N).to_batches():
            for row, video_id in enumerate(batch["video_id"].to_pylist()):
                self._place[video_id] = (batch, row)

    def __getitem__(self, video_id: str) -> VisualTokens:
        from cpllm_model.predictor import VisualTokens  # imports torch

        batch, row = self._place[video_id]
        data, shape, start_s = (batch[name][row] for name in ("tokens", "tokens_shape", "segment_start_s"))
        tokens_NLD = np.frombuffer(data.as_buffer(), np.float16).reshape(shape.as_py())
        return VisualTokens(tokens_NLD, np.array(start_s.as_py()), self._frozen_shares.get(video_id, 0.0))

    def __iter__(self) -> Iterator[str]:
        return iter(self._place)

    def __len__(self) -> int:
        return len(self._place)


def frozen_shares(scores: pa.Table) -> dict[str, float]:
    """Give the share of the time during which it is frozen of each video that ever is.

    Args:
        scores: rows of the scores table; those of versions without events know of no freeze.
    """
    if "events" not in scores.column_names:
        return {}
    events = scores["events"].combine_chunks()
    is_freeze = events.flatten().field("kind").to_numpy(zero_copy_only=False) == "freeze"
    frozen = scores.take(np.unique(events.value_parent_indices().to_numpy()[is_freeze]))
    return {
        row["video_id"]: frozen_share(
            [(event["start_s"], event["end_s"]) for event in row["events"] if event["kind"] == "freeze"],
            row["segment_end_s"][-1],
        )
        for row in frozen.select(["video_id", "events", "segment_end_s"]).to_pylist()
    }
