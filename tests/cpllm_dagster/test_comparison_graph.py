"""Comparisons of a library over several nights: complete, kept, joined, and no more than are needed."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from cpllm_dagster.assets.comparison_graph import ComparisonGraph, TokenTable, frozen_shares
from cpllm_dagster.lake.rows import validate
from cpllm_dagster.lake.schemas import SCHEMAS
from cpllm_dagster.lake.tables import Lake
from cpllm_model.errors import LakeError
from cpllm_model.ranking import TOLD_APART

MODEL = "tiny-000000000000"


@dataclass
class Answer:
    """What the model says of a pair, made up."""

    probability_a_better: float
    order_gap: float = 0.0


def scores(versions: dict[str, str], score_std: float | None = None) -> pa.Table:
    """Scored videos; later names are better."""
    rows = [
        {"video_id": video, "uri": video, "etag": etag, "model_id": MODEL, "score": 1 + 4 * index / len(versions)}
        | {"score_std": score_std}
        | {"status": "ok", "scored_at": datetime(2026, 1, 1, tzinfo=UTC), "run_id": "r"}
        for index, (video, etag) in enumerate(sorted(versions.items()))
    ]
    return pa.Table.from_pylist(rows, SCHEMAS["scores"])


def names(count: int) -> dict[str, str]:
    """So many videos in their first version."""
    return {f"v{index:03d}": "1" for index in range(count)}


def better(a: str, b: str) -> float:
    """The probability that `a` is better: its number is higher, half a log-odds unit a step."""
    return 1 / (1 + math.exp((int(b[1:]) - int(a[1:])) / 2))


def rounds_answered(graph: ComparisonGraph) -> Iterator[list[tuple[str, str]]]:
    """Answer all rounds by the names' numbers; gives the pairs of each."""
    for pairs in graph.rounds():
        graph.add_answers([(a, b, Answer(better(a, b))) for a, b in pairs])  # pyright: ignore[reportArgumentType]
        yield pairs


def compare(graph: ComparisonGraph) -> int:
    """Answer all rounds; gives the number of comparisons made."""
    return sum(len(pairs) for pairs in rounds_answered(graph))


def graph_of(versions: dict[str, str], published: pa.Table | None = None) -> ComparisonGraph:
    """The graph at the beginning of a run."""
    graph = ComparisonGraph(scores(versions), MODEL)
    if published is not None:
        graph.add_published(published)
    return graph


def published(versions: dict[str, str]) -> pa.Table:
    """The comparisons that a first run publishes."""
    graph = graph_of(versions)
    compare(graph)
    return validate("comparisons", graph.table())


@pytest.mark.parametrize("count", [0, 1, 2, 3, 4, 17, 40])
def test_a_second_run_compares_nothing(count: int) -> None:
    table = published(names(count))
    assert len(table) <= count * np.log2(max(count, 2))
    again = graph_of(names(count), table)
    assert not again.unfinished
    assert validate("comparisons", again.table()).equals(table)


def test_the_order_is_found() -> None:
    graph = graph_of(names(30), published(names(30)))
    assert np.array_equal(np.argsort(graph.strengths().strength_N), np.arange(30))


def test_a_new_video_costs_what_one_video_costs() -> None:
    old, new = names(40), names(41)
    graph = graph_of(new, published(old))
    assert graph.unfinished
    made = compare(graph)
    assert 3 <= made <= 2 * np.log2(41)
    rows = graph.table(len(published(old))).to_pylist()
    assert all("v040" in (row["video_id_a"], row["video_id_b"]) for row in rows)


def test_a_changed_video_loses_its_comparisons_and_gets_new_ones() -> None:
    old = names(10)
    changed = old | {"v004": "2"}
    graph = graph_of(changed, published(old))
    assert all("v004" not in (row["video_id_a"], row["video_id_b"]) for row in graph.table().to_pylist())
    assert compare(graph) >= 1
    assert "2" in {row[f"etag_{side}"] for row in graph.table().to_pylist() for side in "ab"}


def test_what_removed_videos_held_together_is_joined_again() -> None:
    # A chain a - b - c of which b is taken away.
    chain = [
        {"video_id_a": a, "video_id_b": b, "etag_a": "1", "etag_b": "1", "model_id": MODEL}
        | {"probability_a_better": 0.1, "order_gap": 0.0}
        for a, b in [("a1", "a2"), ("a2", "b1"), ("b1", "c1"), ("c1", "c2")]
    ]
    table = pa.Table.from_pylist(chain, SCHEMAS["comparisons"])
    graph = graph_of(dict.fromkeys(("a1", "a2", "c1", "c2"), "1"), table)
    assert graph.unfinished
    compare(graph)
    assert not graph.strengths().component_N.any()
    assert not graph_of(dict.fromkeys(("a1", "a2", "c1", "c2"), "1"), graph.table()).unfinished


def test_comparisons_of_a_broken_run_are_not_made_again() -> None:
    graph = graph_of(names(20))
    first = next(graph.rounds())
    done = graph.add_answers([(a, b, Answer(0.5)) for a, b in first])  # pyright: ignore[reportArgumentType]
    resumed = graph_of(names(20))
    resumed.add_recovered(done)
    assert resumed.unfinished
    made = compare(resumed)
    assert made + len(done) == len(resumed.table())
    validate("comparisons", resumed.table())


def test_comparisons_of_another_model_do_not_hold() -> None:
    table = published(names(5))
    column = table.schema.get_field_index("model_id")
    other = table.set_column(
        column, table.schema.field(column), pa.array(["tiny-111111111111"] * len(table)).dictionary_encode()
    )
    assert len(graph_of(names(5), other).table()) == 0


def test_tokens_come_back_as_they_were(tmp_path: Path) -> None:
    """Those of the videos that were asked for."""
    tokens_NLD = np.arange(24, dtype=np.float16).reshape(2, 3, 4)
    row = {"etag": "1", "model_id": MODEL, "segment_start_s": [0.0, 2.5]}
    row |= {"tokens": tokens_NLD.tobytes(), "tokens_shape": [2, 3, 4]}
    lake = Lake(str(tmp_path))
    lake.write("features", "films", [row | {"video_id": name} for name in "abc"], run_id="r", model_id=MODEL)
    view = lake.view("features", "films")
    assert view is not None
    table = TokenTable(view, scores({"a": "1"}))
    table.fetch(["b"])
    table.fetch(["a", "b"])
    assert sorted(table) == ["a", "b"] and len(table) == 2
    assert np.array_equal(table["a"].tokens_NLD, tokens_NLD)
    assert table["a"].segment_start_s.tolist() == [0.0, 2.5]
    with pytest.raises(LakeError, match="no tokens of 1 videos"):
        table.fetch(["d", "a"])
    assert table["a"].frozen_share == 0.0


def test_the_model_is_asked_only_where_scores_do_not_tell() -> None:
    everything, std = len(published(names(40))), 0.25
    graph = ComparisonGraph(scores(names(40), std), MODEL)
    asked = [pair for pairs in rounds_answered(graph) for pair in pairs]
    table = validate("comparisons", graph.table())
    place = {name: 1 + 4 * index / 40 for index, name in enumerate(names(40))}
    for row in table.to_pylist():
        gap = place[row["video_id_a"]] - place[row["video_id_b"]]
        told = abs(gap) > TOLD_APART * std * 2**0.5
        assert told == ((row["video_id_a"], row["video_id_b"]) not in asked) == (row["order_gap"] is None)
        assert (row["probability_a_better"] > 0.5) == (gap > 0)
    assert 0 < len(asked) < len(table) and len(table) == pytest.approx(everything, rel=0.05)

    # A broken run asks for what it has no answer to, and the pairs are the same.
    parts = graph.table().filter(pc.field("order_gap").is_valid()).slice(0, 30)
    again = ComparisonGraph(scores(names(40), std), MODEL)
    again.add_recovered(parts)
    assert sum(len(pairs) for pairs in rounds_answered(again)) == len(asked) - 30
    assert sorted(map(str, again.table().to_pylist())) == sorted(map(str, graph.table().to_pylist()))

    # The next night asks nothing.
    nightly = ComparisonGraph(scores(names(40), std), MODEL)
    nightly.add_published(table)
    assert not nightly.unfinished and not nightly.changed


def event(kind: str, start_s: float, end_s: float) -> dict[str, float | str]:
    """A row of the column `events`."""
    return {"kind": kind, "start_s": start_s, "end_s": end_s, "share": 1.0}


def test_tokens_know_how_long_a_video_is_frozen(tmp_path: Path) -> None:
    events = {"a": [event("black", 0, 4), event("freeze", 4, 9), event("freeze", 8, 10)], "b": [event("black", 0, 4)]}
    rows = scores(names(3) | {"a": "1", "b": "1"}).to_pylist()
    for row in rows:
        row |= {"segment_start_s": [0.0, 10.0], "segment_end_s": [10.0, 20.0], "events": events.get(row["video_id"])}
    table = pa.Table.from_pylist(rows, SCHEMAS["scores"])
    assert frozen_shares(table) == {"a": 0.3}
    assert frozen_shares(pa.concat_tables([table.slice(0, 2), table.slice(2)])) == {"a": 0.3}

    feature = {"video_id": "a", "etag": "1", "model_id": MODEL, "segment_start_s": [0.0]}
    feature |= {"tokens": np.zeros((1, 3, 4), np.float16).tobytes(), "tokens_shape": [1, 3, 4]}
    lake = Lake(str(tmp_path))
    lake.write("features", "films", [feature], run_id="r", model_id=MODEL)
    view = lake.view("features", "films")
    assert view is not None
    tokens = TokenTable(view, table)
    tokens.fetch("a")
    assert tokens["a"].frozen_share == 0.3


def test_scores_of_a_version_without_events_know_of_no_freeze() -> None:
    assert frozen_shares(scores(names(2)).drop_columns(["events"])) == {}
    assert frozen_shares(scores(names(2))) == {} == frozen_shares(scores({}))
