"""Rollouts on a counting game: who is asked, who is not, what is recorded."""

import numpy as np
import pytest
import small

from hiper_jax.act.envs.world import load_world
from hiper_jax.act.rollout import Sampled, make_reader, rollout


class Counting:
    """Won when the wanted number of steps is reached; no processes."""

    def __init__(self, size):
        self.size = size
        self.state = {}
        self.stepped = []

    def reset(self, slots, tasks):
        out = []
        for slot, task in zip(slots, tasks, strict=True):
            self.state[slot] = [0, int(task)]
            out.append(("start", self.info(slot)))
        return out

    def step(self, slots, actions):
        self.stepped.append(len(slots))
        out = []
        for slot, action in zip(slots, actions, strict=True):
            self.state[slot][0] += 1
            now, goal = self.state[slot]
            won = now == goal
            out.append((f"{action} {now}", float(won), won, False, self.info(slot)))
        return out

    def info(self, slot):
        now, goal = self.state[slot]
        return {
            "task": f"count to {goal}",
            "admissible_actions": ["look", "go to bed 1"],
            "won": now == goal,
            "task_type": "count",
            "game": str(goal),
        }


READER = make_reader(
    load_world("alfworld"), small.codec(), style="terse", max_prompt=200
)


def sampler(seen, text=None):
    """Answers by (episode, turn) alone and writes down who was asked."""
    codec = small.codec()

    def sample(prompts, index, turn):
        seen.append(list(zip(index.tolist(), turn.tolist(), strict=True)))
        tokens = []
        for i, t in zip(index, turn, strict=True):
            switch = "SWITCH" if (i + t) % 3 == 0 else "KEEP"
            said = text or small.RESPONSE.format(switch, f"plan {t}", "go to bed 1")
            tokens.append(np.array(codec.encode_response(said), np.int32))
        return Sampled(tokens, [np.full(len(x), -0.5, np.float32) for x in tokens])

    return sample


def test_only_live_episodes_are_generated_for():
    seen = []
    env = Counting(4)
    episodes, clock = rollout(env, sampler(seen), ["1", "3", "2"], READER, max_turns=5)
    assert [len(turn) for turn in seen] == [3, 2, 1]
    assert env.stepped == [3, 2, 1]
    assert [len(e.turns) for e in episodes] == [1, 3, 2]
    assert all(e.won and e.terminated and not e.truncated for e in episodes)
    assert set(clock) == {"environment", "generation", "text", "device"}


def test_fewer_slots_play_the_same_episodes():
    games = ["1", "4", "2", "3", "2"]
    wide, _ = rollout(Counting(8), sampler([]), games, READER, max_turns=3)
    seen = []
    narrow, _ = rollout(Counting(2), sampler(seen), games, READER, max_turns=3)
    assert max(len(turn) for turn in seen) == 2
    for a, b in zip(wide, narrow, strict=True):
        assert a.game == b.game and len(a.turns) == len(b.turns)
        for x, y in zip(a.turns, b.turns, strict=True):
            np.testing.assert_array_equal(x.prompt, y.prompt)
            np.testing.assert_array_equal(x.response, y.response)
            assert (x.subgoal, x.switch, x.reward) == (y.subgoal, y.switch, y.reward)


def test_the_turn_limit_truncates_and_keeps_the_prompt_after():
    (episode,), _ = rollout(Counting(1), sampler([]), ["9"], READER, max_turns=3)
    assert episode.truncated and not episode.terminated and not episode.won
    assert "go to bed 1 3" in small.codec().decode(episode.next_prompt)
    (won,), _ = rollout(Counting(1), sampler([]), ["3"], READER, max_turns=3)
    assert won.terminated and not won.truncated and len(won.next_prompt) == 0


def test_the_subgoal_in_force_is_shown_in_the_next_prompt():
    (episode,), _ = rollout(Counting(1), sampler([]), ["3"], READER, max_turns=3)
    assert "subgoal: none" in small.codec().decode(episode.turns[0].prompt)
    assert "subgoal: plan 0" in small.codec().decode(episode.turns[1].prompt)


def test_on_keep_the_stored_subgoal_stays_if_asked():
    reader = READER._replace(keep_copies=True)
    (episode,), _ = rollout(Counting(1), sampler([]), ["3"], reader, max_turns=3)
    assert [t.subgoal for t in episode.turns] == ["plan 0"] * 3


@pytest.mark.parametrize("text", ["nonsense", "<action>look", "<switch>MAYBE</switch>"])
def test_a_broken_response_is_recorded_and_played_on(text):
    (episode,), _ = rollout(Counting(1), sampler([], text), ["2"], READER, max_turns=4)
    assert len(episode.turns) == 2
    assert not any(t.format_valid or t.action_valid for t in episode.turns)
    assert episode.turns[0].switch and not episode.turns[1].switch
