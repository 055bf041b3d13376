"""The advantage stage as loops over Python scalars: what `bench_hae` compares with.

Per trajectory, per segment, per turn, on scalars of torch tensors (numpy arrays where
torch is not installed); blocks are found by decoding each token of each row to text.
The style is the published one, the code is our own.
"""

from collections.abc import Callable

import numpy as np

try:
    import torch

    NAME = "torch"
except ImportError:
    torch = None
    NAME = "numpy"


def _array(x):
    return torch.as_tensor(np.asarray(x)) if torch else np.asarray(x)


def hae(reward, terminated, length, switch, low, high, waits, rates) -> list:
    """Advantages low, high, switch and returns low, high, switch, [B, T] each."""
    gamma = rates["gamma"]
    out = [reward * 0 for _ in range(6)]
    a_low, a_high, a_switch, r_low, r_high, r_switch = out
    for b in range(reward.shape[0]):
        T = int(length[b])
        starts = [0] + [t for t in range(1, T) if bool(switch[b, t])]
        ends = [s - 1 for s in starts[1:]] + [T - 1]
        trail = 0.0
        for k in range(len(starts) - 1, -1, -1):
            s, e = starts[k], ends[k]
            follows = high[b, ends[k] + 1] if k + 1 < len(starts) else 0.0
            after = 0.0
            for t in range(e, s - 1, -1):
                goes_on = 0.0 if bool(terminated[b, t]) else 1.0
                value_after = low[b, t + 1] if t < e else follows
                delta = reward[b, t] + gamma * goes_on * value_after - low[b, t]
                after = delta + gamma * rates["lambda_turn"] * goes_on * after
                a_low[b, t] = after
                r_low[b, t] = after + low[b, t]
            goes_on = 0.0 if bool(terminated[b, e]) else 1.0
            total, weight = 0.0, 1.0
            for t in range(s, e + 1):
                total = total + weight * reward[b, t]
                weight *= gamma
            delta = total + weight * goes_on * follows - high[b, s]
            trail = delta + weight * rates["lambda_segment"] * goes_on * trail
            a_high[b, s] = trail
            r_high[b, s] = trail + high[b, s]
            after = goes_on * follows
            for t in range(e, s - 1, -1):
                after = reward[b, t] + gamma * after
                r_switch[b, t] = after
                a_switch[b, t] = after - waits[b, t]
    return out


def per_turn(turns, rates) -> dict[str, Callable]:
    """The loops on [B, T] arrays, ready to be timed."""
    length = turns.valid.sum(axis=1)
    calls = {}
    kinds: dict[str, Callable] = {"torch": _array} if torch else {}
    kinds["numpy"] = np.asarray
    for name, convert in kinds.items():
        r, d, _, q, *values = (convert(x) for x in turns)
        calls[f"plain, {name}"] = lambda r=r, d=d, q=q, values=values: hae(
            r, d, length, q, *values, rates=rates
        )
    return calls


def advantage_stage(turns, values, masks, rates) -> list:
    """Token-level in and out: advantages, mask and three targets, [N, L] each."""
    B, T = turns.reward.shape
    action, subgoal, said, positions = (
        _array(masks["action"]),
        _array(masks["subgoal"]),
        _array(masks["switch"]),
        [_array(masks[f"value_{name}"]) for name in ("low", "high", "switch")],
    )
    rows = np.arange(B * T)
    read = []
    for value, position in zip(values, positions, strict=True):
        at = np.asarray(position).argmax(axis=1)
        read.append(_array(value)[rows, at].reshape(B, T))
    reward, terminated, valid, switch = (_array(x) for x in turns[:4])
    length = np.asarray(valid).sum(axis=1)
    out = hae(reward, terminated, length, switch, *read, rates=rates)
    out = [x.reshape(-1) for x in out]
    starts = switch.reshape(-1) | _array(np.tile(np.arange(T) == 0, B))
    carried = [action, subgoal & starts[:, None], said]
    total = 0.0
    for x, mask in zip(out[:3], carried, strict=True):
        turn = mask.any(1)
        marked = x[turn]
        deviation = ((marked - marked.mean()) ** 2).mean() ** 0.5
        total = total + ((x - marked.mean()) / (deviation + 1e-8))[:, None] * mask
    targets = [x[:, None] * p for x, p in zip(out[3:], positions, strict=True)]
    return [total, carried[0] | carried[1] | carried[2], *targets]


def decoded_masks(tokens, mask, turn_index, tokenizer) -> dict[str, np.ndarray]:
    """Masks and value positions by decoding each token and searching the text."""
    N, L = tokens.shape
    names = ("action", "subgoal", "switch", "value_low", "value_high", "value_switch")
    out = {name: np.zeros((N, L), bool) for name in names}
    out["is_switch"] = np.zeros(N, bool)
    for n in range(N):
        length = int(mask[n].sum())
        text, begins, ends = _text(tokenizer, tokens[n, :length])
        for name in names[:3]:
            span = _block(text, name)
            if span is None:
                out[name][n, :length] = name == "action"
                continue
            first = next(t for t in range(length) if ends[t] > span[0])
            out[name][n, first : _after(begins, span[3])] = True
            if name == "switch":
                said = text[span[1] : span[2]].strip().upper()
                out["is_switch"][n] = said not in ("", "KEEP")
    for n in range(N):
        length = int(mask[n].sum())
        if not length:
            continue
        text, begins, _ = _text(tokenizer, tokens[n, :length])
        low = 0
        for name in ("subgoal", "switch"):
            span = _block(text, name)
            if span is not None and _after(begins, span[3]) < length:
                low = _after(begins, span[3])
                break
        out["value_low"][n, low] = True
        out["value_switch"][n, 0] = True
        out["value_high"][n, 0] = bool(turn_index[n] == 0 or out["is_switch"][n])
    return out


def _text(tokenizer, ids):
    pieces = tokenizer.decode_batch(
        [[int(token)] for token in ids], skip_special_tokens=False
    )
    ends, position = [], 0
    for piece in pieces:
        position += len(piece)
        ends.append(position)
    return "".join(pieces), [0, *ends[:-1]], ends


def _block(text: str, name: str):
    opens = text.find(f"<{name}>")
    if opens < 0:
        return None
    inner = opens + len(name) + 2
    close = text.find(f"</{name}>", inner)
    return None if close < 0 else (opens, inner, close, close + len(name) + 3)


def _after(begins: list[int], position: int) -> int:
    for token, begin in enumerate(begins):
        if begin >= position:
            return token
    return len(begins)


def per_token(
    turns, values, masks, tokens, mask, turn_index, tokenizer, rates
) -> dict[str, Callable]:
    """The stage with token-level arrays, and from raw tokens, ready to be timed."""
    B, T = turns.reward.shape
    known = masks._asdict()

    def from_raw_tokens():
        found = decoded_masks(tokens, mask, turn_index, tokenizer)
        said = turns._replace(switch=found["is_switch"].reshape(B, T))
        return advantage_stage(said, values, found, rates)

    return {
        f"plain, {NAME}, tokens": lambda: advantage_stage(turns, values, known, rates),
        "plain, from raw tokens": from_raw_tokens,
        "plain, masks only": lambda: decoded_masks(tokens, mask, turn_index, tokenizer),
    }
