"""report: one page from the run folder's files alone, whatever of them is there."""

import json
import re
import shutil
import subprocess
from base64 import b64encode
from dataclasses import asdict, replace
from hashlib import sha256
from html import escape
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import pytest

from drawn import pictures
from run_folder import BEST, run_answers, run_findings, run_lengths, write_run
from seodang.errors import RunError, SeodangError
from seodang.proof.statistics import Estimate, Interval
from seodang.run.evidence import NAMES, read_evidence
from seodang.show.answer_views import AnswerViews, characters, sample
from seodang.show.formatting import (
    digits_of,
    duration,
    fold,
    number,
    percent,
    probabilities,
    signed,
    size,
    visible,
)  # fmt: skip
from seodang.show.language import ENGLISH
from seodang.show.report import render, report
from seodang.types import Answer

VOID = {"meta", "link", "br", "input"}
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = [
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync", "--enable-logging=stderr",
    "--v=0", "--dump-dom",
]  # fmt: skip


class Page(HTMLParser):
    """Collects what the tests ask of a page, and whether its elements close as they open."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: set[str] = set()
        self.ids: list[str] = []
        self.addresses: list[str] = []
        self.text = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        found = dict(attrs)
        self.ids += [found["id"]] if found.get("id") else []
        self.addresses += [value or "" for key, value in attrs if key in ("src", "href", "xlink:href", "action")]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open.pop() == tag, f"</{tag}> closes something else at {self.getpos()}"

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        self.handle_endtag(tag)

    def handle_data(self, data: str) -> None:
        if not self.open or self.open[-1] not in ("style", "script"):
            self.text += data


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run with its report."""
    folder = write_run(tmp_path_factory.mktemp("runs") / "의료")
    report(folder, "en")
    return folder


@pytest.fixture(scope="module")
def html(run: Path) -> str:
    """The report of a finished run."""
    return (run / "report.html").read_text(encoding="utf-8")


def test_the_page_is_well_formed(html: str) -> None:
    """Every element closes where it should, and ids are unique."""
    page = Page(html)
    assert page.open == []
    assert len(page.ids) == len(set(page.ids))


def test_folded_parts_are_open_on_paper(html: str) -> None:
    """The recipe and the terms are printed: by the style sheet, and by the script where a browser does not know it."""
    assert "<details" in html
    assert re.search(r"@media print \{[^@]*@page[^@]*details::details-content \{ content-visibility: visible", html)
    assert 'addEventListener("beforeprint"' in html


def test_the_page_needs_no_network(html: str) -> None:
    """No address leads out of the page, and the page itself forbids loading anything."""
    page = Page(html)
    assert {address[:1] for address in page.addresses if address != "data:,"} == {"#"}
    assert not re.search(r"url\(\s*['\"]?(?!#)", html)
    assert "@import" not in html
    assert "default-src 'none'" in html
    assert re.findall(r"<script[^>]*>", html) == ["<script>"]
    script = html[html.index("<script>") + len("<script>") : html.index("</script>")]
    assert f"script-src 'sha256-{b64encode(sha256(script.encode()).digest()).decode()}'" in html


def test_links_lead_somewhere(html: str) -> None:
    """Each address of the page is an id of the page."""
    page = Page(html)
    assert {address[1:] for address in page.addresses if address.startswith("#")} <= set(page.ids)


def test_answers_are_escaped(html: str) -> None:
    """HTML in an answer is shown as text and never becomes part of the page."""
    assert "<script>console" not in html
    assert "console.error(&#39;escaped badly&#39;)" in html
    assert "<b>당뇨병</b>" in Page(html).text


def test_no_control_character_stands_in_the_page(tmp_path: Path) -> None:
    """Names of files, rows, templates and versions are foreign text as answers are: all of it is made visible."""
    run = write_run(tmp_path / "run")
    evil = "a\x1b[2J\x00\x9b\u202eb"
    counts = json.loads((run / "counts.json").read_text(encoding="utf-8"))
    findings = json.loads((run / "findings.json").read_text(encoding="utf-8"))
    manifest = json.loads((run / "manifest.json").read_text(encoding="utf-8"))
    counts[0] |= {"source": evil, "remarks": [evil], "dropped": {evil: 1}}
    findings[0] |= {"where": evil, "what": evil, "hint": evil, "rows": [evil]}
    manifest["template"] |= {"origin": evil, "turn_end": evil}
    manifest |= {"name": evil, "versions": {evil: evil}}
    for name, value in (("counts", counts), ("findings", findings), ("manifest", manifest)):
        (run / f"{name}.json").write_text(json.dumps(value), encoding="utf-8")
    with pictures():
        page = report(run).read_text(encoding="utf-8")
    assert not re.findall(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e]", page)
    assert page.count("a␛[2J␀\ufffd\ufffdb") > 8
    for picture in (run / "pictures").glob("*.svg"):
        ElementTree.parse(picture)


def test_everything_of_the_run_is_shown(html: str) -> None:
    """Verdict, losses, behaviour, answers, stability, counts, findings, lengths, rows and recipe stand in the page."""
    text = re.sub(r"\s+", " ", Page(html).text)
    for expected in (
        "Loss on 의료_질문 answers fell by 0.906 nats per token (0.760 to 1.052); loss on 일반대화 answers stayed",
        "No answer was judged", "−1.052 to −0.760", "+0.072", "1.082", "16% the turn end, 22% the chat format",
        "+2.22 to +3.04", "The loss fell most", "after tuning, 100% (chance 25%",
        f"Kept: the checkpoint of step {BEST}",
        "안토시아닌이라는 붉은 색소",
        "4 of 6",
        "세균을 잡는 항생제는 효과가 없습니다.",
        "7 empty answer", "read as CSV in CP949", "212 NFD to NFC",
        "38 questions have different answers", "keep one answer each",
        "/data/ko_medical.csv:211",
        f"{run_lengths().train['의료_질문'].tokens.total:,}",
        "package:gemma-3-270m", "c0ffee12c0ffee12", "21 min 3 s",
    ):  # fmt: skip
        assert expected in text, expected


def test_the_supervised_part_is_marked(html: str) -> None:
    """In the first rows exactly the supervised characters, turn end included, are highlighted."""
    answer = "성인은 1회 1포씩, 1일 3회 식간 또는 식후에 복용합니다."
    assert f"&lt;start_of_turn&gt;model\n<mark>{answer}&lt;end_of_turn&gt;</mark>\n" in html


def test_equal_answers_stand_once_with_their_number(html: str) -> None:
    """An answer that came three times to the repeated question is shown once, as 3×."""
    section = html[html.index('id="repeat"') : html.index('id="holdout"')]
    assert section.count("감기약은 증상에 따라 나뉩니다.") == 1
    assert "3×" in section


def test_the_report_is_reproducible(run: Path, html: str) -> None:
    """Written again from the same files, the page is the same; its pictures are there as files, too."""
    with pictures():
        report(run, "en")
    assert (run / "report.html").read_text(encoding="utf-8") == html
    assert sorted(path.name for path in (run / "pictures").iterdir()) == [
        f"{name}.{suffix}" for name in ("changes", "lengths", "loss", "parts") for suffix in ("png", "svg")
    ]  # fmt: skip
    assert not list(run.glob("*.part"))


@pytest.mark.parametrize("name", NAMES)
def test_any_file_may_be_missing(name: str, tmp_path: Path) -> None:
    """Without any one of the files there is still a well-formed page."""
    run = write_run(tmp_path / "run")
    (run / name).unlink()
    assert Page(render(read_evidence(run), "run", ENGLISH)).open == []


def test_a_run_that_has_only_begun_says_so(tmp_path: Path) -> None:
    """With a recipe alone, each section says which file is still to come."""
    run = write_run(tmp_path / "run")
    for name in NAMES:
        if name != "recipe.yaml":
            (run / name).unlink()
    text = Page(report(run, "en").read_text(encoding="utf-8")).text
    assert "Not proved yet." in text
    for name in ("metrics.jsonl", "answers.jsonl", "counts.json", "lengths.json", "samples.json", "manifest.json"):
        assert f"{name} is written" in text


def test_a_torn_last_line_is_named(tmp_path: Path) -> None:
    """A killed run's half-written line is left out and said, and the rest is used."""
    run = write_run(tmp_path / "run")
    whole = len(read_evidence(run).metrics)
    with (run / "metrics.jsonl").open("a", encoding="utf-8") as file:
        file.write('{"event": "train", "st')
    evidence = read_evidence(run)
    assert len(evidence.metrics) == whole
    assert evidence.damaged == (f"metrics.jsonl:{whole + 1} is not a whole line of JSON and is left out",)
    assert evidence.damaged[0] in Page(report(run).read_text(encoding="utf-8")).text


@pytest.mark.parametrize(("version", "found"), [(99, "99"), (None, "none")])
def test_lengths_of_another_version_end_in_one_message(version: int | None, found: str, tmp_path: Path) -> None:
    """The file, the version that it has and the one that is read, and what to do."""
    run = write_run(tmp_path / "run")
    stored = json.loads((run / "lengths.json").read_text(encoding="utf-8")) | {"schema_version": version, "new": 1}
    (run / "lengths.json").write_text(json.dumps(stored), encoding="utf-8")
    with pytest.raises(
        SeodangError, match=rf"lengths\.json: schema version 1 expected, found {found}\n  → it was written"
    ):
        report(run)


def test_an_older_proof_ends_in_one_message(tmp_path: Path) -> None:
    """The file, both versions, and what to do: the proof of a version without intervals is not shown."""
    run = write_run(tmp_path / "run")
    (run / "proof.json").write_text('{"name": "x", "losses": {}}', encoding="utf-8")
    with pytest.raises(
        SeodangError, match=r"proof\.json: schema version 3 expected, found none.*\n  → .*seodang prove"
    ):
        report(run)


def test_no_run_is_refused(tmp_path: Path) -> None:
    """A folder that holds no run, and a path that is none, are refused with what to give instead."""
    for path in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(RunError, match="seodang tune"):
            report(path)


def test_numbers_as_people_read_them() -> None:
    """Minus signs are minus signs, zero has none, what is missing is a dash."""
    assert [number(-1234.5, 1), number(None), number(float("nan"))] == ["−1,234.5", "—", "not finite"]
    assert [percent(0.364), percent(None)] == ["36%", "—"]
    assert [signed(0.028, 2), signed(-0.3624, 2), signed(-0.0001, 2)] == ["+0.03", "−0.36", "0.00"]
    assert [duration(4.23), duration(1262.9), duration(7500)] == ["4.2 s", "21 min 3 s", "2 h 5 min"]
    assert [number(-0.0001), percent(-0.004), number(-0.4, 0)] == ["0.000", "0%", "0"]
    assert [duration(59.97), duration(59.94)] == ["1 min 0 s", "59.9 s"]
    assert [size(0), size(999), size(2_210_394), size(5e12)] == ["0 B", "999 B", "2.2 MB", "5.0 TB"]
    assert [size(999_949), size(999_950)] == ["999.9 kB", "1.0 MB"]


def test_rounding_changes_no_verdict() -> None:
    """What is not 0, and what is beyond a tolerance, does not look like it; figures far from both have three decimals.

    Where the interval holds 0, its value may be written as 0.
    """
    limits = (0.0, 0.05)
    assert [digits_of([value], limits) for value in (0.0, 0.05, 0.0504, 0.0496, -0.0004, 0.8)] == [3, 3, 4, 4, 4, 3]
    assert digits_of([1e-9]) == 3  # no number of decimals does it
    found = Estimate(
        value=-0.0004, interval=Interval(low=-0.0007, high=-0.0001, level=0.95), clusters=60, n_eff=60.0, detectable=0.1
    )
    assert ENGLISH.change(found)[:2] == ("−0.0004", "−0.0007 to −0.0001")
    wide = replace(found, interval=Interval(low=-0.2, high=0.2, level=0.95))
    assert ENGLISH.change(wide)[:2] == ("0.000", "−0.200 to +0.200")
    assert ENGLISH.change(replace(found, interval=None))[:2] == ("−0.0004", "—")


def test_small_probabilities_are_told_apart() -> None:
    """From each other and from none; where they are too much alike, from none."""
    assert probabilities(0.045, 0.00014) == ("4.50%", "0.01%")
    assert probabilities(0.045, 0.21) == ("4.5%", "21.0%")
    assert probabilities(0.000188, 0.000188001) == ("0.02%", "0.02%")


def test_control_characters_are_shown() -> None:
    """Escape sequences, NUL, direction overrides and lone surrogates become visible; tabs, lines and Korean stay."""
    assert visible("가\t나\r\n\x1b[2J\x00\x7f\u202e\ud800") == "가\t나\n␛[2J␀␡\ufffd\ufffd"


def test_fold_loses_nothing_but_space() -> None:
    """Both parts together are the text; short texts and slightly long ones stay whole."""
    text = "감기약은 감기를 치료하는 약입니다. " * 20
    head, rest = fold(text, 100)
    assert len(head) <= 100
    assert (head + " " + rest).split() == text.split()
    assert fold("가" * 120, 100) == ("가" * 120, "")
    assert fold("가" * 200, 100) == ("가" * 100, "가" * 100)


LONG_ANSWER = "감기는 바이러스가 일으키는 병이라 푹 쉬고 물을 자주 마시는 것이 좋습니다. " * 12


@pytest.fixture(scope="module")
def large_page(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The page of a run with 2,000 answers to holdout questions and 5,000 findings."""
    run = write_run(tmp_path_factory.mktemp("large") / "run")
    asked = [
        Answer(
            kind="holdout", model=model, question=f"질문 {number}: 감기에는 무엇이 좋나요?",
            text=f"{number} {LONG_ANSWER}", stopped=True, prompt_tokens=20, new_tokens=300,
            reference=LONG_ANSWER, row_id=f"{number:016x}", source="의료_질문",
        )
        for number in range(1000)
        for model in ("base", "tuned")
    ]  # fmt: skip
    lines = [json.dumps(asdict(answer), ensure_ascii=False) for answer in [*run_answers(), *asked]]
    (run / "answers.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    finding = asdict(run_findings()[0])
    many = [{**finding, "severity": "note", "what": f"finding {number}: " + finding["what"]} for number in range(4999)]
    (run / "findings.json").write_text(json.dumps([*many, finding]), encoding="utf-8")
    return report(run, "en").read_text(encoding="utf-8")


@pytest.mark.slow
def test_a_large_run_has_a_page_that_can_be_sent(large_page: str) -> None:
    """2,000 answers and 5,000 findings: below 5 MB, the gravest finding is there, and what is shortened is noted."""
    assert len(large_page.encode()) < 5_000_000
    text = Page(large_page).text
    for expected in ("Long texts are shortened here", "4,000 more are in findings.json", "38 questions have different"):
        assert expected in text, expected
    assert "질문 900: 감기에는" in text


def test_a_blank_answer_is_called_so() -> None:
    """Nothing stands where its text would: the note below says that this is all of it."""
    blank = Answer(kind="domain", model="tuned", question="q", text=" \n", stopped=True, prompt_tokens=1, new_tokens=2)
    views = AnswerViews(texts=ENGLISH, limit=None)
    assert views.answer(blank).notes == ("2 tokens, ended by itself", "blank")
    assert "blank" not in views.answer(replace(blank, text="a")).notes


def test_the_sample_is_drawn_not_picked() -> None:
    """The same questions each time, in the order of the rows; fewer than six are all shown."""
    views = AnswerViews(texts=ENGLISH, limit=None)
    pairs = views.pairs(list(run_answers()), ("holdout",))
    assert sample(pairs) == pairs
    many = [replace(pairs[0], row_id=str(number)) for number in range(100)]
    assert sample(many) == sample(list(many))
    rows = [int(pair.row_id or "") for pair in sample(many)]
    assert rows == sorted(rows)
    assert len(set(rows)) == 6


def test_texts_are_shortened_only_where_they_must_be() -> None:
    """A small run's answers are whole; a large one's are cut at one length for all, and marked."""
    assert characters(list(run_answers()), ()) is None
    long = [replace(next(iter(run_answers())), text=LONG_ANSWER * 10) for _ in range(1000)]
    limit = characters(long, ())
    assert limit
    shown = AnswerViews(texts=ENGLISH, limit=limit).shown(long[0].text)
    assert (shown.head + shown.rest).endswith("[…]")
    assert len(shown.head + shown.rest) <= limit + 4


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed")
def test_lists_are_paged_and_searched(large_page: str, tmp_path: Path) -> None:
    """Ten questions at a time; a search for two words leaves the ones that hold both."""
    html = re.sub(r"<meta http-equiv=[^>]*>", "", large_page)
    drive = """
    const list = document.querySelector("#holdout .list"), seen = [];
    const note = () => seen.push(list.querySelector("output").textContent + ": "
      + [...list.querySelectorAll(".items > *")].filter((item) => !item.hidden).length);
    note(); list.querySelectorAll("button")[1].click(); note();
    for (const wanted of ["900: 감기에는", "nothing has this"]) {
      const input = list.querySelector("input");
      input.value = wanted;
      input.dispatchEvent(new Event("input"));
      note();
    }
    document.title = seen.join(" | ");"""
    page = tmp_path / "page.html"
    page.write_text(html.replace("</body>", f"<script>{drive}</script></body>"), encoding="utf-8")
    done = subprocess.run(
        [str(CHROMIUM), *FLAGS, f"--user-data-dir={tmp_path / 'profile'}", page.as_uri()],
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    title = re.search(r"<title>(.*?)</title>", done.stdout)
    assert title
    assert title.group(1).split(" | ") == [
        "1 to 10 of 1,000: 10", "11 to 20 of 1,000: 10", "1 to 1 of 1: 1", "Nothing found: 0",
    ]  # fmt: skip


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed")
def test_no_page_is_wider_than_its_window(html: str, tmp_path: Path) -> None:
    """At the width of a desktop, a tablet and a phone, with names of sources that are long and unfolded parts."""
    html = html.replace("일반대화", "a-very-long-name-of-a-source-that-somebody-gave").replace(
        "<details", "<details open"
    )
    html = re.sub(r"<meta http-equiv=[^>]*>", "", html)
    widths = (1280, 1000, 800, 400)
    frames = "".join(f'<iframe width="{width}" srcdoc="{escape(html)}"></iframe>' for width in widths)
    measure = "onload = () => document.title = [...document.querySelectorAll('iframe')]"
    measure += ".map((frame) => frame.contentDocument.documentElement.scrollWidth).join(' ')"
    page = tmp_path / "page.html"
    page.write_text(f"<meta charset=utf-8><title></title>{frames}<script>{measure}</script>", encoding="utf-8")
    done = subprocess.run(
        [str(CHROMIUM), *FLAGS, f"--user-data-dir={tmp_path / 'profile'}", page.as_uri()],
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    title = re.search(r"<title>(.*?)</title>", done.stdout)
    assert title
    assert all(int(found) <= width for found, width in zip(title[1].split(), widths, strict=True)), title[1]


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed")
def test_a_browser_opens_the_page_without_complaint(run: Path, tmp_path: Path) -> None:
    """Headless Chromium shows the page and has nothing to say on its console."""
    profile = f"--user-data-dir={tmp_path / 'profile'}"
    done = subprocess.run(
        [str(CHROMIUM), *FLAGS, profile, (run / "report.html").as_uri()], capture_output=True, text=True, timeout=120
    )
    assert "Loss on 의료_질문 answers fell" in done.stdout
    assert [line for line in done.stderr.splitlines() if "CONSOLE" in line] == []
