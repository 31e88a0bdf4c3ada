"""Bits per byte and perplexity, against plain transformers; errors per document; finite logits."""

from __future__ import annotations

import math

import pytest
import torch
from quality.text_models import FAMILY, plain_model
from transformers import AutoTokenizer, Gemma2Config, Gemma2ForCausalLM, GPT2Config, GPT2LMHeadModel

from pipeline.quality.likelihood import DocumentScore, measure_text, text_figures
from pipeline.quality.logits import Head
from pipeline.quality.subject import Subject, load_subject
from pipeline.quality.texts import TextSet, read_texts
from pipeline.quality.windows import Window


@pytest.fixture(scope="module")
def subject() -> Subject:
    return load_subject(str(FAMILY / "base-v2"), dtype="float32")


@pytest.fixture(scope="module")
def texts() -> TextSet:
    found = read_texts(str(FAMILY / "heldout" / "docstrings.txt"))
    return TextSet("some", found.digest, found.documents[:12])


def plain_nats(text: str, window: int) -> float:
    """The negative log-likelihood of all tokens, one forward pass for each token, without windows."""
    model, tokenizer = plain_model("base-v2"), AutoTokenizer.from_pretrained(FAMILY / "base-v2")
    ids = [tokenizer.bos_token_id, *tokenizer(text, add_special_tokens=False)["input_ids"]]
    assert len(ids) - 1 <= window
    logits = model(torch.tensor([ids])).logits[0].double().log_softmax(-1)
    return -sum(logits[n, token].item() for n, token in enumerate(ids[1:]))


def test_nats_are_those_of_one_plain_pass_over_each_document(subject, texts):
    scores = measure_text(subject, texts)
    short = [score for score in scores if score.tokens <= subject.context]
    assert len(short) > 5
    for score in short:
        wanted = plain_nats(texts.documents[score.document], subject.context)
        assert score.nats == pytest.approx(wanted, rel=1e-5)
        assert score.nbytes == len(texts.documents[score.document].encode())


def test_batches_change_nothing_and_windows_lose_no_token(subject, texts):
    many, one = (measure_text(subject, texts, window=40, batch=batch) for batch in (16, 1))
    assert [s.nats for s in many] == pytest.approx([s.nats for s in one], rel=1e-5)
    assert [s.tokens for s in many] == [s.tokens for s in measure_text(subject, texts)]
    assert many == measure_text(subject, texts, window=40, batch=16)  # to the last bit


def test_figures_are_sums_over_documents_with_the_error_of_a_ratio():
    scores = [DocumentScore("a", 0, 10, 4, 8.0, 40, 40), DocumentScore("a", 1, 30, 6, 12.0, 60, 60)]
    scores.append(DocumentScore("b", 0, 5, 2, math.nan, 10, 20))
    figures = text_figures(scores)
    value = 20 / 40
    error = math.sqrt(2 * ((8 - value * 10) ** 2 + (12 - value * 30) ** 2)) / 40 / math.log(2)
    bits = figures["bits_per_byte:a"]
    assert (bits.value, bits.standard_error) == pytest.approx((value / math.log(2), error))
    assert bits.count == 40
    assert figures["perplexity:a"].value == pytest.approx(math.exp(2))
    assert figures["bits_per_byte:b"].standard_error is None
    assert math.isnan(figures["bits_per_byte"].value) and math.isnan(figures["perplexity:b"].value)
    assert figures["finite"].value == 110 / 120 and figures["finite:a"].value == 1


def test_logits_that_are_no_numbers_are_counted(texts):
    broken = load_subject(str(FAMILY / "base-v2"), dtype="float32")
    with torch.no_grad():
        broken.model.get_input_embeddings().weight[7] = math.inf  # the head's row too: they are tied
    text = TextSet("x", "", ["plain words"])
    figures = text_figures(measure_text(broken, text))
    rows = broken.model.config.vocab_size
    assert figures["finite:x"].value == pytest.approx((rows - 1) / rows)


def test_progress_tells_of_every_byte_once(subject, texts):
    from contextlib import contextmanager

    told: list[int] = []

    @contextmanager
    def progress(title: str, total: int):
        told.append(-total)
        yield told.append

    measure_text(subject, texts, window=30, progress=progress)
    assert sum(told) == 0 and min(told[1:]) >= 0


def gemma() -> Gemma2ForCausalLM:
    """With logits that are capped behind the head."""
    config = Gemma2Config(
        vocab_size=50, hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=1, head_dim=8, final_logit_softcapping=0.5, initializer_range=1.0,
    )  # fmt: skip
    return Gemma2ForCausalLM(config).eval()


def gpt2() -> GPT2LMHeadModel:
    """With another name for its body."""
    return GPT2LMHeadModel(GPT2Config(vocab_size=50, n_embd=16, n_layer=1, n_head=2)).eval()


@pytest.mark.parametrize("make", [gemma, gpt2])
def test_a_few_positions_at_a_time_give_the_logits_of_the_whole_model(make):
    torch.manual_seed(1)
    model, ids = make(), list(range(1, 21))
    head = Head(model)
    assert head.is_bounded
    states = head.read([Window(0, ids, ids[4:], 4), Window(1, ids[:5], ids[:5], 0)])
    parts = torch.cat([head.logits(states[at : at + 3]) for at in range(0, len(states), 3)])
    with torch.inference_mode():
        whole = model(torch.tensor([ids])).logits[0]
    assert states.shape[1] == 16
    torch.testing.assert_close(parts[:16], whole[4:])
    torch.testing.assert_close(parts[16:], whole[:5])
    assert "forward" not in vars(getattr(model, model.base_model_prefix))


def test_a_model_that_has_no_such_halves_is_measured_whole():
    torch.manual_seed(1)
    model, ids = gpt2(), list(range(1, 9))
    model.base_model_prefix = "lm_head"  # which gives no hidden states
    head = Head(model)
    assert not head.is_bounded
    found = head.logits(head.read([Window(0, ids, ids, 0)]))
    torch.testing.assert_close(found, model(torch.tensor([ids])).logits[0])
