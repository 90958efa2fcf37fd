"""Reading the headers of H.264: fields are paired, frames are not, and no bytes are too strange."""

import av
from hypothesis import given
from hypothesis import strategies as st

from cpllm_model.decoding.fields import PictureHeaders
from tests.bad_videos.streams import avc, fields, pairs


def seconds(coded, packets=None):
    headers = PictureHeaders(coded.private)
    return [headers.is_second_field(av.Packet(packet)) for packet in packets or coded.packets]


def test_every_other_field_completes_a_frame():
    assert seconds(fields()) == [False, True] * 48


def test_a_field_without_its_other_is_a_frame_of_its_own():
    first, second, *others = fields().packets
    assert seconds(fields(), [second, *others[:4]]) == [False, False, True, False, True]
    assert seconds(fields(), [first, *others[:4]]) == [False, False, True, False, True]


def test_frames_are_not_paired():
    assert not any(seconds(pairs()))
    assert not any(seconds(avc()))
    assert PictureHeaders(fields().private).may_have_fields
    assert not PictureHeaders(avc().private).may_have_fields


def test_key_frames_refer_to_nothing_and_others_do():
    headers = PictureHeaders(avc().private)
    assert [headers.is_intra(av.Packet(packet)) for packet in avc().packets] == avc().keys


def test_start_codes_serve_as_well_as_lengths():
    sets = fields().private
    at = 8 + int.from_bytes(sets[6:8], "big")
    units = [b"\0\0\0\1" + packet[4:] for packet in fields().packets[:4]]
    headers = PictureHeaders(None)
    packets = [b"\0\0\0\1" + sets[8:at] + units[0], *units[1:]]
    assert [headers.is_second_field(av.Packet(packet)) for packet in packets] == [False, True, False, True]


@given(st.binary(max_size=64), st.binary(min_size=1, max_size=64))
def test_no_bytes_are_too_strange(extradata, packet):
    for data in (extradata, fields().private + extradata, b"\0\0\1\x67" + extradata):
        headers = PictureHeaders(data)
        assert headers.is_second_field(av.Packet(packet)) in (True, False)
        assert headers.is_intra(av.Packet(packet)) in (True, False)
        assert headers.is_intra(av.Packet(b"\0\0\1\x65" + packet)) in (True, False)
