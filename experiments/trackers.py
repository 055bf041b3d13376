"""Further places for the metrics of a run: Weights & Biases, trackio.

TensorBoard's files are always written. A tracker's run has an id, which lies in the
run's folder: a resumed run goes on in the same one. What is logged again after a resume
are the same numbers for the same steps.
"""

import dataclasses
import importlib
import json
import math
import os
import pathlib
import secrets
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from hiper_jax import workdir
from hiper_jax.experiments.config import Train

FILE = "trackers.json"  # in the run's folder


class Place(NamedTuple):
    """A tracker's open run."""

    log: Callable[[dict[str, float], int], Any]  # (metrics, step)
    finish: Callable[[], Any]


class Trackers:
    """All that a run logs to, beside its own files; a context that ends them."""

    def __init__(self, places: list[Place]):
        self.places = places

    def __call__(self, step: int, metrics: Mapping[str, Any]) -> None:
        """Logs one iteration's numbers, those that are finite."""
        shown = {name: float(value) for name, value in metrics.items()}
        shown = {name: value for name, value in shown.items() if math.isfinite(value)}
        for place in self.places:
            place.log(shown, step)

    def __enter__(self) -> "Trackers":
        return self

    def __exit__(self, *failure: object) -> None:
        for place in self.places:
            place.finish()


def start(config: Train, name: str, run: pathlib.Path) -> Trackers:
    """Opens what the settings ask for.

    Args:
      config: of the run.
      name: of the preset.
      run: the run's folder.

    Raises:
      ValueError: a package is missing, or a tracker refuses.
    """
    asked = [(config.wandb, "wandb", _wandb), (config.trackio, "trackio", _trackio)]
    asked = [(package, begin) for wanted, package, begin in asked if wanted]
    modules = [(_module(package), begin) for package, begin in asked]
    if not modules:
        return Trackers([])
    known = _identity(run)
    return Trackers([begin(m, config, name, run, known) for m, begin in modules])


def _identity(run: pathlib.Path) -> str:
    """The id of a run that goes on, or a new one, which is written down."""
    if workdir.latest_step(run) is not None:
        try:
            known = json.loads((run / FILE).read_bytes())["id"]
            if isinstance(known, str) and known.isalnum():
                return known
        except (OSError, ValueError, LookupError, TypeError):
            pass  # it began without trackers
    known = secrets.token_hex(4)
    workdir.write_json(run / FILE, {"id": known})
    return known


def _wandb(wandb: Any, config: Train, name: str, run: pathlib.Path, known: str):
    # Offline there is nothing to be asked whether the run exists.
    offline = os.environ.get("WANDB_MODE") in ("offline", "disabled")
    try:
        session = wandb.init(
            project=config.project,
            name=f"{name}-{config.seed}",
            id=known,
            resume=None if offline else "allow",
            dir=str(run),
            config=dataclasses.asdict(config),
        )
    except wandb.errors.Error as error:
        raise ValueError(
            f"--wandb: {error}; log in with `wandb login` or set WANDB_MODE=offline"
        ) from None
    return Place(lambda metrics, step: session.log(metrics, step=step), session.finish)


def _trackio(trackio: Any, config: Train, name: str, run: pathlib.Path, known: str):
    try:
        trackio.init(
            project=config.project,
            name=f"{name}-{config.seed}-{known}",
            resume="allow",
            config=json.loads(json.dumps(dataclasses.asdict(config))),
            auto_log_cpu=False,
            auto_log_gpu=False,
        )
    except (ValueError, OSError, RuntimeError) as error:
        raise ValueError(f"--trackio: {error}") from None
    return Place(lambda metrics, step: trackio.log(metrics, step=step), trackio.finish)


def _module(package: str) -> Any:
    try:
        return importlib.import_module(package)
    except ImportError:
        raise ValueError(
            f"--{package} needs the extra: pip install 'hiper-jax[{package}]'"
        ) from None
