"""Two waves of slots: the same episodes, while the host and the device both work."""

import dataclasses
import functools
import threading

import jax
import numpy as np
import pool_envs
import pytest
import small
from test_rollout import READER, Counting, sampler

from hiper_jax.act.envs.answers import Fault
from hiper_jax.act.envs.pool import Pool
from hiper_jax.act.episode import Strategy
from hiper_jax.act.rollout import Sampled, rollout
from hiper_jax.experiments import config as configs
from hiper_jax.experiments import setup
from hiper_jax.experiments.setup import waves_of
from hiper_jax.networks.sampler import make_sampler

GAMES = ["1", "4", "2", "3", "2", "9", "1", "5"]
play = functools.partial(rollout, reader=READER, max_turns=4)


def same(some, others, **tolerance):
    """Equal in every field, and every array bit for bit."""
    assert len(some) == len(others)
    for a, b in zip(some, others, strict=True):
        for x, y in zip(a.turns, b.turns, strict=True):
            equal(x, y, **tolerance)
        equal(dataclasses.replace(a, turns=()), dataclasses.replace(b, turns=()))


def equal(x, y, **tolerance):
    for field in dataclasses.fields(x):
        one, other = getattr(x, field.name), getattr(y, field.name)
        if field.name == "log_prob" and tolerance:
            np.testing.assert_allclose(one, other, **tolerance)
        elif isinstance(one, np.ndarray):
            assert one.dtype == other.dtype
            np.testing.assert_array_equal(one, other)
        else:
            assert one == other, field.name


class Odd(Counting):
    """Some resets and some steps cannot be used."""

    def reset(self, slots, tasks):
        shown = super().reset(slots, tasks)
        pairs = zip(tasks, shown, strict=True)
        return [Fault("odd") if task == "1" else answer for task, answer in pairs]

    def step(self, slots, actions):
        shown = super().step(slots, actions)
        pairs = zip(slots, shown, strict=True)
        return [Fault("odd") if self.state[s] == [3, 5] else x for s, x in pairs]


@pytest.mark.parametrize("make", [Counting, Odd])
@pytest.mark.parametrize("slots", [1, 2, 3, 8, 16])
def test_two_waves_play_the_episodes_of_one_bit_for_bit(make, slots):
    one, two = [], []
    expected, _ = play(make(8), sampler([]), GAMES, on_drop=one.append)
    found, clock = play(make(slots), sampler([]), GAMES, on_drop=two.append, waves=2)
    same(found, expected)
    assert sorted(two) == sorted(one) and len(one) == (0 if make is Counting else 3)
    assert clock["device"] > 0


def test_what_cannot_be_used_ends_a_rollout_of_two_waves_too():
    with pytest.raises(ValueError, match="answer that cannot be used"):
        play(Odd(4), sampler([]), ["1", "1", "3"], waves=2)

    def broken(*asked):
        raise RuntimeError("out of memory")

    with pytest.raises(RuntimeError, match="out of memory"):
        play(Counting(4), broken, GAMES, waves=2)
    assert not [t for t in threading.enumerate() if t.name.startswith("sampler")]


def test_episodes_under_strategies_are_the_same_in_two_waves():
    ids = np.asarray(small.codec().encode_response("first the desk"), np.int32)
    plans = [
        Strategy(f"desk {i}", ids, ids, np.zeros(len(ids), np.float32), i, 0)
        for i in range(len(GAMES))
    ]
    two, _ = play(Counting(4), sampler([]), GAMES, strategies=plans, waves=2)
    same(two, play(Counting(8), sampler([]), GAMES, strategies=plans)[0])
    assert [e.strategy for e in two] == plans


def walker(prompts, index, turn):
    """Walks right; in one turn of one episode it sleeps for a second."""
    del prompts
    codec, tokens = small.codec(), []
    for i, t in zip(index, turn, strict=True):
        action = "nap" if (i, t) == (1, 1) else "right"
        said = small.RESPONSE.format("KEEP", "plan", action)
        tokens.append(np.array(codec.encode_response(said), np.int32))
    return Sampled(tokens, [np.full(len(x), -0.5, np.float32) for x in tokens])


def test_workers_that_crash_or_hang_lose_nothing_in_two_waves():
    """Their episodes are played again, and are those of one wave in one process."""
    games = [f"g{i}" for i in range(5)] + ["nan"]
    make = functools.partial(pool_envs.Faulty, length=3)
    with Pool(make, 4, workers=0) as pool:
        expected, _ = play(pool, walker, games)
    with Pool(make, 4, workers=2) as pool:
        (first, _), killed = pool.pids(), []

        def kill(done, total):
            del done, total
            if not killed:
                killed.append(pool._workers[0].process.kill())

        found, _ = play(pool, walker, games, waves=2, on_turn=kill)
        assert pool.restarts >= 1 and pool.pids()[0] != first
    same(found, expected)
    with Pool(make, 4, workers=2, step_timeout=0.7) as pool:
        with pytest.raises(RuntimeError, match="did not answer in time"):
            play(pool, walker, games, waves=2)


class Paced(Counting):
    """A step waits for the sampler to have begun with what comes after it."""

    def __init__(self, size, patience):
        super().__init__(size)
        self.patience, self.begun, self.beside = patience, 0, []
        self.changed = threading.Condition()

    def sample(self, *asked):
        with self.changed:
            self.begun += 1
            self.changed.notify_all()
        return sampler([])(*asked)

    def step(self, slots, actions):
        number = len(self.stepped) + 1
        with self.changed:
            begun = self.changed.wait_for(lambda: self.begun > number, self.patience)
        self.beside.append(begun)
        return super().step(slots, actions)


def test_the_host_steps_one_wave_while_the_other_is_answered():
    """With one wave nothing is sampled meanwhile."""
    one, two = Paced(4, 0.02), Paced(4, 2.0)
    play(one, one.sample, ["4"] * 4)
    assert one.beside == [False] * 4
    play(two, two.sample, ["4"] * 4, waves=2)
    assert two.beside == [True] * 7 + [False]  # nothing comes after the last


def test_few_that_are_left_are_answered_together():
    """Two batches of a few would take twice the time of one."""
    seen = []
    games = ["1"] * 14 + ["9", "9"]
    play(Counting(16), sampler(seen), games, waves=2)
    assert [len(asked) for asked in seen] == [8, 8, 2, 2, 2]
    assert sorted(place for place, _ in seen[-1]) == [14, 15]


def test_a_model_answers_the_same_in_two_waves():
    """Its rows depend on no other; log-probabilities to rounding."""
    agent, actor, _ = small.agent()
    make_policy = make_sampler(
        agent, max_response=8, slot_buckets=(4, 8), prompt_buckets=(96, 200)
    )
    sample = make_policy(actor, jax.random.key(3), 1.0)
    games = GAMES[:6]
    one, _ = play(Counting(6), sample, games)
    two, _ = play(Counting(6), sample, games, waves=2)
    same(two, one, atol=1e-5)
    assert make_policy.programs() <= 4


def test_waves_are_checked_and_chosen_by_platform():
    config = configs.Train(slots=64)
    assert [waves_of(config, p) for p in ("cpu", "gpu", "tpu")] == [1, 2, 2]
    assert waves_of(dataclasses.replace(config, waves=2), "cpu") == 2
    assert waves_of(dataclasses.replace(config, waves=1), "gpu") == 1
    assert waves_of(dataclasses.replace(config, slots=1), "gpu") == 1
    together = dataclasses.replace(config, mesh=configs.Mesh(serving="all"))
    assert waves_of(together, "gpu") == 1
    # Batches are of one wave: buckets are its quarters.
    assert setup.run_shapes(config, platform="gpu").slots == (8, 16, 32)
    for changes in ({"waves": 3}, {"waves": 2, "slots": 1}):
        with pytest.raises(ValueError, match="waves"):
            configs.Train(**changes)
    with pytest.raises(ValueError, match="turn by turn"):
        dataclasses.replace(together, waves=2)
