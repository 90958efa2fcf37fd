"""A library whose scores and comparisons are made up, and a meter of stages, for the benchmarks of the platform."""

from __future__ import annotations

import ctypes
import re
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from scipy.special import expit
from stub_listing import ETAG, KEY

from cpllm_dagster.assets.comparison_graph import ComparisonGraph
from cpllm_dagster.batch.supervisor import VideoItem, VideoResult
from cpllm_dagster.lake.schemas import SCHEMAS
from cpllm_dagster.lake.tables import video_id
from cpllm_model.answers import Description, Distortion, Rating, VisualTokens
from cpllm_model.scale import DISTORTIONS, SCENE_FACTS

NOW = datetime(2026, 1, 1, tzinfo=UTC)
PART_PAIRS = 2000


@dataclass(slots=True)
class Answer:
    """What the model says of a pair, made up."""

    probability_a_better: float
    order_gap: float = 0.01


class Stages:
    """Times stages, and takes the largest memory of each; `found` has seconds of CPU, of the clock, and GB.

    Memory is the process's own, looked at every few milliseconds; of mapped files the system may drop what it likes.
    """

    def __init__(self) -> None:
        self.found: dict[str, tuple[float, float, float]] = {}

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        pa.default_memory_pool().release_unused()
        ctypes.CDLL(None).malloc_trim(0)
        seen_gb, ended = [_own_memory_gb()], threading.Event()

        def watch() -> None:
            while not ended.wait(0.01):
                seen_gb.append(_own_memory_gb())

        watching = threading.Thread(target=watch)
        watching.start()
        started, cpu = time.perf_counter(), time.process_time()
        try:
            yield
            elapsed_s, cpu_s = time.perf_counter() - started, time.process_time() - cpu
        finally:
            ended.set()
            watching.join()
        peak_gb = max(*seen_gb, _own_memory_gb())
        self.found[name] = (cpu_s, elapsed_s, peak_gb)
        print(f"  {name:34s} {cpu_s:8.2f} s CPU {elapsed_s:8.2f} s {peak_gb:6.2f} GB", file=sys.stderr, flush=True)


def _own_memory_gb() -> float:
    """Give the resident memory of this process that no file stands behind."""
    return int(re.search(r"RssAnon:\s+(\d+)", Path("/proc/self/status").read_text())[1]) / 1e6  # pyright: ignore


def catalog_rows(count: int) -> pa.Table:
    """Give the catalogue of what the stub lists."""
    uris = [f"s3://bucket/{KEY % index}" for index in range(count)]
    return _table(
        "catalog",
        count,
        uri=pa.array(uris),
        video_id=pa.array([video_id(uri) for uri in uris]),
        etag=pa.array([ETAG % index for index in range(count)]),
        size_bytes=pa.array(np.full(count, 1000)),
        last_modified=pa.array([NOW] * count, SCHEMAS["catalog"].field("last_modified").type),
        probe_status=pa.array(["ok"] * count),
        duration_s=pa.array(np.full(count, 60.0)),
    )


def score_rows(catalog: pa.Table, value_N: np.ndarray, model_id: str) -> pa.Table:
    """Give scores whose order is that of the values."""
    count, levels = len(catalog), pa.FixedSizeListArray.from_arrays(pa.array(np.full(5 * len(catalog), 0.2)), 5)
    return _table(
        "scores",
        count,
        **{name: catalog[name] for name in ("video_id", "uri", "etag")},
        status=catalog["probe_status"],
        model_id=pa.array([model_id] * count),
        run_id=pa.array(["made-up"] * count),
        score=pa.array(1 + 4 * expit(value_N)),
        scored_at=catalog["last_modified"],
        level=pa.array(["fair"] * count),
        level_probabilities=levels.cast(pa.list_(pa.float64())),
    )


def token_rows(scores: pa.Table, token_bytes: int) -> Iterator[pa.Table]:
    """Give the features table of scored videos in pieces, in any order; tokens do not compress."""
    random = np.random.default_rng(0)
    for rows_P in np.array_split(random.permutation(len(scores)), -(-len(scores) // 4096)):
        content = random.bytes(len(rows_P) * token_bytes)
        yield _table(
            "features",
            len(rows_P),
            **{name: scores[name].take(rows_P) for name in ("video_id", "etag", "model_id")},
            segment_start_s=[[0.0]] * len(rows_P),
            tokens=[content[start : start + token_bytes] for start in range(0, len(content), token_bytes)],
            tokens_shape=[[1, 1, token_bytes // 2]] * len(rows_P),
        )


def results(items: Sequence[VideoItem], token_bytes: int) -> Iterator[VideoResult]:
    """Give answers for videos as they come from the workers: four segments, all distortions, a sentence or two."""
    random = np.random.default_rng(0)
    starts, ends = (0.0, 15.0, 30.0, 45.0), (15.0, 30.0, 45.0, 60.0)
    for item in items:
        scores = tuple((1 + 4 * random.random(4)).tolist())
        rating = Rating(
            score=sum(scores) / 4,
            score_std=0.4,
            level="fair",
            level_probabilities=(0.2,) * 5,
            segment_start_s=starts,
            segment_end_s=ends,
            segment_score=scores,
            score_worst=min(scores),
            worst_start_s=0.0,
            worst_end_s=15.0,
            scene={name: words[0] for name, words in SCENE_FACTS.items()},
        )
        severities = random.random(len(DISTORTIONS)).tolist()
        distortions = tuple(
            Distortion(name, severity, severity, severity > 0.8, ((0.0, 15.0),))
            for name, severity in zip(DISTORTIONS, severities, strict=True)
        )
        words = Description(f"The video is fair. Video {item.video_id} shows it in two segments.", distortions)
        tokens = VisualTokens(np.frombuffer(random.bytes(token_bytes), np.float16).reshape(1, 1, -1), np.zeros(1))
        yield VideoResult(item, None, rating, words, tokens, "keyframe", 0, 0.5, 0.5, 1)


def compare_all(graph: ComparisonGraph, truth_N: np.ndarray, random: np.random.Generator) -> None:
    """Go through all rounds; answers follow the true values of the videos in the order of their ids, and noise."""
    place = {video: row for row, video in enumerate(graph.video_ids)}
    for pairs in graph.rounds():
        for start in range(0, len(pairs), PART_PAIRS):
            part = pairs[start : start + PART_PAIRS]
            rows_P2 = np.array([(place[a], place[b]) for a, b in part])
            gap_P = truth_N[rows_P2[:, 0]] - truth_N[rows_P2[:, 1]] + random.normal(0, 0.5, len(part))
            answers: list[Any] = [
                (a, b, Answer(probability)) for (a, b), probability in zip(part, expit(gap_P).tolist(), strict=True)
            ]
            graph.add_answers(answers)


def _table(table_name: str, count: int, **columns: Any) -> pa.Table:
    schema = SCHEMAS[table_name]
    return pa.table([columns.get(name, pa.nulls(count, schema.field(name).type)) for name in schema.names], schema)
