"""Processes that torchrun or srun started, several for one run, on one machine or more."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from visionbench.errors import RunFailed, UserError

# Job names of an interactive shell in a job of SLURM: its variables are not about the programs that it starts.
SHELLS = ("bash", "sh", "zsh", "interactive")
# Ports for the meeting of a job step's processes; torchrun chooses one itself.
FIRST_PORT, PORTS = 20_000, 20_000


@dataclass(frozen=True)
class Launch:
    """How another program started this process, as one of several that train one run.

    Attributes:
        program: Program.
        rank: Number of this process, from 0.
        local_rank: Number of this process among those of this machine.
        size: Number of processes.
        nodes: Number of machines.
        restarts: How often the program has started the processes again.
        address: Machine and port where the processes meet.
    """

    program: Literal["torchrun", "srun"]
    rank: int
    local_rank: int
    size: int
    nodes: int
    restarts: int
    address: tuple[str, int]

    @property
    def devices(self) -> int:
        """Number of processes on each machine."""
        return self.size // self.nodes

    def join(self) -> None:
        """Waits for the other processes.

        Raises:
            RunFailed: They do not come.
        """
        import torch
        from torch import distributed

        if distributed.is_initialized():
            return
        place = {"MASTER_ADDR": self.address[0], "MASTER_PORT": str(self.address[1])}
        os.environ.update(place | {"RANK": str(self.rank), "WORLD_SIZE": str(self.size)})
        os.environ["LOCAL_RANK"] = str(self.local_rank)
        # Without it Lightning chooses the number of threads anew, although the run has chosen one.
        os.environ.setdefault("OMP_NUM_THREADS", str(torch.get_num_threads()))
        backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
        try:
            distributed.init_process_group(backend)
        except RuntimeError as error:  # torch's own, of many kinds
            raise self._lost(error) from error

    def share(self, content: Any) -> Any:
        """Gives every process what the first one has.

        Args:
            content: What the first process has; ignored in the others.

        Raises:
            RunFailed: Another process has ended.
        """
        from torch import distributed

        box = [content]
        try:
            distributed.broadcast_object_list(box, src=0)
        except RuntimeError as error:
            raise self._lost(error) from error
        return box[0]

    def _lost(self, error: Exception) -> RunFailed:
        reason = " ".join(str(error).split())
        # gloo tells the others the address that the machine's name stands for, which is often one of its own.
        interface = (
            " One machine gave the others an address that means itself, such as 127.0.0.1; set GLOO_SOCKET_IFNAME on "
            "each machine to the name of its network interface, such as eth0."
            if self.nodes > 1 and "remote=[127." in reason
            else ""
        )
        return RunFailed(
            f"Process {self.rank} of the {self.size} that {self.program} started has lost the others; look at what "
            f"they printed ({reason[:200]}).{interface}"
        )


def find_launch(variables: Mapping[str, str]) -> Launch | None:
    """Reads from the environment how this process was started; `None` for a process by itself.

    Args:
        variables: Environment variables.

    Raises:
        UserError: A program other than torchrun and srun started this process as one of several, or a machine has more
            processes than another.
    """
    if is_shell := variables.get("SLURM_JOB_NAME") in SHELLS:
        variables = {name: value for name, value in variables.items() if not name.startswith("SLURM_STEP")}
    if "TORCHELASTIC_RUN_ID" in variables and number(variables, "WORLD_SIZE") > 1:
        size, local = number(variables, "WORLD_SIZE"), max(1, number(variables, "LOCAL_WORLD_SIZE"))
        launch = Launch(
            *("torchrun", number(variables, "RANK"), number(variables, "LOCAL_RANK"), size, max(1, size // local)),
            restarts=number(variables, "TORCHELASTIC_RESTART_COUNT"),
            address=(variables.get("MASTER_ADDR", "localhost"), number(variables, "MASTER_PORT")),
        )
    elif not is_shell and number(variables, "SLURM_STEP_NUM_TASKS") > 1:
        step = 100 * number(variables, "SLURM_JOB_ID") + number(variables, "SLURM_STEP_ID")
        launch = Launch(
            *("srun", number(variables, "SLURM_PROCID"), number(variables, "SLURM_LOCALID")),
            size=number(variables, "SLURM_STEP_NUM_TASKS"),
            nodes=max(1, number(variables, "SLURM_STEP_NUM_NODES")),
            restarts=number(variables, "SLURM_RESTART_COUNT"),
            address=(_first_machine(variables), FIRST_PORT + step % PORTS),
        )
    elif (size := number(variables, "WORLD_SIZE")) > 1:
        raise UserError(
            f"WORLD_SIZE is {size}, but neither torchrun nor srun started this process; start the processes with one "
            "of these, or start one process and give --trainer.devices N."
        )
    else:
        return None
    if launch.size % launch.nodes:
        raise UserError(
            f"{launch.program} started {launch.size} processes on {launch.nodes} machines, expected equally many on "
            "each."
        )
    return launch


def is_launched(variables: Mapping[str, str]) -> bool:
    """Whether torchrun or srun started this process as one of several.

    Args:
        variables: Environment variables.
    """
    try:
        return find_launch(variables) is not None
    except UserError:
        return False


def _first_machine(variables: Mapping[str, str]) -> str:
    if (given := variables.get("MASTER_ADDR")) is not None:
        return given
    from lightning.fabric.plugins.environments.slurm import SLURMEnvironment

    nodes = variables.get("SLURM_STEP_NODELIST") or variables.get("SLURM_NODELIST") or "localhost"
    return SLURMEnvironment.resolve_root_node_address(nodes)


def number(variables: Mapping[str, str], name: str) -> int:
    """A number in an environment variable; 0 without one.

    Args:
        variables: Environment variables.
        name: Name of the variable.
    """
    text = variables.get(name, "")
    return int(text) if text.isdecimal() else 0
