"""Becomes the database server: run as a script of its own, it gives up what must be given up and then executes.

    python -I -S _launch.py PARENT UID GID CAPABILITY SIGNAL PROGRAM [ARGUMENT ...]

A process of its own, because between fork and exec of a program with threads hardly anything may be called, and because
the kernel forgets the death signal when the user changes: the order below is the only one that works. It imports no
package, so that it starts in some 20 ms and works from any folder.
"""

import ctypes
import os
import sys

PR_SET_PDEATHSIG, PR_SET_KEEPCAPS, PR_SET_SECUREBITS, PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE = 1, 8, 28, 47, 2
SECBIT_NO_SETUID_FIXUP = 1 << 2
CAPABILITY_VERSION_3 = 0x20080522


def main(arguments: list[str]) -> None:
    """Change user (UID −1: stay), keep one capability (−1: none), die with the parent (SIGNAL 0: need not), execute."""
    parent, uid, gid, capability, signal = (int(text) for text in arguments[:5])
    program = arguments[5]
    libc = ctypes.CDLL(None, use_errno=True)
    if uid >= 0:
        if capability >= 0:
            # Without this bit access(2), which initdb asks before it runs `postgres`, counts no capability of
            # a user who is not root. Where the kernel refuses the bit, the capability still serves open and exec.
            libc.prctl(PR_SET_SECUREBITS, SECBIT_NO_SETUID_FIXUP, 0, 0, 0)
            libc.prctl(PR_SET_KEEPCAPS, 1, 0, 0, 0)
        os.setgroups([])
        os.setresgid(gid, gid, gid)
        os.setresuid(uid, uid, uid)
        if capability >= 0:
            _keep(libc, capability)
    if signal:
        libc.prctl(PR_SET_PDEATHSIG, signal, 0, 0, 0)
        if os.getppid() != parent:  # it died before the line above
            sys.exit(1)
    os.umask(0o077)
    os.execv(program, arguments[5:])  # noqa: S606


def _keep(libc: ctypes.CDLL, capability: int) -> None:
    """Keep this capability alone, over exec too. If the kernel refuses, the program says what it cannot open."""
    bit = 1 << capability
    header = (ctypes.c_uint32 * 2)(CAPABILITY_VERSION_3, 0)
    data = (ctypes.c_uint32 * 6)(bit, bit, bit, 0, 0, 0)  # effective, permitted, inheritable; then the upper halves
    libc.capset(header, data)
    libc.prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, capability, 0, 0)


if __name__ == "__main__":
    main(sys.argv[1:])
