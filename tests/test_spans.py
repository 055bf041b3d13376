"""Masks without text: the published masks, slow twins, and one owner per token."""

import inspect
import json
import random

import numpy as np
import pytest
import reference
import tokenizers
from reference import GOLDEN, mutated, qwen_tokenizer

from hiper_jax.act import pieces as pieces_module
from hiper_jax.act import row_bytes
from hiper_jax.act import spans as module
from hiper_jax.act.format import read_response
from hiper_jax.act.pieces import piece_table
from hiper_jax.act.spans import subgoal_ids, token_masks

BLOCKS = ("action", "subgoal", "switch")
TAGS = [f"<{slash}{name}>" for name in BLOCKS for slash in ("", "/")]
FRAGMENTS = [
    *TAGS, *TAGS, "<Switch>", "<ACTION>", "</Action>", "KEEP", "SWITCH", " keep ",
    "Switch", "MAYBE", "\n", "\n\n", " ", ">", "<", "</", "go to desk 1", "]", ".", ")",
    "café", "😀", "找到", "\u3000", "\u00a0", "\u017fwitch", "KEEP\u3000", "\x1c",
]  # fmt: skip
WHOLE = (
    "<switch>{}</switch>{s}<subgoal>{}</subgoal>{s}<action>{}</action>",
    "<action>{}</action>{s}<subgoal>{}</subgoal>{s}<switch>{}</switch>",
    "<switch>{}<subgoal>{}<action>{}</action></subgoal></switch>",
)


@pytest.fixture(scope="module")
def responses():
    with np.load(GOLDEN / "responses.npz") as arrays:
        return {name: arrays[name] for name in arrays.files}


def small_byte_level(tags_are_tokens: bool):
    """A byte-level BPE of our own, its tags one token each or not."""
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE())
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(
        add_prefix_space=False
    )
    tokenizer.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=320,
        initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=["<|im_end|>"],
        show_progress=False,
    )
    tokenizer.train_from_iterator(["<action>go to the desk 1</action>"] * 3, trainer)
    if tags_are_tokens:
        tokenizer.add_tokens(TAGS)
    return tokenizer


def metaspace():
    """A SentencePiece-like vocabulary with byte fallback."""
    words = ["<unk>", *(f"<0x{byte:02X}>" for byte in range(256))]
    words += sorted({*"".join(TAGS), "▁", *"KEPSWITCHgotdesk1", *TAGS})
    tokenizer = tokenizers.Tokenizer(
        tokenizers.models.BPE(
            {word: n for n, word in enumerate(words)},
            [],
            unk_token="<unk>",
            byte_fallback=True,
        )
    )
    decoders = tokenizers.decoders
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    )
    tokenizer.normalizer = tokenizers.normalizers.Replace(" ", "▁")
    tokenizer.add_special_tokens(["<|im_end|>"])
    return tokenizer


TOKENIZERS = {
    "qwen": qwen_tokenizer,
    "byte-level": lambda: small_byte_level(False),
    "tags are tokens": lambda: small_byte_level(True),
    "metaspace": metaspace,
}


def malformed(tokenizer, count: int, seed: int):
    """Rows of token ids: whole, broken, cut inside characters, some of them empty."""
    draw = random.Random(seed)
    rows = []
    for _ in range(count):
        if draw.random() < 0.5:
            text = "".join(draw.choices(FRAGMENTS, k=draw.randint(0, 14)))
        else:
            content = draw.choices(FRAGMENTS[12:], k=3)
            text = draw.choice(WHOLE).format(*content, s=draw.choice(["", "\n", " "]))
            text += draw.choice(["", "<|im_end|>", "\n", "<|im_end|>"])
        ids = tokenizer.encode(text, add_special_tokens=False).ids
        if draw.random() < 0.3:
            ids = ids[: draw.randint(0, len(ids))]
        rows.append(ids)
    width = max(map(len, rows)) + 1
    tokens = np.zeros((count, width), np.int32)
    for row, ids in zip(tokens, rows, strict=True):
        row[: len(ids)] = ids
    mask = np.arange(width) < np.array([len(ids) for ids in rows])[:, None]
    return tokens, mask, np.array([draw.randint(0, 3) for _ in rows])


def check_against_twin(function, tokenizer, *, include_tags, mode, count=200):
    tokens, mask, turn_index = malformed(tokenizer, count, seed=1)
    table = piece_table(tokenizer)
    paper = mode == "paper"
    got = function(
        tokens, mask, turn_index, table, include_tags=include_tags, mode=mode
    )
    for n, (row, length) in enumerate(zip(tokens, mask.sum(axis=1), strict=True)):
        texts = [table.piece(token).decode(errors="replace") for token in row[:length]]
        wanted = reference.spans(texts, include_tags=include_tags, paper=paper)
        for name in BLOCKS:
            np.testing.assert_array_equal(
                getattr(got, name)[n, :length], wanted[name], err_msg=f"{name} {texts}"
            )
            assert not getattr(got, name)[n, length:].any()
        whole = b"".join(table.piece(token) for token in row[:length])
        if paper:
            said = (wanted["text"] or "").strip().upper()
            switches = said not in ("", "KEEP")
        else:
            text = whole.decode(errors="replace")
            switches = read_response(text).switch == "SWITCH"
        assert got.is_switch[n] == switches, f"is_switch of {texts}"
        first = np.arange(mask.shape[1]) == 0
        starts = switches or turn_index[n] == 0
        has_tokens = length > 0
        position = np.arange(mask.shape[1]) == wanted["low"]
        for name, place in (
            ("value_high", first & starts),
            ("value_switch", first),
            ("value_low", position),
        ):
            np.testing.assert_array_equal(
                getattr(got, name)[n], place & has_tokens, err_msg=f"{name} {texts}"
            )


@pytest.mark.parametrize("include_tags", [True, False])
def test_published_masks(responses, include_tags):
    got = token_masks(
        responses["responses"],
        responses["response_mask"],
        responses["turn_index"],
        qwen_tokenizer(),
        include_tags=include_tags,
        mode="paper",
    )
    kind = "tags" if include_tags else "content"
    for name in BLOCKS:
        np.testing.assert_array_equal(
            getattr(got, name), responses[f"{kind}/{name}_mask"]
        )
    np.testing.assert_array_equal(got.is_switch, responses["is_switch"])
    for name in ("high", "low", "switch"):
        np.testing.assert_array_equal(
            getattr(got, f"value_{name}"), responses[f"value_mask_{name}"]
        )


@pytest.mark.parametrize("include_tags", [True, False])
@pytest.mark.parametrize("mode", ["corrected", "paper"])
@pytest.mark.parametrize("kind", TOKENIZERS)
def test_agrees_with_slow_twin_on_malformed_text(kind, mode, include_tags):
    check_against_twin(
        token_masks, TOKENIZERS[kind](), include_tags=include_tags, mode=mode
    )


@pytest.mark.parametrize(
    "old, new",
    [
        ('side="right") - self.first', 'side="left") - self.first'),
        ("flat.fill(*span) for name", "flat.fill(span[0], span[1] - 1) for name"),
        ("next_in(closes, content, self.row_end)", "next_in(closes, content, 10**9)"),
        ("low = np.where(low >= 0, low", "low = np.where(low >= 30, low"),
        ("after < self.lengths), after", "after <= self.lengths), after"),
        ("already, start, np.where", "already, -start, np.where"),
        ("(ends | no_action[:, None]) &", "no_action[:, None] &"),
        ("(here & ~same) if paper else same", "(here & ~same)"),
    ],
)
def test_seeded_faults_are_caught(old, new, monkeypatch):
    wrong = module
    if old in inspect.getsource(row_bytes):
        broken = mutated(row_bytes, old, new)
        monkeypatch.setattr(module, "RowBytes", broken.RowBytes)
    else:
        wrong = mutated(module, old, new)
    with pytest.raises(AssertionError, match="."):
        for mode in ("paper", "corrected"):
            check_against_twin(
                wrong.token_masks,
                small_byte_level(False),
                include_tags=True,
                mode=mode,
                count=400,
            )


def test_corrected_masks_give_each_token_one_owner(responses):
    arguments = (
        responses["responses"],
        responses["response_mask"],
        responses["turn_index"],
        qwen_tokenizer(),
    )
    ours, published = token_masks(*arguments), token_masks(*arguments, mode="paper")
    ours_sum = sum(getattr(ours, name).astype(int) for name in BLOCKS)
    published_sum = sum(getattr(published, name).astype(int) for name in BLOCKS)
    assert ours_sum.max() == 1 < published_sum.max()
    end = responses["responses"] == qwen_tokenizer().token_to_id("<|im_end|>")
    end &= responses["response_mask"]
    assert end.any() and ours.action[end].all()
    texts = json.loads((GOLDEN / "responses.json").read_text())
    alone = (published_sum <= 1).all(axis=1)
    assert alone.sum() > 100
    for name in BLOCKS:
        np.testing.assert_array_equal(
            (getattr(ours, name) & ~end)[alone],
            (getattr(published, name) & ~end)[alone],
        )
    for n, response in enumerate(texts):
        reply = read_response(response["decoded"])
        assert ours.is_switch[n] == (reply.switch == "SWITCH")


def test_a_shared_token_belongs_to_the_block_it_begins_in():
    tokenizer = qwen_tokenizer()
    encoded = tokenizer.encode(WHOLE[0].format("KEEP", "a", "b", s=""))
    assert "><" in encoded.tokens
    tokens = np.array([encoded.ids])
    arguments = tokens, np.ones_like(tokens, bool), np.array([1]), tokenizer
    shared = [n for n, token in enumerate(encoded.tokens) if token == "><"]
    ours, published = token_masks(*arguments), token_masks(*arguments, mode="paper")
    assert ours.switch[0, shared[0]] and not ours.subgoal[0, shared[0]]
    assert ours.subgoal[0, shared[1]] and not ours.action[0, shared[1]]
    assert published.switch[0, shared[0]] and published.subgoal[0, shared[0]]


def test_unknown_switch_text_keeps_unless_published():
    tokenizer = qwen_tokenizer()
    ids = tokenizer.encode(WHOLE[0].format("MAYBE", "a", "b", s="\n")).ids
    arguments = np.array([ids]), np.ones((1, len(ids)), bool), np.array([1]), tokenizer
    assert not token_masks(*arguments).is_switch[0]
    assert token_masks(*arguments, mode="paper").is_switch[0]


def test_padding_and_company_change_nothing():
    tokenizer = small_byte_level(False)
    tokens, mask, turn_index = malformed(tokenizer, 40, seed=3)
    together = token_masks(tokens, mask, turn_index, tokenizer)
    wide = np.pad(tokens, [(0, 0), (0, 5)], constant_values=-7)
    padded = token_masks(wide, np.pad(mask, [(0, 0), (0, 5)]), turn_index, tokenizer)
    for name, a, b in zip(together._fields, together, padded, strict=True):
        np.testing.assert_array_equal(a, b if b.ndim == 1 else b[:, :-5], err_msg=name)
    for n in range(40):
        alone = token_masks(
            tokens[n : n + 1], mask[n : n + 1], turn_index[n : n + 1], tokenizer
        )
        for a, b in zip(together, alone, strict=True):
            np.testing.assert_array_equal(a[n], b[0])


@pytest.mark.parametrize("kind", TOKENIZERS)
def test_pieces_spell_what_the_tokenizer_decodes(kind):
    tokenizer = TOKENIZERS[kind]()
    table = piece_table(tokenizer)
    for text in (WHOLE[0].format("KEEP", "café 😀", "go 1", s="\n"), "KEEP<|im_end|>"):
        ids = tokenizer.encode(text, add_special_tokens=False).ids
        spelled = b"".join(table.piece(token) for token in ids).decode()
        assert spelled == tokenizer.decode(ids, skip_special_tokens=False)
    end = tokenizer.token_to_id("<|im_end|>")
    assert table.ends[end] and not table.ends[tokenizer.encode("<switch>").ids].any()


def test_the_table_is_kept_until_tokens_are_added():
    tokenizer = small_byte_level(False)
    table = piece_table(tokenizer)
    assert piece_table(tokenizer) is table
    tokenizer.add_tokens(["<switch>"])
    assert len(piece_table(tokenizer).length) == len(table.length) + 1


def test_every_byte_has_its_place_in_a_byte_level_vocabulary():
    assert sorted(pieces_module._byte_level_table().values()) == list(range(256))
    alphabet = tokenizers.pre_tokenizers.ByteLevel.alphabet()
    assert {chr(code) for code in pieces_module._byte_level_table()} == set(alphabet)


def test_subgoal_ids_number_equal_tokens_alike():
    tokens = np.array([[9, 5, 6, 0], [5, 6, 1, 0], [5, 7, 0, 0], [5, 6, 7, 0], [5] * 4])
    subgoal = np.array(
        [[0, 1, 1, 0], [1, 1, 0, 0], [1, 1, 0, 0], [1, 1, 1, 0], [0, 0, 0, 0]], bool
    )
    ids = subgoal_ids(tokens, subgoal)
    assert ids[0] == ids[1] and len({*ids}) == 4 and ids[4] == -1


def test_bad_input_is_named():
    tokenizer = small_byte_level(False)
    tokens, mask = np.zeros((1, 3), int), np.ones((1, 3), bool)
    turn = np.zeros(1, int)
    with pytest.raises(ValueError, match="one shape"):
        token_masks(tokens, mask[:, :2], turn, tokenizer)
    with pytest.raises(ValueError, match="turn_index must be"):
        token_masks(tokens, mask, np.zeros(2), tokenizer)
    with pytest.raises(ValueError, match="prefix"):
        token_masks(tokens, np.array([[1, 0, 1]]), turn, tokenizer)
    with pytest.raises(ValueError, match="mode must be"):
        token_masks(tokens, mask, turn, tokenizer, mode="golden")
    with pytest.raises(ValueError, match="token ids run from"):
        token_masks(tokens + 10**6, mask, turn, tokenizer)
    with pytest.raises(ValueError, match="needs a fast tokenizer"):
        token_masks(tokens, mask, turn, str)
    words = tokenizers.Tokenizer(tokenizers.models.WordPiece({"[UNK]": 0}))
    words.decoder = tokenizers.decoders.WordPiece()
    with pytest.raises(ValueError, match="this tokenizer's decoder is"):
        token_masks(tokens, mask, turn, words)
