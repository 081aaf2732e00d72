"""Prints the objects of a bucket below a prefix, one a line; with --bytes their size in all; with
--write writes one there instead.

usage: list_s3.py ENDPOINT BUCKET/PREFIX [--bytes | --write]
"""

import sys

from pyarrow import fs


def main(endpoint: str, below: str, *flags: str) -> None:
    scheme, host = endpoint.split("://")
    store = fs.S3FileSystem(
        access_key="medlake",
        secret_key="geheim-geheim",
        endpoint_override=host,
        scheme=scheme,
        region="us-east-1",
    )
    if "--write" in flags:
        with store.open_output_stream(below) as stream:
            stream.write(b"x")
        return
    selector = fs.FileSelector(below, recursive=True, allow_not_found=True)
    files = [info for info in store.get_file_info(selector) if info.type == fs.FileType.File]
    if "--bytes" in flags:
        print(sum(info.size for info in files))
        return
    for info in files:
        print(info.path)


if __name__ == "__main__":
    main(*sys.argv[1:])
