"""docs/scaling.md: its figures follow from the rates that it gives, and its manifest can be read."""

from __future__ import annotations

import re

import pytest
import yaml
from sources import ROOT

PAGE = (ROOT / "docs" / "scaling.md").read_text()
CORES, WIRE, OUT, IN, PRICE = 8, 12.5, 120, 60, 0.40


def rows(header):
    """The table below `header`, as lists of cells."""
    table = PAGE.partition(header)[2].partition("\n\n")[0]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()[2:]]


RATES = {
    job.split()[0].rstrip(","): (float(work), float(down), float(up))
    for job, work, down, up in rows("| | core-seconds | GB down | GB up |")
}
SIZES = {"8B": 8.0, "70B": 70.6, "405B": 405.9}


@pytest.mark.parametrize("row", rows("| model | nodes | job | minutes | USD | limit |"), ids=" ".join)
def test_times_and_costs_follow_from_the_measured_rates(row):
    model, nodes, job, minutes, cost, limit = row
    work, down, up = RATES[job]
    size, count = SIZES[model], int(nodes)
    limits = {
        "cores": work * size / (count * CORES),
        "account, out": 8 * down * size / min(count * WIRE, OUT),
        "account, in": 8 * up * size / min(count * WIRE, IN),
    }
    seconds = 30 + 0.1 * size + max(limits.values())
    assert limits[limit] == max(limits.values())
    assert f"{seconds / 60:.1f}" == minutes
    assert f"{count * PRICE * seconds / 3600:.2f}" == cost


def test_the_manifest_is_a_cluster_of_the_version_that_is_required():
    (text,) = re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)
    manifest = yaml.safe_load(text)
    assert manifest["kind"] == "RayCluster"
    assert f"ray=={manifest['spec']['rayVersion']}" in (ROOT / "requirements-ray.txt").read_text()
    heads = manifest["spec"]["headGroupSpec"]
    workers = manifest["spec"]["workerGroupSpecs"]
    assert all(group["template"]["spec"]["containers"] for group in [heads, *workers])
