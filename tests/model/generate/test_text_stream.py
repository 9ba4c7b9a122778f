"""Streamed text is the decoded text, whatever the ids."""

import random
from collections.abc import Callable

import pytest
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from paths import SHARED
from real_tokenizers import real_tokenizer
from seodang.model.generate.text_stream import text_pieces
from tiny import make_tokenizer

BYTES = [f"<0x{byte:02X}>" for byte in range(256)]


def llama2() -> PreTrainedTokenizerFast:
    """Pieces and bytes as Llama 2 and Mistral have them: a leading blank is dropped."""
    pieces = ["<unk>", "<s>", "</s>", *BYTES, "▁", "▁a", "가", "나", "b", ".", "\ufffd", "▁▁"]
    vocab = {piece: number for number, piece in enumerate(pieces)}
    backend = Tokenizer(models.BPE(vocab=vocab, merges=[], unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    backend.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    backend.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>", bos_token="<s>", eos_token="</s>")


def wordpiece() -> PreTrainedTokenizerFast:
    """Words joined by blanks, of which some go again: "do n't ." is "don't."."""
    pieces = ["[UNK]", "[PAD]", "do", "n't", "n", "'", "t", "s", "'s", "##s", ".", ",", "!", "'ve", "'re", "i", "가"]
    backend = Tokenizer(models.WordPiece({piece: number for number, piece in enumerate(pieces)}, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    backend.decoder = decoders.WordPiece(cleanup=False)
    return PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="[UNK]", clean_up_tokenization_spaces=True)


def real(name: str) -> Callable[[], PreTrainedTokenizerBase]:
    def load() -> PreTrainedTokenizerBase:
        if not SHARED.is_dir():
            pytest.skip(f"no {SHARED}")
        return real_tokenizer(name)

    return load


@pytest.fixture(
    scope="module", params=[make_tokenizer, llama2, wordpiece, *map(real, ("gemma3", "llama3_1", "qwen3"))],
    ids=["byte-level", "llama2", "wordpiece", "gemma3", "llama3_1", "qwen3"],
)  # fmt: skip
def tokenizer(request: pytest.FixtureRequest) -> PreTrainedTokenizerBase:
    made: PreTrainedTokenizerBase = request.param()
    return made


def _draw(tokenizer: PreTrainedTokenizerBase, draw: random.Random) -> list[int]:
    """Ids of any kind: of the vocabulary, bytes in runs, control tokens, ids that there are not, beginnings of text."""
    size = len(tokenizer)
    bytes_ = [i for i in tokenizer.convert_tokens_to_ids(BYTES) if i is not None] or [5]
    text = tokenizer("감기에는 '물'을, do n't 마십니다 . 😀 é  x", add_special_tokens=False).input_ids
    kinds: list[Callable[[], list[int]]] = [
        lambda: [draw.randrange(size) for _ in range(draw.randrange(1, 6))],
        lambda: [draw.choice(bytes_) for _ in range(draw.randrange(1, 5))],
        lambda: [draw.choice([*tokenizer.all_special_ids, size + 40])],
        lambda: text[: draw.randrange(len(text) + 1)],
        lambda: tokenizer.convert_tokens_to_ids([f"<0x{byte:02X}>" for byte in "뷁".encode()[: draw.randrange(4)]]),
    ]
    drawn = [i for _ in range(draw.randrange(8)) for i in draw.choice(kinds)()]
    return [0 if i is None else i for i in drawn]


def test_the_pieces_are_the_text(tokenizer: PreTrainedTokenizerBase) -> None:
    """Of random id sequences, pieces together are what `decode` gives, none is empty or taken back."""
    draw = random.Random(0)
    for _ in range(60 if len(tokenizer) > 1000 else 300):
        ids = _draw(tokenizer, draw)
        pieces = list(text_pieces(tokenizer, ids))
        assert "".join(pieces) == tokenizer.decode(ids, skip_special_tokens=True), ids
        assert "" not in pieces


@pytest.mark.parametrize(
    ("tokens", "pieces"),
    [
        (["<0xEB>", "<0xB7>", "<0x81>", "b"], ["뷁b"]),  # a run that ends
        (["b", "<0xEB>", "<0xB7>"], ["b", "��"]),  # one that is cut off
        (["<0xEB>", "<0xB7>", "<0x81>", "<0xFF>", "b"], ["����b"]),  # a stray byte
        (["<0xEB>", "</s>", "<0xB7>", "<0x81>"], ["뷁"]),  # what is not written does not end a run
        (["▁a", "가", "<0x41>"], ["a", "가", "A"]),
        (["\ufffd", "b"], ["\ufffdb"]),  # the character itself
    ],
)
def test_runs_of_bytes(tokens: list[str], pieces: list[str]) -> None:
    """A run of byte tokens is sent when it is over, as it decodes as a whole."""
    made = llama2()
    assert list(text_pieces(made, made.convert_tokens_to_ids(tokens))) == pieces


def test_text_comes_as_it_is_written(tokenizer: PreTrainedTokenizerBase) -> None:
    """Nothing is held back but what may still change: every word of a plain sentence comes before the last one."""
    ids = tokenizer("do i do do i", add_special_tokens=False).input_ids
    pieces = list(text_pieces(tokenizer, ids))
    assert len(pieces) > 2
