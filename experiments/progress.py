"""What a run tells while it goes: numbers of a rollout, progress, where time went."""

import contextlib
import dataclasses
import signal
import time
from typing import Any

import numpy as np

from hiper_jax.act.episode import Episode
from hiper_jax.experiments.config import Train


def logger(config: Train, name: str):
    """A second place for metrics: Weights & Biases if asked for, else nowhere."""
    if not config.wandb:
        return lambda step, metrics: None
    try:
        import wandb
    except ImportError:
        raise ValueError(
            "--wandb needs the extra: pip install 'hiper-jax[wandb]'"
        ) from None
    try:
        session = wandb.init(
            project="hiper_jax",
            name=f"{name}-{config.seed}",
            config=dataclasses.asdict(config),
        )
    except wandb.errors.Error as error:
        raise ValueError(
            f"--wandb: {error}; log in with `wandb login` or set WANDB_MODE=offline"
        ) from None
    return lambda step, metrics: session.log(
        {k: float(v) for k, v in metrics.items()}, step=step
    )


def rollout_metrics(episodes: list[Episode]) -> dict[str, float]:
    """What a rollout says of itself."""
    turns = [turn for episode in episodes for turn in episode.turns]
    return {
        "rollout/success": np.mean([e.won for e in episodes]),
        "rollout/score": np.mean([e.score for e in episodes]),
        "rollout/return": np.mean([e.reward for e in episodes]),
        "rollout/turns": len(turns) / len(episodes),
        "rollout/valid_rate": np.mean([t.format_valid for t in turns]),
        "rollout/admissible_rate": np.mean([t.action_valid for t in turns]),
        "rollout/response_tokens": np.mean([len(t.response) for t in turns]),
        "rollout/prompt_tokens": np.mean([len(t.prompt) for t in turns]),
        "rollout/shortened_prompts": np.mean([t.prompt_truncated for t in turns]),
        "rollout/truncated": np.mean([e.truncated for e in episodes]),
    }


def with_credit(episodes: list[Episode], turns: dict[str, Any]) -> list[Episode]:
    """Writes beside each turn what the estimator said of it, [B, T] by name."""
    return [
        dataclasses.replace(
            episode,
            credit={
                name: [float(x) for x in values[b, : len(episode.turns)]]
                for name, values in turns.items()
            },
        )
        for b, episode in enumerate(episodes)
    ]


class Clock:
    """Where the seconds of an iteration go, and how many are left."""

    def __init__(self, iterations: int):
        self.left, self.taken = iterations, []

    def start(self):
        self.began = self.last = time.perf_counter()
        self.laps: dict[str, float] = {}

    def lap(self, name: str):
        now = time.perf_counter()
        self.laps[name] = now - self.last
        self.last = now

    def stop(self, spent: dict[str, float], episodes) -> dict[str, float]:
        seconds = time.perf_counter() - self.began
        self.taken.append(seconds)
        self.left -= 1
        parts = {
            "environment": spent["environment"],
            "generation": spent["generation"],
            "update": self.laps["update"],
        }
        tokens = sum(len(t.prompt) + len(t.response) for e in episodes for t in e.turns)
        return {
            "seconds": seconds,
            **parts,
            "other": seconds - sum(parts.values()),
            "left": float(np.median(self.taken[-5:])) * self.left,
            "tokens": tokens,
        }


def say(step: int, total: int, metrics: dict[str, Any], timing: dict[str, float]):
    """One line per iteration, and a warning when the planner collapses."""
    share = {
        name: 100 * timing[name] / timing["seconds"]
        for name in ("environment", "generation", "update")
    }
    partial = metrics["rollout/score"] != metrics["rollout/success"]
    score = f"  score {metrics['rollout/score']:.2f}" if partial else ""
    print(
        f"\riteration {step}/{total}  success {100 * metrics['rollout/success']:3.0f} %"
        f"{score}"
        f"  turns {metrics['rollout/turns']:4.1f}"
        f"  switches {100 * metrics['policy/switch_rate']:2.0f} %"
        f"  kl {metrics['loss/kl']:.4f}  entropy {metrics['policy/entropy']:.3f}"
        f"  {timing['seconds']:.0f} s (environment {share['environment']:.0f} %,"
        f" generation {share['generation']:.0f} %, update {share['update']:.0f} %)"
        f"  {timing['left'] / 60:.1f} min left",
        flush=True,
    )
    if not 0.05 <= metrics["policy/switch_rate"] <= 0.95:
        print(
            "  warning: the switch rate has left [0.05, 0.95]: the planner collapses; "
            "consider --learn.keep-penalty or --learn.switch-rate-floor"
        )


def progress(what: str):
    """A line that is rewritten at most twice a second."""
    shown = [0.0]

    def show(done: int, total: int):
        now = time.monotonic()
        if now - shown[0] > 0.5:
            shown[0] = now
            print(f"\r{what}: {done}/{total} episodes ", end="", flush=True)
        if done == total:
            print("\r" + " " * 60 + "\r", end="", flush=True)

    return show


@contextlib.contextmanager
def deferred():
    """Ctrl-C at once, but not while the state is being replaced.

    Yields a guard: under `with guard():` an interrupt waits until the block ends.
    `guard.held` stays true after an error inside the block: the state is then unsure.
    """

    class Guard:
        asked = held = False

        @contextlib.contextmanager
        def __call__(self):
            self.held = True
            yield
            self.held = False
            if self.asked:
                raise KeyboardInterrupt

    guard = Guard()

    def handle(number, frame):
        guard.asked = True
        if not guard.held:
            raise KeyboardInterrupt

    try:
        before = signal.signal(signal.SIGINT, handle)
    except ValueError:  # not in the main thread: nobody presses Ctrl-C here
        yield guard
        return
    try:
        yield guard
    finally:
        signal.signal(signal.SIGINT, before)
