"""Answers: batched, stopped at the turn end, reproducible. It knows nothing of recipes' questions or of reports.

Nothing of the model's own generation defaults leaks in: without a temperature, answers are greedy.
"""

import math
import queue
import threading
import unicodedata
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor
from transformers import (
    GenerationConfig,
    LogitsProcessorList,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    StoppingCriteriaList,
)
from transformers.generation.streamers import BaseStreamer

from seodang import recipe
from seodang.errors import ModelError, ResourceError, TemplateError
from seodang.model.context_length import max_positions
from seodang.model.engine.attention import attention
from seodang.model.engine.layers.norms import fused_norms
from seodang.model.engine.layers.rope import dynamic_rope, forget_lengths, length_boundary
from seodang.model.engine.linear_cross_entropy import tiled_head
from seodang.model.engine.self_test import can_pad
from seodang.model.generate.sampling import Draw
from seodang.model.generate.stopping import HalfStopped, Left, StopStrings, Written, cut, hold
from seodang.model.generate.text_stream import text_pieces
from seodang.model.malloc import keep_freed_memory, return_freed_memory
from seodang.model.quiet import quiet
from seodang.model.save import end_ids

Prompt = Sequence[int] | Sequence[Mapping[str, Any]]  # ids as they are, or messages for the chat template

_MOST_ROWS = 64  # of a batch on a CPU; each step reads all weights once, whatever the number of rows
_MANY_ROWS = 8  # from here on rows that have stopped are left out on a CPU, where each costs time
_WORTH_TOKENS = 16  # still to come, to leave them out
_BATCH_TOKENS = 32_768  # of a batch, prompt and answer: bounds the cache of keys and values
_GPU_BATCH_TOKENS = 4 * _BATCH_TOKENS  # the same where that cache takes little of a GPU, whose steps take equally long
_GPU_CACHE_SHARE = 0.125  # of a GPU's memory
_PADS: WeakKeyDictionary[PreTrainedModel, bool] = WeakKeyDictionary()  # whether a model's batches can be padded
_BUSY = threading.Lock()  # one generation at a time: a model is changed for it, and cores are not to be shared


@dataclass(frozen=True, kw_only=True, slots=True)
class Completion:
    """One answer."""

    text: str  # without control tokens, up to the first stop string
    token_ids: tuple[int, ...]  # the turn end included
    stopped: bool  # ended by itself or by a stop string, before max_new_tokens
    prompt_tokens: int
    new_tokens: int


def generate(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Prompt],
    settings: recipe.Generate,
    *,
    turn_end_id: int,
    call_end_id: int | None = None,
    stop: Sequence[str] = (),
    streams: Sequence[int] | None = None,
    batch_tokens: int | None = None,
    on_progress: Callable[[int], None] | None = None,
    on_tokens: Callable[[int], None] | None = None,
) -> list[Completion]:
    """Answer every prompt, in the order of the prompts; the same call gives the same answers.

    Args:
        settings: greedy without a temperature; else sampled, each prompt from its own random stream, so that its answer
            does not depend on the others. The repetition penalty counts the prompt too, as transformers does.
        turn_end_id: ends an answer, as do the ids that end a text for the model.
        call_end_id: ends a turn of tool calls, where it is another.
        stop: texts that end an answer too, and are cut off with what follows.
        streams: the random stream of each prompt; none: by their order.
        batch_tokens: prompt and answer tokens of one batch; none: by the device.
        on_progress: hears how many more prompts are answered.
        on_tokens: hears how many more tokens are written, `max_new_tokens` for each prompt that is answered.

    Raises:
        TemplateError: messages, but no chat template.
        ModelError: a prompt and its answer exceed the model's context.
        ResourceError: a single answer does not fit into memory.
    """
    ids = [prompt_ids(tokenizer, prompt) for prompt in prompts]
    _check_context(model, ids, settings)
    drawn, stops = range(len(ids)) if streams is None else streams, end_ids(model, turn_end_id, call_end_id)
    pending = _planned(model, list(map(len, ids)), settings.max_new_tokens, batch_tokens or _token_budget(model))
    answers: dict[int, list[int]] = {index: [] for index in range(len(ids))}
    while pending:  # with stop strings no batch ends early
        batch = pending.pop(0)
        begun, rows = len(answers[batch[0]]), [[*ids[index], *answers[index]] for index in batch]  # begun alike
        written = Written(on_tokens)
        try:
            found = _run(
                model, tokenizer, rows, settings, stops,
                streams=[drawn[index] for index in batch], stop=stop, begun=begun, written=written,
            )  # fmt: skip
        except torch.OutOfMemoryError as error:
            written.finish(0)
            pending[:0] = _halves(batch, error)
            continue
        for index, new in zip(batch, found, strict=True):
            answers[index] += new
        going_on = [] if any(stop) else [index for index in batch if _is_open(answers[index], settings, stops)]
        pending[:0] = [going_on] if going_on else []
        written.finish(_written_tokens(batch, going_on, answers, settings) - len(batch) * begun)
        if on_progress and len(going_on) < len(batch):
            on_progress(len(batch) - len(going_on))
    return [_completion(tokenizer, ids[index], answers[index], stops, stop) for index in range(len(ids))]


def stream(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompt: Prompt,
    settings: recipe.Generate,
    *,
    turn_end_id: int,
    stop: Sequence[str] = (),
) -> Generator[str, None, Completion]:
    """One answer in pieces of whole characters; together they are `generate`'s text. Ends when no longer listened to.

    What the generator returns is the whole answer, as `generate` gives it.

    Raises:
        TemplateError, ModelError: as `generate`.
    """
    ids = prompt_ids(tokenizer, prompt)
    _check_context(model, [ids], settings)
    stops = end_ids(model, turn_end_id)
    feed, left = _Feed(), Left()
    answers: list[list[int]] = []

    def work() -> None:
        try:
            answers.extend(_run(model, tokenizer, [ids], settings, stops, streams=[0], stop=stop, feed=feed, left=left))
        except BaseException as error:  # passed on to the listener, who is in another thread
            feed.tokens.put(error)
        feed.tokens.put(None)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    try:
        yield from hold(text_pieces(tokenizer, _written(feed.tokens, stops)), stop)
    finally:
        left.event.set()
        thread.join()
    return _completion(tokenizer, ids, answers[0], stops, stop)


@torch.no_grad()
def answer_logits(model: PreTrainedModel, prompt: Sequence[int], answer: Sequence[int]) -> Tensor:
    """What the model makes of an answer that something else wrote: the logits in front of each of its tokens.

    Returns:
        [len(answer) + 1, vocabulary], float32: the last row is what would follow.
    """
    input_ids = torch.tensor([[*prompt, *answer]], device=model.device)
    with _BUSY, _generating(model):
        forget_lengths(dynamic_rope(model))
        logits: Tensor = model(input_ids, use_cache=False, logits_to_keep=len(answer) + 1).logits
    return logits[0].float().cpu()


def prompt_ids(tokenizer: PreTrainedTokenizerBase, prompt: Prompt) -> list[int]:
    """The ids of a prompt as it is served: messages (NFC) through the chat template, up to where an answer begins.

    Raises:
        TemplateError: messages, but no chat template.
    """
    ids = [token for token in prompt if isinstance(token, int)]
    if len(ids) == len(prompt):
        return ids
    if not tokenizer.chat_template:
        hint = "give template: in the recipe, or an instruct model"
        raise TemplateError("the tokenizer has no chat template", where=tokenizer.name_or_path, hint=hint)
    messages = [_nfc(turn) for turn in prompt if not isinstance(turn, int)]
    rendered = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=True, return_dict=True)
    return list(rendered["input_ids"])


def _nfc(turn: Mapping[str, Any]) -> dict[str, Any]:
    """What a Mac types as NFD is three times the tokens, and nothing like what was trained."""
    content = turn.get("content")
    return {**turn, "content": unicodedata.normalize("NFC", content) if isinstance(content, str) else content}


def _check_context(model: PreTrainedModel, ids: Sequence[Sequence[int]], settings: recipe.Generate) -> None:
    context = max_positions(model.config)
    longest = max(map(len, ids), default=0)
    if context and longest + settings.max_new_tokens > context:
        what = f"a prompt of {longest} tokens and {settings.max_new_tokens} new ones exceed the model's {context}"
        raise ModelError(what, where="generate.max_new_tokens", hint="take fewer, or a shorter prompt")
    if not all(ids):
        raise ModelError("an empty prompt", where="generate", hint="ask something")


def _token_budget(model: PreTrainedModel) -> int:
    """Prompt and answer tokens of one batch: many on a GPU, where a step takes nearly the same time however many rows.

    It does not depend on what is free: batches change rounding, and the same call is to give the same answers.
    """
    if model.device.type != "cuda":
        return _BATCH_TOKENS
    memory = torch.cuda.get_device_properties(model.device).total_memory
    token_bytes = _cache_bytes(model.config, model.dtype)
    return min(_GPU_BATCH_TOKENS, max(_BATCH_TOKENS, int(_GPU_CACHE_SHARE * memory / token_bytes)))


def _cache_bytes(config: PreTrainedConfig, dtype: torch.dtype) -> float:
    """Of one token's keys and values in all layers; infinite where a configuration describes its heads otherwise."""
    text = config.get_text_config()
    heads, width = (getattr(text, name, None) for name in ("num_attention_heads", "hidden_size"))
    if not isinstance(heads, int) or not isinstance(width, int) or heads < 1:
        return math.inf
    pairs = getattr(text, "num_key_value_heads", None) or heads
    size = getattr(text, "head_dim", None) or width // heads
    return float(2 * text.num_hidden_layers * pairs * size * dtype.itemsize)


def _planned(model: PreTrainedModel, lengths: Sequence[int], new_tokens: int, budget: int) -> list[list[int]]:
    most_rows = _MOST_ROWS if model.device.type == "cpu" else len(lengths)
    pads = len(set(lengths)) == 1 or _can_pad(model)
    return _batches(lengths, new_tokens, budget, most_rows, pads=pads)


def _batches(lengths: Sequence[int], new_tokens: int, budget: int, most_rows: int, *, pads: bool) -> list[list[int]]:
    """Indices in batches of like length, the longest first: what does not fit into memory shows at once.

    Args:
        pads: whether prompts of several lengths may be in one batch.
    """
    batches: list[list[int]] = []
    for index in sorted(range(len(lengths)), key=lambda index: -lengths[index]):
        current = batches[-1] if batches else []
        rows = len(current) + 1
        fits = rows <= most_rows and bool(current) and rows * (lengths[current[0]] + new_tokens) <= budget
        if fits and (pads or lengths[index] == lengths[current[0]]):
            current.append(index)
        else:
            batches.append([index])
    return batches


def _run(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    rows: Sequence[Sequence[int]],
    settings: recipe.Generate,
    stops: Sequence[int],
    *,
    streams: Sequence[int],
    stop: Sequence[str],
    begun: int = 0,
    feed: "_Feed | None" = None,
    left: Left | None = None,
    written: Written | None = None,
) -> list[list[int]]:
    """One batch: the new ids of each row, up to and with its first stop; on a CPU it may end when half have stopped.

    Args:
        begun: how many ids at the end of each row were generated before.
    """
    pad = stops[0] if tokenizer.pad_token_id is None else tokenizer.pad_token_id
    width = max(map(len, rows))
    # a row is padded with a token of its own: the repetition penalty counts all that stands in the row
    input_ids = torch.tensor([[row[0]] * (width - len(row)) + list(row) for row in rows], device=model.device)
    mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows], device=model.device)
    new_tokens = settings.max_new_tokens - begun
    config = GenerationConfig(
        max_new_tokens=new_tokens,
        do_sample=False,  # Draw samples
        repetition_penalty=settings.repetition_penalty,
        eos_token_id=list(stops),
        pad_token_id=pad,
        use_cache=True,
    )
    strings = StopStrings(tokenizer, stop, width) if any(stop) else None
    half = None
    # frequencies that follow the length: a text that is read anew is another one than what was written step by step
    is_steady = length_boundary(model.config) is None
    if len(rows) >= _MANY_ROWS and model.device.type == "cpu" and not strings and is_steady:
        half = HalfStopped(stops, until=width + new_tokens - _WORTH_TOKENS)
    endings = [ending for ending in (strings, left, half, written) if ending is not None]
    draw = Draw(settings, streams, drawn=begun) if settings.temperature else None
    with _BUSY, _generating(model):
        forget_lengths(dynamic_rope(model))
        output = model.generate(
            input_ids,
            attention_mask=mask,
            generation_config=config,
            logits_processor=LogitsProcessorList([draw] if draw else []),
            stopping_criteria=StoppingCriteriaList(endings),
            streamer=feed,
        )
    lengths = strings.lengths if strings else {}
    return [_until(row[: lengths.get(index)], stops) for index, row in enumerate(output[:, width:].tolist())]


def _is_open(ids: Sequence[int], settings: recipe.Generate, stops: Sequence[int]) -> bool:
    return len(ids) < settings.max_new_tokens and ids[-1] not in stops


def _until(ids: list[int], stops: Sequence[int]) -> list[int]:
    end = next((position for position, token in enumerate(ids) if token in stops), len(ids) - 1)
    return ids[: end + 1]


def _halves(batch: list[int], error: torch.OutOfMemoryError) -> list[list[int]]:
    if len(batch) == 1:
        hint = "a smaller max_new_tokens, or a smaller model"
        raise ResourceError("one answer does not fit into memory", where="generate", hint=hint) from error
    return [batch[: len(batch) // 2], batch[len(batch) // 2 :]]


def _written_tokens(
    batch: Sequence[int], going_on: Sequence[int], answers: Mapping[int, Sequence[int]], settings: recipe.Generate
) -> int:
    """Of a batch, as `on_tokens` counts them: an answer that has ended counts as a whole one."""
    return sum(len(answers[index]) if index in going_on else settings.max_new_tokens for index in batch)


def _completion(
    tokenizer: PreTrainedTokenizerBase, prompt: Sequence[int], ids: list[int], stops: Sequence[int], stop: Sequence[str]
) -> Completion:
    ended = bool(ids) and ids[-1] in stops
    text, is_cut = cut(tokenizer.decode(ids[:-1] if ended else ids, skip_special_tokens=True), stop)
    return Completion(
        text=text, token_ids=tuple(ids), stopped=ended or is_cut, prompt_tokens=len(prompt), new_tokens=len(ids)
    )


def _can_pad(model: PreTrainedModel) -> bool:
    """Asked once of each model."""
    if model not in _PADS:
        with _BUSY, _generating(model):
            _PADS[model] = can_pad(model)
    return _PADS[model]


@contextmanager
def _generating(model: PreTrainedModel) -> Iterator[None]:
    """The model ready to generate, and then as it was: a packed attention knows no cache and no padding."""
    own, training, on_cpu = model.generation_config, model.training, model.device.type == "cpu"
    plain = "sdpa" if model._supports_sdpa else "eager"
    name = plain if model.config._attn_implementation.startswith("seodang") else model.config._attn_implementation
    model.generation_config = GenerationConfig()  # transformers fills gaps of a given config from the model's
    model.eval()
    try:
        norms = fused_norms(model) if model.device.type == "cuda" else nullcontext()
        with torch.no_grad(), quiet(), attention(model, name), tiled_head(model), norms:
            if on_cpu:
                keep_freed_memory()
            yield
    finally:
        if on_cpu:
            return_freed_memory()
        model.generation_config = own
        model.train(training)


class _Feed(BaseStreamer):
    """Carries new ids from the generating thread."""

    def __init__(self) -> None:
        self.tokens: queue.SimpleQueue[int | BaseException | None] = queue.SimpleQueue()
        self.is_prompt = True

    def put(self, value: Tensor) -> None:
        """Take the prompt first, then one new id at a time."""
        if not self.is_prompt:
            self.tokens.put(int(value))
        self.is_prompt = False

    def end(self) -> None:
        """Nothing to flush."""


def _written(tokens: "queue.SimpleQueue[int | BaseException | None]", stops: Sequence[int]) -> Iterator[int]:
    """The ids of an answer as they come, without what ends it."""
    while (token := tokens.get()) is not None:
        if isinstance(token, BaseException):
            raise token
        if token not in stops:
            yield token
