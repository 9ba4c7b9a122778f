"""proof: planted rows → what is shown of them, and nothing else; written and read back as the same value."""

import json
from dataclasses import replace

import pytest

import run_folder
from planted_rows import in_both_halves, measured_row, noisy_rows, text_rows
from seodang.errors import SeodangError
from seodang.json_values import to_json
from seodang.proof.losses import effective_shares
from seodang.proof.measured_rows import MeasuredRow
from seodang.proof.proof import Compared, Proof, prove_rows, read_proof
from seodang.proof.statistics import Interval
from seodang.proof.verdict import gate_failures
from seodang.recipe import Tolerance
from seodang.types import Answer, SourceRole

COMPARED = Compared(name="run", base="base", tuned="tuned")
ROLES: dict[str, SourceRole] = {"medical": "domain", "general": "general", "wiki": "retention"}


def proved(*rows: MeasuredRow, **settings: object) -> Proof:
    """The proof of rows without answers."""
    return prove_rows(rows, [], COMPARED, **{"roles": ROLES, "trained": ["medical", "general"], **settings})


def failures(proof: Proof) -> tuple[str, ...]:
    """Why a gate does not let this proof through."""
    return gate_failures(proof.verdict)


def test_a_proof_is_read_as_it_was_written() -> None:
    """Value → JSON text → the same value."""
    proof = run_folder.run_proof()
    assert read_proof(json.loads(json.dumps(to_json(proof), allow_nan=False)), where="proof.json") == proof


@pytest.mark.parametrize(
    ("notes", "no_kl"),
    [
        ([], ""),
        (
            ["KL(base‖tuned) is not measured: the two models have different tokenizers."],
            "the two models have different tokenizers",
        ),
    ],
)
def test_a_proof_with_notes_can_still_be_read(notes: list[str], no_kl: str) -> None:
    """Version 2 wrote in sentences of its own why KL was not measured."""
    proof = run_folder.run_proof()
    data = json.loads(json.dumps(to_json(proof)))
    data = data | {"schema_version": 2, "compared": data["compared"] | {"notes": notes}}
    assert read_proof(data, where="proof.json") == replace(proof, compared=replace(proof.compared, no_kl=no_kl))


@pytest.mark.parametrize(("version", "found"), [(99, "99"), (None, "none")])
def test_another_version_ends_in_one_message(version: int | None, found: str) -> None:
    """A proof that another version of seodang wrote is refused with both versions, and how to get a new one."""
    data = to_json(run_folder.run_proof())
    data = data | {"schema_version": version} if version else {"name": "x", "losses": {}}
    with pytest.raises(SeodangError, match=rf"schema version 3 expected, found {found}.*\n  → .*seodang prove RUN"):
        read_proof(data, where="proof.json")


def test_a_model_against_itself_shows_nothing() -> None:
    """Every difference is exactly 0: the domain not shown, general and retention kept."""
    rows = [*noisy_rows(40), *noisy_rows(40, "general"), *text_rows(40)]
    proof = proved(*(replace(row, tuned=row.base) for row in rows))
    assert {loss.change.value for loss in proof.sources.values()} == {0.0}
    verdict = proof.verdict
    assert (verdict.domain, verdict.general, verdict.retention) == ("not shown", "kept", "kept")
    assert failures(proof) == ("that the domain improved is not shown",)


def test_losses_by_hand() -> None:
    """Two rows: token-weighted, content and turn end apart, bits per byte of the content alone."""
    rows = [measured_row(0, tokens=10, base=3, tuned=2), measured_row(1, tokens=30, base=2, tuned=2)]
    loss = proved(*rows).sources["medical"]
    assert loss.base.nats_per_token == pytest.approx((30 + 60 + 5 + 5) / 42)
    assert loss.tuned.nats_per_token == pytest.approx((20 + 60 + 1 + 1) / 42)
    assert loss.change.value == pytest.approx(-18 / 42)
    assert loss.content
    assert loss.content.value == pytest.approx(-10 / 40)
    assert loss.ending
    assert loss.ending.value == -4
    assert loss.base.bits_per_byte == pytest.approx(90 / 160 / 0.6931472)
    assert loss.tokens == 42


@pytest.mark.parametrize("change", [-1.0, 1.0])
def test_few_rows_show_nothing(change: float) -> None:
    """However large a change on nine rows is, there is no interval, and so neither gain nor loss."""
    proof = proved(*noisy_rows(9, change=change, noise=0.01), *text_rows(9, change=change))
    assert {loss.change.interval for loss in proof.sources.values()} == {None}
    assert {loss.outcome for loss in proof.sources.values()} == {"not shown"}


def test_a_null_is_not_shown() -> None:
    """Differences that scatter around 0 are neither gained nor lost, whatever the mean says."""
    rows = [
        replace(row, tuned=replace(row.tuned, ending=row.base.ending)) for row in noisy_rows(40, change=0.0, noise=1)
    ]
    loss = proved(*rows).sources["medical"]
    assert loss.change.interval
    assert loss.outcome == "not shown"
    assert loss.change.detectable
    assert loss.change.detectable > abs(loss.change.value)


def test_a_collapse_is_lost_on_retention() -> None:
    """Plain text that rises by a nat a token is lost; within the tolerance it is kept; the gate names what failed."""
    domain = noisy_rows(40)
    lost, kept = (proved(*domain, *text_rows(40, change=change)) for change in (1.0, 0.05))
    assert (lost.verdict.retention, kept.verdict.retention) == ("lost", "kept")
    interval = lost.sources["wiki"].change.interval
    assert interval
    assert interval.low > 0.03
    assert failures(lost) == ("retention lost beyond its tolerance",)
    assert failures(kept) == ()
    wide = proved(*domain, *text_rows(40, change=1.0), tolerance=Tolerance(retention=0.5))
    assert wide.verdict.retention == "kept"


def test_every_source_of_the_headline_has_its_share_of_the_error() -> None:
    """Intervals of m sources are taken at 1 − 0.05/m, so that all hold together."""
    one, three = proved(*noisy_rows(40)), proved(*noisy_rows(40), *noisy_rows(40, "general"), *text_rows(40))
    widths = []
    for proof, level in ((one, 0.95), (three, 1 - 0.05 / 3)):
        interval = proof.sources["medical"].change.interval
        assert interval == Interval(
            low=interval.low if interval else 0, high=interval.high if interval else 0, level=level
        )
        widths.append(interval.high - interval.low if interval else 0)
    assert widths[1] > widths[0]


def test_rows_that_chose_do_not_prove() -> None:
    """Where halves are apart, the figures are those of the proving half alone, and the verdict says that they are."""
    rows = in_both_halves(noisy_rows(200))
    rows = [replace(row, tuned=row.base) if row.half == "choose" else row for row in rows]
    proof = proved(*rows)
    assert proof.sources["medical"].rows == 100
    assert (
        proof.sources["medical"].change.value
        == proved(*(r for r in rows if r.half == "prove")).sources["medical"].change.value
    )
    assert proof.verdict.apart
    assert not proved(*noisy_rows(40)).verdict.apart


def test_text_that_was_trained_says_nothing_of_retention() -> None:
    """A retention source that is also trained on is reported, but not what the verdict on retention is from."""
    rows = [*noisy_rows(40), *text_rows(40, change=1.0), *text_rows(40, "replayed", change=-1.0)]
    for role in ("retention", "replay"):
        roles: dict[str, SourceRole] = {"medical": "domain", "wiki": "retention", "replayed": role}
        proof = proved(*rows, roles=roles, trained=["medical", "replayed"])
        assert proof.sources["replayed"].is_replayed
        assert proof.sources["replayed"].unit == "bits per byte"
        assert proof.verdict.retention == "lost"
        alone = proved(*rows, roles={"medical": "domain", "replayed": role}, trained=["medical", "replayed"])
        assert alone.verdict.retention == "not measured"
    assert "what was forgotten" in " ".join(alone.verdict.not_measured)


def test_several_domain_sources_all_have_to_improve() -> None:
    """One that is worse makes the domain worse; one that is not shown leaves it not shown."""
    roles: dict[str, SourceRole] = {"a": "domain", "b": "domain"}
    for change, shown in ((-1.0, "improved"), (1.0, "worse"), (None, "not shown")):
        second = noisy_rows(40, "b", change=change) if change else noisy_rows(5, "b")
        assert proved(*noisy_rows(40, "a"), *second, roles=roles).verdict.domain == shown


def test_two_tokenizers_are_compared_by_bytes() -> None:
    """Where tokens differ, every source is in bits per byte of the content."""
    proof = prove_rows(noisy_rows(40), [], replace(COMPARED, same_tokenizer=False), roles=ROLES)
    loss = proof.sources["medical"]
    assert loss.unit == "bits per byte"
    assert loss.before == loss.base.bits_per_byte
    assert loss.change.value == pytest.approx((loss.after or 0) - (loss.before or 0))


def answers(texts: list[str], **fields: object) -> list[Answer]:
    """Base and tuned answers to as many held-out rows."""
    filled = {"kind": "holdout", "prompt_tokens": 5, "new_tokens": 9, "source": "medical", "stopped": True} | fields
    return [
        Answer(model=model, text=text, question=f"{n}?", row_id=f"medical{n:08d}", **filled)
        for n, text in enumerate(texts)
        for model in ("base", "tuned")
    ]


def test_answers_that_do_not_end_are_not_usable() -> None:
    """Half of the answers cut off or looping: the verdict says so, whatever the loss does. Others are not judged."""
    rows = noisy_rows(40)
    cut = prove_rows(rows, answers(["약을 드세요."] * 20, stopped=False), COMPARED, roles=ROLES)
    assert cut.verdict.answers == "not usable"
    assert cut.verdict.why_not_usable == ("20 of 20 do not end, repeat themselves or are blank",)
    assert prove_rows(rows, answers(["약을 드세요."] * 20), COMPARED, roles=ROLES).verdict.answers == "not judged"
    assert proved(*rows).verdict.answers == "not asked"


def test_best_and_worst_answers_are_those_whose_loss_moved_most() -> None:
    """Three rows at each end, the most telling first, among those that were answered; none stands at both ends."""
    rows = [measured_row(n, tuned=2 + n / 10, ends=0) for n in range(20)]
    proof = prove_rows(rows, answers(["약"] * 10), COMPARED, roles=ROLES)
    assert [example.row_id[-1] for example in proof.best] == ["0", "1", "2"]
    assert [example.row_id[-1] for example in proof.worst] == ["9", "8", "7"]
    assert proof.best[0].change == pytest.approx(-1)
    few = prove_rows(rows, answers(["약"] * 3), COMPARED, roles=ROLES)
    assert [example.row_id[-1] for example in (*few.best, *few.worst)] == ["0", "1", "2"]


def test_lengths_that_are_known_decide_whether_there_is_an_interval() -> None:
    """20 rows of a source whose other rows are known to be very unequal are too few; of even ones, enough."""
    rows = noisy_rows(20)
    for share, has_interval in ((0.9, True), (0.3, False)):
        found = proved(*rows, effective_shares={"medical": share}).sources["medical"].change
        assert (found.interval is not None) == has_interval
        assert found.n_eff <= 20 * share
    lengths = run_folder.run_lengths()
    shares = effective_shares(lengths)
    assert set(shares) == {"의료_질문", "일반대화"}, "those that are trained on"
    assert all(0 < share < 1 for share in shares.values())
