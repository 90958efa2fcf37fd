"""The asset library_report: where its page lies, what leads there, and that it goes with its library."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from cpllm_dagster.assets.report import link
from cpllm_dagster.lake.tables import Lake

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
