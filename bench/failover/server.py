"""The servers' end of the numbered flows: all servers in one process, with sockets in the network namespace of each.

    python -m bench.failover.server     reads [[netns, [address, …], [TCP port, …], [UDP port, …]], …], a line of JSON,
                                        and says "ready"; each further line is answered by what was wrong since the last
                                        and by how many segments have ever been sent again

A connection with a wrong message is reset. Of UDP each address has a socket of its own, so that answers leave from the
address that was asked; what is no message is sent back as it is, which health checks like.
"""

from __future__ import annotations

import json
import select
import socket
import sys
from collections import Counter

from bench.failover.numbered import Served, WrongError, answer, parse
from bench.failover.sockets import BUFFER_BYTES, SO_RCVBUFFORCE, raise_limit, reset, sent_again
from deploy.lab.namespaces import inside

READ_BYTES = 1 << 16
BACKLOG = 4096
READS = 64  # of one datagram socket, before others have their turn


class Server:
    def __init__(self) -> None:
        self._poll = select.epoll()
        self._listening: dict[int, socket.socket] = {}
        self._datagrams: dict[int, tuple[socket.socket, bytes]] = {}
        self._connections: dict[int, tuple[socket.socket, Served]] = {}
        self._ended_sent_again = 0
        self.wrong: Counter[str] = Counter()

    def listen(self, number: int, netns: str, addresses: list[str], tcp: list[int], udp: list[int]) -> None:
        """The sockets of the server with this number."""
        with inside(netns):
            for port in tcp:
                sock = socket.create_server(("::", port), family=socket.AF_INET6, backlog=BACKLOG, dualstack_ipv6=True)
                self._listening[sock.fileno()] = sock
                self._watch(sock)
            for port in udp:
                for address in addresses:
                    family = socket.AF_INET6 if ":" in address else socket.AF_INET
                    sock = socket.socket(family, socket.SOCK_DGRAM)
                    sock.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, BUFFER_BYTES)
                    sock.bind((address, port))
                    self._datagrams[sock.fileno()] = (sock, bytes([number]))
                    self._watch(sock)

    def _watch(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self._poll.register(sock.fileno(), select.EPOLLIN)

    def serve(self) -> None:
        """Until standard input ends."""
        self._poll.register(sys.stdin.fileno(), select.EPOLLIN)
        while True:
            for fd, _ in self._poll.poll():
                if fd in self._connections:
                    self._answer(fd)
                elif fd in self._datagrams:
                    self._send_back(*self._datagrams[fd])
                elif fd in self._listening:
                    self._accept(self._listening[fd])
                elif not sys.stdin.readline():
                    return
                else:
                    print(json.dumps([self.wrong, self._sent_again()]), flush=True)
                    self.wrong.clear()

    def _sent_again(self) -> int:
        return self._ended_sent_again + sum(sent_again(sock) for sock, _ in self._connections.values())

    def _accept(self, listening: socket.socket) -> None:
        try:
            sock, _ = listening.accept()
        except OSError:  # it was reset while it waited
            return
        self._connections[sock.fileno()] = (sock, Served())
        self._watch(sock)

    def _answer(self, fd: int) -> None:
        sock, served = self._connections[fd]
        try:
            data = sock.recv(READ_BYTES)
            if data:
                sock.sendall(served.receive(data))
                return
        except WrongError as error:
            self.wrong[str(error)] += 1
            reset(sock)
        except OSError:  # the client's end knows more
            pass
        self._ended_sent_again += sent_again(sock)
        del self._connections[fd]
        sock.close()

    def _send_back(self, sock: socket.socket, number: bytes) -> None:
        for _ in range(READS):
            try:
                data, client = sock.recvfrom(READ_BYTES)
                try:
                    parse(data)
                except WrongError:
                    sock.sendto(data, client)
                else:
                    sock.sendto(number + answer(data), client)
            except OSError:
                return


def main() -> None:
    raise_limit()
    server = Server()
    for number, each in enumerate(json.loads(sys.stdin.readline())):
        server.listen(number, *each)
    print(json.dumps("ready"), flush=True)
    server.serve()


if __name__ == "__main__":
    main()
