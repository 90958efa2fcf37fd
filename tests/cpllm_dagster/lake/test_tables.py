"""A lake in a folder and on a real S3 server: publishing, reading, parts, SQL."""

from __future__ import annotations

import contextlib
import os
import pickle
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.dataset as pads
import pyarrow.parquet as pq
import pytest

from cpllm_dagster.lake import storage
from cpllm_dagster.lake.rows import validate
from cpllm_dagster.lake.schemas import SCHEMAS
from cpllm_dagster.lake.sql import connect, sentence
from cpllm_dagster.lake.tables import Lake, _file_name, video_id
from cpllm_model.errors import LakeError

HOSTILE_NAMES = [
    "plain",
    "two words",
    "q'uo\"te",
    "ünïcödé 猫",
    "a/b",
    "k=v",
    "new\nline",
    "..",
    ".",
    "../../outside",
    "100%",
    "%41",
    "2024",
    "2024-01-01",
    "NULL",
    "__HIVE_DEFAULT_PARTITION__",
    "'; DROP TABLE rankings; --",
    "[a]*?{b}",
    "back\\slash",
    "\x00",
    ".work",
    "x" * 200,
]
#: Percent-quoted they are longer than a folder's name may be.
LONG_NAMES = [
    "あ" * 28,
    "あ" * 84 + "a",
    "あ" * 85,
    "Фильмы и сериалы за 2024 год, архив областного телевидения",
    "%" * 255,
]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "lake"


def rows(count: int = 3, model_id: str = "m") -> list[dict[str, Any]]:
    return [
        {
            "video_id": f"{number:08d}",
            "model_id": model_id,
            "rank": number + 1,
            "percentile": 50.0,
            "strength": -number / 7,
            "strength_se": 0.1,
            "comparisons": count,
        }
        for number in range(count)
    ]


def publish(lake: Lake, library: str = "a", count: int = 3, run_id: str = "run-1") -> pa.Table:
    return lake.write("rankings", library, rows(count), run_id=run_id, model_id="m")


def query(lake: Lake, sql: str, *parameters: object) -> list[tuple]:
    with lake.connect() as connection:
        return connection.execute(sql, list(parameters)).fetchall()


def test_what_is_written_is_read(lake: Lake) -> None:
    assert lake.read("rankings", "a") is None
    assert lake.metadata("rankings", "a") is None
    assert lake.libraries() == []
    table = publish(lake)
    assert table.to_pylist() == rows()
    assert lake.read("rankings", "a") == table
    assert lake.read("rankings", "a", ["rank"]) == table.select(["rank"])
    assert lake.metadata("rankings", "a") == {
        "run_id": "run-1",
        "model_id": "m",
        "row_count": 3,
        "schema_version": 2,
        "library": "a",
    }
    publish(lake, count=1, run_id="run-2")
    again = lake.read("rankings", "a")
    assert again is not None and len(again) == 1
    assert lake.libraries() == ["a"]


def test_an_empty_table_is_published_too(lake: Lake) -> None:
    publish(lake, count=0)
    assert lake.read("rankings", "a") == SCHEMAS["rankings"].empty_table()
    assert query(lake, "SELECT count(*) FROM rankings") == [(0,)]
    assert lake.libraries() == ["a"]


def test_a_lake_travels_as_two_strings(lake: Lake) -> None:
    publish(lake)
    sent = pickle.loads(pickle.dumps(lake))  # noqa: S301 - our own bytes
    assert sent == lake and "_storage" not in vars(sent)
    assert sent.read("rankings", "a") == lake.read("rankings", "a")


def test_every_name_of_a_library_stays_itself(lake: Lake) -> None:
    shortened = quoted_names(LONG_NAMES)  # are names that a library may have, too
    names = [*HOSTILE_NAMES, *LONG_NAMES, *shortened]
    for number, name in enumerate(names):
        publish(lake, name, number + 1)
    for found in (lake.libraries(), Lake(lake.uri, lake.endpoint_url).libraries()):
        assert found == sorted(names)
    counts = dict(query(lake, "SELECT library, count(*) FROM rankings GROUP BY library"))
    assert counts == {name: number + 1 for number, name in enumerate(names)}
    for number, name in enumerate(names):
        table = lake.read("rankings", name)
        assert table is not None and len(table) == number + 1
    assert query(lake, "SELECT count(*) FROM rankings WHERE library = ?", "a/b") == [(5,)]


def quoted_names(names: list[str]) -> list[str]:
    """How these names stand in the lake's paths."""
    return [_file_name("rankings", name).split("/")[1].removeprefix("library=") for name in names]


def test_a_long_name_is_cut_and_keeps_its_beginning(lake: Lake) -> None:
    for name, quoted in zip(LONG_NAMES, quoted_names(LONG_NAMES), strict=True):
        beginning, digest = quoted.split("!")
        assert len(f"library={quoted}") <= 255 and quoted.isascii()
        assert name.startswith(unquote(beginning)) and len(unquote(beginning)) > 20 and len(digest) == 32
        with lake.claim(name, "a run"):
            publish(lake, name)
            lake.append_part(name, f"{name} comparisons", {"rankings": rows()})
            assert len(lake.read_parts(name, f"{name} comparisons")[0]["rankings"]) == 3
            lake.clear_parts(name, f"{name} comparisons")
        assert (lake.metadata("rankings", name) or {})["library"] == name


@pytest.mark.parametrize(("name", "message"), [("", "empty name"), ("\ud800", "not valid text")])
def test_names_that_cannot_be_paths_are_refused(lake: Lake, name: str, message: str) -> None:
    with pytest.raises(LakeError, match=message):
        publish(lake, name)
    with pytest.raises(LakeError, match="no table is named"):
        lake.read("../rankings", "a")


def test_other_readers_decode_the_names(folder: Path) -> None:
    lake = Lake(str(folder))
    for name in HOSTILE_NAMES:
        publish(lake, name)
    names = pads.dataset(folder / "rankings", partitioning="hive").to_table()["library"].unique()
    # Arrow takes Hive's word for null even where it is quoted.
    named = {name or "__HIVE_DEFAULT_PARTITION__" for name in names.to_pylist()}
    assert named == set(HOSTILE_NAMES)
    assert {path.name for path in folder.iterdir()} == {"rankings", ".work"}
    with duckdb.connect() as connection:
        sql = "SELECT DISTINCT library FROM read_parquet(?, hive_types = {'library': VARCHAR})"
        found = connection.execute(sql, [f"{folder}/rankings/**"]).fetchall()
    assert sorted(found) == [(name,) for name in sorted(HOSTILE_NAMES)]


def test_libraries_named_by_numbers_are_text_where_the_reader_is_told_so(folder: Path) -> None:
    for name in ("01", "2024"):
        publish(Lake(str(folder)), name)
    library = pads.partitioning(pa.schema([("library", pa.string())]), flavor="hive")  # as docs/operations.md says
    names = pads.dataset(folder / "rankings", partitioning=library).to_table()["library"].unique()
    assert names.to_pylist() == ["01", "2024"]
    assert query(Lake(str(folder)), "SELECT DISTINCT library FROM rankings ORDER BY 1") == [("01",), ("2024",)]


def test_the_same_rows_are_the_same_bytes(folder: Path) -> None:
    lake = Lake(str(folder))
    path = folder / "rankings" / "library=a" / "data.parquet"

    def written(given: Any, run_id: str = "run-1") -> bytes:
        lake.write("rankings", "a", given, run_id=run_id, model_id="m")
        return path.read_bytes()

    first = written(rows(50))
    chunks = [validate("rankings", rows(50)).slice(start, 10) for start in (30, 0, 40, 20, 10)]
    assert written(rows(50)[::-1]) == first
    assert written(pa.concat_tables(chunks)) == first
    other = written(rows(50), run_id="run-2")
    assert other != first
    footer_bytes = int.from_bytes(first[-8:-4], "little") + 8
    assert other[:-footer_bytes] == first[:-footer_bytes]


def test_refused_rows_leave_the_table_as_it_was(lake: Lake) -> None:
    publish(lake)
    with pytest.raises(LakeError, match="are duplicated"):
        lake.write("rankings", "a", rows() + rows(), run_id="run-2", model_id="m")
    assert (lake.metadata("rankings", "a") or {})["run_id"] == "run-1"


def versions(lake: Lake, stop: threading.Event) -> Iterator[int]:
    """Publish tables whose every row holds their own row count, small and large in turn."""
    number = 0
    while not stop.is_set():
        for library in ("a", "b"):
            count = 7 if number % 2 else 9000
            publish(lake, library, count, run_id=f"run-{number}")
        number += 1
        yield number


def wholes(found: list[tuple]) -> list[tuple]:
    """Return the rows of (library, rows, least and greatest count the rows hold) that are no whole table."""
    return [row for row in found if not row[1] == row[2] == row[3] or row[1] not in (7, 9000)]


def test_a_polling_reader_sees_whole_tables_only(lake: Lake) -> None:
    sql = "SELECT library, count(*), min(comparisons), max(comparisons) FROM rankings GROUP BY library"
    stop, published = threading.Event(), []
    for library in ("a", "b"):
        publish(lake, library, 7)
    writer = threading.Thread(target=lambda: published.extend(versions(lake, stop)))
    writer.start()
    seen: set[int] = set()
    deadline = time.monotonic() + 20
    try:
        with lake.connect() as lasting:
            while (len(published) < 12 or len(seen) < 2) and time.monotonic() < deadline:
                for found in (lasting.execute(sql).fetchall(), query(lake, sql)):
                    assert [row[0] for row in sorted(found)] == ["a", "b"]
                    assert wholes(found) == []
                    seen |= {row[1] for row in found}
                table = lake.read("rankings", "a")
                assert table is not None and set(table["comparisons"].to_pylist()) == {len(table)}
                if "://" not in lake.uri:
                    pattern = f"{lake.uri}/rankings/**"
                    # By itself DuckDB opens a file again for its data: it may meet another version, and then fails.
                    with duckdb.connect() as foreign, contextlib.suppress(duckdb.Error):
                        found = foreign.execute(sql.replace("rankings", "read_parquet(?)"), [pattern]).fetchall()
                        assert wholes(found) == []
    finally:
        stop.set()
        writer.join()
    assert seen == {7, 9000} and len(published) >= 12


def test_a_large_object_that_is_replaced_while_it_is_read(bucket: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage, "_HEAD_BYTES", 1000)
    monkeypatch.setattr(storage, "_BUFFER_BYTES", 1000)
    lake = Lake(bucket.uri, bucket.endpoint_url)
    table = publish(lake, count=9000)
    assert lake.read("rankings", "a") == table
    assert query(lake, "SELECT sum(rank) FROM rankings") == [(9000 * 9001 // 2,)]
    place = storage.storage_at(lake.uri, lake.endpoint_url)
    reader = place.open("rankings/library=a/data.parquet").reader()
    reader.seek(5000)
    publish(lake, count=8000)
    with pytest.raises(LakeError, match="replaced while it was read"):
        reader.read(10)


KILLED = """
import os, signal, sys, time
from cpllm_dagster.lake.tables import Lake
from test_tables import publish
for delay_s in sys.stdin:
    done, publishing = os.pipe()
    child = os.fork()
    while not child:
        for count in (9000, 7, 9000):
            publish(Lake(sys.argv[1]), "a", count)
            os.write(publishing, b"x")
    for _ in range(3):
        os.read(done, 1)
    time.sleep(float(delay_s))
    os.kill(child, signal.SIGKILL)
    os.wait()
    print("killed", flush=True)
"""


def test_a_writer_killed_at_any_moment_leaves_a_whole_table(folder: Path) -> None:
    lake = Lake(str(folder))
    with running(KILLED, folder) as process:
        for delay_s in (0.0, 0.005, 0.01, 0.015, 0.02, 0.03, 0.04):
            print(delay_s, file=process.stdin, flush=True)
            assert process.stdout is not None and process.stdout.readline() == "killed\n"
            table = lake.read("rankings", "a")
            assert table is not None and set(table["comparisons"].to_pylist()) == {len(table)}
            sql = "SELECT count(*), max(comparisons) FROM read_parquet(?)"
            with duckdb.connect() as connection:
                found = connection.execute(sql, [f"{folder}/rankings/**"]).fetchall()
            assert found == [(len(table), len(table))]
        process.communicate()


def running(script: str, folder: Path) -> subprocess.Popen[str]:
    """Start a script on the lake in a folder; it may import this file."""
    return subprocess.Popen(
        [sys.executable, "-c", script, str(folder)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parent)},
    )


def test_forgotten_work_files_are_removed(folder: Path) -> None:
    work = folder / ".work" / "writing"
    work.mkdir(parents=True)
    for name, age_s in (("old.tmp", 200_000), ("new.tmp", 10)):
        (work / name).touch()
        os.utime(work / name, (time.time(), time.time() - age_s))
    publish(Lake(str(folder)))
    assert [path.name for path in work.iterdir()] == ["new.tmp"]


FULL = """
import resource, signal, sys
from cpllm_dagster.lake.tables import Lake
from cpllm_model.errors import LakeError
from test_tables import publish, rows
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
lake = Lake(sys.argv[1])
for attempt in (lambda: publish(lake, "a", 9000), lambda: lake.append_part("a", "m", {"rankings": rows(9000)})):
    try:
        attempt()
    except LakeError as error:
        print(error)
"""


def test_a_full_disk_is_an_error_and_leaves_the_table_as_it_was(folder: Path) -> None:
    lake = Lake(str(folder))
    table = publish(lake)
    with running(FULL, folder) as process:
        output = process.communicate()[0]
    assert output.count("File too large") == 2, output
    assert lake.read("rankings", "a") == table
    assert lake.read_parts("a", "m")[1] == []
    assert list((folder / ".work" / "writing").iterdir()) == []


def test_parts_are_read_back_the_newest_of_each_key(lake: Lake) -> None:
    tables, damaged = lake.read_parts("a", "m")
    assert set(tables) == set(SCHEMAS) and damaged == []
    assert all(tables[name] == schema.empty_table() for name, schema in SCHEMAS.items())

    old, new = rows(2), rows(3)
    new[1]["strength"] = 9.0
    comparison = {"video_id_a": "1", "video_id_b": "2", "etag_a": "x", "etag_b": "y", "model_id": "m"}
    comparison |= {"probability_a_better": 0.5, "order_gap": 0.0}
    lake.append_part("a", "m", {"rankings": old, "comparisons": []})
    lake.append_part("a", "m", {"comparisons": [comparison], "rankings": new[1:]})
    lake.append_part("a", "other model/1", {"rankings": rows(9)})
    lake.append_part("b", "m", {"rankings": rows(8)})
    tables, damaged = lake.read_parts("a", "m")
    assert sorted(tables["rankings"].to_pylist(), key=lambda row: row["video_id"]) == [old[0], *new[1:]]
    assert tables["comparisons"].to_pylist() == [comparison]
    assert damaged == []
    assert lake.libraries() == [] and query(lake, "SELECT count(*) FROM rankings") == [(0,)]

    lake.clear_parts("a", "m")
    assert len(lake.read_parts("a", "m")[0]["rankings"]) == 0
    assert len(lake.read_parts("a", "other model/1")[0]["rankings"]) == 9
    assert len(lake.read_parts("b", "m")[0]["rankings"]) == 8


def flipped(content: bytes) -> bytes:
    return content[:300] + bytes([content[300] ^ 1]) + content[301:]


@pytest.mark.parametrize(
    "damage", [lambda content: content[:-5], flipped, lambda _: b"", lambda _: b"PAR1 no", lambda c: c + b"x"]
)
def test_damaged_parts_are_reported_and_left_out(
    folder: Path, caplog: pytest.LogCaptureFixture, damage: Callable[[bytes], bytes]
) -> None:
    lake = Lake(str(folder))
    lake.append_part("a", "m", {"rankings": rows(2)})
    (hurt,) = folder.rglob("*.part")
    lake.append_part("a", "m", {"rankings": rows(4)[2:]})
    hurt.write_bytes(damage(hurt.read_bytes()))
    tables, damaged = lake.read_parts("a", "m")
    assert len(tables["rankings"]) == 2
    assert damaged == [hurt.relative_to(folder).as_posix()]
    assert damaged[0] in caplog.text
    lake.clear_parts("a", "m")
    assert lake.read_parts("a", "m")[1] == []


def test_parts_of_bad_rows_are_refused(lake: Lake) -> None:
    with pytest.raises(LakeError, match="rankings"):
        lake.append_part("a", "m", {"rankings": [rows(1)[0] | {"strength": float("nan")}]})
    assert lake.read_parts("a", "m")[1] == []


def test_sql_on_every_table(lake: Lake) -> None:
    with lake.connect() as connection:
        for name, schema in SCHEMAS.items():
            result = connection.execute(f"SELECT * FROM {name}")  # noqa: S608
            assert [column[0] for column in result.description or ()] == ["library", *schema.names]
            assert result.fetchall() == []
        publish(lake, "a", 2)
        publish(lake, "b", 3)
        # The same connection sees what was published since.
        sql = "SELECT library, count(*), sum(rank) FROM rankings GROUP BY ALL ORDER BY ALL"
        assert connection.execute(sql).fetchall() == [("a", 2, 3), ("b", 3, 6)]
        assert connection.execute("SELECT count(*) FROM rankings r LEFT JOIN scores s USING (library, video_id)")
        kinds = dict(connection.execute("SELECT column_name, column_type FROM (DESCRIBE scores)").fetchall())
    assert kinds["scored_at"] == "TIMESTAMP WITH TIME ZONE" and kinds["segment_score"] == "DOUBLE[]"


def test_sql_reaches_nothing_but_the_tables_and_writes_nothing(lake: Lake, tmp_path: Path) -> None:
    publish(lake)
    secret = tmp_path / "secret.csv"
    secret.write_text("a\n1\n")
    with lake.connect() as connection:
        for sql in (
            f"FROM '{secret}'",
            f"FROM read_text('{secret}')",
            f"FROM glob('{tmp_path}/*')",
            "SELECT * FROM read_parquet('s3://elsewhere/data.parquet')",
            "SELECT * FROM 'https://example.com/data.parquet'",
            "SELECT * FROM read_parquet('lake://../secret.csv')",
            f"COPY (SELECT 1) TO '{tmp_path}/out.parquet'",
            "COPY (SELECT 1) TO 'lake://rankings/library=a/data.parquet'",
            f"ATTACH '{tmp_path}/other.db'",
            f"EXPORT DATABASE '{tmp_path}/export'",
            "INSTALL httpfs",
            "LOAD httpfs",
            "SET enable_external_access = true",
            "SET allowed_directories = ['/']",
            "DELETE FROM rankings",
        ):
            with pytest.raises(duckdb.Error):
                connection.execute(sql).fetchall()
    assert [path.name for path in tmp_path.iterdir() if path.name != "lake"] == ["secret.csv"]
    table = lake.read("rankings", "a")
    assert table is not None and table.to_pylist() == rows()


@pytest.mark.parametrize(
    ("uri", "message"),
    [
        ("", "is empty"),
        ("gs://bucket/x", "begins with 'gs'://"),
        ("s3://", "'' in the address is not a bucket name"),
        ("s3://key:hunter2@bucket/x", "'bucket' in the address"),
    ],
)
def test_a_wrong_address_is_told_at_once(uri: str, message: str) -> None:
    with pytest.raises(LakeError, match=message) as caught:
        Lake(uri)
    assert "hunter2" not in str(caught.value)


def test_a_file_address_is_a_folder(tmp_path: Path) -> None:
    publish(Lake((tmp_path / "a b").as_uri()))
    assert Lake(str(tmp_path / "a b")).libraries() == ["a"]


def test_a_missing_bucket_is_one_sentence(bucket: Any) -> None:
    lake = Lake("s3://no-such-bucket/lake", bucket.endpoint_url)
    for attempt in (lambda: publish(lake), lambda: lake.read("rankings", "a"), lake.libraries, lake.connect):
        with pytest.raises(LakeError, match=r"^s3://no-such-bucket/\S*: the bucket does not exist$"):
            attempt()


def test_what_sql_may_not_do_is_one_sentence(lake: Lake) -> None:
    with lake.connect() as connection:
        with pytest.raises(duckdb.Error) as caught:
            connection.execute("COPY (SELECT 1) TO 'lake://x'")
        assert sentence(caught.value) == "the tables cannot be written by SQL: 'lake://x'"
        with pytest.raises(duckdb.Error, match="nowhere") as caught:
            connection.execute("SELECT * FROM nowhere")
        assert sentence(caught.value) == str(caught.value).strip()


def test_missing_credentials_are_one_sentence(bucket: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", os.devnull)
    monkeypatch.setenv("AWS_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    with pytest.raises(LakeError, match="Unable to locate credentials"):
        publish(Lake(bucket.uri, bucket.endpoint_url))


def test_a_file_in_the_folders_place_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "lake").write_text("not a folder")
    with pytest.raises(LakeError, match=r"lake.*: (Not a directory|File exists)"):
        publish(Lake(str(tmp_path / "lake")))


def test_a_file_that_is_no_table_is_one_sentence(folder: Path) -> None:
    publish(Lake(str(folder)))
    (path,) = folder.rglob("data.parquet")
    path.write_bytes(b"PAR1")
    for read in (Lake.read, Lake.metadata):
        with pytest.raises(LakeError, match=r"library=a/data\.parquet: not a readable table"):
            read(Lake(str(folder)), "rankings", "a")


def test_strange_files_among_the_tables_are_no_tables(folder: Path) -> None:
    publish(Lake(str(folder)))
    pq.write_table(pa.table({"x": [1]}), folder / "rankings" / "stray.parquet")
    (folder / "rankings" / "library=b").mkdir()
    (folder / "rankings" / "library=b" / "half.tmp").touch()
    assert Lake(str(folder)).libraries() == ["a"]
    assert query(Lake(str(folder)), "SELECT count(*) FROM rankings") == [(3,)]


def test_video_ids() -> None:
    assert video_id("s3://bucket/a.mp4") == "fd373ff61094d28c"
    assert video_id("a") != video_id("b") and set(video_id("é\n")) <= set("0123456789abcdef")


def test_threads_of_a_query_do_not_read_at_each_others_places(tmp_path: Path) -> None:
    schema = pa.schema([("video_id", pa.string()), ("value", pa.int64())])
    rows, order = 300_000, np.random.default_rng(0).permutation(300_000)
    for name, values in (("ones", np.arange(rows)), ("others", order)):
        table = pa.table([pa.array([f"{value:016x}" for value in values]), pa.array(values)], schema=schema)
        folder = tmp_path / name / "library=a"
        folder.mkdir(parents=True)
        pq.write_table(table, folder / "data.parquet", row_group_size=5_000)
    folder_storage = storage.FolderStorage(tmp_path)
    connection = connect(
        dict.fromkeys(("ones", "others", "none"), schema),
        lambda name: [f"{name}/library=a/data.parquet"] if name != "none" else [],
        folder_storage.open,
    )
    query = (
        "SELECT count(*), sum(o.value - t.value), count(n.value) FROM ones o JOIN others t USING (video_id) "
        "LEFT JOIN none n USING (video_id)"
    )
    for _ in range(5):
        assert connection.execute(query).fetchall() == [(rows, 0, 0)]


def grow(lake: Lake, library: str, day: int, run_id: str) -> None:
    """Append a night."""
    at = datetime(2026, 1, day, 2, tzinfo=UTC)
    row = {name: 0 for name in SCHEMAS["nights"].names if name.startswith("videos_")}
    row |= {"videos": day, "failed_videos": 0, "failed_share": 0.0, "failures_by_type": [], "unchanged": 0}
    row |= {"scoring_s": 0.0, "decode_s_sum": 0.0, "inference_s_sum": 0.0}
    row |= {"run_id": run_id, "recorded_at": at, "model_id": "m"}
    lake.append("nights", library, [row], recorded_at=at, run_id=run_id, model_id="m")


def test_a_table_that_grows_keeps_every_file(lake: Lake) -> None:
    assert lake.read("nights", "a") is None and lake.read_log("nights", "a", newest=3) is None
    for library in ("a", LONG_NAMES[0]):
        for day, run_id in ((2, "../../r 2"), (1, "r1"), (3, "r3"), (3, "r3")):
            grow(lake, library, day, run_id)
        found = lake.read("nights", library)
        assert found is not None and found["run_id"].to_pylist() == ["r1", "../../r 2", "r3"]
        newest = lake.read_log("nights", library, newest=1, columns=["videos"])
        assert newest is not None and newest.to_pylist() == [{"videos": 3}]
    sql = "SELECT library, list(videos ORDER BY recorded_at) FROM nights GROUP BY ALL ORDER BY ALL"
    assert query(lake, sql) == [("a", [1, 2, 3]), (LONG_NAMES[0], [1, 2, 3])]
    assert lake.libraries() == sorted(["a", LONG_NAMES[0]])
    assert (lake.metadata("nights", "a") or {})["run_id"] == "r3"

    assert len(lake.prune_logs("a", datetime(2026, 1, 2, 2, tzinfo=UTC))) == 1
    assert query(lake, "SELECT videos FROM nights WHERE library = 'a' ORDER BY ALL") == [(2,), (3,)]
    assert lake.retire("a") == ["nights"]
    assert lake.libraries() == [LONG_NAMES[0]]


def test_growing_and_replacing_are_not_mixed_up(lake: Lake) -> None:
    with pytest.raises(LakeError, match="nights only grows"):
        lake.write("nights", "a", [], run_id="r", model_id="m")
    with pytest.raises(LakeError, match="rankings does not grow"):
        lake.append("rankings", "a", rows(), recorded_at=datetime.now(UTC), run_id="r", model_id="m")
