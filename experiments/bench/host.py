"""How much of a turn does the device wait for the host?

Command: `hiper bench host --tokenizer FOLDER` (about two minutes on two idle CPU cores;
without a folder the tokenizer is that of the warm start, whose prompts are shorter).
Expected (C15): with 128 slots, prompts of about 866 tokens and a device that answers
them in 0.4 s, at most 0.10 of that time is host time that nothing hides.

The device is a sleep, in proportion to the rows of a batch but for `floor`: it needs no
core and no lock, like an accelerator. The rest is what a run does: made games in this
process, the prompts of `full`, replies read and played. Our games are small: more
places are listed than there are, until prompts are as long as the published ones.
Replies are those of a random walk that is recorded first, so that all sides play the
same episodes, which is checked. The sides are one wave of slots or two, and prompts
encoded one by one or line by line; they are timed in turn. What the first turn and its
resets take is left out.
"""

import dataclasses
import functools
import itertools
import os
import pathlib
import random
import statistics
import time
from collections.abc import Sequence

import numpy as np

from hiper_jax import workdir
from hiper_jax.accept import Count, Name, NotNegative, Positive, Whole, check_fields
from hiper_jax.act.codec import Codec, load_codec
from hiper_jax.act.envs.templates import Template
from hiper_jax.act.envs.world import DEFAULT, WorldSettings, load_world, settings_for
from hiper_jax.act.rollout import Environments, Reader, Sampled, make_reader, rollout
from hiper_jax.experiments import games
from hiper_jax.experiments.provenance import commit
from hiper_jax.experiments.starts import WARM_START

ELSEWHERE = "cabinet in the hall"
RESPONSE = "<switch>{}</switch><subgoal>{}</subgoal><action>{}</action>"


@dataclasses.dataclass(frozen=True)
class Host:
    """Times what the host does beside a device that only sleeps."""

    tokenizer: str = ""
    """Folder of the tokenizer; empty: the warm start's."""
    slots: Count = 128
    """Environments, and episodes."""
    turns: Count = 8
    """Turns of an episode."""
    device: Positive = 0.4
    """Seconds in which the device answers all slots."""
    floor: NotNegative = 0.0
    """Seconds of these that it takes however few rows there are."""
    engine: NotNegative = 0.0
    """Seconds more that the environments take for a turn of all slots."""
    places: Whole = 40
    """Places listed beside the game's own."""
    history_length: Count = 2
    """Observation/action pairs shown."""
    rounds: Count = 3
    """Times each side is timed, in turn."""
    world: WorldSettings = settings_for(DEFAULT)
    """Which games are played."""
    out: Name = "runs/bench-host"
    """Folder for bench_host.json."""

    def __post_init__(self):
        check_fields(self)


class OneByOne(Codec):
    """A codec that encodes prompts one after the other, each whole."""

    def encode_prompts(self, texts: Sequence[str]) -> list[np.ndarray]:
        return [np.array(self.encode_prompt(text), np.int32) for text in texts]


def main(flags: Host) -> dict:
    """Prints C15 of every side and writes bench_host.json."""
    codec = load_codec(pathlib.Path(flags.tokenizer or WARM_START))
    single = OneByOne(
        **{f.name: getattr(codec, f.name) for f in dataclasses.fields(codec)}
    )
    games.games_folder(flags.world)
    names = games.training_manifest(flags.world).ids
    names = games.evenly_spaced(names, min(flags.slots, len(names)))
    names = [names[i % len(names)] for i in range(flags.slots)]
    make = functools.partial(
        make_reader,
        load_world(flags.world.environment),
        style="full",
        max_prompt=1 << 20,
        history_length=flags.history_length,
    )
    readers = {"one by one": make(single), "line by line": make(codec)}
    with games.open_pool(flags.world, flags.slots) as pool:
        pool = Slowed(pool, flags.engine, flags.places)
        reader = readers["line by line"]
        walk, expected, shared = recorded(pool, names, reader, flags)
        moved = reader._replace(
            template=functools.partial(fixed_first, reader.template)
        )
        shares = {
            "as written": shared,
            "fixed text first": recorded(pool, names, moved, flags)[2],
        }
        sides = {
            f"{waves} wave{'s'[: waves - 1]}, {how}": functools.partial(
                timed, pool, walk, names, reader, flags, waves
            )
            for waves in (1, 2)
            for how, reader in readers.items()
        }
        found: dict[str, list[dict[str, float]]] = {side: [] for side in sides}
        for _ in range(flags.rounds):
            for side, call in sides.items():
                prompts, seconds = call()
                if prompts != expected:
                    raise RuntimeError(f"{side}: the episodes are others")
                found[side].append(seconds)
    middle = {
        side: {k: statistics.median(one[k] for one in all_) for k in all_[0]}
        for side, all_ in found.items()
    }
    lengths = [len(prompt) // 4 for prompt in expected]
    result = {
        "machine": f"{os.cpu_count()} CPU cores, load {os.getloadavg()[0]:.1f}",
        "commit": commit(),
        "settings": {k: str(v) for k, v in dataclasses.asdict(flags).items()},
        "prompt tokens": float(np.mean(lengths)),
        "begins as the turn before's": shares,
        "medians": middle,
        "rounds": found,
    }
    print(f"prompts of {result['prompt tokens']:.0f} tokens; seconds of a turn")
    print(table(middle))
    for how, share in shares.items():
        print(f"{how}, {share:.0%} of a prompt begin as the turn before's did")
    path = pathlib.Path(flags.out) / "bench_host.json"
    workdir.write_json(path, result)
    print(path)
    return result


def table(middle) -> str:
    """One line for each side: where a turn's seconds go, and C15."""
    lines = [
        "| side | turn | device | text | environment | not hidden / device (C15) |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for side, one in middle.items():
        parts = [one[k] for k in ("turn", "device", "text", "environment")]
        shown = " | ".join(f"{x:.3f}" for x in parts)
        lines.append(f"| {side} | {shown} | {one['not hidden']:.3f} |")
    return "\n".join(lines)


class Slowed:
    """Environments that take longer for each row, and list more places."""

    def __init__(self, pool: Environments, seconds: float, places: int):
        self.size = pool.size
        self._pool, self._seconds = pool, seconds
        self._more = [f"go to {ELSEWHERE} {i + 1}" for i in range(places)]

    def reset(self, slots: Sequence[int], tasks: Sequence[str]) -> list:
        return [self._listed(answer) for answer in self._pool.reset(slots, tasks)]

    def step(self, slots: Sequence[int], actions: Sequence[str]) -> list:
        time.sleep(self._seconds * len(slots) / self.size)
        return [self._listed(answer) for answer in self._pool.step(slots, actions)]

    def _listed(self, answer):
        *seen, info = answer
        listed = [*info["admissible_actions"], *self._more]
        return (*seen, info | {"admissible_actions": listed})


Walk = dict[tuple[int, int], np.ndarray]  # (episode, turn) -> tokens of the reply


def recorded(
    pool: Environments, names: Sequence[str], reader: Reader, flags: Host
) -> tuple[Walk, list[bytes], float]:
    """A random walk through every game.

    Returns:
      The replies, all prompts in order, and the share of their tokens that stands at
      the head of the turn before's prompt, too.
    """
    walk: Walk = {}

    def sample(prompts, index, turn) -> Sampled:
        for prompt, i, t in zip(prompts, index, turn, strict=True):
            listed = reader.codec.tokenizer.decode(prompt).split("Actions you may")[-1]
            lines = listed.split("\n")
            actions = [line[2:] for line in lines if line.startswith("- ")]
            actions = [action for action in actions if ELSEWHERE not in action]
            action = random.Random(f"{i} {t}").choice(actions or ["look"])
            word = "KEEP" if t % 3 else "SWITCH"
            said = RESPONSE.format(word, f"walk around: {i}, {t // 3}", action)
            walk[int(i), int(t)] = np.array(
                reader.codec.encode_response(said), np.int32
            )
        return answered(walk, index, turn)

    episodes, _ = rollout(pool, sample, names, reader, max_turns=flags.turns)
    return walk, written(episodes), shared_heads(episodes)


def shared_heads(episodes) -> float:
    """Tokens that prompts begin with as those of the turn before did, over all."""
    equal = every = 0
    for episode in episodes:
        for a, b in itertools.pairwise(turn.prompt for turn in episode.turns):
            size = min(len(a), len(b))
            equal += int(np.append(a[:size] == b[:size], False).argmin())
            every += len(b)
    return equal / max(every, 1)


def fixed_first(template: Template, *args, **options) -> str:
    """The wording `full`, with what is the same in every prompt at its head."""
    text = template(*args, **options)
    begin, end = text.index("\nTask: "), text.index("\nFirst decide ")
    return text[:begin] + text[end:] + "\n" + text[begin:end]


def written(episodes) -> list[bytes]:
    return [turn.prompt.tobytes() for e in episodes for turn in e.turns]


def answered(walk: Walk, index, turn) -> Sampled:
    tokens = [walk[int(i), int(t)] for i, t in zip(index, turn, strict=True)]
    return Sampled(tokens, [np.zeros(len(ids), np.float32) for ids in tokens])


def timed(
    pool: Environments,
    walk: Walk,
    names: Sequence[str],
    reader: Reader,
    flags: Host,
    waves: int,
) -> tuple[list[bytes], dict[str, float]]:
    """Plays the walk; returns all prompts, and seconds of a turn."""
    ends: list[float] = []
    work = Device(flags, walk)
    episodes, spent = rollout(
        pool,
        work.sample,
        names,
        reader,
        max_turns=flags.turns,
        on_turn=lambda done, total: ends.append(time.perf_counter()),
        waves=waves,
    )
    turns = flags.turns
    turn = (ends[-1] - ends[waves - 1]) / max(turns - 1, 1)
    device = statistics.median(work.seconds) * waves
    return written(episodes), {
        "turn": turn,
        "device": device,
        "text": spent["text"] / turns,
        "environment": spent["environment"] / turns,
        "not hidden": (turn - device) / device,
    }


class Device:
    """Takes its time for each batch, and answers from a walk."""

    def __init__(self, flags: Host, walk: Walk):
        self._flags, self._walk = flags, walk
        self.seconds: list[float] = []

    def sample(self, prompts, index, turn) -> Sampled:
        flags, began = self._flags, time.perf_counter()
        answer = answered(self._walk, index, turn)
        share = len(prompts) / flags.slots
        wanted = flags.floor + (flags.device - flags.floor) * share
        time.sleep(max(0.0, wanted - (time.perf_counter() - began)))
        self.seconds.append(time.perf_counter() - began)
        return answer
