"""Training: losses, batches, the cache, stages that resume to the same curve, and that a short training learns."""

import contextlib
import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from safetensors import safe_open

from cpllm_model.decoding.sampling import SamplingSettings
from cpllm_model.decoding.video import decode
from cpllm_model.errors import ConfigurationError, DataSetError, TrainingError
from cpllm_model.network.config import CPLLMConfig
from cpllm_model.network.modeling import CPLLMForVideoQuality
from cpllm_model.network.statistics import burst_statistics
from cpllm_model.predictor import QualityPredictor
from cpllm_model.scale import DISTORTIONS
from cpllm_model.training.data.clips import CacheSettings, ContentBatches, Draw, cached, read
from cpllm_model.training.data.corpus import CorpusSettings, make_corpus
from cpllm_model.training.data.distortions import KINDS
from cpllm_model.training.data.encode import encode_planes, rgb_to_planes, write_video
from cpllm_model.training.data.manifests import LabelledVideo, read_manifest, write_manifest
from cpllm_model.training.data.scenes import render_scene
from cpllm_model.training.recipe import loop
from cpllm_model.training.recipe.calibration import naming_thresholds, std_calibration
from cpllm_model.training.recipe.config import Data, Lora, Part, TrainConfig
from cpllm_model.training.recipe.losses import linearity_loss, preference, rank_loss, soft_cross_entropy, soft_labels
from cpllm_model.training.recipe.objectives import Objective, _pairs, part_of

SAMPLING = SamplingSettings(
    look_every_s=0.1,
    most_looks=4,
    context_frames=1,
    context_size_px=224,
    burst_frames=8,
    fragment_grid=3,
    fragment_px=96,
)
SETTINGS = CacheSettings(SAMPLING, segments=2, margin_px=16, views=2)
RATES = {18: 4.8, 30: 4.0, 38: 3.0, 46: 1.8}


@pytest.fixture(scope="module")
def manifest(tmp_path_factory):
    """Two contents for training and one for validation, four x264 rates of each, with every kind of label."""
    folder = tmp_path_factory.mktemp("labelled")
    videos = []
    for seed, split in ((0, "train"), (1, "train"), (2, "validation")):
        planes = rgb_to_planes(render_scene(seed, 320, 180, 16))
        for crf, mos in RATES.items():
            clip = encode_planes(planes, folder / f"{seed}-{crf}.mp4", 25, "x264", crf)
            severities = dict.fromkeys(DISTORTIONS, 0.0) | {"compression": (crf - 18) / 6}
            videos.append(
                LabelledVideo(clip.stem, f"scene{seed}", "test", split, clip.name, mos, severities=severities,
                              description="This video looks fine.", dialogue=(("Is it sharp?", "It is."),))
            )  # fmt: skip
    return write_manifest(videos, folder / "manifest.parquet")


@pytest.fixture(scope="module")
def cache_folder(tmp_path_factory):
    """A cache that all runs share."""
    return tmp_path_factory.mktemp("cache")


def configuration(manifest, cache_folder, out, **changes) -> TrainConfig:
    """A run of two short stages."""
    values = {
        "out": str(out),
        "data": [{"path": str(manifest)}],
        "cache": {"folder": str(cache_folder)},
        "workers": 0,
        "vision_weights": "random",
        "stages": [
            {"name": "vision", "objective": "probe", "learns": ["context_encoder", "pixel_encoder"], "steps": 4,
             "contents": 2, "versions": 2, "segments": [1], "fragments": 1, "warmup_steps": 1, "ema": 0.5,
             "save_every": 2},
            {"name": "tasks", "learns": ["projectors", "decoder"], "steps": 4, "contents": 2,
             "versions": 2, "segments": [1, 2], "warmup_steps": 1, "save_every": 2},
        ],
    } | changes  # fmt: skip
    path = Path(out).with_suffix(".yaml")
    path.write_text(yaml.safe_dump(values))
    return TrainConfig.from_yaml(path)


def losses(out: Path) -> list[tuple[str, int, float]]:
    """The curve of a run."""
    lines = [json.loads(line) for line in (out / "train_log.jsonl").read_text().splitlines()]
    return [(line["stage"], line["step"], line["loss"]) for line in lines if "loss" in line]


@pytest.fixture(scope="module")
def trained(manifest, cache_folder, tmp_path_factory):
    """A whole run."""
    config = configuration(manifest, cache_folder, tmp_path_factory.mktemp("run") / "whole")
    return config, loop.train(config, report=lambda line: None)


def test_a_run_gives_a_model_that_answers(trained, ladders):
    config, folder = trained
    predictor = QualityPredictor.from_pretrained(str(folder))
    (tokens,) = predictor.look(ladders[0][:1])
    assert not isinstance(tokens, Exception)
    assert 1 <= predictor.rate([tokens])[0].score <= 5
    assert {one.name for one in predictor.describe_viewed([tokens])[0].distortions} == set(DISTORTIONS)
    assert set(predictor.model.config.naming_thresholds) == set(DISTORTIONS)
    assert [step for _, step, _ in losses(config.out)] == [1, 2, 3, 4] * 2
    assert list((config.out / "tensorboard").rglob("events*"))
    assert not list((config.out / "stages").rglob("checkpoint-*"))  # a finished stage keeps its model alone


def test_a_finished_run_is_not_trained_again(trained, monkeypatch):
    config, folder = trained
    monkeypatch.setattr(loop, "StageRun", lambda *_: pytest.fail("it was trained again"))
    assert loop.train(config, report=lambda line: None) == folder


def test_a_folder_belongs_to_one_configuration(trained):
    config, _ = trained
    with pytest.raises(TrainingError, match="another configuration"):
        loop.train(dataclasses.replace(config, seed=1))


def test_a_killed_run_resumes_to_the_same_curve_and_weights(trained, manifest, cache_folder, tmp_path):
    whole, folder = trained
    config = configuration(manifest, cache_folder, tmp_path / "killed")
    command = [sys.executable, "-m", "cpllm_model.training.recipe.loop", str(tmp_path / "killed.yaml")]
    for stage, step in (("vision", 3), ("tasks", 3)):
        process = subprocess.Popen(
            command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
        )
        log = config.out / "train_log.jsonl"
        deadline = time.monotonic() + 200
        while not (log.exists() and any(one[:2] == (stage, step) for one in losses(config.out))):
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.01)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    again = loop.train(config, report=lambda line: None)
    assert losses(config.out) == losses(whole.out)
    assert (again / "model.safetensors").read_bytes() == (folder / "model.safetensors").read_bytes()


def test_a_loss_that_is_not_finite_names_its_batch(manifest, cache_folder, tmp_path, monkeypatch):
    monkeypatch.setattr("cpllm_model.training.recipe.objectives.linearity_loss", lambda *_: torch.tensor(float("nan")))
    config = configuration(manifest, cache_folder, tmp_path / "nan")
    with pytest.raises(TrainingError, match=r"step 0 on the batch [01]-\d\d, [01]-\d\d"):
        loop.train(config, report=lambda line: None)


def test_a_model_folder_without_its_marker_is_not_taken_for_trained(manifest, cache_folder, tmp_path):
    stage = {"name": "one", "learns": ["projectors"], "steps": 1, "contents": 1, "versions": 2, "warmup_steps": 0}
    config = configuration(manifest, cache_folder, tmp_path / "marked", stages=[stage])
    lines: list[str] = []
    folder = loop.train(config, report=lines.append)
    assert any(line.startswith("stage one: step 1 of 1, loss ") and line.endswith(" left") for line in lines)
    assert any(line.startswith("stage one: step 1, validation: ") for line in lines)
    (folder / "model.safetensors").unlink()
    (config.out / "model.done").unlink()
    lines.clear()
    assert loop.train(config, report=lines.append) == folder
    assert not any("trained already" in line or line.startswith("stage") for line in lines)
    assert (folder / "model.safetensors").exists() and (config.out / "model.done").exists()


#: Random numbers are each process's own.
NO_DROPOUT = {"context_config": {"dropout": 0.0}, "pixel_config": {"dropout": 0.0, "cnn_dropout": 0.0}}


@pytest.mark.slow
def test_two_processes_train_as_one_with_the_same_batch_killed_and_resumed(manifest, cache_folder, tmp_path, request):
    stages = [
        # A probe drops streams at random: the encoders learn through the decoder here.
        {"name": "all", "steps": 2, "contents": 2, "versions": 2, "segments": [1], "fragments": 1, "warmup_steps": 1,
         "ema": 0.5, "bf16": False, "save_every": 1},
        {"name": "tasks", "learns": ["projectors", "decoder"], "steps": 3, "contents": 2, "versions": 2,
         "segments": [1], "warmup_steps": 1, "bf16": False, "save_every": 1},
    ]  # fmt: skip

    def run(name, accumulate):
        changed = [stage | {"accumulate": accumulate} for stage in stages]
        return configuration(manifest, cache_folder, tmp_path / name, stages=changed, model_overrides=NO_DROPOUT)

    def torchrun(name):
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", "-m",
                   "cpllm_model.training.recipe.loop", str(tmp_path / f"{name}.yaml")]  # fmt: skip
        launcher = subprocess.Popen(command)
        request.addfinalizer(lambda: kill(launcher))
        return launcher

    def kill(launcher):
        """Kill the launcher and its two processes, each of which has a session of its own, if they live."""
        if launcher.poll() is not None:
            return
        command = ["ps", "-axo", "pid=,ppid="]
        listing = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        pairs = [tuple(map(int, line.split())) for line in listing.splitlines()]
        started = [child for child, parent in pairs if parent == launcher.pid]
        for process in (launcher.pid, *started):
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
        launcher.wait()

    one, two = run("one", 2), run("two", 1)
    expected = loop.train(one, report=lambda line: None)
    first = torchrun("two")
    while not list(two.out.glob("stages/tasks/checkpoint-*/trainer_state.json")):
        assert first.poll() is None
        time.sleep(0.2)
    kill(first)
    assert torchrun("two").wait() == 0
    curves = [{(stage, step): loss for stage, step, loss in losses(config.out)} for config in (one, two)]
    assert curves[0].keys() == curves[1].keys() and len(curves[0]) == 5
    assert curves[1] == pytest.approx(curves[0], rel=2e-3)
    assert loop._is_whole(two.out / "model")
    ours, theirs = (dict(loop.load(folder)[0].named_parameters()) for folder in (two.out / "model", expected))
    assert ours.keys() == theirs.keys() and all(weights.isfinite().all() for weights in ours.values())


def test_a_part_that_is_frozen_stays(manifest, cache_folder, tmp_path):
    common = {"objective": "probe", "steps": 2, "contents": 2, "versions": 2, "segments": [1], "warmup_steps": 0}
    stages = [
        {"name": "statistics", "learns": ["statistics"], **common},
        {"name": "vision", "learns": ["context_encoder", "pixel_encoder"], "fragments": 1, **common},
    ]
    config = configuration(manifest, cache_folder, tmp_path / "parts", stages=stages)
    loop.train(config, report=lambda line: None)
    folders = [config.out / "start", *(config.out / "stages" / stage["name"] / "model" for stage in stages)]
    weights = [dict(loop.load(folder)[0].named_parameters()) for folder in folders]
    for (before, after), parts in zip(
        pairwise(weights), [{"statistics"}, {"context_encoder", "pixel_encoder"}], strict=True
    ):
        assert {part_of(name) for name in before if not torch.equal(before[name], after[name])} == parts


def test_a_blended_stage_ends_between_its_beginning_and_what_it_learned(manifest, cache_folder, tmp_path):
    stage = {"name": "vision", "objective": "probe", "learns": ["context_encoder", "pixel_encoder"], "steps": 2,
             "contents": 2, "versions": 2, "segments": [1], "fragments": 1, "warmup_steps": 0}  # fmt: skip
    ends = []
    for blend in (1.0, 0.25):
        config = configuration(manifest, cache_folder, tmp_path / str(blend), stages=[stage | {"blend": blend}])
        loop.train(config, report=lambda line: None)
        begun, ended = (loop.load(config.out / name)[0] for name in ("start", "stages/vision/model"))
        ends.append(ended.state_dict())
    for name, start in begun.state_dict().items():
        whole, blended = (end[name] for end in ends)
        # A new model's statistics are standardised before its first stage.
        if start.is_floating_point() and "statistics" not in name:
            assert torch.allclose(blended, torch.lerp(start, whole, 0.25), atol=1e-6), name
    assert not torch.equal(ends[0]["pixel_encoder.cnn.stem.conv.weight"], ends[1]["pixel_encoder.cnn.stem.conv.weight"])


def test_dropout_leaves_a_frozen_token_of_statistics_alone():
    model = CPLLMForVideoQuality(CPLLMConfig.tiny(vocab_size=300))
    values = torch.randn(3, len(model.pixel_encoder.statistics_mean))
    cases: list[tuple[list[Part], bool]] = [(["pixel_encoder"], True), (["pixel_encoder", "statistics"], False)]
    for learns, same in cases:
        Objective(model, learns).train()
        tokens = [model.pixel_encoder.statistics_token(values) for _ in range(2)]
        assert torch.equal(*tokens) == same


def test_adapters_are_merged_and_nothing_else_moves(manifest, cache_folder, tmp_path):
    stage = {"name": "lora", "learns": ["projectors"], "steps": 2, "contents": 2, "versions": 2, "warmup_steps": 0,
             "lora": dataclasses.asdict(Lora(rank=2, alpha=4, dropout=0.0)), "gradient_checkpointing": True,
             "accumulate": 2}  # fmt: skip
    config = configuration(manifest, cache_folder, tmp_path / "lora", stages=[stage])
    folder = loop.train(config, report=lambda line: None)
    before, after = (dict(loop.load(config.out / name)[0].named_parameters()) for name in ("start", "model"))
    assert before.keys() == after.keys() and folder == config.out / "model"
    # A finished model is kept in 16 bit.
    moved = {name.split(".")[0] for name in before if not torch.equal(before[name].half().float(), after[name])}
    assert moved <= {"language_model", "context_projector", "pixel_projector", "markers"} and "language_model" in moved
    stem = "pixel_encoder.cnn.stem.conv.weight"
    assert torch.equal(before[stem].half().float(), after[stem])


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"stages": [{"name": "x", "steps": 0}]}, r"stages\.0\.steps"),
        ({"stages": []}, r"stages"),
        ({"stages": [{"name": "x", "steps": 1}] * 2}, r"stages: .*several stages are named x"),
        ({"stages": [{"name": "../x", "steps": 1}]}, r"stages\.0\.name"),
        ({"stages": [{"name": "x", "steps": 1, "ema": 1.5}]}, r"stages\.0\.ema"),
        ({"stages": [{"name": "x", "steps": 1, "blend": 0.5, "lora": {}}]}, r"blend is not possible with lora"),
        ({"stages": [{"name": "x", "steps": 1, "warmup_steps": -1}]}, r"stages\.0\.warmup_steps"),
        ({"cache": {"folder": "x", "margin_px": 15}}, r"cache\.margin_px"),
        ({"workers": -1}, "workers"),
        ({"learning_rat": 1}, r"learning_rat: Unexpected"),
        ({"model": "no/such/model"}, "neither tiny nor a model folder"),
        ({"model_overrides": {"sizes": 1}}, r"model_overrides\.sizes"),
        ({"cache": {"folder": "x", "max_gib": 0.001}}, r"GiB of cache"),
    ],
)
def test_a_wrong_configuration_is_one_sentence(changes, words, manifest, cache_folder, tmp_path):
    with pytest.raises((ConfigurationError, DataSetError), match=words):
        loop.train(configuration(manifest, cache_folder, tmp_path / "wrong", **changes))


def test_a_configuration_that_is_not_there_is_named(tmp_path):
    with pytest.raises(ConfigurationError, match=r"none\.yaml cannot be read"):
        TrainConfig.from_yaml(tmp_path / "none.yaml")
    (tmp_path / "bad.yaml").write_text("a: [")
    with pytest.raises(ConfigurationError, match=r"bad\.yaml is not valid YAML"):
        TrainConfig.from_yaml(tmp_path / "bad.yaml")


def test_the_configuration_of_tiny_is_valid():
    config = TrainConfig.from_yaml(Path(__file__).parents[4] / "configs" / "tiny.yaml")
    assert config.model == "tiny" and config.stages[0].objective == "probe"


def test_videos_that_cannot_be_read_are_reported_and_counted(tmp_path):
    good = write_video(render_scene(0, 192, 144, 16), tmp_path / "good.mp4")
    (tmp_path / "bad.mp4").write_bytes(b"no video")
    videos = [
        LabelledVideo(name, name, "d", "train", str(tmp_path / f"{name}.mp4"), 3.0) for name in ("good", "bad", "gone")
    ]
    lines = []
    clips = cached(videos, tmp_path / "cache", SETTINGS, 1.0, lines.append, processes=1)
    assert [clip.video.file for clip in clips] == [str(good)]
    text = "\n".join(lines)
    assert "bad.mp4" in text and "gone.mp4" in text and "2 of 3 videos are left out" in text
    with pytest.raises(DataSetError, match="none of 2 videos"):
        cached(videos[1:], tmp_path / "cache", SETTINGS, 1.0, lines.append, processes=1)


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    """One cached clip, and its file."""
    folder = tmp_path_factory.mktemp("clip")
    path = write_video(render_scene(3, 426, 240, 20), folder / "clip.mp4", crf=24)
    (found,) = cached([LabelledVideo("v", "v", "d", "train", str(path), 3.0)], folder, SETTINGS, 1.0, processes=1)
    return found


def test_the_first_view_is_what_inference_sees(clip):
    found = read(clip, Draw(0, (0, 1), (0, 0), None, 3), SETTINGS)
    with Path(clip.video.file).open("rb") as file:
        samples = decode(file, "clip", dataclasses.replace(SAMPLING, most_looks=2))
    assert np.array_equal(found["context"], samples.context_NMCHW)
    assert found["bursts"].shape == samples.bursts_NTCHW.shape
    # Places agree to the two pixels that even origins allow.
    cells = [mosaics[0, 0, 0, 96:192, 96:192].astype(int) for mosaics in (found["bursts"], samples.bursts_NTCHW)]
    gaps = [np.abs(cells[0][2:-2, 2:-2] - np.roll(cells[1], (y, x), (0, 1))[2:-2, 2:-2]).mean()
            for y in (-2, 0, 2) for x in (-2, 0, 2)]  # fmt: skip
    assert min(gaps) == 0
    cells = found["bursts"].reshape(2, 8, 3, 3, 96, 3, 96).transpose(0, 3, 5, 1, 2, 4, 6).reshape(18, 8, 3, 96, 96)
    known = burst_statistics(torch.from_numpy(cells), 9, torch.from_numpy(samples.burst_interval_s)).numpy()
    assert np.allclose(found["statistics"], known, atol=1e-4)


def test_a_draw_is_cut_the_same_again_and_another_elsewhere(clip):
    draws = [Draw(0, (1,), (1,), *rest) for rest in ((5, 2, False), (5, 2, False), (6, 2, False), (5, 2, True))]
    first, again, other, mirrored = (read(clip, draw, SETTINGS) for draw in draws)
    assert first["bursts"].shape == (1, 8, 3, 192, 192)
    assert np.array_equal(first["bursts"], again["bursts"]) and not np.array_equal(first["bursts"], other["bursts"])
    assert np.array_equal(first["bursts"], mirrored["bursts"][..., ::-1])
    assert np.array_equal(first["context"], mirrored["context"][..., ::-1])


@pytest.fixture(scope="module")
def still(tmp_path_factory):
    """One cached still picture."""
    folder = tmp_path_factory.mktemp("still")
    Image.fromarray(render_scene(3, 426, 340, 1)[0]).save(folder / "still.png")
    video = LabelledVideo("s", "s", "d", "train", str(folder / "still.png"), 3.0)
    (found,) = cached([video], folder, SETTINGS, 1.0, processes=1)
    return found


def test_a_still_is_kept_as_one_frame_and_shown_standing_and_panned(still):
    views = [read(still, Draw(0, (0,), (view,), None, 3), SETTINGS) for view in range(2)]
    standing, panned = (view["bursts"][0] for view in views)
    assert standing.shape == (8, 3, 288, 288) and (standing == standing[:1]).all()
    with safe_open(still.path, "numpy") as file:
        assert file.get_slice("luma").get_shape()[2] == 1
        pan, stored = file.get_tensor("pans")[1].astype(int), file.get_tensor("statistics")
    for frame in range(1, 8):
        y, x = pan * frame
        early, late = (one[0, 16:80, 16:80].astype(int) for one in (panned[0], np.roll(panned[frame], (y, x), (1, 2))))
        assert np.array_equal(early, late)  # a fragment of the later frame shows the earlier one's pixels elsewhere
    for view, bursts in enumerate((standing, panned)):
        cells = bursts.reshape(8, 3, 3, 96, 3, 96).transpose(2, 4, 0, 1, 3, 5).reshape(9, 8, 3, 96, 96)
        known = burst_statistics(torch.from_numpy(cells.copy()), 9, torch.tensor([0.04])).numpy()
        assert np.allclose(stored[0, view], known[0], atol=1e-4)


def test_batches_are_functions_of_the_seed_and_hold_whole_contents(clip):
    clips = [
        dataclasses.replace(clip, video=dataclasses.replace(clip.video, video_id=f"{c}.{v}", content_id=f"{c}"))
        for c in range(6)
        for v in range(5 if c else 1)
    ]

    def batches(seed):
        return ContentBatches(clips, {"d": 1.0}, contents=3, versions=4, segments=(1, 2), fragments=2, views=2,
                              count=8, seed=seed)  # fmt: skip

    assert list(batches(0)) == list(batches(0)) and list(batches(0)) != list(batches(1))
    for number, batch in enumerate(batches(0)):
        assert batch == batches(0).batch(number) and len(batch) == 12
        assert len({len(draw.segments) for draw in batch}) == 1
        counts = [sum(clips[draw.clip].video.content_id == str(c) for draw in batch) for c in range(6)]
        assert max(counts) == 4 and len({draw.clip for draw in batch}) == 12


def test_pairs_are_of_one_content_or_of_rated_videos_of_one_data_set_and_often_the_nearest():
    order = torch.tensor([4.0, 3.8, 2.0, 3.99, 3.0, 1.0, 2.5, np.nan])
    batch = {
        "order": order,
        "content": torch.tensor([0, 0, 0, 0, 1, 1, 2, 2]),
        "dataset": torch.tensor([0, 0, 0, 0, 0, 0, 1, 1]),
        # Nobody rated the content 1.
        "mos": torch.where(torch.arange(8) // 2 == 2, torch.nan, order),
    }
    pairs = np.concatenate(
        [_pairs(batch, [Draw(i, (0,), (0,), 100 * trial + i, 3) for i in range(8)]) for trial in range(300)]
    )
    seen = {tuple(sorted(pair)) for pair in pairs.tolist()}
    assert seen == {(0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (2, 3), (4, 5)}
    # The clip 0 and the clip 3 are as good as each other: the nearest of 0 is 1.
    counts = [sum(set(pair) == {0, other} for pair in pairs.tolist()) for other in (1, 2, 3)]
    assert counts[0] > 1.5 * max(counts[1:])
    assert 0.4 < (pairs[:, 0] < pairs[:, 1]).mean() < 0.6


def test_soft_labels_have_the_value_as_their_mean():
    values = torch.tensor([1.0, 1.3, 3.5, 4.99, 5.0])
    labels = soft_labels(values, 1, 5)
    torch.testing.assert_close(labels @ torch.arange(1.0, 6), values)
    assert torch.allclose(labels.sum(1), torch.ones(5)) and ((labels > 0).sum(1) <= 2).all()


def test_losses_vanish_when_right_and_pull_towards_it():
    truth = torch.tensor([1.0, 2.0, 4.0, 5.0])
    same = torch.ones(4, 4, dtype=torch.bool)
    assert linearity_loss(truth * 2 + 1, truth) < 0.02 and linearity_loss(-truth, truth) > 0.98
    assert linearity_loss(torch.ones(4), truth) == pytest.approx(0.5)
    assert rank_loss(truth, truth, same) == 0
    assert rank_loss(truth, truth, torch.zeros(4, 4, dtype=torch.bool)) == 0
    predicted = torch.zeros(4, requires_grad=True)
    rank_loss(predicted, truth, same).backward()
    assert predicted.grad is not None and predicted.grad[0] > 0 > predicted.grad[3]
    logits = torch.zeros(1, 5, requires_grad=True)
    soft_cross_entropy(logits, soft_labels(torch.tensor([4.0]), 1, 5)).sum().backward()
    assert logits.grad is not None and logits.grad[0].argmin() == 3


@pytest.mark.parametrize("loss", ["linearity", "rank"])
def test_gradients_of_the_losses_are_the_differences_they_make(loss):
    torch.manual_seed(0)
    predicted = torch.randn(6, dtype=torch.float64, requires_grad=True)
    truth, same = torch.rand(6, dtype=torch.float64) * 4 + 1, torch.ones(6, 6, dtype=torch.bool)
    function = (lambda x: linearity_loss(x, truth)) if loss == "linearity" else lambda x: rank_loss(x, truth, same)
    assert torch.autograd.gradcheck(function, (predicted,))


def test_the_linearity_loss_of_constant_scores_has_a_bounded_gradient():
    predicted = (torch.full((8,), 3.0) + 1e-6 * torch.randn(8)).requires_grad_()
    linearity_loss(predicted, torch.arange(8.0)).backward()
    assert predicted.grad is not None and predicted.grad.norm() < 20


def test_preference_is_antisymmetric_and_grows_with_the_gap():
    a, b = torch.tensor([4.0, 3.1, 3.0]), torch.tensor([2.0, 3.0, 3.0])
    torch.testing.assert_close(preference(a, b) + preference(b, a), torch.ones(3))
    assert preference(a, b)[0] > 0.99 > preference(a, b)[1] > 0.5 == preference(a, b)[2]


def test_thresholds_name_rare_distortions_at_their_own_level():
    rng = np.random.default_rng(0)
    severities = np.where(rng.random((400, len(DISTORTIONS))) < 0.05, 2.0, 0.0)
    probabilities = np.where(severities > 0, 0.3, 0.1) + rng.uniform(-0.05, 0.05, severities.shape)
    found = naming_thresholds(probabilities, severities)
    assert set(found) == set(DISTORTIONS) and all(0.15 <= value <= 0.25 for value in found.values())


@pytest.mark.parametrize(("there", "is_named"), [(12, False), (16, True)])
def test_a_missing_name_weighs_as_much_as_two_wrong_ones(there, is_named):
    probabilities = np.where(np.arange(100) < 40, 0.3, 0.06)[:, None].repeat(len(DISTORTIONS), 1)
    severities = np.where(np.arange(100) < there, 2.0, 0.0)[:, None].repeat(len(DISTORTIONS), 1)
    assert all((value <= 0.3) == is_named for value in naming_thresholds(probabilities, severities).values())


@pytest.mark.parametrize("spread", [0.2, 0.6])
def test_the_uncertainty_covers_the_share_of_errors_that_it_says(spread):
    rng = np.random.default_rng(0)
    stds = rng.uniform(0.1, 0.5, 4000)
    errors = rng.normal(0, np.sqrt((2 * stds) ** 2 + spread**2))
    scale, least = std_calibration(stds, errors, np.array(["a", "b"] * 2000))
    uncertainty = np.sqrt((scale * stds) ** 2 + least**2)
    assert np.mean(abs(errors) <= uncertainty) == pytest.approx(0.68, abs=0.02)
    assert np.mean(abs(errors) <= 2 * uncertainty) == pytest.approx(0.95, abs=0.02)


@pytest.mark.slow
def test_a_minute_of_training_on_rendered_clips_orders_the_unseen(tmp_path):
    corpus = make_corpus([], tmp_path / "corpus", CorpusSettings(clips=10 * 50, scenes=50), report=lambda line: None)
    learned = ("compression", "blur")
    made = read_manifest(corpus)
    # Eight scenes are held out: the hash of so few names may hold out none.
    held_out = sorted({video.content_id for video in made})[:8]
    videos = [
        dataclasses.replace(video, split="validation" if video.content_id in held_out else "train")
        for video in made
        if all(KINDS[step["kind"]].family in learned for step in video.recipe_steps())
    ]
    stage = {"name": "vision", "objective": "probe", "learns": ["context_encoder", "pixel_encoder"], "steps": 60,
             "contents": 6, "versions": 4, "segments": [1], "fragments": 2, "learning_rate": 1e-3,
             "rates": {"context_encoder": 0.3, "pixel_encoder": 0.3}, "warmup_steps": 10}  # fmt: skip
    config = TrainConfig.from_yaml(_yaml(tmp_path, write_manifest(videos, corpus.with_name("few.parquet")), [stage]))
    loop.train(config, report=lambda line: None)
    lines = [json.loads(line) for line in (config.out / "train_log.jsonl").read_text().splitlines()]
    assert [line["validation"]["same_content_pairs"] for line in lines if "validation" in line][-1] > 0.75


def _yaml(folder, corpus, stages):
    path = folder / "run.yaml"
    values = {"out": str(folder / "run"), "data": [{"path": str(corpus)}], "cache": {"folder": str(folder / "cache")}}
    path.write_text(yaml.safe_dump(values | {"stages": stages}))
    return path


def test_data_sets_are_drawn_by_weight(clip):
    clips = [
        dataclasses.replace(clip, video=dataclasses.replace(clip.video, dataset=name, content_id=f"{name}{n}"))
        for name in ("a", "b")
        for n in range(40)
    ]
    batches = ContentBatches(clips, {"a": 3.0, "b": 1.0}, contents=4, versions=1, segments=(1,), fragments=2, views=1,
                             count=200, seed=0)  # fmt: skip
    drawn = [clips[draw.clip].video.dataset for batch in batches for draw in batch]
    assert drawn.count("a") / len(drawn) == pytest.approx(0.75, abs=0.05)
    assert Data(Path("x")).weight == 1.0
