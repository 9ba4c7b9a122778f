"""GGUF to a transformers folder: the same model, the same ids."""

import json
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerFast

from tiny import make_config, make_model

pytest.importorskip("gguf")
from seodang.model.gguf_reader import parse
from seodang.model.gguf_to_transformers import weight_bytes, write_folder
from tiny_gguf import gemma_tokens, write_gemma, write_llama


def converted(gguf_path: Path, folder: Path) -> Path:
    folder.mkdir()
    write_folder(parse(gguf_path.read_bytes()), folder, lambda size: None)
    return folder


def logits(model: PreTrainedModel) -> torch.Tensor:
    with torch.no_grad():
        return model(torch.arange(3, 23)[None]).logits


def make_gemma() -> PreTrainedModel:
    sliding = ["sliding_attention", "sliding_attention"]  # as Gemma's first five layers
    return make_model(make_config("gemma3", len(gemma_tokens()[0]), layer_types=sliding))


@pytest.mark.parametrize("quantization", ["F32", "Q8_0", "Q5_0", "Q4_1"])
def test_gemma_is_the_same_model(tmp_path: Path, quantization: str) -> None:
    """A converted Gemma 3 gives the original's logits, up to what the quantization rounded."""
    model = make_gemma()
    folder = converted(write_gemma(model, tmp_path / "m.gguf", quantization), tmp_path / "model")
    found, info = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    difference = (logits(found) - logits(model)).abs().mean() / logits(model).abs().mean()
    bounds = {"F32": 1e-6, "Q8_0": 0.02, "Q5_0": 0.12, "Q4_1": 0.25}
    assert difference < bounds[quantization]
    assert quantization == "F32" or difference > 1e-4


def test_llama_is_the_same_model(
    tmp_path: Path, tiny_model: PreTrainedModel, tiny_tokenizer: PreTrainedTokenizerFast
) -> None:
    """A converted Llama gives the original's logits: its rotary halves are put back."""
    gguf_path = write_llama(tiny_model, tiny_tokenizer, tmp_path / "m.gguf")
    found = AutoModelForCausalLM.from_pretrained(converted(gguf_path, tmp_path / "model"), dtype=torch.float32)
    torch.testing.assert_close(logits(found), logits(tiny_model), rtol=1e-5, atol=1e-5)


def test_gemma_tokenizer(tmp_path: Path) -> None:
    """Gemma's pieces merge by score, runs of blanks and breaks are one token, unknown letters are bytes."""
    folder = converted(write_gemma(make_gemma(), tmp_path / "m.gguf"), tmp_path / "model")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert tokenizer("<start_of_turn>가나 ab   가\n\n힣").tokens() == [
        *("<bos>", "<start_of_turn>", "가나", "▁ab", "▁▁▁", "가", "\n\n", "<0xED>", "<0x9E>", "<0xA3>")
    ]
    for text in ("가나 ab", "  a\n\n\nb   힣", " ▁▁ "):
        ids = tokenizer(text, add_special_tokens=False).input_ids
        assert tokenizer.decode(ids) == text.replace("▁", " ")  # sentencepiece cannot tell them apart
    assert tokenizer.chat_template is None


def test_llama_tokenizer(tmp_path: Path, tiny_model: PreTrainedModel, tiny_tokenizer: PreTrainedTokenizerFast) -> None:
    """SmolLM2's layout keeps ids, template and control tokens, and splits digits off before all else."""
    folder = converted(write_llama(tiny_model, tiny_tokenizer, tmp_path / "m.gguf"), tmp_path / "model")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    text = "감기에 걸렸을 때 <|im_start|>user <think>"
    expected = tiny_tokenizer(text, add_special_tokens=False).input_ids
    assert tokenizer(text).input_ids == expected
    assert tokenizer("a 12").tokens()[-3:] == ["Ġ", "1", "2"]
    assert tokenizer.decode(expected, skip_special_tokens=True) == "감기에 걸렸을 때 user <think>"
    assert tokenizer.chat_template == "{{ messages[0]['content'] }}"


def test_config_bears_no_trace_of_gguf(tmp_path: Path) -> None:
    """The config is that of an ordinary float32 model, with the ids that end and pad a text."""
    source = parse(write_gemma(make_gemma(), tmp_path / "m.gguf", "Q8_0").read_bytes())
    folder = tmp_path / "model"
    folder.mkdir()
    pieces: list[int] = []
    write_folder(source, folder, pieces.append)
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    assert "quantization_config" not in config
    assert config["rms_norm_eps"] == 1e-6
    assert json.loads((folder / "generation_config.json").read_text(encoding="utf-8")) == {
        "bos_token_id": 2,
        "eos_token_id": 1,
        "pad_token_id": 0,
    }
    assert sum(pieces) == weight_bytes(source)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 a zip", b"GGUF\x01\x00\x00\x00" + bytes(16)])
def test_other_files_are_refused(content: bytes) -> None:
    """What is no GGUF file of version 2 or 3 is refused."""
    with pytest.raises(ValueError, match="GGUF"):
        parse(content)
