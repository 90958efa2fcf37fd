"""How a model under training does on held-out clips, from the cache: what learning curves and thresholds need.

In: an objective and clips. Out: scores, probabilities of distortions, figures. The full report on a finished model,
from the files, is `evaluation/`'s.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch

from cpllm_model.metrics import agreement, auc, share
from cpllm_model.network.processing import CPLLMProcessor
from cpllm_model.scale import DISTORTIONS
from cpllm_model.training.data.clips import CacheSettings, Clip, ClipDataset, Draw, segment_count
from cpllm_model.training.data.distortions import NAMED_FROM
from cpllm_model.training.data.manifests import LabelledVideo
from cpllm_model.training.recipe.objectives import Collator, Probe, TaskObjective, order_of

_BATCH = 16


@torch.inference_mode()
def predict(
    objective: Probe | TaskObjective, clips: Sequence[Clip], cache: CacheSettings, processor: CPLLMProcessor
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Answer for clips as at inference: all segments, fragments where inference cuts them.

    Returns:
        scores and their standard deviations, float64 (clips,), and the probability of each distortion, float64
        (clips, distortions).
    """
    was_training = objective.training
    objective.eval()
    device = next(objective.parameters()).device
    collate = Collator(clips, processor)
    grid = cache.sampling.fragment_grid
    scores, stds, found = np.zeros(len(clips)), np.zeros(len(clips)), np.zeros((len(clips), len(DISTORTIONS)))
    by_length: dict[int, list[int]] = {}
    for index, clip in enumerate(clips):
        by_length.setdefault(segment_count(clip), []).append(index)
    dataset = ClipDataset(clips, cache, context=objective.sees_context, pixels=objective.sees_pixels)
    for count, indices in by_length.items():
        for chosen in _chunks(indices, _BATCH):
            draws = [Draw(i, tuple(range(count)), (0,) * count, None, grid) for i in chosen]
            batch = collate([dataset[draw] for draw in draws])
            batch = {k: v.to(device) if isinstance(v, torch.Tensor) else v for k, v in batch.items()}
            with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
                answers = objective.answers(batch)
            scores[chosen], stds[chosen], found[chosen] = (one.double().cpu().numpy() for one in answers)
    objective.train(was_training)
    return scores, stds, found


def figures(videos: Sequence[LabelledVideo], scores: np.ndarray, probabilities: np.ndarray) -> dict[str, float]:
    """Give what a learning curve shows.

    Args:
        videos: labels.
        scores, probabilities: as `predict` gives them.

    Returns:
        SRCC and PLCC over the rated videos of each data set, the share of pairs of one content in the right order
        (labels more than 0.05 apart), and the mean over distortions of the AUC of their probabilities; what is not
        defined is NaN.
    """
    if not videos:
        return {}
    mos, order = (
        np.array([np.nan if value is None else value for value in values])
        for values in ([video.mos for video in videos], [order_of(video) for video in videos])
    )
    contents = np.array([f"{video.dataset}/{video.content_id}" for video in videos])
    found: dict[str, float] = {}
    for name in sorted({video.dataset for video in videos}):
        rated = ~np.isnan(mos) & np.array([video.dataset == name for video in videos])
        if rated.sum() > 2:
            agreed = agreement(scores[rated], mos[rated])
            found |= {f"srcc {name}": agreed.srcc, f"plcc {name}": agreed.plcc}
    better = (contents[:, None] == contents[None]) & (order[:, None] > order[None] + 0.05)
    found["same_content_pairs"] = share((scores[:, None] > scores[None])[better].sum(), better.sum())
    unknown = dict.fromkeys(DISTORTIONS, np.nan)
    severities = np.array([[(video.severities or unknown)[name] for name in DISTORTIONS] for video in videos])
    known, there = ~np.isnan(severities), severities >= NAMED_FROM
    areas = np.array([auc(p[k], t[k]) for p, t, k in zip(probabilities.T, there.T, known.T, strict=True)])
    found["distortion_auc"] = share(areas[~np.isnan(areas)].sum(), (~np.isnan(areas)).sum())
    return {name: round(float(value), 4) for name, value in found.items()}


def _chunks(values: Sequence[int], size: int) -> Iterator[Sequence[int]]:
    return (values[start : start + size] for start in range(0, len(values), size))
