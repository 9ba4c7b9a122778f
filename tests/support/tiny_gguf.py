"""Writes tiny models as GGUF files, as llama.cpp's converter does: what conversion has to undo."""

import json
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerFast

CONTROL, USER_DEFINED, BYTE, NORMAL = 3, 4, 6, 1
_NAMES = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm",
}
_NORMS = {
    "llama": {"post_attention_layernorm": "ffn_norm"},
    "gemma3": {
        "post_attention_layernorm": "post_attention_norm",
        "pre_feedforward_layernorm": "ffn_norm",
        "post_feedforward_layernorm": "post_ffw_norm",
    },
}


def gemma_tokens() -> tuple[list[str], list[float], list[int]]:
    """(tokens, scores, types) of a small vocabulary laid out as Gemma's."""
    control = ["<pad>", "<eos>", "<bos>", "<unk>", "<start_of_turn>", "<end_of_turn>"]
    runs = ["\n", "\n\n", "  ", "   "]  # blanks stored as blanks
    octets = [f"<0x{byte:02X}>" for byte in range(256)]
    pieces = ["▁", "가", "나", "가나", "▁가나", "a", "b", "ab", "▁a", "▁ab"]
    tokens = control + runs + octets + pieces
    kinds = [CONTROL] * len(control) + [USER_DEFINED] * len(runs) + [BYTE] * 256 + [NORMAL] * len(pieces)
    scores = [-1000.0] * (len(control) + len(runs)) + [0.0] * 256 + [-float(rank) for rank in range(len(pieces))]
    return tokens, scores, kinds


def write_gemma(model: PreTrainedModel, path: Path, quantization: str = "F32") -> Path:
    """A Gemma 3 with the vocabulary of `gemma_tokens`."""
    writer = _writer(model, path, "gemma3")
    tokens, scores, kinds = gemma_tokens()
    writer.add_tokenizer_model("llama")
    writer.add_token_list(tokens)
    writer.add_token_scores(scores)
    writer.add_token_types(kinds)
    writer.add_uint32("gemma3.attention.key_length", model.config.head_dim)
    writer.add_uint32("gemma3.attention.sliding_window", model.config.sliding_window)
    writer.add_add_bos_token(True)
    _special(writer, bos=2, eos=1, unk=3, pad=0)
    return _finish(writer, model, path, "gemma3", quantization)


def write_llama(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    path: Path,
    quantization: str = "F32",
    *,
    add_bos: bool = False,
) -> Path:
    """A Llama with a byte-level vocabulary and a chat template, laid out as SmolLM2."""
    backend: dict[str, Any] = json.loads(tokenizer.backend_tokenizer.to_str())
    added = {token["content"]: token["special"] for token in backend["added_tokens"]}
    tokens = sorted(backend["model"]["vocab"], key=backend["model"]["vocab"].__getitem__)
    kinds = [{True: CONTROL, False: USER_DEFINED, None: NORMAL}[added.get(token)] for token in tokens]
    writer = _writer(model, path, "llama")
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokens)
    writer.add_token_types(kinds)
    # llama.cpp wants at least one merge: of a byte that no UTF-8 text holds
    writer.add_token_merges([" ".join(pair) for pair in backend["model"]["merges"]] or ["ÿ ÿ"])
    writer.add_chat_template("{{ messages[0]['content'] }}")
    writer.add_add_bos_token(add_bos)
    _special(writer, bos=2, eos=1, unk=0, pad=0)
    return _finish(writer, model, path, "llama", quantization)


def _writer(model: PreTrainedModel, path: Path, architecture: str) -> gguf.GGUFWriter:
    config = model.config
    rope = config.rope_parameters
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(rope.get("full_attention", rope)["rope_theta"])
    return writer


def _special(writer: gguf.GGUFWriter, *, bos: int, eos: int, unk: int, pad: int) -> None:
    writer.add_bos_token_id(bos)
    writer.add_eos_token_id(eos)
    writer.add_unk_token_id(unk)
    writer.add_pad_token_id(pad)


def _finish(writer: gguf.GGUFWriter, model: PreTrainedModel, path: Path, architecture: str, quantization: str) -> Path:
    kind = gguf.GGMLQuantizationType[quantization]
    heads = {"q_proj": model.config.num_attention_heads, "k_proj": model.config.num_key_value_heads}
    for name, tensor in model.state_dict().items():
        if name == "lm_head.weight":  # tied
            continue
        values = tensor.to(torch.float32).numpy()
        if architecture == "gemma3" and name.endswith("norm.weight"):
            values = values + 1
        if architecture == "llama" and (count := heads.get(name.split(".")[-2])):
            values = values.reshape(count, 2, -1, values.shape[1]).swapaxes(1, 2).reshape(values.shape)
        values = np.ascontiguousarray(values)
        if values.ndim == 1 or kind == gguf.GGMLQuantizationType.F32:
            writer.add_tensor(_gguf_name(name, architecture), values)
        else:
            writer.add_tensor(_gguf_name(name, architecture), gguf.quants.quantize(values, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _gguf_name(name: str, architecture: str) -> str:
    stem = name.removesuffix(".weight")
    if stem == "model.embed_tokens":
        return "token_embd.weight"
    if stem == "model.norm":
        return "output_norm.weight"
    _, _, layer, part = stem.split(".", 3)
    return f"blk.{layer}.{({**_NAMES, **_NORMS[architecture]})[part]}.weight"
