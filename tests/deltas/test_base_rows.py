"""A delta whose base stood in another order says so, and a reader believes it only if it fits."""

from __future__ import annotations

from pathlib import Path

import pytest
from deltas.surgery import put_together, take_apart
from models import cast, near, random_state, write_model
from tokenizers_for_tests import put, words

from pipeline import apply, compute, convert, open_delta, verify
from pipeline.errors import CorruptFile

TOKENS = [f"w{number}" for number in range(50)]
EMBEDDING, NORM = "model.embed_tokens.weight", "model.norm.weight"


@pytest.fixture
def delta(tmp_path: Path) -> Path:
    base = random_state(1)
    put(write_model(tmp_path / "base", cast(base)), words(TOKENS))
    post = cast(near(base, 2, vocab=52))
    put(write_model(tmp_path / "post", post), words(TOKENS[::-1], {"<a>": 50, "<b>": 51}))
    compute(str(tmp_path / "base"), str(tmp_path / "post"), str(tmp_path / "d.safetensors"))
    return tmp_path / "d.safetensors"


def test_the_manifest_has_the_runs_of_bases_rows(delta):
    said = take_apart(delta)
    assert said.metadata["paramdelta.version"] == "2"
    assert said.manifest["version"] == 2
    runs = [[row, 1] for row in reversed(range(50))] + [[-1, 2]]
    assert said.manifest["base_rows"] == {"rows": 50, "tensors": [EMBEDDING], "runs": runs}
    record = next(each for each in said.manifest["tensors"] if each["name"] == EMBEDDING)
    assert record["base_shape"] == record["shape"] == [52, 16]


def test_the_other_form_says_it_too(delta, tmp_path):
    plain = str(tmp_path / "plain")
    convert(str(delta), plain, codec="none")
    with open_delta(str(delta)) as one, open_delta(plain) as other:
        assert one.manifest.base_rows == other.manifest.base_rows
        assert other.manifest.version == 2
    assert verify(plain, base=str(tmp_path / "base"), post=str(tmp_path / "post")).restores_post


@pytest.mark.parametrize(
    "odd",
    [
        None, 3, [], {}, {"rows": 49}, {"rows": 51, "runs": [[0, 51]]}, {"tensors": []},
        {"tensors": [EMBEDDING, EMBEDDING]}, {"tensors": [NORM]}, {"tensors": ["other"]},
        {"tensors": EMBEDDING}, {"tensors": [3]}, {"runs": [[0, 50]]}, {"runs": [[0, 50], [0, 2]]},
        {"runs": [[0, 50], [-1, 3]]}, {"runs": None}, {"runs": [[-1, 50], [0, 2], [0, 0]]},
    ],
    ids=str,
)  # fmt: skip
def test_rows_that_do_not_fit_are_refused(delta, tmp_path, odd):
    parts = take_apart(delta)
    rows = {**parts.manifest["base_rows"], **odd} if isinstance(odd, dict) and odd else odd
    parts.put_manifest({**parts.manifest, "base_rows": rows})
    with pytest.raises(CorruptFile, match="manifest"):
        open_delta(str(put_together(tmp_path / "x.safetensors", parts)))


def test_neither_version_goes_with_the_others_content(delta, tmp_path):
    parts = take_apart(delta)
    parts.put_manifest({k: v for k, v in parts.manifest.items() if k != "base_rows"})
    with pytest.raises(CorruptFile, match="version 2"):
        open_delta(str(put_together(tmp_path / "x.safetensors", parts)))
    parts = take_apart(delta)
    parts.metadata["paramdelta.version"] = "1"
    with pytest.raises(CorruptFile, match="version 1, but its manifest of version 2"):
        open_delta(str(put_together(tmp_path / "y.safetensors", parts)))


def test_rows_in_an_order_that_was_forged_do_not_restore_post(delta, tmp_path):
    parts = take_apart(delta)
    runs = [[0, 50], [-1, 2]]
    rows = {**parts.manifest["base_rows"], "runs": runs}
    parts.put_manifest({**parts.manifest, "base_rows": rows})
    forged = str(put_together(tmp_path / "x.safetensors", parts))
    report = apply(str(tmp_path / "base"), [forged], str(tmp_path / "out"))
    assert report.case.startswith("another base")
