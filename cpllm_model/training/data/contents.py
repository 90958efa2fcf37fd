"""Which pristine contents a corpus is made of: pictures, clips, rendered scenes and screens, and rated pictures.

In: folders, manifests of rated pictures, seeds. Out: contents in an order that makes every beginning a fair sample.
A file is named by its bytes, so that a copy elsewhere is the same content, and all takes of it share a split. Knows
nothing of frames.
"""

from __future__ import annotations

import hashlib
import re
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from cpllm_model.errors import DataSetError
from cpllm_model.training.data.manifests import LabelledVideo, content_split, read_manifest
from cpllm_model.training.data.screens import is_drawn
from cpllm_model.training.data.video_files import PICTURE_SUFFIXES

CLIP_SUFFIXES = (".mp4", ".mkv", ".mov", ".webm", ".y4m", ".264")
#: Moments of a clip that are taken, each a content, before any source is taken again.
TAKES_A_ROUND = 3
#: Words of a path below a source folder that say that the file was not filmed with a camera.
KIND_WORDS = {"screen": "screen", "screens": "screen", "animation": "animation", "cartoon": "animation",
              "bbb": "animation", "bigbuckbunny": "animation"}  # fmt: skip


@dataclass(frozen=True)
class Content:
    """A pristine source.

    Args:
        kind: "photo", "clip", "scene" (abstract), "nature" (rendered) or "screen".
        source: path of the file, or the seed of what is rendered.
        name: of the source, whatever its path; every take and version of it shares its split.
        take: number of the take of the same source.
        shows: the answer of SCENE_FACTS["kind"]; None where it is not known.
        rated_split: the split of the rating's data set; None is by the name.
        mos: rating of the source, 1-5; None where nobody rated it.
        is_still: whether its versions are still pictures, each one frame, and not clips.
    """

    kind: str
    source: str
    name: str
    take: int = 0
    shows: str | None = None
    rated_split: str | None = None
    mos: float | None = None
    is_still: bool = False

    @property
    def content_id(self) -> str:
        """Name the take; versions of it show the same pixels."""
        return f"{self.name}.{self.take}"

    @property
    def split(self) -> str:
        """Give the split: that of the ratings, or else a property of the source's name alone."""
        return self.rated_split or content_split(self.name)


def find_contents(
    sources: Sequence[Path],
    clips: int,
    scenes: int = 0,
    screens: int = 0,
    rated: Sequence[Path] = (),
    rated_contents: int = 0,
    recipes_per_content: int = 10,
    report: Callable[[str], None] = print,
    stills: int = 0,
) -> list[Content]:
    """List as many contents as so many clips need, in an order that makes every beginning a fair sample.

    Args:
        sources: folders of pristine photographs and clips.
        clips: how many clips are made of all; sources are taken again when there are too few.
        scenes, screens: how many of these are rendered.
        rated: manifests of rated pictures.
        rated_contents: how many of these are taken, at most all contents.
        recipes_per_content: clips that a content gives.
        report: takes a line a file that is left out.
        stills: how many rated pictures are taken as still pictures, beside and among those that are filmed.

    Raises:
        DataSetError: there is not one source, or the manifests put one content into two splits.
    """
    count = max(1, -(-clips // recipes_per_content))
    rows = [row for manifest in rated for row in read_manifest(manifest)]
    rated_contents = min(rated_contents, count)
    pictures = _rated(rows, max(rated_contents, stills), report)
    people = pictures[:rated_contents]
    shown = [replace(one, name=one.name.replace("rated-", "still-", 1), is_still=True) for one in pictures[:stills]]
    by_size: dict[int, list[Path]] = defaultdict(list)
    for path in (Path(row.file) for row in rows):
        if path.is_file():
            by_size[path.stat().st_size].append(path)
    seen: dict[str, str] = {content.name.rsplit(".", 1)[-1]: content.source for content in pictures}
    first = [_rendered(seed) for seed in range(scenes)] + [
        Content("screen", str(seed), f"screen-{seed}", shows="animation" if is_drawn(seed) else "screen")
        for seed in range(screens)
    ]
    for folder in sources:
        for path in sorted(folder.rglob("*")):
            kind = "photo" if path.suffix.lower() in PICTURE_SUFFIXES else "clip"
            if not path.is_file() or (kind == "clip" and path.suffix.lower() not in CLIP_SUFFIXES):
                continue
            digest = digest_of(path)
            # A rated picture has its split, also if it is not among those that are taken.
            seen |= {digest_of(same): str(same) for same in by_size.pop(path.stat().st_size, ())}
            if digest in seen:
                report(f"{path}: left out, it is the same file as {seen[digest]}")
                continue
            seen[digest] = str(path)
            # A clip has many moments; a photograph filmed again is still the same photograph.
            first += [
                Content(kind, str(path), f"{kind}-{digest}", take, _shows(path.relative_to(folder)))
                for take in range(TAKES_A_ROUND if kind == "clip" else 1)
            ]
    if not first and not pictures:
        raise DataSetError(
            f"no photograph or clip in {', '.join(map(str, sources)) or 'no folder'}, and no scene or screen asked"
        )
    first.sort(key=lambda content: _order(content.content_id))
    wanted = count - len(people) if first else 0
    rounds = -(-wanted // max(1, len(first)))
    again = [replace(one, take=one.take + TAKES_A_ROUND * number) for number in range(rounds) for one in first][:wanted]
    # Each list is spread evenly over the whole.
    placed = [((index + 0.5) / len(part), one) for part in (again, people, shown) for index, one in enumerate(part)]
    return [content for _, content in sorted(placed, key=lambda pair: pair[0])]


def _rendered(seed: int) -> Content:
    """Name a rendered scene: even seeds are abstract, odd ones look like nature and nobody can say what filmed them."""
    if seed % 2:
        return Content("nature", str(seed), f"nature-{seed}")
    return Content("scene", str(seed), f"scene-{seed}", shows="animation")


def _rated(rows: Sequence[LabelledVideo], count: int, report: Callable[[str], None]) -> list[Content]:
    """Take rated pictures, a fair sample; each has the split of its manifest, and a name below its group's."""
    splits: dict[tuple[str, str], str] = {}
    for row in rows:
        if splits.setdefault((row.dataset, row.content_id), row.split) != row.split:
            raise DataSetError(f"content {row.content_id} of {row.dataset} is in two splits")
    pictures = [row for row in rows if row.mos is not None and Path(row.file).suffix.lower() in PICTURE_SUFFIXES]
    pictures.sort(key=lambda row: _order(f"{row.dataset}/{row.video_id}"))
    found: dict[str, Content] = {}
    for row in pictures:
        if len(found) == count:
            break
        try:
            digest = digest_of(Path(row.file))
        except OSError as error:
            report(f"{row.file}: left out, {error}")
            continue
        if digest in found:
            report(f"{row.file}: left out, it is the same file as {found[digest].source}")
            continue
        found[digest] = _rated_content(row, digest)
    return list(found.values())


def _rated_content(row: LabelledVideo, digest: str) -> Content:
    group = re.sub(r"[^A-Za-z0-9_-]", "_", f"{row.dataset}-{row.content_id}")[:80]
    name = f"rated-{group}.{digest}"
    return Content("photo", row.file, name, 0, "camera", row.split, row.mos)


def _shows(path: Path) -> str:
    words = re.split(r"[^a-z0-9]+", str(path).lower())
    return next((KIND_WORDS[word] for word in words if word in KIND_WORDS), "camera")


def digest_of(path: Path) -> str:
    """Name a file by its bytes; a source's name is its kind, a dash and this."""
    return hashlib.sha256(path.read_bytes()).hexdigest()[:16]


def _order(name: str) -> bytes:
    return hashlib.sha256(name.encode()).digest()
