"""A real engine as a child: started, asked, ended, however seodang ends."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
from transformers import PreTrainedTokenizerFast

from launched import start
from seodang.errors import ModelError, ResourceError
from seodang.run.folder import Run
from seodang.serve.engines import Address, Launch
from seodang.serve.server import Server, _is_healthy, environment, examples, free_port, served_model, serving
from seodang.serve.verify.endpoint import ask
from tiny_run import make_run
from tiny_server import tiny_server

GUARD = [sys.executable, "-m", "seodang.serve.guard"]
# writes its own id and that of a process that it leaves in the background, as engines leave workers
ENGINE = "import os,subprocess,sys,time; p=subprocess.Popen(['sleep','60']); print(os.getpid(),p.pid,flush=True); {}"


@pytest.fixture(scope="module")
def run(tiny_folder: Path, _tokenizer: PreTrainedTokenizerFast, tmp_path_factory: pytest.TempPathFactory) -> Run:
    return make_run(tmp_path_factory.mktemp("runs") / "demo", tiny_folder, _tokenizer)


def _post(url: str, body: dict[str, Any]) -> dict[str, Any]:
    request = urllib.request.Request(url, json.dumps(body).encode(), {"content-type": "application/json"})
    with urllib.request.urlopen(request, timeout=60) as answer:
        found: dict[str, Any] = json.load(answer)
        return found


def _is_alive(pid: int) -> bool:
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):  # it may end between opening and reading
        return False


def _gone(pids: list[int]) -> bool:
    until = time.monotonic() + 20
    while any(map(_is_alive, pids)) and time.monotonic() < until:
        time.sleep(0.05)
    return not any(map(_is_alive, pids))


def _guarded(engine: str) -> "tuple[subprocess.Popen[bytes], list[int]]":
    command = [*GUARD, sys.executable, "-c", ENGINE.format(engine)]
    guard = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert guard.stdout
    return guard, [int(pid) for pid in guard.stdout.readline().split()]


@pytest.mark.parametrize("how", ["stdin", "term"])
def test_guard_ends_an_engine_and_what_it_started(how: str) -> None:
    """A closed stdin (seodang is gone, however it ended) and SIGTERM both end the whole group."""
    guard, pids = _guarded("time.sleep(60)")
    if how == "term":
        guard.terminate()
    elif guard.stdin:
        guard.stdin.close()
    assert _gone([*pids, guard.pid])


def test_guard_passes_the_exit_code_on() -> None:
    """An engine that ends by itself has its exit code, and what it left is ended."""
    guard, pids = _guarded("sys.exit(3)")
    assert guard.wait(20) == 3
    assert _gone(pids)


def test_guard_kills_what_ignores_sigterm(monkeypatch: pytest.MonkeyPatch) -> None:
    """An engine that does not end is killed after a while."""
    code = f"import seodang.serve.guard as g; g.GRACE_SECONDS = 0.2; raise SystemExit(g.run({[sys.executable, '-c']!r}"
    engine = ENGINE.format("import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(60)")
    command = [sys.executable, "-c", f"{code} + [{engine!r}]))"]
    guard = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert guard.stdout
    pids = [int(pid) for pid in guard.stdout.readline().split()]
    time.sleep(0.3)  # until it ignores the signal
    guard.terminate()
    assert guard.wait(20) == 128 + signal.SIGKILL
    assert _gone(pids)


@pytest.mark.slow
def test_no_proxy_stands_before_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the environment names a proxy for all addresses, an engine here is still waited for and verified."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"{}")

        def log_message(self, *_: Any) -> None:
            """Nothing."""

    monkeypatch.setattr(urllib.request, "_opener", None)  # which remembers the proxies of its first use
    for name in ("http_proxy", "no_proxy"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{free_port()}" if name == "http_proxy" else "")
    with HTTPServer(("127.0.0.1", 0), Handler) as engine:
        threading.Thread(target=engine.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        url = f"http://127.0.0.1:{engine.server_port}"
        found = _is_healthy(url), ask(url, None, None)
        engine.shutdown()
    assert found == (True, {})


def test_transformers_serves_a_run(run: Run) -> None:
    """A run is served under its name, listed, and answers; when the context is left, nobody listens any more."""
    with tiny_server(run.folder, engine="transformers") as (server, log):
        with urllib.request.urlopen(f"{server.url}/v1/models") as listed:
            assert [model["id"] for model in json.load(listed)["data"]] == ["demo"]
        asked = {"model": "demo", "messages": [{"role": "user", "content": "물"}], "max_tokens": 5}
        answer = _post(f"{server.url}/v1/chat/completions", asked)
        assert answer["usage"]["completion_tokens"] == 5
    assert any("Uvicorn running" in line for line in log)
    assert server.process.poll() is not None
    with pytest.raises(OSError, match="refused"):
        urllib.request.urlopen(f"{server.url}/health")


STAND_IN = """
import sys
from http.server import BaseHTTPRequestHandler, HTTPServer

class Healthy(BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()

HTTPServer(("127.0.0.1", int(sys.argv[1])), Healthy).serve_forever()
"""
SERVE = f"""
import sys
from unittest.mock import patch
from seodang.cli import main
from seodang.serve import server
from seodang.serve.engines import Launch

def launch(engine, served, address, **_):
    return Launch(command=(sys.executable, "-c", {STAND_IN!r}, str(address.port)))

with patch.object(server, "launch", launch):
    main()
"""


def _children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_no_engine_outlives_seodang(run: Run, number: int, tmp_path: Path) -> None:
    """Ctrl-C and SIGTERM end the command with exit code 0, and even when it is killed the engine ends with it.

    A process that is healthy at once stands in for the engine, which takes 10 seconds to begin.
    """
    out, until = tmp_path / "out.0", time.monotonic() + 300
    out.touch()
    process = start("-c", SERVE, "serve", run.folder, "--port", free_port(), cwd=tmp_path)
    while "demo is served by" not in out.read_text() and time.monotonic() < until:
        time.sleep(0.05)
    (guard,) = _children(process.pid)
    engines = _children(guard)
    assert engines
    os.kill(process.pid, number)
    expected = 0 if number != signal.SIGKILL else -signal.SIGKILL
    assert process.code(until) == expected, (tmp_path / "err.0").read_text()
    assert _gone([guard, *engines])


@pytest.mark.slow
def test_a_model_that_does_not_load_is_one_error(run: Run, tmp_path: Path) -> None:
    """The engine's own reason stands in the message."""
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "config.json").write_text('{"model_type": "llama", "architectures": ["LlamaForCausalLM"]}')
    with (
        pytest.raises(ModelError, match=r"(?s)ended before it was ready \(exit code 1\): .*broken.*log is above"),
        tiny_server(broken, engine="transformers"),
    ):
        pass


def test_a_port_that_is_taken_is_one_error(run: Run) -> None:
    """Nothing is started; the message names the port and how to take another."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = Address(port=taken.getsockname()[1])
        with (
            pytest.raises(ResourceError, match=rf"127.0.0.1:{address.port}: cannot listen.*\n.*--port"),
            serving(run.folder, engine="transformers", address=address),
        ):
            pass


def test_what_is_known_of_a_run_before_it_is_served(run: Run) -> None:
    """Name, template, dtype and sampling settings come from the run's folder; nothing is loaded."""
    found = served_model(run.folder)
    assert (found.name, found.path, found.dtype) == ("demo", str(run.model.resolve()), "float32")
    assert found.template
    assert "<|im_start|>" in found.template
    assert found.sampling
    assert found.sampling.temperature == 0


def test_a_gguf_file_is_served_under_a_name_that_any_shell_takes(tmp_path: Path) -> None:
    """Blanks and quotes of the file's name stand neither in requests nor in the examples that are printed."""
    (file := tmp_path / "my model's (f16).gguf").touch()
    assert served_model(file).name == "my-model-s--f16-"


def test_threads_of_an_engine_sleep_while_they_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    """Beside other work, spinning threads would stop each other; the user's own setting stays."""
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    how = Launch(command=("engine",), environment={"HF_HUB_OFFLINE": "1"})
    assert {"OMP_WAIT_POLICY": "PASSIVE", "HF_HUB_OFFLINE": "1"}.items() <= environment(how).items()
    monkeypatch.setenv("OMP_WAIT_POLICY", "ACTIVE")
    assert environment(how)["OMP_WAIT_POLICY"] == "ACTIVE"


def test_the_examples_name_key_and_model() -> None:
    """With a key set, every example sends it by the name of the variable, never by its value."""
    process = subprocess.Popen(["true"])
    server = Server(url="http://127.0.0.1:8000", model="demo", engine="vllm", process=process)
    process.wait()
    assert examples(server, has_key=True).count("SEODANG_API_KEY") == 3
    assert "SEODANG_API_KEY" not in examples(server, has_key=False)
    assert examples(server, has_key=False).count("demo") >= 4
