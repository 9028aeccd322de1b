"""Images read through the memory map: the same batches as of resident ones, and memory that stays flat."""

import re
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.data.test_augment import ALL
from tests.fakes import Tiny, write_images
from visionbench.data import ImageFolder, base, mapped
from visionbench.data import loader as module
from visionbench.data.base import GIB
from visionbench.data.loader import EpochOrder, ResidentLoader
from visionbench.data.mapped import MappedImages, chunks, release_pages
from visionbench.data.memory import free_host_memory
from visionbench.errors import RunFailed, UserError

CPU = torch.device("cpu")
linux = pytest.mark.skipif(sys.platform != "linux", reason="asks /proc")


@pytest.fixture
def array(tmp_path):
    """A memory map of 60 images whose rows are larger than a page."""
    return saved(tmp_path / "images.npy", (60, 40, 38, 3))


def saved(path, shape):
    np.save(path, np.random.RandomState(0).randint(0, 256, shape).astype(np.uint8))
    return np.load(path, mmap_mode="r")


def loaders(array, index, workers, **options):
    """The same loader of resident and of mapped images."""
    options = {"batch_size": 5, "mean": [0.4, 0.5, 0.6], "std": [0.2, 0.3, 0.4], "num_classes": 60, **options}
    resident = torch.from_numpy(array[index]).permute(0, 3, 1, 2).contiguous()
    for images in (resident, MappedImages(array, index, CPU, workers)):
        order = EpochOrder(len(index), 3) if options.get("augmentations") is not None else None
        yield ResidentLoader(images, torch.from_numpy(index), order=order, **options)


def assert_same_batches(ours, theirs):
    count = 0
    for (images, labels), (same, same_labels) in zip(ours, theirs, strict=True):
        assert images.dtype == same.dtype
        assert torch.equal(images, same)
        assert torch.equal(labels, same_labels)
        count += len(images)
    assert count > 0


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("shard", [(0, 1), (1, 3)])
@pytest.mark.parametrize("augmentations", [None, [], *([a] for a in ALL), ALL])
def test_batches_are_those_of_resident_images(array, workers, shard, augmentations, monkeypatch):
    monkeypatch.setattr(module, "BLOCK_BYTES", 4 * 40 * 38 * 3 * 10)  # two batches
    index = np.random.RandomState(1).permutation(60)[:47]
    resident, read = loaders(array, index, workers, shard=shard, augmentations=augmentations)
    for epoch, batches in ((0, 0), (1, 2)):
        for loader in (resident, read):
            if augmentations is not None:
                loader.sampler.set_epoch(epoch)
            loader.begin_at(batches)
        assert_same_batches(resident, read)


@pytest.mark.parametrize("shape", [(30, 9, 8, 1), (30, 9, 8, 3), (30, 70, 70, 1), (30, 2, 3, 4)])
def test_rows_of_any_size_and_number_of_channels_are_read(tmp_path, shape):
    array = saved(tmp_path / "images.npy", shape)
    index = np.array([29, 3, 3, 0, 17])
    places = torch.tensor([4, 0, 0, 2])
    (block,) = MappedImages(array, index, CPU, 1).blocks([places])
    assert block.is_contiguous()
    np.testing.assert_array_equal(block.permute(0, 2, 3, 1), array[index[places]])


MAKERS = {
    "Tiny": lambda folder: lambda **options: Tiny(root=str(folder / "root"), **options),
    "ImageFolder": lambda folder: (
        lambda **options: ImageFolder(source=str(folder / "source"), size=8, root=str(folder / "root"), **options)
    ),
}


@pytest.mark.parametrize("kind", list(MAKERS))
@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("augment", [None, ALL])
def test_a_data_set_above_its_budget_gives_the_same_batches(tmp_path, kind, workers, augment):
    write_images(tmp_path / "source", {"a": 20, "b": 20, "c": 20})
    held, read = (
        MAKERS[kind](tmp_path)(batch_size=4, augment=augment, seed=1, memory_budget=budget, workers=workers)
        for budget in (1, 0)
    )
    for data in (held, read):
        data.prepare_data()
        data.setup()
    for stage in ("train", "val", "test"):
        ours, theirs = (getattr(data, f"{stage}_dataloader")() for data in (held, read))
        assert isinstance(ours.images, torch.Tensor)
        assert isinstance(theirs.images, MappedImages)
        assert_same_batches(ours, theirs)
    assert held.data_digest() == read.data_digest()


# Reading ahead


def recorded(array, workers, monkeypatch, hold=None):
    """The blocks of 12 images each, one number after the other, and the numbers that were begun to be read."""
    begun = []
    read = MappedImages._read

    def noted(self, places, room):
        begun.append(int(places[0]))
        if hold is not None:
            hold.wait(10)
        return read(self, places, room)

    monkeypatch.setattr(MappedImages, "_read", noted)
    return MappedImages(array, np.arange(60), CPU, workers).blocks(torch.arange(60).split(1)), begun


def readers():
    return [thread for thread in threading.enumerate() if thread.name.startswith("visionbench-reader")]


@pytest.mark.parametrize("workers", [1, 2])
def test_workers_read_some_blocks_ahead_and_no_more(array, workers, monkeypatch):
    blocks, begun = recorded(array, workers, monkeypatch)
    assert begun == []
    for number, block in zip(range(3), blocks, strict=False):
        np.testing.assert_array_equal(block[0].permute(1, 2, 0), array[number])
        ahead = number + 2 * workers + 1
        for _ in range(1000):
            if len(begun) == ahead:
                break
            time.sleep(0.01)
        assert sorted(begun) == list(range(ahead))
    blocks.close()


def test_without_workers_a_block_is_read_when_it_is_needed(array, monkeypatch):
    blocks, begun = recorded(array, 0, monkeypatch)
    for number, _ in zip(range(3), blocks, strict=False):
        assert begun == list(range(number + 1))
    assert readers() == []


def test_blocks_come_in_order_whichever_is_read_first(array, monkeypatch):
    read = MappedImages._read

    def slow(self, places, room):
        time.sleep(0.02 if places[0] % 2 == 0 else 0)
        return read(self, places, room)

    monkeypatch.setattr(MappedImages, "_read", slow)
    blocks = MappedImages(array, np.arange(60), CPU, 3).blocks(torch.arange(12).split(1))
    for number, block in enumerate(blocks):
        np.testing.assert_array_equal(block[0].permute(1, 2, 0), array[number])


@pytest.mark.parametrize("how", ["to its end", "broken off", "failed"])
def test_no_worker_outlives_its_epoch(array, how, monkeypatch):
    _, loader = loaders(array, np.arange(60), 2, augmentations=[])
    monkeypatch.setattr(module, "BLOCK_BYTES", 1)
    batches = iter(loader)
    next(batches)
    assert readers()
    if how == "to its end":
        list(batches)
    elif how == "broken off":
        del batches
    else:
        monkeypatch.setattr(mapped, "_take", lambda *arguments: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            list(batches)
    assert readers() == []


@pytest.mark.parametrize("workers", [0, 2])
def test_a_file_cut_short_between_two_blocks_is_a_sentence(array, workers, monkeypatch):
    # Not while a worker copies out of it: that is a bus error, of which no process can be told in time.
    copied = threading.Semaphore(0)
    take = mapped._take

    def count(*arguments):
        take(*arguments)
        copied.release()

    monkeypatch.setattr(mapped, "_take", count)
    blocks = MappedImages(array, np.arange(60), CPU, workers).blocks(torch.arange(60).split(1))
    next(blocks)
    for _ in range(1 + mapped.BLOCKS_AHEAD * workers):
        assert copied.acquire(timeout=60)
    with Path(array.filename).open("r+b") as file:
        file.truncate(9000)
    with pytest.raises(UserError, match=r"images\.npy has been truncated since the run started; delete"):
        list(blocks)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_worker_without_memory_ends_the_run_in_a_sentence(array, workers, monkeypatch):
    def full(*arguments):
        raise MemoryError

    monkeypatch.setattr(mapped, "_take", full)
    with pytest.raises(RunFailed, match=r"The memory is full, so that the next images cannot be read\."):
        list(MappedImages(array, np.arange(60), CPU, workers).blocks(torch.arange(60).split(1)))


# Memory


def resident_pages(array):
    """Bytes of a memory map that count as this process's memory."""
    found = 0
    inside = False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        if re.match(r"^[0-9a-f]+-[0-9a-f]+ ", line):
            inside = line.endswith(str(array.filename))
        elif inside and line.startswith("Rss:"):
            found += 1024 * int(line.split()[1])
    return found


@linux
@pytest.mark.parametrize("way", ["chunks", "blocks"])
def test_pages_that_were_read_do_not_pile_up(tmp_path, way, monkeypatch):
    array = saved(tmp_path / "images.npy", (2000, 64, 64, 3))  # 25 MB
    monkeypatch.setattr(mapped, "CHUNK_BYTES", 2**20)
    monkeypatch.setattr(mapped, "MAPPED_BYTES", 2**20)
    peak = 0
    if way == "chunks":
        read = chunks(array, np.arange(2000))
    else:
        read = MappedImages(array, np.arange(2000), CPU, 0).blocks(torch.arange(2000).split(50))
    for part in read:
        assert len(part) <= 2**20 / (64 * 64 * 3)
        peak = max(peak, resident_pages(array))
    assert 0 < peak < 12e6  # the system maps up to 2 MB around a page
    release_pages(array)
    assert resident_pages(array) == 0


def decided(monkeypatch, tmp_path, *, free=None, device=CPU, processes=1, **options):
    if free is not None:
        monkeypatch.setattr(base, "free_memory", lambda device: free)
    data = Tiny(root=str(tmp_path), **options)
    data.setup()
    return data.residency(device, processes)


ALL_IMAGES = (33 + 12) * 3 * 5 * 7


@pytest.mark.parametrize(("room", "resident"), [(ALL_IMAGES, True), (ALL_IMAGES - 1, False)])
def test_the_images_of_all_splits_have_to_fit_the_budget(tmp_path, monkeypatch, room, resident):
    memory = decided(monkeypatch, tmp_path, memory_budget=room / GIB, free=0)
    assert memory.resident is resident
    assert decided(monkeypatch, tmp_path, free=2 * room).resident is resident
    # Processes that train on a processor share its memory; each has a GPU of its own.
    assert decided(monkeypatch, tmp_path, free=6 * room, processes=3).resident is resident
    gpu = torch.device("cuda", 1)
    assert decided(monkeypatch, tmp_path, free=2 * room, processes=3, device=gpu).resident is resident


def test_what_was_decided_stays_so_for_the_run(tmp_path, monkeypatch):
    monkeypatch.setattr(base, "free_memory", lambda device: 2 * ALL_IMAGES)
    data = Tiny(root=str(tmp_path))
    data.setup()
    data.train_dataloader()
    monkeypatch.setattr(base, "free_memory", lambda device: 0)
    assert isinstance(data.test_dataloader().images, torch.Tensor)


@pytest.mark.parametrize(("cores", "processes", "workers"), [(1, 1, 1), (2, 1, 2), (64, 1, 4), (8, 4, 2), (2, 4, 1)])
def test_workers_are_as_many_as_there_are_cores_for(tmp_path, monkeypatch, cores, processes, workers):
    monkeypatch.setattr(base, "processor_cores", lambda: cores)
    assert decided(monkeypatch, tmp_path, processes=processes).workers == workers
    assert decided(monkeypatch, tmp_path, processes=processes, workers=0).workers == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"memory_budget": -1}, r"data\.memory_budget is -1, expected a number of GiB of 0 or more\."),
        ({"memory_budget": float("nan")}, r"data\.memory_budget is nan"),
        ({"workers": -1}, r"data\.workers is -1, expected a number of threads of 0 or more\."),
    ],
)
def test_what_makes_no_sense_is_refused(options, message):
    with pytest.raises(UserError, match=message):
        Tiny(**options)


def machine(folder, groups, meminfo="MemTotal: 9000 kB\nMemAvailable: 4000 kB\n", said="0::/\n"):
    """A fake /proc and /sys/fs/cgroup."""
    for name, content in {"proc/meminfo": meminfo, "proc/self/cgroup": said, **groups}.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(content)
    return free_host_memory(folder / "proc", folder / "groups")


def group(path, limit, used, names=("memory.max", "memory.current"), prefix=""):
    stat = f"anon 5\n{prefix}inactive_file 300\n{prefix}active_file 20\n"
    return {
        f"groups/{path}/{names[0]}": f"{limit}\n",
        f"groups/{path}/{names[1]}": f"{used}\n",
        f"groups/{path}/memory.stat": stat,
    }


OLD = ("memory.limit_in_bytes", "memory.usage_in_bytes")


@pytest.mark.parametrize(
    ("said", "groups", "free"),
    [
        ("0::/\n", {}, 4_096_000),
        ("0::/\n", group(".", "max", 500_000), 4_096_000),
        ("0::/\n", group(".", 1_000_000, 600_000), 400_320),
        ("0::/job/step\n", group("job/step", "max", 500_000) | group("job", 1_000_000, 600_000), 400_320),
        ("0::/not/visible/here\n", group(".", 1_000_000, 600_000), 400_320),
        ("0::/\n", group(".", 1_000_000, 1_600_000), 0),
        ("0::/\n", group(".", 9_000_000, 600_000), 4_096_000),
        (
            "5:cpu,memory:/box\n0::/\n",
            group("memory/box", 1_000_000, 600_000, OLD, "total_")
            | group("memory", 2**63 - 4096, 5_000, OLD, "total_"),
            400_320,
        ),
    ],
)
def test_free_memory_is_what_the_system_and_every_control_group_leave(tmp_path, said, groups, free):
    assert machine(tmp_path, groups, said=said) == free


def test_where_nothing_is_said_the_whole_memory_counts(tmp_path):
    assert free_host_memory(tmp_path, tmp_path) >= 2**28
