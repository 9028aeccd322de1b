"""Arguments that several commands share: inputs among options, and the options of a run's data set."""

import argparse
import json
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NoReturn

from visionbench.config.messages import no_value, unknown_option
from visionbench.errors import UserError, first_user_error

if TYPE_CHECKING:
    from visionbench.config.parser import Parser
    from visionbench.data.base import VisionDataModule


class PlainParser(argparse.ArgumentParser):
    """A parser whose errors are one sentence, and which imports nothing heavy, unlike jsonargparse's."""

    def parse_args(self, options: Sequence[str]) -> argparse.Namespace:  # type: ignore[override]
        """Reads all options.

        Args:
            options: Words of the command line.

        Raises:
            UserError: There is no such option, or a value is missing.
        """
        config, unknown = self.parse_known_args(options)
        if unknown and not unknown[0].startswith("-"):
            raise UserError(f"{unknown[0]} is one argument too many; remove it, or see {self.prog} --help.")
        if unknown:
            known = (*(f"--{name}" for name in vars(config)), "--help")
            raise UserError(unknown_option(unknown[0].split("=")[0], known))
        return config

    def error(self, message: str) -> NoReturn:
        """Raises the message as a sentence.

        Raises:
            UserError: Always.
        """
        if match := re.match(r"the following arguments are required: (.+)", message):
            raise UserError(f"{match[1]} must be given; see {self.prog} --help.")
        if match := re.match(r"argument (--\w+): expected one argument", message):
            raise UserError(no_value(match[1]))
        if match := re.match(r"argument (--\w+): not allowed with argument (--\w+)", message):
            raise UserError(f"{match[1]} and {match[2]} exclude each other; give only one of them.")
        if match := re.match(r"argument (--\w+): invalid (int|float) value: (.+)", message):
            kind = "an integer" if match[2] == "int" else "a number"
            raise UserError(f"{match[1]} is {match[3].strip(chr(39))}, expected {kind}.")
        if match := re.match(r"argument (--\w+): invalid choice: (.+) \(choose from (.+)\)", message):
            known = match[3].replace("'", "")
            raise UserError(f"{match[1]} is {match[2].strip(chr(39))}, expected one of {known}.")
        raise UserError(f"{message[0].upper()}{message[1:]}.")


def split_inputs(args: Sequence[str]) -> tuple[list[str], list[str]]:
    """Separates inputs from options.

    Args:
        args: Inputs and options in any order. Each option but --help has a value; everything after -- is an input.

    Returns:
        The inputs and the options.
    """
    inputs: list[str] = []
    options: list[str] = []
    rest = iter(args)
    for argument in rest:
        if argument == "--":
            inputs += rest
        elif argument == "-" or not argument.startswith("-"):
            inputs.append(argument)
        else:
            options.append(argument)
            if "=" not in argument and argument not in ("-h", "--help"):
                options += [value for value in [next(rest, None)] if value is not None]
    return inputs, options


def add_data_options(parser: "Parser", run_config: Mapping[str, Any]) -> list[str]:
    """Adds the options of a data set to a parser, as `visionbench fit` has them.

    Args:
        parser: Parser of a command.
        run_config: Content of a run's config.yaml.

    Returns:
        The arguments that select the run's own data set.
    """
    from visionbench.data.base import VisionDataModule  # here, since torch comes with it

    parser.add_lightning_class_args(VisionDataModule, "data", subclass_mode=True, required=True)
    return ["--data", json.dumps(run_config["data"])]


def make_data(parser: "Parser", config: object, run_config: Mapping[str, Any]) -> "VisionDataModule":
    """Makes the data set that the options describe, without preparing it.

    Args:
        parser: Parser with the options of `add_data_options`.
        config: Options, parsed by it.
        run_config: Content of the run's config.yaml.

    Raises:
        UserError: The data set refuses an option.
    """
    try:
        data: VisionDataModule = parser.instantiate_classes(config).data
    except ValueError as error:  # the parser's, raised from the data set's own
        if (refusal := first_user_error(error)) is not None:
            raise refusal from None
        raise
    from visionbench.guards.data import OfficialTestAsValidation  # here, since torch comes with it

    if OfficialTestAsValidation.name in (run_config.get("allow") or ()):
        data.watch_test()
    return data
