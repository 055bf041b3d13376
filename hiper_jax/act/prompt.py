"""Task, history, observation, subgoal, admissible actions -> a prompt that fits."""

import dataclasses
from collections.abc import Callable, Generator, Sequence
from typing import Any

from hiper_jax.act.envs.templates import History, Template, counted
from hiper_jax.act.envs.world import DEFAULT, World, load_world
from hiper_jax.act.format import check_format


@dataclasses.dataclass(frozen=True)
class Fitted:
    """A prompt that fits its budget."""

    text: str
    ids: Any  # [P] int32, or a list of as many
    shortened: bool  # something was left out


def template_of(
    world: World, style: str, format: str = "plan", show_turn: bool = False
) -> Template:
    """What writes a world's prompts in a style, for responses of a format.

    With `show_turn` the number of the turn stands at the head of each.

    Raises:
      ValueError: the world has no such style, or there is no such format.
    """
    check_format(format)
    wordings = world.templates if format == "plan" else world.flat
    if style not in wordings:
        known = ", ".join(map(repr, wordings))
        raise ValueError(f"prompt style {style!r} is not one of {known}")
    template = wordings[style]
    return counted(template) if show_turn else template


def build_prompt(
    task: str,
    history: History,
    observation: str,
    subgoal: str,
    admissible: Sequence[str],
    *,
    environment: str = DEFAULT,
    style: str = "full",
    history_length: int = 2,
    format: str = "plan",
) -> str:
    """Writes the prompt of one turn.

    Args:
      task: the task sentence.
      history: (observation, action) pairs, oldest first; all turns so far.
      observation: what the environment shows now.
      subgoal: the subgoal in force; empty when there is none.
      admissible: the actions that the environment would accept.
      environment: which world, as `load_world` takes it.
      style: "full", "terse" or another that the world has.
      history_length: how many of the last pairs are shown.
      format: "plan", or "flat" for a prompt that says nothing of subgoals.

    Returns:
      The text of the prompt.

    Raises:
      ValueError: the world, the style or the format is unknown.
    """
    return template_of(load_world(environment), style, format)(
        task, history, observation, subgoal, admissible, history_length=history_length
    )


def fit_prompt(
    encode: Callable[[str], list[int]],
    max_tokens: int,
    task: str,
    history: History,
    observation: str,
    subgoal: str,
    admissible: Sequence[str],
    *,
    template: Template,
    history_length: int = 2,
) -> Fitted:
    """Builds the prompt and, if it is too long, cuts it: never an error for length.

    History goes first, a pair at a time; then the observation is halved until it
    is gone; then the list of actions loses its tail; last, the tokens themselves
    are cut in front, so that the end of the prompt always stands.
    """
    fitting = fit(
        max_tokens,
        task,
        history,
        observation,
        subgoal,
        admissible,
        template=template,
        history_length=history_length,
    )
    return fit_all([fitting], lambda texts: [encode(text) for text in texts])[0]


# Yields texts, is sent the ids of each, returns the prompt; see `fit_all`.
Fitting = Generator[str, Any, Fitted]


def fit_all(
    fittings: Sequence[Fitting], encode: Callable[[list[str]], Sequence[Any]]
) -> list[Fitted]:
    """Fits many prompts, all that have not fitted yet in one call of `encode`.

    Args:
      fittings: from `fit`.
      encode: (texts) -> ids of each.
    """
    fitted: dict[int, Fitted] = {}
    asked = {i: next(fitting) for i, fitting in enumerate(fittings)}
    while asked:
        answers = zip(asked, encode(list(asked.values())), strict=True)
        asked = {}
        for i, ids in answers:
            try:
                asked[i] = fittings[i].send(ids)
            except StopIteration as end:
                fitted[i] = end.value
    return [fitted[i] for i in range(len(fittings))]


def fit(
    max_tokens: int,
    task: str,
    history: History,
    observation: str,
    subgoal: str,
    admissible: Sequence[str],
    *,
    template: Template,
    history_length: int = 2,
) -> Fitting:
    """`fit_prompt` by halves: whoever goes through it encodes."""

    def attempt(pairs, text, actions):
        prompt = template(task, history, text, subgoal, actions, history_length=pairs)
        return prompt, (yield prompt)

    pairs, text, actions = history_length, observation, list(admissible)
    prompt, ids = yield from attempt(pairs, text, actions)
    shortened = len(ids) > max_tokens
    while len(ids) > max_tokens:
        if pairs > 0:
            pairs -= 1
        elif text:
            text = text[: len(text) // 2]
        elif len(actions) > 1:
            actions = actions[: len(actions) // 2]
        else:
            ids = ids[-max_tokens:]
            break
        prompt, ids = yield from attempt(pairs, text, actions)
    return Fitted(prompt, ids, shortened)
