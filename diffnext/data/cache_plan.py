# SPDX-License-Identifier: Apache-2.0
"""What a build of a cache will do, before it does it: which samples, what shape, how many bytes."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, TypeVar

from diffnext.data import media
from diffnext.data.cache_identity import Latents, check_identity, make_identity, open_journal
from diffnext.data.journal import Entry, Journal
from diffnext.data.media import Cut, Probe
from diffnext.data.sources import Failure, Listing, Source
from diffnext.data.threads import map_ahead

A = TypeVar("A")

TYPES = {"caption": "string", "text": "string", "label": "int64", "flow": "float64"}


@dataclass(frozen=True)
class Item:
    """A sample that is to be encoded."""

    source: Source
    entry: Entry
    medium: Probe


@dataclass
class Plan:
    """All that a build needs to know."""

    output: str
    cut: Cut
    latents: Latents
    identity: dict[str, Any]
    fields: dict[str, Any]  # of a record: name -> type
    journal: Journal
    finished: bool  # the folder was closed by its writer, or is not there yet
    total: int  # samples listed
    items: list[Item] = field(default_factory=list)
    present: int = 0  # samples that are in the cache already
    stale: int = 0  # records whose source was changed or removed
    dropped: list[Failure] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)

    @property
    def num_bytes(self) -> int:
        """Size of the records to be written: float16 moments, and about 300 bytes for the rest."""
        size = 2
        for length in self.latents.shape(self.cut):
            size *= length
        return len(self.items) * (size + 300)

    @property
    def free_bytes(self) -> int:
        """Space on the disk of the output."""
        folder = os.path.abspath(self.output)
        while not os.path.exists(folder):
            folder = os.path.dirname(folder)
        return shutil.disk_usage(folder).free

    def table(self) -> str:
        """The plan as text for people."""
        shape = "x".join(map(str, self.latents.shape(self.cut)))
        enlarged = sum(is_enlarged(item.medium, self.cut) for item in self.items)
        lines = [
            f"{'to encode':<14}{len(self.items):>9}  moments {shape} from {describe(self.cut)}",
            f"{'in the cache':<14}{self.present:>9}",
        ]
        if enlarged:
            lines.append(
                f"{'enlarged':<14}{enlarged:>9}  of those to encode, smaller than the crop"
            )
        if self.stale:
            lines.append(
                f"{'stale':<14}{self.stale:>9}  records whose source changed or went; kept"
            )
        for word, failures in (("dropped", self.dropped), ("failed", self.failures)):
            for reason, count in Counter(failure.reason for failure in failures).most_common(8):
                lines.append(f"{word:<14}{count:>9}  {reason}")
        lines.append(f"{_human(self.num_bytes)} to be written, {_human(self.free_bytes)} free")
        return "\n".join(lines).encode(errors="backslashreplace").decode()  # names may be no text


def make_plan(
    listing: Listing,
    output: str,
    *,
    cut: Cut,
    latents: Latents,
    vae: Mapping[str, Any],
    dtype: str,
    workers: int = 4,
    progress: Callable[[Iterable[A], int, str], Iterable[A]] = lambda items, total, name: items,
) -> Plan:
    """Compare the listed media with what the cache holds, and look at those that are new.

    Args:
        vae: what made the moments, for the identity: class, configuration, hash of the weights.
        dtype: precision of the encoding, for the identity.
        progress: wraps an iterable of known length, to show how far it is.

    Raises:
        ValueError: sizes the autoencoder cannot take, or a cache of another identity.
    """
    latents.check(cut)
    names = field_names(listing)
    identity = make_identity(vae, dtype, cut, latents, names)
    check_identity(output, identity)
    journal, finished = open_journal(output)
    fields = {"shape": ["int64"], "moments": "bytes", **{name: TYPES[name] for name in names}}
    total = len(listing.sources) + len(listing.failures)
    plan = Plan(output, cut, latents, identity, fields, journal, finished, total)
    plan.failures.extend(listing.failures)

    complete = [_completed(source, names, plan.failures) for source in listing.sources]
    sources = [source for source in complete if source is not None]
    threads = {"workers": workers, "ahead": 8 * workers}
    hashes = map_ahead(lambda s: _entry(s, journal, cut), sources, **threads)
    new = _split(zip(sources, progress(hashes, len(sources), "compare"), strict=True), plan)
    probes = map_ahead(lambda pair: media.probe(pair[0].path), new, **threads)
    for (source, entry), medium in zip(new, progress(probes, len(new), "probe"), strict=True):
        if isinstance(medium, Exception):
            plan.failures.append(Failure(source.path, "probe", _reason(medium)))
        elif reason := media.too_narrow(medium, cut):
            plan.failures.append(Failure(source.path, "probe", reason))
        elif reason := drop_reason(medium, cut):
            plan.dropped.append(Failure(source.path, "dropped", reason))
        else:
            plan.items.append(Item(source, entry, medium))
    return plan


def field_names(listing: Listing) -> list[str]:
    """Names of the fields that the records of the listed sources have; both captions or none.

    Raises:
        ValueError: no source at all, or none with anything to condition on; with the first failures.
    """
    failed = _first_failures(listing.failures)
    if not listing.sources:
        raise ValueError(f"--input: no picture or video in it that can be used{failed}")
    found = {name for source in listing.sources for name in source.fields()}
    if not found & {"caption", "text", "label"}:
        raise ValueError(
            f"--input: none of {len(listing.sources)} media has a caption or a label; put name.txt "
            "or name.json beside each, or give a manifest with the columns path and caption"
            f"{failed}"
        )
    if found & {"caption", "text"}:
        found |= {"caption", "text"}
    return [name for name in TYPES if name in found]


def _first_failures(failures: Sequence[Failure]) -> str:
    """The first three in words, to end a message with; "" if there are none."""
    if not failures:
        return ""
    lines = [f"\n  {failure.file}: {failure.reason}" for failure in failures[:3]]
    more = f"\n  and {len(failures) - 3} more" if len(failures) > 3 else ""
    return f"; {len(failures)} failed:{''.join(lines)}{more}"


def drop_reason(medium: Probe, cut: Cut) -> str:
    """Say why a readable medium is left out; "" if it is not."""
    if medium.kind == "image":
        return f"a picture, and --num-frames is {cut.num_frames}" if cut.num_frames > 1 else ""
    if cut.num_frames == 1:
        return "a video, and --num-frames is 1"
    return f"fewer than {cut.span} frames" if medium.num_frames < cut.span else ""


def is_enlarged(medium: Probe, cut: Cut) -> bool:
    """Whether a medium has fewer pixels than are made of it."""
    return media.fitted_size(medium.height, medium.width, cut)[0] > medium.height


def describe(cut: Cut) -> str:
    """A cut in words."""
    size = f"{cut.height}x{cut.width} px"
    if cut.num_frames == 1:
        return f"pictures of {size}"
    return f"{cut.num_frames} frames of {size}, every {cut.frame_stride} of {cut.span}"


def _completed(source: Source, names: Sequence[str], failures: list[Failure]) -> Source | None:
    """Give a source the fields that all records have, or report which of them it lacks."""
    values: dict[str, Any] = {}
    if "caption" in names:
        values["caption"] = source.caption or source.text
        values["text"] = source.text or ""
    if "flow" in names and media.kind_of(source.path) == "image":
        values["flow"] = source.flow or 0.0  # a picture does not move
    whole = replace(source, **values)
    missing = [name for name in names if getattr(whole, name) is None]
    if missing:
        reason = f"no {' and no '.join(missing)}, which others have"
        failures.append(Failure(source.path, "scan", reason))
        return None
    return whole


def _entry(source: Source, journal: Journal, cut: Cut) -> Entry:
    size, mtime_ns, content = journal.content(source.path)
    text = json.dumps([content, source.fields(), asdict(cut)], sort_keys=True)
    key = hashlib.sha256(text.encode()).hexdigest()
    return Entry(key, source.path, size, mtime_ns, content)


def _split(
    pairs: Iterable[tuple[Source, Entry | Exception]], plan: Plan
) -> list[tuple[Source, Entry]]:
    """Set aside what is in the cache and what cannot be read; return the rest."""
    held = Counter(entry.key for entry in plan.journal.entries)
    new = []
    for source, entry in pairs:
        if isinstance(entry, Exception):
            plan.failures.append(Failure(source.path, "scan", _reason(entry)))
        elif held[entry.key] > 0:
            held[entry.key] -= 1
            plan.present += 1
        else:
            new.append((source, entry))
    plan.stale = held.total()
    return new


def _reason(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"


def _human(num_bytes: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if num_bytes < 1000:
            return f"{num_bytes:.0f} {unit}" if unit == "B" else f"{num_bytes:.1f} {unit}"
        num_bytes /= 1000
    return f"{num_bytes:.1f} TB"
