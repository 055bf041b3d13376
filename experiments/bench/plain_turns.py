"""Turn and token methods as loops over numbers: what `advantages` compares with.

`given` is what `advantages.siblings` makes; the settings are the estimators' defaults.
"""

import collections
import functools
import math

import numpy as np

from hiper_jax.experiments.bench.plain_groups import grouped, grpo, scores, turns_of


def _chain(rewards, values, cuts, gamma, lambda_):
    """GAE of one sequence, as a list; a cut ends the recursion for good."""
    out, after, value_after = [0.0] * len(rewards), 0.0, 0.0
    for t in reversed(range(len(rewards))):
        goes_on = 0.0 if cuts[t] else 1.0
        delta = rewards[t] + gamma * goes_on * value_after - values[t]
        after = delta + gamma * lambda_ * goes_on * after
        out[t], value_after = after, values[t]
    return out


def _over_turns(given, value, gamma, lambda_):
    """[B, T] raw GAE over the turns of every trajectory."""
    out = np.zeros(given["valid"].shape)
    for b, n in enumerate(given["valid"].sum(axis=1)):
        rewards = given["reward"][b, :n].tolist()
        cuts = given["terminated"][b, :n].tolist()
        out[b, :n] = _chain(rewards, value[b, :n].tolist(), cuts, gamma, lambda_)
    return out


def _inside_turns(given, ends):
    """[B, T, R] each response an episode of its own that pays at its end, γ = λ = 1."""
    values = given["token_value"]
    out = np.zeros(values.shape)
    for b, t in turns_of(given):
        n = given["tokens"][b, t]
        rewards = [0.0] * (n - 1) + [ends(b, t)]
        out[b, t, :n] = _chain(rewards, values[b, t, :n].tolist(), [False] * n, 1, 1)
    return out


def gae(given):
    """[B, T] raw, λ .95."""
    return _over_turns(given, given["value"], 1.0, 0.95)


def gae_turn(given):
    out, valid = _over_turns(given, given["value"], 1.0, 1.0), given["valid"]
    x = out[valid]
    return np.where(valid, (out - x.mean()) / np.sqrt(x.var(ddof=1) + 1e-8), 0)


def gae_token(given):
    return _inside_turns(given, scores(given))


def gae_bilevel(given):
    turn = _over_turns(given, given["token_value"][:, :, 0], 0.95, 1.0)
    return _inside_turns(given, lambda b, t: given["reward"][b, t] + turn[b, t])


def vetta(given):
    """Advantages [B, T, R], returns of turns [B, T] and of tokens [B, T, R]."""
    valid, tokens = given["valid"], given["tokens"]
    turn = _over_turns(given, given["value"], 0.95, 0.95)
    out, returns = (np.zeros(given["token_value"].shape) for _ in range(2))
    for b, n in enumerate(valid.sum(axis=1)):
        places = [(t, j) for t in range(n) for j in range(tokens[b, t])]
        values = [float(given["token_value"][b, t, j]) for t, j in places]
        ends = [j + 1 == tokens[b, t] for t, j in places]
        rewards = [
            float(given["reward"][b, t]) if end else 0.0
            for (t, _), end in zip(places, ends, strict=True)
        ]
        cuts = [
            end and bool(given["terminated"][b, t])
            for (t, _), end in zip(places, ends, strict=True)
        ]
        raw = _chain(rewards, values, cuts, 1.0, 1.0)
        by_turn = collections.defaultdict(list)
        for (t, _), a in zip(places, raw, strict=True):
            by_turn[t].append(a)
        for (t, j), a, value in zip(places, raw, values, strict=True):
            out[b, t, j] = turn[b, t] + a - np.mean(by_turn[t])
            returns[b, t, j] = a + value
    return out, np.where(valid, turn + given["value"], 0), returns


def _hae(given, low, high, waits, lambda_segment, lambda_boundary):
    """The six arrays of `hj.HAE`, [B, T] each; γ = λ_turn = 1."""
    out = a_low, a_high, a_switch, r_low, r_high, r_switch = [
        np.zeros(given["valid"].shape) for _ in range(6)
    ]
    for b, n in enumerate(given["valid"].sum(axis=1)):
        act = plan = decide = low_after = high_after = 0.0
        hands_over = False  # whether the next turn starts a segment
        for t in reversed(range(n)):
            goes_on = 0.0 if given["terminated"][b, t] else 1.0
            reward = given["reward"][b, t]
            crossed = high_after + lambda_boundary * (plan - high_after)
            planned = high_after + lambda_segment * (plan - high_after)
            inside = low_after + act
            act = reward + goes_on * (crossed if hands_over else inside) - low[b, t]
            decide = reward + goes_on * (crossed if hands_over else decide)
            plan = reward + goes_on * (planned if hands_over else plan)
            a_low[b, t], r_low[b, t] = act, act + low[b, t]
            a_switch[b, t], r_switch[b, t] = decide - waits[b, t], decide
            hands_over = t == 0 or bool(given["switch"][b, t])
            if hands_over:
                a_high[b, t], r_high[b, t] = plan - high[b, t], plan
            low_after, high_after = low[b, t], high[b, t]
    return out


def hae(given, lambda_boundary=0.0):
    value = given["value"]
    return _hae(given, value, given["high"], value, 0.95, lambda_boundary)


def hae_group(given):
    """HAE with means of siblings for critics, every λ 1."""
    valid, anchor = given["valid"], given["anchor"]
    to_go = _over_turns(given, np.zeros(valid.shape), 1.0, 1.0)
    whole, lists = collections.defaultdict(list), collections.defaultdict(list)
    keys = {}
    for b, t in turns_of(given):
        if t == 0:
            whole[given["group"][b]].append(to_go[b, t])
        keys[b, t] = (
            ("under", anchor[b, t], given["subgoal"][b, t]),
            ("starts", anchor[b, t]) if t == 0 or given["switch"][b, t] else None,
            ("turns", anchor[b, t]),
        )
        for key in filter(None, keys[b, t]):
            lists[key].append(to_go[b, t])
    low, high, waits = critics = [np.zeros(valid.shape) for _ in range(3)]
    for (b, t), of_turn in keys.items():
        for critic, key in zip(critics, of_turn, strict=True):
            company = lists[key] if key else ()
            alone = len(company) < 2
            critic[b, t] = np.mean(whole[given["group"][b]] if alone else company)
    return _hae(given, low, high, waits, 1.0, 1.0)


def strata(given):
    """Of strategies [B], of turns [B, T], and the strategies' rewards [B]."""
    total = np.where(given["valid"], given["reward"], 0).sum(axis=1)
    under, tasks = collections.defaultdict(list), collections.defaultdict(dict)
    for b, strategy in enumerate(given["strategy"].tolist()):
        under[strategy].append(total[b])
    for b, strategy in enumerate(given["strategy"].tolist()):
        best = sorted(under[strategy], reverse=True)
        worth = np.mean(best[: math.ceil(0.5 * len(best))])
        tasks[given["group"][b]][strategy] = worth
    of_strategy, reward = np.zeros(len(total)), np.zeros(len(total))
    for b, strategy in enumerate(given["strategy"].tolist()):
        worths = tasks[given["group"][b]]
        reward[b] = worths[strategy]
        x = np.array(list(worths.values()))
        if len(x) > 1:
            of_strategy[b] = (reward[b] - x.mean()) / (x.std(ddof=1) + 1e-6)
    score = scores(given)
    action = grouped(
        given,
        lambda b, t: given["strategy"][b],
        lambda b, t: score(b, t) - 0.1 * given["flagged"][b, t],
    )
    return of_strategy, action, reward


def gear(given):
    """[B, T, R] GRPO's advantage, moved to where a teacher disagrees."""
    teacher = given["token_value"] + given["entropy"]
    apart, said = np.abs(given["token_value"] - teacher), given["mask"]
    spike_from = np.quantile(apart[said], 0.95)
    ends_from = np.quantile(given["entropy"][said], 0.8)
    held = np.zeros(said.shape)
    for b, t in turns_of(given):
        inside = None
        for j in range(given["tokens"][b, t]):
            d = apart[b, t, j]
            inside = d if d > spike_from else inside
            held[b, t, j] = d if inside is None else inside
            if given["entropy"][b, t, j] > ends_from and not d > spike_from:
                inside = None
    x = apart[said]
    moved = 1 + 0.5 * np.clip((held - x.mean()) / max(x.std(), 1e-8), -1, 1)
    return np.where(said, grpo(given)[..., None] * moved / moved[said].mean(), 0)


LOOPS = {
    loop.__name__: loop
    for loop in (
        *(gae, gae_turn, gae_token, gae_bilevel, vetta),
        *(hae, hae_group, strata, gear),
    )
} | {"hae, boundary .95": functools.partial(hae, lambda_boundary=0.95)}
