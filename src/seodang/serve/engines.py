"""Command lines of the engines that serve a model. Pure functions: they start nothing and read no file."""

import json
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from shutil import which
from types import MappingProxyType
from typing import Literal, get_args

from seodang import optional_packages
from seodang.errors import ModelError, SeodangError

Engine = Literal["vllm", "sglang", "llama.cpp", "transformers"]
ENGINES: tuple[Engine, ...] = get_args(Engine)
API_KEY = "SEODANG_API_KEY"  # environment variable: what clients have to send, and what `verify` sends
LOOPBACK = ("127.0.0.1", "localhost", "::1")
SLOTS = 4  # requests that llama.cpp answers at the same time
ANYWHERE = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # an address to listen on → one to ask
_INSTALL: Mapping[Engine, str] = MappingProxyType(
    {
        "vllm": "pip install vllm, in an environment of its own whose bin folder is on PATH",
        "sglang": "pip install sglang",
        "llama.cpp": f"{optional_packages.install_command('serve-gguf')}, or put llama-server on PATH",
        "transformers": optional_packages.install_command("serve"),
    }
)


@dataclass(frozen=True, kw_only=True, slots=True)
class SamplingDefaults:
    """How an engine draws answers when a request does not say: the folder's generation_config.json."""

    temperature: float = 0.0  # 0: greedy
    top_p: float = 1.0
    top_k: int = 0  # 0: all tokens
    repetition_penalty: float = 1.0


@dataclass(frozen=True, kw_only=True, slots=True)
class ServedModel:
    """What is to be served."""

    name: str  # as requests name it
    path: str  # a folder (absolute) or a hub id
    gguf: Path | None = None
    template: str | None = None  # text of the chat template; None: whatever the model brings
    dtype: str | None = None  # of the saved weights; None: unknown
    sampling: SamplingDefaults | None = None
    trust_remote_code: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Address:
    """Where an engine listens."""

    host: str = "127.0.0.1"
    port: int = 8000

    @property
    def url(self) -> str:
        """Base of all requests, for whoever is on this machine."""
        host = ANYWHERE.get(self.host, self.host)
        return f"http://{f'[{host}]' if ':' in host else host}:{self.port}"

    @property
    def is_exposed(self) -> bool:
        return self.host not in LOOPBACK


@dataclass(frozen=True, kw_only=True, slots=True)
class Launch:
    """How to start an engine."""

    command: tuple[str, ...]
    environment: Mapping[str, str] = field(default_factory=dict)  # on top of the parent's
    files: Mapping[str, str] = field(default_factory=dict)  # name → text, in the folder that it is started in
    links: Mapping[str, str] = field(default_factory=dict)  # name → what it points to, in the same folder


def is_installed(engine: Engine) -> bool:
    """Whether this machine can start the engine."""
    match engine:
        case "vllm":
            return which("vllm") is not None
        case "llama.cpp":
            return optional_packages.is_installed("xllamacpp") or which("llama-server") is not None
        case "transformers":
            return all(optional_packages.is_installed(name) for name in ("fastapi", "uvicorn", "openai"))
        case _:
            return optional_packages.is_installed(engine)


def choose_engine(
    wanted: str,
    model: ServedModel,
    *,
    installed: Callable[[Engine], bool] = is_installed,
    has_gpu: bool,
) -> Engine:
    """The engine that was asked for, or the fastest that is installed and fits the model and the hardware.

    Raises:
        SeodangError: it is unknown, not installed, or does not serve what is given.
    """
    where = "--engine"
    if wanted != "auto":
        if wanted not in ENGINES:
            raise SeodangError(f"unknown engine {wanted!r} (choose from auto, {', '.join(ENGINES)})", where=where)
        if not installed(wanted):
            raise SeodangError(f"{wanted} is not installed", where=where, hint=_INSTALL[wanted])
        if wanted == "llama.cpp" and model.gguf is None:
            hint = "give the GGUF file with --gguf FILE, or choose another engine"
            raise ModelError("llama.cpp serves GGUF files", where=where, hint=hint)
        if wanted != "llama.cpp" and model.gguf is not None:
            raise ModelError(f"{wanted} serves model folders, not GGUF", where=where, hint="use --engine llama.cpp")
        return wanted
    fitting: tuple[Engine, ...] = ("vllm", "sglang", "transformers") if has_gpu else ("transformers",)
    for engine in ("llama.cpp",) if model.gguf else fitting:
        if installed(engine):
            return engine
    needed: Engine = "llama.cpp" if model.gguf else "transformers"
    raise SeodangError("no engine is installed that serves this model", where=where, hint=_INSTALL[needed])


def launch(engine: Engine, model: ServedModel, address: Address, *, api_key: str | None = None) -> Launch:
    """How to start an engine on a model; the key goes through the environment or a file, never through the arguments.

    Raises:
        SeodangError: the engine checks no API key, but one is set.
    """
    match engine:
        case "vllm":
            return _vllm(model, address, api_key)
        case "sglang":
            return _sglang(model, address, api_key)
        case "llama.cpp":
            return _llama_cpp(model, address, api_key)
        case "transformers":
            return _transformers(model, address, api_key)


def tool_call_parser(template: str | None) -> str | None:
    """The name under which vLLM knows the format of a template's tool calls; None: it has none, or none is known."""
    if not template or "<tool_call>" not in template:
        return None
    return "qwen3_coder" if "<function=" in template else "hermes"


def _vllm(model: ServedModel, address: Address, api_key: str | None) -> Launch:
    command = ["vllm", "serve", model.path, "--served-model-name", model.name, *_listen(address)]
    command += ["--generation-config", "auto"]  # the folder's own sampling defaults
    command += ["--dtype", model.dtype] if model.dtype else []  # its "auto" makes float16 of float32
    if parser := tool_call_parser(model.template):
        command += ["--enable-auto-tool-choice", "--tool-call-parser", parser]
    command += ["--trust-remote-code"] if model.trust_remote_code else []
    return Launch(command=tuple(command), environment=_environment(model, VLLM_API_KEY=api_key))


def _sglang(model: ServedModel, address: Address, api_key: str | None) -> Launch:
    command = [sys.executable, "-m", "sglang.launch_server", "--model-path", model.path]
    command += ["--served-model-name", model.name, *_listen(address), "--sampling-defaults", "model"]
    command += ["--dtype", model.dtype] if model.dtype else []
    if parser := tool_call_parser(model.template):
        command += ["--tool-call-parser", {"hermes": "qwen25"}.get(parser, parser)]
    command += ["--trust-remote-code"] if model.trust_remote_code else []
    command += ["--config", "sglang.yaml"] if api_key else []
    files = {"sglang.yaml": f"api-key: {json.dumps(api_key)}\n"} if api_key else {}  # JSON is YAML
    return Launch(command=tuple(command), environment=_environment(model), files=files)


def _llama_cpp(model: ServedModel, address: Address, api_key: str | None) -> Launch:
    has_own = optional_packages.is_installed("xllamacpp")
    own = [sys.executable, "-m", "seodang.serve.llama_server"] if has_own else ["llama-server"]
    command = [*own, "--model", str(model.gguf), "--alias", model.name, *_listen(address)]
    command += ["--parallel", str(SLOTS), "--jinja"]
    command += ["--chat-template-file", "template.jinja"] if model.template else []
    if model.sampling:  # all that llama.cpp has defaults of its own for
        command += ["--temp", str(model.sampling.temperature), "--top-p", str(model.sampling.top_p)]
        command += ["--top-k", str(model.sampling.top_k), "--min-p", "0.0"]
        command += ["--repeat-penalty", str(model.sampling.repetition_penalty), "--repeat-last-n", "-1"]
    files = {"template.jinja": model.template} if model.template else {}
    environment = {"LLAMA_API_KEY": api_key} if api_key else {}
    return Launch(command=tuple(command), environment=environment, files=files)


def _transformers(model: ServedModel, address: Address, api_key: str | None) -> Launch:
    if api_key:
        hint = f"unset {API_KEY} and listen on 127.0.0.1 only, or choose an engine that checks keys"
        raise SeodangError("transformers serve checks no API key, and one is set", where=API_KEY, hint=hint)
    is_folder = Path(model.path).is_absolute()
    # requests name a model as the command does: a link gives a folder the run's name
    command = [sys.executable, "-m", "transformers.cli.transformers", "serve", model.name if is_folder else model.path]
    command += [*_listen(address), "--dtype", "auto"]
    command += ["--trust-remote-code"] if model.trust_remote_code else []
    if not is_folder:
        return Launch(command=tuple(command))
    # its list of models is what the hub's cache holds: a cache of its own that holds this model alone
    cached = f"hub/models--{model.name}"
    return Launch(
        command=tuple(command),
        environment={**_environment(model), "HF_HUB_CACHE": "hub"},
        files={f"{cached}/refs/main": "served"},
        links={model.name: model.path, f"{cached}/snapshots/served/config.json": f"{model.path}/config.json"},
    )


def _listen(address: Address) -> list[str]:
    return ["--host", address.host, "--port", str(address.port)]


def _environment(model: ServedModel, **keys: str | None) -> dict[str, str]:
    offline = {"HF_HUB_OFFLINE": "1"} if Path(model.path).is_absolute() else {}  # nothing is looked up for a folder
    return {**offline, **{name: value for name, value in keys.items() if value}}
