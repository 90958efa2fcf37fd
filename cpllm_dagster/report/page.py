"""The report of a library as one HTML file that needs neither a server nor a network.

In: a lake, a library and a way to take pictures of videos. Out: the page, with its charting library, pictures and data
inside. What users name is data: Jinja escapes it, the data of charts stand in a JSON block, and the page's own policy
lets it run two known scripts and load nothing.
"""

from __future__ import annotations

import base64
import functools
import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import resources
from typing import Any

from cpllm_dagster.lake.tables import Lake
from cpllm_dagster.report import charts
from cpllm_dagster.report.facts import library_facts, moments
from cpllm_dagster.report.key_frames import Moment
from cpllm_dagster.report.tables import plain, printable
from cpllm_model.errors import ConfigurationError
from cpllm_model.scale import EVENTS

#: Gives rows of the table `key_frames`, and by video id why a video has no picture.
TakePictures = Callable[[list[Moment]], tuple[list[dict[str, Any]], dict[str, str]]]
#: Events and distortion times of a video that are listed in words.
FOUND_LISTED = 6
_UNKNOWN = "—"


@dataclass(frozen=True)
class Page:
    """A report.

    Args:
        html: all of it.
        key_frames: its pictures, as rows of the table of this name.
        taken: how many of them are new.
        without_picture: videos that are shown without one.
    """

    html: str
    key_frames: list[dict[str, Any]]
    taken: int
    without_picture: int


def library_page(lake: Lake, library: str, take: TakePictures) -> Page:
    """Make the report of a library.

    Args:
        lake: where its tables are.
        library: its true name; it has been scored.
        take: asked for pictures that are missing in the table `key_frames`.

    Raises:
        ConfigurationError: the charting library is not installed, or what `take` raises.
    """
    with lake.connect(library) as connection:
        facts = library_facts(connection)
        wanted = moments(connection, facts)
    kept = _kept(lake, library, wanted)
    missing = [moment for moment in wanted if moment.video_id not in kept]
    taken, reasons = take(missing) if missing else ([], {})
    rows = [*kept.values(), *taken]
    pictures = {row["video_id"]: base64.b64encode(row["picture"]).decode() for row in rows}
    without = len(facts["worst"]) + len(facts["best"]) - len(rows)
    return Page(render(library, facts, pictures, reasons), rows, len(taken), without)


def no_pictures(moments: list[Moment]) -> tuple[list[dict[str, Any]], dict[str, str]]:
    """Take no picture, for want of the videos."""
    why = "the tables hold none, and the videos were not at hand when this page was made (--catalog)"
    return [], {moment.video_id: why for moment in moments}


def _kept(lake: Lake, library: str, wanted: list[Moment]) -> dict[str, dict[str, Any]]:
    """Give the pictures that an earlier report took of the same versions and moments, by video id."""
    table = lake.read("key_frames", library)
    names = ("video_id", "etag", "model_id", "moment_start_s", "moment_end_s")
    there = {tuple(row[name] for name in names): row for row in table.to_pylist()} if table is not None else {}
    found = {moment.video_id: there.get(tuple(getattr(moment, name) for name in names)) for moment in wanted}
    return {video_id: row for video_id, row in found.items() if row is not None}


def render(library: str, facts: dict[str, Any], pictures: dict[str, str], reasons: dict[str, str]) -> str:
    """Write the page.

    Args:
        library: its true name.
        facts: of `library_facts`.
        pictures: WebP in base64 by video id.
        reasons: by video id, why a video has no picture.
    """
    drawn = _drawn(facts)
    scripts = {"library": chart_library(), "page": _file("page.js")}
    style = _file("page.css")
    return (
        _environment()
        .get_template("library.html.jinja")
        .render(
            library=library,
            made_at=datetime.now(UTC),
            **facts,
            pictures=pictures,
            reasons=reasons,
            event_meanings=EVENTS,
            charts={name for name, _ in drawn},
            chart_data={"config": charts.CONFIG, "charts": [{"id": name, "spec": spec} for name, spec in drawn]},
            scripts=scripts,
            style=style,
            policy=_policy(list(scripts.values()), style),
        )
    )


def _drawn(facts: dict[str, Any]) -> list[tuple[str, charts.Spec]]:
    """Give id and specification of each chart for which there are data, in the order of the page."""
    found = []
    if facts["histogram"]:
        found.append(("chart-scores", charts.histogram(facts["histogram"])))
    nights = [night for night in facts["nights"] if night["score_median"] is not None]
    if len(nights) > 1:
        found.append(("chart-nights", charts.nights(nights)))
    for video in [*facts["worst"], *facts["best"]]:
        if video["segments"]:
            for number, spec in enumerate(charts.timeline(video)):
                found.append((f"chart-{video['video_id']}-{number}", spec))
    if any(row["videos"] for row in facts["distortions"]):
        found.append(("chart-distortions", charts.distortions(facts["distortions"])))
    if facts["codecs"]:
        found.append(("chart-codecs", charts.codecs(facts["codecs"])))
    if facts["points"]:
        found.append(("chart-rates", charts.rates(facts["rates"], facts["points"])))
    if facts["ranking"]:
        found.append(("chart-ranking", charts.ranking(facts["ranking"])))
    return found


@functools.cache
def chart_library() -> str:
    """Give Vega, Vega-Lite and Vega-Embed as one script.

    Raises:
        ConfigurationError: they are not installed.
    """
    try:
        import vl_convert
    except ImportError as error:
        raise ConfigurationError(
            f"the charts of a report need the package vl-convert-python ({error}): pip install 'cpllm[platform]'"
        ) from None
    # Nothing in it may end the script element that it stands in.
    return vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;").replace("</script", "<\\/script")


def _policy(scripts: list[str], style: str) -> str:
    """Give the Content-Security-Policy: these scripts, this style, pictures in the page, and no address at all."""

    def digest(text: str) -> str:
        return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"

    return (
        f"default-src 'none'; script-src {' '.join(map(digest, scripts))}; style-src {digest(style)}; "
        "img-src data:; base-uri 'none'; form-action 'none'"
    )


def _file(name: str) -> str:
    return (resources.files("cpllm_dagster.report") / "templates" / name).read_text(encoding="utf-8")


@functools.cache
def _environment() -> Any:
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("cpllm_dagster", "report/templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        finalize=_shown,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "plain": plain,
        "number": lambda value, digits=2: _UNKNOWN if value is None else f"{value:,.{digits}f}",
        "signed": lambda value: _UNKNOWN if value is None else f"{value:+.2f}",
        "percent": lambda value: _UNKNOWN if value is None else f"{100 * value:.1f} %",
        "clock": _clock,
        "moment": lambda value: f"{value:%Y-%m-%d %H:%M} UTC",
        "found": lambda video: charts.found_in_time(video),
    }
    environment.globals["found_listed"] = FOUND_LISTED
    return environment


def _shown(value: object) -> object:
    """Give what a template prints: text in characters that print, however it came here."""
    return printable(value) if type(value) is str else value


def _clock(seconds: float | None) -> str:
    """Give a time as seconds below a minute, else as minutes or hours."""
    if seconds is None:
        return _UNKNOWN
    if seconds < charts.MINUTE_S:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
