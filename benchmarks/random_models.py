"""Models of public configurations with random weights, and a tokenizer of bytes: a machine without a hub has both."""

from typing import Any

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

BOS, EOS = 0, 1  # ids; all others are bytes, or words that the tokenizer does not know
GEMMA_3 = {
    "model_type": "gemma3_text", "vocab_size": 262_144, "num_attention_heads": 4, "num_key_value_heads": 1,
    "head_dim": 256, "query_pre_attn_scalar": 256, "sliding_window": 512, "tie_word_embeddings": True,
}  # fmt: skip
CONFIGS: dict[str, dict[str, Any]] = {
    "gemma-3-1b": {**GEMMA_3, "hidden_size": 1152, "intermediate_size": 6912, "num_hidden_layers": 26},
    "gemma-3-270m": {**GEMMA_3, "hidden_size": 640, "intermediate_size": 2048, "num_hidden_layers": 18},
    "qwen3-0.6b": {
        "model_type": "qwen3", "vocab_size": 151_936, "num_attention_heads": 16, "num_key_value_heads": 8,
        "head_dim": 128, "hidden_size": 1024, "intermediate_size": 3072, "num_hidden_layers": 28,
        "tie_word_embeddings": True,
    },
}  # fmt: skip
TINY = {
    "vocab_size": 512, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "head_dim": 16,
    "query_pre_attn_scalar": 16, "sliding_window": 64,
}  # fmt: skip


def config_of(name: str, *, tiny: bool) -> PreTrainedConfig:
    numbers = {**CONFIGS[name], **({key: TINY[key] for key in TINY if key in CONFIGS[name]} if tiny else {})}
    kind = numbers.pop("model_type")
    return AutoConfig.for_model(kind, **numbers, bos_token_id=BOS, eos_token_id=EOS, pad_token_id=EOS)


def make_model(name: str, dtype: torch.dtype, device: str, *, tiny: bool) -> PreTrainedModel:
    """The weights are drawn on the device, so that it takes a second."""
    torch.manual_seed(0)
    with torch.device(device):
        return AutoModelForCausalLM.from_config(config_of(name, tiny=tiny), dtype=dtype).eval()


def make_tokenizer() -> PreTrainedTokenizerFast:
    alphabet = ["<bos>", "<eos>", *sorted(pre_tokenizers.ByteLevel.alphabet())]
    backend = Tokenizer(models.BPE({token: number for number, token in enumerate(alphabet)}, []))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<bos>", eos_token="<eos>", pad_token="<eos>")


def machine_name() -> str:
    return torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"
