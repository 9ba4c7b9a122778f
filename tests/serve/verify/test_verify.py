"""Eight planted faults behind a real server and in folders: each is found and named; what is right is the same."""

import json
import os
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import replace
from importlib.resources import files
from pathlib import Path

import pytest
from transformers import AutoTokenizer

from command import seodang
from faulty_model import FAULTS, copy_with_fault
from seodang.data.template.find import BUILT_IN
from seodang.errors import ModelError, SeodangError
from seodang.run.folder import Run
from seodang.serve.server import free_port
from seodang.serve.verify.endpoint import Endpoint
from seodang.serve.verify.prompts import TOOL, explanations
from seodang.serve.verify.reference import Reference, load_reference
from seodang.serve.verify.result import Verification
from seodang.serve.verify.verify import verify, verify_endpoint
from seodang.serve.verify.weights import verify_folder
from tiny import make_config, make_model

DEFAULT = "{% for turn in messages %}{{ turn.content }}{% endfor %}"


@pytest.fixture(scope="module")
def faulty(run: Run, reference: Reference, tmp_path_factory: pytest.TempPathFactory) -> "dict[str, Path]":
    """Fault → a copy of the run's model with it."""
    place = tmp_path_factory.mktemp("faulty")
    gemma = files("seodang.templates").joinpath("gemma.jinja").read_text()
    other = make_model(make_config("llama", len(reference.tokenizer)), seed=2)
    other.save_pretrained(place / "other")
    given = {"template": gemma, "weights": place / "other" / "model.safetensors"}
    return {fault: copy_with_fault(run.model, place / fault.replace(" ", "-"), fault, **given) for fault in FAULTS}


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    """One `transformers serve`, which loads the folder that a request names."""
    port = free_port()
    command = [sys.executable, "-m", "transformers.cli.transformers", "serve", "--port", str(port)]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    process = subprocess.Popen(command, env={**os.environ, "HF_HUB_OFFLINE": "1"}, **quiet)
    try:
        while process.poll() is None:
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/health")
                break
            except OSError:
                time.sleep(0.1)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait()


def _served(url: str, folder: Path, reference: Reference) -> Verification:
    return verify_endpoint(Endpoint(url=url, model=str(folder)), reference, questions=8)


@pytest.mark.slow
def test_the_run_s_own_model_is_the_same(url: str, run: Run, reference: Reference) -> None:
    """Served by transformers, the folder gives the run's prompts and answers."""
    found = _served(url, run.model, reference)
    assert (found.verdict, found.causes) == ("same", ())
    assert len(found.prompts) == 5
    assert all(check.served_tokens == check.expected_tokens for check in found.prompts)
    assert any(check.served_stop for check in found.answers)


@pytest.mark.slow
@pytest.mark.parametrize("fault", FAULTS)
def test_each_fault_is_found_and_named(url: str, faulty: "dict[str, Path]", reference: Reference, fault: str) -> None:
    """The server gives no token ids and no log-probabilities: counts, answers and the run's weights suffice."""
    found = _served(url, faulty[fault], reference)
    assert found.verdict == "different"
    assert fault in [cause.name for cause in found.causes], found.causes
    assert all(cause.hint for cause in found.causes)


@pytest.mark.parametrize("fault", FAULTS)
def test_each_fault_is_found_in_a_folder(faulty: "dict[str, Path]", reference: Reference, fault: str) -> None:
    """Files alone show each fault, and no other one."""
    found = verify(faulty[fault], Path(reference.name))
    assert [cause.name for cause in found.causes] == [fault], found.causes
    assert found.verdict == "different"


def test_every_template_that_ships_is_known(reference: Reference) -> None:
    """Prompts of a built-in template are called by its name."""
    explained = {cause.what for cause, _ in explanations(reference)}
    assert explained >= {f"prompts are those of the template {name}" for name in BUILT_IN}


def test_a_bos_that_was_not_trained(run: Run, reference: Reference) -> None:
    """A run whose template writes no BOS is served with one: it is not doubled, but added."""
    bare = replace(reference, template=reference.template.replace("{{- bos_token -}}", ""))
    found = verify_folder(run.model, bare)
    assert [cause.name for cause in found.causes] == ["added BOS"]


def test_a_template_for_tools_beside_the_default(run: Run, tmp_path: Path) -> None:
    """A model with several named templates is compared by those that transformers chooses."""
    folder = copy_with_fault(run.model, tmp_path / "named", "no stop token")
    (folder / "chat_template.jinja").unlink()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.chat_template = {"default": DEFAULT, "tool_use": "{{ tools[0].function.name }}" + DEFAULT}
    tokenizer.save_pretrained(folder)
    named = load_reference(folder)
    turns = [{"role": "user", "content": "물"}]
    for tools in (None, [TOOL]):
        expected = tokenizer.apply_chat_template(turns, tools=tools, add_generation_prompt=True)["input_ids"]
        assert named.ids(turns, tools) == expected
    assert verify_folder(folder, named).verdict == "same"


def test_a_copy_of_the_folder_is_the_same(run: Run, reference: Reference) -> None:
    """The run's own folder has nothing to report."""
    found = verify(run.model, run.folder)
    assert (found.verdict, found.causes) == ("same", ())


def test_the_command_s_exit_code_and_json(run: Run, faulty: "dict[str, Path]") -> None:
    """Different is exit code 1; the JSON holds the verdict and the cause."""
    assert seodang("verify", run.model, run.folder).code == 0
    ended = seodang("verify", faulty["doubled BOS"], run.folder, "--json")
    assert ended.code == 1
    found = json.loads(ended.out)
    assert (found["schema_version"], found["verdict"]) == (1, "different")
    assert [cause["name"] for cause in found["causes"]] == ["doubled BOS"]


def test_what_cannot_be_compared_is_one_error(run: Run, tmp_path: Path) -> None:
    """A folder without a model, a server that is not there, and an address that is none."""
    with pytest.raises(ModelError, match=r"config\.json"):
        verify(tmp_path, run.folder)
    for url in (f"http://127.0.0.1:{free_port()}", "http://127.0.0.1:port"):
        with pytest.raises(SeodangError, match="cannot be reached"):
            verify(url, run.folder)
