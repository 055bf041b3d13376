"""How long an iteration takes at least, from what makers publish of their chips.

Each part of an iteration takes as long as what binds it: products at the chip's peak,
bytes read from its memory, or bytes over its links. Nothing reaches these figures, and
environments, the host and what overlaps badly are left out: a bound from below, good
for saying what binds and how it scales. Nothing here was timed.

Letters: p weights of the layers, E of an embedding; C rows of a chunk; W = data x fsdp.
"""

import math
from collections.abc import Mapping
from typing import NamedTuple

import jax.numpy as jnp

from hiper_jax.experiments.capacity.hardware import CHIPS, Hardware
from hiper_jax.experiments.capacity.plan import Plan, has_critic
from hiper_jax.lm import LMConfig, num_params

# Tokens of a turn in the published runs' logs (as in the benchmarks), and what is fed
# for each real one in chunks of 16 and in sampling.
PROMPT, RESPONSE, FED = 750, 38, 1.15
MINIBATCH = 256  # turns of an optimizer step


class Part(NamedTuple):
    """A part of an iteration: seconds that each resource of a device needs for it."""

    compute: float
    memory: float
    link: float

    @property
    def seconds(self) -> float:
        return max(self)

    @property
    def binds(self) -> str:
        return self._fields[self.index(max(self))]


def iteration(
    config: LMConfig, mesh: Mapping[str, int], machine: Hardware, asked: Plan
) -> dict[str, Part]:
    """The parts of one iteration, all turns of all episodes played.

    Args:
      config: the model.
      mesh: devices per axis.
      machine: what they are.
      asked: the run, as `hiper plan` takes it.
    """
    chip, devices = CHIPS[machine.chip], math.prod(mesh.values())
    hosts = -(-devices // chip.per_host)
    # The links of a TPU's slice go on between hosts, a GPU's do not.
    link = chip.network if hosts > 1 and not machine.slices else chip.link
    size = jnp.dtype(config.dtype).itemsize
    E = config.vocab_size * config.width
    p = num_params(config) - E * (1 if config.tied else 2)
    turns = asked.episodes * asked.turns
    prompt, said = min(PROMPT, asked.prompt), min(RESPONSE, asked.response)
    row = prompt + said
    attended = 2 * row**2 * config.num_heads * config.head_dim * config.depth
    forward = turns * FED * (2 * p * row + attended + 2 * E * said)
    tensor, ways = mesh["tensor"], mesh["data"] * mesh["fsdp"]
    chunks, steps = math.ceil(turns / asked.chunk), math.ceil(turns / MINIBATCH)
    once = asked.mesh.fetch == "step"

    def fed(passes: float, gathers: int, reduces: int, trips: int) -> Part:
        """Passes over all rows, weights read for each chunk; they travel `trips` times.

        So do gradients, of those passes that have some.
        """
        weights = p / tensor
        cut = (mesh["fsdp"] - 1) / mesh["fsdp"]
        whole = 2 * (mesh["data"] - 1) / mesh["data"] / mesh["fsdp"]
        sent = gathers * cut * size + reduces * (cut + whole) * 4
        # Sums over tensor: two a layer and pass, of every token's stream.
        sums = 4 * (tensor - 1) / tensor * config.depth * config.width * size
        tokens = turns * FED * row / ways
        return Part(
            passes * forward / devices / chip.flops,
            passes * chunks * weights * size / chip.bandwidth,
            (trips * weights * sent + passes * tokens * sums) / link,
        )

    critic = has_critic(asked.estimator)
    networks = 1 + (critic and asked.critic == "separate")
    again = asked.remat != "none"
    fetched = 1 if once else 2 + again  # forward, backward, and computed again
    states = 6 * 4 * networks * (p + E) / devices  # read and written: weights, moments
    return {
        "prompts": Part(
            turns * FED * (2 * p * prompt) / devices / chip.flops, 0.0, 0.0
        ),
        "responses": _decoding(config, asked, p + E, row, said, tensor, ways, chip),
        "values and reference": fed(
            1 + critic, 1 + critic, 0, trips=1 if once else chunks
        ),
        "gradients": fed(
            networks * (3 + again),
            networks * fetched,
            networks,
            trips=steps if once else chunks,
        ),
        "optimizer": Part(0.0, steps * states / chip.bandwidth, 0.0),
    }


def _decoding(config, asked, weights, row, said, tensor, ways, chip) -> Part:
    """Token by token: weights and caches are read once a step."""
    size = jnp.dtype(config.dtype).itemsize
    rows = -(-min(asked.slots, asked.episodes) // ways)
    steps = math.ceil(asked.episodes / asked.slots) * asked.turns * said
    read = step_reads(config, weights, rows, row) / tensor * size
    flops = 2 * weights * rows / tensor
    sums = 4 * (tensor - 1) / tensor * config.depth * config.width * size * rows
    return Part(
        steps * flops / chip.flops,
        steps * read / chip.bandwidth,
        steps * sums / chip.link,
    )


def step_reads(config: LMConfig, weights: int, rows: float, context: float) -> float:
    """Numbers that a step of sampling must read.

    Args:
      config: the model.
      weights: numbers of the layers and of the vocabulary's product.
      rows: that are sampled together.
      context: tokens that each has behind it, whose keys and values are read.
    """
    kept = 2 * config.depth * config.num_kv_heads * config.head_dim
    return weights + rows * context * kept


def text(parts: Mapping[str, Part]) -> list[str]:
    """The parts as lines, and what binds the whole."""
    total = sum(part.seconds for part in parts.values())
    lines = ["an iteration at published peak figures, environments left out:"]
    for name, part in parts.items():
        lines.append(f"  {name:22}{part.seconds:9.2f} s  bound by {part.binds}")
    longest = max(parts, key=lambda name: parts[name].seconds)
    lines.append(
        f"  {'at least':22}{total:9.2f} s; most of it in {longest}, bound by "
        f"{parts[longest].binds}"
    )
    return lines
