"""How fast and how large is the shop? Steps, searches, start-up and memory.

Command: `hiper bench webshop` (about three minutes on two CPU cores, most of it making
and indexing the 100,000 products).
Aim: 5,000 steps a second on one core with 1,000 products, and one catalogue in memory,
not one for each of the 128 environments.

The player clicks at random and searches with words of its task. Steps and searches are
counted by the processor time of this process; memory is that of the pool's workers.
"""

import functools
import itertools
import os
import pathlib
import random
import tempfile
import time
from collections.abc import Sequence

from hiper_jax import workdir
from hiper_jax.act.envs.pool import Pool
from hiper_jax.act.envs.worlds import webshop
from hiper_jax.act.envs.worlds.webshop import search
from hiper_jax.act.envs.worlds.webshop.make import make_shop

AIM = 5000  # steps a second on one core, 1,000 products
TURNS = 15


def choose(info: dict, rng: random.Random) -> str:
    """A random admissible action; searches take words of the task."""
    action = rng.choice(info["admissible_actions"])
    if action.startswith("search["):
        words = info["task"].split(" with ")[0].split()[2:]
        return f"search[{' '.join(words)}]"
    return action


def steps_per_second(shop: webshop.Shop, steps: int, seed: int = 0) -> float:
    """Plays one environment with random moves for that many steps."""
    env, rng, done = webshop.WebShop(shop, max_turns=TURNS), random.Random(seed), 0
    games = shop.goal_ids(rng.choices(range(shop.num_goals), k=steps // 4 + 1))
    begin = time.process_time()
    while done < steps:
        _, info = env.reset(games[done % len(games)])
        over = False
        while not over:
            _, _, terminated, truncated, info = env.step(choose(info, rng))
            over, done = terminated or truncated, done + 1
    return done / (time.process_time() - begin)


def searches_per_second(shop: webshop.Shop, number: int, seed: int = 0) -> float:
    """Ranks the catalogue for that many tasks, nothing remembered."""
    games = shop.goal_ids(random.Random(seed).choices(range(shop.num_goals), k=number))
    queries = [shop.goal(game)["instruction_text"] for game in games]
    begin = time.process_time()
    for words in queries:
        search.rank(shop.store, words)
    return number / (time.process_time() - begin)


def memory(pid: int) -> dict[str, float] | None:
    """Megabytes of a process: all it sees, and its share of what others see too."""
    try:
        text = pathlib.Path(f"/proc/{pid}/smaps_rollup").read_text()
    except OSError:
        return None
    rows = dict(line.split(":", 1) for line in text.splitlines()[1:])
    return {
        name: int(rows[name.capitalize()].split()[0]) / 1024 for name in ("rss", "pss")
    }


def measure_pool(directory: str, games: Sequence[str], *, envs: int, workers: int):
    """Start-up, memory and speed of `envs` environments in a pool."""
    make_env = functools.partial(webshop.make_env, directory, max_turns=TURNS)
    rng, slots = random.Random(0), range(envs)
    games = list(itertools.islice(itertools.cycle(games), envs))
    begin = time.perf_counter()
    with Pool(make_env, envs, workers=workers) as pool:
        pool.reset([0], games[:1])
        first = memory(pool.pids()[0])
        infos = [info for _, info in pool.reset(slots, games)]
        start = time.perf_counter() - begin
        begin = time.perf_counter()
        for _ in range(TURNS):
            answers = pool.step(slots, [choose(info, rng) for info in infos])
            infos = [answer[4] for answer in answers]
            over = [i for i in slots if answers[i][2] or answers[i][3]]
            for slot, (_, info) in zip(
                over, pool.reset(over, [games[i] for i in over]), strict=True
            ):
                infos[slot] = info
        seconds = time.perf_counter() - begin
        after = [memory(pid) for pid in pool.pids()]
    known = first is not None and all(after)
    return {
        "workers": workers,
        "start_s": start,
        "steps_per_s": envs * TURNS / seconds,
        "first_env_mb": first["rss"] if first and known else None,
        "all_envs_mb": sum(m["rss"] for m in after if m) if known else None,
        "all_envs_pss_mb": sum(m["pss"] for m in after if m) if known else None,
    }


def measure(folder: pathlib.Path, products: int, *, envs: int, steps: int) -> dict:
    """All figures of a made shop of that size."""
    begin = time.perf_counter()
    directory = str(make_shop(folder, products=products, seed=0))
    made = time.perf_counter()
    shop = webshop.load(directory)
    built = time.perf_counter()
    webshop.load(directory)
    again = time.perf_counter()
    games = shop.goal_ids(range(0, shop.num_goals, max(shop.num_goals // envs, 1)))
    return {
        "products": products,
        "goals": shop.num_goals,
        "make_s": made - begin,
        "first_load_s": built - made,
        "load_s": again - built,
        "steps_per_s": steps_per_second(shop, steps),
        "searches_per_s": searches_per_second(shop, max(steps // 100, 1)),
        "pool": measure_pool(directory, games, envs=envs, workers=1),
    }


def main(
    out: str | os.PathLike,
    *,
    products: Sequence[int] = (1_000, 100_000),
    envs: int = 128,
    steps: int = 20_000,
) -> dict:
    """Measures, prints a table and writes bench_webshop.json into `out`."""
    with tempfile.TemporaryDirectory() as scratch:
        rows = [
            measure(pathlib.Path(scratch) / str(n), n, envs=envs, steps=steps)
            for n in products
        ]
    result = {"envs": envs, "turns": TURNS, "aim_steps_per_s": AIM, "shops": rows}
    workdir.write_json(pathlib.Path(out) / "bench_webshop.json", result)
    print(table(result))
    return result


def table(result: dict) -> str:
    """The figures as Markdown."""
    head = (
        "products | goals | make s | first load s | load s | steps/s | searches/s | "
        f"pool: start s | steps/s | MB with 1 env | with {result['envs']}"
    ).split(" | ")
    lines = ["| " + " | ".join(head) + " |", "|" + " --- |" * len(head)]
    for row in result["shops"]:
        pool = row["pool"]
        cells = [f"{row['products']:,}", f"{row['goals']:,}"]
        cells += [f"{row[k]:.2f}" for k in ("make_s", "first_load_s", "load_s")]
        cells += [f"{row[k]:,.0f}" for k in ("steps_per_s", "searches_per_s")]
        cells += [f"{pool['start_s']:.2f}", f"{pool['steps_per_s']:,.0f}"]
        cells += [
            "-" if pool[k] is None else f"{pool[k]:.0f}"
            for k in ("first_env_mb", "all_envs_mb")
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)
