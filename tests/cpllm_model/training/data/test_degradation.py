"""Every distortion of the catalogue does what it says, more of it at each severity, and its label falls with it."""

import numpy as np
import pytest

from cpllm_model.scale import DISTORTIONS
from cpllm_model.training.data import encode
from cpllm_model.training.data.degradation import LEADS, apply, degrade, lead_of, split, stride_of
from cpllm_model.training.data.distortions import (
    KINDS,
    LOW_FRAME_RATE,
    NAMED_FROM,
    TRANSPARENT_VMAF,
    Place,
    Recipe,
    Step,
    draw_recipes,
    draw_still_recipes,
    mos_of,
    vmaf_share,
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


def combs(planes):
    """Measure how much more neighbouring rows differ than rows of one field."""
    rows = luma(planes)
    return np.abs(np.diff(rows, axis=1)).mean() - np.abs(rows[:, 2:] - rows[:, :-2]).mean()


#: Family or kind -> a measure of (degraded, pristine) that rises with severity.
MEASURES = {
    "blur": lambda found, pristine: -detail(found),
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
    "flicker": lambda found, pristine: luma(found).mean((1, 2)).std(),
    "interlacing": lambda found, pristine: combs(found),
    "stutter": lambda found, pristine: repeats(found),
    "compression": added,
    "packet loss": added,
}


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != LOW_FRAME_RATE])
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


@pytest.mark.parametrize("kind", [name for name, kind in KINDS.items() if kind.farthest is not None])
def test_beyond_the_fifth_severity_it_goes_on(kind, pristine, degraded, tmp_path):
    measure = MEASURES[KINDS[kind].family]
    found = [measure(degraded[kind][-1], pristine)]
    found += [measure(apply(pristine, Step(kind, 5, 3, beyond), 25, tmp_path), pristine) for beyond in (0.4, 0.7, 1)]
    assert found == sorted(found) and len(set(found)) == len(found)


def test_labels_fall_with_severity_and_with_vmaf():
    for name, kind in KINDS.items():
        left = [kind.quality_left(severity) for severity in np.linspace(0, 5, 21)]
        assert left == sorted(left, reverse=True) and left[0] == 1 and left[-1] >= 0
        assert kind.quality is None or len(set(kind.quality)) == 5
        assert kind.quality is None or len(set(left)) == len(left)
        assert kind.farthest is None or kind.quality is None or kind.quality_left(5, 0.5) < kind.quality_left(5)
        assert Recipe((Step(name, 1),)).quality_left(80) <= vmaf_share(80)
    assert vmaf_share(100) == vmaf_share(TRANSPARENT_VMAF) == 1 and vmaf_share(TRANSPARENT_VMAF - 1) < 1
    assert vmaf_share(-1) == 0 and vmaf_share(TRANSPARENT_VMAF / 2) == 0.5


@pytest.mark.parametrize("source_mos", [1.0, 2.3, 4.8])
def test_a_rating_is_scaled_by_what_is_left(source_mos):
    found = [mos_of(source_mos, left) for left in np.linspace(0, 1, 11)]
    assert found[0] == 1 and found[-1] == pytest.approx(source_mos) and found == sorted(found)
    assert mos_of(3.0, 0.5) == 2.0 and mos_of(4.0, 0.5) > mos_of(2.0, 0.5)


def test_light_noise_costs_and_strong_noise_is_bad_whatever_vmaf_says():
    left = [Recipe((Step("white noise", severity),)).quality_left(99) for severity in (0, 1, 2, 3, 4, 5)]
    assert left[0] == 1 and left[1] < 0.95 and left[5] <= 0.25
    assert Recipe((Step("white noise", 1),)).quality_left(19) == pytest.approx(0.2)  # the lower of both
    encoded = Recipe((Step("white noise", 5), Step("x264", 4.5)))
    assert encoded.quality_left(95) == 1  # an encode removes the noise


def test_content_and_other_distortions_hide_what_no_one_sees():
    def visible(vmaf, *steps):
        return Recipe(tuple(Step(kind, severity) for kind, severity in steps)).visible_severities(vmaf)

    assert visible(TRANSPARENT_VMAF, ("x264", 2.0))["compression"] < NAMED_FROM
    assert visible(TRANSPARENT_VMAF, ("gaussian blur", 4.0))["blur"] < NAMED_FROM
    seen = visible(0.62 * TRANSPARENT_VMAF, ("x264", 2.0), ("overexposure", 3.0))
    assert seen["compression"] == 2.0 and seen["exposure"] == 3.0 and set(seen) == set(DISTORTIONS)
    assert visible(20, ("white noise", 2.0), ("x264", 4.5))["noise"] == 0
    assert visible(98, ("white noise", 2.0))["noise"] == 2.0


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
    assert 15 < ladders < 35


def test_families_are_drawn_about_equally_and_some_steps_go_beyond():
    counts = dict.fromkeys(DISTORTIONS, 0)
    beyond = []
    for seed in range(400):
        for recipe in draw_recipes(np.random.default_rng(seed)):
            if len(recipe.steps) == 1 and KINDS[recipe.steps[0].kind].place is not Place.ENCODE:
                counts[KINDS[recipe.steps[0].kind].family] += 1
                beyond.append(recipe.steps[0].beyond)
    del counts["compression"]
    assert max(counts.values()) < 1.5 * min(counts.values())
    assert 10 < sum(value > 0 for value in beyond) < 0.2 * len(beyond) and max(beyond) <= 1


def test_every_codec_makes_its_share_of_the_ladders():
    recipes = [recipe for seed in range(300) for recipe in draw_recipes(np.random.default_rng(seed))]
    ladders = [recipe.ladder for recipe in recipes if recipe.rung == 0]
    assert 0.18 < ladders.count("av1") / len(ladders) < 0.33


def test_every_kind_is_drawn():
    drawn = {
        step.kind
        for draw in (draw_recipes, draw_still_recipes)
        for seed in range(60)
        for recipe in draw(np.random.default_rng(seed))
        for step in recipe.steps
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
    black = np.full_like(grey, 128)
    black[:, :HEIGHT] = 16
    recipe = Recipe((Step("gaussian blur", 5, 1), Step("flicker", 5, 1), Step("upscaling", 5, 1)))
    assert degrade(black, recipe, 25, tmp_path / "other", tmp_path)[2].steps == ()


def smeared(pristine, severity, seed, folder, lead=0):
    """Give the share of each frame that a loss changed visibly, (T - lead,)."""
    found = apply(pristine, Step("packet loss", severity, seed), 25, folder, lead)
    assert found.shape == pristine.shape
    return (np.abs(luma(found) - luma(pristine)) > 20).mean((1, 2))[lead:]


@pytest.fixture(scope="module")
def losses(pristine, tmp_path_factory):
    """The shares of each frame that are smeared at a mild and at the severest loss, (2, seeds, T)."""
    folder, seeds = tmp_path_factory.mktemp("losses"), (0, 1, 2, 5, 8, 10, 11)
    return np.array([[smeared(pristine, severity, seed, folder) for seed in seeds] for severity in (2, 5)])


def test_a_severer_loss_smears_more_of_the_frame(losses):
    mild, severe = losses.mean(2)
    assert mild.mean() < severe.mean() / 2 and (mild < severe + 0.01).all()
    assert severe.max() > 0.3


def test_a_smear_lasts_until_the_next_key_frame(losses):
    hit = [share for share in losses[1] if share.max() > 0.05]
    assert len(hit) >= 3
    assert np.mean([share[-1] > 0.5 * share.max() for share in hit]) > 0.6
    # Key frames are hit, too: then the clip is damaged from its first frame on.
    assert any(share[0] > 0.1 for share in losses[1])


def test_a_loss_before_the_clip_begins_damages_all_of_it(tmp_path):
    longer = encode.rgb_to_planes(render_scene(5, WIDTH, HEIGHT, LEADS[1] + FRAMES))
    shares = [smeared(longer, 5, seed, tmp_path, LEADS[1]) for seed in range(12)]
    assert np.mean([share.min() > 0.5 * share.max() for share in shares]) > 0.5
    recipes = [Recipe((Step("packet loss", 3, seed),)) for seed in range(3)]
    assert sorted(lead_of(recipe) for recipe in recipes) == sorted(LEADS)
    assert lead_of(Recipe((Step("freeze", 3, 1), Step("packet loss", 3, 1)))) == 0
    clip, reference, _ = degrade(longer, recipes[1], 25, tmp_path / "clip", tmp_path, LEADS[1])
    assert len(reference) == FRAMES and encode.probe_own(clip)[2] == FRAMES
    assert np.array_equal(reference, longer[LEADS[1] :])


def test_a_low_frame_rate_takes_frames_that_are_far_apart():
    assert stride_of(Recipe(()), 25) == 1
    assert [stride_of(Recipe((Step(LOW_FRAME_RATE, s),)), 60) for s in (1, 3, 5)] == [4, 6, 12]
    assert stride_of(Recipe((Step(LOW_FRAME_RATE, 1),)), 24) == 2


def test_a_colour_cast_leaves_the_brightness_of_grey(tmp_path):
    grey = np.full((2, 96, 64), 128, np.uint8)
    casts = [apply(grey, Step("colour cast", 5, seed), 25, tmp_path) for seed in range(20)]
    assert all(np.abs(luma(cast) - 128).max() <= 1 for cast in casts)
    tints = np.array([chroma(cast).mean((1, 2, 3)) for cast in casts])
    assert np.abs(tints).max(1).min() > 8
    assert len({tuple(np.sign(tint)) for tint in tints}) >= 3  # warm, cool, green or magenta


def test_the_camera_moves_smoothly_between_pixels():
    from PIL import Image

    rng = np.random.default_rng(0)
    picture = Image.fromarray(render_scene(1, 480, 270, 1)[0])
    frames = animate(picture, CameraPath("pan", 0.5, 0.0), 5, (160, 90), rng).astype(np.float32)
    steps = np.abs(np.diff(frames, axis=0)).mean((1, 2, 3))
    assert steps.min() > 0.2 and steps.max() < 3 * steps.min()
    still = animate(picture, CameraPath("static", 0.5, 0.0), 3, (160, 90), rng)
    assert np.array_equal(still[0], still[2])
