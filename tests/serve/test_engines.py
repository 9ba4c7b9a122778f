"""Command lines of the engines: what each is given, and which one is chosen."""

import sys
from pathlib import Path

import pytest
import yaml

from seodang.errors import SeodangError
from seodang.serve.engines import (
    ENGINES,
    Address,
    Engine,
    Launch,
    SamplingDefaults,
    ServedModel,
    choose_engine,
    launch,
    tool_call_parser,
)

FOLDER = ServedModel(
    name="demo",
    path="/runs/demo/model",
    template="<|im_start|>",
    dtype="float32",
    sampling=SamplingDefaults(temperature=0.7, top_p=0.95, repetition_penalty=1.1),
)
GGUF = ServedModel(name="demo", path="/m", gguf=Path("/m/demo.gguf"), template="t", sampling=SamplingDefaults())
KEY = "secret-key"


def _pairs(how: Launch) -> dict[str, str]:
    return {name: value for name, value in zip(how.command, how.command[1:], strict=False) if name.startswith("--")}


def test_vllm_gets_the_dtype_and_the_folder_s_sampling() -> None:
    """vLLM's own "auto" would make float16 of float32 weights, and requests name the model as the run."""
    how = launch("vllm", FOLDER, Address(port=9000))
    assert how.command[:3] == ("vllm", "serve", "/runs/demo/model")
    assert _pairs(how) == {
        "--served-model-name": "demo",
        "--host": "127.0.0.1",
        "--port": "9000",
        "--generation-config": "auto",
        "--dtype": "float32",
    }


@pytest.mark.parametrize("engine", ["vllm", "sglang", "llama.cpp"])
def test_the_key_is_no_argument(engine: Engine) -> None:
    """Arguments of a process are there for all to see: a key goes through the environment or a file."""
    how = launch(engine, GGUF if engine == "llama.cpp" else FOLDER, Address(), api_key=KEY)
    assert KEY not in " ".join(how.command)
    assert KEY in str([*how.environment.values(), *how.files.values()])


def test_a_key_with_quotes_and_backslashes_reaches_sglang_as_it_is() -> None:
    """Its key goes through a YAML file, in which these characters mean something."""
    key = 'a"b\\n: #c'
    assert yaml.safe_load(launch("sglang", FOLDER, Address(), api_key=key).files["sglang.yaml"]) == {"api-key": key}


def test_transformers_refuses_a_key_that_it_would_not_check() -> None:
    """A key that nobody checks would only seem to protect the model."""
    with pytest.raises(SeodangError, match="checks no API key"):
        launch("transformers", FOLDER, Address(), api_key=KEY)


def test_transformers_serves_a_folder_under_the_run_s_name() -> None:
    """Its requests name the path that it was started with, and its list of models is the hub's cache."""
    how = launch("transformers", FOLDER, Address())
    assert how.command[:5] == (sys.executable, "-m", "transformers.cli.transformers", "serve", "demo")
    assert how.links["demo"] == "/runs/demo/model"
    assert how.environment == {"HF_HUB_OFFLINE": "1", "HF_HUB_CACHE": "hub"}
    hub = launch("transformers", ServedModel(name="m", path="owner/m"), Address())
    assert hub.command[4] == "owner/m"
    assert not hub.environment


def test_llama_cpp_gets_what_it_has_defaults_of_its_own_for() -> None:
    """llama.cpp draws with temperature 0.8, top-k 40, top-p 0.95 and min-p 0.05 unless it is given others."""
    how = launch("llama.cpp", GGUF, Address())
    given = _pairs(how)
    assert {name: given[name] for name in ("--temp", "--top-k", "--top-p", "--min-p", "--repeat-penalty")} == {
        "--temp": "0.0",
        "--top-k": "0",
        "--top-p": "1.0",
        "--min-p": "0.0",
        "--repeat-penalty": "1.0",
    }
    assert given["--repeat-last-n"] == "-1"  # the whole context, as transformers counts
    assert how.files == {"template.jinja": "t"}


def test_sglang_draws_as_the_folder_says() -> None:
    """SGLang is given dtype and the model's own sampling defaults."""
    given = _pairs(launch("sglang", FOLDER, Address()))
    assert (given["--sampling-defaults"], given["--dtype"]) == ("model", "float32")


@pytest.mark.parametrize(
    ("template", "parser"),
    [
        (None, None),
        ("<|im_start|>", None),
        ('<tool_call>\n{"name": ', "hermes"),
        ("<tool_call>\n<function=", "qwen3_coder"),
    ],
)
def test_parser_of_tool_calls(template: str | None, parser: str | None) -> None:
    """Only a template with tool calls turns them on."""
    assert tool_call_parser(template) == parser
    command = launch("vllm", ServedModel(name="m", path="/m", template=template), Address()).command
    assert ("--enable-auto-tool-choice" in command) == (parser is not None)


@pytest.mark.parametrize(
    ("model", "gpu", "there", "chosen"),
    [
        (FOLDER, True, ENGINES, "vllm"),
        (FOLDER, True, ("transformers", "sglang"), "sglang"),
        (FOLDER, False, ENGINES, "transformers"),
        (GGUF, True, ENGINES, "llama.cpp"),
    ],
)
def test_auto_takes_what_fits(model: ServedModel, gpu: bool, there: tuple[Engine, ...], chosen: Engine) -> None:
    """vLLM and SGLang want a GPU; a GGUF file wants llama.cpp."""
    assert choose_engine("auto", model, installed=lambda engine: engine in there, has_gpu=gpu) == chosen


@pytest.mark.parametrize(
    ("wanted", "model", "there", "message"),
    [
        ("vlm", FOLDER, ENGINES, "unknown engine 'vlm'"),
        ("vllm", FOLDER, ("transformers",), r"not installed\n.*pip install vllm"),
        ("transformers", FOLDER, (), r"seodang\[serve\]"),
        ("auto", FOLDER, (), r"no engine.*\n.*seodang\[serve\]"),
        ("auto", GGUF, (), r"no engine.*\n.*seodang\[serve-gguf\]"),
        ("llama.cpp", FOLDER, ENGINES, r"serves GGUF files\n.*--gguf"),
        ("transformers", GGUF, ENGINES, "not GGUF"),
    ],
)
def test_what_cannot_be_started_is_refused(
    wanted: str, model: ServedModel, there: tuple[Engine, ...], message: str
) -> None:
    """Each refusal says what to install or to give."""
    with pytest.raises(SeodangError, match=f"(?s){message}"):
        choose_engine(wanted, model, installed=lambda engine: engine in there, has_gpu=False)


@pytest.mark.parametrize(
    ("host", "url", "exposed"),
    [
        ("127.0.0.1", "http://127.0.0.1:8000", False),
        ("0.0.0.0", "http://127.0.0.1:8000", True),
        ("::", "http://[::1]:8000", True),
        ("10.0.0.7", "http://10.0.0.7:8000", True),
    ],
)
def test_addresses(host: str, url: str, exposed: bool) -> None:
    """An address that listens everywhere is asked here, and counts as exposed."""
    address = Address(host=host)
    assert (address.url, address.is_exposed) == (url, exposed)
