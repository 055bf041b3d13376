"""Reading a response: the published reader, and ours."""

import json

import pytest
import reference
from reference import mutated

from hiper_jax.act import format as module
from hiper_jax.act.format import Reply, read_response

GOOD = "<switch>SWITCH</switch>\n<subgoal>Find X</subgoal>\n<action>Go North </action>"


def check_published(read):
    responses = json.loads((reference.GOLDEN / "responses.json").read_text())
    for number, response in enumerate(responses):
        for environment in ("alfworld", "webshop"):
            reply = read(response["decoded"], environment=environment, mode="paper")
            assert reply._asdict() == response[environment], f"response {number}"


def test_published_readings():
    check_published(read_response)


@pytest.mark.parametrize(
    "old, new",
    [
        ('Reply(action, "", switch, False)', 'Reply(action, "", switch, True)'),
        ("action[-30:] if left is None else left", '"None"'),
        ("action[-30:] if left is None else left", "action[-30:]"),
        ("tail=world.tail", "tail=30"),
        ('Reply(action, "", published.switch, False)', 'Reply(action, "", "", False)'),
        ('_first_block(text.lower(), "action")', '_first_block(text, "action")'),
        (
            "subgoal.strip(), switch, not _CJK.search(text)",
            "subgoal.strip(), switch, True",
        ),
    ],
)
def test_seeded_faults_are_caught(old, new):
    with pytest.raises(AssertionError, match="response"):
        check_published(mutated(module, old, new).read_response)


def test_both_readers_act_alike():
    """The corrections touch what is learned from, not what is done."""
    responses = json.loads((reference.GOLDEN / "responses.json").read_text())
    for response in responses:
        for environment in ("alfworld", "webshop"):
            published = response[environment]
            reply = read_response(response["decoded"], environment=environment)
            assert (reply.action, reply.valid) == (
                published["action"],
                published["valid"],
            )
            if reply.valid:
                assert reply._asdict() == published


@pytest.mark.parametrize("mode", ["corrected", "paper"])
def test_a_good_response(mode):
    reply = read_response(GOOD, mode=mode)
    assert reply == Reply("go north", "Find X", "SWITCH", True)


@pytest.mark.parametrize(
    "text, wanted",
    [
        (GOOD.replace("SWITCH", "MAYBE"), Reply("go north", "Find X", "KEEP", False)),
        (GOOD.replace("SWITCH", ""), Reply("go north", "Find X", "KEEP", False)),
        (GOOD.replace("SWITCH", " keep\n"), Reply("go north", "Find X", "KEEP", True)),
        (GOOD.replace("action", "ACTION"), Reply("go north", "Find X", "SWITCH", True)),
        (GOOD.replace("Find", "找"), Reply("go north", "找 X", "SWITCH", False)),
        (GOOD.partition("<action>")[0], None),
        ("", Reply("", "", "KEEP", False)),
        ("</action>" + GOOD, Reply("go north", "Find X", "SWITCH", True)),
        ("<action>a</action>", Reply("a", "", "KEEP", False)),
        # A long s is no s: not a tag, though Unicode case folding says so.
        (GOOD.replace("<s", "<\u017f", 1), Reply("go north", "Find X", "KEEP", False)),
    ],
)
def test_corrected_reading(text, wanted):
    reply = read_response(text)
    assert reply == (wanted or Reply(text.lower()[-30:], "Find X", "SWITCH", False))


def test_bad_input_is_named():
    with pytest.raises(ValueError, match="no world 'chess'; choose one of alfworld"):
        read_response("", environment="chess")
    with pytest.raises(ValueError, match="mode must be"):
        read_response("", mode="strict")
