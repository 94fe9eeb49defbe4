"""Configurations on their way: 10,000 listeners, rules and servers, and a change of one of them on every node.

The real processes: the control plane, two L7 nodes of one worker each, back end and load generator, on one machine. A
configuration has 5,000 http and 5,000 tcp listeners, 10,000 rules on the former, 10,000 servers in 100 groups; none is
probed, since they do not exist. Besides the nodes, plain long polls stand for more of them: they count as reached when
the change has arrived, and parse nothing.

A change is a rule's fixed reply. It runs on a node when a connection of that node, kept open all the time, gets the new
reply. Both times are from the moment in which the API's answer is there. Meanwhile `wrk` sends requests through both
nodes; one that fails ends the run.
"""

from __future__ import annotations

from bench.config.rows import run

__all__ = ["run"]
