"""The tree of commands: what each is asked, and what is called with the answer.

Nothing heavy is imported here but inside the functions, once a command is chosen.
"""

import dataclasses
import importlib.util
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any

import tyro

from hiper_jax import _store
from hiper_jax.accept import (
    check_fields,
)
from hiper_jax.act.envs.world import DEFAULT, WORLDS, Command, load_world
from hiper_jax.experiments import recipes
from hiper_jax.experiments.asked import (
    BenchHae,
    BenchRollout,
    Eval,
    ImportModel,
    Play,
    Report,
    Runs,
    Variance,
)
from hiper_jax.experiments.flags import Early, Group, Leaf, Loaded
from hiper_jax.experiments.settings import filled, in_world, read_file


def tree(early: Early, words: Sequence[str] = ()) -> Group:
    """All commands of `hiper`.

    Args:
      early: what the command line says of files and worlds.
      words: of the command line; those like `my_module:WORLD` may name a world.
    """
    return Group(
        "Train language-model agents with hierarchical reinforcement learning.",
        "command",
        lambda: {
            "train": Group(
                "train an agent; `hiper train PRESET --help` explains every setting",
                "preset",
                lambda: {
                    name: Leaf(recipes.about(name), _train(name, early))
                    for name in recipes.RECIPES
                },
            ),
            "compare": Leaf(
                "train with several estimators, all else equal, and set them side by "
                "side",
                _module("compare.compare", "Compare"),
            ),
            "launch": Leaf(
                "start a command in several processes of this machine, to try it",
                _module("launch", "Launch"),
            ),
            "eval": Leaf("play a fixed panel of games", _own(Eval, _eval)),
            "play": Leaf("play a game yourself, in the terminal", _own(Play, _play)),
            "report": Leaf(
                "write report.html of a run, or of several on one page",
                _own(Report, _report),
            ),
            "runs": Leaf("list runs: status, success, hours", _own(Runs, _runs)),
            **_of_worlds(),
            "credit": Leaf(
                "assign credit to stored episodes, or to trajectories in a text file",
                _credit(early, words),
            ),
            "data": Group(
                "episodes as data sets: export",
                "word",
                lambda: {
                    "export": Leaf(
                        "write the episodes of runs as a TFDS data set",
                        _module("export", "Export"),
                    )
                },
            ),
            "models": Group("models on disk: import", "word", lambda: _MODELS),
            "warmstart": Group(
                "make the small agent that a quickstart starts from; "
                "`hiper warmstart WORLD --help` explains every setting",
                "world",
                lambda: {
                    name: Leaf(f"the one for {name}", _warmstart(name))
                    for name in (*WORLDS, *(w for w in words if _is_reference(w)))
                },
                usual=DEFAULT,
            ),
            "bench": Group(
                f"measure: {', '.join(_BENCHES)}", "bench", lambda: _BENCHES
            ),
            "plan": Leaf(
                "count the memory of training, and what would make it fit",
                _module("capacity.answer", "Plan"),
            ),
            "compile": Leaf(
                "compile training for a TPU slice that is not there",
                _module("capacity.compile", "Compile"),
            ),
            "variance": Leaf(
                "the variance of HAE's gradient, exactly and by sampling",
                _own(Variance, _variance),
            ),
        },
    )


def _of_worlds() -> dict[str, Leaf | Group]:
    """What worlds offer, such as `games make`, by its first word."""
    found: dict[str, Leaf | Group] = {}
    for name in WORLDS:
        for words, command in load_world(name).commands.items():
            leaf = Leaf(_first_line(command.settings), _of_world(command))
            noun, _, verb = words.rpartition(" ")
            if not noun:
                found[verb] = leaf
                continue
            old = found.get(noun)
            members = dict(old.members()) if isinstance(old, Group) else {}
            members[verb] = leaf
            about = f"{noun} on disk: {', '.join(members)}"
            found[noun] = Group(about, "word", lambda members=members: members)
    return found


def _of_world(command: Command) -> Callable[[], Loaded]:
    return lambda: Loaded(command.settings, lambda asked: command.run(asked, print))


def _first_line(kind: type) -> str:
    line = (kind.__doc__ or "").partition("\n")[0].rstrip(".")
    return line[:1].lower() + line[1:]


def _is_reference(word: str) -> bool:
    """Whether a word may name somebody's own world, as `my_module:WORLD`."""
    module, colon, name = word.partition(":")
    names = [*module.split("."), name]
    return bool(colon) and all(part.isidentifier() for part in names)


def _own(kind: type, run: Callable[[Any], str | None]) -> Callable[[], Loaded]:
    return lambda: Loaded(kind, run)


def _module(name: str, kind: str) -> Callable[[], Loaded]:
    """A command that is a module with a dataclass of settings and a `main`."""

    def load() -> Loaded:
        module = importlib.import_module(f"hiper_jax.experiments.{name}")

        def run(asked: Any) -> None:
            module.main(asked)

        return Loaded(getattr(module, kind), run)

    return load


def _train(name: str, early: Early) -> Callable[[], Loaded]:
    def load() -> Loaded:
        from hiper_jax.experiments.capacity import hardware as machines
        from hiper_jax.experiments.capacity import layout
        from hiper_jax.experiments.config import Train, with_estimator
        from hiper_jax.experiments.join import Hosts, joined

        @dataclasses.dataclass(frozen=True)
        class Asked:
            settings: Annotated[Train, tyro.conf.arg(name="")]
            hosts: Annotated[Hosts, tyro.conf.arg(name="")] = Hosts()
            """The processes that train together."""
            config: str = ""
            """YAML or JSON file of settings, which flags override."""
            hardware: machines.HardwareName = ""
            """A machine to lay the run out on; other flags override it."""

            def __post_init__(self):
                check_fields(self)

        def run(asked: Asked) -> None:
            with joined(asked.hosts) as hosts:
                from hiper_jax.experiments.train import train

                train(asked.settings, name, hosts)

        settings = recipes.recipe(name)
        values = read_file(early.config) if early.config else {}
        if early.estimator:
            settings = with_estimator(settings, early.estimator)
            values.pop("estimator", None)  # the flag's is meant
        if early.world.environment:
            world = in_world(settings.world, early.world.environment)
            settings = dataclasses.replace(settings, world=world)
            if isinstance(values.get("world"), dict):
                values["world"].pop("environment", None)  # the flag's is meant
        if early.hardware in machines.HARDWARE:
            settings = layout.laid_out(settings, machines.HARDWARE[early.hardware])
        if values:
            settings = filled(settings, values, early.config)
        return Loaded(Asked, run, Asked(settings, config=early.config))

    return load


def _credit(early: Early, words: Sequence[str]) -> Callable[[], Loaded]:
    def load() -> Loaded:
        from hiper_jax.experiments import credit

        default = credit.start(words, early.estimator)
        return Loaded(credit.Credit, credit.main, default)

    return load


def _warmstart(world: str) -> Callable[[], Loaded]:
    def load() -> Loaded:
        from hiper_jax.experiments.warmstart import settings, warmstart

        def run(asked: Any) -> None:
            warmstart.warmstart(asked)

        return Loaded(settings.WarmStart, run, settings.start(world))

    return load


def _eval(asked: Eval) -> None:
    from hiper_jax.experiments.eval import evaluate_checkpoint

    settings = dataclasses.asdict(asked)
    evaluate_checkpoint(settings.pop("run"), **settings)


def _play(asked: Play) -> None:
    from hiper_jax.experiments.play import find, play

    play(*find([asked.game, asked.goal] if asked.goal else [asked.game]))


def _report(asked: Report) -> str:
    from hiper_jax import workdir

    if not asked.others and _store.is_remote(asked.run):
        from hiper_jax.experiments.report.report import write_report

        with workdir.copied(asked.run) as (run, send):
            _check_run(asked.run, run)
            page = write_report(run)
            send()
            return f"{asked.run.rstrip('/')}/{page.relative_to(run)}"
    folders = [workdir.here(run) for run in (asked.run, *asked.others)]
    wrong = [str(f) for f in folders if not (f / "config.json").is_file()]
    if len(folders) == 1:
        _check_run(asked.run, folders[0])
    if wrong:
        named = ", ".join(map(repr, wrong))
        raise FileNotFoundError(f"no run's folder, without a config.json: {named}")
    if len(folders) > 1:
        from hiper_jax.experiments.compare import several

        return str(several.write(folders, pathlib.Path(asked.out)))
    from hiper_jax.experiments.report.report import write_report

    return str(write_report(folders[0]))


def _check_run(name: str, folder: pathlib.Path) -> None:
    if not (folder / "config.json").is_file():
        raise FileNotFoundError(f"{name} is not a run's folder: it has no config.json")


def _runs(asked: Runs) -> str:
    from hiper_jax import workdir
    from hiper_jax.experiments import listing

    above = workdir.here(asked.folder, listing.is_listed)
    found = [listing.read(run) for run in listing.find(above)]
    if asked.csv:
        from hiper_jax.experiments.compare.outcomes import to_csv

        table = to_csv([listing.record(run) for run in found])
        if asked.csv == "-":
            return table.rstrip("\n")
        workdir.write_text(pathlib.Path(asked.csv), table)
    return listing.text(found, above) if found else f"no run in {asked.folder}"


def _import(asked: ImportModel) -> str:
    from hiper_jax._disk import guarded
    from hiper_jax.lm.weights_gguf import convert, locate

    with guarded(asked.target):
        return f"{asked.target}: {convert(locate(asked.source), asked.target)}"


def _bench_hae(asked: BenchHae) -> None:
    from hiper_jax.experiments.bench import hae

    hae.main(asked.out)


def _bench_rollout(asked: BenchRollout) -> None:
    name = f"hiper_jax.experiments.bench.{asked.env}"
    if importlib.util.find_spec(name) is None:
        raise ValueError(f"nothing is measured of the environments of {asked.env}")
    importlib.import_module(name).main(asked.out or f"runs/bench-{asked.env}")


def _variance(asked: Variance) -> None:
    from hiper_jax.experiments.variance import variance

    variance.main(asked.out)


_MODELS: Mapping[str, Leaf] = {
    "import": Leaf(
        "turn a GGUF file into a Hugging Face directory", _own(ImportModel, _import)
    )
}
_BENCHES: Mapping[str, Leaf] = {
    "hae": Leaf("HAE against plain loops in torch", _own(BenchHae, _bench_hae)),
    "rollout": Leaf(
        "a world's environments, without a model", _own(BenchRollout, _bench_rollout)
    ),
    "generate": Leaf(
        "sampling against `transformers`", _module("bench.generate", "Generate")
    ),
    "host": Leaf(
        "what the host does in a turn, beside a device that sleeps",
        _module("bench.host", "Host"),
    ),
    "live": Leaf(
        "turns of which few slots are live, and responses of which few are long",
        _module("bench.live", "Live"),
    ),
    "update": Leaf("the update against torch", _module("bench.update", "Update")),
    "advantages": Leaf(
        "every estimator against plain loops and rlax",
        _module("bench.advantages", "Advantages"),
    ),
    "ceiling": Leaf(
        "update and sampling against what the device can do",
        _module("bench.ceiling", "Ceiling"),
    ),
    "peers": Leaf(
        "sampling and update against tunix, `transformers` and torch",
        _module("bench.peers", "Peers"),
    ),
    "kills": Leaf(
        "processes of a run killed at random: are they named, is anything lost?",
        _module("bench.kills", "Kills"),
    ),
    "hosts": Leaf(
        "what a host computes and hears as there are more of them",
        _module("bench.hosts", "HostsBench"),
    ),
    "start": Leaf(
        "how long a run's first iteration is waited for, with and without compiled "
        "programs",
        _module("bench.start", "Start"),
    ),
    "soak": Leaf(
        "killed workers and a long run: nothing lost, nothing grows",
        _module("bench.soak", "Soak"),
    ),
}
