"""What we measure of a real model is what lm-evaluation-harness measures, and what plain torch does."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from pipeline.quality.divergence import divergence_figures, measure_divergence
from pipeline.quality.likelihood import measure_text, text_figures
from pipeline.quality.subject import load_subject
from pipeline.quality.texts import TextSet, read_texts

pytestmark = [pytest.mark.real, pytest.mark.slow]

HELD_OUT = Path(__file__).parents[2] / "examples" / "family" / "heldout" / "topics.txt"
WINDOW = 256


@pytest.fixture(scope="module")
def texts() -> TextSet:
    """Four documents of the language reference, the longest of several windows."""
    found = read_texts(str(HELD_OUT))
    return TextSet(found.name, found.digest, sorted(found.documents, key=len)[-5:-1])


def tokens_of(tokenizer: object, text: str) -> list[int]:
    return tokenizer(text, add_special_tokens=False)["input_ids"]  # type: ignore[operator]


def test_bits_per_byte_are_those_of_the_harness(base: Path, texts: TextSet) -> None:
    lm_eval = pytest.importorskip("lm_eval")
    from lm_eval.api.instance import Instance
    from lm_eval.models.huggingface import HFLM

    assert lm_eval
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(base)
    harness = HFLM(pretrained=model, tokenizer=tokenizer, max_length=WINDOW, batch_size=1, device="cpu")
    requests = [
        Instance("loglikelihood_rolling", {}, (document,), n)
        for n, document in enumerate(texts.documents)
    ]
    theirs = harness.loglikelihood_rolling(requests, disable_tqdm=True)
    scores = measure_text(load_subject(str(base), dtype="float32"), texts, window=WINDOW)
    assert [score.nats for score in scores] == pytest.approx([-each for each in theirs], rel=1e-5)
    wanted = -sum(theirs) / math.log(2) / texts.nbytes
    found = text_figures(scores)["bits_per_byte"].value
    print(f"bits per byte: {found:.6f}, of the harness: {wanted:.6f}")
    assert found == pytest.approx(wanted, rel=1e-5)


def test_kl_is_that_of_whole_logits_in_float64(base: Path, post: Path, texts: TextSet) -> None:
    models = [AutoModelForCausalLM.from_pretrained(p, dtype=torch.float32) for p in (post, base)]
    tokenizer = AutoTokenizer.from_pretrained(base)
    wanted, same = [], 0
    for document in texts.documents:
        ids = tokens_of(tokenizer, document)[:WINDOW]
        inputs = torch.tensor([[tokenizer.bos_token_id, *ids[:-1]]])
        with torch.inference_mode():
            ours, theirs = (model(inputs).logits[0].double().log_softmax(-1) for model in models)
        wanted += (theirs.exp() * (theirs - ours)).sum(-1).tolist()
        same += int((ours.argmax(-1) == theirs.argmax(-1)).sum())
    starts = [tokenizer.decode(tokens_of(tokenizer, text)[:WINDOW]) for text in texts.documents]
    subject, reference = (load_subject(str(p), dtype="float32") for p in (post, base))
    cut = TextSet(texts.name, texts.digest, starts)
    figures = divergence_figures(measure_divergence(subject, reference, cut, window=WINDOW))
    values = torch.tensor(wanted, dtype=torch.float64)
    print(f"KL: {figures['kl.mean'].value:.6g}, of whole logits: {values.mean():.6g}")
    assert figures["kl.mean"].count == len(wanted)
    assert figures["kl.mean"].value == pytest.approx(values.mean().item(), rel=1e-4)
    assert figures["kl.median"].value == pytest.approx(values.median().item(), rel=1e-2)
    assert figures["kl.p99"].value == pytest.approx(values.quantile(0.99).item(), rel=1e-4)
    assert figures["same_top"].value == pytest.approx(same / len(wanted), abs=2 / len(wanted))
