"""Slow plain twins of the estimators on a graph of observations, in names and loops."""

import collections
import itertools
import math
import statistics

import numpy as np
from reference_groups import add, by_key, episode, nothing


def g2po(trajectories, *, gamma=0.95, weight=1.0, std=True):
    visits = collections.defaultdict(list)
    for one in trajectories:
        K = len(one["reward"])
        for t, node in enumerate(one["anchor"]):
            visits[node].append(gamma ** (K - t) * sum(one["reward"]))
    value = {node: statistics.fmean(seen) for node, seen in visits.items()}

    def after(b, t):
        one = trajectories[b]
        if t + 1 < len(one["anchor"]):
            return value[one["anchor"][t + 1]]
        return sum(one["reward"]) if one["won"] else 0.0

    leads = by_key(
        trajectories,
        lambda b, t: trajectories[b]["anchor"][t],
        lambda b, t: after(b, t) - trajectories[b]["penalty"][t],
        std=std,
        lone=nothing,
    )
    gains = by_key(
        trajectories,
        lambda b, t: trajectories[b]["task"],
        lambda b, t: after(b, t) - value[trajectories[b]["anchor"][t]],
        std=std,
        lone=nothing,
    )
    return add(
        episode(trajectories, std=std), leads, gains, weights=[1, weight, weight]
    )


def graphgpo(trajectories, *, gamma=0.1, full_reward=10.0, std=True):
    """Distances by walking backwards from success, ring by ring."""
    out_of = collections.defaultdict(set)  # where -> nodes one turn before
    for one in trajectories:
        ends = ("won", one["task"]) if one["won"] else ("lost", one["task"])
        for now, then in itertools.pairwise([*one["anchor"], ends]):
            out_of[then].add(now)
    distance = {}
    for task in {one["task"] for one in trajectories}:
        ring, d = {("won", task)}, 0
        known = {}
        while ring:
            known |= dict.fromkeys(ring, d)
            ring = {n for node in ring for n in out_of[node]} - set(known)
            d += 1
        far = max(known.values()) + 1
        distance[task] = lambda node, known=known, far=far: known.get(node, far)

    def step(b, t):
        one = trajectories[b]
        d = distance[one["task"]]
        last = t + 1 == len(one["anchor"])
        ends = ("won" if one["won"] else "lost", one["task"])
        then = ends if last else one["anchor"][t + 1]
        return full_reward * gamma ** (d(then) - d(one["anchor"][t]) + 1)

    at_node = by_key(
        trajectories,
        lambda b, t: trajectories[b]["anchor"][t],
        step,
        std=std,
        lone=nothing,
    )
    return add(episode(trajectories, std=std), at_node)


def crbc(trajectories, *, beta=0.98, depth=None, sigma_min=0.1, weights=(1, 5)):
    """Counts, matrices, one linear solve per task: the paper's own way."""
    step = [[0.0] * len(one["reward"]) for one in trajectories]
    for task in {one["task"] for one in trajectories}:
        ours = [(b, one) for b, one in enumerate(trajectories) if one["task"] == task]
        nodes = sorted({node for _, one in ours for node in one["anchor"]})
        count = collections.Counter()
        own = collections.defaultdict(list)
        for _, one in ours:
            K = len(one["reward"])
            then = [*one["anchor"][1:], "won" if one["won"] else "lost"]
            for t in range(K):
                pair = one["anchor"][t], one["action"][t]
                count[(*pair, then[t])] += 1
                own[pair].append(beta ** (K - t) * one["won"])
        pairs = sorted({key[:2] for key in count})

        def n(s=None, a=None, x=None, count=count):
            return sum(
                c
                for (s2, a2, x2), c in count.items()
                if (s is None or s == s2)
                and (a is None or a == a2)
                and (x is None or x == x2)
            )

        def backup(value, pairs=pairs, count=count, n=n):
            full = value | {"won": 1.0, "lost": 0.0}
            return {
                pair: beta
                * sum(
                    c / n(*pair) * full[x]
                    for (s, a, x), c in count.items()
                    if (s, a) == pair
                )
                for pair in pairs
            }

        def state(q, nodes=nodes, pairs=pairs, n=n):
            return {
                s: sum(n(*pair) / n(s) * q[pair] for pair in pairs if pair[0] == s)
                for s in nodes
            }

        q = {pair: statistics.fmean(seen) for pair, seen in own.items()}
        value = state(q)
        if depth is None:
            M = np.array([[n(s, None, x) / n(s) for x in nodes] for s in nodes])
            gain = np.array([beta * n(s, None, "won") / n(s) for s in nodes])
            solved = np.linalg.solve(np.eye(len(nodes)) - beta * M, gain)
            value = dict(zip(nodes, solved, strict=True))
            q = backup(value)
        for _ in range(depth or 0):
            q = backup(value)
            value = state(q)
        for b, one in ours:
            for t, pair in enumerate(zip(one["anchor"], one["action"], strict=True)):
                s = pair[0]
                choices = [p for p in pairs if p[0] == s]
                spread = sum(n(*p) / n(s) * (q[p] - value[s]) ** 2 for p in choices)
                sigma = max(math.sqrt(spread), sigma_min)
                if len(choices) >= 2:
                    step[b][t] = (q[pair] - value[s]) / sigma
    return add(episode(trajectories), step, weights=list(weights))
