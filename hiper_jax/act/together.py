"""The rows of several hosts -> the Batch that one host would have stacked.

Each host reads, tokenises and stacks its own episodes. What it found is packed as bytes
(the real rows alone), the hosts exchange them, and each unpacks all: then every array
is, number for number, that of `stack` over all episodes in the hosts' order.
"""

import hashlib
import io
import json
from collections.abc import Sequence
from typing import Any

import numpy as np

from hiper_jax.act.episode import Episode
from hiper_jax.act.spans import subgoal_ids, token_masks
from hiper_jax.act.stack import Batch

# Fields of Batch: a row each, of tokens; a trajectory each.
ROWS = (
    "tokens",
    "start",
    "length",
    "response",
    "response_mask",
    "old_log_prob",
    "action_mask",
    "subgoal_mask",
    "switch_mask",
    "value_low_at",
    "sampled_value",
    "is_valued",
    "is_turn",
    "teacher_tokens",
    "teacher_start",
    "teacher_length",
)
TRAJECTORIES = (
    "row",
    "next_row",
    "valid",
    "said_switch",
    "segment",
    "reward",
    "terminated",
    "format_valid",
    "action_valid",
    "has_action",
    "has_subgoal",
    "has_switch",
    "won",
)
_TOKENS = ("tokens", "response", "teacher_tokens")  # padded with the tokenizer's pad
_MADE = ("num_rows", "num_turns", "subgoal_id", "group", "anchor", "action")
_BELOW = ("next_row", "segment")  # -1 where there is none


def packed(
    batch: Batch,
    episodes: Sequence[Episode],
    tokenizer: Any,
    *,
    mode: str = "corrected",
    format: str = "plan",
) -> bytes:
    """What this host stacked, without padding.

    Args:
      batch: from `stack` over the episodes, numpy arrays.
      episodes: of this host.
      tokenizer, mode, format: as `stack` was given.

    Raises:
      ValueError: the batch has a field that is not brought together.
    """
    known = {*ROWS, *TRAJECTORIES, *_MADE}
    for name, value in vars(batch).items():
        if value is not None and name not in known:
            raise ValueError(f"{name} of a Batch is not brought together over hosts")
    rows, turns = int(batch.num_rows), int(batch.num_turns)
    found = {name: getattr(batch, name) for name in (*ROWS, *TRAJECTORIES)}
    arrays = {name: value for name, value in found.items() if value is not None}
    arrays = {
        name: value[: rows if name in ROWS else len(episodes)]
        for name, value in arrays.items()
    }
    arrays["num_turns"] = np.int32(turns)
    arrays["content"] = _subgoals(batch, tokenizer, mode, format)[:turns]
    names = [
        [[e.game, t.observation, t.action] for t in e.turns] or [[e.game, "", ""]]
        for e in episodes
    ]
    T = batch.valid.shape[1]
    arrays |= {"game": _digests(names, 1, 1), "anchor": _digests(names, 2, T)}
    arrays["action"] = _digests([[[g, a] for g, _, a in e] for e in names], 2, T)
    file = io.BytesIO()
    np.savez(file, allow_pickle=False, **arrays)
    return file.getvalue()


def unpacked(
    parts: Sequence[bytes], *, rows: int, trajectories: int, pad_id: int = 0
) -> tuple[Batch, list[int]]:
    """The Batch of all hosts' episodes.

    Args:
      parts: of every host, from `packed`, in order.
      rows: N of the result.
      trajectories: B of the result.
      pad_id: fills what is empty.

    Returns:
      The Batch, and the number of episodes of each host.
    """
    hosts = [dict(np.load(io.BytesIO(part), allow_pickle=False)) for part in parts]
    turns = [int(host["num_turns"]) for host in hosts]
    ends = [len(host["tokens"]) - n for host, n in zip(hosts, turns, strict=True)]
    for h, host in enumerate(hosts):
        # Real turns of all hosts stand first, then the rows after their last actions.
        host["row"] = np.where(host["valid"], host["row"] + sum(turns[:h]), 0)
        after = host["next_row"] - turns[h] + sum(turns) + sum(ends[:h])
        host["next_row"] = np.where(host["next_row"] >= 0, after, -1)
    fields: dict[str, Any] = {}
    for name in ROWS:
        if name not in hosts[0]:
            continue
        both = [host[name][:n] for host, n in zip(hosts, turns, strict=True)]
        both += [host[name][n:] for host, n in zip(hosts, turns, strict=True)]
        empty = pad_id if name in _TOKENS else 0
        fields[name] = _padded(np.concatenate(both), rows, empty)
    for name in TRAJECTORIES:
        whole = np.concatenate([host[name] for host in hosts])
        kind = hosts[0][name].dtype if whole.dtype == bool else whole.dtype
        kind = np.int32 if np.issubdtype(kind, np.integer) else kind
        empty = -1 if name in _BELOW else 0
        fields[name] = _padded(whole.astype(kind), trajectories, empty)
    fields["num_turns"] = np.int32(sum(turns))
    fields["num_rows"] = np.int32(sum(turns) + sum(ends))
    fields |= _numbers(hosts, fields, trajectories)
    return Batch(**fields), [len(host["valid"]) for host in hosts]


def _numbers(hosts, fields, B: int) -> dict[str, np.ndarray]:
    """What siblings have in common, numbered as `stack` numbers it."""
    valid, turns = fields["valid"], int(fields["num_turns"])
    content = np.zeros(fields["response"].shape, bool)
    content[:turns] = np.concatenate([host["content"] for host in hosts])
    plans = subgoal_ids(fields["response"], content)
    T = valid.shape[1]
    game = np.concatenate([host["game"] for host in hosts])[:, 0]
    group = np.zeros(B, np.int32)
    group[: len(game)] = _first_met(game)
    group[len(game) :] = group[: len(game)].max() + 1 + np.arange(B - len(game))
    found = {"group": group, "subgoal_id": np.where(valid, plans[fields["row"]], -1)}
    found["subgoal_id"] = found["subgoal_id"].astype(np.int32)
    for name in ("anchor", "action"):
        keys = np.concatenate([host[name] for host in hosts])
        table = np.full((B, T), -1, np.int32)
        table[valid] = _first_met(keys[valid[: len(keys)]])
        found[name] = table
    return found


def _subgoals(batch: Batch, tokenizer, mode: str, format: str) -> np.ndarray:
    """[N, R] tokens of subgoals that are compared; see `stack`."""
    N = len(batch.response)
    turn = np.zeros(N, np.int32)
    turn[batch.row[batch.valid]] = np.nonzero(batch.valid)[1]
    tags = {} if mode == "paper" or format == "flat" else {"include_tags": False}
    arguments = batch.response, batch.response_mask, turn, tokenizer
    masks = token_masks(*arguments, mode=mode, format=format, **tags)
    return np.asarray(masks.subgoal).astype(bool)


def _digests(names, number: int, T: int) -> np.ndarray:
    """[B, T] 16 bytes of the first `number` names of each turn; zeros on padding."""
    table = np.zeros((len(names), T), "S32")
    for b, episode in enumerate(names):
        for t, turn in enumerate(episode[:T]):
            text = json.dumps(turn[:number]).encode()
            table[b, t] = hashlib.blake2b(text, digest_size=16).hexdigest().encode()
    return table


def _first_met(keys: np.ndarray) -> np.ndarray:
    """Numbers equal keys alike, in the order in which they are first met."""
    _, first, ids = np.unique(keys, return_index=True, return_inverse=True)
    rank = np.empty(len(first), np.int32)
    rank[np.argsort(first)] = np.arange(len(first))
    return rank[ids.reshape(-1)]


def _padded(array: np.ndarray, size: int, empty: int) -> np.ndarray:
    out = np.full((size, *array.shape[1:]), empty, array.dtype)
    out[: len(array)] = array
    return out
