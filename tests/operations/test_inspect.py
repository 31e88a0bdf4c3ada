"""inspect: what a delta or a checkpoint holds, from headers alone."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from clouds import Cloud
from models import cast, near, random_state, write_model
from operations.conftest import Family
from tokenizers_for_tests import put, words

from pipeline import compute, inspect
from pipeline.errors import CorruptFile, NotACheckpoint, NotFound, PipelineError, UsageError


def test_a_model_is_shown_with_its_tensors(family: Family) -> None:
    (Path(family.post) / "tokenizer.json").write_text("{}")
    found = inspect(family.post)
    post = family.state("post")
    assert (found.location, found.kind) == (family.post, "checkpoint")
    assert {line.name: (line.dtype, line.shape, line.nbytes) for line in found.tensors} == {
        name: ("BF16", tuple(tensor.shape), tensor.nbytes) for name, tensor in post.items()
    }
    assert found.elements == sum(tensor.numel() for tensor in post.values())
    assert found.nbytes == 2 * found.elements
    assert found.facts == {
        "architectures": ["LlamaForCausalLM"],
        "vocab_size": 50,
        "files": 1,
        "companions": ["tokenizer.json"],
        "dtypes": ["BF16"],
    }


def test_a_delta_is_shown_with_what_changed(family: Family, tmp_path: Path) -> None:
    (Path(family.post) / "tokenizer.json").write_text("{}")
    (Path(family.post) / "chat_template.jinja").write_text("{{ messages }}")
    base, post = family.state("base"), family.state("post")
    post["model.norm.weight"] = base["model.norm.weight"].clone()
    post["model.norm.weight"][3] += 1
    family.add("post", post)
    made = compute(family.base, family.post, str(tmp_path / "d.safetensors"))
    found = inspect(str(tmp_path / "d.safetensors"))
    assert found.kind == "delta"
    assert found.nbytes == (tmp_path / "d.safetensors").stat().st_size
    changed = {line.name: line.changed for line in found.tensors}
    assert changed == {name: int((base[name] != post[name]).sum()) for name in post}
    assert changed["model.norm.weight"] == 1
    assert found.facts["base"] == family.base
    assert found.facts["post"] == family.post
    assert found.facts["base_fingerprint"] == made.base_fingerprint
    assert found.facts["post_fingerprint"] == made.post_fingerprint
    assert found.facts["companions"] == ["chat_template.jinja", "tokenizer.json"]
    assert found.facts["codec"] == "rans"
    assert found.facts["changed_share"] == sum(changed.values()) / found.elements
    assert (found.facts["remainders"], found.facts["exceptions"]) == (made.remainders, made.exceptions)


def test_a_delta_is_shown_with_its_norms(family: Family, tmp_path: Path) -> None:
    path = str(tmp_path / "d.safetensors")
    for name in ("base", "post"):
        state = family.state(name) | {"ids": torch.arange(5) * len(name)}  # carried: has none
        family.add(name, state)
    compute(family.base, family.post, path)
    base, post = family.state("base"), family.state("post")
    deltas = {n: post[n].double() - base[n].double() for n in base if n != "ids"}
    found = inspect(path)
    for line in found.tensors:
        shown = (line.delta_l2, line.base_l2, line.delta_max)
        if line.name == "ids":
            assert shown == (None, None, None)
            continue
        delta, before = deltas[line.name], base[line.name].double()
        wanted = (float(delta.norm()), float(before.norm()), float(delta.abs().max()))
        assert shown == pytest.approx(wanted, rel=1e-5)
    whole = float(torch.cat([delta.reshape(-1) for delta in deltas.values()]).norm())
    before = float(torch.cat([base[n].double().reshape(-1) for n in deltas]).norm())
    facts = found.facts
    assert (facts["delta_l2"], facts["base_l2"]) == pytest.approx((whole, before), rel=1e-5)
    assert facts["relative_change"] == pytest.approx(whole / before, rel=1e-5)


def test_norms_that_are_not_known_are_not_shown(family: Family, tmp_path: Path) -> None:
    post = family.state("post")
    post["model.norm.weight"][0] = torch.nan
    family.add("post", post)
    compute(family.base, family.post, str(tmp_path / "d.safetensors"))
    found = inspect(str(tmp_path / "d.safetensors"))
    norms = {line.name: line.delta_l2 for line in found.tensors}
    assert [name for name, norm in norms.items() if norm is None] == ["model.norm.weight"]
    assert "delta_l2" not in found.facts and "relative_change" not in found.facts
    assert found.facts["base_l2"] > 0


def test_a_file_of_any_name_is_looked_into(family: Family, tmp_path: Path) -> None:
    compute(family.base, family.post, str(tmp_path / "delta"))
    assert inspect(str(tmp_path / "delta")).kind == "delta"


def test_a_name_is_looked_up_in_the_store(family: Family, tmp_path: Path) -> None:
    compute(family.base, family.post, "deltas/d.safetensors", store=str(tmp_path / "store"))
    found = inspect("deltas/d.safetensors", store=str(tmp_path / "store"))
    assert found.kind == "delta"


def test_a_bare_weights_file_is_a_model(family: Family, tmp_path: Path) -> None:
    found = inspect(f"{family.base}/model.safetensors")
    assert found.kind == "checkpoint"
    assert "architectures" not in found.facts
    torch.save(family.state("base"), tmp_path / "weights.pth")
    assert inspect(str(tmp_path / "weights.pth")).elements == found.elements


def test_weights_are_not_read(family: Family) -> None:
    """A sparse file of 64 GiB is shown as quickly as any other."""
    count = 1 << 35
    header = b'{"w":{"dtype":"BF16","shape":[%d],"data_offsets":[0,%d]}}' % (count, 2 * count)
    with (family.folder / "huge.safetensors").open("wb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        file.truncate(8 + len(header) + 2 * count)
    assert inspect(str(family.folder / "huge.safetensors")).nbytes == 2 * count


def test_a_container_is_looked_into_by_address(family: Family, cloud: Cloud) -> None:
    cloud.upload(Path(family.post), "models/post")
    compute(family.base, family.post, f"{cloud.location}/d.safetensors")
    address, _, token = cloud.url.partition("?")
    for prefix, suffix in ((cloud.location, ""), (address, f"?{token}")):
        assert inspect(f"{prefix}/models/post{suffix}").kind == "checkpoint"
        found = inspect(f"{prefix}/d.safetensors{suffix}")
        assert (found.kind, found.location) == ("delta", f"{prefix}/d.safetensors")


@pytest.mark.parametrize(
    ("location", "kind"),
    [
        ("./none", NotACheckpoint),
        ("./none.safetensors", NotFound),
        ("none.safetensors", NotFound),
        ("a b", UsageError),
    ],
)
def test_what_is_not_there_is_said_so(location: str, kind: type[PipelineError]) -> None:
    with pytest.raises(kind) as error:
        inspect(location)
    assert location.removeprefix("./") in str(error.value)


def test_a_damaged_file_is_said_so(family: Family, tmp_path: Path) -> None:
    compute(family.base, family.post, str(tmp_path / "d.safetensors"))
    data = (tmp_path / "d.safetensors").read_bytes()
    for size in (0, 5, 1000, len(data) - 1):
        (tmp_path / "d.safetensors").write_bytes(data[:size])
        with pytest.raises(CorruptFile, match=r"d\.safetensors"):
            inspect(str(tmp_path / "d.safetensors"))


def test_a_grown_vocabulary_shows_in_the_shapes(family: Family, tmp_path: Path) -> None:
    family.add("post", cast(near(random_state(1), 2, vocab=57)))
    compute(family.base, family.post, str(tmp_path / "d.safetensors"))
    shapes = {line.name: line.shape for line in inspect(str(tmp_path / "d.safetensors")).tensors}
    assert shapes["model.embed_tokens.weight"] == (57, 16)


def test_what_only_post_has_and_where_base_s_rows_were_put_is_shown(tmp_path: Path) -> None:
    base, post = cast(random_state(1)), cast(near(random_state(1), 2))
    tokens = [f"w{number}" for number in range(50)]
    embedding = "model.embed_tokens.weight"
    post[embedding] = torch.cat([torch.ones(2, 16).bfloat16(), post[embedding].flip(0)])
    post["v_head.weight"] = torch.ones(4, 16).bfloat16()
    old = write_model(tmp_path / "base", base, tie_word_embeddings=True)
    new = write_model(tmp_path / "post", post, tie_word_embeddings=True)
    put(old, words(tokens))
    put(new, words(["new-1", "new-2", *reversed(tokens)]))
    compute(str(old), str(new), str(tmp_path / "d.safetensors"))
    facts = inspect(str(tmp_path / "d.safetensors")).facts
    assert facts["only_post"] == ["v_head.weight"]
    assert facts["rows"] == [f"{embedding}: 50 of base in post's order, 2 only in post"]
