"""Reads one table of a lake with PyIceberg and DuckDB and prints what they make of its layout: the
partition of each data file as PyIceberg plans it, how many files a filter leaves, and per reader how
many rows there are, the sum of the amounts, and both under the filter.

usage: read_layout.py LAKE_FOLDER TABLE AMOUNT_COLUMN FILTER
"""

import json
import pathlib
import sys

from pyiceberg.catalog.sql import SqlCatalog
from read_lake import duckdb_with_iceberg


def main(lake: pathlib.Path, name: str, amount: str, condition: str) -> None:
    catalog = SqlCatalog("medlake", uri=f"sqlite:///{lake / 'catalog.db'}", warehouse=f"file://{lake / 'warehouse'}")
    table = catalog.load_table(name)
    metadata = table.metadata
    answer = {
        "format_version": metadata.format_version,
        "specs": [[f"{f.name}:{f.transform}" for f in s.fields] for s in sorted(metadata.partition_specs, key=lambda s: s.spec_id)],
        "sort_order": [f"{f.transform} {f.direction.name}" for f in table.sort_order().fields],
        "properties": metadata.properties,
        "files": sorted(str(t.file.partition) + f" spec {t.file.spec_id}" for t in table.scan().plan_files()),
        "file_sort_orders": sorted({t.file.sort_order_id for t in table.scan().plan_files()}, key=str),
        "files_left": len(list(table.scan(row_filter=condition).plan_files())),
        "delete_files": len({d.file_path for t in table.scan().plan_files() for d in t.delete_files}),
    }
    for reader, filters in (("all", None), ("some", condition)):
        scan = table.scan(row_filter=filters) if filters else table.scan()
        rows = scan.to_arrow()
        answer[f"pyiceberg_{reader}"] = [rows.num_rows, sum(v for v in rows[amount].to_pylist() if v is not None)]
        duck = duckdb_with_iceberg()
        location = table.metadata_location.removeprefix("file://")
        where = f"where {filters}" if filters else ""
        answer[f"duckdb_{reader}"] = [
            int(v) for v in duck.execute(f"select count(*), sum({amount}) from iceberg_scan('{location}') {where}").fetchone()
        ]
    json.dump(answer, sys.stdout)


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]).resolve(), *sys.argv[2:5])
