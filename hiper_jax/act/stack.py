"""Episodes -> Batch: padded, segment-indexed arrays. Python lists stop here.

A turn is a row of tokens; rows of all episodes lie flat in [N, L], so that a short
episode costs nothing, and `row` [B, T] finds the row of a turn. Everything that an
estimator reads is [B, T].
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from flax import struct

from hiper_jax.act.buckets import bucket
from hiper_jax.act.episode import Episode, Strategy
from hiper_jax.act.spans import TokenMasks, subgoal_ids, token_masks


class Batch(struct.PyTreeNode):
    """B trajectories of at most T turns, as N rows of at most L tokens.

    R response tokens at most. Rows are the real turns in order, then those that wrote
    the strategies followed, which are trained as turns are, then one row per truncated
    episode for the state after its last action, then padding.
    """

    tokens: Any  # [N, L] int32, prompt then response, padded on the right
    start: Any  # [N] int32, where the response begins (the prompt's length)
    length: Any  # [N] int32, prompt and response together; 0 on padding
    response: Any  # [N, R] int32, the response again, aligned to the left
    response_mask: Any  # [N, R] bool
    old_log_prob: Any  # [N, R] float32, nats, from the sampler
    action_mask: Any  # [N, R] bool, tokens that carry A_low
    subgoal_mask: Any  # [N, R] bool, tokens of the subgoal block, on every turn
    switch_mask: Any  # [N, R] bool, tokens that carry A_switch
    value_low_at: Any  # [N] int32, response position where V_low is read
    is_turn: Any  # [N] bool, the row is trained: a real turn, or it wrote a strategy
    num_rows: Any  # [] int32, rows that hold something (trained or bootstrap)
    num_turns: Any  # [] int32, rows that are trained; they come first
    row: Any  # [B, T] int32, the row of a turn; 0 on padding
    next_row: Any  # [B] int32, the row of the state after the last turn; -1 if none
    valid: Any  # [B, T] bool, the turn exists
    said_switch: Any  # [B, T] bool, the response asks for a switch (turn 0 may not)
    segment: Any  # [B, T] int32, index of the turn's segment; -1 on padding
    reward: Any  # [B, T] float32, from the environment
    terminated: Any  # [B, T] bool, the environment ended the episode at this turn
    format_valid: Any  # [B, T] bool, the response was in good form
    action_valid: Any  # [B, T] bool, the action was one of those listed
    subgoal_id: Any  # [B, T] int32, equal for equal subgoal tokens; -1 for none
    has_action: Any  # [B, T] bool, some token carries A_low
    has_subgoal: Any  # [B, T] bool, there is a subgoal block
    has_switch: Any  # [B, T] bool, some token carries A_switch
    group: Any  # [B] int32, dense id (< B) of the task instance
    anchor: Any  # [B, T] int32, dense id (< B T) of (task, observation); -1 on padding
    action: Any  # [B, T] int32, dense id (< B T) of (task, action text); -1 on padding
    won: Any  # [B] bool, the task was done
    # Only the estimators that need them are handed these.
    strategy: Any = None  # [B] int32, dense id (< B) of the strategy followed; -1: none
    strategy_row: Any = None  # [B] int32, row that wrote strategy id b; -1 if none did
    flagged: Any = None  # [B, T] bool, judged neither to follow it nor to advance
    teacher_tokens: Any = None  # [N, L'] int32, privileged prompt, then response
    teacher_start: Any = None  # [N] int32, where the response begins there
    teacher_length: Any = None  # [N] int32, both together; 0 off real turns
    teacher_log_prob: Any = None  # [N, R] float32, nats, with privileged prompts
    # What the sampler thought before each token, where its trunk has the value heads.
    sampled_value: Any = None  # [N, R, H] float32, heads in the estimator's order
    is_valued: Any = None  # [N] bool, rows that have these; the rest want a pass
    entropy: Any = None  # [N, R] float32, nats, of the policy before each token
    reference_log_prob: Any = None  # [N, R] float32, nats, of the frozen reference


def stack(
    episodes: Sequence[Episode],
    tokenizer: Any,
    *,
    max_turns: int,
    max_response: int,
    row_buckets: Sequence[int],
    length_buckets: Sequence[int],
    num_episodes: int = 0,
    pad_id: int = 0,
    mode: str = "corrected",
    format: str = "plan",
) -> Batch:
    """Lays episodes out as arrays.

    Args:
      episodes: each with at least one turn.
      tokenizer: what `token_masks` takes.
      max_turns: T.
      max_response: R, tokens.
      row_buckets: allowed values of N; the smallest that fits is taken.
      length_buckets: allowed values of L, likewise.
      num_episodes: B at least; what is missing are trajectories without a turn, which
        nothing is learned from. So a batch keeps its shape when episodes were dropped.
      pad_id: fills what is empty.
      mode: how blocks are read, "corrected" or "paper"; the former also trains what
        stands outside the blocks of a broken response, see `loose_tokens`.
      format: of the responses, "plan" or "flat". Without a plan an episode is one
        segment, and every token of a response carries the action's credit.

    Returns:
      A Batch of numpy arrays.

    Raises:
      ValueError: an episode has no turn or too many, a response is longer than R,
        or no bucket is large enough.
    """
    if not episodes:
        raise ValueError("no episodes to stack: play at least one")
    for episode in episodes:
        if not 1 <= len(episode.turns) <= max_turns:
            raise ValueError(
                f"{episode.game} has {len(episode.turns)} turns; between 1 and "
                f"max_turns={max_turns} fit"
            )
    played = [turn for episode in episodes for turn in episode.turns]
    strategies = written(episodes)
    turns = [*played, *strategies.values()]
    ends = [e.next_prompt for e in episodes if len(e.next_prompt)]
    longest = max(len(turn.response) for turn in turns)
    if longest > max_response:
        raise ValueError(
            f"a response has {longest} tokens, max_response is {max_response}: "
            "sample no more than that"
        )
    N = bucket(len(turns) + len(ends), row_buckets)
    L = bucket(
        max(
            max(len(turn.prompt) + len(turn.response) for turn in turns),
            max((len(prompt) + 1 for prompt in ends), default=0),
        ),
        length_buckets,
    )
    rows = _rows(turns, ends, N, L, max_response, pad_id)
    turn_index = np.zeros(N, np.int32)
    turn_index[: len(played)] = [t for e in episodes for t in range(len(e.turns))]
    rows |= _spans(rows, turn_index, tokenizer, mode, format)
    said_switch, plans = rows.pop("is_switch"), rows.pop("subgoal_ids")
    by_turn = _turns(episodes, rows, said_switch, plans, max_turns, num_episodes)
    followed = {}
    if strategies:
        B = len(by_turn["won"])
        followed = _followed(episodes, list(strategies), len(played), B, max_turns)
    return Batch(**rows, **by_turn, **followed)


def rows_needed(episodes: Sequence[Episode]) -> int:
    """N at least: turns, strategies and states after what was cut short."""
    turns = sum(len(e.turns) for e in episodes)
    return (
        turns + len(written(episodes)) + sum(len(e.next_prompt) > 0 for e in episodes)
    )


def written(episodes: Sequence[Episode]) -> dict[tuple, Strategy]:
    """The strategies that some episode follows, by what tells them apart."""
    followed = (e.strategy for e in episodes if e.strategy is not None)
    return {_key(strategy): strategy for strategy in followed}


def _key(strategy: Strategy) -> tuple:
    # Episodes of several iterations, read from disk, may share numbers.
    tokens = strategy.prompt.tobytes(), strategy.response.tobytes()
    return strategy.number, *tokens


def _followed(episodes, keys: list[tuple], first: int, B: int, T: int) -> dict:
    """Who follows which strategy, where it was written, and what was flagged."""
    strategy, row = np.full((2, B), -1, np.int32)
    row[: len(keys)] = first + np.arange(len(keys))
    flagged = np.zeros((B, T), bool)
    for b, episode in enumerate(episodes):
        if episode.strategy is not None:
            strategy[b] = keys.index(_key(episode.strategy))
        flagged[b, list(episode.flagged or ())] = True
    return {"strategy": strategy, "strategy_row": row, "flagged": flagged}


def _rows(turns, ends, N: int, L: int, R: int, pad_id: int) -> dict[str, Any]:
    """Token arrays, [N, ...]."""
    tokens = np.full((N, L), pad_id, np.int32)
    response = np.full((N, R), pad_id, np.int32)
    old_log_prob = np.zeros((N, R), np.float32)
    start, length = np.zeros(N, np.int32), np.zeros(N, np.int32)
    for n, turn in enumerate(turns):
        P, K = len(turn.prompt), len(turn.response)
        tokens[n, :P], tokens[n, P : P + K] = turn.prompt, turn.response
        response[n, :K], old_log_prob[n, :K] = turn.response, turn.log_prob
        start[n], length[n] = P, P + K
    for n, prompt in enumerate(ends, start=len(turns)):
        tokens[n, : len(prompt)] = prompt
        start[n] = length[n] = len(prompt)
    return {
        "tokens": tokens,
        "start": start,
        "length": length,
        "response": response,
        "response_mask": np.arange(R) < (length - start)[:, None],
        "old_log_prob": old_log_prob,
        "is_turn": np.arange(N) < len(turns),
        "num_rows": np.int32(len(turns) + len(ends)),
        "num_turns": np.int32(len(turns)),
        **_values([getattr(turn, "values", None) for turn in turns], N, R),
    }


def _values(said: Sequence[np.ndarray | None], N: int, R: int) -> dict[str, Any]:
    """Values that were read while sampling, if any were, and which rows have them."""
    heads = {values.shape[1] for values in said if values is not None}
    if not heads:
        return {}
    values, valued = np.zeros((N, R, *heads), np.float32), np.zeros(N, bool)
    for n, read in enumerate(said):
        if read is not None:
            values[n, : len(read)], valued[n] = read, True
    return {"sampled_value": values, "is_valued": valued}


def _spans(
    rows, turn_index, tokenizer, mode: str, format: str
) -> dict[str, np.ndarray]:
    """Which response tokens carry what, from token ids alone."""
    arguments = rows["response"], rows["response_mask"], turn_index, tokenizer
    masks = token_masks(*arguments, mode=mode, format=format)
    # The published code compares subgoals with their tags on.
    content = (
        masks
        if mode == "paper" or format == "flat"
        else token_masks(*arguments, mode=mode, include_tags=False)
    )
    mask = rows["response_mask"]
    action = np.asarray(masks.action)
    if format == "flat":
        action = mask
    elif mode != "paper":
        action = action | loose_tokens(masks, mask)
    return {
        "action_mask": action & mask,
        "subgoal_mask": np.asarray(masks.subgoal) & mask,
        "switch_mask": np.asarray(masks.switch) & mask,
        "value_low_at": np.argmax(masks.value_low, axis=1).astype(np.int32),
        "is_switch": np.asarray(masks.is_switch),
        "subgoal_ids": subgoal_ids(rows["response"], content.subgoal),
    }


def loose_tokens(masks: TokenMasks, mask: np.ndarray) -> np.ndarray:
    """Tokens in no block of a response that lacks a block.

    The published code trains them on nothing, so that what breaks the form is never
    discouraged, whatever the penalty: a small model's share of well-formed responses
    fell from 99 % to 75 % in 130 iterations. Ours gives them the action's credit.

    Args:
      masks: of the responses, tags included.
      mask: [N, R] bool, real tokens.

    Returns:
      [N, R] bool.
    """
    blocks = [np.asarray(m) for m in (masks.action, masks.subgoal, masks.switch)]
    broken = ~np.all([block.any(axis=1) for block in blocks], axis=0)
    return mask & broken[:, None] & ~np.any(blocks, axis=0)


def _turns(episodes, rows, is_switch, plans, T: int, at_least: int) -> dict:
    """Per-turn arrays, [B, T]."""
    B = max(len(episodes), at_least)
    won = np.zeros(B, bool)
    row = np.zeros((B, T), np.int32)
    next_row = np.full(B, -1, np.int32)
    reward = np.zeros((B, T), np.float32)
    subgoal_id = np.full((B, T), -1, np.int32)
    valid, said_switch, terminated, format_valid, action_valid = (
        np.zeros((B, T), bool) for _ in range(5)
    )
    n = 0
    end = int(rows["num_turns"])
    for b, episode in enumerate(episodes):
        K = len(episode.turns)
        valid[b, :K] = True
        row[b, :K] = np.arange(n, n + K)
        reward[b, :K] = [turn.reward for turn in episode.turns]
        format_valid[b, :K] = [turn.format_valid for turn in episode.turns]
        action_valid[b, :K] = [turn.action_valid for turn in episode.turns]
        said_switch[b, :K] = is_switch[n : n + K]
        terminated[b, K - 1], won[b] = episode.terminated, episode.won
        subgoal_id[b, :K] = plans[n : n + K]
        if len(episode.next_prompt):
            next_row[b], end = end, end + 1
        n += K
    starts = (said_switch | (np.arange(T) == 0)) & valid
    segment = np.where(valid, np.cumsum(starts, axis=1) - 1, -1).astype(np.int32)
    carries = {
        name: rows[f"{name}_mask"].any(axis=1)[row] & valid
        for name in ("action", "subgoal", "switch")
    }
    return {
        "row": row,
        "next_row": next_row,
        "valid": valid,
        "said_switch": said_switch & valid,
        "segment": segment,
        "reward": reward,
        "terminated": terminated,
        "format_valid": format_valid,
        "action_valid": action_valid,
        "subgoal_id": subgoal_id,
        "has_action": carries["action"],
        "has_subgoal": carries["subgoal"],
        "has_switch": carries["switch"],
        **group_ids(episodes, T, B),
        "won": won,
    }


def group_ids(
    episodes: Sequence[Episode], T: int, B: int | None = None
) -> dict[str, np.ndarray]:
    """Numbers what siblings of one task have in common, for group estimators.

    Args:
      episodes: see `stack`.
      T: turns at most.
      B: trajectories; those that are no episode are each alone in a group. None: as
        many as there are episodes.

    Returns:
      group [B], anchor [B, T] and action [B, T], int32, numbered as they are first met
      and -1 on padding. Two turns have one anchor if they answer the same observation
      of the same task instance, whatever episode they stand in.
    """
    B = len(episodes) if B is None else B
    games: dict[str, int] = {}
    anchors: dict[tuple[int, str], int] = {}
    actions: dict[tuple[int, str], int] = {}
    group = np.zeros(B, np.int32)
    anchor, action = np.full((2, B, T), -1, np.int32)
    for b, episode in enumerate(episodes):
        g = group[b] = games.setdefault(episode.game, len(games))
        for t, turn in enumerate(episode.turns):
            anchor[b, t] = anchors.setdefault((g, turn.observation), len(anchors))
            action[b, t] = actions.setdefault((g, turn.action), len(actions))
    group[len(episodes) :] = len(games) + np.arange(B - len(episodes))
    return {"group": group, "anchor": anchor, "action": action}
