"""Reads a Delta table with the deltalake package and prints its rows, sorted, as JSON: a list of
lists. `arrow` reads as `to_pyarrow_table` does, which refuses deletion vectors; `sql` as its SQL does.

usage: read_delta.py TABLE_FOLDER arrow|sql, or TABLE_ADDRESS arrow|sql ENDPOINT for a table in a bucket
"""

import json
import pathlib
import sys

import pyarrow as pa
from deltalake import DeltaTable, QueryBuilder


def main(table: str, how: str, endpoint: str = "") -> None:
    options = {
        "aws_endpoint": endpoint,
        "aws_allow_http": "true",
        "aws_access_key_id": "medlake",
        "aws_secret_access_key": "geheim-geheim",
        "aws_region": "us-east-1",
    }
    table = DeltaTable(table, storage_options=options if endpoint else None)
    if how == "arrow":
        rows = table.to_pyarrow_table()
    else:
        rows = pa.table(QueryBuilder().register("t", table).execute("select * from t").read_all())
    cells = [[None if v is None else str(v) for v in rows[name].to_pylist()] for name in rows.column_names]
    lines = sorted(zip(*cells), key=lambda row: [v or "" for v in row])
    json.dump({"columns": rows.column_names, "version": table.version(), "rows": lines}, sys.stdout)


if __name__ == "__main__":
    address = sys.argv[1] if "://" in sys.argv[1] else str(pathlib.Path(sys.argv[1]).resolve())
    main(address, *sys.argv[2:])
