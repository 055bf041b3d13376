"""A run folder as training leaves it, made up: for tests of what reads one."""

import math
import pathlib

import numpy as np

from hiper_jax import workdir
from hiper_jax.act.episode import Episode, Turn

TYPES = (
    "pick_and_place_simple",
    "look_at_obj_in_light",
    "pick_clean_then_place_in_recep",
    "pick_heat_then_place_in_recep",
    "pick_cool_then_place_in_recep",
    "pick_two_obj_and_place",
)
ATTACK = '<script>document.title="owned"</script><img src=x onerror=alert(1)>'
PLAN = (  # subgoal, action, what is seen next
    ("find a mug", "go to countertop 1", "On the countertop 1, you see a knife 2."),
    ("find a mug", "open cabinet 3", "The cabinet 3 is open. In it, you see a mug 1."),
    ("take the mug", "take mug 1 from cabinet 3", "You pick up the mug 1."),
    ("clean the mug", "go to sinkbasin 1", "On the sinkbasin 1, you see nothing."),
    ("clean the mug", "clean mug 1 with sinkbasin 1", "You clean the mug 1."),
    ("put the mug away", "go to coffeemachine 1", "You see a coffeemachine 1."),
    ("put the mug away", "move mug 1 to coffeemachine 1", "You won."),
)
ROOM = (
    "You are in the middle of a room. Looking quickly around you, you see a cabinet 3, "
    "a cabinet 2, a cabinet 1, a coffeemachine 1, a countertop 1, a fridge 1, a "
    "microwave 1, and a sinkbasin 1.\n\nYour task is to: put a clean mug in "
    "coffeemachine."
)


def make_run(folder, *, iterations=25, planned=25, finished=True, seed=0):
    """Writes a run that learns; gives its path.

    Args:
      folder: where; is made.
      iterations: how many were done.
      planned: how many were asked for.
      finished: whether the evaluation after training is there.
      seed: of the numbers.
    """
    run, rng = pathlib.Path(folder), np.random.default_rng(seed)
    run.mkdir(parents=True, exist_ok=True)
    workdir.write_json(run / "config.json", _config(planned, seed))
    for step in range(1, iterations + 1):
        skill = 0.25 + 0.6 * (1 - math.exp(-3 * step / max(planned, 1)))
        workdir.append_metrics(run, step, _metrics(step, skill, rng), _timing(rng))
    for step in sorted({1, iterations}) if iterations else ():
        skill = 0.2 if step == 1 else 0.8
        episodes = [_episode(i, i < 10 * skill, rng) for i in range(10)]
        workdir.write_episodes(run, step, episodes)
    rounds = [("before", 0, 0.3), ("at-0010", 10, 0.6)]
    rounds += [("after", iterations, 0.8)] if finished else []
    for split, games in (("valid_unseen", 120), ("valid_seen", 60)):
        for tag, step, share in rounds:
            record = _evaluation(tag, split, step, games, share, rng)
            workdir.write_json(run / "eval" / f"{tag}-{split}.json", record)
    return run


def _config(planned, seed):
    return {
        "model": "",
        "world": {"environment": "alfworld", "max_turns": 30, "receptacles": [6, 9]},
        "reading": {"style": "terse", "max_prompt": 256},
        "learn": {"gamma": 0.98, "lambda_turn": 0.95, "bootstrap": "next_state"},
        "num_updates": planned,
        "episodes": 64,
        "temperature": 1.0,
        "actor_lr": 0.0001,
        "critic_lr": 0.0003,
        "seed": seed,
        "provenance": {
            "preset": "quickstart",
            "seed": seed,
            "commit": "0123456789ab",
            "versions": {"jax": "0.10.2", "flax": "0.12.8", "alfworld": None},
            "python": "3.11.7",
            "machine": "x86_64",
        },
    }


def _metrics(step, skill, rng):
    def near(value, spread=0.05):
        return value * (1 + spread * rng.normal())

    success = min(1.0, near(skill, 0.1))
    return {
        "rollout/success": success,
        "rollout/score": (1 + success) / 2,
        "rollout/return": near(skill),
        "rollout/turns": near(30 - 18 * skill),
        "rollout/valid_rate": min(1.0, near(0.9 + 0.1 * skill, 0.01)),
        "rollout/admissible_rate": min(1.0, near(0.8 + 0.15 * skill, 0.01)),
        "policy/switch_rate": near(0.6 - 0.2 * skill),
        "policy/entropy": near(0.4 / step**0.5),
        "policy/approx_kl": abs(near(0.002, 0.5)),
        "loss/kl": float("nan") if step == 3 else near(0.01 * step / (5 + step)),
        "loss/policy": near(0.01, 1.0),
        "loss/value_low": near(0.3 / step**0.5),
        "loss/value_high": near(0.25 / step**0.5),
        "loss/value_switch": near(0.2 / step**0.5),
    }


def _timing(rng):
    environment, generation, update, other = rng.uniform(
        (2, 14, 10, 0.5), (4, 18, 14, 1)
    )
    return {
        "seconds": environment + generation + update + other,
        "environment": environment,
        "generation": generation,
        "update": update,
        "other": other,
        "left": 100.0,
    }


def _evaluation(tag, split, step, games, share, rng):
    episodes = []
    for i in range(games):
        won = bool(rng.random() < share)
        episodes.append(
            {
                "game": f"{split}/{i}",
                "task_type": TYPES[i % len(TYPES)],
                "won": won,
                "score": float(won),
                "turns": int(rng.integers(5, 30)),
                "return": float(won),
            }
        )
    record = {"tag": tag, "step": step, "split": split, "temperature": 0.4}
    return {**record, "manifest": "abc", "episodes": episodes}


def _episode(index, won, rng):
    plan = list(PLAN) if won else [PLAN[i] for i in rng.integers(0, 6, 12 + index)]
    turns, seen, before = [], ROOM, None
    for t, (subgoal, action, then) in enumerate(plan):
        switch = subgoal != before
        said = "SWITCH" if switch else "KEEP"
        reply = (
            f"<switch>{said}</switch>\n<subgoal>{subgoal}</subgoal>\n"
            f"<action>{action}</action>"
        )
        turns.append(
            Turn(
                prompt=np.arange(40, dtype=np.int32),
                response=np.arange(20, dtype=np.int32),
                log_prob=np.full(20, -0.25, np.float32),
                text=reply + (ATTACK if t == 1 else ""),
                observation=seen,
                admissible=("look", "inventory", action, "go to fridge 1"),
                action=action,
                subgoal=subgoal,
                switch=switch,
                said_switch=switch,
                format_valid=t != 1,
                action_valid=won or t % 5 != 4,
                reward=1.0 if won and t == len(plan) - 1 else 0.0,
            )
        )
        seen, before = then, subgoal
    number = len(turns)
    starts = [float(turn.switch) for turn in turns]
    credit = {
        "shaped_reward": [t.reward - 0.02 * (not t.action_valid) for t in turns],
        "advantage_low": rng.normal(0.4 if won else -0.3, 0.6, number).tolist(),
        "advantage_high": (rng.normal(0, 0.8, number) * starts).tolist(),
        "advantage_switch": rng.normal(0, 0.5, number).tolist(),
    }
    return Episode(
        game=f"{TYPES[2]}-Mug-None-CoffeeMachine-{index}/trial_T{index}/game.tw-pddl",
        task="put a clean mug in coffeemachine.",
        task_type=TYPES[2],
        turns=tuple(turns),
        terminated=won,
        truncated=not won,
        won=won,
        score=float(won),
        next_prompt=np.array([], np.int32),
        credit=credit,
    )
