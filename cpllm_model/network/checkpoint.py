"""Find a model folder, vouch for what lies in it, and name it; imports no torch.

A model is named by a bundled name ("tiny"), a folder, or a hub id ("organisation/name"). Only safetensors and
JSON are accepted: a folder with pickles or code is refused whole.
"""

from __future__ import annotations

import functools
import hashlib
import json
import re
from pathlib import Path

from cpllm_model.decoding.sampling import SamplingSettings
from cpllm_model.errors import CheckpointError

BUNDLED = Path(__file__).parent.parent / "checkpoints"
HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
#: What a model folder may be made of; a card and its figures are welcome.
ACCEPTED_SUFFIXES = (".safetensors", ".json", ".jsonl", ".jinja", ".md", ".txt", ".model", ".png", ".html", ".parquet")
#: Files that decide the answers, and so the model's identity.
IDENTITY_PATTERNS = ("*.safetensors", "config.json", "processor_config.json", "tokenizer*.json")


def resolve(name_or_path: str) -> Path:
    """Find a model's folder.

    Args:
        name_or_path: bundled name, folder, or hub id; a hub id is downloaded once (safetensors and JSON only).

    Raises:
        CheckpointError: nothing is there, it is incomplete, or it holds files that may run code when loaded.
    """
    if (BUNDLED / name_or_path / "config.json").is_file() and "/" not in name_or_path:
        folder = BUNDLED / name_or_path
    elif Path(name_or_path).is_dir():
        folder = Path(name_or_path)
    elif HUB_ID.fullmatch(name_or_path):
        folder = _download(name_or_path)
    else:
        bundled = ", ".join(sorted(path.name for path in BUNDLED.iterdir() if path.is_dir()))
        raise CheckpointError(f"no model {name_or_path!r}: neither bundled ({bundled}) nor a folder nor a hub id")
    _vouch(folder)
    return folder


def model_id(name_or_path: str) -> str:
    """Give the model's name with 12 hex digits of the SHA-256 of its weights, configuration and tokenizer.

    Raises:
        CheckpointError: see resolve.
    """
    folder = resolve(name_or_path)
    files = sorted({path for pattern in IDENTITY_PATTERNS for path in folder.glob(pattern)})
    return _digest(folder, tuple((path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in files))


def sampling_settings(name_or_path: str) -> SamplingSettings:
    """Give how much of a video the model looks at.

    Raises:
        CheckpointError: see resolve, or the configuration states none.
    """
    return SamplingSettings(**_config(resolve(name_or_path))["sampling"])


def _config(folder: Path) -> dict:
    config = _json(folder / "config.json")
    if config.get("model_type") != "cpllm" or "sampling" not in config:
        raise CheckpointError(f"{folder / 'config.json'} is no CP-LLM configuration")
    return config


def _json(path: Path) -> dict:
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}") from None
    if not isinstance(found, dict):
        raise CheckpointError(f"{path} cannot be read: no JSON object")
    return found


def _vouch(folder: Path) -> None:
    for path in sorted(folder.rglob("[!.]*")):
        hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
        if path.is_file() and path.suffix not in ACCEPTED_SUFFIXES and not hidden:
            raise CheckpointError(f"{path} may run code when loaded; a model folder holds safetensors and JSON only")
    _config(folder)
    for path in sorted(folder.glob("*config.json")):
        if "auto_map" in json.dumps(_json(path)):
            raise CheckpointError(f"{path} asks for remote code (auto_map), which is never run")
    if not any(folder.glob("*.safetensors")):
        raise CheckpointError(f"{folder} has no *.safetensors")
    own = {path.name for path in folder.glob("*.safetensors")}
    for path in sorted(folder.glob("*.index.json")):
        shards = _json(path).get("weight_map")
        if not isinstance(shards, dict) or not own.issuperset(map(str, shards.values())):
            raise CheckpointError(f"{path} names weights that are no *.safetensors of the folder")


@functools.cache
def _digest(folder: Path, files: tuple[tuple[str, int, int], ...]) -> str:
    total = hashlib.sha256()
    for name, size, _ in files:
        with (folder / name).open("rb") as file:
            total.update(f"{name} {size} {hashlib.file_digest(file, 'sha256').hexdigest()}\n".encode())
    name, digest = folder.resolve().name, total.hexdigest()[:12]
    # A folder that was named by this function keeps its name.
    return name if name.endswith(f"-{digest}") else f"{name}-{digest}"


def _download(hub_id: str) -> Path:
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(hub_id, allow_patterns=["*.safetensors", "*.json", "*.jinja", "*.txt"]))
    except Exception as error:  # the hub client raises its own, requests' and the operating system's errors
        raise CheckpointError(f"{hub_id!r} cannot be had from the hub: {type(error).__name__}") from error
