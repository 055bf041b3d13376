"""One iteration's episodes: played, perhaps under strategies or again, or read.

Where there are several hosts, each plays its share of the tasks.
"""

import functools

import jax

from hiper_jax.act.rollout import Dropped, Environments, rollout
from hiper_jax.credit.strata import StrataSettings
from hiper_jax.experiments import (
    games,
    meeting,
    offline,
    panel,
    progress,
    redraw,
    setup,
)
from hiper_jax.experiments.follow import follow
from hiper_jax.update.state import TrainState


def act(
    run: meeting.Run, state: TrainState, pool: Environments, step: int, guard
) -> redraw.Drawn:
    """One iteration's episodes; those of this host where there are several."""
    config = run.config
    if run.stored is not None:
        return offline.draw(run.stored, step, config, run.hosts)
    chosen = games.training_games(
        run.train_games, step, config.episodes, config.seed, config.siblings
    )
    key = jax.random.fold_in(run.root_key, step)
    weights = run.functions.make_policy.lay_out(run.functions.policy(state))
    dropped: list[Dropped] = []
    tasks: dict[str, str] = {}
    told: dict[str, float] = {}

    def play(names, attempt: int, begin: int):
        gone: list[Dropped] = []
        noise = jax.random.fold_in(key, attempt) if attempt else key
        again = f", try {attempt}" if attempt else ""
        policy = functools.partial(run.functions.make_policy.of, weights, noise)
        options = {
            "max_turns": config.world.turns,
            "waves": setup.waves_of(config),
            "on_turn": run.bar(f"iteration {step + 1}: rollout{again}"),
            "on_drop": lambda one: (gone.append(one), progress.print_dropped(one)),
            "max_dropped": config.max_dropped,
        }
        if isinstance(config.learn, StrataSettings):
            episodes, spent, seen = follow(
                pool,
                policy,
                run.functions.make_embed(weights),
                names,
                run.reader,
                config.learn,
                temperature=config.temperature,
                first=attempt * config.episodes // config.learn.trajectories,
                place=begin,
                **options,
            )
            told.update({} if attempt else seen)
        else:
            sampler = policy(config.temperature)
            with meeting.turn_by_turn(run, sampler) as sample:
                sample = panel.from_place(sample, begin)
                episodes, spent = rollout(pool, sample, names, run.reader, **options)
        missing = {one.index for one in gone}
        left = [name for i, name in enumerate(names) if i not in missing]
        tasks.update((e.game, name) for e, name in zip(episodes, left, strict=True))
        dropped.extend(gone)
        return episodes, spent

    def others(number: int, attempt: int):
        return redraw.other_games(
            run.train_games, step, number, config.seed, config.siblings, attempt
        )

    def one_of_several(names, attempt: int, begin: int):
        # What is raised here is raised on all: they are about to hear each other.
        with meeting.together(run.hosts, guard, f"iteration {step + 1}, try {attempt}"):
            return play(names, attempt, begin)

    drawn = redraw.draw(
        one_of_several if config.redraw else play,
        chosen,
        others,
        siblings=config.siblings,
        tries=config.redraw,
        hosts=run.hosts,
    )
    metrics = {**told, **drawn.metrics, "rollout/dropped": float(len(dropped))}
    return drawn._replace(metrics=metrics, tasks=tasks)
