"""The asset library_report: where its page lies, what leads there, and that it goes with its library."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import dagster as dg

from cpllm_dagster.assets.report import library_report, link
from cpllm_dagster.catalog.objects import VideoStore, partition_key
from cpllm_dagster.lake.tables import Lake, video_id
from cpllm_dagster.partitions import LIBRARIES
from cpllm_dagster.resources import Catalog, QualityModel, TableLake, VideoLimits

if TYPE_CHECKING:
    from tests.cpllm_dagster.conftest import Bucket

LIBRARY = "Ünder <b>/50% 'x'"


def test_a_page_in_a_folder_is_reached_by_its_path(tmp_path: Path) -> None:
    lake = Lake(str(tmp_path / "the lake"))
    address = lake.write_report(LIBRARY, "<p>ü</p>")
    found = link(address, None)
    assert Path(str(found["report"].value)).read_text(encoding="utf-8") == "<p>ü</p>"
    assert found["report_url"].value == address and address.startswith("file:///")
    assert lake.libraries() == []  # a page alone is no table
    lake.retire(LIBRARY)
    assert not Path(str(found["report"].value)).exists()


def test_a_page_on_s3_is_html_and_the_next_one_takes_its_place(bucket: Bucket) -> None:
    lake = Lake(f"{bucket.uri}/lake", bucket.endpoint_url)
    lake.write_report(LIBRARY, "<p>old</p>")
    address = lake.write_report(LIBRARY, "<p>new</p>")
    key = address.removeprefix(f"{bucket.uri}/")
    answer = bucket.client.get_object(Bucket=bucket.name, Key=key)
    assert answer["ContentType"] == "text/html; charset=utf-8" and answer["Body"].read() == b"<p>new</p>"
    assert {name: value.value for name, value in link(address, bucket.endpoint_url).items()} == {"report": address}
    lake.retire(LIBRARY)
    assert "Contents" not in bucket.client.list_objects_v2(Bucket=bucket.name)


def test_a_page_on_aws_has_a_place_in_its_console() -> None:
    found = link("s3://my-lake/quality/reports/library=a%20b/index.html", None)
    assert found["report_url"].value == (
        "https://console.aws.amazon.com/s3/object/my-lake?prefix=quality%2Freports%2Flibrary%3Da%2520b%2Findex.html"
    )


def test_the_asset_takes_each_picture_once(clips: list[Path], tmp_path: Path) -> None:
    folder, lake = tmp_path / "videos", Lake(str(tmp_path / "lake"))
    (folder / "films").mkdir(parents=True)
    (folder / "films" / "a.mp4").write_bytes(clips[0].read_bytes())
    (video,) = VideoStore(str(folder)).objects("films")
    named = {"video_id": video_id(video.uri), "uri": video.uri, "key": video.key, "etag": video.etag}
    probed = {"size_bytes": video.size_bytes, "probe_status": "ok", "duration_s": 2.0}
    lake.write("catalog", "films", [named | probed], run_id="r", model_id="m")
    score = {"model_id": "m", "score": 3.0, "status": "ok", "run_id": "r", "scored_at": datetime.now(UTC)}
    lake.write("scores", "films", [named | score], run_id="r", model_id="m")
    resources = {
        "catalog": Catalog(uri=str(folder)), "lake": TableLake(uri=lake.uri), "limits": VideoLimits(),
        "model": QualityModel(),
    }  # fmt: skip
    taken = []
    with dg.DagsterInstance.ephemeral() as instance:
        instance.add_dynamic_partitions(str(LIBRARIES.name), [partition_key("films")])
        for _ in range(2):
            run = dg.materialize([library_report], resources=resources, instance=instance, partition_key="films")
            (made,) = run.asset_materializations_for_node("library_report")
            taken.append((made.metadata["new"].value, made.metadata["videos_without_picture"].value))
            page = Path(str(made.metadata["report"].value)).read_text(encoding="utf-8")
            assert page.count('src="data:image/webp;base64,') == 1
    assert taken == [(1, 0), (0, 0)]
