"""Prompts: what they hold, how they are cut, that nothing is ever too long."""

import pytest

from hiper_jax.act.envs.world import load_world
from hiper_jax.act.prompt import build_prompt, fit_prompt, template_of

FULL = load_world("alfworld").templates["full"]
HISTORY = [("You see a bed 1.", "go to bed 1"), ("A book 1.", "take book 1 from bed 1")]
ACTIONS = ["help", "look", "go to bed 1", "go to desk 2"]


def test_the_full_prompt_holds_everything_and_explains_the_format():
    text = build_prompt("find the book", HISTORY, "Done.", "find book", ACTIONS)
    for part in ("find the book", "You see a bed 1.", "take book 1", "find book"):
        assert part in text
    for tag in ("<switch>", "<subgoal>", "<action>"):
        assert tag in text
    assert "- go to desk 2" in text and "- help" not in text
    assert "Turn 3." in text and "Turn 1." in text


def test_only_the_last_pairs_are_shown():
    pairs = [(f"seen {i}", f"act {i}") for i in range(5)]
    text = build_prompt("t", pairs, "o", "", ["look"], history_length=2)
    assert "seen 3" in text and "seen 4" in text and "seen 2" not in text
    assert "seen" not in build_prompt("t", pairs, "o", "", ["look"], history_length=0)


def test_the_terse_prompt_names_a_verb_once_and_the_task_once():
    text = build_prompt(
        "find it", [], "A room.\n\nYour task is to: find it", "", ACTIONS, style="terse"
    )
    assert text == (
        "task: find it\nnow: A room.\nsubgoal: none\ncan: look; go to bed 1 desk 2\n"
    )


def test_the_number_of_the_turn_can_stand_at_the_head_and_changes_nothing_else():
    for format in ("plan", "flat"):
        world = load_world("alfworld")
        for style in ("full", "terse"):
            args = "find it", HISTORY * 4, "A room.", "", ACTIONS
            plain = template_of(world, style, format)(*args, history_length=2)
            shown = template_of(world, style, format, show_turn=True)
            assert shown(*args, history_length=2) == "turn 9\n" + plain
            assert shown(*args, history_length=0).startswith("turn 9\n")


def test_an_unknown_style_is_refused():
    with pytest.raises(ValueError, match="'full', 'terse'"):
        build_prompt("t", [], "o", "", [], style="loud")


@pytest.mark.parametrize("limit", [200, 40, 20, 8, 3, 1])
def test_a_prompt_always_fits_history_first_then_observation(limit):
    def encode(text):
        return [ord(c) for c in text.split(" ")[0][:1]] * len(text.split())

    fitted = fit_prompt(
        encode,
        limit,
        "task",
        HISTORY * 4,
        "word " * 60,
        "plan",
        ACTIONS * 5,
        template=FULL,
    )
    assert len(fitted.ids) <= limit
    assert fitted.shortened


def test_a_prompt_that_fits_is_left_alone():
    fitted = fit_prompt(
        list, 10_000, "task", HISTORY, "seen", "plan", ACTIONS, template=FULL
    )
    assert not fitted.shortened
    assert fitted.text == build_prompt("task", HISTORY, "seen", "plan", ACTIONS)


def test_history_goes_before_the_observation():
    whole = build_prompt("task", HISTORY, "the observation", "plan", ACTIONS)
    fitted = fit_prompt(
        list,
        len(whole) - 5,
        "task",
        HISTORY,
        "the observation",
        "plan",
        ACTIONS,
        template=FULL,
    )
    assert "the observation" in fitted.text
    assert "You see a bed 1." not in fitted.text
    assert "A book 1." in fitted.text
