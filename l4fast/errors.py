"""What may go wrong in an L4 node.

L4Error
├── LoadError      the XDP program cannot be compiled, loaded or attached
├── TablesError    a configuration that the tables cannot hold
├── SettingsError  the command line, or a file that it names (settings.py)
├── StateError     the state directory (state.py)
└── NodeError      the interface, the network, or a part of the node that has failed (node.py)
"""

from __future__ import annotations


class L4Error(Exception):
    """Base of the package's errors; the message is one line that ends in what to do about it."""


class LoadError(L4Error):
    """The data plane cannot run here."""


class TablesError(L4Error):
    """The desired state exceeds a table. Nothing of it was applied."""
