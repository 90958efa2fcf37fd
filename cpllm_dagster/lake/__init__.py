"""The published tables: rows in, Parquet files that a reader sees whole, and SQL over them, out."""
