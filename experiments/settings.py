"""Settings as trees: what a YAML or JSON file fills in, and where a setting stands.

Whatever settings are filled in from, their dataclasses check themselves as they are
made (`hiper_jax.accept`); what is added here is the path to the setting.
"""

import ast
import dataclasses
import difflib
import functools
import inspect
import itertools
import json
import pathlib
import re
import textwrap
import typing
from collections.abc import Iterator, Sequence
from typing import Any

from hiper_jax.accept import SettingError
from hiper_jax.act.envs.world import WorldSettings, settings_for


def read_file(path: str | pathlib.Path) -> dict[str, Any]:
    """Reads a JSON or YAML file of settings.

    Raises:
      FileNotFoundError, ValueError: it is missing, or holds no mapping.
    """
    path = pathlib.Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"there is no settings file {path}")
    try:
        text = path.read_text(encoding="utf-8")
    except ValueError:
        raise ValueError(f"{path} is no text in UTF-8") from None
    values = _json(path, text) if path.suffix == ".json" else _yaml(path, text)
    if not isinstance(values, dict):
        raise ValueError(f"{path} must hold `name: value` pairs")
    return values


def replaced(settings: Any, values: dict[str, Any], where: str = "") -> Any:
    """A copy of a dataclass with (nested) values replaced by name.

    Args:
      settings: an instance; one whose class depends on some of the values has a method
        `adapted_to(values)`, which is asked first.
      values: by field; of a field that is a dataclass itself, by its fields.
      where: dotted path to `settings`, with a dot at its end; for errors.

    Raises:
      ValueError: a name is unknown, or a setting does not accept its value.
    """
    adapted = getattr(settings, "adapted_to", None)
    if adapted is not None:
        settings = adapted(values)
    fields = [field.name for field in dataclasses.fields(settings)]
    changes = {}
    for name, value in values.items():
        if name not in fields:
            raise ValueError(
                f"unknown setting {where}{name}; {nearest(str(name), fields)}"
            )
        old = getattr(settings, name)
        if dataclasses.is_dataclass(old) and isinstance(value, dict):
            if isinstance(old, WorldSettings):
                old = in_world(old, value.get("environment"), f"{where}{name}.")
            value = replaced(old, value, f"{where}{name}.")
        changes[name] = value
    try:
        return dataclasses.replace(settings, **changes)
    except SettingError as error:
        raise (error.within(where[:-1]) if where else error) from None


def filled(settings: Any, values: dict[str, Any], file: str | pathlib.Path) -> Any:
    """`replaced` by what a file holds, which an error then names.

    Raises:
      ValueError, ImportError: see `replaced` and `in_world`.
    """
    try:
        return replaced(settings, values)
    except (ValueError, ImportError) as error:
        kind = ImportError if isinstance(error, ImportError) else ValueError
        raise kind(f"{error} (in {file})") from None


def in_world(settings: WorldSettings, reference: Any, where: str = "world."):
    """The settings of the world that is named; of the same one if none is.

    Raises:
      ValueError, ImportError: there is no such world.
    """
    if not isinstance(reference, str) or reference == settings.environment:
        return settings  # what is no name is refused where settings are made
    try:
        return settings_for(reference, settings)
    except (ValueError, ImportError) as error:
        raise type(error)(f"{where}environment: {error}") from None


def parts(settings: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """A dataclass and all dataclasses inside it, each with its dotted path.

    Args:
      settings: an instance, or a class for which there is none yet.
      path: to `settings`.

    Yields:
      Path and part; a part is an instance where there is one, else a class.
    """
    yield path, settings
    kind = settings if isinstance(settings, type) else type(settings)
    hints = typing.get_type_hints(kind, include_extras=True)
    for field in dataclasses.fields(kind):
        part = getattr(settings, field.name, field.default)
        if not dataclasses.is_dataclass(part):
            part = hints[field.name]
            if typing.get_origin(part) is typing.Annotated:
                part = typing.get_args(part)[0]
        if dataclasses.is_dataclass(part):
            # A part that is annotated with an empty name adds none to the path.
            extras = getattr(hints[field.name], "__metadata__", ())
            silent = any(getattr(extra, "name", None) == "" for extra in extras)
            names = [path] if silent else [path, field.name]
            yield from parts(part, ".".join(filter(None, names)))


def path_to(owner: type, settings: Any) -> str:
    """The dotted path to the part of that class; empty: it is all, or there is none."""
    for path, part in parts(settings):
        if (part if isinstance(part, type) else type(part)) is owner:
            return path
    return ""


@functools.cache
def explained(kind: type) -> dict[str, str]:
    """The text below each field of a dataclass, inherited ones too, as one line."""
    texts: dict[str, str] = {}
    for base in reversed(kind.__mro__):
        if not dataclasses.is_dataclass(base):
            continue
        try:
            source = textwrap.dedent(inspect.getsource(base))
        except (OSError, TypeError):  # typed in by hand: there is no file to read
            continue
        made = ast.parse(source).body[0]
        assert isinstance(made, ast.ClassDef)
        for field, text in itertools.pairwise(made.body):
            if isinstance(field, ast.AnnAssign) and isinstance(text, ast.Expr):
                words = str(ast.literal_eval(text.value)).split()
                texts[ast.unparse(field.target)] = " ".join(words)
    return texts


def flag_names(settings: Any) -> list[str]:
    """The flags of a dataclass, as the command line spells them."""
    names = []
    for path, part in parts(settings):
        for field in dataclasses.fields(part):
            value = getattr(part, field.name, None)
            if dataclasses.is_dataclass(value):
                continue
            spellings = ["", "no-"] if isinstance(value, bool) else [""]
            prefix = f"{path}." if path else ""
            names += [
                f"--{prefix}{spelling}{field.name}".replace("_", "-")
                for spelling in spellings
            ]
    return names


def nearest(word: str, known: Sequence[str], *, only_near: bool = False) -> str:
    """What was perhaps meant, else all that is known (or, if `only_near`, nothing)."""
    # Flags are long and alike; a name that is near by chance misleads.
    cutoff = 0.75 if only_near else 0.6
    near = difflib.get_close_matches(word, known, n=3, cutoff=cutoff)
    if near:
        return f"did you mean {' or '.join(near)}?"
    return "" if only_near else f"known here: {', '.join(known)}"


def profiled_steps(text: str) -> range:
    """The iterations that `profile_steps` names, counted from 1; none if empty.

    Raises:
      ValueError: it names none, without being empty.
    """
    if not text:
        return range(0)
    ends = text.split(":")
    if len(ends) > 2 or not all(x.isascii() and x.isdigit() for x in ends):
        raise ValueError(f"must be FIRST:LAST, such as 3:5, got {text!r}")
    first, last = int(ends[0]), int(ends[-1])
    if not 1 <= first <= last:
        raise ValueError(f"must rise, from 1 at least, got {text!r}")
    return range(first, last + 1)


def _json(path: pathlib.Path, text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not JSON: {error}") from None


def _yaml(path: pathlib.Path, text: str) -> Any:
    import yaml

    class Loader(yaml.SafeLoader):
        """Reads 2e-4 as a number, too, which YAML 1.1 takes for a text."""

    Loader.add_implicit_resolver(
        "tag:yaml.org,2002:float",
        re.compile(r"[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$"),
        list("-+.0123456789"),
    )
    try:
        return yaml.load(text, Loader=Loader)
    except (yaml.YAMLError, ValueError, TypeError, RecursionError) as error:
        raise ValueError(f"{path} is not YAML: {error}") from None
