"""Games played by the scripted expert -> prompts and responses to imitate."""

import random
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

from hiper_jax.act.codec import Codec
from hiper_jax.act.envs.demo import Demo
from hiper_jax.act.envs.parallel import mapper
from hiper_jax.act.envs.wordings import Wording
from hiper_jax.act.envs.world import World, WorldSettings, world_of
from hiper_jax.act.prompt import fit_prompt, template_of
from hiper_jax.act.strategy_judge import fit_judgement
from hiper_jax.experiments import games as worlds

RESPONSE = (
    "<switch>{switch}</switch>{gap}"
    "<subgoal>{subgoal}</subgoal>{gap}"
    "<action>{action}</action>"
)
FLAT_RESPONSE = "<think>{word} {subgoal}</think>{gap}<action>{action}</action>"
# Games played in one environment: each loads a planner that is never unloaded.
TOGETHER = 20


class Row(NamedTuple):
    """One turn to imitate."""

    prompt: np.ndarray  # [P] int32
    response: np.ndarray  # [R] int32, end of message included


def play(
    games: Sequence[str],
    world: WorldSettings,
    *,
    noise: float,
    seed: int,
    workers: int,
):
    """Lets the expert play each game once; yields demonstrations in order.

    Raises:
      ValueError: the world has no expert.
    """
    make_env, demonstrate = worlds.make_env(world), world_of(world).expert
    if demonstrate is None:
        raise ValueError(
            f"{world.environment} has no scripted player to imitate: give its World "
            "an expert"
        )
    seeded = [(game, seed * 1_000_003 + i) for i, game in enumerate(games)]
    jobs = [
        (seeded[i : i + TOGETHER], make_env, demonstrate, noise)
        for i in range(0, len(seeded), TOGETHER)
    ]
    with mapper(max(workers, 1)) as map_all:
        for demos in map_all(_play, jobs):
            yield from demos


def _play(job):
    seeded, make_env, demonstrate, noise = job
    env = make_env()
    demos = [
        demonstrate(env, game, noise=noise, rng=random.Random(seed))
        for game, seed in seeded
    ]
    env.close()
    return demos


def texts(
    demo: Demo,
    world: World,
    *,
    style: str,
    mistakes: float,
    haste: float,
    rng: random.Random,
    format: str = "plan",
):
    """Yields (prompt arguments, response text) of each turn.

    Both formats say the same: without a plan the reasoning is the subgoal's words, and
    `now` or `still` where the switch would say SWITCH or KEEP. What differs is that a
    plan is shown again at the next turn, and reasoning is not.

    Args:
      demo: what the expert played.
      world: where; it says what there is to rush.
      style: the wording of prompts; "terse" responses stand on one line.
      mistakes: how often a turn teaches an admissible action drawn at random.
      haste: how often a turn that can be rushed teaches to rush it.
      rng: where chance comes from.
      format: of the responses, "plan" or "flat".
    """
    history, subgoal = [], ""
    wording = RESPONSE if format == "plan" else FLAT_RESPONSE
    gap = "" if style == "terse" else "\n"
    known = demo.info["task"]
    for step in demo.steps:
        task = step.task or demo.info["task"]
        subgoal, known = (subgoal if task == known else ""), task
        wrong = rng.random() < mistakes
        action = rng.choice(step.admissible_actions) if wrong else step.expert_action
        switch, plan = step.switch, step.subgoal
        hasty = world.lesson.haste(demo, step)
        if hasty and rng.random() < haste:
            plan, action = hasty
            switch = plan != subgoal
        response = wording.format(
            switch="SWITCH" if switch else "KEEP",
            word="now" if switch else "still",
            subgoal=plan,
            action=action,
            gap=gap,
        )
        # What a player did wrong stays in the history, and is no lesson.
        if step.expert_action:
            yield (
                (
                    task,
                    list(history),
                    step.observation,
                    subgoal,
                    step.admissible_actions,
                ),
                response,
            )
        history.append((step.observation, step.action))
        subgoal = step.subgoal


def rows(
    demos: Iterable[Demo],
    world: World,
    codec: Codec,
    *,
    style: str,
    max_prompt: int,
    history_length: int,
    mistakes: float,
    haste: float,
    seed: int,
    format: str = "plan",
    strategies: float = 0.0,
    strategy_style: str = "",
    show_turn: bool = False,
) -> list[Row]:
    """Encodes demonstrations, a row per turn.

    A share `strategies` of them stands under a strategy; each of these has a row more,
    which steps were useless, and one on how a strategy is written where the wording
    asks for it. Where it does not, the strategy is the first subgoal.
    """
    rng, chance = random.Random(seed), random.Random(f"strategies {seed}")
    template = template_of(world, style, format, show_turn)
    out = []
    for demo in demos:
        shown = template
        if strategies and chance.random() < strategies:
            wording = world.strategies[strategy_style or style]
            own = world.lesson.strategy(demo) if wording.ask else demo.steps[0].subgoal
            shown = wording.under(template, own)
            out += _around(demo, own, wording, codec, max_prompt)
        for prompt, response in texts(
            demo,
            world,
            style=style,
            mistakes=mistakes,
            haste=haste,
            rng=rng,
            format=format,
        ):
            fitted = fit_prompt(
                codec.encode_prompt,
                max_prompt,
                *prompt,
                template=shown,
                history_length=history_length,
            )
            out.append(
                Row(
                    np.asarray(fitted.ids, np.int32),
                    np.asarray(codec.encode_response(response), np.int32),
                )
            )
    return out


def _around(
    demo: Demo, strategy: str, wording: Wording, codec: Codec, max_prompt: int
) -> list[Row]:
    """A strategy as it is asked for, and what a judge says of the steps under it.

    Useless are those that chance played, where the expert wanted something else.
    """
    first, task, encode = demo.steps[0], demo.info["task"], codec.encode_prompt
    steps = [(step.observation, step.action) for step in demo.steps]
    useless = [n for n, s in enumerate(demo.steps, 1) if s.action != s.expert_action]
    judged = fit_judgement(wording, encode, max_prompt, task, strategy, steps)
    rows = [(judged, ", ".join(map(str, useless)) or "none")]
    if wording.ask is not None:
        view = task, [], first.observation, "", first.admissible_actions
        fitted = fit_prompt(
            encode, max_prompt, *view, template=wording.ask, history_length=0
        )
        rows.append((np.asarray(fitted.ids, np.int32), strategy))
    return [
        Row(prompt, np.asarray(codec.encode_response(said), np.int32))
        for prompt, said in rows
    ]
