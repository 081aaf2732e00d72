"""Changes a table in a catalog database with PyIceberg, as another program would.

usage: write_sql_catalog.py URL append KEY:AMOUNT,... | delete FROM:TO | rewrite | tag NAME | untag NAME [TABLE]
"""

import sys

import pyarrow as pa
from pyiceberg.catalog.sql import SqlCatalog

DRIVERS = {"postgres": "postgresql+psycopg2", "mysql": "mysql+pymysql", "sqlite": "sqlite"}


def main(url: str, action: str, values: str = "", name: str = "mall.orders") -> None:
    scheme, rest = url.split(":", 1)
    catalog = SqlCatalog("medlake", uri=f"{DRIVERS[scheme]}:{rest}", init_catalog_tables="false")
    table = catalog.load_table(name)
    if action == "append":
        rows = [pair.split(":") for pair in values.split(",")]
        rows = [{"order_id": int(k), "channel": "other", "amount_fen": int(v)} for k, v in rows]
        table.append(pa.Table.from_pylist(rows, schema=table.schema().as_arrow()))
    elif action == "delete":
        first, end = values.split(":")
        table.delete(f"order_id >= {first} and order_id < {end}")
    elif action == "rewrite":
        table.overwrite(table.scan().to_arrow())
    elif action == "tag":
        table.manage_snapshots().create_tag(table.current_snapshot().snapshot_id, values).commit()
    elif action == "untag":
        table.manage_snapshots().remove_tag(values).commit()
    else:
        raise SystemExit(f"no such action: {action}")


if __name__ == "__main__":
    main(*sys.argv[1:])
