"""Which of several processes this one is: what starts a run as one of several is refused, all else trains alone."""

from pathlib import Path

import pytest

from visionbench.errors import RunFailed, UserError
from visionbench.launch import Launch
from visionbench.processes import RUN_FOLDER_VARIABLE, World
from visionbench.runs.folder import RunFolder

# Variables of a batch job with eight tasks, as the job's own script sees them; srun would add those of a step.
BATCH_JOB = {
    "SLURM_JOB_ID": "4711",
    "SLURM_JOB_NAME": "study",
    "SLURM_NTASKS": "8",
    "SLURM_NTASKS_PER_NODE": "8",
    "SLURM_NNODES": "1",
    "SLURM_NODELIST": "node1",
    "SLURM_PROCID": "0",
    "SLURM_LOCALID": "0",
    "SLURM_NODEID": "0",
}
STEP_OF_EIGHT = {**BATCH_JOB, "SLURM_STEP_ID": "0", "SLURM_STEP_NUM_TASKS": "8", "SLURM_PROCID": "3"}
OTHER_PROGRAM = {"WORLD_SIZE": "2", "RANK": "1", "LOCAL_RANK": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"}
TORCHRUN = {**OTHER_PROGRAM, "WORLD_SIZE": "4", "LOCAL_WORLD_SIZE": "2", "TORCHELASTIC_RUN_ID": "none"}
LINE = "fit --model MLP --model.widths [8] --data Digits --trainer.max_epochs 1 --trainer.accelerator cpu"


@pytest.mark.parametrize(
    "variables",
    [{}, {"WORLD_SIZE": "1", "RANK": "0"}, {"LOCAL_RANK": "3"}, {"WORLD_SIZE": ""}],
    ids=["nothing", "torchrun of one", "a rank alone", "empty"],
)
def test_a_process_by_itself_is_the_first(variables):
    assert World.detect(variables) == World(rank=0, run_folder=None)
    assert World.detect(variables).is_first


@pytest.mark.parametrize("variables", [BATCH_JOB, {**BATCH_JOB, "SLURM_STEP_NUM_TASKS": "1"}])
def test_a_process_in_a_batch_job_is_the_first(variables):
    assert World.detect(variables) == World(rank=0, run_folder=None)


@pytest.mark.parametrize("rank", [0, 1])
def test_a_process_that_a_run_started_has_its_folder_and_its_rank(rank):
    # The Trainer sets WORLD_SIZE for the processes that it starts.
    variables = {RUN_FOLDER_VARIABLE: "runs/a", "LOCAL_RANK": str(rank), "WORLD_SIZE": "2"}
    world = World.detect(variables)
    assert (world.rank, world.run_folder, world.is_first) == (rank, Path("runs/a"), rank == 0)


def test_a_process_of_torchrun_or_srun_knows_its_place():
    world = World.detect(TORCHRUN)
    assert (world.rank, world.is_first, world.run_folder) == (1, False, None)
    assert (world.launch.program, world.launch.size, world.launch.nodes, world.launch.devices) == ("torchrun", 4, 2, 2)
    world = World.detect(STEP_OF_EIGHT)
    assert (world.rank, world.launch.size, world.launch.nodes, world.launch.devices) == (3, 8, 1, 8)
    assert world.launch.address == ("node1", 20_000 + 471_100 % 20_000)
    assert World.detect({**STEP_OF_EIGHT, "SLURM_JOB_NAME": "bash"}) == World(rank=0)  # a shell in a job
    assert World.detect({**STEP_OF_EIGHT, "WORLD_SIZE": "8"}) == World.detect(STEP_OF_EIGHT)  # of a batch script


@pytest.mark.parametrize(("nodes", "names_it"), [(2, True), (1, False)])
def test_a_machine_that_gives_others_its_own_address_is_told_what_to_set(monkeypatch, nodes, names_it):
    def fail(backend):
        raise RuntimeError("timed out connecting: SO_ERROR: Connection refused, remote=[127.0.0.1]:6059")

    monkeypatch.setattr("torch.distributed.init_process_group", fail)
    for name in ("MASTER_ADDR", "MASTER_PORT", "RANK", "WORLD_SIZE", "LOCAL_RANK", "OMP_NUM_THREADS"):
        monkeypatch.setenv(name, "1")
    launch = Launch("torchrun", 1, 0, 2, nodes, 0, ("10.0.0.1", 29500))
    with pytest.raises(RunFailed) as raised:
        launch.join()
    assert ("set GLOO_SOCKET_IFNAME on each machine" in str(raised.value)) == names_it


def test_machines_with_unequal_numbers_of_processes_are_refused():
    with pytest.raises(UserError, match="srun started 8 processes on 3 machines, expected equally many on each"):
        World.detect({**STEP_OF_EIGHT, "SLURM_STEP_NUM_NODES": "3"})


@pytest.mark.parametrize("command", ["predict run test", "export run", "study run x", "data list", "new a"])
def test_a_command_of_one_process_is_refused_to_several(cli, monkeypatch, command):
    for name, value in TORCHRUN.items():
        monkeypatch.setenv(name, value)
    assert "torchrun or srun started this command as one of several" in cli(command).refusal()


def test_help_and_lists_need_no_place_among_processes(cli, monkeypatch):
    for name, value in OTHER_PROGRAM.items():
        monkeypatch.setenv(name, value)
    assert cli("--help").status == 0
    assert cli("data list").status == 0


def test_one_of_several_processes_of_another_program_is_refused():
    with pytest.raises(UserError, match=r"WORLD_SIZE is 2, but neither .* give --trainer.devices N"):
        World.detect(OTHER_PROGRAM)


@pytest.mark.parametrize(
    ("variables", "options", "parts"),
    [
        (OTHER_PROGRAM, "", ["neither torchrun nor srun started this process", "WORLD_SIZE is 2"]),
        (STEP_OF_EIGHT, "--trainer.num_nodes 2", ["trainer.num_nodes is 2", "srun started it on 1"]),
        ({}, "--trainer.num_nodes 2", ["trainer.num_nodes is 2", "started on this one", "with torchrun or srun"]),
        (BATCH_JOB, "--trainer.num_nodes 2", ["trainer.num_nodes is 2", "started on this one"]),
    ],
    ids=["another program", "other machines", "two machines", "two machines of a batch job"],
)
def test_a_run_over_several_programs_processes_is_refused_in_a_sentence(
    cli, tmp_path, monkeypatch, variables, options, parts
):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    sentence = cli(f"{LINE} {options}").refusal()
    for part in parts:
        assert part in sentence
    assert list(tmp_path.iterdir()) == []


def test_a_batch_job_without_srun_trains_tests_and_predicts_in_one_process(cli, tmp_path, monkeypatch):
    for name, value in BATCH_JOB.items():
        monkeypatch.setenv(name, value)
    result = cli(f"{LINE} --run_dir run")
    assert (result.status, result.err) == (0, "")
    run = RunFolder(tmp_path / "run")
    assert run.is_finished
    assert run.metadata["world_size"] == 1
    assert cli("test run").status == 0
    assert cli("predict run test --output out.csv").status == 0
    assert len((tmp_path / "out.csv").read_text().splitlines()) == 361
