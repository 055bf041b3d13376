"""The rows of several hosts -> the Batch that one host would have stacked.

Each host reads, tokenises and stacks its own episodes. What it found is packed as bytes
(the real rows alone), the hosts exchange them, and each unpacks all: then every array
is, number for number, that of `stack` over all episodes in the hosts' order.
"""

import hashlib
import io
import itertools
import json
from collections.abc import Sequence
from typing import Any

import numpy as np

from hiper_jax.act.episode import Episode, Strategy
from hiper_jax.act.spans import subgoal_ids, token_masks
from hiper_jax.act.stack import Batch, written

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
_FOLLOWED = ("strategy", "strategy_row", "flagged")  # where strategies are followed
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
    known = {*ROWS, *TRAJECTORIES, *_MADE, *_FOLLOWED}
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
    arrays["written"] = np.array(
        [_name(one) for one in written(episodes).values()], "S32"
    )
    arrays["strategy"] = np.array([_name(e.strategy) for e in episodes], "S32")
    arrays["flagged"] = np.zeros((len(episodes), T), bool)
    if batch.flagged is not None:
        arrays["flagged"] = batch.flagged[: len(episodes)]
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
      parts: from `packed`, of every host, in the order of the batch; a host may have
        several or none.
      rows: N of the result.
      trajectories: B of the result.
      pad_id: fills what is empty.

    Returns:
      The Batch, and the number of episodes of each part.
    """
    hosts = [dict(np.load(io.BytesIO(part), allow_pickle=False)) for part in parts]
    turns = [int(host["valid"].sum()) for host in hosts]
    known, rows_of = _strategies(hosts)
    first = sum(turns) + len(known)  # row after those that are trained
    ends = [len(host["tokens"]) - int(host["num_turns"]) for host in hosts]
    for h, host in enumerate(hosts):
        # Real turns of all hosts stand first, then the rows that wrote strategies, then
        # those after their last actions.
        host["row"] = np.where(host["valid"], host["row"] + sum(turns[:h]), 0)
        after = host["next_row"] - int(host["num_turns"]) + first + sum(ends[:h])
        host["next_row"] = np.where(host["next_row"] >= 0, after, -1)
    fields: dict[str, Any] = {}
    for name in ROWS:
        if name in hosts[0]:
            empty = pad_id if name in _TOKENS else 0
            fields[name] = _padded(_laid_out(hosts, name, rows_of), rows, empty)
    for name in TRAJECTORIES:
        whole = np.concatenate([host[name] for host in hosts])
        kind = hosts[0][name].dtype if whole.dtype == bool else whole.dtype
        kind = np.int32 if np.issubdtype(kind, np.integer) else kind
        empty = -1 if name in _BELOW else 0
        fields[name] = _padded(whole.astype(kind), trajectories, empty)
    fields["num_turns"] = np.int32(first)
    fields["num_rows"] = np.int32(first + sum(ends))
    fields |= _numbers(
        hosts, fields, trajectories, _laid_out(hosts, "content", rows_of)
    )
    if known:
        strategy, row = np.full((2, trajectories), -1, np.int32)
        row[: len(known)] = sum(turns) + np.arange(len(known))
        names = np.concatenate([host["strategy"] for host in hosts])
        strategy[: len(names)] = [known.get(name, -1) for name in names.tolist()]
        flagged = np.concatenate([host["flagged"] for host in hosts])
        fields |= {"strategy": strategy, "strategy_row": row}
        fields["flagged"] = _padded(flagged, trajectories, False)
    return Batch(**fields), [len(host["valid"]) for host in hosts]


def framed(parts: Sequence[bytes]) -> bytes:
    """Several pieces of data as one, from which `unframed` takes them again."""
    return json.dumps([len(part) for part in parts]).encode() + b"\n" + b"".join(parts)


def unframed(data: bytes) -> list[bytes]:
    """See `framed`."""
    sizes, _, rest = data.partition(b"\n")
    ends = list(itertools.accumulate(json.loads(sizes), initial=0))
    return [rest[begin:end] for begin, end in itertools.pairwise(ends)]


def _strategies(hosts) -> tuple[dict[bytes, int], list[np.ndarray]]:
    """Numbers the strategies of all hosts as they are first met.

    Returns:
      name -> number, and for each host which rows of those that wrote its own stay:
      what two hosts follow stands in the batch once.
    """
    known: dict[bytes, int] = {}
    stay = []
    for host in hosts:
        names = host["written"].tolist()
        stay.append(np.array([name not in known for name in names], bool))
        for name in names:
            known.setdefault(name, len(known))
    return known, stay


def _laid_out(hosts, name: str, stay: Sequence[np.ndarray]) -> np.ndarray:
    """Rows of all hosts: turns, what wrote strategies, then states after the last."""
    turns = [int(host["valid"].sum()) for host in hosts]
    ends = [int(host["num_turns"]) for host in hosts]
    each = list(zip(hosts, turns, ends, stay, strict=True))
    rows = [host[name][:n] for host, n, _, _ in each]
    rows += [host[name][n:end][which] for host, n, end, which in each]
    rows += [host[name][end:] for host, _, end, _ in each]
    return np.concatenate(rows)


def _name(strategy: Strategy | None) -> bytes:
    """32 bytes that tell strategies apart as `stack` does; b"" for none."""
    if strategy is None:
        return b""
    said = hashlib.blake2b(f"{strategy.number} ".encode(), digest_size=16)
    for tokens in (strategy.prompt, strategy.response):
        said.update(f"{len(tokens)} ".encode() + np.asarray(tokens).tobytes())
    return said.hexdigest().encode()


def _numbers(hosts, fields, B: int, subgoals) -> dict[str, np.ndarray]:
    """What siblings have in common, numbered as `stack` numbers it."""
    valid = fields["valid"]
    content = np.zeros(fields["response"].shape, bool)
    content[: len(subgoals)] = subgoals
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
