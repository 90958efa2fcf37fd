"""Rated data sets and instruction sets: every form of label file, every trap in them, and videos in any layout."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cpllm_model.errors import DataSetError
from cpllm_model.training.data.label_files import read_conversations, read_ratings
from cpllm_model.training.data.manifests import content_split, read_manifest
from cpllm_model.training.data.rated import DATASETS, collect, find_dataset, publish

LABELS = Path(__file__).parents[5] / "shared" / "labels"
with_real_labels = pytest.mark.skipif(not LABELS.is_dir(), reason="the rated data sets' labels are not here")


@pytest.fixture
def label_file(tmp_path):
    """Write a label file as it is given, byte by byte."""

    def write(content: str | bytes, name: str = "labels.csv") -> Path:
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return write


@pytest.fixture
def videos(tmp_path):
    """Put empty files below a folder of videos."""

    def put(*names: str) -> Path:
        folder = tmp_path / "videos"
        folder.mkdir(exist_ok=True)
        for name in names:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).touch()
        return folder

    return put


# --- label files


@pytest.mark.parametrize(
    ("content", "rows"),
    [
        ("V/1.mp4, 8.0, 25.0, 3.22\nV/2.mp4, -1, -1, 4\n", [("V/1.mp4", 3.22), ("V/2.mp4", 4)]),
        ("V/1.mp4,-1,-1,3", [("V/1.mp4", 3)]),
        ("V/1.mp4, -1, -1, -6.5\r\n\r\n  V/2.mp4  ,8,30,nan\r\n", [("V/1.mp4", -6.5), ("V/2.mp4", None)]),
        ("Hello, world.mp4, 8, 25, 3", [("Hello, world.mp4", 3)]),
        ("a\\b.mp4, 8, 25, 3", [("a/b.mp4", 3)]),
        ("\ufeffflickr_id,mos,width\n33,4.6400000000,960\n", [("33", 4.64)]),
        ("File,MOS,width\r\nA001.mp4,80.232,1920\r\n", [("A001.mp4", 80.232)]),
        ("vid,category,MOSFull,MOSChunk00\nSports_720P-00a1,Sports,3.6,NaN\n", [("Sports_720P-00a1", 3.6)]),
        ("video_name,mos,nb_frames\nx.mp4,na,\ny.mp4,,300\n", [("x.mp4", None), ("y.mp4", None)]),
        ('name, mos\n"a, b.mp4", 7\n', [("a, b.mp4", 7)]),
        ("File_name;Content;Realignment MOS\nTest01_City_D01;City;-1,11\n;;\n", [("Test01_City_D01", -1.11)]),
    ],
)
def test_every_form_of_ratings(label_file, content: str, rows: list[tuple[str, float | None]]) -> None:
    assert [(label.file, label.mos) for label in read_ratings(label_file(content))] == rows


def test_a_column_says_what_is_for_testing(label_file) -> None:
    labels = read_ratings(label_file("name,mos,is_test\nb/1,50,False\nb/2,50,True\nb/3,50,0\n"))
    assert [label.in_test for label in labels] == [False, True, False]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "labels.csv has no rows"),
        ("name,mos\n", "has no rows"),
        ("a.mp4, 8, 25, 3\nb.mp4, 3\n", "line 2: 'b.mp4, 3' is neither"),
        ("what,ever\na,3\n", "line 1: 'what,ever' is neither a known header"),
        ("a.mp4, 8, 25, good\n", "line 1: 'good' is not a number"),
        ("a.mp4, 8, 25, inf\n", "line 1: 'inf' is not a number"),
        ("a.mp4, eight, 25, 3\n", "line 1: 'eight' is not a number"),
        ("name,mos\na.mp4,3\n\nb.mp4\n", "line 4: 1 cells below a header of 2"),
        ("name,mos\na, b.mp4,3\n", "line 2: 3 cells"),
        ("name,mos,is_test\na.mp4,3,maybe\n", "line 2: is_test is 'maybe'"),
        ("../a.mp4, 8, 25, 3\n", "line 1: '../a.mp4' is not a relative path"),
        ("a/../../b.mp4, 8, 25, 3\n", "is not a relative path"),
        ("/etc/a.mp4, 8, 25, 3\n", "is not a relative path"),
        ("C:\\a.mp4, 8, 25, 3\n", "is not a relative path"),
        ("name,mos\n,3\n", "line 2: '' is not a relative path"),
        (b"\xff\xfe\x00", "cannot be read"),
    ],
)
def test_a_row_that_is_not_understood_is_named(label_file, content: str | bytes, message: str) -> None:
    with pytest.raises(DataSetError) as error:
        read_ratings(label_file(content))
    assert message in str(error.value)
    assert "labels.csv" in str(error.value)


def entry(*turns: str, roles: tuple[str, str] = ("human", "gpt"), **about: object) -> dict[str, object]:
    return {**about, "conversations": [{"from": roles[i % 2], "value": text} for i, text in enumerate(turns)]}


def test_conversations_lose_their_placeholders(label_file) -> None:
    entries = [
        entry("<video>\nHow sharp?", "Very.", "And how <video> bright?", "Dim.", id=1, video="v/a.mp4"),
        entry("Q<image>", "A", roles=("user", "assistant"), image=["b.jpg"]),
        entry("No picture?", "None."),
        entry("Which is better?", "The first.", video=["a.mp4", "b.mp4"]),
    ]  # fmt: skip
    expected = [
        ("v/a.mp4", (("How sharp?", "Very."), ("And how bright?", "Dim."))),
        ("b.jpg", (("Q", "A"),)),
        (None, (("No picture?", "None."),)),
        (None, (("Which is better?", "The first."),)),
    ]
    listed = label_file(json.dumps(entries), "set.json")
    lines = label_file("\ufeff" + "\r\n".join(map(json.dumps, entries)), "set.jsonl")
    for path in (listed, lines):
        assert [(label.file, label.dialogue) for label in read_conversations(path)] == expected


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "is not JSON"),
        ("[" * 100_000, "is not JSON"),
        ("{}", "is not a list of conversations"),
        ("[3]", "entry 1: the entry is not an object with conversations"),
        (json.dumps([entry("Q", "A", video="a.mp4"), entry("Q", video="a.mp4")]), "entry 2: 1 turns"),
        (json.dumps([entry(video="a.mp4")]), "entry 1: 0 turns"),
        (json.dumps([entry("<video>", "A", video="a.mp4")]), "entry 1: turn 1 says nothing"),
        (json.dumps([{"video": "a.mp4", "conversations": [{"from": "gpt", "value": "A"}]}]), "turn 1 is by 'gpt'"),
        (json.dumps([{"video": "a.mp4", "conversations": [{"from": "human", "value": 3}]}]), "turn 1 is by 'human'"),
        (json.dumps([{"video": "a.mp4", "conversations": ["Q"]}]), "turn 1 is by None"),
        (json.dumps([entry("Q", "A", video={"a": 1})]), "is not a path"),
        (json.dumps([entry("Q", "A", video="../a.mp4")]), "entry 1: '../a.mp4' is not a relative path"),
    ],
)
def test_a_conversation_that_is_not_understood_is_named(label_file, content: str, message: str) -> None:
    with pytest.raises(DataSetError) as error:
        read_conversations(label_file(content, "set.json"))
    assert message in str(error.value)
    assert "set.json" in str(error.value)


# --- scales


@pytest.mark.parametrize(
    ("name", "mos", "mapped"),
    [
        ("konvid-1k", 1.22, 1.22), ("youtube-ugc", 5, 5), ("lsvq", 0, 1), ("lsvq-1080p", 50, 3), ("live-vqc", 100, 5),
        ("cvd2014", -6.5, 1), ("cvd2014", 93.38, 5),
    ],
)  # fmt: skip
def test_scales_by_hand(name: str, mos: float, mapped: float) -> None:
    assert find_dataset(name).rescale(mos) == pytest.approx(mapped)


@settings(deadline=None)  # machines that share their cores would fail at random
@given(share=st.floats(0, 1), name=st.sampled_from(sorted(DATASETS)))
def test_every_mos_on_its_scale_becomes_one_to_five(share: float, name: str) -> None:
    low, high = DATASETS[name].scale or (0, 0)
    assert DATASETS[name].rescale(low + share * (high - low)) == pytest.approx(1 + 4 * share)


def test_a_mos_off_the_scale_is_an_error_and_an_unknown_one_counted(label_file, videos) -> None:
    folder = videos("1.mp4", "2.mp4", "Test01_City_D01.avi")
    found = collect(label_file("1.mp4, 8, 25, -1\n2.mp4, 8, 25, 3\n"), folder, "konvid-1k")
    assert ([video.video_id for video in found.videos], found.unrated) == (["2"], ["1.mp4"])
    # On the realigned scale -1 is a score like any other.
    assert collect(label_file("Test01_City_D01.avi, 15, 25, -1\n"), folder, "cvd2014").videos[0].mos is not None
    with pytest.raises(DataSetError, match=r"labels\.csv, line 2: MOS 53\.3 of 2\.mp4 is off the scale of 1 to 5"):
        collect(label_file("1.mp4, 8, 25, 3\n2.mp4, 8, 25, 53.3\n"), folder, "konvid-1k")


def test_a_data_set_of_ones_own_needs_its_scale(label_file, videos) -> None:
    labels, folder = label_file("a/1.mp4, 8, 25, 7\nb/1.mp4, 8, 25, 10\n"), videos("a/1.mp4", "b/1.mp4")
    with pytest.raises(DataSetError, match=r"'ours' is not a known data set .konvid-1k, .* give the scale"):
        collect(labels, folder, "ours")
    with pytest.raises(DataSetError, match="is not below"):
        collect(labels, folder, "ours", scale=(10, 0))
    found = collect(labels, folder, "ours", scale=(0, 10)).videos
    assert [(video.video_id, video.mos) for video in found] == [("a/1", pytest.approx(3.8)), ("b/1", 5)]


# --- videos


def located(label_file, folder: Path, name: str, *files: str) -> list[str]:
    rows = "".join(f"{file}, -1, -1, 3\n" for file in files)
    found = collect(label_file(rows), folder, name)
    return [Path(video.file).relative_to(folder.resolve()).as_posix() for video in found.videos]


@pytest.mark.parametrize(
    ("name", "label", "lies"),
    [
        ("konvid-1k", "KoNViD_1k_videos/33.mp4", "KoNViD_1k_videos/33.mp4"),
        ("konvid-1k", "KoNViD_1k_videos/33.mp4", "33.mp4"),
        ("konvid-1k", "33", "deep/below/33.mp4"),
        ("konvid-1k", "33", "33_original_centercrop_960x540_8s.mp4"),
        ("konvid-1k", "33_original_centercrop_960x540_8s.mp4", "33.mp4"),
        ("live-vqc", "A001.mp4", "Video/A001.MP4"),
        ("live-vqc", "Video/A012.mp4", "Video/A012NEW.mp4"),
        ("youtube-ugc", "Sports_720P-00a1", "720P/Sports_720P-00a1.mkv"),
        ("youtube-ugc", "Sports_720P-00a1", "Sports_720P-00a1_crf_10_ss_00_t_20.0.mp4"),
        ("cvd2014", "Test03_City_D12", "Test3/City/Test03_City_D12.avi"),
        ("cvd2014", "Test3/Talking_head/Test03_Talking_Head_D10.avi", "Test3/Talking_Head/Test03_Talking_Head_D10.avi"),
        ("lsvq-test", "ia-batch4/Ctr..mp4", "LSVQ/ia-batch4/Ctr..mp4"),
        ("lsvq-test", "ia-batch4/Ctr.", "ia-batch4/Ctr..mp4"),
        ("lsvq-test", "LSVQ/ia-batch4/x.mp4", "elsewhere/ia-batch4/x.mp4"),
        ("lsvq-test", "ia-batch4/x.mp4", "x.mp4"),
    ],
)
def test_a_video_is_found_in_any_layout(label_file, videos, name: str, label: str, lies: str) -> None:
    assert located(label_file, videos(lies, "other.mp4", "notes.txt", "33.jpg"), name, label) == [lies]


def test_the_exact_path_comes_first(label_file, videos) -> None:
    folder = videos("33.mp4", "copy/33.mp4")
    assert located(label_file, folder, "konvid-1k", "33.mp4") == ["33.mp4"]
    with pytest.raises(DataSetError, match=r"33\.mp4 may be .*33\.mp4 or .*33\.mp4"):
        located(label_file, videos("V/33.mp4"), "konvid-1k", "V2/33.mp4")
    with pytest.raises(DataSetError, match=r"33 may be .*33\.mkv or .*33\.mp4"):
        located(label_file, videos("33.mkv"), "konvid-1k", "33")


def test_chunks_of_one_video_are_no_guess(label_file, videos) -> None:
    folder = videos(*(f"Sports_720P-00a1_crf_10_ss_{start}_t_10.0.mp4" for start in ("00", "05")))
    with pytest.raises(DataSetError, match="may be"):
        located(label_file, folder, "youtube-ugc", "Sports_720P-00a1")


def test_another_batch_with_the_same_name_is_no_find(label_file, videos) -> None:
    folder = videos("ia-batch4/x.mp4", "ia-batch1/y.mp4")
    labels = label_file("ia-batch24/x.mp4, -1, -1, 30\nia-batch1/y.mp4, -1, -1, 40\n")
    found = collect(labels, folder, "lsvq-1080p")
    assert ([video.video_id for video in found.videos], found.missing) == (["ia-batch1/y"], ["ia-batch24/x.mp4"])


def test_two_labels_are_not_one_file(label_file, videos) -> None:
    with pytest.raises(DataSetError, match=r"b1/x\.mp4 and x\.mp4 would both be .*b1/x\.mp4"):
        located(label_file, videos("b1/x.mp4"), "lsvq-test", "b1/x.mp4", "x.mp4")
    # A name that two labels share needs its folder.
    assert located(label_file, videos("x.mp4", "y.mp4"), "lsvq-test", "b3/x.mp4", "b2/x.mp4", "y.mp4") == ["y.mp4"]


def test_missing_videos_are_counted_and_too_many_refused(label_file, videos, tmp_path) -> None:
    labels = label_file("".join(f"{number}.mp4, 8, 25, 3\n" for number in range(10)))
    found = collect(labels, videos("3.mp4", "4.mp4"), "konvid-1k")
    assert found.missing == [f"{number}.mp4" for number in (0, 1, 2, 5, 6, 7, 8, 9)]
    assert list(found.report()) == ["missing: 8 (0.mp4, 1.mp4, 2.mp4, 5.mp4, 6.mp4, ...)"]
    publish(found, tmp_path / "enough.parquet", most_missing=0.8)
    with pytest.raises(DataSetError, match="8 of 10 labelled videos are missing"):
        publish(found, tmp_path / "short.parquet", most_missing=0.5)
    assert not (tmp_path / "short.parquet").exists()
    with pytest.raises(DataSetError, match=r"no video in common; missing: 1 \(77\.mp4\)"):
        collect(label_file("77.mp4, 8, 25, 3"), videos(), "konvid-1k")
    with pytest.raises(DataSetError, match="is not a folder"):
        collect(labels, tmp_path / "nowhere", "konvid-1k")
    with pytest.raises(DataSetError, match="cannot be read"):
        collect(tmp_path / "nothing.csv", videos(), "konvid-1k")


# --- rows


def test_a_video_said_twice_is_counted_or_refused(label_file, videos) -> None:
    folder = videos("1.mp4")
    found = collect(label_file("V/1.mp4, 8, 25, 3\n1.mp4, 8, 25, 3.0\n"), folder, "konvid-1k")
    assert (len(found.videos), found.repeated) == (1, ["1.mp4"])
    with pytest.raises(DataSetError, match=r"line 2: 1\.mp4 has another label at .*line 1"):
        collect(label_file("1.mp4, 8, 25, 3\n1.mp4, 8, 25, 4\n"), folder, "konvid-1k")


def test_the_manifest_gives_back_what_was_collected(label_file, videos, tmp_path) -> None:
    labels = label_file("vid,MOSFull\nSports_720P-00a1,3.5\nVlog_360P-0b2c,2\n")
    folder = videos("Sports_720P-00a1_crf_10_ss_00_t_20.0.mp4", "a/Vlog_360P-0b2c.mkv")
    found = collect(labels, folder, "youtube-ugc")
    inside = publish(found, folder / "manifest.parquet")
    elsewhere = publish(found, tmp_path / "lists" / "manifest.parquet")
    assert read_manifest(inside) == read_manifest(elsewhere) == found.videos
    assert [video.content_id for video in found.videos] == ["Sports_720P-00a1", "Vlog_360P-0b2c"]
    assert all(Path(video.file).is_file() and video.dataset == "youtube-ugc" for video in found.videos)
    (tmp_path / "moved").mkdir()
    moved = folder.rename(tmp_path / "moved" / "videos")
    assert all(Path(video.file).is_file() for video in read_manifest(moved))


def test_versions_share_their_content_and_so_their_split(label_file, videos) -> None:
    names = [f"Sports_720P-00a1_crf_10_ss_{start}_t_10.0.mp4" for start in ("00", "05", "10")]
    found = collect(label_file("".join(f"{name}, -1, -1, 3\n" for name in names)), videos(*names), "youtube-ugc").videos
    assert {(video.content_id, video.split) for video in found} == {
        ("Sports_720P-00a1", content_split("Sports_720P-00a1"))
    }
    assert len({video.video_id for video in found}) == 3
    names = [f"Test3/City/Test03_City_D{number:02}.avi" for number in range(5)]
    found = collect(label_file("".join(f"{name}, -1, -1, 3\n" for name in names)), videos(*names), "cvd2014").videos
    assert {video.content_id for video in found} == {"Test03_City"}


def test_a_video_is_in_one_split_whichever_file_labels_it(label_file, videos) -> None:
    ids = [str(1000 + number) for number in range(60)]
    folder = videos(*(f"V/{name}.mp4" for name in ids))
    ours = label_file("flickr_id,mos\n" + "".join(f"{name},3\n" for name in ids), "a.csv")
    theirs = label_file("".join(f"V/{name}.mp4, 8, 25, 3\n" for name in ids), "b.txt")
    assert collect(ours, folder, "konvid-1k") == collect(theirs, folder, "konvid-1k")
    assert {video.split for video in collect(ours, folder, "konvid-1k").videos} == {"train", "validation", "test"}
    assert {video.split for video in collect(ours, folder, "konvid-1k", split="test").videos} == {"test"}
    with pytest.raises(DataSetError, match="there is no split 'all'; give one of train"):
        collect(ours, folder, "konvid-1k", split="all")


def test_lsvq_keeps_its_own_test_videos_apart(label_file, videos) -> None:
    names = [f"yfcc-batch{number % 3}/{number}" for number in range(80)]
    rows = [f"{name},50,{'True' if number < 10 else 'False'}\n" for number, name in enumerate(names)]
    # Another version of the upload that test video 0 is of.
    labels = label_file("name,mos,is_test\n" + "".join([*rows, "ia-batch24/0,45,False\n"]))
    folder = videos(*(f"{name}.mp4" for name in names), "ia-batch24/0.mp4")
    found = collect(labels, folder, "lsvq")
    split = {video.video_id: video.split for video in found.videos}
    assert {name for name in names if split[name] == "test"} == set(names[:10])
    assert {split[name] for name in names[10:]} == {"train", "validation"}
    assert found.held_out == ["ia-batch24/0"]
    with pytest.raises(DataSetError, match="lsvq has splits of its own"):
        collect(labels, folder, "lsvq", split="train")
    with pytest.raises(DataSetError, match="holds training and test videos, lsvq-test only test"):
        collect(labels, folder, "lsvq-test")


def test_lsvq_labels_that_say_nothing_of_test_videos_need_them_held_out(label_file, videos) -> None:
    names = [f"yfcc-batch1/{number}.mp4" for number in range(40)]
    folder = videos(*names)
    everything = label_file("".join(f"{name}, -1, -1, 50\n" for name in names), "labels.txt")
    test = label_file("".join(f"{name}, -1, -1, 50\n" for name in names[:30]), "labels_test.txt")
    with pytest.raises(DataSetError, match=r"labels\.txt does not say which are lsvq's test videos"):
        collect(everything, folder, "lsvq")
    found = collect(everything, folder, "lsvq", held_out=[test])
    assert found.held_out == names[:30]
    assert {video.file for video in found.videos} == {str(folder.resolve() / name) for name in names[30:]}
    assert {video.split for video in found.videos} <= {"train", "validation"}
    assert {video.split for video in collect(test, folder, "lsvq-test").videos} == {"test"}
    with pytest.raises(DataSetError, match="no video in common; held out: 30"):
        collect(test, folder, "lsvq", held_out=[everything])


def test_instructions_become_one_row_a_file(label_file, videos) -> None:
    entries = [
        entry("<video>\nHow sharp?", "Very.", id="1", video="v/a.mp4"),
        entry("<image>Noise?", "Strong.", id="2", image="p/b.JPG"),
        entry("And the light?", "Dim.", id="3", video="v/a.mp4"),
        entry("How sharp?", "Very.", id="1", video="v/a.mp4"),
        entry("Ready?", "Yes.", id="4"),
        entry("Blur?", "None.", id="5", video="v/lost.mp4"),
        entry("Blur?", "None.", id="6", video="v/tested.mp4"),
    ]
    labels = label_file(json.dumps(entries), "set.json")
    tested = label_file("ia-batch1/tested.mp4, -1, -1, 50", "labels_test.txt")
    found = collect(labels, videos("v/a.mp4", "p/b.JPG", "v/tested.mp4"), "q-instruct", held_out=[tested])
    assert [(video.video_id, video.dialogue) for video in found.videos] == [
        ("v/a", (("How sharp?", "Very."), ("And the light?", "Dim."))),
        ("p/b", (("Noise?", "Strong."),)),
    ]
    assert [(video.dataset, video.mos, video.content_id) for video in found.videos] == [
        ("q-instruct", None, "a"), ("q-instruct", None, "b"),
    ]  # fmt: skip
    assert (found.missing, found.repeated, found.held_out) == (["v/lost.mp4"], ["v/a.mp4"], ["v/tested.mp4"])
    assert found.without_file == [f"{labels}, entry 5"]


# --- the files that really circulate


@with_real_labels
@pytest.mark.parametrize(
    ("file", "name", "rows", "least", "greatest"),
    [
        ("videval/KONVID_1K_metadata.csv", "konvid-1k", 1200, 1.22, 4.64),
        ("videval/LIVE_VQC_metadata.csv", "live-vqc", 585, 6.22368, 94.2865),
        ("videval/YOUTUBE_UGC_metadata.csv", "youtube-ugc", 1380, 1.242, 4.698),
        ("fast-vqa/KoNViD/labels.txt", "konvid-1k", 1200, 1.22, 4.64),
        ("fast-vqa/LIVE_VQC/labels.txt", "live-vqc", 585, 6.22368, 94.2865),
        ("fast-vqa/YouTubeUGC/labels.txt", "youtube-ugc", 1147, 1.242, 4.677),
        ("fast-vqa/CVD2014/labels.txt", "cvd2014", 234, -6.5, 93.38),
        ("fast-vqa/LSVQ/labels_test.txt", "lsvq-test", 7186, 8.46666666666667, 91.0333333333333),
        ("fast-vqa/LSVQ/labels_1080p.txt", "lsvq-1080p", 3573, 17.7222222222222, 91.4193548387097),
    ],
)
def test_real_label_files(file: str, name: str, rows: int, least: float, greatest: float, videos) -> None:
    labels = read_ratings(LABELS / file)
    scores = [label.mos for label in labels if label.mos is not None]
    assert (len(labels), min(scores), max(scores)) == (rows, least, greatest)
    low, high = find_dataset(name).scale or (0, 0)
    assert low <= least
    assert greatest <= high
    first, last = str(labels[0].file), str(labels[-1].file)
    folder = videos(*(f"{file}.mp4" if "." not in file[-4:] else file for file in (first, last)))
    found = collect(LABELS / file, folder, name)
    assert [video.mos for video in found.videos] == [find_dataset(name).rescale(scores[i]) for i in (0, -1)]
    assert (len(found.missing), found.repeated, found.unrated) == (rows - 2, [], [])


@with_real_labels
def test_two_label_files_of_one_data_set_agree() -> None:
    for table, listed, name in (
        ("KONVID_1K_metadata.csv", "KoNViD", "konvid-1k"),
        ("LIVE_VQC_metadata.csv", "LIVE_VQC", "live-vqc"),
        ("YOUTUBE_UGC_metadata.csv", "YouTubeUGC", "youtube-ugc"),
    ):
        dataset = find_dataset(name)
        ours, theirs = (
            {dataset.content_of(str(label.file)): label.mos for label in read_ratings(path)}
            for path in (LABELS / "videval" / table, LABELS / "fast-vqa" / listed / "labels.txt")
        )
        assert theirs.keys() <= ours.keys(), name
        assert all(ours[content] == pytest.approx(mos, abs=1e-3) for content, mos in theirs.items()), name


@with_real_labels
def test_lsvq_labels_that_circulate_as_a_whole_hold_nothing_but_test_videos(videos) -> None:
    folder = LABELS / "fast-vqa" / "LSVQ"
    with pytest.raises(DataSetError, match="no video in common; held out: 10759"):
        collect(
            folder / "labels.txt", videos("yfcc-batch1/747.mp4"), "lsvq",
            held_out=[folder / "labels_test.txt", folder / "labels_1080p.txt"],
        )  # fmt: skip


@with_real_labels
def test_a_label_without_score_is_counted(videos) -> None:
    table = LABELS / "videval" / "TEST_VIDEOS_metadata.csv"
    assert [label.mos for label in read_ratings(table)] == [2.16, 62.3543, None]
    found = collect(table, videos("5115335471.mp4", "B307.mp4"), "mixed", scale=(0, 100))
    assert (len(found.videos), found.unrated) == (2, ["video-1621367634.mp4"])
