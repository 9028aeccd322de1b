"""Processes that torchrun or srun started, several for one run, on one machine or more."""

import itertools
import json
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from visionbench.errors import RunFailed, UserError
from visionbench.files import write_whole

if TYPE_CHECKING:
    from torch.distributed import Store  # type: ignore[attr-defined]  # torch does not say that it exports it

# Seconds that a process waits for the run folder of the first one, which may have to resume a large run.
PATIENCE = 600.0
# Number of the run among those of this process; the same in all processes of a launch.
_RUNS = itertools.count()


@dataclass(frozen=True)
class Launch:
    """How another program started this process, as one of several that train one run.

    Attributes:
        program: Program.
        rank: Number of this process, from 0.
        size: Number of processes.
        nodes: Number of machines.
        key: Text that is the same in all processes of the launch, and in no other launch.
    """

    program: Literal["torchrun", "srun"]
    rank: int
    size: int
    nodes: int
    key: str

    @property
    def devices(self) -> int:
        """Number of processes on each machine."""
        return self.size // self.nodes

    def announce(self, folder: Path, resumed: bool, log_dir: Path) -> Path | None:
        """Tells the other processes the run folder, which the first one has claimed.

        Args:
            folder: Run folder.
            resumed: Whether the run was started before.
            log_dir: Folder of all runs, which all processes see.

        Returns:
            The file that tells it, to be removed at the end of the run; `None` where there is none.
        """
        text = json.dumps({"folder": str(folder.resolve()), "resumed": resumed})
        if self.program == "torchrun":
            self._store().set(self._name(), text)
            return None
        path = log_dir / self._name()
        log_dir.mkdir(parents=True, exist_ok=True)
        write_whole(path, text.encode())
        return path

    def wait(self, log_dir: Path) -> tuple[Path, bool]:
        """Waits until the first process has claimed the run folder.

        Args:
            log_dir: Folder of all runs, which all processes see.

        Returns:
            The run folder, and whether the run was started before.

        Raises:
            RunFailed: It does not come.
        """
        text = self._from_store() if self.program == "torchrun" else self._from_file(log_dir / self._name())
        if text is None:
            raise RunFailed(
                f"The first of the {self.size} processes that {self.program} started named no run folder within "
                f"{PATIENCE:.0f} s; look at what it printed, and whether all of them see the folder {log_dir}."
            )
        content = json.loads(text)
        return Path(content["folder"]), bool(content["resumed"])

    def _name(self) -> str:
        return f".{self.key}-{next(_RUNS)}.json"

    def _store(self) -> "Store":
        """The store that torchrun keeps for its processes."""
        from torch.distributed import PrefixStore, TCPStore  # type: ignore[attr-defined]  # as above

        host, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
        store = TCPStore(host, port, is_master=False, timeout=timedelta(seconds=PATIENCE), wait_for_workers=False)
        return PrefixStore("visionbench", store)

    def _from_store(self) -> str | None:
        try:
            return self._store().get(self._name()).decode()
        except RuntimeError:  # of torch: the time is over, or torchrun has ended
            return None

    def _from_file(self, path: Path) -> str | None:
        begun = time.monotonic()
        while not path.exists():
            if time.monotonic() - begun > PATIENCE:
                return None
            time.sleep(0.2)
        return path.read_text(encoding="utf-8")


def find_launch(variables: Mapping[str, str]) -> Launch | None:
    """Reads from the environment how this process was started; `None` for a process by itself.

    Args:
        variables: Environment variables.

    Raises:
        UserError: A program other than torchrun and srun started this process as one of several.
    """
    if (size := number(variables, "WORLD_SIZE")) > 1:
        if variables.get("TORCHELASTIC_USE_AGENT_STORE") != "True":
            raise UserError(
                f"Another program than torchrun and srun started this process as one of {size} (WORLD_SIZE is {size}); "
                "start the processes with one of these, or start one process and give --trainer.devices N."
            )
        nodes = size // max(1, number(variables, "LOCAL_WORLD_SIZE"))
        key = f"torchrun-{variables.get('TORCHELASTIC_RESTART_COUNT', '0')}"
        return Launch("torchrun", number(variables, "RANK"), size, max(1, nodes), key)
    if (size := number(variables, "SLURM_STEP_NUM_TASKS")) > 1:
        names = ("SLURM_JOB_ID", "SLURM_STEP_ID", "SLURM_RESTART_COUNT")
        key = "-".join(["srun", *(variables.get(name, "0") for name in names)])
        nodes = max(1, number(variables, "SLURM_STEP_NUM_NODES"))
        return Launch("srun", number(variables, "SLURM_PROCID"), size, nodes, key)
    return None


def number(variables: Mapping[str, str], name: str) -> int:
    """A number in an environment variable; 0 without one.

    Args:
        variables: Environment variables.
        name: Name of the variable.
    """
    text = variables.get(name, "")
    return int(text) if text.isdecimal() else 0
