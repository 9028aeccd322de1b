"""What a command is started in: modules of the working directory, variables, closed and full outputs, encodings."""

import io
import os
import subprocess
import sys
from pathlib import Path

import pytest

from visionbench.cli import main
from visionbench.surroundings import OutputFailed, own_surroundings

# The console script; processes of other devices start it again by its path.
COMMAND = [sys.executable, str(Path(sys.executable).with_name("visionbench"))]


class Failing(io.StringIO):
    """A stream on a full disk."""

    def write(self, text):
        raise OSError(28, "No space left on device")

    def fileno(self):
        return os.open(os.devnull, os.O_WRONLY)


@pytest.mark.fast
def test_the_working_directory_is_searched_last_and_in_no_other_process_first(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    elsewhere = os.pathsep.join([str(tmp_path), "", "/elsewhere"])
    monkeypatch.setenv("PYTHONPATH", elsewhere)
    monkeypatch.setattr(sys, "path", ["", str(tmp_path), *sys.path])
    before, variables = list(sys.path), dict(os.environ)
    with own_surroundings():
        assert [entry for entry in sys.path if entry in ("", str(tmp_path))] == [str(tmp_path)]
        assert sys.path[-1] == str(tmp_path)
        assert os.environ["PYTHONPATH"] == "/elsewhere"
        assert os.environ["PYTHONSAFEPATH"] == "1"
    assert (sys.path, dict(os.environ)) == (before, variables)


@pytest.mark.fast
def test_a_backend_of_a_notebook_and_the_rank_of_another_program_are_not_taken(monkeypatch):
    monkeypatch.setenv("MPLBACKEND", "module://matplotlib_inline.backend_inline")
    for name in ("RANK", "LOCAL_RANK", "NODE_RANK", "SLURM_PROCID"):
        monkeypatch.setenv(name, "3")
    with own_surroundings():
        assert os.environ["MPLBACKEND"] == "agg"
        assert not {"RANK", "LOCAL_RANK", "NODE_RANK", "SLURM_PROCID"} & set(os.environ)
    assert os.environ["RANK"] == "3"


@pytest.mark.fast
def test_threads_soon_sleep_while_they_wait_unless_the_user_has_decided_it(monkeypatch):
    for name in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT"):
        monkeypatch.delenv(name, raising=False)
    with own_surroundings():
        assert os.environ["GOMP_SPINCOUNT"] == "10000"
    assert "GOMP_SPINCOUNT" not in os.environ
    monkeypatch.setenv("OMP_WAIT_POLICY", "active")
    with own_surroundings():
        assert "GOMP_SPINCOUNT" not in os.environ


@pytest.mark.fast
def test_the_rank_of_a_process_that_a_run_has_started_is_kept(monkeypatch):
    monkeypatch.setenv("VISIONBENCH_RUN_FOLDER", "runs/a")
    monkeypatch.setenv("LOCAL_RANK", "1")
    with own_surroundings():
        assert os.environ["LOCAL_RANK"] == "1"


@pytest.mark.fast
def test_output_that_cannot_be_written_is_told_from_a_file(monkeypatch, capsys):
    monkeypatch.setattr(sys, "stdout", Failing())
    with own_surroundings(), pytest.raises(OutputFailed, match=r"^Standard output cannot be written \(No space left"):
        print("x")
    monkeypatch.setattr(os, "dup2", lambda *_: None)
    assert main(["--help"]) == 1
    error = capsys.readouterr().err
    assert error.startswith("visionbench: error: Standard output cannot be written (No space left on device)")
    assert error.count("\n") == 1


@pytest.mark.fast
def test_errors_that_cannot_be_shown_end_nothing(monkeypatch):
    monkeypatch.setattr(sys, "stderr", Failing())
    assert main(["nonsense"]) == 2


@pytest.mark.fast
@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252", "utf-8"])
def test_text_that_the_output_lacks_is_written_as_escapes(monkeypatch, encoding):
    stream = io.TextIOWrapper(io.BytesIO(), encoding=encoding, errors="strict")
    monkeypatch.setattr(sys, "stdout", stream)
    with own_surroundings():
        print("größe \N{GREEK SMALL LETTER ALPHA} \udcf6")
    stream.seek(0)
    assert stream.errors == "strict"
    assert "\\udcf6" in stream.buffer.getvalue().decode(encoding)


@pytest.mark.fast
def test_a_working_directory_that_is_gone_is_one_sentence(tmp_path, monkeypatch, capsys):
    folder = tmp_path / "gone"
    folder.mkdir()
    monkeypatch.chdir(folder)
    folder.rmdir()
    try:
        assert main(["data", "list"]) == 2
    finally:
        os.chdir(tmp_path)
    error = "visionbench: error: The working directory does not exist any more; change to another folder.\n"
    assert capsys.readouterr().err == error


NAMES = ["random", "logging", "yaml", "torch", "csv", "types", "signal", "pickle", "socket", "numpy", "PIL", "json"]


@pytest.fixture
def shadowed(tmp_path):
    """A working directory whose modules bear names of Python's own and of installed packages, beside one of a user."""
    for name in NAMES:
        (tmp_path / f"{name}.py").write_text(f"raise SystemExit('{name} of the working directory')\n")
    (tmp_path / "mine.py").write_text("from visionbench.models import MLP\n\n\nclass Net(MLP):\n    pass\n")
    return tmp_path


@pytest.mark.slow
def test_no_module_of_the_working_directory_hides_another_one_and_a_users_model_is_found(shadowed, digits_root):
    words = "fit --model mine.Net --model.widths [4] --data Digits --data.train_size 100 --trainer.max_epochs 1"
    line = [*COMMAND, *words.split(), "--trainer.accelerator", "cpu", "--trainer.devices", "2", "--figures", "none"]
    environment = os.environ | {"VISIONBENCH_DATA": str(digits_root)}
    result = subprocess.run(line, cwd=shadowed, env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert "model      Net" in result.stdout


@pytest.mark.slow
def test_processes_that_decode_images_are_not_shadowed(shadowed):
    from PIL import Image

    for name in ("a", "b"):
        (shadowed / "photos" / name).mkdir(parents=True)
        for number in range(150):
            Image.new("RGB", (4, 4), (number, ord(name), 0)).save(shadowed / "photos" / name / f"{number}.png")
    words = "data prepare ImageFolder --data.source photos --data.size 4 --data.root root"
    line = [*COMMAND, *words.split()]
    result = subprocess.run(line, cwd=shadowed, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert "prepared 300 images" in result.stdout


@pytest.mark.slow
@pytest.mark.parametrize(("redirection", "status"), [(">&-", 0), ("<&-", 0), ("2>&-", 0), (">/dev/full", 1)])
def test_streams_that_are_closed_or_full(tmp_path, redirection, status):
    line = f'exec "$0" -m visionbench --help {redirection}'
    result = subprocess.run(["bash", "-c", line, sys.executable], cwd=tmp_path, capture_output=True, text=True)
    assert result.returncode == status
    assert "Traceback" not in result.stderr
    assert ("Standard output cannot be written" in result.stderr) == (status == 1)
    assert "Exception ignored" not in result.stderr


@pytest.mark.slow
def test_a_random_module_in_the_working_directory_does_not_stop_python_m(tmp_path):
    for name in ("random", "logging", "yaml", "difflib"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('shadowed')\n")
    result = subprocess.run(
        [sys.executable, "-m", "visionbench", "data", "list"], cwd=tmp_path, capture_output=True, text=True
    )
    assert (result.returncode, result.stderr) == (0, "")
