"""The parser behind the commands: its errors are one sentence."""

from typing import NoReturn

from lightning.pytorch.cli import LightningArgumentParser

from visionbench import data, models
from visionbench.config.parse_errors import sentence
from visionbench.errors import UserError

# jsonargparse knows a class by its short name only where the class is imported.
for package in (data, models):
    for name in package.__all__:
        getattr(package, name)


class Parser(LightningArgumentParser):
    """A parser whose errors are one sentence, raised instead of printed below a page of usage."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Raises the message as a sentence.

        Raises:
            UserError: In the parser of the command line; that of a class in it raises what jsonargparse expects.
        """
        if not self.exit_on_error:
            super().error(message, ex)
        options = {option for action in self._actions for option in action.option_strings}
        raise UserError(sentence(message, ex, options)) from ex
