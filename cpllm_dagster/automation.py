"""When libraries are scored: every night, when a library appears, and all at once when somebody asks.

In: the registered libraries and a listing of the catalogue's first level. Out: one run request a library, which
the run queue starts when its limits allow. Knows nothing of what a run does. A model is trained only when somebody
asks.
"""

from collections.abc import Iterator

import dagster as dg

from cpllm_dagster.assets.training import TRAINING_GROUP
from cpllm_dagster.catalog.objects import partition_key
from cpllm_dagster.partitions import LIBRARIES
from cpllm_dagster.resources import Catalog
from cpllm_model.errors import ConfigurationError

assert LIBRARIES.name is not None
PARTITION_SET = LIBRARIES.name

#: When libraries are scored by default: a cron string.
NIGHT = "0 2 * * *"
#: A training may last longer than what the instance grants a run; a run that is stopped is resumed.
LONGEST_TRAINING_S = 14 * 24 * 3600

score_library = dg.define_asset_job(
    "score_library",
    selection=dg.AssetSelection.groups("library"),
    description="Everything for one library: catalogue, scores, descriptions, comparisons, ranking.",
)

train_and_promote = dg.define_asset_job(
    "train_and_promote",
    selection=dg.AssetSelection.groups(TRAINING_GROUP),
    description="A corpus, a model trained on it, its figures, and its promotion if it is better than the promoted.",
    tags={"dagster/max_runtime": str(LONGEST_TRAINING_S)},
)


def _run_requests(instance: dg.DagsterInstance, request: str) -> list[dg.RunRequest]:
    """One run request for each registered library; `request` makes their keys unique."""
    return [
        dg.RunRequest(run_key=f"{request}/{key}", partition_key=key)
        for key in instance.get_dynamic_partitions(PARTITION_SET)
    ]


def nightly_schedule(cron: str = NIGHT, timezone: str = "UTC") -> dg.ScheduleDefinition:
    """Make the schedule that runs every library.

    Args:
        cron: when, in five fields.
        timezone: its IANA time zone.

    Raises:
        ConfigurationError: Dagster does not accept one of them.
    """

    def nightly(context: dg.ScheduleEvaluationContext) -> list[dg.RunRequest] | dg.SkipReason:
        # The time is part of the key: a schedule may run several times a day, and twice where a clock is put back.
        requests = _run_requests(context.instance, context.scheduled_execution_time.isoformat(timespec="minutes"))
        return requests or dg.SkipReason("no library is registered yet")

    describe = f"Every library at {cron!r} ({timezone}), a run each; only new and changed videos cost work."
    try:
        return dg.schedule(
            job=score_library,
            cron_schedule=cron,
            execution_timezone=timezone,
            description=describe,
            default_status=dg.DefaultScheduleStatus.RUNNING,
        )(nightly)
    except dg.DagsterError as error:
        raise ConfigurationError(
            f"the schedule {cron!r} in the time zone {timezone!r} is not known to Dagster: give a cron string such "
            "as '0 2 * * *' and a name such as Europe/Berlin"
        ) from error


@dg.sensor(
    job=score_library,
    minimum_interval_seconds=300,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Registers libraries that have appeared in the catalogue and requests their first run.",
)
def new_libraries(context: dg.SensorEvaluationContext, catalog: Catalog) -> dg.SensorResult | dg.SkipReason:
    """Register libraries that have appeared in the catalogue and request their first run."""
    known = set(context.instance.get_dynamic_partitions(PARTITION_SET))
    new = [key for key in map(partition_key, catalog.open().libraries()) if key not in known]
    if not new:
        return dg.SkipReason(f"no new library beside the {len(known)} registered")
    # No run key: a library that was taken away and comes back gets a first run again.
    return dg.SensorResult(
        run_requests=[dg.RunRequest(partition_key=key) for key in new],
        dynamic_partitions_requests=[LIBRARIES.build_add_request(new)],
    )


@dg.op(out=dg.Out(dg.Nothing))
def register_libraries(context: dg.OpExecutionContext, catalog: Catalog) -> None:
    """Register every library of the catalogue as a partition."""
    keys = [partition_key(library) for library in catalog.open().libraries()]
    context.instance.add_dynamic_partitions(PARTITION_SET, keys)
    context.log.info(f"{len(keys)} libraries lie in the catalogue")


@dg.job(executor_def=dg.in_process_executor)
def score_all_libraries() -> None:
    """Everything for every library: registers them; the sensor all_libraries_requested then requests a run each."""
    register_libraries()


@dg.run_status_sensor(
    run_status=dg.DagsterRunStatus.SUCCESS,
    monitored_jobs=[score_all_libraries],
    request_job=score_library,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Requests a run for each library when score_all_libraries has ended.",
)
def all_libraries_requested(context: dg.RunStatusSensorContext) -> Iterator[dg.RunRequest]:
    """Request a run for each library when score_all_libraries has ended."""
    yield from _run_requests(context.instance, context.dagster_run.run_id)
