"""The bad videos: what each is, and what its row says; docs/scores.md has a table of them.

Each is made when it is asked for, in memory, in a few milliseconds to a second.
"""

from __future__ import annotations

from tests.bad_videos.broken_inputs import BOMBS, DAMAGED, OTHER_FILES
from tests.bad_videos.files import motion_jpeg
from tests.bad_videos.odd_inputs import LOOKS, SIZES, SPANS, TIMES
from tests.bad_videos.references import MOVIES, NOWHERE, movies, playlists
from tests.bad_videos.streams import Input, stills

REFERENCES = {
    **{name: Input(lambda text=text: text.encode(), "not_a_video") for name, text in playlists(*NOWHERE).items()},
    **{
        name: Input(lambda name=name: movies(stills(), *NOWHERE)[name], MOVIES.get(name))
        for name in movies(motion_jpeg([b""]), *NOWHERE)
    },
}

INPUTS = OTHER_FILES | DAMAGED | TIMES | SPANS | SIZES | LOOKS | BOMBS | REFERENCES
#: One or two of each kind.
SOME = (
    "nothing", "web page", "sound with a cover", "unknown codec", "half a file", "a hole in mid-stream",
    "packets of noise", "times run backwards", "duration NaN", "duration 1e12", "one frame", "1x1", "16k x 16k",
    "161x129", "10 bit", "turned 90", "edits of 12 million frames", "a clock since 1970, Matroska",
    "fields", "EXIF", "HLS, http", "reference movie",
)  # fmt: skip
