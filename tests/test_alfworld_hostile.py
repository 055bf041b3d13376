"""Game files from strangers: nothing in them runs, and no bomb takes a second."""

import contextlib
import gc
import json
import time

import pytest

from hiper_jax.act.envs.worlds.alfworld import brackets, dialect, game, native

ROOM = """(define (problem p) (:domain alfred)
(:objects agent1 - agent apple_bar_1 - object appletype - otype
          desk_bar_1 bed_bar_1 - receptacle desktype bedtype - rtype l m s - location)
(:init (atLocation agent1 s) (receptacleAtLocation desk_bar_1 l)
       (receptacleAtLocation bed_bar_1 m) (receptacleType desk_bar_1 desktype)
       (receptacleType bed_bar_1 bedtype) (objectType apple_bar_1 appletype)
       (pickupable apple_bar_1) (canContain bedtype appletype)
       (inReceptacle apple_bar_1 desk_bar_1) (objectAtLocation apple_bar_1 l) MORE)
(:goal (and (exists (?r - receptacle ?o - object) (and (inReceptacle ?o ?r)
       (objectType ?o appletype) (receptacleType ?r bedtype))))))"""
RUNS = "__import__('pathlib').Path(r'{}').touch()"


def _content(problem=ROOM, **changes):
    return {
        "pddl_domain": dialect.DOMAIN_FILE,
        "grammar": dialect.GRAMMAR_FILE,
        "task": "put an apple in bed.",
        "pddl_problem": problem.replace("MORE", ""),
    } | changes


@contextlib.contextmanager
def within_a_second():
    """Of this thread's own work: other processes and other tests' garbage wait."""
    gc.disable()
    began = time.thread_time()
    try:
        yield
    finally:
        gc.enable()
    assert time.thread_time() - began < 1


@pytest.fixture
def refused(tmp_path):
    """Loads a game that must be refused: in one line, within a second."""

    def load(content, message):
        path = tmp_path / "game.tw-pddl"
        path.write_text(content if isinstance(content, str) else json.dumps(content))
        with within_a_second(), pytest.raises(ValueError, match=message) as caught:
            native.Engine().load(str(path))
        assert "\n" not in str(caught.value) and len(str(caught.value)) < 600

    return load


def test_code_in_a_grammar_never_runs(refused, tmp_path):
    pytest.importorskip("alfworld", reason="it has the texts to change")
    whole, trap = dialect.with_texts(_content()), tmp_path / "ran"
    code = RUNS.format(trap)
    for old, new in (
        ("You close the {r.name}.", f"You close {{{code}}}."),
        ("{r.indefinite} {r.name or r.id}", f"{{{code}}}"),
        ('template :: "look"', f'template :: "{{{code}}}"'),
        ("holdsany(a:agent)", f"holdsany({code})"),
    ):
        assert old in whole["grammar"]
        changed = whole["grammar"].replace(old, new)
        refused(whole | {"grammar": changed}, "grammar is not ALFWorld's.*textworld")
    changed = whole["pddl_domain"].replace("(opened ?r)", "(opened ?l)")
    refused(whole | {"pddl_domain": changed}, "domain is not ALFWorld's.*textworld")
    assert not trap.exists()


def test_a_task_is_a_text_whatever_it_says(tmp_path):
    trap = tmp_path / "ran"
    path = tmp_path / "game.tw-pddl"
    task = f'put {{{RUNS.format(trap)}}} #intro# [{{o.name | holds(a, o)}}] in \\ " bed'
    contents = [_content(task=task)]
    try:
        contents.append(dialect.with_texts(contents[0]))
    except ImportError:
        pass
    for content in contents:
        path.write_text(json.dumps(content))
        engine = native.Engine()
        engine.load(str(path))
        assert engine.reset().text.endswith(f"\n\nYour task is to: {task}")
        path.unlink()
    assert not trap.exists()


def test_a_task_is_one_line_that_can_be_printed(refused):
    for task in ("put it\nthere", "x" * 10_000, "\ud800", "\x1b[2J", None):
        refused(_content(task=task), "task")


def test_bombs_are_refused_within_a_second(refused):
    fact = "(inReceptacle apple_bar_1 desk_bar_1) "
    facts = (f"(pickupable apple_bar_{i}) " for i in range(10**6))
    refused(_content(ROOM.replace("MORE", "".join(facts))), "bytes")
    refused(_content(ROOM.replace("MORE", "(a b)" * 100_000)), "words")
    some = "".join(f"(openable x{i})" for i in range(30_000))
    refused(_content(ROOM.replace("MORE", some)), "facts")
    refused(_content(ROOM.replace("MORE", "(" * 10**5)), "nest deeper")
    refused(_content("(" * 10**5), "nest deeper")
    refused(_content(ROOM.replace("MORE", fact * 100) + ")" * 10**5), "never opened")
    refused("[" * 10**6, "not readable as JSON")
    refused('{"a":' * 10**5, "not readable as JSON")
    refused(json.dumps(_content()).replace("task", "9" * 10**5), "no task")
    many = " ".join(f"thing_bar_{i}" for i in range(3000))
    told = "".join(f"(pickupable {name})" for name in many.split())
    room = ROOM.replace("- object ", f"{many} - object ", 1).replace("MORE", told)
    refused(_content(room), "receptacles and objects")


def test_goals_that_would_take_forever_are_refused(refused):
    variables = " ".join(f"?o{i}" for i in range(9))
    heavy = " ".join(f"(pickupable ?o{i})" for i in range(9))
    head = ROOM.replace("MORE", "").partition("(:goal")[0]
    for goal in (
        f"(and (exists ({variables} - object) (and {heavy})))",
        "(and (forall (?o - object) (pickupable ?o)))",
        "(or (pickupable apple_bar_1))",
        "(and (exists (?o - object ?a - agent) (and (holds ?a ?o))))",
        "(and)",
        "()",
        "(and " * 30 + ")" * 30,
    ):
        refused(_content(f"{head} (:goal {goal}))"), "goal is that of none.*textworld")


def test_a_thing_inside_itself_does_no_harm(tmp_path):
    content = _content(
        ROOM.replace("apple_bar_1 -", "apple_bar_1 pot_bar_1 -", 1).replace(
            "MORE",
            "(inReceptacleObject apple_bar_1 pot_bar_1)"
            "(inReceptacleObject pot_bar_1 apple_bar_1)"
            "(inReceptacleObject apple_bar_1 apple_bar_1)"
            "(isReceptacleObject apple_bar_1)",
        )
    )
    engine = native.Engine()
    engine.restore((game.read_game(content), game.read_game(content).start))
    engine.step("go to desk 1")
    engine.step("take apple 1 from desk 1")
    said = engine.step("examine apple 1").text
    assert said == "This is a normal apple 1. In it, you see a pot 1."


@pytest.mark.parametrize(
    "old, new, message",
    [
        ("(define", "(defined", "define"),
        ("alfred", "other", "domain alfred"),
        ("agent1 - agent", "agent1 agent2 - agent", "one agent"),
        ("(atLocation agent1 s)", "", "one place"),
        ("MORE", "(atLocation agent1 l)", "one place"),
        ("MORE", "(receptacleAtLocation desk_bar_1 m)", "two places"),
        ("MORE", "(openable nothing)", "does not declare"),
        ("MORE", "(openable apple_bar_1)", "cannot be said"),
        ("MORE", "(openable desk_bar_1 bed_bar_1)", "cannot be said"),
        ("MORE", "(openable (desk_bar_1))", "list of words"),
        ("MORE", "word", "list of words"),
        ("MORE", "()", "list of words"),
        ("l m s - location", "l m s l - location", "twice"),
        ("l m s - location", "l m s -", "without a type"),
        ("l m s - location", "l m s - (location)", "without a type"),
        ("- rtype", "- kind", "cannot be said"),
        ("(:init", "(:goal", "domain, objects, init and goal"),
        ("MORE", "(openable dés)", "characters"),
        ("(define", "() (define", "one bracketed form"),
    ],
)
def test_a_problem_that_makes_no_sense_is_refused(old, new, message, refused):
    refused(_content(ROOM.replace(old, new, 1)), f"{message}.*textworld")


def test_reading_takes_time_in_proportion_to_the_text():
    def seconds(size):
        text, spent = "(" + "(a (b c)) " * size + ")", []
        for _ in range(5):
            began = time.process_time()
            brackets.read_form(text)
            spent.append(time.process_time() - began)
        return min(spent)

    # 20 times the text; 400 would be quadratic.
    assert seconds(40_000) < 120 * seconds(2_000)


def test_the_largest_room_is_read_and_played_at_once():
    names = [f"{kind}_bar_{i}" for kind in ("box", "bowl") for i in range(950)]
    told = [f"(inReceptacle {n} desk_bar_1) (objectAtLocation {n} l)" for n in names]
    told += [f"({what} {n})" for n in names for what in ("pickupable", "sliceable")]
    room = ROOM.replace("- object ", f"{' '.join(names)} - object ", 1)
    with within_a_second():
        whole = game.read_game(_content(room.replace("MORE", " ".join(told))))
        engine = native.Engine()
        engine.restore((whole, whole.start))
        for word in ("go to desk 1", "take bowl 950 from desk 1", "look", "inventory"):
            seen = engine.step(word)
    assert seen.text == "You are carrying: a bowl 950."
