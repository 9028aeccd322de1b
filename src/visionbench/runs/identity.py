"""The identity of a run: what determines its numbers, as one record with a digest."""

import ast
import functools
import hashlib
import importlib.metadata
import importlib.util
import json
import platform
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from visionbench.classes import file_of, is_ours

if TYPE_CHECKING:
    from torch import Tensor

PACKAGES = ("visionbench", "torch", "torchvision", "lightning", "torchmetrics", "jsonargparse", "numpy", "scikit-learn")

# Settings that do not change the numbers of a run: its place, its figures, what is evaluated and kept beside training.
# A metric that chooses the best epoch is named by the objective, which is not among them. Of `checkpoint`, whether the
# last epoch is the result is added by `comparable`.
# Threads and precision are recorded beside the identity. What `allow` permits shows in the data digest.
NOT_IDENTITY = {
    *("config", "name", "log_dir", "run_dir", "test_after_fit", "resume", "resume_changed", "checkpoint", "threads"),
    *("figures", "figure_layers", "figure_channels", "predictions", "metrics", "allow", "evaluate", "evaluate_every"),
    *("steps_per_execution", "cuda_graph"),
}
# The number of processes stands for devices, nodes and strategy.
TRAINER_NOT_IDENTITY = {
    *("default_root_dir", "logger", "enable_progress_bar", "enable_model_summary", "enable_checkpointing"),
    *("log_every_n_steps", "profiler", "devices", "num_nodes", "strategy"),
}
# Settings of the data that concern the machine only.
DATA_ASIDE = {"root", "offline", "memory_budget", "workers"}
# The data digest stands for the source.
DATA_NOT_IDENTITY = DATA_ASIDE | {"source"}
# The digest of the starting weights stands for these; `weights` only where it is the path of a file.
STARTING_WEIGHTS = ("start_from", "weights")

# Where Linux describes the processors.
PROCESSORS = Path("/proc/cpuinfo")
# Instructions of a processor by which libraries choose other ways to compute, in Linux's words, older ones first.
INSTRUCTIONS = ("avx2", "avx512f", "avx512_bf16", "amx_bf16")

# The package's code that makes numbers.
NUMBER_CODE = ("data/", "models/", "training/", "evaluation/metrics.py", "decoding.py", "pixel_data.py")
# Of it, what only says in words what is run and what came out.
WORDS_ALONE = ("training/summary.py",)


def weights_digest(state: Mapping[str, "Tensor"]) -> str:
    """The sha256 of parameters and buffers: names, types, shapes and every byte."""
    import torch

    digest = hashlib.sha256()
    for name in sorted(state):
        tensor = state[name].detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)};".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def comparable(config: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that determine a run's numbers, without absolute paths.

    Args:
        config: Complete configuration, in plain types.
    """
    kept = {key: value for key, value in config.items() if key not in NOT_IDENTITY}
    trainer = config.get("trainer") or {}
    kept["trainer"] = {key: value for key, value in trainer.items() if key not in TRAINER_NOT_IDENTITY}
    if trainer.get("enable_checkpointing") is False:
        kept["trainer"]["enable_checkpointing"] = False  # the result is then the last epoch, not the best one
    if result_of(config) == "last":  # the default is left out, so that digests of earlier runs stay what they are
        kept["checkpoint"] = {"result": "last"}
    data, model = dict(config.get("data") or {}), dict(config.get("model") or {})
    data["init_args"] = {k: v for k, v in (data.get("init_args") or {}).items() if k not in DATA_NOT_IDENTITY}
    paths = starting_paths(config)
    model["init_args"] = {k: v for k, v in (model.get("init_args") or {}).items() if k not in paths}
    model["init_args"].pop("start_from", None)
    kept |= {"data": data, "model": model}
    plain: dict[str, Any] = _without_absolute_paths(kept)
    return plain


def result_of(config: Mapping[str, Any]) -> str:
    """The epoch that a configuration asks for as the result, best or last; runs of earlier versions have the best.

    Args:
        config: Complete configuration, in plain types.
    """
    return str((config.get("checkpoint") or {}).get("result") or "best")


def starting_paths(config: Mapping[str, Any]) -> dict[str, str]:
    """The arguments of the model that are paths of starting weights, by name."""
    arguments = (config.get("model") or {}).get("init_args") or {}
    values = {name: arguments.get(name) for name in STARTING_WEIGHTS}
    # A word such as imagenet names weights that are the same everywhere.
    return {
        name: str(value)
        for name, value in values.items()
        if value is not None and (name == "start_from" or not str(value).replace("-", "_").isidentifier())
    }


def flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings by dotted names; a list is one value, as text, so that lists can be compared and printed."""
    leaves: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping):
            leaves |= flat(value, f"{prefix}{key}.")
        else:
            leaves[prefix + key] = value if isinstance(value, bool | int | float | str | None) else str(value)
    return leaves


def config_digest(config: Mapping[str, Any], processes: int = 1, start: str | None = None) -> str:
    """The sha256 of the settings that determine a run's numbers.

    Args:
        config: Complete configuration, in plain types.
        processes: Number of processes.
        start: Digest of the starting weights; `None` where training starts from random weights.
    """
    return _sha256({"config": comparable(config), "processes": processes, "start": start})


def identity(
    config: Mapping[str, Any],
    *,
    data_digest: str,
    kinds: Iterable[type],
    processes: int = 1,
    start: str | None = None,
) -> dict[str, Any]:
    """What determines the numbers of a run, in plain types, with the sha256 of it all as `digest`.

    Two runs of one identity have the same weights on one machine with the same versions, threads and precision.

    Args:
        config: Complete configuration, in plain types.
        data_digest: Digest of the data, the split and the normalization.
        kinds: Classes of the model and the data set, of the objective where it is a user's own metric, and of what else
            the configuration names.
        processes: Number of processes.
        start: Digest of the starting weights; `None` where training starts from random weights.
    """
    content = {
        "config": flat(comparable(config)),
        "data": data_digest,
        "start": start,
        "processes": processes,
        "code": code_digest(kinds),
    }
    return {**content, "digest": _sha256(content)}


def process_count(trainer: Mapping[str, Any]) -> int:
    """The number of processes that train a run.

    Args:
        trainer: Arguments of the Trainer, by name.
    """
    devices = trainer.get("devices", "auto")
    if isinstance(devices, list | tuple):
        count = len(devices)
    elif isinstance(devices, str) and "," in devices:
        count = len([device for device in devices.split(",") if device.strip()])
    elif devices in (None, "auto", -1, "-1"):
        import torch

        on_gpu = trainer.get("accelerator", "auto") in ("auto", "gpu", "cuda") and torch.cuda.is_available()
        count = torch.cuda.device_count() if on_gpu else 1
    else:
        count = int(devices)
    return count * int(trainer.get("num_nodes") or 1)


def package_sources(package: Path) -> dict[str, bytes]:
    """The sources of the package's code that makes numbers, by their names in the package.

    Args:
        package: Folder of the package.
    """
    files = {path.relative_to(package).as_posix(): path for path in package.rglob("*.py")}
    counts = {name: path for name, path in files.items() if name.startswith(NUMBER_CODE) and name not in WORDS_ALONE}
    return {name: path.read_bytes() for name, path in counts.items()}


# Read now, since a run is made by the code that was imported, whatever is edited while it trains.
_PACKAGE_SOURCES = package_sources(Path(__file__).parents[1])
# Sources of users' modules by their files, with the modules' specs, which a reload replaces.
_USER_SOURCES: dict[Path, tuple[Any, bytes]] = {}


def remember_source(kind: type) -> None:
    """Reads the files that define a class and its bases; to be called right after the class was imported.

    A file that is edited afterwards keeps its digest until its module is imported again.

    Args:
        kind: Class of a model, a data set or another part of a run.
    """
    _user_sources(kind)


def named_classes(config: Any) -> Iterator[type]:
    """The imported classes that a configuration names by `class_path`, such as optimizers and augmentations.

    Args:
        config: Configuration, in plain types.
    """
    if isinstance(config, Mapping):
        module, _, name = str(config.get("class_path")).rpartition(".")
        kind = getattr(sys.modules.get(module), name, None)
        if isinstance(kind, type):
            yield kind
    if isinstance(config, Mapping | list | tuple):
        for part in config.values() if isinstance(config, Mapping) else config:
            yield from named_classes(part)


def code_digest(kinds: Iterable[type], package: Mapping[str, bytes] | None = None) -> str:
    """The sha256 of the code that makes numbers, as it was imported; comments and docstrings do not count.

    Args:
        kinds: Classes whose files count too, where they are a user's own.
        package: Sources of the package, as of `package_sources`; by default those that were imported.
    """
    sources = dict(_PACKAGE_SOURCES if package is None else package)
    for kind in kinds:
        sources |= _user_sources(kind)
    digest = hashlib.sha256()
    for name in sorted(sources):
        digest.update(name.encode() + b"\0" + _code_alone(sources[name]) + b"\0")
    return digest.hexdigest()


def package_digest(modules: Iterable[str], folder: Path) -> str:
    """The `code_digest` of runs whose classes are defined in some modules, none of which is imported for it.

    Args:
        modules: Names of modules; those that are not the user's own do not count.
        folder: Folder where modules are looked for before those that Python finds.
    """
    sources = dict(_PACKAGE_SOURCES)
    for name in modules:
        for found, path, _ in _users_files(name, folder)[-1:]:
            sources |= _with_imports(found, path, lambda name, file: file.read_bytes())
    return code_digest((), sources)


def git_state() -> dict[str, Any] | None:
    """The commit of the package, and whether tracked files differ from it; `None` outside a checkout."""
    folder = Path(__file__).parent

    def git(*arguments: str) -> str:
        done = subprocess.run(["git", "-C", str(folder), *arguments], capture_output=True, text=True, check=True)
        return done.stdout.strip()

    try:
        # A checkout around a site-packages folder says nothing about the package in it.
        git("ls-files", "--error-unmatch", Path(__file__).name)
        return {"commit": git("rev-parse", "HEAD"), "changed": bool(git("status", "--porcelain", "-uno"))}
    except (OSError, subprocess.CalledProcessError):
        return None


def processor() -> str:
    """Name of the processor, with the last of `INSTRUCTIONS` that it has, such as "AMD EPYC with avx512_bf16".

    The last digits of a run may differ between two processors, also between two of one name: virtual machines call
    several generations alike.
    """
    entries: dict[str, str] = {}
    if PROCESSORS.exists():
        for line in PROCESSORS.read_text(encoding="utf-8", errors="replace").splitlines():
            name, _, value = line.partition(":")
            entries.setdefault(name.strip(), value.strip())
    known = entries.get("model name") or platform.processor() or platform.machine()
    has = set(entries.get("flags", "").split())
    return " with ".join([known, *[flag for flag in INSTRUCTIONS if flag in has][-1:]])


def versions() -> dict[str, str]:
    """The versions of Python and of the packages that results depend on."""
    return {"python": sys.version.split()[0]} | {name: importlib.metadata.version(name) for name in PACKAGES}


def _without_absolute_paths(value: Any) -> Any:
    """The content stands for a file, its last name for a folder or a file that is absent."""
    if isinstance(value, Mapping):
        return {key: _without_absolute_paths(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_without_absolute_paths(entry) for entry in value]
    if isinstance(value, str) and (path := Path(value)).is_absolute() and path.name:
        return f"sha256:{hashlib.sha256(path.read_bytes()).hexdigest()}" if path.is_file() else path.name
    return value


def _user_sources(kind: type) -> dict[str, bytes]:
    """The sources of the user's own modules that define a class and its bases, and of those that they import."""
    sources: dict[str, bytes] = {}
    for base in kind.__mro__:
        path = file_of(base)
        if path is None or is_ours(base) or base.__module__.partition(".")[0] in sys.stdlib_module_names:
            continue
        if "site-packages" in path.parts:  # an installed package is known by its version
            continue
        sources |= _with_imports(base.__module__, path, _remembered)
    return sources


def _remembered(name: str, path: Path) -> bytes:
    """The source of a user's module as it was imported, as far as that is known."""
    spec = getattr(sys.modules.get(name), "__spec__", None)
    if path not in _USER_SOURCES or _USER_SOURCES[path][0] is not spec:
        _USER_SOURCES[path] = (spec, path.read_bytes())
    return _USER_SOURCES[path][1]


def _with_imports(module: str, path: Path, read: Callable[[str, Path], bytes]) -> dict[str, bytes]:
    """The sources of a user's module and of the user's other modules that it imports, by the modules' names.

    Args:
        module: Name of the module.
        path: Its file.
        read: Gives the source of a module of some name in some file.
    """
    sources: dict[str, bytes] = {}
    pending = [(module, path, path.parents[module.count(".") + (path.name == "__init__.py")])]
    while pending:
        name, file, root = pending.pop()
        if name in sources:
            continue
        sources[name] = read(name, file)
        package = name if file.name == "__init__.py" else name.rpartition(".")[0]
        for imported in (*_imported(sources[name], package), *([package] if package else [])):
            pending += _users_files(imported, root)
    return sources


def _users_files(name: str, root: Path) -> list[tuple[str, Path, Path]]:
    """The user's modules that are imported for a name, the packages first: names, files, and where the names begin.

    Args:
        name: Full name of a module, or of something in it.
        root: Folder that is looked into before those of Python.
    """
    top, *_ = parts = name.split(".")
    if top in sys.stdlib_module_names or top == __name__.partition(".")[0]:
        return []
    if not any(file.is_file() for file in (root / f"{top}.py", root / top / "__init__.py")):
        try:
            spec = importlib.util.find_spec(top)
        except (ValueError, ImportError):  # a module without a spec, such as one that a program has made
            spec = None
        if spec is None:
            return []
        origin = next(iter(spec.submodule_search_locations or ()), spec.origin)
        if origin is None or "site-packages" in Path(origin).parts:  # an installed package is known by its version
            return []
        root = Path(origin).parent
    found = []
    for count in range(1, len(parts) + 1):
        place = root.joinpath(*parts[:count])
        files = (place.with_name(f"{place.name}.py"), place / "__init__.py")
        found += [(".".join(parts[:count]), file, root) for file in files if file.is_file()]
    return found


@functools.cache
def _imported(source: bytes, package: str) -> tuple[str, ...]:
    """Full names of what a source imports; some are those of classes and functions."""
    try:
        nodes = list(ast.walk(ast.parse(source)))
    except (SyntaxError, ValueError):
        return ()
    names: list[str] = []
    for node in nodes:
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".") if package else []
            above = above[: len(above) - node.level + 1] if node.level else []
            start = ".".join([*above, *([node.module] if node.module else [])])
            names += [start, *(f"{start}.{alias.name}" for alias in node.names)]
    return tuple(name.strip(".") for name in dict.fromkeys(names) if name.strip("."))


@functools.cache
def _code_alone(source: bytes) -> bytes:
    """A source without comments, docstrings and layout; what is not Python stays as it is."""
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError):
        return source
    return hashlib.sha256(repr(_plain(tree)).encode("utf-8", "backslashreplace")).digest()


def _plain(node: Any) -> Any:
    """A syntax tree in plain types; empty fields are left out, since other versions of Python add some."""
    if isinstance(node, list):
        return [_plain(entry) for entry in node if not _is_text_alone(entry)]
    if isinstance(node, ast.AST):
        fields = ((name, value) for name, value in ast.iter_fields(node) if value is not None and value != [])
        return (type(node).__name__, *((name, _plain(value)) for name, value in fields))
    return node


def _is_text_alone(node: Any) -> bool:
    """Whether a statement is a docstring, or one of an attribute."""
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)


def _sha256(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()
