"""The table `videos` as a query over the other tables, what an analyst starts from; `events`, one a row; conditions.

Out: SQL for DuckDB, which is the view `videos` of `cpllm sql` and makes the published table of the same name, so that
both always have the same columns and values. Knows nothing of files.
"""

from __future__ import annotations

from cpllm_dagster.lake.schemas import severity_column
from cpllm_model.scale import DISTORTIONS


def _severity(family: str) -> str:
    found = f"list_filter(d.distortions, lambda x: x.name = '{family}')[1].severity"
    return f"{found} AS {severity_column(family)}"


_NAMED = (
    "list_transform(list_sort(list_transform(list_filter(d.distortions, lambda x: x.named), "
    "lambda x: {'severity': -x.severity, 'name': x.name})), lambda x: x.name)"
)
#: Where among the segments the lowest score is; segments without a picture have none.
_WORST = "list_position(s.segment_score, list_min(s.segment_score))"

_VIDEOS = f"""
SELECT
    s.library, s.video_id, s.uri, s.key, parse_filename(coalesce(s.key, s.uri), false, 'forward_slash') AS file_name,
    s.status, s.error_type, s.error_message, s.score, s.score_std, s.level, r.rank, r.percentile,
    coalesce(s.score_worst, list_min(s.segment_score)) AS score_worst,
    coalesce(s.worst_start_s, s.segment_start_s[{_WORST}]) AS worst_start_s,
    coalesce(s.worst_end_s, s.segment_end_s[{_WORST}], s.segment_start_s[{_WORST} + 1], c.duration_s) AS worst_end_s,
    d.description, {_NAMED} AS named_distortions,
    {", ".join(map(_severity, DISTORTIONS))},
    c.codec, c.width_px, c.height_px, c.fps, c.duration_s, c.size_bytes, c.bit_rate_bps,
    c.bit_rate_bps / nullif(c.width_px * c.height_px * c.fps, 0) AS bits_per_pixel,
    s.etag, s.model_id, s.scored_at
FROM scores s
LEFT JOIN catalog c ON c.library = s.library AND c.video_id = s.video_id AND c.etag = s.etag
LEFT JOIN descriptions d ON d.library = s.library AND d.video_id = s.video_id AND d.etag = s.etag
    AND d.model_id = s.model_id
LEFT JOIN rankings r ON r.library = s.library AND r.video_id = s.video_id AND r.model_id = s.model_id
"""  # noqa: S608 # families are the model's own words

#: A row for each event of each video.
_EVENTS = """
SELECT s.library, s.video_id, s.key, e.kind, e.start_s, e.end_s, e.share
FROM scores s, unnest(s.events) AS found(e)
"""

VIEWS = {"videos": _VIDEOS, "events": _EVENTS}

#: Which rows of its files a table has: those of versions that are scored.
CONDITIONS = {
    "features": "SEMI JOIN (FROM scores WHERE status = 'ok') USING (library, video_id, etag, model_id)",
}
