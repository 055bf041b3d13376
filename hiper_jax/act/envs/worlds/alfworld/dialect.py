"""ALFWorld's rules by version: recognised in a game file, never executed.

A game file carries its PDDL domain and its grammar; the stock engine compiles the one
and evaluates the other. ALFWorld has published one domain and one grammar in a few
wordings. Here they are recognised: the known differences are set aside, and the hash of
the rest must be the known one. The task sentence is taken out first; it is only text.
"""

import functools
import hashlib
import json
import pathlib
import re
from typing import NamedTuple

# The texts of ALFWorld 0.4.2. Made games that leave them out name them by these.
DOMAIN_FILE = "sha256:f1473041ed01da514de1f87adfd7ef0804862361f83ccf63c75e43633b0eb280"
GRAMMAR_FILE = "sha256:c5b22f0f73309a7fd7c8e5b71de42ad4803b60766ab4a51cc2feb34162be036b"
# The same without `help`, comments and line breaks: what all versions share.
_DOMAIN = "b0b8259a4e11c9f45e91c181404bde4c2c936ad872fdc4d368c7e63094eaafac"
_GRAMMAR = "15a27850c9c8fd5e17bea1e5d1b3458a3a7f9b427d39506743ae049e6310b89b"

TASK = "Your task is to: "
MAX_TASK = 2_000  # characters
HELP = """\
Available commands:
  look:                             look around your current location
  inventory:                        check your current inventory
  go to (receptacle):               move to a receptacle
  open (receptacle):                open a receptacle
  close (receptacle):               close a receptacle
  take (object) from (receptacle):  take an object from a receptacle
  move (object) to (receptacle):  place an object in or on a receptacle
  examine (something):              examine a receptacle or an object
  use (object):                     use an object
  heat (object) with (receptacle):  heat an object using a receptacle
  clean (object) with (receptacle): clean an object using a receptacle
  cool (object) with (receptacle):  cool an object using a receptacle
  slice (object) with (object):     slice an object using a sharp object
"""

_COMMENT = re.compile(r";[^\n]*")
_WORD = re.compile(r"[()]|[^\s()]+")
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff]")
_STRING = r'"(?:[^"\\]|\\.)*"'
_SENTENCE = re.compile(rf'"rhs"\s*:\s*(?="{TASK})({_STRING})')
_HELP_ACTION = (
    "( :action help :parameters ( ?a - agent ) :precondition ( ) "
    ":effect ( and ( checked ?a ) ) ) "
)
_HELP_RULE = re.compile(
    r'action help \{ template :: "help"; feedback :: "#help\.feedback#"; grammar :: '
    r'""" \{ "help\.feedback": \[ \{ "rhs": (TEXT) \} \] \} """; \}'.replace(
        " ", r"\s+"
    ).replace("TEXT", _STRING)
)
_SINK = "( receptacletype ?r sinktype ) "
_BASIN = "( or ( receptacletype ?r sinkbasintype ) )"


class Dialect(NamedTuple):
    """In what the versions of ALFWorld differ."""

    put: str = "move {} to {}"  # the command: a thing, a place
    did_put: str = "You move the {} to the {}."
    arrive_at_location: bool = False  # "You arrive at loc 3.", not "... at shelf 1."
    help: str | None = HELP  # the answer to `help`; None: there is no such command
    washers: frozenset = frozenset({"sinkbasintype"})  # receptacles that clean


def recognise(game: dict) -> tuple[Dialect, str]:
    """Tells which of ALFWorld's rules a game follows, and finds its task.

    Args:
      game: the content of a game.tw-pddl file.

    Returns:
      The dialect and the task sentence.

    Raises:
      ValueError: the game follows rules of its own.
    """
    domain, grammar = game["pddl_domain"], game["grammar"]
    if (domain, grammar) == (DOMAIN_FILE, GRAMMAR_FILE):
        return Dialect(), check_task(game.get("task"))
    found = _SENTENCE.search(grammar)
    if found is None:
        raise ValueError(f"The game's grammar says no '{TASK.strip()}'.")
    blank = grammar[: found.start(1)] + f'"{TASK}"' + grammar[found.end(1) :]
    try:
        sentence = json.loads(found[1])
    except ValueError as error:
        raise ValueError(f"The game's task is no JSON string ({error}).") from None
    sentence = check_task(sentence.removeprefix(TASK))
    has_help, washers = _domain(domain)
    dialect, answer = _grammar(blank)
    if has_help and answer is None:
        raise ValueError("The game's domain has an action, help, without a text.")
    dialect = dialect._replace(washers=washers, help=answer if has_help else None)
    return dialect, sentence


def check_task(sentence) -> str:
    """A task sentence, once it is one line; ValueError where it is not."""
    if not isinstance(sentence, str):
        raise ValueError("The game file has no task: make the game again.")
    if len(sentence) > MAX_TASK or _CONTROL.search(sentence):
        raise ValueError(
            f"The game's task is not one line of at most {MAX_TASK:,} characters."
        )
    return sentence


@functools.lru_cache(maxsize=1)
def stock_texts() -> tuple[str, str]:
    """ALFWorld's domain and grammar, from the alfworld package.

    Raises:
      ImportError: the package is not installed.
      ValueError: another version of it is.
    """
    try:
        from alfworld.info import ALFRED_PDDL_PATH, ALFRED_TWL2_PATH
    except ImportError as error:
        raise ImportError(
            "ALFWorld's own texts come with the alfworld package: pip install "
            f"'hiper-jax[reference]' ({error})."
        ) from error
    texts = []
    for path, name in (
        (ALFRED_PDDL_PATH, DOMAIN_FILE),
        (ALFRED_TWL2_PATH, GRAMMAR_FILE),
    ):
        text = pathlib.Path(path).read_bytes()
        if f"sha256:{hashlib.sha256(text).hexdigest()}" != name:
            raise ValueError(
                f"{path} is not that of alfworld 0.4.2: install that version."
            )
        texts.append(text.decode())
    return texts[0], texts[1]


def with_texts(game: dict) -> dict:
    """The game with the texts that it names in it, as the stock tools need it.

    Raises:
      ImportError: the alfworld package is not installed.
      ValueError: another version of it is.
    """
    if (game["pddl_domain"], game["grammar"]) != (DOMAIN_FILE, GRAMMAR_FILE):
        return game
    domain, grammar = stock_texts()
    sentence = json.dumps(recognise(game)[1])[1:-1]
    grammar = grammar.replace("UNKNOWN GOAL.", sentence)
    rest = {key: value for key, value in game.items() if key != "task"}
    return rest | {"pddl_domain": domain, "grammar": grammar}


def _unknown(what: str) -> ValueError:
    return ValueError(
        f"The game's {what} is not ALFWorld's (0.2 to 0.4), which is all that the "
        'native engine plays: set engine="textworld", if you trust the file, for the '
        "stock engine runs what a grammar says."
    )


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


@functools.lru_cache(maxsize=8)
def _domain(text: str) -> tuple[bool, frozenset]:
    """Whether the domain has `help`, and what cleans."""
    shared = " ".join(_WORD.findall(_COMMENT.sub("", text).lower()))
    washers = set(Dialect().washers)
    both = _BASIN.replace("( or ", "( or " + _SINK)
    if both in shared:
        shared = shared.replace(both, _BASIN)
        washers.add("sinktype")
    has_help = _HELP_ACTION in shared
    if _digest(shared.replace(_HELP_ACTION, "", 1)) != _DOMAIN:
        raise _unknown("domain")
    return has_help, frozenset(washers)


@functools.lru_cache(maxsize=8)
def _grammar(text: str) -> tuple[Dialect, str | None]:
    """The wording of a grammar whose task is left blank, and its help text."""
    found = _HELP_RULE.search(text)
    # The stock engine takes white space that begins a text for a comment.
    answer = json.loads(found[1]).lstrip() if found else None
    shared = " ".join(_HELP_RULE.sub(" ", text, count=1).split())
    dialect = Dialect()
    for field, old, new in _WORDINGS:
        if old in shared:
            shared = shared.replace(old, new)
            dialect = dialect._replace(**field)
    if _digest(shared) != _GRAMMAR:
        raise _unknown("grammar")
    return dialect, answer


_WORDINGS = (  # of versions before 0.4: what they change, their words, those of 0.4
    (
        {"arrive_at_location": True},
        '"rhs": "You arrive at {lend.name}. #examineReceptacle.feedback#"',
        '"rhs": "You arrive at {r.name}. #examineReceptacle.feedback#"',
    ),
    (
        {"did_put": "You put the {} in/on the {}."},
        '"rhs": "You put the {o.name} in/on the {r.name}."',
        '"rhs": "You move the {o.name} to the {r.name}."',
    ),
    (
        {"put": "put {} in/on {}"},
        'action PutObject { template :: "put {o} in/on {r}";',
        'action PutObject { template :: "move {o} to {r}";',
    ),
    (
        {},  # an action that no domain has
        'action PutEmptyReceptacleObjectinReceptacle { template :: "put {o} in/on {r}"',
        'action PutEmptyReceptacleObjectinReceptacle { template :: "move {o} to {r}"',
    ),
)
