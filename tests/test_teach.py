"""A teacher reads the student's own turns, and the solution beside the task."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import small

import hiper_jax as hj
from hiper_jax.act import teach
from hiper_jax.act.envs.pool import Pool
from hiper_jax.act.envs.world import load_world, settings_for, world_of
from hiper_jax.act.rollout import Sampled, make_reader, rollout
from hiper_jax.credit import gear
from hiper_jax.experiments import config as configs
from hiper_jax.experiments import setup

READER = make_reader(
    load_world("sokoban"), small.codec(), style="terse", max_prompt=400
)
SAID = "<switch>SWITCH</switch><subgoal>{}</subgoal><action>{}</action>"


def talker(codec):
    """Says subgoals that change, and every legal action in turn."""

    def sample(prompts, index, turn):
        moves = ("push right", "go left", "go up", "go down")
        texts = [
            SAID.format(f"plan {t // 2}", moves[(i + t) % 4])
            for i, t in zip(index, turn, strict=True)
        ]
        ids = [np.asarray(codec.encode_response(text), np.int32) for text in texts]
        return Sampled(ids, [np.zeros(len(i), np.float32) for i in ids])

    return sample


@pytest.fixture(scope="module")
def played(tmp_path_factory):
    settings = settings_for(
        "sokoban",
        levels=3,
        unseen=2,
        max_turns=5,
        cache=str(tmp_path_factory.mktemp("levels")),
    )
    world = world_of(settings)
    tasks = world.tasks(settings, "train").ids
    with Pool(world.make_env(settings), 3, workers=0) as pool:
        episodes, _ = rollout(pool, talker(READER.codec), tasks, READER, max_turns=5)
    return settings, tasks, episodes


def test_without_a_solution_it_reads_what_the_student_read(played):
    _, _, episodes = played
    prompts = teach.teacher_prompts(episodes, [""] * 3, READER, 400)
    own = [turn.prompt for episode in episodes for turn in episode.turns]
    assert len(own) > 9
    for prompt, student in zip(prompts, own, strict=True):
        np.testing.assert_array_equal(prompt, student)


def test_the_solution_stands_beside_the_task_on_every_turn(played):
    settings, tasks, episodes = played
    world = world_of(settings)
    known = [world.solution(settings, task) for task in tasks]
    assert all(";" in text for text in known)
    prompts = iter(teach.teacher_prompts(episodes, known, READER, 400))
    for episode, solution in zip(episodes, known, strict=True):
        for turn in episode.turns:
            text = READER.codec.decode(next(prompts))
            assert f"{episode.task} solution: {solution}" in text
            assert solution not in READER.codec.decode(turn.prompt)


def stacked(episodes):
    return hj.stack(
        episodes,
        small.agent()[0].pieces,
        max_turns=5,
        max_response=80,
        row_buckets=(24,),
        length_buckets=(512,),
    )


def test_its_rows_hold_its_prompt_and_the_students_response(played):
    _, _, episodes = played
    batch = stacked(episodes)
    prompts = teach.teacher_prompts(episodes, ["go left"] * 3, READER, 400)
    taught = teach.with_teacher(batch, prompts, max_prompt=400, pad_id=9)
    turns = [turn for episode in episodes for turn in episode.turns]
    assert taught.teacher_tokens.shape == (24, 480)
    for n, (prompt, turn) in enumerate(zip(prompts, turns, strict=True)):
        whole = np.concatenate([prompt, turn.response])
        assert taught.teacher_length[n] == len(whole)
        assert taught.teacher_start[n] == len(prompt)
        np.testing.assert_array_equal(taught.teacher_tokens[n, : len(whole)], whole)
        assert (taught.teacher_tokens[n, len(whole) :] == 9).all()
    assert not taught.teacher_length[len(turns) :].any()
    with pytest.raises(ValueError, match="a prompt of up to 400 tokens for each of"):
        teach.with_teacher(batch, prompts[:-1], max_prompt=400)


@pytest.mark.parametrize(
    ("shown", "pack"), [("", 1), ("push right; push right", 3)], ids=["", "in bins"]
)
def test_the_update_measures_it_as_one_row_at_a_time_would(played, shown, pack):
    """A teacher that is shown nothing thinks what the student thinks."""
    _, _, episodes = played
    agent, actor, _ = small.agent()
    agent = dataclasses.replace(agent, critic="none")
    batch = stacked(episodes)
    prompts = teach.teacher_prompts(episodes, [shown] * 3, READER, 400)
    batch = teach.with_teacher(batch, prompts, max_prompt=400)
    gears = gear.estimator(gear.Gear())

    def assign(known, values):
        credit = gears.assign(known, values)
        told = {"teacher": known.teacher_log_prob, "entropy": known.entropy}
        return credit._replace(turn=credit.turn | told)

    init, update = hj.make_update(
        hj.make_model(agent, ()),
        gears._replace(assign=assign),
        hj.Optimizers(optax.sgd(0.1)),
        configs.Learn(minibatch=8, chunk=4, pack=pack),
        (256,),
    )
    state = init(actor, None, jax.random.key_data(jax.random.key(0)))
    _, _, turns = jax.jit(update)(state, batch)
    score = hj.make_model(agent, ()).score
    for n in range(int(batch.num_turns)):
        mask = batch.response_mask[n]
        for name, tokens, start, which in [
            ("teacher", batch.teacher_tokens, batch.teacher_start, 0),
            ("entropy", batch.tokens, batch.start, 1),
        ]:
            alone = score(
                actor,
                jnp.asarray(tokens[n : n + 1]),
                jnp.asarray(start[n : n + 1]),
                jnp.asarray(np.where(mask, batch.response[n], -1)[None]),
                1.0,
            )[which]
            np.testing.assert_allclose(
                np.asarray(turns[name])[n, mask], np.asarray(alone)[0, mask], atol=2e-5
            )


def test_a_teacher_without_prompts_or_solutions_is_refused(played):
    _, _, episodes = played
    agent, actor, _ = small.agent()
    agent = dataclasses.replace(agent, critic="none")
    init, update = hj.make_update(
        hj.make_model(agent, ()),
        gear.estimator(gear.Gear()),
        hj.Optimizers(optax.sgd(0.1)),
        configs.Learn(minibatch=8, chunk=4),
        (256,),
    )
    state = init(actor, None, jax.random.key_data(jax.random.key(0)))
    with pytest.raises(ValueError, match="with_teacher"):
        jax.eval_shape(update, state, stacked(episodes))
    config = configs.with_estimator(
        configs.Train(world=settings_for("my_gym_world:WORLD")), "gear"
    )
    with pytest.raises(ValueError, match="give its World a `solution`"):
        setup.check_teacher(config)


def test_every_world_of_ours_knows_its_solutions(tmp_path):
    for name, known in [
        ("alfworld", {"train": 6, "seen": 0, "unseen": 6}),
        ("webshop", {"max_turns": 5}),
    ]:
        settings = settings_for(name, cache=str(tmp_path), **known)
        world = world_of(settings)
        task = world.tasks(settings, world.splits.train).ids[0]
        assert "; " in world.solution(settings, task)
