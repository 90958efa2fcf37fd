"""Finished rows are kept in parts as they come, and when the work breaks off."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest

from cpllm_dagster.assets.parts import MOST_GATHERED, PartKeeper, Rows
from cpllm_dagster.lake.storage import FolderStorage
from cpllm_dagster.lake.tables import Lake
from cpllm_model.errors import LakeError


def rows(number: int) -> Rows:
    """The row of one more video."""
    return {
        "descriptions": [{"video_id": str(number), "etag": "1", "model_id": "m", "description": "", "distortions": []}]
    }


def kept(lake: Lake) -> list[str]:
    """The videos whose rows are kept."""
    return sorted(lake.read_parts("films", "m")[0]["descriptions"]["video_id"].to_pylist())


def wait_for(lake: Lake, videos: list[str]) -> None:
    """Wait until these are kept: parts are written beside the work."""
    deadline = time.monotonic() + 60
    while kept(lake) != videos:
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_part_is_kept_every_so_many_items(tmp_path: Path) -> None:
    lake = Lake(str(tmp_path))
    with PartKeeper(lake, "films", "m", items=2, interval_s=3600) as keeper:
        for number in range(5):
            keeper.add(rows(number))
            if number % 2:
                wait_for(lake, [str(kept) for kept in range(number + 1)])
        assert kept(lake) == ["0", "1", "2", "3"]
    assert kept(lake) == ["0", "1", "2", "3", "4"]
    assert len(list(tmp_path.rglob("*.part"))) == 3


def test_a_part_is_kept_every_so_many_seconds(tmp_path: Path) -> None:
    lake = Lake(str(tmp_path))
    with PartKeeper(lake, "films", "m", items=100, interval_s=0) as keeper:
        keeper.add(rows(1))
        wait_for(lake, ["1"])


def test_work_goes_on_while_a_part_is_written_and_waits_where_too_much_has_gathered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lake, writing, go_on, put = Lake(str(tmp_path)), threading.Event(), threading.Event(), FolderStorage.put

    def held(self: FolderStorage, source: Path, name: str) -> None:
        writing.set()
        assert go_on.wait(60)
        put(self, source, name)

    monkeypatch.setattr(FolderStorage, "put", held)
    with PartKeeper(lake, "films", "m", items=2, interval_s=3600) as keeper:
        for number in range(2 + 2 * MOST_GATHERED - 1):
            keeper.add(rows(number))
        assert writing.wait(60) and kept(lake) == []
        threading.Timer(0.2, go_on.set).start()
        keeper.add(rows(2 + 2 * MOST_GATHERED - 1))
        assert go_on.is_set()
    assert len(kept(lake)) == 2 + 2 * MOST_GATHERED
    assert len(list(tmp_path.rglob("*.part"))) == 2


def test_a_part_that_cannot_be_written_ends_the_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise LakeError("the disk is full")

    monkeypatch.setattr(FolderStorage, "put", full)
    added = []
    with (
        pytest.raises(LakeError, match="the disk is full"),
        PartKeeper(Lake(str(tmp_path)), "films", "m", items=1, interval_s=3600) as keeper,
    ):
        for number in range(MOST_GATHERED + 2):
            keeper.add(rows(number))
            added.append(number)
    assert len(added) <= MOST_GATHERED


def test_what_had_finished_is_kept_when_the_work_breaks_off(tmp_path: Path) -> None:
    lake = Lake(str(tmp_path))
    with pytest.raises(KeyboardInterrupt), PartKeeper(lake, "films", "m", items=100, interval_s=3600) as keeper:
        keeper.add(rows(1))
        raise KeyboardInterrupt
    assert kept(lake) == ["1"]


def test_nothing_is_kept_of_nothing(tmp_path: Path) -> None:
    with PartKeeper(Lake(str(tmp_path)), "films", "m", items=1, interval_s=0):
        pass
    assert not list(tmp_path.rglob("*.part"))
