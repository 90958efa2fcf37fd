"""Where the platform is put together, and the only place that reads its environment.

In: CPLLM_CATALOG_URI, CPLLM_CATALOG_ACCESS, CPLLM_LAKE_URI, CPLLM_MODEL, CPLLM_MODELS_URI, CPLLM_S3_ENDPOINT_URL,
CPLLM_RAY_ADDRESS, CPLLM_EXCLUDE, CPLLM_LARGEST_LOSS, CPLLM_HISTORY_DAYS, CPLLM_SCHEDULE, CPLLM_TIMEZONE,
CPLLM_STALE_HOURS, CPLLM_OWNERS, CPLLM_ALERT_WEBHOOK, CPLLM_ALERT_MAIL, CPLLM_ALERT_FROM, CPLLM_SMTP_URL, CPLLM_UI_URL,
CPLLM_DECODE_WORKERS, CPLLM_MODEL_WORKERS, CPLLM_MODEL_GPUS, CPLLM_BATCH_SIZE, CPLLM_PRECISION (AWS credentials come by
boto3's usual chain); DAGSTER_HOME, DAGSTER_CODE_HOST, DAGSTER_CODE_PORT. Out: Dagster definitions. A missing or wrong
value is one sentence, when definitions load.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from datetime import timedelta
from typing import TypeVar

import dagster as dg

from cpllm_dagster.alerts import Alerts, alert_sensors
from cpllm_dagster.assets.catalog import CONTENT, video_catalog
from cpllm_dagster.assets.overview import video_overview
from cpllm_dagster.assets.quality import ASSETS, quality
from cpllm_dagster.assets.rankings import pairwise_comparisons, quality_rankings
from cpllm_dagster.assets.report import library_report
from cpllm_dagster.assets.training import distortion_corpus, model_evaluation, promoted_model, training_run
from cpllm_dagster.automation import (
    NIGHT,
    all_libraries_requested,
    new_libraries,
    nightly_schedule,
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
    HISTORY_DAYS,
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

#: More days than a calendar can go back.
MOST_DAYS = 36_500
#: A night and a half: one night may be late.
STALE_HOURS = 36
Value = TypeVar("Value")


@dataclass(frozen=True)
class Settings:
    """Where videos, tables, model and Ray are.

    Args:
        models_uri: where promoted models are kept: s3://bucket/prefix or a folder.
        catalog_access: how S3 is asked for videos, one of s3_client's ACCESS.
        exclude: patterns of names of files and folders that are no part of the catalogue.
        largest_loss: share of a library's videos that may be gone at once.
        history_days: days that history is kept; 0 keeps it for ever.
        schedule, timezone: when libraries are scored: a cron string and a time zone.
        stale_hours: hours without a run after which the tables of libraries count as stale.
        owners: whose the assets are: mail addresses, or teams as in `team:video`.
        alerts: where alerts go.
        workers: of the batch; what is None follows from the cluster.
    """

    catalog_uri: str
    lake_uri: str
    model: str
    s3_endpoint_url: str | None
    ray_address: str
    models_uri: str | None = None
    catalog_access: str = SIGNED
    exclude: tuple[str, ...] = EXCLUDED
    largest_loss: float = LARGEST_LOSS
    history_days: int = HISTORY_DAYS
    schedule: str = NIGHT
    timezone: str = "UTC"
    stale_hours: int = STALE_HOURS
    owners: tuple[str, ...] = ()
    alerts: Alerts = field(default_factory=Alerts)
    workers: Workers = field(default_factory=Workers)


def lake_uri(given: str | None = None) -> str:
    """Return the lake's address: the one given, else that of the environment.

    Raises:
        ConfigurationError: there is neither.
    """
    return given or _required("CPLLM_LAKE_URI", "the place of the tables: s3://bucket/prefix or a folder")


def models_uri(given: str | None = None) -> str | None:
    """Return where promoted models are kept: the place given, else that of the environment, if there is one."""
    return given or _optional("CPLLM_MODELS_URI")


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


def code_server() -> tuple[str, int] | None:
    """Return host and port of the code server, or None where definitions are loaded without one.

    Raises:
        ConfigurationError: the port is none.
    """
    host, port = _optional("DAGSTER_CODE_HOST"), _optional("DAGSTER_CODE_PORT")
    if host is None or port is None:
        return None
    if not port.isdecimal() or not 0 < int(port) < 1 << 16:
        raise ConfigurationError(f"DAGSTER_CODE_PORT is {port!r}; give a port")
    return host, int(port)


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
        models_uri=models_uri(),
        catalog_access=catalog_access(),
        exclude=_patterns("CPLLM_EXCLUDE", EXCLUDED),
        largest_loss=_share("CPLLM_LARGEST_LOSS", LARGEST_LOSS),
        history_days=_whole("CPLLM_HISTORY_DAYS", HISTORY_DAYS, "days", 0, MOST_DAYS),
        schedule=_optional("CPLLM_SCHEDULE") or NIGHT,
        timezone=_optional("CPLLM_TIMEZONE") or "UTC",
        stale_hours=_whole("CPLLM_STALE_HOURS", STALE_HOURS, "hours", 1, 24 * MOST_DAYS),
        owners=_owners("CPLLM_OWNERS"),
        alerts=_alerts(),
        workers=read_workers(workers or Workers()),
    )
    if settings.model != PROMOTED:
        checkpoint.resolve(settings.model)
    else:  # which one that is, each run finds out; before the first promotion, training has to load
        promoted_models(settings).open()
    return settings


def optional_settings(*, catalog_uri: str | None, lake: str | None, model: str | None) -> Settings | None:
    """Read the environment as `read_settings` does; None where no catalogue is given.

    Raises:
        ConfigurationError, CheckpointError: as `read_settings`.
    """
    if catalog_uri is None and _optional("CPLLM_CATALOG_URI") is None:
        return None
    return read_settings(catalog_uri=catalog_uri, lake=lake, model=model)


def video_store(settings: Settings) -> VideoStore:
    """Open the storage of the videos."""
    return VideoStore(settings.catalog_uri, settings.s3_endpoint_url, settings.exclude, settings.catalog_access)


def quality_model(settings: Settings) -> QualityModel:
    """Name the model that scores."""
    return QualityModel(
        reference=settings.model, models_uri=settings.models_uri, s3_endpoint_url=settings.s3_endpoint_url
    )


def promoted_models(settings: Settings) -> PromotedModels:
    """Name the place of the promoted models."""
    return PromotedModels(uri=settings.models_uri, s3_endpoint_url=settings.s3_endpoint_url)


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
    lake = TableLake(
        uri=settings.lake_uri, s3_endpoint_url=settings.s3_endpoint_url, history_days=settings.history_days
    )
    catalog.open()
    lake.open()  # a wrong address ends here, not in a run at night
    if lies_inside(settings.lake_uri, settings.catalog_uri):
        raise ConfigurationError(
            f"the lake {settings.lake_uri!r} lies inside the catalogue {settings.catalog_uri!r}, where it would be "
            "taken for a library: put it beside the catalogue, or the libraries into a folder of their own"
        )
    return dg.Definitions(
        assets=_described(
            [
                CONTENT,
                video_catalog,
                quality,
                pairwise_comparisons,
                quality_rankings,
                video_overview,
                library_report,
                distortion_corpus,
                training_run,
                model_evaluation,
                promoted_model,
            ],
            settings,
        ),
        asset_checks=CHECKS,
        jobs=[score_library, score_all_libraries, train_and_promote],
        schedules=[nightly_schedule(settings.schedule, settings.timezone)],
        sensors=[new_libraries, all_libraries_requested, *alert_sensors(settings.alerts)],
        resources={
            "catalog": catalog,
            "lake": lake,
            "limits": VideoLimits(),
            "model": quality_model(settings),
            "models": promoted_models(settings),
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


def _whole(name: str, default: int, unit: str, least: int, most: int) -> int:
    value = _optional(name)
    if value is not None and not (value.isascii() and value.isdigit() and least <= int(value) <= most):
        raise ConfigurationError(f"{name} is {value!r}; give a number of {unit}, {least} to {most}")
    return default if value is None else int(value)


def _listed(name: str) -> tuple[str, ...]:
    """Read words between commas."""
    return tuple(word.strip() for word in (_optional(name) or "").split(",") if word.strip())


def _owners(name: str) -> tuple[str, ...]:
    owners = _listed(name)
    for owner in owners:
        if not re.fullmatch(r"team:\w[\w-]*|[^@\s]+@[^@\s]+\.[^@\s]+", owner):
            raise ConfigurationError(f"{name} names {owner!r}; give mail addresses, or teams as in team:video")
    return owners


def _alerts() -> Alerts:
    given = {
        "webhook": _optional("CPLLM_ALERT_WEBHOOK"),
        "mail_to": _listed("CPLLM_ALERT_MAIL"),
        "mail_from": _optional("CPLLM_ALERT_FROM"),
        "smtp": _optional("CPLLM_SMTP_URL"),
        "ui": _optional("CPLLM_UI_URL"),
    }
    return Alerts(**{name: value for name, value in given.items() if value})


def _described(
    assets: Sequence[dg.AssetsDefinition | dg.AssetSpec], settings: Settings
) -> Sequence[dg.AssetsDefinition | dg.AssetSpec]:
    """Give assets with owners, the addresses of their tables, and what makes them stale."""
    fresh = dg.FreshnessPolicy.time_window(fail_window=timedelta(hours=settings.stale_hours))

    def describe(spec: dg.AssetSpec) -> dg.AssetSpec:
        spec = spec.merge_attributes(owners=list(settings.owners), tags={"domain": "video-quality"})
        if spec.key == CONTENT.key:
            return spec.merge_attributes(metadata={"dagster/uri": without_secrets(settings.catalog_uri)})
        if (table := spec.metadata.get("table")) is None:
            return spec
        spec = spec.merge_attributes(metadata={"dagster/uri": f"{settings.lake_uri.rstrip('/')}/{table}/"})
        if settings.model == PROMOTED and table in ASSETS:
            spec = spec.merge_attributes(deps=[promoted_model.key])
        return spec.replace_attributes(freshness_policy=fresh)

    return dg.map_asset_specs(describe, assets)


def _value(name: str, read: Callable[[str], Value]) -> Value | None:
    """Read an optional value; an error names a value that `read` refuses."""
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
