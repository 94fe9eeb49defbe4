import asyncio
import errno
import socket

import pytest

from control.node.tcp import cannot_bind


async def test_what_asyncio_says_of_a_port_in_use() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other, pytest.raises(OSError, match="in use") as caught:
        await asyncio.get_running_loop().create_server(asyncio.Protocol, *other.getsockname())
    assert cannot_bind(caught.value) == "Address already in use; another process listens there; `ss -ltnp` shows which"


async def test_an_address_of_another_machine_and_a_name_of_none() -> None:
    loop = asyncio.get_running_loop()
    with pytest.raises(OSError, match="assign") as caught:
        await loop.create_server(asyncio.Protocol, "192.0.2.1", 0)
    assert "give an address of this machine" in cannot_bind(caught.value)
    with pytest.raises(OSError, match=r"ame") as caught:
        await loop.create_server(asyncio.Protocol, "nowhere.invalid", 0)
    assert "ame" in cannot_bind(caught.value)


def test_a_privileged_port() -> None:
    error = PermissionError(errno.EACCES, "error while attempting to bind on address ('127.0.0.1', 80)")
    assert cannot_bind(error).startswith("Permission denied; give the process CAP_NET_BIND_SERVICE")


def test_other_reasons_stand_alone() -> None:
    assert cannot_bind(OSError(errno.EMFILE, "whatever")) == "Too many open files"
