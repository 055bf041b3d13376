"""Runs of two iterations by a tiny agent, in whichever world."""

import dataclasses
import json
import pathlib

import small

from hiper_jax import workdir
from hiper_jax.act.envs.world import WorldSettings, settings_for
from hiper_jax.act.envs.worlds import webshop
from hiper_jax.act.episode import Episode
from hiper_jax.experiments import config as configs
from hiper_jax.experiments import games
from hiper_jax.experiments.train import train
from hiper_jax.networks.agent import save_agent

# A warm start that is made at once, and knows next to nothing.
WARM_START = {
    "practice_worlds": 1,
    "steps": 3,
    "batch": 8,
    "width": 32,
    "mlp_width": 48,
    "depth": 2,
    "critic_depth": 1,
}


def saved(folder: pathlib.Path) -> pathlib.Path:
    """Writes the tiny agent with its tokenizer into a folder; returns the model's."""
    agent, actor, critic = small.agent()
    source = folder / "tokenizer"
    source.mkdir()
    text = agent.codec.tokenizer.backend_tokenizer.to_str()
    (source / "tokenizer.json").write_text(text)
    names = {"eos_token": "<|im_end|>", "pad_token": "<|pad|>"}
    names["tokenizer_class"] = "PreTrainedTokenizerFast"
    (source / "tokenizer_config.json").write_text(json.dumps(names))
    save_agent(folder / "model", agent, actor, critic, tokenizer=source)
    return folder / "model"


def settings(folder: pathlib.Path, world: WorldSettings, **changes) -> configs.Train:
    """Two iterations of a tiny agent, which is written into the folder, in a world."""
    usual = configs.Train(
        model=str(saved(folder)),
        world=world,
        reading=configs.Reading(max_prompt=220, max_response=12),
        learn=configs.Learn(minibatch=8, chunk=4),
        num_updates=2,
        episodes=4,
        slots=4,
        eval_episodes=4,
    )
    return dataclasses.replace(usual, **changes)


def shop(folder: pathlib.Path) -> WorldSettings:
    """A small shop in the folder, and goals to play in it."""
    made = webshop.WebShopSettings(
        shop=webshop.ShopSettings(products=30),
        cache=str(folder / "games"),
        max_turns=4,
        workers=1,
    )
    games.games_folder(made, say=lambda line: None)
    return made


def levels(folder: pathlib.Path, **changes) -> WorldSettings:
    """A few drawn levels of Sokoban, kept in the folder."""
    known = {"levels": 8, "unseen": 4, "cache": str(folder / "games")}
    return settings_for("sokoban", **known | changes)


def trained_twice(folder: pathlib.Path, world: WorldSettings) -> pathlib.Path:
    """Trains by `settings`; returns the run's folder."""
    return train(settings(folder, world, out=str(folder / "run")), "test")


def of_any_estimator(folder: pathlib.Path) -> configs.Train:
    """A tiny agent in drawn Sokoban levels: two tasks of two trajectories each.

    Whoever trains by these settings shares what is compiled.
    """
    return settings(
        folder,
        levels(folder, max_turns=3),
        learn=configs.Learn(minibatch=8, chunk=4, gamma=0.9),
        samples=2,
        redraw=1,
        checkpoint_every=1,
        critic_first=1,
        actor_lr=1e-3,
    )


def check_run(run: pathlib.Path, split: str = "valid_unseen") -> list[Episode]:
    """What two iterations leave behind; returns the episodes of the last."""
    lines = workdir.read_lines(run / "metrics.jsonl")
    assert [line["step"] for line in lines] == [1, 2]
    assert not any("not_finite" in line for line in lines)
    for tag in ("before", "after"):
        record = json.loads((run / "eval" / f"{tag}-{split}.json").read_text())
        assert len(record["episodes"]) == 4
    assert "<html" in (run / "report.html").read_text()
    return list(workdir.read_episodes(run / "episodes" / "000002.jsonl.gz"))


def panel(episodes: int, out) -> dict:
    """What `evaluate_checkpoint` is asked for a few games of the unseen split."""
    asked = {"split": "valid_unseen", "temperature": 0.4, "seed": 0, "slots": 4}
    return asked | {"episodes": episodes, "data": "", "out": str(out)}
