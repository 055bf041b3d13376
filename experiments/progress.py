"""What a run tells while it goes: numbers of a rollout, progress, where time went."""

import contextlib
import dataclasses
import shutil
import signal
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from tqdm import tqdm

from hiper_jax.act.episode import Episode
from hiper_jax.act.rollout import Dropped
from hiper_jax.experiments.visible import visible

OF_PENALTIES = 0.2  # share of the squared advantages from which on a run says so


def rollout_metrics(episodes: list[Episode]) -> dict[str, float]:
    """What a rollout says of itself."""
    turns = [turn for episode in episodes for turn in episode.turns]
    metrics = {
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
    return {name: float(value) for name, value in metrics.items()}


def of_all(parts: list[Any]) -> dict[str, float]:
    """`rollout_metrics` of all hosts' episodes, and what else a draw says.

    Args:
      parts: of each host, its metrics, episodes and turns, and the draw's metrics.
    """
    by_turn = {"valid_rate", "admissible_rate", "shortened_prompts"}
    by_turn |= {"response_tokens", "prompt_tokens"}
    whole = {}
    for name in parts[0][0]:
        turns = name.partition("/")[2] in by_turn
        weights = [of_turns if turns else of for _, of, of_turns, _ in parts]
        values = [told[name] for told, *_ in parts]
        whole[name] = float(np.dot(values, weights) / sum(weights))
    for name in parts[0][3]:
        values = [drawn[name] for *_, drawn in parts]
        judged = name in ("strategy/unread_lists", "strategy/flags")
        if name == "rollout/dropped":
            whole[name] = sum(values)
        elif name.startswith("strategy/"):  # hosts have equally many tasks
            weights = [of if judged else 1 for _, of, _, _ in parts]
            whole[name] = float(np.dot(values, weights) / sum(weights))
        else:  # of all hosts already
            whole[name] = values[0]
    return whole


def stop_if_asked(name: str) -> None:
    """Raises what ends a program by the signal of that name; "" is none."""
    if name:
        raise Terminated if name == "SIGTERM" else KeyboardInterrupt


def in_format(metrics: Mapping[str, Any], format: str) -> dict[str, Any]:
    """Metrics, without those that say nothing where responses have no plan."""
    of_plans = () if format == "plan" else ("policy/switch_rate",)
    return {name: value for name, value in metrics.items() if name not in of_plans}


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
            "text": spent["text"],  # of the other seconds
            "device": spent["device"],  # of sampling, waited for or not
            # The first one compiles; only where it is alone does it stand for others.
            "left": float(np.median((self.taken[1:] or self.taken)[-5:])) * self.left,
            "tokens": tokens,
        }


def iteration_line(
    step: int,
    total: int,
    metrics: Mapping[str, float],
    timing: Mapping[str, float],
    width: int = 0,
) -> str:
    """What an iteration says of itself, as one line.

    Args:
      step: iterations done.
      total: iterations in all.
      metrics: by name; a metric that an estimator or a loss does not have is left out.
      timing: seconds, as `Clock.stop` gives them.
      width: columns; what matters least is left out until the line fits. 0: all.
    """
    said: list[tuple[int, str]] = []  # (how little it matters, text), in reading order

    def add(rank: int, name: str, text: str, scale: float = 1.0):
        if name in metrics:
            said.append((rank, text.format(scale * float(metrics[name]))))

    said.append((0, f"iteration {step}/{total}"))
    add(0, "rollout/success", "success {:3.0f} %", 100)
    if metrics.get("rollout/score") != metrics.get("rollout/success"):
        add(2, "rollout/score", "score {:.2f}")
    add(3, "rollout/turns", "turns {:4.1f}")
    add(4, "policy/switch_rate", "switches {:2.0f} %", 100)
    add(5, "loss/kl", "kl {:.4f}")
    add(6, "policy/entropy", "entropy {:.3f}")
    parts = ", ".join(
        f"{name} {100 * timing[name] / timing['seconds']:.0f} %"
        for name in ("environment", "generation", "update")
    )
    said.append((2, f"{timing['seconds']:.0f} s"))
    said.append((7, f"({parts})"))
    said.append((1, f"{span(timing['left'])} left"))
    while width and len(said) > 1 and len(_joined(said)) > width:
        said.remove(max(said, key=lambda pair: pair[0]))
    return _joined(said)


def print_iteration(
    step: int, total: int, metrics: Mapping[str, float], timing: Mapping[str, float]
) -> None:
    """One line per iteration; warns when the planner collapses, or penalties lead."""
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else 0
    print(iteration_line(step, total, metrics, timing, width), flush=True)
    rate = metrics.get("policy/switch_rate")
    if rate is not None and not 0.05 <= rate <= 0.95:
        print(
            "  warning: the switch rate has left [0.05, 0.95]: the planner collapses; "
            "consider --learn.keep-penalty or --learn.switch-rate-floor",
            flush=True,
        )
    share = metrics.get("group/of_penalties", 0.0)
    if step == 1 and share > OF_PENALTIES:
        print(
            f"  warning: {100 * share:.0f} % of what is learned comes from groups "
            "whose siblings all return the same, where penalties alone differ; "
            "consider --learn.refused-penalty 0 --learn.invalid-action-penalty 0, or "
            "--redraw 10",
            flush=True,
        )


def print_dropped(dropped: Dropped) -> None:
    """Says which episode was dropped, and why."""
    print(visible(f"  dropped an episode: {dropped}"), flush=True)


def bar(what: str, unit: str = "episodes", every: float = 60.0) -> Callable:
    """How far something is, and how long it still takes.

    In a terminal a line that is rewritten and goes away at the end; in a file or a pipe
    a whole line now and then, and none of what is done sooner.

    Args:
      what: goes on.
      unit: of what is counted.
      every: seconds between lines where there is no terminal.

    Returns:
      A function of (done, total), to be called as often as one likes.
    """
    what = visible(what, one_line=True)
    began = said = time.monotonic()
    line: list[tqdm] = []

    def show(done: int, total: int) -> None:
        nonlocal said
        now = time.monotonic()
        if sys.stdout.isatty():
            if not line and done < total:
                line.append(
                    tqdm(
                        desc=what,
                        total=total,
                        unit=f" {unit}",
                        leave=False,
                        # A terminal that does not know its size says 0 x 0, and tqdm
                        # would then show nothing.
                        ncols=shutil.get_terminal_size().columns - 1,
                        nrows=2,
                        file=sys.stdout,
                    )
                )
            if line:
                line[0].update(done - line[0].n)
                if done >= total:
                    line.pop().close()
        elif done < total and now - said >= every:
            said = now
            left = (now - began) / done * (total - done) if done else None
            hint = "" if left is None else f", {span(left)} left"
            print(f"{what}: {done}/{total} {unit}{hint}", flush=True)

    return show


def _joined(said: Sequence[tuple[int, str]]) -> str:
    return "  ".join(text for _, text in said)


def span(seconds: float) -> str:
    """Seconds in the unit that reads best."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    if seconds < 100 * 60:
        return f"{seconds / 60:.1f} min"
    return f"{seconds / 3600:.1f} h"


class Terminated(KeyboardInterrupt):
    """SIGTERM: whoever runs the machine wants the process to end."""

    code = 128 + signal.SIGTERM  # that the process ends with


@contextlib.contextmanager
def deferred(tell: Callable[[str], Any] | None = None):
    """Ctrl-C and SIGTERM at once, but not while the state is being replaced.

    Yields a guard: under `with guard():` a signal waits until the block ends.
    `guard.held` stays true after an error inside the block: the state is then unsure.
    Once a signal ends the work, later ones are not heard: what is saved then is saved.

    Args:
      tell: with several hosts, is told the signal's name, and nothing is raised here:
        all stop at one place, see `stop_if_asked`.
    """

    class Guard:
        asked: type[KeyboardInterrupt] | None = None
        held = False
        together = False  # what ends the work ends it on all hosts, at one place

        @contextlib.contextmanager
        def __call__(self):
            self.held = True
            yield
            self.held = False
            if self.asked and tell is None:
                raise self.asked

    guard = Guard()

    def handle(number, frame):
        if guard.asked is None:
            guard.asked = Terminated if number == signal.SIGTERM else KeyboardInterrupt
            if tell is not None:
                tell(signal.Signals(number).name)
            elif not guard.held:
                raise guard.asked

    numbers = (signal.SIGINT, signal.SIGTERM)
    try:
        before = [signal.signal(number, handle) for number in numbers]
    except ValueError:  # not in the main thread: nobody presses Ctrl-C here
        yield guard
        return
    try:
        yield guard
    finally:
        for number, old in zip(numbers, before, strict=True):
            signal.signal(number, old)
