"""The table whose files are only added: what holds after updates, crashes, merges, and files of earlier versions."""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cpllm_dagster.lake.append_only import VERSION
from cpllm_dagster.lake.parquet import write_parquet
from cpllm_dagster.lake.schemas import SCHEMA_VERSION, SCHEMAS
from cpllm_dagster.lake.storage import FolderStorage
from cpllm_dagster.lake.tables import Lake
from cpllm_model.errors import LakeError

FOLDER = "features/library=films"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "lake" / FOLDER


def rows(versions: dict[int, int] | range) -> pa.Table:
    """Rows of videos by number, of these versions of theirs; their tokens tell which they are."""
    versions = versions if isinstance(versions, dict) else dict.fromkeys(versions, 1)
    found = [
        {
            "video_id": f"{number:06}",
            "etag": str(etag),
            "model_id": "m",
            "segment_start_s": [0.0],
            "tokens": f"{number} {etag}".encode(),
            "tokens_shape": [1, 1, 1],
        }
        for number, etag in sorted(versions.items())
    ]
    return pa.Table.from_pylist(found, SCHEMAS["features"])


def update(lake: Lake, fresh: pa.Table, holding: pa.Table, run_id: str = "run") -> bool:
    versions = holding.select(VERSION)
    return lake.update("features", "films", fresh, versions, run_id=run_id, model_id="m")


def names(folder: Path) -> dict[str, int]:
    """The files of rows, each with its inode, which is another where it is written anew."""
    return {path.name: path.stat().st_ino for path in folder.glob("*.parquet")}


def score(row: dict[str, Any]) -> dict[str, Any]:
    key = {name: row[name] for name in VERSION}
    return key | {
        "uri": row["video_id"], "score": 3.0, "status": "ok", "scored_at": datetime(2026, 1, 1, tzinfo=UTC),
        "run_id": "r",
    }  # fmt: skip


def test_rows_are_added_and_let_go(lake: Lake) -> None:
    assert lake.view("features", "films") is None and lake.metadata("features", "films") is None
    assert update(lake, rows(range(600)), rows(range(600)), "run 1")
    held = rows(dict.fromkeys(range(1, 600), 1) | {0: 2, 700: 1})
    assert update(lake, rows({0: 2, 700: 1}), held, "run 2")
    assert not update(lake, rows({}), held, "run 3")
    assert lake.read("features", "films") == held
    assert lake.read("features", "films", ["etag", "video_id"]) == held.select(["etag", "video_id"])
    assert lake.metadata("features", "films") == {
        "run_id": "run 2", "model_id": "m", "row_count": 601, "schema_version": SCHEMA_VERSION, "library": "films",
    }  # fmt: skip
    assert lake.libraries() == ["films"]
    view = lake.view("features", "films")
    assert view is not None
    place_N = np.array([600, 2, 550])
    expected = {(row["video_id"], row["etag"]) for row in view.versions.take(place_N).to_pylist()}
    found = view.rows(place_N).to_pylist()
    assert {(row["video_id"], row["etag"]) for row in found} == expected and len(found) == 3
    assert all(row["tokens"].decode() == f"{int(row['video_id'])} {row['etag']}" for row in found)
    lake.write("features", "films", rows(range(3)), run_id="run 4", model_id="m")
    assert lake.read("features", "films") == rows(range(3))
    assert lake.retire("films") == ["features"] and lake.view("features", "films") is None


def test_sql_sees_the_rows_of_scored_versions_once(lake: Lake) -> None:
    update(lake, rows(range(4)), rows(range(4)))
    held = rows({1: 2, 2: 1, 3: 1})
    update(lake, rows({1: 2}), held)
    lake.write("scores", "films", [score(row) for row in held.to_pylist()], run_id="r", model_id="m")
    with lake.connect() as connection:
        found = connection.execute("SELECT library, video_id, etag FROM features ORDER BY video_id").fetchall()
    assert found == [("films", "000001", "2"), ("films", "000002", "1"), ("films", "000003", "1")]


def test_only_new_rows_are_written(lake: Lake, folder: Path) -> None:
    if lake.endpoint_url is not None:
        pytest.skip("files are looked at")
    update(lake, rows(range(1000)), rows(range(1000)))
    first = names(folder)
    for number in range(1000, 1016):
        update(lake, rows({number: 1}), rows(range(number + 1)))
    assert first.items() < names(folder).items()
    update(lake, rows({}), rows(range(5, 1016)))
    assert first.items() < names(folder).items()
    # A version that comes back is still there.
    update(lake, rows(range(5)), rows(range(1016)))
    assert first.items() < names(folder).items() and sum(names(folder).values()) and len(names(folder)) == 2
    assert lake.read("features", "films") == rows(range(1016))
    # Half of it gone, the large file is written anew.
    update(lake, rows({}), rows(range(500, 1016)))
    assert not first.items() & names(folder).items()
    assert lake.read("features", "films") == rows(range(500, 1016))


@given(
    nights=st.lists(st.dictionaries(st.integers(0, 40), st.integers(1, 3), max_size=40), min_size=1, max_size=8),
)
@settings(max_examples=25, deadline=None)
def test_any_updates_leave_what_holds(nights: list[dict[int, int]], tmp_path_factory: pytest.TempPathFactory) -> None:
    root = tmp_path_factory.mktemp("lake")
    lake = Lake(str(root))
    for night in nights:
        update(lake, rows(night), rows(night))
        assert lake.read("features", "films") == rows(night)
        files = names(root / FOLDER)
        assert len(files) <= 2 + math.log2(1 + max(len(versions) for versions in nights))
        assert {path.name for path in (root / FOLDER).glob("_*.keys")} == {
            f"_{name.removesuffix('.parquet')}.keys" for name in files
        }


def test_a_version_without_rows_is_refused(lake: Lake) -> None:
    update(lake, rows(range(3)), rows(range(3)))
    with pytest.raises(LakeError, match="2 versions have no rows"):
        update(lake, rows({3: 1}), rows(range(6)))
    with pytest.raises(LakeError, match="not added"):
        lake.update("scores", "films", rows({}), rows({}).select(VERSION), run_id="r", model_id="m")
    assert lake.read("features", "films") == rows(range(3))


@pytest.mark.parametrize("puts", [0, 1, 2])
def test_an_update_that_breaks_off_leaves_the_table_as_it_was(
    tmp_path: Path, folder: Path, puts: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before its first file, and after each that comes before the manifest; the next update takes away what is left."""
    lake = Lake(str(tmp_path / "lake"))
    update(lake, rows(range(9)), rows(range(9)))
    before = names(folder)
    put, left = FolderStorage.put, [puts]

    def breaking(self: FolderStorage, source: Path, name: str) -> None:
        if not left[0]:
            raise LakeError("the disk is gone")
        left[0] -= 1
        put(self, source, name)

    with monkeypatch.context() as patch, pytest.raises(LakeError, match="disk"):
        patch.setattr(FolderStorage, "put", breaking)
        update(lake, rows({20: 1}), rows({**dict.fromkeys(range(9), 1), 20: 1}))
    assert lake.read("features", "films") == rows(range(9))
    held = rows({**dict.fromkeys(range(9), 1), 21: 1})
    lake.write("scores", "films", [score(row) for row in held.to_pylist()], run_id="r", model_id="m")
    with lake.connect() as connection:
        assert connection.execute("SELECT count(*) FROM features").fetchall() == [(9,)]
    update(lake, rows({21: 1}), held)
    assert lake.read("features", "films") == held
    assert len(names(folder)) == 2 and before.items() < names(folder).items()


def test_a_reader_sees_one_state_while_files_are_merged(lake: Lake) -> None:
    """Each state has all videos of one version; whoever reads between manifest and files begins again."""
    states = [rows(dict.fromkeys(range(20 + etag), etag)) for etag in range(1, 12)]
    update(lake, states[0], states[0])
    ended, seen, errors = threading.Event(), set(), []

    def read() -> None:
        while not ended.is_set():
            try:
                view = lake.view("features", "films")
                assert view is not None
                etags = {*view.versions["etag"].to_pylist()}
                assert len(etags) == 1 and len(view.versions) == 20 + int(*etags)
                seen.update(etags)
            except Exception as error:
                errors.append(error)

    reader = threading.Thread(target=read)
    reader.start()
    try:
        for state in states[1:]:
            update(lake, state, state)
    finally:
        ended.set()
        reader.join()
    assert not errors and seen
    stale = lake.view("features", "films")
    update(lake, states[0], states[0])
    assert stale is not None
    with pytest.raises(LakeError, match="was replaced while it was read"):
        stale.rows(np.arange(3))


@pytest.fixture
def earlier(tmp_path: Path, folder: Path) -> Iterator[Lake]:
    """A lake whose table is the one file that earlier versions wrote."""
    folder.mkdir(parents=True)
    metadata = {"run_id": "old", "model_id": "m", "row_count": "40", "schema_version": "2", "library": "films"}
    write_parquet(folder / "data.parquet", rows(range(40)).replace_schema_metadata(metadata))
    yield Lake(str(tmp_path / "lake"))


def test_a_table_of_an_earlier_version_is_read_and_goes_on(earlier: Lake, folder: Path) -> None:
    assert earlier.read("features", "films") == rows(range(40))
    assert (earlier.metadata("features", "films") or {})["run_id"] == "old"
    before = names(folder)
    update(earlier, rows({50: 1}), rows({**dict.fromkeys(range(1, 40), 1), 50: 1}))
    assert earlier.read("features", "films") == rows({**dict.fromkeys(range(1, 40), 1), 50: 1})
    assert before.items() < names(folder).items() and (folder / "_data.keys").exists()
    update(earlier, rows({}), rows({50: 1}))
    assert [path.name for path in folder.glob("*data*")] == []


@pytest.mark.parametrize(
    "text", ["", "[]", '{"files": [{"name": "../x", "row_count": 1, "gone": []}]}', '{"files": 3}']
)
def test_a_damaged_manifest_is_one_sentence(tmp_path: Path, folder: Path, text: str) -> None:
    lake = Lake(str(tmp_path / "lake"))
    update(lake, rows(range(3)), rows(range(3)))
    (folder / "_manifest.json").write_text(text)
    with pytest.raises(LakeError, match="not a manifest"):
        lake.view("features", "films")


@pytest.mark.parametrize("ending", ["keys", "parquet"])
def test_a_damaged_file_is_one_sentence(tmp_path: Path, folder: Path, ending: str) -> None:
    lake = Lake(str(tmp_path / "lake"))
    update(lake, rows(range(3)), rows(range(3)))
    for path in folder.glob(f"*.{ending}"):
        path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(LakeError, match="not a readable table"):
        lake.read("features", "films")
