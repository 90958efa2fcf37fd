"""From a sampling plan to frames: readers that reach key frames, and the loop that decodes on from them.

Two ways to reach a key frame: seeking by the container's index, or reading the file through. Either checks
where it arrived, and raises Unreachable rather than give other frames than those asked for. In: an open
container, a route and its plan. Out: what the model sees of each segment.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import av.error
import numpy as np
from av.packet import Packet
from av.stream import Discard
from av.video.frame import VideoFrame

from cpllm_model.decoding.container import FATAL, OpenVideo
from cpllm_model.decoding.looks import BurstMeter
from cpllm_model.decoding.pixels import FrameConverter
from cpllm_model.decoding.sampling import SamplingPlan, SamplingSettings, Want, Window
from cpllm_model.decoding.timeline import Route, Unreachable
from cpllm_model.errors import TooSmallError

#: Key frames tried before the one asked for, when decoding from it does not give its picture.
_EARLIER_STARTS = 3
#: Packets kept from the end of a run: a decoder takes in this many at most before it gives their frames.
_DECODER_DELAY = 64
#: Larger frames (8K) have the bars of the burst's first frame: a whole burst of them would not fit into the memory.
_MOST_HELD_PX = 4096 * 2304


class IndexedReader:
    """Reaches key frames by seeking; the other streams of the container are not read from then on."""

    def __init__(self, video: OpenVideo, route: Route) -> None:
        self._video = video
        self._route = route
        for other in video.container.streams:
            if other.index != video.stream.index:
                other.discard = Discard.all

    def starts(self, key: int) -> list[int]:
        """Key frames to try for a run from `key`, best first."""
        keys = self._route.timeline.key_ticks
        index = keys.index(key)
        return keys[max(0, index - _EARLIER_STARTS) : index + 1][::-1]

    def packets(self, key: int) -> Iterator[Packet]:
        """Packets from a key frame on."""
        try:
            self._video.container.seek(self._route.key_places[key], stream=self._video.stream)
            yield from self._video.container.demux(self._video.stream)
        except FATAL:
            raise
        except (av.error.FFmpegError, OverflowError) as error:
            raise Unreachable(f"reading on from a key frame fails: {error}") from error

    def begun(self, key: int, first: Packet) -> int | None:
        """Tick at which a run began by its first packet."""
        return first.pts if self._route.ticks_are_pts else first.dts

    def moved(self, keys: Iterable[int]) -> dict[int, int]:
        """Where key frames lie whose ticks were assumed wrong: an index may hold decoding times."""
        found = {}
        for key in keys:
            first = next(self.packets(key), None)
            begun = self.begun(key, first) if first is not None and first.size else None
            if begun is None:
                raise Unreachable(f"no packet with a timestamp to begin with at tick {key}")
            if begun != key:
                found[key] = begun
        return found


class SequentialReader:
    """Reaches key frames by reading a container through that was just opened, each run after the last."""

    def __init__(self, video: OpenVideo, route: Route) -> None:
        self._context = video.stream.codec_context
        self._is_gradual = route.is_gradual
        self._key_places = route.key_places
        self._numbered = enumerate(video.container.demux(video.stream))
        self._recent: deque[tuple[int, Packet]] = deque(maxlen=_DECODER_DELAY)

    def starts(self, key: int) -> list[int]:
        """Key frames to try for a run from `key`: there is no way back to an earlier one."""
        return [key]

    def packets(self, key: int) -> Iterator[Packet]:
        """Packets from a key frame on, which lies after that of the call before.

        Where the stream is refreshed bit by bit, runs begin well before their frames: one may go on from the last.
        """
        wanted = self._key_places[key]
        recent = list(self._recent)
        if recent and recent[0][0] > wanted:
            if not self._is_gradual:
                raise Unreachable(f"the key frame at tick {key} was passed by")
            recent = []
        else:
            self._context.flush_buffers()
        for number, packet in itertools.chain(recent, self._unread()):
            if number >= wanted:
                yield packet

    def begun(self, key: int, first: Packet) -> int | None:
        """Tick at which a run began."""
        return key

    def _unread(self) -> Iterator[tuple[int, Packet]]:
        try:
            for numbered in self._numbered:
                self._recent.append(numbered)
                yield numbered
        except FATAL:
            raise
        except av.error.FFmpegError:
            return  # the runs tell whether enough was read


Reader = IndexedReader | SequentialReader


@dataclass
class Sight:
    """What was seen of a video.

    Args:
        bursts: segment -> mosaics in order.
        burst_ticks: segment -> the ticks of these.
        contexts: segment -> (tick, image), in no order.
        meters: segment -> what measured the frames of its burst.
        first_frame: of those decoded.
        damaged_ticks: frames shown that the decoder patched, and frames of bursts that it did not give.
    """

    bursts: list[list[np.ndarray]]
    burst_ticks: list[list[int]]
    contexts: list[list[tuple[int, np.ndarray]]]
    meters: list[BurstMeter]
    first_frame: VideoFrame | None = None
    damaged_ticks: set[int] = field(default_factory=set)

    def context_NMCHW(self) -> np.ndarray:  # noqa: N802
        """Context frames in order of time."""
        ordered = [sorted(shots, key=lambda shot: shot[0]) for shots in self.contexts]
        return np.array([[image for _, image in shots] for shots in ordered])


class Sampler:
    """Collects the frames of one plan.

    Args:
        video: open.
        reader: of that video.
        route: which way its frames are reached.
        plan: made for that route.
        settings: that the plan was made for.
    """

    def __init__(
        self, video: OpenVideo, reader: Reader, route: Route, plan: SamplingPlan, settings: SamplingSettings
    ) -> None:
        self._source = video.source
        self._context = video.stream.codec_context
        self._reader = reader
        self._route = route
        self._plan = plan
        self._fragment_px = settings.fragment_px
        self._converter = FrameConverter(settings)
        self._bursts = [_Burst(self._converter, settings.burst_frames) for _ in plan.segments]
        meters = [BurstMeter(self._converter) for _ in plan.segments]
        empty = ([[] for _ in plan.segments] for _ in range(3))
        self._sight = Sight(next(empty), next(empty), next(empty), meters)
        # Pictures that no other refers to are not decoded on the way: exact in H.264 (nal_ref_idc 0). HEVC's
        # sub-layer non-reference pictures may serve higher sub-layers, and skipping corrupts AV1.
        self._skips = self._context.name == "h264" and route.ticks_are_pts
        # VP8 keeps references that are never shown in packets of their own.
        self._counts_gaps = self._context.name != "vp8" and route.ticks_are_pts
        self._headers = video.picture_headers()
        self._sent_pts: set[int] = set()
        self._last_seen = 0

    def collect(self) -> Sight:
        """Decode what the plan wants.

        Raises:
            Unreachable: some frame is not there, or not where it should be.
            TooSmallError: a frame is smaller than one fragment.
        """
        for key, wants in self._plan.runs.items():
            anchor = None
            for start in self._reader.starts(key):
                packets = self._reader.packets(start)
                first = next(packets, None)
                begun = self._reader.begun(start, first) if first is not None and first.size else None
                if first is None or begun is None:
                    raise Unreachable(f"no packet with a timestamp to begin with at tick {start}")
                anchor = begun if anchor is None else anchor
                due = _Due([(anchor if want.tick == key else want.tick, want) for want in wants])
                # A key frame that refers to others is one of a gradual refresh: frames come once they are whole.
                is_whole = self._headers is None or self._headers.is_intra(first)
                if self._follow(itertools.chain([first], packets), start, begun, due, is_whole):
                    break
            else:
                raise Unreachable(f"decoding from the key frame at tick {key} does not give its picture")
        return self._sight

    def _follow(self, packets: Iterator[Packet], start: int, begun: int, due: _Due, is_whole: bool) -> bool:
        """Decode on until nothing is due; False if the first picture is not that of a key frame.

        The first key frame of a video is trusted: there is nothing before it to fall back on, and pictures
        shown before it but coded after it are sound. So is whatever comes of a gradual refresh.
        """
        leads = start == self._route.timeline.key_ticks[0]
        last_tick = None
        for index, frame in enumerate(self._decode(packets, due)):
            tick = self._route.tick(frame, begun, index)
            if tick is None or (last_tick is not None and tick <= last_tick):
                raise Unreachable(f"frames without increasing timestamps: {tick} after {last_tick}")
            if last_tick is None and not leads:
                if not frame.key_frame and tick < due.first_tick:
                    continue  # refers to what lies before the key frame
                if (is_whole and not frame.key_frame) or tick > due.first_tick:
                    return False
            last_tick = tick
            self._sight.first_frame = self._sight.first_frame or frame
            for want, count in due.take(tick):
                self._see(frame, tick, want, count)
            if due.is_done:
                return True
        raise Unreachable(f"the stream ends after tick {last_tick}, before all of the plan was seen")

    def _decode(self, packets: Iterator[Packet], due: _Due) -> Iterator[VideoFrame]:
        self._sent_pts.clear()
        for packet in packets:
            is_second = self._headers is not None and self._headers.is_second_field(packet)
            if packet.pts is not None and not is_second:
                self._sent_pts.add(packet.pts)
            if self._skips and not is_second:
                needed = packet.pts is None or packet.pts >= due.next_tick
                self._context.skip_frame = "DEFAULT" if needed else "NONREF"
            try:
                frames = self._context.decode(packet if packet.size else None)
            except FATAL:
                raise
            except av.error.FFmpegError as error:
                self._source.lose(packet, error)
                if self._route.counts_packets:
                    raise Unreachable("packets do not decode that frames are counted by") from None
                continue
            yield from frames

    def _see(self, frame: VideoFrame, tick: int, want: Want, count: int) -> None:
        """Keep a frame as the one after `count` of a want."""
        if tick >= self._plan.segments[want.segment].end:
            raise Unreachable(f"segment {want.segment} has too few frames")
        require_fragment(frame, self._source.name, self._fragment_px)
        if frame.is_corrupt:
            self._sight.damaged_ticks.add(tick)
        if want.is_burst:
            self._sight.meters[want.segment].add(frame)
            self._sight.bursts[want.segment].extend(self._bursts[want.segment].add(frame))
            self._sight.burst_ticks[want.segment].append(tick)
            if self._counts_gaps and count:
                self._sight.damaged_ticks |= {pts for pts in self._sent_pts if self._last_seen < pts < tick}
            self._last_seen = tick
        for _ in range(want.context_picks.count(count)):
            self._sight.contexts[want.segment].append((tick, self._converter.context(frame)))


def require_fragment(frame: VideoFrame, name: str, fragment_px: int) -> None:
    """Refuse frames that one fragment does not fit into.

    Raises:
        TooSmallError: it does not.
    """
    if min(frame.width, frame.height) < fragment_px:
        size = f"{frame.width}x{frame.height}"
        raise TooSmallError(name, f"a frame of {size} px is smaller than a fragment of {fragment_px} px")


class _Burst:
    """Cuts the frames of one burst alike: black bars are those that its first and its last frame have.

    Args:
        converter: of its video.
        frames: how many there are.
    """

    def __init__(self, converter: FrameConverter, frames: int) -> None:
        self._converter = converter
        self._frames_left = frames
        self._held: list[VideoFrame] = []
        self._window: Window | None = None

    def add(self, frame: VideoFrame) -> list[np.ndarray]:
        """Take the next frame; give the mosaics, in order, of those that can be cut by now."""
        self._held.append(frame)
        self._frames_left -= 1
        if self._window is None and self._is_decided(frame):
            self._window = self._converter.window([self._held[0], self._held[-1]])
        if self._window is None:
            return []
        held, self._held = self._held, []
        return [self._converter.mosaic(one, self._window) for one in held]

    def _is_decided(self, frame: VideoFrame) -> bool:
        """Tell whether no later frame can change what the bars are, or none is to be waited for."""
        return (
            self._frames_left == 0
            or frame.width * frame.height > _MOST_HELD_PX
            or (len(self._held) == 1 and not self._converter.may_have_bars(frame))
        )


class _Due:
    """What is still to be collected in one run.

    Args:
        wants: ticks, and what begins there.
    """

    def __init__(self, wants: list[tuple[int, Want]]) -> None:
        self.first_tick = min(tick for tick, _ in wants)
        self._waiting = [[tick, want, 0] for tick, want in wants]

    @property
    def is_done(self) -> bool:
        """Nothing is due any more."""
        return not self._waiting

    @property
    def next_tick(self) -> int:
        """No frame before is due."""
        return min((tick for tick, _, _ in self._waiting), default=self.first_tick)

    def take(self, tick: int) -> list[tuple[Want, int]]:
        """Wants that the next frame serves, each with the number of frames it had before."""
        served = []
        for waiting in self._waiting:
            begins, want, count = waiting
            if tick >= begins:
                served.append((want, count))
                waiting[2] += 1
        self._waiting = [waiting for waiting in self._waiting if waiting[2] < waiting[1].frames]
        return served
