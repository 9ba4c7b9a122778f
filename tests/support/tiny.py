"""Tiny random models and a tiny tokenizer: real classes, milliseconds to build, no download."""

from typing import Any

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerFast

# control tokens first, so that their ids are small and stay put: <pad> 0, <eos> 1, <bos> 2 as in Gemma
CONTROL_TOKENS = (
    *("<pad>", "<eos>", "<bos>", "<unused0>", "<unused1>"),
    *("<start_of_turn>", "<end_of_turn>"),
    *("<|im_start|>", "<|im_end|>", "<|endoftext|>"),
    *("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"),
)
PLAIN_TOKENS = ("<think>", "</think>", "<tool_call>", "</tool_call>")  # added, yet visible when decoding

_CORPUS = (
    "제 1형 당뇨병은 어떻게 치료하나요? 인슐린을 맞으면서 식사와 운동을 조절합니다.",
    "감기에 걸렸을 때는 물을 많이 마시고 푹 쉬는 것이 좋습니다. 열이 나면 의사와 상담하세요.",
    "고혈압이 있는 사람은 짠 음식을 줄여야 합니다. 사과는 왜 빨간가요?",
    "How is type 1 diabetes treated? With insulin, and by watching food and exercise.",
    "Drink water and rest when you have a cold. What is the capital of France? Paris.",
    "user model assistant system tool question answer",
)


def make_tokenizer(vocab_size: int = 512) -> PreTrainedTokenizerFast:
    """A byte-level BPE over a few Korean and English sentences; BOS is added, no chat template, pad is not EOS."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[*CONTROL_TOKENS, *PLAIN_TOKENS],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(_CORPUS, trainer)
    backend.add_tokens([AddedToken(token, special=False, normalized=False) for token in PLAIN_TOKENS])
    backend.post_processor = processors.TemplateProcessing(single="<bos> $A", special_tokens=[("<bos>", 2)])
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token="<bos>",
        eos_token="<eos>",
        pad_token="<pad>",
        clean_up_tokenization_spaces=False,
    )


_KINDS: dict[str, dict[str, Any]] = {
    "llama": {},
    "qwen3": {"head_dim": 16},
    # a window far below the lengths that tests use, so that sliding layers are truly exercised
    "gemma2": {"head_dim": 16, "query_pre_attn_scalar": 16, "sliding_window": 8},
    "gemma3": {"head_dim": 16, "query_pre_attn_scalar": 16, "sliding_window": 8},
}


def make_config(kind: str, vocab_size: int = 512, **changes: Any) -> PreTrainedConfig:
    """A config of 2 layers, hidden size 64 (`kind`: llama, qwen3, gemma2, gemma3)."""
    sizes = {
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 2048,
        "layer_types": None if kind in ("llama", "qwen3") else ["sliding_attention", "full_attention"],
        "tie_word_embeddings": True,
        "bos_token_id": 2,
        "eos_token_id": 1,
        "pad_token_id": 0,
    }
    if sizes["layer_types"] is None:
        del sizes["layer_types"]
    name = "gemma3_text" if kind == "gemma3" else kind
    return AutoConfig.for_model(name, vocab_size=vocab_size, **{**sizes, **_KINDS[kind], **changes})


def make_model(config: PreTrainedConfig, seed: int = 0) -> PreTrainedModel:
    """A random float32 model in evaluation mode; weights wide enough that its logits are far from uniform."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model: PreTrainedModel = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
        for parameter in model.parameters():
            if parameter.ndim > 1:
                torch.nn.init.normal_(parameter, std=0.2)
    return model.eval()
