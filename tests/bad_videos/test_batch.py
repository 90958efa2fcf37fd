"""Bad videos as a library, through every asset on a local Ray: one row each, and the run succeeds."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import dagster as dg
import pytest

from cpllm_dagster.definitions import Settings, build_definitions
from cpllm_dagster.lake.tables import Lake
from cpllm_dagster.local_runs import run_library
from tests.bad_videos.inputs import INPUTS, SOME


@pytest.mark.parametrize(
    "names", [pytest.param(SOME, id="some"), pytest.param(INPUTS, id="all", marks=pytest.mark.slow)]
)
def test_each_has_one_row_in_every_table_that_is_due(tmp_path: Path, names: Iterable[str]) -> None:
    library = tmp_path / "catalogue" / "bad"
    library.mkdir(parents=True)
    expected = {f"{name}.mp4": INPUTS[name] for name in names}  # whatever they are
    for name, made in expected.items():
        (library / name).write_bytes(made.make())
    settings = Settings(str(library.parent), str(tmp_path / "lake"), "tiny", None, "local")
    with dg.DagsterInstance.ephemeral() as instance:
        assert run_library(build_definitions(settings), "bad", instance).success

    lake = Lake(settings.lake_uri)
    catalog, scores = rows(lake, "catalog"), rows(lake, "scores")
    assert {name: row["error_type"] for name, row in scores.items()} == {n: e.error for n, e in expected.items()}
    assert set(catalog) == set(expected)
    scored = {name for name, made in expected.items() if made.error is None}
    assert {name for name, row in catalog.items() if row["probe_status"] == "ok"} >= scored
    for name in scored:
        row = scores[name]
        assert 1 <= row["score"] <= 5 and row["error_message"] is None
        assert (row["damaged_frames"] > 0) == expected[name].damaged
        assert catalog[name]["fps"] > 0 and 0 < catalog[name]["duration_s"] <= 86_400
        if not expected[name].damaged and not name.startswith("two sizes"):
            assert (catalog[name]["width_px"], catalog[name]["height_px"]) == expected[name].size_px
    for name in expected.keys() - scored:
        row = scores[name]
        assert row["score"] is None and row["error_message"]
    assert set(rows(lake, "descriptions", catalog)) == set(rows(lake, "rankings", catalog)) == scored


def rows(lake: Lake, table: str, catalog: dict[str, Any] | None = None) -> dict[str, dict[str, Any]]:
    """The rows of a table by the name of the file, each of which is there once."""
    read = lake.read(table, "bad")
    assert read is not None
    name_of = {row["video_id"]: name for name, row in (catalog or {}).items()}
    found = [(name_of[row["video_id"]] if catalog else file_name(row["uri"]), row) for row in read.to_pylist()]
    assert len(dict(found)) == len(found)
    return dict(found)


def file_name(uri: str) -> str:
    return unquote(uri).rpartition("/")[2]
