"""Rows without tokens: never drawn, and outside of the distribution everywhere."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import small
from reference import mutated

from hiper_jax import lm
from hiper_jax.act import draw as draw_module
from hiper_jax.act.draw import draw
from hiper_jax.lm import score, sharding
from hiper_jax.networks import agent as agents
from hiper_jax.networks.passes import make_model
from hiper_jax.networks.sampler import make_sampler

ROWS, VOCAB = 6, 1100
KNOWN = np.ones(VOCAB, bool)
KNOWN[[0, 7, 600]] = False
KNOWN[1000:] = False


def logits_and_keys(seed=0):
    logits = 3 * jax.random.normal(jax.random.key(seed), (ROWS, VOCAB))
    # The unknown would be drawn nearly always.
    logits = jnp.where(KNOWN[None], logits, logits + 30)
    return logits, jax.random.split(jax.random.key(seed + 1), ROWS)


@pytest.mark.parametrize("temperature", [0.0, 1e-3, 1.0, 1e3])
def test_an_id_without_a_token_is_never_drawn(temperature):
    logits, keys = logits_and_keys()
    heat = jnp.float32(temperature)
    once = jax.jit(functools.partial(draw, known=KNOWN))
    for step in range(40):
        token, log_prob = once(logits, jnp.int32(step), keys, heat)
        assert KNOWN[np.asarray(token)].all()
        left = jnp.where(KNOWN[None], logits, -jnp.inf) / (heat or 1.0)
        expected = jax.nn.log_softmax(left)[jnp.arange(ROWS), token]
        np.testing.assert_allclose(log_prob, expected, rtol=1e-5, atol=1e-5)


def test_a_draw_among_all_known_ids_is_the_draw_without_a_mask():
    logits, keys = logits_and_keys()
    for heat in (0.0, 0.7):
        plain = draw(logits, jnp.int32(3), keys, jnp.float32(heat))
        masked = draw(logits, jnp.int32(3), keys, jnp.float32(heat), KNOWN | True)
        for a, b in zip(plain, masked, strict=True):
            np.testing.assert_array_equal(a, b)


def scores_are_those_of_the_known_rows_alone(module, tied):
    """Compares a module's scores and gradients with a softmax over fewer rows."""
    known = np.arange(40) % 7 != 3
    config = lm.tiny(40, width=16, depth=1, mlp_width=16, head_dim=8, tied=tied)
    params = lm.init(config, jax.random.key(0))
    hidden = jax.random.normal(jax.random.key(1), (3, 5, 16))
    targets = np.flatnonzero(known)[np.arange(15).reshape(3, 5) * 2]
    by = jax.random.normal(jax.random.key(2), (2, 3, 5))
    name = "embed" if tied else "head"

    def ours(hidden, head):
        scores = module.log_prob_and_entropy(
            params | {name: head}, config, hidden, targets, temperature=0.7, known=known
        )
        return sum((b * score).sum() for b, score in zip(by, scores, strict=True))

    def plain(hidden, head):
        log_p = jax.nn.log_softmax(hidden @ head[known].T / 0.7)
        place = (np.cumsum(known) - 1)[targets]
        chosen = jnp.take_along_axis(log_p, place[..., None], axis=-1)[..., 0]
        entropy = -(jnp.exp(log_p) * log_p).sum(axis=-1)
        return (by[0] * chosen + by[1] * entropy).sum()

    arguments = hidden, params[name]
    for a, b in zip(
        *(jax.value_and_grad(f, (0, 1))(*arguments) for f in (ours, plain)), strict=True
    ):
        jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=2e-5), a, b)
    by_head = jax.grad(ours, 1)(*arguments)
    assert (np.asarray(by_head)[~known] == 0).all()


@pytest.mark.parametrize("tied", [True, False])
def test_scores_and_their_gradient_are_those_of_the_known_rows_alone(tied):
    scores_are_those_of_the_known_rows_alone(score, tied)


@pytest.mark.parametrize(
    "old, new",
    [
        ("NEVER = -1e30", "NEVER = 0.0"),
        ("scale, known) - log_z", "scale, None) - log_z"),
        ("z = _logits(place, head, hidden[i], scale, known)",
         "z = _logits(place, head, hidden[i], scale, None)"),
    ],
)  # fmt: skip
def test_a_seeded_fault_in_the_scores_is_caught(old, new):
    with pytest.raises(AssertionError):
        scores_are_those_of_the_known_rows_alone(mutated(score, old, new), True)


def test_a_draw_without_its_mask_is_caught():
    wrong = mutated(draw_module, "known[None], logits, NEVER", "True, logits, NEVER")
    logits, keys = logits_and_keys()
    drawn = wrong.draw(logits, jnp.int32(0), keys, jnp.float32(0), KNOWN)[0]
    assert not KNOWN[np.asarray(drawn)].all()


def test_without_a_mask_the_program_is_the_one_it_was():
    config = lm.tiny(40, width=16, depth=1, mlp_width=16, head_dim=8)
    params = lm.init(config, jax.random.key(0))
    hidden, targets = jnp.ones((2, 3, 16)), np.ones((2, 3), np.int32)
    plain = functools.partial(lm.log_prob_and_entropy, params, config)
    text = str(jax.make_jaxpr(plain)(hidden, targets))
    assert "select_n" in text  # one, which picks the target's entry
    masked = functools.partial(plain, known=np.arange(40) < 39)
    more = str(jax.make_jaxpr(masked)(hidden, targets))
    assert more.count("select_n") == text.count("select_n") + 1


@pytest.fixture(scope="module")
def roomy():
    """An agent with more rows than tokens, whose spare rows are the likeliest."""
    size = small.codec().vocab_size
    agent, actor, critic = small.agent(vocab_size=size + 60)
    spare = np.arange(size + 60) >= size
    actor = actor | {"embed": jnp.where(spare[:, None], 3.0, actor["embed"])}
    assert (agent.known == ~spare).all()
    return agent, actor, critic


def test_sampler_and_trainer_agree_where_a_model_has_spare_rows(roomy):
    agent, actor, _ = roomy
    make = make_sampler(agent, max_response=8, slot_buckets=(4,), prompt_buckets=(16,))
    prompts = [np.arange(5 + i, dtype=np.int32) for i in range(4)]
    sample = make(actor, jax.random.key(0), 1.0)
    new = sample(prompts, np.arange(4, dtype=np.int32), np.zeros(4, np.int32))
    assert all((tokens < agent.codec.vocab_size).all() for tokens in new.tokens)
    tokens, targets = np.zeros((4, 16), np.int32), np.full((4, 8), -1, np.int32)
    for n, (prompt, answer) in enumerate(zip(prompts, new.tokens, strict=True)):
        row = np.concatenate([prompt, answer])
        tokens[n, : len(row)], targets[n, : len(answer)] = row, answer
    start = np.array([len(prompt) for prompt in prompts], np.int32)
    by_trainer = make_model(agent, ()).score
    log_prob, entropy = jax.jit(by_trainer)(actor, tokens, start, targets, 1.0)
    for n, expected in enumerate(new.log_prob):
        np.testing.assert_allclose(log_prob[n, : len(expected)], expected, atol=2e-5)
    assert (entropy <= np.log(agent.codec.vocab_size) + 1e-5).all()


def test_a_model_whose_rows_all_have_tokens_has_no_mask():
    agent, _, _ = small.agent()
    assert agent.known is None
    assert agents.known_rows([2, 0, 1], 3) is None
    assert list(agents.known_rows([3, 0, 1], 5)) == [True, True, False, True, False]


def test_a_mesh_scores_the_known_ids_as_one_device_does():
    known = np.arange(48) % 5 != 2
    config = lm.tiny(48, width=16, depth=1, mlp_width=16, head_dim=8)
    params = lm.init(config, jax.random.key(0))
    hidden = jax.random.normal(jax.random.key(1), (8, 4, 16))
    targets = np.flatnonzero(known)[np.arange(32).reshape(8, 4)]

    def scores(params, hidden, constrain=None):
        return lm.log_prob_and_entropy(
            params, config, hidden, targets, known=known, constrain=constrain
        )

    alone = jax.jit(scores)(params, hidden)
    mesh = sharding.make_mesh(2, 2, 2)
    places = sharding.shardings(lm.abstract(config), mesh)
    placed = jax.device_put(params, places)
    hidden = jax.device_put(hidden, sharding.rows(mesh))
    cut = functools.partial(scores, constrain=sharding.constrain(mesh))
    for a, b in zip(alone, jax.jit(cut)(placed, hidden), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)
