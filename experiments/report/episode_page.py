"""Episodes -> HTML: what was seen, decided, done and credited, turn by turn."""

import html
from collections.abc import Iterable, Sequence

from hiper_jax.act.episode import Episode, Turn
from hiper_jax.experiments.visible import visible

MOST_SWITCHES = "most switches"
HUES = 7  # colours of segments that report.css has
ADVANTAGES = (
    ("action", "advantage_low"),
    ("subgoal", "advantage_high"),
    ("switch", "advantage_switch"),
    ("response", "advantage"),
)


def text(value: object) -> str:
    """Escapes anything that a model, a game or a file said."""
    return html.escape(visible(value), quote=True)


def pick(episodes: Iterable[Episode], *, plan: bool = True) -> dict[str, Episode]:
    """One episode that was won, one that was lost, one with most switches.

    Won and lost are those of median length, the first of equals. An episode is picked
    once: the third is the one with most switches among the others, and there is none
    where responses have no plan.
    """
    left = list(episodes)
    picked: dict[str, Episode] = {}

    def take(name: str, among: Sequence[Episode], place: int) -> None:
        if among:
            picked[name] = among[place]
            # By identity: arrays inside make equality ambiguous.
            left[:] = [e for e in left if e is not among[place]]

    for name, won in (("won", True), ("lost", False)):
        among = sorted((e for e in left if e.won is won), key=lambda e: len(e.turns))
        take(name, among, len(among) // 2)
    if plan:
        take(MOST_SWITCHES, sorted(left, key=lambda e: -_switches(e)), 0)
    return picked


def episode_page(
    episode: Episode, *, title: str, unfolded: bool = False, plan: bool = True
) -> str:
    """One episode as a foldable block, with subgoals and switches if it has a plan."""
    segments = _segments(episode.turns)
    scale = max(
        (
            abs(value)
            for _, name in ADVANTAGES
            for value in (episode.credit or {}).get(name, ())
        ),
        default=0.0,
    )
    spans = "".join(
        f'<span style="--hue:{_hue(k)};flex:{len(turns)} 1 0" '
        f'title="{text(turns[0].subgoal)}">{text(turns[0].subgoal)}</span>'
        for k, turns in enumerate(segments)
    )
    strip = f'<div class="strip">{spans}</div>' if plan else ""
    subgoals = f", {_count(len(segments), 'subgoal')}" if plan else ""
    rows, t = [], 0
    for k, turns in enumerate(segments):
        for j, turn in enumerate(turns):
            rows.append(_turn(episode, turn, t, _hue(k), j == 0, scale, plan))
            t += 1
    return (
        f'<details class="fold"{" open" if unfolded else ""}><summary>'
        f'<span class="{"up" if episode.won else "down"}">{text(title)}</span> in '
        f"{_count(len(episode.turns), 'turn')}{subgoals}"
        f'</summary><div><p>{text(episode.task)}</p><p class="soft">'
        f"{text(episode.task_type)} · return {number(episode.reward)} · "
        f"{_ending(episode)} · {text(episode.game)}</p>{_strategy(episode)}"
        f'{strip}<ol class="turns">{"".join(rows)}</ol>'
        "</div></details>"
    )


def number(value: float) -> str:
    """At most three digits after the point, with a real minus sign."""
    shown = f"{value:.3f}".rstrip("0").rstrip(".")
    return ("0" if shown == "-0" else shown).replace("-", "−")


def _turn(
    episode: Episode,
    turn: Turn,
    t: int,
    hue: str,
    starts: bool,
    scale: float,
    plan: bool,
) -> str:
    said = "SWITCH" if turn.said_switch else "KEEP"
    decided = (
        f'<span class="said{" switch" if starts else ""}">{said}</span>'
        f"<span>{text(turn.subgoal) or '(no subgoal)'}</span>"
    )
    flaws = "".join(
        f' <span class="tag down">{flaw}</span>'
        for flaw, there in (
            ("badly formed", not turn.format_valid),
            ("not admissible", not turn.action_valid),
            ("prompt cut", turn.prompt_truncated),
            ("judged useless", t in (episode.flagged or ())),
        )
        if there
    )
    options = "\n".join(text(a) for a in turn.admissible)
    return (
        f'<li class="turn{" starts" if starts else ""}" style="--hue:{hue}">'
        f'<div class="head"><span class="number">{t + 1}</span>'
        f"{decided if plan else ''}</div>"
        f'<div class="seen">{text(turn.observation)}</div>'
        f'<div class="did">› {text(turn.action) or "(nothing)"}{flaws}</div>'
        f'<div class="credit">{_credit(episode, turn, t, starts, scale)}</div>'
        f"<details><summary>response, and {_count(len(turn.admissible), 'action')} to "
        f"choose from</summary><pre>{text(turn.text)}</pre><pre>{options}</pre>"
        "</details></li>"
    )


def _strategy(episode: Episode) -> str:
    """What the episode followed, and what became of the judgement."""
    if episode.strategy is None:
        return ""
    judged = " · the judgement could not be read" if episode.flagged is None else ""
    return (
        f"<p><b>strategy</b> {text(episode.strategy.text) or '(nothing)'}</p>"
        f'<p class="soft">candidate {episode.strategy.candidate + 1}{judged}</p>'
    )


def _credit(episode: Episode, turn: Turn, t: int, starts: bool, scale: float) -> str:
    """Rewards, then the advantages as bars around zero."""
    credit = episode.credit or {}
    shown = number(turn.reward)
    shaped = credit.get("shaped_reward")
    if shaped:
        shown += f" → {number(shaped[t])} shaped"
    cells = [f'<div><span class="name">reward</span><span>{shown}</span></div>']
    for label, name in ADVANTAGES:
        # The planner is credited where a segment starts and nowhere else.
        if not credit.get(name) or (name == "advantage_high" and not starts):
            continue
        value = credit[name][t]
        side = "plus" if value >= 0 else "minus"
        width = 50 * abs(value) / scale if scale else 0
        cells.append(
            f'<div><span class="name">{label}</span><span class="bar">'
            f'<i class="{side}" style="width:{width:.1f}%"></i></span>'
            f'<span class="value">{number(value)}</span></div>'
        )
    return "".join(cells)


def _segments(turns: Sequence[Turn]) -> list[list[Turn]]:
    """Maximal runs of turns under one subgoal; turn 0 always starts one."""
    segments: list[list[Turn]] = []
    for t, turn in enumerate(turns):
        if t == 0 or turn.switch:
            segments.append([])
        segments[-1].append(turn)
    return segments


def _switches(episode: Episode) -> int:
    return sum(turn.switch for turn in episode.turns)


def _ending(episode: Episode) -> str:
    if episode.truncated:
        return "cut at the turn limit"
    return "ended by the game" if episode.terminated else "not ended"


def _hue(segment: int) -> str:
    return f"var(--hue{segment % HUES})"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
