"""What others played: text -> credit, episodes and published files -> lessons."""

import json
import pathlib
import random

import pytest
import small

from hiper_jax import workdir
from hiper_jax.act.envs.world import load_world, settings_for
from hiper_jax.act.envs.worlds.alfworld import AlfWorldSettings
from hiper_jax.experiments import cli, texts
from hiper_jax.experiments import games as worlds
from hiper_jax.experiments.warmstart import demonstrations, given

LINE = {
    "task": "find the book",
    "turns": [
        {
            "observation": "a desk 1 and a bed 1",
            "action": "go to desk 1",
            "subgoal": "search the desk",
            "switch": True,
            "values": {"high": 0.5, "low": 0.25, "switch": 0.5},
        },
        {
            "observation": "a book 1",
            "response": "<switch>SWITCH</switch><subgoal>take it</subgoal>"
            "<action>take book 1</action>",
            "reward": 1.0,
            "values": {"high": 0.75, "low": 0.5, "switch": 0.25},
        },
    ],
}


def run_cli(*words):
    with pytest.raises(SystemExit) as done:
        cli.main([str(word) for word in words])
    return done.value.code


def test_text_of_any_agent_gets_its_credit(tmp_path, capsys):
    """Two segments of a turn each: V_high of the second bootstraps the first."""
    file, out = tmp_path / "log.jsonl", tmp_path / "credit.jsonl"
    file.write_text(json.dumps(LINE) + "\n\n")
    settings = ("--learn.gamma", 1.0, "--learn.lambda-segment", 1.0)
    for name in ("invalid-action", "refused", "keep-consistency"):
        settings += (f"--learn.{name}-penalty", 0.0)
    words = ("credit", "--text", file, "--out", out, *settings)
    assert run_cli(*words) == 0, capsys.readouterr().err
    (told,) = [json.loads(line) for line in out.read_text().splitlines()]
    assert {k: told[k] for k in LINE} == LINE
    credit = told["credit"]
    assert credit["return_low"] == pytest.approx([0.75, 1.0])
    assert credit["return_high"] == pytest.approx([1.0, 1.0])
    assert credit["value_low"] == pytest.approx([0.25, 0.5])


@pytest.mark.parametrize(
    "change, fault",
    [
        ({"task": 3}, "line 2: task must be a text"),
        ({"won": 1}, "line 2: won must be true or false"),
        ({"turns": []}, "line 2: turns is empty"),
        ({"turns": [{"action": "x"}]}, "line 2: turn 0 has no observation"),
        ({"turns": [{"observation": ""}]}, "turn 0 needs a response, or an action"),
        ({"reward": 1}, "line 2 has an unknown field 'reward'; there are task"),
        (
            {"turns": [{"observation": "", "action": "", "reward": float("nan")}]},
            "turn 0: reward must be a finite number",
        ),
        (
            {"turns": [{"observation": "", "action": "", "reward": True}]},
            "turn 0: reward must be a number",
        ),
        (
            {"turns": [{"observation": "", "action": "", "admissible": [1]}]},
            "turn 0: admissible must be a list of texts",
        ),
    ],
)
def test_a_fault_in_text_names_file_and_line(tmp_path, change, fault):
    file = tmp_path / "log.jsonl"
    file.write_text(json.dumps(LINE) + "\n" + json.dumps({**LINE, **change}) + "\n")
    with pytest.raises(ValueError, match=f"log.jsonl, .*{fault}"):
        texts.read_lines(file)


def test_text_that_is_no_json_or_not_there_is_one_line(tmp_path, capsys):
    file = tmp_path / "log.jsonl"
    file.write_text("{\n")
    with pytest.raises(ValueError, match="line 1: this is no JSON"):
        texts.read_lines(file)
    file.write_text("")
    with pytest.raises(ValueError, match="has no trajectory"):
        texts.read_lines(file)
    turns = [{"observation": "", "action": "look"}]
    file.write_text(json.dumps({"task": "x", "turns": turns}))
    assert run_cli("credit", "--text", file, "--out", tmp_path / "o") == 2
    assert "turn 0 has no value high: write it under values" in capsys.readouterr().err
    assert run_cli("credit", "--out", tmp_path / "o") == 2
    assert "or a file with --text; not both" in capsys.readouterr().err


def taught(demos, world):
    """The responses that a warm start would imitate."""
    return [
        response
        for demo in demos
        for _, response in demonstrations.texts(
            demo, world, style="terse", mistakes=0, haste=0, rng=random.Random(0)
        )
    ]


def test_won_episodes_are_imitated_but_for_what_was_refused(tmp_path):
    episodes = small.episodes()
    workdir.write_episodes(tmp_path, 1, episodes)
    told = []
    demos = given.read(tmp_path, settings_for("alfworld"), told.append)
    won = [e for e in episodes if e.won]
    assert told == [f"{len(won)} won episodes of {len(episodes)} in {tmp_path}"]
    good = [t.text for e in won for t in e.turns if t.format_valid and t.action_valid]
    assert len(good) < sum(len(e.turns) for e in won)
    assert taught(demos, load_world("alfworld")) == good
    workdir.write_episodes(tmp_path, 1, [e for e in episodes if not e.won])
    with pytest.raises(ValueError, match="nothing to imitate"):
        given.read(tmp_path, settings_for("alfworld"), told.append)


def test_alfworlds_expert_is_replayed_with_its_plans_subgoals(tmp_path):
    """Folders as the official data set has them, made small by `hiper games make`."""
    world = AlfWorldSettings(
        train=2,
        seen=0,
        unseen=1,
        receptacles=(5, 6),
        objects=(5, 6),
        cache=str(tmp_path),
        workers=1,
    )
    worlds.games_folder(world)
    names = worlds.manifest(world, "train").ids
    walks: dict[str, list[str]] = {}
    for game in names:
        folder = pathlib.Path(game).parent
        walk = json.loads((folder / "game.tw-pddl").read_text())["walkthrough"]
        walks[game] = walk
        plan: list[dict] = [
            {"discrete_action": {"action": "GotoLocation", "args": ["desk"]}}
        ]
        kinds = {"take": "PickupObject", "move": "PutObject", "use": "ToggleObject"}
        kinds |= {"clean": "CleanObject", "heat": "HeatObject", "cool": "CoolObject"}
        for action in walk:
            verb, what, *_ = [*action.split(), ""]
            if verb in kinds:
                step = {"action": kinds[verb], "args": [what, "place"]}
                plan.append({"discrete_action": step, "high_idx": len(plan)})
        file = folder / "traj_data.json"
        record = json.loads(file.read_text())
        file.write_text(json.dumps({**record, "plan": {"high_pddl": plan}}))
    root = pathlib.Path(names[0]).parent.parent
    demos = given.read(root.parent, world, lambda line: None)
    assert demos and all(demo.won for demo in demos)
    for demo in demos:
        assert [step.action for step in demo.steps] == walks[demo.task]
        takes = [s for s in demo.steps if s.action.startswith("take")]
        assert takes[0].subgoal == f"take {takes[0].action.split()[1]}"
        assert demo.steps[0].switch and demo.steps[0].subgoal == takes[0].subgoal
    (pathlib.Path(demos[0].task)).unlink()
    with pytest.raises(FileNotFoundError, match="has no game.tw-pddl to replay"):
        given.read(root.parent, world, lambda line: None)
    with pytest.raises(FileNotFoundError, match="holds no episodes: name a run's"):
        given.read(tmp_path / "nowhere", world, lambda line: None)


def test_webshops_people_are_read_as_published(tmp_path):
    pages = [
        "Amazon Shopping Game\nInstruction: \ni need a red mug\n"
        "[button] Search [button_]",
        "Instruction:\ni need a red mug\n[button] Back to Search [button_]\n"
        "[button] B09ABCDEFG [button_]\nRed mug\n$5.00",
        "Instruction:\ni need a red mug\ncolor [button] red [button_]\nRed mug",
        "Instruction:\ni need a red mug\ncolor [clicked button] red [clicked button_]",
    ]
    actions = ["search[red mug]", "click[b09abcdefg]", "click[red]", "click[buy now]"]
    listed = [["search[red mug]"], ["click[b09abcdefg]"], ["click[red]"], actions[3:]]
    record = {"states": pages, "actions": actions, "available_actions": listed}
    record |= {"action_idxs": [-1, 0, 0, 0], "images": [0, 0, 0, 0]}
    file = tmp_path / "il_trajs.jsonl"
    file.write_text(json.dumps(record) + "\n")
    (demo,) = given.read(file, settings_for("webshop"), lambda line: None)
    assert demo.won and demo.info["task"] == "i need a red mug"
    assert [s.subgoal for s in demo.steps] == [
        "find red mug",
        "find red mug",
        "choose",
        "buy",
    ]
    assert [s.switch for s in demo.steps] == [True, False, True, True]
    assert demo.steps[2].observation.endswith("color red [SEP] Red mug")
    assert len(taught([demo], load_world("webshop"))) == 4
    file.write_text(json.dumps({**record, "actions": actions[:2]}))
    with pytest.raises(ValueError, match="line 1 is no trajectory of WebShop"):
        given.read(file, settings_for("webshop"), lambda line: None)
