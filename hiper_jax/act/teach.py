"""What a teacher reads: the student's own turns, with the solution beside the task.

A teacher is the same network. It writes nothing: it scores the student's responses
after prompts in which the student's task is followed by what solves it.
"""

from collections.abc import Sequence

import numpy as np

from hiper_jax.act.episode import Episode
from hiper_jax.act.prompt import fit_prompt
from hiper_jax.act.rollout import Reader
from hiper_jax.act.stack import Batch

SOLVED = "{task} solution: {solution}"


def teacher_prompts(
    episodes: Sequence[Episode],
    solutions: Sequence[str],
    reader: Reader,
    max_prompt: int,
) -> list[np.ndarray]:
    """The prompts of all turns of all episodes, in order, each [P] int32.

    Args:
      episodes: as they were played.
      solutions: of each; with "" a prompt is the student's own.
      reader: how the student's prompts were written.
      max_prompt: tokens; longer prompts lose history first, as the student's do.

    Raises:
      ValueError: there are not as many solutions as episodes.
    """
    found = []
    for episode, solution in zip(episodes, solutions, strict=True):
        history, subgoal, known = [], "", episode.task
        for turn in episode.turns:
            task = turn.task or episode.task
            subgoal, known = (subgoal if task == known else ""), task
            if solution:
                task = SOLVED.format(task=task, solution=solution)
            fitted = fit_prompt(
                reader.codec.encode_prompt,
                max_prompt,
                task,
                history,
                turn.observation,
                subgoal,
                turn.admissible,
                template=reader.template,
                history_length=reader.history_length,
            )
            found.append(np.asarray(fitted.ids, np.int32))
            history.append((turn.observation, turn.action))
            subgoal = turn.subgoal
    return found


def with_teacher(
    batch: Batch, prompts: Sequence[np.ndarray], *, max_prompt: int, pad_id: int = 0
) -> Batch:
    """A batch with the rows that a teacher reads: its prompts, the same responses.

    Args:
      batch: of N rows and R response tokens, numpy arrays.
      prompts: of its real turns, in the order of its rows.
      max_prompt: tokens of a prompt at most, so that every batch has one shape.
      pad_id: fills what is empty.

    Returns:
      The batch with `teacher_tokens` [N, max_prompt + R], `teacher_start` and
      `teacher_length` [N].

    Raises:
      ValueError: there are not as many prompts as turns, or one is too long.
    """
    N, R = batch.response.shape
    longest = max(map(len, prompts), default=0)
    if len(prompts) != int(batch.num_turns) or longest > max_prompt:
        raise ValueError(
            f"a teacher needs a prompt of up to {max_prompt} tokens for each of "
            f"{int(batch.num_turns)} turns, got {len(prompts)} of up to {longest}"
        )
    tokens = np.full((N, max_prompt + R), pad_id, np.int32)
    start, length = np.zeros(N, np.int32), np.zeros(N, np.int32)
    for n, prompt in enumerate(prompts):
        said = batch.response[n, batch.response_mask[n]]
        start[n], length[n] = len(prompt), len(prompt) + len(said)
        tokens[n, : start[n]], tokens[n, start[n] : length[n]] = prompt, said
    return batch.replace(
        teacher_tokens=tokens, teacher_start=start, teacher_length=length
    )
