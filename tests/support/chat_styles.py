"""Chat templates of many makers, and conversations to try them on. Written for tests; contents are our own."""

import copy
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from seodang.data.template.find import ChatTemplate, apply_template, find_template
from seodang.recipe import Template

Conversation = list[dict[str, Any]]
STYLE_TOKENS = (
    *("<s>", "</s>", "[INST]", "[/INST]", "<|user|>", "<|assistant|>", "<|system|>", "<|end|>"),
    *("<｜User｜>", "<｜Assistant｜>", "<｜end▁of▁sentence｜>"),
)
CHATML_LIKE = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
MISTRAL = (
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}{{ '[INST] ' + m.content + ' [/INST]' }}"
    "{% elif m.role == 'assistant' %}{{ ' ' + m.content + eos_token }}"
    "{% else %}{{ raise_exception('Only user and assistant roles are supported!') }}{% endif %}{% endfor %}"
)
LLAMA2 = (
    "{% for m in messages %}{% if m.role == 'system' %}{% continue %}{% endif %}{% if m.role == 'user' %}"
    "{{ bos_token + '[INST] ' + m.content.strip() + ' [/INST]' }}"
    "{% else %}{{ ' ' + m.content.strip() + ' ' + eos_token }}{% endif %}{% endfor %}"
)
ZEPHYR = (
    "{% for m in messages %}\n{{ '<|' + m.role + '|>\n' + m.content + eos_token }}\n"
    "{% if loop.last and add_generation_prompt %}\n{{ '<|assistant|>' }}\n{% endif %}\n{% endfor %}"
)
PHI = (
    "{% for m in messages %}{{ '<|' + m['role'] + '|>' + m['content'] + '<|end|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)
DEEPSEEK = (
    "{% if not add_generation_prompt is defined %}{% set add_generation_prompt = false %}{% endif %}{{ bos_token }}"
    "{%- for m in messages %}{%- if m.role == 'system' %}{{ m.content }}"
    "{%- elif m.role == 'user' %}{{ '<｜User｜>' + m.content }}"
    "{%- elif m.role == 'assistant' %}{%- set content = m.content %}"
    "{%- if '</think>' in content %}{%- set content = content.split('</think>')[-1] %}{%- endif %}"
    "{{ '<｜Assistant｜>' + content + '<｜end▁of▁sentence｜>' }}{%- endif %}{%- endfor %}"
    "{%- if add_generation_prompt %}{{ '<｜Assistant｜>' }}{%- endif %}"
)
DATED = (
    "{{ '<|im_start|>system\nToday is ' + strftime_now('%d %B %Y') + '.<|im_end|>\n' }}"
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content | trim + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
NO_LAST_END = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content }}"
    "{% if not loop.last %}{{ '<|im_end|>\n' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_end|>\n<|im_start|>assistant\n' }}{% endif %}"
)


@dataclass(frozen=True, kw_only=True)
class Style:
    """A template, the special tokens it expects, and what it makes of an answer."""

    name: str
    text: str | None  # none: the built-in of this name
    answer: Callable[[str], str]  # content → body without turn end
    earlier: Callable[[str], str] | None = None  # the same for all but the last answer, where it differs
    turn_end: str
    bos_token: str | None = "<bos>"
    eos_token: str = "<eos>"


STYLES = (
    Style(name="gemma", text=None, answer=str.strip, turn_end="<end_of_turn>"),
    Style(name="llama3", text=None, answer=str.strip, turn_end="<|eot_id|>"),
    Style(name="chatml", text=None, answer=str, turn_end="<|im_end|>"),
    Style(
        name="qwen3",
        text=None,
        answer=lambda text: text.lstrip("\n"),
        earlier=str,
        turn_end="<|im_end|>",
        bos_token=None,
    ),
    Style(name="plain", text=None, answer=lambda text: " " + text.strip(), turn_end="<eos>"),
    Style(
        name="mistral", text=MISTRAL, answer=lambda text: " " + text, turn_end="</s>", bos_token="<s>", eos_token="</s>"
    ),
    Style(
        name="llama2",
        text=LLAMA2,
        answer=lambda text: f" {text.strip()} ",
        turn_end="</s>",
        bos_token="<s>",
        eos_token="</s>",
    ),
    Style(name="zephyr", text=ZEPHYR, answer=lambda text: text, turn_end="</s>", eos_token="</s>"),
    Style(name="phi", text=PHI, answer=str, turn_end="<|end|>"),
    Style(name="deepseek", text=DEEPSEEK, answer=str, turn_end="<｜end▁of▁sentence｜>"),
    Style(name="dated", text=DATED, answer=str.strip, turn_end="<|im_end|>"),
)


def with_style_tokens(tokenizer: PreTrainedTokenizerFast) -> PreTrainedTokenizerFast:
    """The tiny tokenizer with the control tokens of all styles."""
    tokenizer.add_tokens(list(STYLE_TOKENS), special_tokens=True)
    return tokenizer


def dressed(
    tokenizer: PreTrainedTokenizerFast, style: Style, *, thinking: bool = False
) -> tuple[PreTrainedTokenizerFast, ChatTemplate]:
    """A tokenizer that was found to fit a style, and has it applied."""
    tokenizer = copy.deepcopy(tokenizer)
    tokenizer.bos_token, tokenizer.eos_token = style.bos_token, style.eos_token
    tokenizer.chat_template = style.text
    template = find_template(
        tokenizer,
        Template(borrow=None if style.text else style.name),
        num_embeddings=len(tokenizer),
        load_tokenizer=_nothing_to_load,
        thinking=thinking,
    )
    apply_template(tokenizer, template)
    return tokenizer, template


def _nothing_to_load(name: str) -> PreTrainedTokenizerFast:
    raise AssertionError(f"{name} was loaded although nothing is borrowed")


def sentencepiece_like(*, byte_fallback: bool = True) -> PreTrainedTokenizerFast:
    """A tokenizer as Llama 2's: blanks are "▁", one goes before each piece, rare characters fall back to bytes."""
    special = ["<unk>", "<s>", "</s>", "[INST]", "[/INST]", "<start_of_turn>", "<end_of_turn>"]
    backend = Tokenizer(models.BPE(byte_fallback=byte_fallback, fuse_unk=True, unk_token="<unk>"))
    backend.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    backend.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    trainer = trainers.BpeTrainer(
        vocab_size=500,
        special_tokens=[*special, *(f"<0x{byte:02X}>" for byte in range(256 if byte_fallback else 0))],
        show_progress=False,
    )
    backend.train_from_iterator([*QUESTIONS, *ANSWERS, "user model assistant"], trainer)
    backend.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in special])
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        clean_up_tokenization_spaces=False,
    )


def trimming(tokenizer: PreTrainedTokenizerFast) -> PreTrainedTokenizerFast:
    """A tokenizer as GPT-2's: its offsets leave out the blank in front of a word."""
    tokenizer.backend_tokenizer.post_processor = processors.ByteLevel(trim_offsets=True)
    return tokenizer


QUESTIONS = (
    "감기에 좋은 차가 있나요?",
    "How long should I rest?",
    "사과는 왜 빨간가요? 🍎",
    "두통약을\n두 알 먹어도 되나요?",
)
ANSWERS = (
    "생강차를 따뜻하게 드세요.",
    "Two days, and drink water.",
    "안토시아닌 때문이에요. 🍏",
    "설명서를 읽어 보세요.\n\n- 하루 세 번\n- 식후",
)


def conversations(seed: int, count: int) -> Iterator[Conversation]:
    """Random conversations of one to three rounds, with odd white space, digits, punctuation and rare characters."""
    chance = random.Random(seed)
    alphabet = [
        "가",
        "나",
        "감기",
        "약",
        "물",
        "a",
        "b",
        "The",
        "7",
        "12",
        ".",
        ",",
        "?",
        ":",
        " ",
        "  ",
        "\n",
        "\n\n",
        "\t",
    ]
    alphabet += ["🍎", "뷁", "é", "<b>", "{{", "%}", "[x]", "'", '"', "Assistant:", "model"]

    def text(known: tuple[str, ...]) -> str:
        if chance.random() < 0.4:
            return chance.choice(known)
        while not (made := "".join(chance.choices(alphabet, k=chance.randint(1, 12)))).strip():
            pass
        return made

    for _ in range(count):
        rounds = chance.randint(1, 3)
        yield [
            {"role": role, "content": text(known)}
            for _ in range(rounds)
            for role, known in (("user", QUESTIONS), ("assistant", ANSWERS))
        ]
