"""The asset video_overview: one row a video with what the other tables say of it.

In: the library's other tables as published. Out: the table `videos`, for engines that have no view of this name. Its
columns and values are those of the view in lake/views.py.
"""

import dagster as dg

from cpllm_dagster.assets.catalog import video_catalog
from cpllm_dagster.assets.publication import publish, published, table_metadata
from cpllm_dagster.assets.quality import ASSETS
from cpllm_dagster.assets.rankings import quality_rankings
from cpllm_dagster.catalog.objects import library_name
from cpllm_dagster.partitions import LIBRARIES
from cpllm_dagster.resources import TableLake


@dg.asset(
    deps=[video_catalog, ASSETS["scores"], ASSETS["descriptions"], quality_rankings],
    partitions_def=LIBRARIES,
    group_name="library",
    kinds={"parquet", "duckdb"},
    metadata=table_metadata("videos"),
)
def video_overview(context: dg.AssetExecutionContext, lake: TableLake) -> dg.MaterializeResult:
    """Every video with its score, rank, distortions, format and worst segment: the table to start from."""
    library = library_name(context.partition_key)
    tables = lake.claim(context, library)
    model_ids = set(published(tables, "scores", library, ["model_id"])["model_id"].to_pylist())
    with tables.connect(library) as connection:
        rows = connection.sql("SELECT * EXCLUDE (library) FROM videos").to_arrow_table()
    return publish(
        tables,
        "videos",
        library,
        rows,
        made=len(rows),
        run_id=context.run.run_id,
        model_id=min(model_ids, default=""),
    )
