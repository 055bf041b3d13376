"""Both sides of the update's bench: equal weights, rows, optimizers and settings."""

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
from hiper_jax.credit import credit_masks, hiper, segment_starts, token_advantage
from hiper_jax.credit.estimator import Estimator
from hiper_jax.experiments.bench import models
from hiper_jax.experiments.bench.batch import published, random_batch
from hiper_jax.experiments.config import Learn
from hiper_jax.lm import value_heads as heads
from hiper_jax.networks.agent import Agent
from hiper_jax.networks.model import Model
from hiper_jax.networks.passes import make_model
from hiper_jax.update.state import Optimizers
from hiper_jax.update.step import compile_update, make_update

RATES, MAX_NORM = (1e-5, 1e-4), 1.0
OPTIMIZERS = Optimizers(
    *(
        optax.chain(optax.clip_by_global_norm(MAX_NORM), optax.adam(rate))
        for rate in RATES
    )
)


def settings_of(rows: int, chunk: int) -> Learn:
    """One minibatch of all rows: its order is then of no account."""
    return Learn(
        gamma=0.98,
        kl_coef=0.05,
        bootstrap="none",
        minibatch=rows,
        chunk=min(chunk, rows),
    )


def our_side(
    config: lm.LMConfig,
    *,
    episodes: int,
    turns: int,
    chunk: int,
    scale: int,
    remat: str = "none",
    settings: Any = None,
    estimator: Callable[[Any], Estimator] = hiper.estimator,
    optimizers: Optimizers = OPTIMIZERS,
):
    """(update, state, batch), with old log-probs near the actor's own.

    Without `settings` those of `settings_of`.
    """
    rng = np.random.default_rng(0)
    batch = random_batch(rng, config.vocab_size, episodes, turns, scale)
    params = models.random_weights(config)
    critic = heads.init(config, jax.random.key(1))
    critic["trunk"] = jax.tree.map(
        jnp.copy, {k: v for k, v in params.items() if k != "head"}
    )
    critic["value"] = jax.random.normal(jax.random.key(2), critic["value"].shape) * 0.02
    settings = settings or settings_of(len(batch.start), chunk)
    assigned = estimator(settings)
    model = model_of(config, assigned.heads, remat)
    noise = 0.1 * rng.normal(size=batch.response.shape)
    old = log_probs_of(config, params, batch, settings.chunk) + noise
    old = np.where(batch.response_mask, old, 0.0)
    batch = batch.replace(old_log_prob=old.astype(np.float32))
    init, update = make_update(
        model, assigned, optimizers, settings, published(scale)[2]
    )
    update = compile_update(update)
    # A moved reference: the KL term must have something to pull at.
    moved = jax.tree.map(lambda x: x * 1.01, params)
    state = init(params, critic, jax.random.key_data(jax.random.key(3)))
    state = jax.device_put(state.replace(reference=moved), jax.devices()[0])
    return update, state, batch


def model_of(config: lm.LMConfig, heads: tuple[str, ...], remat: str = "none") -> Model:
    """The passes of an agent without a text of its own."""
    no_text = Codec(None, eos_id=0, pad_id=0, chat=False)
    return make_model(Agent(config, config, no_text, None, remat=remat), heads)


def log_probs_of(config: lm.LMConfig, params: Any, batch: Batch, chunk: int):
    """[N, R] of the responses, in nats; `chunk` rows at a time."""
    one = jax.jit(model_of(config, ()).score)
    rows = batch.tokens, batch.start, batch.response
    return np.concatenate(
        [
            one(params, *(x[i : i + chunk] for x in rows), 1.0)[0]
            for i in range(0, len(batch.start), chunk)
        ]
    )


def their_side(config: lm.LMConfig, state, settings: Any, device: str):
    """The same weights and optimizers in torch, HiPER's three values."""
    from hiper_jax.experiments.bench import torch_ppo

    value = state.critic["value"], state.critic["value_bias"]
    kinds = torch_ppo.Learner, torch_ppo.Critic
    return _in_torch(config, state, settings, device, kinds, value)


def token_side(config: lm.LMConfig, state, settings: Any, device: str = "cpu"):
    """The same weights in torch, one value before every response token, AdamW."""
    from hiper_jax.experiments.bench import torch_ppo

    value = state.critic["value"][:, :1], state.critic["value_bias"][:1]
    kinds = torch_ppo.TokenLearner, torch_ppo.TokenCritic
    return _in_torch(config, state, settings, device, kinds, value)


def token_rows(batch: Batch, reward, mask, P: int, R: int, device: str = "cpu"):
    """Rows for `token_side`: reward and mask [M, R], padded to P and R."""
    from hiper_jax.experiments.bench import torch_ppo

    M = len(batch.start)
    nothing = np.ones(M, bool), np.zeros((M, 3), np.float32)
    return torch_ppo.padded_rows(batch, reward, mask, *nothing, P=P, R=R, device=device)


def _in_torch(config, state, settings, device: str, kinds, value):
    build = functools.partial(
        models.their_model, config=config, dtype="float32", device=device
    )
    trunk = state.critic["trunk"]
    if not config.tied:
        trunk = trunk | {"head": trunk["embed"]}
    learner, critic = kinds
    return learner(
        build(state.actor),
        critic(build(trunk).model, *map(np.asarray, value)),
        build(state.reference),
        settings,
        rates=RATES,
        max_norm=MAX_NORM,
        half=config.dtype == "bfloat16",
    )


def handed(batch: Batch, credit) -> tuple[np.ndarray, ...]:
    """What our HAE made of a batch of full trajectories, per row."""
    N = len(batch.start)
    starts = segment_starts(batch.segment).reshape(N)
    masks = credit_masks(
        starts, batch.action_mask, batch.subgoal_mask, batch.switch_mask
    )
    low, high, switch = (
        credit[f"advantage_{n}"].reshape(N) for n in ("low", "high", "switch")
    )
    advantage, carries = token_advantage(low, high, switch, *masks)
    returns = [credit[f"return_{n}"].reshape(N) for n in hiper.HEADS]
    returns = np.stack(returns, axis=1)
    return np.asarray(advantage), np.asarray(carries), np.asarray(starts), returns
