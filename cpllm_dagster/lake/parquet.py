"""How a file comes into a lake: written aside, checked, put in its place at once.

In: a storage, a name, what writes. Out: the file under its name, or a LakeError and the file as it was before. Knows
nothing of which tables there are.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from cpllm_dagster.lake.schemas import names_as_text
from cpllm_dagster.lake.spool import ROWS_AT_ONCE, is_large
from cpllm_dagster.lake.storage import BucketStorage, FolderStorage
from cpllm_model.errors import LakeError


def put_file(storage: FolderStorage | BucketStorage, name: str, write: Callable[[Path], object]) -> None:
    """Have a file written to a work file and put it under its name; readers see the one before or this one.

    Raises:
        LakeError: it cannot be written.
    """
    with storage.work_file() as path:
        try:
            write(path)
        except (pa.ArrowException, OSError) as error:
            raise LakeError(f"{storage.address_of(name)}: cannot be written: {error}") from error
        storage.put(path, name)


def write_parquet(path: Path, table: pa.Table) -> None:
    """Write a table and read back that all of it stands there."""
    plain = names_as_text(table.schema)
    # Small groups where a row is large, so that a reader needs little memory.
    rows_per_group = ROWS_AT_ONCE if is_large(plain) else 65_536
    with pq.ParquetWriter(path, plain, compression="zstd", write_page_checksum=True) as file:
        for start in range(0, len(table), rows_per_group):
            # Names become text a group at a time; how the rows arrived must not show in the file's bytes.
            file.write_table(table.slice(start, rows_per_group).cast(plain).combine_chunks(), rows_per_group)
    written = pq.read_metadata(path)
    if written.num_rows != len(table) or not written.schema.to_arrow_schema().equals(plain):
        raise LakeError(f"{path}: {written.num_rows} of {len(table)} rows stand in it, or in another schema")


def moment(time_: datetime) -> str:
    """Give a time as it stands in file names, to the microsecond; names sort as times do."""
    return f"{time_.astimezone(UTC):%Y%m%dT%H%M%S%f}Z"
