"""report --watch: one page, on this machine alone, built anew when the run's files change."""

import http.client
import os
import re
import shutil
import signal
import socket
import struct
import threading
import time
from base64 import b64encode
from collections.abc import Iterator
from hashlib import sha256
from http.server import ThreadingHTTPServer
from pathlib import Path

import pytest

import run_folder
from command import seodang
from seodang.errors import RunError
from seodang.show.report import report_so_far
from seodang.show.watch import HOST, LivePage, make_server


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run that is being trained; without the files whose pictures take time to draw."""
    run = run_folder.write_run(tmp_path / "run")
    for name in ("proof.json", "answers.jsonl", "metrics.jsonl", "lengths.json"):
        (run / name).unlink()
    return run


@pytest.fixture
def server(run: Path) -> Iterator[ThreadingHTTPServer]:
    """A server of its page that runs."""
    with make_server(LivePage(run, "en")) as server:
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        yield server
        server.shutdown()


def get(server: ThreadingHTTPServer, path: str, host: str = HOST) -> tuple[int, str]:
    connection = http.client.HTTPConnection(HOST, server.server_port, timeout=30)
    connection.request("GET", path, headers={"Host": f"{host}:{server.server_port}"})
    answer = connection.getresponse()
    return answer.status, answer.read().decode()


def test_the_page_is_built_anew_when_a_file_changes(server: ThreadingHTTPServer, run: Path) -> None:
    """The version changes with the run's files, and the page with it; nothing is written into the run."""
    before, version = get(server, "/"), get(server, "/version")
    assert before[0] == 200
    assert "Not proved yet." in before[1]
    assert get(server, "/version") == version
    recipe = run / "recipe.yaml"
    recipe.write_text(recipe.read_text(encoding="utf-8") + "# a remark that was not there\n", encoding="utf-8")
    assert get(server, "/version") != version
    assert "a remark that was not there" in get(server, "/")[1]
    assert not (run / "report.html").exists()


def test_only_the_served_page_reloads_itself(server: ThreadingHTTPServer, run: Path) -> None:
    """Its script may ask its own server and nobody else; the file holds no such script, and may ask nobody."""
    page = get(server, "/")[1]
    scripts = re.findall(r"<script>(.*?)</script>", page, flags=re.S)
    assert len(scripts) == 2
    assert "location.reload" in scripts[1]
    policy = re.search(r'http-equiv="Content-Security-Policy" content="([^"]*)"', page)
    assert policy
    assert "default-src 'none'" in policy[1]
    assert "connect-src 'self'" in policy[1]
    for script in scripts:
        assert b64encode(sha256(script.encode()).digest()).decode() in policy[1]
    file = report_so_far(run).read_text(encoding="utf-8")
    assert not re.search(r"reload|fetch|connect-src|http-equiv=.refresh", file)


def test_nothing_else_is_served_and_nobody_else_asks(server: ThreadingHTTPServer) -> None:
    """Other files of the run are not there; a site whose name leads here is refused."""
    assert server.server_address[0] == HOST
    for path in ("/recipe.yaml", "/../recipe.yaml", "/report.html/.."):
        assert get(server, path)[0] == 404, path
    assert get(server, "/", host="evil.example")[0] == 403
    assert get(server, "/", host="localhost")[0] == 200


def test_what_cannot_be_shown_does_not_end_the_server(server: ThreadingHTTPServer, run: Path) -> None:
    """A file of another version is one message in place of the page; once it is gone, the page is back."""
    (run / "proof.json").write_text('{"name": "x"}', encoding="utf-8")
    status, text = get(server, "/")
    assert status == 500
    assert "schema version 3 expected" in text
    (run / "proof.json").unlink()
    assert get(server, "/")[0] == 200


def test_a_folder_that_goes_away_or_is_damaged_is_one_message(
    server: ThreadingHTTPServer, run: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Whatever happens to the files, the terminal shows no traceback; nor where a browser leaves too early."""
    (run / "counts.json").unlink()
    (run / "counts.json").mkdir()  # neither a file nor missing
    assert get(server, "/")[0] in (200, 500)
    recipe = run / "recipe.yaml"
    recipe.unlink()
    recipe.write_text("- [1", encoding="utf-8")
    assert get(server, "/")[0] in (200, 500)
    shutil.rmtree(run)
    status, text = get(server, "/")
    assert (status, "no such folder" in text) == (500, True)
    with socket.create_connection((HOST, server.server_port)) as leaving:
        leaving.sendall(b"GET / HTTP/1.1\r\n")
        leaving.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # closes by a reset
    assert get(server, "/version")[0] == 200
    assert "Traceback" not in capfd.readouterr().err


def test_the_page_follows_the_alpha_curve(run: Path) -> None:
    """It is shown, so that its file is one of those that are watched."""
    page = LivePage(run, "en")
    before = page.version
    (run / "alpha.json").write_text("{}", encoding="utf-8")
    assert page.version != before


def test_a_taken_port_is_one_message(server: ThreadingHTTPServer, run: Path) -> None:
    """Also one that there is not."""
    for port in (server.server_port, 70_000):
        with pytest.raises(RunError, match=f"port {port} cannot be used"):
            make_server(LivePage(run), port)


def test_the_command_ends_with_ctrl_c(run: Path) -> None:
    """It prints its address and ends without an error; several runs and what is no run are refused."""
    with socket.socket() as free:
        free.bind((HOST, 0))
        port = free.getsockname()[1]

    def interrupt() -> None:
        for _ in range(600):
            with socket.socket() as asking:
                if asking.connect_ex((HOST, port)) == 0:
                    break
            time.sleep(0.05)
        time.sleep(0.2)  # from listening to serving
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=interrupt, daemon=True).start()
    ended = seodang("report", run, "--watch", "--port", port)
    assert (ended.code, ended.err) == (0, "")
    assert f"http://127.0.0.1:{port}/" in ended.out
    assert seodang("report", run, run, "--watch").code == 2
    assert "--port is for --watch" in seodang("report", run, "--port", 0).err
    assert seodang("report", run / "nowhere", "--watch").code == 2
