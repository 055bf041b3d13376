"""StraTA's strategies: written from the first view of a task, kept where far apart.

    first view -> candidates -> those far apart in the policy's own states

The network is handed over as two functions: the rollout's sampler, and `embed`. What is
drawn goes into `rollout`; what came of it is judged in `strategy_judge`.

Source: arXiv 2605.06642.
"""

import re
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from hiper_jax.act.envs.answers import Fault
from hiper_jax.act.envs.wordings import Wording
from hiper_jax.act.episode import Strategy
from hiper_jax.act.format import without_thoughts
from hiper_jax.act.prompt import fit, fit_all
from hiper_jax.act.rollout import SPENT, Environments, Reader, Sampler

# What rows that write a strategy are named by in the place of a turn: an episode has
# far fewer than 4096.
WRITES = 4095
# (prompts, responses) -> [n, D] float32, the mean of the states of each response
Embed = Callable[[Sequence[np.ndarray], Sequence[np.ndarray]], np.ndarray]
_TAGS = re.compile(r"</?(?:switch|subgoal|think|action)>")


class Drawn(NamedTuple):
    """The strategies of some games."""

    strategies: list[Strategy]  # of each game
    spent: dict[str, float]  # seconds, as a rollout's
    metrics: dict[str, float]


def clean(text: str) -> str:
    """What a model wrote as a strategy, in one line: no thoughts, tags or controls.

    Of a response in the form of a turn it is the subgoal.
    """
    subgoal, closed, _ = text.partition("<subgoal>")[2].partition("</subgoal>")
    text = subgoal if closed else text
    text = _TAGS.sub(" ", without_thoughts(text))
    text = "".join(c if c.isprintable() or c.isspace() else "\ufffd" for c in text)
    return " ".join(text.split())


def farthest(vectors: np.ndarray, number: int) -> list[int]:
    """Greedy farthest points on the cosine distance.

        chosen₀ = 0        chosenₖ = argmaxᵢ minⱼ<ₖ (1 − cos(vᵢ, v_chosenⱼ))

    The first stands for a random one: candidates come in no order. Of equals the first
    is taken; a vector of zeros is at distance 1 from all.

    Args:
      vectors: [n, D] of candidates.
      number: how many to choose, n at most.

    Returns:
      Places of the chosen, in the order in which they were.

    Raises:
      ValueError: there are not as many, or a vector is not finite.
    """
    vectors = np.asarray(vectors, np.float64)
    if vectors.ndim != 2 or not 1 <= number <= len(vectors):
        raise ValueError(
            f"{number} of the candidates cannot be chosen: there are vectors of shape "
            f"{vectors.shape}, [n, D] is needed with n at least that"
        )
    if not np.isfinite(vectors).all():
        raise ValueError("a candidate's vector is not finite: lower the learning rates")
    length = np.linalg.norm(vectors, axis=1, keepdims=True)
    unit = vectors / np.maximum(length, 1e-12)
    chosen = [0]
    nearest = 1 - unit @ unit[0]
    while len(chosen) < number:
        nearest[chosen] = -np.inf  # rounding must not bring one back
        chosen.append(int(np.argmax(nearest)))
        nearest = np.minimum(nearest, 1 - unit @ unit[chosen[-1]])
    return chosen


def spread(vectors: np.ndarray, chosen: Sequence[int]) -> float:
    """Least cosine distance between two of the chosen; 0 for one alone."""
    unit = np.asarray(vectors, np.float64)[list(chosen)]
    unit = unit / np.maximum(np.linalg.norm(unit, axis=1, keepdims=True), 1e-12)
    near = (1 - unit @ unit.T)[~np.eye(len(unit), dtype=bool)]
    return max(float(near.min()), 0.0) if len(near) else 0.0


def draw(
    environments: Environments,
    sample: Sampler,
    games: Sequence[str],
    reader: Reader,
    *,
    embed: Embed | None = None,
    candidates: int = 1,
    kept: int = 1,
    each: int = 1,
    first: int = 0,
) -> Drawn:
    """Draws strategies for games, from what is seen of each before its first turn.

    Args:
      environments: they show the first views; nothing is played.
      sample: see `rollout`; its rows are named (task × candidates + candidate, WRITES).
      games: `kept × each` times each in a row: `each` episodes under every strategy.
      reader: how the prompts are written.
      embed: needed where there are more candidates than are kept.
      candidates: how many are drawn for a task.
      kept: how many of them stay, by `farthest`.
      each: episodes under one strategy.
      first: `Strategy.number` of the first.

    Returns:
      Strategies of the games in their order; where a first view cannot be used they
      are empty, and the rollout will drop what is played there.

    Raises:
      ValueError: the games are not as many as they must be, or there are too few
        candidates.
    """
    if kept > candidates or len(games) % (kept * each):
        raise ValueError(
            f"{kept} of {candidates} candidates for {each} games each do not make "
            f"{len(games)} games: draw as many candidates as are kept, and games in "
            f"multiples of {kept * each}"
        )
    tasks = games[:: kept * each]
    spent = dict.fromkeys(SPENT, 0.0)
    began = time.perf_counter()
    views = first_views(environments, tasks)
    spent["environment"] = time.perf_counter() - began
    began = time.perf_counter()
    asked = _ask(views, reader)
    prompts = [prompt for prompt in asked for _ in range(candidates)]
    spent["text"] = time.perf_counter() - began
    began = time.perf_counter()
    names = np.arange(len(prompts), dtype=np.int32)
    sampled = sample(prompts, names, np.full(len(prompts), WRITES, np.int32))
    vectors = None
    if kept < candidates:
        if embed is None:
            raise ValueError("to choose among candidates, give `embed`")
        vectors = embed(prompts, sampled.tokens)
    spent["generation"] = spent["device"] = time.perf_counter() - began
    found, distances = [], []
    for k in range(len(tasks)):
        begin = k * candidates
        chosen = list(range(kept))
        if vectors is not None:
            own = vectors[begin : begin + candidates]
            chosen = farthest(own, kept)
            distances.append(spread(own, chosen))
        for candidate in chosen:
            tokens = sampled.tokens[begin + candidate]
            written = Strategy(
                text=clean(reader.codec.decode(tokens)),
                prompt=np.asarray(prompts[begin], np.int32),
                response=np.asarray(tokens, np.int32),
                log_prob=np.asarray(sampled.log_prob[begin + candidate], np.float32),
                number=first + len(found) // each,
                candidate=candidate,
            )
            found += [written] * each
    once = found[::each]
    metrics = {
        "strategy/tokens": float(np.mean([len(s.response) for s in once])),
        "strategy/distinct": len({(s.prompt.tobytes(), s.text) for s in once})
        / len(once),
    }
    if distances:
        metrics["strategy/distance"] = float(np.mean(distances))
    return Drawn(found, spent, metrics)


def first_views(environments: Environments, tasks: Sequence[str]) -> list:
    """What a reset answers for each task: (observation, info), or a `Fault`."""
    views: list = []
    choose = getattr(environments, "choose_slots", lambda free, t: free[: len(t)])
    while len(views) < len(tasks):
        some = tasks[len(views) : len(views) + environments.size]
        slots = choose(list(range(environments.size)), some)
        views += environments.reset(slots, some)
    return views


def _ask(views: Sequence[Any], reader: Reader) -> list[np.ndarray]:
    """[P] each: what asks for a strategy, as an episode's first prompt fits."""
    seen = [("", {}) if isinstance(view, Fault) else view for view in views]
    fittings = [
        fit(
            reader.max_prompt,
            info.get("task", ""),
            [],
            observation,
            "",
            info.get("admissible_actions", ()),
            template=wording_of(reader).ask or reader.template,
            history_length=0,
        )
        for observation, info in seen
    ]
    prompts = fit_all(fittings, reader.codec.encode_prompts)
    return [np.asarray(prompt.ids, np.int32) for prompt in prompts]


def wording_of(reader: Reader) -> Wording:
    """How the reader's world speaks of strategies; ValueError where it does not."""
    if reader.strategies is None:
        raise ValueError(
            "this style of prompt has no wording for strategies: give the World one "
            "under `strategies`, or choose another style"
        )
    return reader.strategies
