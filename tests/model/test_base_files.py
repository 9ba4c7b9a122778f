"""What lies beside the weights of a base: carried as it is, up to what tuning changed."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import constants
from transformers import AutoTokenizer, PreTrainedModel, PreTrainedTokenizerFast

from real_tokenizers import real_tokenizer
from seodang.data.template.find import apply_template, find_template
from seodang.model.load import base_folder, load_model, load_tokenizer
from seodang.model.save import save_model
from seodang.recipe import Model, Template
from seodang.types import Placement
from tiny import make_config, make_model

CPU = Placement(device="cpu", dtype="float32", compute_dtype="float32", attention="packed", reasons=())
CHANGED = {"model.safetensors", "chat_template.jinja", "generation_config.json"}  # by every tuning


@pytest.fixture
def base(tmp_path: Path, tiny_tokenizer: PreTrainedTokenizerFast) -> Path:
    """A base as makers publish them: keys that transformers does not know, and files of other software."""
    folder = tmp_path / "base"
    make_model(make_config("llama", len(tiny_tokenizer))).save_pretrained(folder)
    tiny_tokenizer.save_pretrained(folder)
    _edit(folder / "config.json", torch_dtype="bfloat16", maker="a maker", use_cache=True, dtype=None)
    _edit(folder / "tokenizer_config.json", add_bos_token=True, eos_token={"content": "<eos>", "special": True})
    _edit(folder / "preprocessor_config.json", do_resize=True)
    _edit(folder / "processor_config.json", image_seq_length=256, chat_template="{{ old }}")
    _edit(folder / "special_tokens_map.json", eos_token="<eos>", bos_token="<bos>")
    (folder / "tokenizer.model").write_bytes(b"pieces")
    (folder / "LICENSE").write_text("terms")
    (folder / "README.md").write_text("the base's own card")
    (folder / "optimizer.pt").write_bytes(b"of an earlier training")
    return folder


def tuned(base: Path, folder: Path, *, grown: int = 0) -> Path:
    """The base, trained by nobody, saved as `tune` saves it."""
    model, tokenizer = load_model(Model(path=str(base)), CPU), load_tokenizer(str(base))
    model.config.use_cache = False  # what transformers' Trainer leaves
    apply_template(tokenizer, _template(tokenizer, "chatml"))
    if grown:
        tokenizer.add_tokens([f"<new{number}>" for number in range(grown)], special_tokens=True)
        model.resize_token_embeddings(len(tokenizer))
    turn_end = tokenizer.convert_tokens_to_ids("<|im_end|>")
    save_model(model, tokenizer, folder, turn_end_id=turn_end, base=base_folder(Model(path=str(base))))
    return folder


def _template(tokenizer: Any, name: str) -> Any:
    return find_template(tokenizer, Template(borrow=name), num_embeddings=len(tokenizer), load_tokenizer=load_tokenizer)


def _edit(file: Path, **values: Any) -> None:
    found = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    found = {key: value for key, value in (found | values).items() if value is not None}
    file.write_text(json.dumps(found), encoding="utf-8")


def _read(file: Path) -> Any:
    return json.loads(file.read_text(encoding="utf-8"))


def differences(base: Path, folder: Path) -> dict[str, Any]:
    """File → keys that differ (True: the bytes of what is no JSON), of all files of the two folders."""
    found: dict[str, Any] = {}
    for name in sorted({file.name for side in (base, folder) for file in side.iterdir()}):
        one, other = base / name, folder / name
        if not (one.is_file() and other.is_file()):
            found[name] = "only the base's" if one.is_file() else "only the tuned model's"
        elif name.endswith(".json"):
            before, after = _read(one), _read(other)
            keys = {key for key in before | after if before.get(key, ...) != after.get(key, ...)}
            found |= {name: keys} if keys else {}
        elif one.read_bytes() != other.read_bytes():
            found[name] = True
    return found


def test_all_else_is_the_base(base: Path, tmp_path: Path) -> None:
    """Weights, template, eos, pad, dtype of the weights and generation settings differ, and nothing else."""
    found = differences(base, tuned(base, tmp_path / "model"))
    assert found.pop("generation_config.json") == {"eos_token_id"}
    assert found == {
        "chat_template.jinja": "only the tuned model's",
        "config.json": {"torch_dtype"},
        "processor_config.json": {"chat_template"},
        "special_tokens_map.json": {"eos_token", "pad_token"},
        "tokenizer_config.json": {"eos_token"},
        "README.md": "only the base's",
        "optimizer.pt": "only the base's",
    }
    config = _read(tmp_path / "model" / "config.json")
    assert (config["use_cache"], config["torch_dtype"]) == (True, "float32")


def test_added_tokens_reach_every_file_that_lists_tokens(base: Path, tmp_path: Path) -> None:
    """Added tokens stand in tokenizer.json, the older lists where the base has them, and the vocabulary's size."""
    _edit(base / "added_tokens.json", **{"<think>": 13})
    _edit(
        base / "tokenizer_config.json",
        eos_token="<eos>",
        added_tokens_decoder={"2": {"content": "<bos>", "special": True}},
    )
    folder = tuned(base, tmp_path / "model", grown=2)
    size = _read(base / "config.json")["vocab_size"]
    assert _read(folder / "config.json")["vocab_size"] == size + 2
    assert _read(folder / "added_tokens.json") == {"<think>": 13, "<new0>": size, "<new1>": size + 1}
    assert set(_read(folder / "tokenizer_config.json")["added_tokens_decoder"]) == {"2", str(size), str(size + 1)}
    reloaded = AutoTokenizer.from_pretrained(folder)
    assert reloaded("<new1>", add_special_tokens=False).input_ids == [size + 1]
    assert reloaded.decode([size, 20], skip_special_tokens=True) == reloaded.decode([20])


def test_code_that_is_not_there_is_not_pointed_to(base: Path, tmp_path: Path) -> None:
    """A base of a known architecture that names code too is tuned by transformers' own: no `auto_map` stays."""
    _edit(base / "config.json", auto_map={"AutoModelForCausalLM": "modeling_own.OwnModel"})
    _edit(base / "tokenizer_config.json", auto_map={"AutoTokenizer": ["tokenization_own.Own", None]})
    folder = tuned(base, tmp_path / "model")
    assert "auto_map" not in (folder / "config.json").read_text(encoding="utf-8")
    assert "auto_map" not in (folder / "tokenizer_config.json").read_text(encoding="utf-8")


@pytest.mark.parametrize(("name", "template"), [("gemma3", "gemma"), ("llama3_1", "llama3"), ("qwen3", "qwen3")])
def test_real_tokenizers_stay_as_they_are(
    shared: Path, tmp_path: Path, tiny_model: PreTrainedModel, name: str, template: str
) -> None:
    """tokenizer.json byte for byte, whose pre-tokenizer transformers would write otherwise; and it still loads."""
    base, folder = shared / "data" / "tokenizers" / name, tmp_path / "model"
    tokenizer = real_tokenizer(name)
    apply_template(tokenizer, _template(tokenizer, template))
    save_model(tiny_model, tokenizer, folder, turn_end_id=tokenizer.eos_token_id, base=base)
    assert (folder / "tokenizer.json").read_bytes() == (base / "tokenizer.json").read_bytes()
    changed = differences(base, folder)["tokenizer_config.json"]
    assert changed <= {"eos_token", "pad_token", "chat_template"}
    reloaded = AutoTokenizer.from_pretrained(folder)
    messages = [{"role": "user", "content": "감기는 며칠 가나요?  12\n\n\t"}]
    assert reloaded.apply_chat_template(messages) == tokenizer.apply_chat_template(messages)
    assert reloaded.special_tokens_map == tokenizer.special_tokens_map


def test_a_base_of_the_hub(tmp_path: Path, base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a hub id, the files that lie in the hub's cache, when the hub cannot be reached."""
    cache = tmp_path / "hub" / "models--me--base"
    (cache / "refs").mkdir(parents=True)
    (cache / "refs" / "main").write_text("0" * 40)
    (cache / "snapshots").mkdir()
    base.rename(cache / "snapshots" / ("0" * 40))
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    found = base_folder(Model(path="me/base"))
    assert (found / "preprocessor_config.json").is_file()


def test_weights_are_those_in_memory(base: Path, tmp_path: Path) -> None:
    """What is loaded from the folder gives the logits of what was saved."""
    model = load_model(Model(path=str(base)), CPU)
    found = load_model(Model(path=str(tuned(base, tmp_path / "model"))), CPU)
    ids = torch.arange(3, 19).unsqueeze(0)
    with torch.no_grad():
        assert torch.equal(model(ids).logits, found(ids).logits)
