"""The charts of a report, as Vega-Lite.

In: what `facts.py` gives. Out: specifications whose data are plain values; colours are names of the page's CSS
variables, so that the page's light and dark forms hold for charts as well. Draws nothing itself.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

from cpllm_dagster.report.tables import plain
from cpllm_model.scale import LEVELS

Spec = dict[str, Any]

_ACCENT, _SOFT = "var(--accent)", "var(--accent-soft)"
_SCORE_SCALE = {"domain": [1, 5], "zero": False, "nice": False}
_SCORE_AXIS = {"values": [1, 2, 3, 4, 5]}
_SCORE: Spec = {"type": "quantitative", "scale": _SCORE_SCALE, "axis": _SCORE_AXIS, "title": "score"}
_BY_LEVEL: Spec = {
    "field": "level",
    "type": "nominal",
    "scale": {"domain": list(LEVELS), "range": [f"var(--{level})" for level in LEVELS]},
    "legend": None,
}
#: As wide as the page lets it be, at every width.
_WIDE: Spec = {"width": "container", "autosize": {"type": "fit-x", "contains": "padding"}}
#: Labels of values on a time axis: minutes and seconds.
_CLOCK = "floor(datum.value / 60) + ':' + format(floor(datum.value % 60), '02')"
#: Both charts of a timeline have an axis of this width, so that their times stand below one another.
_AXIS_PX = 84

CONFIG: Spec = {
    "background": None,
    "font": "system-ui, sans-serif",
    "aria": False,  # each chart has a text and a table instead of hundreds of marks
    "view": {"stroke": None},
    "axis": {
        "labelColor": "var(--ink)",
        "titleColor": "var(--ink)",
        "gridColor": "var(--line)",
        "domainColor": "var(--line)",
        "tickColor": "var(--line)",
        "labelFontSize": 12,
        "titleFontSize": 12,
        "titleFontWeight": "normal",
        "labelLimit": 170,
    },
    "text": {"color": "var(--ink)", "fontSize": 12},
}


def _field(name: str, kind: str = "quantitative", **more: Any) -> Spec:
    return {"field": name, "type": kind, **more}


def _tips(**titles: str) -> list[Spec]:
    """Give what the pointer shows by field; a title that ends in # is of a number with three digits."""
    return [
        {"field": name, "title": title.removesuffix("#"), **({"format": ",.3~r"} if title.endswith("#") else {})}
        for name, title in titles.items()
    ]


def _chart(layers: list[Spec], **more: Any) -> Spec:
    return _WIDE | {"layer": [layer for layer in layers if layer.get("data", {}).get("values") != []], **more}


def histogram(rows: list[dict[str, Any]]) -> Spec:
    """Draw how many videos have which score."""
    values = [row | {"level": LEVELS[min(int(row["score_from"] + 0.5), 5) - 1]} for row in rows]
    x = _field("score_from", title="score (1 bad, 5 excellent)", scale=_SCORE_SCALE, axis=_SCORE_AXIS, bin="binned")
    encoding = {
        "x": x,
        "x2": {"field": "score_to"},
        "y": _field("videos", title="videos", axis={"tickMinStep": 1}),
        "color": _BY_LEVEL,
        "tooltip": _tips(score_from="from", score_to="to", videos="videos"),
    }
    return _chart(
        [{"mark": {"type": "bar", "binSpacing": 2}, "encoding": encoding}], height=200, data={"values": values}
    )


def nights(rows: list[dict[str, Any]]) -> Spec:
    """Draw the course of a library's scores from run to run."""
    names = ("score_p5", "score_p25", "score_median", "score_p75", "videos", "failed_videos", "model_id")
    values = [{"at": row["recorded_at"].isoformat()} | {name: row[name] for name in names} for row in rows]
    new_models = [new for old, new in pairwise(values) if old["model_id"] != new["model_id"]]
    x = _field("at", "temporal", title=None, scale={"type": "utc"})
    y = _SCORE
    tips = _tips(
        at="run", score_median="median#", score_p5="5 % lie below#", videos="videos", failed_videos="without a score",
        model_id="model",
    )  # fmt: skip
    return _chart(
        [
            {
                "mark": {"type": "area", "color": _SOFT},
                "encoding": {"x": x, "y": y | {"field": "score_p25"}, "y2": {"field": "score_p75"}},
            },
            {
                "mark": {"type": "line", "color": _ACCENT, "strokeDash": [4, 3], "strokeWidth": 1.5},
                "encoding": {"x": x, "y": y | {"field": "score_p5"}},
            },
            {
                "mark": {"type": "line", "color": _ACCENT, "point": {"color": _ACCENT, "size": 36}},
                "encoding": {"x": x, "y": y | {"field": "score_median"}, "tooltip": tips},
            },
            {
                "data": {"values": new_models},
                "mark": {"type": "rule", "color": "var(--bad)", "strokeDash": [2, 2]},
                "encoding": {"x": x, "tooltip": _tips(at="new model", model_id="model")},
            },
        ],
        height=200,
        data={"values": values},
    )


def _time_axis(duration_s: float, title: str | None) -> Spec:
    axis = {"labelExpr": _CLOCK, "tickCount": 6, "labelFlush": True} if title else None
    return {"scale": {"domain": [0, duration_s], "nice": False}, "title": title, "axis": axis}


def timeline(video: dict[str, Any]) -> list[Spec]:
    """Draw the scores of a video's segments over its time, and below what was found when."""
    duration_s = max([segment["end_s"] for segment in video["segments"]] or [video["duration_s"] or 1.0])
    found = found_in_time(video)
    x = _field("start_s", **_time_axis(duration_s, None if found else "time (min:s)"))
    y = _field(
        "score",
        scale=_SCORE_SCALE,
        title="score",
        axis={"values": [1, 3, 5], "minExtent": _AXIS_PX, "maxExtent": _AXIS_PX, "titleX": -40},
    )
    x2, clear = {"field": "end_s"}, {"aria": False}
    tips = _tips(start_s="from (s)#", end_s="to (s)#", score="score#", level="level")
    segments = _chart(
        [
            {
                "transform": [{"filter": "datum.score === null"}],
                "layer": [
                    {
                        "mark": {"type": "rect", "color": "var(--no-picture)", **clear},
                        "encoding": {"x": x, "x2": x2, "tooltip": {"value": "no picture in this segment: no score"}},
                    },
                    {
                        "transform": [
                            {"calculate": "(datum.start_s + datum.end_s) / 2", "as": "middle_s"},
                            {"filter": f"datum.end_s - datum.start_s > {duration_s} / 6"},
                        ],
                        "mark": {"type": "text", "text": "no picture", "fontSize": 11},
                        "encoding": {"x": x | {"field": "middle_s"}, "y": {"value": 40}},
                    },
                ],
            },
            {
                "transform": [{"filter": "datum.score !== null"}],
                "layer": [
                    {
                        "mark": {"type": "rect", "opacity": 0.35},
                        "encoding": {"x": x, "x2": x2, "y": y, "y2": {"datum": 1}, "color": _BY_LEVEL, "tooltip": tips},
                    },
                    {
                        "mark": {"type": "rule", "strokeWidth": 3},
                        "encoding": {"x": x, "x2": x2, "y": y, "color": _BY_LEVEL, "tooltip": tips},
                    },
                ],
            },
        ],
        height=80,
        data={"values": video["segments"]},
    )
    if not found:
        return [segments]
    lanes = _WIDE | {
        "height": 15 * len({one["what"] for one in found}),
        "data": {"values": found},
        "mark": {"type": "bar", "cornerRadius": 2, "minBandSize": 3},
        "encoding": {
            "x": _field("start_s", **_time_axis(duration_s, "time (min:s)")),
            "x2": x2,
            "y": _field(
                "what",
                "nominal",
                title=None,
                sort=None,
                axis={"minExtent": _AXIS_PX, "maxExtent": _AXIS_PX, "labelFontSize": 11, "ticks": False},
            ),
            "color": {
                "field": "is_event",
                "type": "nominal",
                "scale": {"domain": [True, False], "range": ["var(--event)", "var(--distortion)"]},
                "legend": None,
            },
            "tooltip": _tips(what="found", start_s="from (s)#", end_s="to (s)#", share="share of the frame#"),
        },
    }
    return [segments, lanes]


def found_in_time(video: dict[str, Any]) -> list[dict[str, Any]]:
    """Give the events of a video and the times of its distortions, the events first."""
    events = [{"what": e["kind"], "is_event": True} | e for e in video["events"]]
    distortions = [{"what": d["name"], "is_event": False, "share": None} | d for d in video["distortion_times"]]
    names = ("what", "is_event", "start_s", "end_s", "share")
    return [{name: one[name] for name in names} for one in [*events, *distortions]]


def distortions(rows: list[dict[str, Any]]) -> Spec:
    """Draw in which share of the videos each family of distortions is named."""
    y = _field("name", "nominal", title=None, sort=None)
    x = _field("share", title="share of the scored videos", axis={"format": "~%", "tickCount": 5}, scale={"nice": True})
    tips = _tips(name="distortion", videos="videos", score_mean="their mean score#", severity_mean="mean severity#")
    bars = {"mark": {"type": "bar", "color": _ACCENT}, "encoding": {"x": x, "y": y, "tooltip": tips}}
    values = [row for row in rows if row["videos"]]
    return _chart([bars], height=22 * len(values), data={"values": values})


def codecs(rows: list[dict[str, Any]]) -> Spec:
    """Draw the ranges of scores of each codec: 5 to 95 %, 25 to 75 %, median."""
    values = [row | {"label": f"{plain(row['codec'])} ({row['videos']:,})"} for row in rows]
    y = _field("label", "nominal", title=None, sort=None)
    x = _SCORE
    tips = _tips(
        label="codec", p5="5 % lie below#", p25="25 % lie below#", p50="median#", p75="75 % lie below#",
        p95="95 % lie below#",
    )  # fmt: skip
    thin = {"x": x | {"field": "p5"}, "x2": {"field": "p95"}, "y": y, "tooltip": tips}
    thick = {"x": x | {"field": "p25"}, "x2": {"field": "p75"}, "y": y, "tooltip": tips}
    return _chart(
        [
            {"mark": {"type": "rule", "color": _ACCENT}, "encoding": thin},
            {"mark": {"type": "bar", "color": _SOFT, "stroke": _ACCENT, "size": 12}, "encoding": thick},
            {
                "mark": {"type": "tick", "color": "var(--ink)", "thickness": 2, "size": 16},
                "encoding": {"x": x | {"field": "p50"}, "y": y, "tooltip": tips},
            },
        ],
        height=26 * len(values),
        data={"values": values},
    )


def rates(ranges: list[dict[str, Any]], points: list[dict[str, Any]]) -> Spec:
    """Draw scores over bits per pixel: single videos, and where half of all videos lie."""
    dots = [row | {"file_name": plain(row["file_name"]), "codec": plain(row["codec"])} for row in points]
    x = _field("bits_per_pixel", title="bits per pixel (logarithmic)", scale={"type": "log", "nice": False})
    x["axis"] = {"format": "~g", "values": [step * 10**power for power in range(-4, 2) for step in (1, 2, 5)]}
    y = _SCORE
    tips = _tips(bits_per_pixel="bits per pixel#", videos="videos", p25="25 % lie below#", p50="median#",
                 p75="75 % lie below#")  # fmt: skip
    dot_tips = _tips(file_name="video", score="score#", bits_per_pixel="bits per pixel#", codec="codec")
    return _chart(
        [
            {
                "data": {"values": ranges},
                "mark": {"type": "area", "color": _SOFT},
                "encoding": {"x": x, "y": y | {"field": "p25"}, "y2": {"field": "p75"}},
            },
            {
                "data": {"values": dots},
                "mark": {"type": "point", "filled": True, "size": 30, "opacity": 0.7},
                "encoding": {"x": x, "y": y | {"field": "score"}, "color": _BY_LEVEL, "tooltip": dot_tips},
            },
            {
                "data": {"values": ranges},
                "mark": {"type": "line", "color": "var(--ink)", "point": {"color": "var(--ink)", "size": 30}},
                "encoding": {"x": x, "y": y | {"field": "p50"}, "tooltip": tips},
            },
        ],
        height=260,
    )


def ranking(rows: list[dict[str, Any]]) -> Spec:
    """Draw the strengths of the first and the last videos with their 95 % intervals."""
    values: list[dict[str, Any]] = []
    labels: set[str] = set()
    for row in rows:
        between = row["place"] - (values[-1]["place"] if values else 0) - 1
        if between:
            values.append({"label": "…", "place": row["place"] - 1, "between": f"{between:,} more"})
        label = f"{row['rank']}. {plain(row['file_name'])}"
        while label in labels:  # videos of one name and rank have rows of their own
            label += "\u200b"
        labels.add(label)
        reach = 1.96 * row["strength_se"]
        values.append(
            {name: row[name] for name in ("place", "strength", "score")}
            | {"label": label, "low": row["strength"] - reach, "high": row["strength"] + reach}
        )
    y = _field("label", "nominal", title=None, sort=[value["label"] for value in values])
    x = _field("strength", scale={"zero": False}, title="strength (log-odds)", axis={"tickCount": 6})
    tips = _tips(label="video", strength="strength#", low="from#", high="to#", score="score#")
    interval = {"x": x | {"field": "low"}, "x2": {"field": "high"}, "y": y, "tooltip": tips}
    return _chart(
        [
            {"mark": {"type": "rule", "color": _ACCENT, "strokeWidth": 2}, "encoding": interval},
            {
                "mark": {"type": "point", "filled": True, "color": _ACCENT, "size": 50},
                "encoding": {"x": x, "y": y, "tooltip": tips},
            },
            {
                "transform": [{"filter": "isValid(datum.between)"}],
                "mark": {"type": "text", "fontStyle": "italic"},
                "encoding": {"y": y, "text": {"field": "between"}},
            },
        ],
        height=18 * len(values),
        data={"values": values},
    )
