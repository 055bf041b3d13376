"""Every episode of a run, to be looked through in its page.

    fits      the packed blocks stand in the page, where nothing runs them
    does not  each block is a file of the folder `report` beside the page, which the
              page's script loads when it is asked for

The page's policy names the hash of its one script; what a model or a game said cannot
become another one.
"""

import base64
import contextlib
import dataclasses
import hashlib
import pathlib
from collections.abc import Mapping
from typing import Any

from hiper_jax import _store, workdir
from hiper_jax.act.codec import load_codec
from hiper_jax.act.pieces import piece_table
from hiper_jax.experiments import config as configs
from hiper_jax.experiments import games, starts
from hiper_jax.experiments.report.blocks import Vocabulary, block, packed, summaries
from hiper_jax.experiments.settings import replaced

MOST = 4_300_000  # letters of packed blocks in a page, which stays below 5 MB
FOLDER = "report"  # beside the page, for blocks that are more
PARTS = ("viewer_read.js", "viewer_turns.js", "viewer_list.js")


@dataclasses.dataclass(frozen=True)
class Viewer:
    """What the viewer adds to a page."""

    html: str
    script: str

    @property
    def policy(self) -> str:
        """What the page's policy must allow: this script, and what it loads."""
        digest = hashlib.sha256(self.script.encode()).digest()
        return f"'sha256-{base64.b64encode(digest).decode()}' 'strict-dynamic'"


def viewer(run: pathlib.Path, config: Mapping[str, Any], *, plan: bool) -> Viewer:
    """Packs all episodes of a run and writes the folder, if one is needed.

    Args:
      run: the run's folder.
      config: its settings, as config.json holds them.
      plan: whether responses have subgoals and switches.

    Raises:
      ValueError: a file of episodes is damaged.
    """
    known, listed = vocabulary(run, config), []
    inside: dict[int, str] = {}
    beside, size = False, 0
    for step, file in workdir.episode_files(run).items():
        episodes = list(workdir.read_episodes(file))
        listed += summaries(step, episodes)
        text = packed(block(episodes, config, known))
        size += len(text)
        if not beside and size > MOST:
            beside = True
            for earlier, kept in inside.items():
                _write(run, earlier, kept)
        if beside:
            _write(run, step, text)
        else:
            inside[step] = text
    head = {
        "plan": plan,
        "unread": list(known.unread) if known else [],
        "folder": FOLDER if beside else "",
    }
    _remove(run, set(workdir.episode_files(run)) if beside else set())
    blocks = {"index": packed({**head, "episodes": listed})}
    if not beside:
        blocks |= {str(step): text for step, text in inside.items()}
    data = "".join(
        f'<script type="text/plain" id="block-{name}">{text}</script>'
        for name, text in blocks.items()
    )
    html = f'<section id="viewer" aria-label="All episodes" hidden></section>{data}'
    return Viewer(html, script())


def script() -> str:
    """The viewer's program: its parts, one after the other in one function."""
    folder = pathlib.Path(__file__).parent
    parts = [(folder / name).read_text(encoding="utf-8") for name in PARTS]
    return '(() => {\n"use strict";\n' + "".join(parts) + "})();"


def vocabulary(run: pathlib.Path, config: Mapping[str, Any]) -> Vocabulary | None:
    """The vocabulary of a run's model, or of what it started from; None without."""
    for find in (lambda: run / "model", lambda: _start(config)):
        folder = find()
        if folder is None or not (folder / "tokenizer.json").is_file():
            continue
        try:
            codec = load_codec(folder)
            return Vocabulary(piece_table(codec.tokenizer), codec.unread)
        except (OSError, ValueError):
            continue  # the page then shows numbers
    return None


def _start(config: Mapping[str, Any]) -> pathlib.Path | None:
    """The folder that a run started from; None where its settings do not tell."""
    try:
        record = {k: v for k, v in config.items() if k not in ("provenance", "changes")}
        if "world" in record:
            record["world"] = games.recorded(record["world"])
        if _store.is_remote(model := str(record.get("model", ""))):
            folder = _store.fetched(model, _of_tokenizer)  # not gigabytes of weights
            return folder / "model" if (folder / "model").is_dir() else folder
        return starts.start_of(replaced(configs.Train(), record))
    except (ValueError, ImportError, OSError, LookupError, TypeError, AttributeError):
        return None  # settings of another time, or damaged ones


def _of_tokenizer(name: str) -> bool:
    text = name.endswith((".json", ".jinja", ".txt", ".model"))
    return text and name.rpartition("/")[0] in ("", "model")


def _write(run: pathlib.Path, step: int, text: str) -> None:
    workdir.write_text(run / FOLDER / f"{step}.js", f'hiperBlock({step},"{text}")\n')


def _remove(run: pathlib.Path, wanted: set[int]) -> None:
    """Takes away the blocks of an earlier page that this one does not load."""
    for file in (run / FOLDER).glob("*.js"):
        if not file.stem.isdecimal() or int(file.stem) not in wanted:
            file.unlink()
    with contextlib.suppress(OSError):
        (run / FOLDER).rmdir()  # only where nothing is left
