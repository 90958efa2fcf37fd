"""Tables that may exceed memory: rows are what they are, in the order asked for, and memory holds few of them."""

from __future__ import annotations

import os
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cpllm_dagster.lake.rows import validate
from cpllm_dagster.lake.schemas import SCHEMAS
from cpllm_dagster.lake.spool import ROWS_AT_ONCE, spooled, taken
from cpllm_dagster.lake.tables import Lake
from cpllm_model.errors import LakeError

COLUMNS = pa.schema([("number", pa.int64()), ("content", pa.large_binary())])
TOKEN_BYTES = 20_000


def numbered(start: int, stop: int) -> pa.Table:
    return pa.table([list(range(start, stop)), [str(n).encode() * 3 for n in range(start, stop)]], schema=COLUMNS)


def features(start: int, stop: int) -> pa.Table:
    """Rows of the features table, whose tokens do not compress."""
    random = np.random.default_rng(start)
    rows = [
        {
            "video_id": f"{number:06}",
            "etag": "1",
            "model_id": "m",
            "segment_start_s": [0.0],
            "tokens": random.bytes(TOKEN_BYTES),
            "tokens_shape": [1, 1, TOKEN_BYTES // 2],
        }
        for number in range(start, stop)
    ]
    return pa.Table.from_pylist(rows, SCHEMAS["features"])


@given(
    ends=st.lists(st.integers(0, 700), max_size=6),
    rows=st.lists(st.integers(0, 699), max_size=2 * ROWS_AT_ONCE),
    is_sorted=st.booleans(),
)
@settings(max_examples=50, deadline=None)
def test_rows_are_those_asked_for(ends: list[int], rows: list[int], is_sorted: bool) -> None:
    edges = [0, *sorted(ends), 700]
    table = spooled(COLUMNS, (numbered(a, b) for a, b in pairwise(edges)))
    assert table.equals(numbered(0, 700))
    wanted = np.array(sorted(rows) if is_sorted else rows, np.int64)
    assert taken(table, wanted).equals(numbered(0, 700).take(pa.array(wanted)))


def test_a_table_of_nothing_has_its_columns() -> None:
    assert spooled(COLUMNS, []).equals(COLUMNS.empty_table())
    assert validate("features", []).equals(SCHEMAS["features"].empty_table())


def test_a_folder_that_is_not_there_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path / "missing"))
    with pytest.raises(LakeError, match="missing"):
        spooled(COLUMNS, [numbered(0, 3)])


@pytest.mark.parametrize("row_bytes", [1_000, 100_000])
def test_a_full_disk_is_one_sentence(row_bytes: int, tmp_path: Path) -> None:
    """Whether the system refuses a write at once or what was held back until the end."""
    code = f"""
import resource, pyarrow as pa
from cpllm_dagster.lake.spool import spooled
from cpllm_model.errors import LakeError
resource.setrlimit(resource.RLIMIT_FSIZE, (500, 500))
schema = pa.schema([("content", pa.large_binary())])
try:
    spooled(schema, [pa.table([[bytes({row_bytes})]], schema=schema)])
except LakeError as error:
    print(error)
"""
    done = subprocess.run(
        [sys.executable, "-c", code], env=os.environ | {"TMPDIR": str(tmp_path)}, capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(f"{tmp_path}: ")


def test_features_pass_through_memory_in_small_groups(tmp_path: Path) -> None:
    """120 MB of tokens in parts of 3 MB, in an order that has to be changed, are published within 40 MB."""
    lake = Lake(str(tmp_path))
    starts = np.random.default_rng(0).permutation(40) * 150
    for start in starts.tolist():
        lake.append_part("films", "m", {"features": features(start, start + 150)})
    pool = pa.system_memory_pool()
    before_pool = pa.default_memory_pool()
    pa.set_memory_pool(pool)
    try:
        held = pool.bytes_allocated()
        parts, damaged = lake.read_parts("films", "m")
        lake.write("features", "films", parts["features"], run_id="r", model_id="m")
        found = lake.read("features", "films")
        assert pool.bytes_allocated() - held < 5e6
    finally:
        pa.set_memory_pool(before_pool)
    assert found is not None and damaged == []
    assert found["video_id"].to_pylist() == [f"{number:06}" for number in range(6000)]
    assert found.slice(300, 150).equals(features(300, 450))
    assert pool.max_memory() < 40e6
