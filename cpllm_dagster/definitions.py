"""Where the platform is put together, and the only place that reads its environment.

In: CPLLM_CATALOG_URI, CPLLM_CATALOG_ACCESS, CPLLM_LAKE_URI, CPLLM_MODEL, CPLLM_MODELS_DIR, CPLLM_S3_ENDPOINT_URL,
CPLLM_RAY_ADDRESS, CPLLM_EXCLUDE, CPLLM_LARGEST_LOSS, CPLLM_DECODE_WORKERS, CPLLM_MODEL_WORKERS, CPLLM_MODEL_GPUS,
CPLLM_BATCH_SIZE, CPLLM_PRECISION (AWS credentials come by boto3's usual chain). Out: Dagster definitions. A missing or
wrong value is one sentence, when definitions load.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import TypeVar

import dagster as dg

from cpllm_dagster.assets.catalog import video_catalog
from cpllm_dagster.assets.quality import quality
from cpllm_dagster.assets.rankings import pairwise_comparisons, quality_rankings
from cpllm_dagster.assets.training import distortion_corpus, model_evaluation, promoted_model, training_run
from cpllm_dagster.automation import (
    all_libraries_requested,
    new_libraries,
    nightly,
    score_all_libraries,
    score_library,
    train_and_promote,
)
from cpllm_dagster.batch.placement import Precision, Workers
from cpllm_dagster.catalog.listing import EXCLUDED
from cpllm_dagster.catalog.objects import VideoStore, lies_inside
from cpllm_dagster.catalog.s3_client import ACCESS, SIGNED, without_secrets
from cpllm_dagster.checks import CHECKS
from cpllm_dagster.models.promotion import BUNDLED, PROMOTED
from cpllm_dagster.resources import (
    LARGEST_LOSS,
    BatchRay,
    Catalog,
    PromotedModels,
    QualityModel,
    TableLake,
    VideoLimits,
)
from cpllm_model.errors import ConfigurationError
from cpllm_model.network import checkpoint

Value = TypeVar("Value")


@dataclass(frozen=True)
class Settings:
    """Where videos, tables, model and Ray are.

    Args:
        models_dir: the folder of promoted models.
        catalog_access: how S3 is asked for videos, one of s3_client's ACCESS.
        exclude: patterns of names of files and folders that are no part of the catalogue.
        largest_loss: share of a library's videos that may be gone at once.
        workers: of the batch; what is None follows from the cluster.
    """

    catalog_uri: str
    lake_uri: str
    model: str
    s3_endpoint_url: str | None
    ray_address: str
    models_dir: str | None = None
    catalog_access: str = SIGNED
    exclude: tuple[str, ...] = EXCLUDED
    largest_loss: float = LARGEST_LOSS
    workers: Workers = field(default_factory=Workers)


def lake_uri(given: str | None = None) -> str:
    """Return the lake's address: the one given, else that of the environment.

    Raises:
        ConfigurationError: there is neither.
    """
    return given or _required("CPLLM_LAKE_URI", "the place of the tables: s3://bucket/prefix or a folder")


def s3_endpoint_url() -> str | None:
    """Return the address of the S3-compatible server, or None for AWS.

    Raises:
        ConfigurationError: it is not an http address.
    """
    url = _optional("CPLLM_S3_ENDPOINT_URL")
    if url is not None and not url.startswith(("http://", "https://")):
        raise ConfigurationError(f"CPLLM_S3_ENDPOINT_URL is {without_secrets(url)!r}; give http://… or https://…")
    return url


def catalog_access() -> str:
    """Return how S3 is asked for videos.

    Raises:
        ConfigurationError: there is no such way.
    """
    access = _optional("CPLLM_CATALOG_ACCESS") or SIGNED
    if access not in ACCESS:
        raise ConfigurationError(f"CPLLM_CATALOG_ACCESS is {access!r}; give one of {', '.join(ACCESS)}")
    return access


def dagster_instance() -> dg.DagsterInstance:
    """Return the instance that DAGSTER_HOME names, or one that is forgotten when the process ends."""
    return dg.DagsterInstance.get() if _optional("DAGSTER_HOME") else dg.DagsterInstance.ephemeral()


def read_workers(given: Workers) -> Workers:
    """Read what the environment says of the workers; what is given goes before it.

    Raises:
        ConfigurationError: a value is wrong.
    """
    return Workers(
        decode_workers=given.decode_workers or _value("CPLLM_DECODE_WORKERS", _count),
        model_workers=given.model_workers or _value("CPLLM_MODEL_WORKERS", _count),
        model_gpus=_value("CPLLM_MODEL_GPUS", _gpus) if given.model_gpus is None else _gpus(str(given.model_gpus)),
        batch_size=given.batch_size or _value("CPLLM_BATCH_SIZE", _count),
        precision=given.precision or _value("CPLLM_PRECISION", _precision),
    )


def read_settings(
    *,
    catalog_uri: str | None = None,
    lake: str | None = None,
    model: str | None = None,
    workers: Workers | None = None,
) -> Settings:
    """Read the environment; what is given goes before it.

    Raises:
        ConfigurationError: a value is missing or wrong.
        CheckpointError: the model is not there.
    """
    settings = Settings(
        catalog_uri=catalog_uri
        or _required("CPLLM_CATALOG_URI", "the videos: s3://bucket/prefix or a folder of libraries"),
        lake_uri=lake_uri(lake),
        model=model or _optional("CPLLM_MODEL") or BUNDLED,
        s3_endpoint_url=s3_endpoint_url(),
        ray_address=_optional("CPLLM_RAY_ADDRESS") or "local",
        models_dir=_optional("CPLLM_MODELS_DIR"),
        catalog_access=catalog_access(),
        exclude=_patterns("CPLLM_EXCLUDE", EXCLUDED),
        largest_loss=_share("CPLLM_LARGEST_LOSS", LARGEST_LOSS),
        workers=read_workers(workers or Workers()),
    )
    if settings.model != PROMOTED:
        checkpoint.resolve(settings.model)
    else:  # which one that is, each run finds out; before the first promotion, training has to load
        PromotedModels(folder=settings.models_dir).require()
    return settings


def video_store(settings: Settings) -> VideoStore:
    """Open the storage of the videos."""
    return VideoStore(settings.catalog_uri, settings.s3_endpoint_url, settings.exclude, settings.catalog_access)


def build_definitions(settings: Settings, *, keep_ray: bool = False) -> dg.Definitions:
    """Put assets, checks, automation and resources together.

    Args:
        settings: where everything is.
        keep_ray: leave Ray running at a run's end, for further runs in the same process.

    Raises:
        ConfigurationError, LakeError: an address has the wrong form.
    """
    catalog = Catalog(
        uri=settings.catalog_uri,
        s3_endpoint_url=settings.s3_endpoint_url,
        s3_access=settings.catalog_access,
        exclude=list(settings.exclude),
        largest_loss=settings.largest_loss,
    )
    lake = TableLake(uri=settings.lake_uri, s3_endpoint_url=settings.s3_endpoint_url)
    catalog.open()
    lake.open()  # a wrong address ends here, not in a run at night
    if lies_inside(settings.lake_uri, settings.catalog_uri):
        raise ConfigurationError(
            f"the lake {settings.lake_uri!r} lies inside the catalogue {settings.catalog_uri!r}, where it would be "
            "taken for a library: put it beside the catalogue, or the libraries into a folder of their own"
        )
    return dg.Definitions(
        assets=[
            video_catalog,
            quality,
            pairwise_comparisons,
            quality_rankings,
            distortion_corpus,
            training_run,
            model_evaluation,
            promoted_model,
        ],
        asset_checks=CHECKS,
        jobs=[score_library, score_all_libraries, train_and_promote],
        schedules=[nightly],
        sensors=[new_libraries, all_libraries_requested],
        resources={
            "catalog": catalog,
            "lake": lake,
            "limits": VideoLimits(),
            "model": QualityModel(reference=settings.model, models_dir=settings.models_dir),
            "models": PromotedModels(folder=settings.models_dir),
            "ray": BatchRay(address=settings.ray_address, keep=keep_ray, **asdict(settings.workers)),
        },
        # One process a run, so one start of Ray; Ray's actors are what runs in parallel.
        executor=dg.in_process_executor,
    )


@dg.definitions
def defs() -> dg.Definitions:
    return build_definitions(read_settings())


def _required(name: str, meaning: str) -> str:
    value = _optional(name)
    if value is None:
        raise ConfigurationError(f"{name} is not set: {meaning}")
    return value


def _patterns(name: str, default: tuple[str, ...]) -> tuple[str, ...]:
    """Read patterns between commas; "none" is no pattern, and `...` stands for those of the default."""
    value = _optional(name)
    if value is None:
        return default
    given = [pattern.strip() for pattern in value.split(",") if pattern.strip()]
    return tuple(one for pattern in given for one in (default if pattern == "..." else [pattern]) if one != "none")


def _share(name: str, default: float) -> float:
    value = _optional(name)
    try:
        share = default if value is None else float(value)
    except ValueError:
        share = -1.0
    if not 0 <= share <= 1:
        raise ConfigurationError(f"{name} is {value!r}; give a share from 0 to 1")
    return share


def _value(name: str, read: Callable[[str], Value]) -> Value | None:
    """Read a value that may be missing; one that `read` refuses is named."""
    value = _optional(name)
    try:
        return None if value is None else read(value)
    except ValueError as error:
        raise ConfigurationError(f"{name} is {value!r}; give {error}") from None


def _count(value: str) -> int:
    if not (value.isascii() and value.isdigit() and int(value)):
        raise ValueError("a whole number from 1 on")
    return int(value)


def _gpus(value: str) -> float:
    """Read GPUs of a worker; Ray shares one, and gives several whole."""
    try:
        gpus = float(value)
    except ValueError:
        gpus = -1.0
    if not (0 <= gpus <= 1 or (gpus.is_integer() and gpus > 1)):
        raise ValueError("a share from 0 to 1, or a whole number")
    return gpus


def _precision(value: str) -> Precision:
    if value not in [*Precision]:
        raise ValueError(f"one of {', '.join(Precision)}")
    return Precision(value)


def _optional(name: str) -> str | None:
    value = dg.EnvVar(name).get_value()
    return value.strip() or None if value else None
