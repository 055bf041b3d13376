"""Group methods as loops over rows and dictionaries: what `advantages` compares with.

One row per turn, groups in dictionaries of lists, statistics by numpy: the published
style, the code is our own. `given` is what `advantages.siblings` makes.
"""

import collections
import itertools

import numpy as np

EPSILON = 1e-6


def turns_of(given):
    """(b, t) of every real turn."""
    return list(zip(*np.nonzero(given["valid"]), strict=True))


def grouped(given, key, value, *, std=True, ddof=1, lone="nothing"):
    """[B, T] each turn's value against those of the turns with its key."""
    members, out = collections.defaultdict(list), np.zeros(given["valid"].shape)
    for place in turns_of(given):
        members[key(*place)].append(place)
    for places in members.values():
        x = np.array([value(*place) for place in places])
        if len(places) == 1:
            own = x[0] / (1 + EPSILON if std else 1)
            out[places[0]] = own if lone == "itself" else 0.0
            continue
        scale = x.std(ddof=ddof) + EPSILON if std else 1.0
        for place, a in zip(places, (x - x.mean()) / scale, strict=True):
            out[place] = a
    return out


def scores(given):
    """(b, t) -> the return of the trajectory less the penalty of the turn."""
    total = [
        sum(r for r, v in zip(*row, strict=True) if v)
        for row in zip(given["reward"], given["valid"], strict=True)
    ]
    return lambda b, t: total[b] - given["penalty"][b, t]


def _task(given):
    return lambda b, t: given["group"][b]


def _anchor(given):
    return lambda b, t: given["anchor"][b, t]


def grpo(given, std=True):
    return grouped(given, _task(given), scores(given), std=std, lone="itself")


def drgrpo(given):
    return grpo(given, std=False)


def rloo(given):
    count = collections.Counter(given["group"][b] for b, _ in turns_of(given))
    out = drgrpo(given)
    for b, t in turns_of(given):
        n = count[given["group"][b]]
        out[b, t] *= n / (n - 1) if n > 1 else 1
    return out


def _whitened(given, turns):
    tokens = [
        turns[b, t] for b, t in turns_of(given) for _ in range(given["tokens"][b, t])
    ]
    scale = np.sqrt(np.var(tokens, ddof=1) + 1e-8)
    return np.where(given["valid"], (turns - np.mean(tokens)) / scale, 0)


def reinforce_pp_baseline(given):
    return _whitened(given, drgrpo(given))


def reinforce_pp(given):
    score, turns = scores(given), np.zeros(given["valid"].shape)
    for b, t in turns_of(given):
        turns[b, t] = score(b, t)
    return _whitened(given, turns)


def _steps(given, gamma=0.95):
    B, T = given["valid"].shape
    out = np.zeros((B, T))
    for b in range(B):
        running = 0.0
        for t in reversed(range(T)):
            if given["valid"][b, t]:
                running = given["reward"][b, t] + gamma * running
                out[b, t] = running - given["penalty"][b, t]
    return out


def gigpo(given):
    step = _steps(given)
    return grpo(given) + grouped(given, _anchor(given), lambda b, t: step[b, t])


def hgpo(given, history=2):
    step, anchor = _steps(given), given["anchor"]
    total, weight = np.zeros(step.shape), np.zeros(step.shape)
    for k in range(1, history + 2):
        # Turns before t = k − 1 have no such history: each is a group of its own.
        level = grouped(
            given,
            lambda b, t, k=k: (
                tuple(anchor[b, t + 1 - k : t + 1]) if t + 1 >= k else (b, t, "none")
            ),
            lambda b, t: step[b, t],
            ddof=0,
        )
        told = np.abs(level) > 1e-5
        total += (k + 1) * level * told
        weight += (k + 1) * told
    return total / (weight + EPSILON)


def _after(given, value, won, lost):
    """[B, T] the value of where each turn led."""
    B, T = given["valid"].shape
    out = np.zeros((B, T))
    for b, t in turns_of(given):
        last = t + 1 == T or not given["valid"][b, t + 1]
        ends = won(b) if given["success"][b] else lost(b)
        out[b, t] = ends if last else value[given["anchor"][b, t + 1]]
    return out


def _length(given, b):
    return int(given["valid"][b].sum())


def g2po(given):
    total, visits = given["reward"].sum(axis=1), collections.defaultdict(list)
    for b, t in turns_of(given):
        power = _length(given, b) - t
        visits[given["anchor"][b, t]].append(0.95**power * total[b])
    value = {node: np.mean(seen) for node, seen in visits.items()}
    after = _after(given, value, lambda b: total[b], lambda b: 0.0)
    leads = grouped(
        given, _anchor(given), lambda b, t: after[b, t] - given["penalty"][b, t]
    )
    gains = grouped(
        given, _task(given), lambda b, t: after[b, t] - value[given["anchor"][b, t]]
    )
    return grpo(given) + leads + gains


def graphgpo(given, gamma=0.1):
    before = collections.defaultdict(set)
    for b, t in turns_of(given):
        last = t + 1 == _length(given, b)
        then = ("won" if given["success"][b] else "lost", given["group"][b])
        then = then if last else given["anchor"][b, t + 1]
        before[then].add(given["anchor"][b, t])
    distance, far = {}, {}
    for task in set(given["group"].tolist()):
        ring, known = {("won", task)}, {}
        for d in itertools.count():
            known |= dict.fromkeys(ring, d)
            ring = {n for node in ring for n in before[node]} - set(known)
            if not ring:
                break
        far[task] = max(known.values()) + 1
        distance |= known
    now = {
        given["anchor"][b, t]: distance.get(
            given["anchor"][b, t], far[given["group"][b]]
        )
        for b, t in turns_of(given)
    }
    after = _after(given, now, lambda b: 0, lambda b: far[given["group"][b]])
    return grpo(given) + grouped(
        given,
        _anchor(given),
        lambda b, t: 10 * gamma ** (after[b, t] - now[given["anchor"][b, t]] + 1.0),
    )


def crbc(given, beta=0.98):
    out = np.zeros(given["valid"].shape)
    for task in set(given["group"].tolist()):
        turns = [(b, t) for b, t in turns_of(given) if given["group"][b] == task]
        nodes = sorted({given["anchor"][place] for place in turns})
        index = {node: n for n, node in enumerate(nodes)}
        M, gain, visits = (
            np.zeros((len(nodes),) * 2),
            np.zeros(len(nodes)),
            np.zeros(len(nodes)),
        )
        for b, t in turns:
            here = index[given["anchor"][b, t]]
            visits[here] += 1
            if t + 1 < _length(given, b):
                M[here, index[given["anchor"][b, t + 1]]] += 1
            else:
                gain[here] += beta * given["success"][b]
        M, gain = M / visits[:, None], gain / visits
        value = np.linalg.solve(np.eye(len(nodes)) - beta * M, gain)
        table = dict(zip(nodes, value, strict=True))
        worth, spread = collections.defaultdict(list), collections.defaultdict(list)
        for b, t in turns:
            last = t + 1 == _length(given, b)
            then = given["success"][b] if last else table[given["anchor"][b, t + 1]]
            worth[given["anchor"][b, t], given["action"][b, t]].append(beta * then)
        q = {pair: np.mean(seen) for pair, seen in worth.items()}
        for (s, a), seen in worth.items():
            spread[s] += [(q[s, a] - table[s]) ** 2] * len(seen)
        for b, t in turns:
            s, a = given["anchor"][b, t], given["action"][b, t]
            sigma = max(np.sqrt(np.mean(spread[s])), 0.1)
            out[b, t] = 5 * (q[s, a] - table[s]) / sigma
    return grpo(given) + out


LOOPS = {
    loop.__name__: loop
    for loop in (
        *(grpo, drgrpo, rloo, reinforce_pp, reinforce_pp_baseline),
        *(gigpo, hgpo, g2po, graphgpo, crbc),
    )
}
