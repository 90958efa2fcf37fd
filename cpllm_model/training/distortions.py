"""The catalogue of distortions and the recipes that degrade a clip along a delivery path.

A recipe is capture defects (blur, noise), then scaling, then one encode. In: a random generator. Out: recipes
as data, and the ffmpeg filters that carry one out. Severities are 0 (none) to 4 (severe), per distortion.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from cpllm_model.scale import DISTORTIONS

#: Filter strength at severity 1, 2, 3, 4: gaussian sigma in pixels, scale factor, ffmpeg `noise` strength.
BLUR_SIGMA_PX = (0.7, 1.1, 1.9, 3.2)
SCALE_FACTOR = (0.72, 0.55, 0.40, 0.27)
NOISE_STRENGTH = (7.0, 14.0, 24.0, 40.0)
#: Constant-quality value at severity 0 and its step per unit of severity, on each encoder's own scale.
CODEC_QUALITY = {"x264": (20, 6), "x265": (22, 6), "vp9": (24, 9.5), "av1": (26, 9), "mpeg4": (2, 6)}
X264_LADDER = (18, 26, 34, 42)
X264_PRESETS = ("superfast", "veryfast", "fast", "medium")


@dataclass(frozen=True)
class Recipe:
    """One way to degrade a clip.

    Args:
        severities: distortion -> severity 0-4 for the distortions applied before the encode.
        codec: a codec of `encode.CODECS`.
        crf: its constant-quality value.
        preset: x264 preset; unused by other codecs.
        ladder: whether the recipe is a rung of the content's x264 rate ladder.
    """

    severities: dict[str, float] = field(default_factory=dict)
    codec: str = "x264"
    crf: int = 20
    preset: str = "medium"
    ladder: bool = False

    def all_severities(self) -> dict[str, float]:
        """Give the severity 0-4 of every distortion, the encode's included."""
        start, step = CODEC_QUALITY[self.codec]
        compression = float(np.clip((self.crf - start) / step, 0, 4))
        return {name: self.severities.get(name, 0.0) for name in DISTORTIONS} | {"compression": compression}

    def filters(self, stream: Any, width_px: int, height_px: int, seed: int) -> Any:
        """Apply everything before the encode to an ffmpeg stream of the stated size."""
        if severity := self.severities.get("blur"):
            stream = stream.filter("gblur", sigma=_strength(BLUR_SIGMA_PX, severity))
        if severity := self.severities.get("noise"):
            strength = round(_strength(NOISE_STRENGTH, severity))
            stream = stream.filter("noise", alls=strength, allf="t", all_seed=seed)
        if severity := self.severities.get("upscaling"):
            factor = _strength(SCALE_FACTOR, severity)
            small = [max(32, int(side * factor / 2) * 2) for side in (width_px, height_px)]
            stream = stream.filter("scale", *small, flags="area").filter("scale", width_px, height_px, flags="bicubic")
        return stream

    def encoder_options(self) -> dict[str, Any]:
        """Give the output options beside the codec and its rate."""
        return {"preset": self.preset} if self.codec == "x264" else {}


def draw_recipes(rng: np.random.Generator) -> list[Recipe]:
    """Draw a content's recipes: pristine, an x264 ladder, other codecs, single distortions and chains."""
    preset = str(rng.choice(X264_PRESETS))
    shift = int(rng.integers(-2, 3))
    recipes = [Recipe(crf=10)]
    recipes += [Recipe(crf=crf + shift, preset=preset, ladder=True) for crf in X264_LADDER]
    recipes += [_encode(rng, str(codec)) for codec in rng.choice(["x265", "vp9", "av1", "mpeg4"], 2, replace=False)]
    recipes += [Recipe({name: float(rng.uniform(0.7, 4))}, crf=14) for name in ("upscaling", "blur", "noise")]
    chain = [str(name) for name in rng.choice(["upscaling", "blur", "noise"], 2, replace=False)]
    for names in (chain[:1], chain):
        encoded = _encode(rng, str(rng.choice(list(CODEC_QUALITY))))
        severities = {name: float(rng.uniform(0.7, 3.3)) for name in names}
        recipes.append(Recipe(severities, encoded.codec, encoded.crf, encoded.preset))
    return recipes


def _encode(rng: np.random.Generator, codec: str) -> Recipe:
    start, step = CODEC_QUALITY[codec]
    return Recipe(codec=codec, crf=round(start + step * rng.uniform(0.3, 4)), preset=str(rng.choice(X264_PRESETS)))


def _strength(table: tuple[float, ...], severity: float) -> float:
    return float(np.interp(severity, (1, 2, 3, 4), table))
