"""An agent's weights -> the mean of its own last states over a response.

It compares texts by what the policy itself makes of them: no other model is needed.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from hiper_jax import lm
from hiper_jax._programs import CountedJit
from hiper_jax.networks.agent import Agent
from hiper_jax.networks.passes import on_rows
from hiper_jax.networks.sampler import divisible


def mean_states(agent: Agent) -> Callable[..., Any]:
    """(params, tokens [S, L], start [S], length [S]) -> [S, D] float32.

    The mean of the last hidden states at positions start to length, 0 where there is
    none of them.
    """

    def apply(params, tokens, start, length):
        tokens, start, length = on_rows(agent, tokens, start, length)
        hidden = lm.forward(
            params, agent.config, tokens, remat=agent.remat, **agent.on_mesh()
        )
        place = jnp.arange(tokens.shape[1])[None]
        inside = (place >= start[:, None]) & (place < length[:, None])
        total = jnp.where(inside[..., None], hidden.astype(jnp.float32), 0).sum(axis=1)
        return total / jnp.maximum(inside.sum(axis=1), 1)[:, None]

    return apply


def make_embedder(agent: Agent, *, rows: int, length: int):
    """Compiles `mean_states` once, for one shape.

    Args:
      agent: the networks' shapes and places.
      rows: S, fed at once; rounded up to what the mesh divides.
      length: L, tokens of a prompt with its response at most.

    Returns:
      make_embed(params) -> a function of (prompts, responses) that returns [n, D], see
      `act.strategy`. `make_embed.programs()` counts what was compiled.
    """
    (rows,) = divisible((rows,), agent.mesh)
    compiled = CountedJit(mean_states(agent))
    pad = agent.codec.pad_id

    def make_embed(params):
        def embed(
            prompts: Sequence[np.ndarray], responses: Sequence[np.ndarray]
        ) -> np.ndarray:
            found = []
            for begin in range(0, len(prompts), rows):
                tokens = np.full((rows, length), pad, np.int32)
                start, end = np.zeros((2, rows), np.int32)
                for i in range(min(rows, len(prompts) - begin)):
                    prompt, response = prompts[begin + i], responses[begin + i]
                    start[i], end[i] = len(prompt), len(prompt) + len(response)
                    tokens[i, : start[i]] = prompt
                    tokens[i, start[i] : end[i]] = response
                found.append(np.asarray(compiled(params, tokens, start, end)))
            return np.concatenate(found)[: len(prompts)]

        return embed

    make_embed.programs = compiled.programs
    return make_embed
