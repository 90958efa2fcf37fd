"""Rated still-picture sets in their published forms: labels, splits, contents, and what is refused."""

from __future__ import annotations

import zipfile
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat
from typer.testing import CliRunner

from cpllm_model.cli import app
from cpllm_model.errors import DataSetError
from cpllm_model.training.data.manifests import content_split, read_manifest
from cpllm_model.training.data.picture_sets import read_picture_labels
from cpllm_model.training.data.rated import collect, find_dataset


def touch(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()


def write(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


# --- BIQ2021

KINDS = np.random.default_rng(0).integers(0, 256, (40, 8, 8, 3), np.uint8)


def picture(kind: int, version: int = 0) -> Image.Image:
    """A picture unlike those of other kinds, and a little unlike its other versions."""
    shades = Image.fromarray(KINDS[kind]).resize((96, 96), Image.Resampling.BICUBIC)
    return Image.fromarray(np.clip(np.asarray(shades).astype(int) + 3 * version, 0, 255).astype(np.uint8))


@pytest.fixture(scope="module")
def biq(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pictures 0 to 29 for training, 30 to 34 for testing; 35 and 36 repeat test picture 30, 37 repeats 2."""
    folder = tmp_path_factory.mktemp("BIQ2021")
    (folder / "Images").mkdir()
    kinds = {**{number: (number, 0) for number in range(35)}, 35: (30, 1), 36: (30, 2), 37: (2, 1)}
    for number, (kind, version) in kinds.items():
        picture(kind, version).save(folder / "Images" / f"ss01 ({number}).jpg", quality=90)
    training, test = [*range(30), 35, 36, 37], range(30, 35)
    rows = "".join(f"ss01 ({number}).jpg,{number / 37:.4f},,\n" for number in training)
    write(folder, "Train (Images and MOS).csv", "Image Name,MOS,,\n" + rows)
    rows = "".join(f"ss01 ({number}).jpg,{number / 37:.4f}\n" for number in test)
    write(folder, "Test (Images and MOS).csv", "Image Name,MOS\n" + rows)
    return folder


def test_biq2021_keeps_its_test_pictures_and_their_near_duplicates_apart(biq: Path) -> None:
    found = collect(biq, biq, "biq2021")
    split = {video.video_id: video.split for video in found.videos}
    assert [name for name, which in split.items() if which == "test"] == [f"ss01 ({n})" for n in range(30, 35)]
    assert sorted(found.held_out) == ["ss01 (35).jpg", "ss01 (36).jpg"]
    assert "held out: 2 (ss01 (35).jpg, ss01 (36).jpg)" in list(found.report())
    content = {video.video_id: video.content_id for video in found.videos}
    assert content["ss01 (2)"] == content["ss01 (37)"] and split["ss01 (2)"] == split["ss01 (37)"]
    assert len(set(content.values())) == len(content) - 1
    for video in found.videos:
        drawn = content_split(video.content_id)
        assert video.split == "test" or video.split == ("validation" if drawn == "validation" else "train")
        assert video.scene is None and video.severities is None and Path(video.file).is_file()


def test_biq2021_goes_back_to_five_levels_in_order(biq: Path) -> None:
    dataset = find_dataset("biq2021")
    shares = np.linspace(0, 1, 101)
    mapped = [dataset.rescale(share) for share in shares]
    np.testing.assert_allclose(mapped, 1 + 4 * shares)
    assert (np.diff(mapped) > 0).all() and (mapped[0], mapped[-1]) == (1, 5)
    mos = {video.video_id: video.mos for video in collect(biq, biq, "biq2021").videos}
    assert mos["ss01 (7)"] == pytest.approx(1 + 4 * 0.1892)


def test_biq2021_needs_both_of_its_label_files(biq: Path, tmp_path: Path) -> None:
    either = collect(biq / "Test (Images and MOS).csv", biq, "biq2021")
    assert either == collect(biq, biq, "biq2021")
    alone = write(tmp_path, "Train (Images and MOS).csv", "Image Name,MOS\nss01 (1).jpg,0.5\n")
    with pytest.raises(DataSetError, match=r"Test \(Images and MOS\)\.csv cannot be read"):
        collect(alone, biq, "biq2021")
    with pytest.raises(DataSetError, match="lie 0 files 'Test"):
        collect(tmp_path, biq, "biq2021")
    with pytest.raises(DataSetError, match="biq2021 has splits of its own"):
        collect(biq, biq, "biq2021", split="train")


def test_the_command_needs_only_the_folder_of_a_picture_set(biq: Path, tmp_path: Path) -> None:
    out = tmp_path / "biq.parquet"
    done = CliRunner().invoke(app, ["manifest", "--dataset", "biq2021", "--videos", str(biq), "--out", str(out)])
    assert done.exit_code == 0, done.output
    assert Counter(video.split for video in read_manifest(out))["test"] == 5
    done = CliRunner().invoke(app, ["manifest", "--dataset", "lsvq", "--videos", str(biq), "--out", str(out)])
    assert done.exit_code == 2 and "needs --labels" in done.output


# --- the others


def test_koniq_10k_has_its_own_splits_and_a_mos_by_its_choices(tmp_path: Path) -> None:
    header = "image_name,c1,c2,c3,c4,c5,c_total,MOS,SD,set\n"
    rows = ["1.jpg,0,0,.25,.75,0,100,68.1,.4,training", "2.jpg,1,0,0,0,0,100,1.5,0,validation",
            "3.jpg,0,0,0,.5,.5,100,97,.5,test"]  # fmt: skip
    write(tmp_path, "koniq10k_distributions_sets.csv", header + "\n".join(rows) + "\n")
    touch(tmp_path, "1024x768/1.jpg", "1024x768/2.jpg", "1024x768/3.jpg")
    found = collect(tmp_path, tmp_path, "koniq-10k").videos
    assert [(video.split, video.mos) for video in found] == [("train", 3.75), ("validation", 1), ("test", 4.5)]
    # The release's own file counts the choices and has no splits.
    text = "image_name,c1,c2,c3,c4,c5,c_total,MOS,SD,MOS_zscore\n1.jpg,0,0,25,75,0,100,3.75,.4,68.1\n"
    counts = write(tmp_path, "koniq10k_scores_and_distributions.csv", text)
    with pytest.raises(DataSetError, match="does not say which are koniq-10k's test videos"):
        collect(counts, tmp_path, "koniq-10k")
    tested = write(tmp_path, "held.csv", "image_name,mos\n3.jpg,4\n")
    assert [video.mos for video in collect(counts, tmp_path, "koniq-10k", held_out=[tested]).videos] == [3.75]


def workbook(path: Path, rows: list[list[str | float]], inline: bool = False) -> Path:
    """A workbook as spreadsheet programs write it; the second column may be left out where it is empty."""
    space, texts, lines = 'xmlns="http://schemas.openxmlformats.org/spreadsheetml/2006/main"', [], []
    for number, row in enumerate(rows, 1):
        cells = ""
        for letter, value in zip("ABC", row, strict=False):
            if not isinstance(value, str):
                cells += f'<c r="{letter}{number}"><v>{value}</v></c>'
            elif value and inline:
                cells += f'<c r="{letter}{number}" t="inlineStr"><is><t>{value}</t></is></c>'
            elif value:
                cells += f'<c r="{letter}{number}" t="s"><v>{len(texts)}</v></c>'
                texts.append(f"<si><r><t>{str(value)[:2]}</t></r><r><t>{str(value)[2:]}</t></r></si>")
        lines.append(f'<row r="{number}">{cells}</row>')
    with zipfile.ZipFile(path, "w") as book:
        book.writestr(
            "xl/worksheets/sheet1.xml", f"<worksheet {space}><sheetData>{''.join(lines)}</sheetData></worksheet>"
        )
        if not inline:
            book.writestr("xl/sharedStrings.xml", f"<sst {space}>{''.join(texts)}</sst>")
    return path


@pytest.mark.parametrize("form", ["shared", "inline", "csv"])
def test_spaq_is_read_from_its_workbook_or_a_csv(tmp_path: Path, form: str) -> None:
    touch(tmp_path, "TestImage/00001.jpg", "TestImage/00002.jpg")
    name = "MOS and Image attribute scores.xlsx"
    rows: list[list[str | float]] = [["Image name", "MOS", "Brightness"], ["00001.jpg", 55.5, 60.0], ["00002.jpg", 0.0]]
    if form == "csv":
        labels = write(tmp_path, "spaq.csv", "Image name,MOS,Brightness\n00001.jpg,55.5,60\n00002.jpg,0,\n")
    else:
        workbook(tmp_path / name, rows, form == "inline")
        labels = tmp_path
    found = collect(labels, tmp_path, "spaq").videos
    assert [(video.video_id, video.mos) for video in found] == [("00001", pytest.approx(3.22)), ("00002", 1)]


def test_kadid_10k_divides_by_reference_and_higher_is_better(tmp_path: Path) -> None:
    names = [f"I{ref:02}_{kind:02}_{level:02}.png" for ref in range(1, 30) for kind in (1, 2) for level in (1, 5)]
    rows = "".join(f"{name},{name[:3]}.png,{5 - int(name[7:9]) / 2:.2f},0.5\n" for name in names)
    write(tmp_path, "kadid10k/dmos.csv", "dist_img,ref_img,dmos,var\n" + rows)
    touch(tmp_path, *(f"kadid10k/images/{name}" for name in names), "kadid10k/images/I01.png")
    found = collect(tmp_path, tmp_path, "kadid-10k").videos
    assert len(found) == len(names) and {video.content_id for video in found} == {name[:3] for name in names}
    assert all(video.split == content_split(video.content_id) for video in found)
    assert found[0].mos == 4.5 and found[1].mos == 2.5
    assert {video.split for video in found} == {"train", "validation", "test"}


def test_tid2013_finds_files_in_small_or_capital_letters(tmp_path: Path) -> None:
    write(tmp_path, "mos_with_names.txt", "5.51429 I01_01_1.bmp\n0 i01_24_5.bmp\n9.0 i25_02_1.bmp\n\n")
    touch(tmp_path, "distorted_images/I01_01_1.BMP", "distorted_images/I01_24_5.bmp", "distorted_images/i25_02_1.bmp")
    touch(tmp_path, "reference_images/I01.BMP")
    found = collect(tmp_path, tmp_path, "tid2013").videos
    assert [(video.content_id, round(video.mos or 0, 3)) for video in found] == [
        ("i01", 3.451), ("i01", 1), ("i25", 5),
    ]  # fmt: skip


def live(folder: Path, names: list[str], mos: list[float]) -> None:
    cells = np.empty((len(names), 1), object)
    cells[:, 0] = names
    folder.mkdir(exist_ok=True)
    savemat(folder / "AllImages_release.mat", {"AllImages_release": cells})
    savemat(folder / "AllMOS_release.mat", {"AllMOS_release": np.array([mos])})


def test_live_in_the_wild_is_read_from_matlab_files(tmp_path: Path) -> None:
    live(tmp_path / "Data", ["t1.bmp", "3.bmp", "10.JPG"], [60, 25, 100])
    touch(tmp_path, "Images/3.bmp", "Images/10.JPG", "Images/trainingImages/t1.bmp")
    found = collect(tmp_path, tmp_path, "live-itw")
    assert [(video.video_id, video.mos) for video in found.videos] == [("3", 2), ("10", 5)]
    assert found.unrated == ["t1.bmp"]


BROKEN = {
    "no column": ("kadid-10k", "dmos.csv", "dist_img,dmos\nI01_01_01.png,3\n", "no column ref_img"),
    "a cell too many": ("kadid-10k", "dmos.csv", "dist_img,ref_img,dmos\na,b,3,4\n", "line 2: more cells"),
    "no number": ("kadid-10k", "dmos.csv", "dist_img,ref_img,dmos\na,b,good\n", "line 2: 'good' is not a number"),
    "a way out": ("kadid-10k", "dmos.csv", "dist_img,ref_img,dmos\n../a,b,3\n", "not a relative path"),
    "empty": ("tid2013", "mos_with_names.txt", "\n", "has no rows"),
    "no name": ("tid2013", "mos_with_names.txt", "5.5\n", "line 1: '5.5' is not"),
    "another name": ("tid2013", "mos_with_names.txt", "5.5 photo.bmp\n", "is not `MOS iRR_DD_L.bmp`"),
    "no choices": ("koniq-10k", "a.csv", "image_name,c1,c2,c3,c4,c5\n1.jpg,0,0,0,0,0\n", "are none"),
    "another set": ("koniq-10k", "a.csv", "image_name,c1,c2,c3,c4,c5,set\n1.jpg,0,1,0,0,0,all\n", "set is 'all'"),
    "no workbook": ("spaq", "a.xlsx", "no workbook", "is not a workbook"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_what_is_not_understood_is_named(tmp_path: Path, case: str) -> None:
    name, file, text, message = BROKEN[case]
    with pytest.raises(DataSetError) as error:
        read_picture_labels(name, write(tmp_path, file, text))
    assert message in str(error.value) and file in str(error.value)


def test_matlab_files_and_workbooks_that_are_none_are_named(tmp_path: Path) -> None:
    live(tmp_path, ["3.bmp", "4.bmp"], [25])
    with pytest.raises(DataSetError, match=r"has 2 names, .* has 1 scores"):
        read_picture_labels("live-itw", tmp_path)
    (tmp_path / "AllMOS_release.mat").write_bytes(b"MATLAB 5.0 MAT-file" + bytes(300))
    with pytest.raises(DataSetError, match="has no vector AllMOS_release"):
        read_picture_labels("live-itw", tmp_path)
    book = workbook(tmp_path / "a.xlsx", [["Name", "Score", ""], ["1.jpg", 3.0]])
    with pytest.raises(DataSetError, match=r"row 1: .* has no columns"):
        read_picture_labels("spaq", book)
    with zipfile.ZipFile(book, "w", zipfile.ZIP_DEFLATED) as bomb:
        bomb.writestr("xl/worksheets/sheet1.xml", b" " * (1 << 27))
    with pytest.raises(DataSetError, match="134217728 bytes"):
        read_picture_labels("spaq", book)
