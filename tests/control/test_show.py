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
