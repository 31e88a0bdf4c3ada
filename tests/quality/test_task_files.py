"""Task files of the harness are data: what would make it import, fetch or run code is refused unread."""

import pytest

from pipeline.errors import CorruptFile, NotFound, PipelineError
from pipeline.quality.task_files import check_folder

METRICS = {"acc", "exact_match"}
PLAIN = "task: mine\ndataset_path: json\nmetric_list:\n  - metric: acc\n    higher_is_better: true\n"


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "mine.yaml").write_text(PLAIN)
    return tmp_path


def test_plain_task_files_have_a_digest_of_them_all(folder):
    first = check_folder(str(folder), METRICS)
    assert check_folder(str(folder), METRICS) == first
    (folder / "mine.yaml").write_text(PLAIN + "include: base\n")
    (folder / "base").write_text("num_fewshot: 2\n")
    second = check_folder(str(folder), METRICS)
    (folder / "base").write_text("num_fewshot: 3\n")
    assert len({first, second, check_folder(str(folder), METRICS)}) == 3


@pytest.mark.parametrize(
    "line",
    [
        "process_docs: !function utils.f", "class: utils.T", "doc_to_text: !!python/name:os.system",
        "x: !!python/object/apply:os.system ['true']", "unsafe_code: true", "hf_evaluate: true",
        "dataset_kwargs: {trust_remote_code: true}", "metric_list: [{metric: somebody/metric}]",
        "metric_list: [{metric: !function utils.f}]", "a: &a [1]\nb: *a", "a: [", "- 1", "x: \x00",
        "use_prompt: promptsource:all", "a: " + "[" * 10_000, "custom_dataset: x",
        "include: /etc/passwd", "include: ../outside", "include: [1]", "include: nowhere",
    ],
)  # fmt: skip
@pytest.mark.parametrize("where", ["mine.yaml", "included"])
def test_what_may_run_code_is_refused_by_file(folder, line, where):
    (folder.parent / "outside").write_text("a: 1\n")
    path = folder / where
    if where == "included":
        (folder / "mine.yaml").write_text(PLAIN + "include: included\n")
        path.write_text("")
    path.write_text(path.read_text() + line)
    with pytest.raises(PipelineError, match=r"mine\.yaml|included|outside|nowhere|passwd"):
        check_folder(str(folder), METRICS)


def test_a_link_does_not_lead_out_of_the_folder(folder):
    outside = folder.parent / "outside.yaml"
    outside.write_text(PLAIN)
    (folder / "link.yaml").symlink_to(outside)
    with pytest.raises(CorruptFile, match="outside of the folder"):
        check_folder(str(folder), METRICS)


def test_a_file_too_large_and_a_folder_with_none_are_refused(folder, tmp_path):
    (folder / "big.yaml").write_text("#" * (1 << 20) + "\n")
    with pytest.raises(CorruptFile, match="too large"):
        check_folder(str(folder), METRICS)
    (tmp_path / "empty").mkdir()
    for name in ("empty", "not-there"):
        with pytest.raises(NotFound):
            check_folder(str(tmp_path / name), METRICS)
