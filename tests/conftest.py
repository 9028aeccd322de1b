"""What all tests share: one prepared Digits root, and the command line called as a user would."""

import contextlib
import io
import os
import re
import shlex
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

# Whoever starts the tests in the background of a script has them ignore Ctrl+C, and all that they start with them.
signal.signal(signal.SIGINT, signal.default_int_handler)


# When this process began its tests.
BEGUN = time.monotonic()


def pytest_addoption(parser: pytest.Parser) -> None:
    """Adds the option for a suite that may be longer than the time there is."""
    text = "Seconds after which no further test is started; the rest is skipped, with this as the reason."
    parser.addoption("--budget", type=float, default=None, help=text)


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skips what does not begin within the budget."""
    budget = item.config.getoption("--budget")
    if budget is not None and time.monotonic() - BEGUN > budget:
        pytest.skip(f"the budget of {budget:g} s is used up")


def pytest_configure(config: pytest.Config) -> None:
    """Hides the GPU from all tests but those of it; therefore this file imports torch in functions, after this one."""
    if "gpu" not in config.option.markexpr:
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    import torch

    torch.set_num_threads(1)


@dataclass
class Result:
    """How a command ended and what it printed."""

    status: int
    out: str
    err: str

    def refusal(self) -> str:
        """The sentence a refused command printed, after checking that it printed nothing else there."""
        assert self.status == 2, self
        assert self.err.startswith("visionbench: error: "), self.err
        assert self.err.count("\n") == 1, self.err
        assert self.err.endswith((".\n", "?\n")), self.err
        assert "Traceback" not in self.err + self.out
        return self.err.removeprefix("visionbench: error: ").strip()


Cli = Callable[[str], Result]


@pytest.fixture(autouse=True)
def trains_nothing(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Holds a fast test to training nothing."""
    if request.node.get_closest_marker("fast"):
        from lightning.pytorch import Trainer

        monkeypatch.setattr(Trainer, "fit", lambda *_, **__: pytest.fail("A fast test trains; take its mark off."))


@pytest.fixture(scope="session")
def digits_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the prepared Digits."""
    from visionbench.data import Digits

    root = tmp_path_factory.mktemp("root")
    Digits(root=str(root)).prepare_data()
    return root


@pytest.fixture(scope="session")
def cli_in(digits_root: Path) -> Callable[..., Cli]:
    """Makes a function that runs `visionbench` with the words of a line, in a folder.

    A new run draws no figures unless the line says something of them, since most of the runs of tests are shorter than
    that; with `draws` it is as a user's. Data sets are in `root`, or else in the one that has Digits.
    """

    from visionbench.cli import main

    def make(folder: Path, draws: bool = False, root: Path | None = None) -> Cli:
        def call(line: str) -> Result:
            out, err = io.StringIO(), io.StringIO()
            words = shlex.split(line)
            if words[:1] == ["fit"] and not draws and not re.search("help|figures|resume", line):
                words += ["--figures", "none"]
            with pytest.MonkeyPatch.context() as patch:
                patch.chdir(folder)
                patch.setenv("VISIONBENCH_DATA", str(root or digits_root))
                patch.setattr(sys, "path", list(sys.path))
                with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
                    try:
                        status = main(words)
                    except SystemExit as end:  # --help and --print_config
                        status = int(end.code or 0)
            return Result(status, out.getvalue(), err.getvalue())

        return call

    return make


@pytest.fixture
def cli(cli_in: Callable[..., Cli], tmp_path: Path) -> Cli:
    """Runs `visionbench` with the words of a line, in `tmp_path`."""
    return cli_in(tmp_path)
