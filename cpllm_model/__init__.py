"""CP-LLM: a context- and pixel-aware language model for no-reference video quality assessment.

The public names are imported when they are asked for: importing the package alone imports no torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cpllm_model.predictor import QualityPredictor

__version__ = "0.1.0"
__all__ = ["QualityPredictor", "__version__"]


def __getattr__(name: str) -> Any:
    if name == "QualityPredictor":
        from cpllm_model.predictor import QualityPredictor

        return QualityPredictor
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
