"""What each method gives is what mergekit gives, which runs in an environment of its own.

    MERGEKIT_WORK=build/bench python -m pytest -m mergekit tests/real/test_mergekit.py -s

mergekit's sort is not stable, so of elements of one size it keeps whichever: here it is made stable, and
a run of the untouched command shows that nothing but such elements differs. Its arithmetic is float32
with a result in bfloat16, or bfloat16 throughout, which is farther from the formula; `-s` prints by how
much.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from fusion_formulas import fused, trimmed, ulps
from models import State, cast, near, read_model, write_model

from pipeline import Difference, apply

pytestmark = pytest.mark.mergekit

ROOT = Path(__file__).parents[2]
FAMILY = ROOT / "examples" / "family"
RUN_ALL = """
import json, sys, torch
for name in ("sort", "argsort"):
    def stable(*given, _sort=getattr(torch, name), **options):
        return _sort(*given, **(options | {"stable": True}))
    setattr(torch, name, stable)
from mergekit.scripts.run_yaml import main
for config, output in json.loads(sys.argv[1]):
    main([config, output, "--no-copy-tokenizer"], standalone_mode=False)
"""


@dataclass(frozen=True)
class Case:
    """A method: what we and mergekit call it, weights, and other parameters under mergekit's names."""

    ours: str
    theirs: str
    weights: tuple[float, ...]
    shared: tuple[tuple[str, float], ...] = ()
    each: tuple[tuple[str, float], ...] = ()

    @property
    def options(self) -> dict[str, Any]:
        """Ours."""
        names = {"lambda": "lambda_"}
        return {names.get(name, name): value for name, value in (*self.shared, *self.each)}

    def config(self, base: Path, posts: Sequence[Path], dtype: str) -> dict[str, Any]:
        """mergekit's."""
        models: list[dict[str, Any]] = [
            {"model": str(post), "parameters": {"weight": weight, **dict(self.each)}}
            for post, weight in zip(posts, self.weights, strict=False)
        ]
        first, shared = base, dict(self.shared)
        if self.theirs == "slerp":
            first, models = posts[0], [{"model": str(post)} for post in posts[:2]]
            shared = {"t": self.weights[1] / sum(self.weights)}
        elif self.theirs == "model_stock":
            models = [{"model": str(post)} for post in posts]
        return {
            "merge_method": self.theirs,
            "base_model": str(first),
            "models": models,
            "parameters": shared,
            "dtype": dtype,
            "out_dtype": "bfloat16",
        }


CASES = {
    "linear": Case("linear", "task_arithmetic", (1.0, 0.5, 0.25)),
    "ties": Case("ties", "ties", (1.0, 0.5, 0.25), (("lambda", 0.9),), (("density", 0.3),)),
    "della": Case("della", "della", (1.0, 0.5, 0.25), (), (("density", 1.0), ("epsilon", 0.1))),
    "breadcrumbs": Case(
        "breadcrumbs", "breadcrumbs", (1.0, 0.5, 0.25), (), (("density", 0.6), ("gamma", 0.02))
    ),
    "slerp": Case("slerp", "slerp", (0.7, 0.3)),
    "model_stock": Case("model_stock", "model_stock", (1.0, 1.0, 1.0)),
}
DTYPES = ("float32", "bfloat16")
BY_ANGLES = ("slerp", "model_stock")


@pytest.fixture(scope="session")
def mergekit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its command; installed in $MERGEKIT_WORK, or for these tests alone."""
    sys.path.insert(0, str(ROOT / "benchmarks"))
    from mergekit_env import install_mergekit

    given = os.environ.get("MERGEKIT_WORK")
    work = Path(given).resolve() if given else tmp_path_factory.mktemp("mergekit")
    return install_mergekit(work, {**os.environ, "HF_HUB_OFFLINE": "1"})


@dataclass(frozen=True)
class Parents:
    """A base and three models of its shape."""

    folder: Path
    posts: int = 3

    @property
    def base(self) -> Path:
        return self.folder / "base"

    def post(self, number: int) -> Path:
        return self.folder / f"post{number}"

    @property
    def all_posts(self) -> list[Path]:
        return [self.post(n) for n in range(self.posts)]

    def ours(self, name: str, case: Case) -> State:
        """Our result."""
        deltas = [
            (Difference(str(self.base), str(post)), weight)
            for post, weight in zip(self.all_posts, case.weights, strict=False)
        ]
        output = self.folder / f"ours-{name}"
        apply(str(self.base), deltas, str(output), method=case.ours, overwrite=True, **case.options)
        return read_model(output)

    def exact(self, name: str, tensor: str) -> torch.Tensor:
        """One tensor by the formula, whose sums are in float64."""
        case = CASES[name]
        base = read_model(self.base)[tensor]
        posts = [read_model(post)[tensor] for post in self.all_posts[: len(case.weights)]]
        deltas = [post.float() - base.float() for post in posts]
        return fused(case.ours, tensor, base, deltas, case.weights)

    def theirs(self, name: str, dtype: str) -> Path:
        return self.folder / f"theirs-{name}-{dtype}"


def example_family(folder: Path) -> Parents:
    """base-v1, and three models as if they were trained from it, cut to its vocabulary."""
    base = read_model(FAMILY / "base-v1")
    config = json.loads((FAMILY / "base-v1/config.json").read_text())
    sources = {"base": "base-v1", "post0": "post-v1", "post1": "base-v2", "post2": "post-v2"}
    for name, source in sources.items():
        state = {key: t[: len(base[key])] for key, t in read_model(FAMILY / source).items()}
        write_model(folder / name, state, **config)
    return Parents(folder)


def random_mixtral(folder: Path) -> Parents:
    """Its embedding has more elements than a chunk. Experts lie together, as mergekit puts them."""
    width, inner, experts, vocab = 32, 48, 4, 20_000
    generator = torch.Generator().manual_seed(3)
    shapes = {"model.embed_tokens.weight": (vocab, width), "lm_head.weight": (vocab, width)}
    for layer in range(2):
        prefix = f"model.layers.{layer}"
        shapes |= {f"{prefix}.self_attn.{n}_proj.weight": (width, width) for n in "qkvo"}
        shapes[f"{prefix}.mlp.gate.weight"] = (experts, width)
        shapes[f"{prefix}.mlp.experts.gate_up_proj"] = (experts, 2 * inner, width)
        shapes[f"{prefix}.mlp.experts.down_proj"] = (experts, width, inner)
    base = {name: torch.randn(shape, generator=generator) * 0.02 for name, shape in shapes.items()}
    norms = ["model.norm"] + [
        f"model.layers.{layer}.{n}_layernorm" for layer in range(2) for n in ("input", "post_attention")
    ]
    base |= {f"{name}.weight": 1 + torch.randn(width, generator=generator) * 0.02 for name in norms}
    config = {
        "architectures": ["MixtralForCausalLM"], "model_type": "mixtral", "hidden_size": width,
        "intermediate_size": inner, "num_hidden_layers": 2, "num_attention_heads": 4,
        "num_key_value_heads": 4, "num_local_experts": experts, "num_experts_per_tok": 2,
        "vocab_size": vocab, "tie_word_embeddings": False,
    }  # fmt: skip
    states = {"base": base, **{f"post{n}": near(base, n, scale=2e-3 * (n + 1)) for n in range(3)}}
    for name, state in states.items():
        write_model(folder / name, cast(state), **config)
    return Parents(folder)


@pytest.fixture(scope="session", params=["family", "mixtral"])
def parents(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, mergekit: Path
) -> Parents:
    """Models, with what mergekit makes of them by every method."""
    folder = tmp_path_factory.mktemp(request.param)
    made = example_family(folder) if request.param == "family" else random_mixtral(folder)
    runs = []
    for name, case in CASES.items():
        for dtype in DTYPES:
            config = folder / f"{name}-{dtype}.yml"  # JSON is YAML
            config.write_text(json.dumps(case.config(made.base, made.all_posts, dtype)))
            runs.append((str(config), str(made.theirs(name, dtype))))
    python = mergekit.with_name("python")
    run([python, "-c", RUN_ALL, json.dumps(runs)])
    return made


def run(command: Sequence[str | Path]) -> None:
    """In an environment that reaches no network."""
    env = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    found = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stderr[-3000:]


def compare(ours: State, theirs: State) -> tuple[int, int, float]:
    """The largest distance in last places, elements beyond one of these, part that differs."""
    assert ours.keys() == theirs.keys()
    found = [ulps(ours[name], theirs[name]) for name in theirs]
    count = sum(each.numel() for each in found)
    differing = sum(int((each > 0).sum()) for each in found)
    beyond = sum(int((each > 1).sum()) for each in found)
    return max(int(each.max()) for each in found), beyond, differing / count


@pytest.mark.parametrize("name", CASES)
def test_a_method_gives_what_mergekit_gives_in_float32(name: str, parents: Parents) -> None:
    ours, theirs = parents.ours(name, CASES[name]), read_model(parents.theirs(name, "float32"))
    print(f"\n{parents.folder.name} {name} float32: {compare(ours, theirs)}")
    for tensor, found in ours.items():
        apart = ulps(found, theirs[tensor]) > 1
        if name not in BY_ANGLES:
            assert not apart.any(), tensor
        elif apart.any():  # values that all but cancel, where its float32 is off the formula
            exact = parents.exact(name, tensor)[apart]
            off = ulps(found[apart], exact)
            assert (off <= ulps(theirs[tensor][apart], exact)).all(), tensor
            assert off.max() <= 2, tensor


@pytest.mark.parametrize("name", CASES)
def test_mergekit_s_own_bfloat16_is_farther_from_its_float32_than_ours(
    name: str, parents: Parents
) -> None:
    exact = read_model(parents.theirs(name, "float32"))
    theirs = compare(read_model(parents.theirs(name, "bfloat16")), exact)
    ours = compare(parents.ours(name, CASES[name]), exact)
    print(f"\n{parents.folder.name} {name} bfloat16: theirs {theirs}, ours {ours}")
    assert ours[2] < theirs[2] or name == "slerp"  # which it does in float32 anyway


def test_untouched_mergekit_differs_only_in_which_equals_it_keeps(
    parents: Parents, mergekit: Path
) -> None:
    case, density = CASES["ties"], 0.3
    config, output = parents.folder / "ties-float32.yml", parents.folder / "untouched"
    shutil.rmtree(output, ignore_errors=True)
    run([mergekit, config, output, "--no-copy-tokenizer"])
    ours, theirs, base = parents.ours("ties", case), read_model(output), read_model(parents.base)
    posts = [read_model(post) for post in parents.all_posts]
    for name, tensor in theirs.items():
        doubtful = torch.zeros(tensor.shape, dtype=torch.bool)
        for post in posts:
            delta = post[name].float() - base[name].float()
            kept = trimmed(delta, density).abs()
            doubtful |= delta.abs() == kept[kept > 0].min()
        certain = ulps(ours[name], tensor)[~doubtful]
        assert not len(certain) or certain.max() <= 1, name


def test_della_s_chances_are_mergekit_s(mergekit: Path, tmp_path: Path) -> None:
    """With chances of almost zero and one, in rows of two, nothing is left to chance."""
    rows = torch.randn(500, 2, generator=torch.Generator().manual_seed(1))
    torch.save(rows, tmp_path / "rows.pt")
    program = (
        "import sys, torch; from mergekit.sparsify import RescaleNorm, della_magprune as prune;"
        "rows = torch.load(sys.argv[1]);"
        "torch.save(prune(rows, 0.5, 0.4999999, RescaleNorm.l1), sys.argv[2])"
    )
    run([mergekit.with_name("python"), "-c", program, tmp_path / "rows.pt", tmp_path / "out.pt"])
    base = write_model(tmp_path / "base", {"w": torch.zeros(500, 2)})
    post = write_model(tmp_path / "post", {"w": rows})
    given: dict[str, Any] = {"method": "della", "density": 0.5, "epsilon": 0.4999999}
    apply(str(base), [Difference(str(base), str(post))], str(tmp_path / "x"), **given)
    found, wanted = read_model(tmp_path / "x")["w"], torch.load(tmp_path / "out.pt")
    assert torch.allclose(found, wanted, rtol=1e-6, atol=0)
