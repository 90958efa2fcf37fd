"""The one partition set of the platform: a partition a content library.

A partition key is a library's name, percent-quoted, so that any name a storage allows can be one.
"""

from __future__ import annotations

import dagster as dg

LIBRARIES = dg.DynamicPartitionsDefinition(name="libraries")
