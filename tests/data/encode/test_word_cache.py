"""Tokenizing word by word gives the ids and places of tokenizing whole, or gives nothing."""

import random
from pathlib import Path

import pytest
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from seodang.data.encode import word_cache as module
from seodang.data.encode.word_cache import _RULES, WordCache, words_of

MARKERS = ("<turn>", "<end>")
PIECES = (
    "<turn>", "<end>", "model\n", "user\n", " ", " ", "  ", "\n", "\n\n", "\n ", " \n", "\t", "\r\n", "\u3000", "\xa0",
    "두통이", " 있어요.", "쉬세요", "뷁", "e\u0301", "\u0301", "🍎", "the", " quick", "fox's", "don't", "3.14",
    "> </", "</", "<", ">", "<<turn>", "<turn", "end>", "▁", "▁▁", "   x", "_", "...", "—", "a\nb", "\x1c", "\0", "x",
    "2024년",
)  # fmt: skip
TEXT = "두통이 있어요. 물을 마시고 쉬세요.\n\nthe quick  brown fox's 3.14\n> </b> don't\n" * 3


def _sentencepiece(*more: str) -> Tokenizer:
    """BPE over whole texts, as Gemma's: ▁ for blanks, bytes for the unknown, line breaks as added tokens."""
    pieces = sorted({*TEXT.replace(" ", "▁"), "▁", "\n", "▁▁", "th", "the", "▁th", "qu", "▁qu", "있어", "▁있어", *more})
    vocabulary = [f"<0x{byte:02X}>" for byte in range(256)] + ["<unk>", *pieces]
    merges = [(a, b) for a in pieces for b in pieces if a + b in pieces]
    tokenizer = Tokenizer(
        models.BPE({piece: n for n, piece in enumerate(vocabulary)}, merges, byte_fallback=True, unk_token="<unk>")
    )
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    breaks = [AddedToken("\n" * number, normalized=False) for number in range(1, 5)]
    tokenizer.add_tokens([*breaks, *(AddedToken(name, special=True, normalized=False) for name in MARKERS)])
    return tokenizer


def _byte_level(rule: str, *, normalizer: normalizers.Normalizer | None = None) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    if normalizer is not None:
        tokenizer.normalizer = normalizer
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(rule), "isolated"), pre_tokenizers.ByteLevel(False, use_regex=False)]
    )
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator([TEXT], trainers.BpeTrainer(vocab_size=400, initial_alphabet=alphabet))
    tokenizer.add_special_tokens([AddedToken(name, normalized=False) for name in MARKERS])
    return tokenizer


def _texts(number: int) -> list[str]:
    draw = random.Random(7)
    return [TEXT, "", *("".join(draw.choices(PIECES, k=draw.choice((2, 3, 5, 14)))) for _ in range(number))]


def _check(tokenizer: Tokenizer, words: WordCache, texts: list[str]) -> int:
    """Each text alike, twice (from memory the second time); how many were done by words."""
    new, known = words.encode(texts), words.encode(texts)
    for text, by_words, again in zip(texts, new, known, strict=True):
        assert (by_words is None) == (again is None), repr(text)
        if by_words is not None and again is not None:
            whole = tokenizer.encode(text, add_special_tokens=False)
            starts = [start for start, _ in whole.offsets]
            for ids, begins in (by_words, again):
                assert ids.tolist() == whole.ids, repr(text)
                assert begins.tolist() == starts, repr(text)
    return sum(found is not None for found in (*new, *known))


def test_words_of_a_sentencepiece_tokenizer_give_what_the_whole_text_gives() -> None:
    """Blanks, line breaks, markers, byte tokens in any order; texts that hold ▁ are left to the whole."""
    tokenizer, texts = _sentencepiece(), _texts(3000)
    words = words_of(tokenizer, MARKERS)
    assert words is not None
    assert _check(tokenizer, words, texts) > 0.4 * len(texts)


def test_words_in_use_stay_known_while_others_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    """A word of every batch is tokenised once, one that is not met for long once more; ids stay those of the whole."""
    monkeypatch.setattr(module, "CACHED_WORDS", 20)
    tokenizer, learnt = _sentencepiece(), list[str]()
    words = words_of(tokenizer, MARKERS)
    assert words is not None
    learn = words._known._learn
    monkeypatch.setattr(words._known, "_learn", lambda new: (learnt.append(new), learn(new))[1])
    for number in [*range(60), 0]:
        assert _check(tokenizer, words, [f"두통이 {number}번"]) == 2
    assert learnt.count("두통이") == 1
    assert [learnt.count(f" {number}번") for number in (0, 1, 59)] == [2, 1, 1]


@pytest.mark.parametrize("rule", _RULES)
def test_words_of_a_byte_level_tokenizer_give_what_the_whole_text_gives(rule: str) -> None:
    """Qwen's rule (with NFC) and Llama 3's; other white space than blanks and line breaks is left to the whole."""
    for normalizer in (None, normalizers.NFC()):
        tokenizer, texts = _byte_level(rule, normalizer=normalizer), _texts(3000)
        words = words_of(tokenizer, MARKERS)
        assert words is not None
        assert _check(tokenizer, words, texts) > 0.4 * len(texts)


def test_texts_with_an_entry_that_goes_across_a_blank_are_left_to_the_whole() -> None:
    """Gemma's vocabulary has such an entry: '>▁</'."""
    tokenizer = _sentencepiece("</", "▁</", ">▁</")
    words = words_of(tokenizer, MARKERS)
    assert words is not None
    assert words.encode(["a > </b>", "a >> x"])[0] is None
    assert _check(tokenizer, words, ["a > </b>", "a > <b>", "a >x </b>"]) == 4


@pytest.mark.parametrize("kind", ["sentencepiece", "crossing", *range(len(_RULES))])
def test_pieces_of_a_long_text_give_what_the_whole_text_gives(kind: str | int) -> None:
    """Whatever white space stands in it, and whatever entries of the vocabulary go across a blank."""
    tokenizer = _byte_level(_RULES[kind], normalizer=normalizers.NFC()) if isinstance(kind, int) else _sentencepiece()
    if kind == "crossing":
        tokenizer = _sentencepiece("e▁", "e▁q", "s▁", ".▁")
    words = words_of(tokenizer, MARKERS)
    assert words is not None
    cut = 0
    for text in _texts(400):
        pieces = words.pieces(text, 3)
        assert "".join(pieces) == text
        cut += len(pieces) > 2
        ids = [id for piece in pieces for id in tokenizer.encode(piece, add_special_tokens=False).ids]
        assert ids == tokenizer.encode(text, add_special_tokens=False).ids
    assert cut > 50


def test_other_tokenizers_are_left_alone() -> None:
    """Another rule, a prefix blank, a token that strips, drop-out: nothing is known of them."""
    assert words_of(_byte_level(r"\s+|\S+"), MARKERS) is None
    prefixed = _sentencepiece()
    prefixed.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    assert words_of(prefixed, MARKERS) is None
    strips = _sentencepiece()
    strips.add_tokens([AddedToken("<x>", rstrip=True, normalized=False)])
    assert words_of(strips, MARKERS) is None
    noisy = _sentencepiece()
    noisy.model.dropout = 0.1
    assert words_of(noisy, MARKERS) is None
    across = _sentencepiece()
    across.add_tokens([AddedToken("x y", normalized=False)])
    assert words_of(across, MARKERS) is None


def test_a_marker_that_another_token_can_cover_is_no_place_to_cut() -> None:
    """<turn><end> as one added token: neither may be cut out of a text by itself."""
    tokenizer = _sentencepiece()
    tokenizer.add_tokens([AddedToken("<turn><end>", normalized=False)])
    words = words_of(tokenizer, MARKERS)
    assert words is not None
    assert _check(tokenizer, words, ["<turn><end>x", "x <turn>y<end>\n"]) == 4


@pytest.mark.shared
@pytest.mark.parametrize("name", ["gemma3", "qwen3", "llama3_1"])
def test_real_tokenizers_give_the_same_by_words(name: str, shared: Path) -> None:
    """Real data and noise."""
    tokenizer = Tokenizer.from_file(str(shared / "data" / "tokenizers" / name / "tokenizer.json"))
    markers = {"gemma3": ("<start_of_turn>", "<end_of_turn>"), "qwen3": ("<|im_start|>", "<|im_end|>")}
    words = words_of(tokenizer, markers.get(name, ("<|start_header_id|>", "<|eot_id|>")))
    assert words is not None
    files = ("ko_medical", "en_general", "cpt_en_medical", "chat_multiturn", "mc_ko_boolq")
    lines = [
        line
        for file in files
        for line in (shared / "data" / f"{file}.jsonl").read_text(encoding="utf-8").splitlines()[:150]
    ]
    texts = [*lines, *(line.replace("\\n", "\n").replace('", "', "\n  ") for line in lines), *_texts(500)]
    assert _check(tokenizer, words, texts) > 0.4 * len(texts)
