"""Slow plain twins, written from the equations, and the golden numbers' loader.

Loops over numbers and strings; nothing is shared with the library.
"""

import functools
import json
import lzma
import math
import pathlib
import sys
import types

import numpy as np

GOLDEN = pathlib.Path(__file__).parent / "golden"


def golden(name: str) -> list[dict]:
    """The cases of `name`.json and `name`.npz: dicts with config, in and out."""
    configs = json.loads((GOLDEN / f"{name}.json").read_text())
    with np.load(GOLDEN / f"{name}.npz") as arrays:
        stored = {key: arrays[key] for key in arrays.files}
    return [
        {
            "config": config,
            **{
                side: {
                    key.split("/")[2]: array
                    for key, array in stored.items()
                    if key.startswith(f"{number:03d}/{side}/")
                }
                for side in ("in", "out")
            },
        }
        for number, config in enumerate(configs)
    ]


@functools.cache
def qwen_tokenizer():
    """Qwen's own tokenizer, as a `tokenizers.Tokenizer`."""
    import tokenizers

    packed = (GOLDEN / "qwen_tokenizer" / "tokenizer.json.xz").read_bytes()
    return tokenizers.Tokenizer.from_str(lzma.decompress(packed).decode())


def mutated(module: types.ModuleType, old: str, new: str) -> types.ModuleType:
    """A copy of a module with one line wrong: what a test must notice."""
    source = pathlib.Path(module.__file__).read_text()
    assert source.count(old) == 1, f"{old!r} occurs {source.count(old)} times"
    return _copied(module, old, new)


def _copied(module: types.ModuleType, old: str = "", new: str = "") -> types.ModuleType:
    source = pathlib.Path(module.__file__).read_text()
    copy = types.ModuleType(module.__name__ + "_mutated")
    copy.__file__ = module.__file__
    sys.modules[copy.__name__] = copy
    source = source.replace(old, new) if old else source
    exec(compile(source, copy.__name__, "exec"), copy.__dict__)
    return copy


def mutated_below(
    module: types.ModuleType, below: types.ModuleType, old: str, new: str
) -> types.ModuleType:
    """A copy of a module with one line wrong, in itself or in one that it stands on."""
    if below is module:
        return mutated(module, old, new)
    wrong, copy = mutated(below, old, new), _copied(module)
    for name, value in vars(below).items():
        if callable(value) and vars(copy).get(name) is value:
            setattr(copy, name, vars(wrong)[name])
    return copy


def segments(switch, length):
    """[(first turn, last turn)] of each segment of a trajectory of `length` turns."""
    starts = [t for t in range(length) if t == 0 or switch[t]]
    return list(zip(starts, [s - 1 for s in starts[1:]] + [length - 1], strict=True))


def shape_rewards(
    reward,
    switch,
    action_valid,
    changed,
    *,
    keep_penalty=0.0,
    keep_penalty_mode="fixed",
    invalid_action_penalty=0.0,
    keep_consistency_penalty=0.0,
    switch_rate_floor=0.0,
    switch_rate_floor_coef=0.0,
):
    T = len(reward)
    shaped = [float(r) for r in reward]
    keeps = [t for t in range(T) if not switch[t]]
    for t in keeps:
        if keep_penalty_mode == "fixed":
            shaped[t] += keep_penalty
        elif T >= 2:
            shaped[t] += keep_penalty * (len(keeps) / T) / len(keeps)
        if t >= 1 and changed[t]:
            shaped[t] += keep_consistency_penalty
    for t in range(T):
        if not action_valid[t]:
            shaped[t] -= invalid_action_penalty
    if T >= 2:
        rate = sum(bool(switch[t]) for t in range(1, T)) / (T - 1)
        shaped[-1] -= switch_rate_floor_coef * max(0.0, switch_rate_floor - rate)
    return shaped


def gae(reward, terminated, value, *, gamma, lambda_, end_value):
    """Sums of discounted TD errors, each advantage from scratch."""
    T = len(reward)
    delta = []
    for t in range(T):
        after = value[t + 1] if t + 1 < T else end_value
        delta.append(reward[t] + gamma * after * (not terminated[t]) - value[t])
    advantage = []
    for t in range(T):
        total, weight = 0.0, 1.0
        for u in range(t, T):
            total += weight * delta[u]
            weight *= gamma * lambda_ * (not terminated[u])
        advantage.append(total)
    return advantage


def hae(
    reward,
    terminated,
    switch,
    low,
    high,
    value_switch,
    *,
    gamma,
    lambda_turn,
    lambda_segment,
    bootstrap,
    lambda_boundary=0.0,
    value_next=0.0,
):
    """Segment by segment from the last, every quantity from its own definition."""
    T = len(reward)
    out = {
        f"{kind}_{name}": [0.0] * T
        for kind in ("advantage", "return")
        for name in ("low", "high", "switch")
    }
    parts = segments(switch, T)
    trail = 0.0  # A_high of the segment that follows
    for k, (s, e) in reversed(list(enumerate(parts))):
        if k + 1 < len(parts):
            end_plan = high[parts[k + 1][0]]
            end_low = end_switch = end_plan + lambda_boundary * trail
        elif bootstrap == "same_state":
            end_low, end_switch, end_plan = low[e], high[s], high[s]
        elif bootstrap == "next_state":
            end_low = end_switch = end_plan = value_next
        else:
            end_low = end_switch = end_plan = 0.0
        inside = slice(s, e + 1)
        advantage = gae(
            reward[inside],
            terminated[inside],
            low[inside],
            gamma=gamma,
            lambda_=lambda_turn,
            end_value=end_low,
        )
        for j, t in enumerate(range(s, e + 1)):
            out["advantage_low"][t] = advantage[j]
            out["return_low"][t] = advantage[j] + low[t]
            total, weight = 0.0, 1.0
            for u in range(t, e + 1):
                total += weight * reward[u]
                weight *= gamma * (not terminated[u])
            out["return_switch"][t] = total + weight * end_switch
            out["advantage_switch"][t] = out["return_switch"][t] - value_switch[t]
            if t == s:
                delta = total + weight * end_plan - high[s]
                trail = delta + weight * lambda_segment * trail
        out["advantage_high"][s] = trail
        out["return_high"][s] = trail + high[s]
    return out


def policy_loss(log_prob, old, advantage, mask, clip_low, clip_high, dual_clip):
    """Token by token: the losses of the marked tokens, rows kept."""
    rows = []
    for n in range(len(mask)):
        row = []
        for token in range(len(mask[n])):
            if not mask[n][token]:
                continue
            a = advantage[n][token]
            ratio = math.exp(log_prob[n][token] - old[n][token])
            bounded = min(max(ratio, 1 - clip_low), 1 + clip_high)
            loss = max(-a * ratio, -a * bounded)
            row.append(min(loss, -a * dual_clip) if a < 0 else loss)
        rows.append(row)
    return rows


def reduce_rows(rows, aggregation, width):
    total = sum(sum(row) for row in rows)
    if aggregation == "token-mean":
        return total / max(sum(len(row) for row in rows), 1)
    if aggregation == "seq-mean-token-sum":
        return total / len(rows)
    if aggregation == "seq-mean-token-mean":
        return sum(sum(row) / max(len(row), 1) for row in rows) / len(rows)
    return total / width


def spans(pieces: list[str], *, include_tags: bool, paper: bool):
    """One response's masks from its decoded pieces, by searching their text.

    Returns:
      dict of lists over tokens (action, subgoal, switch), "text" of the switch block
      (None without one) and "low", the token where V_low is read.
    """
    text, owner = "", []
    for token, piece in enumerate(pieces):
        text += piece
        owner += [token] * len(piece)
    searched = text if paper else text.translate(_ASCII_LOWER)
    begin = [0]
    for piece in pieces:
        begin.append(begin[-1] + len(piece))
    blocks = {}
    for name in ("action", "subgoal", "switch"):
        opens = searched.find(f"<{name}>")
        inner = opens + len(name) + 2
        close = searched.find(f"</{name}>", inner) if opens >= 0 else -1
        if close >= 0:
            blocks[name] = (opens, inner, close, close + len(name) + 3)

    def tokens_of(start, stop):
        return {owner[c] for c in range(start, stop)} | {
            token
            for token in range(len(pieces))
            if start < begin[token] < stop and not pieces[token]
        }

    masks = {}
    for name in ("action", "subgoal", "switch"):
        masks[name] = set()
        if name in blocks:
            opens, inner, close, end = blocks[name]
            if include_tags:
                masks[name] = tokens_of(opens, end)
            else:
                shaved = close - (
                    paper and name != "switch" and text[inner:close][-1:] in (*"].)",)
                )
                masks[name] = tokens_of(inner, shaved)
    everything = set(range(len(pieces)))
    if paper:
        masks["action"] = masks["action"] or everything
    else:
        claimed = {name: tokens_of(b[0], b[3]) for name, b in blocks.items()}
        owned = {}
        for token in everything:
            open_now = [
                n
                for n in claimed
                if token in claimed[n] and blocks[n][0] <= begin[token]
            ]
            opened = [n for n in claimed if token in claimed[n]]
            if open_now:
                owned[token] = max(open_now, key=lambda n: blocks[n][0])
            elif opened:
                owned[token] = min(opened, key=lambda n: blocks[n][0])
        masks = {n: {t for t in m if owned.get(t) == n} for n, m in masks.items()}
        free = everything - set(owned)
        if "action" not in blocks:
            masks["action"] |= free
        elif pieces and pieces[-1] == "<|im_end|>":
            masks["action"] |= free & {len(pieces) - 1}
    low = 0
    for name in ("subgoal", "switch"):
        if name in blocks:
            later = [t for t in everything if begin[t] >= blocks[name][3]]
            if later:
                low = min(later)
                break
    said = None
    if "switch" in blocks:
        said = text[blocks["switch"][1] : blocks["switch"][2]]
    return {
        **{n: [t in m for t in range(len(pieces))] for n, m in masks.items()},
        "text": said,
        "low": low,
    }


_ASCII_LOWER = {c: c + 32 for c in range(ord("A"), ord("Z") + 1)}


def switch_gap(switch, switch_probability, value_high, value_kept):
    """The paper's credit of the switch decision, without a third critic.

        A_switch = (qₜ − βₜ) (V_high(sₜ) − V_low(sₜ, gₜ₋₁))

    In expectation it agrees with R_switch − V_switch, because a state's value before
    the decision is βₜ V_high + (1 − βₜ) V_low.
    """
    decided = np.asarray(switch).astype(np.float64)
    gap = np.asarray(value_high) - np.asarray(value_kept)
    return (decided - np.asarray(switch_probability)) * gap
