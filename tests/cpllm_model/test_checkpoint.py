"""Which model folders are accepted, and how models are named."""

import json
import shutil
import subprocess
import sys

import pytest
from safetensors.torch import load_file, save_file

from cpllm_model import checkpoint
from cpllm_model.errors import CheckpointError
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


@pytest.mark.parametrize("name", ["pytorch_model.bin", "weights.pt", "extra.pkl", "modeling_evil.py"])
def test_folders_that_may_run_code_are_refused(folder, name):
    (folder / name).write_bytes(b"x")
    with pytest.raises(CheckpointError, match=name):
        checkpoint.resolve(str(folder))


def test_remote_code_is_refused(folder):
    config = json.loads((folder / "config.json").read_text()) | {"auto_map": {"AutoModel": "evil.Model"}}
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match="remote code"):
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
