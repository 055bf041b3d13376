"""Is HAE unbiased, and does it lower variance? On a process small enough to know.

Paper: arXiv 2602.16165, its two claims about credit for a plan-execute policy.
Command: `hiper variance` (one to four minutes on two CPU cores).
Expected: `exact` agrees to 1e-12. With λ = 1 HAE's variance is below that of GAE over
turns, which is just below that of Monte-Carlo; the gap grows with the horizon and
shrinks as segments grow. With λ = 0.95 the same up to segments of 8 turns; at 16
and horizons from 32 on, flat GAE varies less, at 5 to 13 times HAE's squared bias.

Truth comes from dynamic programming (`tabular`), estimates from the library, over every
possible trajectory of a process or over sampled ones.
"""

import csv
import functools
import os
import pathlib
import tempfile

import jax
import jax.numpy as jnp
from jax import Array

from hiper_jax.credit import boundaries, gae, hae
from hiper_jax.experiments.variance.tabular import (
    Policy,
    Process,
    Trajectories,
    Values,
    enumerate_all,
    exact_values,
    random_process,
    sample,
    true_gradient,
    variance_terms,
)

# Name -> the estimator it is an instance of; λ between turns is the number.
ESTIMATORS = (
    "monte_carlo",
    "gae_turn 1",
    "hae 1",
    "gae_turn 0.95",
    "gae_token 0.95",
    "hae 0.95",
)


def advantages(
    process: Process,
    values: Values,
    paths: Trajectories,
    *,
    lambda_: float,
    lambda_segment: float,
    lambda_boundary: float = 0.0,
) -> dict[str, tuple[Array, Array, Array]]:
    """Credit of the three decisions of every turn, [M, T] each, per estimator.

    hae          exact V_low, V_high, V_switch
    gae_turn     GAE over turns with a critic that knows the state only
    gae_token    GAE over the decisions in order, λ^(1/3) from one to the next; its
                 critic reads the turn's decisions so far, but of the subgoal in force
                 only what they say
    monte_carlo  return from here on, less its mean at this turn: no critic
    """
    turn = jnp.arange(paths.state.shape[1])[None, :]
    reward = process.reward[paths.state, paths.action]
    done = jnp.broadcast_to(turn == turn[0, -1], reward.shape)
    real = jnp.ones_like(done)
    low = values.low[turn, paths.state, paths.subgoal]
    high = values.high[turn, paths.state]
    waits = jnp.where(turn == 0, high, values.switch[turn, paths.state, paths.before])
    flat = values.flat[turn, paths.state]

    estimate = jax.vmap(
        lambda *a: hae(
            *a,
            gamma=process.gamma,
            lambda_turn=lambda_,
            lambda_segment=lambda_segment,
            lambda_boundary=lambda_boundary,
        )
    )(reward, done, real, paths.switch, low, high, waits)
    by_turn, _ = jax.vmap(lambda *a: gae(*a, gamma=process.gamma, lambda_=lambda_))(
        reward, done, real, flat
    )
    _, to_go = jax.vmap(lambda *a: gae(*a, gamma=process.gamma))(
        reward, done, real, flat
    )
    above_mean = to_go - paths.weight[None, :] @ to_go
    by_token = _token_gae(
        process, values, paths, reward, low, high, flat, lambda_ ** (1 / 3)
    )
    return {
        "hae": estimate[:3],
        "gae_turn": (by_turn,) * 3,
        "gae_token": by_token,
        "monte_carlo": (above_mean,) * 3,
    }


def _token_gae(process, values, paths, reward, low, high, flat, lambda_):
    """Three tokens a turn: switch, subgoal, action; γ per turn, λ per token."""
    M, T = reward.shape
    turn = jnp.arange(T)[None, :]
    # Scaling rewards and values of turn t by γᵗ leaves γ = 1 between tokens.
    scale = process.gamma**turn
    after_switch = jnp.where(paths.switch, high, values.kept[turn, paths.state])
    value = jnp.stack([flat, after_switch, low], axis=-1) * scale[..., None]
    rewards = jnp.stack([jnp.zeros_like(reward)] * 2 + [reward], -1) * scale[..., None]
    shape = (M, 3 * T)
    done = jnp.broadcast_to(jnp.arange(3 * T)[None, :] == 3 * T - 1, shape)
    advantage, _ = jax.vmap(lambda *a: gae(*a, lambda_=lambda_))(
        rewards.reshape(shape), done, jnp.ones_like(done), value.reshape(shape)
    )
    advantage = advantage.reshape(M, T, 3) / scale[..., None]
    return advantage[..., 2], advantage[..., 1], advantage[..., 0]


def gradients(process: Process, policy: Policy, paths: Trajectories, credit) -> Array:
    """[M, P] each trajectory's estimate of the gradient by the policy's logits.

    Σₜ γᵗ [ A_low ∇log π(aₜ) + bₜ A_high ∇log π(gₜ) + A_switch ∇log π(qₜ) ], where the
    switch decides nothing at turn 0.
    """
    (S, G), A = policy.plan.shape, policy.act.shape[-1]
    turn = jnp.arange(paths.state.shape[1])[None, :]
    real = jnp.ones_like(paths.switch)
    starts = jax.vmap(boundaries)(paths.switch, real)
    low, high, switch = (process.gamma**turn * a for a in credit)
    high, switch = high * starts, switch * (turn > 0)
    old = jnp.maximum(paths.before, 0)

    def one_hot(x, size):
        return jax.nn.one_hot(x, size, dtype=low.dtype)

    at_state = one_hot(paths.state, S)
    act_score = (
        one_hot(paths.action, A)
        - jax.nn.softmax(policy.act)[paths.state, paths.subgoal]
    )
    plan_score = one_hot(paths.subgoal, G) - jax.nn.softmax(policy.plan)[paths.state]
    switch_score = paths.switch - jax.nn.sigmoid(policy.switch)[paths.state, old]
    by_switch = jnp.einsum(
        "mt,mts,mtg->msg", switch * switch_score, at_state, one_hot(old, G)
    )
    by_plan = jnp.einsum("mt,mts,mtg->msg", high, at_state, plan_score)
    by_act = jnp.einsum(
        "mt,mts,mtg,mta->msga", low, at_state, one_hot(paths.subgoal, G), act_score
    )
    M = low.shape[0]
    return jnp.concatenate([x.reshape(M, -1) for x in (by_switch, by_plan, by_act)], 1)


def exact(
    horizon: int = 3, gamma: float = 0.9, lambda_segment: float = 0.7, seed: int = 0
) -> dict[str, float]:
    """Both claims by enumeration, in double precision: the largest errors.

    Returns:
      "gradient": |HAE's mean gradient − true gradient|; "variance": |difference of
      variances − the theorem's two terms|, over turns; "flat_minus_low": the smallest
      difference itself; "trajectories": how many there are.
    """
    with jax.enable_x64(True):
        process, policy = random_process(seed, 2, 2, 2, gamma, 0.4)
        paths = enumerate_all(process, policy, horizon)
        bias, difference, terms = _exact(process, policy, paths, lambda_segment)
        return {
            "gradient": float(jnp.abs(bias).max()),
            "variance": float(jnp.abs(difference - terms).max()),
            "flat_minus_low": float(difference.min()),
            "trajectories": len(paths.weight),
        }


@jax.jit
def _exact(process, policy, paths, lambda_segment):
    horizon = paths.state.shape[1]
    values = exact_values(process, policy, horizon)
    credit = advantages(
        process, values, paths, lambda_=1.0, lambda_segment=lambda_segment
    )
    mean = paths.weight @ gradients(process, policy, paths, credit["hae"])
    flat, low = credit["gae_turn"][0], credit["hae"][0]
    difference = paths.weight @ flat**2 - paths.weight @ low**2
    truth = true_gradient(process, policy, horizon)
    return mean - truth, difference, sum(variance_terms(process, values))


def sampled(horizon: int, segment: float, count: int = 4096, seed: int = 0):
    """Total variance and squared bias of each estimator's gradient.

    Args:
      horizon: T, turns.
      segment: mean turns per subgoal.
      count: trajectories to draw.
      seed: of the process and of the draw.

    Returns:
      A list of dicts, one per estimator: variance and squared bias of one trajectory's
      estimate, summed over parameters. The bias is that of the sample mean, so it does
      not go below variance / count.
    """
    process, policy = random_process(seed, 4, 4, 3, 1.0, min(1 / segment, 0.999))
    moments = _moments(process, policy, jax.random.key(seed), horizon, count)
    return [
        {
            "horizon": horizon,
            "segment": segment,
            "estimator": name,
            "variance": float(moments[name][0]),
            "bias_squared": float(moments[name][1]),
        }
        for name in ESTIMATORS
    ]


@functools.partial(jax.jit, static_argnums=(3, 4))
def _moments(process, policy, key, horizon, count):
    values = exact_values(process, policy, horizon)
    paths = sample(key, process, policy, horizon, count)
    truth = true_gradient(process, policy, horizon)
    moments = {}
    for lambda_ in (1.0, 0.95):
        credit = advantages(
            process, values, paths, lambda_=lambda_, lambda_segment=lambda_
        )
        for name, parts in credit.items():
            each = gradients(process, policy, paths, parts)
            variance, mean = each.var(axis=0).sum(), each.mean(axis=0)
            instance = name if name == "monte_carlo" else f"{name} {lambda_:g}"
            moments[instance] = variance, jnp.sum((mean - truth) ** 2)
    return moments


def main(
    out_dir: str = "results/variance",
    horizons: tuple[int, ...] = (8, 16, 32, 64),
    segments: tuple[float, ...] = (2.0, 4.0, 8.0, 16.0),
    count: int = 4096,
) -> dict[str, float]:
    """Writes variance.csv, variance.md and variance.png; returns `exact`'s errors."""
    errors = exact()
    rows = [
        row
        for horizon in horizons
        for segment in segments
        if segment <= horizon
        for row in sampled(horizon, segment, count)
    ]
    out = pathlib.Path(out_dir)
    out.mkdir(parents=True, exist_ok=True)
    _write(out / "variance.csv", lambda path: _csv(path, rows))
    _write(
        out / "variance.md", lambda path: path.write_text(table(rows, errors, count))
    )
    _write(out / "variance.png", lambda path: _figure(path, rows))
    return errors


def table(rows: list[dict], errors: dict[str, float], count: int) -> str:
    """Markdown: variance (and squared bias) of each estimator."""
    lines = [
        f"Over all {errors['trajectories']} trajectories of a small process: mean HAE "
        f"gradient minus true gradient {errors['gradient']:.1e}; variance difference "
        f"minus the theorem's two terms {errors['variance']:.1e}.",
        "",
        "Gradient variance per trajectory, summed over parameters; in brackets the",
        f"squared bias of the mean of {count} trajectories. The number is λ per turn.",
        "",
        "| horizon | turns per subgoal | " + " | ".join(ESTIMATORS) + " |",
        "| --- | --- |" + " --- |" * len(ESTIMATORS),
    ]
    for start in range(0, len(rows), len(ESTIMATORS)):
        group = rows[start : start + len(ESTIMATORS)]
        cells = [f"{row['variance']:.4g} ({row['bias_squared']:.2g})" for row in group]
        lead = f"| {group[0]['horizon']} | {group[0]['segment']:g} | "
        lines.append(lead + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _csv(path: pathlib.Path, rows: list[dict]) -> None:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)


def _figure(path: pathlib.Path, rows: list[dict]) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    segments = sorted({row["segment"] for row in rows})
    fixed_at = {
        "segment": segments[len(segments) // 2],
        "horizon": max(row["horizon"] for row in rows),
    }
    for axes, key, fixed in (
        (left, "horizon", "segment"),
        (right, "segment", "horizon"),
    ):
        at = fixed_at[fixed]
        for name in ESTIMATORS:
            points = [
                (row[key], row["variance"])
                for row in rows
                if row["estimator"] == name and row[fixed] == at
            ]
            axes.plot(*zip(*sorted(points), strict=True), marker="o", label=name)
        axes.set(xscale="log", yscale="log")
        unit = {"horizon": "turns", "segment": "turns per subgoal"}
        axes.set_title(f"{at:g} {unit[fixed]}")
        ticks = sorted({row[key] for row in rows if row[fixed] == at})
        axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
        axes.minorticks_off()
        axes.set_xlabel(unit[key])
    left.set_ylabel("gradient variance per trajectory")
    left.legend()
    figure.savefig(path, dpi=150)


def _write(path: pathlib.Path, write) -> None:
    """Whole or not at all."""
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        whole = pathlib.Path(folder) / path.name
        write(whole)
        os.replace(whole, path)
