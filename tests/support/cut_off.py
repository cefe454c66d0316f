"""Runs a command where there is no network but the loopback: `python cut_off.py COMMAND...`, in a
network namespace of its own (`unshare --net`). It makes sure that nothing outside can be reached.
"""

from __future__ import annotations

import errno
import fcntl
import os
import socket
import struct
import sys

SIOCGIFFLAGS, SIOCSIFFLAGS, IFF_UP = 0x8913, 0x8914, 0x1
OUTSIDE = "192.0.2.1"  # RFC 5737: nobody's, so it would be asked by way of the default route


def bring_up_the_loopback() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        asked = struct.pack("16sh14x", b"lo", 0)
        (flags,) = struct.unpack_from("h", fcntl.ioctl(any_socket, SIOCGIFFLAGS, asked), 16)
        fcntl.ioctl(any_socket, SIOCSIFFLAGS, struct.pack("16sh14x", b"lo", flags | IFF_UP))


def check_that_it_is_cut_off() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        try:
            any_socket.connect((OUTSIDE, 9))
        except OSError as error:
            if error.errno == errno.ENETUNREACH:
                return
            raise
    raise SystemExit("there is a network")


if __name__ == "__main__":
    bring_up_the_loopback()
    check_that_it_is_cut_off()
    os.execvp(sys.argv[1], sys.argv[1:])
