"""Load on a served model: first token, four clients at once, and 200 requests of mixed size, some of them broken.

    python benchmarks/bench_serving.py RUN|MODEL [--engine transformers] [--requests 200]

Each sound request asks a greedy question whose answer was asked for alone before: an answer that is another one was
mixed up (or, under an engine that computes requests together, rounded otherwise: its common beginning is printed).
"""

import argparse
import http.client
import json
import os
import random
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.parse import urlsplit

from seodang.serve.engines import Address
from seodang.serve.server import Server, free_port, serving

QUESTIONS = ["감기약 종류 좀 알려주세요.", "Why is the sky blue?", "사과는 왜 빨간가요?", "Name a colour.", "물 " * 60]
KINDS = {"sound": 0.8, "bad JSON": 0.06, "too long": 0.04, "cancelled": 0.06, "no messages": 0.04}
CLIENTS, TIMEOUT_SECONDS = 4, 600


def main() -> None:
    """Serve, load, end, and print what happened."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--engine", default="transformers")
    parser.add_argument("--requests", type=int, default=200)
    parser.add_argument("--tokens", type=int, default=24, help="of the longest answer")
    parser.add_argument("--too-long", type=int, default=40_000, help="words of a prompt that exceeds the context")
    given = parser.parse_args()
    log: list[str] = []
    print(f"load average before: {os.getloadavg()[0]:.1f}")
    with serving(given.model, engine=given.engine, address=Address(port=free_port()), log=log.append) as server:
        first, *later = (_first_token(server, question) for question in QUESTIONS[:4])
        print(f"first token: {first:.2f} s of the first request of all, then {', '.join(f'{s:.2f}' for s in later)} s")
        alone = {(question, tokens): _text(_ask(server, _body(server, question, tokens)))
                 for question in QUESTIONS for tokens in (4, given.tokens)}  # fmt: skip
        _four_clients(server, alone, given.tokens)
        _mixed(server, alone, given.requests, given.too_long)
        print(f"load average after: {os.getloadavg()[0]:.1f}")
        begun = time.perf_counter()
    print(f"ended in {time.perf_counter() - begun:.1f} s, exit code {server.process.returncode}")
    faults = Counter(line.strip()[:110] for line in log if "Error" in line or "exception" in line.lower())
    for line, count in faults.most_common(10):
        print(f"  engine log, {count} times: {line}")


def _four_clients(server: Server, alone: dict[tuple[str, int], str], tokens: int) -> None:
    begun = time.perf_counter()
    asked = [(question, tokens) for question in QUESTIONS[:CLIENTS]]
    with ThreadPoolExecutor(CLIENTS) as pool:
        found = list(pool.map(lambda each: _text(_ask(server, _body(server, *each))), asked))
    whole = sum(text == alone[each] for text, each in zip(found, asked, strict=True))
    print(f"{CLIENTS} clients at once: {whole} whole answers in {time.perf_counter() - begun:.1f} s")


def _mixed(server: Server, alone: dict[tuple[str, int], str], number: int, too_long: int) -> None:
    draw = random.Random(0)
    work = [
        (draw.choices(list(KINDS), list(KINDS.values()))[0], draw.choice(list(alone)), too_long) for _ in range(number)
    ]
    begun = time.perf_counter()
    with ThreadPoolExecutor(CLIENTS) as pool:
        ends = Counter(pool.map(lambda each: _one(server, alone, *each), work))
    seconds = time.perf_counter() - begun
    print(f"{number} mixed requests in {seconds:.0f} s ({number / seconds:.1f}/s):")
    for (kind, end), count in sorted(ends.items()):
        print(f"  {kind}: {end}: {count}")


def _one(server: Server, alone: dict[tuple[str, int], str], kind: str, asked: tuple[str, int], too_long: int) -> Any:
    body = _body(server, *asked)
    try:
        if kind == "bad JSON":
            return kind, f"status {_status(server, json.dumps(body)[:-9])}"
        if kind == "no messages":
            return kind, f"status {_status(server, json.dumps({'model': server.model}))}"
        if kind == "too long":
            return kind, f"status {_status(server, json.dumps(_body(server, '물 ' * too_long, 2)))}"
        if kind == "cancelled":
            connection = _open(server, json.dumps({**body, "stream": True}))
            connection.getresponse().read(64)
            connection.close()
            return kind, "left"
        text = _text(_ask(server, body))
        return kind, "as alone" if text == alone[asked] else "another answer"
    except (OSError, http.client.HTTPException, KeyError) as error:
        return kind, type(error).__name__


def _body(server: Server, question: str, tokens: int) -> dict[str, Any]:
    messages = [{"role": "user", "content": question}]
    return {"model": server.model, "messages": messages, "max_tokens": tokens, "temperature": 0}


def _open(server: Server, text: str) -> http.client.HTTPConnection:
    connection = http.client.HTTPConnection(urlsplit(server.url).netloc, timeout=TIMEOUT_SECONDS)
    connection.request("POST", "/v1/chat/completions", text.encode(), {"Content-Type": "application/json"})
    return connection


def _status(server: Server, text: str) -> int:
    return _open(server, text).getresponse().status


def _ask(server: Server, body: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(_open(server, json.dumps(body)).getresponse().read())
    return found


def _text(found: dict[str, Any]) -> str:
    return str(found["choices"][0]["message"]["content"])


def _first_token(server: Server, question: str) -> float:
    begun = time.perf_counter()
    answer = _open(server, json.dumps({**_body(server, question, 8), "stream": True})).getresponse()
    for line in answer:
        if line.startswith(b"data: {"):
            delta = json.loads(line[6:])["choices"][0]["delta"]
            if delta.get("content"):
                return time.perf_counter() - begun
    return float("inf")


if __name__ == "__main__":
    main()
