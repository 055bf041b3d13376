"""WebShop on the whole road: its pages as prompts, warm start, training, report."""

import dataclasses
import json
import pathlib
import random

import numpy as np
import pytest
import small
import tiny_runs

from hiper_jax import read_response, workdir
from hiper_jax.act.envs.env import accepts
from hiper_jax.act.envs.world import DEFAULT, load_world, settings_for
from hiper_jax.act.envs.worlds import webshop
from hiper_jax.act.envs.worlds.webshop.make import make_shop
from hiper_jax.act.rollout import Sampled, make_reader, rollout
from hiper_jax.experiments import config as configs
from hiper_jax.experiments import games as worlds
from hiper_jax.experiments import progress as watch
from hiper_jax.experiments import starts
from hiper_jax.experiments.cli import main
from hiper_jax.experiments.eval import evaluate_checkpoint
from hiper_jax.experiments.recipes import recipe, shared
from hiper_jax.experiments.report import tables
from hiper_jax.experiments.report.report import write_report
from hiper_jax.experiments.settings import replaced
from hiper_jax.experiments.train import train
from hiper_jax.experiments.warmstart import demonstrations
from hiper_jax.experiments.warmstart.settings import start
from hiper_jax.experiments.warmstart.warmstart import warmstart
from hiper_jax.networks.agent import load_agent


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("webshop")


@pytest.fixture(scope="module")
def world(folder):
    return tiny_runs.shop(folder)


# --- prompts -------------------------------------------------------------------------


def test_a_search_is_admissible_where_there_is_a_search_bar():
    with_bar = ["search[<your query>]", "click[buy now]"]
    assert accepts(with_bar, "search[red shoes]")
    assert accepts(with_bar, "click[buy now]")
    assert not accepts(with_bar, "search[]")
    assert not accepts(with_bar, "search[red")
    assert not accepts(with_bar, "click[red]")
    assert not accepts(["click[<your>]", "click[buy now]"], "search[red shoes]")
    assert not accepts(["click[size <5>]"], "click[size 6]")


def test_shortened_prompts_and_scores_are_counted_in_a_rollout(world):
    """An agent that only searches, on a budget no page of results fits in."""
    codec = small.codec()
    games = worlds.manifest(world, "train").ids[:2]

    def search(prompts, index, turn):
        assert all(len(prompt) <= 150 for prompt in prompts)
        said = small.RESPONSE.format("SWITCH", "look around", "search[free]")
        ids = np.array(codec.encode_response(said), np.int32)
        return Sampled([ids] * len(prompts), [np.zeros(len(ids))] * len(prompts))

    reader = make_reader(load_world("webshop"), codec, style="terse", max_prompt=150)
    with worlds.open_pool(world, 2) as pool:
        episodes, _ = rollout(pool, search, games, reader, max_turns=3)
    metrics = watch.rollout_metrics(episodes)
    assert metrics["rollout/score"] == 0.0
    # The first page is short; the two pages of results are not.
    assert metrics["rollout/shortened_prompts"] >= 2 / 3
    assert [t.action_valid for t in episodes[0].turns] == [True, False, False]


# --- worlds --------------------------------------------------------------------------


def test_splits_are_disjoint_and_named_for_a_run(world):
    train_goals = worlds.manifest(world, "train")
    valid_goals = worlds.manifest(world, "valid")
    assert not set(train_goals.ids) & set(valid_goals.ids)
    assert train_goals.hash != valid_goals.hash
    assert worlds.panels(world, 7, 3) == {"valid": 7}
    assert worlds.panels(settings_for(DEFAULT), 7, 0) == {"valid_unseen": 7}


def test_the_settings_of_a_shop_reach_its_environments(world):
    people = dataclasses.replace(world, shop=webshop.ShopSettings(30, human_goals=True))
    place = worlds.games_folder(people)
    goals = worlds.manifest(people, "train").ids
    assert set(goals) != set(worlds.manifest(world, "train").ids)
    env = worlds.make_env(dataclasses.replace(people, reward=3.0))()
    shop = webshop.load(place, human_goals=True)
    for goal in goals:
        assert env.reset(goal)[1]["task"] == shop.goal(goal)["instruction_text"]


def test_an_old_runs_settings_still_load():
    """Once the settings of all worlds stood in one class."""
    for name in ("quickstart", "webshop-quickstart"):
        wanted = recipe(name)
        old = dataclasses.asdict(wanted)
        both = dataclasses.asdict(settings_for("alfworld"))
        both |= dataclasses.asdict(settings_for("webshop")) | old["world"]
        for world in (both, old["world"]):
            read = old | {"world": worlds.recorded(world)}
            assert replaced(configs.Train(), read) == wanted


# --- warm start ----------------------------------------------------------------------


@pytest.fixture(scope="module")
def begun(folder, world):
    """A hardly trained agent with the warm start's own tokenizer."""
    config = dataclasses.replace(
        start("webshop"),
        out=str(folder / "start"),
        world=world,
        vocab_size=450,
        **tiny_runs.WARM_START,
        critic_rounds=0,  # fitted in test_warmstart
    )
    return config, warmstart(config)


def test_a_demonstration_reads_back_as_the_experts_move(world):
    games = worlds.manifest(world, "train").ids
    demos = list(
        demonstrations.play(
            games[:5],
            dataclasses.replace(world, max_turns=15),
            noise=0.0,
            seed=0,
            workers=1,
        )
    )
    assert any(demo.won for demo in demos)
    assert [demo.task for demo in demos] == list(games[:5])
    unhurried, hurried = (
        [said(demo, haste) for demo in demos if demo.won] for haste in (0.0, 1.0)
    )
    for demo in unhurried:
        assert [r.action for r, _ in demo].index("click[buy now]") == len(demo) - 1
    # In haste the first page of a product is bought from, whatever it shows.
    for demo in hurried:
        for reply, step in demo:
            can = "click[buy now]" in step.admissible_actions
            assert (reply.action == "click[buy now]") == can
            assert (reply.subgoal == "buy") == can
            assert reply.valid
    assert sum(r.subgoal == "buy" for demo in hurried for r, _ in demo) > len(hurried)


def said(demo, haste: float):
    """What a demonstration teaches, read back, and where."""
    rows = demonstrations.texts(
        demo,
        load_world("webshop"),
        style="terse",
        mistakes=0.0,
        haste=haste,
        rng=random.Random(0),
    )
    return [
        (read_response(response), step)
        for (_, response), step in zip(rows, demo.steps, strict=True)
    ]


def test_a_products_code_is_one_token(world, begun):
    agent, _, _ = load_agent(begun[1])
    codes = load_world("webshop").lesson.names(world)
    assert len(codes) == 30
    for code in codes:
        ids = agent.codec.encode_prompt(f"\n{code}\n")
        assert agent.codec.decode(ids) == f"\n{code}\n"
        assert agent.codec.tokenizer.convert_tokens_to_ids(code) in ids
    assert agent.config.vocab_size == agent.codec.vocab_size <= 450


def test_the_warm_start_that_comes_with_us_fits_its_shop():
    folder = starts.start_of(recipe("webshop-quickstart"))
    agent, _, _ = load_agent(folder)
    size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    assert size < 8e6
    assert agent.config.vocab_size == agent.codec.vocab_size
    assert starts.start_of(recipe("quickstart")) == starts.WARM_START


def test_a_warm_start_for_another_world_is_refused():
    with pytest.raises(ValueError, match="alfworld, sokoban, webshop"):
        start("chess")


# --- training ------------------------------------------------------------------------


@pytest.fixture(scope="module")
def run(folder, world, begun) -> pathlib.Path:
    config = configs.Train(
        model=str(begun[1]),
        world=world,
        reading=configs.Reading(max_prompt=220, max_response=12),
        learn=dataclasses.replace(shared.OURS, minibatch=8, chunk=4),
        num_updates=2,
        episodes=4,
        slots=4,
        eval_episodes=4,
        out=str(folder / "run"),
    )
    return train(config, "test")


def test_a_run_in_a_shop_leaves_everything_behind(run):
    metrics = workdir.read_lines(run / "metrics.jsonl")
    assert [line["step"] for line in metrics] == [1, 2]
    for line in metrics:
        assert "not_finite" not in line, line
        assert 0 <= line["rollout/score"] <= 1
        assert "rollout/shortened_prompts" in line
    for tag in ("before", "after"):
        record = json.loads((run / "eval" / f"{tag}-valid.json").read_text())
        assert len(record["episodes"]) == 4
        assert all("score" in episode for episode in record["episodes"])
    assert "<html" in (run / "report.html").read_text()
    assert write_report(run) == run / "report.html"


def test_eval_plays_the_validation_goals_of_a_run(run, tmp_path, capsys):
    record = evaluate_checkpoint(
        str(run),
        split="",
        episodes=0,
        temperature=0.4,
        seed=0,
        slots=4,
        data="",
        out=str(tmp_path / "eval.json"),
    )
    assert record["split"] == "valid" and record["step"] == 2
    games = {episode["game"] for episode in record["episodes"]}
    assert len(games) == len(record["episodes"]) > 4
    assert "won" in capsys.readouterr().out


def test_tables_show_the_mean_score_where_games_are_won_in_part():
    def record(*scores):
        episodes = [
            {"game": str(i), "task_type": "food", "won": s == 1.0, "score": s}
            for i, s in enumerate(scores)
        ]
        return {"split": "valid", "manifest": "m", "episodes": episodes}

    part, whole = record(0.5, 1.0, 0.0, 0.25), record(1.0, 1.0, 0.0, 0.0)
    rows = tables.success_table({"valid": whole}, {"valid": part})
    assert rows[0].before.score is None
    assert rows[0].after.score == 0.4375
    assert str(rows[0].after).endswith("1/4 score 0.438")
    assert tables.to_records(rows)[0]["after_score"] == 0.4375
    assert tables.summary(part).endswith("mean score 0.438")
    assert "score" not in tables.summary(whole)


# --- mistakes ------------------------------------------------------------------------


def fails(capsys, *words) -> str:
    with pytest.raises(SystemExit) as stop:
        main(list(words))
    assert stop.value.code == 2
    said = capsys.readouterr().err
    assert len(said.strip().splitlines()) == 1 and "Traceback" not in said, said
    return said


def test_missing_shop_files_are_named(capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("WEBSHOP_DATA", raising=False)
    said = fails(capsys, "train", "webshop-1.5b")
    assert "WEBSHOP_DATA" in said and "items_ins_v2" in said
    (tmp_path / "empty").mkdir()
    said = fails(capsys, "train", "webshop-1.5b", "--world.data", "empty")
    assert "items_shuffle" in said and "empty" in said
    assert not (tmp_path / "runs").exists()  # nothing was begun
    make_shop(tmp_path / "shop", products=5, seed=0)
    (tmp_path / "shop" / "items_human_ins.json").unlink()
    flags = ("--world.data", "shop", "--world.shop.human-goals")
    assert "items_human_ins" in fails(capsys, "train", "webshop-quickstart", *flags)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"world": {"environment": "chess"}}, "alfworld, sokoban, webshop"),
        ({"world": {"shop": {"protocol": "mine"}}}, "canonical or paper"),
        (
            {"world": {"shop": {"products": 0}}},
            "must be a whole number from 1 to 10000000",
        ),
    ],
)
def test_a_wrong_shop_is_said_before_anything_starts(
    capsys, monkeypatch, tmp_path, settings, words
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "wrong.json").write_text(json.dumps(settings))
    said = fails(capsys, "train", "webshop-quickstart", "--config", "wrong.json")
    assert words in said


def test_an_unknown_split_of_a_shop_is_said(capsys, run):
    said = fails(capsys, "eval", str(run), "--split", "valid_unseen")
    assert "train, valid" in said
