"""What the report of a library tells, by SQL over its tables.

In: a DuckDB connection that sees one library. Out: plain dicts and lists, a few hundred rows whatever the size of the
library: all that is counted is counted in SQL. Decides what is shown, and how much of it is left out.
"""

from __future__ import annotations

from typing import Any

import duckdb

from cpllm_dagster.report.key_frames import Moment
from cpllm_model.scale import level_of

#: Videos that are shown with a picture, at each end.
SHOWN = 12
#: Rows of the ranking that are shown at each end.
RANKED = 15
#: Videos that are drawn as points; of more a sample is drawn.
POINTS = 500
CODECS, EXAMPLES, MOVED, NIGHTS = 12, 3, 10, 400
#: Fewer videos give no range that says anything.
LEAST_IN_RANGE = 5

#: What is counted is read once; descriptions and segments of few videos are read later.
_SCORED = """
CREATE TEMP TABLE listed AS
SELECT video_id, coalesce(key, uri) AS key, file_name, status, error_type, error_message, score, score_std, level,
    codec, bits_per_pixel, rank, model_id, scored_at
FROM videos
"""
_SUMMARY = """
SELECT count(*) AS videos, count(score) AS scored, count(*) - count(score) AS failed, avg(score) AS score_mean,
    quantile_cont(score, 0.05) AS score_p5, median(score) AS score_median, quantile_cont(score, 0.95) AS score_p95,
    count_if(score < 3) / nullif(count(score), 0) AS share_below_3, list_sort(list(DISTINCT model_id)) AS model_ids,
    max(scored_at) AS scored_at
FROM listed
"""
_HISTOGRAM = """
SELECT 1 + 0.25 * bin AS score_from, 1.25 + 0.25 * bin AS score_to, count(*) AS videos
FROM (SELECT least(floor((score - 1) / 0.25), 15) AS bin FROM listed WHERE score IS NOT NULL) GROUP BY bin ORDER BY bin
"""
#: The lowest scores and the highest; a video is never at both ends.
_ENDS = """
WITH placed AS (
    SELECT video_id, row_number() OVER (ORDER BY score, video_id) AS place, count(*) OVER () AS scored
    FROM listed WHERE score IS NOT NULL
), ends AS (
    SELECT video_id, place, place <= least($shown, ceil(scored / 2)) AS is_worst FROM placed
    WHERE place <= least($shown, ceil(scored / 2)) OR place > scored - least($shown, floor(scored / 2))
)
SELECT ends.is_worst, v.*, s.segment_start_s, s.segment_end_s, s.segment_score, s.events, d.distortion_times,
    list_transform(list_filter(d.distortions, lambda x: x.named), lambda x: {'name': x.name, 'severity': x.severity})
        AS named
FROM ends JOIN videos v USING (video_id) JOIN scores s USING (video_id)
LEFT JOIN descriptions d ON d.video_id = v.video_id AND d.etag = v.etag AND d.model_id = v.model_id
ORDER BY ends.is_worst DESC, CASE WHEN ends.is_worst THEN ends.place ELSE -ends.place END
"""
_DISTORTIONS = """
SELECT x.name, count_if(x.named) AS videos, count_if(x.named) / count(*) AS share,
    avg(s.score) FILTER (x.named) AS score_mean, avg(x.severity) FILTER (x.named) AS severity_mean
FROM (SELECT video_id, etag, model_id, unnest(distortions) AS x FROM descriptions) JOIN scores s
    USING (video_id, etag, model_id)
GROUP BY x.name ORDER BY videos DESC, x.name
"""
_EVENTS = """
SELECT kind, count(DISTINCT video_id) AS videos, count(*) AS events, sum(end_s - start_s) AS total_s
FROM events GROUP BY kind ORDER BY videos DESC, kind
"""
_RANGES = """
count(*) AS videos, quantile_cont(score, 0.05) AS p5, quantile_cont(score, 0.25) AS p25, median(score) AS p50,
quantile_cont(score, 0.75) AS p75, quantile_cont(score, 0.95) AS p95
"""
_CODECS = f"""
SELECT coalesce(codec, 'unknown') AS codec, {_RANGES} FROM listed WHERE score IS NOT NULL
GROUP BY ALL ORDER BY videos DESC, codec
"""  # noqa: S608 # constants of this file
#: Half-octaves of bits per pixel.
_RATES = f"""
SELECT 2 ** ((bin + 0.5) / 2) AS bits_per_pixel, {_RANGES}
FROM (SELECT floor(2 * log2(bits_per_pixel)) AS bin, score FROM listed WHERE score IS NOT NULL AND bits_per_pixel > 0)
GROUP BY bin HAVING count(*) >= {LEAST_IN_RANGE} ORDER BY bin
"""  # noqa: S608
_WITH_RATE = "SELECT count(*) FROM listed WHERE score IS NOT NULL AND bits_per_pixel > 0"
#: Ids are digests, so that the first by id are a fair sample, and the same one every night.
_POINTS = f"""
SELECT bits_per_pixel, score, file_name, codec, level FROM listed WHERE score IS NOT NULL AND bits_per_pixel > 0
ORDER BY video_id LIMIT {POINTS}
"""  # noqa: S608
_RANKING = f"""
WITH placed AS (
    SELECT r.rank, r.strength, r.strength_se, r.comparisons, l.file_name, l.key, l.score,
        row_number() OVER (ORDER BY r.rank, r.video_id) AS place, count(*) OVER () AS ranked
    FROM rankings r JOIN listed l USING (video_id)
)
SELECT * FROM placed WHERE place <= {RANKED} OR place > ranked - {RANKED} ORDER BY place
"""  # noqa: S608
_FAILURES = f"""
SELECT error_type, count(*) AS videos, arg_min(key, video_id, {EXAMPLES}) AS examples,
    arg_min(error_message, video_id) AS message
FROM listed WHERE status = 'failed' GROUP BY error_type ORDER BY videos DESC, error_type
"""  # noqa: S608
_NIGHTS = f"SELECT * FROM nights ORDER BY recorded_at DESC, run_id LIMIT {NIGHTS}"  # noqa: S608
_CHANGES = """
SELECT change, count(*) AS videos, avg(score - previous_score) AS score_change
FROM score_history WHERE run_id = $run_id GROUP BY change ORDER BY videos DESC, change
"""
_MOVED = f"""
SELECT coalesce(key, video_id) AS key, change, previous_score, score, score - previous_score AS difference
FROM score_history WHERE run_id = $run_id AND score <> previous_score
ORDER BY {{order}}, key LIMIT {MOVED}
"""  # noqa: S608
_NEWLY_FAILED = f"""
SELECT coalesce(key, video_id) AS key, error_type FROM score_history
WHERE run_id = $run_id AND status = 'failed' ORDER BY key LIMIT {MOVED}
"""  # noqa: S608
_MOMENT_SIZES = "SELECT video_id, size_bytes FROM catalog WHERE list_contains($ids, video_id)"


def library_facts(connection: duckdb.DuckDBPyConnection) -> dict[str, Any]:
    """Give all that the report tells.

    Args:
        connection: of `Lake.connect` with the library; a temporary table is made in it.

    Returns:
        Sections by name. Shares are 0-1; what is unknown is None.
    """
    connection.execute(_SCORED)
    (summary,) = _rows(connection, _SUMMARY)
    codecs = _rows(connection, _CODECS)
    with_rate = connection.execute(_WITH_RATE).fetchall()[0][0]
    ends = [_with_times(row) for row in _rows(connection, _ENDS, {"shown": SHOWN})]
    return {
        "summary": summary,
        "histogram": _rows(connection, _HISTOGRAM),
        "worst": [row for row in ends if row["is_worst"]],
        "best": [row for row in ends if not row["is_worst"]],
        "distortions": _rows(connection, _DISTORTIONS),
        "events": _rows(connection, _EVENTS),
        "codecs": codecs[:CODECS],
        "other_codecs": {"codecs": len(codecs[CODECS:]), "videos": sum(row["videos"] for row in codecs[CODECS:])},
        "rates": _rows(connection, _RATES),
        "points": _rows(connection, _POINTS),
        "with_rate": with_rate,
        "ranking": _rows(connection, _RANKING),
        "failures": _rows(connection, _FAILURES),
    } | _history(connection)


def _history(connection: duckdb.DuckDBPyConnection) -> dict[str, Any]:
    nights = _rows(connection, _NIGHTS)[::-1]
    found: dict[str, Any] = {"nights": nights, "changes": [], "fallen": [], "risen": [], "newly_failed": []}
    if not nights:
        return found
    last = {"run_id": nights[-1]["run_id"]}
    fallen = _rows(connection, _MOVED.format(order="difference"), last)
    risen = _rows(connection, _MOVED.format(order="difference DESC"), last)
    return found | {
        "changes": _rows(connection, _CHANGES, last),
        "fallen": [row for row in fallen if row["difference"] < 0],
        "risen": [row for row in risen if row["difference"] > 0],
        "newly_failed": _rows(connection, _NEWLY_FAILED, last),
    }


def moments(connection: duckdb.DuckDBPyConnection, facts: dict[str, Any]) -> list[Moment]:
    """Give the videos of a report that pictures are wanted of: of the worst their worst segment, else the best.

    Args:
        connection: the one of `library_facts`.
        facts: what it gave.
    """
    shown = [*facts["worst"], *facts["best"]]
    ids = {"ids": [row["video_id"] for row in shown]}
    size_of = dict(connection.execute(_MOMENT_SIZES, ids).fetchall()) if shown else {}
    names = ("video_id", "uri", "etag", "model_id", "moment_start_s", "moment_end_s")
    return [
        Moment(**{name: row[name] for name in names}, size_bytes=size_of[row["video_id"]])
        for row in shown
        if row["video_id"] in size_of
    ]


def _with_times(row: dict[str, Any]) -> dict[str, Any]:
    """Give a video with its segments as a list, what was found in time, and the moment of its picture."""
    starts, scores = row.pop("segment_start_s") or [], row.pop("segment_score") or []
    # Files of earlier versions have no ends: a segment ends where the next begins.
    ends = row.pop("segment_end_s") or [*starts[1:], row["duration_s"] or (starts[-1] + 1 if starts else 0.0)]
    segments = [
        {"start_s": start_s, "end_s": end_s, "score": score, "level": None if score is None else level_of(score)}
        for start_s, end_s, score in zip(starts, ends, scores, strict=False)
    ]
    seen = [segment for segment in segments if segment["score"] is not None] or segments
    sign = 1 if row["is_worst"] else -1
    moment = min(seen, key=lambda segment: sign * (segment["score"] or 0.0), default={"start_s": 0.0, "end_s": 0.0})
    if row["is_worst"] and row["worst_start_s"] is not None and row["worst_end_s"] is not None:
        moment = {"start_s": row["worst_start_s"], "end_s": row["worst_end_s"]}
    named = sorted(row.pop("named") or [], key=lambda one: -one["severity"])
    return row | {
        "segments": segments,
        "events": row["events"] or [],
        "distortion_times": row["distortion_times"] or [],
        "named": named,
        "moment_start_s": moment["start_s"],
        "moment_end_s": moment["end_s"],
    }


def _rows(
    connection: duckdb.DuckDBPyConnection, query: str, parameters: dict[str, Any] | None = None
) -> list[dict[str, Any]]:
    answer = connection.execute(query, parameters or {})
    names = [column[0] for column in answer.description or []]
    return [dict(zip(names, row, strict=True)) for row in answer.fetchall()]
