"""Fixtures that many tests share: a tiny tokenizer, a tiny model, and the folder of both.

What imports torch is imported inside of them: the process that hands tests to workers waits for this file first.
"""

import copy
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

os.environ["LANGUAGE"] = "en"  # of comments that `init` writes
os.environ.pop("COLUMNS", None)  # the width of what is not printed to a terminal
os.environ.setdefault("HF_HUB_OFFLINE", "1")  # before any import of huggingface_hub: tests never reach the network
os.environ.setdefault("TORCHINDUCTOR_COMPILE_THREADS", "1")  # here: workers would import torch for a few kernels

from paths import SHARED
from seodang.user_paths import cache_folder

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background inherits that it is ignored


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests marked gpu need a CUDA device."""
    import torch

    if not torch.cuda.is_available():
        for item in items:
            if item.get_closest_marker("gpu"):
                item.add_marker(pytest.mark.skip(reason="no CUDA device"))


@pytest.fixture(scope="session", autouse=True)
def _cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A cache of the session's own for prepared rows; packaged models are unpacked once into the user's."""
    models = cache_folder() / "models"
    models.mkdir(parents=True, exist_ok=True)
    own = tmp_path_factory.mktemp("cache")
    (own / "models").symlink_to(models, target_is_directory=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SEODANG_CACHE", str(own))
        yield


@pytest.fixture(scope="session", autouse=True)
def _brief_rates() -> Iterator[None]:
    """Trainings time the machine for milliseconds."""
    from brief_rates import BRIEF
    from seodang.train import throughput

    with pytest.MonkeyPatch.context() as patch:
        for name, value in BRIEF.items():
            patch.setattr(throughput, name, value)
        yield


@pytest.fixture(scope="session", autouse=True)
def _no_pictures() -> Iterator[None]:
    """Reports are their page alone, but inside of `drawn.pictures`."""
    from drawn import no_pictures

    with no_pictures():
        yield


@pytest.fixture(scope="session")
def _tokenizer() -> "PreTrainedTokenizerFast":
    from tiny import make_tokenizer

    return make_tokenizer()


@pytest.fixture
def tiny_tokenizer(_tokenizer: "PreTrainedTokenizerFast") -> "PreTrainedTokenizerFast":
    """A byte-level BPE of 512 ids with the control tokens of common templates; a copy that the test may change."""
    return copy.deepcopy(_tokenizer)


@pytest.fixture(scope="session")
def tiny_model(_tokenizer: "PreTrainedTokenizerFast") -> "PreTrainedModel":
    """A random llama of 2 layers, hidden size 64, float32, eval mode: shared, so a test must not train it."""
    from tiny import make_config, make_model

    return make_model(make_config("llama", len(_tokenizer)))


@pytest.fixture(scope="session")
def tiny_folder(
    _tokenizer: "PreTrainedTokenizerFast", tiny_model: "PreTrainedModel", tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """Folder of tiny_model and tiny_tokenizer as save_pretrained leaves it, without a chat template: read only."""
    folder = tmp_path_factory.mktemp("models") / "tiny"
    tiny_model.save_pretrained(folder)
    _tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def no_report(monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs end without their report, which takes a fifth of a tiny run."""
    from seodang.stages import finish

    monkeypatch.setattr(finish, "report", lambda folder, _: folder)


@pytest.fixture(scope="session")
def shared() -> Path:
    """The real data beside the repository; the test is skipped where it is absent."""
    if not SHARED.is_dir():
        pytest.skip(f"no {SHARED}")
    return SHARED
