"""A study as array jobs of SLURM: what is written, and which task trains what."""

import shutil
import subprocess
from pathlib import Path

import pytest

from visionbench.commands.study import study as command
from visionbench.errors import UserError
from visionbench.studies.runner import Options, Runner
from visionbench.studies.slurm import SlurmOptions, rounds_of, write_script
from visionbench.studies.spec import load_study

pytestmark = pytest.mark.fast

TEXT = """\
title: T
source: S
seeds: [0, 1, 2, 3, 4]
base: {data: Digits, model: {class_path: MLP, init_args: {widths: [8]}}, trainer: {max_epochs: 1}}
grid: {width: {8: {model.widths: [8]}, 16: {model.widths: [16]}}}
stages:
  all: {grid: [width]}
  more: {continue: all, set: {trainer.max_epochs: 2}}
  final: {best_of: more, test: true}
"""


@pytest.fixture
def study(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = Path("configs/studies/widths.yaml")
    path.parent.mkdir(parents=True)
    path.write_text(TEXT)
    return load_study(path)


@pytest.mark.parametrize("count", [1, 3, 50])
def test_each_run_is_of_one_share_and_in_that_of_the_run_that_it_resumes(study, count):
    runners = [Runner(study, Options(share=(number, count))) for number in range(1, count + 1)]
    shares = [{run.id for run in runner.missing()} for runner in runners]
    whole = Runner(study, Options()).missing()
    assert sorted(run for share in shares for run in share) == sorted(run.id for run in whole)
    for run in whole:
        if run.continues is not None:
            assert any({run.id, run.continues.run} <= share for share in shares)
    assert max(map(len, shares)) < len(whole) or count == 1


def test_each_choice_by_results_is_a_round_of_its_own(study):
    assert rounds_of(study) == 2
    study.path.write_text(TEXT.replace("  final", "  best: {best_of: all}\n  final").replace("of: more", "of: best"))
    assert rounds_of(load_study(study.path)) == 3


@pytest.mark.parametrize("time", ["30", "30:00", "02:00:00", "1-12", "1-12:30:00", "UNLIMITED"])
def test_a_time_is_taken_as_slurm_takes_it(study, time):
    assert f"--time={time}\n" in write_script(study, Path("jobs"), SlurmOptions(time=time)).read_text()


@pytest.mark.parametrize("time", ["soon", "2h", "1:2:3:4", ""])
def test_a_time_that_slurm_refuses_is_refused(study, time):
    with pytest.raises(UserError, match=f"time is {time}, expected a time as SLURM takes it"):
        write_script(study, Path("jobs"), SlurmOptions(time=time))


def test_the_commands_that_submit_the_jobs_are_printed(study, capsys):
    line = "slurm widths --tasks 3 --gpus 2 --time 04:00:00 --sbatch=--partition=long --data.root data"
    assert command(line.split()) == 0
    printed = capsys.readouterr().out.splitlines()
    script = str(Path("lightning_logs/studies/widths/slurm.sh").absolute())
    assert printed == [
        f"wrote {script}",
        f"submit with: sbatch --parsable {script}",
        f"submit with: sbatch --parsable --dependency=afterany:JOB {script}",
        "when all jobs have ended: visionbench study run widths --save",
    ]
    content = Path(script).read_text()
    for argument in ("--array=0-2", "--gpus-per-task=2", "--time=04:00:00", "--partition=long", "--requeue"):
        assert f"\n#SBATCH {argument}\n" in content
    assert '--workers 2 --data.root data --share "$((SLURM_ARRAY_TASK_ID + 1))/3" &' in content


@pytest.mark.skipif(shutil.which("shellcheck") is None, reason="shellcheck is not installed")
def test_the_script_is_clean(study):
    script = write_script(study, Path("a folder/it's"), SlurmOptions(words=["--data.source", "a b"]))
    done = subprocess.run(["shellcheck", str(script)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("slurm widths --tasks 0", "tasks is 0, expected 1 or more."),
        ("slurm widths --model.dropout 0.5", "--model.dropout cannot be given to a study"),
        ("run widths --share 4/3", "share is 4/3, expected a number from 1 to N and N, such as 1/4."),
        ("run widths --share 2", "share is 2, expected a number from 1 to N and N, such as 1/4."),
        (
            "slurm widths --submit",
            "There is no sbatch on this machine; submit /.*/lightning_logs/studies/widths/slurm.sh",
        ),
    ],
)
def test_each_mistake_is_one_sentence(study, line, sentence, monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(UserError, match=sentence.replace("(", r"\(")):
        command(line.split())
