"""How one tells that a head is the embedding: by the config, the metadata, the place, or the values."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from models import State, cast, formula, near, random_state, read_model, same_bits, write_model
from safetensors.torch import save_model

from pipeline import Difference, apply, compute, open_checkpoint, verify
from pipeline.checkpoints.ties import Head, names_of, tied_by_config

EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"
STATE = cast(random_state(1))
COPIED = {**STATE, HEAD: STATE[EMBEDDING].clone()}
OWN = {**STATE, HEAD: cast(near({HEAD: STATE[EMBEDDING]}, 4))[HEAD]}


class Shared(torch.nn.Module):
    """A model that has one parameter under two names."""

    def __init__(self) -> None:
        super().__init__()
        self.embed_tokens = torch.nn.Linear(4, 6, bias=False)
        self.lm_head = torch.nn.Linear(4, 6, bias=False)
        self.lm_head.weight = self.embed_tokens.weight


def head_of(folder: Path) -> Head:
    with open_checkpoint(str(folder)) as model:
        return names_of(model).head()


@pytest.mark.parametrize(
    ("state", "tie", "head"),
    [
        (STATE, True, Head.TIED), (STATE, False, Head.NONE), (COPIED, True, Head.COPY),
        (COPIED, False, Head.OWN), (OWN, True, Head.OWN), (OWN, False, Head.OWN),
    ],
)  # fmt: skip
def test_a_config_ties_and_values_tell_whether_that_is_so(tmp_path, state, tie, head):
    assert head_of(write_model(tmp_path / "m", state, tie_word_embeddings=tie)) is head
    inner = {"text_config": {"tie_word_embeddings": tie}}
    assert head_of(write_model(tmp_path / "n", state, **inner)) is head


def test_where_a_config_says_nothing_its_architectures_default_counts(tmp_path):
    llama = write_model(tmp_path / "llama", STATE)
    gemma = write_model(
        tmp_path / "gemma", STATE, model_type="gemma", architectures=["GemmaForCausalLM"]
    )
    unknown = write_model(tmp_path / "unknown", STATE, model_type="of-nobody")
    assert [head_of(each) for each in (llama, gemma, unknown)] == [Head.NONE, Head.TIED, Head.NONE]


def test_what_is_no_boolean_ties_nothing():
    assert [tied_by_config({"tie_word_embeddings": odd}) for odd in ("yes", 1, None, [])] == [None] * 4
    assert tied_by_config(None) is tied_by_config({"text_config": 3}) is None


def test_a_file_that_left_duplicates_out_says_so_in_its_metadata(tmp_path):
    write_model(tmp_path, {"w": torch.ones(1)})
    save_model(Shared(), str(tmp_path / "model.safetensors"))
    with open_checkpoint(str(tmp_path)) as model:
        assert len(model.tensors) == 1
        assert dict(model.shared) in (
            {HEAD: "embed_tokens.weight"}, {"embed_tokens.weight": HEAD}
        )  # fmt: skip


def test_metadata_that_names_nothing_is_no_tie(tmp_path):
    from safetensors.torch import save_file

    write_model(tmp_path, STATE)
    save_file(STATE, tmp_path / "model.safetensors", {HEAD: "no.such", "format": "pt", EMBEDDING: "x"})
    with open_checkpoint(str(tmp_path)) as model:
        assert model.shared == {}


def pickled(folder: Path, state: State) -> Path:
    """`state` with its head in the embedding's storage, as torch.save of a tied model writes it."""
    folder = write_model(folder, state, tie_word_embeddings=True)
    (folder / "model.safetensors").unlink()
    torch.save({**state, HEAD: state[EMBEDDING]}, folder / "pytorch_model.bin")
    return folder


def test_two_names_of_one_storage_in_a_pickle_are_one_tensor(tmp_path):
    post = pickled(tmp_path / "post", cast(near(random_state(1), 2)))
    assert head_of(post) is Head.COPY
    base = str(write_model(tmp_path / "base", STATE, tie_word_embeddings=True))
    delta = str(tmp_path / "d.safetensors")
    assert compute(base, str(post), delta).tied == (HEAD,)
    assert verify(delta, base=base, post=str(post)).restores_post
    apply(base, [(delta, 0.5)], str(tmp_path / "out"))
    assert HEAD not in read_model(tmp_path / "out")


@pytest.mark.parametrize("copies", [{"base"}, {"post"}, {"new"}, {"base", "post", "new"}])
def test_where_all_are_tied_copies_or_not_one_tensor_is_written_and_the_config_stays(tmp_path, copies):
    old = random_state(1)
    for seed, name in enumerate(("base", "post", "new")):
        state = cast(near(old, seed))
        head = {HEAD: state[EMBEDDING].clone()} if name in copies else {}
        write_model(tmp_path / name, {**state, **head}, tie_word_embeddings=True)
    delta, base = str(tmp_path / "d.safetensors"), str(tmp_path / "base")
    compute(base, str(tmp_path / "post"), delta)
    assert verify(delta, base=base, post=str(tmp_path / "post")).restores_post
    report = apply(str(tmp_path / "new"), [delta], str(tmp_path / "out"))
    assert HEAD not in read_model(tmp_path / "out")
    assert not report.untied
    assert '"tie_word_embeddings": true' in (tmp_path / "out/config.json").read_text()


def test_one_delta_that_is_untied_unties_the_others(tmp_path):
    old = random_state(1)
    base = write_model(tmp_path / "base", cast(old), tie_word_embeddings=True)
    tied = write_model(tmp_path / "tied", cast(near(old, 2)), tie_word_embeddings=True)
    loose = write_model(tmp_path / "loose", OWN, tie_word_embeddings=False)
    deltas = [str(tmp_path / f"{n}.safetensors") for n in (1, 2)]
    for post, delta in zip((tied, loose), deltas, strict=True):
        compute(str(base), str(post), delta)
    made = []
    for order in (deltas, deltas[::-1]):
        out = tmp_path / f"out{len(made)}"
        apply(str(base), order, str(out))
        made.append(read_model(out)[HEAD].float())
    start, one, two = (
        cast(old)[EMBEDDING].float(),
        read_model(tied)[EMBEDDING].float(),
        OWN[HEAD].float(),
    )
    right = (start + (one - start) + (two - start)).to(torch.bfloat16)
    assert same_bits(made[0].to(torch.bfloat16), right)
    assert torch.allclose(made[0], made[1], rtol=1e-2)


# As T5 and BERT lie in pickles: one storage under names that are the model's own, not `lm_head` alone.
T5 = {
    "shared.weight": ("encoder.embed_tokens.weight", "decoder.embed_tokens.weight", "lm_head.weight"),
    "encoder.norm.weight": (),
}
BERT = {
    "bert.embeddings.word_embeddings.weight": ("cls.predictions.decoder.weight",),
    "cls.predictions.bias": ("cls.predictions.decoder.bias",),
}


def pickled_copies(folder: Path, once: State, copies: dict[str, tuple[str, ...]]) -> Path:
    """`once` as a pickle in which some tensors have further names."""
    more = {name: once[own] for own, names in copies.items() for name in names}
    write_model(folder, once, vocab_size=50, tie_word_embeddings=True)
    (folder / "model.safetensors").unlink()
    torch.save({**once, **more}, folder / "pytorch_model.bin")
    return folder


@pytest.mark.parametrize("copies", [T5, BERT], ids=["T5", "BERT"])
@pytest.mark.parametrize("pickles", ["base", "post", "base new", "new", "base post new"])
def test_what_pickles_have_under_several_names_meets_what_others_have_once(tmp_path, copies, pickles):
    shapes = {name: (50, 4) if index == 0 else (50,) for index, name in enumerate(copies)}
    state = cast({name: torch.randn(shape) for name, shape in shapes.items()})
    sides = {"base": state, "post": cast(near(state, 2)), "new": cast(near(state, 3, scale=0.1))}
    for name, once in sides.items():
        if name in pickles:
            pickled_copies(tmp_path / name, once, copies)
        else:
            write_model(tmp_path / name, once, vocab_size=50, tie_word_embeddings=True)
    base, post, new = (str(tmp_path / name) for name in sides)
    delta = str(tmp_path / "d.safetensors")
    compute(base, post, delta)
    assert verify(delta, base=base, post=post).restores_post
    apply(new, [delta], str(tmp_path / "out"))
    found = read_model(tmp_path / "out")
    for own, names in copies.items():
        wanted = formula(sides["new"][own], (1.0, sides["post"][own], sides["base"][own]))
        assert all(same_bits(found[name], wanted) for name in (own, *names) if name in found)
        assert own in found


@pytest.mark.parametrize("copies", [T5, BERT], ids=["T5", "BERT"])
def test_deltas_with_and_without_copies_add_up_in_either_order(tmp_path, copies):
    shapes = {name: (50, 4) if index == 0 else (50,) for index, name in enumerate(copies)}
    state = cast({name: torch.randn(shape) for name, shape in shapes.items()})
    post, new = cast(near(state, 2)), cast(near(state, 3, scale=0.1))
    said = {"vocab_size": 50, "tie_word_embeddings": True}
    base, once, base_to_be = (
        str(write_model(tmp_path / name, each, **said))
        for name, each in (("base", state), ("once", post), ("new", new))
    )
    more = str(pickled_copies(tmp_path / "more", post, copies))
    for order in ((once, more), (more, once)):
        sum_of = [(Difference(base, each), 0.5) for each in order]
        apply(base_to_be, sum_of, str(tmp_path / "out"), overwrite=True)
        found = read_model(tmp_path / "out")
        for own, names in copies.items():
            wanted = formula(new[own], (0.5, post[own], state[own]), (0.5, post[own], state[own]))
            assert all(same_bits(found[name], wanted) for name in (own, *names) if name in found)


def test_copies_lie_apart_only_where_a_config_ties_them(tmp_path):
    table = "bert.embeddings.word_embeddings.weight"
    head = "cls.predictions.decoder.weight"
    base = {table: torch.ones(50, 4)}
    post = {table: torch.ones(50, 4) * 2, head: torch.ones(50, 4) * 2}
    for tie, carried in ((True, ()), (False, (head,))):
        config = {"vocab_size": 50, "tie_word_embeddings": tie}
        paths = [write_model(tmp_path / n, s, **config) for n, s in (("base", base), ("post", post))]
        report = compute(*map(str, paths), str(tmp_path / "d.safetensors"), overwrite=True)
        assert report.only_post == carried
