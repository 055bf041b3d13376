"""`hiper report`: a run's folder -> report.html, one file that needs nothing else."""

import html
import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from hiper_jax import workdir
from hiper_jax.experiments.report import curves, tables
from hiper_jax.experiments.report.charts import Chart
from hiper_jax.experiments.report.episode_page import (
    MOST_SWITCHES,
    episode_page,
    number,
    pick,
    text,
)
from hiper_jax.experiments.report.viewer import Viewer, viewer

STYLE = pathlib.Path(__file__).parent / "report.css"
PAGE = """\
<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; \
img-src data:; style-src 'unsafe-inline'{scripts}">
<title>{title}</title>
<style>
{style}</style>
</head>
<body>
{body}{script}
</body>
</html>
"""
# Settings that a reader asks for first; the rest is folded away.
KEY_SETTINGS = (
    ("model", "model"),
    ("num_updates", "iterations"),
    ("episodes", "episodes per iteration"),
    ("samples", "of one task; 0: as the estimator needs"),
    ("estimator", "estimator"),
    ("world.environment", "environment"),
    ("world.max_turns", "turn limit"),
    ("world.goals", "goals, with the limit for each"),
    ("reading.format", "format of responses"),
    ("actor_lr", "actor learning rate"),
    ("critic_lr", "critic learning rate"),
    ("temperature", "temperature, training"),
    ("eval_temperature", "temperature, evaluation"),
    ("learn.gamma", "discount"),
    ("learn.lambda_turn", "λ, turns"),
    ("learn.lambda_segment", "λ, segments"),
    ("learn.bootstrap", "bootstrap"),
    ("learn.keep_penalty", "keep penalty"),
    ("learn.kl_coef", "KL coefficient"),
    ("learn.entropy_coef", "entropy coefficient"),
)


def write_report(run) -> pathlib.Path:
    """Writes report.html, the tables and the pictures of a run, finished or not.

    Args:
      run: the run's folder.

    Returns:
      The path of report.html.

    Raises:
      FileNotFoundError: there is no such folder.
      ValueError: the run's evaluations cannot be read or compared.
    """
    run = pathlib.Path(run)
    if not run.is_dir():
        raise FileNotFoundError(f"there is no run in {run}; give a run's folder")
    config = _config(run)
    metrics = workdir.read_lines(run / "metrics.jsonl")
    timing = workdir.read_lines(run / "timing.jsonl")
    rounds, rows = tables.evaluations(run), tables.write(run)
    charts = curves.draw(metrics, timing, rounds)
    for one in charts:
        workdir.write_text(run / f"{one.name}.svg", one.file)
    plan = _format(config) == "plan"
    looked = viewer(run, config, plan=plan) if workdir.episode_files(run) else None
    origin = config.get("provenance", {})
    title = f"{origin.get('preset') or run.resolve().name}, seed {_seed(config)}"
    body = [
        f"<header><h1>{text(title)}</h1>{_origin(origin)}</header>",
        _missing(config, metrics, rounds),
        _tiles(metrics, timing, rows),
        _results(rows),
        gallery(charts),
        _episodes(run, looked, plan=plan),
        _settings(config),
    ]
    path, foot = run / "report.html", _versions(origin)
    workdir.write_text(path, page_of(title, body, foot, looked))
    return path


def page_of(
    title: str, body: Sequence[str], foot: str = "", looked: Viewer | None = None
) -> str:
    """A whole page.

    Args:
      title: of the page.
      body: blocks of HTML, a header first; empty ones are left out.
      foot: HTML at its end.
      looked: a viewer whose HTML the body has.
    """
    head, *rest = filter(None, body)
    whole = f"{head}\n<main>\n" + "\n".join(rest) + "\n</main>"
    if foot:
        whole += f"\n<footer>{foot}</footer>"
    return PAGE.format(
        title=text(title),
        style=STYLE.read_text(),
        body=whole,
        script=f"\n<script>{looked.script}</script>" if looked else "",
        scripts=f"; script-src {html.escape(looked.policy, False)}" if looked else "",
    )


def _config(run: pathlib.Path) -> dict[str, Any]:
    """The settings of a run and what made it; {} where they cannot be read."""
    try:
        config = json.loads((run / "config.json").read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    if not isinstance(config, dict):
        return {}
    origin = config.get("provenance")
    origin = dict(origin) if isinstance(origin, dict) else {}
    if not isinstance(origin.get("versions"), dict):
        origin["versions"] = {}
    if type(config.get("num_updates")) is not int:
        config.pop("num_updates", None)
    return config | {"provenance": origin} if config else {}


def _format(config: Mapping[str, Any]) -> str:
    reading = config.get("reading")
    return reading.get("format", "plan") if isinstance(reading, dict) else "plan"


def _seed(config: Mapping[str, Any]) -> object:
    return config.get("seed", config.get("provenance", {}).get("seed", "unknown"))


def _origin(origin: Mapping[str, Any]) -> str:
    facts = [
        f"commit {origin['commit']}" if origin.get("commit") else "commit unknown",
        f"Python {origin['python']}" if origin.get("python") else "",
        origin.get("machine", ""),
    ]
    return f'<p class="soft">{text(" · ".join(map(str, filter(None, facts))))}</p>'


def _missing(config, metrics, rounds) -> str:
    """Says what a reader might look for and not find."""
    notes, planned = [], config.get("num_updates")
    done = metrics[-1]["step"] if metrics else 0
    if not config:
        notes.append("config.json is missing: settings are unknown.")
    if planned and done < planned:
        notes.append(
            f"This run has done {done} of {planned} iterations: it was stopped early "
            "or is still running."
        )
    if not metrics:
        notes.append("No iteration was finished, so there are no curves.")
    for tag in ("before", "after"):
        if tag not in rounds:
            notes.append(f"There is no evaluation {tag} training.")
    items = "".join(f"<li>{text(note)}</li>" for note in notes)
    return f'<div class="note"><ul>{items}</ul></div>' if notes else ""


def _tiles(metrics, timing, rows: Sequence[tables.Row]) -> str:
    tiles = []
    for row in rows:
        if row.task_type == tables.OVERALL:
            ends = [r for r in (row.before, row.after) if r is not None]
            shares = " → ".join(f"{100 * r.share:.1f} %" for r in ends)
            low, high = ends[-1].interval
            interval = f"95 % interval {100 * low:.1f} to {100 * high:.1f}"
            tiles.append((shares, f"won on {row.split.replace('_', ' ')}; {interval}"))
            if all(r.points is not None for r in ends):
                scores = " → ".join(f"{r.score:.3f}" for r in ends)
                tiles.append((scores, f"mean score on {row.split.replace('_', ' ')}"))
    if metrics:
        last = metrics[-1]
        tiles.append((number(last["step"]), "iterations"))
        if last.get("rollout/success") is not None:
            share = f"{100 * last['rollout/success']:.0f} %"
            tiles.append((share, "won in the last rollout"))
    if timing:
        minutes = sum(r.get("seconds") or 0.0 for r in timing) / 60
        each = 60 * minutes / len(timing)
        tiles.append((f"{minutes:.1f} min", f"of training, {each:.0f} s an iteration"))
    cells = "".join(
        f'<div class="card tile"><b>{text(big)}</b><span>{text(small)}</span></div>'
        for big, small in tiles
    )
    return f'<div class="tiles">{cells}</div>' if cells else ""


def _results(rows: Sequence[tables.Row]) -> str:
    if not rows:
        return ""
    lines = []
    for row in rows:
        rates = _rate("before", row.before) + _rate("after", row.after)
        kind = "whole" if row.task_type == tables.OVERALL else "part"
        lines.append(
            f'<tr class="{kind}"><td>{_spaced(row.split)}</td>'
            f"<td>{_spaced(row.task_type)}</td>{rates}<td>{_change(row)}</td></tr>"
        )
    names = ("split", "task type", "before", "after", "change")
    heads = "".join(f'<th scope="col">{name}</th>' for name in names)
    return (
        '<h2>Results</h2><p class="soft">Games won, with 95 % Wilson intervals. An '
        "arrow marks rows whose two intervals do not overlap.</p>"
        '<div class="card scroll"><table><thead><tr>'
        f"{heads}</tr></thead>"
        f"<tbody>{''.join(lines)}</tbody></table></div>"
    )


def _spaced(name: str) -> str:
    return text(name.replace("_", " "))


def _rate(when: str, rate: tables.Rate | None) -> str:
    if rate is None:
        return f'<td class="rate soft" data-when="{when}">not evaluated</td>'
    low, high = rate.interval
    return (
        f'<td class="rate" data-when="{when}">{100 * rate.share:.1f} % '
        f'<span class="soft">{rate.won}/{rate.games}, {100 * low:.0f} to '
        f"{100 * high:.0f}{_score(rate)}</span>"
        f'<span class="span"><i style="left:{100 * low:.1f}%;'
        f'width:{100 * (high - low):.1f}%"></i>'
        f'<b style="left:{100 * rate.share:.1f}%"></b></span></td>'
    )


def _score(rate: tables.Rate) -> str:
    return "" if rate.points is None else f"; score {rate.score:.3f}"


def _change(row: tables.Row) -> str:
    if row.before is None or row.after is None or not row.differs:
        return ""
    better = row.after.share > row.before.share
    name, arrow, said = ("up", "▲", "better") if better else ("down", "▼", "worse")
    return f'<span class="{name}">{arrow} {said}</span>'


def gallery(charts: Sequence[Chart], *, wide: bool = False) -> str:
    """Charts with their numbers, below a heading; "" without any."""
    kind = "curves wide" if wide else "curves"
    figures = "".join(
        f"<figure><h3>{text(c.title)}</h3>{c.svg}{c.legend}"
        f"<figcaption>{text(c.caption)}</figcaption>{_numbers(c)}</figure>"
        for c in charts
    )
    about = '<p class="soft">Values are under the pointer, and below each chart.</p>'
    if not charts:
        return ""
    return f'<h2>Curves</h2>{about}<div class="{kind}">{figures}</div>'


def _numbers(chart: Chart) -> str:
    """The values of a chart as a table, folded away."""
    head, *rows = chart.table
    names = "".join(f'<th scope="col">{text(name)}</th>' for name in head)
    lines = "".join(
        "<tr>" + "".join(f"<td>{text(cell)}</td>" for cell in row) + "</tr>"
        for row in rows
    )
    return (
        f"<details><summary>Numbers: {text(chart.title)}</summary>"
        f'<div class="scroll"><table class="numbers"><thead><tr>{names}</tr></thead>'
        f"<tbody>{lines}</tbody></table></div></details>"
    )


def _episodes(run: pathlib.Path, looked: Viewer | None, *, plan: bool) -> str:
    """The viewer, and what stands in its place where no script runs: a few episodes."""
    files = workdir.episode_files(run)
    if not files or looked is None:
        return ""
    told = (
        "A colour is a segment: the turns under one subgoal. Bars are advantages as "
        "they entered the loss, on one scale per episode: of the action on every turn, "
        "of the subgoal where a segment starts, and of the switch decision."
    )
    if not plan:
        told = "Bars are advantages as they entered the loss, on one scale per episode."
    parts = [f'<h2>Episodes</h2><p class="soft">{told}</p><div id="picked">']
    parts.append('<p class="soft">Some are picked here; a script shows all.</p>')
    for step in sorted({max(files), min(files)}, reverse=True):
        picked = pick(workdir.read_episodes(files[step]), plan=plan)
        parts.append(f"<h3>Iteration {step}</h3>")
        for place, (name, episode) in enumerate(picked.items()):
            title = "Won" if episode.won else "Not won"
            if name == MOST_SWITCHES:
                title = f"Most switches: {title.lower()}"
            unfolded = step == max(files) and place == 0
            parts.append(
                episode_page(episode, title=title, unfolded=unfolded, plan=plan)
            )
    return "".join([*parts, "</div>", looked.html])


def _settings(config: Mapping[str, Any]) -> str:
    if not config:
        return ""
    facts = []
    for path, label in KEY_SETTINGS:
        value: Any = config
        for part in path.split("."):
            value = value.get(part) if isinstance(value, Mapping) else None
        if value is not None:
            shown = "the warm start" if path == "model" and not value else value
            facts.append(f"<div><dt>{text(label)}</dt><dd>{text(shown)}</dd></div>")
    rest = {k: v for k, v in config.items() if k != "provenance"}
    return (
        f'<h2>Settings</h2><dl class="card facts">{"".join(facts)}</dl>'
        '<details class="fold"><summary>All settings</summary><div><pre>'
        f"{text(json.dumps(rest, indent=1, ensure_ascii=False))}</pre></div></details>"
    )


def _versions(origin: Mapping[str, Any]) -> str:
    versions = origin.get("versions") or {}
    return text(" · ".join(f"{k} {v}" for k, v in versions.items() if v))
