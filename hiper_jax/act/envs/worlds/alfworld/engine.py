"""TextWorld's PDDL engine with the repeated work taken out.

The stock engine translates a game four times before the first observation, and parses
each template and copies each context at every step. `Engine` is that engine (the same
planner library, the same translation, the same grammar) which does each of these once;
observations, admissible actions and goals are the stock ones, string for string.
Stock wrappers (`AlfredDemangler`, `AlfredExpert`) can be put around it.
"""

import functools
import json
import os
import re
import struct
import sys
import tempfile
import zlib
from collections import Counter, defaultdict
from typing import NamedTuple

import fast_downward
import textworld
import textworld.logic
from fast_downward import interface
from fast_downward.translate.pddl.conditions import Atom as PddlAtom
from fast_downward.translate.pddl.f_expression import Assign
from textworld.core import GameState
from textworld.envs import PddlEnv
from textworld.envs.pddl.logic import Atom, PddlState
from textworld.logic import Placeholder, Proposition, Variable

from hiper_jax.act.envs.worlds.alfworld import describe as render

GAME_KEYS = ("pddl_domain", "grammar", "pddl_problem")
_PREDICATE = re.compile(r"(\w+)\(")


def load_library():
    """Loads an own copy of the planner's library, as the stock `load_lib` does.

    The library keeps one game in its globals, so each engine needs its own copy. Nearly
    all of the file is debug information that loading never reads; it is left out.
    """
    whole = interface.DOWNWARD_LIB_PATH
    with tempfile.TemporaryDirectory() as folder:
        interface.DOWNWARD_LIB_PATH = os.path.join(folder, "loadable.so")
        try:
            with open(interface.DOWNWARD_LIB_PATH, "wb") as file:
                file.write(_loadable(whole))
            return interface.load_lib()
        finally:
            interface.DOWNWARD_LIB_PATH = whole


def _loadable(path) -> bytes:
    """The part of an ELF file that its program headers name; else the whole file."""
    with open(path, "rb") as file:
        header = file.read(64)
        if header[:6] != b"\x7fELF\x02\x01":  # 64 bits, little-endian
            file.seek(0)
            return file.read()
        (table,) = struct.unpack_from("<Q", header, 32)
        entry, count = struct.unpack_from("<HH", header, 54)
        file.seek(table)
        end = table + entry * count
        for _ in range(count):
            offset, size = struct.unpack_from("<8xQ16xQ", file.read(entry))
            end = max(end, offset + size)
        file.seek(0)
        content = bytearray(file.read(end))
    struct.pack_into("<Q", content, 40, 0)  # no section table
    struct.pack_into("<HH", content, 60, 0, 0)
    return bytes(content)


class Translation(NamedTuple):
    """What the translator makes of a game; never changed after that."""

    sas: bytes  # the planning task in Fast Downward's format, zlib-compressed
    types: tuple  # TextWorld types
    name2type: dict  # from an object's name to its type's name
    facts: tuple  # the initial Propositions
    parameters: dict  # from an action's name to its Placeholders
    dynamic: frozenset  # names of the predicates that some action changes


def read_game(path: str) -> dict:
    """Reads a game.tw-pddl file.

    Args:
      path: the file.

    Returns:
      The game: a dict with the keys pddl_domain, grammar and pddl_problem at least.

    Raises:
      FileNotFoundError: there is no such file.
      ValueError: the file is not a game.
    """
    if not os.path.isfile(path):
        raise FileNotFoundError(
            f"There is no game file {path}: list the games again, the data set was "
            "moved or is incomplete."
        )
    try:
        with open(path, encoding="utf-8") as file:
            game = json.load(file)
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(
            f"The game file {path} is not readable as JSON ({error}): make or download "
            "it again."
        ) from None
    missing = [key for key in GAME_KEYS if not isinstance(_get(game, key), str)]
    if missing:
        raise ValueError(
            f"The game file {path} has no {', '.join(missing)}: make or download it "
            "again."
        )
    return game


def _get(game, key):
    return game.get(key) if isinstance(game, dict) else None


@functools.lru_cache(maxsize=512)
def translate(domain: str, problem: str) -> Translation:
    """Translates a PDDL problem as the stock engine does (nothing pruned).

    Raises:
      ValueError: the translator does not understand the problem.
    """
    argv, stdout = sys.argv, sys.stdout  # the translator changes both
    try:
        task, sas = fast_downward.pddl2sas(domain, problem)
    except (SystemExit, Exception) as error:
        raise ValueError(
            f"The PDDL problem cannot be translated ({error}): make or download the "
            "game again."
        ) from error
    finally:
        sys.argv, sys.stdout = argv, stdout
    name2type = {thing.name: thing.type_name for thing in task.objects}
    things = {name: Variable(name, type_) for name, type_ in name2type.items()}
    facts = [_fact(atom, things) for atom in task.init]
    parameters, dynamic = {}, set()
    for action in task.actions:
        parameters[action.name] = tuple(
            Placeholder(p.name.strip("?"), p.type_name) for p in action.parameters
        )
        dynamic |= {effect.literal.predicate for effect in action.effects}
    return Translation(
        sas=zlib.compress(sas.encode("utf-8"), 1),
        types=tuple(
            textworld.logic.Type(t.name, t.supertype_names) for t in task.types
        ),
        name2type=name2type,
        facts=tuple(fact for fact in facts if fact is not None),
        parameters=parameters,
        dynamic=frozenset(dynamic),
    )


def _fact(atom, things) -> Proposition | None:
    if isinstance(atom, PddlAtom) and atom.predicate != "=":
        return Proposition(atom.predicate, [things[arg] for arg in atom.args])
    if isinstance(atom, Assign) and atom.fluent.symbol != "total-cost":
        name = str(atom.expression.value)
        if not name.isdigit():
            return Proposition(name, [things[arg] for arg in atom.fluent.args])
    return None


class State(PddlState):
    """The stock state over a cached translation; facts are kept sorted for queries."""

    def __init__(self, library, translation: Translation, logic):
        # The stock initialiser would translate twice; this takes its place.
        self._facts = defaultdict(set)
        self._vars_by_name = {}
        self._vars_by_type = defaultdict(set)
        self._var_counts = Counter()
        self._sorted = {}
        self._logic = logic
        self.downward_lib = library
        self.name2type = translation.name2type
        for type_ in translation.types:
            try:
                logic.types.add(type_)
            except ValueError:  # the type is known from an earlier game
                continue
        library.load_sas(zlib.decompress(translation.sas))
        self.add_facts(translation.facts)
        atoms = (Atom * library.get_state_size())()
        library.get_state(atoms)
        for atom in atoms:
            fact = atom.get_fact(self.name2type)
            if not fact.is_negation:
                self.add_fact(fact)

    def facts_with_signature(self, sig):
        if sig not in self._sorted:
            self._sorted[sig] = sorted(self._facts.get(sig, ()))
        return self._sorted[sig]

    def add_fact(self, prop):
        self._sorted.pop(prop.signature, None)
        super().add_fact(prop)

    def remove_fact(self, prop):
        self._sorted.pop(prop.signature, None)
        super().remove_fact(prop)

    def operators(self) -> dict[str, fast_downward.Operator]:
        """The applicable operators by name, each name once."""
        found = (fast_downward.Operator * self._count())()
        self.downward_lib.get_applicable_operators(found)
        operators = {}
        for operator in found:
            operators.setdefault(operator.name, operator)
        return operators

    def _count(self) -> int:
        return self.downward_lib.get_applicable_operators_count()

    def apply(self, operator) -> None:
        effects = (Atom * operator.nb_effect_atoms)()
        self.downward_lib.apply_operator(operator.id, effects)
        for effect in effects:
            fact = effect.get_fact(self.name2type)
            self.remove_fact(fact.negate())
            self.add_fact(fact)


class Engine(PddlEnv):
    """Plays `game.tw-pddl` files; the stock `PddlEnv`, faster."""

    def __init__(self, infos: textworld.EnvInfos | None = None):
        # The stock initialiser would copy the whole library.
        textworld.Environment.__init__(self, infos)
        self.downward_lib = load_library()

    def load(self, filename_or_data) -> None:
        game = filename_or_data
        if isinstance(game, str | os.PathLike):
            game = read_game(os.fspath(game))
        self._game_data = game
        self.walkthrough = game.get("walkthrough")
        self._logic, rules = render.load_logic(game["pddl_domain"], game["grammar"])
        self._translation = translate(game["pddl_domain"], game["pddl_problem"])
        self._pddl_state = State(self.downward_lib, self._translation, self._logic)
        self._entity_infos = self._get_entity_infos()
        self._renderer = render.Renderer(rules, self._entity_infos)
        self._fixed_commands = {}
        self._fresh = True
        self._fixed_templates = {
            name
            for name, action in self._logic.actions.items()
            if self._translation.dynamic.isdisjoint(_PREDICATE.findall(action.template))
        }

    def reset(self) -> GameState:
        if not self._fresh:
            self._pddl_state = State(self.downward_lib, self._translation, self._logic)
        self._fresh = False
        self.prev_state = None
        self.state = GameState()
        self._last_action = None
        self._moves = 0
        self._say(self._renderer.derive("#intro#", self._pddl_state, {}))
        if "walkthrough" in self.request_infos.extras:
            self.state["extra.walkthrough"] = self.walkthrough
        return self.state

    def step(self, command: str):
        command = command.strip()
        self.prev_state = self.state
        self.state = GameState()
        self.state.last_command = command
        operator = self._commands.get(command)
        self._last_action = operator
        if operator is None:
            self._say("Nothing happens.")
        else:
            self._pddl_state.apply(operator)
            self._moves += 1
            name, mapping = self._bind(operator.name)
            rule = self._logic.actions[name].feedback_rule
            self._say(self._renderer.derive(rule, self._pddl_state, mapping))
        if "walkthrough" in self.request_infos.extras:
            self.state["extra.walkthrough"] = self.walkthrough
        self.state["score"] = 1 if self.state["won"] else 0
        self.state["done"] = self.state["won"]
        return self.state, self.state["score"], self.state["done"]

    def _say(self, feedback: str) -> None:
        self.state.feedback = feedback
        self.state.raw = feedback
        self._gather_infos()

    def _gather_infos(self) -> None:
        self.state["won"] = self._pddl_state.check_goal()
        self.state["lost"] = False
        if self.request_infos.facts:
            # Sorted: the order of the set itself changes from process to process.
            self.state["facts"] = sorted(
                map(self._get_human_readable_fact, self._pddl_state.facts)
            )
        self._commands = {}
        for name, operator in self._pddl_state.operators().items():
            self._commands.setdefault(self._command(name), operator)
        self.state["admissible_commands"] = sorted(self._commands)
        if self.request_infos.moves:
            self.state["moves"] = self._moves

    def _bind(self, operator_name: str):
        name, *arguments = operator_name.split()
        parameters = self._translation.parameters[name]
        # The translator appends parameters of its own; the name holds the first ones.
        pairs = zip(parameters, arguments, strict=False)
        return name, {ph: Variable(arg, ph.type) for ph, arg in pairs}

    def _command(self, operator_name: str) -> str:
        if operator_name in self._fixed_commands:
            return self._fixed_commands[operator_name]
        name, mapping = self._bind(operator_name)
        template = self._logic.actions[name].template
        command = self._renderer.derive(template, self._pddl_state, mapping)
        if name in self._fixed_templates:
            self._fixed_commands[operator_name] = command
        return command
