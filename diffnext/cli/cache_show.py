# SPDX-License-Identifier: Apache-2.0
"""Decode records of a cache and show them beside what they were made of, the worst first.

    diffnext cache show cache --vae /path/to/model --out page.html
    diffnext cache show cache --vae /path/to/model --count -1 --min-psnr 25

The suffix of --out says what is made: .html a page, .png or .jpg a sheet. Of a video the first, middle
and last frame are shown. PSNR is over all frames, in dB. Exit codes: 0 done, 1 a record below --min-psnr,
or none that could be compared; 2 wrong usage.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from diffnext.cli.common import bar, check_vae, guarded, make_parser
from diffnext.utils.temporary import temporary_folder

PAGES = (".html", ".htm")
WIDE = "<style>figure { width: auto; } figure img { width: auto; max-width: 60rem; }</style>"


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = make_parser("cache show", __doc__)
    add = parser.add_argument
    add("cache", help="folder of records, or its URL")
    add("--vae", required=True, help="folder of the autoencoder, or of its model")
    add("--out", default="sheet.png", help="page or picture to write (sheet.png)")
    add("--count", type=int, default=16, help="records, evenly spread (16); -1: all")
    add("--most", type=int, default=64, help="of them that are shown, the worst (64)")
    add("--min-psnr", type=float, metavar="DB", help="exit with 1 if a record is below")
    add("--device", default="cpu")
    add("--workers", type=int, default=0, help="processes that decode the sources (0: this one)")
    args = parser.parse_args(argv)
    for name in ("count", "most"):
        if not (getattr(args, name) > 0 or (name, args.count) == ("count", -1)):
            parser.error(f"--{name} {getattr(args, name)}: a number of records is wanted")
    return args


def main(argv: Sequence[str] | None = None) -> int:
    return guarded("cache show", run, parse_args(argv))


def run(args: argparse.Namespace) -> int:
    from diffnext.data.tools.opening import Cache, evenly_spaced
    from diffnext.data.tools.quality import Decoder, look_at
    from diffnext.models.autoencoders.loading import find_vae, load_vae, strides_of

    cache = Cache(args.cache)
    if not len(cache):
        raise ValueError(f"{args.cache} has no records")
    check_vae(cache.identity, args.vae, args.cache)
    rows = evenly_spaced(len(cache), None if args.count < 0 else args.count)
    video = strides_of(find_vae(args.vae))[0] > 1
    decode = Decoder(load_vae(args.vae, device=args.device), video=video)
    gallery = look_at(cache, rows, decode, most=args.most, workers=args.workers, progress=bar)
    for seen in gallery.worst_first():
        print(f"{seen.row:>8}  {in_words(seen):<9} {sides(seen.shape):<14} {seen.caption[:80]}")
        if seen.note:
            print(f"{'':8}  {seen.source}: {seen.note}", file=sys.stderr)
    write(args, gallery)
    return verdict(gallery, args.min_psnr)


def write(args: argparse.Namespace, gallery) -> None:
    """Write the page or the sheet, whole or not at all."""
    import PIL.Image

    from diffnext.data.tools.quality import sheet
    from diffnext.utils.files import replacing

    shown = gallery.worst_first()
    if Path(args.out).suffix.lower() in PAGES:
        with replacing(args.out) as aside:
            text = page(args.cache, shown, in_all(gallery), args.min_psnr)
            aside.write_text(text, encoding="utf-8")
    else:
        PIL.Image.fromarray(sheet([seen.picture for seen in shown])).save(args.out)
    print(f"{args.out}: {len(shown)} of {gallery.count} records that were looked at, worst first")


def page(title: str, shown, summary: str, least: float | None) -> str:
    """The page: a figure for each record, framed green or red where there is a limit."""
    import PIL.Image

    from diffnext.utils import html

    figures = []
    with temporary_folder() as folder:
        file = Path(folder) / "picture.png"
        for seen in shown:
            PIL.Image.fromarray(seen.picture).save(file)
            words = [f"record {seen.row}", in_words(seen), sides(seen.shape), seen.source]
            text = ", ".join(filter(None, [*words, seen.note, seen.caption]))
            right = None if least is None or seen.psnr is None else seen.psnr >= least
            figures.append(html.figure(file, text, right=right))
    lines = [
        summary,
        "Source and reconstruction side by side; of videos the source above. Worst first.",
        *([] if least is None else [f"Green: at least {least:g} dB."]),
    ]
    return html.page(f"Cache {title}", WIDE, *map(html.paragraph, lines), *figures)


def in_all(gallery) -> str:
    """The PSNR of all records that could be compared."""
    values = gallery.psnr
    if not values:
        return "no record could be compared with its source"
    mean = sum(values) / len(values)
    return (
        f"PSNR of {len(values)} records: {min(values):.2f} to {max(values):.2f}, mean {mean:.2f} dB"
    )


def verdict(gallery, least: float | None) -> int:
    """Print the PSNR of all; the exit code says whether it is enough."""
    values = gallery.psnr
    print(in_all(gallery))
    if least is None:
        return 0
    below = sum(value < least for value in values)
    if below:
        print(f"cache show: {below} records are below {least:g} dB", file=sys.stderr)
    elif not values:
        print("cache show: --min-psnr needs sources, and there are none", file=sys.stderr)
    return 1 if below or not values else 0


def in_words(seen) -> str:
    """The PSNR of a record."""
    return "no source" if seen.psnr is None else f"{seen.psnr:.2f} dB"


def sides(shape: Sequence[int]) -> str:
    return "x".join(map(str, shape))
