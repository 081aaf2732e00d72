"""Reads every table of a lake whose catalog is a file and whose tables are in a bucket with PyIceberg
and prints, per table, its name, the number of rows and the sum of amount_fen.

usage: read_s3_lake.py LAKE_FOLDER ENDPOINT
"""

import pathlib
import sys

import pyarrow.compute as pc
from pyiceberg.catalog.sql import SqlCatalog


def main(lake: pathlib.Path, endpoint: str) -> None:
    catalog = SqlCatalog(
        "medlake",
        uri=f"sqlite:///{lake / 'catalog.db'}",
        **{
            "s3.endpoint": endpoint,
            "s3.access-key-id": "medlake",
            "s3.secret-access-key": "geheim-geheim",
            "s3.region": "us-east-1",
        },
    )
    for namespace in catalog.list_namespaces():
        for identifier in catalog.list_tables(namespace):
            rows = catalog.load_table(identifier).scan().to_arrow()
            print(".".join(identifier), rows.num_rows, pc.sum(rows["amount_fen"]).as_py())


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]).resolve(), sys.argv[2])
