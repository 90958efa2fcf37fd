"""Print what a night costs on a library of 10,000 videos of which none has changed, by stage, in time and peak memory.

Scores and comparisons are made up, and the listing comes from a stub that speaks S3; all else is what a run does. First
each stage by itself, then the whole run in Dagster; each in a process of its own. Run: python benchmarks/night.py
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pyarrow as pa
from made_up_library import Stages, catalog_rows, compare_all, score_rows
from stub_listing import LIBRARY, stub_listing

from cpllm_dagster.assets.catalog import split_listing
from cpllm_dagster.assets.comparison_graph import ComparisonGraph
from cpllm_dagster.assets.incremental import COMPANIONS, plan_quality
from cpllm_dagster.assets.rankings import ranking_rows
from cpllm_dagster.catalog.objects import VideoStore
from cpllm_dagster.definitions import Settings, build_definitions
from cpllm_dagster.lake.rows import validate
from cpllm_dagster.lake.schemas import SCHEMAS
from cpllm_dagster.lake.tables import Lake
from cpllm_dagster.local_runs import run_library
from cpllm_model.network import checkpoint

MODEL_ID = checkpoint.model_id("tiny")
#: Of the visual tokens that tiny keeps of a minute.
TOKENS_SHAPE = (4, 12, 160)


def main() -> None:
    """Make up a library, and measure its night."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--videos", type=int, default=10_000)
    parser.add_argument("--measure", nargs=3, metavar=("WHAT", "LAKE", "ENDPOINT"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        what, lake_uri, endpoint_url = arguments.measure
        print(json.dumps({"stages": stages, "run": run}[what](lake_uri, endpoint_url)))
        return
    os.environ |= {"AWS_ACCESS_KEY_ID": "stub", "AWS_SECRET_ACCESS_KEY": "stub", "AWS_DEFAULT_REGION": "us-east-1"}
    with tempfile.TemporaryDirectory() as folder, stub_listing(arguments.videos) as endpoint_url:
        make_up(Lake(folder), arguments.videos)
        before = {path: path.stat().st_mtime_ns for path in Path(folder).rglob("*.parquet")}
        print("| stage | CPU | clock | peak memory |\n| --- | --- | --- | --- |")
        for what in ("stages", "run"):
            command = [sys.executable, __file__, "--measure", what, folder, endpoint_url]
            found = json.loads(subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout)
            for stage, (cpu_s, elapsed_s, peak_gb) in found.items():
                print(f"| {stage} | {cpu_s:.2f} s | {elapsed_s:.2f} s | {peak_gb:.2f} GB |")
        assert {path: path.stat().st_mtime_ns for path in Path(folder).rglob("*.parquet")} == before, (
            "tables were written"
        )


def make_up(lake: Lake, count: int) -> None:
    """Publish the tables that the night before has left."""
    random = np.random.default_rng(0)
    truth_N = random.normal(0, 1.5, count)
    catalog = catalog_rows(count).sort_by("video_id")
    scores = score_rows(catalog, truth_N + random.normal(0, 0.7, count), MODEL_ID)
    graph = ComparisonGraph(scores, MODEL_ID)
    compare_all(graph, truth_N, random)
    key = {name: scores[name] for name in ("video_id", "etag", "model_id")}
    tokens = [one.tobytes() for one in random.normal(size=(count, *TOKENS_SHAPE)).astype(np.float16)]
    starts = pa.array([[0.0, 15.0, 30.0, 45.0]] * count)
    shape = pa.array([list(TOKENS_SHAPE)] * count, pa.list_(pa.int32()))
    features = key | {"segment_start_s": starts, "tokens": pa.array(tokens, pa.large_binary()), "tokens_shape": shape}
    words = pa.array(["The video looks fair: slight compression artefacts."] * count)
    descriptions = key | {
        "description": words,
        "distortions": pa.array([[]] * count, SCHEMAS["descriptions"].field("distortions").type),
    }
    tables = {
        "catalog": catalog,
        "scores": scores,
        "descriptions": pa.table(descriptions),
        "features": pa.table(features),
        "comparisons": graph.table(),
        "rankings": ranking_rows(graph),
    }
    for name, rows in tables.items():
        lake.write(name, LIBRARY, rows, run_id="made-up", model_id=MODEL_ID)


def stages(lake_uri: str, endpoint_url: str) -> dict[str, tuple[float, float, float]]:
    """Go through the stages of the night one by one."""
    meter, lake = Stages(), Lake(lake_uri)

    def read(name: str, columns: list[str] | None = None) -> pa.Table:
        table = lake.read(name, LIBRARY, columns)
        assert table is not None
        return table

    with meter("list, tell old from new"):
        listing = VideoStore("s3://bucket", endpoint_url).objects(LIBRARY)
        kept, new = split_listing(listing, read("catalog"))
    assert not new
    with meter("plan what is to be scored"):
        before = {"scores": read("scores")}
        before |= {name: read(name, ["video_id", "etag", "model_id"]) for name in COMPANIONS}
        plan = plan_quality(kept, before, {name: SCHEMAS[name].empty_table() for name in SCHEMAS}, MODEL_ID)
    assert plan.complete
    with meter("find the pairs that are missing"):
        graph = ComparisonGraph(before["scores"], MODEL_ID)
        graph.add_published(read("comparisons"))
        assert not graph.unfinished and not graph.changed
    with meter("fit strengths, rank"):
        rankings = ranking_rows(graph)
    with meter("validate catalogue and ranking"):
        valid = {name: validate(name, rows) for name, rows in (("catalog", kept), ("rankings", rankings))}
    with meter("see that nothing is to be published"):
        assert all(rows.equals(read(name)) for name, rows in valid.items())
    return meter.found


def run(lake_uri: str, endpoint_url: str) -> dict[str, tuple[float, float, float]]:
    """Run the library's job, with its checks, in this process."""
    import dagster as dg

    meter = Stages()
    settings = Settings("s3://bucket", lake_uri, "tiny", endpoint_url, "local")
    with meter("the whole run in Dagster, checks and metadata included"), dg.DagsterInstance.ephemeral() as instance:
        result = run_library(build_definitions(settings), LIBRARY, instance)
        assert result.success
    assert "torch" not in sys.modules, "a model was loaded"
    return meter.found


if __name__ == "__main__":
    main()
