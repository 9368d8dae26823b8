# SPDX-License-Identifier: Apache-2.0
"""Small caches with journals for the tools, and ways to damage them."""

import shutil

import numpy as np

from diffnext.data.records import open_reader, open_writer
from diffnext.data.tools.exchange import Options, export_cache, import_cache
from diffnext.data.tools.verify import check
from tests.data.cache_builds import run, write_photos

VIDEO_FIELDS = {"shape": ["int64"], "moments": "bytes", "caption": "string", "label": "int64"}


def build_photos(tmp_path_factory):
    """A cache of seven pictures of noise, as the builder makes it, and the folder of its pictures."""
    root = tmp_path_factory.mktemp("photos")
    folder = write_photos(root / "photos")
    run(folder, root / "cache")
    return folder, root / "cache"


def copy(cache, target):
    shutil.copytree(cache, target)
    return target


def records(path):
    """All records, with their moments as arrays."""
    reader = open_reader(path)
    found = []
    for row in range(len(reader)):
        record = dict(reader[row])
        if "moments" in record:
            record["moments"] = np.frombuffer(record["moments"], np.float16).copy()
        found.append(record)
    reader.close()
    return found


def equal(ours, theirs):
    """Whether two lists of records are the same, bit for bit."""
    return len(ours) == len(theirs) and all(
        a.keys() == b.keys()
        and all(np.array_equal(a[k], b[k]) if k == "moments" else a[k] == b[k] for k in a)
        for a, b in zip(ours, theirs, strict=True)
    )


def there_and_back(path, tmp_path, layout, **options):
    export_cache(str(path), layout, str(tmp_path / layout), options=Options(**options))
    back = tmp_path / f"from_{layout}"
    import_cache(layout, str(tmp_path / layout), str(back), options=Options(**options))
    assert check(str(back)).problems == []
    return records(back)


def write_records(path, rows, fields=None, **options):
    """A folder of records without identity and journal, as other software leaves it."""
    first = fields or {
        "shape": ["int64"],
        "moments": "bytes",
        **{name: "int64" if name == "label" else "string" for name in rows[0] if name != "moments"},
    }
    with open_writer(path, first, **options) as writer:
        for row in rows:
            values = np.asarray(row["moments"], np.float16)
            rest = {name: value for name, value in row.items() if name != "moments"}
            writer.write({"shape": list(values.shape), "moments": values.tobytes(), **rest})
    return path


def flip_byte(path, at):
    """Change one byte of a file."""
    with open(path, "r+b") as stream:
        stream.seek(at)
        value = stream.read(1)[0]
        stream.seek(at)
        stream.write(bytes([value ^ 0x40]))
