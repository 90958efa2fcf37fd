"""Files that name other files and hosts, for a reader that follows them: playlists, manifests, references in MP4."""

from __future__ import annotations

import struct

from tests.bad_videos.files import Coded, box, full_box, mp4

#: A host and a file for where it does not matter which.
NOWHERE = ("http://127.0.0.1:9/video.ts", "/etc/hostname")
#: What `movies` come to; those that are not named here hold their frames themselves, too, and are scored.
MOVIES = {"frames in a file": "corrupt_video", "reference movie": "no_video_stream"}


def playlists(url: str, path: str) -> dict[str, str]:
    """Texts that make a player open something.

    Args:
        url: what stands on another host.
        path: what stands on this one, absolute.
    """
    name = path.rpartition("/")[2]
    hls = "#EXTM3U\n#EXT-X-TARGETDURATION:9\n{extra}#EXTINF:9,\n{target}\n#EXT-X-ENDLIST\n"
    dash = (
        '<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static" '
        'mediaPresentationDuration="PT9S"><Period><AdaptationSet mimeType="video/mp4"><Representation id="1" '
        'bandwidth="1"><BaseURL>{target}</BaseURL></Representation></AdaptationSet></Period></MPD>'
    )
    targets = {
        "http": url,
        "absolute path": path,
        "relative path": name,
        "file URL": f"file://{path}",
        "subfile": f"subfile,,start,0,end,99999,,:{path}",
        "concat protocol": f"concat:{path}|{path}",
        "data URL": "data:video/mp2t;base64,R0AAEAAAsA0AAcEAAAAB8AAqsQSy",
        "crypto": f"crypto+{url}",
    }
    return {
        **{f"HLS, {kind}": hls.format(extra="", target=target) for kind, target in targets.items()},
        "HLS, key": hls.format(extra=f'#EXT-X-KEY:METHOD=AES-128,URI="{url}"\n', target=name),
        "HLS, map": hls.format(extra=f'#EXT-X-MAP:URI="{url}"\n', target=name),
        "HLS, master": f"#EXTM3U\n#EXT-X-STREAM-INF:BANDWIDTH=1\n{url}\n",
        "concat, absolute path": f"ffconcat version 1.0\nfile '{path}'\n",
        "concat, relative path": f"ffconcat version 1.0\nfile {name}\n",
        "concat, http": f"ffconcat version 1.0\nfile '{url}'\n",
        "DASH, http": dash.format(target=url),
        "DASH, path": dash.format(target=path),
        "SDP": "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video 5004 RTP/AVP 96\n",
        "ASX": f'<ASX version="3.0"><Entry><Ref href="{url}"/></Entry></ASX>',
        "ASF reference": f"[Reference]\nRef1={url}\nRef2={path}\n",
        "PLS": f"[playlist]\nFile1={url}\nNumberOfEntries=1\n",
        "VobSub index": f"# VobSub index file, v7 (do not modify this line!)\nid: en, index: 0\n# {path}\n",
        "SVG": f'<svg xmlns="http://www.w3.org/2000/svg"><image href="{url}"/></svg>',
        "XML entity": f'<?xml version="1.0"?><!DOCTYPE MPD [<!ENTITY x SYSTEM "file://{path}">]><MPD>&x;</MPD>',
    }


def movies(coded: Coded, url: str, path: str) -> dict[str, bytes]:
    """MP4 files whose frames are said to lie elsewhere.

    Args:
        coded: the frames that they hold themselves.
        url, path: as for `playlists`.
    """
    description = box(b"rmda", full_box(b"rdrf", b"url " + struct.pack(">I", len(url)) + url.encode()))
    return {
        "frames at a URL": mp4(coded, data_reference=full_box(b"url ", url.encode() + b"\0")),
        "frames at a file URL": mp4(coded, data_reference=full_box(b"url ", f"file://{path}".encode() + b"\0")),
        "frames in a file": mp4(coded, data_reference=_alias(path.encode())),
        "reference movie": box(b"ftyp", b"qt  " + bytes(4)) + box(b"moov", box(b"rmra", description)),
    }


def _alias(path: bytes) -> bytes:
    """QuickTime's reference to a file: volume, name and path."""
    name = path.rpartition(b"/")[2][:63]
    volume = b"\x03vol".ljust(28, b"\0")
    record = bytes(10) + volume + bytes(12) + bytes([len(name)]) + name.ljust(63, b"\0") + bytes(16)
    levels = struct.pack(">hh", -1, -1) + bytes(16)
    paths = struct.pack(">hh", 2, len(path)) + path + bytes(len(path) % 2) + struct.pack(">hh", 18, 1) + b"/\0"
    return full_box(b"alis", record + levels + paths + struct.pack(">hh", -1, 0))
