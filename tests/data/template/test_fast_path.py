"""A conversation is filled into the skeleton of its signature only where that gives what rendering it gives."""

from itertools import product
from typing import Any

import pytest
from transformers import PreTrainedTokenizerFast

from chat_styles import STYLES, Conversation, Style, conversations, dressed, with_style_tokens
from seodang.data.template import renderer as module
from seodang.data.template.fast_path import FastPath
from seodang.data.template.jinja import compile_template, run
from seodang.data.template.renderer import Renderer
from seodang.errors import TemplateError

TEXTS = (" 물을 마셔요.\n", "x", "{{ m }} <b>'\"&</b> 12")
TALK: Conversation = [
    {"role": role, "content": text} for role, text in zip(("user", "assistant") * 2, (*TEXTS, "x y"), strict=True)
]


def _fast_path(text: str) -> FastPath:
    return FastPath(compile_template(text), text, {"bos_token": "<s>"})


def _each(body: str, before: str = "") -> str:
    return f"{before}{{% for m in messages %}}{{{{ '<' + m.role + '>' }}}}{body}{{{{ '<end>' }}}}{{% endfor %}}"


@pytest.mark.parametrize(
    "text",
    [
        _each("{{ m.content }}"),
        _each("{{ m['content'] | trim }}"),
        _each("{{ m.get('content').strip() }}"),
        _each("{{ '\\n' + m.content + '\\n' }}"),
        _each("{% set said = m.content %}{% if said %}{{ said | default('', true) }}{% endif %}{{ said or '' }}"),
        _each(
            "{% if m.content is string and m.content is not none and m.content is defined %}{{ m.content }}{% endif %}"
        ),
        _each("{{ m.content if m.content is iterable and m.content is not mapping else 'object' }}"),
        _each("{% for key in m %}{{ key }}{% endfor %}{{ m.content }}"),
        _each("{% set ns.all = ns.all + m.content %}{{ ns.all }}", "{% set ns = namespace(all=bos_token) %}"),
        _each("{{ messages[0].content + m.content }}{% if m.role == 'user' %}{% continue %}{% endif %}"),
        _each("{{ messages | map(attribute='content') | first }}"),
        _each("{{ m.content }}") + "{% if add_generation_prompt %}{{ '<assistant>' }}{% endif %}",
    ],
)
def test_a_template_that_passes_texts_on_is_filled_in(text: str) -> None:
    """As rendered, for conversations of other texts, lengths and orders of keys, with and without a prompt."""
    fast_path, template = _fast_path(text), compile_template(text)
    turned = [dict(reversed(turn.items())) for turn in TALK]
    for talk, prompt in product((TALK, TALK[1:3], TALK[:1], turned), (False, True)):
        rendered = run(template, talk, variables={"bos_token": "<s>"}, add_generation_prompt=prompt)
        assert fast_path.text(talk, add_generation_prompt=prompt) == rendered
        filled = fast_path.render(talk)
        assert filled is not None
        assert prompt or filled.text == rendered


LOOKS = (
    "{% if 'x' in m.content %}x{% endif %}", "{% if m.content in 'xyz' %}x{% endif %}",
    "{% if m.content in ['x'] %}x{% endif %}", "{% if m.content == 'x' %}x{% endif %}",
    "{% if m.content != none %}x{% endif %}", "{% if m.content < 'x' %}x{% endif %}",
    "{{ m.content | length }}", "{{ m.content | upper }}", "{{ m.content | replace('x', 'y') }}",
    "{{ m.content | int }}", "{{ m.content | e }}", "{{ m.content | list | join }}", "{{ m.content | tojson }}",
    "{{ m | tojson }}", "{{ m }}",
    "{{ m.content | string }}", "{{ m.content | wordcount }}", "{{ m.content | urlencode }}",
    "{{ m.content | reverse }}", "{{ m.content | trim('x') }}", "{{ m.content.strip('x') }}",
    "{{ ('x ' + m.content) | trim }}", "{{ m.content[0] }}",
    "{{ m.content[:2] }}", "{{ m.content.split('x')[-1] }}", "{{ m.content.missing }}",
    "{{ m.content ~ 'x' }}", "{{ '%s' % m.content }}", "{{ '{}'.format(m.content) }}", "{{ m.content * 2 }}",
    "{{ 'x'.join([m.content]) }}", "{{ 'xy'.startswith(m.content) }}", "{{ {'x': 1}[m.content] }}",
    "{{ [1, 2][m.content] }}", "{% for c in m.content %}{{ c }}{% endfor %}", "{{ loop.changed(m.content) }}",
    "{{ [m.content, 'x'] | sort | first }}", "{{ m.content is sequence }}", "{{ m.content is lower }}",
    "{{ m.content is sameas messages[0].content }}", "{{ range(3) | random }}", "{{ lipsum(1) }}",
    "{{ strftime_now('%Y') }}", "{{ raise_exception(m.content) }}", "{{ m.content }}\ufdd0",
    "{% set x %}{{ m.content }}{% endset %}{{ x[0] }}", "{% filter upper %}{{ m.content }}{% endfilter %}",
    "{% macro say(x) %}{{ x }}{% endmacro %}{{ say(m.content)[0] }}", "{% block b %}{{ m.content }}{% endblock %}",
    "{% autoescape true %}{{ m.content }}{% endautoescape %}", "{% generation %}{{ m.content }}{% endgeneration %}",
    "{% for n in [m.content, [1]] recursive %}{{ loop([n]) if n is iterable else n }}{% endfor %}",
)  # fmt: skip


@pytest.mark.parametrize("body", LOOKS)
def test_a_template_that_could_look_at_a_text_is_rendered(body: str) -> None:
    """Whatever it asks of a text, or of what it has written: nothing is taken for proven."""
    fast_path = _fast_path(_each(body))
    assert fast_path.render(TALK) is None
    assert [fast_path.text(TALK, add_generation_prompt=prompt) for prompt in (False, True)] == [None, None]


@pytest.mark.parametrize(
    "turn",
    [
        {"role": "user", "content": None},
        {"role": "user", "content": " \n"},
        {"role": "user", "content": ""},
        {"role": "user", "content": [{"type": "text", "text": "x"}]},
        {"role": "user", "content": "x", "name": "y"},
        {"role": "assistant", "content": "<think>x</think>y"},
        {"role": "assistant", "content": "x", "reasoning_content": "y"},
        {"role": "assistant", "content": None, "tool_calls": []},
        {"role": "assistant"},
    ],
)
def test_a_conversation_that_is_more_than_texts_is_rendered(turn: dict[str, Any]) -> None:
    """No text, a blank one, thinking in it, or another key."""
    assert _fast_path(_each("{{ m.content }}")).render([TALK[0], turn]) is None


@pytest.mark.parametrize("style", STYLES, ids=lambda style: style.name)
def test_the_fast_path_changes_nothing(
    tiny_tokenizer: PreTrainedTokenizerFast, style: Style, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Text, spans, changes and refusals of random conversations, with the fast path and without, for many templates."""
    renderer = Renderer(*dressed(with_style_tokens(tiny_tokenizer), style))
    talks = list(conversations(seed=3, count=60))
    talks += [[{"role": "system", "content": " 짧게.\n"}, *talk] for talk in talks[:20]]
    talks += [talk[1:] for talk in talks[:20]]
    filled = [_outcome(renderer, talk) for talk in talks]
    monkeypatch.setattr(FastPath, "render", lambda *_: None)
    monkeypatch.setattr(FastPath, "text", lambda *_, **__: None)
    assert filled == [_outcome(renderer, talk) for talk in talks]


ASKED = (" a b", "q", "aq\n", "\n\nq", "\nb\n", "q\n", "\n q")
QUESTIONS = {  # a template → which of the texts hold what it looks for
    "{% if '</think>' in m.content %}x{% else %}{{ m.content }}{% endif %}": (),
    "{% if 'q' not in m.content | trim %}{{ m.content }}{% endif %}": (1, 2, 3, 5, 6),
    "{% if m.content.startswith('\\n') %}x{% else %}{{ m.content.lstrip('\\n') }}{% endif %}": (3, 4, 6),
    "{% if m.content.lstrip('\\n').startswith('q') %}x{% endif %}{{ m.content }}": (1, 3, 5),
    "{{ m.content.split('q')[0] if m.content.endswith('q') else m.content.strip() }}": (1, 3, 6),
    "{% if m.role == 'user' and 'q' in m.content %}x{% endif %}{{ m.content }}": (1, 2, 3, 5, 6),
}


@pytest.mark.parametrize(("body", "holding"), QUESTIONS.items())
def test_a_text_that_holds_what_the_template_looks_for_is_rendered(body: str, holding: tuple[int, ...]) -> None:
    """Any other is filled in, to the same text."""
    fast_path, template = _fast_path(_each(body)), compile_template(_each(body))
    rendered = []
    for number, text in enumerate(ASKED):
        talk = [*TALK[:3], {"role": "assistant", "content": text}, {"role": "user", "content": text}]
        filled = fast_path.render(talk)
        if filled is None:
            rendered.append(number)
        else:
            assert filled.text == run(template, talk, variables={"bos_token": "<s>"})
    assert tuple(rendered) == holding


def test_questions_of_a_served_prompt_are_those_of_the_whole_conversation() -> None:
    """What is proven to be served as it stands holds for the texts at hand: `q` is looked for in prompts alone."""
    text = _each("{{ m.content }}") + (
        "{% if add_generation_prompt %}{{ 'x' if 'q' in messages[0].content else '<assistant>' }}{% endif %}"
    )
    fast_path = _fast_path(text)
    filled = fast_path.render(TALK)
    assert filled is not None
    assert fast_path.prompt_ends(TALK, filled, "<end>") == {}


@pytest.mark.parametrize("name", ["gemma", "qwen3", "deepseek"])
def test_a_skeleton_is_made_once(
    tiny_tokenizer: PreTrainedTokenizerFast, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second conversation of a signature is not rendered."""
    style = next(style for style in STYLES if style.name == name)
    renderer = Renderer(*dressed(with_style_tokens(tiny_tokenizer), style))
    renderer.render(TALK)
    monkeypatch.setattr(module, "run", lambda *_, **__: pytest.fail("rendered"))
    monkeypatch.setattr("seodang.data.template.fast_path.run", lambda *_, **__: pytest.fail("rendered"))
    assert "더 마셔요." in renderer.render([*TALK[:3], {"role": "assistant", "content": "더 마셔요."}]).text


def _outcome(renderer: Renderer, talk: Conversation) -> Any:
    try:
        return renderer.examples(talk)
    except TemplateError as error:
        return str(error)
