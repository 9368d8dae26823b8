# SPDX-License-Identifier: Apache-2.0
"""Builds in children of a process that has imported all they need, so that many can be killed in seconds.

`python -m tests.faults.forks FOLDER SCENARIO ...`: photos are in FOLDER/photos, each scenario builds
FOLDER/SCENARIO; what was found is printed as JSON.
"""

import argparse
import functools
import json
import os
import random
import signal
import sys
import time
import traceback
from pathlib import Path

from diffnext.cli import cache_prompts
from diffnext.data import cache_part, cache_ranks, prompt_ranks
from diffnext.data.worklist import find
from tests.data import cache_builds
from tests.data.texts import WIDTH, Encoder

cache_part.POLL_S = cache_ranks.POLL_S = prompt_ranks.POLL_S = 0.02
ASKED = {"input": "photos"}
ENCODER = {"class": "Stub", "width": WIDTH, "max_length": 100}
ALL = 10_000


class Crowd:
    """Processes that build one cache together, and a log of what they encode."""

    def __init__(self, output, *, lease_s=60.0):
        self.photos, self.output, self.lease_s = output.parent / "photos", str(output), lease_s
        self.log, self.grants = output.with_suffix(".log"), output.with_suffix(".grants")
        self.log.touch()
        self.grants.touch()

    def encode(self, frames):
        """Encode as much as was granted, so that it is known what is done when one is killed."""
        while self.encoded >= self.grants.stat().st_size:
            time.sleep(0.001)
        add(self.log, len(frames))
        return cache_builds.encode(frames)

    def grant(self, count):
        """Let so many samples more be encoded, and wait until they are, or some time."""
        add(self.grants, count)
        end = time.monotonic() + 5
        while self.encoded < self.grants.stat().st_size and time.monotonic() < end:
            time.sleep(0.001)

    def lead(self, lock):
        cache_ranks.settle(self.output, tell=lambda text: None)
        plan = cache_builds.plan_for(self.photos, self.output)
        if plan.tasks:
            cache_ranks.build_shared(
                plan, self.tools(), lock=lock, asked=ASKED, lease_s=self.lease_s
            )
        return 0

    def help_out(self):
        """There is nothing to do before the plan."""

    def tools(self):
        return cache_part.Tools(lambda: self.encode, batch_size=2, workers=0)

    def start(self):
        """Begin a process; returns its number. It ends with 0, or 1 after an error."""
        child = os.fork()
        if child:
            return child
        code = 1
        try:
            code = cache_ranks.lead_or_follow(
                self.output, self.tools(), ASKED, self.lead, help_out=self.help_out
            )
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)

    @property
    def encoded(self):
        """Samples that went through an autoencoder so far."""
        return self.log.stat().st_size


class PromptCrowd(Crowd):
    """The same, with two phases: prompts, then pictures. Each batch takes its time."""

    def __init__(self, output):
        super().__init__(output)
        self.texts = output.with_suffix(".texts")
        self.texts.touch()
        self.args = argparse.Namespace(together=False, text_batch_size=2, output=self.output)
        cache_prompts.load_encoder = lambda args: self.embed
        cache_prompts.bar = lambda items, total, name: items
        cache_prompts.print = lambda text: None
        prompt_ranks.create = functools.partial(prompt_ranks.create, unit_texts=8)

    def embed(self, texts):
        add(self.texts, len(texts))
        time.sleep(0.01)
        return Encoder()(texts)

    def encode(self, frames):
        add(self.log, len(frames))
        time.sleep(0.01)
        return cache_builds.encode(frames)

    @property
    def embedded(self):
        """Texts that went through a text encoder so far."""
        return self.texts.stat().st_size

    def wait_for(self, count):
        """Until so many texts and pictures were encoded, or some time."""
        end = time.monotonic() + 5
        while self.embedded + self.encoded < count and time.monotonic() < end:
            time.sleep(0.001)

    def lead(self, lock):
        cache_ranks.settle(self.output, tell=lambda text: None)
        plan = cache_builds.plan_for(self.photos, self.output, text_encoder=ENCODER)
        store = cache_prompts.embed_plan(self.args, plan, many=True)
        if plan.tasks:
            cache_ranks.build_shared(plan, self.tools(), lock=lock, asked=ASKED)
        store.discard()
        return 0

    def help_out(self):
        cache_prompts.help_embed(self.args, ENCODER)


def add(path, count):
    """Count on in a file, by its size."""
    with open(path, "ab", buffering=0) as stream:
        stream.write(b"." * count)


def ended(child):
    """Wait for the end of a child: 0, 1, or minus the signal."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def kill(child):
    """Kill a child; returns whether it was still at work."""
    os.kill(child, signal.SIGKILL)
    return ended(child) == -signal.SIGKILL


def deaths(output):
    """Three processes, of which one after another is killed, those that take their places too."""
    random.seed(0)
    crowd, killed = Crowd(output), 0
    children = [crowd.start() for _ in range(3)]
    for number in range(16):
        if number < 12:
            crowd.grant(random.randrange(4))
        else:  # towards the end, where the parts are joined
            add(crowd.grants, ALL)
        time.sleep(random.uniform(0, 0.05))
        victim = children.pop(random.randrange(3))
        killed += kill(victim)
        children.append(crowd.start())
    codes = [ended(child) for child in children]
    return {"killed": killed, "encoded": crowd.encoded, "codes": codes}


def all_at_once(output):
    """Two or three processes, killed together, over and over, then one that builds alone."""
    random.seed(1)
    crowd, killed = Crowd(output), 0
    for _ in range(7):
        children = [crowd.start() for _ in range(random.choice((2, 3)))]
        crowd.grant(random.randrange(1, 6))
        time.sleep(random.uniform(0, 0.02))
        killed += sum([kill(child) for child in children])
    add(crowd.grants, ALL)
    codes = [ended(crowd.start())]
    return {"killed": killed, "encoded": crowd.encoded, "codes": codes}


def prompts(output):
    """Three processes in two phases, of which one after another is killed and another comes."""
    random.seed(2)
    crowd, killed, phases = PromptCrowd(output), 0, [0, 0]
    children = [crowd.start() for _ in range(3)]
    while crowd.encoded < 30:  # of 47, after 94 texts
        crowd.wait_for(crowd.embedded + crowd.encoded + random.randrange(1, 9))
        time.sleep(random.uniform(0, 0.02))
        phases[crowd.encoded > 0] += 1
        killed += kill(children.pop(random.randrange(3)))
        children.append(crowd.start())
    codes = [ended(child) for child in children]
    found = {"killed": killed, "phases": phases, "codes": codes}
    return {**found, "encoded": crowd.encoded, "embedded": crowd.embedded}


def sleeper(output):
    """One of two sleeps for longer than its lease, while it has units; then it wakes."""
    crowd = Crowd(output, lease_s=3.0)
    leader = crowd.start()
    while find(crowd.output) is None:
        time.sleep(0.001)
    follower = crowd.start()
    parts = find(crowd.output).parts
    while not any(f"-{follower}-" in name and held(parts, name) for name in os.listdir(parts)):
        crowd.grant(2)
    os.kill(follower, signal.SIGSTOP)
    add(crowd.grants, ALL)
    codes, count = [ended(leader)], crowd.encoded
    os.kill(follower, signal.SIGCONT)
    codes.append(ended(follower))
    return {"codes": codes, "encoded": count, "after": crowd.encoded - count}


def held(parts, name):
    """Whether a part has records."""
    return any(path.stat().st_size for path in Path(parts, name).glob("*.index"))


if __name__ == "__main__":
    folder, *names = sys.argv[1:]
    print(json.dumps({name: globals()[name](Path(folder, name)) for name in names}))
