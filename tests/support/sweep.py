"""Every causal language model of transformers as a tiny copy: inspect, two steps, save, load again, chat.

    python tests/support/sweep.py [KIND…]

prints a table, one line an architecture, and ends with exit code 1 if one fails that is not among `EXCEPTIONS`. Those
that end at "build" are not tried: their default configuration makes no model that runs at a fraction of its widths.
"""

import contextlib
import io
import os
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
from transformers import AutoConfig, PreTrainedModel
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

import seodang
from seodang.model import load
from seodang.model.checkpoint import auto_class
from seodang.model.engine.self_test import copy_error
from seodang.model.engine.tiny_copy import tiny_copies
from seodang.model.quiet import quiet
from seodang.recipe import Generate
from seodang.serve.chat_model import load_chat_model
from seodang.stages import finish
from tiny import make_tokenizer
from tiny_recipe import tiny_recipe

# what cannot be trained as a causal language model, or not be built small: why
EXCEPTIONS: dict[str, str] = {
    "emu3": "its default makes the text part alone, which transformers does not list as a causal model",
    "gemma3n": "its vision part needs timm; gemma3n_text, the part that makes text, is swept",
    "mllama": "its default makes the text part alone, which transformers does not list as a causal model",
    "musicgen": "makes codes of sound, no text, and its class cannot be made from its own configuration",
    "musicgen_melody": "makes codes of sound, no text, and its class cannot be made from its own configuration",
    "reformer": "trains on rows of whole chunks only, and its random hashes give other losses each time",
}
LIMIT_SECONDS = 120  # of processor time, for one architecture
SMALL = {
    "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2,
}  # fmt: skip
# defaults that transformers leaves out, or that name another class than the one which makes text
CHANGES: dict[str, dict[str, Any]] = {
    kind: {"is_decoder": True}
    for kind in (
        "bert", "bert-generation", "big_bird", "camembert", "data2vec-text", "electra", "ernie", "megatron-bert",
        "reformer", "rembert", "roberta", "roberta-prelayernorm", "roc_bert", "roformer", "xlm-roberta",
        "xlm-roberta-xl", "xmod",
    )
} | {
    "nemotron": {"num_key_value_heads": 8},
    "bamba": {"attn_layer_indices": [1]},
    "dbrx": {"attn_config": {"rope_theta": 5e5, "clip_qkv": 8.0}},  # as in its checkpoints
    "hunyuan_v1_dense": {"head_dim": 128},
    "hunyuan_v1_moe": {"head_dim": 128, "num_experts": 4, "moe_topk": 2},
    "ministral": {"head_dim": 128},
    # whose widths do not fit together any more once all are divided by the same
    "deepseek_v2": SMALL | {
        "num_key_value_heads": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32, "n_routed_experts": 8,
        "first_k_dense_replace": 1, "kv_lora_rank": 32, "q_lora_rank": 32, "qk_nope_head_dim": 16,
        "qk_rope_head_dim": 8, "head_dim": 8, "v_head_dim": 16,
    },
    "falcon_h1": SMALL | {"mamba_d_ssm": 64, "mamba_n_heads": 8, "mamba_d_head": 8, "mamba_d_state": 16},
    "granitemoehybrid": SMALL | {
        "num_key_value_heads": 4, "layer_types": ["linear_attention", "full_attention"], "shared_intermediate_size": 64,
        "position_embedding_type": "rope", "mamba_n_heads": 8, "mamba_d_head": 16, "mamba_d_state": 16,
    },
    "lfm2_moe": SMALL | {
        "layer_types": ["conv", "full_attention"], "num_dense_layers": 1, "moe_intermediate_size": 32,
        "num_experts": 8, "num_experts_per_tok": 2,
    },
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Result:
    """How one architecture fared."""

    kind: str
    stage: str  # the last one that was begun; "done" if all ended
    packed: bool | None = None
    what: str = ""  # the error, in a line
    seconds: float = 0.0


def tiny_base(kind: str, folder: Path) -> Path:
    """A tiny random model of an architecture with the tests' tokenizer.

    Raises:
        Exception: its default configuration makes no model, or no small one.
    """
    config = AutoConfig.for_model(kind, **CHANGES.get(kind, {}))
    with quiet():
        with torch.device("meta"):
            large: PreTrainedModel = auto_class(config).from_config(config)
        copy = next(filter(_runs, tiny_copies(large, crossing=False)))
        small = copy.config
        text = small.get_text_config()
        text.vocab_size, text.pad_token_id, text.bos_token_id, text.eos_token_id = 512, 0, 2, 1
        for other in ("vocab_size_per_layer_input", "unpadded_vocab_size", "decoder_vocab_size"):  # of other tables
            if getattr(text, other, None):
                setattr(text, other, text.vocab_size)
        small._attn_implementation = None
        torch.manual_seed(0)
        type(copy)(small).save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)
    return folder


def _runs(copy: PreTrainedModel) -> bool:
    """Whether a copy's widths, each divided by the same, still fit together."""
    try:
        with torch.no_grad():
            copy(input_ids=torch.arange(3, 20).unsqueeze(0))
    except Exception:  # as any code may refuse sizes that it was not made for
        return False
    return True


def sweep(kind: str, folder: Path) -> Result:
    """One architecture through the whole pipeline."""
    begun, stage, packed = time.perf_counter(), "build", None
    signal.signal(signal.SIGPROF, _too_slow)
    signal.setitimer(signal.ITIMER_PROF, LIMIT_SECONDS)
    try:
        with _silent(), _without_what_all_share():
            base = tiny_base(kind, folder / "base")
            made = tiny_recipe(folder / "recipe", base, steps=2, ask_every=None)
            stage = "inspect"
            seodang.inspect(made)
            stage = "tune"
            run = seodang.tune(made, out=folder / "run")
            stage = "chat"
            chat = load_chat_model(run.folder)
            prompts = [chat.prompt([{"role": "user", "content": text}]) for text in ("감기는?", "약을 얼마나 먹나요?")]
            assert all(answer.new_tokens for answer in chat.answer(prompts, Generate(max_new_tokens=4)))
            packed = (copy_error(chat.model) or 0.0) < 1e-4
            stage = "done"
    except Exception as error:  # any code may fail in any way: that is the question
        what = f"{type(error).__name__}: {error}".splitlines()[0][:110]
        return Result(kind=kind, stage=stage, what=what, seconds=time.perf_counter() - begun)
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
    return Result(kind=kind, stage=stage, packed=packed, seconds=time.perf_counter() - begun)


def _too_slow(*_: Any) -> None:
    raise TimeoutError(f"more than {LIMIT_SECONDS} s")


@contextlib.contextmanager
def _silent() -> Iterator[None]:
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()), quiet():
        yield


@contextlib.contextmanager
def _without_what_all_share() -> Iterator[None]:
    """No check of the tokenizer's class, which transformers forces upon some; no pictures, most of a run's time."""
    with patch.object(load, "_check_class", lambda *_: None), patch.object(finish, "report", lambda folder, _: folder):
        yield


def main(kinds: list[str]) -> int:
    """Sweep the given architectures, or all; 1 if any failed unexpectedly."""
    failed = 0
    for kind in kinds or sorted(set(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)):
        with tempfile.TemporaryDirectory() as folder:
            result = sweep(kind, Path(folder))
        ends = "packed" if result.packed else "one row at a time" if result.stage == "done" else result.what
        why = EXCEPTIONS.get(kind, "")
        failed += result.stage not in ("done", "build") and not why
        print(f"{kind:28} {result.stage:8} {result.seconds:5.1f} s  {ends}{'  # ' + why if why else ''}", flush=True)
    print(f"{failed} failed unexpectedly")
    return int(failed > 0)


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
