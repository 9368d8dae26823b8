# SPDX-License-Identifier: Apache-2.0
"""Where a run begins: a checkpoint, what of it is left out, and whether the options still agree."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import yaml

from diffnext.engine.checkpoint.content import RESETS
from diffnext.engine.checkpoint.folders import Checkpoint, find
from diffnext.engine.tensors import SavedTensors
from diffnext.utils.logging import logger
from diffnext.utils.trees import flatten

# options that change nothing of what is learned, or that are compared by what they lead to
_TOLD = (
    "NUM_GPUS",
    "GPU_ID",
    "EVAL",
    "SAMPLE",
    "MODEL.CONFIG",  # the network itself is compared
    "MODEL.START_FROM",  # where a run began
    "PARALLEL",
    "SOLVER.ACCUM_STEPS",  # the global batch is compared
    "SOLVER.DISPLAY",
    "SOLVER.HANG_TIMEOUT",
    "SOLVER.MAX_",  # STEPS, HOURS, SKIPPED
    "SOLVER.SNAPSHOT",
    "TRAIN.BATCH_SIZE",
    "TRAIN.CHECKPOINT",  # ING, _KEEP
    "TRAIN.COMPILE",
    "TRAIN.DATASET",  # the data themselves are compared
    "TRAIN.OTHER_SHAPES",
    "TRAIN.REMOTE_CONFIG",
    "TRAIN.LOADER_CONFIG.prefetch",
    "TRAIN.DEVICE_EMA",
    "TRAIN.NUM_THREADS",
    "TRAIN.RES",  # RESUME, RESET
)
_STEADY = (None, "", "constant", "steps_with_decay")  # courses that do not depend on their end
_REFUSED = {  # and what to do, apart from restoring the value
    "PIPELINE.TYPE": "train another task in another --exp-dir",
    "MODEL.TYPE": "train another network in another --exp-dir",
    "METHOD.TYPE": "train by another method in another --exp-dir",
    "SOLVER.OPTIMIZER": "begin with a new optimizer by --reset-optimizer",
}


@dataclass(frozen=True)
class Start:
    """The checkpoint that a run goes on from.

    Args:
        resets: what this load leaves out, of RESETS.
        done: the step of every reset in this experiment folder, those of this load included.
        begin: step at which the learning rate's course has begun.
    """

    checkpoint: Checkpoint
    resets: Collection[str] = ()
    done: Mapping[str, int] = field(default_factory=dict)
    begin: int = 0


def find_start(
    resume: str, run_folder: str | Path, *, resets: Collection[str] = (), config: str = ""
) -> Start | None:
    """What a run goes on from; None if it begins at step 0. See `find`.

    A reset that the experiment folder has been through is not repeated, so that the same command, given
    again after a break, goes on.

    Args:
        resets: what is to begin anew, of RESETS.
        config: the options of the run, YAML.

    Raises:
        ValueError: nothing to resume and something to reset, an unknown reset, or options under
            which the checkpoint means something else.
    """
    unknown = sorted(set(resets) - set(RESETS))
    if unknown:
        raise ValueError(f"TRAIN.RESET has {unknown}; there are {list(RESETS)}")
    checkpoint = find(resume, run_folder)
    if checkpoint is None:
        if resets:
            raise ValueError(
                f"TRAIN.RESET is {list(resets)} (--reset-...), and there is no checkpoint to resume; "
                "leave it out, or name a checkpoint by --resume"
            )
        return None
    run = checkpoint.run()
    own = (
        bool(run_folder) and checkpoint.folder.absolute().parents[1] == Path(run_folder).absolute()
    )
    done = dict(run.get("resets", {})) if own else {}
    now = [name for name in resets if name not in done]
    for name in sorted(set(resets) - set(now)):
        logger.info(f"{name} was begun anew at step {done[name]} already and goes on from there")
    _compare_options(run.get("about", {}).get("config", ""), config, now)
    done |= dict.fromkeys(now, checkpoint.step)
    begin = checkpoint.step if "lr" in now else _begin_of(checkpoint)
    return Start(checkpoint, now, done, begin)


def check_network(start: Start, module: str, config: Mapping[str, Any]) -> None:
    """Compare the configuration of the network with that of the checkpoint's.

    Raises:
        ValueError: with each key that differs and both of its values.
    """
    path = start.checkpoint.folder / module / "config.json"
    saved = yaml.safe_load(path.read_text()) if path.exists() else {}  # JSON is YAML
    lines = [
        f"  {key}: {saved[key]!r} in the checkpoint, {_plain(config[key])!r} now"
        for key in sorted(saved.keys() & config.keys())
        if key[0] != "_" and saved[key] != _plain(config[key])
    ]
    if lines:
        raise ValueError(
            f"{start.checkpoint.folder} holds another network:\n" + "\n".join(lines) + "\n"
            "restore these (MODEL.CONFIG, MODEL.WEIGHTS), or train it in another --exp-dir"
        )


def check_data(
    start: Start,
    now: Mapping[str, Any],
    identities: list[Any],
    records: Sequence[Mapping[str, Any]],
) -> None:
    """Compare the data with those that the checkpoint was trained on.

    Args:
        now: the loader's state.
        identities: of the datasets, what they were made by.
        records: of the datasets, which records they hold.

    Raises:
        ValueError: with what differs, both values and the remedy.
    """
    if "data" in start.resets:
        return
    run = start.checkpoint.run()
    then = {key: value for key, value in run["loader"].items() if key in now and key != "step"}
    differs = [key for key, value in then.items() if value != now[key]]
    lines = [
        f"  {key}: {then[key]!r} in the checkpoint, {now[key]!r} now"
        for key in differs
        if key != "buckets"  # a hash, of the numbers of records too
    ]
    if differs == ["buckets"]:
        lines = ["  shapes of the records, or how often a dataset passes: not as in the checkpoint"]
    made = run.get("about", {}).get("data")
    if made is not None:
        lines += _differences(flatten(dict(enumerate(made))), flatten(dict(enumerate(identities))))
    if not lines:  # else the records differ for the reasons that are given already
        lines += _other_records(run.get("about", {}).get("records"), records)
    if lines:
        raise ValueError(
            f"{start.checkpoint.folder} was trained on other data, or in another order:\n"
            + "\n".join(lines)
            + "\nrestore these (RNG_SEED, TRAIN.DATASET or a copy of it as it was, and the global batch, "
            "which is TRAIN.BATCH_SIZE x SOLVER.ACCUM_STEPS x processes), or go on with the new data by "
            "--reset-data"
        )


def _begin_of(checkpoint: Checkpoint) -> int:
    """Step at which the schedules of a checkpoint have begun; 0 in one that does not say."""
    begins = SavedTensors(checkpoint.folder / "state").below("schedulers.").full()
    return int(torch.stack(list(begins.values())).max()) if begins else 0


def _compare_options(saved: str, now: str, resets: Collection[str]) -> None:
    """Tell what changed; refuse what may not."""
    if not saved or not now:
        return
    then, here = flatten(yaml.safe_load(saved)), flatten(yaml.safe_load(now))
    warned = ("SOLVER.MAX_STEPS",) if here.get("SOLVER.LR_POLICY") not in _STEADY else ()
    refused = []
    for key in sorted(key for key in then.keys() | here.keys() if then.get(key) != here.get(key)):
        line = f"{key}: {then.get(key)!r} in the checkpoint, {here.get(key)!r} now"
        if key in _REFUSED and not (key == "SOLVER.OPTIMIZER" and _may_change(then, here, resets)):
            refused.append(f"  {line}; restore it, or {_REFUSED[key]}")
        elif key in _REFUSED or (key.startswith(_TOLD) and key not in warned):
            logger.info(f"changed since the checkpoint: {line}")
        else:
            logger.warning(f"changed since the checkpoint, and so is the training: {line}")
    if refused:
        raise ValueError("the checkpoint does not fit the options:\n" + "\n".join(refused))


def _may_change(then: Mapping[str, Any], now: Mapping[str, Any], resets: Collection[str]) -> bool:
    """Whether the optimizer begins anew, or is the same one: its name is read in any case."""
    names = {str(options.get("SOLVER.OPTIMIZER")).lower() for options in (then, now)}
    return "optimizer" in resets or len(names) == 1


def _differences(then: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    return [
        f"  dataset {key}: {then.get(key)!r} in the checkpoint, {now.get(key)!r} now"
        for key in sorted(then.keys() | now.keys())
        if then.get(key) != now.get(key)
    ]


def _other_records(
    then: Sequence[Mapping[str, Any]] | None, now: Sequence[Mapping[str, Any]]
) -> list[str]:
    """The datasets that hold other records than they did; sums that one side lacks tell nothing."""
    if then is None:
        logger.info(
            "the checkpoint does not say which records it was trained on; their numbers and shapes alone "
            "are compared"
        )
        return []
    lines = []
    for number, pair in enumerate(zip(then, now, strict=True)):
        old, new = map(flatten, pair)
        differs = [key for key in old.keys() | new.keys() if old.get(key) != new.get(key)]
        if any(
            not key.endswith("sums") or None not in (old.get(key), new.get(key)) for key in differs
        ):
            lines.append(
                f"  dataset {number}: as many records of the same shapes, but not the same records; since "
                "then some were dropped and added, encoded anew, or put in another order"
            )
    return lines


def _plain(value: Any) -> Any:
    """A value as JSON would give it back."""
    return [_plain(v) for v in value] if isinstance(value, (list, tuple)) else value
