"""The report of a run: one safe file, whatever the run was and whatever was said."""

import base64
import dataclasses
import hashlib
import html
import html.parser
import json
import re
import xml.etree.ElementTree

import fake_run
import pytest

from hiper_jax import workdir
from hiper_jax.experiments.report import curves
from hiper_jax.experiments.report.episode_page import episode_page, number, pick
from hiper_jax.experiments.report.report import write_report
from hiper_jax.experiments.report.viewer import script

ALONE = {"meta", "img", "link", "br", "hr", "input"}


class Page(html.parser.HTMLParser):
    """Collects a page's elements and text, and checks that tags are balanced."""

    def __init__(self, source):
        super().__init__()
        self.elements, self.open, self.said, self.scripts = [], [], [], []
        self.feed(source)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        if tag not in ALONE:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if "script" in self.open:
            self.scripts.append(data)
        elif "style" not in self.open:
            self.said.append(data)

    def count(self, kind):
        """How many elements have this class."""
        return sum(kind in a.get("class", "").split() for _, a in self.elements)

    @property
    def text(self):
        return re.sub(r"\s+", " ", " ".join(self.said))


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    run = fake_run.make_run(tmp_path_factory.mktemp("runs") / "whole", iterations=12)
    config = json.loads((run / "config.json").read_text())
    workdir.write_json(run / "config.json", config | {"num_updates": 12})
    write_report(run)
    return run


@pytest.fixture(scope="module")
def page(run):
    return Page((run / "report.html").read_text())


def test_report_needs_no_other_file_and_runs_its_own_script_alone(page):
    tags = {tag for tag, _ in page.elements}
    assert not tags & {"link", "iframe", "object", "embed", "base"}
    for _, attributes in page.elements:
        assert not any(name.startswith("on") for name in attributes)
        for name in ("src", "href", "srcset", "data", "action"):
            assert attributes.get(name, "data:").startswith("data:")
    policy = [a["content"] for t, a in page.elements if "http-equiv" in a]
    assert policy and "default-src 'none'" in policy[0]
    kinds = [a.get("type") for t, a in page.elements if t == "script"]
    assert kinds == ["text/plain"] * 3 + [None] and len(page.scripts) == 4
    for data in page.scripts[:-1]:  # of the list and of two iterations: no tag, no code
        assert re.fullmatch("[A-Za-z0-9+/]+=*", data)
    digest = hashlib.sha256(page.scripts[-1].encode()).digest()
    allowed = f"script-src 'sha256-{base64.b64encode(digest).decode()}'"
    assert allowed in policy[0] and "unsafe" not in policy[0].split("script-src")[1]


def test_what_was_said_is_shown_and_not_run(run, page):
    assert fake_run.ATTACK in " ".join(page.said)
    source = (run / "report.html").read_text()
    assert source.count("<script") == len(page.scripts) == 4
    assert "onerror=alert(1)>" not in source
    assert not re.search("innerHTML|outerHTML|insertAdjacent|eval|write", script())


def test_header_results_and_settings_are_there(page):
    for expected in (
        "quickstart, seed 0",
        "commit 0123456789ab",
        "jax 0.10.2",
        "valid unseen",
        "valid seen",
        "pick heat then place in recep",
        "0.0001",
        "the warm start",
    ):
        assert expected in page.text
    assert "alfworld None" not in page.text
    assert page.count("note") == 0
    assert page.count("whole") == 2
    assert page.count("rate") == 2 * 14


def test_every_curve_is_a_picture_in_the_page_and_on_disk(run, page):
    pictures = [a for tag, a in page.elements if tag == "svg" and "role" in a]
    names = {p.name for p in curves._PLANS} | {"time"}
    assert len(pictures) == len(names)
    assert all(a["role"] == "img" and len(a["aria-label"]) > 50 for a in pictures)
    assert {p.stem for p in run.glob("*.svg")} == names
    for file in run.glob("*.svg"):
        assert xml.etree.ElementTree.parse(file).getroot().tag.endswith("}svg")
    assert {p.name for p in run.glob("results.*")} == {
        "results.csv",
        "results.json",
        "results.md",
    }


def test_three_episodes_of_the_first_and_the_last_iteration_are_replayed(run, page):
    files = workdir.episode_files(run)
    shown = [e for s in (12, 1) for e in pick(workdir.read_episodes(files[s])).values()]
    assert len(shown) == 6
    assert page.count("turn") == sum(len(e.turns) for e in shown)
    assert page.count("starts") == sum(t.switch for e in shown for t in e.turns)
    for title in ("Won in 7 turns, 4 subgoals", "Not won in", "Most switches: "):
        assert title in page.text
    assert "Iteration 12" in page.text and "Iteration 1 " in page.text


def test_picked_episodes_are_different_and_of_their_kind():
    rng = fake_run.np.random.default_rng(0)
    episodes = [fake_run._episode(i, i < 4, rng) for i in range(8)]
    picked = pick(episodes)
    assert picked["won"].won and not picked["lost"].won
    assert len({id(e) for e in picked.values()}) == 3
    rest = [e for e in episodes if e is not picked["won"] and e is not picked["lost"]]
    most = max(sum(t.switch for t in e.turns) for e in rest)
    assert sum(t.switch for t in picked["most switches"].turns) == most
    assert list(pick(episodes[:1])) == ["won"]
    assert list(pick(episodes[:2])) == ["won", "most switches"]
    assert pick([]) == {}


def test_a_replayed_turn_shows_its_decision_reward_and_credit():
    rng = fake_run.np.random.default_rng(0)
    episode = fake_run._episode(0, True, rng)
    credit = {
        "shaped_reward": [0.25] * 7,
        "advantage_low": [0.5, -1.0, 0, 0, 0, 0, 0],
        "advantage_high": [2.0, 9.0, 0, 0, 0, 0, 0],
        "advantage_switch": [-4.0, 0, 0, 0, 0, 0, 0],
    }
    episode = dataclasses.replace(
        episode, credit=credit | {"advantage_high": [2.0] * 7}
    )
    source = episode_page(episode, title="Won")
    page, first = Page(source), source.split("<li")[1]
    for expected in ("SWITCH", "find a mug", "› go to countertop 1", "0 → 0.25 shaped"):
        assert expected in html.unescape(first)
    # The longest bar fills its half; others go by it, to the side of their sign.
    assert '<i class="minus" style="width:50.0%">' in first
    assert '<i class="plus" style="width:25.0%">' in first
    assert '<i class="plus" style="width:6.2%">' in first
    second = source.split("<li")[2]
    assert "KEEP" in second and "badly formed" in second
    assert "subgoal</span>" not in second  # a segment's second turn: no planner credit
    assert page.text.startswith("Won in 7 turns, 4 subgoals")
    bare = episode_page(dataclasses.replace(episode, credit=None), title="Won")
    assert "shaped" not in bare and Page(bare).count("bar") == 0


def test_numbers_are_short_and_never_minus_zero():
    assert [number(x) for x in (0.0, -0.0001, -0.5, 10.0, 1.23456)] == [
        "0",
        "0",
        "−0.5",
        "10",
        "1.235",
    ]


def test_a_run_that_stopped_early_says_so(tmp_path):
    run = fake_run.make_run(tmp_path / "r", iterations=2, planned=25, finished=False)
    page = Page(write_report(run).read_text())
    assert "has done 2 of 25 iterations: it was stopped early" in page.text
    assert "no evaluation after training" in page.text
    assert "not evaluated" in page.text
    assert page.count("note") == 1


def test_a_run_that_did_nothing_yet_still_has_a_report(tmp_path):
    page = Page(write_report(tmp_path).read_text())
    assert "config.json is missing" in page.text
    assert "No iteration was finished" in page.text
    assert not [tag for tag, _ in page.elements if tag in ("img", "svg", "script")]
    with pytest.raises(FileNotFoundError, match="there is no run"):
        write_report(tmp_path / "nowhere")


def test_equal_runs_make_equal_pictures(run):
    names = ("step", "rollout/success", "loss/kl")
    metrics = [
        {name: record[name] for name in names}
        for record in workdir.read_lines(run / "metrics.jsonl")
    ]
    first, second = (curves.draw(metrics[:3], [], {}) for _ in range(2))
    assert first == second and [p.name for p in first] == ["success", "kl"]
    other = curves.draw(metrics[:1], [], {})
    assert all(a.svg != b.svg for a, b in zip(first, other, strict=True))
    assert curves.draw([{"step": 1, "loss/kl": None}], [], {}) == []
