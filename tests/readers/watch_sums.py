"""Reads mall.orders and mall.returns of a lake again and again, both as of one moment: the catalog
database names the metadata files of both in one statement. Prints a line a round: which reader it was
(PyIceberg and DuckDB take turns), and of each table the number of rows and the sum of amount_fen.
Ends when its input does.

usage: watch_sums.py LAKE_FOLDER
"""

import pathlib
import sqlite3
import sys
import threading

import duckdb
import pyarrow.compute as pc
from pyiceberg.table import StaticTable

from read_lake import duckdb_with_iceberg

POINTERS = """select table_name, metadata_location from iceberg_tables
where table_namespace = 'mall' and table_name in ('orders', 'returns')"""


def with_pyiceberg(location: str) -> tuple[int, int]:
    amounts = StaticTable.from_metadata(location).scan(selected_fields=("amount_fen",)).to_arrow()["amount_fen"]
    return len(amounts), pc.sum(amounts).as_py() or 0


def main(lake: pathlib.Path) -> None:
    catalog = sqlite3.connect(lake / "catalog.db", timeout=30)
    duck = duckdb_with_iceberg()

    def with_duckdb(location: str) -> tuple[int, int]:
        sql = f"select count(*), coalesce(sum(amount_fen), 0) from iceberg_scan('{location.removeprefix('file://')}')"
        return duck.execute(sql).fetchone()

    ended = threading.Event()
    threading.Thread(target=lambda: (sys.stdin.read(), ended.set()), daemon=True).start()
    while not ended.is_set():
        for name, read in (("pyiceberg", with_pyiceberg), ("duckdb", with_duckdb)):
            places = dict(catalog.execute(POINTERS).fetchall())
            try:
                (orders, order_sum), (returns, return_sum) = read(places["orders"]), read(places["returns"])
            except (FileNotFoundError, duckdb.IOException):
                # So many commits went by that the metadata file is gone: it begins again.
                continue
            print(name, orders, order_sum, returns, return_sum, flush=True)


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]).resolve())
