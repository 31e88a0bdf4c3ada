"""Hostile deltas by number: the same number and seed make the same file."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from random import Random

from pipeline import combine, compute
from tests.deltas import golden
from tests.fuzz.draft import Draft
from tests.fuzz.mutations import BLUNT, HEAVY, MUTATIONS

HEAVY_SHARE = 0.004


@dataclass(frozen=True)
class Case:
    """One hostile file. damage: nobody mended its digests, so that it must be post or nothing."""

    number: int
    name: str
    data: bytes
    damage: bool


class Corpus:
    """Files made of a few sound ones, which lie in `folder` with their base and post."""

    def __init__(self, folder: Path, seed: int = 0, *, heavy: float = HEAVY_SHARE) -> None:
        self.base, self.post = golden.FOLDER / "base", golden.FOLDER / "post"
        self._seed, self._heavy = seed, heavy
        self._light = [each for each in MUTATIONS if each not in HEAVY]
        self._drafts: dict[str, Draft] = {}
        for name, path in self._sound(folder).items():
            self._drafts[name] = Draft.read(path.read_bytes())

    def _sound(self, folder: Path) -> dict[str, Path]:
        """Both forms; with much that rounding lost; a combination."""
        found = {name: golden.FOLDER / f"{name}.safetensors" for name in golden.DELTAS}
        folder.mkdir(parents=True, exist_ok=True)
        for codec in golden.DELTAS.values():
            path = folder / f"narrow-{codec}.safetensors"
            compute(
                str(self.base), str(self.post), str(path), dtype="float16", codec=codec, overwrite=True
            )
            found[path.stem] = path
        path = folder / "combination.safetensors"
        combine([(str(found["packed"]), 0.5)], str(path), overwrite=True)
        return found | {path.stem: path}

    def sound(self) -> list[Case]:
        """The files themselves, taken apart and put together."""
        return [
            Case(-1, name, draft.copy().build(), damage=True) for name, draft in self._drafts.items()
        ]

    def draft(self, random: Random) -> Draft:
        """Some sound file's, to be changed."""
        return self._drafts[random.choice(list(self._drafts))].copy()

    def case(self, number: int) -> Case:
        """Hostile file `number`."""
        random = Random(f"{self._seed}/{number}")
        name = random.choice(list(self._drafts))
        draft = self._drafts[name].copy()
        if random.random() < self._heavy:
            chosen = [random.choice(sorted(HEAVY, key=str))]
        else:
            chosen = random.choices(self._light, k=random.choice([1, 1, 1, 1, 2, 3]))
        done = []
        for mutate in chosen:
            try:
                mutate(random, draft)
            except (KeyError, TypeError, IndexError, AttributeError, ValueError, OverflowError):
                continue  # an earlier mutation has left it nothing to change
            done.append(mutate)
        damage = all(mutate in BLUNT for mutate in done)
        honest = damage or random.random() < 0.05
        data = draft.build(redigest=not honest, reseal=not honest or random.random() < 0.5)
        return Case(number, f"{name}: {' + '.join(each.__name__ for each in done)}", data, damage)
