"""What a terminal shows while a study is trained."""

import io
from pathlib import Path

import pytest
from rich.console import Console

from visionbench.studies.expand import place_in_words, plan
from visionbench.studies.results import Row, write_rows
from visionbench.studies.runner import SAVED, Options, Runner
from visionbench.studies.screen import Screen
from visionbench.studies.spec import load_study

TEXT = """\
title: Widths
source: S
seeds: [0, 1]
base: {data: Digits, model: MLP, trainer: {max_epochs: 1}}
grid:
  width: {WIDTHS}
protocols: {corrected: {}}
stages: {all: {grid: [width]}}
judged: [val/acc]
tolerance: 10
published:
  all: [[width, val/acc], [1, 70.5]]
"""


@pytest.mark.parametrize(("width", "height"), [(110, 40), (80, 24), (60, 14), (40, 6)])
@pytest.mark.parametrize("cells", [2, 60])
def test_the_state_is_in_sight_on_a_terminal_of_any_size(tmp_path, monkeypatch, width, height, cells):
    monkeypatch.chdir(tmp_path)
    path = Path("configs/studies/widths.yaml")
    path.parent.mkdir(parents=True)
    widths = ", ".join(f"{n}: {{model.widths: [{n}]}}" for n in range(1, cells + 1))
    path.write_text(TEXT.replace("WIDTHS", widths))
    study = load_study(path)
    run = next(iter(plan(study, {}).runs.values()))
    use = run.first
    row = Row(run.id, run.protocols, use.stage, use.cell, use.seed, None, "finished", {"val/acc": 0.7}, seconds=60.0)
    write_rows(SAVED / study.id / "runs.csv", [row])
    console = Console(file=io.StringIO(), force_terminal=True, width=width, height=height)
    screen, runner = Screen(console), Runner(study, Options())
    screen.begin(runner)
    console.file = io.StringIO()
    screen.changed(runner, run, row, "finished")
    screen.live.refresh()
    shown = console.file.getvalue()
    screen.stop(runner)
    assert f"[1/{2 * cells}]" in shown
    assert "min" in shown
    if height > 6:
        assert "val/acc 70.00 %" in shown
        assert ("more cells" in shown) == (cells == 60)


@pytest.mark.parametrize(
    ("protocols", "name"),
    [
        ("{corrected: {}}", "all · 1 · seed 0"),
        ("{reported: {}, corrected: {}}", "all · reported+corrected · 1 · seed 0"),
    ],
)
def test_a_run_names_its_protocols_where_there_are_several(tmp_path, protocols, name):
    path = tmp_path / "widths.yaml"
    path.write_text(TEXT.replace("WIDTHS", "1: {model.widths: [1]}").replace("{corrected: {}}", protocols))
    assert place_in_words(next(iter(plan(load_study(path), {}).runs.values()))) == name
