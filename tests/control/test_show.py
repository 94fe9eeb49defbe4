from control import show


def change(op: str, old: object = None, new: object = None) -> dict[str, object]:
    return {"op": op, "kind": "listeners", "name": "web", "old": old, "new": new}


def test_a_plan() -> None:
    changes = [
        change("create", new={"name": "web"}),
        change("update", {"name": "web", "port": 80, "mode": "dr"}, {"name": "web", "port": 81, "idle_timeout_s": 9}),
        change("delete", old={"name": "web"}),
    ]
    assert show.plan(changes).splitlines() == [
        "+ create listeners/web",
        "~ update listeners/web",
        "    port: 80 → 81",
        "    idle_timeout_s: (default) → 9",
        "    mode: dr → (default)",
        "- delete listeners/web",
        "1 to create, 1 to update, 1 to delete",
    ]
    assert show.plan([]) == "no changes"


def test_a_plan_shows_what_goes_and_comes_in_a_long_list() -> None:
    def servers(*weights: int) -> dict[str, object]:
        return {"name": "g", "servers": [{"address": f"192.0.2.{n}", "weight": w} for n, w in enumerate(weights)]}

    assert show.plan([change("update", servers(1, 2, 3), servers(1, 0, 3))]).splitlines()[1:-1] == [
        "    servers:",
        '      - {"address": "192.0.2.1", "weight": 2}',
        '      + {"address": "192.0.2.1", "weight": 0}',
    ]
    lines = show.plan([change("update", servers(*range(30)), servers())]).splitlines()
    assert len(lines) == 24
    assert lines[-2] == "      and 10 more"
    turned = {"name": "g", "servers": [*reversed(servers(1, 2, 3)["servers"])]}  # type: ignore[call-overload]
    assert show.plan([change("update", servers(1, 2, 3), turned)]).splitlines()[1] == "    servers: in another order"
    text = [{"name": "m", "entries": entries} for entries in ("/a /b\n/c /d\n" * 9, "/a /b\n/c /e\n" * 9)]
    assert show.plan([change("update", *text)]).splitlines()[1:-1] == ["    entries:", "      - /c /d", "      + /c /e"]
    many = [f"10.{n >> 16}.{n >> 8 & 255}.{n & 255}" for n in range(100_000)]
    assert "+ 192.0.2.1" in show.plan([change("update", {"entries": many}, {"entries": [*many, "192.0.2.1"]})])


def test_a_table_is_as_wide_as_it_needs_to_be() -> None:
    assert show.table([("a", 1), ("bbb", 22)], ("NAME", "N")) == "NAME  N\na     1\nbbb   22"


def test_objects_have_a_column_for_every_field_and_long_values_are_cut() -> None:
    text = show.objects([{"name": "a"}, {"name": "b", "chain": "x\n" * 100}])
    assert text.splitlines()[0] == "NAME  CHAIN"
    assert text.endswith("…")
    assert len(text.splitlines()) == 3


def test_status_says_what_is_not_as_it_should_be() -> None:
    base = {"role": "l7", "name": "l7-1", "listed": True, "why": "", "version": 3, "age_s": 0.25, "facts": {}}
    facts = {
        "problems": ["certificate c: no key"],
        "health": [
            {"server": "192.0.2.1:80", "healthy": False, "why": "Connection refused"},
            {"server": "192.0.2.2:80", "healthy": True, "why": "connected"},
        ],
    }
    document = {
        "version": 3,
        "nodes": [
            {**base, "step": "in step", "facts": facts},
            {**base, "step": "silent", "why": "has never reported", "version": None, "age_s": None},
            {**base, "step": "in step", "listed": False},
        ],
    }
    lines = show.status(document).splitlines()
    assert lines[0] == "version 3"
    assert lines[2].endswith("0.2 s   certificate c: no key; 192.0.2.1:80 down: Connection refused")
    assert lines[3].split() == ["l7", "l7-1", "silent", "-", "-", "has", "never", "reported"]
    assert lines[4].endswith("not listed under nodes")
    assert show.status({"version": 0, "nodes": []}) == "version 0\nno nodes"
    late = {"version": 0, "nodes": [], "warnings": ["certificate 'web' expires in 2 days"]}
    assert show.status(late) == "version 0\nno nodes\nwarning: certificate 'web' expires in 2 days"


def l4(name: str, method: str, *held: str, step: str = "in step", age_s: float = 0.5) -> dict[str, object]:
    addresses = [{"address": vip, "held": vip in held} for vip in ("192.0.2.1", "192.0.2.2")]
    facts = {"vip": {"method": method, "addresses": addresses}}
    return {"role": "l4", "name": name, "listed": True, "why": "", "version": 3, "age_s": age_s, "step": step,
            "facts": facts}  # fmt: skip


def test_who_has_the_vips() -> None:
    rows = show.vips([l4("l4-1", "vrrp", "192.0.2.1"), l4("l4-2", "vrrp", "192.0.2.1", "192.0.2.2")])
    assert [row[:3] for row in rows] == [("192.0.2.1", "vrrp", "l4-1, l4-2"), ("192.0.2.2", "vrrp", "l4-2")]
    assert rows[0][3].startswith("several nodes claim it")
    assert rows[1][3] == ""
    document = {"version": 3, "nodes": [l4("l4-1", "vrrp", "192.0.2.1")]}
    assert show.status(document).splitlines()[-2].split() == ["192.0.2.1", "vrrp", "l4-1"]


def test_a_node_that_has_died_is_no_rival_and_holds_nothing_for_long() -> None:
    one = l4("l4-1", "vrrp", "192.0.2.1")
    assert show.vips([one, l4("l4-2", "vrrp", "192.0.2.1", age_s=3.0)])[0][3] == ""
    assert show.vips([one, l4("l4-2", "vrrp", "192.0.2.1", step="silent", age_s=6.0)])[0][2] == "l4-1"


def test_by_bgp_several_nodes_have_a_vip() -> None:
    both = [l4(name, "bgp", "192.0.2.1") for name in ("l4-1", "l4-2")]
    assert show.vips(both) == [
        ("192.0.2.1", "bgp", "l4-1, l4-2", ""), ("192.0.2.2", "bgp", "nobody", "no node has it: see the nodes' remarks")
    ]  # fmt: skip


def test_static_vips_are_nobodys() -> None:
    static = l4("l4-1", "static") | {"facts": {"vip": {"method": "static", "addresses": []}}}
    assert show.vips([static, static | {"facts": {}}]) == []


def test_ejected_servers_are_remarked_on() -> None:
    rows = [
        {"service": "app", "server": "192.0.2.2:80", "ejected": 2},
        {"service": "app", "server": "192.0.2.3:80", "ejected": 0},
    ]
    node = {"why": "", "listed": True, "facts": {"workers": 4, "upstreams": rows}}
    assert show.remarks(node) == ["192.0.2.2:80 ejected from app by 2 of 4 workers"]


def test_zones_of_groups_are_shown() -> None:
    zone = {"group": "app", "zone": "a", "racks": ["r1", "r2"], "members": 3, "percent": 66.7, "down": 1}
    lines = show.status({"version": 1, "nodes": [], "groups": [zone, {**zone, "zone": "", "racks": [], "down": 0}]})
    assert [line.split() for line in lines.splitlines()[-3:]] == [
        ["GROUP", "ZONE", "RACKS", "MEMBERS", "WEIGHT", "DOWN"],
        ["app", "a", "r1,", "r2", "3", "66.7", "%", "1"],
        ["app", "-", "-", "3", "66.7", "%", "-"],
    ]


def test_what_others_have_written_does_not_command_the_terminal() -> None:
    told = "GET /v1/\x1b[2J\x1b]0;owned\x07\u202egnp.exe\ud800"
    found = show.table([(told, 1)], ("WHAT", "NO"))
    assert found.isprintable() or set(found) - {"\n"} == {each for each in found if each.isprintable()}
    assert "GET /v1/�[2J�]0;owned��gnp.exe�" in found
    node = {"role": "l7", "name": "n", "step": "in step", "version": 1, "age_s": 1.0, "why": "", "listed": True}
    facts = {"problems": [f"bad {told}"]}
    text = show.status({"version": 1, "nodes": [{**node, "facts": facts}], "warnings": [told]})
    assert "\x1b" not in text
    assert "bad GET" in text
