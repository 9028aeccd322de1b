"""Processes that another program started, as Lightning sees them."""

from lightning.fabric.plugins.environments.cluster_environment import ClusterEnvironment

from visionbench.launch import Launch


class LaunchedProcesses(ClusterEnvironment):
    """The place of this process among those that torchrun or srun started.

    Args:
        launch: How they were started.
    """

    def __init__(self, launch: Launch) -> None:
        super().__init__()
        self.launch = launch

    @property
    def creates_processes_externally(self) -> bool:  # noqa: D102
        return True

    @property
    def main_address(self) -> str:  # noqa: D102
        return self.launch.address[0]

    @property
    def main_port(self) -> int:  # noqa: D102
        return self.launch.address[1]

    @staticmethod
    def detect() -> bool:
        """Never: the session makes this object itself."""
        return False

    def world_size(self) -> int:  # noqa: D102
        return self.launch.size

    def set_world_size(self, size: int) -> None:
        """Nothing: the other program has set it."""

    def global_rank(self) -> int:  # noqa: D102
        return self.launch.rank

    def set_global_rank(self, rank: int) -> None:
        """Nothing: the other program has set it."""

    def local_rank(self) -> int:  # noqa: D102
        return self.launch.local_rank

    def node_rank(self) -> int:  # noqa: D102
        return self.launch.rank // self.launch.devices
