"""The promoted model: which one it is, when another may take its place, and how it does so.

A folder of models holds each promoted model whole, in a folder named by its model id, and the symbolic link `promoted`
to one of them. Replacing the link is the promotion: a reader finds the old model or the new one, whole. Older models
stay, so that the link can be set back. Knows nothing of Dagster.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from cpllm_dagster.lake.storage import sync
from cpllm_dagster.models.comparison import ModelComparison
from cpllm_model.errors import CheckpointError, ConfigurationError
from cpllm_model.network import checkpoint

#: The link's name, and the word that names the promoted model where a model is asked for.
PROMOTED = "promoted"
#: The model in use before the first promotion.
BUNDLED = "tiny"
#: Beside a promoted model's weights: what it was promoted on.
RECORD_NAME = "promotion.json"


@dataclass(frozen=True)
class PromotionRule:
    """When a candidate is better.

    Args:
        least_gain: the whole interval of the gain in SRCC must lie above this.
        largest_pair_loss: the whole interval of the loss in same-content pair accuracy must lie below this.
    """

    least_gain: float = 0.0
    largest_pair_loss: float = 0.02

    def objection(self, comparison: ModelComparison) -> str | None:
        """Say in a sentence why the candidate is not better; None if it is."""
        pairs = comparison.pair_accuracy
        if comparison.unanswered:
            return f"The candidate has no score for {comparison.unanswered} videos that the incumbent scores."
        if not comparison.srcc.low > self.least_gain:  # said so that no number (NaN) is an objection, too
            return f"The gain in SRCC is not surely above {self.least_gain:.3f}: {comparison.srcc}."
        if pairs is not None and not pairs.low > -self.largest_pair_loss:
            return f"Same-content pairs may lose {self.largest_pair_loss:.3f} or more: {pairs}."
        return None


@dataclass(frozen=True)
class PromotionRecord:
    """What was compared with what, on which videos, by which rule; kept as JSON beside the predictions.

    Args:
        candidate, incumbent: model folders, or a bundled name.
        candidate_id, incumbent_id: their model ids when they were compared.
        held_out: the manifests.
        comparison: what was found.
        rule: what it is held against.
    """

    candidate: str
    candidate_id: str
    incumbent: str
    incumbent_id: str
    held_out: tuple[str, ...]
    comparison: ModelComparison
    rule: PromotionRule

    @property
    def objection(self) -> str | None:
        """Say why the candidate may not be promoted; None if it may."""
        return self.rule.objection(self.comparison)

    def write(self, path: Path) -> Path:
        """Write the record whole."""
        unfinished = path.with_name(f".{path.name}.unfinished")
        unfinished.write_text(json.dumps(asdict(self), indent=2) + "\n")
        return unfinished.replace(path)

    @classmethod
    def read(cls, path: Path) -> PromotionRecord:
        """Read a record.

        Raises:
            CheckpointError: there is none.
        """
        try:
            found = json.loads(path.read_text())
            return cls(
                **found
                | {
                    "held_out": tuple(found["held_out"]),
                    "comparison": ModelComparison.from_dict(found["comparison"]),
                    "rule": PromotionRule(**found["rule"]),
                }
            )
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise CheckpointError(f"{path} is not a record of a model comparison: {error}") from error


def promoted_folder(models: Path) -> Path | None:
    """Give the folder of the promoted model, or None before the first promotion.

    Raises:
        CheckpointError: the link leads nowhere.
    """
    link = models / PROMOTED
    if not link.is_symlink() and not link.exists():
        return None
    if not link.is_dir():
        raise CheckpointError(f"{link} does not lead to a folder: let it point to one of the models beside it")
    return link.resolve()


def publish(candidate: Path, models: Path, record: Mapping[str, Any]) -> Path:
    """Copy a model into the folder of models, whole or not at all; give the copy, which is not yet the promoted one.

    Args:
        candidate: a model folder; the files at its top are the model.
        models: the folder of promoted models.
        record: kept with it as RECORD_NAME.

    Raises:
        CheckpointError: it is no model, or not the same in the copy.
    """
    model_id = checkpoint.model_id(str(candidate))
    published = models / model_id
    if published.is_dir():
        if digest(str(published)) != digest(str(candidate)):
            raise CheckpointError(f"{published} is no longer the model {model_id}: remove it first")
        return published
    unfinished = models / f".{model_id}.unfinished"
    shutil.rmtree(unfinished, ignore_errors=True)  # of a promotion that was killed
    unfinished.mkdir(parents=True)
    for path in candidate.iterdir():
        if path.is_file() and not path.name.startswith("."):
            shutil.copyfile(path, unfinished / path.name)
            sync(unfinished / path.name)
    (unfinished / RECORD_NAME).write_text(json.dumps(dict(record), indent=2) + "\n")
    if digest(str(unfinished)) != digest(str(candidate)):
        raise CheckpointError(f"{candidate} changed while it was copied")
    unfinished.rename(published)
    sync(models)
    return published


def promote(published: Path) -> None:
    """Make a model of the folder of models the promoted one, in one step.

    Raises:
        ConfigurationError: the link's place is taken by something else.
    """
    link = published.parent / PROMOTED
    if link.exists() and not link.is_symlink():
        raise ConfigurationError(f"{link} is not a link: move it away, so that a promoted model can be linked there")
    unfinished = link.with_name(f".{PROMOTED}.unfinished")
    unfinished.unlink(missing_ok=True)
    unfinished.symlink_to(published.name)
    unfinished.replace(link)
    sync(published.parent)


def digest(model: str) -> str:
    """Give the part of a model id that does not depend on the folder's name."""
    return checkpoint.model_id(model).rpartition("-")[2]
