"""A quick start for a process that answers a few questions on one machine and ends: `cpllm score`, `compare`, `rank`.

transformers imports, for any model, what only compilation, distribution and training need: 2 of the 5 processor seconds
that one video costs. Here these parts are said to be absent before it is imported, as they are on systems without
them. What is computed stays the same. Not for a process that trains, or that keeps running.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import ModuleType
from typing import Any, NoReturn

#: Packages that transformers uses in losses and training where they are installed.
TRAINING_PACKAGES = ("accelerate", "scipy")
#: What functions are marked with for a compiler; where none is loaded, the marks mean nothing.
MARKS = ("allow_in_graph", "assume_constant_result", "disable", "forbid_in_graph")


def start() -> None:
    """Import the model's classes without what answering does not need."""
    import torch
    from transformers import utils

    torch.distributed.is_available = lambda: False
    for name in TRAINING_PACKAGES:
        for module in (utils, utils.import_utils):
            setattr(module, f"is_{name}_available", _absent)
    if "torch._dynamo" not in sys.modules:
        sys.modules["torch._dynamo"] = torch._dynamo = _NoCompiler(Path(torch.__file__).with_name("_dynamo"))
    import cpllm_model.network.modeling  # noqa: F401


def end(status: int) -> NoReturn:
    """End the process at once: to take all modules apart one by one would cost almost another processor second."""
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):  # nobody reads it any more, or it is closed
            stream.flush()
    os._exit(status)


class _NoCompiler(ModuleType):
    """In the place of torch._dynamo: its marks leave a function as it is, its submodules are the real ones."""

    def __init__(self, folder: Path) -> None:
        super().__init__("torch._dynamo", "No compiler; see lean_start.")
        self.__path__ = [str(folder)]

    def __getattr__(self, name: str) -> Callable[..., Any]:
        if name not in MARKS:
            raise AttributeError(f"this process has no compiler, and so no torch._dynamo.{name}")
        return _unmarked


def _unmarked(function: Any = None, *_: object, **__: object) -> Any:
    return function if function is not None else _unmarked


def _absent(*_: object) -> bool:
    return False
