"""Reads every table of a catalog database with PyIceberg and prints, per table, its name, the number
of rows and the sum of amount_fen.

usage: read_sql_catalog.py postgres://... | mysql://... | sqlite:///...
"""

import sys

import pyarrow.compute as pc
from pyiceberg.catalog.sql import SqlCatalog

DRIVERS = {"postgres": "postgresql+psycopg2", "mysql": "mysql+pymysql", "sqlite": "sqlite"}


def main(url: str) -> None:
    scheme, rest = url.split(":", 1)
    catalog = SqlCatalog("medlake", uri=f"{DRIVERS[scheme]}:{rest}", init_catalog_tables="false")
    for namespace in catalog.list_namespaces():
        for identifier in catalog.list_tables(namespace):
            rows = catalog.load_table(identifier).scan().to_arrow()
            print(".".join(identifier), rows.num_rows, pc.sum(rows["amount_fen"]).as_py())


if __name__ == "__main__":
    main(sys.argv[1])
