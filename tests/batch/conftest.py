"""Where configs are: a current directory of their own, empty or with a family of models in it."""

import pytest
from batch.clouds import write_family
from models import cast, near, random_state, write_model


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """The current directory, empty."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="module")
def states():
    """A family: v1, its post-trained version with a larger vocabulary, and v2."""
    base = random_state(0)
    return {
        "base-v1": cast(base),
        "post-v1": cast(near(base, 1, vocab=53)),
        "code-v1": cast(near(base, 2)),
        "base-v2": cast(near(base, 3, scale=1e-2)),
    }


@pytest.fixture
def family(folder, states):
    """The current directory: the family, and nothing else."""
    for name, state in states.items():
        write_model(folder / name, state)
    return folder


@pytest.fixture(scope="session")
def large_family(tmp_path_factory):
    """Models large enough to be split; not to be changed."""
    return write_family(tmp_path_factory.mktemp("large"))
