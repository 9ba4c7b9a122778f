"""A system text that a chat template brings by itself, where a conversation has no system turn."""

import json


def with_default_system(template: str, system: str) -> str:
    """The template as if conversations without a system turn began with this one.

    Whoever serves a tuned model with other software then gets the text that it was trained with, in the place where the
    template puts it: in a turn of its own, or before the first question.
    """
    return _opening(system) + template


def without_default_system(template: str, system: str) -> str:
    """The template as it was before `with_default_system`; unchanged if it does not bring this text."""
    return template.removeprefix(_opening(system))


def _opening(system: str) -> str:
    # as JSON writes a text, Jinja reads it; the line break is the one that `trim_blocks` takes off
    turn = f"{{'role': 'system', 'content': {json.dumps(system, ensure_ascii=False)}}}"
    return (
        "{% if not messages or messages[0]['role'] != 'system' %}"
        f"{{% set messages = [{turn}] + messages | list %}}"
        "{% endif %}\n"
    )
