"""mergekit in a virtual environment of its own, made on the first run."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Mapping
from pathlib import Path

from processes import Command, run

REQUIREMENTS = Path(__file__).resolve().with_name("mergekit.txt")


def install_mergekit(work: Path, env: Mapping[str, str]) -> Path:
    """The `mergekit-yaml` command of an environment below `work`; made unless it is there.

    Raises CommandFailed, for example without a network.
    """
    work.mkdir(parents=True, exist_ok=True)
    folder = work / "mergekit"
    command = folder / "bin" / "mergekit-yaml"
    marker = folder / "installed.txt"
    wanted = REQUIREMENTS.read_text()
    if not marker.is_file() or marker.read_text() != wanted:
        shutil.rmtree(folder, ignore_errors=True)
        run([sys.executable, "-m", "venv", folder], folder=work, env=env)
        pip: Command = [folder / "bin" / "python", "-m", "pip", "install", "--quiet", "-r", REQUIREMENTS]
        run(pip, folder=work, env=env)
        marker.write_text(wanted)
    run([command, "--help"], folder=work, env=env)  # its imports come from the page cache from now on
    return command
