"""A process that has imported what runs need, and forks a child for each run: 0.8 s instead of 10.

It reads one job a line from standard input, in JSON, and writes one line for each child that has ended. When its input
ends, as it does when the process that started it is killed, it interrupts its children, which write a checkpoint, and
ends with them.
"""

import contextlib
import gc
import io
import json
import os
import selectors
import signal
import sys
import tempfile
from pathlib import Path
from typing import IO, Any

from visionbench.studies.jobs import Job, run_job

# So that asking for GPUs does not start CUDA, which a forked process cannot use.
CUDA_CHECK_VARIABLE = "PYTORCH_NVML_BASED_CUDA_CHECK"


def main() -> int:
    """Serves until the input ends."""
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # libraries write there too
    os.environ[CUDA_CHECK_VARIABLE] = "1"
    _warm_up()
    import torch

    _write(answers, {"ready": True, "gpus": torch.cuda.device_count()})
    gc.collect()
    gc.freeze()  # what is imported is never looked at again, and stays shared with the children
    return _Server(answers).serve()


def _warm_up() -> None:
    """Trains once, so that what is imported and looked up on the way is there for all children."""
    import torch
    from torch.utils.tensorboard import SummaryWriter  # noqa: F401

    from visionbench import data, models  # noqa: F401
    from visionbench.api import fit

    torch.set_num_threads(1)  # a process with threads cannot be forked
    options: dict[str, Any] = {"trainer.logger": False, "trainer.accelerator": "cpu", "threads": 1}
    options |= {f"trainer.limit_{part}_batches": 1 for part in ("train", "val", "test")}
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        options |= {"data.root": f"{folder}/data", "model.widths": [4], "trainer.precision": "32-true"}
        fit("MLP", "Digits", max_epochs=1, run_dir=f"{folder}/run", **options)


def _write(answers: IO[str], answer: dict[str, Any]) -> None:
    with contextlib.suppress(BrokenPipeError):  # nobody is left to read it
        answers.write(json.dumps(answer) + "\n")


class _Server:
    """Forks a child for each job.

    Args:
        answers: Text stream of the answers.
    """

    def __init__(self, answers: Any) -> None:
        self.answers = answers
        self.children: dict[int, str] = {}
        self.input = b""
        self.is_open = True
        self.woken, waker = os.pipe()
        os.set_blocking(waker, False)
        os.set_blocking(self.woken, False)
        signal.signal(signal.SIGCHLD, lambda number, frame: None)
        signal.set_wakeup_fd(waker, warn_on_full_buffer=False)
        self.waker = waker

    def serve(self) -> int:
        selector = selectors.DefaultSelector()
        selector.register(0, selectors.EVENT_READ)
        selector.register(self.woken, selectors.EVENT_READ)
        while self.is_open or self.children:
            for key, _ in selector.select():
                if key.fd == 0:
                    self._read()
                    if not self.is_open:
                        selector.unregister(0)
                        self._interrupt()
                else:
                    os.read(self.woken, 4096)
            self._reap()
        return 0

    def _read(self) -> None:
        content = os.read(0, 2**16)
        self.is_open = bool(content)
        self.input += content
        *lines, self.input = self.input.split(b"\n")
        for line in lines:
            self._fork(Job(**json.loads(line)))

    def _fork(self, job: Job) -> None:
        child = os.fork()
        if child:
            self.children[child] = job.id
            return
        status = 1
        try:
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            self.answers.close()  # or who reads them would not see that the server has ended
            null = os.open(os.devnull, os.O_RDONLY)
            os.dup2(null, 0)
            for descriptor in (self.woken, self.waker):
                os.close(descriptor)
            status = run_job(job)
        finally:
            os._exit(status)

    def _interrupt(self) -> None:
        for child in self.children:
            with contextlib.suppress(ProcessLookupError):
                os.kill(child, signal.SIGTERM)

    def _reap(self) -> None:
        while self.children:
            child, status = os.waitpid(-1, os.WNOHANG)
            if not child:
                return
            _write(self.answers, {"id": self.children.pop(child), "status": os.waitstatus_to_exitcode(status)})


if __name__ == "__main__":
    sys.path.append(str(Path.cwd()))
    # At once: extensions of torch tell their developers at exit what was not freed.
    os._exit(main())
