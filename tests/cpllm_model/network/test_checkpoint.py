"""Which model folders are accepted, and how models are named."""

import io
import json
import pickle
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from cpllm_model.errors import CheckpointError
from cpllm_model.network import checkpoint
from cpllm_model.predictor import QualityPredictor


@pytest.fixture
def folder(tmp_path):
    """A copy of the bundled model."""
    return shutil.copytree(checkpoint.resolve("tiny"), tmp_path / "copy")


def test_bundled_model_is_small_and_named_by_its_content(folder):
    name = checkpoint.model_id("tiny")
    assert name.startswith("tiny-") and len(name) == len("tiny-") + 12
    assert checkpoint.model_id(str(folder)) == "copy-" + name.removeprefix("tiny-")
    assert sum(path.stat().st_size for path in folder.iterdir()) < 40e6


def test_another_configuration_is_another_model(folder):
    before = checkpoint.model_id(str(folder))
    config = json.loads((folder / "config.json").read_text())
    config["sampling"]["most_looks"] += 1
    (folder / "config.json").write_text(json.dumps(config))
    assert checkpoint.model_id(str(folder)) != before
    assert checkpoint.sampling_settings(str(folder)).most_looks == config["sampling"]["most_looks"]


class Pickled:
    """Code that runs where it is unpickled."""

    def __init__(self, evidence):
        self._evidence = str(evidence)

    def __reduce__(self):
        return open, (self._evidence, "w")


@pytest.mark.parametrize(
    "name",
    [
        *("pytorch_model.bin", "weights.pt", "extra.pkl", "modeling_evil.py", "custom_generate/generate.py"),
        *("lib.so", "training_args.BIN", "weights.pkl.gz", "tf_model.h5", "install.sh", ".hidden.py", "lib.so.1"),
    ],
)
def test_folders_that_may_run_code_are_refused(folder, name, tmp_path):
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_bytes(pickle.dumps(Pickled(tmp_path / "evidence")))
    for load in (checkpoint.resolve, checkpoint.model_id, QualityPredictor.from_pretrained):
        with pytest.raises(CheckpointError, match=f"{re.escape(name)} may run code"):
            load(str(folder))
    assert not (tmp_path / "evidence").exists()


def zipped() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("archive/data.pkl", b"words")
    return buffer.getvalue()


CODE = {
    **{f"pickle {number}": pickle.dumps(Pickled("evidence"), protocol=number) for number in range(6)},
    "zip": zipped(),
    "program": Path(sys.executable).read_bytes()[:1000],
    "script": b"#!/bin/sh\nrm -rf /\n",
    "Windows": b"MZ\x90\0" + bytes(60),
}


@pytest.mark.parametrize("kind", CODE)
@pytest.mark.parametrize("name", ["weights", "LICENSE", "weights.dat"])
def test_code_under_another_name_is_refused(folder, kind, name):
    (folder / name).write_bytes(CODE[kind])
    with pytest.raises(CheckpointError, match=f"{name} may run code"):
        checkpoint.resolve(str(folder))


WELCOME = {
    "LICENSE": b"Apache License\nVersion 2.0, January 2004\n",
    "NOTICE": "Copyright \u00a9 the authors\n".encode(),
    "USE_POLICY": b"",
    "COPYING": b"copyright\nby the authors\nin all countries.\n",
    ".gitattributes": b"*.safetensors filter=lfs diff=lfs merge=lfs -text\n",
    ".DS_Store": b"\0\0\0\x01Bud1\0",
    "figure.jpg": b"\xff\xd8\xff\xe0\0\x10JFIF\0",
    "figure.svg": b"<svg xmlns='http://www.w3.org/2000/svg'/>",
    "recipe.yaml": b"model: tiny\n",
    "paper.pdf": b"%PDF-1.7\n",
    "ratings.csv": b"video,score\na.mp4,3.1\n",
    "tiny.py.md": b"words\n",
    "Makefile": b"all:\n\ttrue\n",
    "runs/events.out.tfevents.1700000000.host.1.0": b"\x18\0\0\0\0\0\0\0\xa3\x7fK\x22",
    ".git/hooks/update.sample": b"#!/bin/sh\n",
    ".cache/huggingface/download/x.lock": b"",
}


@pytest.mark.parametrize("name", WELCOME)
def test_what_lies_beside_a_model_is_welcome_and_changes_nothing(folder, name):
    before = checkpoint.model_id(str(folder))
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(WELCOME[name])
    assert checkpoint.model_id(str(folder)) == before


def test_links_that_lead_out_of_the_folder_are_refused(folder, tmp_path):
    (tmp_path / "secret").write_text("words")
    link = folder / "NOTES"
    for target in (tmp_path / "secret", tmp_path, "../secret", "/nowhere/at/all", "NOTES"):
        link.symlink_to(target)
        with pytest.raises(CheckpointError, match="NOTES is a link that leads"):
            checkpoint.resolve(str(folder))
        link.unlink()
    link.symlink_to("config.json")
    checkpoint.resolve(str(folder))
    (tmp_path / "by another name").symlink_to(folder)
    checkpoint.resolve(str(tmp_path / "by another name"))


def test_a_snapshot_of_the_hubs_cache_is_accepted(folder, tmp_path):
    cached = tmp_path / "models--organisation--name"
    snapshot, blobs = cached / "snapshots" / "0123abcd", cached / "blobs"
    snapshot.mkdir(parents=True)
    blobs.mkdir()
    for number, path in enumerate(sorted(folder.iterdir())):
        path.rename(blobs / str(number))
        (snapshot / path.name).symlink_to(f"../../blobs/{number}")
    checkpoint.resolve(str(snapshot))
    (cached / "other").write_text("words")
    (snapshot / "LICENSE").symlink_to("../../other")
    with pytest.raises(CheckpointError, match="LICENSE is a link that leads out"):
        checkpoint.resolve(str(snapshot))


@pytest.mark.parametrize("name", ["config.json", "tokenizer_config.json", "processor_config.json"])
def test_remote_code_is_refused(folder, name):
    config = json.loads((folder / name).read_text()) | {"auto_map": {"AutoModel": "evil.Model"}}
    (folder / name).write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match=f"{name} asks for remote code"):
        checkpoint.resolve(str(folder))


@pytest.mark.parametrize("shard", ["../weights.safetensors", "pytorch_model.bin", "missing.safetensors", None])
def test_weights_from_elsewhere_are_refused(folder, shard, tmp_path):
    shutil.copy(folder / "model.safetensors", tmp_path / "weights.safetensors")
    index = {"metadata": {}, "weight_map": {"pixel_projector.norm.weight": shard}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(CheckpointError, match=r"index\.json names weights that are not \*\.safetensors files"):
        checkpoint.resolve(str(folder))


def test_what_is_not_a_model_is_said(folder, tmp_path):
    with pytest.raises(CheckpointError, match=r"no model 'nothing'.*tiny"):
        checkpoint.resolve("nothing")
    with pytest.raises(CheckpointError, match=r"config\.json cannot be read"):
        checkpoint.resolve(str(tmp_path))
    (folder / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match="safetensors"):
        checkpoint.resolve(str(folder))


def test_a_folder_named_by_its_id_keeps_its_name(folder):
    name = checkpoint.model_id(str(folder))
    assert checkpoint.model_id(str(folder.rename(folder.with_name(name)))) == name


def test_a_model_that_lacks_weights_is_refused(folder):
    weights = load_file(folder / "model.safetensors")
    del weights["pixel_projector.norm.weight"]
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(CheckpointError, match=r"1 weights are missing, the first is pixel_projector\.norm\.weight"):
        QualityPredictor.from_pretrained(str(folder))


def test_naming_a_model_imports_no_torch():
    code = "import cpllm_model.network.checkpoint as c, sys; c.model_id('tiny'); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
