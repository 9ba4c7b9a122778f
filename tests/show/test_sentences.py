"""sentences: true for what a reader sees beside them, from intervals alone."""

import math
from dataclasses import replace

import pytest

import run_folder
from planted_rows import noisy_rows, planted_contrast, text_rows
from seodang.proof.measured_rows import MeasuredRow
from seodang.proof.proof import Compared, Proof, Training, prove_rows
from seodang.run.checkpoint_choice import Assessed, CheckpointChoice, Rise
from seodang.show.sentences import headline, headline_sentence, not_judged, sentences
from seodang.types import Answer, SourceRole

ROLES: dict[str, SourceRole] = {"medical": "domain", "general": "general", "wiki": "retention"}
COMPARED = Compared(name="run", base="base", tuned="tuned")


def proved(*rows: MeasuredRow, answers: list[Answer] | None = None, **compared: object) -> Proof:
    """The proof of these rows."""
    return prove_rows(rows, answers or [], replace(COMPARED, **compared), roles=ROLES, trained=["medical", "general"])


def said(proof: Proof) -> str:
    """Every sentence beside the headline."""
    return " ".join(sentences(proof))


def test_the_headline_speaks_of_the_loss() -> None:
    """What fell and by how much, what was kept, what was lost and beyond which tolerance: one sentence."""
    proof = proved(*noisy_rows(60), *noisy_rows(60, "general", seed=3), *text_rows(60, change=1.0))
    text = headline_sentence(proof)
    assert text.startswith("Loss on medical answers fell by 1.")
    assert (
        "; loss on general answers stayed within the tolerance of 0.05; loss on plain text (wiki) rose by 0.3" in text
    )
    assert text.endswith("beyond the tolerance of 0.03.")
    assert [tone for tone, _ in headline(proof)] == ["gained", "same", "lost"]


def test_a_loss_is_also_a_probability() -> None:
    """ln 4 nats per token are one in four for each right token; only for answers of the domain."""
    rows = noisy_rows(60)
    tokens = sum(row.content_tokens + row.end_tokens for row in rows)
    proof = proved(*rows, *noisy_rows(60, "general", seed=3))
    after = math.exp(-sum(row.tuned.content + row.tuned.ending for row in rows) / tokens)
    expected = f"On medical, each token of a reference answer now has a probability of {100 * after:.1f}% on average"
    assert expected in said(proof)
    assert "On general, each token" not in said(proof)


def test_a_small_change_does_not_look_like_none() -> None:
    """A fall of less than a thousandth that is shown has a figure and an interval that are not 0."""
    rows = [
        replace(row, tuned=replace(row.tuned, ending=row.base.ending))
        for row in noisy_rows(60, change=-0.0003, noise=1e-5)
    ]
    assert (
        headline_sentence(proved(*rows)) == "Loss on medical answers fell by 0.0003 nats per token (0.0003 to 0.0003)."
    )


@pytest.mark.parametrize("count", [9, 60])
def test_what_is_not_shown_is_called_so(count: int) -> None:
    """Few rows, or changes that scatter: "not shown", and nothing is called a gain or better."""
    rows = noisy_rows(count, change=-1.0 if count < 12 else 0.0, noise=0.5)
    proof = proved(*(replace(row, tuned=replace(row.tuned, ending=row.base.ending)) for row in rows))
    assert headline_sentence(proof) == "It is not shown that loss on medical answers fell."
    text = headline_sentence(proof) + said(proof)
    assert not any(word in text for word in ("gained", "better", "improved"))
    assert ("Too few examples for an interval (12 effective ones are needed" in text) == (count < 12)


def test_a_worse_domain_is_called_so() -> None:
    """A loss that rose is no gain whatever the base's format was."""
    proof = proved(*noisy_rows(60, change=2.0))
    assert "Loss on medical answers rose by 1." in headline_sentence(proof)
    assert headline(proof)[0][0] == "lost"


def test_answers_that_cannot_be_used_come_first() -> None:
    """Where most answers do not end, the first words of the verdict say so, before any loss."""
    rows = noisy_rows(60)
    answers = [
        Answer(
            kind="holdout", model=model, question=f"{n}?", text="약", stopped=False, prompt_tokens=1, new_tokens=8,
            row_id=rows[n].row_id, source="medical",
        )
        for n in range(20)
        for model in ("base", "tuned")
    ]  # fmt: skip
    text = headline_sentence(proved(*rows, answers=answers))
    assert text.startswith(
        "The answers are not usable (20 of 20 do not end, repeat themselves or are blank); loss on medical"
    )


def test_nobody_judged_the_answers() -> None:
    """Under the headline stands that none was judged; or that none was given."""
    assert not_judged(run_folder.run_proof()).startswith("No answer was judged")
    assert not_judged(proved(*noisy_rows(20))).startswith("No questions were asked")


@pytest.mark.parametrize("has_template", [True, False])
def test_the_chat_format_is_named_only_where_the_base_lacked_it(has_template: bool) -> None:
    """A base with a trained template learnt no format here."""
    proof = proved(*noisy_rows(20), *noisy_rows(20, "general"), base_has_template=has_template)
    assert ("chat format" in said(proof)) == (not has_template)


@pytest.mark.parametrize(
    ("substance", "words"),
    [
        (0.2, "the answers depend more on their own question than the base's"),
        (-0.2, "the answers depend less on their own question than the base's"),
        (0.0, "it is not shown that the answers depend more"),
    ],
)
def test_substance_is_dependence_on_the_question(substance: float, words: str) -> None:
    """The sentence follows the substance interval alone, and never speaks of content that was learnt."""
    rows = noisy_rows(
        40, contrast=lambda luck, tokens: planted_contrast(tokens, substance=luck.gauss(substance, 0.1), form=0)
    )
    text = said(proved(*rows))
    assert f"On medical, {words}" in text
    assert "learn" not in text


def test_percentages_stand_only_where_a_gain_is_shown() -> None:
    """Else the parts are given in nats per token."""
    gained = noisy_rows(40, contrast=lambda _, tokens: planted_contrast(tokens))
    unsure = noisy_rows(
        40, contrast=lambda luck, tokens: planted_contrast(tokens, ending=luck.gauss(0, 20), form=0, style=0)
    )
    assert "% the turn end" in said(proved(*gained))
    text = said(proved(*unsure))
    assert "No gain is shown on 40 examples of medical" in text
    assert "% the turn end" not in text


def test_what_was_not_measured_is_said() -> None:
    """No retention text, no parts and why, the same rows for both tasks, a quick proof, two tokenizers."""
    rows = [replace(row, no_contrast="fewer than 16 clusters") for row in noisy_rows(15)]
    text = said(proved(*rows, is_quick=True, same_tokenizer=False, no_kl="different tokenizers"))
    for expected in (
        "Forgetting was not measured",
        "What the change is made of was not measured: medical (15 examples: fewer than 16 clusters).",
        "medical: the held-out rows that chose the checkpoint are also the ones it is measured on",
        "A quick proof", "different tokenizers",
        "KL(base‖tuned) was not measured",
    ):  # fmt: skip
        assert expected in text, expected


def test_nothing_measured_is_said() -> None:
    """Without a row there is no verdict, and nothing fails."""
    assert headline_sentence(proved()) == "Nothing was measured."


@pytest.mark.parametrize(
    ("value", "stopped", "expected"),
    [
        (0.02, None, "the lowest loss on the domain of the 2 (of 6) evaluations that are within the tolerances"),
        (0.09, 0.75, "No checkpoint was within the tolerances (2 of 6 evaluations)"),
        (0.02, 0.25, "25% ended by themselves at that step; at least 50% have to"),
    ],
)
def test_the_kept_checkpoint_is_explained(value: float, stopped: float | None, expected: str) -> None:
    """Which evaluation was chosen, by what, and how far each loss rose; the least bad is called so."""
    rises = {"wiki": Rise(value=value, unit="bits per byte", tolerance=0.03)}
    kept = Assessed(step=40, loss=2.0, rises=rises, stopped=stopped)
    training = Training(best_step=40, best_by="domain_within_tolerance", choice=CheckpointChoice(
        evaluations=6, within=2, kept=kept))  # fmt: skip
    proof = run_folder.run_proof()
    said = " ".join(sentences(replace(proof, compared=replace(proof.compared, training=training))))
    assert expected in said
    assert f"wiki +{value:.3f} bits per byte, 0.03 allowed" in said
    assert "step 450" not in said


def test_answers_of_the_base_that_chose_are_named_as_such() -> None:
    """Where nothing was asked before the kept step, the answers that count are not those of that step."""
    kept = Assessed(step=40, loss=2.0, rises={}, stopped=0.25, is_base_asked=True)
    choice = CheckpointChoice(evaluations=6, within=0, kept=kept)
    training = Training(best_step=40, best_by="domain_within_tolerance", choice=choice)
    proof = run_folder.run_proof()
    written = " ".join(sentences(replace(proof, compared=replace(proof.compared, training=training))))
    assert "25% of the base's answers ended by themselves" in written
    assert "at that step; at least" not in written
