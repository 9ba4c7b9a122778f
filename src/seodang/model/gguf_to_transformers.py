"""Turns a GGUF file into a folder that transformers loads: config, safetensors, tokenizer. Gemma 3 and Llama.

transformers reads the same files by `from_pretrained(gguf_file=…)`, to the same weights bit for bit; but it needs more
than a minute for Gemma 270M where this takes eight seconds, orders a few of Gemma's merges otherwise than the maker
does, and does not split SmolLM2's digits off before all else.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

from seodang.model.gguf_reader import GgufFile

_LAYER = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
_LAYER_NAMES = {
    "llama": {**_LAYER, "ffn_norm": "post_attention_layernorm"},
    "gemma3": {
        **_LAYER,
        "attn_q_norm": "self_attn.q_norm",
        "attn_k_norm": "self_attn.k_norm",
        "post_attention_norm": "post_attention_layernorm",
        "ffn_norm": "pre_feedforward_layernorm",
        "post_ffw_norm": "post_feedforward_layernorm",
    },
}
_TOP_NAMES = {"token_embd": "model.embed_tokens", "output_norm": "model.norm"}
_TOKEN_KEYS = {"bos": "bos", "eos": "eos", "pad": "padding", "unk": "unknown"}
_SPECIAL, _USER_DEFINED = 3, 4  # token types of llama.cpp


def weight_bytes(source: GgufFile) -> int:
    """Bytes of the float32 weights."""
    return sum(4 * int(np.prod(place.shape)) for place in source.tensors.values())


def write_folder(source: GgufFile, folder: Path, on_bytes: Callable[[int], None]) -> None:
    """Write config, generation config, tokenizer and weights; `on_bytes` hears of each piece of weights, in bytes."""
    _write_json(folder / "config.json", _config(source.metadata))
    tokens = {name: source.metadata[f"tokenizer.ggml.{gguf}_token_id"] for name, gguf in _TOKEN_KEYS.items()}
    _write_json(folder / "generation_config.json", {f"{name}_token_id": tokens[name] for name in ("bos", "eos", "pad")})
    _write_tokenizer(source.metadata, tokens, folder)
    _write_weights(source, folder, on_bytes)


def _write_weights(source: GgufFile, folder: Path, on_bytes: Callable[[int], None]) -> None:
    """float32, although half the disk would do for bfloat16.

    Rounding to bfloat16 moved the loss on Korean text by up to 0.0013 nats per token: little against the quantization,
    but not against what a tune is measured by.
    """
    from safetensors.numpy import save_file

    weights: dict[str, NDArray[np.float32]] = {}
    for name, place in source.tensors.items():
        values = np.empty(place.shape, np.float32)
        start = 0
        for chunk in source.rows(name):
            values[start : start + len(chunk)] = chunk
            start += len(chunk)
            on_bytes(chunk.nbytes)
        weights[_weight_name(name, source.metadata)] = _as_transformers(name, values, source.metadata)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def _weight_name(name: str, metadata: Mapping[str, Any]) -> str:
    stem, _, suffix = name.rpartition(".")
    if stem in _TOP_NAMES:
        return f"{_TOP_NAMES[stem]}.{suffix}"
    _, layer, part = stem.split(".")
    return f"model.layers.{layer}.{_LAYER_NAMES[metadata['general.architecture']][part]}.{suffix}"


def _as_transformers(name: str, values: NDArray[np.float32], metadata: Mapping[str, Any]) -> NDArray[np.float32]:
    """Undo what llama.cpp did to the values: Gemma's norms are stored as w + 1, Llama's rotary halves interleaved."""
    if metadata["general.architecture"] == "gemma3":
        return values - 1 if name.endswith("norm.weight") else values
    if heads_key := {"attn_q": "head_count", "attn_k": "head_count_kv"}.get(name.split(".")[-2]):
        heads = metadata[f"llama.attention.{heads_key}"]
        pairs = values.reshape(heads, -1, 2, values.shape[1])
        return np.ascontiguousarray(pairs.swapaxes(1, 2).reshape(values.shape))
    return values


def _config(metadata: Mapping[str, Any]) -> dict[str, Any]:
    architecture = metadata["general.architecture"]
    key = {name.removeprefix(f"{architecture}."): value for name, value in metadata.items()}.__getitem__
    config = {
        "hidden_size": key("embedding_length"),
        "intermediate_size": key("feed_forward_length"),
        "num_hidden_layers": key("block_count"),
        "num_attention_heads": key("attention.head_count"),
        "num_key_value_heads": key("attention.head_count_kv"),
        "max_position_embeddings": key("context_length"),
        "rms_norm_eps": float(str(np.float32(key("attention.layer_norm_rms_epsilon")))),  # 1e-06, as it was written
        "vocab_size": len(key("tokenizer.ggml.tokens")),
        "tie_word_embeddings": True,
        "bos_token_id": key("tokenizer.ggml.bos_token_id"),
        "eos_token_id": key("tokenizer.ggml.eos_token_id"),
        "pad_token_id": key("tokenizer.ggml.padding_token_id"),
        "dtype": "float32",
    }
    rope = {"rope_type": "default", "rope_theta": key("rope.freq_base")}
    if architecture == "llama":
        return {"architectures": ["LlamaForCausalLM"], "model_type": "llama", **config, "rope_parameters": rope}
    # five layers of six slide, and slide with a base of 10,000: Gemma 3's own, not in the file
    layers = ["full_attention" if layer % 6 == 5 else "sliding_attention" for layer in range(key("block_count"))]
    return {
        "architectures": ["Gemma3ForCausalLM"],
        "model_type": "gemma3_text",
        **config,
        "head_dim": key("attention.key_length"),
        "query_pre_attn_scalar": key("attention.key_length"),
        "hidden_activation": "gelu_pytorch_tanh",
        "sliding_window": key("attention.sliding_window"),
        "layer_types": layers,
        "rope_parameters": {
            "full_attention": rope,
            "sliding_attention": {"rope_type": "default", "rope_theta": 10_000.0},
        },
    }


def _write_tokenizer(metadata: Mapping[str, Any], special: Mapping[str, int], folder: Path) -> None:
    tokens = metadata["tokenizer.ggml.tokens"]
    kinds = metadata["tokenizer.ggml.token_type"]
    if metadata["tokenizer.ggml.model"] == "gpt2":
        tokenizer = _byte_level(tokens, metadata["tokenizer.ggml.merges"])
    else:
        # Gemma stores runs of blanks as blanks, but looks them up as ▁▁
        tokens = ["▁" * len(token) if token.strip(" ") == "" else token for token in tokens]
        tokenizer = _gemma(tokens, kinds, metadata["tokenizer.ggml.scores"])
    added = [
        AddedToken(token, normalized=False, special=kind == _SPECIAL)
        for token, kind in zip(tokens, kinds, strict=True)
        if kind in (_SPECIAL, _USER_DEFINED)
    ]
    tokenizer.add_tokens(added)
    if metadata["tokenizer.ggml.add_bos_token"]:
        bos = tokens[special["bos"]]
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{bos} $A", pair=f"{bos} $A {bos}:1 $B:1", special_tokens=[(bos, special["bos"])]
        )
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        **{f"{name}_token": tokens[token_id] for name, token_id in special.items()},
        "padding_side": "left",
        "clean_up_tokenization_spaces": False,
        "model_max_length": metadata[f"{metadata['general.architecture']}.context_length"],
    }
    _write_json(folder / "tokenizer_config.json", config)
    if template := metadata.get("tokenizer.chat_template"):
        (folder / "chat_template.jinja").write_text(template, encoding="utf-8")


def _byte_level(tokens: Sequence[str], merges: Sequence[str]) -> Tokenizer:
    """SmolLM2's: single digits first, then GPT-2's split."""
    pairs = [(left, right) for left, _, right in (merge.partition(" ") for merge in merges)]
    tokenizer = Tokenizer(models.BPE(vocab={token: index for index, token in enumerate(tokens)}, merges=pairs))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def _gemma(tokens: Sequence[str], kinds: Sequence[int], scores: Sequence[float]) -> Tokenizer:
    """Gemma's: the file has no merges, they follow from the scores.

    A piece merges from any two others, the longest left part first. Runs of line breaks, blanks and tabs
    (user-defined) go before all other pieces, the longest first.
    """
    vocab = {token: index for index, token in enumerate(tokens)}
    ranked = [
        ((0.0 if kind == _USER_DEFINED else -score, -cut, cut - len(token)), token[:cut], token[cut:])
        for token, kind, score in zip(tokens, kinds, scores, strict=True)
        for cut in range(1, len(token))
        if token[:cut] in vocab and token[cut:] in vocab
    ]
    ranked.sort(key=itemgetter(0))  # stable: equal ranks keep the vocabulary's order
    merges = [(left, right) for _, left, right in ranked]
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    tokenizer.pre_tokenizer = pre_tokenizers.Split(" ", behavior="merged_with_previous")
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    return tokenizer


def _write_json(path: Path, value: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
