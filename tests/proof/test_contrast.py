"""Foreign prompts: of the same script, another cluster and another answer, each as often as any other."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from datasets import Dataset

from held_out import prepared, qa, renderer, source
from seodang.proof.contrast import FOREIGN, plain_prompt, plan_contrasts, script_of, shifted
from seodang.proof.held_out import held_out_rows


def test_each_prompt_serves_equally_often_and_none_is_near(tmp_path: Path) -> None:
    """Three prompts a row, near to its own in length; each prompt serves three times; the same each time."""
    twins = [
        {"question": f"쌍둥이 {n}번은요?", "answer": "생강차를 따뜻하게 마시고 푹 쉬세요" + "." * n} for n in range(2)
    ]
    held_out = source(tmp_path, [*qa(22), *twins])
    contrasts = held_out.contrasts.rows
    assert len(contrasts) == 24
    served = Counter(row_id for contrast in contrasts for row_id in contrast.prompts)
    assert set(served.values()) == {FOREIGN}
    lengths = {contrast.asked.row_id: len(contrast.asked.prompt) for contrast in contrasts}
    for contrast in contrasts:
        assert len({*contrast.prompts, contrast.asked.row_id}) == FOREIGN + 1
        others = [next(one for one in contrasts if one.asked.row_id == row_id) for row_id in contrast.prompts]
        assert [len(one.asked.prompt) for one in others] == [len(prompt) for prompt in contrast.template]
    first, second = (next(c for c in contrasts if c.asked.number == number) for number in (22, 23))
    assert second.asked.row_id not in first.prompts
    assert first.asked.row_id not in second.prompts
    near = [np.mean([abs(lengths[p] - lengths[c.asked.row_id]) for p in c.prompts]) for c in contrasts]
    assert np.median(near) < np.ptp(list(lengths.values())) / 4
    again = source(tmp_path, [*qa(22), *twins]).contrasts.rows
    assert [one.prompts for one in again] == [one.prompts for one in contrasts]


def test_prompt_and_answer_are_the_row_itself(tmp_path: Path) -> None:
    """Behind its own prompt an answer has the ids of the row; the plain form has the same answer behind other ids."""
    held_out = source(tmp_path, qa(20))
    for contrast in held_out.contrasts.rows:
        asked, row = contrast.asked, held_out.dataset[contrast.asked.number]
        both = np.concatenate([asked.prompt, asked.answer]).tolist()
        assert row["input_ids"][: len(both)] == both
        assert asked.scored_before == 0
    own = renderer()
    text = own.tokenizer.decode(held_out.contrasts.rows[0].asked.plain)
    question = held_out.dataset[held_out.contrasts.rows[0].asked.number]["messages"][0]["content"]
    assert text.endswith(f"질문: {question}\n답변:\n")


def test_rows_of_another_kind_are_left_out_with_their_reason(tmp_path: Path) -> None:
    """Tools, a given beginning, an answer that is context only, one that does not fit: each is named."""
    own = renderer()
    dataset = prepared(tmp_path, qa(24), own)
    lines = dataset.to_list()
    lines[0]["tools"] = "[]"
    lines[1]["messages"][-1]["prefill"] = "네,"
    lines[2]["messages"][-1]["supervised"] = False
    lines[3]["messages"][0]["content"] += " 정말로요?"  # as where a question was cut
    changed = Dataset.from_list(lines, features=dataset.features)
    held_out = held_out_rows(changed, {own.template.turn_end_id: own.template.turn_end}, seed=1)
    longest = max(len(line["input_ids"]) for line in lines)
    found = plan_contrasts(changed, held_out, own, most=64, max_tokens=longest - 20, seed=1)
    reasons = [found.reasons.get(number) for number in range(4)]
    assert reasons == ["tools", "prefilled", "its last answer is not supervised", "question cut"]
    assert set(found.reasons.values()) == {*reasons, "too long", "no other prompt suits it"}
    assert len(found.rows) + len(found.reasons) == 24
    for contrast in found.rows:
        assert max(map(len, (*contrast.template, *contrast.plain))) + len(contrast.asked.answer) <= longest - 20


def test_fewer_than_sixteen_clusters_are_not_measured(tmp_path: Path) -> None:
    """Fifteen questions are too few; sixteen will do; rows of one question are one cluster."""
    assert set(source(tmp_path, qa(15)).contrasts.reasons.values()) == {"fewer than 16 clusters"}
    assert len(source(tmp_path, qa(16)).contrasts.rows) == 16
    same = [{**row, "question": "같은 질문인가요?"} for row in qa(5, seed=3)]
    assert set(source(tmp_path, [*qa(14), *same]).contrasts.reasons.values()) == {"fewer than 16 clusters", "not drawn"}


def test_text_and_passages_have_no_contrast(tmp_path: Path) -> None:
    """Plain text asks nothing; where questions hold a passage, another row's passage is no fair prompt."""
    texts = source(tmp_path, [{"text": f"{number}. 물은 낮은 곳으로 흐른다."} for number in range(20)])
    assert set(texts.contrasts.reasons.values()) == {"plain text"}
    own = renderer()
    dataset = prepared(tmp_path, qa(20), own)
    held_out = held_out_rows(dataset, {own.template.turn_end_id: own.template.turn_end}, seed=1)
    found = plan_contrasts(dataset, held_out, own, most=64, max_tokens=512, seed=1, has_context=True)
    assert set(found.reasons.values()) == {"context passage"}


def test_scripts_are_kept_apart(tmp_path: Path) -> None:
    """An English question is put behind English prompts alone, in an English plain form."""
    words = ["rest", "water", "doctor", "soup", "sleep", "walk", "tea", "honey", "salt", "air", "light", "bread"]
    rng = np.random.default_rng(0)
    english = [
        {"question": f"What helps against {n} colds?", "answer": " ".join(rng.permutation(words)[:6])}
        for n in range(20)
    ]
    found = source(tmp_path, [*qa(20), *english]).contrasts
    scripts = {contrast.asked.row_id: contrast.asked.script for contrast in found.rows}
    assert set(scripts.values()) == {"HANGUL", "LATIN"}
    for contrast in found.rows:
        assert {scripts[row_id] for row_id in contrast.prompts} == {contrast.asked.script}


@pytest.mark.parametrize(
    ("text", "script"),
    [("감기 cold", "HANGUL"), ("What is 감기 in English here?", "LATIN"), ("12?", ""), ("感冒", "CJK")],
)
def test_the_script_is_that_of_most_letters(text: str, script: str) -> None:
    """A fifth of the letters outweighs Latin ones, as a syllable is worth several; a text without letters has none."""
    assert script_of(text) == script


def test_the_plain_form_keeps_earlier_turns_and_the_system_text() -> None:
    """Every turn in words; the prompt ends where the answer begins."""
    turns = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}, {"role": "user", "content": "c"}]
    assert plain_prompt(turns, "s", is_korean=False) == "s\n\nQuestion: a\nAnswer:\nb\n\nQuestion: c\nAnswer:\n"
    assert plain_prompt(turns[:1], None, is_korean=True) == "질문: a\n답변:\n"


def test_partners_are_exchanged_where_a_pair_is_not_allowed() -> None:
    """Permutations without a forbidden or repeated pair, for random rules; who finds no partner is named."""
    rng = np.random.default_rng(0)
    for _ in range(50):
        count = int(rng.integers(4, 30))
        allowed = rng.random((count, count)) < 0.9
        shifts, misfit = shifted(count, lambda one, other, allowed=allowed: bool(allowed[one, other]))
        for shift in shifts:
            assert sorted(shift) == list(range(count))
            assert all(allowed[at, partner] and at != partner for at, partner in enumerate(shift))
        assert misfit is not None or all(len({shift[at] for shift in shifts}) == FOREIGN for at in range(count))
    assert shifted(6, lambda one, _: one != 3)[1] == 3
