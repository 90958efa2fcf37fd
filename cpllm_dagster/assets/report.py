"""The asset library_report: a library on one page that opens in a browser, without a server or a network.

In: the library's other tables as published, and the videos that the page shows. Out: the page in the lake, and the
table `key_frames` with its pictures. Videos whose picture an earlier report took are not decoded again.
"""

from typing import Any
from urllib.parse import quote, unquote, urlsplit

import dagster as dg
import pyarrow as pa

from cpllm_dagster.assets.publication import publish, table_metadata
from cpllm_dagster.assets.quality import ASSETS, HISTORY_ASSETS
from cpllm_dagster.assets.rankings import quality_rankings
from cpllm_dagster.catalog.objects import library_name
from cpllm_dagster.lake.schemas import SCHEMAS
from cpllm_dagster.partitions import LIBRARIES
from cpllm_dagster.report.key_frames import Moment, take_key_frames
from cpllm_dagster.report.page import library_page
from cpllm_dagster.resources import Catalog, QualityModel, TableLake, VideoLimits
from cpllm_model.network import checkpoint


@dg.asset(
    deps=[ASSETS["scores"], ASSETS["descriptions"], *HISTORY_ASSETS.values(), quality_rankings],
    partitions_def=LIBRARIES,
    group_name="library",
    kinds={"html", "parquet"},
    metadata=table_metadata("key_frames"),
)
def library_report(
    context: dg.AssetExecutionContext, catalog: Catalog, lake: TableLake, limits: VideoLimits, model: QualityModel
) -> dg.MaterializeResult:
    """The library on one page: scores, what changed, worst and best videos, distortions, formats, failures."""
    library = library_name(context.partition_key)
    tables = lake.claim(context, library)

    def take(moments: list[Moment]) -> tuple[list[dict[str, Any]], dict[str, str]]:
        sampling = checkpoint.sampling_settings(model.name)
        return take_key_frames(moments, catalog.open(), sampling, limits.decode_limits())

    page = library_page(tables, library, take)
    address = tables.write_report(library, page.html)
    return publish(
        tables,
        "key_frames",
        library,
        pa.Table.from_pylist(page.key_frames, SCHEMAS["key_frames"]),
        made=page.taken,
        run_id=context.run.run_id,
        model_id=model.model_id,
        metadata={
            **link(address, tables.endpoint_url),
            "size_bytes": len(page.html.encode()),
            "videos_without_picture": page.without_picture,
        },
    )


def link(address: str, endpoint_url: str | None) -> dict[str, dg.MetadataValue]:
    """Give what leads from the UI to the page: a path, and an address that a browser opens where there is one.

    Args:
        address: of the page, `file://` or `s3://`.
        endpoint_url: of an S3-compatible server; None is AWS, whose console asks for a login.
    """
    if address.startswith("file://"):
        path = unquote(urlsplit(address).path)
        return {"report": dg.MetadataValue.path(path), "report_url": dg.MetadataValue.url(address)}
    found: dict[str, dg.MetadataValue] = {"report": dg.MetadataValue.path(address)}
    if endpoint_url is None:
        bucket, _, key = address.removeprefix("s3://").partition("/")
        url = f"https://console.aws.amazon.com/s3/object/{bucket}?prefix={quote(key, safe='')}"
        found["report_url"] = dg.MetadataValue.url(url)
    return found
