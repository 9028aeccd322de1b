"""The parser behind the commands: its errors are one sentence."""

import argparse
import itertools
import re
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

from lightning.pytorch.cli import LightningArgumentParser

from visionbench import data, models
from visionbench.config import cell_texts, patches  # noqa: F401, since they replace functions of jsonargparse
from visionbench.config.messages import no_value
from visionbench.config.parse_errors import sentence
from visionbench.errors import UserError
from visionbench.guards.config import LINKED
from visionbench.text import is_utf8, shown

# jsonargparse knows a class by its short name only where the class is imported.
for package in (data, models):
    for name in package.__all__:
        getattr(package, name)


class Parser(LightningArgumentParser):
    """A parser whose errors are one sentence, raised instead of printed below a page of usage."""

    words: Sequence[str] = ()

    def parse_args(self, args: list[str] | None = None, *arguments: Any, **options: Any) -> Any:  # type: ignore[override]
        """Parses words; refuses those that are not UTF-8, which neither YAML nor a run's files can hold.

        Raises:
            UserError: A word is not UTF-8, or the words cannot be parsed.
        """
        words = self.words = ["", *(sys.argv[1:] if args is None else args)]
        for before, word in itertools.pairwise(words):
            if not is_utf8(word):
                option, _, value = word.partition("=") if word.startswith("--") else (before, "", word)
                raise UserError(
                    f"The value of {shown(option)} is {shown(value)}, whose bytes are not UTF-8; rename the file or "
                    "folder, or give a link to it whose name is UTF-8."
                )
        return super().parse_args(args, *arguments, **options)

    def format_help(self, *arguments: Any, **options: Any) -> str:
        """The help of the command, or of a class in it, which lists what can be given."""
        if str(self.description).startswith("Help for "):  # the usage would begin with what the data set gives
            self.usage = argparse.SUPPRESS
            for action in self._actions:
                if action.dest in {f"model.{name}" for name in LINKED}:
                    action.help = argparse.SUPPRESS
        return super().format_help(*arguments, **options)

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Raises the message as a sentence.

        Raises:
            UserError: In the parser of the command line; that of a class in it raises what jsonargparse expects.
        """
        if not self.exit_on_error:
            super().error(message, ex)
        if match := re.match(r"argument (?:-\w/)?(--[\w.]+): expected one argument", message):
            raise UserError(no_value(self._without_value(match[1]))) from ex
        options = {option for action in self._actions for option in action.option_strings}
        raise UserError(sentence(message, ex, options)) from ex

    def _without_value(self, option: str) -> str:
        """The word without a value: argparse calls --model.optimizer.lr by the name of its first part, --model."""
        for word, following in itertools.pairwise([*self.words, "-"]):
            if (word == option or word.startswith(f"{option}.")) and "=" not in word and following.startswith("-"):
                return word
        return option
