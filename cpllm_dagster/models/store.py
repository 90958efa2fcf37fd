"""Where promoted models are kept: a folder, or a prefix of an S3 bucket.

In: the address of the place. Out: its models by their ids, each as a folder of this machine; which one is promoted, and
which ones were before. Models of a bucket are downloaded once and checked against the digest in their id. Knows nothing
of Dagster.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import tempfile
import uuid
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from cpllm_dagster.catalog.s3_client import without_secrets
from cpllm_dagster.lake.parquet import put_file
from cpllm_dagster.lake.storage import storage_at, sync
from cpllm_dagster.models.promotion import BUNDLED, RECORD_NAME, digest, promote, promoted_folder, publish
from cpllm_model.errors import CheckpointError, ConfigurationError, LakeError
from cpllm_model.network import checkpoint

#: In a folder: which models the link has pointed to, the last one last. In a bucket: that, and the promoted one.
HISTORY_NAME, POINTER_NAME = "promotions.json", "promoted.json"
#: A model id is the name of a folder, and nothing else.
_MODEL_ID = re.compile(r"[^./\\][^/\\]*-[0-9a-f]{12}")


class ModelStore(ABC):
    """Promoted models and the order of their promotions.

    uri: the place, as people know it.
    """

    uri: str

    @property
    @abstractmethod
    def work(self) -> Path:
        """A local folder for what evaluations write."""

    @abstractmethod
    def ids(self) -> list[str]:
        """Give the ids of all models that are there whole."""

    @abstractmethod
    def fetch(self, model_id: str) -> Path:
        """Give a model's folder on this machine.

        Raises:
            CheckpointError: there is no such model, or it is not what its id says.
        """

    @abstractmethod
    def publish(self, candidate: Path, record: Mapping[str, Any]) -> str:
        """Copy a model folder here, whole or not at all; it is not promoted yet.

        Args:
            candidate: the files at its top are the model.
            record: why it is here, kept beside it.

        Returns:
            its id.
        """

    @abstractmethod
    def source(self, model_id: str) -> str | RemoteModel:
        """Give what tells workers on other machines which model to load."""

    @abstractmethod
    def _read(self) -> tuple[str | None, list[str]]:
        """Give the promoted model's id, and all that were promoted, the last one last."""

    @abstractmethod
    def _write(self, promoted: str, history: list[str]) -> None:
        """Make a model the promoted one, in one step."""

    @property
    def promoted_id(self) -> str | None:
        """The promoted model's id; None before the first promotion."""
        return self._read()[0]

    def promoted(self) -> str:
        """Give the promoted model's folder, or the bundled model before the first promotion."""
        promoted = self.promoted_id
        return BUNDLED if promoted is None else str(self.fetch(promoted))

    def promoted_source(self) -> str | RemoteModel:
        """Give what tells workers on other machines to load the promoted model.

        Raises:
            CheckpointError: nothing has been promoted yet.
        """
        promoted = self.promoted_id
        if promoted is None:
            raise CheckpointError(
                f"no model has been promoted in {self.uri} yet: run train_and_promote or `cpllm models promote`, "
                "or name a model"
            )
        return self.source(promoted)

    def record(self, model_id: str) -> dict[str, Any]:
        """Give what a model was published with."""
        try:
            return json.loads((self.fetch(model_id) / RECORD_NAME).read_text())
        except (OSError, ValueError) as error:
            raise CheckpointError(f"{model_id} in {self.uri} has no readable {RECORD_NAME}: {error}") from error

    def promote(self, model_id: str) -> None:
        """Make a model of this place the promoted one.

        Raises:
            CheckpointError: it is not here, or not what its id says.
        """
        self.fetch(model_id)
        promoted, history = self._read()
        if model_id != promoted:
            self._write(model_id, [*history, model_id])

    def go_back(self) -> str:
        """Promote the model that was promoted before the present one, and give its id.

        Raises:
            ConfigurationError: there was none.
        """
        promoted, history = self._read()
        while history and history[-1] == promoted:
            history.pop()
        if not history:
            raise ConfigurationError(f"no model was promoted in {self.uri} before {promoted or 'now'}")
        self.fetch(history[-1])
        self._write(history[-1], history)
        return history[-1]


class FolderStore(ModelStore):
    """Models in a folder; the symbolic link `promoted` leads to one of them."""

    def __init__(self, root: Path) -> None:
        self.root = root.resolve()
        self.uri = str(self.root)

    @property
    def work(self) -> Path:
        return self.root

    def ids(self) -> list[str]:
        folders = self.root.iterdir() if self.root.is_dir() else ()
        return sorted(path.name for path in folders if path.is_dir() and not path.is_symlink() and _is_id(path.name))

    def fetch(self, model_id: str) -> Path:
        folder = self.root / model_id
        if not _is_id(model_id) or not folder.is_dir():
            raise CheckpointError(f"there is no model {model_id!r} in {self.uri}")
        return folder

    def publish(self, candidate: Path, record: Mapping[str, Any]) -> str:
        return publish(candidate, self.root, record).name

    def source(self, model_id: str) -> str:
        return str(self.fetch(model_id))

    def _read(self) -> tuple[str | None, list[str]]:
        folder, path = promoted_folder(self.root), self.root / HISTORY_NAME
        history = _history(path.read_text(), path) if path.exists() else []
        if folder is not None and folder.name in self.ids() and history[-1:] != [folder.name]:
            history.append(folder.name)  # the link was set by hand
        return (folder.name if folder else None), history

    def _write(self, promoted: str, history: list[str]) -> None:
        promote(self.root / promoted)
        unfinished = self.root / f".{HISTORY_NAME}.unfinished"
        unfinished.write_text(json.dumps(history) + "\n")
        sync(unfinished)
        unfinished.replace(self.root / HISTORY_NAME)
        sync(self.root)


class BucketStore(ModelStore):
    """Models under a prefix of an S3 bucket; one small object says which is promoted, and which were."""

    def __init__(self, uri: str, endpoint_url: str | None = None) -> None:
        self.uri, self.endpoint_url = uri.rstrip("/"), endpoint_url
        self._storage = storage_at(self.uri, endpoint_url)

    @property
    def work(self) -> Path:
        folder = Path.home() / ".cache" / "cpllm" / "models"
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError:  # a container whose own files may only be read
            folder = Path(tempfile.gettempdir()) / f"cpllm-models-{os.getuid()}"
            folder.mkdir(mode=0o700, exist_ok=True)
            if folder.stat().st_uid != os.getuid():
                raise ConfigurationError(f"{folder} does not belong to this user: set TMPDIR") from None
        return folder

    def ids(self) -> list[str]:
        # What lies directly below the prefix is in no folder, and no model.
        names = [PurePosixPath(name).parts for name in self._storage.list("")]
        return sorted(parts[0] for parts in names if parts[1:] == (RECORD_NAME,) and _is_id(parts[0]))

    def fetch(self, model_id: str) -> Path:
        if not _is_id(model_id):
            raise CheckpointError(f"{model_id!r} is not the id of a model")
        folder = self.work / model_id
        if _holds(folder, model_id):
            return folder
        names = [PurePosixPath(name).name for name in self._storage.list(model_id) if name.count("/") == 1]
        if RECORD_NAME not in names:  # which is uploaded last
            raise CheckpointError(f"there is no model {model_id!r} in {self.uri}")
        unfinished = self.work / f".{model_id}.{uuid.uuid4().hex}"
        unfinished.mkdir(parents=True)
        try:
            for name in names:
                with (unfinished / name).open("wb") as file:
                    shutil.copyfileobj(self._storage.open(f"{model_id}/{name}").reader(), file)
            if digest(str(unfinished)) != model_id.rpartition("-")[2]:
                raise CheckpointError(f"{self.uri}/{model_id} is not the model that its id says")
            shutil.rmtree(folder, ignore_errors=True)  # a copy that is no longer what it was
            try:
                unfinished.rename(folder)
            except OSError:
                if not folder.is_dir():  # else another process was faster
                    raise
        finally:
            shutil.rmtree(unfinished, ignore_errors=True)
        return folder

    def publish(self, candidate: Path, record: Mapping[str, Any]) -> str:
        model_id = checkpoint.model_id(str(candidate))
        if model_id in self.ids():
            return model_id
        for path in sorted(candidate.iterdir()):
            if path.is_file() and not path.name.startswith(".") and path.name != RECORD_NAME:
                self._storage.put(path, f"{model_id}/{path.name}")
        if checkpoint.model_id(str(candidate)) != model_id:
            raise CheckpointError(f"{candidate} changed while it was copied")
        self._put_json(dict(record), f"{model_id}/{RECORD_NAME}")
        return model_id

    def source(self, model_id: str) -> RemoteModel:
        return RemoteModel(self.uri, model_id, self.endpoint_url)

    def _read(self) -> tuple[str | None, list[str]]:
        try:
            text = self._storage.open(POINTER_NAME).reader().read()
        except FileNotFoundError:
            return None, []
        history = _history(text, f"{self.uri}/{POINTER_NAME}")
        return history[-1], history

    def _write(self, promoted: str, history: list[str]) -> None:
        assert history[-1] == promoted
        self._put_json(history, POINTER_NAME)

    def _put_json(self, value: Any, name: str) -> None:
        put_file(self._storage, name, lambda path: path.write_text(json.dumps(value, indent=2) + "\n"))


@dataclass(frozen=True)
class RemoteModel:
    """A model of a bucket, as a worker on another machine is told of it.

    Args:
        uri: the place of the models.
        model_id: which of them.
        endpoint_url: an S3-compatible server; None is AWS.
    """

    uri: str
    model_id: str
    endpoint_url: str | None = None

    def fetch(self) -> str:
        """Give its folder on this machine."""
        return str(BucketStore(self.uri, self.endpoint_url).fetch(self.model_id))


def local_model(source: str | RemoteModel) -> str:
    """Give a model's name or its folder on this machine."""
    return source if isinstance(source, str) else source.fetch()


def models_at(uri: str, endpoint_url: str | None = None) -> ModelStore:
    """Open the place of the models; nothing is read yet.

    Args:
        uri: `s3://bucket/prefix` or a folder.
        endpoint_url: an S3-compatible server; None is AWS.

    Raises:
        ConfigurationError: it is another kind of address.
    """
    if not uri.startswith("s3://"):
        if "://" in uri:
            raise ConfigurationError(f"the place of models {without_secrets(uri)!r} is neither s3://… nor a folder")
        return FolderStore(Path(uri))
    try:
        return BucketStore(uri, endpoint_url)
    except LakeError as error:
        raise ConfigurationError(f"the place of models: {error}") from None


def _is_id(name: str) -> bool:
    return _MODEL_ID.fullmatch(name) is not None


def _holds(folder: Path, model_id: str) -> bool:
    """Tell whether a folder is there and is what the id says."""
    try:
        return folder.is_dir() and checkpoint.model_id(str(folder)) == model_id
    except CheckpointError:
        return False


def _history(text: str | bytes, where: object) -> list[str]:
    try:
        history = json.loads(text)
    except ValueError:
        history = None
    if not isinstance(history, list) or not history or not all(isinstance(one, str) and _is_id(one) for one in history):
        raise CheckpointError(f"{where} is not a list of models: remove it, and promote a model again")
    return history
