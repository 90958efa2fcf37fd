"""The batch platform: Dagster assets that run CP-LLM over content libraries with Ray."""
