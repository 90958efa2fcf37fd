"""Probing and decoding real encodes: exactness, cost, pixels, and what is refused."""

import io
import itertools
from dataclasses import replace

import av
import av.error
import ffmpeg
import imageio_ffmpeg
import numpy as np
import pytest

from cpllm_model import errors
from cpllm_model.decoding.container import VideoSource
from cpllm_model.decoding.frames import Sampler
from cpllm_model.decoding.pixels import FrameConverter
from cpllm_model.decoding.samples import DecodeLimits, VideoInfo, VideoSamples
from cpllm_model.decoding.sampling import SamplingSettings, Window
from cpllm_model.decoding.video import decode, probe
from tests.cpllm_model.decoding.settings import SETTINGS

H264 = {"vcodec": "libx264", "preset": "veryfast", "bf": 3, "g": 40, "pix_fmt": "yuv420p"}
HEVC = {"vcodec": "libx265", "preset": "ultrafast", "pix_fmt": "yuv420p"}
HEVC_OPEN = {**HEVC, "x265-params": "log-level=none:pools=none:frame-threads=1:keyint=40:bframes=4:scenecut=0"}


class Clips:
    """Encodes each clip of the session once."""

    def __init__(self, folder):
        self._folder = folder
        self._numbers = itertools.count()
        self._made = {}

    def __call__(self, name="clip.mp4", source="testsrc2=s=160x128:r=25:d=6", **options):
        key = (name, source, tuple(options.items()))
        if key not in self._made:
            path = self.path(name)
            run(ffmpeg.input(source, f="lavfi").output(str(path), threads=1, **(options or H264)))
            self._made[key] = path
        return self._made[key]

    def path(self, name):
        return self._folder / f"{next(self._numbers)}-{name}"

    def remux(self, path, name, inputs=None, **options):
        out = self.path(name)
        run(ffmpeg.input(str(path), **(inputs or {})).output(str(out), **{"c": "copy", **options}))
        return out


def run(stream):
    out, _ = ffmpeg.run(stream, cmd=imageio_ffmpeg.get_ffmpeg_exe(), quiet=True, overwrite_output=True)
    return out


@pytest.fixture(scope="session")
def clips(tmp_path_factory):
    return Clips(tmp_path_factory.mktemp("clips"))


class CountingFile(io.BytesIO):
    """A file that knows how much of it was read."""

    bytes_read = 0

    def read(self, *args):
        data = super().read(*args)
        self.bytes_read += len(data)
        return data


def sampled(data, settings=SETTINGS, limits=None):
    return decode(io.BytesIO(data), "clip", settings, limits)


def every_frame(data, settings=SETTINGS, window=None):
    """Mosaic, context frame and time of each frame, from the first to the last."""
    converter, found = FrameConverter(settings), []
    with av.open(io.BytesIO(data), "r") as container:
        stream = container.streams.video[0]
        stream.codec_context.thread_count = 1
        for packet in container.demux(stream):
            for frame in packet.decode():
                found.append((converter.mosaic(frame, window), converter.context(frame), frame.time))
    return found


def positions(images, truth) -> list[int]:
    """Where each image lies among the true ones; fails if nowhere."""
    numbers = {image.tobytes(): number for number, image in reversed(list(enumerate(truth)))}
    return [numbers[image.tobytes()] for image in images]


EXACT = {
    "h264 closed": ("a.mp4", H264, "keyframe"),
    "h264 open": ("a.mp4", {**H264, "x264-params": "open-gop=1:scenecut=0"}, "keyframe"),
    "h264 one key frame": ("a.mp4", {**H264, "g": 1000}, "keyframe+decode"),
    "h264 all key frames": ("a.mov", {**H264, "g": 1}, "keyframe"),
    "h264 fragmented": ("a.mp4", {**H264, "movflags": "+frag_keyframe+empty_moov"}, "keyframe"),
    "h264 intra refresh": ("a.mp4", {**H264, "x264-params": "intra-refresh=1"}, None),
    "h264 intra refresh ts": ("a.ts", {**H264, "x264-params": "intra-refresh=1"}, "sequential"),
    "h264 open mkv": ("a.mkv", {**H264, "x264-params": "open-gop=1:scenecut=0"}, "keyframe"),
    "h264 open ts": ("a.ts", {**H264, "x264-params": "open-gop=1:scenecut=0"}, "sequential"),
    "h264 without timestamps": ("a.h264", H264, "sequential"),
    "h264 avi": ("a.avi", H264, "keyframe"),
    "h264 flv": ("a.flv", H264, "sequential"),
    "hevc open": ("a.mp4", HEVC_OPEN, "keyframe"),
    "hevc open ts": ("a.ts", HEVC_OPEN, "sequential"),
    "hevc one key frame": (
        "a.mkv",
        {**HEVC, "x265-params": "log-level=none:pools=none:frame-threads=1:keyint=1000"},
        "sequential",
    ),
    "vp9": ("a.webm", {"vcodec": "libvpx-vp9", "deadline": "realtime", "cpu-used": 8, "g": 40}, "keyframe"),
    "vp8": ("a.webm", {"vcodec": "libvpx", "deadline": "realtime", "cpu-used": 8, "g": 40}, "keyframe"),
    "av1": ("a.mp4", {"vcodec": "libsvtav1", "preset": 12, "g": 40}, "keyframe"),
    "mpeg-2": ("a.mpg", {"vcodec": "mpeg2video", "bf": 2, "g": 15}, "sequential"),
    "mpeg-4": ("a.avi", {"vcodec": "mpeg4", "bf": 2, "g": 40}, "keyframe"),
    "theora": ("a.ogg", {"vcodec": "libtheora"}, "sequential"),
    "prores": ("a.mov", {"vcodec": "prores_ks"}, "keyframe"),
}


@pytest.mark.parametrize("case", EXACT)
def test_samples_are_frames_of_the_segment_whatever_the_plan(clips, case):
    name, options, plan = EXACT[case]
    data = clips(name, **options).read_bytes()
    samples = sampled(data)
    mosaics, contexts, times = zip(*every_frame(data), strict=True)
    assert plan in (samples.plan, None)
    assert samples.damaged_frames == 0
    assert len(samples.bursts_NTCHW) == 4
    np.testing.assert_allclose(samples.burst_interval_s, 0.04, rtol=0.01)
    for segment, burst in enumerate(samples.bursts_NTCHW):
        burst_at = positions(burst, mosaics)
        context_at = positions(samples.context_NMCHW[segment], contexts)
        assert np.diff(burst_at).tolist() == [1] * 4
        assert context_at == sorted(set(context_at))
        if None not in times:
            shown_s = np.array([times[at] for at in burst_at + context_at]) - times[0]
            assert (shown_s >= samples.segment_start_s[segment] - 1e-6).all()
            assert (shown_s < samples.segment_end_s[segment] + 1e-6).all()


def test_the_same_bytes_give_the_same_samples(clips):
    data = clips("a.mp4", **HEVC_OPEN).read_bytes()
    assert sampled(data).to_bytes() == sampled(data).to_bytes()


@pytest.mark.parametrize("name", ["long.mp4", "long.mkv"])
def test_what_is_read_does_not_grow_with_the_length(clips, name):
    noisy = "nullsrc=s=160x128:r=25:d=6,noise=alls=60:allf=t"
    short = clips(name, noisy, **{**H264, "g": 25, "crf": 10, "preset": "ultrafast"})
    files = [clips.remux(short, name, {"stream_loop": loops}) for loops in (4, 39)]
    read, lengths = [], []
    for path in files:
        file = CountingFile(path.read_bytes())
        samples = decode(file, name, SETTINGS)
        assert samples.plan == "keyframe"
        read.append(file.bytes_read)
        lengths.append(samples.info.duration_s)
    assert lengths[1] > 7 * lengths[0]
    assert read[1] < 1.3 * read[0] and read[1] < 0.2 * files[1].stat().st_size


LATE = {
    "a segment": ("part1.mkv", {"f": "segment", "segment_time": 4}, 100),
    "after an hour": ("late.mkv", {"output_ts_offset": 3600}, 300),
    "since 1970": ("live.mkv", {"output_ts_offset": 1_732_560_000}, 300),
}


@pytest.mark.parametrize("case", LATE)
def test_a_clock_may_begin_at_any_time(clips, case):
    name, options, frames = LATE[case]
    whole = clips("a.mp4", "testsrc2=s=160x128:r=25:d=12", **{**H264, "g": 25, "bf": 0})
    path = clips.remux(whole, name.replace("1", "%d"), **options)
    data = path.with_name(path.name.replace("%d", "1")).read_bytes()
    for info in (probe(io.BytesIO(data), name), (samples := sampled(data)).info):
        assert (info.duration_s, info.fps) == (pytest.approx(frames / 25, abs=0.05), 25)
    assert samples.damaged_frames == 0
    assert (samples.segment_start_s[0], samples.segment_end_s[-1]) == (0, pytest.approx(frames / 25, abs=0.05))


@pytest.mark.parametrize("kept", [slice(0, None), slice(2, 5)], ids=["since 1970", "joined late"])
def test_a_broadcast_may_be_joined_at_any_time(clips, kept):
    whole = clips("a.mp4", "testsrc2=s=160x128:r=25:d=12", **{**H264, "g": 25, "bf": 0})
    path = clips.remux(
        whole,
        "live.mpd",
        f="dash",
        seg_duration=2,
        output_ts_offset=1_732_560_000,
        init_seg_name=f"{whole.name}-init.mp4",
        media_seg_name=f"{whole.name}-$Number$.m4s",
    )
    parts = [path.with_name(f"{whole.name}-{number}.m4s") for number in range(1, 7)][kept]
    data = b"".join(part.read_bytes() for part in [path.with_name(f"{whole.name}-init.mp4"), *parts])
    samples = sampled(data)
    assert probe(io.BytesIO(data), "live").duration_s == pytest.approx(2 * len(parts), abs=0.1)
    assert samples.info.duration_s == pytest.approx(2 * len(parts), abs=0.1)
    assert samples.damaged_frames == 0


@pytest.mark.parametrize("name", ["late.mkv", "late.flv"])
def test_half_a_file_with_a_late_clock_is_refused(clips, name):
    data = clips.remux(clips("a.mp4", **H264), name, output_ts_offset=3600).read_bytes()
    with pytest.raises(errors.CorruptVideoError, match="cut off"):
        sampled(data[: len(data) // 2])


@pytest.mark.parametrize("options", [{"g": 100}, {"g": 50, "x264-params": "intra-refresh=1"}], ids=["GOP", "refresh"])
def test_what_decodes_of_a_recording_from_the_middle_is_scored_and_the_rest_counted(clips, options):
    whole = clips("long.ts", "testsrc2=s=320x240:r=25:d=20", **{**H264, **options}).read_bytes()
    data = whole[len(whole) // 188 * 35 // 100 * 188 :]
    samples = sampled(data)
    truth = every_frame(whole)
    decodable = len(every_frame(data))
    for burst in samples.bursts_NTCHW:
        assert np.diff(positions(burst, [frame[0] for frame in truth])).tolist() == [1] * 4
    assert samples.info.frame_count == pytest.approx(decodable + samples.damaged_frames, abs=2)
    assert samples.segment_end_s[-1] == pytest.approx(decodable / 25, abs=0.1)
    assert 20 < samples.damaged_frames < 110


def test_the_cost_of_a_gradual_refresh_does_not_grow_with_the_length(clips, monkeypatch):
    options = {**H264, "g": 25, "x264-params": "intra-refresh=1", "preset": "ultrafast"}
    short = clips("refresh.ts", "testsrc2=s=320x240:r=25:d=20", **options)
    data = clips.remux(short, "refresh.ts", {"stream_loop": 2}).read_bytes()
    decoded = []
    monkeypatch.setattr(Sampler, "_decode", lambda *args, kept=Sampler._decode: counted(kept(*args), decoded))
    samples = sampled(data, replace(SETTINGS, most_looks=2))
    assert (samples.plan, samples.damaged_frames) == ("sequential", 0)
    assert len(decoded) < 600  # of 1500


def counted(frames, decoded):
    for frame in frames:
        decoded.append(frame.pts)
        yield frame


TURNS = {
    "90": {"display_rotation": 90},
    "180": {"display_rotation": 180},
    "270": {"display_rotation": 270},
    "mirrored": {"display_hflip": None},
    "upside down": {"display_vflip": None},
    "turned and mirrored": {"display_rotation": 90, "display_hflip": None},
}


@pytest.mark.parametrize("turn", TURNS)
def test_frames_stand_as_a_player_shows_them(clips, turn):
    # The model sees codes of BT.709, the test the stream's: they are the same here.
    odd = clips("odd-709.mp4", "testsrc=s=161x99:r=25:d=1", vcodec="libx264", pix_fmt="yuv444p", colorspace="bt709")
    path = clips.remux(odd, "turned.mp4", TURNS[turn])
    samples = sampled(path.read_bytes())
    size = 48
    shown = ffmpeg.input(str(path)).filter("scale", size, size, flags="area+accurate_rnd+full_chroma_int")
    raw = run(shown.output("pipe:", format="rawvideo", pix_fmt="rgb24", **{"frames:v": 1}))
    expected = np.frombuffer(raw, np.uint8).reshape(size, size, 3).transpose(2, 0, 1).astype(int)
    assert np.abs(samples.context_NMCHW[0, 0] - expected).mean() < 4

    raw = run(ffmpeg.input(str(path)).output("pipe:", format="rawvideo", pix_fmt="yuv444p", **{"frames:v": 1}))
    shape = (samples.info.height_px, samples.info.width_px)
    assert sorted(shape) == [99, 161]
    luma = np.frombuffer(raw, np.uint8).reshape(3, *shape)[0].astype(int)
    cut = samples.bursts_NTCHW[0, 0, 0, :32, :32].astype(int)
    differences = np.abs(np.lib.stride_tricks.sliding_window_view(luma, (32, 32)) - cut).mean((2, 3))
    row, column = np.unravel_index(differences.argmin(), differences.shape)
    assert differences.min() < 1
    assert row < shape[0] // 2 and column < shape[1] // 2


FORMATS = {
    "10 bit": {
        "vcodec": "libx265",
        "x265-params": "log-level=none:pools=none:frame-threads=1:lossless=1",
        "pix_fmt": "yuv420p10le",
    },
    "full range": {"pix_fmt": "yuvj420p", "color_range": "pc"},
    "4:2:2": {"pix_fmt": "yuv422p"},
    "4:4:4": {"pix_fmt": "yuv444p"},
    "4:4:4 12 bit": {"vcodec": "ffv1", "pix_fmt": "yuv444p12le"},
    "rgb": {"vcodec": "ffv1", "pix_fmt": "gbrp"},
}


@pytest.mark.parametrize("form", FORMATS)
def test_pixel_formats_show_the_same_picture(clips, form):
    source = "smptehdbars=s=192x128:r=25:d=1,hflip,scale=out_color_matrix=bt709,setparams=colorspace=bt709"
    plain = {"vcodec": "libx264", "qp": 0, "pix_fmt": "yuv420p", "colorspace": "bt709"}
    name = "a.mkv"
    expected = sampled(clips(name, source, **plain).read_bytes())
    found = sampled(clips(name, source, **(plain | FORMATS[form])).read_bytes())
    assert found.info.pixel_format != expected.info.pixel_format
    for one, other in (
        (found.context_NMCHW, expected.context_NMCHW),
        (found.bursts_NTCHW, expected.bursts_NTCHW),
    ):
        difference = np.abs(one.astype(int) - other)
        assert np.median(difference) <= 1 and difference.mean() < 3


BARS = {
    "letterbox": ("pad=192:224:0:48", Window(48, 0, 128, 192)),
    "pillarbox": ("pad=288:128:46:0", Window(0, 46, 128, 192)),
    "windowbox": ("pad=256:192:30:34", Window(34, 30, 128, 192)),
    "fading in": ("pad=192:224:0:48,fade=in:0:4", Window(48, 0, 128, 192)),
}


@pytest.mark.parametrize("bars", BARS)
def test_bars_of_an_encoder_are_cropped(clips, bars):
    source, lossy = "mandelbrot=s=192x128:r=25,trim=0:1,setpts=N/25/TB", {**H264, "crf": 40, "g": 25}
    filters, window = BARS[bars]
    data = clips("bars.mp4", f"{source},{filters}", **lossy).read_bytes()
    found = sampled(data)
    mosaics = [mosaic for mosaic, _, _ in every_frame(data, window=window)]
    for burst in found.bursts_NTCHW:
        assert np.diff(positions(burst, mosaics)).tolist() == [1] * 4
    if "fade" not in filters:
        bare = sampled(clips("bare.mp4", source, **lossy).read_bytes())
        assert np.abs(found.context_NMCHW.astype(int) - bare.context_NMCHW).mean() < 12


def test_a_gap_in_time_leaves_equal_numbers_of_frames(clips):
    data = clips(
        "gap.mp4",
        "testsrc2=s=160x128:r=25:d=2,setpts='if(lt(N,30),N,N+5000)/25/TB'",
        **{**H264, "g": 12, "fps_mode": "vfr"},
    ).read_bytes()
    samples = sampled(data)
    assert samples.plan == "sequential"
    assert len(samples.segment_start_s) == 4
    assert samples.segment_start_s[0] == 0 and samples.segment_start_s[-1] > 190
    mosaics = [frame[0] for frame in every_frame(data)]
    starts = [positions(burst, mosaics)[0] for burst in samples.bursts_NTCHW]
    assert all(start // 13 == segment or start // 12 == segment for segment, start in enumerate(starts))


def test_short_videos_have_fewer_segments(clips):
    data = clips("short.mp4", "testsrc2=s=160x128:r=25:d=0.5", **H264).read_bytes()
    samples = sampled(data)
    assert len(samples.segment_start_s) == 2
    with pytest.raises(errors.TooShortError, match="13 frames"):
        sampled(data, SamplingSettings(0.1, 4, 3, 48, 14, 2, 32))


def test_small_frames_are_refused(clips):
    data = clips("small.mp4", "testsrc2=s=64x24:r=25:d=1", **H264).read_bytes()
    assert probe(io.BytesIO(data), "small").height_px == 24
    with pytest.raises(errors.TooSmallError, match="64x24"):
        sampled(data)


def test_a_new_size_in_mid_stream_is_followed(clips):
    sizes = [
        clips(f"{size}.h264", f"testsrc2=s={size}:r=25:d=2", **{**H264, "g": 10}) for size in ("160x128", "320x192")
    ]
    samples = sampled(b"".join(path.read_bytes() for path in sizes))
    assert len(samples.segment_start_s) == 4


def test_what_a_container_declares_is_reported(clips):
    info = probe(io.BytesIO(clips("facts.mp4", **H264).read_bytes()), "facts")
    assert (info.width_px, info.height_px, info.codec, info.pixel_format) == (160, 128, "h264", "yuv420p")
    assert (info.duration_s, info.fps, info.frame_count, info.rotation_deg) == (6.0, 25.0, 150, 0)
    assert info.bit_rate_bps is not None and info.bit_rate_bps > 1000


@pytest.mark.parametrize("name", ["a.h264", "a.webm"])
def test_what_it_does_not_declare_is_measured(clips, name):
    source = "testsrc2=s=160x128:r=25:d=6"
    options = H264 if name == "a.h264" else {"vcodec": "libvpx", "deadline": "realtime", "live": 1}
    info = probe(io.BytesIO(clips(name, source, **options).read_bytes()), name)
    assert info.duration_s == pytest.approx(6, abs=0.1) and info.fps == pytest.approx(25, abs=0.5)


def test_libav_may_not_open_another_file_or_seek_before_this_one(clips):
    source = VideoSource(io.BytesIO(clips().read_bytes()), "clip", DecodeLimits())
    assert source.seek(-1) < 0
    with source.opened() as video, pytest.raises(PermissionError):
        video.container.io_open("/etc/passwd", 1, {})


@pytest.mark.parametrize("name", ["a.mp4", "index first.mp4", "a.mkv", "a.avi", "a.flv"])
def test_half_a_file_is_refused(clips, name):
    options = {"movflags": "+faststart"} if name == "index first.mp4" else {}
    data = clips(name, **H264, **options).read_bytes()
    with pytest.raises(errors.CorruptVideoError, match="cut off"):
        sampled(data[: len(data) // 2])


def test_a_file_without_its_end_is_refused(clips):
    data = clips("a.mp4", **H264, movflags="+faststart").read_bytes()
    with pytest.raises(errors.CorruptVideoError, match="its last frame lies at byte"):
        sampled(data[: len(data) * 97 // 100])


def test_packets_that_do_not_decode_are_counted_or_too_many(clips):
    data = clips("a.mp4", **H264, movflags="+faststart").read_bytes()
    start = data.index(b"mdat") + 4

    def without(first, last):
        broken = bytearray(data)
        first, last = (start + int((len(data) - start) * share) for share in (first, last))
        broken[first:last] = bytes(last - first)
        return broken

    assert sampled(without(0.33, 0.66)).damaged_frames > 20
    with pytest.raises(errors.CorruptVideoError, match="of 150 frames decode"):
        sampled(without(0.2, 0.8))


def test_damage_is_counted_or_refused_and_never_hidden(clips):
    data = clips("a.mp4", **H264, movflags="+faststart").read_bytes()
    start, rng, damaged = data.index(b"mdat") + 4, np.random.default_rng(1), 0
    for _ in range(8):
        broken = bytearray(data)
        for at in rng.integers(start, len(data), 200):
            broken[at] ^= int(rng.integers(1, 256))
        try:
            damaged += sampled(broken).damaged_frames > 0
        except errors.CorruptVideoError:
            damaged += 1
    assert damaged == 8


def test_flipped_bits_in_the_header_give_samples_or_a_typed_error(clips):
    data = clips("a.mp4", **H264, movflags="+faststart").read_bytes()
    rng = np.random.default_rng(2)
    for _ in range(25):
        broken = bytearray(data)
        for at in rng.integers(0, data.index(b"mdat"), 5):
            broken[at] ^= 1 << int(rng.integers(8))
        try:
            assert sampled(broken).bursts_NTCHW.size
        except errors.VideoError as error:
            assert not error.transient


def test_limits_are_kept(clips):
    data = clips("a.mp4", **H264).read_bytes()
    with pytest.raises(errors.LimitExceededError, match="160x128"):
        sampled(data, limits=DecodeLimits(max_frame_px=160 * 127))
    with pytest.raises(errors.LimitExceededError, match="lasts 6 s"):
        sampled(data, limits=DecodeLimits(max_duration_s=5))
    with pytest.raises(errors.LimitExceededError, match="150 frames"):
        sampled(data, limits=DecodeLimits(max_frames=149))
    with pytest.raises(errors.LimitExceededError, match="bytes"):
        sampled(data, limits=DecodeLimits(max_file_bytes=1000))


@pytest.mark.parametrize("fails_after", [0, 300_000])
def test_what_reading_raises_is_raised(clips, fails_after):
    noisy = "nullsrc=s=160x128:r=25:d=6,noise=alls=60:allf=t"
    data = clips("a.ts", noisy, **{**H264, "crf": 10}).read_bytes()
    assert len(data) > 2 * fails_after
    gone = errors.ObjectChangedError("clip", "another ETag")

    class Changing(CountingFile):
        def read(self, *args):
            if self.bytes_read >= fails_after:
                raise gone
            return super().read(*args)

    with pytest.raises(errors.ObjectChangedError) as raised:
        decode(Changing(data), "clip", SETTINGS)
    assert raised.value is gone


def test_samples_survive_the_trip_and_nonsense_does_not(clips):
    samples = sampled(clips().read_bytes())
    data = samples.to_bytes()
    again = VideoSamples.from_bytes(data, SETTINGS)
    assert again.info == samples.info and again.plan == samples.plan
    np.testing.assert_array_equal(again.bursts_NTCHW, samples.bursts_NTCHW)
    np.testing.assert_array_equal(again.context_NMCHW, samples.context_NMCHW)
    np.testing.assert_array_equal(again.segment_end_s, samples.segment_end_s)
    np.testing.assert_array_equal(again.burst_interval_s, samples.burst_interval_s)
    other = SamplingSettings(0.1, 4, 3, 48, 6, 2, 32)
    for broken, settings in ((data[:-1], SETTINGS), (b"", SETTINGS), (b"\xff" * 100, SETTINGS), (data, other)):
        with pytest.raises(ValueError):
            VideoSamples.from_bytes(broken, settings)


@pytest.mark.parametrize("interval_s", [0.0, -0.04, float("nan"), float("inf")])
def test_intervals_of_bursts_are_finite_and_positive(clips, interval_s):
    samples = sampled(clips().read_bytes())
    broken = replace(samples, burst_interval_s=np.full(4, interval_s)).to_bytes()
    with pytest.raises(ValueError, match="burst intervals"):
        VideoSamples.from_bytes(broken, SETTINGS)


@pytest.mark.parametrize("fps", [5, 50])
@pytest.mark.parametrize("name", ["rate.mp4", "rate.mkv", "rate.ts"])
def test_the_interval_of_a_burst_tells_frame_rates_apart(clips, name, fps):
    data = clips(name, f"testsrc2=s=160x128:r={fps}:d=6", **H264).read_bytes()
    np.testing.assert_allclose(sampled(data).burst_interval_s, 1 / fps, rtol=0.02)


def test_the_interval_of_a_burst_is_that_of_its_own_frames(clips):
    slower = "testsrc2=s=160x128:r=25:d=6,setpts='if(lt(N,75),N,75+(N-75)*3)/25/TB'"
    data = clips("slower.mp4", slower, **{**H264, "fps_mode": "vfr", "g": 10, "bf": 0}).read_bytes()
    found = sampled(data).burst_interval_s
    np.testing.assert_allclose(found[[0, -1]], [0.04, 0.12], rtol=0.02)


@pytest.mark.parametrize("duration_s", [0.0, -1.0, float("nan"), float("inf")])
def test_a_video_lasts_for_a_finite_time(duration_s):
    with pytest.raises(ValueError, match="duration_s"):
        VideoInfo(duration_s, 160, 128, 25.0, "h264", "yuv420p", 0, None, None)
