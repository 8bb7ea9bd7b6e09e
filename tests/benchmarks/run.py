"""Run benchmarks: `python tests/benchmarks/run.py NAME... [--only PROBLEM...] [--fedoo-python PATH] [--seconds S]`."""

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
    parser.add_argument("--muspectre-python", default=sys.executable, help="interpreter that has muSpectre")
    parser.add_argument("--fans", default="FANS", help="command that runs FANS")
    parser.add_argument("--seconds", default="3600", help="training time of each network of beno_poisson")
    arguments = parser.parse_args()
    console = Console()
    options = {
        "fedoo_python": arguments.fedoo_python,
        "muspectre_python": arguments.muspectre_python,
        "fans": arguments.fans,
        "seconds": arguments.seconds,
    }
    for name in arguments.names:
        run_benchmark(name, arguments.only, options, console)


if __name__ == "__main__":
    main()
