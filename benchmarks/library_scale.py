"""Print the time and peak memory of each stage of the platform's bookkeeping, for libraries of 10,000 to 1,000,000.

Scores and comparisons are made up, and the listing comes from a stub that speaks S3; all else is what a run does.
Each size has a process of its own. Run: python benchmarks/library_scale.py [--videos 10000 100000 1000000]
"""

from __future__ import annotations

import argparse
import json
import math
import os
import subprocess
import sys
import tempfile
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
from made_up_library import Stages, catalog_rows, compare_all, results, score_rows, token_rows
from stub_listing import LIBRARY, stub_listing

from cpllm_dagster.assets.catalog import split_listing
from cpllm_dagster.assets.comparison_graph import ComparisonGraph, TokenTable
from cpllm_dagster.assets.incremental import plan_quality
from cpllm_dagster.assets.parts import PartKeeper
from cpllm_dagster.assets.publication import publish
from cpllm_dagster.assets.quality import ASSETS, finished_rows, result_rows
from cpllm_dagster.assets.rankings import ranking_rows
from cpllm_dagster.catalog.objects import VideoStore
from cpllm_dagster.lake.append_only import VERSION
from cpllm_dagster.lake.rows import validate
from cpllm_dagster.lake.schemas import SCHEMAS
from cpllm_dagster.lake.spool import spooled
from cpllm_dagster.lake.tables import Lake
from cpllm_dagster.report.tables import RANKING_SQL

MODEL = "tiny-000000000000"
#: Of the videos of a library, these many have come since the last night.
NEW_SHARE = 0.01
#: Visual tokens of a video: a tenth of those of `tiny`, for the disk's sake; they lie there, not in memory.
TOKEN_BYTES = 1500
#: Results of a part, as many as a run keeps at once by default.
PART_VIDEOS = 16


def main() -> None:
    """Run every size in a process of its own, and print a table with the growth from size to size."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--videos", type=int, nargs="+", default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--first-run", action="store_true", help="measure only what a run does with its first results")
    parser.add_argument("--measure", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        print(json.dumps(measure(arguments.measure, arguments.first_run)))
        return
    found = {}
    for count in arguments.videos:
        print(f"{count} videos", file=sys.stderr)
        command = [sys.executable, __file__, "--measure", str(count), *["--first-run"] * arguments.first_run]
        found[count] = json.loads(subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout)
    print(table(found))


def table(found: dict[int, dict[str, list[float]]]) -> str:
    """Give processor time and peak memory as markdown; growth is the exponent of n in time between two sizes."""
    sizes = list(found)
    growth = [f"growth to {size:,}" for size in sizes[1:]]
    lines = ["| stage | " + " | ".join([f"{size:,}" for size in sizes] + growth) + " |"]
    lines.append("|" + " --- |" * (1 + len(sizes) + len(growth)))
    for stage in found[sizes[0]]:
        cells = [f"{found[size][stage][0]:.2f} s, {found[size][stage][2]:.2f} GB" for size in sizes]
        for a, b in pairwise(sizes):
            cells.append(f"n^{math.log(found[b][stage][0] / found[a][stage][0]) / math.log(b / a):.2f}")
        lines.append(f"| {stage} | " + " | ".join(cells) + " |")
    totals = [f"{sum(cpu_s for cpu_s, *_ in found[size].values()):.1f} s of CPU" for size in sizes]
    elapsed = [f"{sum(elapsed_s for _, elapsed_s, _ in found[size].values()):.1f} s on the clock" for size in sizes]
    lines.append("| all | " + " | ".join(f"{a}, {b}" for a, b in zip(totals, elapsed, strict=True)) + " |")
    for a, b in pairwise(sizes):
        lines.append(f"\nn log n grows as n^{1 + math.log(math.log(b) / math.log(a)) / math.log(b / a):.2f} to {b:,}.")
    return "\n".join(lines)


def measure(count: int, only_first_run: bool) -> dict[str, tuple[float, float, float]]:
    """Take a library of so many videos through a night in which one in a hundred is new."""
    stages, random = Stages(), np.random.default_rng(0)
    truth_N = random.normal(0, 1.5, count)
    if only_first_run:
        with tempfile.TemporaryDirectory() as folder:
            first_run(stages, Lake(folder), catalog_rows(count).sort_by("video_id"))
        return stages.found
    with tempfile.TemporaryDirectory() as folder, stub_listing(count) as endpoint_url:
        os.environ |= {"AWS_ACCESS_KEY_ID": "stub", "AWS_SECRET_ACCESS_KEY": "stub", "AWS_DEFAULT_REGION": "us-east-1"}
        lake = Lake(f"{folder}/lake")
        catalog = catalog_rows(count)
        old = round(count * (1 - NEW_SHARE))
        with stages("list, tell old from new"):
            listing = VideoStore("s3://bucket", endpoint_url).objects(LIBRARY)
            kept, new = split_listing(listing, catalog.slice(0, old))
        assert (len(kept), len(new)) == (old, count - old)
        del kept, new

        catalog = catalog.sort_by("video_id")
        first_run(stages, lake, catalog)
        scores = score_rows(catalog, truth_N + random.normal(0, 0.7, count), MODEL)
        key = scores.select(["video_id", "etag", "model_id"])
        before = {"scores": scores.slice(0, old), "descriptions": key.slice(0, old), "features": key.slice(0, old)}
        parts = {name: SCHEMAS[name].empty_table() for name in SCHEMAS}
        with stages("plan what is to be scored"):
            plan = plan_quality(catalog, before, parts, MODEL)
        assert len(plan.todo) == count - old
        del plan, before, key

        for name, rows in (("catalog", catalog), ("scores", scores)):
            with stages(f"validate {name}"):
                validate(name, rows)
            with stages(f"publish {name}"):
                publish(lake, name, LIBRARY, rows, made=count, run_id="r", model_id=MODEL)
        del catalog

        tokens = spooled(SCHEMAS["features"], token_rows(scores, TOKEN_BYTES))
        with stages("publish visual tokens"):
            publish(lake, "features", LIBRARY, tokens, made=count, run_id="r", model_id=MODEL)
        del tokens
        with stages("add the visual tokens of a video"):
            add_one(lake, count)
        with stages("read visual tokens to compare"):
            view = lake.view("features", LIBRARY)
            assert view is not None
            table = TokenTable(view, scores)
            table.fetch(view.versions["video_id"].to_pylist())
            assert len(table) == count
        del table, view

        graph = ComparisonGraph(scores, MODEL)
        with stages("choose pairs, refit as they double"):
            compare_all(graph, truth_N, random)
        with stages("fit strengths, standard errors"):
            rankings = ranking_rows(graph)
        comparisons = len(graph.table())
        with stages("publish comparisons"):
            publish(lake, "comparisons", LIBRARY, graph.table(), made=comparisons, run_id="r", model_id=MODEL)
        with stages("publish rankings"):
            publish(lake, "rankings", LIBRARY, rankings, made=count, run_id="r", model_id=MODEL)
        del graph, rankings

        with stages("comparisons of a quiet night"):
            graph = ComparisonGraph(lake.read("scores", LIBRARY), MODEL)
            graph.add_published(lake.read("comparisons", LIBRARY))
            assert not graph.unfinished
        del graph
        with stages("SQL: the ranking's first 100"):
            assert len(lake.connect().execute(f"{RANKING_SQL} LIMIT 100", [LIBRARY]).fetchall()) == 100
        with stages("SQL: counts by level"):
            lake.connect().execute("SELECT level, count(*), avg(score) FROM scores GROUP BY level").fetchall()
        size_gb = sum(path.stat().st_size for path in Path(folder).rglob("*") if path.is_file()) / 1e9
        print(f"  {comparisons} comparisons, {size_gb:.2f} GB of tables", file=sys.stderr)
    return stages.found


def first_run(stages: Stages, lake: Lake, catalog: pa.Table) -> None:
    """Take a library none of whose videos has an answer through what a run does with results, into tables."""
    nothing = {name: SCHEMAS[name].empty_table() for name in SCHEMAS}
    with stages("first run: plan"):
        plan = plan_quality(catalog, {name: nothing[name] for name in ASSETS}, nothing, MODEL)
    with stages("first run: results into parts"), PartKeeper(lake, LIBRARY, MODEL, PART_VIDEOS, 60.0) as keeper:
        for result in results(plan.todo, TOKEN_BYTES):
            keeper.add(result_rows(result, MODEL, "r"))
    with stages("first run: read parts"):
        fresh = finished_rows(lake, LIBRARY, MODEL, plan)
    versions = fresh["features"].select(VERSION)
    with stages("first run: publish"):
        lake.update("features", LIBRARY, fresh["features"], versions, run_id="r", model_id=MODEL)
        for name in ("descriptions", "scores"):
            publish(lake, name, LIBRARY, fresh[name], made=len(catalog), run_id="r", model_id=MODEL)
    lake.clear_parts(LIBRARY, MODEL)
    lake.retire(LIBRARY)


def add_one(lake: Lake, count: int) -> None:
    """Let one video go, which comes back with other bytes."""
    view = lake.view("features", LIBRARY)
    assert view is not None
    changed = view.rows(np.array([count // 2]))
    changed = changed.set_column(1, changed.schema.field("etag"), pa.array(["changed"]))
    others = view.versions.filter(pa.array(np.arange(count) != count // 2))
    holding = pa.concat_tables([others, changed.select(VERSION)])
    lake.update("features", LIBRARY, changed, holding, run_id="r", model_id=MODEL)


if __name__ == "__main__":
    main()
