"""Games played by the scripted expert -> prompts and responses to imitate."""

import random
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

from hiper_jax.act.codec import Codec
from hiper_jax.act.envs.parallel import mapper
from hiper_jax.act.envs.worlds.alfworld.expert import passing_by, places_of
from hiper_jax.act.envs.worlds.webshop.pages import PURCHASE
from hiper_jax.act.prompt import fit_prompt
from hiper_jax.experiments import games as worlds
from hiper_jax.experiments.config import World

RESPONSE = (
    "<switch>{switch}</switch>{gap}"
    "<subgoal>{subgoal}</subgoal>{gap}"
    "<action>{action}</action>"
)
# Games played in one environment: each loads a planner that is never unloaded.
TOGETHER = 20


class Row(NamedTuple):
    """One turn to imitate."""

    prompt: np.ndarray  # [P] int32
    response: np.ndarray  # [R] int32, end of message included


def play(
    games: Sequence[str],
    world: World,
    *,
    noise: float,
    seed: int,
    workers: int,
):
    """Lets the expert play each game once; yields demonstrations in order."""
    make_env, demonstrate = worlds.make_env(world), worlds.expert(world)
    seeded = [(game, seed * 1_000_003 + i) for i, game in enumerate(games)]
    jobs = [
        (seeded[i : i + TOGETHER], make_env, demonstrate, noise)
        for i in range(0, len(seeded), TOGETHER)
    ]
    with mapper(max(workers, 1)) as map_all:
        for demos in map_all(_play, jobs):
            yield from demos


def layout(actions: Sequence[str]) -> tuple[str, ...]:
    """A room as a player first sees it: the places that can be walked to."""
    return tuple(sorted(places_of(actions)))


def layouts(games: Sequence[str]):
    """Yields the layout of each game's room."""
    from hiper_jax.act.envs.worlds.alfworld.world import AlfWorld

    env = AlfWorld()
    for game in games:
        yield layout(env.reset(game)[1]["admissible_actions"])
    env.close()


def _play(job):
    seeded, make_env, demonstrate, noise = job
    env = make_env()
    demos = [
        demonstrate(env, game, noise=noise, rng=random.Random(seed))
        for game, seed in seeded
    ]
    env.close()
    return demos


def texts(demo, *, style: str, mistakes: float, haste: float, rng: random.Random):
    """Yields (prompt arguments, response text) of each turn.

    Args:
      demo: what the expert played.
      style: the wording of prompts; "terse" responses stand on one line.
      mistakes: how often a turn teaches an admissible action drawn at random.
      haste: how often a turn that could buy teaches to buy, whatever is still to do,
        or one that should take a thing to search on.
      rng: where chance comes from.
    """
    history, subgoal = [], ""
    gap = "" if style == "terse" else "\n"
    for step in demo.steps:
        wrong = rng.random() < mistakes
        action = rng.choice(step.admissible_actions) if wrong else step.expert_action
        switch, plan = step.switch, step.subgoal
        hasty = _in_haste(demo, step)
        if hasty and rng.random() < haste:
            plan, action = hasty
            switch = plan != subgoal
        response = RESPONSE.format(
            switch="SWITCH" if switch else "KEEP",
            subgoal=plan,
            action=action,
            gap=gap,
        )
        yield (
            (
                demo.info["task"],
                list(history[-2:]),
                step.observation,
                subgoal,
                step.admissible_actions,
            ),
            response,
        )
        history.append((step.observation, step.action))
        subgoal = step.subgoal


def _in_haste(demo, step) -> tuple[str, str] | None:
    """The subgoal and the action of a player in haste, if there is anything to rush."""
    if PURCHASE in step.admissible_actions:
        return "buy", PURCHASE
    return passing_by(demo, step)


def rows(
    demos: Iterable,
    codec: Codec,
    *,
    style: str,
    max_prompt: int,
    history_length: int,
    mistakes: float,
    haste: float,
    seed: int,
) -> list[Row]:
    """Encodes demonstrations, a row per turn."""
    rng = random.Random(seed)
    out = []
    for demo in demos:
        for prompt, response in texts(
            demo, style=style, mistakes=mistakes, haste=haste, rng=rng
        ):
            fitted = fit_prompt(
                codec.encode_prompt,
                max_prompt,
                *prompt,
                style=style,
                history_length=history_length,
            )
            out.append(
                Row(
                    np.asarray(fitted.ids, np.int32),
                    np.asarray(codec.encode_response(response), np.int32),
                )
            )
    return out
