"""Drop privileges and execute the database server, which ends when this script's standard input ends.

    python -I -S launch_portable.py PARENT UID GID CAPABILITY SIGNAL PROGRAM [ARGUMENT ...]

Standard input is a pipe that only the plant keeps open. The pipe ends when the plant dies, even by SIGKILL. A child
process of this script waits for the end of the pipe, and then sends SIGNAL to the program. The script imports no
package; it starts in about 20 ms and works from any folder.
"""

import os
import select
import sys

POLL_S = 0.5
"""Seconds between two tests of whether the program still runs."""


def main(arguments: list[str]) -> None:
    """Change the user, start the process that waits for the end of the pipe, and execute the program.

    UID −1 does not change the user. PARENT and CAPABILITY are not used. SIGNAL 0 leaves standard input to the program,
    and no process waits.
    """
    uid, gid, signal = int(arguments[1]), int(arguments[2]), int(arguments[4])
    program = arguments[5]
    if uid >= 0:
        os.setgroups([])
        os.setgid(gid)
        os.setuid(uid)
    os.umask(0o077)
    if signal:
        parent = os.getpid()
        if os.fork() == 0:
            wait(parent, signal)
            os._exit(0)
        nothing = os.open(os.devnull, os.O_RDONLY)
        os.dup2(nothing, 0)
        os.close(nothing)
    os.execv(program, arguments[5:])  # noqa: S606


def wait(program: int, signal: int) -> None:
    """Wait until standard input or the program ends, and send the signal if the program still runs.

    The function returns only after the program has ended, because the program waits for all of its children.
    """
    ended = False
    os.setsid()
    while os.getppid() == program:
        readable, _, _ = select.select([] if ended else [0], [], [], POLL_S)
        if readable and not os.read(0, 1) and not ended:
            ended = True
            os.kill(program, signal)


if __name__ == "__main__":
    main(sys.argv[1:])
