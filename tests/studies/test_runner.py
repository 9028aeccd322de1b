"""Running a study: every run once, none lost, whatever is killed."""

import csv
import os
import random
import re
import shutil
import signal
import statistics
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from visionbench.studies.expand import plan
from visionbench.studies.results import TIMES, Row, read_rows, row_of, write_rows
from visionbench.studies.runner import Options, Runner
from visionbench.studies.spec import load_study

pytestmark = pytest.mark.slow

TEXT = """\
title: Two widths
source: A course
seeds: [0, 1, 2]
base:
  data: Digits
  model: {class_path: MLP, init_args: {widths: [8]}}
  trainer: {max_epochs: 2}
grid:
  width: {8: {model.widths: [8]}, 16: {model.widths: [16]}}
protocols: {reported: {set: {model.dropout: 0.1}}, corrected: {}}
stages:
  candidates: {grid: [width], result: last epoch}
  more: {continue: candidates, set: {trainer.max_epochs: 4}, result: last epoch}
  final: {best_of: candidates, by: val/acc, test: true, set: {data.batch_size: 32}}
published:
  candidates: [[width, val/acc], [8, 72.5], [16, 80.0]]
  final: [[test/acc], [80]]
judged: [val/acc, test/acc]
tolerance: 10
"""
RUNS = 2 * 2 * 3 * 2 + 2 * 3  # protocols, widths, seeds, two stages; the final ones
# For what does not depend on the number of runs: two candidates, which are trained on, and the best one.
SMALL = TEXT.replace("seeds: [0, 1, 2]", "seeds: [0]").replace(
    "protocols: {reported: {set: {model.dropout: 0.1}}, corrected: {}}", "protocols: {reported: {}}"
)
SMALL_RUNS = 2 * 2 + 1
# What is imported for each command, so that a process does not end while Python starts.
COMMAND = [sys.executable, "-m", "visionbench", "study"]


def write_study(folder: Path, text: str = TEXT, name: str = "two-widths") -> Path:
    path = folder / "configs/studies" / f"{name}.yaml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def study(folder: Path, *words: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    done = subprocess.run([*COMMAND, *words], cwd=folder, capture_output=True, text=True, check=False)
    if check:
        assert done.returncode == 0, done.stdout + done.stderr
    return done


def table(folder: Path, name: str = "two-widths") -> list[dict[str, str]]:
    """The results without what differs between two trainings: times."""
    with (folder / f"lightning_logs/studies/{name}/results.csv").open(newline="") as file:
        return [{key: value for key, value in row.items() if key not in TIMES} for row in csv.DictReader(file)]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("undisturbed")
    write_study(folder)
    (folder / "printed.txt").write_text(study(folder, "run", "two-widths", "--save").stdout)
    return folder


@pytest.fixture(scope="module")
def small(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("small")
    write_study(folder, SMALL)
    study(folder, "run", "two-widths")
    return folder


def test_every_run_is_trained_once_and_has_its_verdict(undisturbed):
    printed = (undisturbed / "printed.txt").read_text()
    assert f"[{RUNS}/{RUNS}] runs finished, {RUNS} of them now" in printed
    assert len(table(undisturbed)) == RUNS
    assert {row["status"] for row in table(undisturbed)} == {"finished"}
    assert len(re.findall(r"(?m)^candidates / .*: (reproduced|not reproduced|inconclusive)", printed)) == 2
    verified = study(undisturbed, "verify", "two-widths")
    assert len(verified.stdout.splitlines()) == 3
    again = study(undisturbed, "run", "two-widths").stdout
    assert "0 to train" in again
    assert "0 of them now" in again


def test_a_forked_run_is_the_run_of_the_command_line(undisturbed, tmp_path):
    row = read_rows(undisturbed / "lightning_logs/studies/two-widths/results.csv")[0]
    config = undisturbed / f"lightning_logs/studies/two-widths/cells/{row.id}.yaml"
    line = [sys.executable, "-m", "visionbench", "fit", "--config", str(config), "--run_dir", str(tmp_path / "run")]
    subprocess.run(line, cwd=tmp_path, check=True, capture_output=True)
    from visionbench.runs.folder import RunFolder

    run = RunFolder(tmp_path / "run")
    assert run.metadata["weights_digest"] == row.weights_digest
    os.utime(run.metadata_path, (0, 0))  # as a copy of the folder may have it
    assert (
        row_of(run, row.id, row.protocols, row.stage, row.cell, row.seed, row.fold).date == run.metadata["ended"][:10]
    )


def test_a_recorded_run_is_repeated_on_a_clone_with_one_command(undisturbed, tmp_path):
    write_study(tmp_path)
    saved = Path("docs/results/two-widths/runs.csv")
    (tmp_path / saved).parent.mkdir(parents=True)
    shutil.copy(undisturbed / saved, tmp_path / saved)
    row = next(row for row in read_rows(tmp_path / saved) if row.stage == "more")  # it resumes another run
    *listed, last = study(tmp_path, "repeat", "two-widths", "--data.offline", "true").stdout.splitlines()
    assert {line.split()[0] for line in listed} == {row.id for row in read_rows(tmp_path / saved)}
    shortest = listed[0].split()[0]
    assert last == (
        f"{len(listed)} runs recorded, each with its wall time; visionbench study repeat two-widths {shortest} "
        "--data.offline true trains one again"
    )
    printed = study(tmp_path, "repeat", "two-widths", row.id[:6]).stdout
    assert f"{row.id} was trained again for comparison, and has the recorded weights." in printed
    assert "Weights, metrics, curves and confusion matrices are those recorded, digit for digit." in printed
    runs = tmp_path / "lightning_logs/repeated/two-widths/runs"
    assert (
        len([path for path in runs.iterdir() if path.is_dir()]) == 2
    )  # the run and the one that it resumes, each trained once
    assert not (tmp_path / "lightning_logs/studies").exists()

    other = replace(row, metrics={**row.metrics, "val/acc": 0.5}, weights_digest="0" * 64)
    write_rows(tmp_path / saved, [other])
    differs = study(tmp_path, "repeat", "two-widths", row.id, check=False)
    assert differs.returncode == 1
    assert f"val/acc: {100 * row.metrics['val/acc']:.4f} % here, 50.0000 % recorded" in differs.stdout
    assert "the weights are other ones\nother circumstances: none that is known" in differs.stdout
    write_rows(tmp_path / saved, [replace(other, processor="another one")])
    elsewhere = study(tmp_path, "repeat", "two-widths", row.id)
    assert f"other circumstances: processor {row.processor} here, another one recorded" in elsewhere.stdout
    unknown = study(tmp_path, "repeat", "two-widths", "zz", check=False)
    assert unknown.returncode == 2
    assert (
        f"No recorded run of two-widths has an id that begins with zz; give an id of {saved}, such as {row.id}."
        in unknown.stderr
    )


def test_a_resumed_stage_equals_a_run_that_was_never_stopped(undisturbed, tmp_path):
    rows = read_rows(undisturbed / "lightning_logs/studies/two-widths/results.csv")
    row = next(row for row in rows if row.stage == "more")
    config = undisturbed / f"lightning_logs/studies/two-widths/cells/{row.id}.yaml"
    line = [sys.executable, "-m", "visionbench", "fit", "--config", str(config), "--run_dir", str(tmp_path / "run")]
    subprocess.run(line, cwd=tmp_path, check=True, capture_output=True)
    from visionbench.runs.folder import RunFolder

    assert row.epochs == 4
    assert RunFolder(tmp_path / "run").metadata["weights_digest"] == row.weights_digest


def test_tensorboard_has_the_place_and_the_judged_measures_of_each_run(undisturbed):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.plugins.hparams import metadata

    for row in read_rows(undisturbed / "lightning_logs/studies/two-widths/results.csv"):
        events = EventAccumulator(str(undisturbed / "lightning_logs/studies/two-widths/runs" / row.id)).Reload()
        content = events.PluginTagToContent("hparams")
        assert metadata.EXPERIMENT_TAG not in content  # it would hide the columns that other runs have
        started = metadata.parse_session_start_info_plugin_data(content[metadata.SESSION_START_INFO_TAG])
        shown = {name: value.string_value for name, value in started.hparams.items()}
        assert shown == {"stage": row.stage, **row.cell, "seed": str(row.seed), "protocol": "+".join(row.protocols)}
        judged = {name: row.metrics[name] for name in ("val/acc", "test/acc") if name in row.metrics}
        assert {tag: events.Scalars(tag)[-1].value for tag in events.Tags()["scalars"]} == pytest.approx(judged)


def test_checkpoints_are_kept_only_where_something_needs_them(undisturbed):
    folder = undisturbed / "lightning_logs/studies/two-widths"
    kept = {path.parent.name for path in folder.glob("runs/*/checkpoints")}
    final = {row.id for row in read_rows(folder / "results.csv") if row.stage == "final"}
    assert final <= kept
    assert not kept & {row.id for row in read_rows(folder / "results.csv") if row.stage == "candidates"}
    assert all((path / "log.txt").read_text() for path in (folder / "runs").iterdir() if path.is_dir())


def test_killed_runners_and_workers_change_nothing(undisturbed, tmp_path):
    write_study(tmp_path)
    draw = random.Random(0)
    kills = 0
    for _ in range(6):
        runner = subprocess.Popen([*COMMAND, "run", "two-widths"], cwd=tmp_path, stdout=subprocess.DEVNULL)
        time.sleep(12 + 4 * draw.random())
        victims = [runner.pid] if draw.random() < 0.5 else _workers(runner.pid) or [runner.pid]
        for victim in victims:
            os.kill(victim, signal.SIGKILL)
            kills += 1
        if runner.pid not in victims:
            time.sleep(2 * draw.random())
        runner.kill()
        runner.wait()
    before = (
        {
            row["id"]: (tmp_path / f"lightning_logs/studies/two-widths/runs/{row['id']}/run.json").stat().st_mtime_ns
            for row in table(tmp_path)
        }
        if (tmp_path / "lightning_logs/studies/two-widths/results.csv").exists()
        else {}
    )
    study(tmp_path, "run", "two-widths")
    assert kills >= 6
    assert table(tmp_path) == table(undisturbed)
    for run_id, time_ns in before.items():
        path = tmp_path / f"lightning_logs/studies/two-widths/runs/{run_id}/run.json"
        assert path.stat().st_mtime_ns == time_ns  # a finished run is not trained again


def _workers(runner: int) -> list[int]:
    """The processes that train for a runner: the children of its only child."""
    children = lambda pid: [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]  # noqa: E731
    return [worker for server in children(runner) for worker in children(server)]


# Runs the tasks of an array job, all at once, and prints the number of the job.
SBATCH = """\
#!/usr/bin/env bash
script="${@: -1}"
echo "$*" >> submitted
job=$((100 + $(wc -l < submitted)))
for task in $(seq 0 "$(sed -n 's/^#SBATCH --array=0-//p' "$script")"); do
    SLURM_ARRAY_JOB_ID=$job SLURM_ARRAY_TASK_ID=$task bash "$script" >> tasks.log 2>&1 &
done
wait
echo "$job"
"""


def write_slurm(folder: Path) -> dict[str, str]:
    """Programs of SLURM that run jobs here; gives the environment in which they are found."""
    programs = folder / "bin"
    programs.mkdir()
    for name, content in (("sbatch", SBATCH), ("scontrol", '#!/usr/bin/env bash\necho "$*" >> requeued\n')):
        (programs / name).write_text(content)
        (programs / name).chmod(0o755)
    return {**os.environ, "PATH": f"{programs}:{os.environ['PATH']}"}


def test_the_tasks_of_an_array_job_train_the_study_together(small, tmp_path, monkeypatch):
    write_study(tmp_path, SMALL)
    monkeypatch.setenv("PATH", write_slurm(tmp_path)["PATH"])
    printed = study(tmp_path, "slurm", "two-widths", "--tasks", "2", "--cpus", "1", "--submit").stdout
    assert "submitted: 101, 102" in printed
    assert "--dependency=afterany:101" in (tmp_path / "submitted").read_text()
    assert f"[{SMALL_RUNS}/{SMALL_RUNS}] runs finished, 0 of them now" in study(tmp_path, "run", "two-widths").stdout
    assert table(tmp_path) == table(small)


def test_a_task_whose_time_is_over_is_queued_again_and_resumes(small, tmp_path):
    write_study(tmp_path, SMALL)
    environment = write_slurm(tmp_path) | {"SLURM_ARRAY_JOB_ID": "7", "SLURM_ARRAY_TASK_ID": "0"}
    study(tmp_path, "slurm", "two-widths", "--tasks", "1")
    script = ["bash", "lightning_logs/studies/two-widths/slurm.sh"]
    task = subprocess.Popen(script, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, text=True)
    for line in task.stdout:
        if line.startswith("[1/"):
            task.send_signal(signal.SIGUSR1)
            break
    task.communicate()
    assert task.returncode == 0
    assert (tmp_path / "requeued").read_text() == "requeue 7_0\n"
    for _ in range(2):  # as SLURM does it, and then the second round
        subprocess.run(script, cwd=tmp_path, env=environment, check=True, capture_output=True)
    study(tmp_path, "run", "two-widths")
    assert table(tmp_path) == table(small)


def test_a_cluster_of_ray_gives_the_same_table(small, tmp_path):
    pytest.importorskip("ray")
    write_study(tmp_path, SMALL)
    printed = study(tmp_path, "run", "two-widths", "--executor", "ray", "--workers", "2").stdout
    assert f"[{SMALL_RUNS}/{SMALL_RUNS}] runs finished, {SMALL_RUNS} of them now" in printed
    assert table(tmp_path) == table(small)
    kept, known = (
        sorted(path.parent.name for path in (folder / "lightning_logs/studies/two-widths/runs").glob("*/checkpoints"))
        for folder in (tmp_path, small)
    )
    assert kept == known


def test_lost_workers_of_ray_cost_only_their_runs(small, tmp_path):
    pytest.importorskip("ray")
    write_study(tmp_path, SMALL)
    line = [*COMMAND, "run", "two-widths", "--executor", "ray", "--workers", "2"]
    mark = f"VISIONBENCH_TEST={tmp_path}"  # the processes of this cluster inherit it
    environment = os.environ | dict([mark.split("=", 1)])
    runner = subprocess.Popen(line, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, text=True)
    for text in runner.stdout:
        if text.startswith("[1/"):
            found = subprocess.run(["pgrep", "-f", "ray::_Worker"], capture_output=True, text=True, check=True)
            actors = [pid for pid in found.stdout.split() if mark in Path(f"/proc/{pid}/environ").read_text()]
            for actor in actors:  # of two, the one whose run has just ended may have no other one yet
                os.kill(int(actor), signal.SIGKILL)
            break
    printed = runner.communicate()[0]
    assert runner.returncode == 0
    assert "its process ended (status -9); it is trained from the beginning" in printed
    assert {row["status"] for row in table(tmp_path)} == {"finished"}
    assert table(tmp_path) == table(small)


SEARCH = """\
title: A search
source: A course
seeds: [0]
base:
  data: Digits
  model: {class_path: MLP, init_args: {widths: [8]}}
  trainer: {max_epochs: 1}
stages:
  search:
    search:
      trials: 3
      at_once: 2
      sampler: tpe
      over: {model.optimizer.lr: {low: 1.0e-5, high: 1.0e-2, log: true}, model.widths: {values: [[8], [8, 8]]}}
  final: {best_of: search, by: val/acc, test: true}
"""


def test_a_search_trains_its_trials_and_tests_the_best_one(tmp_path):
    pytest.importorskip("optuna")
    write_study(tmp_path, SEARCH, "search")
    assert "[4/4] runs finished, 4 of them now" in study(tmp_path, "run", "search").stdout
    rows = read_rows(tmp_path / "lightning_logs/studies/search/results.csv")
    trials = [row for row in rows if row.stage == "search"]
    (final,) = [row for row in rows if row.stage == "final"]
    assert final.cell == max(trials, key=lambda row: row.metrics["val/acc"]).cell
    assert not any("test/acc" in row.metrics for row in trials)
    assert "0 of them now" in study(tmp_path, "run", "search").stdout  # the trials are known by their rows
    study(tmp_path, "report", "search", "--formats", "html,csv")


def test_a_trial_that_is_worse_than_most_ends_early_and_is_not_trained_again(tmp_path):
    pruned = SEARCH.replace("trials: 3", "trials: 10").replace("at_once: 2", "at_once: 4\n      prune_after: 1")
    pruned = pruned.replace("sampler: tpe", "sampler: random").replace("max_epochs: 1", "max_epochs: 4")
    write_study(tmp_path, pruned, "search")
    printed = study(tmp_path, "run", "search").stdout
    rows = read_rows(tmp_path / "lightning_logs/studies/search/results.csv")
    trials = {int(row.cell["trial"]): row for row in rows if row.stage == "search"}
    early = [number for number, row in trials.items() if row.epochs < 4]
    assert early
    assert min(early) > 4
    assert printed.count("ended after") == len(early)
    first = [max(trials[number].curves["val/acc"][: trials[min(early)].epochs]) for number in (1, 2, 3, 4)]
    assert max(trials[min(early)].curves["val/acc"]) < statistics.median(first)
    (final,) = [row for row in rows if row.stage == "final"]
    assert final.epochs == 4
    again = study(tmp_path, "run", "search").stdout
    assert "0 of them now" in again
    study(tmp_path, "report", "search", "--formats", "html,csv")


def test_two_runners_share_the_work(undisturbed, tmp_path):
    write_study(tmp_path)
    line = [*COMMAND, "run", "two-widths", "--workers", "1"]
    runners = [subprocess.Popen(line, cwd=tmp_path, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    printed = [runner.communicate()[0] for runner in runners]
    assert [runner.returncode for runner in runners] == [0, 0]
    assert table(tmp_path) == table(undisturbed)
    logs = [path.read_text() for path in tmp_path.glob("lightning_logs/studies/two-widths/runs/*/log.txt")]
    assert len(logs) == RUNS
    assert all(log.count("Epoch 1") <= 1 and log.count("test accuracy") <= 1 for log in logs)
    trained = [int(re.search(r"runs finished, (\d+) of them now", text)[1]) for text in printed]
    assert sum(trained) >= RUNS


def test_a_fresh_clone_trains_only_what_is_missing(undisturbed, tmp_path):
    write_study(tmp_path)
    shutil.copytree(undisturbed / "docs", tmp_path / "docs")
    assert "0 to train" in study(tmp_path, "run", "two-widths").stdout
    path = tmp_path / "docs/results/two-widths/runs.csv"
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    # Of a resumed stage, one row is lost: its first part has no checkpoint here, and is trained again.
    lost = next(row for row in rows if row["stage"] == "more")
    shutil.rmtree(tmp_path / "lightning_logs", ignore_errors=True)
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0].keys(), lineterminator="\n")
        writer.writeheader()
        writer.writerows(row for row in rows if row is not lost)
    printed = study(tmp_path, "run", "two-widths").stdout
    assert "2 to train" in printed
    assert "was trained again for its checkpoint, and has the recorded weights" in printed
    assert table(tmp_path) == table(undisturbed)


def test_a_finished_row_is_not_lost_to_one_that_failed_or_measured_less(tmp_path, monkeypatch):
    """A run that failed here may be finished on another machine, whose rows came with the repository."""
    monkeypatch.chdir(tmp_path)
    text = SMALL.replace("  more: {continue: candidates, set: {trainer.max_epochs: 4}, result: last epoch}\n", "")
    loaded = load_study(write_study(tmp_path, text))
    (run, *_) = plan(loaded, {}).runs.values()
    use = run.first
    done = Row(run.id, run.protocols, use.stage, use.cell, use.seed, use.fold, "finished", evaluations=("train_eval",))
    for worse in (replace(done, status="failed", error="killed", evaluations=()), replace(done, evaluations=())):
        write_rows(tmp_path / "docs/results/two-widths/runs.csv", [done])
        write_rows(tmp_path / "lightning_logs/studies/two-widths/results.csv", [worse])
        runner = Runner(loaded, Options(save=True))
        assert runner.store.rows[run.id] == done
        assert run.id not in {missing.id for missing in runner.missing()}
        runner.store.rows[run.id] = worse
        runner.write()
        assert read_rows(tmp_path / "docs/results/two-widths/runs.csv") == [done]


def test_a_full_disk_stops_the_study_in_a_sentence_and_loses_nothing(undisturbed, tmp_path):
    write_study(tmp_path)
    place = tmp_path / "lightning_logs"
    place.mkdir()

    def mount(options):
        return subprocess.run(
            ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(place)], capture_output=True
        ).returncode

    if shutil.which("mount") is None or mount("size=2m"):
        pytest.skip("a small file system can be mounted by root alone")
    try:
        full = study(tmp_path, "run", "two-widths", check=False)
        assert full.returncode == 1, full.stdout + full.stderr
        assert "Traceback" not in full.stderr
        assert re.search(r"(?m)^visionbench: error: .*Free space there.* run the same command again", full.stderr)
        assert mount("remount,size=100m") == 0
        study(tmp_path, "run", "two-widths")
        assert table(tmp_path) == table(undisturbed)
    finally:
        subprocess.run(["umount", "--lazy", str(place)], check=True)


def test_failed_and_diverged_runs_have_no_score_and_do_not_win(tmp_path):
    text = TEXT.replace("16: {model.widths: [16]}", "16: {model: failing.FailsLate}")
    text = text.replace("width: {8:", "width: {nan: {model: failing.Diverges}, 8:")
    text = text.replace("set: {model.dropout: 0.1}", "").replace("[16, 80.0]", "[16, 99.0]")
    path = write_study(tmp_path, text, "failing")
    path.with_suffix(".py").write_text(
        "from visionbench.models import MLP\n\n\nclass FailsLate(MLP):\n"
        "    def on_train_epoch_end(self):\n        super().on_train_epoch_end()\n"
        "        raise ZeroDivisionError('of the user')\n\n\nclass Diverges(MLP):\n"
        "    def on_train_epoch_end(self):\n        super().on_train_epoch_end()\n"
        "        next(self.parameters()).data.fill_(float('nan'))\n"
    )
    done = study(tmp_path, "run", "failing", check=False)
    assert done.returncode == 1
    rows = read_rows(tmp_path / "lightning_logs/studies/failing/results.csv")
    by_width = {
        label: [row for row in rows if row.cell.get("width") == label and row.stage == "candidates"]
        for label in ("8", "16", "nan")
    }
    assert {row.status for row in by_width["16"]} == {"failed"}
    assert {row.status for row in by_width["nan"]} == {"diverged"}
    assert all(not row.metrics and "of the user" in row.error for row in by_width["16"])
    assert {row.cell["width"] for row in rows if row.stage == "final"} == {"8"}
    folder = tmp_path / "lightning_logs/studies/failing/runs"
    failed = by_width["16"][0].id
    assert "Traceback" in (folder / failed / "log.txt").read_text()
    assert (folder / f"{failed}.attempt-1").is_dir()  # it was tried twice
    assert "ZeroDivisionError: of the user" in done.stdout
    assert re.search(r"candidates / 16 / val/acc: incomplete", done.stdout)


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_lets_runs_write_their_checkpoints(number, status, tmp_path):
    write_study(
        tmp_path, TEXT.replace("max_epochs: 2}", "max_epochs: 4000}").replace("max_epochs: 4}", "max_epochs: 4001}")
    )
    command = [*COMMAND, "run", "two-widths"]
    runner = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    runs = tmp_path / "lightning_logs/studies/two-widths/runs"
    for _ in range(600):
        if len(list(runs.glob("*/checkpoints/last.ckpt"))) == 2:
            break
        time.sleep(0.1)
    runner.send_signal(number)
    printed, errors = runner.communicate()
    assert "Stopping: 2 runs write their checkpoints." in printed
    assert "the same command resumes the study" in printed
    assert "Traceback" not in errors
    assert runner.returncode == status
    assert [path for path in runs.glob("*/run.json") if '"interrupted"' in path.read_text()]


def test_a_budget_leaves_a_balanced_table(undisturbed, tmp_path):
    write_study(tmp_path)
    shutil.copytree(undisturbed / "lightning_logs", tmp_path / "lightning_logs")
    folder = tmp_path / "lightning_logs/studies/two-widths"
    rows = read_rows(folder / "results.csv")
    (folder / "results.csv").unlink()
    for row in rows:
        if row.seed > 0:
            shutil.rmtree(folder / "runs" / row.id)
    printed = study(tmp_path, "run", "two-widths", "--budget", "1s").stdout
    assert "The budget is used up" in printed
    assert "incomplete" in printed


def test_a_study_whose_data_are_not_there_ends_with_the_sentence_of_fit(tmp_path):
    write_study(tmp_path, TEXT.replace("data: Digits", "data: HeartFailure"))
    environment = os.environ | {"VISIONBENCH_DATA": str(tmp_path / "data")}
    words = [*COMMAND, "run", "two-widths"]
    done = subprocess.run(words, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 2, done
    assert "error: Every run would be refused: Heart failure is not prepared in" in done.stderr
    assert done.stderr.count("\n") == 1
    assert "tried once more" not in done.stdout


def test_other_code_is_refused_unless_it_is_accepted(undisturbed, tmp_path):
    write_study(tmp_path)
    shutil.copytree(undisturbed / "docs", tmp_path / "docs")
    path = tmp_path / "docs/results/two-widths/runs.csv"
    code = read_rows(path)[0].code
    path.write_text(path.read_text().replace(code, "0" * 64))
    done = study(tmp_path, "run", "two-widths", check=False)
    assert done.returncode == 2
    assert "were made by other code than today's; give --accept_code" in done.stderr
    study(tmp_path, "report", "two-widths", "--formats", "html")
    page = (tmp_path / "lightning_logs/studies/two-widths/report.html").read_text()
    assert "The study counts 30 runs made by other code than today" in page
    assert "counts 30 runs made by other code" in study(tmp_path, "run", "two-widths", "--accept_code").stdout


def test_options_that_change_numbers_are_refused(tmp_path):
    write_study(tmp_path)
    done = study(tmp_path, "run", "two-widths", "--model.dropout", "0.3", check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert "--model.dropout cannot be given to a study, whose file says all that changes numbers" in done.stderr


def test_a_dry_run_ends_with_what_would_be_refused(tmp_path):
    write_study(tmp_path, TEXT.replace("max_epochs", "max_epoch"))
    done = study(tmp_path, "run", "two-widths", "--dry_run", check=False)
    assert done.returncode == 2
    assert "their time is not known" in done.stdout
    assert "These runs would be refused: " in done.stderr
    assert "did you mean --trainer.max_epochs?" in done.stderr


def test_the_example_of_a_comparison_runs_as_it_is(tmp_path):
    study(tmp_path, "new", "mine", "--compare")
    printed = " ".join(study(tmp_path, "run", "mine").stdout.split())
    assert re.search(r"Best: cnn \([\d.]+ ± [\d.]+ over 5 seeds\); better on these samples than mlp", printed)
    assert re.search(
        r"by [\d.]+ points \(95 % interval [\d.]+ to [\d.]+; p = [\d.e-]+\)\. For other samples of the same kind ",
        printed,
    )


def test_the_example_of_a_grid_search_runs_as_it_is(tmp_path):
    study(tmp_path, "new", "mine", "--grid")
    printed = " ".join(study(tmp_path, "run", "mine").stdout.split())
    assert "[27/27] runs finished" in printed
    rows = read_rows(tmp_path / "lightning_logs/studies/mine/results.csv")
    assert [row.stage for row in rows if "test/acc" in row.metrics] == ["final"] * 3


def test_the_example_runs_as_it_is(tmp_path):
    assert "wrote configs/studies/my-study.yaml" in study(tmp_path, "new", "my-study").stdout
    assert load_study(tmp_path / "configs/studies/my-study.yaml").title
    listed = study(tmp_path, "run", "my-study", "--dry_run").stdout
    assert "?" not in listed
    assert "40 runs to train, 0 finished" in listed
    assert "5 runs  final · corrected" in listed
    printed = study(tmp_path, "run", "my-study").stdout
    assert "all 5 judged values are reproduced" in printed
    assert "my-study" in study(tmp_path, "list").stdout
    taken = study(tmp_path, "new", "my-study", check=False)
    assert taken.returncode == 2
    assert "is there already; give another name." in taken.stderr
