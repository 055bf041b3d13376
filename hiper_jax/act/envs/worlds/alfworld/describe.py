"""Text of a game state: TextWorld's context-sensitive grammar, read without copies.

TextWorld re-parses every template and deep-copies every context each time it derives a
sentence, which is most of the cost of a step. The renderer here walks the rules that
TextWorld itself parsed, and gives the same strings.
"""

import functools
import json
import re
from typing import Any

from tatsu.exceptions import ParseException
from textworld.envs.pddl import logic as pddl_logic
from textworld.envs.pddl import textgen
from textworld.logic import Rule

_TASK = re.compile(r'("rhs"\s*:\s*)("Your task is to: (?:[^"\\]|\\.)*")')
_UNSET = '"Your task is to: ."'


@functools.lru_cache(maxsize=4096)
def _symbols(text: str) -> tuple:
    return tuple(textgen._parse_and_convert(text, rule_name="symbols"))


@functools.lru_cache(maxsize=4096)
def _query(text: str) -> Rule:
    return Rule.parse_conjunctive_query(text)


@functools.lru_cache(maxsize=4096)
def _code(expression: str):
    return compile(expression.strip(), "<grammar>", "eval")


@functools.lru_cache(maxsize=4)
def _parse(domain: str, grammar: str) -> pddl_logic.GameLogic:
    try:
        return pddl_logic.GameLogic(domain=domain, grammar=grammar)
    except (ParseException, ValueError) as error:
        where = str(error).partition("\n")[0]
        raise ValueError(
            f"The game's grammar cannot be read ({where}): make or download the game "
            "again."
        ) from error


def load_logic(domain: str, grammar: str) -> tuple[pddl_logic.GameLogic, dict]:
    """Parses a game's grammar; games that differ in the task sentence share the work.

    Args:
      domain: the PDDL domain's text.
      grammar: the TWL2 grammar's text, with the task sentence in it.

    Returns:
      The game logic (actions and their templates) and the grammar's rules: a dict from
      a symbol to a tuple of (condition, symbols).
    """
    sentence = _TASK.search(grammar)
    shared = _TASK.sub(rf"\g<1>{_UNSET}", grammar, count=1) if sentence else grammar
    logic = _parse(domain, shared)
    rules = {
        name: tuple((rule.condition, tuple(rule.rhs)) for rule in alternatives)
        for name, alternatives in logic.grammar._rules.items()
    }
    if sentence:
        rules["task"] = (("", _symbols(json.loads(sentence.group(2)))),)
    return logic, rules


class Renderer:
    """Derives sentences from a grammar's rules in a given state."""

    def __init__(self, rules: dict, entities: dict):
        """
        Args:
          rules: what `load_logic` returned.
          entities: from an object's PDDL name to its TextWorld `EntityInfo`.
        """
        self._rules = rules
        self._entities = entities

    def derive(self, text: str, state: Any, mapping: dict) -> str:
        """Derives `text` in `state`, with the placeholders of `mapping` bound."""
        variables = {ph.name: self._entities[var.name] for ph, var in mapping.items()}
        return self._sequence(_symbols(text), state, variables, mapping)

    def _sequence(self, symbols, state, variables, mapping) -> str:
        return "".join(
            self._one(symbol, state, variables, mapping) for symbol in symbols
        )

    def _one(self, symbol, state, variables, mapping) -> str:
        if isinstance(symbol, textgen.TerminalSymbol):
            return str(symbol.symbol)
        if isinstance(symbol, textgen.NonterminalSymbol):
            for condition, symbols in self._rules[str(symbol)]:
                if not condition or _holds(condition, state, mapping):
                    return self._sequence(symbols, state, variables, mapping)
            raise ValueError(
                f"The game's grammar has no applicable rule for '{symbol}': "
                "the game file is damaged, make or download it again."
            )
        if isinstance(symbol, textgen.EvalSymbol):
            return str(eval(_code(symbol.expression), {}, variables))
        if isinstance(symbol, textgen.ListSymbol):
            items = self._items(symbol.symbol, state, variables, mapping)
            return self._listing(items, state, variables, mapping)
        return "".join(self._items(symbol, state, variables, mapping))

    def _items(self, symbol, state, variables, mapping) -> list[str]:
        if not symbol.given:
            return [self._one(symbol.expression, state, variables, mapping)]
        items = []
        for match in state.all_assignments(_query(symbol.given), mapping):
            match = dict(match)
            bound = variables | {
                ph.name: self._entities[var.name] for ph, var in match.items()
            }
            items.append(self._one(symbol.expression, state, bound, mapping | match))
        return items

    def _listing(self, items, state, variables, mapping) -> str:
        def word(name):
            return self._one(textgen.NonterminalSymbol(name), state, variables, mapping)

        if not items:
            return word("list_empty")
        if len(items) == 1:
            return items[0]
        head = word("list_separator").join(items[:-1])
        return head + word("list_last_separator") + items[-1]


def _holds(condition, state, mapping) -> bool:
    matches = state.all_assignments(_query(condition), mapping)
    return next(iter(matches), None) is not None
