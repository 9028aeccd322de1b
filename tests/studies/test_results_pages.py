"""The pages of results are those of the rows that are saved beside them."""

import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def pages():
    """The module that writes the pages, and all studies with their saved rows."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        patch.syspath_prepend(str(ROOT / "docs"))
        import write_results

        yield (
            write_results,
            {path.stem: write_results.contents_of(path) for path in sorted(write_results.STUDIES.glob("*.yaml"))},
        )
    sys.modules.pop("write_results")


@pytest.mark.parametrize("page", ["README.md", "defects.md"])
def test_a_page_is_that_of_the_saved_rows(pages, page, monkeypatch):
    monkeypatch.chdir(ROOT)
    module, everything = pages
    make = {"README.md": module.results_page, "defects.md": module.defects_page}[page]
    assert (ROOT / "docs/results" / page).read_text(encoding="utf-8") == make(everything), (
        "python docs/write_results.py writes it anew"
    )


def test_each_number_of_a_defect_is_one_that_its_study_has(pages):
    module, everything = pages
    for defect in module.DEFECTS:
        for effect in defect.effects:
            contents = everything[effect.study or defect.study]
            for wanted in filter(None, (effect.with_defect, effect.without)):
                stage = contents.study.stages[wanted.stage]
                assert wanted.protocol in stage.protocols
                assert all(label in contents.study.grid[axis] for axis, label in wanted.cell)
                is_complete = contents.plan.runs.keys() <= {row.id for row in contents.finished}
                assert module._find(contents, wanted) is not None or not is_complete
