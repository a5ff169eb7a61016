"""`python -m training.torchrun ARGUMENTS`: torchrun, ending with the exit code of the process that failed first.

torchrun itself ends with 1 whatever went wrong, so that whoever started it cannot tell a data set that is not there, which no
second attempt will find, from a node that went away.
"""

from __future__ import annotations

import signal
import sys

from torch.distributed import run
from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError


def main(arguments: list[str] | None = None) -> int:
    """Run torchrun and return the exit code; 128 and the signal's number where one ended it, as a shell would say."""
    try:
        run.main(arguments)
    except ChildFailedError as err:
        _, failure = err.get_first_failure()
        sys.stderr.write(f"{err}\n")
        return failure.exitcode if failure.exitcode > 0 else 128 - failure.exitcode
    except SignalException as err:
        sys.stderr.write(f"{signal.Signals(err.sigval).name} came; every process was asked to stop\n")
        return 128 + err.sigval
    return 0


if __name__ == "__main__":
    sys.exit(main())
