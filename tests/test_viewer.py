"""All episodes in one page: nothing lost, nothing run, whatever was said in them."""

import base64
import dataclasses
import json
import re
import zlib

import fake_run
import numpy as np
import pytest
import small
from test_report import Page

from hiper_jax import workdir
from hiper_jax.act.episode import Strategy
from hiper_jax.experiments.report import viewer
from hiper_jax.experiments.report.blocks import (
    FIRST,
    Vocabulary,
    block,
    letter,
    packed,
    summaries,
)
from hiper_jax.experiments.report.report import write_report

NASTY = "</script><script>alert(1)</script><!--\u2028\u202e\x1b[31m\x00'\"\\`${x}]]>"
SHOWN = NASTY.replace("\u2028", "\\u2028").replace("\u202e", "\\u202e")
SHOWN = SHOWN.replace("\x1b", "\\x1b").replace("\x00", "\\x00")


def unpacked(text):
    return json.loads(zlib.decompress(base64.b64decode(text)))


def places(word):
    codes = map(ord, word)
    return [c - FIRST if c < 0xE000 else c - FIRST - 0x800 for c in codes]


def known():
    codec = small.codec()
    return Vocabulary(small.agent()[0].pieces, codec.unread)


def test_letters_are_text_of_json_and_come_back():
    """0xD800 to 0xDFFF are halves of characters and letters of nothing."""
    some = [0, 1, 33, 34, 1000, 0xD800 - FIRST - 1, 0xD800 - FIRST, 60000, 500000]
    word = "".join(map(letter, some))
    assert places(json.loads(json.dumps(word).encode())) == some
    assert json.dumps(word, ensure_ascii=False) == f'"{word}"'  # nothing is escaped
    word.encode()


def test_a_block_holds_all_that_the_episodes_hold():
    rng = np.random.default_rng(0)
    episodes = [
        dataclasses.replace(
            e,
            credit={"shaped_reward": [0.12345] * len(e.turns), "odd": [float("nan")]},
            turns=tuple(
                dataclasses.replace(
                    turn, log_prob=-(rng.uniform(0, 9, len(turn.response)) ** 3)
                )
                for turn in e.turns
            ),
        )
        for e in small.episodes()
    ]
    made = unpacked(packed(block(episodes, {}, known())))
    ids = [token for token, *_ in made["tokens"]]
    spelled = {token: text for token, text, *_ in made["tokens"]}
    columns = iter(zip(*made["turns"], strict=True))
    for episode, told in zip(episodes, made["episodes"], strict=True):
        names = [made["texts"][place] for place in told[:3]]
        assert names == [episode.game, episode.task, episode.task_type]
        assert told[3] == episode.won + 2 * episode.terminated + 4 * episode.truncated
        assert told[5]["shaped_reward"] == [123] * len(episode.turns)
        assert told[5]["odd"] == [None] and told[6:] == [len(episode.turns), None]
        for turn in episode.turns:
            prompt, response, logs, bits, seen, listed, did, subgoal, *rest = next(
                columns
            )
            assert [ids[k] for k in places(prompt)] == turn.prompt.tolist()
            assert [ids[k] for k in places(response)] == turn.response.tolist()
            sizes = np.exp(np.array(places(logs)) / 100) * 1e-7
            np.testing.assert_allclose(-sizes, turn.log_prob, rtol=0.00502, atol=1e-7)
            assert len(bits) == len(turn.response)
            texts = [made["texts"][k] for k in (seen, did, subgoal)]
            assert texts == [turn.observation, turn.action, turn.subgoal]
            assert tuple(made["texts"][k] for k in places(listed)) == turn.admissible
            flags, reward, text = rest
            assert [bool(flags & 1 << n) for n in range(5)] == [
                turn.switch,
                turn.said_switch,
                turn.format_valid,
                turn.action_valid,
                turn.prompt_truncated,
            ]
            assert reward == 1000 * turn.reward
            said = "".join(spelled[i] for i in turn.response[:-1].tolist())
            assert text == -1 and said == turn.text
    assert next(columns, None) is None


def test_a_strategy_goes_with_its_judgement():
    nothing = np.array([], np.int32)
    strategy = Strategy(
        text=NASTY,
        prompt=nothing,
        response=nothing,
        log_prob=nothing.astype(np.float32),
        number=0,
        candidate=2,
    )
    episode = dataclasses.replace(small.episodes()[0], strategy=strategy)
    for flagged, told in (((1, 3), [1, 3]), ((), []), (None, None)):
        made = block([dataclasses.replace(episode, flagged=flagged)], {}, known())
        place, *rest = made["episodes"][0][7]
        assert made["texts"][place] == SHOWN and rest == [2, told]


def test_part_of_a_character_has_its_bytes():
    """A byte-level tokenizer may cut one in pieces."""
    tokens = np.array(small.codec().encode_response("é"), np.int32)
    first = small.episodes()[0]
    turn = dataclasses.replace(first.turns[0], response=tokens, log_prob=0.0 * tokens)
    made = block([dataclasses.replace(first, turns=(turn,))], {}, known())
    parts = {i: rest for i, *rest in made["tokens"]}
    found = [parts[i] for i in tokens.tolist()[:-1]]
    assert bytes.fromhex("".join(hexed for _, hexed in found)).decode() == "é"
    assert [text for text, _ in found] == [r"\xc3", r"\xa9"]


def test_without_a_vocabulary_tokens_are_numbers():
    episodes = small.episodes()
    made = block(episodes, {}, None)
    assert all(text == f"[{token}]" for token, text in made["tokens"])
    assert all(text >= 0 for text in made["turns"][10])
    foreign = dataclasses.replace(
        episodes[0].turns[0], prompt=np.array([10**6], np.int32)
    )
    odd = dataclasses.replace(episodes[0], turns=(foreign,))
    assert [10**6, "[1000000]"] in block([odd], {}, known())["tokens"]
    assert block([], {}, known()) == {
        "turns": [],
        "tokens": [],
        "texts": [],
        "episodes": [],
    }


def test_the_list_tells_what_one_may_look_for():
    episode = small.episodes()[0]
    turns = list(episode.turns)
    turns[1] = dataclasses.replace(turns[1], action_valid=False, format_valid=False)
    turns[2] = dataclasses.replace(turns[2], action_valid=False, prompt_truncated=True)
    episode = dataclasses.replace(episode, turns=tuple(turns), task_type=NASTY)
    (row,) = summaries(7, [episode])
    switches = sum(turn.switch for turn in turns) - 1
    badly = sum(not turn.format_valid for turn in turns)
    assert row == [7, 0, 1, SHOWN, 5, switches, 2, badly, 1, 1000]


def nasty_run(folder):
    """A run of hostile texts by the tiny tokenizer."""
    run = fake_run.make_run(folder, iterations=2, planned=2)
    model = run / "model"
    model.mkdir()
    backend = small.codec().tokenizer.backend_tokenizer
    (model / "tokenizer.json").write_text(backend.to_str())
    names = {"eos_token": "<|im_end|>", "pad_token": "<|pad|>"}
    names["tokenizer_class"] = "PreTrainedTokenizerFast"
    (model / "tokenizer_config.json").write_text(json.dumps(names))
    said = np.array(small.codec().encode_response(NASTY + "é"), np.int32)
    for step in (1, 2):
        episodes = []
        for episode in small.episodes(step):
            turns = tuple(
                dataclasses.replace(
                    turn,
                    prompt=said,
                    response=said,
                    log_prob=np.full(len(said), -0.5, np.float32),
                    text=NASTY,
                    observation=NASTY,
                    action=NASTY,
                    subgoal=NASTY,
                    admissible=(NASTY,),
                )
                for turn in episode.turns
            )
            credit = {
                f"advantage_{name}": [0.5, -1.0, 0.25, -0.125, 0.0, 1.0][: len(turns)]
                for name in ("low", "high", "switch")
            }
            episodes.append(
                dataclasses.replace(
                    episode,
                    turns=turns,
                    game=NASTY,
                    task=NASTY,
                    task_type=NASTY,
                    credit=credit | {NASTY: [0.0] * len(turns)},
                    strategy=Strategy(NASTY, said, said, -0.5 * said, 0, 1),
                    flagged=(0,),
                )
            )
        workdir.write_episodes(run, step, episodes)
    return run


@pytest.fixture(scope="module")
def hostile(tmp_path_factory):
    run = nasty_run(tmp_path_factory.mktemp("hostile") / "run")
    write_report(run)
    return run


def test_hostile_texts_are_data_on_the_page(hostile):
    source = (hostile / "report.html").read_text()
    page = Page(source)
    assert len(page.scripts) == source.count("<script") == 4
    assert page.scripts[-1] == viewer.script()
    assert not set("\u2028\u202e\x1b\x00") & set(source)
    made = unpacked(page.scripts[2])
    assert SHOWN in made["texts"] and NASTY not in made["texts"]
    assert made["turns"][10] == [made["texts"].index(SHOWN)] * len(made["turns"][10])


def test_what_is_too_large_for_a_page_lies_beside_it(hostile, tmp_path, monkeypatch):
    run = nasty_run(tmp_path / "run")
    whole = Page((hostile / "report.html").read_text())
    monkeypatch.setattr(viewer, "MOST", len(whole.scripts[1]) + 10)  # of one iteration
    write_report(run)
    page = Page((run / "report.html").read_text())
    assert len(page.scripts) == 2  # the list and the program
    assert unpacked(page.scripts[0])["folder"] == "report"
    assert {f.name for f in (run / "report").iterdir()} == {"1.js", "2.js"}
    for step in (1, 2):
        line = (run / "report" / f"{step}.js").read_text()
        found = re.fullmatch(r'hiperBlock\((\d+),"([A-Za-z0-9+/]+=*)"\)\n', line)
        assert found and int(found[1]) == step
        assert found[2] == whole.scripts[step]
    monkeypatch.undo()
    write_report(run)
    assert not (run / "report").exists()
    assert len(Page((run / "report.html").read_text()).scripts) == 4


def test_the_vocabulary_is_that_of_the_model_or_of_its_start(hostile, tmp_path):
    found = viewer.vocabulary(hostile, {})
    assert found and found.pieces.piece(small.codec().eos_id) == b"<|im_end|>"
    usual = {"model": "", "world": {"environment": "alfworld"}}
    started = viewer.vocabulary(tmp_path, usual)
    assert started and len(started.pieces.length) > 500
    for config in ({}, {"model": 3}, {"world": {"environment": "none"}}, {"world": 1}):
        assert viewer.vocabulary(tmp_path, config) is None or config == {}
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "tokenizer.json").write_text("{")
    assert viewer.vocabulary(tmp_path, {"model": str(tmp_path / "gone")}) is None
