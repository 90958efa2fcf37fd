"""The assets pairwise_comparisons and quality_rankings: videos compared two by two, and the order that follows.

In: scores and the visual tokens kept with them. Out: the tables `comparisons` and `rankings`. No video is decoded, and
comparisons of unchanged videos are kept. Which pairs are made is decided in comparison_graph.py.
"""

from itertools import islice

import dagster as dg
import pyarrow as pa
from pydantic import Field

from cpllm_dagster.assets.batch_config import BatchConfig
from cpllm_dagster.assets.comparison_graph import ComparisonGraph, TokenTable
from cpllm_dagster.assets.publication import (
    publish,
    published,
    published_or_empty,
    published_rows,
    table_metadata,
)
from cpllm_dagster.assets.quality import ASSETS, MODEL_POOL
from cpllm_dagster.batch.supervisor import PairComparer
from cpllm_dagster.catalog.objects import library_name
from cpllm_dagster.lake.schemas import SCHEMAS
from cpllm_dagster.partitions import LIBRARIES
from cpllm_dagster.report.tables import first_and_last
from cpllm_dagster.resources import BatchRay, QualityModel, TableLake
from cpllm_model.errors import LakeError
from cpllm_model.ranking import rank


class ComparisonConfig(BatchConfig):
    """How the videos of a library are compared."""

    part_pairs: int = Field(default=2000, ge=1, description="Comparisons per part.")


@dg.asset(
    deps=[ASSETS["scores"], ASSETS["features"]],
    partitions_def=LIBRARIES,
    group_name="library",
    kinds={"parquet", "ray"},
    metadata=table_metadata("comparisons"),
    pool=MODEL_POOL,
)
def pairwise_comparisons(
    context: dg.AssetExecutionContext,
    config: ComparisonConfig,
    lake: TableLake,
    model: QualityModel,
    ray: BatchRay,
) -> dg.MaterializeResult:
    """How probably one video looks better than another, for the pairs that tell most: about n log2 n of them."""
    library, model_id = library_name(context.partition_key), model.model_id
    tables = lake.claim(context, library)
    scores = published(tables, "scores", library)
    if others := _model_ids(scores) - {model_id}:
        # Tokens of one model mean nothing to another: a run that is taken up again after a promotion ends here.
        raise LakeError(
            f"library {library!r}: its scores are of {', '.join(others)} and the model is {model_id} now: "
            "materialize quality_scores before pairwise_comparisons"
        )
    graph = ComparisonGraph(scores, model_id)
    graph.add_published(published_or_empty(tables, "comparisons", library))
    parts_name = f"{model_id} comparisons"
    graph.add_recovered(tables.read_parts(library, parts_name)[0]["comparisons"])

    made = 0
    if graph.unfinished:
        ray.require(context)
        tokens = TokenTable(published_rows(tables, "features", library), scores)
        with PairComparer(model.source, config.batch_settings(ray)) as comparer:
            for round_index, pairs in enumerate(graph.rounds()):
                tokens.fetch({video_id for pair in pairs for video_id in pair})
                answers = comparer.compare(pairs, tokens)
                while part := list(islice(answers, config.part_pairs)):
                    rows = graph.add_answers(part)
                    tables.append_part(library, parts_name, {"comparisons": rows})
                    made += len(part)
                context.log.info(f"{library!r}: round {round_index}: {len(pairs)} pairs, {made} compared so far")
    result = publish(
        tables,
        "comparisons",
        library,
        graph.table() if graph.changed else None,
        made=made,
        run_id=context.run.run_id,
        model_id=model_id,
    )
    tables.clear_parts(library, parts_name)
    return result


@dg.asset(
    deps=[ASSETS["scores"], pairwise_comparisons],
    partitions_def=LIBRARIES,
    group_name="library",
    kinds={"parquet"},
    metadata=table_metadata("rankings"),
)
def quality_rankings(context: dg.AssetExecutionContext, lake: TableLake) -> dg.MaterializeResult:
    """The order of a library's videos, with each one's strength and how sure it is (Bradley-Terry)."""
    library = library_name(context.partition_key)
    tables = lake.claim(context, library)
    scores, comparisons = published(tables, "scores", library), published(tables, "comparisons", library)
    # The model that made them, whichever is the promoted one by now.
    model_ids = sorted(_model_ids(scores) | _model_ids(comparisons))
    if len(model_ids) > 1:
        raise LakeError(
            f"library {library!r}: its scores and comparisons are of several models ({', '.join(model_ids)}): "
            "materialize quality_scores and pairwise_comparisons before quality_rankings"
        )
    model_id = model_ids[0] if model_ids else ""
    graph = ComparisonGraph(scores, model_id)
    graph.add_published(comparisons)
    rows = ranking_rows(graph)
    return publish(
        tables,
        "rankings",
        library,
        rows,
        made=len(rows),
        run_id=context.run.run_id,
        model_id=model_id,
        metadata={"first_and_last": dg.MetadataValue.md(first_and_last(rows, scores))},
    )


def _model_ids(table: pa.Table) -> set[str]:
    return set(table["model_id"].unique().to_pylist())


def ranking_rows(graph: ComparisonGraph) -> pa.Table:
    """Give the rows of the rankings table, one for each scored video."""
    fit = graph.strengths()
    rank_N, percentile_N = rank(fit.strength_N)
    columns = {
        "video_id": pa.array(graph.video_ids, pa.string()),
        "model_id": pa.array([graph.model_id] * len(graph), pa.string()),
        "rank": rank_N,
        "percentile": percentile_N,
        "strength": fit.strength_N,
        "strength_se": fit.strength_se_N,
        "comparisons": fit.comparisons_N,
    }
    return pa.table(columns).cast(SCHEMAS["rankings"])
