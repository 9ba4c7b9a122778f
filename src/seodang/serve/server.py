"""An engine's own OpenAI-compatible server as a child process: started, waited for, watched and ended."""

import json
import os
import re
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.text import Text

from seodang.errors import ModelError, ResourceError, SeodangError
from seodang.judge.client import checked_key
from seodang.model.find_model import find_model
from seodang.model.packaged import PREFIX, packaged_folder, packaged_gguf
from seodang.run.folder import Run
from seodang.run.sealed import refuse_unsaved
from seodang.serve.engines import API_KEY, Address, Engine, Launch, SamplingDefaults, ServedModel, choose_engine, launch
from seodang.show.terminal.console import get_console, show_note
from seodang.user_paths import expanded

POLL_SECONDS = 0.1
END_SECONDS = 15.0  # for the guard to end the engine
LAST_LINES = 200  # of the log, to name why an engine did not start
_DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # no proxy to this machine


@dataclass(frozen=True, kw_only=True)
class Server:
    """An engine that answers."""

    url: str  # without /v1
    model: str  # as requests name it
    engine: Engine
    process: "subprocess.Popen[bytes]"  # the guard, which ends when the engine does


def serve(
    model: str | Path,
    *,
    engine: str = "auto",
    host: str = "127.0.0.1",
    port: int = 8000,
    gguf: Path | None = None,
    trust_remote_code: bool = False,
) -> None:
    """Serve a model over HTTP until Ctrl-C or SIGTERM, by an existing engine's own server.

    Args:
        model: a run's folder; or a model: folder, GGUF file, hub id or package.
        engine: which one; auto takes the fastest that is installed and fits.
        host: address to listen on; others than this machine reach it at 0.0.0.0.
        port: to listen on; 0 takes a free one.
        gguf: of a run or a folder: its weights as a GGUF file, for llama.cpp; the folder's template and sampling
            settings go with it.
        trust_remote_code: run Python code that comes with the model.

    Raises:
        SeodangError: the engine is not installed, the port is taken, the model does not load, or the engine ended.
    """
    notes = get_console(stderr=True)
    key = checked_key(os.environ.get(API_KEY), where=API_KEY)
    address = Address(host=host, port=port or free_port(host))
    if address.is_exposed and not key:
        show_note(f"anyone who can reach {host}:{address.port} can use the model: set {API_KEY}, or leave --host out")
    with serving(
        model, engine=engine, address=address, gguf=gguf, api_key=key, trust_remote_code=trust_remote_code
    ) as server:
        try:
            get_console().print(Text(examples(server, has_key=key is not None)), soft_wrap=True)
            code = server.process.wait()
        except KeyboardInterrupt:
            notes.print(Text("stopped", style="dim"))
            return
    raise ResourceError(f"the engine ended (exit code {code})", where=server.engine, hint="its log is above")


@contextmanager
def serving(
    model: str | Path,
    *,
    engine: str = "auto",
    address: Address,
    gguf: Path | None = None,
    api_key: str | None = None,
    trust_remote_code: bool = False,
    log: Callable[[str], None] | None = None,
) -> Iterator[Server]:
    """An engine that serves a model, ready to answer; it is ended when the context is left.

    Args:
        log: hears each line of the engine's log; none: stderr.

    Raises:
        SeodangError: as `serve`.
    """
    if gguf is None and engine == "llama.cpp" and str(model).startswith(PREFIX):
        gguf = packaged_gguf(str(model))
    served = served_model(model, gguf=gguf, trust_remote_code=trust_remote_code)
    chosen = choose_engine(engine, served, has_gpu=_has_gpu())
    how = launch(chosen, served, address, api_key=api_key)
    _check_port(address)
    with tempfile.TemporaryDirectory(prefix="seodang-serve-") as folder, _started(how, Path(folder)) as process:
        lines: deque[str] = deque(maxlen=LAST_LINES)
        passing_on = threading.Thread(target=_pass_on, args=(process, lines, log), daemon=True)
        passing_on.start()
        _wait_until_healthy(process, address, chosen, lines, passing_on)
        yield Server(url=address.url, model=served.name, engine=chosen, process=process)


def served_model(model: str | Path, *, gguf: Path | None = None, trust_remote_code: bool = False) -> ServedModel:
    """What an engine needs to know of a run, a folder, a GGUF file, a package or a hub id. Loads nothing.

    Raises:
        RunError: the run's training has not ended.
        ModelError: there is no such GGUF file, or folder.
        HubError: the hub does not have it, does not let this user read it, or cannot be reached.
    """
    text = str(model)
    run = Run(folder=expanded(text))
    if gguf is not None and not gguf.is_file():
        raise ModelError("no such file", where=str(gguf), hint="give a GGUF file by --gguf FILE")
    if run.exists:
        refuse_unsaved(run)
        made = run.trusted_recipe(trust_remote_code=trust_remote_code)
        return _folder(made.name, run.model, gguf, trust_remote_code)
    if text.startswith(PREFIX):
        name = text.removeprefix(PREFIX)
        return _folder(name, packaged_folder(name), gguf, trust_remote_code)
    if run.folder.is_dir():
        return _folder(run.folder.resolve().name, run.folder, gguf, trust_remote_code)
    if run.folder.suffix == ".gguf":
        if not run.folder.is_file():
            raise ModelError("no such file", where=text, hint="give a run's folder, a model's folder or a GGUF file")
        return ServedModel(name=_plain_name(run.folder.stem), path=str(run.folder.resolve()), gguf=run.folder.resolve())
    name = find_model(text).rpartition("/")[2]
    return ServedModel(name=name, path=text, gguf=gguf, trust_remote_code=trust_remote_code)


def examples(server: Server, *, has_key: bool) -> str:
    """How to ask a server: by curl, in Python, in LangChain."""
    key = 'os.environ["SEODANG_API_KEY"]' if has_key else '"none"'
    header = f'  -H "Authorization: Bearer ${API_KEY}" \\\n' if has_key else ""
    imports = "import os\n" if has_key else ""
    body = json.dumps({"model": server.model, "messages": [{"role": "user", "content": "…"}]}, ensure_ascii=False)
    return f"""\
{server.model} is served by {server.engine} at {server.url}/v1 (Ctrl-C stops it)

curl {server.url}/v1/chat/completions -H "Content-Type: application/json" \\
{header}  -d '{body}'

# Python
{imports}from openai import OpenAI
client = OpenAI(base_url="{server.url}/v1", api_key={key})
answer = client.chat.completions.create(model="{server.model}", messages=[{{"role": "user", "content": "…"}}])

# LangChain
{imports}from langchain_openai import ChatOpenAI
llm = ChatOpenAI(base_url="{server.url}/v1", api_key={key}, model="{server.model}")
"""


def environment(how: Launch) -> dict[str, str]:
    """The environment of an engine.

    Threads that wait for each other sleep, unless the user's own setting is another one: beside other work, threads
    that spin took ten times as long, since each keeps a core from the one that it waits for.
    """
    return {"OMP_WAIT_POLICY": "PASSIVE", **os.environ, "PYTHONUNBUFFERED": "1", **how.environment}


def free_port(host: str = "127.0.0.1") -> int:
    """A port that nobody listens on."""
    with _socket(host) as listener:
        listener.bind((host, 0))
        return int(listener.getsockname()[1])


def _folder(name: str, folder: Path, gguf: Path | None, trust_remote_code: bool) -> ServedModel:
    path = folder.resolve()
    config, generation = (read_json_object(path / f"{file}.json") for file in ("config", "generation_config"))
    template = path / "chat_template.jinja"
    drawn = bool(generation.get("do_sample"))
    return ServedModel(
        name=_plain_name(name),
        path=str(path),
        gguf=gguf and gguf.resolve(),
        template=template.read_text(encoding="utf-8") if template.is_file() else None,
        dtype=config.get("dtype") or config.get("torch_dtype"),
        sampling=SamplingDefaults(
            temperature=(generation.get("temperature") or 1.0) if drawn else 0.0,
            top_p=(generation.get("top_p") or 1.0) if drawn else 1.0,
            top_k=(generation.get("top_k") or 0) if drawn else 0,
            repetition_penalty=generation.get("repetition_penalty") or 1.0,
        ),
        trust_remote_code=trust_remote_code,
    )


def _plain_name(name: str) -> str:
    """A name as it may stand in URLs and in a shell's quotes; transformers reads @ and : in it."""
    return re.sub(r"[^\w.-]", "-", name)


def read_json_object(path: Path) -> dict[str, Any]:
    """The object in a JSON file of a model's folder; empty where there is no such file, or something else in it.

    Raises:
        ModelError: it is no JSON.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except ValueError as error:
        raise ModelError(f"is damaged: {error}", where=str(path), hint="write the model's folder again") from None
    return found if isinstance(found, dict) else {}


def _has_gpu() -> bool:
    import torch

    return torch.cuda.is_available()


def _socket(host: str) -> socket.socket:
    return socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)


def _check_port(address: Address) -> None:
    try:
        with _socket(address.host) as listener:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as servers do: a port just left is free
            listener.bind((address.host, address.port))
    except (OSError, OverflowError) as error:
        what = getattr(error, "strerror", None) or str(error)
        hint = "choose another with --port N (0: any free port)"
        raise ResourceError(
            f"cannot listen: {what.lower()}", where=f"{address.host}:{address.port}", hint=hint
        ) from None


@contextmanager
def _started(how: Launch, folder: Path) -> "Iterator[subprocess.Popen[bytes]]":
    """The engine under its guard, in a folder that holds the files it needs; ended when the context is left."""
    for name in (*how.files, *how.links):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
    for name, text in how.files.items():
        (folder / name).touch(mode=0o600)
        (folder / name).write_text(text, encoding="utf-8")
    for name, target in how.links.items():
        (folder / name).symlink_to(target)
    process = subprocess.Popen(
        [sys.executable, "-m", "seodang.serve.guard", *how.command],
        cwd=folder,
        env=environment(how),
        stdin=subprocess.PIPE,  # closes when this process ends, however it does
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,  # Ctrl-C in the terminal is for this process; the engine is ended from here
    )
    try:
        yield process
    finally:
        if process.stdin:
            process.stdin.close()
        try:
            process.wait(END_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()


def _pass_on(process: "subprocess.Popen[bytes]", lines: "deque[str]", log: Callable[[str], None] | None) -> None:
    assert process.stdout is not None
    for line in process.stdout:
        text = line.decode("utf-8", "replace").rstrip("\n")
        lines.append(text)
        if log:
            log(text)
        else:
            print(text, file=sys.stderr, flush=True)


def _wait_until_healthy(
    process: "subprocess.Popen[bytes]",
    address: Address,
    engine: Engine,
    lines: "deque[str]",
    passing_on: threading.Thread,
) -> None:
    while not _is_healthy(address.url):
        if (code := process.poll()) is not None:
            passing_on.join(1.0)  # its last lines say why
            raise _not_started(engine, code, [line.strip() for line in lines if line.strip()])
        time.sleep(POLL_SECONDS)


def _not_started(engine: Engine, code: int, lines: list[str]) -> SeodangError:
    errors = [line for line in lines if "error" in line.lower()]
    why = (errors or lines or ["it wrote no log"])[-1]
    what = f"{engine} ended before it was ready (exit code {code}): {why}"
    return ModelError(
        what, where="seodang serve", hint="its log is above; `seodang chat` shows whether the model loads"
    )


def _is_healthy(url: str) -> bool:
    try:
        with _DIRECT.open(f"{url}/health", timeout=5.0) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False
