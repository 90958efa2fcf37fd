"""Losses of the three tasks, on the decoder's answers; this project's choice, the paper states none.

Shape legend: X clips, A answers (levels or severities).
"""

from __future__ import annotations

import torch
from torch.nn import functional

#: Spread of one opinion on the 1-5 scale, as ACR tests find it (about 0.7), halved: the proxy has no viewers.
OPINION_STD = 0.35
#: Gap that predictions of one content are asked to have at least: that of versions of a bad source is small, and their
#: order still counts.
LEAST_MARGIN = 0.15
#: Norm below which a batch of scores counts as constant.
LEAST_SPREAD = 0.05


def soft_labels(values: torch.Tensor, lowest: float, answers: int) -> torch.Tensor:
    """Divide each value between its two neighbouring integer answers, so that the mean is the value.

    Args:
        values: (X,).
        lowest: value of the first answer.
        answers: number of answers, one apart.

    Returns:
        (X, A), rows sum to 1.
    """
    place = (values - lowest).clamp(0, answers - 1)
    steps = torch.arange(answers, device=values.device, dtype=values.dtype)
    return (1 - (place[:, None] - steps).abs()).clamp(min=0)


def soft_cross_entropy(logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Give the cross-entropy (X,) of logits (X, A) against distributions (X, A)."""
    return -(target * functional.log_softmax(logits, -1)).sum(-1)


def linearity_loss(predicted: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Give (1 - Pearson correlation) / 2 over a batch (X,): 0 when the scores are linear in the labels."""
    x, y = predicted - predicted.mean(), target - target.mean()
    # Predictions that are all but equal have a correlation whose gradient has no bound: their spread is given a floor.
    return (1 - (x * y).sum() / ((x.norm() + LEAST_SPREAD) * y.norm().clamp(min=LEAST_SPREAD))) / 2


def rank_loss(predicted: torch.Tensor, target: torch.Tensor, same: torch.Tensor) -> torch.Tensor:
    """Punish same-content pairs whose predicted gap is short of the true one, or of LEAST_MARGIN if that is more.

    Args:
        predicted, target: scores (X,).
        same: bool (X, X), pairs of one content.

    Returns:
        mean hinge over pairs whose labels differ by more than 0.05; 0 if there are none.
    """
    gap = target[:, None] - target[None]
    pairs = same & (gap > 0.05)
    if not pairs.any():
        return predicted.sum() * 0
    return (gap.clamp(min=LEAST_MARGIN) - (predicted[:, None] - predicted[None]))[pairs].clamp(min=0).mean()


def preference(mos_a: torch.Tensor, mos_b: torch.Tensor) -> torch.Tensor:
    """Give the probability that a viewer prefers a: Thurstone's case V with OPINION_STD."""
    return torch.distributions.Normal(0.0, OPINION_STD * 2**0.5).cdf(mos_a - mos_b)
