"""Our update against itself: as it was, with a critic of its own, on a shared trunk.

    plain     every layer at every position, as before states were asked for
    apart     actor and critic, each read where it is asked
    shared    value heads on the actor's trunk, values by a pass of their own
    sampled   the same, values as the sampler has left them

Rows have the lengths of the quickstart. The first two are compared number by number
before anything is timed, and so are the last two.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from hiper_jax import lm
from hiper_jax.act.codec import Codec
from hiper_jax.act.stack import Batch
from hiper_jax.credit import hiper
from hiper_jax.experiments.bench import models
from hiper_jax.experiments.bench.batch import filled
from hiper_jax.experiments.bench.timing import interleaved, medians
from hiper_jax.experiments.bench.update_sides import MAX_NORM, RATES
from hiper_jax.experiments.recipes.shared import OURS
from hiper_jax.lm import value_heads as heads
from hiper_jax.networks.agent import Agent
from hiper_jax.networks.model import Model
from hiper_jax.networks.passes import make_model, score, scored, select, values
from hiper_jax.networks.shapes import shapes_of
from hiper_jax.update.state import Optimizers
from hiper_jax.update.step import compile_update, make_update

MAX_PROMPT, MAX_RESPONSE = 256, 28  # tokens, of the quickstart
SAME = 5e-6  # relative, of losses and norms in float32


def compare(
    config: lm.LMConfig,
    *,
    episodes: int,
    turns: int,
    chunk: int,
    rounds: int,
    lengths: tuple[int, ...] = (),
):
    """Checks that sides which must agree do, then times all four.

    Args:
      config: the model's shape.
      episodes, turns: of the batch, all of it one minibatch.
      chunk: rows fed at once.
      rounds: times each side is timed.
      lengths: that a chunk may be cut to; (): every second of the quickstart's, equal
        for all sides and sooner compiled than all of them.

    Returns:
      seconds of every side; and how far metrics of plain and apart, and of shared and
      sampled, are from each other, relative.

    Raises:
      RuntimeError: they do not agree.
    """
    shapes = shapes_of(
        max_prompt=MAX_PROMPT, max_response=MAX_RESPONSE, episodes=64, max_turns=30
    )
    made = sides(config, (episodes, turns), chunk, lengths or shapes.lengths[::2])
    first = {name: jax.device_get(call()) for name, call in made.items()}
    # A pass and a sampler round alike within 1e-5; in 16 bits nothing is equal.
    near = SAME if config.dtype == "float32" else 0.05
    gaps = {}
    for one, other, far in (
        ("plain", "apart", near),
        ("shared", "sampled", max(10 * near, 0.05 * (near > SAME))),
    ):
        gap = gaps[f"{one}, {other}"] = distance(first[one], first[other])
        if not gap <= far:
            raise RuntimeError(
                f"{one} and {other} must compute the same update, but their metrics "
                f"differ by {gap:.2g}: nothing was timed"
            )
    return interleaved(made, rounds), gaps


def distance(one: dict[str, Any], other: dict[str, Any]) -> float:
    """The largest difference of two sides' losses and gradient norms, relative."""
    names = [n for n in one if n.startswith(("loss/value", "grad/", "policy/entropy"))]
    return max(abs(float(one[n] - other[n])) / abs(float(one[n])) for n in names)


def sides(
    config: lm.LMConfig, shape: tuple[int, int], chunk: int, lengths: tuple[int, ...]
) -> dict[str, Callable[[], Any]]:
    """A call of each side's update, which goes on from its last state."""
    rng = np.random.default_rng(0)
    N = shape[0] * shape[1]
    start = np.minimum(66 + rng.exponential(29, N), 160).astype(int)
    said = np.minimum(15 + rng.geometric(0.35, N), MAX_RESPONSE)
    batch = filled(rng, config.vocab_size, shape, MAX_RESPONSE, start, said, 284)
    params = models.random_weights(config)
    critic = heads.init(config, jax.random.key(1), trunk=False)
    critic["value"] = jax.random.normal(jax.random.key(2), critic["value"].shape) * 0.02
    trunk = {name: leaf for name, leaf in params.items() if name != "head"}
    no_text = Codec(None, eos_id=0, pad_id=0, chat=False)
    agent = Agent(config, config, no_text, None)
    shared = dataclasses.replace(agent, critic="shared")
    settings = dataclasses.replace(OURS, minibatch=N, chunk=min(chunk, N))
    estimator = hiper.estimator(settings)
    log_prob, value = read(agent, estimator.heads, params, critic, batch, chunk)
    noise = np.where(batch.response_mask, 0.1 * rng.normal(size=log_prob.shape), 0.0)
    batch = batch.replace(old_log_prob=(log_prob + noise).astype(np.float32))
    known = batch.replace(sampled_value=value, is_valued=np.ones(N, bool))
    whole = critic | {"trunk": trunk}
    build = functools.partial(side, estimator, settings, lengths, params)
    return {
        "plain": build(plain_model(agent, estimator.heads), whole, batch),
        "apart": build(make_model(agent, estimator.heads), whole, batch),
        "shared": build(make_model(shared, estimator.heads), critic, batch),
        "sampled": build(make_model(shared, estimator.heads), critic, known),
    }


def read(agent, names, params, critic, batch: Batch, chunk: int):
    """Log-probs and values of a batch at its beginning, as a sampler leaves them."""
    by = jax.jit(score(agent)), jax.jit(values(agent, names), static_argnums=3)
    whole, found = critic | {"trunk": params}, []
    for i in range(0, len(batch.start), chunk):
        rows = slice(i, i + chunk)
        tokens, start = batch.tokens[rows], batch.start[rows]
        log_prob, _ = by[0](params, tokens, start, batch.response[rows], 1.0)
        found.append((log_prob, by[1](whole, tokens, start, MAX_RESPONSE)))
    log_probs, said = (np.concatenate(part) for part in zip(*found, strict=True))
    return np.where(batch.response_mask, log_probs, 0.0), said


def side(estimator, settings, lengths, params, model: Model, critic, batch) -> Callable:
    """A compiled update and a copy of the weights, as one call after another."""
    optimizers = Optimizers(
        *(
            optax.chain(optax.clip_by_global_norm(MAX_NORM), optax.adam(rate))
            for rate in RATES
        )
    )
    init, update = make_update(model, estimator, optimizers, settings, lengths)
    update = compile_update(update)
    copies = jax.tree.map(jnp.copy, (params, critic))
    state = init(*copies, jax.random.key_data(jax.random.key(3)))
    moved = jax.tree.map(lambda x: x * 1.01, params)  # or the KL term has no pull
    held = {"state": jax.device_put(state.replace(reference=moved), jax.devices()[0])}

    def call():
        held["state"], metrics, _ = update(held["state"], batch)
        return metrics

    return call


def plain_model(agent: Agent, names: tuple[str, ...]) -> Model:
    """Two networks of which all layers compute every position."""

    def states(params, config, tokens, start, R):
        hidden = lm.forward(params, config, tokens)
        return lm.response_hidden(hidden, start, R)

    def score_of(actor, tokens, start, targets, temperature):
        hidden = states(actor, agent.config, tokens, start, targets.shape[1])
        return scored(agent, actor, hidden, targets, temperature)

    def values_of(critic, tokens, start, R):
        hidden = states(critic["trunk"], agent.critic_config, tokens, start, R)
        return select(heads.head_values(critic, hidden), names)

    return Model(score_of, values_of)


def table(seconds: dict[str, list[float]]) -> list[tuple[str, str, float, str]]:
    """Rows for `models.table`."""
    plain, apart, shared, sampled = (
        medians(seconds)[name] for name in ("plain", "apart", "shared", "sampled")
    )
    return [
        ("C12", "update as it was over ours", plain / apart, "at least 1.4"),
        ("C13", "the same over a shared trunk's", plain / sampled, "at least 1.8"),
        ("", "ours over a shared trunk's", apart / sampled, ""),
        ("", "values by a pass over values sampled", shared / sampled, ""),
    ]
