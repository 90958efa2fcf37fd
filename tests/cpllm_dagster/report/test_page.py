"""The page of a library: whole in one file, harmless whatever names say, readable in a browser of any width."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import shutil
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from cpllm_dagster.lake.tables import Lake
from cpllm_dagster.report.page import Page, library_page, no_pictures
from tests.cpllm_dagster import example_lake

if TYPE_CHECKING:
    from playwright.sync_api import Browser

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
HOSTILE = "</script><script>window.broken=1</script><img src=x onerror=window.broken=1>{{7*7}}\u2028\u202eab'\"&"
LIBRARY = f"films {HOSTILE}"


class Elements(HTMLParser):
    """The elements of a page with their attributes, and the text in scripts and styles."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.code: dict[str, list[str]] = {"script": [], "style": []}
        self.words: list[str] = []
        self._inside = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))
        self._inside = tag
        if tag in self.code:
            self.code[tag].append("")

    def handle_endtag(self, tag: str) -> None:
        self._inside = ""

    def handle_data(self, data: str) -> None:
        if self._inside in self.code:
            self.code[self._inside][-1] += data
        else:
            self.words.append(data)

    def of(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.found if name == tag]


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Page:
    """The page of a library in which every name is hostile."""
    lake = Lake(str(tmp_path_factory.mktemp("page")))
    with pytest.MonkeyPatch.context() as patch:
        night = {"a.mp4": 4.5, f"b {HOSTILE}.mp4": 1.75, "d.mp4": None, "e.mkv": 3.0}
        older = {name: score and min(5.0, score + 1) for name, score in night.items()}
        patch.setattr(example_lake, "NIGHTS", [{LIBRARY: older}, {LIBRARY: night}])
        example_lake.fill(lake)
    scores = lake.read("scores", LIBRARY)
    assert scores is not None
    events = [{"kind": "freeze", "start_s": 1.0, "end_s": 2.0, "share": 1.0}]
    rows = [row | ({"events": events} if row["status"] == "ok" else {}) for row in scores.to_pylist()]
    lake.write("scores", LIBRARY, rows, run_id="run 1", model_id=example_lake.MODEL)
    return library_page(lake, LIBRARY, no_pictures)


def test_the_page_tells_what_the_tables_hold(page: Page) -> None:
    words = " ".join(" ".join(Elements(page.html).words).split())
    for told in ("share below 3", "corrupt_video", "rescored", "freeze 1.0 s – 2.0 s", "compression", "no picture"):
        assert told in words, told
    assert "0 of 3 scored videos are counted here and not shown one by one" in words
    assert words.count("No picture: the tables hold none") == page.without_picture == 2
    (picture,) = Elements(page.html).of("img")
    assert str(picture["src"]).startswith("data:image/webp;base64,") and "Key frame of" in str(picture["alt"])
    assert (len(page.key_frames), page.taken) == (1, 0)


def test_pictures_are_asked_for_once_and_kept(tmp_path: Path) -> None:
    lake = Lake(str(tmp_path))
    example_lake.fill(lake)
    asked: list[list[str]] = []

    def take(moments: list[Any]) -> tuple[list[dict[str, Any]], dict[str, str]]:
        asked.append([moment.video_id for moment in moments])
        names = ("video_id", "etag", "model_id", "moment_start_s", "moment_end_s")
        return [{name: getattr(one, name) for name in names} | {"picture": b"RIFF"} for one in moments], {}

    first = library_page(lake, "films", take)
    lake.write("key_frames", "films", first.key_frames, run_id="r", model_id="m")
    second = library_page(lake, "films", take)
    assert (len(asked), first.taken, second.taken, second.without_picture) == (1, 2, 0, 0)
    assert first.key_frames == second.key_frames


def test_names_are_text_and_nothing_else(page: Page) -> None:
    elements = Elements(page.html)
    assert len(elements.of("script")) == 3 and len(elements.of("img")) == 1
    assert not [name for _, attributes in elements.found for name in attributes if name.startswith("on")]
    words = "".join(elements.words)
    assert "<img src=x onerror=window.broken=1>{{7*7}}\\u2028\\u202eab'\"&.mp4" in words
    assert "\u202e" not in page.html and "\u2028" not in page.html
    charts = json.loads(elements.code["script"][0])
    assert any("<img src=x" in json.dumps(chart["spec"]) for chart in charts["charts"])


def test_the_page_lets_nothing_run_or_load_but_what_is_in_it(page: Page) -> None:
    elements = Elements(page.html)
    policy = next(str(meta["content"]) for meta in elements.of("meta") if "http-equiv" in meta)
    allowed = dict(part.strip().split(" ", 1) for part in policy.split(";"))
    hashes = [
        f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
        for text in [*elements.code["script"][1:], *elements.code["style"]]
    ]
    assert allowed["default-src"] == "'none'" and allowed["img-src"] == "data:" and "unsafe" not in policy
    assert [*allowed["script-src"].split(), allowed["style-src"]] == hashes
    addresses = [a[name] for _, a in elements.found for name in ("src", "href", "action", "data") if a.get(name)]
    assert all(re.match(r"#|data:image/webp;", str(address)) for address in addresses)


@pytest.mark.parametrize("rows", [[], [None, None], [3.0], [3.0, 4.0]])
def test_small_and_failed_libraries_have_a_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rows: list[float | None]
) -> None:
    lake = Lake(str(tmp_path))
    night: dict[str, Any] = {f"{number}.mp4": score for number, score in enumerate(rows)}
    monkeypatch.setattr(example_lake, "NIGHTS", [{"films": night}])
    example_lake.fill(lake)
    page = library_page(lake, "films", no_pictures)
    scored = sum(score is not None for score in rows)
    assert f"0 of {scored} scored videos" in " ".join(page.html.split())


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Chromium without a window."""
    if CHROMIUM is None:
        pytest.skip("no Chromium on this machine: apt-get install chromium")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as driver:
        # Tests may run as root, for whom Chromium has no sandbox.
        found = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield found
        found.close()


@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (375, "dark")])
def test_a_browser_draws_every_chart_and_asks_for_nothing(
    page: Page, browser: Browser, tmp_path: Path, width: int, scheme: Any
) -> None:
    file = tmp_path / "page.html"
    file.write_text(page.html, encoding="utf-8")
    context = browser.new_context(viewport={"width": width, "height": 800}, color_scheme=scheme)
    tab = context.new_page()
    said: list[str] = []
    tab.on("console", lambda message: said.append(message.text))
    tab.on("pageerror", lambda error: said.append(str(error)))
    tab.on("dialog", lambda dialog: said.append(dialog.message))
    tab.on("request", lambda request: said.append(request.url) if request.url.startswith("http") else None)
    tab.goto(file.as_uri())
    tab.wait_for_selector("html[data-charts]", state="attached")
    charts = len(json.loads(str(tab.locator("#chart-data").text_content()))["charts"])
    assert tab.get_attribute("html", "data-charts") == f"{charts} of {charts}" and charts > 8
    assert tab.locator(".chart svg").count() == charts
    assert said == []
    assert tab.evaluate("window.broken === undefined && document.documentElement.scrollWidth <= innerWidth")

    paper, ink = tab.evaluate(
        "[getComputedStyle(document.body).backgroundColor, getComputedStyle(document.body).color]"
    )
    assert (sum(_rgb(paper)) < sum(_rgb(ink))) == (scheme == "dark")
    labels = tab.evaluate("[...document.querySelectorAll('.chart svg text')].map((e) => getComputedStyle(e).fill)")
    assert labels and {(sum(_rgb(label)) > 380) for label in labels} == {scheme == "dark"}

    tab.keyboard.press("Tab")
    assert tab.evaluate("document.activeElement.className") == "skip"
    tab.keyboard.press("Enter")
    tab.wait_for_url("**#content")
    summary = tab.locator("summary").first
    summary.focus()
    tab.keyboard.press("Enter")
    assert tab.locator("details").first.get_attribute("open") is not None
    assert tab.locator("[role=img][aria-label] > .chart").count() == charts
    context.close()


def _rgb(colour: str) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", colour)[:3]]
