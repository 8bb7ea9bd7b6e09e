"""The command `femops`."""

import sys

from femops.packages import remedy

_INPUT_ERROR = 2  # as in `femops.commands.ending`, which cannot be imported without its packages


def main() -> None:
    """Run the command line; where its packages are not installed, say so in one line."""
    try:
        from femops.commands.cli import main as run

        run()
    except ModuleNotFoundError as error:
        missing = remedy(error)
        if missing is None:
            raise
        sys.stderr.write(f"femops: {missing}\n")
        sys.exit(_INPUT_ERROR)


if __name__ == "__main__":
    main()
