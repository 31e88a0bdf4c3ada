"""Steps on models that were not made for each other: done once, and then up to date like any."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import pytest
import torch
from batch.chains import apply, compute, run, statuses
from models import State, cast, near, random_state, read_model, same_bits, write_model
from tokenizers_for_tests import put, words

from pipeline import compute as compute_now
from pipeline import evaluate, sweep
from pipeline.operations.apply import apply as apply_now
from pipeline.operations.arguments import Difference
from pipeline.operations.evidence_freshness import evaluate_freshness
from pipeline.operations.fingerprint import fingerprint
from pipeline.operations.showing_freshness import sweep_freshness

HEAD, EMBEDDING = "lm_head.weight", "model.embed_tokens.weight"
ROWS = 50


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def family(change: str) -> None:
    """base-v1, post-v1 and base-v2; their tokens in orders of their own, or some with tied heads."""
    first = random_state(0, vocab=ROWS)
    first[HEAD] = first[EMBEDDING].clone()
    states = {
        "base-v1": first,
        "post-v1": near(first, 1, scale=1e-2),
        "base-v2": near(first, 2, scale=1e-1),
    }
    for number, (name, state) in enumerate(states.items()):
        tensors: State = {key: value.contiguous() for key, value in cast(state).items()}
        tied = change == "ties" and name != "post-v1"
        if tied:
            del tensors[HEAD]
        place = write_model(Path(name), tensors, tie_word_embeddings=tied)
        tokens = [f"w{each}" for each in range(ROWS)]
        put(place, words(Random(number).sample(tokens, ROWS) if change == "orders" else tokens))


@pytest.mark.parametrize("change", ["orders", "ties"])
def test_what_was_seen_otherwise_than_it_lies_is_known_again(change: str) -> None:
    family(change)
    made = {"id": "fused", "run": "apply", "base": "./base-v2", "output": "out/fused"}
    made |= {"deltas": [{"base": "./base-v1", "post": "./post-v1"}], "allow_unrelated": True}
    steps = (compute("delta"), apply("model", "@delta", allow_unrelated=True), made)
    first = run(*steps)
    assert set(statuses(first).values()) == {"done"}, [step.error for step in first.steps]
    for step in first.steps[:2]:
        assert step.result["base_fingerprint"] == str(fingerprint(step.result["base"]))
    assert set(statuses(run(*steps)).values()) == {"fresh"}
    Path("reports/release.json").unlink()  # whoever knows nothing reads once, and finds the same
    assert set(statuses(run(*steps)).values()) == {"fresh"}
    stored, fused = read_model(Path("out/model")), read_model(Path("out/fused"))
    assert HEAD in stored and all(same_bits(stored[name], fused[name]) for name in stored)


def test_deltas_are_put_together_as_a_step_says_and_again_if_it_says_otherwise() -> None:
    family("none")
    write_model(
        Path("post-b"),
        {**read_model(Path("post-v1")), **cast(near(random_state(0, vocab=ROWS), 9, scale=1e-2))},
    )
    put(Path("post-b"), words([f"w{each}" for each in range(ROWS)]))
    terms = ({"base": "./base-v1", "post": "./post-v1"}, {"base": "./base-v1", "post": "./post-b"})
    how = {"method": "ties", "density": 0.5, "lambda": 0.75, "skip": ["embed"], "allow_unrelated": True}
    assert statuses(run(apply("model", *terms, **how))) == {"model": "done"}
    assert statuses(run(apply("model", *terms, **how))) == {"model": "fresh"}
    differences = [Difference(term["base"], term["post"]) for term in terms]
    options = {**how, "lambda_": how["lambda"]}
    del options["lambda"]
    apply_now("./base-v2", differences, "./by-hand", **options)  # type: ignore[arg-type]
    found, wanted = read_model(Path("out/model")), read_model(Path("by-hand"))
    assert all(same_bits(found[name], wanted[name]) for name in wanted)
    base = read_model(Path("base-v2"))
    assert torch.equal(found[EMBEDDING], base[EMBEDDING])
    more = {"overwrite": True}
    again = run(apply("model", *terms, **{**how, "density": 0.25}), more=more)
    assert statuses(again) == {"model": "done"}
    assert again.steps[0].reason == "what was there puts deltas together otherwise"


def test_what_was_measured_of_a_dequantised_model_is_known_again() -> None:
    Path("text.txt").write_text("A road to the river.\n")
    state = cast(random_state(0, vocab=ROWS))
    name = "model.layers.0.mlp.up_proj.weight"
    state |= {name: state[name].to(torch.float8_e4m3fn), f"{name}_scale_inv": torch.ones(1, 1)}
    config = {"quant_method": "fp8", "weight_block_size": [128, 128]}
    write_model(Path("fp8"), state, quantization_config=config)
    compute_now("./fp8", "./fp8", "./d.safetensors", dequantize=True)
    options: dict[str, Any] = {"data": ["text.txt"], "metrics": ["finite"], "dequantize": True}
    digest = fingerprint("./fp8", dequantize=True)
    told = evaluate("./fp8", **options, dry_run=True)
    scores = {"model": replace(told.model, fingerprint=str(digest))}
    Path("e.json").write_text(replace(told, scores=scores).to_json())
    planned = sweep("./fp8", ["./d.safetensors"], "./out", **options, plots="none", dry_run=True)
    made_of = {**planned.made_of, "models": {"base": str(digest)}}
    Path("out").mkdir()
    Path("out", "sweep.json").write_text(replace(planned, made_of=made_of).to_json())
    steps = [("./d.safetensors", 1.0)]
    for known, state_of_it in ((lambda model: digest, "fresh"), (lambda model: None, "unknown")):
        options["fingerprint_of"] = known
        assert evaluate_freshness("./fp8", "./e.json", **options).state == state_of_it
        assert sweep_freshness("./fp8", steps, "./out", **options, plots="none").state == state_of_it
    found = sweep_freshness("./fp8", steps, "./out", **options, plots="svg", making={"lambda_": 0.5})
    assert found.reason == "makes models otherwise, and has other plots"
