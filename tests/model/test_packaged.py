"""Packaged models: found, checked, converted once."""

import json
import shutil
import subprocess
import sys
import threading
import types
from collections.abc import Callable
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast

from tiny import make_config, make_model

pytest.importorskip("gguf")
from seodang.errors import ModelError, ResourceError
from seodang.model import gguf_to_transformers, packaged
from seodang.model.packaged import PACKAGED, Packaged, packaged_folder, packaged_gguf
from seodang.user_paths import cache_folder
from tiny_gguf import gemma_tokens, write_gemma

NAME = "gemma-3-270m"


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SEODANG_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def tiny_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cache: Path) -> Path:
    """A tiny Gemma in two packages of the test's own, known under the real one's name; the first part's file."""
    model = make_model(make_config("gemma3", len(gemma_tokens()[0])))
    content = write_gemma(model, tmp_path / "tiny.gguf").read_bytes()
    half = len(content) // 2
    parts = []
    for number, piece in enumerate((content[:half], content[half:])):
        name = f"tiny_{tmp_path.name.replace('-', '_')}_part{number}"
        folder = tmp_path / "site" / name
        folder.mkdir(parents=True)
        (folder / "__init__.py").write_text("raise AssertionError('packages must not be imported')")
        (folder / "piece").write_bytes(piece)
        parts.append((name, "piece"))
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    model_of_test = replace(PACKAGED[NAME], parts=tuple(parts), sha256=sha256(content).hexdigest())
    monkeypatch.setattr(packaged, "PACKAGED", {NAME: model_of_test})
    return tmp_path / "site" / parts[0][0] / "piece"


def test_converts_once(tiny_package: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first call converts, the second finds the folder even without the package; both give what loads."""
    folder = packaged_folder(f"package:{NAME}")
    assert folder.parent == cache / "models"
    tiny_package.unlink()
    assert packaged_folder(NAME) == folder
    assert AutoModelForCausalLM.from_pretrained(folder).dtype == torch.float32
    assert len(AutoTokenizer.from_pretrained(folder)) == len(gemma_tokens()[0])
    assert "Gemma Terms of Use" in (folder / "NOTICE").read_text(encoding="utf-8")


def test_terms_are_shown(tiny_package: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The licence's sentence goes to stderr when a model is unpacked, nothing to stdout."""
    packaged_folder(NAME)
    shown = capsys.readouterr()
    assert "Gemma Terms of Use" in " ".join(shown.err.split())
    assert shown.out == ""


def test_interruption_leaves_nothing(tiny_package: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A conversion that is interrupted leaves no folder, and the next call converts afresh."""
    original = gguf_to_transformers._write_weights

    def interrupted(*args: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(gguf_to_transformers, "_write_weights", interrupted)
    with pytest.raises(KeyboardInterrupt):
        packaged_folder(NAME)
    assert not [item for item in (cache / "models").iterdir() if item.is_dir()]
    monkeypatch.setattr(gguf_to_transformers, "_write_weights", original)
    assert (packaged_folder(NAME) / "model.safetensors").is_file()


def test_leftovers_of_a_killed_process_are_removed(tiny_package: Path, cache: Path) -> None:
    """What a killed process left unfinished is cleared away by the next one."""
    left = cache / "models" / f".{NAME}-v1-killed"
    left.mkdir(parents=True)
    packaged_folder(NAME)
    assert not left.exists()


def test_two_at_once(tiny_package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of two calls at once one converts, and the other waits for its folder."""
    started = []
    original: Callable[..., None] = gguf_to_transformers.write_folder

    def counted(*args: object) -> None:
        started.append(threading.get_ident())
        original(*args)

    monkeypatch.setattr(packaged, "write_folder", counted)
    found: list[Path] = []
    threads = [threading.Thread(target=lambda: found.append(packaged_folder(NAME))) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 2
    assert found[0] == found[1]
    assert len(started) == 1


def test_damaged_package(tiny_package: Path) -> None:
    """A changed byte is noticed, and the hint names every package that holds a part."""
    content = bytearray(tiny_package.read_bytes())
    content[-1] ^= 1
    tiny_package.write_bytes(content)
    with pytest.raises(ModelError, match=r"damaged: SHA-256.*\n.*--force-reinstall.*part0.*part1"):
        packaged_folder(NAME)
    tiny_package.unlink()
    with pytest.raises(ModelError, match=r"damaged: .*No such file"):
        packaged_folder(NAME)


def test_missing_package(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A package that is not installed is named with the pip command that installs it."""
    for name, model in PACKAGED.items():
        absent: Packaged = replace(model, parts=(("seodang_no_such_package", "file"),))
        monkeypatch.setattr(packaged, "PACKAGED", {name: absent})
        with pytest.raises(ModelError) as caught:
            packaged_folder(name)
        assert model.pip in str(caught.value)
        assert model.pip.startswith("pip install")


def test_unknown_name(cache: Path) -> None:
    """A wrong name is answered with the nearest one, or with all."""
    with pytest.raises(ModelError, match=r"did you mean 'gemma-3-270m'"):
        packaged_folder("package:gemma-270m")
    with pytest.raises(ModelError, match="package:gemma-3-270m, package:smollm2-135m-instruct"):
        packaged_folder("package:xyz")
    with pytest.raises(ModelError, match=r"did you mean 'gemma-3-270m'"):
        packaged_gguf("package:gemma-270m")


def test_full_disk(tiny_package: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Too little room is told before anything is written."""
    monkeypatch.setattr(shutil, "disk_usage", lambda path: types.SimpleNamespace(free=1000))
    with pytest.raises(ResourceError, match=r"takes 0\.\d GB; 0\.0 GB are free"):
        packaged_folder(NAME)
    assert not [item for item in (cache / "models").iterdir() if item.is_dir()]


def test_cache_that_cannot_be_written(tiny_package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cache folder that cannot be made is told with the variable that chooses another."""
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("SEODANG_CACHE", str(tmp_path / "file"))
    with pytest.raises(ResourceError, match="SEODANG_CACHE"):
        packaged_folder(NAME)


def test_cache_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    """SEODANG_CACHE goes before XDG_CACHE_HOME, which goes before ~/.cache."""
    monkeypatch.setenv("SEODANG_CACHE", "/own")
    monkeypatch.setenv("XDG_CACHE_HOME", "/xdg")
    assert cache_folder() == Path("/own")
    monkeypatch.delenv("SEODANG_CACHE")
    assert cache_folder() == Path("/xdg/seodang")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_folder() == Path.home() / ".cache" / "seodang"


def installed(name: str) -> Path:
    """The real packaged model, from the user's own cache."""
    try:
        return packaged_folder(name)
    except ModelError as error:
        pytest.skip(str(error))


def test_light_to_import() -> None:
    """Looking for a packaged model costs neither torch nor transformers."""
    code = "import sys, seodang.model.packaged; print('torch' in sys.modules, 'transformers' in sys.modules)"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert shown.stdout.split() == ["False", "False"]


@pytest.mark.slow
@pytest.mark.shared
def test_real_gemma_tokenizer(shared: Path) -> None:
    """Gemma's converted tokenizer gives the maker's ids on Korean and English rows, control tokens included."""
    found = AutoTokenizer.from_pretrained(installed(NAME))
    real = PreTrainedTokenizerFast(tokenizer_file=str(shared / "data" / "tokenizers" / "gemma3" / "tokenizer.json"))
    for file, key in (("ko_medical", "answer"), ("cpt_ko_health_law", "text"), ("en_general", "answer")):
        with (shared / "data" / f"{file}.jsonl").open(encoding="utf-8") as lines:
            for _, line in zip(range(150), lines, strict=False):
                text = f"<start_of_turn>user\n{json.loads(line)[key]}<end_of_turn>\n\n \t    x"
                assert found(text).input_ids == real(text).input_ids
    assert found.convert_tokens_to_ids(["<start_of_turn>", "<end_of_turn>"]) == [105, 106]
    assert (found.bos_token, found.eos_token, found.pad_token, found.chat_template) == ("<bos>", "<eos>", "<pad>", None)


@pytest.mark.slow
@pytest.mark.shared
def test_real_gemma_speaks_korean(shared: Path) -> None:
    """The converted base predicts plain Korean text as it did when its weights were checked bit for bit."""
    model = AutoModelForCausalLM.from_pretrained(installed(NAME), dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(installed(NAME))
    lines = (shared / "data" / "cpt_ko_health_law.jsonl").read_text(encoding="utf-8").splitlines()[:2]
    total, tokens = 0.0, 0
    for line in lines:
        ids = torch.tensor([tokenizer(json.loads(line)["text"]).input_ids[:256]])
        with torch.no_grad():
            total += model(ids, labels=ids).loss.item() * (ids.shape[1] - 1)
        tokens += ids.shape[1] - 1
    assert total / tokens == pytest.approx(2.483, abs=0.01)  # one layer norm off by one adds 0.03


@pytest.mark.slow
def test_real_smollm2_answers() -> None:
    """The converted SmolLM2 answers an English question through its own chat template, and stops."""
    folder = installed("smollm2-135m-instruct")
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    question = [{"role": "user", "content": "What is the capital of France?"}]
    ids = tokenizer.apply_chat_template(question, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    output = model.generate(**ids, max_new_tokens=40, do_sample=False)[0, ids["input_ids"].shape[1] :]
    assert "Paris" in tokenizer.decode(output)
    assert output[-1] == tokenizer.convert_tokens_to_ids("<|im_end|>")
