"""What the bench of HAE is run on: random turns, and responses with their tokens."""

import random
from typing import Any, NamedTuple

import numpy as np


class Turns(NamedTuple):
    """Inputs of HAE, [B, T] each, numpy or jax."""

    reward: Any
    terminated: Any
    valid: Any
    switch: Any
    low: Any
    high: Any
    waits: Any


def random_turns(B: int, T: int, seed: int = 0) -> Turns:
    """Full trajectories, a switch every fourth turn or so."""
    rng = np.random.default_rng(seed)
    terminated = np.zeros((B, T), bool)
    terminated[:, -1] = rng.random(B) < 0.5
    reward = np.where(terminated, 10.0, 0.0).astype(np.float32)
    values = rng.normal(size=(3, B, T)).astype(np.float32)
    switch = rng.random((B, T)) < 0.25
    return Turns(reward, terminated, np.ones((B, T), bool), switch, *values)


def small_tokenizer():
    """A byte-level BPE, trained on the spot, whose tags are several tokens each."""
    import tokenizers

    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE())
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(
        add_prefix_space=False
    )
    tokenizer.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=400,
        initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=["<|im_end|>"],
        show_progress=False,
    )
    tokenizer.train_from_iterator(responses(200), trainer)
    return tokenizer


def responses(count: int, seed: int = 0) -> list[str]:
    """Well-formed responses, a few of them broken."""
    draw = random.Random(seed)
    goals = ("find an apple", "cool the potato with the fridge", "put it on the desk")
    actions = ("go to desk 1", "take apple 2 from table 1", "open fridge 1", "look")
    texts = []
    for _ in range(count):
        switch = draw.choice(("KEEP", "KEEP", "SWITCH", "MAYBE"))
        text = f"<switch>{switch}</switch>\n<subgoal>{draw.choice(goals)}</subgoal>\n"
        text += f"<action>{draw.choice(actions)}</action><|im_end|>"
        texts.append(text if draw.random() < 0.95 else text[: draw.randint(5, 60)])
    return texts


def tokenized(tokenizer, count: int, width: int):
    """[N, L] token ids and mask."""
    tokens = np.zeros((count, width), np.int32)
    mask = np.zeros((count, width), bool)
    for n, encoded in enumerate(tokenizer.encode_batch(responses(count))):
        ids = encoded.ids[:width]
        tokens[n, : len(ids)], mask[n, : len(ids)] = ids, True
    return tokens, mask
