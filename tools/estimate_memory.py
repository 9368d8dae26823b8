# SPDX-License-Identifier: Apache-2.0
"""What memory a run needs: `python tools/estimate_memory.py --cfg FILE --processes 8 [KEY VALUE ...]`.

Rows are ways to spread the network, columns are ways to compute activations again. A cell says the GiB
of a process on its device, what is kept on the host in brackets, and ! where the device has less.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from diffnext.config import CfgNode, get_cfg

LEVELS = {  # of activation checkpointing
    **{f"level {level}": {"CHECKPOINTING": level} for level in range(4)},
    "keep products": {"CHECKPOINT_KEEP": ["matmul", "attention"]},
}


def parse_args(argv: Sequence[str]) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cfg", required=True, help="YAML file of options; no data is needed")
    parser.add_argument("--processes", type=int, default=0, help="default: NUM_GPUS")
    parser.add_argument("--deepspeed", help="json with sizes of buffers for the rows of zero")
    parser.add_argument("--device-gib", type=float, default=0, help="default: what is here")
    parser.add_argument("opts", nargs="*", metavar="KEY VALUE", help="options that win")
    return parser.parse_args(argv)


def variants(args: argparse.Namespace) -> dict[str, CfgNode]:
    """The options of the run with each way of checkpointing."""
    found = {}
    for name, options in LEVELS.items():
        cfg = get_cfg()
        cfg.merge_from_file(args.cfg)
        cfg.merge_from_list(args.opts)
        cfg.TRAIN.CHECKPOINT_KEEP = []
        cfg.TRAIN.update(options)
        found[name] = cfg
    return found


def cell(on_device: int, on_host: int, have: float) -> str:
    """Bytes as text."""
    text = f"{on_device / 2**30:.2f}" + ("!" if 0 < have <= on_device else " ")
    return text + (f" ({on_host / 2**30:.2f})" if on_host else "")


def main(argv: Sequence[str]) -> int:
    """Run the command; return its exit code."""
    args = parse_args(argv)
    from diffnext.engine import build
    from diffnext.engine.backends.deepspeed_config import read_config
    from diffnext.engine.memory import capacity_bytes

    try:
        runs = variants(args)
        cfg = next(iter(runs.values()))
        world = args.processes or max(cfg.NUM_GPUS, 1)
        zero = read_config(args.deepspeed).get("zero_optimization") if args.deepspeed else None
        needs = {name: build.survey(cfg, world=world, zero=zero) for name, cfg in runs.items()}
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    have = args.device_gib * 2**30 or capacity_bytes()
    print(
        f"GiB of each of {world} processes, micro-batches of {cfg.TRAIN.BATCH_SIZE}, "
        f"{cfg.MODEL.PRECISION}; the device has {have / 2**30:.2f}"
    )
    print("".join(f"{name:>18}" for name in ["", *needs]))
    for way in next(iter(needs.values())):
        cells = [cell(need[way].on_device, need[way].on_host, have) for need in needs.values()]
        print("".join(f"{text:>18}" for text in [way, *cells]))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
