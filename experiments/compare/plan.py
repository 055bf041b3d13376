"""What is compared: estimators and variants, seed by seed, as settings of runs."""

import dataclasses
import hashlib
import json
import pathlib
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from hiper_jax.accept import Count, Name, Seed, check_fields
from hiper_jax.act.envs.world import world_of
from hiper_jax.estimators import COMPARES_SIBLINGS, WRITES_STRATEGIES
from hiper_jax.experiments.config import Train, with_estimator
from hiper_jax.experiments.recipes import recipe
from hiper_jax.experiments.settings import filled, read_file, replaced

LONGEST = 80  # characters of a folder's name that come from a variant
# What a comparison sets itself, run by run.
OURS = ("estimator", "samples", "seed", "out")
OURS += ("resume", "accept_changes", "stop_after")


@dataclasses.dataclass(frozen=True)
class Compare:
    """Trains with several estimators, all else equal, and sets them side by side."""

    preset: Name = "quickstart"
    """Whose settings all runs share; see hiper train --help."""
    estimators: tuple[Name, ...] = ("hae", "gae_turn", "grpo", "rloo", "gigpo", "crbc")
    """What is compared, the first being what the others are held against. A variant has
    settings of its own, as in `hae:lambda_boundary=0.95,common_scale=true`,
    `grpo:actor_lr=1e-4` or `grpo:reading.format=flat`."""
    seeds: Count = 3
    """Runs of each."""
    first_seed: Seed = 0
    """The least seed; the others follow it."""
    samples: Count = 8
    """Episodes of one task in an iteration where the estimator compares them."""
    split: str = ""
    """A further split that each run plays whole at its end, once, such as the
    `test_unseen` of made games, which nothing is chosen on."""
    config: str = ""
    """YAML or JSON file of settings that all runs share."""
    out: Name = "runs/compare"
    """Folder of all runs and of the comparison; finished runs in it are used again."""
    kept: str = ""
    """A further folder with one small file of each finished run, written as it ends.
    Runs that have theirs there are not made again, even where `out` is empty."""

    def __post_init__(self):
        check_fields(self)


class Variant(NamedTuple):
    """An estimator with its settings."""

    label: str  # as it was asked for
    estimator: str
    changes: Mapping[str, Any]  # by name, of the run's `learn` or of the run
    slug: str  # the label as part of a folder's name


class Planned(NamedTuple):
    """One run of the comparison."""

    variant: Variant
    seed: int
    folder: pathlib.Path
    config: Train
    split: str = ""  # that is played at the end, beside those of every run


def variant(label: str) -> Variant:
    """Reads `NAME` or `NAME:setting=value,setting=value`.

    Raises:
      ValueError: it is neither.
    """
    name, _, said = label.partition(":")
    changes: dict[str, Any] = {}
    for pair in filter(None, said.split(",")):
        setting, equals, value = (part.strip() for part in pair.partition("="))
        if not (setting and equals and value):
            raise ValueError(
                f"--estimators: {label!r} must be NAME or NAME:setting=value,..., but "
                f"{pair!r} is no setting with a value"
            )
        if setting in changes:
            raise ValueError(f"--estimators: {label!r} gives {setting} twice")
        changes[setting] = _value(value)
    return Variant(label, name.strip(), changes, _slug(label))


def planned(asked: Compare) -> list[Planned]:
    """All runs in their order: every estimator with one seed, then with the next.

    Raises:
      ValueError, FileNotFoundError: one line; nothing has been started.
    """
    base, variants = _shared(asked), [variant(label) for label in asked.estimators]
    if not variants:
        raise ValueError("--estimators needs the name of an estimator, or several")
    slugs: dict[str, str] = {}
    for one in variants:
        if one.slug in slugs:
            raise ValueError(
                f"--estimators: {slugs[one.slug]!r} and {one.label!r} would have one "
                f"folder, {one.slug}-SEED; leave one out"
            )
        slugs[one.slug] = one.label
    return [
        _planned(base, one, asked, asked.first_seed + n)
        for n in range(asked.seeds)
        for one in variants
    ]


def _shared(asked: Compare) -> Train:
    """The settings that all runs start from, once what they all need is there."""
    base, values = recipe(asked.preset), {}
    if asked.config:
        values = read_file(asked.config)
    for name in OURS:
        if name in values:
            raise ValueError(
                f"{asked.config} must not set {name}: a comparison sets it itself"
            )
    if values:
        base = filled(base, values, asked.config)
    splits = world_of(base.world).splits
    known = (*splits.panels, *splits.kept)
    if asked.split and asked.split not in known:
        raise ValueError(
            f"--split must be one of {', '.join(known)}, got {asked.split!r}"
        )
    return base


def _planned(base: Train, one: Variant, asked: Compare, seed: int) -> Planned:
    folder = pathlib.Path(asked.out) / f"{one.slug}-{seed}"
    # Those that write strategies have numbers of their own.
    sized = one.estimator in COMPARES_SIBLINGS - WRITES_STRATEGIES
    siblings = asked.samples if sized else 0
    values: dict[str, Any] = {"samples": siblings, "seed": seed, "out": str(folder)}
    try:
        config = with_estimator(base, one.estimator, samples=siblings)
        config = replaced(config, values | _placed(one.changes))
    except ValueError as error:
        raise ValueError(f"--estimators: {one.label}: {error}") from None
    return Planned(one, seed, folder, config, asked.split)


def _placed(changes: Mapping[str, Any]) -> dict[str, Any]:
    """Settings by the place that they have in a run; plain names go to `learn`.

    Raises:
      ValueError: one of them is for the comparison to set.
    """
    of_run = {field.name for field in dataclasses.fields(Train)}
    placed: dict[str, Any] = {}
    for name, value in changes.items():
        if name in OURS:
            raise ValueError(f"{name} is what a comparison sets itself")
        *path, last = name.split(".")
        if not path and last not in of_run:
            path = ["learn"]
        inner = placed
        for part in path:
            inner = inner.setdefault(part, {})
            if not isinstance(inner, dict):
                raise ValueError(f"{part} has no {last}: it is {inner!r}")
        inner[last] = value
    return placed


def _value(word: str) -> Any:
    """A number, true or false; anything else is text."""
    try:
        return json.loads(word)
    except ValueError:
        return word


def _slug(label: str) -> str:
    """Letters, digits, `.`, `_` and `-` of a label, short enough for a file system."""
    slug = re.sub(r"[^A-Za-z0-9._-]+", "-", label).strip("-.")
    if len(slug) > LONGEST:
        digest = hashlib.sha256(label.encode()).hexdigest()[:8]
        slug = f"{slug[: LONGEST - 9]}-{digest}"
    return slug
