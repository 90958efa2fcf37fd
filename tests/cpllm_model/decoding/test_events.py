"""Events of real encodes: named, timed, and not seen where there are none."""

import io

import ffmpeg
import imageio_ffmpeg
import numpy as np
import pytest

from cpllm_model import errors
from cpllm_model.decoding.events import Seen, events_of, have_picture
from cpllm_model.decoding.looks import Look
from cpllm_model.decoding.packets import Still
from cpllm_model.decoding.samples import MAX_EVENTS, Event, VideoSamples
from cpllm_model.decoding.sampling import SamplingSettings
from cpllm_model.decoding.video import decode

SETTINGS = SamplingSettings(2.5, 8, 1, 48, 8, 2, 32)
MOVING = "testsrc2=s=320x180:r=25,noise=alls=4:allf=t"
H264 = {"vcodec": "libx264", "preset": "ultrafast"}
CODECS = {
    "a.mp4": H264,
    "a.mkv": {**H264, "preset": "veryfast", "b:v": "300k"},
    "a.ts": {**H264, "g": 50},
    "b.mp4": {
        "vcodec": "libx265",
        "preset": "ultrafast",
        "x265-params": "log-level=none:pools=none:frame-threads=1",
    },
    "a.webm": {"vcodec": "libsvtav1", "preset": 12, "svtav1-params": "lp=1"},
}
#: Three seconds from 5 s on, of 13 s.
FROZEN = f"{MOVING},trim=0:10,loop=75:1:125,setpts=N/25/TB"


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    folder, made = tmp_path_factory.mktemp("events"), {}

    def make(name, source, options):
        if (name, source) not in made:
            path = folder / f"{len(made)}-{name}"
            stream = ffmpeg.input(source, f="lavfi").output(str(path), threads=1, pix_fmt="yuv420p", **options)
            ffmpeg.run(stream, cmd=imageio_ffmpeg.get_ffmpeg_exe(), quiet=True)
            made[name, source] = path.read_bytes()
        return made[name, source]

    return make


def seen_in(data, settings=SETTINGS):
    samples = decode(io.BytesIO(data), "clip", settings)
    assert VideoSamples.from_bytes(samples.to_bytes(), settings).events == samples.events
    return samples


def the(kind, samples):
    (event,) = [event for event in samples.events if event.kind == kind]
    return event


@pytest.mark.parametrize("name", CODECS)
def test_a_freeze_is_timed_by_the_sizes_of_packets(clip, name):
    samples = seen_in(clip(name, FROZEN, CODECS[name]))
    freeze = the("freeze", samples)
    assert freeze.start_s == pytest.approx(5, abs=0.45) and freeze.end_s == pytest.approx(8, abs=0.3)
    assert samples.segment_has_picture.all() and samples.events == (freeze,)


ENCODERS = {
    "a.mp4": {"vcodec": "libx264", "preset": "veryfast", "crf": 16, "g": 50},
    "b.mp4": {
        "vcodec": "libx265",
        "preset": "fast",
        "crf": 20,
        "g": 50,
        "x265-params": "log-level=none:pools=none:frame-threads=1",
    },
    "a.webm": {"vcodec": "libvpx-vp9", "deadline": "realtime", "cpu-used": 6, "b:v": 0, "crf": 30, "g": 50},
    "c.mp4": {"vcodec": "mpeg4", "qscale:v": 4, "g": 50},
    "a.ts": {"vcodec": "mpeg2video", "qscale:v": 4, "g": 50},
}
#: A picture that moves by whole pixels costs few bytes; it stands still for three seconds from 5.4 s on, of 15 s.
SLOW = (
    "mandelbrot=s=960x540:r=25:end_pts=1:inner=convergence,trim=end_frame=1,noise=alls=12:all_seed=1,"
    "loop=374:1,setpts=N/25/TB,crop=640:360:'abs(150-mod(2*(min(n,135)+max(n-210,0)),300))':60"
)


@pytest.mark.parametrize("name", ENCODERS)
def test_a_freeze_of_what_moves_little_is_timed_at_both_ends(clip, name):
    freeze = the("freeze", seen_in(clip(name, SLOW, ENCODERS[name])))
    assert (freeze.start_s, freeze.end_s) == (pytest.approx(5.4, abs=0.5), pytest.approx(8.4, abs=0.5))


@pytest.mark.parametrize("source", [f"{MOVING},trim=0:2,tpad=stop_mode=clone:stop_duration=18",
                                    f"{MOVING},trim=0:2,tpad=start_mode=clone:start_duration=18"])  # fmt: skip
def test_a_video_may_be_frozen_for_most_of_its_time(clip, source):
    samples = seen_in(clip("a.mp4", source, H264))
    freeze = the("freeze", samples)
    assert freeze.end_s - freeze.start_s == pytest.approx(18, abs=0.5)


PICTURE = "mandelbrot=s=320x180:r=25"
SHOWS = {
    "a picture": f"{PICTURE},trim=end_frame=1,loop=249:1,setpts=N/25/TB",
    "slides": f"{PICTURE},select='not(mod(n,40))',setpts=N*3/TB,trim=0:15,fps=25",
    "slow motion": f"{PICTURE},trim=0:10",
}


@pytest.mark.parametrize("show", SHOWS)
def test_what_stands_still_by_intent_is_not_frozen(clip, show):
    samples = seen_in(clip("a.mp4", SHOWS[show], H264))
    assert not [event for event in samples.events if event.kind == "freeze"]
    assert samples.segment_has_picture.all()


BLANKS = {
    "black": f"{MOVING},trim=0:14,drawbox=c=black:t=fill:enable='between(t,5,7.99)'",
    "flat": f"{MOVING},trim=0:14,drawbox=c=green:t=fill:enable='between(t,5,7.99)'",
}


@pytest.mark.parametrize("name", ["a.mp4", "a.ts"])
@pytest.mark.parametrize("kind", BLANKS)
def test_three_seconds_without_picture_are_timed_and_not_rated(clip, kind, name):
    samples = seen_in(clip(name, BLANKS[kind], CODECS[name]))
    event = the(kind, samples)
    assert event.start_s == pytest.approx(5, abs=0.3) and event.end_s == pytest.approx(8, abs=0.3)
    inside = (samples.segment_start_s >= 4.5) & (samples.segment_end_s <= 8.5)
    assert (samples.segment_has_picture == ~inside).all() and inside.any()


@pytest.mark.parametrize("bars", ["smptebars", "smptehdbars", "pal75bars", "pal100bars"])
def test_bars_before_a_video_are_no_picture(clip, bars):
    ahead = f"{bars}=s=320x180:r=25:d=4[a];{MOVING},trim=0:8[b];[a][b]concat=n=2"
    samples = seen_in(clip("a.mp4", ahead, H264))
    event = the("bars", samples)
    assert (event.start_s, event.end_s) == (pytest.approx(0, abs=0.3), pytest.approx(4, abs=0.3))
    assert not samples.segment_has_picture[0] and samples.segment_has_picture[1:].all()


#: Letters of 4 x 8 pixels in lines, white on black.
WRITING = (
    "color=black:s=320x180:r=25,geq=lum='16+200*between(X,60,260)*lt(mod(X,6),2)*lt(mod(Y+{speed}*N,24),10)'"
    ":cb=128:cr=128"
)


@pytest.mark.parametrize("speed", [0, 1])
def test_credits_are_no_picture_beside_one_and_are_rated_alone(clip, speed):
    written = WRITING.format(speed=speed)
    after = f"{MOVING},trim=0:8[a];{written},trim=0:5[b];[a][b]concat=n=2"
    samples = seen_in(clip("a.mp4", after, H264))
    event = the("credits", samples)
    assert event.start_s == pytest.approx(8, abs=2) and event.end_s == pytest.approx(13, abs=0.1)
    assert samples.segment_has_picture[0] and not samples.segment_has_picture[-1]
    alone = seen_in(clip("a.mp4", f"{written},trim=0:5", H264))
    assert alone.segment_has_picture.all() and the("credits", alone).end_s == pytest.approx(5)


def test_writing_that_scrolls_ends_at_the_cut_to_a_picture(clip):
    written = WRITING.format(speed=1)
    between = f"{MOVING},trim=0:7[a];{written},trim=0:6.2[b];{PICTURE},trim=0:7[c];[a][b][c]concat=n=3"
    samples = seen_in(clip("a.mp4", between, {"vcodec": "libx264", "preset": "veryfast"}))
    event = the("credits", samples)
    assert (event.start_s, event.end_s) == (pytest.approx(7, abs=0.1), pytest.approx(13.2, abs=0.1))


@pytest.mark.parametrize("source", ["color=black:s=320x180:r=25:d=6", "smptebars=s=320x180:r=25:d=6",
                                    "color=green:s=320x180:r=25:d=6"])  # fmt: skip
def test_a_video_of_nothing_else_has_no_picture_to_rate(clip, source):
    with pytest.raises(errors.NoPictureError, match="no picture to rate: "):
        seen_in(clip("a.mp4", source, H264))


def test_a_fade_is_seen_where_a_look_lies_in_it(clip):
    fade = the("fade", seen_in(clip("a.mp4", f"{MOVING},trim=0:10,fade=in:0:50", H264)))
    assert fade.start_s == 0 and fade.end_s < 2


def test_twenty_five_frames_in_fifty_repeat(clip):
    repeat = the("repeat", seen_in(clip("a.mp4", f"{MOVING},trim=0:6,fps=50", H264)))
    assert (repeat.start_s, repeat.end_s) == (0, pytest.approx(6))


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.ts"])
def test_a_gap_in_time_is_stated(clip, name):
    late = "testsrc2=s=320x180:r=25:d=10,setpts='if(lt(N,125),N,N+50)/25/TB'"
    gap = the("gap", seen_in(clip(name, late, {**H264, "fps_mode": "vfr"})))
    assert gap.start_s == pytest.approx(5, abs=0.15) and gap.end_s == pytest.approx(7, abs=0.15)


def test_packets_that_a_transport_stream_lost_are_damage(clip):
    data = bytearray(clip("a.ts", f"{MOVING},trim=0:12", CODECS["a.ts"]))
    packets = len(data) // 188
    for number in range(packets // 2, packets // 2 + 40):
        data[188 * number + 1] |= 0x80  # transport_error_indicator
    samples = seen_in(bytes(data))
    damage = the("damage", samples)
    assert 5 < damage.start_s < damage.end_s < 7.5 and samples.damaged_frames > 0


@pytest.mark.parametrize("name", ["a.mp4", "a.ts"])
def test_a_bad_half_has_looks_of_its_own_whichever_it_is(clip, name):
    edges = {}
    for half in (0, 1):
        blurred = f"{MOVING},trim=0:10,gblur=sigma=5:enable='between(t,{5 * half},{5 * half + 4.99})'"
        samples = seen_in(clip(name, blurred, CODECS[name]))
        edges[half] = np.append(samples.segment_start_s, samples.segment_end_s[-1])
        assert np.abs(edges[half] - 5).min() < 0.3
    np.testing.assert_allclose(10 - edges[1][::-1], edges[0], atol=0.5)


def test_the_same_bytes_give_the_same_events(clip):
    data = clip("a.mp4", FROZEN, H264)
    assert seen_in(data).to_bytes() == seen_in(data).to_bytes()


LUMA = np.zeros((4, 4), np.uint8)


def look(blank=None, is_still=False, **changed):
    values = {"is_fading": False, "is_flickering": False, "repeats": False, "combed_share": 0.0, "luma_HW": LUMA}
    return Look(blank, is_still, **(values | changed))


def seen(*looks):
    return [Seen(one, 5.0 * n, 5.0 * n + 5, 5.0 * n + 2, 5.0 * n + 2.3) for n, one in enumerate(looks)]


def still(start_s, end_s, moves=True, is_apart=False):
    return Still(0, 1, start_s, end_s, moves, is_apart, 1.0, 1.0)


def test_looks_alone_name_a_freeze_that_two_of_them_show():
    moving, frozen = look(), look(is_still=True)
    (freeze,) = events_of(seen(moving, frozen, frozen, moving))
    assert (freeze.kind, freeze.start_s, freeze.end_s) == ("freeze", 7.0, 12.3)
    other = look(is_still=True, luma_HW=LUMA + 50)
    for looks in ((moving, frozen, moving), (frozen, frozen), (moving, frozen, other, moving)):
        assert events_of(seen(*looks)) == ()


def test_packets_and_a_look_have_to_agree_on_a_freeze():
    looks = seen(look(), look(is_still=True), look())
    assert [event.kind for event in events_of(looks, None, [still(6, 9)])] == ["freeze"]
    assert events_of(looks, None, [still(6, 9, moves=False)]) == ()
    assert events_of(looks, None, [still(6, 9, is_apart=True)]) == ()
    assert events_of(seen(look(), look(), look()), None, [still(6, 9)]) == ()
    slides = [still(0, 4), still(5.5, 9.5), still(10, 14)]
    assert events_of(seen(*[look(is_still=True)] * 3), None, slides) == ()
    # Packets are small, but the looks beside show that the picture moves.
    (freeze,) = events_of(looks, None, slides)
    assert (freeze.start_s, freeze.end_s) == (5.5, 9.5)


def test_events_of_neighbours_are_one_and_the_longest_are_kept():
    (combing,) = events_of(seen(look(combed_share=0.2), look(combed_share=0.4), look()))
    assert (combing.start_s, combing.end_s, combing.share) == (0, 10, pytest.approx(0.3))
    many = [(0.1 * n, 0.1 * n + 0.001 * n) for n in range(1, 10)] * 2
    assert len(events_of(seen(look()), damage_s=many)) <= MAX_EVENTS
    apart = [(float(n), n + 0.2 + (n == 250)) for n in range(300)]
    found = events_of([Seen(look(), 0, 400, 1, 2)], damage_s=apart)
    assert len(found) == MAX_EVENTS and max(event.end_s - event.start_s for event in found) > 1


def test_a_picture_is_shown_unless_all_is_blank():
    assert have_picture([look(), look("black")]) == [True, False]
    assert have_picture([look("credits"), look("black")]) == [True, False]
    assert have_picture([look("bars"), look("black")]) is None


@pytest.mark.parametrize(
    "values",
    [("smear", 0.0, 1.0), ("freeze", -1.0, 1.0), ("freeze", 2.0, 1.0), ("freeze", 0.0, float("inf")),
     ("freeze", float("nan"), 1.0), ("freeze", 0.0, 1.0, 0.0), ("freeze", 0.0, 1.0, 1.5)],
)  # fmt: skip
def test_nonsense_is_no_event(values):
    with pytest.raises(ValueError):
        Event(*values)


@pytest.mark.parametrize(
    "broken",
    [[["freeze", 0.0, 1.0, 1.0]] * (MAX_EVENTS + 1), [["freeze", 0.0, 1.0]], [["freeze", "0", 1.0, 1.0]],
     [["freeze", 0.0, True, 1.0]], [[["freeze"], 0.0, 1.0, 1.0]], {"freeze": 1}, None, [["smear", 0.0, 1.0, 1.0]]],
)  # fmt: skip
def test_events_of_a_hostile_process_are_refused(clip, broken):
    import json

    from safetensors.numpy import load, save

    data = decode(io.BytesIO(clip("a.mp4", FROZEN, H264)), "clip", SETTINGS).to_bytes()
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    facts = json.loads(header["__metadata__"]["video"]) | {"events": broken}
    with pytest.raises(ValueError, match="not video samples"):
        VideoSamples.from_bytes(save(load(data), metadata={"video": json.dumps(facts)}), SETTINGS)
