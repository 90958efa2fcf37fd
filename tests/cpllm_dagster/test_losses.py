"""What may leave a catalogue: no listing that fails, shrinks, repeats or ends early removes a row, and no large loss.

All on a real S3 server, behind a proxy that spoils listings. The objects are no videos, so that probing is quick.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dagster as dg
import pyarrow as pa
import pytest

from cpllm_dagster.assets.catalog import catalog_row, split_listing
from cpllm_dagster.assets.losses import confirmed_rows
from cpllm_dagster.automation import PARTITION_SET
from cpllm_dagster.catalog.listing import EXCLUDED, MATCHED, NO_ENDING, REPEATED, VideoListing
from cpllm_dagster.catalog.objects import VideoStore
from cpllm_dagster.definitions import Settings, build_definitions
from cpllm_dagster.lake.rows import validate
from cpllm_dagster.lake.schemas import SCHEMAS
from cpllm_dagster.lake.tables import Lake
from cpllm_dagster.resources import LARGEST_LOSS
from cpllm_model.decoding.samples import DecodeLimits
from cpllm_model.errors import ConfigurationError, CPLLMError, NotAVideoError, ShrunkLibraryError
from tests.faults.s3_proxy import Exchange, S3Proxy, changed_body, refusal, s3_proxy

if TYPE_CHECKING:
    from tests.cpllm_dagster.conftest import Bucket

VIDEOS = 40
PAGE = 7


NAMES = [f"{number:02}.mp4" for number in range(VIDEOS)]


@dataclass
class Night:
    """What one listing made of a catalogue."""

    new: int
    unlisted: int
    removed: int
    listing: VideoListing


@dataclass
class Films:
    """A library of forty objects and its catalogue, in which no video is probed."""

    bucket: Bucket
    proxy: S3Proxy
    rows: pa.Table
    address: str
    exclude: tuple[str, ...] = EXCLUDED

    def put(self, name: str, folder: str = "videos") -> None:
        self.bucket.put(f"{folder}/films/{name}", f"{folder} {name}".encode())

    def remove(self, *names: str) -> None:
        for name in names:
            self.bucket.client.delete_object(Bucket=self.bucket.name, Key=f"videos/films/{name}")

    def list(self, largest_loss: float = LARGEST_LOSS) -> Night:
        """List the library and put its catalogue in order, as the asset does."""
        store = VideoStore(self.address, self.proxy.endpoint_url, self.exclude)
        listing, before = store.objects("films"), self.rows
        kept, new = split_listing(listing, before)
        unlisted = confirmed_rows(
            before, kept, new, listing.unread, store, library="films", largest_loss=largest_loss
        )  # fmt: skip
        made = [catalog_row(video, NotAVideoError(video.uri, "it is not probed here")) for video in new]
        self.rows = pa.concat_tables([kept, unlisted, pa.Table.from_pylist(made, SCHEMAS["catalog"])])
        validate("catalog", self.rows)
        here = {*self.rows["uri"].to_pylist()}
        return Night(len(new), len(unlisted), len({*before["uri"].to_pylist()} - here), listing)

    def names(self) -> set[str]:
        """The names of the videos in the catalogue."""
        return {uri.rpartition("/")[2] for uri in self.rows["uri"].to_pylist()}


@pytest.fixture
def films(bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> Iterator[Films]:
    monkeypatch.setattr("cpllm_dagster.catalog.objects.LISTING_PAGE", PAGE)
    with s3_proxy(bucket.endpoint_url) as proxy:
        found = Films(bucket, proxy, SCHEMAS["catalog"].empty_table(), f"{bucket.uri}/videos")
        for name in NAMES:
            found.put(name)
        assert found.list().new == VIDEOS
        yield found


def test_a_library_that_has_vanished_keeps_its_tables_until_a_person_allows_it(films: Films) -> None:
    before = films.rows
    films.remove(*NAMES)
    with pytest.raises(
        ShrunkLibraryError, match=r"'films': all 40 videos are no longer there.*--allow-shrinking.*retire"
    ):
        films.list()
    assert films.rows is before
    assert films.list(largest_loss=1).removed == VIDEOS
    assert films.names() == set()


def test_another_catalogue_address_empties_no_library(films: Films) -> None:
    films.address = f"{films.bucket.uri}/other"
    films.bucket.put("other/films/readme.txt", b"")
    with pytest.raises(ShrunkLibraryError, match="all 40 videos"):
        films.list()
    # Others in their place are as many, and still none of those that were there.
    for name in NAMES:
        films.put(name, "other")
    with pytest.raises(ShrunkLibraryError, match="40 of 40 videos"):
        films.list()
    assert films.names() == set(NAMES)


@pytest.mark.parametrize(("lost", "allowed"), [(12, True), (13, False)])
def test_a_library_may_lose_less_than_a_share(films: Films, lost: int, allowed: bool) -> None:
    films.remove(*NAMES[:lost])
    if allowed:
        assert films.list().removed == lost
        assert films.names() == set(NAMES[lost:])
    else:
        with pytest.raises(ShrunkLibraryError, match="13 of 40 videos"):
            films.list()
        assert films.names() == set(NAMES)
        assert films.list(largest_loss=0.4).removed == lost


def test_a_small_library_may_lose_all_but_one(films: Films) -> None:
    films.remove(*NAMES[11:])
    films.list(largest_loss=1)
    films.remove(*NAMES[1:11])
    assert films.list().removed == 10
    films.remove(NAMES[0])
    with pytest.raises(ShrunkLibraryError, match="all 1 videos"):
        films.list()


def test_renamed_videos_are_not_lost(films: Films) -> None:
    for name in NAMES:
        source = {"Bucket": films.bucket.name, "Key": f"videos/films/{name}"}
        films.bucket.client.copy_object(
            Bucket=films.bucket.name, Key=f"videos/films/new/{name}x.mp4", CopySource=source
        )
    films.remove(*NAMES)
    night = films.list()
    assert (night.new, night.removed) == (VIDEOS, VIDEOS)
    assert films.names() == {f"{name}x.mp4" for name in NAMES}


def without(*names: str) -> Any:
    """A listing that does not name some objects, and says nothing of it."""

    def change(body: bytes) -> bytes:
        for name in names:
            body = re.sub(
                rb"<Contents>(?:(?!</Contents>).)*/" + name.encode() + rb"<.*?</Contents>", b"", body, flags=re.S
            )
        return body

    return changed_body(change)


def is_page(number: int) -> Any:
    """A condition: the so-manieth page of a library's listing, from 0 on."""
    count = -1

    def here(exchange: Exchange) -> bool:
        nonlocal count
        if not exchange.is_listing or exchange.query.get("delimiter"):
            return False
        count += 1
        return count == number

    return here


def ends_here(keep_truncated: bool) -> Any:
    """A page that does not say how the listing goes on."""

    def change(body: bytes) -> bytes:
        body = re.sub(rb"<NextContinuationToken>.*?</NextContinuationToken>", b"", body)
        return body if keep_truncated else body.replace(b"<IsTruncated>true", b"<IsTruncated>false")

    return changed_body(change)


def test_a_listing_that_forgets_objects_removes_no_row(films: Films) -> None:
    films.remove("30.mp4")
    films.proxy.inject(without("03.mp4", "20.mp4"), when=lambda exchange: exchange.is_listing)
    night = films.list()
    assert (night.unlisted, night.removed) == (2, 1)
    assert films.names() == {*NAMES} - {"30.mp4"}


def test_a_listing_that_ends_early_removes_no_row(films: Films) -> None:
    films.proxy.inject(ends_here(keep_truncated=True), when=is_page(2))
    with pytest.raises(CPLLMError, match="ends early"):
        films.list()
    # One that says that it is whole is found out by asking for what it lacks: here the last five objects.
    films.proxy.heal()
    films.proxy.inject(ends_here(keep_truncated=False), when=is_page(4))
    night = films.list()
    assert (night.unlisted, night.removed) == (5, 0)
    films.proxy.heal()
    films.proxy.inject(ends_here(keep_truncated=False), when=is_page(0))
    with pytest.raises(ShrunkLibraryError, match="33 of 40"):
        films.list()
    assert films.names() == set(NAMES)


def test_a_listing_that_repeats_a_page_removes_no_row(films: Films) -> None:
    films.remove(NAMES[-1])
    pages: list[bytes] = []

    def repeat(body: bytes) -> bytes:
        """The objects of the page before, beside the token of this one."""
        entries = re.compile(rb"<Contents>.*</Contents>", re.S)
        pages.append(entries.search(body)[0])  # pyright: ignore[reportOptionalSubscript]
        return entries.sub(lambda _: pages[-2], body) if len(pages) == 3 else body

    films.proxy.inject(changed_body(repeat), when=lambda e: e.is_listing and not e.query.get("delimiter"))
    night = films.list()
    assert (night.unlisted, night.removed) == (PAGE, 1)
    assert night.listing.left_out == {REPEATED: PAGE}
    assert films.names() == {*NAMES[:-1]}


@pytest.mark.parametrize("page", [0, 3])
def test_a_listing_that_fails_removes_no_row(films: Films, page: int) -> None:
    before = films.rows
    films.proxy.inject(refusal(403, "AccessDenied"), when=is_page(page))
    with pytest.raises(CPLLMError, match="cannot be listed"):
        films.list(largest_loss=1)
    assert films.rows is before


@pytest.mark.parametrize("code", ["InternalError", "AccessDenied"])
def test_an_object_that_cannot_be_asked_for_is_not_gone(films: Films, code: str) -> None:
    films.remove("05.mp4", "06.mp4")
    status = 403 if code == "AccessDenied" else 500
    films.proxy.inject(refusal(status, code), when=lambda e: e.method == "HEAD" and e.path.endswith("05.mp4"))
    if status == 403:
        assert films.list().unlisted == 1
        assert films.names() == {*NAMES} - {"06.mp4"}
    else:
        with pytest.raises(CPLLMError, match="the listing failed after retries"):
            films.list()
        assert films.names() == set(NAMES)


def test_what_is_excluded_from_now_on_counts_as_a_loss(films: Films) -> None:
    films.exclude = ("0*",)
    night = films.list()
    assert (night.removed, night.unlisted) == (10, 0)
    assert night.listing.left_out == {MATCHED: 10}
    films.exclude = ("*",)
    with pytest.raises(ShrunkLibraryError, match="all 30 videos"):
        films.list()


def test_a_folder_that_cannot_be_looked_at_loses_no_row(films: Films) -> None:
    films.put("locked/a.mp4")
    films.list()
    store = VideoStore(films.address, films.proxy.endpoint_url)
    films.remove("locked/a.mp4", "00.mp4")
    start = f"{films.address}/films/"
    kept, new = split_listing(store.objects("films"), films.rows)
    for unread, names in (([], []), ([f"{start}locked/"], ["locked/a.mp4"]), ([f"{start}00.mp4"], ["00.mp4"])):
        staying = confirmed_rows(films.rows, kept, new, unread, store, library="films", largest_loss=LARGEST_LOSS)
        assert staying["uri"].to_pylist() == [start + name for name in names]


def test_bad_entries_stop_no_library(films: Films) -> None:
    """No ETag, no size, no time, a time past the calendar, each on one object."""

    def spoil(body: bytes) -> bytes:
        for name, field, text in (
            ("01.mp4", "ETag", b""),
            ("02.mp4", "Size", b""),
            ("03.mp4", "LastModified", b""),
            ("04.mp4", "LastModified", b"<LastModified>36812-02-20T00:36:16.000Z</LastModified>"),
        ):
            entry = re.search(rb"<Contents>(?:(?!</Contents>).)*/" + name.encode() + rb"<.*?</Contents>", body, re.S)
            if entry:
                tag = field.encode()
                changed = re.sub(rb"<" + tag + rb">.*?</" + tag + rb">", text, entry[0], flags=re.S)
                body = body.replace(entry[0], changed)
        return body

    films.proxy.inject(changed_body(spoil), when=lambda exchange: exchange.is_listing)
    night = films.list()
    assert (night.new, night.unlisted, night.removed) == (0, 1, 0)
    assert films.names() == set(NAMES)
    films.rows = films.rows.slice(0, 0)
    assert films.list().new == VIDEOS - 1
    rows = {row["uri"].rpartition("/")[2]: row for row in films.rows.to_pylist()}
    assert rows["01.mp4"]["etag"].startswith("listed-") and not rows["00.mp4"]["etag"].startswith("listed-")
    assert rows["03.mp4"]["last_modified"] is None and rows["04.mp4"]["last_modified"] is None
    assert rows["05.mp4"]["last_modified"] is not None
    store = VideoStore(films.address, films.proxy.endpoint_url)
    uri, etag, size_bytes = (rows["01.mp4"][name] for name in ("uri", "etag", "size_bytes"))
    with store.open(uri, etag, size_bytes, DecodeLimits()) as file:
        assert len(file.read()) == size_bytes


def test_the_asset_keeps_its_table_says_what_it_leaves_out_and_names_what_there_is(
    films: Films, tmp_path: Path
) -> None:
    for name in ("readme.txt", "a b.doc", "@eaDir/00.mp4/thumb.mp4", "._00.mp4", "trailing.mp4 ", "a.y4m", "b.obu"):
        films.put(name)
    settings = Settings(films.address, str(tmp_path / "lake"), "tiny", films.proxy.endpoint_url, "local")
    job = build_definitions(settings).resolve_job_def("score_library")
    lake = Lake(settings.lake_uri)

    def run(library: str = "films", **config: Any) -> dict[str, Any]:
        with dg.DagsterInstance.ephemeral() as instance:
            instance.add_dynamic_partitions(PARTITION_SET, [library])
            result = job.execute_in_process(
                partition_key=library,
                instance=instance,
                asset_selection=[dg.AssetKey("video_catalog")],
                run_config={"ops": {"video_catalog": {"config": config}}},
            )
        (event,) = result.get_asset_materialization_events()
        return {key: value.value for key, value in event.materialization.metadata.items()}

    with pytest.raises(ConfigurationError, match=r"no library 'flims' \(did you mean 'films'\?\); there are 'films'"):
        run("flims")
    assert lake.libraries() == []
    shown = run()
    assert (shown["new"], shown["left_out"]) == (VIDEOS + 3, 4)
    found = {record.data["reason"]: record.data for record in shown["left_out_by_reason"].records}
    assert found[NO_ENDING]["examples"] == "films/a b.doc, films/readme.txt"
    assert found[MATCHED]["examples"] == "films/._00.mp4, films/@eaDir/00.mp4/thumb.mp4"
    assert shown["left_out_sentence"].startswith("4 objects are left out: ")
    before = lake.read("catalog", "films")
    films.remove(*NAMES)
    with pytest.raises(ShrunkLibraryError, match="40 of 43 videos"):
        run()
    assert lake.read("catalog", "films") == before
    assert run(allow_shrinking=True)["removed"] == VIDEOS
