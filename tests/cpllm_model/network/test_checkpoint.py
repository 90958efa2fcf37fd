"""Which model folders are accepted, and how models are named."""

import json
import pickle
import shutil
import subprocess
import sys

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
    config["sampling"]["segments"] += 1
    (folder / "config.json").write_text(json.dumps(config))
    assert checkpoint.model_id(str(folder)) != before
    assert checkpoint.sampling_settings(str(folder)).segments == config["sampling"]["segments"]


class Pickled:
    """Code that runs where it is unpickled."""

    def __init__(self, evidence):
        self._evidence = str(evidence)

    def __reduce__(self):
        return open, (self._evidence, "w")


@pytest.mark.parametrize(
    "name", ["pytorch_model.bin", "weights.pt", "extra.pkl", "modeling_evil.py", "custom_generate/generate.py"]
)
def test_folders_that_may_run_code_are_refused(folder, name, tmp_path):
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_bytes(pickle.dumps(Pickled(tmp_path / "evidence")))
    for load in (checkpoint.resolve, checkpoint.model_id, QualityPredictor.from_pretrained):
        with pytest.raises(CheckpointError, match=name):
            load(str(folder))
    assert not (tmp_path / "evidence").exists()


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
    with pytest.raises(CheckpointError, match=r"index\.json names weights that are no \*\.safetensors of the folder"):
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
    with pytest.raises(CheckpointError, match=r"1 weights lack, as pixel_projector\.norm\.weight"):
        QualityPredictor.from_pretrained(str(folder))


def test_naming_a_model_imports_no_torch():
    code = "import sys; from cpllm_model import checkpoint as c; c.model_id('tiny'); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
