"""Folders as people have them: links in circles and out of the catalogue, impossible times, loose and locked files."""

from __future__ import annotations

import logging
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from cpllm_dagster.catalog.folder import LEADS_NOWHERE, LEADS_OUT, LEADS_ROUND, LISTED_ALREADY
from cpllm_dagster.catalog.listing import MATCHED, NO_ENDING
from cpllm_dagster.catalog.objects import VideoStore
from cpllm_model.errors import ConfigurationError, SourceReadError

LIMITS = cast(Any, SimpleNamespace(max_file_bytes=10**9))


def put(root: Path, *names: str) -> None:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(os.fsencode(name))


def names(root: Path, library: str) -> list[str]:
    """The names of a library's videos below the root."""
    return [video.uri.removeprefix(f"file://{root}/") for video in VideoStore(str(root)).objects(library)]


def test_links_in_circles_are_left_out_and_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    put(tmp_path, "films/a.mp4", "films/deep/b.mp4", "shows/c.mp4")
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "here").symlink_to(".")
    (tmp_path / "films" / "loop.mp4").symlink_to("loop.mp4")
    (tmp_path / "films" / "up").symlink_to("..")
    (tmp_path / "films" / "deep" / "again").symlink_to("../../films")
    (tmp_path / "films" / "gone.mp4").symlink_to("nowhere.mp4")
    store = VideoStore(str(tmp_path))
    with caplog.at_level(logging.WARNING):
        assert store.libraries() == ["films", "shows"]
    assert str(tmp_path / "loop") in caplog.text and str(tmp_path / "here") in caplog.text
    listing = store.objects("films")
    assert [Path(video.uri).name for video in listing] == ["a.mp4", "b.mp4"]
    assert listing.examples == {
        LEADS_ROUND: ["films/loop.mp4", "films/up", "films/deep/again"], LEADS_NOWHERE: ["films/gone.mp4"],
    }  # fmt: skip


def test_links_inside_the_catalogue_are_followed_once(tmp_path: Path) -> None:
    root = tmp_path / "root"
    put(root, "films/a.mp4", "shows/c.mp4", "shows/deep/d.mp4")
    put(tmp_path, "outside/secret.mp4")
    (root / "films" / "linked").symlink_to(root / "shows")
    (root / "films" / "twice").symlink_to(root / "shows")
    (root / "films" / "out").symlink_to(tmp_path / "outside")
    (root / "films" / "way out").symlink_to(root / "shows" / "out")
    (root / "shows" / "out").symlink_to(tmp_path / "outside")
    (root / "library").symlink_to(root / "shows")
    assert VideoStore(str(root)).libraries() == ["films", "library", "shows"]
    assert names(root, "films") == ["films/a.mp4", "films/linked/c.mp4", "films/linked/deep/d.mp4"]
    assert names(root, "library") == ["library/c.mp4", "library/deep/d.mp4"]
    store = VideoStore(str(root))
    listing = store.objects("films")
    for video in listing:
        with store.open(video.uri, video.etag, video.size_bytes, LIMITS) as file:
            assert file.read(6) in (b"films/", b"shows/")
    assert listing.examples == {
        LEADS_OUT: ["films/out", "films/way out", "films/linked/out"], LISTED_ALREADY: ["films/twice"],
    }  # fmt: skip


def test_a_time_that_no_calendar_has_costs_no_video(tmp_path: Path) -> None:
    put(tmp_path, "films/a.mp4", "films/b.mp4")
    # Where the file system keeps such a time, as tmpfs does.
    folder = Path("/dev/shm") if Path("/dev/shm").is_dir() else tmp_path
    path = folder / f"cpllm-{os.getpid()}" / "films" / "late.mp4"
    path.parent.mkdir(parents=True)
    try:
        path.write_bytes(b"x")
        os.utime(path, (2**40, 2**40))
        (found,) = VideoStore(str(path.parents[1])).objects("films")
        if path.stat().st_mtime == 2**40:
            assert found.last_modified is None
        with VideoStore(str(path.parents[1])).open(found.uri, found.etag, 1, LIMITS) as file:
            assert file.read() == b"x"
    finally:
        path.unlink()
        path.parent.rmdir()
        path.parents[1].rmdir()
    assert all(video.last_modified for video in VideoStore(str(tmp_path)).objects("films"))


def test_loose_videos_are_a_library_of_the_folders_name(tmp_path: Path) -> None:
    root = tmp_path / "my videos"
    put(root, *(f"{number:02}.mp4" for number in range(20)), "notes.txt", "._00.mp4")
    store = VideoStore(str(root))
    assert store.libraries() == ["my videos"]
    listing = store.objects("my videos")
    assert len(list(listing)) == 20
    assert listing.examples == {MATCHED: ["._00.mp4"], NO_ENDING: ["notes.txt"]}
    # A folder of that name is part of the same library.
    put(root, "my videos/more.mp4", "films/a.mp4")
    assert store.libraries() == ["films", "my videos"]
    assert len(names(root, "my videos")) == 21
    assert names(root, "films") == ["films/a.mp4"]


def test_files_that_are_no_videos_make_no_library(tmp_path: Path) -> None:
    put(tmp_path, "notes.txt", ".DS_Store", "@eaDir/a.mp4", "#recycle/b.mp4")
    assert VideoStore(str(tmp_path)).libraries() == []


@pytest.fixture
def as_nobody() -> Iterator[Path]:
    """A folder in which this process has no rights but those of its modes: to root nothing is locked."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o777)
    user = os.geteuid()
    if user == 0:
        os.seteuid(65534)
    try:
        yield folder
    finally:
        if user == 0:
            os.seteuid(0)
        for path in sorted(folder.rglob("*")):
            path.chmod(0o700)
        shutil.rmtree(folder)


def test_a_locked_folder_is_named_and_nothing_is_concluded_of_it(as_nobody: Path) -> None:
    root = as_nobody
    put(root, "films/a.mp4", "films/locked/b.mp4", "shows/c.mp4")
    (root / "films" / "locked").chmod(0)
    (root / "shows").chmod(0)
    listing = VideoStore(str(root)).objects("films")
    assert [Path(video.uri).name for video in listing] == ["a.mp4"]
    assert listing.examples == {"a folder that may not be read": ["films/locked/"]}
    assert listing.unread == [f"{(root / 'films' / 'locked').as_uri()}/"]
    with pytest.raises(SourceReadError, match="may not be read"):
        list(VideoStore(str(root)).objects("shows"))


def test_whether_a_video_is_still_there(tmp_path: Path) -> None:
    root = tmp_path / "root"
    put(root, "films/a.mp4", "films/@eaDir/b.mp4", "films/notes.txt")
    put(tmp_path, "outside.mp4")
    (root / "films" / "link.mp4").symlink_to("a.mp4")
    store = VideoStore(str(root))
    films = (root / "films").as_uri()
    assert store.still_there(f"{films}/a.mp4")
    for gone in ("gone.mp4", "@eaDir/b.mp4", "notes.txt", "link.mp4", "../../outside.mp4"):
        assert not store.still_there(f"{films}/{gone}"), gone
    assert not store.still_there("s3://bucket/films/a.mp4")
    assert not store.still_there((tmp_path / "outside.mp4").as_uri())


def test_a_video_is_there_by_the_name_that_it_is_listed_by_and_no_other(tmp_path: Path) -> None:
    """Rows of earlier versions have quoted paths: kept beside the new ones, they would be each video's second row."""
    put(tmp_path, "films/b c.mp4", "films/é.mp4", "films/日本.mp4", os.fsdecode(b"films/caf\xe9.mp4"))
    store = VideoStore(str(tmp_path))
    videos = list(store.objects("films"))
    assert len(videos) == 4 and all(store.still_there(video.uri) for video in videos)
    for name in ("b c.mp4", "é.mp4", "日本.mp4"):
        assert not store.still_there((tmp_path / "films" / name).as_uri()), name


def test_a_catalogue_that_goes_is_one_sentence(tmp_path: Path) -> None:
    put(tmp_path, "root/films/a.mp4")
    store = VideoStore(str(tmp_path / "root"))
    assert store.libraries() == ["films"]
    (tmp_path / "root").rename(tmp_path / "moved")
    with pytest.raises(ConfigurationError, match="is gone"):
        store.libraries()
