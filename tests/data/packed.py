# SPDX-License-Identifier: Apache-2.0
"""Small pictures of one grey in tars and tables, and what was read of them."""

import io
import json
import tarfile

import PIL.Image
import pytest

from diffnext.data import images


def png(value):
    """A small picture of one grey."""
    stream = io.BytesIO()
    PIL.Image.new("RGB", (4, 4), (value,) * 3).save(stream, "png")
    return stream.getvalue()


def greys(listing):
    """The grey of each picture that was listed, read from where it is."""
    return [images.load(source.location).getpixel((0, 0))[0] for source in listing.sources]


def reasons(listing):
    return [failure.reason for failure in listing.failures]


def write_tar(path, members):
    with tarfile.open(path, "w") as tar:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


SAMPLES = [
    ("x/0001.png", png(10)),
    ("x/0001.txt", b"\xef\xbb\xbfone \n"),
    ("x/0001.cls", b"3"),
    ("x/0002.json", json.dumps({"prompt": "two", "label": 4, "url": "http://a/b.png"}).encode()),
    ("x/0002.png", png(20)),
    ("x/0002.txt", b"from txt"),
]


def features(**kinds):
    """The metadata that `datasets` writes into a schema."""
    info = {"info": {"features": {name: {"_type": kind} for name, kind in kinds.items()}}}
    return {b"huggingface": json.dumps(info).encode()}


def media_table(values, *, name="image", paths=None, **columns):
    """A table as `datasets` writes it: structs of bytes and path, and other columns."""
    pyarrow = pytest.importorskip("pyarrow")
    paths = paths or [f"{number}.png" for number in range(len(values))]
    media = [{"bytes": v, "path": p} for v, p in zip(values, paths, strict=True)]
    kind = pyarrow.struct([("bytes", pyarrow.binary()), ("path", pyarrow.string())])
    table = pyarrow.table({name: pyarrow.array(media, kind), **columns})
    return table.replace_schema_metadata(features(**{name: "Image"}))


def write_parquet(path, table, **options):
    pytest.importorskip("pyarrow.parquet").write_table(table, path, **options)
    return path


def write_bytes(path, data):
    path.write_bytes(data)
    return str(path)
