"""The tables say what the results file says, and the README holds them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks import results, serving_table, table
from benchmarks.results import Results, Run, Setting
from models.scores import SplitMetrics

SETTING = Setting(
    commit="0123456789abcdef0123456789abcdef01234567",
    cpu="Some CPU",
    cores=2,
    libraries={"candor": {"torch": "2.15.0"}, "fastai": {"torch": "2.15.0", "timm": "1.0.31", "fastai": "2.8.12"}},
)


def run(tool: str, size: int, seed: int, accuracy: float, wall_s: float, other_cpu_s: float = 0.5, **detail: object) -> Run:
    test = SplitMetrics(images=2000, accuracy=accuracy, macro_recall=accuracy, nll=0.5, ece=0.02)
    return Run(
        tool=tool,
        images_per_label=size,
        seed=seed,
        wall_s=wall_s,
        cpu_s=wall_s,
        other_cpu_s=other_cpu_s,
        test=test,
        detail=detail,
    )


def candidates(**accuracies: float) -> dict[str, dict[str, float]]:
    return {name: {"accuracy": accuracy, "nll": 0.4} for name, accuracy in accuracies.items()}


MEASURED = Results(
    setting=SETTING,
    image_size_px=96,
    runs=(
        run("fastai", 150, 0, 0.776, 190.4),
        run("candor", 50, 0, 0.80, 40, published="probe", epochs=0, validation=candidates(probe=0.79)),
        run("candor", 150, 0, 0.87, 80, published="ema", epochs=4, validation=candidates(probe=0.85, last=0.86, ema=0.87)),
        run("candor", 150, 1, 0.88, 85.6, published="probe", epochs=4, validation=candidates(probe=0.88, last=0.86)),
    ),
)


def test_scores_are_means_with_their_range() -> None:
    rows = [line for line in table.render(MEASURED).splitlines() if line.startswith("|")]
    assert rows[:5] == [
        "| images a label | tool | accuracy | NLL | ECE | wall time, s |",
        "| --- | --- | --- | --- | --- | --- |",
        "| 50 | candor | 0.800 | 0.500 | 0.020 | 40 |",
        "| 150 | candor | 0.875 (0.870 to 0.880) | 0.500 (0.500 to 0.500) | 0.020 (0.020 to 0.020) | 83 (80 to 86) |",
        "| 150 | fastai | 0.776 | 0.500 | 0.020 | 190 |",
    ]


def test_candidates_are_shown_where_there_was_a_choice() -> None:
    rows = [line for line in table.render(MEASURED).splitlines() if line.startswith("|")]
    assert rows[5:] == [
        "| images a label | tool | seed | epochs | probe | last | ema | published |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
        "| 150 | candor | 0 | 4 | 0.850, 0.400 | 0.860, 0.400 | 0.870, 0.400 | ema |",
        "| 150 | candor | 1 | 4 | 0.880, 0.400 | 0.860, 0.400 |  | probe |",
    ]


def test_where_it_was_measured_is_said() -> None:
    first = table.render(MEASURED).splitlines()[0]
    expected = "2 cores of Some CPU, commit `0123456789ab`, torch 2.15.0, timm 1.0.31, fastai 2.8.12."
    others = "Everything else on the machine took at most 1% of its cores' time during a run."
    assert first == f"Fashion-MNIST at 96 px, {expected} {others}"


def test_a_busy_machine_is_said() -> None:
    busy = MEASURED.adding(run("fastai", 50, 0, 0.6, wall_s=100, other_cpu_s=74))
    assert "at most 37% of" in table.render(busy)


def test_text_is_placed_between_the_markers_and_nothing_else_moves() -> None:
    document = f"above\n{table.BEGIN}\nold\n{table.END}\nbelow\n"
    placed = table.place(document, "new")
    assert placed == f"above\n{table.BEGIN}\nnew\n{table.END}\nbelow\n"
    assert table.place(placed, "new") == placed


@pytest.mark.parametrize(
    "document", ["", table.BEGIN, f"{table.END}\n{table.BEGIN}", f"{table.BEGIN}{table.END}{table.END}"], ids=range(4)
)
def test_markers_that_are_not_there_are_an_error(document: str) -> None:
    with pytest.raises(ValueError, match="the document needs"):
        table.place(document, "new")


def test_results_survive_the_file(tmp_path: Path) -> None:
    path = tmp_path / "results" / "file.json"
    results.write(path, MEASURED)
    assert results.read(path) == MEASURED
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.skipif(not results.TRAINING_CPU.exists(), reason="no benchmark of this code was committed")
def test_the_committed_table_is_the_committed_results() -> None:
    document = table.README.read_text()
    assert table.place(document, table.render(results.read(results.TRAINING_CPU))) == document


def test_the_committed_table_of_serving_is_the_committed_results() -> None:
    found = json.loads(table.SERVING_CPU.read_text())
    document = table.README.read_text()
    assert table.place(document, serving_table.render(found), table.SERVING_BEGIN, table.SERVING_END) == document
    assert set(found["peers"]["versions"]) == {"fastapi", "litserve", "mosec", "ray", "bentoml"}
