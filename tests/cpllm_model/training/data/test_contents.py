"""Contents are named by bytes, never in two splits, and every beginning of their order is a fair sample."""

import shutil

import pytest

from cpllm_model.errors import DataSetError
from cpllm_model.training.data.contents import Content, find_contents
from cpllm_model.training.data.manifests import LabelledVideo, content_split, write_manifest


def write(folder, **files):
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in files.items():
        (folder / f"{name}.png").write_bytes(data)


def rate(folder, rows):
    """Write pictures, a file a row, and their manifest; a row is (name, group, split, mos)."""
    write(folder, **{name: name.encode() for name, *_ in rows})
    videos = [LabelledVideo(name, group, "ours", split, f"{name}.png", mos) for name, group, split, mos in rows]
    return write_manifest(videos, folder / "rated.parquet")


def test_the_number_of_clips_decides_the_number_of_takes(tmp_path):
    write(tmp_path, a=b"a", b=b"b")
    few, many = (find_contents([tmp_path], clips, scenes=1) for clips in (10, 10 * 7))
    assert len(few) == 1 and len(many) == 7 and len({one.content_id for one in many}) == 7
    assert many[0] == few[0]


def test_files_of_one_name_are_two_contents_and_a_copy_is_none(tmp_path):
    write(tmp_path / "a", IMG_0001=b"one")
    write(tmp_path / "b", IMG_0001=b"two")
    shutil.copy(tmp_path / "a" / "IMG_0001.png", tmp_path / "b" / "copy.png")
    lines = []
    found = find_contents([tmp_path / "a", tmp_path / "b"], 20, report=lines.append)
    assert len({one.content_id for one in found}) == 2 and len({one.source for one in found}) == 2
    assert len(lines) == 1 and "copy.png: left out, it is the same file as" in lines[0]


def test_a_copy_elsewhere_has_the_same_name_and_split(tmp_path):
    write(tmp_path / "a", x=b"same")
    write(tmp_path / "b" / "c", y=b"same")
    (here,), (there,) = (find_contents([tmp_path / folder], 10) for folder in "ab")
    assert here.content_id == there.content_id and here.split == there.split


def test_no_content_is_in_two_splits():
    splits = {}
    for number in range(400):
        takes = {Content("clip", "x", f"clip-{number}", take).split for take in range(6)}
        assert len(takes) == 1
        splits[number] = takes.pop()
    shares = [list(splits.values()).count(name) / 400 for name in ("train", "validation", "test")]
    assert 0.75 < shares[0] < 0.88 and 0.02 < shares[1] < 0.1 and 0.08 < shares[2] < 0.17
    assert content_split("a") == content_split("a")


def test_a_rated_picture_keeps_its_split_its_group_and_its_rating(tmp_path):
    rows = [(f"p{n}", f"g{n // 2}", ("train", "test")[n // 2 % 2], 1 + n / 10) for n in range(20)]
    found = find_contents([], 200, rated=[rate(tmp_path, rows)], rated_contents=20)
    assert len(found) == 20 and len({one.content_id for one in found}) == 20
    groups: dict[str, set[str]] = {}
    for one in found:
        groups.setdefault(one.name.split(".")[0], set()).add(one.split)
    assert len(groups) == 10 and all(len(splits) == 1 for splits in groups.values())
    assert {one.mos for one in found} == {mos for *_, mos in rows} and {one.split for one in found} == {"train", "test"}
    few = find_contents([], 200, rated=[tmp_path / "rated.parquet"], rated_contents=5)
    assert len(few) == 5 and {one.name for one in few} < {one.name for one in found}


def test_a_group_in_two_splits_is_refused(tmp_path):
    manifest = rate(tmp_path, [("a", "g", "train", 2.0), ("b", "g", "test", 3.0)])
    with pytest.raises(DataSetError, match="content g of ours is in two splits"):
        find_contents([], 10, rated=[manifest], rated_contents=1)


def test_a_rated_picture_is_not_filmed_again_as_an_unrated_one(tmp_path):
    manifest = rate(tmp_path / "rated", [("a", "g", "test", 2.0)])
    write(tmp_path / "sources", again=b"a", other=b"other")
    lines = []
    found = find_contents([tmp_path / "sources"], 20, 0, 0, [manifest], 1, report=lines.append)
    assert sorted(one.mos or 0 for one in found) == [0, 2.0]
    assert len(lines) == 1 and "again.png: left out" in lines[0]
    assert [one.mos for one in find_contents([tmp_path / "sources"], 10, 0, 0, [manifest], 0)] == [None]
    assert "again" not in find_contents([tmp_path / "sources"], 10, 0, 0, [manifest], 0)[0].source


def test_a_group_names_no_path(tmp_path):
    manifest = rate(tmp_path, [("a", "../../etc/passwd", "test", 2.0)])
    (found,) = find_contents([], 10, rated=[manifest], rated_contents=1)
    assert "/" not in found.content_id and found.split == "test"


def test_every_beginning_is_a_fair_sample(tmp_path):
    rows = [(f"p{n}", f"g{n}", "train", 3.0) for n in range(30)]
    write(tmp_path / "sources", **{f"s{n}": bytes([n]) for n in range(20)})
    found = find_contents([tmp_path / "sources"], 900, 20, 20, [rate(tmp_path / "rated", rows)], 30)
    assert len(found) == 90
    first = found[:30]
    assert sum(one.mos is not None for one in first) == 10
    assert {one.kind for one in first} == {"photo", "scene", "nature", "screen"}


def test_names_of_folders_tell_what_was_not_filmed(tmp_path):
    write(tmp_path / "web-screens", a=b"a")
    write(tmp_path / "photos", b=b"b")
    shows = {one.source.rsplit("/", 1)[1]: one.shows for one in find_contents([tmp_path], 20)}
    assert shows == {"a.png": "screen", "b.png": "camera"}
    rendered = {one.shows for one in find_contents([], 400, 20, 20)}
    assert rendered == {"screen", "animation", None}


def test_without_any_source_it_says_so(tmp_path):
    with pytest.raises(DataSetError, match="no photograph or clip"):
        find_contents([tmp_path], 10)
