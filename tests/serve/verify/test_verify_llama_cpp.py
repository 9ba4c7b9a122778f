"""llama.cpp's own server over GGUF files of a run's weights: what is the same, and what is not."""

from pathlib import Path

import pytest
from transformers import AutoModelForCausalLM, AutoTokenizer

from seodang.run.folder import Run
from seodang.serve.verify.endpoint import Endpoint
from seodang.serve.verify.reference import Reference
from seodang.serve.verify.result import Verification
from seodang.serve.verify.verify import verify_endpoint
from tiny_gguf import write_llama
from tiny_server import tiny_server

pytest.importorskip("xllamacpp")


def _served(run: Run, reference: Reference, path: Path, quantization: str) -> Verification:
    """A GGUF file that adds BOS, as the run's template does: llama.cpp writes it once."""
    model, tokenizer = (auto.from_pretrained(run.model) for auto in (AutoModelForCausalLM, AutoTokenizer))
    write_llama(model, tokenizer, path, quantization, add_bos=True)
    with tiny_server(run.folder, engine="llama.cpp", gguf=path) as (server, _):
        return verify_endpoint(Endpoint(url=server.url, model=server.model), reference, questions=8)


@pytest.mark.slow
def test_the_run_s_weights_in_a_gguf_file_are_the_same(run: Run, reference: Reference, tmp_path: Path) -> None:
    """The server shows token ids and log-probabilities: all prompts are equal, and answers but for rounding."""
    found = _served(run, reference, tmp_path / "demo.gguf", "F32")
    assert found.causes == ()
    assert found.verdict in ("same", "same up to rounding")
    assert len(found.prompts) == 5
    assert all(check.is_same for check in found.prompts)
    assert not found.notes
    assert any(check.served_stop for check in found.answers)


@pytest.mark.slow
def test_quantized_weights_are_named(run: Run, reference: Reference, tmp_path: Path) -> None:
    """Four bits are other weights, and the engine reports them."""
    found = _served(run, reference, tmp_path / "demo.gguf", "Q4_0")
    assert [cause.name for cause in found.causes] == ["quantization"]
    assert "Q4_0" in found.causes[0].what
