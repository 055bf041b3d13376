"""Makes ALFWorld games: a data set in ALFWorld's own format, from a seed.

Every game is played to the end by ALFWorld's hand-coded expert before it is kept; the
moves stay in the file as its walkthrough.
"""

import json
import os
import random
from collections.abc import Callable, Sequence
from typing import NamedTuple

from hiper_jax._disk import making
from hiper_jax.act.envs.parallel import mapper
from hiper_jax.act.envs.worlds.alfworld import alfred, sequel
from hiper_jax.act.envs.worlds.alfworld import house as rooms
from hiper_jax.act.envs.worlds.alfworld import problem as problems
from hiper_jax.act.envs.worlds.alfworld.data import SPLITS, TASK_TYPES, TEST, VERSION
from hiper_jax.act.envs.worlds.alfworld.dialect import stock_texts, with_texts
from hiper_jax.act.envs.worlds.alfworld.game import read_game
from hiper_jax.act.envs.worlds.alfworld.prover import prove

_ATTEMPTS = 200
MOST_GOALS = 3


class Settings(NamedTuple):
    """What decides the games, besides their number."""

    seed: int
    receptacles: tuple[int, int]
    objects: tuple[int, int]
    expert_steps: int  # for each goal
    goals: int = 1


class Job(NamedTuple):
    """One game to make."""

    split: str
    index: int
    task_type: str
    choices: tuple[rooms.Room, ...]  # the rooms it may be posed in
    settings: Settings


def make_games(
    out: str,
    *,
    train: int,
    seen: int,
    unseen: int,
    seed: int,
    test: int = 0,
    receptacles: tuple[int, int] = (6, 12),
    objects: tuple[int, int] = (6, 12),
    expert_steps: int = 50,
    goals: int = 1,
    stock: bool = False,
    workers: int = 1,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, int]:
    """Writes a data set: `<out>/json_2.1.1/{train,valid_seen,valid_unseen}/...`.

    Task types and kinds of room take turns. The unseen split plays in rooms (numbers
    and layouts) that training has none of; the seen split plays in training's rooms
    with other tasks and placements; the test split in rooms that none of the others
    has, drawn by chances of its own. The same arguments write the same bytes, whatever
    `workers` is. `<out>` is usable as ALFWORLD_DATA with the stock tools.

    Args:
      out: the folder to write; must not exist or be empty. Written whole or not at all.
      train: how many training games.
      seen: how many games in rooms known from training.
      unseen: how many games in new rooms.
      seed: of everything.
      test: how many games for one report at the end, in the split "test_unseen".
      receptacles: least and greatest number of receptacles in a room.
      objects: least and greatest number of objects in a room.
      expert_steps: a game that takes the expert more moves is drawn again; of several
        goals, for each of them.
      goals: to be reached one after another in each game.
      stock: writes ALFWorld's domain and grammar into the files, from the alfworld
        package, so that its own tools play them.
      workers: processes that solve games.
      progress: called with (games done, games in all).

    Returns:
      The number of games written, by split.

    Raises:
      FileExistsError: `out` exists and is not empty.
      ValueError: the numbers make no sense, or no such game can be found.
    """
    _check((train, seen, unseen, test), receptacles, objects, expert_steps, workers)
    check_goals(goals, stock=stock)
    out = os.path.abspath(out)
    counts: dict[str, int] = dict(zip(SPLITS, (train, seen, unseen), strict=True))
    counts |= {TEST: test} if test else {}
    settings = Settings(seed, _pair(receptacles), _pair(objects), expert_steps, goals)
    layouts = _layouts(settings)
    signatures: set[tuple] = set()
    used: dict[str, set[int]] = {kind: set() for kind in alfred.KINDS}
    done = 0
    with making(out) as work:
        with mapper(workers) as map_all:
            for split in ("train", "valid_unseen", "valid_seen", TEST)[: len(counts)]:
                jobs = _jobs(split, counts[split], used, settings, layouts)
                for job, solved in zip(jobs, map_all(solve, jobs), strict=True):
                    problem, moves, attempt = solved
                    while problem.signature in signatures:
                        problem, moves, attempt = solve(job, first=attempt + 1)
                    signatures.add(problem.signature)
                    if split == "train":
                        used[problem.room.kind].add(problem.room.number)
                    trial = os.path.join(problem.folder, f"trial_T{job.index:08d}")
                    folder = os.path.join(work, VERSION, split, trial)
                    _write_files(folder, problem, moves, stock)
                    done += 1
                    if progress is not None:
                        progress(done, sum(counts.values()))
        _write_shared(work, counts, settings, stock)
    return counts


def _pair(span: Sequence[int]) -> tuple[int, int]:
    low, high = span
    return low, high


def _check(counts, receptacles, objects, expert_steps, workers):
    train, seen, *_ = counts
    if min(counts) < 0 or sum(counts) == 0:
        raise ValueError("Ask for at least one game, and for no negative number.")
    if seen and not train:
        raise ValueError("The seen split plays in training's rooms: ask for train > 0.")
    for name, (low, high), least in (
        ("receptacles", receptacles, rooms.MIN_RECEPTACLES),
        ("objects", objects, rooms.MIN_OBJECTS),
    ):
        if not least <= low <= high:
            raise ValueError(
                f"{name} must be a range (least, greatest) from {least} up, not "
                f"({low}, {high})."
            )
    if expert_steps < 10 or workers < 1:
        raise ValueError("expert_steps must be at least 10 and workers at least 1.")


def check_goals(goals: int, *, stock: bool = False) -> None:
    """Refuses a number of goals that no game is made with."""
    if not 1 <= goals <= MOST_GOALS:
        raise ValueError(f"goals must be from 1 to {MOST_GOALS}, not {goals}.")
    if goals > 1 and stock:
        raise ValueError(
            "ALFWorld's own tools play games of one goal: leave out stock."
        )


def _layouts(settings) -> dict[int, rooms.Room]:
    """One room for each number; no unseen room looks like a training room."""
    found: dict[int, rooms.Room] = {}
    for unseen in (False, True):
        old = {room.signature for room in found.values()} if unseen else set()
        for kind in alfred.KINDS:
            for number in alfred.numbers(kind, unseen=unseen):
                found[number] = _layout(number, old, settings)
    return found


def _layout(number, avoid, settings) -> rooms.Room:
    room = _another(number, avoid, settings)
    if room is None:
        raise ValueError(
            f"No layout of room {number} differs from all training rooms with "
            f"{settings.receptacles} receptacles: allow a wider range."
        )
    return room


def _another(number, avoid, settings) -> rooms.Room | None:
    """A layout of that room unlike those to avoid; None if there is none."""
    for salt in range(_ATTEMPTS):
        room = rooms.layout(
            number, receptacles=settings.receptacles, seed=settings.seed, salt=salt
        )
        if room.signature not in avoid:
            return room
    return None


def _test_layouts(kind, layouts, settings) -> tuple[rooms.Room, ...]:
    """Unseen rooms of a kind, laid out as neither training's nor validation's are."""
    old = {room.signature for room in layouts.values()}
    numbers = alfred.numbers(kind, unseen=True)
    found = [_another(number, old, settings) for number in numbers]
    if not any(found):
        raise ValueError(
            f"No {kind} is left for the test split with {settings.receptacles} "
            "receptacles: allow a wider range."
        )
    return tuple(room for room in found if room)


def _jobs(split, count, used, settings, layouts) -> list[Job]:
    """What to make for a split: task types take turns, then kinds of room."""
    jobs = []
    tests = {}
    if split == TEST:
        tests = {k: _test_layouts(k, layouts, settings) for k in alfred.KINDS}
    for index in range(count):
        task_type = TASK_TYPES[index % len(TASK_TYPES)]
        kinds = alfred.kinds_for(task_type)
        turn = (index // len(TASK_TYPES)) % len(kinds)
        kinds = kinds[turn:] + kinds[:turn]
        if split == "valid_seen":
            kinds = [kind for kind in kinds if used[kind]]
            if not kinds:
                raise ValueError(
                    f"Training has no room for a seen game of type {task_type}: ask "
                    f"for at least {len(TASK_TYPES)} training games."
                )
            numbers = sorted(used[kinds[0]])
        else:
            numbers = alfred.numbers(kinds[0], unseen=split == "valid_unseen")
        choices = tuple(layouts[number] for number in numbers)
        if split == TEST:
            choices = tests[kinds[0]]
        jobs.append(Job(split, index, task_type, choices, settings))
    return jobs


def solve(job: Job, *, first: int = 0) -> tuple[problems.Problem, list[str], int]:
    """Draws games for a job until the expert wins one.

    Args:
      job: what to make.
      first: the number of the first attempt; each attempt has its own chance.

    Returns:
      The problem, the expert's moves and the number of the attempt.

    Raises:
      ValueError: no attempt gave a game that the expert solves.
    """
    seed, _, objects, _, goals = job.settings
    for attempt in range(first, first + _ATTEMPTS):
        rng = random.Random(f"game {seed} {job.split} {job.index} {attempt}")
        room = rng.choice(job.choices)
        problem = problems.pose(
            job.task_type, room, objects=objects, rng=rng, goals=goals
        )
        if problem is not None:
            moves = _expert_moves(problem, job.settings.expert_steps)
            if moves is not None:
                return problem, moves, attempt
    raise ValueError(
        f"The expert solved none of {_ATTEMPTS} games of type {job.task_type} in the "
        f"{job.split} rooms: allow more receptacles, objects or expert_steps."
    )


def _expert_moves(problem, limit) -> list[str] | None:
    """The expert's winning moves, or None if it does not win within `limit` a goal."""
    game = read_game(problems.game_data(problem, None))
    if problem.then:
        return sequel.prove(game, problem.task_type, limit=limit * len(problem.aims))
    return prove(
        game,
        problem.task_type,
        target=problem.target,
        parent=problem.parent,
        lamp=problem.lamp,
        limit=limit,
    )


def _write_files(folder, problem, moves, stock) -> None:
    os.makedirs(folder, exist_ok=True)
    game = problems.game_data(problem, moves)
    if stock:
        game = with_texts(game)
    for name, text in (
        ("initial_state.pddl", game["pddl_problem"]),
        ("traj_data.json", json.dumps(problems.traj_data(problem), indent=1)),
        ("game.tw-pddl", json.dumps(game)),
    ):
        with open(os.path.join(folder, name), "w", encoding="utf-8") as file:
            file.write(text)


def _write_shared(work, counts, settings, stock) -> None:
    """How the set was made, and the texts where the stock tools look for them."""
    made = {"games": counts, **settings._asdict()}
    if settings.goals == 1:
        del made["goals"]
    files = {"made.json": json.dumps(made, indent=1) + "\n"}
    if stock:
        domain, grammar = stock_texts()
        files |= {"logic/alfred.pddl": domain, "logic/alfred.twl2": grammar}
    for name, text in files.items():
        path = os.path.join(work, name)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "w", encoding="utf-8") as file:
            file.write(text)
