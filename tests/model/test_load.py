"""Loading: a folder, or one clear message."""

import json
import os
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers
from transformers import (
    AutoConfig,
    AutoModelForSequenceClassification,
    BertConfig,
    BertForMaskedLM,
    PreTrainedTokenizerFast,
    T5Config,
)

from real_tokenizers import real_tokenizer
from seodang.errors import HubError, ModelError
from seodang.model.load import load_config, load_model, load_tokenizer, resolve_model
from seodang.recipe import Model
from seodang.types import Placement
from tiny import make_config, make_model

CPU = Placement(device="cpu", dtype="float32", compute_dtype="float32", attention="packed", reasons=())


@pytest.fixture
def folder(tiny_folder: Path, tmp_path: Path) -> Path:
    """A copy of the tiny model's folder that the test may damage."""
    return Path(shutil.copytree(tiny_folder, tmp_path / "gemma-tiny"))


def edit(file: Path, **changes: Any) -> None:
    content = json.loads(file.read_text(encoding="utf-8"))
    file.write_text(json.dumps({**content, **changes}), encoding="utf-8")


def refused(path: Path | str, told: str, **spec: Any) -> str:
    with pytest.raises((ModelError, HubError), match=told) as caught:
        load_model(Model(path=str(path), **spec), CPU)
    return str(caught.value)


def test_loads_quietly(tiny_folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """A folder gives an evaluating float32 model and its tokenizer, and nothing is printed."""
    model = load_model(Model(path=str(tiny_folder)), CPU)
    tokenizer = load_tokenizer(str(tiny_folder))
    assert not model.training
    assert model.dtype == torch.float32
    assert tokenizer("감기").input_ids == [2, *tokenizer("감기", add_special_tokens=False).input_ids]
    shown = capfd.readouterr()
    assert (shown.out, shown.err) == ("", "")


def test_dtype_is_the_placements(tiny_folder: Path) -> None:
    """Weights come in the dtype of the placement, whatever the file holds."""
    pure = Placement(device="cpu", dtype="bfloat16", compute_dtype="bfloat16", attention="packed", reasons=())
    assert load_model(Model(path=str(tiny_folder)), pure).dtype == torch.bfloat16


def test_gemma_is_refused_in_float16(tmp_path: Path) -> None:
    """Gemma overflows in float16, so it is refused before its weights are read."""
    make_config("gemma3").save_pretrained(tmp_path)
    half = Placement(device="cpu", dtype="float16", compute_dtype="float16", attention="packed", reasons=())
    with pytest.raises(ModelError, match=r"model\.dtype: Gemma overflows"):
        load_model(Model(path=str(tmp_path)), half)


def test_wrong_paths(folder: Path, tmp_path: Path) -> None:
    """A path that leads nowhere is answered with the folder that was meant, a file with what to give instead."""
    refused(tmp_path / "gema-tiny", rf"did you mean {folder}\?")
    refused("./no/such/model", "no such folder")
    for local in ("runs/nope", "~/no-such-model", "models/", f"{folder.parent}/xyz"):
        refused(local, "no such folder")
    assert f"in {folder.parent} there are: " in refused(folder.parent / "xyz", "no such folder")
    refused(folder / "config.json", "is a file")
    (tmp_path / "m.gguf").write_bytes(b"GGUF")
    refused(tmp_path / "m.gguf", "is a file(.|\n)*weights are rounded")


def test_a_name_beside_a_folder_means_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`bases/mine` is not looked for on the hub where there is a folder `bases`, whose folders are listed."""
    (tmp_path / "bases" / "korean").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert "in bases there are: korean" in refused("bases/mine", "no such folder")


def test_folders_without_a_model(tmp_path: Path) -> None:
    """What a folder holds instead of a model is said: a GGUF file, an adapter, a run, or nothing."""
    for number, (file, told) in enumerate(
        [
            ("m.gguf", "only a GGUF"),
            ("adapter_config.json", "an adapter"),
            ("readme.md", "no config.json"),
            ("recipe.yaml", "no model yet"),
        ]
    ):
        (tmp_path / str(number) / "model").mkdir(parents=True)
        (tmp_path / str(number) / file).write_text("{}")
        (tmp_path / str(number) / "manifest.json").write_text("{}")
        refused(tmp_path / str(number), told)


def test_hub_ids_offline() -> None:
    """A hub id that cannot be fetched names both possibilities; what is no hub id at all says so."""
    assert "https://huggingface.co/google/gemma-3-1b-pt" in refused("google/gemma-3-1b-pt", "hub cannot be reached")
    refused("not a hub id", "neither a folder here nor a hub id")


def test_what_the_hub_refuses_later_is_explained(monkeypatch: pytest.MonkeyPatch) -> None:
    """A refusal that comes while files are read, inside transformers' own error, is reported as the first one is."""
    from huggingface_hub import errors

    from seodang.model.load import _explained

    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    cases = {
        errors.GatedRepoError: r"accept them at https://huggingface\.co/google/gemma-3-1b-pt, then log in",
        errors.RepositoryNotFoundError: "check the name",
        errors.RevisionNotFoundError: "no revision 'v9'",
        errors.LocalEntryNotFoundError: "it stopped answering",
    }
    for kind, told in cases.items():
        wrapped = OSError("transformers' own words")
        wrapped.__cause__ = kind.__new__(kind, "as the hub's client raises it")
        with pytest.raises(HubError, match=told):
            raise _explained(wrapped, "google/gemma-3-1b-pt", "v9")


def test_unknown_architectures(folder: Path) -> None:
    """An architecture that transformers does not know is named; one that brings code needs the recipe's consent."""
    edit(folder / "config.json", model_type="gemma99")
    assert "pip install -U transformers" in refused(folder, "'gemma99'")
    edit(folder / "config.json", auto_map={"AutoModelForCausalLM": "modeling.Own"})
    assert "trust_remote_code: true" in refused(folder, "Python code")


def test_other_kinds_of_models(tmp_path: Path) -> None:
    """Masked, classifying and encoder-decoder models are refused by their name."""
    small = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    BertForMaskedLM(BertConfig(vocab_size=300, **small)).save_pretrained(tmp_path / "bert")
    refused(tmp_path / "bert", "BertForMaskedLM is not a causal language model")
    classifier = AutoModelForSequenceClassification.from_config(make_config("llama"))
    classifier.save_pretrained(tmp_path / "classifier")
    refused(tmp_path / "classifier", "LlamaForSequenceClassification is not a causal")
    T5Config(architectures=["T5ForConditionalGeneration"]).save_pretrained(tmp_path / "t5")
    refused(tmp_path / "t5", "T5ForConditionalGeneration is not a causal")


def test_quantized_weights(folder: Path) -> None:
    """Quantized weights cannot be trained, and are refused with the method's name."""
    edit(folder / "config.json", quantization_config={"quant_method": "gptq", "bits": 4})
    refused(folder, r"quantized \(gptq\)")


def test_damaged_weights(folder: Path) -> None:
    """Cut-off weights, missing weights and missing tensors are each refused."""
    weights = folder / "model.safetensors"
    content = weights.read_bytes()
    weights.write_bytes(content[:-1000])
    refused(folder, "damaged weights")
    weights.unlink()
    refused(folder, r"cannot be loaded: .*model\.safetensors")
    make_model(make_config("llama", num_hidden_layers=1)).save_pretrained(folder)
    edit(folder / "config.json", num_hidden_layers=2)
    refused(folder, "lack 9 of the model's tensors")


def test_broken_config(folder: Path) -> None:
    """A config.json that is no JSON is named."""
    (folder / "config.json").write_text('{"model_type": "llama",')
    refused(folder, r"config\.json is not complete JSON")


def test_config_alone(folder: Path) -> None:
    """The config is read without weights."""
    (folder / "model.safetensors").unlink()
    assert load_config(Model(path=str(folder))).get_text_config().vocab_size == 512


def test_missing_tokenizer(folder: Path) -> None:
    """A folder without tokenizer is refused, also where transformers would make up an empty one."""
    (folder / "tokenizer.json").unlink()
    (folder / "tokenizer_config.json").unlink()
    with pytest.raises(ModelError, match="tokenizer"):
        load_tokenizer(str(folder))
    make_config("gemma3").save_pretrained(folder)
    with pytest.raises(ModelError, match="no tokenizer"):
        load_tokenizer(str(folder))


def test_tokenizer_alone(folder: Path) -> None:
    """A folder of tokenizer files without a model is enough for a tokenizer: templates are borrowed from such."""
    for name in ("config.json", "generation_config.json", "model.safetensors"):
        (folder / name).unlink()
    assert len(load_tokenizer(str(folder))) == 512


@pytest.mark.slow
@pytest.mark.shared
@pytest.mark.parametrize("name", ["gemma3", "qwen3", "llama3_1"])
def test_real_tokenizers(shared: Path, name: str) -> None:
    """The makers' instruct tokenizers load, with their templates, as transformers' own classes split them."""
    tokenizer = real_tokenizer(name)
    assert tokenizer.chat_template
    assert tokenizer.decode(tokenizer("안녕하세요 12", add_special_tokens=False).input_ids) == "안녕하세요 12"


def test_broken_tokenizer(folder: Path) -> None:
    """A cut-off tokenizer.json is refused."""
    (folder / "tokenizer.json").write_text('{"version": "1.0", "truncation')
    with pytest.raises(ModelError, match=r"tokenizer\.json is not complete JSON"):
        load_tokenizer(str(folder))


@pytest.mark.parametrize(
    ("setting", "error"),
    [
        ({"model_max_length": "many"}, "model_max_length is 'many', not a number"),
        ({"model_max_length": [512]}, r"model_max_length is \[512\], not a number"),
        ({"model_input_names": 3}, "int"),
    ],
)
def test_tokenizer_settings_of_another_type(folder: Path, setting: dict[str, object], error: str) -> None:
    """A setting that transformers takes as it is and stumbles over later is refused when the tokenizer is loaded."""
    edit(folder / "tokenizer_config.json", **setting)
    with pytest.raises(ModelError, match=error):
        load_tokenizer(str(folder))


def test_wrong_tokenizer_class(folder: Path) -> None:
    """A class that splits text otherwise than tokenizer.json is refused: its ids are not those of pretraining."""
    backend = Tokenizer.from_file(str(folder / "tokenizer.json"))
    assert isinstance(backend.model, models.BPE)
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    backend.save(str(folder / "tokenizer.json"))
    AutoConfig.for_model("gpt2").save_pretrained(folder)
    edit(folder / "tokenizer_config.json", tokenizer_class="GPT2Tokenizer")
    with pytest.raises(ModelError, match="GPT2Tokenizer gives other ids"):
        load_tokenizer(str(folder))
    edit(folder / "tokenizer_config.json", tokenizer_class="PreTrainedTokenizerFast")
    assert type(load_tokenizer(str(folder))) is PreTrainedTokenizerFast


@pytest.mark.parametrize("kind", ["qwen2", "qwen3_5"])
def test_the_hint_for_a_forced_tokenizer_class_works(kind: str, folder: Path) -> None:
    """Where transformers ignores the class that is named, the hint's own steps lead to the ids of tokenizer.json."""
    backend = Tokenizer.from_file(str(folder / "tokenizer.json"))
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    backend.normalizer = normalizers.Lowercase()
    backend.save(str(folder / "tokenizer.json"))
    AutoConfig.for_model(kind).save_pretrained(folder)
    edit(folder / "tokenizer_config.json", tokenizer_class="PreTrainedTokenizerFast")  # without effect here
    with pytest.raises(ModelError, match=f"takes this class for every {kind} model") as caught:
        load_tokenizer(str(folder))
    code = re.findall(r"^      (.+)$", caught.value.hint, re.MULTILINE)
    (folder / "tokenizer.py").write_text("\n".join(code))
    auto_map = re.search(r'"auto_map": (\{.+?\})', caught.value.hint)
    assert auto_map
    edit(folder / "tokenizer_config.json", auto_map=json.loads(auto_map[1]))
    found = load_tokenizer(str(folder), trust_remote_code=True)
    text = "Yak 12정"
    assert found(text, add_special_tokens=False)["input_ids"] == backend.encode(text, add_special_tokens=False).ids


@pytest.mark.parametrize("sizes", [{"vocab_size": 10**12}, {"text_config": {"num_hidden_layers": 10**9}}])
def test_absurd_sizes(sizes: dict[str, Any], folder: Path) -> None:
    """A configuration whose sizes no model has is refused before anything works through them."""
    edit(folder / "config.json", **sizes)
    with pytest.raises(ModelError, match=r"config\.json says \w+ 1,000,000,000.*; no model has more than"):
        load_config(Model(path=str(folder)))


def test_package_names() -> None:
    """package:NAME that does not exist is refused as such, not looked up on the hub."""
    with pytest.raises(ModelError, match="package:gemma-3-270m"):
        resolve_model("package:gemma3-270m")


@pytest.mark.slow
def test_packaged_model_loads() -> None:
    """The packaged base loads by its package name, with tokenizer."""
    from seodang.model.packaged import packaged_folder

    try:
        packaged_folder("gemma-3-270m")
    except ModelError as error:
        pytest.skip(str(error))
    model = load_model(Model(path="package:gemma-3-270m"), CPU)
    assert sum(parameter.numel() for parameter in model.parameters()) == 268_098_176
    assert len(load_tokenizer("package:gemma-3-270m")) == 262_144


def test_a_tokenizer_is_checked_once_and_again_when_it_changes(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was found sound is not read a second time; another tokenizer.json under the same name is."""
    monkeypatch.setenv("SEODANG_CACHE", str(tmp_path / "cache"))
    AutoConfig.for_model("gpt2").save_pretrained(folder)
    edit(folder / "tokenizer_config.json", tokenizer_class="GPT2Tokenizer")
    backend = Tokenizer.from_file(str(folder / "tokenizer.json"))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.save(str(folder / "tokenizer.json"))
    load_tokenizer(str(folder))
    read = []
    monkeypatch.setattr("seodang.model.load.Tokenizer.from_file", lambda file: read.append(file) or backend)
    load_tokenizer(str(folder))
    assert not read
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    backend.save(str(folder / "tokenizer.json"))
    with pytest.raises(ModelError, match="GPT2Tokenizer gives other ids"):
        load_tokenizer(str(folder))
    assert read


def test_weights_that_may_not_be_read_are_not_called_missing(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """safetensors reports a file of another user as one that is not there."""
    (folder / "model.safetensors").write_bytes(b"")  # root may read all files: the loader fails on this one anyway
    readable = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: "safetensors" not in str(path) and readable(path, mode))
    with pytest.raises(ModelError, match=r"model\.safetensors may not be read\n.*permissions"):
        load_model(Model(path=str(folder)), CPU)
