from deploy.lab.report import owners, readable


def status(cluster: dict[str, object]) -> dict[str, object]:
    def host(name: str, runs: bool | None) -> dict[str, object]:
        return {"name": name, "role": "x", "address": "10.81.0.9", "address_v6": "fd81::9", "netns": f"pf-{name}",
                "pid": 77, "runs": runs}  # fmt: skip

    return {
        "lab": "pf", "phase": "up", "xdp": "native", "vip": "static", "cluster": cluster,
        "hosts": [host("client", None), host("be-1", True), host("be-2", False)],
        "listeners": [{"name": "web", "protocol": "http", "port": 80}],
    }  # fmt: skip


def test_a_line_for_each_host_listener_and_node() -> None:
    nodes = [
        {"name": "l4-1", "step": "in step", "why": ""},
        {"name": "l4-2", "step": "silent", "why": "no report for 7 s"},
    ]
    lines = [line.split() for line in readable(status({"version": 3, "nodes": nodes})).splitlines()]
    assert ["client", "10.81.0.9", "fd81::9", "pf-client"] in lines
    assert ["be-1", "10.81.0.9", "fd81::9", "pf-be-1", "pid", "77"] in lines
    assert ["be-2", "10.81.0.9", "fd81::9", "pf-be-2", "DOES", "NOT", "RUN"] in lines
    assert ["http", "10.81.2.100:80", "web"] in lines
    assert ["configuration", "3"] in lines
    assert ["l4-1", "in", "step"] in lines
    assert ["l4-2", "silent:", "no", "report", "for", "7", "s"] in lines


def test_a_control_plane_that_is_away() -> None:
    assert readable(status({"error": "it does not answer"})).endswith("\n\n  it does not answer")


def announcing(name: str, step: str, **held: bool) -> dict[str, object]:
    addresses = [{"address": f"10.81.2.{address[1:]}", "held": has} for address, has in held.items()]
    return {"name": name, "step": step, "why": "", "facts": {"vip": {"method": "vrrp", "addresses": addresses}}}


def test_who_has_each_vip() -> None:
    cluster: dict[str, object] = {
        "version": 1,
        "nodes": [
            announcing("l4-1", "in step", v1=True, v2=False), announcing("l4-2", "silent", v1=False, v2=True),
            {"name": "l7-1", "step": "in step", "why": "", "facts": {}},
        ],
    }  # fmt: skip
    assert owners(cluster) == {"10.81.2.1": ["l4-1"], "10.81.2.2": []}
    text = readable(status(cluster) | {"vip": "vrrp"})
    assert "\n  10.81.2.1          vrrp: l4-1\n  10.81.2.2          vrrp: nobody\n" in text
    assert "static routes" in readable(status(cluster))
    assert owners({"error": "it does not answer"}) == {}
