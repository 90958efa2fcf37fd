"""Listing and reading videos from S3 and from folders: hostile names, changed objects, broken transfers."""

from __future__ import annotations

import logging
import os
import pickle
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast
from urllib.request import Request, urlopen

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cpllm_dagster.catalog import objects, s3_object
from cpllm_dagster.catalog.folder import LEADS_OUT, NO_FILE
from cpllm_dagster.catalog.listing import NO_ENDING
from cpllm_dagster.catalog.objects import VideoObject, VideoStore, library_name, lies_inside, partition_key
from cpllm_model.errors import (
    AccessDeniedError,
    ArchivedError,
    ConfigurationError,
    LimitExceededError,
    ObjectChangedError,
    ObjectMissingError,
    SourceReadError,
)

if TYPE_CHECKING:
    from tests.cpllm_dagster.conftest import Bucket

LIMITS = cast(Any, SimpleNamespace(max_file_bytes=10**9))
HOSTILE = [
    "a b.mp4",
    "quo'te\".mp4",
    "ümläut 視.mp4",
    "../../up.mp4",
    "x=1&y?z#.mp4",
    "%2e%2e.mp4",
    "tab\t.mp4",
]


def read(store: VideoStore, video: VideoObject) -> bytes:
    with store.open(video.uri, video.etag, video.size_bytes, LIMITS) as file:
        return file.read()


@pytest.fixture
def store(bucket: Bucket) -> VideoStore:
    return VideoStore(f"{bucket.uri}/videos/", bucket.endpoint_url)


# --- names -------------------------------------------------------------------------------------------------


@given(st.text(st.characters(codec="utf-8"), min_size=1))
def test_partition_key_is_safe_and_reversible(library: str) -> None:
    key = partition_key(library)
    assert library_name(key) == library
    assert key.isascii() and key.isprintable()
    assert not set("/\\ '\"=") & set(key) and ".." not in key and key != "."


# --- S3 ----------------------------------------------------------------------------------------------------


def test_lists_libraries_and_videos(bucket: Bucket, store: VideoStore) -> None:
    for library in ("films", 'we\'ird ="ü" ..', ".."):
        for name in HOSTILE:
            bucket.put(f"videos/{library}/{name}", name.encode())
    for other in ("films/readme.txt", "films/deep/", "films/mp4", "stray.mp4", "/unnamed.mp4", "notes.txt"):
        bucket.put(f"videos/{other}", b"")
    bucket.put("elsewhere/secret.mp4", b"")

    assert store.libraries() == sorted(["films", "videos", 'we\'ird ="ü" ..', ".."])
    loose = store.objects("videos")
    assert sorted(video.uri for video in loose) == [
        f"{bucket.uri}/videos//unnamed.mp4",
        f"{bucket.uri}/videos/stray.mp4",
    ]
    assert loose.examples == {NO_ENDING: ["notes.txt"]}
    for library in {*store.libraries()} - {"videos"}:
        listing = store.objects(library)
        videos = {video.uri: video for video in listing}
        assert set(videos) == {f"{bucket.uri}/videos/{library}/{name}" for name in HOSTILE}
        assert all(uri == f"{bucket.uri}/{video.key}" for uri, video in videos.items())
        assert listing.left_out == ({NO_ENDING: 2} if library == "films" else {})
        for uri, video in videos.items():
            assert read(store, video) == uri.removeprefix(f"{bucket.uri}/videos/{library}/").encode()
            assert video.size_bytes == len(read(store, video)) and video.last_modified and video.last_modified.tzinfo


def test_lists_a_key_with_a_newline(bucket: Bucket, store: VideoStore) -> None:
    # The embedded server routes no such path, but takes the key from a form.
    form = bucket.client.generate_presigned_post(bucket.name, "videos/films/two\nlines.mp4")
    boundary = "edge"
    parts = [
        f'--{boundary}\r\nContent-Disposition: form-data; name="{k}"\r\n\r\n{v}' for k, v in form["fields"].items()
    ]
    parts.append(f'--{boundary}\r\nContent-Disposition: form-data; name="file"; filename="f"\r\n\r\nbytes')
    body = "\r\n".join([*parts, f"--{boundary}--\r\n"]).encode()
    kind = {"Content-Type": f"multipart/form-data; boundary={boundary}"}
    urlopen(Request(form["url"], body, kind)).close()  # noqa: S310 # the embedded server's own address

    assert [video.uri for video in store.objects("films")] == [f"{bucket.uri}/videos/films/two\nlines.mp4"]


def test_lists_page_by_page(bucket: Bucket, store: VideoStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(objects, "LISTING_PAGE", 3)
    names = [f"{number}.mp4" for number in range(8)]
    for name in names:
        bucket.put(f"videos/many/{name}", b"")
        bucket.put(f"videos/library{name}/{name}", b"")
    assert [video.uri[-5:] for video in store.objects("many")] == names
    assert len(store.libraries()) == 9


def test_a_library_that_is_not_there_is_empty(store: VideoStore) -> None:
    assert list(store.objects("nothing")) == []
    assert store.libraries() == []


def test_pickles_without_its_connection(store: VideoStore) -> None:
    store.libraries()
    assert pickle.loads(pickle.dumps(store)) == store  # noqa: S301 # its own bytes


def test_replaced_and_deleted_objects_are_told_apart(bucket: Bucket, store: VideoStore) -> None:
    for name in ("replaced", "deleted"):
        bucket.put(f"videos/films/{name}.mp4", b"first")
    deleted, replaced = store.objects("films")
    bucket.put("videos/films/replaced.mp4", b"other")
    bucket.client.delete_object(Bucket=bucket.name, Key="videos/films/deleted.mp4")
    with pytest.raises(ObjectChangedError):
        read(store, replaced)
    with pytest.raises(ObjectMissingError):
        read(store, deleted)


def test_large_objects_are_read_by_ranges(bucket: Bucket, store: VideoStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(objects, "DOWNLOAD_BYTES", 1000)
    monkeypatch.setattr(s3_object, "BLOCKS_KEPT", 2)
    content = os.urandom(5_500_000)
    bucket.put("videos/films/large.mp4", content)
    (video,) = store.objects("films")
    with store.open(video.uri, video.etag, video.size_bytes, LIMITS) as file:
        for start, size in ((0, 10), (1 << 20, 3), ((1 << 20) - 5, 10), (5_000_000, 10**6), (10, 3_000_000)):
            assert file.seek(start) == start
            assert file.read(size) == content[start : start + size]
        assert file.seek(-7, os.SEEK_END) == len(content) - 7
        assert file.read() == content[-7:] and file.read(1) == b""
        bucket.put("videos/films/large.mp4", b"0" * len(content))
        file.seek(0)
        with pytest.raises(ObjectChangedError):
            file.read(10)


def test_what_is_larger_than_the_limit_is_not_touched(store: VideoStore) -> None:
    with (
        pytest.raises(LimitExceededError, match="1000000001"),
        store.open("s3://x/y", "e", 10**9 + 1, LIMITS),
    ):
        pass


@pytest.mark.parametrize("uri", ["s3://", "s3:///x", "", "http://host/videos", "gs://bucket"])
def test_addresses_that_are_none(uri: str) -> None:
    with pytest.raises(ConfigurationError, match="neither"):
        VideoStore(uri)


def test_wrong_settings_are_one_sentence_without_secrets(bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigurationError, match="NoSuchBucket"):
        VideoStore("s3://there-is-no-such-bucket", bucket.endpoint_url).libraries()
    with pytest.raises(ConfigurationError, match="EndpointConnectionError"):
        VideoStore(bucket.uri, "http://127.0.0.1:9").libraries()
    with pytest.raises(ConfigurationError, match="password") as caught:
        VideoStore(bucket.uri, "http://me:hidden@127.0.0.1")
    assert "hidden" not in str(caught.value)
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    with pytest.raises(ConfigurationError, match="NoCredentialsError"):
        VideoStore(bucket.uri, bucket.endpoint_url).libraries()


# --- broken transfers: a server that lies about its bodies -------------------------------------------------


@contextmanager
def broken_server(answers: list[Any]) -> Iterator[str]:
    """Serve GETs by one callable after the other, the last for ever; each writes to the raw socket file."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            answer = answers.pop(0) if len(answers) > 1 else answers[0]
            answer(self.wfile)
            self.close_connection = True

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def partial(status: str, body: bytes, length: int) -> Any:
    def write(file: Any) -> None:
        file.write(f'HTTP/1.1 {status}\r\nETag: "e"\r\nContent-Length: {length}\r\n\r\n'.encode() + body)

    return write


def trickle(file: Any) -> None:
    partial("206 Partial Content", b"", 10)(file)
    for _ in range(10):
        file.write(b"x")
        file.flush()
        time.sleep(0.2)


def refusal(status: str, code: str) -> Any:
    body = f"<Error><Code>{code}</Code><Message>AKIASECRET</Message></Error>".encode()
    return partial(status, body, len(body))


WHOLE, SHORT = partial("206 Partial Content", b"0123456789", 10), partial("206 Partial Content", b"0123", 10)


@pytest.mark.parametrize(
    ("answers", "outcome"),
    [
        ([SHORT, SHORT, WHOLE], b"0123456789"),
        ([SHORT], SourceReadError),
        ([trickle], SourceReadError),
        ([refusal("503 Slow Down", "SlowDown"), WHOLE], b"0123456789"),
        ([refusal("403 Forbidden", "ExpiredToken")], ConfigurationError),
        ([refusal("403 Forbidden", "AccessDenied")], AccessDeniedError),
        ([refusal("403 Forbidden", "InvalidObjectState")], ArchivedError),
    ],
    ids=["short twice", "always short", "trickling", "slow down once", "expired", "denied", "archived"],
)
def test_broken_transfers(s3_server: object, answers: list[Any], outcome: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(s3_object, "RANGE_DEADLINE_S", 0.5)
    with broken_server(list(answers)) as endpoint_url:
        store = VideoStore("s3://bucket", endpoint_url)
        video = VideoObject("s3://bucket/library/v.mp4", "e", 10, cast(Any, None))
        if isinstance(outcome, bytes):
            assert read(store, video) == outcome
        else:
            with pytest.raises(outcome) as caught:
                read(store, video)
            assert "AKIASECRET" not in str(caught.value)


# --- folders -----------------------------------------------------------------------------------------------


def test_a_folder_is_listed_like_a_bucket(tmp_path: Path) -> None:
    for name in ("films/b c.mp4", "films/deep/a%20\n.MOV", "films/notes.txt", "empty/x.txt", "stray.mp4"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(name.encode())
    for uri in (str(tmp_path), tmp_path.as_uri()):
        store = VideoStore(uri)
        assert store.libraries() == sorted(["empty", "films", tmp_path.name])
        listing = store.objects("films")
        videos = list(listing)
        assert [video.key for video in videos] == ["films/b c.mp4", "films/deep/a%20\n.MOV"]
        assert [video.uri for video in videos] == [f"file://{tmp_path}/{video.key}" for video in videos]
        assert [read(store, video) for video in videos] == [b"films/b c.mp4", b"films/deep/a%20\n.MOV"]
        assert listing.left_out == {NO_ENDING: 1}
        assert list(store.objects("..")) == list(store.objects(".")) == list(store.objects("gone")) == []


def test_names_that_are_not_utf8_are_quoted_and_read(tmp_path: Path) -> None:
    (tmp_path / "films").mkdir()
    names = {b"caf\xe9.mp4": "caf%E9.mp4", b"\xff\xfe%41.mp4": "%FF%FE%41.mp4", "%C3%A9 é.mp4".encode(): "%C3%A9 é.mp4"}
    for name in names:
        (tmp_path / "films" / os.fsdecode(name)).write_bytes(name)
    store = VideoStore(str(tmp_path))
    videos = {video.key: video for video in store.objects("films")}
    assert set(videos) == {f"films/{text}" for text in names.values()}
    for name, text in names.items():
        assert read(store, videos[f"films/{text}"]) == name


def test_nothing_outside_the_folder_is_touched(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    root, outside = tmp_path / "root", tmp_path / "outside"
    (root / "films").mkdir(parents=True)
    outside.mkdir()
    (outside / "secret.mp4").write_bytes(b"secret")
    (root / "films" / "link.mp4").symlink_to(outside / "secret.mp4")
    (root / "films" / "folder").symlink_to(outside)
    (root / "library").symlink_to(outside)
    os.mkfifo(root / "films" / "pipe.mp4")
    store = VideoStore(str(root))
    with caplog.at_level(logging.WARNING):
        assert store.libraries() == ["films"]
        listing = store.objects("films")
        assert list(listing) == list(store.objects("library")) == []
    assert str(root / "library") in caplog.text
    assert listing.examples == {LEADS_OUT: ["films/folder", "films/link.mp4"], NO_FILE: ["films/pipe.mp4"]}
    for uri in ((outside / "secret.mp4").as_uri(), f"{root.as_uri()}/films/../../outside/secret.mp4"):
        with pytest.raises(ConfigurationError, match="is not inside"), store.open(uri, "", 6, LIMITS):
            pass


def test_changed_and_missing_files(tmp_path: Path) -> None:
    (tmp_path / "films").mkdir()
    path = tmp_path / "films" / "v.mp4"
    path.write_bytes(b"first")
    store = VideoStore(str(tmp_path))
    (video,) = store.objects("films")
    path.write_bytes(b"other")
    os.utime(path, ns=(0, 1))
    with pytest.raises(ObjectChangedError):
        read(store, video)
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(ObjectChangedError):
        read(store, video)
    path.unlink()
    with pytest.raises(ObjectMissingError):
        read(store, video)


def test_a_missing_folder(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="is not a folder"):
        VideoStore(str(tmp_path / "none")).libraries()


@pytest.mark.parametrize(
    ("inner", "outer", "inside"),
    [
        ("s3://b/videos/lake", "s3://b/videos", True),
        ("s3://b/videos/", "s3://b/videos", True),
        ("s3://b/videos-lake", "s3://b/videos", False),
        ("s3://b/lake", "s3://b", True),
        ("s3://b", "s3://b/videos", False),
        ("s3://b/videos", "/b/videos", False),
        ("file:///b/a%20b/lake", "/b/a b", True),
        ("/b/x/../videos/lake", "/b/videos", True),
        ("/b/lake", "/b/videos", False),
    ],
)
def test_one_address_inside_another(inner: str, outer: str, inside: bool) -> None:
    assert lies_inside(inner, outer) is inside
