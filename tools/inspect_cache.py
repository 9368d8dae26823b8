#!/usr/bin/env python
# SPDX-License-Identifier: Apache-2.0
"""Look into a latent cache: what it holds, and pictures decoded from it.

python tools/inspect_cache.py info cache
python tools/inspect_cache.py show cache --vae /path/to/model --count 16 --out sheet.png
"""

from __future__ import annotations

import argparse
import json
import math
import sys


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    info = commands.add_parser("info", help="count, shapes, fields, identity")
    show = commands.add_parser("show", help="write a sheet of decoded pictures")
    for command in (info, show):
        command.add_argument("cache", help="folder of records")
    show.add_argument("--vae", required=True, help="folder of the autoencoder, or of its model")
    show.add_argument("--out", default="sheet.png", help="picture to write")
    show.add_argument("--count", type=int, default=16, help="records, evenly spread over the cache")
    show.add_argument("--device", default="cpu")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    args = parse_args(argv)
    commands = {"info": info, "show": show}
    try:
        commands[args.command](args)
    except (OSError, ValueError) as error:
        print(f"inspect_cache: {error}", file=sys.stderr)
        return 2
    return 0


def info(args: argparse.Namespace) -> None:
    """Print what a cache holds and what made it."""
    import numpy as np

    from diffnext.data.records import open_reader, read_identity

    reader = open_reader(args.cache)
    print(f"{len(reader)} records with {dict(reader.fields)}")
    if len(reader) and "shape" in reader.fields:
        shapes, ids = reader.shapes()
        counts = [len(reader)] if ids is None else np.bincount(ids, minlength=len(shapes))
        for shape, count in zip(shapes, counts, strict=True):
            print(f"  {'x'.join(map(str, shape)):<18}{count:>9}")
    identity = read_identity(args.cache)
    if identity is None:
        print("no identity: what made it is not known")
    else:
        print(json.dumps(identity, indent=2, ensure_ascii=False))


def show(args: argparse.Namespace) -> None:
    """Decode records and write them as one picture; of a video, first, middle and last frame."""
    import numpy as np
    import PIL.Image

    from diffnext.data.records import open_reader
    from diffnext.models.autoencoders.loading import load_vae

    reader = open_reader(args.cache)
    count = min(args.count, len(reader))
    if count < 1:
        raise ValueError(f"{args.cache}: {len(reader)} records, --count {args.count}")
    vae = load_vae(args.vae, device=args.device)
    tiles = []
    for index in np.linspace(0, len(reader) - 1, count).round().astype(int).tolist():
        record = reader[index]
        frames = decode(vae, record)
        chosen = sorted({0, len(frames) // 2, len(frames) - 1})
        tiles.append(np.concatenate([frames[number] for number in chosen], axis=1))
        caption = record.get("text") or record.get("caption") or record.get("label", "")
        print(f"{index:>8}  {'x'.join(map(str, record['shape'])):<16} {str(caption)[:100]}")
    PIL.Image.fromarray(sheet(tiles)).save(args.out)
    print(f"{args.out}: {count} of {len(reader)} records, row by row")


def decode(vae, record):
    """Decode the mean of the stored moments. Returns uint8 frames (T, H, W, 3)."""
    import numpy as np
    import torch

    moments = np.frombuffer(record["moments"], np.float16).reshape(record["shape"])
    weight = next(vae.parameters())
    mean = torch.from_numpy(moments[: len(moments) // 2].astype(np.float32))[None].to(weight)
    with torch.no_grad():
        pixels = vae.decode(mean).sample[0].float().cpu()  # (3, [T,] H, W) in [-1, 1]
    pixels = pixels.clamp(-1, 1).add(1).mul(127.5).round().to(torch.uint8).numpy()
    frames = pixels[:, None] if pixels.ndim == 3 else pixels
    return frames.transpose(1, 2, 3, 0)


def sheet(tiles):
    """Lay tiles (H, W, 3) out in rows on white; about as wide as high."""
    import numpy as np

    height = max(tile.shape[0] for tile in tiles)
    width = max(tile.shape[1] for tile in tiles)
    columns = max(1, round(math.sqrt(len(tiles) * height / width)))
    rows = math.ceil(len(tiles) / columns)
    page = np.full((rows * (height + 2), columns * (width + 2), 3), 255, np.uint8)
    for number, tile in enumerate(tiles):
        top, left = number // columns * (height + 2), number % columns * (width + 2)
        page[top : top + tile.shape[0], left : left + tile.shape[1]] = tile
    return page


if __name__ == "__main__":
    sys.exit(main())
