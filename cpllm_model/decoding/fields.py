"""What the headers of H.264 pictures say: whether a packet is a frame or one of its two fields, and how it is coded.

libav gives each field of a field-coded stream (AVCHD, 1080i) in a packet of its own and two fields as one frame,
and does not say which packets these were. Read are the few bits that tell (ITU-T H.264, 7.3.2.1.1 and 7.3.3);
what cannot be read counts as a frame. In: packets in decoding order. Decodes nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from av.packet import Packet

#: Of a packet, and of a header in it: what lies further on is not looked at.
_PACKET_BYTES, _HEADER_BYTES = 1 << 16, 512
_SLICES, _SEQUENCE_SET = (1, 2, 5), 7
#: Profiles whose sequence set states the form of chroma (7.3.2.1.1).
_CHROMA_PROFILES = {44, 83, 86, 100, 110, 118, 122, 128, 134, 135, 138, 139, 244}
_INTRA = (2, 4, 7, 9)


@dataclass(frozen=True)
class _Sequence:
    """What of a sequence parameter set is needed to read the headers of its slices."""

    frame_number_bits: int
    has_planes: bool
    may_have_fields: bool


@dataclass(frozen=True)
class _Slice:
    """The header of a slice; `parity` is 0 of a top field, 1 of a bottom field, None of a frame."""

    kind: int
    frame_number: int
    parity: int | None


class PictureHeaders:
    """Reads the headers of one H.264 stream; two fields in packets of their own make a frame.

    Args:
        extradata: what sets up the decoder, as the container has it.
    """

    def __init__(self, extradata: bytes | None) -> None:
        extradata = extradata or b""
        self._length_bytes = (extradata[4] & 3) + 1 if len(extradata) > 6 and extradata[0] == 1 else 0
        self._sequence: _Sequence | None = None
        self._unpaired: _Slice | None = None
        if self._length_bytes:
            size = int.from_bytes(extradata[6:8], "big")
            self._read_sequence(extradata[8 : 8 + size])
        else:
            for unit in self._units(extradata):
                self._read_sequence(unit)

    @property
    def may_have_fields(self) -> bool:
        """Whether the stream says that some of its pictures may be fields."""
        return self._sequence is None or self._sequence.may_have_fields

    def is_second_field(self, packet: Packet) -> bool:
        """Tell whether a packet completes the frame that the packet before it began; asked of each in turn."""
        picture = self._first_slice(packet) if self.may_have_fields else None
        before, self._unpaired = self._unpaired, None
        if picture is None or picture.parity is None:
            return False
        if before and before.frame_number == picture.frame_number and before.parity != picture.parity:
            return True
        self._unpaired = picture
        return False

    def is_intra(self, packet: Packet) -> bool:
        """Tell whether the first slice of a picture refers to no other picture."""
        picture = self._first_slice(packet)
        return picture is None or picture.kind in _INTRA

    def _first_slice(self, packet: Packet) -> _Slice | None:
        for unit in self._units(bytes(memoryview(packet)[:_PACKET_BYTES])):
            if unit and unit[0] & 31 in _SLICES:
                return self._read_slice(unit)
            self._read_sequence(unit)
        return None

    def _units(self, data: bytes) -> Iterator[bytes]:
        """The NAL units of a packet, each as far as it may be read."""
        at = 0
        if self._length_bytes:
            while at + self._length_bytes < len(data):
                size = int.from_bytes(data[at : at + self._length_bytes], "big")
                at += self._length_bytes
                yield data[at : at + min(size, _HEADER_BYTES)]
                at += size
        else:
            while (at := data.find(b"\0\0\1", at)) >= 0:
                at += 3
                yield data[at : at + _HEADER_BYTES]

    def _read_sequence(self, unit: bytes) -> None:
        if not unit or unit[0] & 31 != _SEQUENCE_SET:
            return
        bits = _Bits(unit)
        try:
            self._sequence = _sequence(bits)
        except EOFError:
            return

    def _read_slice(self, unit: bytes) -> _Slice | None:
        if self._sequence is None:
            return None
        bits = _Bits(unit)
        try:
            bits.golomb()
            kind = bits.golomb()
            bits.golomb()
            bits.take(2 if self._sequence.has_planes else 0)
            frame_number = bits.take(self._sequence.frame_number_bits)
            is_field = self._sequence.may_have_fields and bits.take(1)
            return _Slice(kind, frame_number, bits.take(1) if is_field else None)
        except EOFError:
            return None


def _sequence(bits: _Bits) -> _Sequence:
    profile = bits.take(8)
    bits.take(16)
    bits.golomb()
    has_planes = False
    if profile in _CHROMA_PROFILES:
        chroma = bits.golomb()
        has_planes = chroma == 3 and bool(bits.take(1))
        bits.golomb()
        bits.golomb()
        bits.take(1)
        if bits.take(1):
            for index in range(12 if chroma == 3 else 8):
                _pass_scaling_list(bits, 16 if index < 6 else 64)
    frame_number_bits = bits.golomb() + 4
    order = bits.golomb()
    if order == 0:
        bits.golomb()
    elif order == 1:
        bits.take(1)
        bits.golomb()
        bits.golomb()
        for _ in range(min(bits.golomb(), 255)):
            bits.golomb()
    bits.golomb()
    bits.take(1)
    bits.golomb()
    bits.golomb()
    return _Sequence(min(frame_number_bits, 16), has_planes, not bits.take(1))


def _pass_scaling_list(bits: _Bits, entries: int) -> None:
    if not bits.take(1):
        return
    last = following = 8
    for _ in range(entries):
        if following:
            code = bits.golomb()
            following = (last + (code + 1) // 2 * (1 if code % 2 else -1)) % 256
        last = following or last


class _Bits:
    """The bits of a NAL unit after its first byte, without the bytes put in against false start codes (7.4.1)."""

    def __init__(self, unit: bytes) -> None:
        payload = unit[1:_HEADER_BYTES].replace(b"\0\0\3", b"\0\0")
        self._value = int.from_bytes(payload, "big")
        self._left = 8 * len(payload)

    def take(self, count: int) -> int:
        """The next bits as a number."""
        if count > self._left:
            raise EOFError("the header goes on")
        self._left -= count
        return self._value >> self._left & (1 << count) - 1

    def golomb(self) -> int:
        """The next Exp-Golomb code as an unsigned number (9.1)."""
        zeros = 0
        while not self.take(1):
            zeros += 1
            if zeros > 32:
                raise EOFError("no number of the standard")
        return (1 << zeros) - 1 + self.take(zeros)
