"""Answers: the same batched and alone, stopped, reproducible, streamed."""

import queue
import threading
import unicodedata
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers import (
    AutoConfig,
    GenerationConfig,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
)

from seodang.errors import ModelError, ResourceError, TemplateError
from seodang.model.engine.attention import PACKED, attention
from seodang.model.generate import batch as module
from seodang.model.generate.batch import Completion, generate, prompt_ids, stream
from seodang.model.generate.text_stream import text_pieces
from seodang.recipe import Generate
from tiny import make_config, make_model

QUESTIONS = (
    "감기에 걸렸을 때는 물을 많이 마시고 푹 쉬는 것이 좋습니다. 사과는 왜 빨간가요?",
    "Drink water",
    "고혈압이 있는 사람은",
    "What is the capital of France?",
    "a",
)
NEVER = 3  # <unused0>, which a tiny model does not end with


@pytest.fixture
def prompts(tiny_tokenizer: PreTrainedTokenizerFast) -> list[list[int]]:
    return [tiny_tokenizer(question).input_ids for question in QUESTIONS]


@pytest.fixture(params=["llama", "gemma3", "gemma2"])
def model(request: pytest.FixtureRequest) -> PreTrainedModel:
    """Full attention, sliding windows, and soft-caps that only eager attention knows."""
    return make_model(make_config(request.param))


def answers(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, prompts: list[list[int]], **more: object
) -> list[Completion]:
    settings = Generate.model_validate({"max_new_tokens": 24, **more})
    return generate(model, tokenizer, prompts, settings, turn_end_id=NEVER)


def greedy_by_hand(model: PreTrainedModel, ids: list[int], stops: set[int], most: int) -> list[int]:
    """The definition: the likeliest next token of the whole text so far, again and again, without a cache."""
    new: list[int] = []
    while len(new) < most and not stops & set(new):
        with torch.no_grad():
            new.append(int(model(torch.tensor([ids + new])).logits[0, -1].argmax()))
    return new


def test_batched_is_alone_is_by_hand(
    model: PreTrainedModel, tiny_tokenizer: PreTrainedTokenizerFast, prompts: list[list[int]]
) -> None:
    """Greedy answers of a left-padded batch are those of each prompt alone, and those of the definition."""
    together = answers(model, tiny_tokenizer, prompts)
    for prompt, found in zip(prompts, together, strict=True):
        assert answers(model, tiny_tokenizer, [prompt]) == [found]
        assert list(found.token_ids) == greedy_by_hand(model, prompt, {NEVER, 1}, 24)
        assert (found.prompt_tokens, found.new_tokens) == (len(prompt), len(found.token_ids))


def test_small_batches_keep_order(
    tiny_model: PreTrainedModel, tiny_tokenizer: PreTrainedTokenizerFast, prompts: list[list[int]]
) -> None:
    """A small token budget means more batches, the same answers in the same order, and progress for each prompt."""
    done: list[int] = []
    settings = Generate(max_new_tokens=8)
    found = generate(
        tiny_model, tiny_tokenizer, prompts, settings, turn_end_id=NEVER, batch_tokens=60, on_progress=done.append
    )
    assert found == answers(tiny_model, tiny_tokenizer, prompts, max_new_tokens=8)
    assert len(done) > 1
    assert sum(done) == len(prompts)
    assert answers(tiny_model, tiny_tokenizer, []) == []


@pytest.mark.parametrize("more", [{}, {"temperature": 0.1, "top_p": 0.9}, {"repetition_penalty": 1.1}])
def test_rows_that_have_stopped_are_left_out(
    tiny_model: PreTrainedModel,
    tiny_tokenizer: PreTrainedTokenizerFast,
    prompts: list[list[int]],
    more: dict[str, float],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Once half of a batch has stopped the others go on by themselves, and every answer stays what it was."""
    settings = Generate.model_validate({"max_new_tokens": 40, **more})
    asked = [[*prompt, *range(20, 20 + number)] for number in range(4) for prompt in prompts]
    whole = generate(tiny_model, tiny_tokenizer, asked, settings, turn_end_id=NEVER)
    common = max(
        (id for found in whole for id in set(found.token_ids)), key=lambda id: sum(id in f.token_ids for f in whole)
    )
    batches: list[int] = []
    run = module._run
    monkeypatch.setattr(module, "_run", lambda *given, **named: batches.append(len(given[2])) or run(*given, **named))
    monkeypatch.setattr(module, "_MANY_ROWS", 1000)
    expected = generate(tiny_model, tiny_tokenizer, asked, settings, turn_end_id=common)
    assert batches == [20]
    batches.clear()
    monkeypatch.setattr(module, "_MANY_ROWS", 2)
    monkeypatch.setattr(module, "_WORTH_TOKENS", 1)
    done: list[int] = []
    found = generate(tiny_model, tiny_tokenizer, asked, settings, turn_end_id=common, on_progress=done.append)
    assert found == expected
    assert batches[0] == 20
    assert len(batches) > 1
    assert batches == sorted(batches, reverse=True)
    assert sum(done) == 20


def test_batches() -> None:
    """Batches hold like lengths, the longest first, within the budget; a prompt above it stands alone."""
    found = module._batches([5, 100, 6, 7, 50], new_tokens=10, budget=60, most_rows=16, pads=True)
    assert found == [[1], [4], [3, 2, 0]]
    assert module._batches([5] * 5, new_tokens=10, budget=1000, most_rows=2, pads=True) == [[0, 1], [2, 3], [4]]
    assert module._batches([5, 7, 5, 6], new_tokens=1, budget=99, most_rows=9, pads=False) == [[1], [3], [0, 2]]


def test_stops(tiny_model: PreTrainedModel, tiny_tokenizer: PreTrainedTokenizerFast, prompts: list[list[int]]) -> None:
    """An answer ends with the first turn end, which is counted and not shown; the others go on."""
    free = answers(tiny_model, tiny_tokenizer, prompts)
    end = free[0].token_ids[5]
    first = free[0].token_ids.index(end)
    settings = Generate(max_new_tokens=24)
    found = generate(tiny_model, tiny_tokenizer, prompts, settings, turn_end_id=end)
    assert found[0].stopped
    assert found[0].token_ids == free[0].token_ids[: first + 1]
    assert found[0].new_tokens == first + 1
    assert found[0].text == tiny_tokenizer.decode(free[0].token_ids[:first], skip_special_tokens=True)
    for limited, unlimited in zip(found, free, strict=True):
        assert limited.stopped == (end in unlimited.token_ids) or unlimited.stopped
        assert limited.token_ids == unlimited.token_ids[: limited.new_tokens]
    assert not all(completion.stopped for completion in found)


def test_a_turn_of_calls_stops_too(
    tiny_model: PreTrainedModel, tiny_tokenizer: PreTrainedTokenizerFast, prompts: list[list[int]]
) -> None:
    """The token that ends a tool call ends an answer as the turn end does."""
    free = answers(tiny_model, tiny_tokenizer, prompts)[0]
    end = free.token_ids[5]
    settings = Generate(max_new_tokens=24)
    found = generate(tiny_model, tiny_tokenizer, prompts[:1], settings, turn_end_id=NEVER, call_end_id=end)[0]
    assert found.stopped
    assert found.token_ids == free.token_ids[: free.token_ids.index(end) + 1]


def test_models_defaults_do_not_leak(
    tiny_tokenizer: PreTrainedTokenizerFast, prompts: list[list[int]], tiny_model: PreTrainedModel
) -> None:
    """A base's sampling defaults change nothing about a greedy answer, and stay as they were."""
    model = make_model(make_config("llama"))
    own = GenerationConfig(
        do_sample=True, temperature=2.0, top_k=3, repetition_penalty=3.0, num_beams=2, eos_token_id=1
    )
    model.generation_config = own
    assert answers(model, tiny_tokenizer, prompts) == answers(tiny_model, tiny_tokenizer, prompts)
    assert model.generation_config is own


def test_sampling_is_reproducible(
    tiny_model: PreTrainedModel, tiny_tokenizer: PreTrainedTokenizerFast, prompts: list[list[int]]
) -> None:
    """One seed, one answer; another seed, another; the same question asked twice is answered independently."""
    asked = [prompts[0], prompts[0], prompts[1]]
    sampled = {"temperature": 1.0, "top_p": 0.95, "top_k": 64}
    first = answers(tiny_model, tiny_tokenizer, asked, **sampled)
    torch.manual_seed(1)  # torch's own state plays no part
    assert answers(tiny_model, tiny_tokenizer, asked, **sampled) == first
    assert answers(tiny_model, tiny_tokenizer, asked[:1], **sampled) == first[:1]
    assert answers(tiny_model, tiny_tokenizer, asked, **sampled, seed=7) != first
    assert first[0] != first[1]
    assert first[0] != answers(tiny_model, tiny_tokenizer, asked[:1])[0]


def test_repetition_penalty(
    tiny_model: PreTrainedModel, tiny_tokenizer: PreTrainedTokenizerFast, prompts: list[list[int]]
) -> None:
    """A strong penalty leaves no token twice."""
    for found in answers(tiny_model, tiny_tokenizer, prompts, repetition_penalty=1e6):
        assert len(set(found.token_ids)) == found.new_tokens


def test_model_is_left_as_it_was(
    tiny_tokenizer: PreTrainedTokenizerFast, prompts: list[list[int]], model: PreTrainedModel
) -> None:
    """During training under packed attention, generation runs under a plain one, and the model goes on as before."""
    expected = answers(model, tiny_tokenizer, prompts)
    model.train()
    with attention(model, PACKED):
        assert answers(model, tiny_tokenizer, prompts) == expected
        assert model.config._attn_implementation == PACKED
    assert model.training


def test_messages_through_the_template(tiny_model: PreTrainedModel, tiny_tokenizer: PreTrainedTokenizerFast) -> None:
    """Messages become the ids of apply_chat_template with a generation prompt; decomposed Hangul is composed first."""
    messages = [{"role": "user", "content": "감기"}]
    with pytest.raises(TemplateError, match="no chat template"):
        generate(tiny_model, tiny_tokenizer, [messages], Generate(), turn_end_id=NEVER)
    tiny_tokenizer.chat_template = (
        "{{ bos_token }}{{ messages[0].content }}!{% if add_generation_prompt %}<start_of_turn>{% endif %}"
    )
    expected = tiny_tokenizer("감기!<start_of_turn>").input_ids
    assert prompt_ids(tiny_tokenizer, messages) == expected
    decomposed = [{"role": "user", "content": unicodedata.normalize("NFD", "감기")}]
    assert prompt_ids(tiny_tokenizer, decomposed) == expected
    found = generate(tiny_model, tiny_tokenizer, [messages], Generate(max_new_tokens=4), turn_end_id=NEVER)
    assert found == answers(tiny_model, tiny_tokenizer, [expected], max_new_tokens=4)


def test_too_long_for_the_model(tiny_model: PreTrainedModel, tiny_tokenizer: PreTrainedTokenizerFast) -> None:
    """A prompt that leaves no room for the answer is refused with the numbers, as is an empty one."""
    with pytest.raises(ModelError, match="prompt of 2040 tokens and 24 new ones exceed the model's 2048"):
        answers(tiny_model, tiny_tokenizer, [[5] * 2040])
    with pytest.raises(ModelError, match="empty prompt"):
        answers(tiny_model, tiny_tokenizer, [[]])


class Cramped:
    """A model's `generate` that has memory for so many rows only."""

    def __init__(self, model: PreTrainedModel, rows: int) -> None:
        self.generate, self.rows = model.generate, rows

    def __call__(self, input_ids: torch.Tensor, **more: object) -> torch.Tensor:
        if len(input_ids) > self.rows:
            raise torch.OutOfMemoryError
        output: torch.Tensor = self.generate(input_ids, **more)
        return output


def test_out_of_memory(tiny_tokenizer: PreTrainedTokenizerFast, prompts: list[list[int]]) -> None:
    """A batch that does not fit is halved until it does; one row that does not fit is told."""
    model = make_model(make_config("llama"))
    expected = answers(model, tiny_tokenizer, prompts)
    model.generate = Cramped(model, 1)
    assert answers(model, tiny_tokenizer, prompts) == expected
    model.generate = Cramped(model, 0)
    with pytest.raises(ResourceError, match="max_new_tokens"):
        answers(model, tiny_tokenizer, prompts)


def pieces(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, prompt: list[int], **more: object
) -> Iterator[str]:
    return stream(model, tokenizer, prompt, Generate.model_validate(more), turn_end_id=NEVER)


@pytest.mark.parametrize("sampled", [{}, {"temperature": 1.5, "seed": 5}])
def test_stream_is_the_answer(
    tiny_model: PreTrainedModel,
    tiny_tokenizer: PreTrainedTokenizerFast,
    prompts: list[list[int]],
    sampled: dict[str, float],
) -> None:
    """The pieces of a stream are more than one and together the answer, though a random model breaks characters."""
    for prompt in prompts:
        (whole,) = answers(tiny_model, tiny_tokenizer, [prompt], max_new_tokens=40, **sampled)
        found = list(pieces(tiny_model, tiny_tokenizer, prompt, max_new_tokens=40, **sampled))
        assert "".join(found) == whole.text
        assert len(found) > 1


def test_hangul_comes_whole(tiny_tokenizer: PreTrainedTokenizerFast) -> None:
    """A syllable of three tokens is one piece; bytes of one that was cut off come last."""
    text = "쀍 힣!"
    ids = tiny_tokenizer(text, add_special_tokens=False).input_ids
    assert len(ids) > len(text)
    tokens: queue.SimpleQueue[int | BaseException | None] = queue.SimpleQueue()
    for token in [*ids, *ids[:2], NEVER, None]:
        tokens.put(token)
    found = list(text_pieces(tiny_tokenizer, module._written(tokens, [NEVER])))
    assert found == ["쀍", " ", "힣", "!", "\ufffd"]


def test_stream_stops_when_left(
    tiny_model: PreTrainedModel, tiny_tokenizer: PreTrainedTokenizerFast, prompts: list[list[int]]
) -> None:
    """Whoever leaves after the first piece does not wait for 1,500 tokens; the model is free again at once."""
    steps: list[int] = []
    handle = tiny_model.register_forward_hook(lambda *_: steps.append(1))
    try:
        threads = threading.active_count()
        listening = pieces(tiny_model, tiny_tokenizer, prompts[0], max_new_tokens=1500)
        next(listening)
        listening.close()
        assert threading.active_count() == threads
        assert len(steps) < 500
    finally:
        handle.remove()
    assert answers(tiny_model, tiny_tokenizer, [prompts[1]], max_new_tokens=2)


def test_stream_tells_errors(tiny_tokenizer: PreTrainedTokenizerFast, prompts: list[list[int]]) -> None:
    """An error in the generating thread reaches the listener."""
    model = make_model(make_config("llama"))
    model.generate = Cramped(model, 0)
    with pytest.raises(torch.OutOfMemoryError):
        list(pieces(model, tiny_tokenizer, prompts[0]))


@pytest.mark.slow
def test_real_model_batched_is_alone() -> None:
    """Greedy answers of the packaged Gemma are the same in a left-padded batch and alone."""
    from seodang.model.load import load_model, load_tokenizer
    from seodang.model.packaged import packaged_folder
    from seodang.recipe import Model
    from seodang.types import Placement

    try:
        packaged_folder("gemma-3-270m")
    except ModelError as error:
        pytest.skip(str(error))
    placement = Placement(device="cpu", dtype="float32", compute_dtype="float32", attention="packed", reasons=())
    model = load_model(Model(path="package:gemma-3-270m"), placement)
    tokenizer = load_tokenizer("package:gemma-3-270m")
    texts = ("대한민국의 수도는", "Water boils at a temperature of", "감기에 걸렸을 때는 물을 많이 마시고")
    asked = [tokenizer(text).input_ids for text in texts]
    settings = Generate(max_new_tokens=8)
    together = generate(model, tokenizer, asked, settings, turn_end_id=106)
    alone = [generate(model, tokenizer, [ids], settings, turn_end_id=106)[0] for ids in asked]
    assert together == alone


SIZES = {
    "vocab_size": 512, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 1,
}  # fmt: skip
LONGROPE = {
    "rope_type": "longrope", "rope_theta": 10_000.0, "original_max_position_embeddings": 20,
    "short_factor": [1.0] * 8, "long_factor": [1.0 + 2 * number for number in range(8)],
}  # fmt: skip
DYNAMIC = {"rope_type": "dynamic", "rope_theta": 10_000.0, "factor": 4.0}
UNPADDED: dict[str, PreTrainedConfig] = {
    "longrope": AutoConfig.for_model("phi3", **SIZES, rope_parameters=LONGROPE, max_position_embeddings=512),
    "dynamic": AutoConfig.for_model("llama", **SIZES, rope_parameters=DYNAMIC, max_position_embeddings=32),
    "states": AutoConfig.for_model(
        "recurrent_gemma", **SIZES, attention_window_size=64, block_types=["recurrent", "attention"]
    ),
    "linear": AutoConfig.for_model("minimax", **SIZES, layer_types=["linear_attention", "full_attention"]),
}


@pytest.mark.parametrize("kind", UNPADDED)
def test_models_that_know_no_padding_answer_as_alone(
    kind: str, tiny_tokenizer: PreTrainedTokenizerFast, prompts: list[list[int]]
) -> None:
    """Where a longer prompt in the batch or before it would change a short one's answer, it does not."""
    model = make_model(UNPADDED[kind])
    asked = [*prompts, prompts[1], prompts[1][::-1]]
    together = answers(model, tiny_tokenizer, asked)
    for prompt, found in zip(asked, together, strict=True):
        (alone,) = answers(make_model(UNPADDED[kind]), tiny_tokenizer, [prompt])
        assert found.token_ids == alone.token_ids
    if kind == "longrope":
        assert max(map(len, prompts)) > 20 > min(map(len, prompts))


def test_a_model_is_asked_once_whether_it_can_be_padded(
    tiny_tokenizer: PreTrainedTokenizerFast, prompts: list[list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not at all for prompts of one length, and of several lengths the first time only."""
    asked: list[object] = []
    monkeypatch.setattr(module, "can_pad", lambda model: asked.append(model) or True)
    model = make_model(make_config("llama"))
    answers(model, tiny_tokenizer, [prompts[0]] * 2, max_new_tokens=2)
    assert asked == []
    for _ in range(2):
        answers(model, tiny_tokenizer, prompts, max_new_tokens=2)
    assert asked == [model]


def test_written_tokens_are_reported(tiny_model: PreTrainedModel, tiny_tokenizer: PreTrainedTokenizerBase) -> None:
    """Token by token while a batch runs; an answer that has ended counts as a whole one, so that the sum is known."""
    written: list[int] = []
    settings = Generate(max_new_tokens=6)
    prompts = [[5, 6, 7], [5, 6]]
    generate(tiny_model, tiny_tokenizer, prompts, settings, turn_end_id=NEVER, on_tokens=written.append)
    assert sum(written) == 2 * 6
    assert len([tokens for tokens in written if tokens]) >= 6


def test_a_gpu_takes_larger_batches_where_their_cache_is_small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Four times as many tokens, unless keys and values would take more than an eighth of its memory."""
    config = make_config("qwen3")
    token_bytes = 2 * config.num_hidden_layers * config.num_key_value_heads * config.head_dim * 4
    model: Any = SimpleNamespace(device=torch.device("cuda"), dtype=torch.float32, config=config)
    for memory, expected in ((1 << 40, 131_072), (8 * 50_000 * token_bytes, 50_000), (1 << 20, 32_768)):
        gpu = SimpleNamespace(total_memory=memory)
        monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _, gpu=gpu: gpu)
        assert module._token_budget(model) == expected
    assert module._token_budget(make_model(config)) == 32_768  # a CPU


def test_the_cache_of_other_architectures_is_not_guessed() -> None:
    """Where heads are described otherwise, batches are as small as ever."""
    assert module._cache_bytes(AutoConfig.for_model("mamba"), torch.float32) == float("inf")
