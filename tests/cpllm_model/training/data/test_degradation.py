"""Every distortion of the catalogue does what it says, more of it at each severity, and its label falls with it."""

import numpy as np
import pytest

from cpllm_model.scale import DISTORTIONS
from cpllm_model.training.data import encode
from cpllm_model.training.data.degradation import apply, degrade, split
from cpllm_model.training.data.distortions import (
    KINDS,
    NAMED_FROM,
    TRANSPARENT_VMAF,
    Place,
    Recipe,
    Step,
    draw_recipes,
    mos_of,
    visible_severities,
)
from cpllm_model.training.data.scenes import CameraPath, animate, render_scene

WIDTH, HEIGHT, FRAMES = 320, 180, 16
SEVERITIES = (1, 3, 5)


@pytest.fixture(scope="module")
def pristine():
    """A rendered scene that moves and has colours."""
    frames = render_scene(5, WIDTH, HEIGHT, FRAMES)
    return encode.rgb_to_planes(frames)


@pytest.fixture(scope="module")
def degraded(pristine, tmp_path_factory):
    """Kind -> its frames at SEVERITIES."""
    folder = tmp_path_factory.mktemp("degraded")
    return {kind: [apply(pristine, Step(kind, s, 3), 25, folder) for s in SEVERITIES] for kind in KINDS}


def luma(planes):
    return split(planes)[0].astype(np.float32)


def chroma(planes):
    return np.stack(split(planes)[1:]).astype(np.float32) - 128


def detail(planes):
    return np.abs(np.diff(luma(planes), axis=2)).mean()


def added(planes, pristine):
    return np.abs(luma(planes) - luma(pristine)).mean()


def repeats(planes):
    return (np.abs(np.diff(luma(planes), axis=0)).max((1, 2)) == 0).sum()


def levels(planes):
    return len(np.unique(split(planes)[0]))


#: Family or kind -> a measure of (degraded, pristine) that rises with severity.
MEASURES = {
    "blur": lambda found, pristine: -detail(found),
    "upscaling": lambda found, pristine: -detail(found),
    "noise": added,
    "overexposure": lambda found, pristine: luma(found).mean(),
    "underexposure": lambda found, pristine: -luma(found).mean(),
    "low contrast": lambda found, pristine: -luma(found).std(),
    "colour cast": lambda found, pristine: np.abs(
        chroma(found).mean((1, 2, 3)) - chroma(pristine).mean((1, 2, 3))
    ).sum(),
    "oversaturation": lambda found, pristine: np.abs(chroma(found)).mean(),
    "desaturation": lambda found, pristine: -np.abs(chroma(found)).mean(),
    "banding": lambda found, pristine: -levels(found),
    "stutter": lambda found, pristine: repeats(found),
    "compression": added,
    "packet loss": added,
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_distortion_does_more_of_what_it_says_at_each_severity(kind, pristine, degraded):
    measure = MEASURES.get(kind) or MEASURES[KINDS[kind].family]
    found = [measure(frames, pristine) for frames in (pristine, *degraded[kind])]
    assert all(frames.shape == pristine.shape and frames.dtype == np.uint8 for frames in degraded[kind])
    assert found == sorted(found) and len(set(found)) == len(found)


@pytest.mark.parametrize("kind", [name for name, kind in KINDS.items() if kind.quality is None])
def test_vmaf_falls_with_severity_where_it_is_the_label(kind, pristine, degraded, tmp_path):
    clips = [
        encode.encode_planes(frames, tmp_path / f"{n}.mkv", 25, "ffv1", 0) for n, frames in enumerate(degraded[kind])
    ]
    found = [encode.vmaf(clip, pristine).mean() for clip in clips]
    assert found == sorted(found, reverse=True) and found[0] - found[-1] > 5


def test_labels_fall_with_severity_and_with_vmaf():
    for kind in KINDS.values():
        left = [kind.quality_left(severity) for severity in np.linspace(0, 5, 21)]
        assert left == sorted(left, reverse=True) and left[0] == 1 and left[-1] >= 0
        assert kind.quality is None or len(set(kind.quality)) == 5
    assert mos_of(100) == mos_of(TRANSPARENT_VMAF) == 5 and mos_of(TRANSPARENT_VMAF - 1) < 5
    assert mos_of(0) == 1 and mos_of(TRANSPARENT_VMAF / 2, 0.5) == 2 and mos_of(-1) == 1


def test_content_and_other_distortions_hide_what_no_one_sees():
    none = dict.fromkeys(DISTORTIONS, 0.0)
    hidden = visible_severities(none | {"compression": 2.0}, mos_by_vmaf=4.95)
    assert hidden["compression"] < NAMED_FROM
    seen = visible_severities(none | {"compression": 2.0, "exposure": 3.0}, mos_by_vmaf=3.5)
    assert seen["compression"] == 2.0 and seen["exposure"] == 3.0
    assert visible_severities(none | {"noise": 2.0, "compression": 4.5}, 2.0)["noise"] == 0
    soft = visible_severities(none | {"blur": 1.0, "upscaling": 4.0}, 2.0)
    assert soft["blur"] == 0 and soft["upscaling"] == 4.0


def test_recipes_follow_the_delivery_path_and_some_hold_a_ladder():
    ladders = 0
    for seed in range(50):
        recipes = draw_recipes(np.random.default_rng(seed))
        ladder = [recipe for recipe in recipes if recipe.ladder]
        assert len(recipes) == (12 if ladder else 9)
        if ladder:
            ladders += 1
            assert [recipe.rung for recipe in ladder] == [0, 1, 2, 3, 4]
            assert len({recipe.steps[0].kind for recipe in ladder}) == 1
        for recipe in recipes:
            assert set(recipe.severities()) == set(DISTORTIONS)
            assert all(0 <= value <= 5 for value in recipe.severities().values())
            places = [KINDS[step.kind].place for step in recipe.steps]
            encoded_again = places[-2:] == [Place.RESCALE, Place.ENCODE]
            assert places[: -1 if encoded_again else None] == sorted(places[: -1 if encoded_again else None])
    assert 10 < ladders < 30


def test_every_kind_is_drawn():
    drawn = {
        step.kind for seed in range(60) for recipe in draw_recipes(np.random.default_rng(seed)) for step in recipe.steps
    }
    assert drawn == set(KINDS)


def test_a_recipe_gives_the_same_clip_again(pristine, tmp_path):
    recipe = Recipe(
        (Step("white noise", 2, 9), Step("x264", 1.5, 3), Step("packet loss", 2, 4), Step("upscaling", 1, 5))
    )
    clips = [degrade(pristine, recipe, 25, tmp_path / name, tmp_path)[0] for name in ("a.1", "a.2")]
    assert [clip.name for clip in clips] == ["a.1.mp4", "a.2.mp4"]
    assert clips[0].read_bytes() == clips[1].read_bytes()


def test_vmaf_compares_across_what_it_measures_only(pristine, tmp_path):
    recipe = Recipe((Step("underexposure", 2, 1), Step("judder", 4, 2), Step("x264", 0.2, 3)))
    clip, reference, kept = degrade(pristine, recipe, 25, tmp_path / "clip", tmp_path)
    assert kept.steps == recipe.steps
    assert luma(reference).mean() < luma(pristine).mean() - 10 and repeats(reference) > 0
    assert encode.vmaf(clip, reference).mean() > 85 > encode.vmaf(clip, pristine).mean()


def test_a_distortion_that_this_content_does_not_show_is_left_out(pristine, tmp_path):
    grey = pristine.copy()
    grey[:, HEIGHT:] = 128
    _, _, kept = degrade(grey, Recipe((Step("desaturation", 5, 1),)), 25, tmp_path / "clip", tmp_path)
    assert kept.steps == ()


def test_a_lost_slice_is_concealed_and_never_costs_a_frame(pristine, tmp_path):
    found = apply(pristine, Step("packet loss", 3, 7), 25, tmp_path)
    clean = apply(pristine, Step("x264", 0.5, 7), 25, tmp_path)
    assert len(found) == FRAMES
    assert added(found[:1], pristine[:1]) < 1.2 * added(clean[:1], pristine[:1])  # the first frame arrives whole
    assert added(found, pristine) > added(clean, pristine)


def test_the_camera_moves_smoothly_between_pixels():
    from PIL import Image

    rng = np.random.default_rng(0)
    picture = Image.fromarray(render_scene(1, 480, 270, 1)[0])
    frames = animate(picture, CameraPath("pan", 0.5, 0.0), 5, (160, 90), rng).astype(np.float32)
    steps = np.abs(np.diff(frames, axis=0)).mean((1, 2, 3))
    assert steps.min() > 0.2 and steps.max() < 3 * steps.min()
    still = animate(picture, CameraPath("static", 0.5, 0.0), 3, (160, 90), rng)
    assert np.array_equal(still[0], still[2])
