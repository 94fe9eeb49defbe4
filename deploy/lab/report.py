"""`lab status` for people: one line a host, then what the control plane knows. Pure."""

from __future__ import annotations

from typing import cast

from deploy.lab.topology import VIP, VIP6

Row = dict[str, object]


def readable(status: Row) -> str:
    """The lines for a terminal; `status` is what `Lab.status` returns."""
    lines = [f"lab {status['lab']}: {status['phase']}, XDP {status['xdp']}, VIPs {VIP} and {VIP6}", ""]
    for host in cast(list[Row], status["hosts"]):
        addresses = f"{host['address']!s:<14} {host['address_v6']!s:<15}"
        what = {True: f"pid {host['pid']}", False: "DOES NOT RUN", None: ""}[cast("bool | None", host["runs"])]
        lines.append(f"  {host['name']!s:<8} {addresses} {host['netns']!s:<14} {what}".rstrip())
    lines += ["", *(f"  {line}" for line in _listeners(cast(list[Row], status["listeners"])))]
    lines += ["", *(f"  {line}" for line in _owners(status))]
    return "\n".join([*lines, "", *(f"  {line}" for line in _nodes(cast(Row, status["cluster"])))])


def _listeners(listeners: list[Row]) -> list[str]:
    return [f"{each['protocol']!s:<5} {VIP}:{each['port']!s:<5} {each['name']}" for each in listeners]


def _owners(status: Row) -> list[str]:
    if status["vip"] == "static":
        return ["VIPs by static routes to the L4 nodes that answer"]
    found = owners(cast(Row, status["cluster"]))
    return [f"{address:<18} {status['vip']}: {', '.join(names) or 'nobody'}" for address, names in found.items()]


def owners(cluster: Row) -> dict[str, list[str]]:
    """Who has each VIP and each address of a source pool, by what the L4 nodes report."""
    found: dict[str, list[str]] = {}
    for node in cast(list[Row], cluster.get("nodes", [])):
        announced = cast(Row, cast(Row, node["facts"]).get("vip") or {})
        for each in cast(list[Row], announced.get("addresses") or []):
            names = found.setdefault(str(each["address"]), [])
            if each["held"] and node["step"] != "silent":
                names.append(str(node["name"]))
    return found


def _nodes(cluster: Row) -> list[str]:
    """What each node reports to the control plane."""
    if "error" in cluster:
        return [str(cluster["error"])]
    lines = [f"configuration {cluster['version']}"]
    for node in cast(list[Row], cluster["nodes"]):
        lines.append(f"{node['name']!s:<8} {node['step']}" + (f": {node['why']}" if node["why"] else ""))
    return lines
