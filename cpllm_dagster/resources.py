"""What the assets are given: where videos, tables and promoted models lie, which model, and a Ray to work on.

In: plain settings (addresses and names). Out: VideoStore, Lake, model identity, a connected Ray.
Nothing is opened when definitions load: torch is never imported here, ray on the first connection alone.
"""

from __future__ import annotations

import logging
import os
import socket
import stat
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import dagster as dg
from dagster_ray import LocalRay
from pydantic import Field, PrivateAttr

from cpllm_dagster.batch.placement import Precision
from cpllm_dagster.catalog.listing import EXCLUDED
from cpllm_dagster.catalog.objects import VideoStore
from cpllm_dagster.catalog.s3_client import SIGNED
from cpllm_dagster.lake.tables import Lake
from cpllm_dagster.models.promotion import BUNDLED, PROMOTED
from cpllm_dagster.models.store import ModelStore, RemoteModel, local_model, models_at
from cpllm_model.decoding.samples import DecodeLimits
from cpllm_model.errors import ConfigurationError
from cpllm_model.network import checkpoint

#: How long a cluster may take until it listens.
LISTENER_DEADLINE_S = 20.0
#: What Ray puts below TMPDIR for its sockets, and how long the path of one may be (107 on Linux, 103 on macOS).
SOCKETS_BELOW = "/ray/session_2026-01-01_00-00-00_000000_1234567/sockets/plasma_store"
LONGEST_SOCKET = 103
#: Of a library's videos at most this share may be gone from one run to the next, unless a person allows it.
LARGEST_LOSS = 0.3
#: Thirteen months: each night beside that of a year ago.
HISTORY_DAYS = 400


class Catalog(dg.ConfigurableResource):
    """The storage whose first level are the content libraries."""

    uri: str = Field(description="s3://bucket/prefix or a folder; the first level below it are the libraries.")
    s3_endpoint_url: str | None = Field(default=None, description="An S3-compatible server; AWS by default.")
    s3_access: str = Field(default=SIGNED, description="How S3 is asked: signed, unsigned or requester-pays.")
    exclude: list[str] = Field(default=list(EXCLUDED), description="Name patterns of files and folders to leave out.")
    largest_loss: float = Field(
        default=LARGEST_LOSS, ge=0, le=1, description="Largest share of a library's videos that may be gone at once."
    )

    def open(self) -> VideoStore:
        """Open the storage.

        Raises:
            ConfigurationError: the address cannot be read.
        """
        return VideoStore(self.uri, self.s3_endpoint_url, tuple(self.exclude), self.s3_access)


class TableLake(dg.ConfigurableResource):
    """The place of the published tables, and how long history is kept there."""

    uri: str = Field(description="s3://bucket/prefix, or a folder; the tables are published below it.")
    s3_endpoint_url: str | None = Field(default=None, description="An S3-compatible server; AWS by default.")
    history_days: int = Field(
        default=HISTORY_DAYS, ge=0, description="Days to keep score_history and nights; 0 keeps them forever."
    )
    _claims: ExitStack = PrivateAttr(default_factory=ExitStack)
    _claimed: dict[str, Lake] = PrivateAttr(default_factory=dict)

    def open(self) -> Lake:
        """Open the tables.

        Raises:
            LakeError: the address cannot be written.
        """
        return Lake(self.uri, self.s3_endpoint_url)

    def claim(self, context: dg.AssetExecutionContext, library: str) -> Lake:
        """Open the tables, with the library claimed until the run ends: two runs never write the same tables.

        Raises:
            LakeError: as `open`, or another run holds the library.
        """
        if library not in self._claimed:
            lake = self.open()
            holder = f"run {context.run.run_id}, process {os.getpid()} on {socket.gethostname()}"
            self._claims.enter_context(lake.claim(library, holder))
            self._claimed[library] = lake
            self._claims.callback(self._claimed.pop, library)
        return self._claimed[library]

    @contextmanager
    def yield_for_execution(self, context: dg.InitResourceContext) -> Iterator[Self]:
        """Give the resource, and end its claims at the run's end."""
        with self._claims:
            yield self


class VideoLimits(dg.ConfigurableResource):
    """What one video may cost; a video over these limits fails. For probing and decoding."""

    deadline_s: float = Field(default=30.0, gt=0, description="Longest time to read and decode one video.")
    max_file_bytes: int = Field(default=1 << 38, gt=0, description="Largest file.")
    max_duration_s: float = Field(default=86_400.0, gt=0, description="Longest video.")
    max_frame_px: int = Field(default=8192 * 4320, gt=0, description="Maximum pixels of a frame.")

    def decode_limits(self) -> DecodeLimits:
        """Give the limits as the decoder takes them."""
        return DecodeLimits(
            wall_s=self.deadline_s,
            max_file_bytes=self.max_file_bytes,
            max_duration_s=self.max_duration_s,
            max_frame_px=self.max_frame_px,
        )


class PromotedModels(dg.ConfigurableResource):
    """Where promoted models are kept; training asks for it, scoring only where it is to use the promoted one."""

    uri: str | None = Field(
        default=None, description="A folder that outlives runs, or s3://bucket/prefix; CPLLM_MODELS_URI."
    )
    s3_endpoint_url: str | None = Field(default=None, description="An S3-compatible server; AWS by default.")

    def open(self) -> ModelStore:
        """Open the place.

        Raises:
            ConfigurationError: it is not set, or is neither a folder nor a bucket.
        """
        if self.uri is None:
            raise ConfigurationError(
                "CPLLM_MODELS_URI is not set: the folder or s3://bucket/prefix where promoted models are kept"
            )
        return models_at(self.uri, self.s3_endpoint_url)


class QualityModel(dg.ConfigurableResource):
    """The checkpoint that scores, describes and compares.

    Dagster makes a resource anew for each run: a run keeps to the model that was the promoted one when it first asked,
    and the next run finds the one that is then.
    """

    reference: str = Field(
        default=BUNDLED, description="A bundled checkpoint's name, a checkpoint's folder, or \"promoted\"."
    )
    models_uri: str | None = Field(default=None, description="Where promoted models are kept.")
    s3_endpoint_url: str | None = Field(default=None, description="An S3-compatible server; AWS by default.")

    @cached_property
    def source(self) -> str | RemoteModel:
        """What workers on any machine load: a bundled name, a folder, or a model of a bucket.

        Raises:
            ConfigurationError, CheckpointError: the promoted model is asked for, and there is none.
        """
        if self.reference == PROMOTED:
            return PromotedModels(uri=self.models_uri, s3_endpoint_url=self.s3_endpoint_url).open().promoted_source()
        path = Path(self.reference)
        return str(path.resolve()) if path.is_symlink() else self.reference

    @cached_property
    def name(self) -> str:
        """The bundled name, or the folder on this machine."""
        return local_model(self.source)

    @property
    def model_id(self) -> str:
        """Name and digest of weights, configuration and sampling: rows of another id are out of date."""
        return checkpoint.model_id(self.name)


def require_listener(address: str) -> None:
    """Wait until something listens where a cluster should be: Ray itself would try for minutes, and not say why.

    Args:
        address: as Ray takes it; one without a port is left to Ray.

    Raises:
        ConfigurationError: nothing does within LISTENER_DEADLINE_S.
    """
    host, _, port = address.removeprefix("ray://").rpartition(":")
    deadline = time.monotonic() + LISTENER_DEADLINE_S
    while host and port.isdigit():
        try:
            socket.create_connection((host.strip("[]"), int(port)), timeout=LISTENER_DEADLINE_S / 4).close()
            return
        except (OSError, OverflowError) as error:
            if time.monotonic() > deadline:
                raise ConfigurationError(f"no Ray at {address!r}: {error}") from error
            time.sleep(0.5)


def ray_folder() -> dict[str, str]:
    """Give the options for Ray's folders where a socket below TMPDIR would have too long a path; else none.

    The sockets, and logs, then lie in a short folder of this user's own; what does not fit into memory goes to TMPDIR
    as before.

    Raises:
        ConfigurationError: there can be no such folder.
    """
    given = tempfile.gettempdir()
    if len(os.fsencode(given)) + len(SOCKETS_BELOW) <= LONGEST_SOCKET:
        return {}
    folder = Path("/tmp") / f"cpllm-ray-{os.getuid()}"  # noqa: S108 # nobody else's: that is seen to
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        found = folder.lstat()
    except OSError as error:
        raise ConfigurationError(
            f"{given} is too long for the sockets of Ray, and {folder} cannot be made ({error.strerror}): "
            "let TMPDIR name a folder with a shorter path"
        ) from error
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid():
        raise ConfigurationError(f"{folder} does not belong to this user: set TMPDIR to a folder with a shorter path")
    folder.chmod(0o700)  # Ray opens its own folder to all, so that one lies inside
    return {"_temp_dir": str(folder / "ray"), "object_spilling_directory": given}


class BatchRay(LocalRay):
    """dagster-ray's local Ray, started when work first asks for it, so that a run with nothing to do starts none.

    LocalRay itself leaves the address to Ray, which then joins any cluster that RAY_ADDRESS or an earlier session's
    pointer in /tmp names. Here the address is stated: "local" for a private Ray, or a cluster's.
    """

    address: str = Field(default="local", description='"local", or the address of a running cluster.')
    keep: bool = Field(default=False, description="Whether Ray keeps running for the next run in this process.")
    decode_workers: int | None = Field(
        default=None, ge=1, description="Maximum number of decode workers; by default one per CPU."
    )
    model_workers: int | None = Field(
        default=None,
        ge=1,
        description="Maximum number of model workers; by default one per GPU, or per CPU without GPUs.",
    )
    model_gpus: float | None = Field(
        default=None,
        ge=0,
        description="GPUs per model worker, or a share of one; 0 computes on CPUs; by default 1 if there are GPUs.",
    )
    batch_size: int | None = Field(
        default=None, ge=1, description="Videos per batch; by default 4 on a CPU, 16 on a GPU."
    )
    precision: Precision | None = Field(
        default=None, description="Precision of weights and activations; by default bfloat16 on a GPU, else float32."
    )

    @property
    def ray_address(self) -> str:  # type: ignore[override]
        return self.address

    @contextmanager
    def yield_for_execution(self, context: dg.InitResourceContext) -> Iterator[Self]:
        """Give the resource unconnected, and disconnect at the run's end."""
        try:
            yield self
        finally:
            if self.connected and not self.keep:
                self.context.disconnect()
                self._context = None

    def require(self, context: dg.AssetExecutionContext) -> None:
        """Connect to Ray unless this process is connected already.

        Raises:
            ConfigurationError: there is no Ray at the address, or none starts.
        """
        import ray

        if not ray.is_initialized():
            self._connect(context)

    def connect(self, context: Any) -> Any:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Start or join Ray without what dagster-ray adds for Ray Data, which costs seconds and is not used."""
        import ray

        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # no usage report leaves the machine
        # A private Ray asks for its token by default, and warns of it each time.
        logging.getLogger("ray._private.authentication").setLevel(logging.ERROR)
        options = ray_folder() | {"include_dashboard": False} if self.address == "local" else {}
        require_listener(self.address)
        try:
            self._context = ray.init(
                self.address,
                log_to_driver=False,
                logging_level=logging.WARNING,
                **options | self.ray_init_options,  # type: ignore[arg-type]
            )
        except Exception as error:  # Ray raises its own, the system's and bare ones
            raise ConfigurationError(f"no Ray at {self.address!r}: {str(error).partition(chr(10))[0]}") from error
        return self._context

    def on_connect(self, context: Any) -> None:
        context.log.info(f"Connected to Ray at {self.address!r}.")
