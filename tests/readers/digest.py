"""What a column holds, in a few words that do not depend on the order of rows, so that engines can be
compared: how many values it has, a sum, and a hash.

Each value has one canonical text: numbers in decimals, a decimal as its unscaled number, floating
point as the sixteen hexadecimal digits of its double (every NaN is "nan"), dates as days and times as
microseconds since 1970 or midnight, UUIDs and bytes in hexadecimal. Parts of a nested value are each
preceded by their length; the pairs of a map are in the order of their keys' texts. The sum, modulo
2^64, is of numbers, days and microseconds, of the whole parts of floating point below 9e18, and else of
the texts' lengths. The hash is the sum of the CRC-32 of the texts. lake/tests/digest.rs does the same.
"""

import datetime
import decimal
import math
import struct
import uuid
import zlib

decimal.getcontext().prec = 100
MICROSECOND = datetime.timedelta(microseconds=1)


def micros(value) -> int:
    if isinstance(value, int):
        return value
    if isinstance(value, datetime.time):
        return ((value.hour * 60 + value.minute) * 60 + value.second) * 1_000_000 + value.microsecond
    epoch = datetime.datetime(1970, 1, 1, tzinfo=value.tzinfo and datetime.timezone.utc)
    return (value - epoch) // MICROSECOND


def as_bytes(value) -> bytes:
    return value.encode() if isinstance(value, str) else bytes(value)


def part(value, column) -> bytes:
    if value is None:
        return b"-"
    text, _ = canonical(value, column["ty"])
    return b"%d:%s" % (len(text), text)


def canonical(value, ty) -> tuple[bytes, int]:
    """The text of a value and what it adds to the sum."""
    if isinstance(ty, dict):
        ((kind, inner),) = ty.items()
    else:
        kind, inner = ty, None
    if kind == "boolean":
        return (b"true", 1) if value else (b"false", 0)
    if kind in ("int32", "int64"):
        return str(int(value)).encode(), int(value)
    if kind in ("float32", "float64"):
        if math.isnan(value):
            return b"nan", 0
        return struct.pack(">d", value).hex().encode(), int(value) if abs(value) < 9e18 else 0
    if kind == "decimal":
        number = int(decimal.Decimal(value).scaleb(inner["scale"]))
        return str(number).encode(), number
    if kind == "date":
        days = value if isinstance(value, int) else (value - datetime.date(1970, 1, 1)).days
        return str(days).encode(), days
    if kind in ("time", "timestamp_micros", "local_timestamp_micros"):
        return str(micros(value)).encode(), micros(value)
    if kind == "utf8":
        text = as_bytes(value)
    elif kind == "uuid":
        value = uuid.UUID(value) if isinstance(value, str) else value
        text = (value.bytes if isinstance(value, uuid.UUID) else bytes(value)).hex().encode()
    elif kind in ("binary", "fixed"):
        text = as_bytes(value).hex().encode()
    elif kind == "list":
        text = b"".join(part(v, inner) for v in value)
    elif kind == "struct":
        values = value.values() if isinstance(value, dict) else value
        text = b"".join(part(v, column) for v, column in zip(values, inner, strict=True))
    elif kind == "map":
        pairs = value.items() if isinstance(value, dict) else value
        text = b"".join(sorted(part(k, inner[0]) + part(v, inner[1]) for k, v in pairs))
    else:
        raise ValueError(f"unknown type {kind}")
    return text, len(text)


def digest(columns, values) -> dict:
    """`values` has the values of each column, in the order of `columns`."""
    row_texts = [b""] * len(values[0])
    digests = {}
    for column, cells in zip(columns, values, strict=True):
        count = total = hashed = 0
        for row, cell in enumerate(cells):
            if cell is not None:
                text, number = canonical(cell, column["ty"])
                count, total, hashed = count + 1, total + number, hashed + zlib.crc32(text)
            row_texts[row] += part(cell, column)
        digests[column["name"]] = f"{count} values, sum {total % 2**64}, hash {hashed}"
    rows = sum(map(zlib.crc32, row_texts))
    return {"columns": digests, "rows": f"{len(row_texts)} rows, hash {rows}"}
