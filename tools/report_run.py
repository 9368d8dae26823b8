#!/usr/bin/env python
# SPDX-License-Identifier: Apache-2.0
"""Make one page about a run, finished or not: curves, samples, options. It needs no server.

python tools/report_run.py runs/t2i
python tools/report_run.py runs/t2i --compare runs/t2i_slow runs/t2i_large --out compared.html
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", help="experiment folder of the run")
    parser.add_argument("--compare", nargs="+", default=[], metavar="RUN", help="others beside it")
    parser.add_argument("--out", help="the page (report.html in the folder of the run)")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Write the page; return the exit code."""
    args = parse_args(argv)
    from diffnext.engine import report
    from diffnext.utils.files import write_text

    try:
        runs = [report.read_run(folder) for folder in [args.run, *args.compare]]
        out = Path(args.out or Path(args.run, "report.html"))
        out.parent.mkdir(parents=True, exist_ok=True)
        write_text(out, report.make_page(runs))
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"The report is {out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
