"""`hiper eval`: a finished run, a checkpoint or a folder of weights plays games."""

import dataclasses
import pathlib

from hiper_jax import workdir
from hiper_jax._disk import refuse_store
from hiper_jax.experiments import config as configs
from hiper_jax.experiments import games as worlds
from hiper_jax.experiments import progress, setup, starts
from hiper_jax.experiments.folder import settings_of
from hiper_jax.experiments.panel import evaluate
from hiper_jax.experiments.recipes import recipe
from hiper_jax.experiments.report.tables import summary
from hiper_jax.networks import assemble, placement
from hiper_jax.networks.acquire import find_model
from hiper_jax.networks.agent import load_agent, read_agent


def evaluate_checkpoint(
    checkpoint: str,
    *,
    split: str,
    episodes: int,
    temperature: float,
    seed: int,
    slots: int,
    data: str,
    out: str,
    preset: str = "quickstart",
    format: str = "plan",
) -> dict:
    """Plays a panel and writes its record.

    Args:
      checkpoint: a run's folder (its newest checkpoint, or its final model), or a
        folder of weights; or the path of either in a store.
      split: of the games; empty: the first that the run itself is examined on.
      episodes: games, spread evenly over the sorted split; 0 plays all.
      temperature: of sampling.
      seed: of sampling.
      slots: environments at once.
      data: folder of games; empty: the run's.
      out: file for the record.
      preset: whose settings a folder of weights is played with; a run has its own.
      format: of a folder of weights' responses, likewise.

    Returns:
      The record.

    Raises:
      FileNotFoundError, ValueError: nothing there, or of another shape.
    """
    refuse_store(out)
    usual = recipe(preset)
    if format == "flat":
        reading = dataclasses.replace(usual.reading, format="flat")
        usual = configs.with_estimator(usual, "gae_turn")
        usual = dataclasses.replace(usual, reading=reading)
    folder = workdir.here_if_run(checkpoint) or find_model(checkpoint)
    config, agent, actor, step = _found(folder, usual)
    world = dataclasses.replace(config.world, data=data or config.world.data)
    worlds.check_data(world)
    split = split or next(iter(worlds.panels(world, 1, 1)))
    worlds.games_folder(world)
    listed = worlds.manifest(world, split)
    games = worlds.evenly_spaced(listed.ids, episodes or len(listed.ids))
    sizes = {"episodes": config.siblings, "slots": slots}
    sizes["waves"] = min(config.waves, slots)
    config = dataclasses.replace(config, world=world, **sizes)
    shapes = setup.run_shapes(config)
    make_policy = setup.sampler_of(agent, config.reading, shapes)
    reader = setup.reader_of(agent, config.reading, world.environment)
    with worlds.open_pool(world, slots) as pool:
        record = evaluate(
            pool,
            make_policy,
            actor,
            games,
            reader,
            tag="eval",
            split=split,
            step=step,
            temperature=temperature,
            seed=seed,
            max_turns=world.turns,
            manifest_hash=listed.hash,
            waves=setup.waves_of(config),
            strategic=config.writes_strategies,
            on_turn=progress.bar(f"evaluating {split}"),
            on_drop=progress.print_dropped,
        )
    file = pathlib.Path(out or f"eval-{split}.json")
    workdir.write_json(file, record)
    print(f"{summary(record)}, after {step} updates")
    print(f"record: {file}")
    return record


def _found(folder: pathlib.Path, config: configs.Train):
    """Settings, agent, the actor's weights and the updates behind them, of a folder."""
    if (folder / "metrics.jsonl").is_file() or (folder / "checkpoints").is_dir():
        config = settings_of(folder, config)
        agent, state = newest(folder, config)
        return config, agent, assemble.policy(agent, state), int(state.step)
    if (folder / "config.json").is_file():
        agent, actor, _ = load_agent(folder)
        return config, agent, actor, 0
    raise FileNotFoundError(
        f"{folder} is neither a run nor a folder of weights: there is no "
        "config.json in it"
    )


def newest(run: pathlib.Path, config: configs.Train):
    """The agent of a run, and its newest state: of the arrays what sampling needs.

    Neither critic nor optimizers are read; their leaves are shapes without arrays.
    """
    agent = read_agent(starts.start_of(config), **setup.agent_settings(config))
    like = placement.abstract_state(agent, setup.build(config, agent).init)
    # Adapters stand on the reference.
    parts = ("step", "actor", "reference") if agent.rank else ("step", "actor")
    state, _ = workdir.restore_newest(run, like, only=parts, set_aside=False, say=print)
    return agent, state
