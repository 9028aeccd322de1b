"""What the verdicts of a study depend on, recorded at its first run, so that a later change does not go unseen."""

import hashlib
import json
from collections.abc import Mapping
from datetime import date
from pathlib import Path
from typing import Any

from visionbench.errors import UserError
from visionbench.files import write_json
from visionbench.studies.spec import Study

FILE = "judged.json"
RECORDED = "recorded"
PARTS = {
    "published": "published values",
    "judged": "judged measures",
    "tolerance": "tolerance",
    "choices": "choices",
    "changes": "measures that a defect changes",
    "seeds": "seeds and cells",
    "results": "which epoch is the result, or what chooses the best cell",
}
# Parts that records of before have not.
LATER = {"seeds", "results"}


def judgment(study: Study) -> dict[str, str]:
    """Digest of each part of a study that its verdicts depend on, besides the runs.

    Args:
        study: Study.
    """
    protocols = study.protocols
    parts: dict[str, Any] = {
        "published": [
            study.published_protocol,
            {stage: [vars(row) for row in rows] for stage, rows in study.published.items()},
        ],
        "judged": study.judged,
        "tolerance": study.tolerance,
        "choices": [study.choices, {name: protocol.chosen for name, protocol in protocols.items()}],
        "changes": {name: protocol.changes for name, protocol in protocols.items()},
        "seeds": {
            name: [stage.seeds, stage.more_seeds, stage.more_seeds_of, stage.cells, stage.folds, repr(stage.search)]
            for name, stage in study.stages.items()
        },
        "results": {
            name: [stage.last_epoch, stage.best_of, stage.by, stage.over] for name, stage in study.stages.items()
        },
    }
    return {part: hashlib.sha256(json.dumps(parts[part], sort_keys=True).encode()).hexdigest() for part in PARTS}


def record(study: Study, *folders: Path) -> None:
    """Records the judgment, dated today, in each folder that has no record; an earlier one is copied.

    Args:
        study: Study.
        folders: Folders of the study's results, which are made.

    Raises:
        UserError: A folder cannot be written.
    """
    content = recorded(*folders) or {RECORDED: date.today().isoformat(), **judgment(study)}
    for folder in folders:
        try:
            if not (folder / FILE).exists():
                folder.mkdir(parents=True, exist_ok=True)
                write_json(folder / FILE, content)
        except OSError as error:
            reason = error.strerror or error
            raise UserError(f"{folder} cannot be written ({reason}); make it writable, or work elsewhere.") from error


def recorded(*folders: Path) -> dict[str, str] | None:
    """Reads the oldest record; `None` where there is none.

    Args:
        folders: Folders of the study's results.

    Raises:
        UserError: A record cannot be read.
    """
    found = []
    for path in (folder / FILE for folder in folders if (folder / FILE).exists()):
        try:
            content = json.loads(path.read_bytes())
            known = [part for part in PARTS if part in content or part not in LATER]
            found.append({key: str(content[key]) for key in (RECORDED, *known)})
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(f"{path} is damaged ({error!r}); restore it from the repository.") from error
    return min(found, key=lambda content: content[RECORDED], default=None)


def changed_since(content: Mapping[str, str], study: Study) -> str | None:
    """Sentence about what was changed after the first run; `None` where nothing was.

    Args:
        content: Record of the first run.
        study: Study as it is now.
    """
    now = judgment(study)
    changed = [words for part, words in PARTS.items() if part in content and content[part] != now[part]]
    if not changed:
        return None
    return f"Changed in the study file after the first run ({content[RECORDED]}): {', '.join(changed)}."
