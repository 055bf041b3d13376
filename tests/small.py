"""A tiny agent and hand-made episodes, shared by tests of the road."""

import dataclasses
import functools
import pathlib
import tempfile

import jax
import numpy as np

from hiper_jax import lm
from hiper_jax.act.codec import load_codec
from hiper_jax.act.envs.worlds.alfworld.lesson import PHRASES
from hiper_jax.act.episode import Episode, Turn
from hiper_jax.act.pieces import piece_table
from hiper_jax.credit import hiper
from hiper_jax.experiments.warmstart.tokenizer import train_tokenizer
from hiper_jax.lm import value_heads as heads
from hiper_jax.networks import placement
from hiper_jax.networks.agent import Agent
from hiper_jax.networks.passes import make_model
from hiper_jax.update.state import Optimizers
from hiper_jax.update.step import compile_update, make_update

PLACES = ("bed 1", "desk 1", "desk 2", "shelf 1", "shelf 2", "drawer 1")
RESPONSE = "<switch>{}</switch><subgoal>{}</subgoal><action>{}</action>"


@functools.cache
def codec():
    """A tokenizer trained on a handful of sentences."""
    lines = [
        RESPONSE.format(word, f"find book: {place}", f"go to {place}")
        for word in ("KEEP", "SWITCH")
        for place in PLACES
    ]
    lines.append(
        "task: find the book\nnow: You see a bed 1, and a desk 2.\ncan: look\n"
    )
    with tempfile.TemporaryDirectory() as folder:
        train_tokenizer(lines, folder, vocab_size=340, phrases=PHRASES)
        return load_codec(pathlib.Path(folder))


def agent(seed: int = 0, **changes):
    """A random agent with its weights: (Agent, actor, critic)."""
    sizes = {"vocab_size": codec().vocab_size, "width": 32, "depth": 2}
    shape = lm.tiny(**sizes | {"mlp_width": 48, "head_dim": 8} | changes)
    key = jax.random.key(seed)
    critic = heads.init(shape, key)
    # Heads of zero would hide mistakes: every value would be 0.
    critic["value"] = jax.random.normal(key, critic["value"].shape) * 0.1
    pieces = piece_table(codec().tokenizer)
    made = Agent(shape, shape, codec(), pieces)
    return made, lm.init(shape, key), critic


def program(
    agent,
    actor,
    critic,
    settings,
    *txs,
    estimator=None,
    lengths=(64, 96),
    donate=False,
    key=1,
):
    """The compiled update of an agent, by HiPER's estimator, and a state at step 0."""
    estimator = estimator or hiper.estimator(settings)
    model = make_model(agent, estimator.heads)
    init, update = make_update(model, estimator, Optimizers(*txs), settings, lengths)
    places = placement.update_places(agent, init)
    data = jax.random.key_data(jax.random.key(key))
    state = placement.init_state(agent, init, actor, critic, data)
    return compile_update(update, donate=donate, places=places), state


def episode(
    rng: np.random.Generator, *, turns: int, won: bool, log_prob=None
) -> Episode:
    """An episode of random places and random segments."""
    made = []
    subgoal = ""
    for t in range(turns):
        switch = t == 0 or rng.random() < 0.4
        place = PLACES[rng.integers(len(PLACES))]
        subgoal = f"find book: {place}" if switch else subgoal
        text = RESPONSE.format(
            "SWITCH" if switch else "KEEP", subgoal, f"go to {place}"
        )
        prompt = "task: find the book\n" + "now: You see a bed 1.\n" * rng.integers(
            1, 4
        )
        response = np.array(codec().encode_response(text), np.int32)
        made.append(
            Turn(
                prompt=np.array(codec().encode_prompt(prompt), np.int32),
                response=response,
                log_prob=np.full(len(response), -1.0, np.float32),
                text=text,
                observation="You see a bed 1.",
                admissible=("look", f"go to {place}"),
                action=f"go to {place}",
                subgoal=subgoal,
                switch=switch,
                said_switch=switch,
                format_valid=bool(rng.random() < 0.9),
                action_valid=True,
                reward=float(won and t == turns - 1),
            )
        )
    after = () if won else codec().encode_prompt("task: find the book\n")
    return Episode(
        game=f"game-{turns}",
        task="find the book",
        task_type="pick",
        turns=tuple(made),
        terminated=won,
        truncated=not won,
        won=won,
        score=float(won),
        next_prompt=np.array(after, np.int32),
    )


def episodes(seed: int = 0, sizes=(5, 3, 6, 1), wins=(True, False, True, False)):
    """A few ragged episodes."""
    rng = np.random.default_rng(seed)
    return [episode(rng, turns=t, won=w) for t, w in zip(sizes, wins, strict=True)]


def shifted(turn: Turn, **changes) -> Turn:
    return dataclasses.replace(turn, **changes)
