"""Playbooks: an exchange's trace, written as events and the commands that must follow (after mitmproxy's).

    Playbook(exchange).on("start").gives(Assign("app", True)).on("assigned", SERVER, False).gives(SendUpstream(...))

`...` in place of a command's bytes stands for any bytes.
"""

from __future__ import annotations

from collections.abc import Sequence

from proxy.exchange import Command, Exchange, SendClient, SendUpstream


class Playbook:
    """Runs events against an exchange and compares the commands that come out."""

    def __init__(self, exchange: Exchange) -> None:
        self.exchange = exchange
        self._commands: Sequence[Command] = ()
        self._event = ""

    def on(self, event: str, *args: object, **options: object) -> Playbook:
        """The event comes in."""
        self._event = event
        self._commands = getattr(self.exchange, event)(*args, **options)
        return self

    def gives(self, *expected: Command) -> Playbook:
        """Exactly these commands come out."""
        got = [
            type(command)(...) if _any_bytes(wanted) and type(wanted) is type(command) else command  # type: ignore[call-arg, arg-type]
            for wanted, command in zip(expected, self._commands, strict=False)
        ]
        got += self._commands[len(expected) :]
        assert got == list(expected), f"after {self._event}:\n  got {self._commands}\n  not {list(expected)}"
        return self

    def sent(self) -> bytes:
        """What the last event sent to either side, joined."""
        return b"".join(c.data for c in self._commands if isinstance(c, SendClient | SendUpstream))


def _any_bytes(command: Command) -> bool:
    return isinstance(command, SendClient | SendUpstream) and command.data is ...
