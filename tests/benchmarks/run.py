"""Run benchmarks: `python tests/benchmarks/run.py NAME... [--only PROBLEM...] [--fedoo-python PATH]`."""

import argparse
import sys
from pathlib import Path

from rich.console import Console

HERE = Path(__file__).parent
sys.path[0] = str(HERE.parent)

from benchmarks.harness import run_benchmark  # noqa: E402


def main() -> None:
    """Run the benchmarks named."""
    parser = argparse.ArgumentParser(description="Run benchmarks; results go to tests/benchmarks/results.")
    parser.add_argument("names", nargs="+", metavar="NAME", help="modules of this folder, for example rve_solver")
    parser.add_argument("--only", nargs="+", default=[], metavar="PROBLEM", help="only these, without a file")
    parser.add_argument("--fedoo-python", default=sys.executable, help="interpreter that has fedoo")
    arguments = parser.parse_args()
    console = Console()
    for name in arguments.names:
        run_benchmark(name, arguments.only, {"fedoo_python": arguments.fedoo_python}, console)


if __name__ == "__main__":
    main()
