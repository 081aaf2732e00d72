"""Reads every table of a lake with PyIceberg (through the catalog file) and DuckDB (through the
metadata file) and prints, per table, the columns with their Iceberg types and per reader the row
count and one sum per column: of the values, of the bytes of texts, of the days of dates, of the
microseconds of timestamps modulo 1000000007; of binaries the number. tests/readers.rs computes
the same in our engine.

usage: read_lake.py LAKE_FOLDER
"""

import importlib.util
import json
import pathlib
import sys
import tempfile

import duckdb
import pyarrow as pa
import pyarrow.compute as pc
from pyiceberg.catalog.sql import SqlCatalog

MODULUS = 1_000_000_007


def sum_of(column: pa.ChunkedArray, iceberg_type: str):
    if iceberg_type == "boolean":
        return sum(1 for v in column.to_pylist() if v)
    if iceberg_type == "string":
        return sum(len(v.encode()) for v in column.to_pylist() if v is not None)
    if iceberg_type == "binary":
        return len(column) - column.null_count
    if iceberg_type == "date":
        return sum(v for v in column.cast(pa.int32()).to_pylist() if v is not None)
    if iceberg_type == "timestamptz":
        micros = column.cast(pa.int64()).to_pylist()
        return sum((abs(v) % MODULUS) * (1 if v >= 0 else -1) for v in micros if v is not None)
    return pc.sum(column).as_py() or 0


def duckdb_sum(column: str, iceberg_type: str) -> str:
    name = f'"{column}"'
    if iceberg_type == "boolean":
        return f"sum(case when {name} then 1 else 0 end)"
    if iceberg_type == "string":
        return f"sum(octet_length(encode({name})))"
    if iceberg_type == "binary":
        return f"count({name})"
    if iceberg_type == "date":
        return f"sum({name} - date '1970-01-01')"
    if iceberg_type == "timestamptz":
        return f"sum(epoch_us({name}) % {MODULUS})"
    return f"sum({name})"


def duckdb_with_iceberg() -> duckdb.DuckDBPyConnection:
    """DuckDB with its extensions taken from their wheels, as nothing may be downloaded."""
    folder = pathlib.Path(tempfile.mkdtemp()) / f"v{duckdb.__version__}" / "linux_amd64"
    folder.mkdir(parents=True)
    for name in ("iceberg", "avro", "parquet", "httpfs"):
        package = importlib.util.find_spec(f"duckdb_extension_{name}")
        root = pathlib.Path(package.submodule_search_locations[0])
        file = next(root.rglob(f"{name}.duckdb_extension"))
        (folder / file.name).symlink_to(file)
    config = {"extension_directory": str(folder.parent.parent), "autoinstall_known_extensions": "false"}
    connection = duckdb.connect(config=config)
    for name in ("avro", "parquet", "httpfs", "iceberg"):
        connection.execute(f"load {name}")
    connection.execute("set timezone = 'UTC'")
    return connection


def number(value):
    return None if value is None else (float(value) if isinstance(value, float) else int(value))


def main(lake: pathlib.Path) -> None:
    catalog = SqlCatalog("medlake", uri=f"sqlite:///{lake / 'catalog.db'}", warehouse=f"file://{lake / 'warehouse'}")
    duck = duckdb_with_iceberg()
    tables = {}
    for namespace in catalog.list_namespaces():
        for identifier in catalog.list_tables(namespace):
            table = catalog.load_table(identifier)
            columns = [(f.name, str(f.field_type)) for f in table.schema().fields]
            rows = table.scan().to_arrow()
            pyiceberg = [rows.num_rows] + [sum_of(rows[name], kind) for name, kind in columns]
            sums = ", ".join(duckdb_sum(name, kind) for name, kind in columns)
            location = table.metadata_location.removeprefix("file://")
            answer = duck.execute(f"select count(*), {sums} from iceberg_scan('{location}')").fetchone()
            snapshot = table.current_snapshot()
            deletes = 0
            if snapshot is not None:
                deletes = int(snapshot.summary.additional_properties.get("total-delete-files", 0))
            tables[".".join(identifier)] = {
                "columns": columns,
                "pyiceberg": [number(v) for v in pyiceberg],
                "duckdb": [number(v) for v in answer],
                "delete_files": deletes,
            }
    json.dump(tables, sys.stdout)


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]).resolve())
