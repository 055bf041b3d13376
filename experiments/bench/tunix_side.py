"""The side of `hiper bench peers` that is tunix's: its model, sampler and PPO pieces.

Everything that computes is the package's own; what is written here is only what joins
the pieces, as its learner joins them: a step of `nnx.value_and_grad` and
`nnx.Optimizer`, compiled with the optimizer's memory given away.
"""

import dataclasses
import importlib
import tempfile
import types
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from hiper_jax import lm
from hiper_jax.act.stack import Batch
from hiper_jax.experiments.bench.generate import left_padded
from hiper_jax.lm import weights

PAD, END = -1, -2  # ids that no text has: a prompt may hold every other


def need_tunix() -> None:
    """Looks whether the package is there.

    Raises:
      ImportError: it is not installed.
    """
    try:
        importlib.import_module("tunix")
    except ImportError:
        raise ImportError(
            "this bench compares with tunix: pip install 'hiper-jax[peers,parity]'"
        ) from None


def _part(name: str) -> Any:
    """A module of the package, which type checkers need not have."""
    return importlib.import_module(f"tunix.{name}")


def model_of(params: Any, config: lm.LMConfig) -> Any:
    """The same weights as tunix's Qwen2, read from the files that we write."""
    theirs = _part("models.qwen2.model").ModelConfig(
        num_layers=config.depth,
        vocab_size=config.vocab_size,
        embed_dim=config.width,
        hidden_dim=config.mlp_width,
        num_heads=config.num_heads,
        head_dim=config.head_dim,
        num_kv_heads=config.num_kv_heads,
        rope_theta=int(config.rope_theta),
        norm_eps=config.rms_eps,
        use_tied_embedding=config.tied,
        dtype=jnp.dtype(config.dtype),
    )
    with tempfile.TemporaryDirectory() as folder:
        weights.save(folder, params, config, dtype=jnp.float32)
        reading = _part("models.qwen2.params")
        return reading.create_model_from_safe_tensors(folder, theirs)


def critic_of(trunk: Any, config: lm.LMConfig, weight: Any, bias: Any) -> Any:
    """The trunk with a linear layer to one value for its head.

    Args:
      trunk: our tree of weights.
      config: its shape.
      weight: [D] of the value.
      bias: [] of the value.
    """
    if not config.tied:
        trunk = trunk | {"head": trunk["embed"]}
    critic = model_of(trunk, config)
    critic.config = dataclasses.replace(critic.config, use_tied_embedding=False)
    head: Any = nnx.Linear(config.width, 1, rngs=nnx.Rngs(0))
    head.kernel[...] = jnp.asarray(weight)[:, None]
    head.bias[...] = jnp.asarray(bias)[None]
    critic.lm_head = head
    return critic


class Ids:
    """A tokenizer for prompts that are lists of ids already."""

    def encode(self, text: list[int]) -> list[int]:
        return text

    def decode(self, ids: list[int]) -> str:
        del ids
        return ""

    def bos_id(self) -> int:
        return 0

    def eos_id(self) -> int:
        return END

    def pad_id(self) -> int:
        return PAD


def sampler_of(model: Any, config: lm.LMConfig, room: int) -> Any:
    """tunix's sampler with a cache for `room` tokens, prompt and response."""
    part, shape = _part("generate.sampler"), (config.num_kv_heads, config.head_dim)
    return part.Sampler(model, Ids(), part.CacheConfig(room, config.depth, *shape))


class Rows(NamedTuple):
    """M rows as its learner lays them: prompts padded on the left to P."""

    prompt: jax.Array  # [M, P] int32
    response: jax.Array  # [M, R] int32
    mask: jax.Array  # [M, R] bool
    old_log_prob: jax.Array  # [M, R]
    reward: jax.Array  # [M, R], the response's score on its last token


def padded_rows(batch: Batch, P: int, R: int) -> Rows:
    """Our flat rows -> tunix's; every response's score is its episode's return."""
    mask = np.asarray(batch.response_mask[:, :R])
    prompts = [t[:n] for t, n in zip(batch.tokens, batch.start, strict=True)]
    tokens, real = left_padded(prompts, P)
    score = np.repeat(np.asarray(batch.reward).sum(axis=1), batch.row.shape[1])
    last = np.arange(R) == mask.sum(axis=1)[:, None] - 1
    arrays = (
        np.where(real, tokens, PAD).astype(np.int32),
        np.where(mask, batch.response[:, :R], PAD).astype(np.int32),
        mask,
        np.asarray(batch.old_log_prob[:, :R]),
        np.where(last, score[:, None], 0).astype(np.float32),
    )
    return Rows(*map(jnp.asarray, arrays))


class Learner:
    """Actor, critic, reference and two optimizers; `step` is one PPO update."""

    def __init__(
        self,
        actor: Any,
        critic: Any,
        reference: Any,
        settings: Any,
        optimizers: tuple[optax.GradientTransformation, ...],
    ):
        algo_core = _part("rl.algo_core")
        self.actor, self.critic, self.settings = actor, critic, settings
        self.reference = nnx.split(reference)
        to_actor, to_critic = optimizers
        self.actor_opt = nnx.Optimizer(actor, to_actor, wrt=nnx.Param)
        self.critic_opt = nnx.Optimizer(critic, to_critic, wrt=nnx.Param)
        s = settings
        policy = types.SimpleNamespace(
            epsilon_low=s.clip_low,
            epsilon_high=s.clip_high,
            epsilon_c=s.dual_clip,
            entropy_coef=s.entropy_coef,
            kl_coef=s.kl_coef,
        )
        self.actor_step = _step(algo_core.ppo_policy_loss_fn, algo_config=policy)
        self.critic_step = _step(
            algo_core.ppo_value_loss_fn, clip_range_value=s.value_clip
        )

    def log_probs(self, rows: Rows) -> jax.Array:
        """[M, R] of the responses under the actor, in nats."""
        return _log_probs(*nnx.split(self.actor), rows)

    def step(self, rows: Rows) -> dict[str, jax.Array]:
        """One update on one minibatch, all rows at once.

        Returns:
          its losses and the norms of both gradients, under our names.
        """
        algo_core, common = _part("rl.algo_core"), _part("rl.common")
        s, R = self.settings, rows.response.shape[1]
        reference = _log_probs(*self.reference, rows)
        values = common.compute_score(self.critic, rows.prompt, rows.response, PAD, END)
        values = values[:, -R - 1 : -1] * rows.mask
        advantages, returns = algo_core.compute_gae_advantages(
            rows.reward, values, rows.mask, s.gamma_token, s.lambda_token
        )
        example = _part("rl.ppo.ppo_learner").TrainExample(
            prompt_ids=rows.prompt,
            prompt_mask=rows.prompt != PAD,
            completion_ids=rows.response,
            completion_mask=rows.mask,
            advantages=advantages,
            ref_per_token_logps=reference,
            old_per_token_logps=rows.old_log_prob,
            returns=returns,
            old_values=values,
        )
        loss, told, norm = self.actor_step(self.actor, self.actor_opt, example)
        _, error, critic_norm = self.critic_step(self.critic, self.critic_opt, example)
        kl, entropy = told["kl"], told["loss/entropy"]
        return {
            "policy": loss - s.kl_coef * kl + s.entropy_coef * entropy,
            "kl": kl,
            "entropy": entropy,
            # Theirs is half of the squared error, ours all of it.
            "value": 2 * error["vf_loss"],
            "grad actor": norm,
            "grad critic": 2 * critic_norm,
        }


def _log_probs(graph: Any, state: Any, rows: Rows) -> jax.Array:
    return _part("rl.common").compute_per_token_logps(
        graph, state, rows.prompt, rows.response, PAD, END
    )


def _step(loss: Any, **given: Any) -> Any:
    """A compiled step of one network, as tunix's trainer compiles it."""

    def step(model, optimizer, example):
        def of_model(model):
            return loss(model, train_example=example, pad_id=PAD, eos_id=END, **given)

        (value, told), grads = nnx.value_and_grad(of_model, has_aux=True)(model)
        norm = optax.global_norm(grads)
        optimizer.update(model, grads)
        return value, told, norm

    return nnx.jit(step, donate_argnames=("optimizer",))
