# SPDX-License-Identifier: Apache-2.0
"""The plan of a build as text for people."""

from __future__ import annotations

import re
from collections import Counter

from diffnext.data.cache_plan import Plan
from diffnext.data.progress import clock
from diffnext.data.sources import Failure
from diffnext.data.views import View
from diffnext.utils.words import bytes_in_words

MOST_REASONS = 8  # of a kind that are listed
PLACE = re.compile(r"\b(line|row|entry) \d+: ")  # in a manifest


def table(plan: Plan, *, prune: bool = False) -> str:
    """Samples by bucket, what is left out and why, and how much is written.

    Args:
        prune: stale records are dropped in the end.
    """
    lines = [*_buckets(plan), *_others(plan, prune)]
    written, free = bytes_in_words(plan.num_bytes), bytes_in_words(plan.free_bytes)
    lines.append(f"{written} to be written, {free} free")
    return "\n".join(lines).encode(errors="backslashreplace").decode()  # names may be no text


def summary(plan: Plan, seconds: float) -> str:
    """The plan in one line, with the time that it took."""
    return (
        f"cache: {plan.present} hit, {plan.samples} to build, {len(plan.stale)} stale, "
        f"{seconds:.1f} s"
    )


def expected(decode: float, encode: float, num_bytes: int, samples: int) -> str:
    """How long a build will take, in one line.

    Args:
        decode, encode: bytes of frames a second; 0: nothing could be decoded or encoded.
        num_bytes: of the frames of all samples.
    """
    if not min(decode, encode):
        return "expected time: not known, none of the probed media could be decoded and encoded"
    rates = {"decode": decode * samples / num_bytes, "encode": encode * samples / num_bytes}
    words = ", ".join(f"{name} {rate:.3g}/s" for name, rate in rates.items())
    limit = min(rates, key=rates.__getitem__)
    return f"expected time: {clock(samples / rates[limit])} ({words}; {limit} limits)"


def _buckets(plan: Plan) -> list[str]:
    """A line for each size and length: samples to encode, and records in the cache."""
    new = Counter(view.bucket for view in plan.views())
    held = Counter(view.bucket for view in plan.journal.entries.views())
    lines = [f"{'view':<30}{'moments':<18}{'to encode':>10}{'in cache':>10}"]
    for bucket in sorted(new.keys() | held.keys()):
        frames, height, width = bucket
        view = View(height, width, tuple(range(frames)))
        shape = "x".join(map(str, plan.latents.shape(view)))
        words = f"{frames} frames of {height}x{width} px" if frames > 1 else f"{height}x{width} px"
        lines.append(f"{words:<30}{shape:<18}{new[bucket]:>10}{held[bucket]:>10}")
    lines.append(f"{'all':<48}{new.total():>10}{held.total():>10}")
    return lines


def _others(plan: Plan, prune: bool) -> list[str]:
    """What is noteworthy or left out, by reason."""
    lines = []
    fate = "dropped when all else is done" if prune else "kept, --prune drops them"
    if plan.enlarged:
        lines.append(_line("enlarged", plan.enlarged, "of those to encode, smaller than the view"))
    if plan.unused:
        more = "" if plan.rules.windows is None else "; --windows all may take more"
        what = f"frames of the videos to encode are in no view{more}"
        lines.append(_line("unused", plan.unused, what))
    for reason, count in Counter(plan.stale.values()).most_common():
        lines.append(_line("stale", count, f"records: {reason}; {fate}"))
    if plan.failed_before:
        lines.append(_line("failed before", plan.failed_before, "not tried; see --retry-failed"))
    if plan.others[0]:
        lines.append(_line("left out", *plan.others))
    for word, failures in (("dropped", plan.dropped), ("failed", plan.failures)):
        reasons = Counter(map(_kind, failures))
        lines += [_line(word, n, reason) for reason, n in reasons.most_common(MOST_REASONS)]
        if len(reasons) > MOST_REASONS:
            rest = reasons.total() - sum(n for _, n in reasons.most_common(MOST_REASONS))
            lines.append(_line(word, rest, "for other reasons"))
    return lines


def _kind(failure: Failure) -> str:
    """The reason without what tells one file from another, so that like failures are counted as one."""
    reason = failure.reason.replace(f"{failure.file}: ", "").replace(repr(failure.file), "it")
    return PLACE.sub("", reason)


def _line(word: str, count: int, text: str) -> str:
    return f"{word:<14}{count:>9}  {text}"
