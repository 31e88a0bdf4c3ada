"""KL and same-top rate against a reference: equal to brute force, and across tokenizers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from quality.text_models import FAMILY, TEXT, bpe, plain_model, save_model
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from pipeline.errors import Mismatch
from pipeline.quality.divergence import (
    DocumentDivergence,
    divergence_figures,
    measure_divergence,
)
from pipeline.quality.meeting import divergence
from pipeline.quality.spelling import UNKNOWN, read_vocabulary, token_ends
from pipeline.quality.subject import Subject, load_subject
from pipeline.quality.texts import TextSet

TEXTS = TextSet("t", "", ["Return the name of the file.", "A ValueError is raised if x < 0."])


def loaded(place: Path) -> Subject:
    return load_subject(str(place), dtype="float32")


def brute_force(p: torch.Tensor, q: torch.Tensor) -> torch.Tensor:
    """KL of whole rows of logits, in float64."""
    p, q = p.double().log_softmax(-1), q.double().log_softmax(-1)
    return (p.exp() * (p - q)).sum(-1)


@pytest.mark.parametrize("scale", [0.02, 0.2, 3.0])
def test_a_row_s_divergence_is_right_to_four_digits_though_small(scale):
    generator = torch.Generator().manual_seed(3)
    p = torch.randn(4, 30_000, generator=generator) * 3
    q = p + scale * torch.randn(p.shape, generator=generator) + 7
    found, wanted = divergence(p.clone(), q.clone()), brute_force(p, q)
    assert wanted.mean() > 1e-4
    assert found.mean().item() == pytest.approx(wanted.mean().item(), rel=5e-5)


def test_tokens_that_cannot_be_count_for_nothing():
    p = torch.tensor([[0.0, 1.0, -torch.inf], [0.0, 1.0, 2.0]])
    q = torch.tensor([[0.0, 1.0, -torch.inf], [0.0, 1.0, -torch.inf]])
    assert divergence(p, q).tolist() == [0.0, torch.inf]


@pytest.mark.parametrize("name", ["post-v1", "base-v2"])
def test_figures_are_those_of_whole_logits_on_the_tokens_that_both_have(name):
    model, reference = loaded(FAMILY / name), loaded(FAMILY / "post-v2")
    figures = divergence_figures(measure_divergence(model, reference, TEXTS))
    tokenizer = AutoTokenizer.from_pretrained(FAMILY / name)
    rows, wanted, tops, shared = len(tokenizer), [], [], []
    for text in TEXTS.documents:
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        inputs = torch.tensor([[0, *ids[:-1]]])
        q = plain_model(name)(inputs).logits[0]
        p = plain_model("post-v2")(inputs).logits[0]
        wanted.append(brute_force(p[:, :rows], q[:, :rows]))
        tops.append(p.argmax(-1) == q.argmax(-1))
        shared.append(p.softmax(-1)[:, :rows].sum(-1))
    every = torch.cat(wanted).detach().numpy()
    assert figures["kl.mean"].value == pytest.approx(every.mean(), rel=1e-4)
    assert figures["kl:t.median"].value == pytest.approx(np.median(every), rel=1e-3)
    assert figures["kl.p99"].value == pytest.approx(np.percentile(every, 99), rel=1e-3)
    assert figures["same_top:t"].value == pytest.approx(torch.cat(tops).double().mean().item())
    assert figures["kl.shared"].value == pytest.approx(torch.cat(shared).mean().item(), rel=1e-4)
    assert figures["kl.compared"].value == 1 and figures["kl.mean"].count == len(every)


def test_a_model_is_no_distance_from_itself():
    model = loaded(FAMILY / "base-v1")
    figures = divergence_figures(measure_divergence(model, model, TEXTS, window=5, batch=3))
    assert figures["kl.p99"].value == 0 and figures["same_top"].value == 1


def test_other_tokenizers_are_compared_where_both_have_read_the_same_bytes(tmp_path):
    small, large = bpe(280), bpe(340)
    models = [save_model(tmp_path / name, t) for name, t in (("small", small), ("large", large))]
    text = TEXT.strip()
    found = measure_divergence(
        loaded(tmp_path / "small"), loaded(tmp_path / "large"), TextSet("t", "", [text]), window=64
    )
    readings, ends, logits = [], [], []
    for tokenizer, model in zip((small, large), models, strict=True):
        ids = tokenizer(text)["input_ids"]
        spelled = [tokenizer.decode([n]) for n in ids]
        readings.append(ids)
        ends.append([0, *np.cumsum([tokenizer.convert_ids_to_tokens(n).__len__() for n in ids])])
        logits.append(model(torch.tensor([[0, *ids[:-1]]])).logits[0])
        assert len(spelled) <= 64
    vocabularies = [tokenizer.get_vocab() for tokenizer in (small, large)]
    shared = sorted(vocabularies[0].keys() & vocabularies[1].keys())
    columns = [[vocabulary[token] for token in shared] for vocabulary in vocabularies]
    common = sorted(set(ends[0][:-1]) & set(ends[1][:-1]))
    rows = [[side.index(end) for end in common] for side in ends]
    q, p = (logits[n][rows[n]][:, columns[n]] for n in (0, 1))
    assert len(readings[1]) < len(readings[0])  # they do cut it in other ways
    assert sorted(found[0].kl) == pytest.approx(sorted(brute_force(p, q).tolist()), rel=1e-3)
    figures = divergence_figures(found)
    assert figures["kl.compared"].value == pytest.approx(len(common) / len(readings[0]))
    assert 0.5 < figures["kl.shared"].value < 1


def test_tokenizers_with_too_little_in_common_are_refused(tmp_path):
    words = {"<eos>": 0, **{f"w{n}": n + 1 for n in range(40)}}
    other = Tokenizer(models.WordLevel(words, unk_token="<eos>"))
    other.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    strange = PreTrainedTokenizerFast(tokenizer_object=other, eos_token="<eos>")
    save_model(tmp_path / "words", strange)
    save_model(tmp_path / "bytes", bpe(280))
    with pytest.raises(Mismatch, match="positions of t can be compared"):
        measure_divergence(
            loaded(tmp_path / "bytes"), loaded(tmp_path / "words"), TextSet("t", "", ["onelongword" * 9])
        )


def test_figures_of_several_sets_pool_their_positions():
    found = [
        DocumentDivergence("a", 0, 4, np.array([1.0, 2.0]), 1, 2.0),
        DocumentDivergence("b", 0, 2, np.array([4.0, 5.0]), 2, 1.0),
    ]
    figures = divergence_figures(found)
    assert (figures["kl.mean"].value, figures["kl.median"].value) == (3.0, 3.0)
    assert (figures["kl:a.mean"].value, figures["kl:b.compared"].value) == (1.5, 1.0)
    assert (figures["same_top"].value, figures["kl.shared"].value) == (0.75, 0.75)
    assert figures["kl:a.compared"].value == 0.5


def test_tokens_are_spelled_in_bytes_whatever_their_tokenizer_writes():
    byte_level = bpe(300)
    vocabulary = read_vocabulary(byte_level)
    text = "naïve <eos> the — 3"
    ids = byte_level(text)["input_ids"]
    ends = token_ends(byte_level, vocabulary, text, ids)
    assert b"".join(vocabulary.pieces[n] for n in ids) == text.encode()
    assert ends[-1] == len(text.encode()) and ends == sorted(ends)

    words = {"<unk>": 0, "▁the": 1, "▁dog": 2, "<0xC3>": 3, "<0xA4>": 4, "s": 5}
    model = models.BPE(words, [], unk_token="<unk>", byte_fallback=True)
    sentence = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(model), unk_token="<unk>")
    pieces = read_vocabulary(sentence)
    assert pieces.ids["", b" the"] == 1 and pieces.ids["byte", b"\xc3"] == 3
    assert vocabulary.ids["", b" the"] == byte_level.convert_tokens_to_ids("Ġthe")
    assert token_ends(sentence, pieces, "the dogsä", [1, 2, 5, 3, 4]) == [3, 7, 8, 9, 10]


def test_where_bytes_do_not_make_the_text_the_tokenizer_s_own_places_count():
    folded = bpe(300)
    backend = folded.backend_tokenizer
    from tokenizers import normalizers

    backend.normalizer = normalizers.Lowercase()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<eos>")
    text = "THE é DOG"
    ids = tokenizer(text)["input_ids"]
    ends = token_ends(tokenizer, read_vocabulary(tokenizer), text, ids)
    known = [end for end in ends if end != UNKNOWN]
    assert ends[-1] == len(text.encode()) and known == sorted(known)
    assert {3, 6} <= set(known)
    assert 5 not in known  # in the middle of é
