"""A chat template is foreign code: whatever it does ends in one message, soon and without the machine's memory."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from transformers import PreTrainedTokenizerFast

from chat_styles import CHATML_LIKE
from seodang.data.template import limits
from seodang.data.template.find import ChatTemplate, find_template
from seodang.errors import TemplateError
from seodang.recipe import Template


def _find(
    tokenizer: PreTrainedTokenizerFast, text: str | dict[str, str] | None = None, borrow: str | None = None
) -> ChatTemplate:
    tokenizer.chat_template = text
    return find_template(
        tokenizer,
        Template(borrow=borrow),
        num_embeddings=len(tokenizer),
        load_tokenizer=lambda name: pytest.fail(f"{name} loaded"),
    )


@pytest.mark.parametrize(
    ("addition", "message"),
    [
        ("{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}", "takes more than"),
        ("{% for a in range(9999) %}{% for b in range(9999) %}xxxxxxxx{% endfor %}{% endfor %}", "takes"),
        ("{{ 'a' | center(10 ** 8) }}", "characters for a small conversation|takes more than"),
        ("{{ 'a' * 6000000000 }}", "takes (too much|more)"),
        ("{{ messages[0].role * 6000000000 }}", "takes (too much|more)"),
        ("{{ 'a' * 6e9 }}", "refuses it: can't multiply"),
        ("{{ messages | tojson(indent=10 ** 9) }}", "takes (too much|more)"),
        ("{% macro again(x) %}{{ again(x) }}{% endmacro %}{{ again(1) }}", "calls itself without end"),
        ("{% break %}", "`break` outside of a loop"),
        ("{% continue %}", "outside of a loop"),
        ("{{ " + "(" * 3000 + "1" + ")" * 3000 + " }}", "nested too deeply"),
        ("{% if true %}" * 600 + "{% endif %}" * 600, "nested too deeply|outside of a loop|IndentationError"),
        ("{{ '\ud800' }}", "half of a surrogate pair"),
        ("{{ strftime_now('\ud800') }}", "surrogate|unknown date format"),
    ],
)
def test_a_hostile_template_is_refused(
    tiny_tokenizer: PreTrainedTokenizerFast, monkeypatch: pytest.MonkeyPatch, addition: str, message: str
) -> None:
    """Loops, repeated text, recursion, statements out of place, depth and broken Unicode."""
    monkeypatch.setattr(limits, "CPU_SECONDS", 2)
    with pytest.raises(TemplateError, match=message):
        _find(tiny_tokenizer, addition + CHATML_LIKE)


@pytest.mark.parametrize(
    "text",
    [
        "{% if tools %}{{ 'a' * 6000000000 }}{% endif %}" + CHATML_LIKE,
        "{% if tools %}{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}{% endif %}"
        + CHATML_LIKE,
        {"default": CHATML_LIKE, "tool_use": "{{ tools | tojson(indent=10 ** 6) }}" + CHATML_LIKE},
    ],
)
def test_what_a_template_takes_for_tools_is_bounded_too(
    tiny_tokenizer: PreTrainedTokenizerFast, monkeypatch: pytest.MonkeyPatch, text: str | dict[str, str]
) -> None:
    """Rows with tools are rendered outside of the bounds: what they would take shows in the small conversation."""
    monkeypatch.setattr(limits, "CPU_SECONDS", 2)
    with pytest.raises(TemplateError, match=r"takes (too much|more)|characters for a small conversation"):
        _find(tiny_tokenizer, text)


def test_a_date_without_a_format_is_pinned_too(tiny_tokenizer: PreTrainedTokenizerFast) -> None:
    """`strftime_now(5)` has no format; the saved template writes the pinned day."""
    assert "2026-01-01" in _find(tiny_tokenizer, "{{ strftime_now(5) }}" + CHATML_LIKE).text


def test_a_pipe_or_a_huge_file_is_no_template(tiny_tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> None:
    """A pipe would be waited for, a huge file read whole."""
    os.mkfifo(tmp_path / "pipe.jinja")
    with (tmp_path / "huge.jinja").open("wb") as file:
        file.truncate(5_000_000)
    (tmp_path / "folder.jinja").mkdir()
    for name, message in (("pipe", "not a file"), ("huge", "larger than"), ("folder", "not a file")):
        with pytest.raises(TemplateError, match=message):
            _find(tiny_tokenizer, borrow=str(tmp_path / f"{name}.jinja"))


@pytest.mark.parametrize("name", ["x" * 5000, "a\0b", "a\0b.jinja", "x" * 300 + ".jinja", "~nobody-here/x.jinja"])
def test_a_name_that_no_file_can_have_is_refused(tiny_tokenizer: PreTrainedTokenizerFast, name: str) -> None:
    """Too long, or with a NUL, or of a user that is not there."""
    with pytest.raises(TemplateError, match=r"template\.borrow"):
        _find(tiny_tokenizer, borrow=name)


@pytest.mark.skipif(sys.platform != "linux", reason="there are limits on Linux alone")
def test_a_limit_on_memory_that_is_there_already_is_kept() -> None:
    """Under `ulimit -v`, which no process may raise, a template is looked at all the same."""
    code = (
        "import resource; resource.setrlimit(resource.RLIMIT_AS, (20 << 30, 20 << 30));"
        "from seodang.data.template.limits import limited;"
        "print(limited(lambda: resource.getrlimit(resource.RLIMIT_AS)[1] >> 30, where='t'))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "20\n", done.stderr
