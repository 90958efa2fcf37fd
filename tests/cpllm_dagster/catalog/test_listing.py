"""Which names are those of videos, what a listing says of the others, and that no entry counts twice."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from cpllm_dagster.catalog.listing import EXAMPLES_KEPT, MATCHED, NO_ENDING, REPEATED, LeftOut, NameRule, VideoListing
from cpllm_dagster.catalog.objects import VideoObject

NOW = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.mark.parametrize(
    ("path", "objection"),
    [
        ("a.mp4", None),
        ("deep/a.MOV", None),
        ("a.mp4 ", None),
        ("a.y4m", None),
        ("a.txt", NO_ENDING),
        ("mp4", NO_ENDING),
        ("@eaDir/a.mp4/SYNOVIDEO.mp4", MATCHED),
        ("deep/@EADIR/a.mp4", MATCHED),
        ("._a.mp4", MATCHED),
        (".Trash-1000/files/a.mp4", MATCHED),
        ("#recycle/a.mp4", MATCHED),
        ("Thumbs.db", MATCHED),
        ("thumbs.dbx/a.mp4", None),
    ],
)
def test_names_of_videos(path: str, objection: str | None) -> None:
    assert NameRule().objection(path) == objection


def test_patterns_are_a_setting() -> None:
    assert NameRule(()).objection("._a.mp4") is None
    rule = NameRule(("*proxy*", "[x]"))
    assert [rule.objection(name) for name in ("my Proxy.mp4", "x/a.mp4", "[x]/a.mp4", "._a.mp4")] == [
        MATCHED, MATCHED, None, None,
    ]  # fmt: skip


def test_what_is_left_out_is_counted_with_examples() -> None:
    videos = [VideoObject(f"s3://b/{name}.mp4", "e", 1, NOW) for name in "ab"]
    others = [LeftOut(f"{number}.txt", NO_ENDING) for number in range(9)]
    listing = VideoListing(iter([*others, videos[0], LeftOut("x", "why", "s3://b/x/"), videos[1]]))
    assert list(listing) == videos
    assert listing.left_out == {NO_ENDING: 9, "why": 1}
    assert listing.examples == {NO_ENDING: [f"{number}.txt" for number in range(EXAMPLES_KEPT)], "why": ["x"]}
    assert listing.unread == ["s3://b/x/"]


def test_an_address_counts_once() -> None:
    first, changed = (VideoObject("s3://b/a.mp4", etag, 1, NOW) for etag in "12")
    listing = VideoListing(iter([first, first, changed]))
    assert list(listing) == [first]
    assert listing.left_out == {REPEATED: 2}
