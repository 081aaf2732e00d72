"""Makes tables with PyIceberg in the catalog of a lake, as another program would, and changes them.

usage: write_tables.py LAKE_FOLDER first|second

first: other.sales, partitioned by shop, with nested columns; other.bare over files without field ids;
other.broken, whose metadata file is then lost. second: other.sales with its columns renamed, widened
and added, with rows deleted and others appended. Prints the rows of other.sales and other.bare.
"""

import datetime
import decimal
import json
import pathlib
import sys

import pyarrow as pa
import pyarrow.parquet as pq
from pyiceberg.catalog.sql import SqlCatalog
from pyiceberg.partitioning import PartitionField, PartitionSpec
from pyiceberg.schema import Schema
from pyiceberg.transforms import IdentityTransform
from pyiceberg.types import (
    DecimalType,
    IntegerType,
    ListType,
    LongType,
    NestedField,
    StringType,
    StructType,
    TimestampType,
)

SALES = Schema(
    NestedField(1, "id", LongType(), required=False),
    NestedField(2, "shop", StringType(), required=False),
    NestedField(3, "amount", IntegerType(), required=False),
    NestedField(4, "sold_at", TimestampType(), required=False),
    NestedField(5, "price", DecimalType(9, 2), required=False),
    NestedField(6, "tags", ListType(8, StringType(), element_required=False), required=False),
    NestedField(
        7, "place", StructType(NestedField(9, "east", LongType(), required=False)), required=False
    ),
)


def sales(ids, amount_name="amount", amount_type=pa.int32(), **more):
    columns = {
        "id": pa.array(ids, pa.int64()),
        "shop": pa.array([None if i % 7 == 0 else f"店{i % 3}" for i in ids], pa.string()),
        amount_name: pa.array([i * 10 for i in ids], amount_type),
        "sold_at": pa.array(
            [datetime.datetime(2026, 1, 1) + datetime.timedelta(seconds=i) for i in ids],
            pa.timestamp("us"),
        ),
        "price": pa.array([decimal.Decimal(i) / 4 for i in ids], pa.decimal128(9, 2)),
        "tags": pa.array([[f"t{i}", None][: i % 3] for i in ids], pa.list_(pa.string())),
        "place": pa.array([{"east": i} if i % 2 else None for i in ids], pa.struct([("east", pa.int64())])),
    }
    columns.update(more)
    return pa.table(columns)


def main(lake: pathlib.Path, step: str) -> None:
    catalog = SqlCatalog("medlake", uri=f"sqlite:///{lake / 'catalog.db'}", warehouse=f"file://{lake / 'warehouse'}")
    if step == "first":
        catalog.create_namespace_if_not_exists("other")
        spec = PartitionSpec(PartitionField(2, 1000, IdentityTransform(), "shop"))
        table = catalog.create_table("other.sales", SALES, partition_spec=spec)
        table.append(sales(range(1, 20)))
        bare = catalog.create_table("other.bare", Schema(NestedField(1, "n", LongType(), required=False)))
        file = lake / "bare.parquet"
        pq.write_table(pa.table({"n": pa.array([1, 2, 3], pa.int64())}), file)
        bare.add_files([f"file://{file}"])
        broken = catalog.create_table("other.broken", SALES)
        pathlib.Path(broken.metadata_location.removeprefix("file://")).unlink()
    else:
        table = catalog.load_table("other.sales")
        with table.update_schema() as update:
            update.update_column("amount", LongType())
            update.rename_column("amount", "amount_fen")
            update.add_column("note", StringType())
            update.add_column(("place", "north"), LongType())
            update.move_first("price")
        table.delete("id = 4 or id = 5")
        place = pa.array([{"east": i, "north": -i} for i in range(20, 30)])
        note = pa.array(["neu"] * 10)
        table.append(sales(range(20, 30), "amount_fen", pa.int64(), place=place, note=note))
    rows = {}
    for name in ("other.sales", "other.bare"):
        found = catalog.load_table(name).scan().to_arrow().to_pylist()
        rows[name] = found
    json.dump(rows, sys.stdout, default=str, ensure_ascii=False)


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]).resolve(), sys.argv[2])
