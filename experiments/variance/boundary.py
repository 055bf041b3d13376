"""What `lambda_boundary` does to HAE's gradient, by enumeration.

Paper: arXiv 2602.16165 has the trace stop at a segment's end; crossing it is ours.
Command: `python -m hiper_jax.experiments.variance.boundary` (seconds on a CPU).
Expected: with exact critics the mean gradient is the true one for every value, and the
variance grows a little with it. Where V_high lags, the published rule (0) is biased by
as much as V_high is wrong; at 1 nothing is left of that.
"""

import pathlib

import jax
import jax.numpy as jnp

from hiper_jax import workdir
from hiper_jax.experiments.variance.estimates import advantages, gradients
from hiper_jax.experiments.variance.tabular import (
    enumerate_all,
    exact_values,
    random_process,
    true_gradient,
)

LAMBDAS = (0.0, 0.5, 0.95, 1.0)
# What V_high says of what it should say: all of it, half, nothing.
LEARNT = (1.0, 0.5, 0.0)


def exact(
    lambda_boundary: float, learnt: float = 1.0, horizon: int = 3, seed: int = 0
) -> dict[str, float]:
    """Bias and variance of the gradient over every trajectory, in double precision.

    Args:
      lambda_boundary: of `hae`; its other λ are 1, γ is 1.
      learnt: factor on V_high; V_low and V_switch stay exact.
      horizon: turns.
      seed: of the process.

    Returns:
      "bias": largest |mean gradient − true gradient|; "variance": of one trajectory's
      gradient, summed over parameters; "truth": the largest true derivative.
    """
    with jax.enable_x64(True):
        process, policy = random_process(seed, 2, 2, 2, 1.0, 0.4)
        paths = enumerate_all(process, policy, horizon)
        return {
            name: float(value)
            for name, value in _exact(
                process, policy, paths, jnp.float64(lambda_boundary), learnt
            ).items()
        }


@jax.jit
def _exact(process, policy, paths, lambda_boundary, learnt):
    horizon = paths.state.shape[1]
    values = exact_values(process, policy, horizon)
    credit = advantages(
        process,
        values._replace(high=learnt * values.high),
        paths,
        lambda_=1.0,
        lambda_segment=1.0,
        lambda_boundary=lambda_boundary,
    )["hae"]
    each = gradients(process, policy, paths, credit)
    mean = paths.weight @ each
    truth = true_gradient(process, policy, horizon)
    return {
        "bias": jnp.abs(mean - truth).max(),
        "variance": jnp.sum(paths.weight @ (each - mean[None]) ** 2),
        "truth": jnp.abs(truth).max(),
    }


def table() -> str:
    """Markdown: bias and variance of the gradient by λ_boundary and by V_high."""
    rows = {(b, k): exact(b, k) for b in LAMBDAS for k in LEARNT}
    truth = rows[0.0, 1.0]["truth"]
    lines = [
        f"Every trajectory of a small process; the largest true derivative is "
        f"{truth:.2g}.",
        "",
        "| lambda_boundary | "
        + " | ".join(f"V_high x {k:g}: bias | variance" for k in LEARNT)
        + " |",
        "| --- |" + " --- | --- |" * len(LEARNT),
    ]
    for b in LAMBDAS:
        cells = [
            f"{rows[b, k]['bias']:.1e} | {rows[b, k]['variance']:.3g}" for k in LEARNT
        ]
        lines.append(f"| {b:g} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def main(out_dir: str = "runs/variance") -> None:
    """Writes boundary.md and prints it."""
    text = table()
    workdir.write_text(pathlib.Path(out_dir) / "boundary.md", text)
    print(text, end="")


if __name__ == "__main__":
    main()
