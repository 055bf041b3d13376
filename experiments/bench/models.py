"""What the model benches share: named shapes, log-shaped lengths, both sides' models.

Weights are random: speed does not depend on them. They are written once in Hugging
Face's format, and `transformers` reads what we wrote.
"""

import dataclasses
import os
import pathlib
import tempfile
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from hiper_jax import lm, workdir
from hiper_jax.experiments.provenance import commit
from hiper_jax.lm import known, weights

# Lengths of the published runs, tokens: prompts, and the room both sides leave.
SHORTEST, MEAN, LONGEST = 513, 745, 1681
RESPONSES = (30, 46)
MAX_PROMPT, MAX_RESPONSE = 2048, 512

MODELS = {
    "tiny": lm.tiny(880),
    "wide": lm.tiny(
        8192,
        width=896,
        depth=2,
        num_heads=14,
        num_kv_heads=2,
        head_dim=64,
        mlp_width=4864,
    ),
    **known.MODELS,
}


def config_of(name: str, dtype: str) -> lm.LMConfig:
    """The shape of a named model.

    Raises:
      ValueError: there is none of that name.
    """
    if name not in MODELS:
        raise ValueError(f"there is no model {name!r}; choose {', '.join(MODELS)}")
    return dataclasses.replace(MODELS[name], dtype=dtype)


def need_torch():
    """Imports the other side.

    Raises:
      ImportError: torch is not installed.
    """
    try:
        import torch
    except ImportError:
        raise ImportError(
            "this bench compares with torch: pip install 'hiper-jax[parity]'"
        ) from None
    return torch


def share_threads() -> int:
    """Gives torch as many threads as XLA takes: one per core that we may use."""
    threads = len(os.sched_getaffinity(0))
    need_torch().set_num_threads(threads)
    return threads


def log_lengths(
    rng: np.random.Generator, number: int, scale: int = 1
) -> tuple[np.ndarray, np.ndarray]:
    """Prompt and response lengths as in the published logs, divided by `scale`.

    Returns:
      [number] int64 tokens of prompts and of responses, each at least 1.
    """
    rest = rng.exponential(MEAN - SHORTEST, number)
    prompts = np.minimum(SHORTEST + rest, LONGEST)
    responses = rng.integers(RESPONSES[0], RESPONSES[1] + 1, number)
    prompts, responses = (
        np.maximum(np.rint(x / scale), 1).astype(int) for x in (prompts, responses)
    )
    return prompts, responses


def random_weights(config: lm.LMConfig, seed: int = 0):
    """Weights whose next-token distribution is neither flat nor a spike."""
    params = jax.jit(lm.init, static_argnums=0)(config, jax.random.key(seed))
    return params | {"embed": params["embed"] * 4}


def their_model(params, config: lm.LMConfig, dtype: str, device: str = "cpu") -> Any:
    """The same weights as a `transformers` model, with its fused attention."""
    torch = need_torch()
    import transformers

    with tempfile.TemporaryDirectory() as folder:
        weights.save(folder, params, config, dtype=jnp.float32)
        model: Any = transformers.AutoModelForCausalLM.from_pretrained(
            folder, dtype=getattr(torch, dtype), attn_implementation="sdpa"
        )
        return model.to(device)


def machine(threads: int) -> dict[str, str]:
    """What a result was taken on."""
    torch = need_torch()
    import transformers

    device = jax.devices()[0]
    found = {
        "device": f"{device.device_kind}, {os.cpu_count()} CPU cores",
        "threads": str(threads),
        "load before": f"{os.getloadavg()[0]:.1f}",
        "commit": commit(),
        "jax": jax.__version__,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }
    return found


def peak_bytes() -> int | None:
    """Most device memory in use so far; None where the platform does not tell."""
    stats = jax.devices()[0].memory_stats() or {}
    return stats.get("peak_bytes_in_use")


def write(out_dir: str, name: str, result: dict) -> pathlib.Path:
    """Writes NAME.json, whole or not at all."""
    path = pathlib.Path(out_dir) / f"{name}.json"
    workdir.write_json(path, result)
    return path


def table(ratios: Sequence[tuple[str, str, float, str]]) -> str:
    """Rows of (id, what, measured, wanted) as a table."""
    lines = ["| id | ratio | measured | wanted |", "| --- | --- | --- | --- |"]
    lines += [f"| {i} | {what} | {x:.2f} | {goal} |" for i, what, x, goal in ratios]
    return "\n".join(lines)
