"""How fast are sampling and update beside tunix, and beside `transformers` and torch?

Command: `hiper bench peers` (extras `peers` and `parity`; about ten minutes on two idle
CPU cores). Expected, theirs over ours: C16, tunix's sampler at least 2x, the pieces of
its PPO update at least 1.5x.

Weights, prompts and rows are the same on all sides, and so are the optimizer (one step
of optax's adamw, its clipping, all rows one minibatch) and the work: log-probs of a
reference, values, GAE over each response's tokens, clipped losses of policy and value,
their gradients. Log-probs, greedy texts, losses and norms of gradients are compared
before anything is timed. Rows have the lengths of the published runs, divided by
`scale`. tunix and torch are fed rows padded to the room (as tunix's learner pads) and,
beside that, trimmed to the longest prompt and response of the batch. tunix's sampler
pads prompts to the next power of two unless it is told a length: both are timed.
"""

import csv
import dataclasses
import functools
import io
import os
import pathlib
from importlib import metadata
from typing import Any

import jax
import numpy as np
import optax

from hiper_jax import lm, workdir
from hiper_jax.accept import Count, Name, Whole, check_fields
from hiper_jax.credit import gae_token
from hiper_jax.experiments.bench import models, tunix_side, update_sides
from hiper_jax.experiments.bench.batch import published
from hiper_jax.experiments.bench.generate import check_same, sides_of
from hiper_jax.experiments.bench.timing import interleaved, medians
from hiper_jax.experiments.bench.update_sides import MAX_NORM, RATES
from hiper_jax.experiments.config import learning
from hiper_jax.update.state import Optimizers

OPTIMIZERS = tuple(
    optax.chain(optax.clip_by_global_norm(MAX_NORM), optax.adamw(rate))
    for rate in RATES
)
PARTS = {  # our metrics under the names of both other sides
    "policy": "loss/policy",
    "kl": "loss/kl",
    "entropy": "policy/entropy",
    "value": "loss/value_high",
    "grad actor": "grad/actor",
    "grad critic": "grad/critic",
}
WANTED = {"generate": "at least 2", "update": "at least 1.5"}


@dataclasses.dataclass(frozen=True)
class Peers:
    """Times sampling and update against tunix, `transformers` and torch."""

    models: tuple[str, ...] = ("tiny", "wide")
    """Names of shapes; weights are random."""
    prompts: Count = 16
    """Prompts that are continued."""
    new: Count = 32
    """Tokens per response."""
    episodes: Count = 4
    """Trajectories in the update's batch."""
    turns: Count = 4
    """Turns of each; all rows are one minibatch."""
    chunk: Count = 8
    """Rows that our update and torch's feed at once; tunix's feeds all."""
    scale: Whole = 8
    """Published lengths and room are divided by it."""
    rounds: Count = 5
    """Times each side is timed, in turn."""
    out: Name = "runs/bench-peers"
    """Folder for bench_peers.json, peers.csv and peers.md."""

    def __post_init__(self):
        check_fields(self)


def main(flags: Peers) -> dict:
    """Prints the table and writes bench_peers.json, peers.csv and peers.md."""
    models.need_torch()
    tunix_side.need_tunix()
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    configs = {name: models.config_of(name, "float32") for name in flags.models}
    machine = models.machine(models.share_threads())
    machine["tunix"] = metadata.version("google-tunix")
    found: dict[str, dict[str, Any]] = {}
    for name, config in configs.items():
        found[name] = {
            "generate": generation(config, flags),
            "update": updates(config, flags),
        }
    result = {**machine, **dataclasses.asdict(flags), "found": found}
    out = pathlib.Path(flags.out)
    text = table(found)
    workdir.write_text(out / "peers.csv", as_csv(found, machine["commit"]))
    workdir.write_text(out / "peers.md", text + "\n")
    print(text)
    print(models.write(flags.out, "bench_peers", result))
    return result


def generation(config: lm.LMConfig, flags: Peers) -> dict[str, Any]:
    """Checks that all sides write the same, then times them.

    Raises:
      RuntimeError: they do not.
    """
    sides = sides_of(config, flags.prompts, flags.new, flags.scale)
    widest = max(len(prompt) for prompt in sides.prompts)
    double = 2 ** (widest - 1).bit_length()
    model = tunix_side.model_of(sides.params, config)
    strings = [prompt.tolist() for prompt in sides.prompts]
    sampler = tunix_side.sampler_of(model, config, double + flags.new)
    fitted = tunix_side.sampler_of(model, config, widest + flags.new)

    def call(sampler, room):
        said = sampler(strings, flags.new, max_prompt_length=room)
        return np.stack([np.asarray(tokens) for tokens in said.tokens])

    calls = {
        "ours": sides.ours,
        "tunix": functools.partial(call, fitted, widest),
        "tunix, its own padding": functools.partial(call, sampler, None),
        "transformers": sides.theirs,
    }
    ours = sides.ours()
    same = {name: check_same(config, ours, call()) for name, call in calls.items()}
    return timed(calls, flags.rounds) | {"equal tokens": same}


def updates(config: lm.LMConfig, flags: Peers) -> dict[str, Any]:
    """Checks that all sides compute the same, then times them.

    Raises:
      RuntimeError: log-probs, losses or norms of gradients differ.
    """
    N = flags.episodes * flags.turns
    settings = learning("gae_token")(
        minibatch=N, chunk=min(flags.chunk, N), kl_coef=0.05, kl_estimator="k1"
    )
    update, state, batch = update_sides.our_side(
        config,
        episodes=flags.episodes,
        turns=flags.turns,
        chunk=flags.chunk,
        scale=flags.scale,
        settings=settings,
        estimator=gae_token.estimator,
        optimizers=Optimizers(*OPTIMIZERS),
    )
    P, R, _ = published(flags.scale)
    longest = int(batch.start.max()), int((batch.length - batch.start).max())
    layouts = {"": (P, R), ", trimmed": longest}
    their_calls, their_log_probs = other_sides(config, state, settings, batch, layouts)
    ours = update_sides.log_probs_of(config, state.actor, batch, settings.chunk)
    mask = np.asarray(batch.response_mask)
    for name, read in their_log_probs.items():
        gap = float(np.abs(np.where(mask, ours, 0)[:, : read.shape[1]] - read).max())
        if not gap < 2e-3:
            raise RuntimeError(
                f"all sides must see the same log-probs, but {name}'s differ by "
                f"{gap:.3g} nats: nothing was timed"
            )
    held = {"state": state}
    del state

    def call_ours():
        held["state"], metrics, _ = update(held["state"], batch)
        return jax.device_get(metrics)

    metrics = call_ours()
    said = {name: float(metrics[key]) for name, key in PARTS.items()}
    same = {"ours": said}
    for name, call in their_calls.items():
        if ", trimmed" in name:  # The weights of both layouts are the same ones.
            same[name] = {part: float(x) for part, x in call().items()}
            check_parts(name, said, same[name])
    calls = {"ours": call_ours, **their_calls}
    real = int(batch.length.sum())
    return timed(calls, flags.rounds) | {
        "same": same,
        "rows": N,
        "real tokens": real,
        "fed to the others": {
            k or "padded": N * (p + r) for k, (p, r) in layouts.items()
        },
    }


def other_sides(config, state, settings, batch, layouts):
    """Calls of tunix and torch by name, and their log-probs before any step."""
    theirs = tunix_side.Learner(
        tunix_side.model_of(state.actor, config),
        tunix_side.critic_of(
            state.critic["trunk"],
            config,
            state.critic["value"][:, 0],
            state.critic["value_bias"][0],
        ),
        tunix_side.model_of(state.reference, config),
        settings,
        OPTIMIZERS,
    )
    plain = update_sides.token_side(config, state, settings)
    calls, log_probs = {}, {}
    for name, (P, R) in layouts.items():
        rows = tunix_side.padded_rows(batch, P, R)
        torch_rows = update_sides.token_rows(batch, rows.reward, rows.mask, P, R)
        log_probs[f"tunix{name}"] = np.where(rows.mask, theirs.log_probs(rows), 0)
        calls[f"tunix{name}"] = functools.partial(theirs.step, rows)
        calls[f"torch{name}"] = functools.partial(
            plain.step, torch_rows, settings.chunk
        )
    return calls, log_probs


def check_parts(name: str, ours: dict[str, float], theirs: dict[str, float]) -> None:
    """Raises RuntimeError where a loss or a norm is another one."""
    for part, mine in ours.items():
        if not np.isclose(mine, theirs[part], rtol=2e-3, atol=2e-4):
            raise RuntimeError(
                f"all sides must compute the same update, but {part} is {mine:.6g} for "
                f"us and {theirs[part]:.6g} for {name}: nothing was timed"
            )


def timed(calls: dict[str, Any], rounds: int) -> dict[str, Any]:
    """Seconds of each call, and each median over ours."""
    seconds = interleaved(calls, rounds)
    middle = medians(seconds)
    over = {name: middle[name] / middle["ours"] for name in calls}
    return {"seconds": seconds, "over ours": over}


def rows_of(found: dict[str, dict[str, Any]]):
    """(model, what, side, median seconds, over ours), in the table's order."""
    for model, parts in found.items():
        for what, part in parts.items():
            middle = medians(part["seconds"])
            for side, ratio in part["over ours"].items():
                yield model, what, side, middle[side], ratio


def table(found: dict[str, dict[str, Any]]) -> str:
    """A row per side, with what is wanted of tunix's."""
    lines = [
        "| model | what | side | median, s | over ours | wanted (C16) |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for model, what, side, seconds, ratio in rows_of(found):
        goal = WANTED[what] if side.startswith("tunix") else ""
        lines.append(
            f"| {model} | {what} | {side} | {seconds:.3f} | {ratio:.2f} | {goal} |"
        )
    return "\n".join(lines)


def as_csv(found: dict[str, dict[str, Any]], commit: str) -> str:
    """The table's numbers."""
    text = io.StringIO()
    sheet = csv.writer(text, lineterminator="\n")
    sheet.writerow(["model", "what", "side", "median_s", "over_ours", "commit"])
    for model, what, side, seconds, ratio in rows_of(found):
        sheet.writerow([model, what, side, f"{seconds:.5f}", f"{ratio:.3f}", commit])
    return text.getvalue()
