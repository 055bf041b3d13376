"""How many bytes each device will hold, before anything is allocated.

Weights, gradients and optimizer state are counted exactly, from the abstract trees
and the rule table. Working memory is counted from what the programs keep alive at the
moment they hold most; `compiled` asks the compiler instead.

Letters as in `qwen`; W = data x fsdp, the ways that rows are cut.
"""

import dataclasses
import importlib.util
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from hiper_jax.lm import qwen, sharding
from hiper_jax.lm import qwen_lora as lora
from hiper_jax.lm import value_heads as heads
from hiper_jax.lm.config import LMConfig
from hiper_jax.lm.params import Params

Parts = dict[str, int]


@dataclasses.dataclass(frozen=True)
class Job:
    """What is trained: everything that memory depends on, but the mesh.

    Attributes:
      chunk: turns fed at once, over all devices.
      rows: turns of a batch at most.
      prompt, response: tokens at most.
      slots: rows sampled at once.
      remat: see `qwen.forward`.
      shared: the critic is heads on the actor's trunk.
      critic: whether there is one at all.
      rank: of adapters, which are then all that is trained; 0: every weight is.
      head_chunk: states per chunk of the head, see `score.log_prob_and_entropy`.
      once: weights are fetched and gradients meet once a step, not for every chunk.
      tpu: whether it is for a TPU, whose compiler holds more, see `_turned`.
      lengths: that the update may cut a chunk to; of one there is nothing to choose.
    """

    chunk: int = 64
    rows: int = 6528
    prompt: int = 2048
    response: int = 512
    slots: int = 128
    remat: str = "full"
    shared: bool = False
    critic: bool = True
    rank: int = 0
    head_chunk: int = 1024
    once: bool = False
    tpu: bool = False
    lengths: int = 2


def tree_bytes(leaves: Params, mesh: Mapping[str, int], dtype: Any) -> int:
    """Returns the bytes of one device's part of a tree.

    Args:
      leaves: an abstract tree.
      mesh: devices per mesh axis ("data", "fsdp", "tensor"); a missing axis is 1.
      dtype: of every leaf.
    """
    total = 0
    for leaf in jax.tree.leaves(leaves):
        ways = 1
        for axis in sharding.spec(leaf.axes):
            ways *= mesh.get(axis, 1) if axis else 1
        total += -(-int(np.prod(leaf.shape)) // ways)
    return total * jnp.dtype(dtype).itemsize


def state(config: LMConfig, mesh: Mapping[str, int], job: Job) -> Parts:
    """Counts what stays on a device from one iteration to the next."""
    model = qwen.abstract(config)
    trained = lora.abstract(config, job.rank) if job.rank else model
    own = not job.shared and not job.rank
    valued = tree_bytes(heads.abstract(config, trunk=own), mesh, "float32")
    actor = tree_bytes(trained, mesh, "float32")
    critic = valued + (actor if job.rank and not job.shared else 0)
    critic *= job.critic
    return {
        "actor": actor,
        "critic": critic,
        # Under adapters it is also what they stand on.
        "reference": tree_bytes(model, mesh, config.dtype),
        "optimizer": 2 * (actor + critic),  # Adam's two moments
    }


def update(config: LMConfig, mesh: Mapping[str, int], job: Job) -> Parts:
    """Counts the bytes per device of the update, state included.

    Returns:
      bytes by part, and their sum as "total".
    """
    c = config
    held = state(c, mesh, job)
    tokens = job.prompt + job.response
    size = jnp.dtype(c.dtype).itemsize
    rows = -(-job.chunk // _ways(mesh))
    here = rows * tokens
    sums = held["actor"] + held["critic"]
    if once := job.once and _ways(mesh) > 1:
        fetched, sums_of_one = _fetched(c, mesh, job)
    parts = held | {
        # The sum over a minibatch's chunks, and what the chunk at hand adds to it.
        "gradients": sums + (sums_of_one if once else sums),
        # Tokens, and six arrays [N, R]: three of 4 bytes, four masks of 1.
        "batch": job.rows * (4 * tokens + 12 * job.response),
        # Of one network: the update takes gradients one after the other.
        "kept activations": c.depth * _kept(c, mesh, job) * here * size,
        "one layer": _layer(c, mesh) * here * size + _scores(c, mesh, rows, tokens),
        "gathered weights": fetched
        if once
        else _gathered(c, mesh, 0 if job.rank else 1),
        "logits": _logits(c, mesh, job),
    }
    if job.tpu and mesh.get("fsdp", 1) > 1 and not job.rank:
        parts["the compiler's copies"] = _turned(c, mesh, job)
    if job.tpu and job.lengths > 1:
        # Beside a branch libtpu 0.0.42 holds what goes into it, what comes out, and
        # what is added up, each once more: read off its programs for 0.5B, of two
        # lengths and of one, and of two with weights fetched once a step.
        parts["a choice of length"] = 3 * sums
    return parts | {"total": sum(parts.values())}


def generation(config: LMConfig, mesh: Mapping[str, int], job: Job) -> Parts:
    """Counts the bytes per device of sampling, the training state left aside.

    Returns:
      bytes by part, and their sum as "total".
    """
    c = config
    tensor = mesh.get("tensor", 1)
    rows = -(-job.slots // _ways(mesh))
    size = jnp.dtype(c.dtype).itemsize
    groups = c.num_kv_heads // tensor
    cache = 2 * c.depth * rows * (job.prompt + job.response) * groups * c.head_dim
    # Of a prompt, one layer at a time: the stream, the same normed, what is added to
    # it, and the widest thing inside: the gate, over which its product with `up` is
    # written, or queries, keys, values and what they attend to.
    prompt = (
        3 * c.width
        + max((2 * c.num_heads + 2 * c.num_kv_heads) * c.head_dim, c.mlp_width)
        // tensor
    )
    parts = {
        # Cut along tensor only: every token reads every weight.
        "weights": tree_bytes(qwen.abstract(c), {"tensor": tensor}, c.dtype),
        "cache": cache * size,
        "prompt": prompt * rows * job.prompt * size,
        # Scores, their softmax and its running sum, of whole rows.
        "logits": 3 * 4 * rows * c.vocab_size,
    }
    return parts | {"total": sum(parts.values())}


def _ways(mesh: Mapping[str, int]) -> int:
    return mesh.get("data", 1) * mesh.get("fsdp", 1)


def _kept(c: LMConfig, mesh: Mapping[str, int], job: Job) -> int:
    """Elements per token and layer that wait for the gradient."""
    tensor = mesh.get("tensor", 1)
    projected = (2 * c.num_heads + 2 * c.num_kv_heads) * c.head_dim // tensor
    return {
        "full": c.width,
        # The stream, and every product with a weight.
        "dots": 3 * c.width + projected + 2 * c.mlp_width // tensor,
        "none": _layer(c, mesh),
    }[job.remat]


def _layer(c: LMConfig, mesh: Mapping[str, int]) -> int:
    """Elements per token of one layer while its gradient is computed."""
    tensor = mesh.get("tensor", 1)
    projected = (2 * c.num_heads + 2 * c.num_kv_heads) * c.head_dim // tensor
    return 5 * c.width + projected + 4 * c.mlp_width // tensor


def _scores(c: LMConfig, mesh: Mapping[str, int], rows: int, tokens: int) -> int:
    """Bytes of attention scores; none where the kernel of the TPU applies."""
    if tokens % 128 == 0:
        return 0
    block = max(64, -(-tokens // 8))
    # One block of float32 scores: scores, weights, their gradient.
    return 3 * 4 * rows * (c.num_heads // mesh.get("tensor", 1)) * block * tokens


def _gathered(c: LMConfig, mesh: Mapping[str, int], tables: int) -> int:
    """Bytes of weights and gradients that are whole along fsdp for a while."""
    if mesh.get("fsdp", 1) == 1:
        return 0
    tensor = mesh.get("tensor", 1)
    table = c.vocab_size * c.width // tensor
    # The gradient of each trained embedding, added up in float32 before devices share
    # it out (the head's is the same array where they are tied); two layers, one of
    # them being fetched.
    size = jnp.dtype(c.dtype).itemsize
    return tables * 4 * table + 2 * _one_layer(c) // tensor * size


def _fetched(c: LMConfig, mesh: Mapping[str, int], job: Job) -> tuple[int, int]:
    """Bytes of one network's weights, whole but for tensor; and of its gradients.

    Matrices are fetched in the compute type, tables are float32 where they arrive. Of
    gradients there are the sum, and what the chunk at hand adds to it.
    """
    cut = {"tensor": mesh.get("tensor", 1)}
    model = qwen.abstract(c)
    tables = {name: leaf for name, leaf in model.items() if name in ("embed", "head")}
    layers = tree_bytes(model["layers"], cut, c.dtype)
    wide = tree_bytes(tables, cut, "float32")
    if job.rank:
        trained = tree_bytes(lora.abstract(c, job.rank), cut, "float32")
        return layers + tree_bytes(tables, cut, c.dtype) + trained, 2 * trained
    return layers + wide, tree_bytes(model, cut, "float32") + layers + wide


def _turned(c: LMConfig, mesh: Mapping[str, int], job: Job) -> int:
    """Bytes that libtpu 0.0.42 holds beside what the program asks for.

    It lays arrays out in tiles of 128 columns: what fsdp cuts to no multiple of that
    along its last axis it keeps turned over while it steps, weights and both moments.
    It holds the weights of one network in the compute type, too; and of a table two
    more gradients, and the fetched one. Read off its program for 0.5B and 1.5B.
    """
    model = qwen.abstract(c)
    odd = {
        str(path): leaf
        for path, leaf in jax.tree.leaves_with_path(model)
        if leaf.axes[-1] == "embed" and c.width // mesh["fsdp"] % 128
    }
    networks = 1 + (job.critic and not job.shared)
    turned = 3 * networks * tree_bytes(odd, mesh, "float32")
    if job.once:
        return turned
    table = c.vocab_size * c.width // mesh.get("tensor", 1)
    size = jnp.dtype(c.dtype).itemsize
    return turned + tree_bytes(model, mesh, c.dtype) + (2 * 4 + size) * table


def _logits(c: LMConfig, mesh: Mapping[str, int], job: Job) -> int:
    tensor = mesh.get("tensor", 1)
    size = jnp.dtype(c.dtype).itemsize
    vocabulary = -(-c.vocab_size // tensor)
    states = -(-job.head_chunk // _ways(mesh))
    # Scores, log-probs, probabilities and a gradient; the head, as it is multiplied.
    return 4 * 4 * states * vocabulary + vocabulary * c.width * size


def _one_layer(config: LMConfig) -> int:
    layers = qwen.abstract(config)["layers"]
    return sum(int(np.prod(leaf.shape[1:])) for leaf in jax.tree.leaves(layers))


def table(parts: Mapping[str, int]) -> str:
    """Returns the parts as lines of text, in GiB."""
    return "\n".join(
        f"{name:18}{size / 2**30:10.3f} GiB" for name, size in parts.items()
    )


def compiled(program: Any) -> dict[str, int]:
    """Returns the compiler's bytes per device of a `jax.stages.Compiled`.

    Nothing is allocated or run. For a machine that is not there, lower for shapes
    placed on `topology(...)`'s devices.

    Returns:
      "arguments", "outputs", "temporaries", "aliased" (outputs in the place of
      arguments) and "total", bytes.
    """
    memory = program.memory_analysis()
    parts = {
        "arguments": memory.argument_size_in_bytes,
        "outputs": memory.output_size_in_bytes,
        "temporaries": memory.temp_size_in_bytes,
        "aliased": -memory.alias_size_in_bytes,
    }
    return parts | {"total": sum(parts.values())}


def topology(name: str) -> list[Any]:
    """Returns the devices of a TPU slice that need not be there, such as "v5e:2x4".

    Needs the package libtpu, not a TPU; see `sharding.make_mesh(devices=...)`. "cpu:8"
    are eight of this process's CPU devices, which may be fake.

    Raises:
      ModuleNotFoundError: without libtpu.
      ValueError: there is no such slice.
    """
    if name.startswith("cpu:"):
        return _cpus(name.removeprefix("cpu:"))
    if importlib.util.find_spec("libtpu") is None:
        raise ModuleNotFoundError(
            "Compiling for a TPU needs its compiler, libtpu; install the extra `aot`."
        )
    from jax.experimental import topologies

    try:
        return list(topologies.get_topology_desc(name, platform="tpu").devices)
    except jax.errors.JaxRuntimeError as error:
        raise ValueError(
            f"libtpu gives no slice {name!r}; name a generation and its chips, such as "
            "v5e:2x4 or v5p:2x2x4, and let one process at a time use libtpu: "
            f"{str(error).splitlines()[0]}"
        ) from error


def _cpus(count: str) -> list[Any]:
    known = jax.devices("cpu")
    if not count.isdigit() or not 1 <= int(count) <= len(known):
        raise ValueError(
            f"cpu:{count} are not among this process's {len(known)} CPU devices; set "
            f"XLA_FLAGS=--xla_force_host_platform_device_count={count}"
        )
    return known[: int(count)]
