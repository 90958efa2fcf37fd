"""One run of a library in a process of its own, which can be held at a point of its way so that it dies there.

`python library_run.py RUN`: RUN is JSON with `settings` of the definitions, `library`, `ops`, and `home`, the folder of
a Dagster instance. `hold`, unless null, is a pattern of names in the lake, how many puts or deletes of such a name to
let pass, and whether the last one is done before it is held. Prints "held" there and goes no further. Exit status 1 and
one line on standard error: the run failed.
"""

from __future__ import annotations

import json
import re
import sys
import time
from collections.abc import Callable
from typing import Any

import dagster as dg

from cpllm_dagster.alerts import Alerts
from cpllm_dagster.automation import PARTITION_SET
from cpllm_dagster.batch.placement import Workers
from cpllm_dagster.definitions import Settings, build_definitions
from cpllm_dagster.lake import storage


def held(change: Callable[..., None], pattern: str, passing: int, done: bool) -> Callable[..., None]:
    """Wrap a method of the lake's storage that changes it."""
    left = passing

    def held_change(self: Any, *names: Any) -> None:
        nonlocal left
        here = bool(re.search(pattern, str(names[-1])))
        left -= here
        if not here or left >= 0 or done:
            change(self, *names)
        if here and left < 0:
            print("held", flush=True)
            time.sleep(3600)

    return held_change


def main(run: dict[str, Any]) -> int:
    if run["hold"]:
        for name in ("put", "delete"):
            change = getattr(storage.FolderStorage, name)
            setattr(storage.FolderStorage, name, held(change, *run["hold"]))
    job = build_definitions(Settings(**run["settings"] | {"workers": Workers(), "alerts": Alerts()})).resolve_job_def(
        "score_library"
    )
    with dg.DagsterInstance.local_temp(run["home"]) as instance:
        instance.add_dynamic_partitions(PARTITION_SET, [run["library"]])
        try:
            job.execute_in_process(
                partition_key=run["library"],
                instance=instance,
                run_config={
                    "loggers": {"console": {"config": {"log_level": "CRITICAL"}}},
                    "ops": {name: {"config": config} for name, config in run["ops"].items()},
                },
            )
        except Exception as error:
            print(f"{type(error).__name__}: {error}", file=sys.stderr)
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(json.loads(sys.argv[1])))
