"""What others published on splits that an evaluation may ask about, as data; each figure with its source.

Only figures on exactly the same videos stand here: an official test split, under the name that manifests give its data
set. Of data sets without one (KoNViD-1k, LIVE-VQC, YouTube-UGC) each publication draws its own, and none compares.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Published:
    """A method's figures on one split.

    Args:
        dataset, split: as in manifests.
        method: its name.
        source: where the figures stand.
        srcc, plcc: as published; None where they are not.
    """

    dataset: str
    split: str
    method: str
    source: str
    srcc: float | None = None
    plcc: float | None = None


_BIQ2021 = (
    "Ahmed and Asif, BIQ2021: a large-scale blind image quality assessment database, "
    "Journal of Electronic Imaging 2022, arXiv 2202.03879"
)
_DOVER = "README of DOVER (Wu et al., arXiv 2211.04894), trained on LSVQ"
PUBLISHED = (
    Published("biq2021", "test", "NIQE", _BIQ2021, srcc=0.27),
    Published("biq2021", "test", "BRISQUE", _BIQ2021, srcc=0.60),
    Published("biq2021", "test", "Inception-ResNet-V2", _BIQ2021, srcc=0.66),
    Published("biq2021", "test", "NASNet-Large", _BIQ2021, srcc=0.67),
    Published("lsvq-test", "test", "DOVER", _DOVER, plcc=0.889),
    Published("lsvq-1080p", "test", "DOVER", _DOVER, plcc=0.830),
)


def published_on(datasets: Iterable[str], split: str) -> list[Published]:
    """Give what is published on a split of data sets of these names."""
    names = set(datasets)
    return [one for one in PUBLISHED if one.dataset in names and one.split == split]
