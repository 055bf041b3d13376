"""The `hiper` command: each subcommand is a dataclass of flags and a function."""

import dataclasses
import os
import pathlib
import sys
from collections.abc import Callable, Sequence
from typing import Any

USAGE = """\
usage: hiper COMMAND [flags]        hiper COMMAND --help explains every flag

  train PRESET         train an agent; presets: {presets}
  eval CHECKPOINT      play a fixed panel of games with a trained agent
  play GAME            play a game yourself, in the terminal; or SHOP [GOAL]
  report RUN           write report.html of a run
  games make           make ALFWorld games on disk
  shop make            make a small WebShop on disk
  models import GGUF   turn a GGUF file into a Hugging Face directory
  warmstart [webshop]  make the small agent that a quickstart starts from
  bench NAME           measure; names: {benches}
  plan                 count the memory of training, and what would make it fit
  compile              compile training for a TPU slice that is not there
  variance             the variance of HAE's gradient, exactly and by sampling
"""


@dataclasses.dataclass(frozen=True)
class Eval:
    """Plays a fixed panel of games, each once."""

    split: str = ""
    """train, valid_seen or valid_unseen; of a shop train or valid. Empty: valid_unseen
    or valid."""
    episodes: int = 0
    """Games; 0 plays all of the split."""
    temperature: float = 0.4
    """Of sampling; 0 takes the likeliest token."""
    seed: int = 0
    """Of sampling."""
    slots: int = 64
    """Environments played at once."""
    data: str = ""
    """Folder with games; empty: the games of the run the checkpoint belongs to."""
    out: str = ""
    """File for the record; empty: eval-SPLIT.json in the current folder."""
    preset: str = "quickstart"
    """Whose settings a folder of weights is played with; a run has its own."""


def main(argv: Sequence[str] | None = None) -> None:
    """Runs one command; exits with 0, or with one line that says what to do."""
    argv = list(sys.argv[1:] if argv is None else argv)
    try:
        sys.exit(_dispatch(argv) or 0)
    except KeyboardInterrupt:
        print("\nhiper: stopped; what was finished is kept", file=sys.stderr)
        sys.exit(130)
    except BrokenPipeError:
        os._exit(1)
    except (ValueError, OSError, RuntimeError, ImportError) as error:
        if os.environ.get("HIPER_TRACEBACK"):
            raise
        print(f"hiper: {_one_line(error)}", file=sys.stderr)
        sys.exit(2)


def _dispatch(argv: list[str]) -> int | None:
    if not argv or argv[0] in ("-h", "--help", "help"):
        print(_usage(), end="")
        return 0 if argv else 2
    command, *rest = argv
    if command in ("games", "shop", "models") and rest and not rest[0].startswith("-"):
        command, rest = f"{command} {rest[0]}", rest[1:]
    if command not in COMMANDS:
        raise ValueError(f"there is no command {command!r}; see hiper --help")
    return COMMANDS[command](rest)


def _usage() -> str:
    from hiper_jax.experiments.recipes.presets import PRESETS

    return USAGE.format(presets=", ".join(PRESETS), benches=", ".join(BENCHES))


def _train(argv: list[str]) -> None:
    from hiper_jax.experiments import config as configs
    from hiper_jax.experiments.recipes import presets

    name, argv = _word(argv, "train", "a preset: " + ", ".join(presets.PRESETS))
    default = presets.preset(name)
    if "--config" in argv:
        at = argv.index("--config")
        if at + 1 == len(argv):
            raise ValueError("--config needs a YAML or JSON file")
        default = configs.replaced(default, configs.read_file(argv[at + 1]))
        argv = argv[:at] + argv[at + 2 :]
    config = _flags(configs.Train, argv, f"hiper train {name}", default)
    from hiper_jax.experiments.train import train

    train(config, name)


def _warmstart(argv: list[str]) -> None:
    from hiper_jax.act.envs.world import DEFAULT
    from hiper_jax.experiments.warmstart.warmstart import WarmStart, start, warmstart

    world = DEFAULT
    if argv and not argv[0].startswith("-"):
        world, argv = argv[0], argv[1:]
    warmstart(_flags(WarmStart, argv, f"hiper warmstart {world}", start(world)))


def _of_world(name: str) -> Callable[[list[str]], Any]:
    """Runs a command that some world offers."""

    def run(argv: list[str]) -> None:
        command = _world_commands()[name]
        command.run(_flags(command.settings, argv, f"hiper {name}"), print)

    return run


def _world_commands():
    from hiper_jax.act.envs.world import WORLDS, load_world

    return {k: v for name in WORLDS for k, v in load_world(name).commands.items()}


def _eval(argv: list[str]) -> None:
    checkpoint, argv = _word(argv, "eval", "a run's folder or a model's")
    config = _flags(Eval, argv, "hiper eval CHECKPOINT", Eval())
    from hiper_jax.experiments.eval import examine

    examine(checkpoint, **dataclasses.asdict(config))


def _play(argv: list[str]) -> None:
    game, argv = _word(
        argv, "play", "a game: a game.tw-pddl file or its folder, or a shop's folder"
    )
    from hiper_jax.experiments.play import find, play

    play(*find([game, *argv]))


def _report(argv: list[str]) -> None:
    run, _ = _word(argv, "report", "a run's folder")
    if not (pathlib.Path(run) / "config.json").is_file():
        raise FileNotFoundError(f"{run} is not a run's folder: it has no config.json")
    from hiper_jax.experiments.report.report import write_report

    print(write_report(pathlib.Path(run)))


def _models_import(argv: list[str]) -> None:
    source, argv = _word(argv, "models import", "a GGUF file, or a package with one")
    target, _ = _word(argv, "models import FILE.gguf", "a folder to write")
    from hiper_jax.lm.weights_gguf import convert, locate

    print(f"{target}: {convert(locate(source), target)}")


def _bench(argv: list[str]) -> None:
    name, argv = _word(argv, "bench", "one of " + ", ".join(BENCHES))
    if name not in BENCHES:
        raise ValueError(f"there is no bench {name!r}; choose {', '.join(BENCHES)}")
    BENCHES[name](argv)


def _bench_hae(argv: list[str]) -> None:
    from hiper_jax.experiments.bench import hae as bench_hae

    bench_hae.main(argv[0] if argv else "runs/bench-hae")


def _bench_rollout(argv: list[str]) -> None:
    """`--env webshop` and, optionally, a folder for the results."""
    rest = list(argv)
    if rest[:2] != ["--env", "webshop"]:
        raise ValueError("hiper bench rollout needs --env webshop")
    from hiper_jax.experiments.bench import webshop as bench_webshop

    bench_webshop.main(rest[2] if len(rest) > 2 else "runs/bench-webshop")


def _variance(argv: list[str]) -> None:
    from hiper_jax.experiments.variance import variance

    variance.main(argv[0] if argv else "runs/variance")


def _plan(argv: list[str]) -> None:
    from hiper_jax.experiments.capacity import plan

    plan.main(_flags(plan.Plan, argv, "hiper plan"))


def _compile(argv: list[str]) -> None:
    from hiper_jax.experiments.capacity import compile as ahead

    ahead.main(_flags(ahead.Compile, argv, "hiper compile"))


def _bench_generate(argv: list[str]) -> None:
    from hiper_jax.experiments.bench import generate as bench

    bench.main(_flags(bench.Generate, argv, "hiper bench generate"))


def _bench_update(argv: list[str]) -> None:
    from hiper_jax.experiments.bench import update as bench

    bench.main(_flags(bench.Update, argv, "hiper bench update"))


BENCHES: dict[str, Callable] = {
    "hae": _bench_hae,
    "rollout": _bench_rollout,
    "generate": _bench_generate,
    "update": _bench_update,
}
COMMANDS: dict[str, Callable[[list[str]], Any]] = {
    "train": _train,
    "eval": _eval,
    "play": _play,
    "report": _report,
    "games make": _of_world("games make"),
    "shop make": _of_world("shop make"),
    "models import": _models_import,
    "warmstart": _warmstart,
    "bench": _bench,
    "plan": _plan,
    "compile": _compile,
    "variance": _variance,
}


def _word(argv: list[str], command: str, what: str) -> tuple[str, list[str]]:
    """The first word after a command, which names what it works on."""
    if argv and argv[0] in ("-h", "--help"):
        return "quickstart" if command == "train" else "", argv
    if not argv or argv[0].startswith("-"):
        raise ValueError(f"hiper {command} needs {what}")
    return argv[0], argv[1:]


def _flags(kind: type, argv: list[str], prog: str, default: Any = None):
    """Flags -> a dataclass; `--help` explains every field."""
    import tyro

    extra = {} if default is None else {"default": default}
    return tyro.cli(kind, args=argv, prog=prog, **extra)


def _one_line(error: BaseException) -> str:
    text = str(error) or type(error).__name__
    return " ".join(text.split())


if __name__ == "__main__":
    main()
