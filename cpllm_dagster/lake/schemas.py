"""The data dictionary: every column of every table, its type, whether it may be null, and what it means.

Out: Arrow schemas whose fields carry their sentence under the metadata key `comment`. It goes from here into the
Parquet files, Dagster's column schema, `cpllm sql --describe` and docs/tables.md. Knows nothing of files or rows.
"""

from __future__ import annotations

import pyarrow as pa

from cpllm_model.errors import LakeError
from cpllm_model.scale import DISTORTIONS, SCENE_FACTS

#: Raised when columns of published tables change their names or types; older files are read as RENAMED says.
SCHEMA_VERSION = 2
COMMENT = b"comment"


def _always(name: str, kind: pa.DataType, sentence: str) -> pa.Field:
    """A column that has a value in every row."""
    return pa.field(name, kind, nullable=False, metadata={COMMENT: sentence})


def _maybe(name: str, kind: pa.DataType, sentence: str) -> pa.Field:
    """A column that may be null."""
    return pa.field(name, kind, metadata={COMMENT: sentence})


_text, _real, _count = pa.string(), pa.float64(), pa.int64()
# Comparisons name each video many times: in memory a name is a number into a list of names, in files it is text.
_name = pa.dictionary(pa.int32(), _text)
_moment = pa.timestamp("us", tz="UTC")
_distortion = pa.struct([("name", _text), ("severity", _real), ("probability", _real), ("named", pa.bool_())])
_stretch = pa.struct([("name", _text), ("start_s", _real), ("end_s", _real)])
_event = pa.struct([("kind", _text), ("start_s", _real), ("end_s", _real), ("share", _real)])
_scene = pa.struct([(name, _text) for name in SCENE_FACTS])
_failures = pa.list_(pa.struct([("error_type", _text), ("videos", _count)]))

_VIDEO_ID = _always("video_id", _text, "Id of the video: the first 16 hex digits of the SHA-256 of its `uri`.")
_URI = _always("uri", _text, "Address of the video: `s3://bucket/key` or `file://` and the path; never percent-quoted.")
_KEY = _maybe("key", _text, "Key of the object in its bucket, or path of the file below the catalogue's folder.")
_ETAG = _always("etag", _text, "Version of the video's bytes: the ETag of the listing, or size and time without one.")
_MODEL_ID = _always("model_id", _text, "Model that answered: its name and a digest of weights, settings and sampling.")
_STATUS = _always("status", _text, "`ok` if the video has a score, `failed` if it has none.")
_ERROR_TYPE = _maybe("error_type", _text, "Reason why the video has no score; null if it has one.")
_ERROR_MESSAGE = _maybe("error_message", _text, "The reason in words; null if the video has a score.")
_SCORE = _maybe("score", _real, "Quality from 1 (bad) to 5 (excellent), ITU-T P.910; null if the video failed.")
_SCORE_STD = _maybe("score_std", _real, "Uncertainty of `score`: 68 % of ratings are expected within one of it.")
_LEVEL = _maybe("level", _text, "Word nearest to `score`: bad, poor, fair, good or excellent.")
_SCORED_AT = _always("scored_at", _moment, "Time at which the answer, or the failure, was found.")
_RANK = _always("rank", _count, "Place of the video in its library by pairwise comparisons; 1 is the best.")
_PERCENTILE = _always(
    "percentile", _real, "Percentage of the library's other videos that this one beats; ties count half."
)
_DESCRIPTION = _always("description", _text, "What the video looks like, in words.")
_SEGMENT_START = _maybe("segment_start_s", pa.list_(_real), "Start of each segment on the video's clock, in seconds.")
_SCORE_WORST = _maybe("score_worst", _real, "Lowest score of a segment; null if no segment has one.")
_WORST_START = _maybe("worst_start_s", _real, "Start of the segment with the lowest score, in seconds.")
_WORST_END = _maybe("worst_end_s", _real, "End of the segment with the lowest score, in seconds.")
_DURATION = _maybe("duration_s", _real, "Duration of the video stream in seconds; null if it could not be probed.")
_WIDTH = _maybe("width_px", _count, "Width as displayed, in pixels.")
_HEIGHT = _maybe("height_px", _count, "Height as displayed, in pixels.")
_FPS = _maybe("fps", _real, "Mean frame rate, in frames a second.")
_CODEC = _maybe("codec", _text, "Name of the coding format, such as h264.")
_BIT_RATE = _maybe("bit_rate_bps", _count, "Bit rate of the video stream, else of the file, in bits a second.")
_RUN_ID = _always("run_id", _text, "Run that recorded this row.")
_RECORDED_AT = _always("recorded_at", _moment, "Time at which the run recorded this row.")


def _nullable(field: pa.Field) -> pa.Field:
    return field.with_nullable(True)


def _required(field: pa.Field) -> pa.Field:
    return field.with_nullable(False)


def severity_column(family: str) -> str:
    """Give the name of the column of a family of distortions in the table `videos`."""
    return f"{family.replace(' ', '_')}_severity"


#: What can happen to a video from one run to the next.
CHANGES = ("new", "changed", "rescored", "failed", "recovered", "removed")

#: The columns of every table but the partition column `library`, which stands in the path.
SCHEMAS: dict[str, pa.Schema] = {
    "catalog": pa.schema(
        [
            _VIDEO_ID,
            _URI,
            _KEY,
            _ETAG,
            _always("size_bytes", _count, "Size of the file."),
            _maybe("last_modified", _moment, "Time of the last change that the storage names; null if it names none."),
            _DURATION,
            _WIDTH,
            _HEIGHT,
            _FPS,
            _CODEC,
            _maybe("pixel_format", _text, "libav's name of the pixel format, such as yuv420p10le."),
            _maybe("rotation_deg", _count, "Clockwise turn applied for display: 0, 90, 180 or 270 degrees."),
            _BIT_RATE,
            _always("probe_status", _text, "`ok` if the file's header could be read, `failed` if not."),
            _maybe("probe_error_type", _text, "Reason why the header could not be read; null if it could."),
            _maybe("probe_error_message", _text, "That reason in words; null if the header could be read."),
        ]
    ),
    "scores": pa.schema(
        [
            _VIDEO_ID,
            _URI,
            _KEY,
            _ETAG,
            _MODEL_ID,
            _SCORE,
            _SCORE_STD,
            _LEVEL,
            _maybe(
                "level_probabilities", pa.list_(_real), "Probabilities of the five levels, bad to excellent; sum 1."
            ),
            _SEGMENT_START,
            _maybe("segment_end_s", pa.list_(_real), "End of each segment on the video's clock, in seconds."),
            _maybe(
                "segment_score",
                pa.list_(_real),
                "Score of each segment seen alone, 1 to 5; null where it has no picture.",
            ),
            _SCORE_WORST,
            _WORST_START,
            _WORST_END,
            _maybe(
                "events",
                pa.list_(_event),
                "What was measured in time, such as a freeze or black: its kind, start, end, and share of the frame.",
            ),
            _maybe("scene", _scene, "What is shown, as the model answers: light, detail, motion and kind."),
            _maybe("sampling_plan", _text, "How frames were reached: keyframe, keyframe+decode, sequential or still."),
            _maybe("damaged_frames", _count, "Frames that are damaged, missing or left out; 0 is a clean video."),
            _STATUS,
            _ERROR_TYPE,
            _ERROR_MESSAGE,
            _maybe("failed_runs", _count, "Runs so far with a failure that is tried again with a back-off."),
            _maybe("retry_after", _moment, "Time before which such a video is not tried again; null after the last."),
            _maybe("decode_s", _real, "Seconds spent on fetching and decoding; null if the video was never decoded."),
            _maybe("inference_s", _real, "The video's share of the seconds of its batch in the model."),
            _SCORED_AT,
            _always("run_id", _text, "Run that found the answer, or the failure."),
        ]
    ),
    "descriptions": pa.schema(
        [
            _VIDEO_ID,
            _ETAG,
            _MODEL_ID,
            _DESCRIPTION,
            _always(
                "distortions",
                pa.list_(_distortion),
                "Each family of distortions: severity 0 (none) to 5 (severe), probability, and whether it is named.",
            ),
            _maybe(
                "distortion_times",
                pa.list_(_stretch),
                "When each named distortion is to be seen: its name, start and end, in seconds.",
            ),
        ]
    ),
    "features": pa.schema(
        [
            _VIDEO_ID,
            _ETAG,
            _MODEL_ID,
            _required(_SEGMENT_START),
            _always("tokens", pa.large_binary(), "Visual tokens that the decoder saw: float16, row by row."),
            _always("tokens_shape", pa.list_(pa.int32()), "Shape of `tokens`: segments, tokens a segment, width."),
        ]
    ),
    "comparisons": pa.schema(
        [
            _always("video_id_a", _name, "Id of the first video of the pair."),
            _always("video_id_b", _name, "Id of the second video of the pair."),
            _always("etag_a", _name, "ETag of the first video when it was compared."),
            _always("etag_b", _name, "ETag of the second video when it was compared."),
            _MODEL_ID.with_type(_name),
            _always(
                "probability_a_better",
                _real,
                "Probability that the first video looks better, 0-1: the mean of both orders, or what the scores tell.",
            ),
            _maybe(
                "order_gap",
                _real,
                "How far the answers in both orders disagree, 0-1; null where the scores alone told the two apart.",
            ),
        ]
    ),
    "rankings": pa.schema(
        [
            _VIDEO_ID,
            _MODEL_ID,
            _RANK,
            _PERCENTILE,
            _always(
                "strength", _real, "Bradley-Terry strength in log-odds; higher is better, 0 is the library's mean."
            ),
            _always("strength_se", _real, "Standard error of `strength`."),
            _always("comparisons", _count, "Number of comparisons that the video took part in."),
        ]
    ),
    "videos": pa.schema(
        [
            _VIDEO_ID,
            _URI,
            _KEY,
            _always("file_name", _text, "Last part of the address: the file's name."),
            _STATUS,
            _ERROR_TYPE,
            _ERROR_MESSAGE,
            _SCORE,
            _SCORE_STD,
            _LEVEL,
            _nullable(_RANK),
            _nullable(_PERCENTILE),
            _SCORE_WORST,
            _WORST_START,
            _WORST_END,
            _nullable(_DESCRIPTION),
            _maybe("named_distortions", pa.list_(_text), "Distortions that the model names, the strongest first."),
            *(
                _maybe(severity_column(family), _real, f"Severity of {family}, 0 (none) to 5 (severe), named or not.")
                for family in DISTORTIONS
            ),
            _CODEC,
            _WIDTH,
            _HEIGHT,
            _FPS,
            _DURATION,
            _maybe("size_bytes", _count, "Size of the file."),
            _BIT_RATE,
            _maybe(
                "bits_per_pixel",
                _real,
                "Bits of the video stream a pixel and frame: `bit_rate_bps` / (width height fps).",
            ),
            _ETAG,
            _MODEL_ID,
            _SCORED_AT,
        ]
    ),
    "key_frames": pa.schema(
        [
            _VIDEO_ID,
            _ETAG,
            _MODEL_ID,
            _always("moment_start_s", _real, "Start of the segment that the picture is of, in seconds."),
            _always("moment_end_s", _real, "End of the segment that the picture is of, in seconds."),
            _always("picture", pa.binary(), "Key frame of the segment as the model saw it: WebP, 160 px wide at most."),
        ]
    ),
    "score_history": pa.schema(
        [
            _RUN_ID,
            _RECORDED_AT,
            _VIDEO_ID,
            _KEY,
            _ETAG,
            _MODEL_ID,
            _always(
                "change",
                _text,
                "What changed: new, changed (other bytes), rescored (answered anew), failed, recovered or removed.",
            ),
            _SCORE,
            _SCORE_STD,
            _LEVEL,
            _nullable(_STATUS),
            _ERROR_TYPE,
            _maybe("previous_score", _real, "Score that the video had before this change; null if it had none."),
        ]
    ),
    "nights": pa.schema(
        [
            _RUN_ID,
            _RECORDED_AT,
            _MODEL_ID,
            _always("videos", _count, "Videos of the library after the run."),
            _always("failed_videos", _count, "Videos without a score."),
            _always("failed_share", _real, "Share of videos without a score, 0-1."),
            _always("failures_by_type", _failures, "Number of failed videos by reason, the most frequent first."),
            _maybe("score_mean", _real, "Mean score of the library; null if no video has one, as in the next six."),
            _maybe("score_p5", _real, "Score that 5 % of the scored videos lie below."),
            _maybe("score_p25", _real, "Score that 25 % of the scored videos lie below."),
            _maybe("score_median", _real, "Score that half of the scored videos lie below."),
            _maybe("score_p75", _real, "Score that 75 % of the scored videos lie below."),
            _maybe("score_p95", _real, "Score that 95 % of the scored videos lie below."),
            _maybe("share_below_3", _real, "Share of scored videos with a score below 3, 0-1."),
            _always("unchanged", _count, "Videos whose row in `scores` stayed as it was."),
            *(
                _always(f"videos_{change}", _count, f"Videos whose `change` was {change} in this run.")
                for change in CHANGES
            ),
            _always("scoring_s", _real, "Wall-clock seconds of scoring, the start of Ray and of the model included."),
            _always("decode_s_sum", _real, "Sum of the seconds spent on fetching and decoding in this run."),
            _always("inference_s_sum", _real, "Sum of the seconds spent in the model in this run."),
        ]
    ),
}

#: What a row of each table is.
SENTENCES: dict[str, str] = {
    "catalog": "A video that the listing of the library names, and what its header says.",
    "scores": "A video with its score, or with the reason why it has none; every video of the catalogue has one row.",
    "descriptions": "A scored video in words and in distortions.",
    "features": "A scored video's visual tokens, which comparisons reuse.",
    "comparisons": "A pair of videos that the model has compared.",
    "rankings": "A scored video's place in its library by pairwise comparisons.",
    "videos": "A video with what the other tables say of it in one row: the table to start from.",
    "key_frames": "A video that the report of its library shows, with a small picture; no other video has a row.",
    "score_history": "A change of a video's score, version or status; rows are added and never changed.",
    "nights": "A run of a library: how many videos changed and how its scores are distributed.",
}

#: What names a row of a table; rows are published in this order.
KEYS: dict[str, tuple[str, ...]] = {
    "catalog": ("video_id",),
    "scores": ("video_id",),
    "descriptions": ("video_id",),
    "features": ("video_id",),
    "comparisons": ("video_id_a", "video_id_b"),
    "rankings": ("video_id",),
    "videos": ("video_id",),
    "key_frames": ("video_id",),
    "score_history": ("run_id", "video_id"),
    "nights": ("run_id",),
}

#: Tables that grow by one file a run and library, a row a change or run.
LOGS = ("score_history", "nights")
#: Tables of large rows, whose files are only added; a manifest says which rows hold. Of all others each library has
#: one file, which is replaced.
GROWING = ("features",)
#: Tables whose key is a pair in either order.
PAIRS = ("comparisons",)

#: Older names of columns, as files of earlier schema versions have them.
RENAMED: dict[str, dict[str, str]] = {
    "catalog": {
        "status": "probe_status",
        "error_type": "probe_error_type",
        "error_message": "probe_error_message",
    },
}


def schema(table_name: str) -> pa.Schema:
    """Return a table's columns.

    Raises:
        LakeError: there is no such table.
    """
    if table_name not in SCHEMAS:
        raise LakeError(f"no table is named {table_name!r}; the tables are {', '.join(SCHEMAS)}")
    return SCHEMAS[table_name]


def comment(field: pa.Field) -> str:
    """Give the sentence of a column."""
    return (field.metadata or {}).get(COMMENT, b"").decode()


def names_as_text(columns: pa.Schema) -> pa.Schema:
    """Give the schema as files have it."""
    return pa.schema(
        [field.with_type(field.type.value_type) if pa.types.is_dictionary(field.type) else field for field in columns],
        columns.metadata,
    )
