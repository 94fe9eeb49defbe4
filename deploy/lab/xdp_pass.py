"""The smallest XDP program, for the switch-side end of an L4 node's cable.

A veth device delivers what native XDP at its peer sends back (XDP_TX) only if it runs an XDP program itself; otherwise
the frames vanish (drivers/net/veth.c, veth_xdp_xmit). Two instructions do. They are loaded with bpf(2), so that the
lab needs no compiler; the device keeps the program after we have closed it.
"""

from __future__ import annotations

import ctypes
import os
import platform
import struct

from pyroute2 import IPRoute

from deploy.lab.errors import LabError
from deploy.lab.namespaces import inside

_SYSCALL = {"x86_64": 321, "aarch64": 280}  # bpf(2)
_PROG_LOAD = 5
_PROG_TYPE_XDP = 6
_XDP_PASS = 2
_FLAGS_DRV_MODE = 4
_INSTRUCTION = struct.Struct("=BBhi")  # opcode, registers, offset, immediate
_PROGRAM = _INSTRUCTION.pack(0xB7, 0, 0, _XDP_PASS) + _INSTRUCTION.pack(0x95, 0, 0, 0)  # r0 = XDP_PASS; exit
_ATTRIBUTES = struct.Struct("=IIQQ")  # the head of union bpf_attr for BPF_PROG_LOAD; the kernel takes the rest as zero

_libc = ctypes.CDLL(None, use_errno=True)


def attach(netns: str, devices: list[str]) -> None:
    """Put the program on `devices` of a namespace, in native mode. Raises LabError."""
    fd = load()
    try:
        with inside(netns), IPRoute() as ip:
            for device in devices:
                index = ip.link_lookup(ifname=device)[0]
                program = {"attrs": [("IFLA_XDP_FD", fd), ("IFLA_XDP_FLAGS", _FLAGS_DRV_MODE)]}
                ip.link("set", index=index, xdp=program)
    finally:
        os.close(fd)


def load(program: bytes = _PROGRAM, program_type: int = _PROG_TYPE_XDP) -> int:
    """A descriptor of a program, which the caller closes. Raises LabError."""
    instructions = ctypes.create_string_buffer(program, len(program))
    licence = ctypes.create_string_buffer(b"Apache-2.0")
    count = len(program) // _INSTRUCTION.size
    attributes = _ATTRIBUTES.pack(program_type, count, ctypes.addressof(instructions), ctypes.addressof(licence))
    number = _SYSCALL.get(platform.machine())
    if number is None:
        raise LabError(f"native XDP in the lab: the number of bpf(2) on {platform.machine()} is not known here")
    fd: int = _libc.syscall(number, _PROG_LOAD, ctypes.create_string_buffer(attributes), len(attributes))
    if fd < 0:
        raise LabError(f"cannot load an XDP program: {os.strerror(ctypes.get_errno())}; --xdp generic needs none here")
    return fd
