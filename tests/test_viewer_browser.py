"""The report in a real browser: quick, whole, safe, on a phone and on a desk."""

import shutil

import browser
import fake_run
import numpy as np
import pytest
from test_viewer import SHOWN, nasty_run

from hiper_jax import workdir
from hiper_jax.experiments.report import viewer
from hiper_jax.experiments.report.report import write_report

pytestmark = pytest.mark.skipif(browser.CHROMIUM is None, reason="needs chromium")
READY = "document.getElementById('viewer').dataset.ready"
SIZES = pytest.mark.parametrize("width", [390, 1280])
THEMES = pytest.mark.parametrize("dark", [False, True])


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    opened = browser.Page(tmp_path_factory.mktemp("browser"))
    yield opened
    opened.close()


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """30 iterations of 64 episodes of about 20 turns, by the small warm start."""
    run = fake_run.make_run(
        tmp_path_factory.mktemp("runs") / "whole", iterations=30, planned=30
    )
    rng = np.random.default_rng(0)
    for step in range(1, 31):
        episodes = [fake_run._episode(i % 12, i % 3 > 0, rng) for i in range(64)]
        workdir.write_episodes(run, step, episodes)
    write_report(run)
    return run


@pytest.fixture(scope="module")
def hostile(tmp_path_factory):
    run = nasty_run(tmp_path_factory.mktemp("hostile") / "run")
    write_report(run)
    return run


def opened(page, run, **how):
    page.errors.clear()
    page.open((run / "report.html").as_uri(), **how)
    took = float(page.wait_for(READY))
    assert page.errors == []
    return took


@SIZES
@THEMES
def test_a_whole_run_opens_in_two_seconds_and_fits_its_window(page, run, width, dark):
    assert (run / "report.html").stat().st_size < 5_000_000
    assert opened(page, run, width=width, dark=dark) < 2000  # ms from the start
    assert page.value("document.title") == "quickstart, seed 0"
    assert page.value("document.querySelector('[role=status]').textContent") == (
        "1920 of 1920 episodes"
    )
    page.value("document.querySelectorAll('details').forEach(d => d.open = true)")
    page.wait_for("document.querySelector('.shown .token')")
    assert page.value("document.documentElement.scrollWidth") <= width
    over = """[...document.querySelectorAll('body *')].filter(e =>
        !e.closest('.scroll, figure svg') &&
        e.getBoundingClientRect().right > document.documentElement.clientWidth + 1
      ).map(e => e.outerHTML.slice(0, 99))"""
    assert page.value(over) == []
    narrow = "document.querySelector('.credit .bar i').getBoundingClientRect().width"
    assert page.value(narrow) > 0
    ground = page.value("getComputedStyle(document.body).backgroundColor")
    assert ground == ("rgb(17, 20, 24)" if dark else "rgb(246, 247, 249)")


def test_landmarks_headings_and_names_are_there(page, run):
    opened(page, run)
    levels = page.value(
        "[...document.querySelectorAll('h1,h2,h3,h4')].map(h => +h.tagName[1])"
    )
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(b <= a + 1 for a, b in zip(levels, levels[1:], strict=False))
    for name in ("header", "main", "footer", "nav", "section"):
        assert page.value(f"document.querySelectorAll('{name}').length") == 1
    nameless = """[...document.querySelectorAll('select, input, button, svg[role]')]
      .filter(e => !(e.labels?.length || e.textContent.trim() && e.matches('button') ||
        e.getAttribute('aria-label'))).length"""
    assert page.value(nameless) == 0


def test_filters_keep_what_they_say(page, run):
    opened(page, run)
    every = [
        (step, e)
        for step, file in workdir.episode_files(run).items()
        for e in workdir.read_episodes(file)
    ]

    def asked(**values):
        page.value("document.querySelector('.filters').reset()")
        for name, value in values.items():
            prop = "checked" if value is True else "value"
            shown = "true" if value is True else f"'{value}'"
            page.value(f"document.getElementById('f-{name}').{prop} = {shown}")
        page.value(
            "document.querySelector('.filters').dispatchEvent(new Event('input'))"
        )
        status = page.value("document.querySelector('[role=status]').textContent")
        return int(status.split()[0])

    def counted(keep):
        return sum(keep(step, e) for step, e in every)

    assert asked(won="0") == counted(lambda step, e: not e.won)
    assert asked(step="7", won="1") == counted(lambda step, e: step == 7 and e.won)
    assert asked(least="15", most="18") == counted(
        lambda step, e: 15 <= len(e.turns) <= 18
    )
    assert asked(switches="9") == counted(
        lambda step, e: sum(t.switch for t in e.turns[1:]) >= 9
    )
    refused = counted(lambda step, e: not all(t.action_valid for t in e.turns))
    assert asked(refused=True) == refused < len(every)
    assert asked(cut=True) == 0 and asked(type=fake_run.TYPES[2]) == len(every)
    assert asked(order="long") == len(every)
    longest = max(len(e.turns) for _, e in every)
    first = page.value("document.querySelector('.list button').textContent")
    assert f" in {longest}," in first


def test_an_episode_is_shown_token_by_token(page, run):
    opened(page, run)
    page.value("document.getElementById('f-step').value = '3'")
    page.value("document.querySelector('.filters').dispatchEvent(new Event('input'))")
    page.value("document.querySelectorAll('.list button')[1].click()")
    title = page.wait_for(
        "(t => t.startsWith('Iteration 3, episode 2') && t)"
        "(document.querySelector('.shown h3').textContent)"
    )
    episode = list(workdir.read_episodes(workdir.episode_files(run)[3]))[1]
    assert f"{'won' if episode.won else 'not won'} in {len(episode.turns)}" in title
    turns = "document.querySelectorAll('.shown .turn')"
    assert page.value(f"{turns}.length") == len(episode.turns)
    page.value(f"{turns}[0].querySelector('details').open = true")
    page.wait_for("document.querySelector('.shown .token')")
    seen = page.value(f"{turns}[0].querySelector('.seen').textContent")
    assert seen == episode.turns[0].observation
    tokens = f"{turns}[0].querySelectorAll('.token')"
    assert page.value(f"{tokens}.length") == len(episode.turns[0].response)
    page.value(f"{tokens}[4].click()")
    told = page.value("document.querySelector('.told').textContent")
    assert told.startswith("token 5 of 20, id 4: log-prob −0.25, probability 77.9 %")
    page.value("document.querySelector('[value=mask]').click()")
    assert page.value("document.querySelector('.shown').dataset.colour") == "mask"
    page.value("document.querySelectorAll('.steps button')[1].click()")
    page.wait_for(
        "document.querySelector('.shown h3').textContent.includes('episode 3')"
    )
    assert page.value("document.activeElement.tagName") == "H3"


def test_a_chart_tells_its_values_under_the_pointer(page, run):
    opened(page, run)
    stop = "document.querySelectorAll('figure .stop')[20]"
    page.value(f"{stop}.scrollIntoView({{block: 'center'}})")
    tip = f"getComputedStyle({stop}.querySelector('.tip')).visibility"
    assert page.value(tip) == "hidden"
    x, y = page.value(
        f"(r => [r.x + r.width / 2, r.y + 40])"
        f"({stop}.querySelector('rect').getBoundingClientRect())"
    )
    page.call("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)
    page.wait_for(f"{tip} === 'visible'")


def test_without_a_script_charts_and_picked_episodes_are_there(page, run):
    page.open((run / "report.html").as_uri(), width=390, script=False)
    page.call("Emulation.setScriptExecutionDisabled", value=False)
    assert page.value("document.getElementById('viewer').hidden")
    assert page.value("document.querySelectorAll('#picked details.fold').length") == 6
    assert page.value("document.querySelectorAll('figure svg[role=img]').length") == 10
    assert page.value("document.documentElement.scrollWidth") <= 390


def test_a_policy_that_forbids_scripts_and_styles_leaves_a_page(page, run, tmp_path):
    source = (run / "report.html").read_text()
    strict = (
        '<meta http-equiv="Content-Security-Policy" content="default-src \'none\'">'
    )
    file = tmp_path / "strict.html"
    file.write_text(source.replace("<head>", f"<head>{strict}"))
    page.open(file.as_uri())
    assert page.value("document.getElementById('viewer').hidden")
    svg = "document.querySelector('figure svg[role=img]')"
    assert page.value(f"{svg}.getBoundingClientRect().width") == 420
    assert page.value(f"getComputedStyle({svg}.querySelector('.tip')).visibility") == (
        "hidden"
    )
    assert page.value(
        f"getComputedStyle({svg}.querySelector('path[stroke-width=\"2\"]')).stroke"
    ) == ("rgb(46, 121, 245)")


@pytest.mark.parametrize("beside", [False, True])
def test_hostile_texts_are_shown_and_not_run(
    page, hostile, tmp_path, monkeypatch, beside
):
    run = hostile
    if beside:  # the blocks are files, which a page from a disk may not fetch
        run = tmp_path / "run"
        shutil.copytree(hostile, run)
        monkeypatch.setattr(viewer, "MOST", 0)
        write_report(run)
        assert (run / "report" / "2.js").is_file()
    opened(page, run, width=390)
    page.value("document.querySelectorAll('details').forEach(d => d.open = true)")
    page.wait_for("document.querySelector('.shown .token')")
    assert page.value("document.title") == "quickstart, seed 0"
    assert (
        page.value("document.querySelectorAll('.shown script, .list script').length")
        == 0
    )
    for place in (".seen", ".strip span", ".head span:nth-child(3)", "p"):
        said = page.value(f"document.querySelector('.shown {place}').textContent")
        assert said == SHOWN, place
    shown = page.value("document.querySelector('.shown').textContent")
    assert f"strategy {SHOWN} candidate 2" in shown
    last = "document.querySelector('.shown .tag:last-child').textContent"
    assert page.value(last) == "judged useless"
    prompt = page.value(
        "document.querySelectorAll('.shown details pre')[2].textContent"
    )
    assert prompt == f"{SHOWN}é<|im_end|>"
    assert SHOWN in page.value("document.querySelector('.list').textContent")
    assert SHOWN in page.value("document.getElementById('f-type').textContent")
    assert page.value("document.documentElement.scrollWidth") <= 390
    assert page.errors == []


def test_a_block_that_is_gone_is_said(page, hostile, tmp_path, monkeypatch):
    run = tmp_path / "run"
    shutil.copytree(hostile, run)
    monkeypatch.setattr(viewer, "MOST", 0)
    write_report(run)
    (run / "report" / "1.js").unlink()
    opened(page, run)
    page.value("document.getElementById('f-step').value = '1'")
    page.value("document.querySelector('.filters').dispatchEvent(new Event('input'))")
    page.value("document.querySelector('.list button').click()")
    page.wait_for("document.querySelector('[role=alert]')")
    said = page.value("document.querySelector('[role=alert]').textContent")
    assert said == "This episode cannot be shown: report/1.js is not there"
