"""README and the pages of docs/ say what is so: their code runs, their links lead on.

The word after a fence's language says what becomes of the block:

    python            run, all blocks of a page in order and in one namespace
    sh                `hiper` commands: every one exists and takes the flags shown
    sh run            the same, and run with bash
    text output       what the block before it prints
    sh not-run        needs the network, hours or hardware; its `hiper` commands are
                      looked at all the same, and NOT_RUN counts the blocks
    text, yaml        not code

A block that begins with `# name.py` or `# name.yaml` is that file, too: the others of
its page find it in the folder where they run.
"""

import ast
import contextlib
import importlib.util
import io
import json
import os
import pathlib
import re
import shlex
import shutil
import subprocess
import sys

import nbformat
import pytest

from hiper_jax.experiments import commands, flags, launch

ROOT = pathlib.Path(__file__).parent.parent
PAGES = sorted(
    page.relative_to(ROOT).as_posix()
    for page in [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]
)
# Blocks that no test runs. One more is a decision, not an accident.
NOT_RUN = 13
FENCE = re.compile(
    r"^(?P<indent> *)```(?P<info>[^\n]*)\n(?P<code>.*?)^(?P=indent)```$", re.M | re.S
)
KINDS = {
    "python",
    "sh",
    "sh run",
    "sh not-run",
    "text",
    "text output",
    "yaml",
}
BIN = pathlib.Path(sys.executable).parent


def blocks(page):
    """(info, code, line) of every fenced block of a page."""
    text = (ROOT / page).read_text()
    for found in FENCE.finditer(text):
        indent = found["indent"]
        code = re.sub(f"^{indent}", "", found["code"], flags=re.M)
        yield found["info"].strip(), code, text[: found.start()].count("\n") + 1


def of_kind(*kinds):
    return [page for page in PAGES if any(info in kinds for info, _, _ in blocks(page))]


def hiper_lines(code):
    """The `hiper` commands of a shell block, each as its words after `hiper`."""
    code = code.replace("\\\n", " ")
    for line in code.splitlines():
        for part in re.split(r"&&|;|\|", line):
            words = shlex.split(part, comments=True)
            if words and words[0].split("/")[-1] == "hiper":
                yield words[1:]


def write_files(page, folder):
    """Writes the blocks that are files."""
    for _, code, _ in blocks(page):
        if named := re.match(r"# ([\w.-]+\.(?:py|yaml))\n", code):
            (folder / named[1]).write_text(code)


@pytest.fixture
def elsewhere(tmp_path, monkeypatch):
    """A folder that holds the examples, as the pages suppose; on the path, too."""
    if (ROOT / "examples").is_dir():
        shutil.copytree(ROOT / "examples", tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("MPLBACKEND", "agg")
    return tmp_path


def test_every_block_says_what_becomes_of_it():
    assert len(PAGES) > 10
    counts = {}
    for page in PAGES:
        assert len(list(blocks(page))) == (ROOT / page).read_text().count("\n```") / 2
        for info, _, line in blocks(page):
            assert info in KINDS, f"{page}:{line}: what is {info!r}?"
            counts[info] = counts.get(info, 0) + 1
    assert counts["sh not-run"] == NOT_RUN
    assert counts["python"] > 5


@pytest.mark.parametrize("page", of_kind("python"))
def test_python_blocks_run_as_printed(page, elsewhere):
    write_files(page, elsewhere)
    namespace, printed = {"__name__": "__main__"}, ""
    if page == "docs/data.md":
        pytest.importorskip("tensorflow_datasets")
        pytest.importorskip("array_record")
    for info, code, line in blocks(page):
        if info == "python" and lacks(code):
            printed = None
        elif info == "python":
            # Line numbers of a traceback are those of the page.
            program = compile("\n" * line + code, str(ROOT / page), "exec")
            with contextlib.redirect_stdout(io.StringIO()) as out:
                exec(program, namespace)
            printed = out.getvalue()
        elif info == "text output" and printed is not None:
            assert printed.strip() == code.strip(), f"{page}:{line}"


def lacks(code):
    """Whether a block needs a package that is no extra of ours, and is not there."""
    names = re.findall(r"^import (grain|datasets|pandas)$", code, re.M)
    return any(importlib.util.find_spec(name) is None for name in names)


def check_command(words, where):
    """The words are a command and settings that it accepts; nothing is started."""
    if words[:1] == ["launch"]:
        words = launch.split(words)
        check_command(shlex.split(words[-1]), where)
    try:
        early = flags.some(commands.Early, words, "--config needs a file")
        flags.parse(commands.tree(early), words, "hiper")
    except SystemExit as stop:  # --help and --version print and end
        assert not stop.code, where
    except (ValueError, OSError, ImportError) as error:
        pytest.fail(f"{where}: hiper {shlex.join(words)}: {error}")


@pytest.mark.parametrize("page", of_kind("sh", "sh run", "sh not-run"))
def test_hiper_commands_exist_and_take_their_flags(page, elsewhere):
    write_files(page, elsewhere)
    for info, code, line in blocks(page):
        if info.startswith("sh"):
            found = list(hiper_lines(code))
            if info == "sh":
                shown = [s for s in code.splitlines() if s.strip()]
                assert len(found) == len(shown), f"{page}:{line}: not only hiper"
            for words in found:
                check_command(words, f"{page}:{line}")


@pytest.mark.parametrize("page", of_kind("sh run"))
def test_shell_blocks_run_as_printed(page, elsewhere):
    path = f"{BIN}{os.pathsep}{os.environ['PATH']}"
    printed = ""
    write_files(page, elsewhere)
    for info, code, line in blocks(page):
        if info == "sh run":
            done = subprocess.run(
                ["bash", "-euo", "pipefail", "-c", code],
                capture_output=True,
                text=True,
                timeout=300,
                env={**os.environ, "PATH": path, "NO_COLOR": "1"},
            )
            assert done.returncode == 0, f"{page}:{line}: {done.stdout}{done.stderr}"
            printed = done.stdout
        elif info == "text output":
            assert printed.strip() == code.strip(), f"{page}:{line}"


# What stands for any word in the prose, and a word that it may stand for.
ANY = {"PRESET": "quickstart", "N": "1", "S": "0", "WORLD": "alfworld"}


def inline_commands(page):
    """`hiper ...` in running text; [words] may be left out, CAPITALS stand for any."""
    text = FENCE.sub("", (ROOT / page).read_text())
    for found in re.finditer(r"`(hiper [^`\n]*)`", text):
        words = re.sub(r"\[[^\]]*\]", "", found[1]).split()[1:]
        yield [ANY.get(word, word) for word in words]


@pytest.mark.parametrize("page", PAGES)
def test_commands_named_in_the_prose_exist(page, elsewhere):
    for words in inline_commands(page):
        flagged = any(word.startswith("--") for word in words)
        check_command(words if flagged else [*words, "--help"], page)


def documented(function):
    """The names that a docstring's Args explains; `a, b: ...` explains both."""
    text = (ast.get_docstring(function) or "") + "\n"
    section = re.search(r"^Args:\n((?:  .*\n|\n)+)", text, re.M)
    if section is None:
        return set()
    lines = re.findall(r"^  (\*{0,2}\w+(?:, \*{0,2}\w+)*):", section[1], re.M)
    return {name.lstrip("*") for line in lines for name in line.split(", ")}


def test_every_documented_argument_is_one():
    """The pages show docstrings beside signatures, so the two must agree."""
    count = 0
    for folder in ("hiper_jax", "kernels", "experiments"):
        for file in sorted((ROOT / folder).rglob("*.py")):
            for node in ast.walk(ast.parse(file.read_text())):
                if isinstance(node, ast.FunctionDef):
                    a = node.args
                    known = [*a.posonlyargs, *a.args, *a.kwonlyargs, a.vararg, a.kwarg]
                    named = documented(node)
                    odd = named - {x.arg for x in known if x}
                    assert not odd, f"{file}:{node.lineno}: {node.name} has no {odd}"
                    count += len(named)
    assert count > 300


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page):
    text = FENCE.sub("", (ROOT / page).read_text())
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"[a-z]+:", target):
            # Pictures by an absolute address would not show offline.
            assert not target.endswith((".png", ".svg")), f"{page}: {target}"
            continue
        file = target.partition("#")[0]
        if file:
            assert ((ROOT / page).parent / file).exists(), f"{page}: {target}"


def test_the_example_on_the_page_is_the_example_in_the_folder():
    example = (ROOT / "examples" / "own_world.py").read_text()
    page = (ROOT / "docs" / "own-world.md").read_text()
    assert f"```python\n{example}```" in page
    assert example.count("\n") < 50


def test_readme_is_a_page_that_one_reads_to_its_end():
    """No pictures either: PyPI shows README, and relative pictures break there."""
    text = (ROOT / "README.md").read_text()
    assert 100 <= text.count("\n") <= 150
    assert "![" not in text and "<img" not in text
    for command in (
        "python3 -m venv .venv && .venv/bin/pip install -e . && "
        ".venv/bin/hiper train quickstart",
        'python3 -m venv .venv && .venv/bin/pip install -e ".[test]" && '
        ".venv/bin/python -m pytest",
    ):
        assert f"\n{command}\n" in text


@pytest.mark.parametrize("name", ["hae", "episodes"])
def test_the_notebook_runs(tmp_path, name):
    """In a kernel of its own; its cells assert what they say."""
    file = ROOT / "examples" / f"{name}.ipynb"
    code = (
        "import sys, nbformat; from nbclient import NotebookClient; "
        "book = nbformat.read(sys.argv[1], 4); "
        "NotebookClient(book, timeout=300, kernel_name='python3').execute(); "
        "nbformat.write(book, sys.argv[2])"
    )
    out = tmp_path / "ran.ipynb"
    done = subprocess.run(
        [sys.executable, "-c", code, str(file), str(out)],
        capture_output=True,
        text=True,
        timeout=600,
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    kept, ran = (nbformat.read(f, 4) for f in (file, out))

    def said(book):
        """What the cells print; pictures differ between versions of matplotlib."""
        return [
            output["text"]
            for cell in book.cells
            for output in cell.get("outputs", [])
            if output.output_type == "stream" and output.name == "stdout"
        ]

    assert said(kept) == said(ran) != []
    shown = sum("image/png" in json.dumps(cell) for cell in ran.cells)
    assert shown >= 2
