"""An Episode <-> an RLDS example: what one record of a data set holds.

A record has `steps`, one for each turn, and beside them what is ragged: flat token ids,
log-probs and admissible actions, of which every step says how many are its own.
Records hold float32; where an episode's numbers need more, `exact` has all their bits.
What an episode has besides stands in `more`, as JSON.
"""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from hiper_jax.act.episode import Episode, Turn, from_json, to_json

DESCRIPTION = "Episodes of language-model agents: RLDS steps with tokens and credit."
_FLOATS = ("log_prob",)  # arrays of float32; the others are int32 token ids
_KINDS = {str: str, bool: np.bool_, float: np.float32, int: np.int32}
_TURN = {f.name: f.type for f in dataclasses.fields(Turn)}
_EPISODE = {f.name: f.type for f in dataclasses.fields(Episode)}
# How many of a flat sequence's entries belong to a step.
_LENGTHS = {
    "prompt": "prompt_length",
    "response": "response_length",
    "log_prob": "log_prob_length",
    "admissible": "admissible_length",
}


_OWN = {n for n, k in _EPISODE.items() if k in _KINDS or k is np.ndarray}


class Entry(NamedTuple):
    """An episode and where it comes from."""

    episode: Episode
    run: str = ""  # the run's name
    iteration: int = 0  # of the run; 0 where it is not known
    index: int = 0  # among the episodes of that iteration


def features(credit: Sequence[str]) -> Any:
    """The TFDS features of a data set.

    Args:
      credit: names of what an estimator said of turns, over all episodes.

    Raises:
      ImportError: the extra `data` is missing.
    """
    f = tfds().features

    def scalar(kind):
        return f.Text() if kind is str else f.Scalar(_KINDS[kind])

    steps: dict[str, Any] = {
        name: scalar(k) for name, k in _TURN.items() if k in _KINDS
    }
    steps |= {name: f.Scalar(np.int32) for name in (*_LENGTHS.values(), "segment")}
    steps |= {name: f.Scalar(np.bool_) for name in ("is_first", "is_last")}
    steps |= {"is_terminal": f.Scalar(np.bool_), "discount": f.Scalar(np.float32)}
    if credit:
        steps["credit"] = f.FeaturesDict({n: f.Scalar(np.float32) for n in credit})
    arrays = {name: kind for name, kind in _TURN.items() if kind is np.ndarray}
    arrays |= {name: kind for name, kind in _EPISODE.items() if kind is np.ndarray}
    return f.FeaturesDict(
        {name: scalar(kind) for name, kind in _EPISODE.items() if kind in _KINDS}
        | {name: f.Tensor(shape=(None,), dtype=_dtype(name)) for name in arrays}
        | {
            "run": f.Text(),
            "iteration": f.Scalar(np.int32),
            "index": f.Scalar(np.int32),
            "admissible": f.Sequence(f.Text()),
            "has_credit": f.Scalar(np.bool_),
            "credit_names": f.Sequence(f.Text()),
            "exact": f.Tensor(shape=(None,), dtype=np.int64),
            "more": f.Text(),
            "steps": f.Dataset(steps),
        }
    )


def tfds() -> Any:
    """The module tensorflow_datasets.

    Raises:
      ImportError: the extra `data` is missing.
    """
    try:
        import array_record.python.array_record_module
        import tensorflow_datasets
    except ImportError as error:
        raise ImportError(
            "data sets of episodes need the extra: pip install 'hiper-jax[data]'"
        ) from error
    del array_record
    return tensorflow_datasets


def to_example(entry: Entry, credit: Sequence[str]) -> dict[str, Any]:
    """The values of one record.

    Args:
      entry: the episode.
      credit: the data set's names of credit; what an episode lacks is NaN there.

    Raises:
      ValueError: the episode has credit of another name, or not a number for each turn.
    """
    episode, turns = entry.episode, entry.episode.turns
    said = episode.credit or {}
    for name, values in said.items():
        if name not in credit:
            raise ValueError(f"this data set has no credit {name!r}; it has {credit}")
        if len(values) != len(turns):
            raise ValueError(
                f"{episode.game}: {len(values)} numbers of {name} for "
                f"{len(turns)} turns"
            )
    segment = np.cumsum([turn.switch or t == 0 for t, turn in enumerate(turns)]) - 1
    steps = []
    for t, turn in enumerate(turns):
        last = t == len(turns) - 1
        step = {n: _raw(getattr(turn, n)) for n, k in _TURN.items() if k in _KINDS}
        step |= {length: len(getattr(turn, n)) for n, length in _LENGTHS.items()}
        ends = last and episode.terminated
        step |= {"is_first": t == 0, "is_last": last, "is_terminal": ends}
        step |= {"segment": int(segment[t]), "discount": float(not ends)}
        if credit:
            step["credit"] = {
                n: _raw(said[n][t] if n in said else np.nan) for n in credit
            }
        steps.append(step)
    flat = {
        name: _joined([getattr(turn, name) for turn in turns], name)
        for name, kind in _TURN.items()
        if kind is np.ndarray
    }
    ours = {n: _raw(getattr(episode, n)) for n, k in _EPISODE.items() if k in _KINDS}
    return {
        **ours,
        **flat,
        "next_prompt": np.asarray(episode.next_prompt, np.int32),
        "run": _raw(entry.run),
        "iteration": entry.iteration,
        "index": entry.index,
        "admissible": [_raw(text) for turn in turns for text in turn.admissible],
        "has_credit": episode.credit is not None,
        "credit_names": [_raw(name) for name in said],
        "exact": _bits(_numbers(episode)),
        "more": _more(episode),
        "steps": steps,
    }


def from_example(example: Mapping[str, Any]) -> Entry:
    """The episode of a record, as a data source gives it; `to_example`'s inverse."""
    steps = list(example["steps"])
    names = [_text(name) for name in example["credit_names"]]
    T = len(steps)
    said = [[float(step["credit"][name]) for step in steps] for name in names]
    score = float(example["score"])
    reward = [float(step["reward"]) for step in steps]
    if len(example["exact"]):
        numbers = np.asarray(example["exact"], np.int64).view(np.float64).tolist()
        score, reward, rest = numbers[0], numbers[1 : T + 1], numbers[T + 1 :]
        said = [rest[i * T : (i + 1) * T] for i in range(len(names))]
    ends = {
        name: np.cumsum([0] + [int(step[length]) for step in steps])
        for name, length in _LENGTHS.items()
    }
    turns = []
    for t, step in enumerate(steps):
        values = {n: _plain(step[n], k) for n, k in _TURN.items() if k in _KINDS}
        for name, end in ends.items():
            part = example[name][end[t] : end[t + 1]]
            values[name] = (
                np.array(part, _dtype(name))
                if _TURN[name] is np.ndarray
                else tuple(_text(text) for text in part)
            )
        turns.append(Turn(**{**values, "reward": reward[t]}))
    ours = {n: _plain(example[n], k) for n, k in _EPISODE.items() if k in _KINDS}
    credit = dict(zip(names, said, strict=True)) if example["has_credit"] else None
    after = np.array(example["next_prompt"], np.int32)
    whole = {**ours, "turns": tuple(turns), "next_prompt": after, "credit": credit}
    episode = Episode(**{**whole, "score": score})
    if more := _text(example["more"]):
        episode = from_json(to_json(episode) | json.loads(more))
    return Entry(
        episode,
        _text(example["run"]),
        int(example["iteration"]),
        int(example["index"]),
    )


def _more(episode: Episode) -> str:
    """What an episode has that no feature is for, as JSON; "" for nothing."""
    record = to_json(dataclasses.replace(episode, turns=(), credit=None))
    known = _OWN | {"turns", "credit"}
    more = {k: v for k, v in record.items() if k not in known and v is not None}
    return json.dumps(more) if more else ""


def _numbers(episode: Episode) -> np.ndarray:
    """Every number of an episode that is a Python float, in the order of `exact`."""
    said = (episode.credit or {}).values()
    numbers = [episode.score, *(turn.reward for turn in episode.turns)]
    return np.array([*numbers, *(x for values in said for x in values)], np.float64)


def _bits(numbers: np.ndarray) -> np.ndarray:
    """[n] int64 with the bits of numbers that float32 cannot hold, else empty."""
    with np.errstate(over="ignore"):
        held = numbers.astype(np.float32).astype(np.float64)
    if np.array_equal(held, numbers, equal_nan=True):
        return np.zeros(0, np.int64)
    return numbers.view(np.int64)


def _joined(arrays: Sequence[np.ndarray], name: str) -> np.ndarray:
    return np.concatenate([np.zeros(0, _dtype(name)), *arrays]).astype(_dtype(name))


def _dtype(name: str):
    return np.float32 if name in _FLOATS else np.int32


def _raw(value: Any) -> Any:
    if isinstance(value, str):
        # A lone surrogate is no UTF-8, but a game may show one.
        return value.encode("utf-8", "surrogatepass")
    if isinstance(value, float):
        with np.errstate(over="ignore"):
            return np.float32(value)
    return value


def _text(value: Any) -> str:
    return value if isinstance(value, str) else value.decode("utf-8", "surrogatepass")


def _plain(value: Any, kind: Any) -> Any:
    return _text(value) if kind is str else kind(value)
