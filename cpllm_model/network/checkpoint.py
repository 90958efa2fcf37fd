"""Find a model folder, vouch for what lies in it, and name it; imports no torch.

A model is named by a bundled name ("tiny"), a folder, or a hub id ("organisation/name"). Weights are safetensors
and configurations JSON. A folder with pickles, programs or links that lead out of it is refused whole; what else
lies beside a model, as a licence or a log, is never read.
"""

from __future__ import annotations

import functools
import hashlib
import io
import json
import pickletools
import re
from pathlib import Path

from cpllm_model.decoding.sampling import SamplingSettings
from cpllm_model.errors import CheckpointError

BUNDLED = Path(__file__).parent.parent / "checkpoints"
HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
#: What has one reader that runs no code, whatever the contents.
_DATA_SUFFIXES = {".safetensors", ".json", ".jsonl", ".jinja", ".md", ".txt", ".model", ".png", ".html", ".parquet"}
#: Names of pickles, of formats that may hold them, of programs and of what programs load.
_CODE_NAME = re.compile(
    r"\.(bin|ckpt|dill|h5|hdf5|joblib|keras|mar|nemo|np[yz]|pb|pickle|pkl|pt[2hl]?|t7|zip"
    r"|py[cdowxz]?|pyi|egg|whl|jar|class|js|lua|pl|rb|wasm"
    r"|a|dll|dylib|exe|o|scr|so|(ba|z)?sh|bat|cmd|com|msi|ps1|vbs)(\.|$)",
    re.IGNORECASE,
)
#: First bytes of programs and of formats that may hold code: scripts, ELF, Windows, Mach-O (and Java), WebAssembly,
#: zip (as PyTorch's files), HDF5, NumPy.
_CODE_SIGNATURES = (
    *(b"#!", b"\x7fELF", b"MZ", b"\xfe\xed\xfa\xce", b"\xfe\xed\xfa\xcf", b"\xce\xfa\xed\xfe", b"\xcf\xfa\xed\xfe"),
    *(b"\xca\xfe\xba\xbe", b"\0asm", b"PK\x03\x04", b"\x89HDF", b"\x93NUMPY"),
)
#: Of a file of no known kind, so much is looked at.
_SNIFFED_BYTES = 1 << 16
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
        raise CheckpointError(f"{folder / 'config.json'} is not a CP-LLM configuration")
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
    _refuse_code(folder)
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
            raise CheckpointError(f"{path} names weights that are not *.safetensors files of the folder")


def _refuse_code(folder: Path) -> None:
    """Look through a model folder; what a version control or a cache keeps in hidden folders is none of the model's."""
    home = folder.resolve()
    # In its cache, the hub's client makes a snapshot of links to the files of all versions.
    homes = (home, home.parent.parent / "blobs") if home.parent.name == "snapshots" else (home,)
    for path in sorted(folder.rglob("*")):
        if any(part.startswith(".") for part in path.relative_to(folder).parent.parts):
            continue
        if path.is_symlink() and not any(_target(path).is_relative_to(allowed) for allowed in homes):
            raise CheckpointError(f"{path} is a link that leads out of the model's folder")
        if path.is_file() and _may_be_code(path):
            raise CheckpointError(f"{path} may run code when loaded; a model folder holds safetensors and JSON only")


def _target(link: Path) -> Path:
    try:
        return link.resolve()
    except (OSError, RuntimeError) as error:
        raise CheckpointError(f"{link} is a link that leads nowhere") from error


def _may_be_code(path: Path) -> bool:
    """Judge a file by its name, and where that says nothing by its contents."""
    if path.suffix.lower() in _DATA_SUFFIXES:
        return False
    if _CODE_NAME.search(path.name):
        return True
    try:
        with path.open("rb") as file:
            head = file.read(_SNIFFED_BYTES)
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error}") from None
    return head.startswith(_CODE_SIGNATURES) or _is_pickle(head)


def _is_pickle(head: bytes) -> bool:
    """Whether bytes are a pickle: those from protocol 2 on state it, older ones must read as one to their end."""
    if head[:1] == b"\x80" and head[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05"):
        return True
    try:
        return any(opcode.name == "STOP" for opcode, _, _ in pickletools.genops(io.BytesIO(head)))
    except Exception:  # pickletools raises whatever the bytes make it raise
        return False


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
        raise CheckpointError(f"{hub_id!r} cannot be downloaded from the hub: {type(error).__name__}") from error
