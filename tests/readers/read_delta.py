"""Reads a Delta table with the deltalake package and prints its rows, sorted, as JSON: a list of
lists. `arrow` reads as `to_pyarrow_table` does, which refuses deletion vectors; `sql` as its SQL does.

usage: read_delta.py TABLE_FOLDER arrow|sql
"""

import json
import pathlib
import sys

import pyarrow as pa
from deltalake import DeltaTable, QueryBuilder


def main(folder: str, how: str) -> None:
    table = DeltaTable(folder)
    if how == "arrow":
        rows = table.to_pyarrow_table()
    else:
        rows = pa.table(QueryBuilder().register("t", table).execute("select * from t").read_all())
    cells = [[None if v is None else str(v) for v in rows[name].to_pylist()] for name in rows.column_names]
    lines = sorted(zip(*cells), key=lambda row: [v or "" for v in row])
    json.dump({"columns": rows.column_names, "version": table.version(), "rows": lines}, sys.stdout)


if __name__ == "__main__":
    main(str(pathlib.Path(sys.argv[1]).resolve()), sys.argv[2])
