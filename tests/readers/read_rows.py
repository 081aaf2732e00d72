"""Reads tables of a lake whole, with PyIceberg (through the catalog file) and DuckDB (through the
metadata file), and prints, per table and reader, the rows as lists of texts in the order of the
columns asked for.

usage: read_rows.py LAKE_FOLDER TABLE:COLUMN,COLUMN...
"""

import json
import pathlib
import sys

import pyarrow as pa
from pyiceberg.catalog.sql import SqlCatalog

from read_lake import duckdb_with_iceberg


def text(value):
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "1" if value else "0"
    if isinstance(value, bytes):
        return value.hex().upper()
    if isinstance(value, float):
        return repr(value)
    return f"{value:f}" if hasattr(value, "as_tuple") else str(value)


def plain(column: pa.ChunkedArray) -> list:
    """Python has no moment after the year 9999 in some zones: microseconds since 1970 instead."""
    if pa.types.is_timestamp(column.type):
        column = column.cast(pa.timestamp("us", column.type.tz)).cast(pa.int64())
    return [text(value) for value in column.to_pylist()]


def rows(table: pa.Table, columns: list[str]) -> list:
    return list(zip(*(plain(table[name]) for name in columns)))


def main(lake: pathlib.Path, wanted: list[str]) -> None:
    catalog = SqlCatalog("medlake", uri=f"sqlite:///{lake / 'catalog.db'}", warehouse=f"file://{lake / 'warehouse'}")
    duck = duckdb_with_iceberg()
    read = {}
    for one in wanted:
        name, columns = one.split(":")
        columns = columns.split(",")
        table = catalog.load_table(name)
        location = table.metadata_location.removeprefix("file://")
        duckdb = duck.execute(f"select * from iceberg_scan('{location}')").fetch_arrow_table()
        read[name] = {"pyiceberg": rows(table.scan().to_arrow(), columns), "duckdb": rows(duckdb, columns)}
    json.dump(read, sys.stdout)


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]).resolve(), sys.argv[2:])
