"""What others wrote is shown as it is: nothing unseen reaches a person's screen."""

import json
import unicodedata

import pytest

from hiper_jax.experiments import cli
from hiper_jax.experiments.compare import compare, page
from hiper_jax.experiments.compare.outcomes import LEVELS
from hiper_jax.experiments.compare.standings import Speed, Standing
from hiper_jax.experiments.compare.statistics import Interval
from hiper_jax.experiments.play import play
from hiper_jax.experiments.progress import bar
from hiper_jax.experiments.report import curves, report, tables
from hiper_jax.experiments.report.episode_page import text
from hiper_jax.experiments.visible import visible

NASTY = "a\x00b\x1b[31mc\u202ed\u2066e\u200bf\x9bg\x07h\ud800i\rj\u2028k"
SHOWN = r"a\x00b\x1b[31mc\u202ed\u2066e\u200bf\x9bg\x07h\ud800i\x0dj\u2028k"  # in order


def test_all_that_is_unseen_is_written_out():
    """Of all of Unicode: what is no control and no format character stays."""
    assert visible(NASTY) == SHOWN
    assert visible("a\nb\tc café 找到 😀") == "a\nb\tc café 找到 😀"
    assert visible("a\nb\tc", one_line=True) == r"a\nb\tc"
    unseen = ("Cc", "Cf", "Cs", "Zl", "Zp")
    for code in (*range(0x30000), *range(0xE0000, 0xE1000)):
        kind, shown = unicodedata.category(chr(code)), visible(chr(code))
        if kind not in ("Co", "Cn"):  # nothing to see or not, yet
            hidden = kind in unseen and chr(code) not in "\n\t"
            assert (shown != chr(code)) == hidden, hex(code)
            assert not hidden or (shown.isascii() and shown.startswith("\\"))


def test_a_report_shows_it():
    assert text(f"<b>{NASTY}") == f"&lt;b&gt;{SHOWN}"


@pytest.fixture
def run(tmp_path):
    """A finished evaluation whose task type and split are hostile."""
    kind = f"<img src=x onerror=alert(1)>|`*[x](http://y)\n{NASTY}"
    for tag in ("before", "after"):
        record = {
            "tag": tag,
            "split": f"s{NASTY}",
            "step": 1,
            "episodes": [{"game": "g", "task_type": kind, "won": True}],
        }
        (tmp_path / "eval").mkdir(exist_ok=True)
        (tmp_path / "eval" / f"{tag}.json").write_text(json.dumps(record))
    return tmp_path


def test_results_hold_no_tags_and_no_lines_of_others(run):
    rows = tables.write(run)
    page = (run / "results.md").read_text()
    assert len(page.splitlines()) == 4 and "<" not in page
    assert r"&lt;img src=x onerror=alert(1)&gt;\|\`\*\[x\](http://y)\\n" in page
    assert SHOWN in tables.render(run) and SHOWN in tables.to_text(rows)
    html = report.write_report(run).read_text()
    assert SHOWN in html and not set(NASTY) & set("\x00\x1b\u202e") & set(html)


def test_a_comparison_shows_it():
    """In the terminal and on its page: a world's splits and a variant's label."""
    share = Interval(0.5, 0.4, 0.6)
    row = Standing(NASTY, NASTY, (0,), 1, 0.5, share, None, None, 0)
    shown = compare.text_table([row])
    assert shown.count(SHOWN) == 2 and not set(shown) & (set(NASTY) - set(SHOWN))
    speed = Speed(
        label=NASTY, seeds=1, minutes=1.0, reached={x: [] for x in LEVELS},
        switches=(0.5, 0.5), collapsed=0, turns=(1.0, 1.0),
    )  # fmt: skip
    html, _ = page.page(compare.Compare(preset=NASTY), [], [], [row], [speed], {})
    assert html.count(SHOWN) >= 4
    assert not set(html) & (set(NASTY) - set(SHOWN) - set("\n"))


def test_a_chart_shows_it():
    record = {"split": f"<b>{NASTY}", "step": 1, "success": 0.5}
    record |= {"episodes": [{"game": "g", "task_type": "t", "won": True}]}
    lines = [{"step": 1, "rollout/success": 0.5}]
    (drawn, *_) = curves.draw(lines, [], {"before": {record["split"]: record}})
    for page_ in (drawn.svg, drawn.legend):
        assert SHOWN in page_ and "<b>" not in page_
        assert not set(page_) & (set(NASTY) - set(SHOWN))


def test_the_terminal_shows_it(capsys, monkeypatch):
    class Room:
        def reset(self, task):
            return NASTY, self.info

        def step(self, action):
            return NASTY, 0.0, True, False, self.info

        def close(self):
            pass

        info = {"task": NASTY, "admissible_actions": [NASTY + "\n"], "won": False}

    play(Room(), "t", read=lambda prompt: "1", width=200)
    told = capsys.readouterr().out
    assert told.count(SHOWN) >= 5 and told.isprintable() is False
    assert not set(told) & (set(NASTY) - set(SHOWN))
    bar(f"x{NASTY}", every=0.0)(0, 2)
    assert SHOWN in capsys.readouterr().out

    def fails(argv):
        raise ValueError(f"there is no {NASTY}\nhere")

    monkeypatch.setattr(cli, "_run", fails)
    with pytest.raises(SystemExit):
        cli.main([])
    assert capsys.readouterr().err == f"hiper: there is no {SHOWN} here\n"
