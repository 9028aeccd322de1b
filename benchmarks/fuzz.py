"""All that is fuzzed: 500 image files against OpenCV, 500 tables against pandas, 2,000 configurations.

    python benchmarks/fuzz.py [PART ...] [--seed 0]

PART is images, tables or configurations; without one, all three run, each in a process of its own. The summary of each
part is written beside its program (benchmarks/fuzz_images.txt and so on). Exit status 1 if a case fails. What counts
as a failure is said at the top of each part; the slow tests run a fifth of images and tables, and a tenth of the
configurations.
"""

import argparse
import subprocess
import sys
from pathlib import Path

PARTS = ("images", "tables", "configurations")


def main() -> int:
    """Parses the arguments and runs the parts; gives the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", metavar="PART", help=", ".join(PARTS))
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    if unknown := set(arguments.parts) - set(PARTS):
        parser.error(f"{unknown.pop()} is no part; name one of {', '.join(PARTS)}")
    failed = False
    for part in arguments.parts or PARTS:
        program = Path(__file__).with_name(f"fuzz_{part}.py")
        command = [sys.executable, str(program), "--seed", str(arguments.seed)]
        failed |= subprocess.run([*command, "--summary", str(program.with_suffix(".txt"))]).returncode != 0
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
