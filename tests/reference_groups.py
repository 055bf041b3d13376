"""Slow plain twins of the estimators that compare siblings, and batches to try them on.

A trajectory is a dict of lists, one entry per real turn; a batch is a list of them.
Loops over numbers, dictionaries keyed by names; nothing is shared with the library.
"""

import collections
import math
import statistics

import numpy as np
from reference import GOLDEN, gae, hae


def random_trajectories(seed=0, longest=6):
    """Tasks of 4, 3, 2 and 1 siblings: ragged, revisiting, some won, some flat."""
    rng = np.random.default_rng(seed)
    made = []
    for task, siblings in enumerate((4, 3, 2, 1)):
        for _ in range(siblings):
            T = int(rng.integers(1, longest + 1)) if made else longest
            won = bool(rng.random() < 0.5) and task != 2  # nobody wins task 2
            reward = [0.0] * T
            reward[-1] = 10.0 * won
            terminated = [False] * T
            terminated[-1] = won
            if task == 0 and T > 3:  # the record goes on after it ended
                reward[1], terminated[1] = 2.5, True
            place = [int(rng.integers(3)) for _ in range(T)]
            made.append(
                {
                    "task": task,
                    "won": won,
                    "reward": reward,
                    "terminated": terminated,
                    "anchor": [(task, f"at {p}") for p in place],
                    "action": [f"{p} go {rng.integers(2)}" for p in place],
                    "penalty": [float(rng.choice([0, 0, 0.1, 0.3])) for _ in place],
                    "tokens": [int(rng.integers(1, 6)) for _ in place],
                    "subgoal": [f"find {rng.integers(2)}" for _ in place],
                    "switch": [bool(rng.random() < 0.4) for _ in place],
                }
            )
    return made


def arrays(trajectories, B=None, T=None, shift=0):
    """The same as padded arrays, ids dense, rubbish where nothing is."""
    B = B or len(trajectories)
    T = T or max(len(t["reward"]) for t in trajectories) + shift
    valid = np.zeros((B, T), bool)
    out = {
        "reward": np.full((B, T), np.nan, np.float32),
        "penalty": np.full((B, T), np.nan, np.float32),
        "terminated": np.ones((B, T), bool),
        "switch": np.ones((B, T), bool),
        "tokens": np.full((B, T), 7, np.int32),
        "anchor": np.full((B, T), -1, np.int32),
        "action": np.full((B, T), -1, np.int32),
        "subgoal": np.full((B, T), 99, np.int32),
    }
    ids = collections.defaultdict(dict)
    group, success = np.zeros(B, np.int32), np.zeros(B, bool)
    for b, one in enumerate(trajectories):
        here = slice(shift, shift + len(one["reward"]))
        valid[b, here], success[b] = True, one["won"]
        group[b] = ids["task"].setdefault(one["task"], len(ids["task"]))
        for name in ("reward", "penalty", "terminated", "switch", "tokens"):
            out[name][b, here] = one[name]
        for name in ("anchor", "action", "subgoal"):
            known = ids[name]
            keys = [(one["task"], key) for key in one[name]]
            out[name][b, here] = [known.setdefault(k, len(known)) for k in keys]
    return out | {"valid": valid, "group": group, "success": success}


def padded(turns, like):
    """A list per trajectory as the array `like` is: zeros where nothing is."""
    out = np.zeros(like.shape)
    for b, values in enumerate(turns):
        out[b][like[b]] = values
    return out


def z(values, *, std=True, population=False, lone=None, epsilon=1e-6):
    """Each value against all of them; `lone` says what one by itself gives."""
    if len(values) == 1:
        return [lone(values[0])]
    mean = statistics.fmean(values)
    if not std:
        return [v - mean for v in values]
    deviate = statistics.pstdev if population else statistics.stdev
    return [(v - mean) / (deviate(values) + epsilon) for v in values]


def nothing(value):
    return 0.0


def by_key(trajectories, key, value, **options):
    """`z` of value(b, t) among all turns with one key(b, t); None is no key."""
    members = collections.defaultdict(list)
    for b, one in enumerate(trajectories):
        for t in range(len(one["reward"])):
            if key(b, t) is not None:
                members[key(b, t)].append((b, t))
    out = [[0.0] * len(one["reward"]) for one in trajectories]
    for places in members.values():
        for (b, t), a in zip(
            places, z([value(b, t) for b, t in places], **options), strict=True
        ):
            out[b][t] = a
    return out


def scores(trajectories):
    return [[sum(one["reward"]) - p for p in one["penalty"]] for one in trajectories]


def episode(trajectories, over="turns", std=True):
    """GRPO, or Dr. GRPO without std."""
    score = scores(trajectories)
    own = (lambda s: s / (1 + 1e-6)) if std else (lambda s: s)
    if over == "turns":
        return by_key(
            trajectories,
            lambda b, t: trajectories[b]["task"],
            lambda b, t: score[b][t],
            std=std,
            lone=own,
        )
    out = []
    for one, mine in zip(trajectories, score, strict=True):
        first = [
            s[0]
            for other, s in zip(trajectories, score, strict=True)
            if other["task"] == one["task"]
        ]
        if len(first) == 1:
            out.append([own(s) for s in mine])
            continue
        scale = statistics.stdev(first) + 1e-6 if std else 1
        out.append([(s - statistics.fmean(first)) / scale for s in mine])
    return out


def rloo(trajectories, over="turns"):
    """Against the mean of all others, found by leaving one out."""
    out = []
    for b, mine in enumerate(score := scores(trajectories)):
        out.append([])
        for t, s in enumerate(mine):
            if over == "turns":
                counted = [
                    v
                    for c, other in enumerate(score)
                    for u, v in enumerate(other)
                    if trajectories[c]["task"] == trajectories[b]["task"]
                    and (c, u) != (b, t)
                ]
            else:
                # n / (n − 1) (s − mean) with the first turns' scores.
                first = [
                    other[0]
                    for c, other in enumerate(score)
                    if trajectories[c]["task"] == trajectories[b]["task"]
                ]
                n = len(first)
                total = n / (n - 1) * (s - sum(first) / n) if n > 1 else s
                out[-1].append(total)
                continue
            out[-1].append(s - statistics.fmean(counted) if counted else s)
    return out


def whitened(turns, tokens):
    """Every turn's value written once per token, then whitened."""
    flat = [
        v
        for values, counts in zip(turns, tokens, strict=True)
        for v, n in zip(values, counts, strict=True)
        for _ in range(n)
    ]
    mean = statistics.fmean(flat)
    scale = math.sqrt(statistics.variance(flat) + 1e-8)
    return [[(v - mean) / scale for v in values] for values in turns]


def returns(rewards, gamma):
    return [
        sum(gamma**k * r for k, r in enumerate(rewards[t:]))
        for t in range(len(rewards))
    ]


def steps(trajectories, gamma):
    return [
        [
            g - p
            for g, p in zip(returns(one["reward"], gamma), one["penalty"], strict=True)
        ]
        for one in trajectories
    ]


def add(*parts, weights=None):
    """Weighted sum of turns of trajectories."""
    weights = weights or [1] * len(parts)
    return [
        [
            sum(w * v for w, v in zip(weights, turn, strict=True))
            for turn in zip(*one, strict=True)
        ]
        for one in zip(*parts, strict=True)
    ]


def gigpo(trajectories, *, gamma=0.95, weight=1.0, std=True, over="turns"):
    step = steps(trajectories, gamma)
    at_anchor = by_key(
        trajectories,
        lambda b, t: trajectories[b]["anchor"][t],
        lambda b, t: step[b][t],
        std=std,
        lone=nothing,
    )
    return add(episode(trajectories, over, std), at_anchor, weights=[1, weight])


def hgpo(trajectories, *, gamma=0.95, history=2, alpha=1.0, base_group=False, std=True):
    step = steps(trajectories, gamma)
    levels = {0: episode(trajectories, "turns", std)} if base_group else {}
    for k in range(1, history + 2):
        levels[k] = by_key(
            trajectories,
            lambda b, t, k=k: (
                tuple(trajectories[b]["anchor"][t + 1 - k : t + 1])
                if t + 1 >= k
                else None
            ),
            lambda b, t: step[b][t],
            std=std,
            population=True,
            lone=nothing,
        )
    out = []
    for b, one in enumerate(trajectories):
        out.append([])
        for t in range(len(one["reward"])):
            items = {k: v[b][t] for k, v in levels.items() if abs(v[b][t]) > 1e-9}
            total = sum((k + 1) ** alpha for k in items) + 1e-6
            out[-1].append(sum((k + 1) ** alpha * a / total for k, a in items.items()))
    return out


def hae_group(trajectories, *, gamma=1.0, lambdas=(1.0, 1.0)):
    """Tables of means in place of critics; `reference.hae` has no λ at boundaries."""
    to_go = [
        gae(
            one["reward"],
            one["terminated"],
            [0.0] * len(one["reward"]),
            gamma=gamma,
            lambda_=1.0,
            end_value=0.0,
        )
        for one in trajectories
    ]

    def mean(task, keep):
        found = [
            to_go[b][t]
            for b, one in enumerate(trajectories)
            if one["task"] == task
            for t in range(len(one["reward"]))
            if keep(one, t)
        ]
        if len(found) > 1:
            return statistics.fmean(found)
        return statistics.fmean(
            to_go[b][0] for b, one in enumerate(trajectories) if one["task"] == task
        )

    def starts(one, t):
        return t == 0 or one["switch"][t]

    out = []
    for one in trajectories:
        task, here = one["task"], range(len(one["reward"]))

        def same(name, t, one=one):
            return lambda other, u: other[name][u] == one[name][t]

        low = [
            mean(
                task,
                lambda o, u, t=t: same("anchor", t)(o, u) and same("subgoal", t)(o, u),
            )
            for t in here
        ]
        high = [
            mean(task, lambda o, u, t=t: same("anchor", t)(o, u) and starts(o, u))
            for t in here
        ]
        switch = [mean(task, same("anchor", t)) for t in here]
        out.append(
            hae(
                one["reward"],
                one["terminated"],
                one["switch"],
                low,
                high,
                switch,
                gamma=gamma,
                lambda_turn=lambdas[0],
                lambda_segment=lambdas[1],
                bootstrap="none",
            )
        )
    return out


def golden_groups():
    """The published cases, anchors made dense, all padded to one shape: dicts with in
    and out. Padding must not matter."""
    with np.load(GOLDEN / "estimators.npz") as stored:
        files = {key: stored[key] for key in stored.files}
    cases = []
    for number in sorted({key.split("/")[0] for key in files}):
        case = {
            side: {
                key.split("/")[2]: array
                for key, array in files.items()
                if key.startswith(f"{number}/{side}/")
            }
            for side in ("in", "out")
        }
        ids, given = {}, case["in"]
        anchor = np.full(given["valid"].shape, -1, np.int32)
        for b, t in zip(*np.nonzero(given["valid"]), strict=True):
            key = given["group"][b], given["state"][b, t]
            anchor[b, t] = ids.setdefault(key, len(ids))
        given["anchor"] = anchor
        for side in case.values():
            for name, a in side.items():
                if a.ndim:
                    fill = -1 if name == "anchor" else 0
                    rows = [(0, 16 - len(a))] + [(0, 0)] * (a.ndim - 1)
                    side[name] = np.pad(a, rows, constant_values=fill)
        cases.append(case)
    return cases
