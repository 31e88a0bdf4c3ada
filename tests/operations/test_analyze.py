"""analyze: figures of deltas, equal to what whole tensors in float64 say, in a folder."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path
from random import Random

import pytest
import torch
from models import cast, near, random_state, write_model
from operations.conftest import Family, Snapshot
from tokenizers_for_tests import put, words

from pipeline import analyze, combine, compute
from pipeline.analysis.report import Agreement, Analysis, Part, TensorFigures
from pipeline.errors import CorruptFile, Mismatch, NotFound, OutputExists, UsageError
from pipeline.quality.report import Evaluation, Measurement, Scores

EMBEDDING = "model.embed_tokens.weight"
GROUP_OF = {
    "self_attn": "attention",
    "mlp": "mlp",
    "norm": "norm",
    "layernorm": "norm",
    "embed": "embedding",
}


def delta_of(family: Family, post: str, **options: object) -> str:
    path = str(family.folder / f"{post}.safetensors")
    compute(family.base, str(family.folder / post), path, **options)
    return path


def run(deltas: list[str], folder: Path, **options: object) -> Analysis:
    """The analysis as the file says it."""
    analyze(deltas, str(folder), **{"plots": "none", **options})
    return Analysis.from_json((folder / "analysis.json").read_text(), where="analysis.json")


def differences(family: Family, post: str = "post") -> dict[str, torch.Tensor]:
    base, after = family.state("base"), family.state(post)
    return {name: (after[name].double() - base[name].double()).flatten() for name in base}


def group_of(name: str) -> str:
    return next(group for word, group in GROUP_OF.items() if word in name)


def assert_part(
    found: Part | TensorFigures, deltas: list[torch.Tensor], bases: list[torch.Tensor]
) -> None:
    delta, base = torch.cat(deltas), torch.cat([each.double().flatten() for each in bases])
    assert found.elements == len(delta)
    assert found.changed == pytest.approx(float((delta != 0).double().mean()), rel=1e-12)
    assert found.l2 == pytest.approx(float(delta.norm()), rel=1e-9)
    assert found.relative == pytest.approx(float(delta.norm() / base.norm()), rel=1e-6)
    assert found.max == float(delta.abs().max())


@pytest.mark.parametrize("codec", ["rans", "none"])
def test_norms_are_those_of_whole_tensors(family: Family, tmp_path: Path, codec: str):
    (found,) = run([delta_of(family, "post", codec=codec)], tmp_path / "out").deltas
    deltas, bases = differences(family), family.state("base")
    assert {each.name for each in found.tensors} == set(deltas)
    for each in found.tensors:
        assert_part(each, [deltas[each.name]], [bases[each.name]])
    assert_part(found.total, list(deltas.values()), list(bases.values()))
    for part in found.groups:
        names = [name for name in deltas if group_of(name) == part.group]
        assert part.tensors == len(names)
        assert_part(part, [deltas[name] for name in names], [bases[name] for name in names])
    for part in found.layers:
        names = [name for name in deltas if f"layers.{part.layer}." in name]
        assert_part(part, [deltas[name] for name in names], [bases[name] for name in names])
    assert [(cell.layer, cell.module) for cell in found.cells if cell.layer == 0] == [
        (0, "q_proj"), (0, "up_proj"), (0, "input_layernorm"),
    ]  # fmt: skip


def test_singular_values_are_numpy_s(family: Family, tmp_path: Path):
    (found,) = run([delta_of(family, "post")], tmp_path / "out").deltas
    deltas, shapes = differences(family), {n: t.shape for n, t in family.state("base").items()}
    with_spectrum = {each.name: each.spectrum for each in found.tensors if each.spectrum}
    assert set(with_spectrum) == {name for name, shape in shapes.items() if len(shape) == 2}
    for name, spectrum in with_spectrum.items():
        shares = torch.linalg.svdvals(deltas[name].reshape(shapes[name])) ** 2
        shares = shares / shares.sum()
        entropy = float(-(shares * shares.clamp_min(1e-300).log()).sum())
        assert spectrum.effective_rank == pytest.approx(float(torch.tensor(entropy).exp()), rel=1e-6)
        assert spectrum.energy["4"] == pytest.approx(float(shares[:4].sum()), rel=1e-6)
        assert not spectrum.sampled


def test_every_element_is_in_the_histogram(family: Family, tmp_path: Path):
    (found,) = run([delta_of(family, "post")], tmp_path / "out").deltas
    values = torch.cat(list(differences(family).values()))
    everything, *groups = found.histograms
    assert sum(everything.counts) + everything.zeros == len(values)
    assert everything.zeros == int((values == 0).sum()) == sum(each.zeros for each in groups)
    exponents = values[values != 0].abs().log2().floor()
    for place, count in enumerate(everything.counts):
        assert count == int((exponents == everything.first + place).sum())


def assert_agreement(found: Agreement, left: torch.Tensor, right: torch.Tensor) -> None:
    both = (left != 0) & (right != 0)
    if not both.any():
        assert (found.cosine in (None, 0.0), found.same_sign) == (True, None)
        return
    assert found.cosine == pytest.approx(float(left @ right / left.norm() / right.norm()), abs=1e-9)
    assert found.both == pytest.approx(float(both.double().mean()), rel=1e-12)
    same = (left[both] > 0) == (right[both] > 0)
    assert found.same_sign == pytest.approx(float(same.double().mean()), rel=1e-12)


def test_deltas_are_compared_with_each_other(family: Family, tmp_path: Path):
    family.add("other", cast(near(random_state(1), 9)))
    paths = [delta_of(family, "post"), delta_of(family, "other"), delta_of(family, "new-base")]
    found = run(paths, tmp_path / "out")
    assert [(pair.first, pair.second) for pair in found.pairs] == [(0, 1), (0, 2), (1, 2)]
    left, right = differences(family), differences(family, "other")
    pair = found.pairs[0]
    assert_agreement(pair.total, *(torch.cat([side[name] for name in left]) for side in (left, right)))
    for part in pair.layer_groups:
        names = [n for n in left if f"layers.{part.layer}." in n and group_of(n) == part.group]
        assert_agreement(part, *(torch.cat([side[name] for name in names]) for side in (left, right)))


def test_a_delta_agrees_with_itself_and_disagrees_with_its_opposite(family: Family, tmp_path: Path):
    path = delta_of(family, "post")
    opposite = str(tmp_path / "opposite.safetensors")
    combine([(path, -1.0)], opposite)
    found = run([path, path, opposite], tmp_path / "out")
    cosines = [pair.total.cosine for pair in found.pairs]
    assert cosines == [pytest.approx(1.0), pytest.approx(-1.0), pytest.approx(-1.0)]
    assert [pair.total.same_sign for pair in found.pairs] == [1.0, 0.0, 0.0]


def test_rows_that_the_base_lacks_and_carried_tensors_are_named_and_not_counted(
    family: Family, tmp_path: Path
):
    base = {**cast(random_state(1)), "steps": torch.arange(3)}
    post = {**cast(near(random_state(1), 2, vocab=57)), "steps": torch.arange(3) + 1}
    family.add("base", base)
    family.add("post", post)
    path = delta_of(family, "post")
    (found,) = run([path], tmp_path / "out").deltas
    by_name = {each.name: each for each in found.tensors}
    grown, carried = by_name[EMBEDDING], by_name["steps"]
    assert (grown.shape, grown.grown_rows, grown.elements) == ((57, 16), 7, 50 * 16)
    known = post[EMBEDDING][:50].double() - base[EMBEDDING].double()
    assert_part(grown, [known.flatten()], [base[EMBEDDING]])
    assert carried.elements == 0 and carried.left_out and "I64" in carried.left_out
    assert found.total.elements == sum(each.elements for each in found.tensors)


def test_rows_that_the_base_lacks_are_not_counted_wherever_they_stand(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    base = cast(random_state(1))
    post = cast(near(random_state(1), 2))
    tokens = [f"w{number}" for number in range(50)]
    order = Random(3).sample([*tokens, "new-1", "new-2", "new-3"], 53)
    at = {token: row for row, token in enumerate(tokens)}
    new = torch.full((16,), 5.0).bfloat16()
    post[EMBEDDING] = torch.stack([post[EMBEDDING][at[t]] if t in at else new for t in order])
    put(write_model(Path("base"), base, tie_word_embeddings=True), words(tokens))
    put(write_model(Path("post"), post, tie_word_embeddings=True, vocab_size=53), words(order))
    compute("./base", "./post", "./d.safetensors")
    before, after = base[EMBEDDING], post[EMBEDDING]
    known = [(row, at[token]) for row, token in enumerate(order) if token in at]
    delta = torch.cat([after[row].double() - before[own].double() for row, own in known])
    for options in ({}, {"base": "./base"}):
        (found,) = run(["./d.safetensors"], Path(f"out-{len(options)}"), **options).deltas
        (grown,) = (each for each in found.tensors if each.name == EMBEDDING)
        assert (grown.grown_rows, grown.elements) == (3, 50 * 16)
        assert_part(grown, [delta], [base[EMBEDDING]])
        (counts,) = (each for each in found.histograms if each.group == "embedding")
        assert sum(counts.counts) + counts.zeros == 50 * 16
    (pair,) = run(["./d.safetensors", "./d.safetensors"], Path("pair")).pairs
    (embedding,) = (part for part in pair.groups if part.group == "embedding")
    assert embedding.elements == 50 * 16 and embedding.cosine == pytest.approx(1)
    write_model(Path("other"), cast(random_state(1, vocab=60)), tie_word_embeddings=True)
    with pytest.raises(Mismatch, match="has 60 rows, not the 50 of the base of"):
        run(["./d.safetensors"], Path("out-3"), base="./other")
    compute("./base", "./base", "./own.safetensors")
    with pytest.raises(Mismatch, match=r"own\.safetensors stood in another order"):
        run(["./d.safetensors", "./own.safetensors"], Path("out-4"), base="./base")


def test_a_tied_head_of_the_base_is_measured_as_the_delta_knows_it(tmp_path: Path) -> None:
    base, post = cast(random_state(1)), cast(near(random_state(1), 2))
    post["lm_head.weight"] = post[EMBEDDING] * 2
    old = write_model(tmp_path / "base", base, tie_word_embeddings=True)
    new = write_model(tmp_path / "post", post, tie_word_embeddings=False)
    compute(str(old), str(new), str(tmp_path / "d.safetensors"))
    (found,) = run([str(tmp_path / "d.safetensors")], tmp_path / "out", base=str(old)).deltas
    norms = {each.name: each.base_l2 for each in found.tensors}
    assert norms["lm_head.weight"] == norms[EMBEDDING] > 0


def test_tensors_that_do_not_stand_element_against_element_are_not_compared(
    family: Family, tmp_path: Path
):
    path = delta_of(family, "post")
    wider = cast(random_state(1, vocab=60))
    base, post = (
        family.add("base-60", wider),
        family.add("post-60", cast(near(random_state(1, vocab=60), 3))),
    )
    compute(base, post, str(tmp_path / "wide.safetensors"))
    (pair,) = run([path, str(tmp_path / "wide.safetensors")], tmp_path / "out").pairs
    assert (list(pair.uncompared), pair.uncompared_count) == ([EMBEDDING], 1)
    assert {part.group for part in pair.groups} == {"attention", "mlp", "norm"}


def test_another_base_is_measured_on_request(family: Family, tmp_path: Path):
    path = delta_of(family, "post")
    (found,) = run([path], tmp_path / "out", base=family.new_base).deltas
    deltas, bases = differences(family), family.state("new-base")
    assert found.measured_base == family.new_base
    assert_part(found.total, list(deltas.values()), [bases[name] for name in deltas])


def test_a_base_that_does_not_fit_is_refused_with_what_differs(family: Family, tmp_path: Path):
    path = delta_of(family, "post")
    other = family.add("other", cast(random_state(1, layers=1)))
    with pytest.raises(Mismatch, match=r"layers\.1\.mlp\.up_proj\.weight is missing"):
        run([path], tmp_path / "out", base=other)
    assert not (tmp_path / "out").exists()


def large_family(family: Family) -> list[str]:
    """Deltas of several chunks, whose rows lie across the chunks' ends."""
    base = {"layers.0.mlp.up_proj.weight": random_state(1)[EMBEDDING].repeat(60, 63)[:, :777]}
    for seed, name in enumerate(("base", "one", "two")):
        torch.manual_seed(seed)
        state = {key: value + 1e-3 * seed * torch.randn(value.shape) for key, value in base.items()}
        family.add(name, cast(state))
    return [delta_of(family, "one"), delta_of(family, "two")]


def test_the_file_is_the_same_whatever_the_workers_and_the_memory(family: Family, tmp_path: Path):
    paths = large_family(family)
    found = [
        replace(
            run(paths, tmp_path / f"{workers}", workers=workers, memory=memory), seconds=0, started=""
        )
        for workers, memory in ((1, "256MiB"), (4, "1GiB"))
    ]
    assert found[0].to_json() == found[1].to_json()
    (tensor,) = found[0].deltas[0].tensors
    assert tensor.elements > 4 << 19 and tensor.spectrum and tensor.spectrum.sampled


def test_what_does_not_fit_into_the_memory_is_refused(family: Family, tmp_path: Path):
    with pytest.raises(UsageError, match="memory"):
        run([delta_of(family, "post")], tmp_path / "out", memory="1MiB")


def test_a_damaged_delta_has_no_figures(family: Family, tmp_path: Path):
    path = Path(delta_of(family, "post", codec="none"))
    data = bytearray(path.read_bytes())
    embedding = differences(family)[EMBEDDING].to(torch.bfloat16).view(torch.uint8).numpy().tobytes()
    data[data.index(embedding[:64])] ^= 1
    path.write_bytes(data)
    with pytest.raises(CorruptFile, match="digest"):
        run([str(path)], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_nothing_is_overwritten_silently(family: Family, tmp_path: Path, snapshot: Snapshot):
    path = delta_of(family, "post")
    run([path], tmp_path / "out", plots="svg")
    before = snapshot(tmp_path / "out")
    with pytest.raises(OutputExists):
        run([path], tmp_path / "out")
    assert snapshot(tmp_path / "out") == before
    run([path], tmp_path / "out", overwrite=True)
    assert set(snapshot(tmp_path / "out")) == {"analysis.json"}


def test_a_dry_run_reads_headers_and_writes_nothing(family: Family, tmp_path: Path):
    path = delta_of(family, "post")
    report = analyze([path], str(tmp_path / "out"), dry_run=True)
    assert (report.dry_run, report.analysis, report.files) == (True, None, ())
    assert report.elements == sum(len(each) for each in differences(family).values())
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("deltas", "options", "message"),
    [
        ([], {}, "no delta"),
        (["d"] * 17, {}, "17 deltas"),
        (["d"], {"plots": "svg,pdf"}, "'pdf'"),
        (["d"], {"sketch": 1}, "sketch"),
        (["d"], {"sketch": 5000}, "sketch"),
    ],
)
def test_what_makes_no_sense_is_refused_before_anything_is_read(deltas, options, message, tmp_path):
    with pytest.raises(UsageError, match=message):
        analyze(deltas, str(tmp_path / "out"), **options)


def test_a_delta_that_is_not_there_is_said(tmp_path: Path):
    with pytest.raises(NotFound):
        analyze([str(tmp_path / "no.safetensors")], str(tmp_path / "out"))


def test_evaluations_are_drawn_beside_the_delta(family: Family, tmp_path: Path):
    path = delta_of(family, "post")
    reports = []
    for scale in (0.5, 1.0):
        figures = {"task:sums": Measurement(scale / 2, 0.01, 100)}
        report = tmp_path / f"{scale}.json"
        report.write_text(Evaluation({"model": Scores("m", "f", figures)}).to_json())
        reports.append((str(report), scale))
    done = analyze([path], str(tmp_path / "out"), evaluation=reports)
    assert "plots/scales.svg" in done.files
    assert set(done.files) == {p.relative_to(tmp_path / "out").as_posix()
                               for p in (tmp_path / "out").rglob("*") if p.is_file()}  # fmt: skip
    json.dumps(asdict(done))
