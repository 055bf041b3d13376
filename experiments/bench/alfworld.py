"""How fast and how large is ALFWorld, and is TextWorld's engine any better?

Command: `hiper bench rollout --env alfworld` (about a minute on one CPU core, nearly
all of it TextWorld's, which needs the extra `reference` and is left out without it).
Aim: 1,000 steps, 300 first resets and 2,000 resets of the same game in the time that
TextWorld's engine takes for one.

Both engines walk the same random walks through the same made games, and must say the
same; steps and resets are counted by the processor time of this process. Memory is what
one more environment with a game of its own adds to a process; those who play the same
game share it. A turn of a rollout is timed by the clock, with all environments in this
process and in a pool.
"""

import concurrent.futures
import itertools
import multiprocessing
import os
import pathlib
import random
import statistics
import tempfile
import time
from collections.abc import Sequence
from typing import Literal

from hiper_jax import workdir
from hiper_jax.act.envs.pool import Pool
from hiper_jax.act.envs.worlds.alfworld import native, versus
from hiper_jax.act.envs.worlds.alfworld.game import read_file, read_game
from hiper_jax.act.envs.worlds.alfworld.world import AlfWorld
from hiper_jax.act.envs.worlds.alfworld.write import make_games

EngineName = Literal["native", "textworld"]
AIM = {"step_ms": 1000, "first_reset_ms": 300, "reset_ms": 2000}
MANY = {"native": 80, "textworld": 12}  # environments that memory is measured with


def engine_of(name: str):
    """A new engine: "native" or "textworld"."""
    if name == "native":
        return native.Engine()
    from hiper_jax.act.envs.worlds.alfworld import reference

    return reference.Engine()


def draw_walks(games: Sequence[str], steps: int, seed: int = 0) -> list[list[str]]:
    """A random walk of that many steps through each game."""
    rng, engine, walks = random.Random(seed), native.Engine(), []
    for path in games:
        # Not `load`, which keeps a game for the next one who plays it.
        fresh = read_game(read_file(path))
        engine.restore((fresh, fresh.start))
        seen, walk = engine.reset(), []
        for _ in range(steps):
            walk.append(rng.choice(seen.commands))
            seen = engine.step(walk[-1])
        walks.append(walk)
    return walks


def milliseconds(name: str, games: Sequence[str], walks: Sequence[Sequence[str]]):
    """Processor time of one step and of resets, and all that was said.

    Returns:
      A dict with step_ms, first_reset_ms and reset_ms; the list of what was seen.
    """
    engine, seen = engine_of(name), []
    first, again, steps = [], [], []
    for game, walk in zip(games, walks, strict=True):
        begin = time.process_time()
        engine.load(game)
        engine.reset()
        begun = time.process_time()
        seen.append(engine.reset())
        middle = time.process_time()
        seen += [engine.step(command) for command in walk]
        end = time.process_time()
        first.append(begun - begin)
        again.append(middle - begun)
        steps.append((end - middle) / len(walk))
    times = {"step_ms": steps, "first_reset_ms": first, "reset_ms": again}
    return {name: 1e3 * statistics.mean(all_) for name, all_ in times.items()}, seen


def megabytes(name: EngineName, games: Sequence[str]) -> float:
    """What one more environment, with a game of its own, adds to this process."""

    def resident():
        text = pathlib.Path("/proc/self/statm").read_text()
        return int(text.split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20

    def begun(game):
        env = AlfWorld(engine=name)
        env.reset(game)
        return env

    first, more = games[:4], games[4 : 4 + MANY[name]]
    kept = [begun(game) for game in first]
    before = resident()
    kept += [begun(game) for game in more]
    return (resident() - before) / len(more)


def turn_ms(games: Sequence[str], *, envs: int, workers: int, turns: int) -> float:
    """Wall time of one turn of all environments: in this process if workers is 0."""
    games = list(itertools.islice(itertools.cycle(games), envs))
    rng, slots = random.Random(0), range(envs)
    if workers:
        with Pool(AlfWorld, envs, workers=workers) as pool:
            answers = pool.reset(slots, games)
            return _turns(lambda a: pool.step(slots, a), answers, rng, turns)
    players = [AlfWorld() for _ in slots]
    answers = [env.reset(game) for env, game in zip(players, games, strict=True)]

    def step(actions):
        return [env.step(a) for env, a in zip(players, actions, strict=True)]

    return _turns(step, answers, rng, turns)


def _turns(step, answers, rng: random.Random, turns: int) -> float:
    spent = []
    for _ in range(turns):
        actions = [rng.choice(a[-1]["admissible_actions"][:-3]) for a in answers]
        begin = time.perf_counter()
        answers = step(actions)
        spent.append(time.perf_counter() - begin)
    return 1e3 * statistics.median(spent)


def measure(folder: pathlib.Path, *, games: int, steps: int, envs: int) -> dict:
    """All figures; see the module."""
    make_games(str(folder / "games"), train=max(games, 6) * 8, seen=0, unseen=0, seed=0)
    known = versus.find_games(str(folder / "games"))
    played = known[:: len(known) // games][:games]
    walks = draw_walks(played, steps)
    names: list[EngineName] = ["native"]
    if _has_reference():
        names.append("textworld")
    result: dict = {"games": len(played), "steps": steps, "envs": envs, "aim": AIM}
    said = {}
    for name in names:
        result[name], said[name] = milliseconds(name, played, walks)
        with concurrent.futures.ProcessPoolExecutor(
            1, multiprocessing.get_context("spawn")
        ) as alone:
            megabytes_each = alone.submit(megabytes, name, known).result()
        result[name]["env_mb"] = megabytes_each
    if len(said) == 2 and said["native"] != said["textworld"]:
        raise RuntimeError("the engines differ: see `hiper games diff`")
    result["turn_ms"] = {
        workers: turn_ms(known, envs=envs, workers=workers, turns=20)
        for workers in (0, 1, 2)
    }
    return result


def _has_reference() -> bool:
    try:
        engine_of("textworld")
    except (ImportError, RuntimeError):
        return False
    return True


def main(
    out: str | os.PathLike, *, games: int = 12, steps: int = 40, envs: int = 128
) -> dict:
    """Measures, prints a table and writes bench_alfworld.json into `out`."""
    with tempfile.TemporaryDirectory() as scratch:
        result = measure(pathlib.Path(scratch), games=games, steps=steps, envs=envs)
    workdir.write_json(pathlib.Path(out) / "bench_alfworld.json", result)
    print(table(result))
    return result


def table(result: dict) -> str:
    """The figures as Markdown."""
    lines = [
        "| | native | TextWorld | times | aim |",
        "| --- | --- | --- | --- | --- |",
    ]
    for key, label in (
        ("step_ms", "a step, ms"),
        ("first_reset_ms", "a game's first reset, ms"),
        ("reset_ms", "the same game again, ms"),
        ("env_mb", "one more environment, MB"),
    ):
        ours, theirs = (result.get(n, {}).get(key) for n in ("native", "textworld"))
        cells = [label, f"{ours:.4f}", "-", "-", f"{AIM[key]:,}" if key in AIM else "-"]
        if theirs is not None:
            cells[2:4] = [f"{theirs:.3g}", f"{theirs / max(ours, 1e-9):,.0f}"]
        lines.append(f"| {' | '.join(cells)} |")
    turns = ", ".join(
        f"{spent:.1f} ms {f'in {workers} workers' if workers else 'in this process'}"
        for workers, spent in result["turn_ms"].items()
    )
    return "\n".join([*lines, "", f"A turn of {result['envs']} environments: {turns}."])
