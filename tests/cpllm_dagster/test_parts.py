"""Finished rows are kept in parts as they come, and when the work breaks off."""

from __future__ import annotations

from pathlib import Path

import pytest

from cpllm_dagster.assets.parts import PartKeeper, Rows
from cpllm_dagster.lake.tables import Lake


def rows(number: int) -> Rows:
    """The row of one more video."""
    return {
        "descriptions": [{"video_id": str(number), "etag": "1", "model_id": "m", "description": "", "distortions": []}]
    }


def kept(lake: Lake) -> list[str]:
    """The videos whose rows are kept."""
    return sorted(lake.read_parts("films", "m")[0]["descriptions"]["video_id"].to_pylist())


def test_a_part_is_kept_every_so_many_items(tmp_path: Path) -> None:
    lake = Lake(str(tmp_path))
    with PartKeeper(lake, "films", "m", items=2, interval_s=3600) as keeper:
        assert [keeper.add(rows(number)) for number in range(5)] == [False, True, False, True, False]
        assert kept(lake) == ["0", "1", "2", "3"]
    assert kept(lake) == ["0", "1", "2", "3", "4"]
    assert len(list(tmp_path.rglob("*.part"))) == 3


def test_a_part_is_kept_every_so_many_seconds(tmp_path: Path) -> None:
    keeper = PartKeeper(Lake(str(tmp_path)), "films", "m", items=100, interval_s=0)
    assert keeper.add(rows(1))


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
