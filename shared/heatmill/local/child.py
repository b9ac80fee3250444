"""Become another program that dies with its parent, even when the parent is killed with SIGKILL.

Run as a script, by path: `python -I -S child.py PARENT_PID PROGRAM ARGUMENT...`. A script of its own and not a
`preexec_fn`, since the latter runs Python between fork and exec, which is not safe in a process that has threads.

Linux sends the signal when the *thread* that started the child ends: start children from a thread that lives on.
Elsewhere nothing happens and children outlive a parent that was killed with SIGKILL.
"""

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1


def main(parent: int, command: list[str]) -> None:
    """Ask for the signal, then become the command."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        # The parent may have died before the call above.
        if os.getppid() != parent:
            sys.exit("the parent is gone")
    try:
        os.execvp(command[0], command)  # noqa: S606 - that no shell is involved is the purpose
    except OSError as error:
        sys.exit(f"{command[0]}: {error}")


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2:])
