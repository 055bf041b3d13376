"""`hiper warmstart`: the small agents that reinforcement learning starts from.

Games -> the expert's demonstrations -> tokenizer -> imitation -> a critic fitted to the
imitator's own episodes. Everything follows from the settings and the seed.
"""

import dataclasses
import pathlib
import random
import shutil
import time
from collections.abc import Callable, Sequence

import jax
import numpy as np

from hiper_jax import lm
from hiper_jax._disk import guarded, one_at_a_time
from hiper_jax.act.codec import load_codec
from hiper_jax.act.envs.demo import Demo
from hiper_jax.act.envs.world import Practice, World, world_of
from hiper_jax.act.prompt import template_of
from hiper_jax.experiments import games as worlds
from hiper_jax.experiments import progress
from hiper_jax.experiments.config import Reading
from hiper_jax.experiments.warmstart import demonstrations, given
from hiper_jax.experiments.warmstart.critic import first_critic, fit_critic
from hiper_jax.experiments.warmstart.imitate import imitate
from hiper_jax.experiments.warmstart.settings import WarmStart
from hiper_jax.experiments.warmstart.tokenizer import train_tokenizer
from hiper_jax.networks.agent import save_agent
from hiper_jax.networks.shapes import shapes_of


def warmstart(config: WarmStart) -> pathlib.Path:
    """Makes a warm start.

    Returns:
      The folder with the actor, its tokenizer and its critic.

    Raises:
      ValueError: the folder holds a model, or a setting cannot work.
      TimeoutError: another process makes one there.
    """
    out = pathlib.Path(config.out)
    partial = out.with_name(out.name + ".partial")
    began = time.monotonic()
    with guarded(out.parent), one_at_a_time(partial, wait=0):
        if (out / "config.json").exists():
            raise ValueError(f"{out} holds a model already; name another --out")
        _make(config, partial)
        if out.exists():
            out.rmdir()
        partial.rename(out)
    print(f"{out}: {(time.monotonic() - began) / 60:.1f} minutes in all")
    return out


def _make(config: WarmStart, partial: pathlib.Path) -> None:
    """Makes a warm start in a folder, whatever another one has left there."""
    world = world_of(config.world)
    worlds.games_folder(config.world)
    demos = practise(config)
    shutil.rmtree(partial, ignore_errors=True)
    train_tokenizer(
        _texts(demos, world, config.reading),
        partial,
        vocab_size=config.vocab_size,
        phrases=world.lesson.phrases,
        names=world.lesson.names(config.world),
        format=config.reading.format,
    )
    codec = load_codec(partial)
    rows = demonstrations.rows(
        demos,
        world,
        codec,
        style=config.reading.style,
        max_prompt=config.reading.max_prompt,
        history_length=config.reading.history_length,
        mistakes=0.0 if config.source else config.mistakes,
        haste=0.0 if config.source else config.haste,
        seed=config.seed,
        format=config.reading.format,
        strategies=config.strategies,
        strategy_style=config.reading.strategy_style,
        show_turn=config.reading.show_turn,
    )
    rows = [r for r in rows if len(r.response) <= config.reading.max_response]
    shape = lm.tiny(
        codec.vocab_size,
        width=config.width,
        depth=config.depth,
        mlp_width=config.mlp_width,
        head_dim=config.width // 4,
    )
    prompts = np.mean([len(row.prompt) for row in rows])
    responses = np.mean([len(row.response) for row in rows])
    print(
        f"{len(rows)} turns of {prompts:.0f} + {responses:.0f} tokens; "
        f"{codec.vocab_size} in the vocabulary; {lm.num_params(shape):,} weights"
    )
    key = jax.random.key(config.seed)
    actor = imitate(
        lm.init(shape, key),
        shape,
        rows,
        steps=config.steps,
        batch=config.batch,
        learning_rate=config.learning_rate,
        prompt_weight=config.prompt_weight,
        length_buckets=shapes_of(
            max_prompt=config.reading.max_prompt,
            max_response=config.reading.max_response,
            episodes=1,
            max_turns=1,
        ).lengths,
        seed=config.seed,
        report=_imitation_report(config.steps),
    )
    agent, critic = first_critic(config, shape, codec, actor)
    # Whatever happens to the critic, the actor is on disk.
    save_agent(partial, agent, actor, critic)
    critic = fit_critic(config, agent, actor, critic)
    save_agent(partial, agent, actor, critic)


def _imitation_report(steps: int) -> Callable[[int, dict[str, float]], None]:
    """What shows how imitation goes, and how long it will take."""
    started = time.monotonic()

    def report(step: int, metrics: dict[str, float]) -> None:
        left = (time.monotonic() - started) / step * (steps - step)
        print(
            f"imitation {step}/{steps}  loss {metrics['loss']:.3f}"
            f"  accuracy {metrics['accuracy']:.3f}"
            f"  {metrics['tokens_per_second']:,.0f} tokens/s  {left / 60:.1f} min left",
            flush=True,
        )

    return report


def practise(config: WarmStart) -> list[Demo]:
    """The expert plays what its world lets it practise on; or others have played."""
    if config.source:
        return given.read(config.source, config.world, print)
    practice = world_of(config.world).lesson.practice
    if practice is None:
        games = worlds.training_manifest(config.world).ids
        return _demonstrations(config, Practice(games * config.practice_worlds))
    return _demonstrations(
        config, practice(config.world, config.practice_worlds, print)
    )


def _demonstrations(config: WarmStart, practice: Practice) -> list[Demo]:
    """Plays the games; leaves out the episodes that the practice does not keep."""
    demos, won, left_out = [], 0, 0
    show = progress.bar("demonstrations", unit="games")
    played = demonstrations.play(
        practice.tasks,
        dataclasses.replace(config.world, max_turns=config.world.max_turns + 20),
        noise=config.noise,
        seed=config.seed,
        workers=config.world.workers,
    )
    for n, demo in enumerate(played, start=1):
        show(n, len(practice.tasks))
        if not practice.keep(demo):
            left_out += 1
            continue
        demos.append(demo)
        won += demo.won
    print(
        f"{len(demos)} demonstrations, {won} won"
        + (f"; {left_out} left out, too like unseen games" if left_out else "")
    )
    return demos


def _texts(demos: Sequence[Demo], world: World, reading: Reading):
    rng = random.Random(0)
    template = template_of(world, reading.style, reading.format, reading.show_turn)
    for demo in demos:
        for prompt, response in demonstrations.texts(
            demo,
            world,
            style=reading.style,
            mistakes=0.0,
            haste=0.0,
            rng=rng,
            format=reading.format,
        ):
            yield template(*prompt, history_length=2) + response
