"""A shop's pages as prompts."""

import pytest
import small
import tiny_runs

from hiper_jax.act.envs.world import load_world
from hiper_jax.act.prompt import build_prompt, fit_prompt
from hiper_jax.experiments import games as worlds


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return tiny_runs.shop(tmp_path_factory.mktemp("webshop"))


def test_a_terse_page_is_its_texts_without_the_instruction():
    actions = ["click[back to search]", "click[b0x]", "click[red]"]
    text = build_prompt(
        "Find me Tea",
        [("WebShop [SEP] Instruction: [SEP] Find me Tea [SEP] Search", "search[tea]")],
        "Instruction: [SEP] Find me Tea [SEP] Back to Search [SEP] B0X [SEP] $3.5",
        "find tea",
        actions,
        environment="webshop",
        style="terse",
    )
    assert text == (
        "task: find me tea\ndid: search[tea]\nnow: back to search\nb0x\n$3.5\n"
        "subgoal: find tea\n"
    )


def test_a_terse_page_names_all_that_can_be_clicked(page):
    task, observation, actions = page
    text = build_prompt(
        task, [], observation, "", actions, environment="webshop", style="terse"
    )
    lines = text.splitlines()
    lines = [line.removeprefix("now: ") for line in lines]
    assert len(actions) > 5
    for action in actions:
        assert action.removeprefix("click[").removesuffix("]") in lines


def test_a_full_page_lists_every_action(page):
    task, observation, actions = page
    text = build_prompt(
        task, [], observation, "", actions, environment="webshop", style="full"
    )
    assert observation in text
    assert all(f"- {action}" in text for action in actions)


@pytest.mark.parametrize("style", ["full", "terse"])
def test_a_long_page_fits_history_first_then_observation(page, style):
    task, observation, actions = page
    encode = small.codec().encode_prompt
    history = [(observation, "click[next >]"), (observation, "click[b0last]")]

    def fit(limit):
        template = load_world("webshop").templates[style]
        return fit_prompt(
            encode,
            limit,
            task,
            history,
            observation,
            "find",
            actions,
            template=template,
        )

    whole = fit(100_000)
    assert not whole.shortened
    without_history = len(
        encode(
            build_prompt(
                task,
                history,
                observation,
                "find",
                actions,
                environment="webshop",
                style=style,
                history_length=0,
            )
        )
    )
    fitted = fit(without_history)
    assert fitted.shortened and "click[b0last]" not in fitted.text
    price = observation.split(" [SEP] ")[-1].lower()
    assert price in fitted.text.lower()  # the page is whole
    for limit in (without_history - 1, 100, 10):
        fitted = fit(limit)
        assert len(fitted.ids) <= limit and fitted.shortened
        assert observation.split(" [SEP] ")[-2].lower() not in fitted.text.lower()


@pytest.fixture(scope="module")
def page(world):
    """A page of results: (task, observation, admissible actions)."""
    env = worlds.make_env(world)()
    goal = worlds.manifest(world, "train").ids[0]
    _, info = env.reset(goal)
    observation, *_, info = env.step("search[gluten free]")
    assert "Next >" in observation
    return info["task"], observation, info["admissible_actions"]
