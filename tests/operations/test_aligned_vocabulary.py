"""Rows of the vocabulary are aligned by token string: each is traced to its parent by its value.

Row r of base has the value r, of post 2^17 + r, of the new base 2^18 + r; those of the head 2^19 more.
So float32 has each sum exactly, and a row that came from elsewhere would show.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from random import Random

import pytest
import torch
from models import State, read_model, same_bits, write_model
from servers.hub import HubServer
from tokenizers import Tokenizer
from tokenizers_for_tests import put, words

from pipeline import apply, combine, compute, open_delta, verify
from pipeline.errors import Mismatch
from pipeline.operations.apply import ANOTHER_BASE, SAME_BASE
from pipeline.operations.arguments import Difference
from pipeline.operations.freshness import apply_freshness
from pipeline.tensors.fingerprint import Digest

EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"
CHAT = ("<|user|>", "<|bot|>", "<|end|>")  # post's, behind the words
# The new base's own, so far behind the words; where one stands, post has another.
OWN = {"<pad>": 1, "<own>": 10}
SMALL = 320
POST, NEW, HEADS = 1 << 17, 1 << 18, 1 << 19


def state(rows: int, first: int, *, tied: bool = False) -> State:
    """Tensors that say in each row which it is."""
    values = (torch.arange(rows, dtype=torch.float32) + first)[:, None].expand(rows, 4).contiguous()
    norm = {"model.norm.weight": torch.ones(4)}
    return {EMBEDDING: values, **norm} if tied else {EMBEDDING: values, HEAD: values + HEADS, **norm}


def listed(count: int) -> list[str]:
    return [f"w{number}" for number in range(count)]


def shuffled(count: int, seed: int) -> list[str]:
    return Random(seed).sample(listed(count), count)


@dataclass(frozen=True)
class Models:
    """Base, post and new base, each with its tokens in an order of its own, and the delta."""

    folder: Path
    post_words: list[str]
    new_words: list[str]

    @classmethod
    def make(
        cls, folder: Path, post_words: list[str], new_words: list[str], *, tied: bool = False
    ) -> Models:
        models, size = cls(folder, post_words, new_words), len(post_words)
        models.add("base", state(size, 0, tied=tied), words(listed(size)))
        ids = {"eos_token_id": [1, size + 2], "pad_token_id": size + 1}
        chat = words(post_words, models.chat)
        models.add("post", state(size + 3, POST, tied=tied), chat, **ids)
        own = {token: size + number for token, number in OWN.items()}
        models.add("new", state(size + 64, NEW, tied=tied), words(new_words, own), eos_token_id=2)
        compute(models["base"], models["post"], models["delta"])
        return models

    @property
    def size(self) -> int:
        """How many words there are: rows of the base."""
        return len(self.post_words)

    @property
    def chat(self) -> dict[str, int]:
        return {token: self.size + number for number, token in enumerate(CHAT)}

    def __getitem__(self, name: str) -> str:
        return str(self.folder / name)

    def add(self, name: str, tensors: State, tokenizer: dict[str, object], **config: object) -> None:
        put(write_model(self.folder / name, tensors, **config), tokenizer)

    @property
    def difference(self) -> Difference:
        return Difference(base=self["base"], post=self["post"])


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> Models:
    """Base with 32000 rows, post with 32003, new base with 32064."""
    return Models.make(tmp_path_factory.mktemp("full"), shuffled(32000, 1), shuffled(32000, 2))


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Models:
    return Models.make(tmp_path_factory.mktemp("models"), shuffled(SMALL, 1), shuffled(SMALL, 2))


@pytest.fixture(scope="module")
def tied(tmp_path_factory: pytest.TempPathFactory) -> Models:
    folder = tmp_path_factory.mktemp("tied")
    return Models.make(folder, shuffled(SMALL, 1), shuffled(SMALL, 2), tied=True)


@pytest.fixture(scope="module")
def in_place(tmp_path_factory: pytest.TempPathFactory) -> Models:
    """All have the same words in the same order."""
    return Models.make(tmp_path_factory.mktemp("in-place"), listed(SMALL), listed(SMALL))


@pytest.fixture(autouse=True)
def away_from_home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)


def expected(made: Models, scale: float) -> torch.Tensor:
    """The embedding's first column, from the meaning of each token alone."""
    post_row = {token: row for row, token in enumerate(made.post_words)}
    new_row = {token: row for row, token in enumerate(made.new_words)}
    rows = [
        (NEW + new_row[token]) + scale * ((POST + post_row[token]) - old_row)
        for old_row, token in sorted(enumerate(listed(made.size)), key=lambda each: post_row[each[1]])
    ]
    rows += [POST + row for row in made.chat.values()]
    rows += [NEW + row for row in range(made.size + 3, made.size + 64)]  # padding, an own token in it
    return torch.tensor([*rows, NEW + made.size + OWN["<pad>"]], dtype=torch.float32)


@pytest.mark.parametrize(
    ("kind", "scale"),
    [("full", 0.5), ("models", 1.0), ("tied", 1.0), ("tied", 0.5), ("in_place", 1.0), ("in_place", 0.5)],
)
def test_every_row_comes_from_its_parents(
    request: pytest.FixtureRequest, tmp_path: Path, kind: str, scale: float
) -> None:
    made = request.getfixturevalue(kind)
    report = apply(made["new"], [made["delta"]], str(tmp_path / "out"), scale=scale)
    assert report.case == ANOTHER_BASE
    found, wanted = read_model(tmp_path / "out"), expected(made, scale)
    assert found[EMBEDDING].shape == (made.size + 65, 4)
    for column in range(4):
        assert torch.equal(found[EMBEDDING][:, column], wanted)
    if kind == "tied":
        assert HEAD not in found
    else:  # its values are 2^19 more in all models, so that much more in the sum, too
        assert torch.equal(found[HEAD][:, 0], wanted + HEADS)


def test_the_same_string_encodes_to_ids_whose_rows_come_from_the_right_parent(
    full: Models, tmp_path: Path
) -> None:
    apply(full["new"], [full["delta"]], str(tmp_path / "out"))
    rows = read_model(tmp_path / "out")[EMBEDDING][:, 0]
    base, post, new, result = (
        Tokenizer.from_file(f"{folder}/tokenizer.json")
        for folder in (full["base"], full["post"], full["new"], tmp_path / "out")
    )
    text = "w17 w31999 w0 <|user|> w5 <|end|>"
    assert result.encode(text).ids == post.encode(text).ids
    for token, number in zip(text.split(), result.encode(text).ids, strict=True):
        sides = [side.token_to_id(token) for side in (base, post, new)]
        whole = POST + sides[1]
        assert rows[number] == (whole if sides[0] is None else NEW + sides[2] + whole - sides[0])
    own = "<own> <pad>"
    assert [rows[number] for number in result.encode(own).ids] == [
        NEW + 32000 + OWN[token] for token in own.split()
    ]


def test_the_config_has_the_results_size_and_posts_ids(models: Models, tmp_path: Path) -> None:
    report = apply(models["new"], [models["delta"]], str(tmp_path / "out"))
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["vocab_size"] == SMALL + 65
    assert (config["eos_token_id"], config["pad_token_id"]) == ([1, SMALL + 2], SMALL + 1)
    assert report.vocabulary is not None
    assert report.vocabulary.invalid == ()


@pytest.mark.parametrize("kind", ["models", "tied", "in_place"])
def test_on_its_own_base_post_comes_back_bit_for_bit(
    request: pytest.FixtureRequest, tmp_path: Path, kind: str
) -> None:
    made = request.getfixturevalue(kind)
    post = read_model(Path(made["post"]))
    for number, delta in enumerate((made["delta"], made.difference)):
        planned = apply(made["base"], [delta], str(tmp_path / "dry"), dry_run=True)
        report = apply(made["base"], [delta], str(tmp_path / str(number)), old_base=made["base"])
        assert planned.case == report.case == SAME_BASE
        assert report.base_distance == 0
        found = read_model(tmp_path / str(number))
        assert [name for name in post if not same_bits(found[name], post[name])] == []
        for file in ("tokenizer.json", "config.json"):
            left, right = Path(made["post"], file), tmp_path / str(number) / file
            assert json.loads(left.read_text()) == json.loads(right.read_text())


def test_verify_restores_post_and_knows_another_base(models: Models) -> None:
    assert verify(models["delta"], base=models["base"], post=models["post"]).restores_post


def test_a_difference_on_the_way_gives_the_same_bits(models: Models, tmp_path: Path) -> None:
    for name, delta in (("stored", models["delta"]), ("made", models.difference)):
        apply(models["new"], [(delta, 0.5)], str(tmp_path / name), old_base=models["base"])
    stored, made = read_model(tmp_path / "stored"), read_model(tmp_path / "made")
    assert all(same_bits(stored[name], made[name]) for name in stored)


def test_a_remote_base_gives_the_same_bits(models: Models, hub: HubServer, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    small = Models(tmp_path, listed(40)[::-1], [])
    small.add("base", state(40, 0), words(listed(40)))
    small.add("post", state(42, POST), words(small.post_words, {"<a>": 40, "<b>": 41}))
    hub.patch_client(monkeypatch, tmp_path / "home")
    hub.add_repo("org/base", tmp_path / "base")
    for name, base in (("local", small["base"]), ("remote", "org/base")):
        compute(base, small["post"], small[name], hub_cache="off")
        apply(base, [(small[name], 0.5)], small[f"{name}-out"], hub_cache="off")
    local, remote = read_model(tmp_path / "local-out"), read_model(tmp_path / "remote-out")
    assert all(same_bits(local[name], remote[name]) for name in local)
    assert verify(small["remote"], base="org/base", post=small["post"], hub_cache="off").restores_post


def test_compute_fetches_the_bases_tokenizer_once(
    hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = Models(tmp_path, [], [])
    made.add("base", state(40, 0), words(listed(40)))
    made.add("post", state(41, POST), words(listed(40), {"<a>": 40}))
    hub.patch_client(monkeypatch, tmp_path / "home")
    hub.add_repo("org/base", tmp_path / "base")
    compute("org/base", made["post"], made["d"], hub_cache="off")
    assert len(hub.gets("tokenizer.json")) == 1


# -- where nothing has to move ------------------------------------------------------------------


def test_where_ids_agree_the_delta_is_that_of_version_1(in_place: Models, models: Models) -> None:
    with open_delta(in_place["delta"]) as here, open_delta(models["delta"]) as there:
        assert (here.manifest.version, here.manifest.base_rows) == (1, None)
        assert there.manifest.version == 2
        assert there.manifest.base_rows is not None
        assert there.manifest.base_rows.order.rows == SMALL
        assert there.manifest.base_rows.order.absent == [(SMALL, SMALL + 3)]
        assert there.manifest.base_rows.tensors == (HEAD, EMBEDDING)


def test_padding_gives_way_and_the_size_stays(in_place: Models, tmp_path: Path) -> None:
    in_place.add("padded", state(SMALL + 64, NEW), words(listed(SMALL)))
    report = apply(in_place["padded"], [in_place["delta"]], str(tmp_path / "out"), scale=0.5)
    rows = read_model(tmp_path / "out")[EMBEDDING][:, 0]
    assert rows[SMALL : SMALL + 3].tolist() == [POST + row for row in range(SMALL, SMALL + 3)]
    assert rows[SMALL + 3 :].tolist() == [NEW + row for row in range(SMALL + 3, SMALL + 64)]
    assert report.vocabulary is not None
    assert (report.vocabulary.aligned, report.vocabulary.rows) == ("by position", SMALL + 64)
    assert (report.vocabulary.padding, report.vocabulary.displaced) == (61, 3)


def test_a_larger_padded_base_than_post_is_aligned(in_place: Models, tmp_path: Path) -> None:
    in_place.add("wide", state(SMALL + 64, 0), words(listed(SMALL)))
    delta = str(tmp_path / "d")
    report = compute(in_place["wide"], in_place["post"], delta)
    assert report.vocabulary is not None
    assert report.vocabulary.added.count == 3
    assert verify(delta, base=in_place["wide"], post=in_place["post"]).restores_post


# -- what is refused, and what is said ----------------------------------------------------------


def test_tokenizers_of_unrelated_models_are_refused(tmp_path: Path) -> None:
    """Half of post's own tokens must be base's."""
    made = Models(tmp_path, [], [])
    made.add("base", state(40, 0), words(listed(40)))
    for name, known in (("post", 21), ("other", 20)):
        tokens = listed(known) + [f"x{number}" for number in range(40 - known)]
        made.add(name, state(43, POST), words(tokens, {token: 40 + n for n, token in enumerate(CHAT)}))
    compute(made["base"], made["post"], made["d"])
    with pytest.raises(
        Mismatch, match=r"20 tokens do not fit: 'x0' \(id 20\) is no token of .*unrelated"
    ):
        compute(made["base"], made["other"], made["d2"])


def test_a_token_that_the_new_base_lacks_is_named(models: Models, tmp_path: Path) -> None:
    tokens = [*models.new_words]
    tokens[tokens.index("w77")] = "other"
    models.add("lacking", state(SMALL + 64, NEW), words(tokens))
    with pytest.raises(Mismatch, match=r"1 token does not fit: 'w77' \(id \d+\) is no token of the new"):
        apply(models["lacking"], [models["delta"]], str(tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_a_new_base_without_a_tokenizer_is_refused(models: Models, tmp_path: Path) -> None:
    write_model(models.folder / "bare", state(SMALL + 64, NEW))
    with pytest.raises(Mismatch, match=r"add its tokenizer\.json"):
        apply(models["bare"], [models["delta"]], str(tmp_path / "out"))


def test_deltas_whose_posts_differ_in_any_token_are_refused(in_place: Models, tmp_path: Path) -> None:
    renamed = {"<|user|>": SMALL, "<|tool|>": SMALL + 1, "<|end|>": SMALL + 2}
    in_place.add("post-2", state(SMALL + 3, POST), words(listed(SMALL), renamed))
    compute(in_place["base"], in_place["post-2"], str(tmp_path / "d2"))
    with pytest.raises(Mismatch, match=r"'<\|bot\|>' .*'<\|tool\|>'.*one after another"):
        apply(in_place["new"], [in_place["delta"], str(tmp_path / "d2")], str(tmp_path / "out"))


def test_a_delta_without_a_config_leaves_anothers_rows_whole(tmp_path: Path) -> None:
    made = Models(tmp_path, [], [])
    for name, first, rows in (("base", 0, 50), ("post", POST, 53), ("bare", 0, 50), ("tuned", 5, 50)):
        write_model(tmp_path / name, state(rows, first))
    for name in ("bare", "tuned"):
        (tmp_path / name / "config.json").unlink()
    compute(made["base"], made["post"], made["d"])
    compute(made["bare"], made["tuned"], made["d2"])
    apply(made["base"], [(made["d"], 0.5), (made["d2"], 0.5)], made["out"])
    rows = read_model(tmp_path / "out")[EMBEDDING][:, 0]
    assert rows[50:].tolist() == [POST + row for row in range(50, 53)]


def test_what_became_of_padding_does_not_count_where_another_post_has_a_token(
    in_place: Models, tmp_path: Path
) -> None:
    for name, first in (("padded-base", 0), ("padded-post", 5), ("padded-new", NEW)):
        in_place.add(name, state(SMALL + 8, first), words(listed(SMALL)))
    compute(in_place["padded-base"], in_place["padded-post"], str(tmp_path / "d2"))
    for number, turn in enumerate((1, -1)):
        deltas = [in_place["delta"], str(tmp_path / "d2")][::turn]
        apply(in_place["padded-new"], deltas, str(tmp_path / str(number)))
        rows = read_model(tmp_path / str(number))[EMBEDDING][:, 0]
        assert rows[SMALL : SMALL + 3].tolist() == [POST + row for row in range(SMALL, SMALL + 3)]
        assert rows[SMALL + 3] == NEW + SMALL + 3 + 5
        assert rows[7] == NEW + 7 + POST + 5


def test_deltas_whose_posts_differ_are_refused_on_a_base_without_a_tokenizer(
    in_place: Models, tmp_path: Path
) -> None:
    write_model(tmp_path / "bare", state(SMALL, NEW))
    in_place.add("turned", state(SMALL + 3, POST), words(listed(SMALL)[::-1], in_place.chat))
    in_place.add("turned-base", state(SMALL, 0), words(listed(SMALL)[::-1]))
    compute(in_place["turned-base"], in_place["turned"], str(tmp_path / "d2"))
    with pytest.raises(Mismatch, match=r"id 0 is 'w0' in one delta and 'w319' in another"):
        apply(str(tmp_path / "bare"), [in_place["delta"], str(tmp_path / "d2")], str(tmp_path / "out"))


@pytest.mark.parametrize("turned", [False, True])
def test_the_result_has_the_tokens_of_all_posts(in_place: Models, tmp_path: Path, turned: bool) -> None:
    chat = {**in_place.chat, "<tool>": SMALL + 3}
    in_place.add("post-4", state(SMALL + 4, POST), words(listed(SMALL), chat))
    compute(in_place["base"], in_place["post-4"], str(tmp_path / "d4"))
    deltas = [in_place["delta"], str(tmp_path / "d4")][:: -1 if turned else 1]
    report = apply(in_place["base"], deltas, str(tmp_path / "out"), scale=0.5)
    rows = read_model(tmp_path / "out")[EMBEDDING][:, 0]
    encoded = Tokenizer.from_file(str(tmp_path / "out" / "tokenizer.json")).encode("<tool> <|end|>")
    assert [rows[number] for number in encoded.ids] == [POST + SMALL + 3, POST + SMALL + 2]
    assert report.vocabulary is not None
    assert report.vocabulary.unreachable.count == 0


def test_a_tokenizer_larger_than_its_embedding_keeps_an_id_for_each_token(
    in_place: Models, tmp_path: Path
) -> None:
    """Post has ids without rows; one of them is that of the new base's own token."""
    larger = words(listed(SMALL), {"<x>": SMALL, "<y>": SMALL + 1})
    in_place.add("larger", state(SMALL, POST), larger)
    compute(in_place["base"], in_place["larger"], str(tmp_path / "d"))
    report = apply(in_place["new"], [str(tmp_path / "d")], str(tmp_path / "out"))
    made = Tokenizer.from_file(str(tmp_path / "out" / "tokenizer.json")).get_vocab()
    assert len(set(made.values())) == len(made)
    assert made["<y>"] == SMALL + 1
    assert report.vocabulary is not None
    assert report.vocabulary.unreachable.first == ("<pad>",)


@pytest.mark.parametrize(
    "post_has", [[], ["generation_config.json"], ["tokenizer_config.json"]], ids=str
)
def test_a_post_without_a_tokenizer_gets_the_new_bases(
    in_place: Models, tmp_path: Path, post_has: list[str]
) -> None:
    made = Models(tmp_path, [], [])
    for name, first in (("base", 0), ("post", POST), ("new", NEW)):
        made.add(name, state(40, first), words(listed(40)))
        for file in ("generation_config.json", "tokenizer_config.json"):
            (tmp_path / name / file).write_text(json.dumps({"from": name}))
    for file in {"tokenizer.json", "generation_config.json", "tokenizer_config.json"} - {*post_has}:
        (tmp_path / "post" / file).unlink()
    compute(made["base"], made["post"], made["d"])
    apply(made["new"], [made["d"]], made["out"])
    assert (tmp_path / "out" / "tokenizer.json").read_bytes() == (
        tmp_path / "new" / "tokenizer.json"
    ).read_bytes()
    generation = tmp_path / "out" / "generation_config.json"
    said = json.loads(generation.read_text())["from"] if generation.exists() else None
    assert said == ("post" if "generation_config.json" in post_has else None if post_has else "new")


@pytest.mark.parametrize(("second", "share"), [(0.25, 1 / 3), (-0.25, 0)])
def test_rows_that_are_whole_in_several_deltas_are_averaged(
    models: Models, tmp_path: Path, second: float, share: float
) -> None:
    models.add("post-2", state(SMALL + 3, POST + 7), words(models.post_words, models.chat))
    compute(models["base"], models["post-2"], str(tmp_path / "d2"))
    terms = [(models["delta"], 0.5), (str(tmp_path / "d2"), second)]
    apply(models["new"], terms, str(tmp_path / "out"))
    rows = read_model(tmp_path / "out")[EMBEDDING][:, 0]
    for row in range(SMALL, SMALL + 3):
        first, other = POST + row, POST + 7 + row
        assert rows[row].item() == pytest.approx(first + share * (other - first), rel=1e-6)
    token = models.post_words[5]
    new, old = models.new_words.index(token), listed(SMALL).index(token)
    assert rows[5] == NEW + new + 0.5 * (POST + 5 - old) + second * (POST + 12 - old)


def test_a_combination_keeps_the_order_of_its_deltas_bases(
    models: Models, in_place: Models, tmp_path: Path
) -> None:
    combine([(models["delta"], 0.5), (models["delta"], 0.5)], str(tmp_path / "sum"))
    apply(models["new"], [str(tmp_path / "sum")], str(tmp_path / "out"))
    assert torch.equal(read_model(tmp_path / "out")[EMBEDDING][:, 0], expected(models, 1.0))
    with pytest.raises(Mismatch, match=r"318 tokens do not fit: id 0 is 'w\d+' in one delta and 'w0'"):
        combine([(models["delta"], 0.5), (in_place["delta"], 0.5)], str(tmp_path / "no"))


def test_the_reports_say_what_was_aligned_added_and_kept(models: Models, tmp_path: Path) -> None:
    made = compute(models["base"], models["post"], str(tmp_path / "d")).vocabulary
    assert made is not None
    assert (made.aligned, made.rows, made.padding) == ("by string", SMALL + 3, 0)
    assert (made.added.count, made.added.first) == (3, CHAT)
    moved = sum(old != new for old, new in zip(listed(SMALL), models.post_words, strict=True))
    assert made.moved == moved
    done = apply(models["new"], [models["delta"]], str(tmp_path / "out"), dry_run=True).vocabulary
    assert done is not None
    assert (done.rows, done.added.count, done.padding, done.displaced) == (SMALL + 65, 3, 60, 2)
    assert (done.kept.first, done.unreachable.count) == (("<own>", "<pad>"), 0)
    assert "kept 2 ('<own>', '<pad>')" in list(done.lines())


def test_ordinary_tokens_that_only_the_new_base_has_stay_and_are_said_to_be_unreachable(
    in_place: Models, tmp_path: Path
) -> None:
    in_place.add("more", state(SMALL + 2, NEW), words([*listed(SMALL), "extra", "more"]))
    report = apply(in_place["more"], [in_place["delta"]], str(tmp_path / "out"))
    assert report.vocabulary is not None
    assert report.vocabulary.unreachable.first == ("extra", "more")
    rows = read_model(tmp_path / "out")[EMBEDDING][:, 0]
    assert rows[SMALL:].tolist() == [
        *(POST + row for row in in_place.chat.values()),
        *(NEW + SMALL, NEW + SMALL + 1),
    ]


def test_row_2_special_tokens_that_the_base_never_trained_are_reported(tmp_path: Path) -> None:
    made = Models(tmp_path, [], [])
    special = {"<s>": 50, "<r0>": 51, "<r1>": 52, "<zero>": 53}
    tensors = state(54, 1)
    for tensor in (tensors[EMBEDDING], tensors[HEAD]):
        tensor[52] = tensor[51]
    tensors[EMBEDDING][53] = 1e-17
    tensors[EMBEDDING][50, 0] = torch.nan  # no number, but not small
    for name in ("base", "post"):
        made.add(name, tensors, words(listed(50), special))
    report = compute(made["base"], made["post"], made["d"])
    assert report.vocabulary is not None
    filler = [
        f"'<r{n}>' in {name}: as 1 other special tokens" for name in (EMBEDDING, HEAD) for n in (0, 1)
    ]
    assert sorted(report.vocabulary.untrained) == sorted(
        [*filler, f"'<zero>' in {EMBEDDING}: near zero"]
    )


@pytest.mark.parametrize("whose", ["base", "new"])
def test_a_result_that_was_aligned_is_seen_to_be_fresh(
    models: Models, tmp_path: Path, whose: str
) -> None:
    report = apply(models[whose], [models["delta"]], str(tmp_path / "out"))
    known = {models[whose]: report.base_fingerprint}
    again = apply_freshness(
        models[whose],
        [models["delta"]],
        str(tmp_path / "out"),
        fingerprint_of=lambda model: Digest.parse(known[model.location]),
    )
    assert again.state == "fresh"


def test_a_head_that_could_not_be_aligned_with_the_embedding_is_refused(tmp_path: Path) -> None:
    made = Models(tmp_path, [], [])
    padded = {**state(50, 0), HEAD: torch.ones(64, 4)}
    made.add("base", padded, words(listed(50)))
    made.add("post", {**padded}, words(listed(50)[::-1]))
    with pytest.raises(Mismatch, match=r"lm_head\.weight in .* may have a row for each token"):
        compute(made["base"], made["post"], made["d"])


@pytest.mark.parametrize("tokenizers", [True, False])
def test_a_head_that_did_not_grow_with_the_embedding_is_refused(
    tmp_path: Path, tokenizers: bool
) -> None:
    """Its new rows are differences, the embedding's are not."""
    made = Models(tmp_path, [], [])
    for name, first, embedding, count in (
        ("base", 0, 50, 50),
        ("post", POST, 52, 52),
        ("new", NEW, 52, 52),
    ):
        folder = write_model(
            tmp_path / name, {**state(52, first), EMBEDDING: state(52, first)[EMBEDDING][:embedding]}
        )
        if tokenizers:
            put(folder, words(listed(count)))
    compute(made["base"], made["post"], made["d"])
    with pytest.raises(Mismatch, match=r"grew by other rows than .*resize them first"):
        apply(made["new"], [made["d"]], made["out"])


@pytest.mark.parametrize(
    ("tensor", "sizes"),
    [("visual.proj.weight", {"intermediate_size": 48}), ("model.layers.0.self_attn.k_proj.weight", {})],
)
def test_a_tensor_that_only_has_the_vocabularys_size_by_chance_is_not_re_ordered(
    tmp_path: Path, tensor: str, sizes: dict[str, int]
) -> None:
    made = Models(tmp_path, [], [])
    tensors = {**state(48, 0), tensor: torch.ones(48, 4)}
    for name, tokens in (("base", listed(48)), ("post", listed(48)[::-1])):
        made.add(name, tensors, words(tokens), **sizes)
    with pytest.raises(Mismatch, match="as the vocabulary and another size have"):
        compute(made["base"], made["post"], made["d"])


def test_a_multimodal_text_part_gets_the_size_and_posts_ids(tmp_path: Path) -> None:
    made = Models(tmp_path, [], [])
    for name, rows, first, tokens in (
        ("base", 40, 0, words(listed(40))),
        ("post", 41, POST, words(listed(40)[::-1], {"<a>": 40})),
        ("new", 48, NEW, words(listed(40))),
    ):
        folder = write_model(made.folder / name, state(rows, first))
        text = {"vocab_size": rows, "eos_token_id": rows - 1, "hidden_size": 4}
        (folder / "config.json").write_text(json.dumps({"model_type": "x", "text_config": text}))
        put(folder, tokens)
    compute(made["base"], made["post"], made["d"])
    report = apply(made["new"], [made["d"]], made["out"])
    config = json.loads(Path(made["out"], "config.json").read_text())
    assert config["text_config"] == {"vocab_size": 48, "eos_token_id": 40, "hidden_size": 4}
    assert read_model(Path(made["out"]))[EMBEDDING][40, 0] == POST + 40
    assert report.vocabulary is not None
    assert report.vocabulary.added.first == ("<a>",)


@pytest.mark.parametrize("odd", [b"[" * 100_000, b'{"model": {"vocab": {"w0": 0, "x": -1}}}', b"\xff"])
def test_a_hostile_tokenizer_is_as_good_as_none(tmp_path: Path, odd: bytes) -> None:
    made = Models(tmp_path, [], [])
    for name, first in (("base", 0), ("post", POST)):
        made.add(name, state(40, first), words(listed(40)))
    (tmp_path / "base" / "tokenizer.json").write_bytes(odd)
    report = compute(made["base"], made["post"], made["d"])
    assert report.vocabulary is not None
    assert report.vocabulary.aligned == "by position"
    assert report.vocabulary.why == "1 of 2 tokenizers not known"
    made.add("wide", state(44, 0), words(listed(40)))
    (tmp_path / "wide" / "tokenizer.json").write_bytes(odd)
    with pytest.raises(Mismatch, match="44 × 4 in base, 40 × 4 in post"):
        compute(made["wide"], made["post"], made["d2"])
