"""The table `videos` says of each video what the other tables say; joins of tables lose no row in silence."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cpllm_dagster.lake.rows import validate
from cpllm_dagster.lake.schemas import LOGS, SCHEMAS, names_as_text
from cpllm_dagster.lake.tables import Lake
from tests.cpllm_dagster.example_lake import NIGHTS, fill


@pytest.fixture(scope="module")
def lake(tmp_path_factory: pytest.TempPathFactory) -> Lake:
    lake = Lake(str(tmp_path_factory.mktemp("lake")))
    fill(lake)
    return lake


def rows(lake: Lake, query: str) -> list[dict[str, Any]]:
    with lake.connect() as connection:
        return connection.sql(query).to_arrow_table().to_pylist()


def test_a_video_is_described_in_one_row(lake: Lake) -> None:
    (row,) = rows(lake, "SELECT * FROM videos WHERE file_name = 'b.mp4'")
    expected = {
        "library": "films", "key": "libraries/films/b.mp4", "status": "ok", "score": 1.75, "level": "poor", "rank": 3,
        "percentile": 0.0, "score_worst": 1.25, "worst_start_s": 2.5, "worst_end_s": 5.0, "codec": "h264",
        "named_distortions": ["compression", "blur"], "compression_severity": 3.25, "noise_severity": 0.5,
        "packet_loss_severity": 0.1, "bits_per_pixel": pytest.approx(2.5e6 / (640 * 360 * 25)), "duration_s": 10.0,
        "description": "The picture quality is poor.", "etag": "2",
    }  # fmt: skip
    assert {name: row[name] for name in expected} == expected
    (odd,) = rows(lake, "SELECT * FROM videos WHERE file_name LIKE 'new%'")
    assert odd["file_name"] == "new 'n\n.mp4"


def test_failed_videos_are_there_with_their_reason(lake: Lake) -> None:
    (row,) = rows(lake, "SELECT * FROM videos WHERE status = 'failed'")
    assert (row["file_name"], row["error_type"], row["score"], row["rank"]) == ("d.mp4", "corrupt_video", None, None)
    assert (row["named_distortions"], row["blur_severity"], row["score_worst"]) == (None, None, None)
    assert row["size_bytes"] == 2_500_000


def test_what_the_model_says_of_segments_goes_before_what_they_say(lake: Lake, tmp_path: Path) -> None:
    other = Lake(str(tmp_path))
    fill(other)
    scores = other.read("scores", "films")
    assert scores is not None
    known = {"score_worst": 1.5, "worst_start_s": 6.0, "worst_end_s": 6.5}
    given = [row | known if row["status"] == "ok" else row for row in scores.to_pylist()]
    other.write("scores", "films", given, run_id="r", model_id="m")
    found = rows(other, "SELECT DISTINCT score_worst, worst_start_s, worst_end_s FROM videos WHERE score > 0")
    assert known in found and len(found) == 3  # the other library has two of its own


def test_each_video_is_one_row_and_the_columns_are_those_of_the_published_table(lake: Lake) -> None:
    found = rows(lake, "SELECT * FROM videos")
    assert len(found) == sum(map(len, NIGHTS[-1].values()))
    with lake.connect("films") as connection:
        table = connection.sql("SELECT * EXCLUDE (library) FROM videos").to_arrow_table()
    assert len(table) == len(NIGHTS[-1]["films"])
    assert table.column_names == SCHEMAS["videos"].names
    assert len(validate("videos", table)) == len(table)


def test_natural_joins_of_what_is_known_of_a_video_lose_no_row(lake: Lake) -> None:
    """All tables but `videos`, which repeats the others, and those of what was."""
    good = sum(score is not None for library in NIGHTS[-1].values() for score in library.values())
    names = ("catalog", "scores", "descriptions", "rankings")
    for one, other in itertools.combinations(names, 2):
        (count,) = rows(lake, f"SELECT count(*) AS n FROM {one} NATURAL JOIN {other}")  # noqa: S608
        assert count["n"] == good + (other == "scores"), (one, other)
    for one, other in itertools.combinations(set(SCHEMAS) - {"videos", *LOGS}, 2):
        shared = [f for f in SCHEMAS[one] if f.name in SCHEMAS[other].names]
        # `key` is null in files of earlier versions alone, segments only in failed rows, which have no companion.
        assert {f.name for f in shared if f.nullable} <= {"key", "segment_start_s"}, (one, other)


def test_files_of_earlier_versions_are_read_beside_those_of_today(lake: Lake, tmp_path: Path) -> None:
    """By SQL and by read, under the present names; what they lack is null."""
    old = Lake(str(tmp_path))
    fill(old)
    path = Path(old.uri, "catalog", "library=films", "data.parquet")
    older = {"probe_status": "status", "probe_error_type": "error_type", "probe_error_message": "error_message"}
    table = pq.ParquetFile(path).read().drop_columns(["key"])
    pq.write_table(table.rename_columns([older.get(name, name) for name in table.column_names]), path)
    scores = Path(old.uri, "scores", "library=films", "data.parquet")
    pq.write_table(pq.ParquetFile(scores).read().drop_columns(["segment_end_s", "score_worst"]), scores)

    query = "SELECT library, uri, probe_status, probe_error_type FROM catalog ORDER BY ALL"
    assert rows(old, query) == rows(lake, query)
    assert rows(old, "SELECT * FROM videos ORDER BY uri") == rows(lake, "SELECT * FROM videos ORDER BY uri")
    assert {row["key"] for row in rows(old, "SELECT key FROM catalog WHERE library = 'films'")} == {None}
    found = old.read("catalog", "films", ["uri", "probe_status"])
    whole = old.read("catalog", "films")
    assert found is not None and found.column_names == ["uri", "probe_status"]
    assert whole is not None and {"probe_status", "probe_error_message"} < set(whole.column_names)


def test_every_file_carries_the_meaning_of_its_columns(lake: Lake) -> None:
    paths = list(Path(lake.uri).rglob("*.parquet"))
    assert {path.parts[-3] for path in paths} == set(SCHEMAS) - {"features", "events", "comparisons", "videos"}
    for path in paths:
        fields = names_as_text(SCHEMAS[path.parts[-3]])
        found = pq.read_schema(path)
        assert [found.field(field.name).metadata for field in fields] == [field.metadata for field in fields]


def test_a_query_cannot_name_what_this_process_holds(lake: Lake) -> None:
    secrets = pa.table({"secret": [1]})
    with lake.connect() as connection, pytest.raises(duckdb.Error, match="secrets"):
        connection.sql("SELECT * FROM secrets").fetchall()
    assert len(secrets) == 1
