"""Train from the command line or in SageMaker's container: parse the config, call ``train``."""

import argparse
import sys

from lggseg import cli, commands


def main() -> int:
    """Parse, train, return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    cli.add_train_options(parser)
    options = parser.parse_args()
    return cli.run(lambda: commands.train_from_options(options))


if __name__ == "__main__":
    sys.exit(main())
