"""Data sets that are prepared from files of the user, which no mirror has."""

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from lightning.fabric.utilities.rank_zero import rank_zero_only

from visionbench.classes import sheet_entry
from visionbench.data.base import VisionDataModule
from visionbench.data.store import default_root, find_store, read_meta, remembered_source
from visionbench.errors import UserError
from visionbench.text import shown


class FromSource(VisionDataModule):
    """A data set that is prepared from the user's own files, given by `source`.

    A subclass sets `source_arguments` and calls `set_source` at the end of its `__init__`, when its settings are known.
    """

    named: ClassVar[bool] = False
    """Whether the class is one particular data set: it has a title of its own, and is found without a source.

    The data sheet in its docstring then says under Files where the files are and how they are prepared.
    """
    source: Path
    as_written: str
    prepared: Path | None = None
    """Folder of the store that is used as it is, since no source was given; its source is not looked at."""
    note = ""

    def source_problem(self) -> str | None:
        """Reason why the source cannot be used, such as `does not exist`; `None` if it can."""
        return None if self.source.exists() else "does not exist"

    def set_source(self, source: str) -> Mapping[str, Any] | None:
        """Sets the source; without one, that of the store of this data set that was prepared last.

        Args:
            source: Path as the user wrote it; empty for none.

        Returns:
            The fingerprint that the source had when it was prepared with other settings, if it has to be prepared again
            with these settings, and so must not have changed; `None` otherwise.

        Raises:
            UserError: There is no source, and no store that could replace it.
        """
        self.as_written = source
        self.source = Path(source).expanduser()
        if source:
            return None
        if not self.named:
            raise UserError(f"data.source is empty, expected the folder or file that holds your {self.item}s; give it.")
        settings, parent = self.settings(), self.root / self.store_class().__name__
        memory = remembered_source(parent, settings)
        if memory is None:
            raise UserError(f"{self.title} is not prepared in {self.root}; {self._how_to_prepare()}")
        self.source, self.prepared = memory.source, memory.folder
        if others := [path for path in memory.others if path != memory.source]:
            paths = ", ".join(shown(str(path)) for path in others)
            self.note = (
                f"note: {self.title} was prepared in {self.root} from different files; those of "
                f"{shown(str(self.source))} are used, which were prepared last with these settings, and not those of "
                f"{paths}; --data.source chooses"
            )
        elif memory.others:
            self.note = (
                f"note: files of {shown(str(self.source))} changed (their name, size or time) between two "
                f"preparations of {self.title} in {self.root}; the last one with these settings is used"
            )
        if self.prepared is not None:
            return None
        if (problem := self.source_problem()) is not None:
            raise UserError(
                f"{self.title} is prepared in {self.root} with other settings ({', '.join(memory.differences)}), and "
                f"its source {shown(str(self.source))} {problem}, so that it cannot be prepared with these; give the "
                "source once with --data.source FOLDER."
            )
        self.as_written = str(self.source)
        return memory.fingerprint

    def check_unchanged(self, before: Mapping[str, Any] | None, now: Mapping[str, Any] | None) -> None:
        """Refuses a source that has changed, where settings would otherwise decide which content is used.

        Args:
            before: Fingerprint of the source when it was prepared with other settings; `None` if it does not matter.
            now: Fingerprint of the source.

        Raises:
            UserError: The fingerprints differ.
        """
        if before is not None and before != now:
            raise UserError(
                f"{shown(str(self.source))} has changed since {self.title} was prepared from it (the name, size or "
                "time of a file), so that other settings would use other content; prepare it again with "
                f"{self._prepare_command()} {shlex.quote(shown(str(self.source)))}."
            )

    def store_folder(self) -> Path:
        """Folder of the prepared store; if the source no longer exists, that of a source of the same spelling."""
        if self.prepared is not None:
            return self.prepared
        folder = super().store_folder()
        if folder.exists() or self.source_problem() is None:
            return folder
        return find_store(folder.parent, self.settings(), self.as_written) or folder

    def prepare_data(self) -> None:
        """Prepares the store if it is missing or if its source has changed; prints which of several sources is used."""
        if not self._source_checked and (note := self.note or self._note_of_replacement()):
            rank_zero_only(print)(note)
        super().prepare_data()

    def _note_of_replacement(self) -> str:
        """Says that the store of another source is used, which was given by the same text; empty where it is not."""
        folder = self.store_folder()
        if self.prepared is not None or folder == super().store_folder():
            return ""
        source = str(read_meta(folder).get("settings", {}).get("source"))
        return (
            f"note: data.source {shown(self.as_written)} {self.source_problem()}; what was prepared from "
            f"{shown(source)}, which was given by the same text, is used"
        )

    def _prepare_command(self) -> str:
        # Without the root where it is the default, so that the command is that of `data list` and the README.
        root = "" if self.root == default_root() else f" --data.root {shlex.quote(str(self.root))}"
        return f"visionbench data prepare {self.store_class().__name__}{root} --data.source"

    def _how_to_prepare(self) -> str:
        files = sheet_entry(self.store_class().__doc__ or "", "Files").rstrip(".")
        return f"run {self._prepare_command()} FOLDER once{f'; {files}' if files else ''}."
