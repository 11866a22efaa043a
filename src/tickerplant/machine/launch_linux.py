"""Drop privileges and execute the database server. Runs as a separate script.

    python -I -S launch_linux.py PARENT UID GID CAPABILITY SIGNAL PROGRAM [ARGUMENT ...]

A separate process is necessary, because a threaded program may call almost nothing between fork and exec. The kernel
resets the death signal when the user changes, so only the order of calls in `main` works. The script imports no
package; it starts in about 20 ms and works from any folder.
"""

import ctypes
import os
import sys

PR_SET_PDEATHSIG, PR_SET_KEEPCAPS, PR_SET_SECUREBITS, PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE = 1, 8, 28, 47, 2
SECBIT_NO_SETUID_FIXUP = 1 << 2
CAPABILITY_VERSION_3 = 0x20080522


def main(arguments: list[str]) -> None:
    """Change the user, keep one capability, set the death signal, and execute the program.

    UID −1 changes neither the user nor the capabilities. CAPABILITY −1 keeps no capability. SIGNAL 0 sets no death
    signal.
    """
    parent, uid, gid, capability, signal = (int(text) for text in arguments[:5])
    program = arguments[5]
    libc = ctypes.CDLL(None, use_errno=True)
    if uid >= 0:
        if capability >= 0:
            # access(2) ignores capabilities of non-root users unless this bit is set. initdb calls access(2) before it
            # runs `postgres`. If the kernel refuses the bit, the capability still works for open and exec.
            libc.prctl(PR_SET_SECUREBITS, SECBIT_NO_SETUID_FIXUP, 0, 0, 0)
            libc.prctl(PR_SET_KEEPCAPS, 1, 0, 0, 0)
        os.setgroups([])
        os.setresgid(gid, gid, gid)
        os.setresuid(uid, uid, uid)
        if capability >= 0:
            _keep(libc, capability)
    if signal:
        libc.prctl(PR_SET_PDEATHSIG, signal, 0, 0, 0)
        if os.getppid() != parent:  # the parent died before the line above
            sys.exit(1)
    os.umask(0o077)
    os.execv(program, arguments[5:])  # noqa: S606


def _keep(libc: ctypes.CDLL, capability: int) -> None:
    """Keep only this capability, also across exec. If this fails, the program reports the inaccessible file."""
    bit = 1 << capability
    header = (ctypes.c_uint32 * 2)(CAPABILITY_VERSION_3, 0)
    data = (ctypes.c_uint32 * 6)(bit, bit, bit, 0, 0, 0)  # effective, permitted, inheritable; then the upper halves
    libc.capset(header, data)
    libc.prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, capability, 0, 0)


if __name__ == "__main__":
    main(sys.argv[1:])
