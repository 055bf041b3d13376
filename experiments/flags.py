"""Words on a command line -> the command that they choose and its settings, by tyro.

Commands form a tree. tyro makes the parser and the help of a node from its type; here
the type stands for a node whose settings are imported only once it is chosen, so that
`hiper --help` loads nothing and a missing extra troubles no other command.
"""

import contextlib
import dataclasses
import functools
import io
import operator
import re
import sys
import typing
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, NamedTuple

import tyro
from tyro.constructors import (
    ConstructorRegistry,
    PrimitiveConstructorSpec,
    PrimitiveTypeInfo,
    StructConstructorSpec,
    StructFieldSpec,
    StructTypeInfo,
)

import hiper_jax
from hiper_jax.accept import SettingError
from hiper_jax.experiments.settings import (
    explained,
    flag_names,
    nearest,
    parts,
    path_to,
)


@dataclasses.dataclass(frozen=True)
class EarlyWorld:
    """See `Early`."""

    environment: str = ""
    """Which world: its settings are flags."""


@dataclasses.dataclass(frozen=True)
class Early:
    """What decides which other flags there are, and the defaults of all."""

    config: str = ""
    """YAML or JSON file of settings, which flags override."""
    estimator: str = ""
    """Which estimator: its settings are flags."""
    hardware: str = ""
    """Which machine a published run is laid out on; see hiper plan."""
    world: EarlyWorld = EarlyWorld()
    """Which world."""


class Loaded(NamedTuple):
    """What a command is made of, once it is chosen."""

    kind: type
    """Dataclass of its settings."""
    run: Callable[[Any], str | None]
    """What it does with them; a text that it returns is printed."""
    default: Any = tyro.MISSING_NONPROP
    """Settings that flags override; missing where a field has to be given."""


class Leaf(NamedTuple):
    """A command."""

    about: str
    """One line of help."""
    load: Callable[[], Loaded]


class Group(NamedTuple):
    """Words of which one is to be chosen."""

    about: str
    """One line of help."""
    noun: str
    """What each of them is."""
    members: Callable[[], Mapping[str, "Leaf | Group"]]
    usual: str = ""
    """The member that is meant where none is named; empty: one must be."""


class Chosen(NamedTuple):
    """What a command line says."""

    path: str
    loaded: Loaded
    settings: Any
    among: Group | None
    """The group that the command is a member of."""


class Unchosen(NamedTuple):
    """A command line that ends before a command."""

    path: str
    group: Group


def some(kind: type, argv: Sequence[str], mistake: str) -> Any:
    """Reads the flags of one dataclass, whatever else stands among the words.

    Raises:
      ValueError: `mistake`, if one of these flags lacks its value.
    """
    nowhere = io.StringIO()
    try:
        with contextlib.redirect_stderr(nowhere), contextlib.redirect_stdout(nowhere):
            return tyro.cli(
                kind, args=list(argv), return_unknown_args=True, add_help=False
            )[0]
    except SystemExit as stop:
        if stop.code:
            raise ValueError(mistake) from None
        return kind()  # a completion script was asked for; `parse` writes it


def parse(root: Group, argv: Sequence[str], prog: str) -> Chosen | None:
    """Finds the command and makes its settings; `--help` prints and exits.

    Args:
      root: the tree of commands.
      argv: the words after the program's name.
      prog: the program's name.

    Returns:
      The command and its settings; None if the version was asked for and printed.

    Raises:
      ValueError: one line that says what to do.
      SystemExit: 0, help was printed.
    """
    seen: list[Loaded] = []
    with _mistakes_as_errors(seen):
        (chosen, version), unknown = tyro.cli(
            _typed(_Root, prog, root, None),
            args=list(argv),
            prog=prog,
            description=root.about,
            registry=_registry(seen),
            return_unknown_args=True,
        )
    if version:
        print(f"{prog} {hiper_jax.__version__}")
        return None
    if isinstance(chosen, Unchosen):
        raise ValueError(_nothing_chosen(chosen, unknown))
    if unknown:
        raise ValueError(_too_much(chosen, unknown, argv))
    if valued := _valued(chosen.settings, argv):
        # A word after a switch would be taken for one that stands alone.
        raise ValueError(f"{chosen.path} takes no {valued!r}; see {chosen.path} --help")
    return chosen


class _Node:
    """Base of the types that stand for a node of the tree."""

    path: str
    node: Leaf | Group
    among: Group | None


class _Root(_Node):
    """The tree, and what else can be asked of the program."""


class _Name(_Node):
    """A node that is only named so far: nothing of it is loaded."""


class _Content(_Node):
    """A node that has been chosen."""


_FLAG: Any = Annotated[bool, tyro.conf.FlagCreatePairsOff]
_VERSION = StructFieldSpec(
    name="version",
    type=_FLAG,
    default=False,
    helptext="Print the version and exit.",
)


def _typed(base: type, path: str, node: Leaf | Group, among: Group | None) -> type:
    members = {"path": path, "node": node, "among": among}
    return type(path.split()[-1], (base,), members)


def _registry(seen: list[Loaded]) -> ConstructorRegistry:
    """The rules by which tyro reads the tree; what is loaded is added to `seen`."""
    registry = ConstructorRegistry()
    typed = functools.cache(_typed)

    @functools.cache
    def load(node: Leaf) -> Loaded:
        seen.append(node.load())
        return seen[-1]

    def inner(kind: Any, default: Any = tyro.MISSING_NONPROP) -> StructFieldSpec:
        """What stands in a node, without a name of its own in its flags."""
        named: Any = Annotated[kind, tyro.conf.arg(name="")]
        return StructFieldSpec(name="inner", type=named, default=default)

    @registry.struct_rule
    def node_rule(info: StructTypeInfo) -> StructConstructorSpec | None:
        kind = info.type
        if not (isinstance(kind, type) and issubclass(kind, _Node)):
            return None
        path, node = kind.path, kind.node
        content = inner(typed(_Content, path, node, kind.among))
        if issubclass(kind, _Root):
            return StructConstructorSpec(
                lambda inner, version: (inner, version), (content, _VERSION)
            )
        if issubclass(kind, _Name):
            return StructConstructorSpec(lambda inner: inner, (content,))
        if isinstance(node, Group):
            none = tyro.MISSING_NONPROP if node.usual else None
            return StructConstructorSpec(
                lambda inner: Unchosen(path, node) if inner is None else inner,
                (inner(_choice(path, node), none),),
            )
        loaded = load(node)
        return StructConstructorSpec(
            lambda inner: Chosen(path, loaded, inner, kind.among),
            (inner(loaded.kind, loaded.default),),
        )

    @registry.struct_rule
    def settings_rule(info: StructTypeInfo) -> StructConstructorSpec | None:
        kind = info.type
        if not (isinstance(kind, type) and dataclasses.is_dataclass(kind)):
            return None
        return StructConstructorSpec(kind, _fields(kind, info.default))

    @registry.primitive_rule
    def number_rule(info: PrimitiveTypeInfo) -> PrimitiveConstructorSpec | None:
        """What is no number goes on as text, for the settings to refuse by name."""
        if info.type not in (int, float):
            return None
        return PrimitiveConstructorSpec(
            nargs=1,
            metavar=info.type.__name__.upper(),
            instance_from_str=lambda words: _number(info.type, words[0]),
            is_instance=lambda value: type(value) in (info.type, int),
            str_from_instance=lambda value: [str(value)],
        )

    return registry


def _fields(kind: type, default: Any) -> tuple[StructFieldSpec, ...]:
    """The fields of a dataclass; tyro's own texts break lines where the code does."""
    hints = typing.get_type_hints(kind, include_extras=True)
    texts = explained(kind)
    missing = dataclasses.MISSING
    return tuple(
        StructFieldSpec(
            name=field.name,
            type=hints[field.name],
            default=getattr(default, field.name)
            if isinstance(default, kind)
            else tyro.MISSING_NONPROP
            if field.default is missing
            else field.default,
            helptext=texts.get(field.name),
        )
        for field in dataclasses.fields(kind)
    )


def _choice(path: str, group: Group) -> Any:
    """The type "one of these, or none"; that none was named is not for tyro to say."""
    members = [
        Annotated[
            _typed(_Name, f"{path} {name}", member, group),
            tyro.conf.subcommand(
                name,
                description=member.about,
                prefix_name=False,
                is_default=name == group.usual,
            ),
        ]
        for name, member in group.members().items()
    ]
    union = functools.reduce(operator.or_, [*members, type(None)])
    return Annotated[union, tyro.conf.DisallowNone]


def _number(kind: type, word: str) -> int | float | str:
    for read in (kind, float):
        with contextlib.suppress(ValueError):
            return read(word)
    return word


@contextlib.contextmanager
def _mistakes_as_errors(seen: list[Loaded]):
    """What tyro says of a mistake, in a box, becomes one line of a ValueError."""
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            yield
    except SettingError as error:
        raise _with_path(error, seen) from None
    except SystemExit as stop:
        if not stop.code:
            raise
        cause: BaseException | None = stop
        while cause is not None:
            if isinstance(cause, SettingError):
                raise _with_path(cause, seen) from None
            cause = cause.__context__
        raise ValueError(_one_line(said.getvalue())) from None
    sys.stderr.write(said.getvalue())  # of what was imported


def _with_path(error: SettingError, seen: list[Loaded]) -> SettingError:
    if not seen or "." in error.name:
        return error
    kind, _, default = seen[-1]
    path = path_to(error.owner, default if isinstance(default, kind) else kind)
    return error.within(path) if path else error


def _one_line(box: str) -> str:
    """The first section of one of tyro's boxes, as one line."""
    sections: list[list[str]] = [[]]
    for line in re.sub(r"\x1b\[[0-9;]*m", "", box).splitlines():
        line = line.strip().strip("│").strip()
        if len(line) > 3 and set(line) <= set("─-"):
            sections.append([])
        elif line and line[0] not in "╭╰":
            sections[-1] += line.split()
    # Where a terminal has no lines to draw with, the title is a section of its own.
    said = sections if "╭" in box else sections[1:]
    words = " ".join(said[0]) if said else ""
    return words.replace(" (required)", "") or "these words cannot be read; see --help"


def _nothing_chosen(unchosen: Unchosen, unknown: Sequence[str]) -> str:
    path, group = unchosen
    if not unknown or unknown[0].startswith("-"):
        before = f" before {unknown[0]}" if unknown else ""
        return f"{path} needs a {group.noun}{before}: {', '.join(group.members())}"
    return _not_one_of(path, group, unknown[0])


def _not_one_of(path: str, group: Group, word: str) -> str:
    hint = nearest(word, list(group.members()))
    return f"there is no {group.noun} {word!r}; {hint} (all: {path} --help)"


def _valued(settings: Any, argv: Sequence[str]) -> str:
    """A word that gives a switch a value, as in `--json=maybe`; "" without one."""
    prefixes = ((part, f"{path}." if path else "") for path, part in parts(settings))
    switches = {
        f"--{prefix}{no}{field.name}".replace("_", "-")
        for part, prefix in prefixes
        for field in dataclasses.fields(part)
        if isinstance(getattr(part, field.name, None), bool)
        for no in ("", "no-")
    }
    return next((w for w in argv if "=" in w and w.split("=")[0] in switches), "")


def _too_much(chosen: Chosen, unknown: Sequence[str], argv: Sequence[str]) -> str:
    path, settings = chosen.path, chosen.settings
    flags = [word.split("=")[0] for word in unknown if word.startswith("-")]
    if flags:
        hint = nearest(flags[0], flag_names(settings), only_near=True)
        return f"{path} has no {flags[0]}; {hint or f'see {path} --help'}"
    group, _, member = path.rpartition(" ")
    if chosen.among is not None and chosen.among.usual and member not in argv:
        # Where one is meant that was not named, a stray word was to name another.
        return _not_one_of(group, chosen.among, unknown[0])
    return f"{path} takes no {_with_flag(unknown[0], argv)}; see {path} --help"


def _with_flag(stray: str, argv: Sequence[str]) -> str:
    """A word that nothing took, with the flag that it was perhaps meant for."""
    for at in reversed(range(len(argv))):
        if argv[at].endswith(f"={stray}"):
            return repr(argv[at])
        if argv[at] == stray:
            flags = [word for word in argv[:at] if word.startswith("--")]
            return f"{stray!r} after {flags[-1]}" if flags else repr(stray)
    return repr(stray)
