"""The catalogue of distortions, as data: what each is, how strong its five severities are, how it is labelled.

Also the recipes: chains of distortions in the order of a delivery path, capture -> edit -> encode -> transmit ->
rescale -> re-encode. In: a random generator. Out: recipes. Carrying one out is `degradation.py`'s job.

A severity is a number from 0 (none) to 5 (severe); between the catalogue's five strengths it is interpolated. Some
kinds go on beyond their fifth strength, where everything is lost and a model must still say so.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from enum import IntEnum

import numpy as np

from cpllm_model.scale import DISTORTIONS, SEVERITY_MAX


class Place(IntEnum):
    """Where on the delivery path a distortion happens."""

    CAPTURE = 0
    EDIT = 1
    ENCODE = 2
    TRANSMIT = 3
    RESCALE = 4


@dataclass(frozen=True)
class Kind:
    """One kind of distortion.

    Args:
        family: the name in scale.DISTORTIONS that viewers would give it.
        place: where on the delivery path it happens.
        strengths: its parameter at severity 1, 2, 3, 4 and 5; `unit` says what it is.
        unit: meaning of the parameter.
        quality: None where VMAF alone measures it; else the share of quality, 0-1, that is left at each severity.
        least: the parameter at severity 0; None where there is no such distortion below severity 1.
        farthest: the parameter where nothing more can be lost; None where there is nothing beyond severity 5.
        by_vmaf: whether VMAF measures it, too; then the lower of both shares counts.
    """

    family: str
    place: Place
    strengths: tuple[float, float, float, float, float]
    unit: str
    quality: tuple[float, float, float, float, float] | None = None
    least: float | None = None
    farthest: float | None = None
    by_vmaf: bool = False

    def strength(self, severity: float, beyond: float = 0.0) -> float:
        """Give the parameter at a severity above 0; `beyond`, 0-1, goes on from severity 5 to the farthest."""
        if beyond and self.farthest is not None:
            return float(self.strengths[-1] * (self.farthest / self.strengths[-1]) ** beyond)
        if self.least is None:
            return float(np.interp(severity, (1, 2, 3, 4, 5), self.strengths))
        return float(np.interp(severity, (0, 1, 2, 3, 4, 5), (self.least, *self.strengths)))

    def quality_left(self, severity: float, beyond: float = 0.0) -> float:
        """Give the share of quality left by the table, 0-1, falling with severity; 1 where there is no table."""
        if self.quality is None:
            return 1.0
        return float(np.interp(severity, (0, 1, 2, 3, 4, 5), (1.0, *self.quality)) * (1 - 0.7 * beyond))


# Shares of quality that are left. All are this project's own assumption; what they rest on is said beside each.
_HARSH = (0.86, 0.72, 0.57, 0.41, 0.25)
_FIRM = (0.91, 0.81, 0.70, 0.58, 0.45)
_MILD = (0.94, 0.86, 0.78, 0.70, 0.62)
# People see additive noise from a standard deviation of a few codes on, and find 25 codes very annoying: the levels of
# TID2013 (Ponomarenko et al. 2015) and KADID-10k (Lin et al. 2019) span 6-25 codes from barely visible to very
# annoying. The order and rough sizes follow them, the figures are our own. Grain disturbs less than white noise.
_NOISE = (0.90, 0.74, 0.57, 0.41, 0.25)
_GRAIN = (0.93, 0.81, 0.67, 0.52, 0.36)

LOW_FRAME_RATE = "low frame rate"
# fmt: off
#: Every kind of distortion. VMAF was made for compression and scaling and orders blur and losses; on noise it is
#: lenient, on exposure, colour and banding it says little, and what happens in time it does not know.
KINDS: dict[str, Kind] = {
    "gaussian blur": Kind("blur", Place.CAPTURE, (0.8, 1.2, 1.7, 2.4, 3.4), "standard deviation, px", farthest=20),
    "motion blur": Kind("blur", Place.CAPTURE, (3, 5, 7, 11, 16), "length of the path, px", farthest=60),
    "defocus": Kind("blur", Place.CAPTURE, (1.3, 1.8, 2.5, 3.5, 5.0), "radius of the disc, px", farthest=25),
    "white noise": Kind("noise", Place.CAPTURE, (3, 6, 10, 16, 25), "standard deviation, luma codes", _NOISE,
                        farthest=60, by_vmaf=True),
    "film grain": Kind("noise", Place.CAPTURE, (3, 5, 8, 12, 18), "standard deviation, luma codes", _GRAIN,
                       farthest=40, by_vmaf=True),
    "overexposure": Kind("exposure", Place.CAPTURE, (0.5, 0.8, 1.2, 1.7, 2.4), "stops", _HARSH),
    "underexposure": Kind("exposure", Place.CAPTURE, (-0.8, -1.3, -1.9, -2.6, -3.4), "stops", _HARSH),
    "low contrast": Kind("contrast", Place.CAPTURE, (0.70, 0.56, 0.43, 0.32, 0.22), "factor", _FIRM),
    "flicker": Kind("flicker", Place.CAPTURE, (0.02, 0.04, 0.07, 0.12, 0.20), "standard deviation of the gain",
                    _HARSH),
    LOW_FRAME_RATE: Kind("stutter", Place.CAPTURE, (15, 12, 10, 7.5, 5), "frames a second", _HARSH),
    "colour cast": Kind("colour", Place.EDIT, (0.14, 0.24, 0.37, 0.55, 0.85), "stops between channels", _FIRM),
    "oversaturation": Kind("colour", Place.EDIT, (1.5, 1.9, 2.4, 3.0, 3.8), "factor", _MILD),
    "desaturation": Kind("colour", Place.EDIT, (0.72, 0.58, 0.46, 0.36, 0.27), "factor", _MILD),
    "banding": Kind("banding", Place.EDIT, (40, 28, 20, 14, 9), "luma levels left", _FIRM),
    "freeze": Kind("stutter", Place.EDIT, (0.2, 0.33, 0.48, 0.65, 0.85), "share of the time stopped", _HARSH),
    "frame drops": Kind("stutter", Place.EDIT, (0.12, 0.22, 0.35, 0.5, 0.7), "share of frames lost", _HARSH),
    "judder": Kind("stutter", Place.EDIT, (1.34, 2, 3, 4, 6), "times that a frame is shown", _HARSH),
    "combing": Kind("interlacing", Place.EDIT, (0.3, 0.5, 0.75, 1.0, 2.0), "frames between the fields", _HARSH),
    "x264": Kind("compression", Place.ENCODE, (26, 31, 36, 41, 47), "CRF", least=18),
    "x265": Kind("compression", Place.ENCODE, (28, 33, 38, 43, 49), "CRF", least=19),
    # VP9 leaves VMAF at 60-80 at its highest CRF, and most of the way down lies in the last steps, as with AV1.
    "vp9": Kind("compression", Place.ENCODE, (42, 52, 57, 61, 63), "CRF", least=22),
    "av1": Kind("compression", Place.ENCODE, (46, 57, 61, 65, 70), "CRF", least=22),
    "mpeg4": Kind("compression", Place.ENCODE, (5, 8, 13, 20, 31), "quantiser scale", least=2),
    "mpeg2": Kind("compression", Place.ENCODE, (6, 10, 15, 22, 31), "quantiser scale", least=2),
    "jpeg": Kind("compression", Place.ENCODE, (50, 30, 18, 11, 5), "quality", least=92),
    "packet loss": Kind("packet loss", Place.TRANSMIT, (0.08, 0.18, 0.32, 0.48, 0.67), "share of the frame lost"),
    "upscaling": Kind("blur", Place.RESCALE, (0.70, 0.56, 0.44, 0.33, 0.23), "factor of the smaller size",
                      farthest=0.05),
}
# fmt: on
#: Encoders of the rate ladders, and how often each makes a content's; the older two only appear by themselves.
LADDER_CODECS = {"x264": 0.3, "x265": 0.2, "vp9": 0.25, "av1": 0.25}
#: Encoders of moving pictures.
VIDEO_CODECS = tuple(name for name, kind in KINDS.items() if kind.place is Place.ENCODE and name != "jpeg")
#: Encoders of still versions, and how often each is taken; the last two are inside of HEIC and AVIF.
STILL_CODECS = {"jpeg": 0.7, "x264": 0.1, "x265": 0.1, "av1": 0.1}
#: Share of contents that have a rate ladder of all five rungs.
LADDER_SHARE = 0.5
#: Share of the steps of severity 5 that go beyond it, where their kind can.
BEYOND_SHARE = 0.6
#: x264 CRF that leaves no trace a viewer sees, for recipes that do not end with an encode.
MEZZANINE_CRF = 12
#: Severity from which a distortion is named: more than half way to the faintest of the catalogue.
NAMED_FROM = 0.75


@dataclass(frozen=True)
class Step:
    """One distortion of a recipe.

    Args:
        kind: a key of KINDS.
        severity: 0-5.
        seed: of what is random in it.
        beyond: how far it goes on from severity 5, 0-1.
    """

    kind: str
    severity: float
    seed: int = 0
    beyond: float = 0.0

    @property
    def strength(self) -> float:
        """Give the kind's parameter at this severity."""
        return KINDS[self.kind].strength(self.severity, self.beyond)

    @property
    def is_edit(self) -> bool:
        """Tell whether the label comes from the severity alone: then VMAF is taken after it and not across it."""
        kind = KINDS[self.kind]
        return kind.quality is not None and not kind.by_vmaf


@dataclass(frozen=True)
class Recipe:
    """One way to degrade a clip: steps in the order of the delivery path.

    Args:
        steps: at most one per family, encodes not counted.
        ladder: name of the rate ladder it is a rung of.
        rung: its place there, 0 the best.
    """

    steps: tuple[Step, ...]
    ladder: str | None = None
    rung: int | None = None

    def severities(self) -> dict[str, float]:
        """Give every family's severity, 0 where it is absent."""
        found = dict.fromkeys(DISTORTIONS, 0.0)
        for step in self.steps:
            family = KINDS[step.kind].family
            found[family] = max(found[family], step.severity)
        return found

    def kinds(self) -> dict[str, str]:
        """Give the kind of each family that is there; of several of one family the strongest."""
        return {KINDS[step.kind].family: step.kind for step in sorted(self.steps, key=lambda step: step.severity)}

    def visible_severities(self, vmaf: float) -> dict[str, float]:
        """Limit severities to what a viewer can notice.

        Content may hide a distortion: then VMAF stays high, and the distortion is milder than its recipe. Encodes and
        scaling remove noise.

        Args:
            vmaf: 0-100.
        """
        found, cap = self.severities(), 0.4 + 6.4 * (1 - vmaf_share(vmaf))
        for kind in KINDS.values():
            if kind.quality is None:
                found[kind.family] = min(found[kind.family], cap)
        found["noise"] *= self._noise_left()
        return found

    def quality_left(self, vmaf: float) -> float:
        """Give the share of the source's quality that is left, 0-1.

        It is min(VMAF / TRANSPARENT_VMAF, 1), or the table of a distortion that VMAF measures too leniently if that is
        lower, times the tables of all distortions that VMAF does not measure.
        """
        share = vmaf_share(vmaf)
        for step in self.steps:
            if KINDS[step.kind].by_vmaf:
                remains = self._noise_left()
                share = min(share, KINDS[step.kind].quality_left(step.severity * remains, step.beyond * remains))
        edits = [KINDS[step.kind].quality_left(step.severity, step.beyond) for step in self.steps if step.is_edit]
        return float(share * np.prod(edits))

    def _noise_left(self) -> float:
        """Give the share of its severity that noise keeps behind encodes and scaling."""
        smoothing = [step.severity for step in self.steps if KINDS[step.kind].family == "compression"]
        smoothing += [step.severity + 0.5 for step in self.steps if KINDS[step.kind].place is Place.RESCALE]
        return min(max(1 - (max(smoothing, default=0) - 1.5) / 2.5, 0.0), 1.0)

    def without_low_frame_rate(self) -> Recipe:
        """Give the recipe for a source that is too short for few frames a second."""
        return replace(self, steps=tuple(step for step in self.steps if step.kind != LOW_FRAME_RATE))

    def to_json(self) -> str:
        """The recipe for a manifest."""
        return json.dumps([asdict(step) for step in self.steps])


#: VMAF from which a clip looks like its original: about one just noticeable difference, 6 points, below 100 (Ozer 2017,
#: after Netflix), and what VMAF gives a pristine clip that was only stored as video. Above it VMAF orders no quality.
TRANSPARENT_VMAF = 95.0


def vmaf_share(vmaf: float) -> float:
    """Give the share of quality, 0-1, that a VMAF of 0-100 leaves."""
    return min(max(vmaf, 0.0) / TRANSPARENT_VMAF, 1.0)


def mos_of(source_mos: float, quality_left: float) -> float:
    """Give the rating, 1-5, of a picture rated `source_mos` of whose quality a share of 0-1 is left.

    A judgement of the source times one of what was done to it, as in 2stepQA (Yu et al. 2019, arXiv 1801.02016).
    """
    return 1 + (source_mos - 1) * quality_left


def draw_recipes(rng: np.random.Generator, usable: Sequence[str] = tuple(KINDS)) -> list[Recipe]:
    """Draw a content's recipes.

    They are: nearly pristine; in LADDER_SHARE of the contents a rate ladder of five rungs, else two of its encodes; one
    encode by another codec; one kind of distortion at two severities and another at one; two chains of one to three
    distortions and an encode. Few, since many contents teach more than many versions of each.

    Args:
        rng: draws.
        usable: kinds that show on this content.
    """
    codec = str(rng.choice(list(LADDER_CODECS), p=list(LADDER_CODECS.values())))
    others = [name for name in VIDEO_CODECS if name != codec]
    recipes = [Recipe(())]
    if rng.random() < LADDER_SHARE:
        recipes += [Recipe((_step(rng, codec, severity),), codec, severity - 1) for severity in range(1, 6)]
    else:
        recipes += [Recipe((_step(rng, codec, rng.uniform(*limits)),)) for limits in ((0.8, 3), (3, 5))]
    recipes.append(Recipe((_step(rng, str(rng.choice(others)), rng.uniform(0.8, 5)),)))
    for kind, count in zip(_distinct(rng, usable, 2), (2, 1), strict=True):
        seed = int(rng.integers(2**31))
        severities = sorted(rng.choice([1, 2, 3, 4, 5], count, replace=False).tolist())
        recipes += [Recipe((Step(kind, severity, seed, _beyond(rng, kind, severity)),)) for severity in severities]
    for count in rng.choice([1, 2, 3], 2, replace=False):
        steps = [_step(rng, kind, rng.uniform(1, 4.2)) for kind in _distinct(rng, usable, int(count))]
        steps.append(_step(rng, str(rng.choice([codec, *others])), rng.uniform(0, 3.8)))
        recipes.append(Recipe(_in_order(steps, rng)))
    return recipes


def draw_still_recipes(rng: np.random.Generator, usable: Sequence[str] = tuple(KINDS)) -> list[Recipe]:
    """Draw the recipes of a still picture.

    They are: one kind of distortion at two severities; one encode; a chain of one or two distortions and an encode.

    Args:
        rng: draws.
        usable: kinds that show on this picture.
    """

    def encode() -> str:
        return str(rng.choice(list(STILL_CODECS), p=list(STILL_CODECS.values())))

    kind, seed = _distinct(rng, usable, 1)[0], int(rng.integers(2**31))
    severities = sorted(rng.choice([1, 2, 3, 4, 5], 2, replace=False).tolist())
    recipes = [Recipe((Step(kind, severity, seed, _beyond(rng, kind, severity)),)) for severity in severities]
    recipes.append(Recipe((_step(rng, encode(), rng.uniform(0.8, 5)),)))
    steps = [_step(rng, kind, rng.uniform(1, 4.2)) for kind in _distinct(rng, usable, int(rng.integers(1, 3)))]
    return [*recipes, Recipe((*_in_order(steps, rng), _step(rng, encode(), rng.uniform(0, 3.8))))]


def _distinct(rng: np.random.Generator, usable: Sequence[str], count: int) -> list[str]:
    """Choose kinds of different families, none an encode; every family equally often."""
    families: dict[str, list[str]] = {}
    for name in usable:
        if KINDS[name].place is not Place.ENCODE:
            families.setdefault(KINDS[name].family, []).append(name)
    chosen = rng.choice(sorted(families), count, replace=False)
    return [str(rng.choice(families[str(family)])) for family in chosen]


def _in_order(steps: Sequence[Step], rng: np.random.Generator) -> tuple[Step, ...]:
    """Put steps in the order of the delivery path; what was rescaled is encoded again, half of the time visibly."""
    # A lens blurs before a sensor adds noise.
    ordered = sorted(steps, key=lambda step: (KINDS[step.kind].place, KINDS[step.kind].family == "noise"))
    if KINDS[ordered[-1].kind].place is Place.RESCALE and rng.random() < 0.5:
        ordered.append(_step(rng, "x264", rng.uniform(0, 2.5)))
    return tuple(ordered)


def _beyond(rng: np.random.Generator, kind: str, severity: float) -> float:
    """Draw how far a step goes on from severity 5; 0 for most."""
    if severity < SEVERITY_MAX or KINDS[kind].farthest is None or rng.random() > BEYOND_SHARE:
        return 0.0
    return round(float(rng.uniform(0.05, 1)), 3)


def _step(rng: np.random.Generator, kind: str, severity: float) -> Step:
    return Step(kind, round(float(severity), 3), int(rng.integers(2**31)))
