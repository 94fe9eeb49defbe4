"""The pages about the control plane, nodes and keys, followed on one machine that has a small cluster.

It has the addresses that the pages use. The control plane runs as the pages start it.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest

from tests.docs.blocks import ROOT, Step
from tests.docs.machine import Left, Machine, machine
from tests.docs.pages import Page, follow
from tests.docs.shown import agree
from tests.waiting import eventually

pytestmark = [pytest.mark.root, pytest.mark.timeout(180)]

NETWORK = """
ip netns add router
ip link add eth0 type veth peer name eth1 netns router
ip -n router addr add 10.0.0.1/24 dev eth1; ip -n router link set eth1 up
ip link set eth0 up
for last in 5 6 7 8 9 11 21; do ip addr add 10.0.0.$last/24 dev eth0; done
ip route add default via 10.0.0.1
mkdir -p /var/lib/paifang /var/log/paifang /run/paifang /etc/paifang/keys /srv/a
echo hello > /srv/a/index.html
"""
SITE = """
[[nodes]]
name = "l7-1"
role = "l7"
address = "10.0.0.11"

[[nodes]]
name = "l7-2"
role = "l7"
address = "10.0.0.12"

[[server_groups]]
name = "shop"
servers = [{ address = "10.0.0.9", port = 80 }]

[[backend_services]]
name = "shop"
protocol = "http"
server_group = "shop"

[[instances]]
name = "shop"
vips = ["10.0.0.8"]

[[listeners]]
name = "web"
instance = "shop"
protocol = "http"
port = 80
backend_service = "shop"

[[rules]]
name = "old"
listener = "web"
path = "/old"
redirect = { path = "/" }
"""


@pytest.fixture(scope="module")
def mine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    """A control plane with the cluster's CA, at version 1; the L7 node l7-1; an application at 10.0.0.9:80."""
    with machine(tmp_path_factory.mktemp("cluster")) as made:
        made.run(NETWORK)
        made.leave_running("python3 -m http.server 80 --bind 10.0.0.9 --directory /srv/a", "")
        made.running = control(made)
        made.run("export PAIFANG_API=http://127.0.0.1:8470 PAIFANG_TOKEN=$(cat /var/lib/paifang/control/token)")
        made.write("site.toml", SITE)
        made.run(
            "paifang apply site.toml && paifang certs issue ./ca --role l7 --name l7-1 --ip 10.0.0.11 --out ./l7-1"
        )
        made.leave_running(
            "paifang l7 --name l7-1 --control https://10.0.0.5:8471 --identity ./l7-1 --state /var/lib/paifang/l7"
            " --workers 1 --ready 10.0.0.11:8472",
            "configuration 1 runs",
        )
        yield made


def control(made: Machine) -> Left:
    """The control plane, as the page on nodes starts it."""
    *before, start = Page("nodes.md").steps("--ca ./ca")
    for step in before:
        made.run(step.command)
    return made.leave_running(start.command, r"user API on .*\n.*node API on")


def versions_until(made: Machine, number: int) -> None:
    """Makes versions, until the current one has this number."""
    made.run(
        f"""while n=$(curl -s $PAIFANG_API/v1/healthz | jq .version); [ $n -lt {number} ]; do
            d="\\"$n\\""; [ $n = {number - 1} ] && d=null
            curl -sf -H "Authorization: Bearer $PAIFANG_TOKEN" -X PATCH $PAIFANG_API/v1/instances/shop \\
                -d "{{\\"description\\": $d}}" >/dev/null
        done"""
    )


def test_control_plane(mine: Machine) -> None:
    with follow("control-plane.md") as page:
        # The page's own start, without the CA, in the place of the control plane that runs.
        mine.stop(mine.running)
        init, issue, start = page.steps("--ip 10.0.0.5")
        mine.run(init.command)
        mine.run(issue.command.replace("./control-id", "./control-id-2"))
        again = mine.leave_running(start.command.replace("./control-id", "./control-id-2"), "node API on")
        versions_until(mine, 7)
        mine.run("cp site.toml before.toml; sed -i 's/port = 80$/port = 8080/; /rules/,$d' site.toml")
        (dry,) = page.steps("--dry-run\n~ update")
        mine.follow(dry)
        export, rest = page.steps("paifang status --watch")
        mine.run(export.command)
        *once, watch = rest.command.split("; ")
        for command in once:
            mine.run(command)
        mine.stop(mine.leave_running(watch, "version 7"), "INT")
        mine.run("cp before.toml site.toml")
        mine.stop(again)
        mine.running = control(mine)


def test_access(mine: Machine) -> None:
    with follow("access.md") as page:
        mine.run("useradd paifang-control; install -d -o paifang-control /var/lib/paifang-control")
        (reset,) = page.steps("--reset-admin-token")
        mine.run(reset.command)
        mine.run("test -s /var/lib/paifang-control/token")

        create, listed, rotate = page.steps("paifang token create ci")
        mine.follow(create)
        mine.follow(listed)
        mine.run(rotate.command)

        mine.run("""curl -sf -H "Authorization: Bearer $PAIFANG_TOKEN" -X PATCH -d '{"max_connections": 9}' """
                 """"$PAIFANG_API/v1/listeners/web?comment=more+room" """)  # fmt: skip
        table, line = page.steps("paifang audit --object listeners/web --since 7d")
        mine.follow(Step(table.command + " --limit 1", table.shown), loose=("41", "7"))
        mine.follow(line, loose=("6", "7", "41"))
        verify, noted = page.steps("paifang audit verify")
        done = mine.follow(verify, loose=("41",))
        mine.run(noted.command.replace("41:e1b4…", done.out.split()[-1]))

        own, other = page.steps("--api-tls-cert lb.pem")
        mine.run("cp control-id/cert.pem lb.pem; cp control-id/key.pem lb.key; cp control-id/ca.pem ca.pem")
        for step in (own, other):
            running = mine.leave_running(step.command, "user API on 10.0.0.5:8470, TLS")
            export, status = page.steps("PAIFANG_CA=ca.pem")
            mine.run("( " + export.command.replace("pft_…", "$(cat state/token)") + "; " + status.command + " )")
            mine.stop(running)


def test_api(mine: Machine) -> None:
    with follow("api.md") as page:
        versions_until(mine, 7)
        for step in page.steps("AUTH="):
            mine.run(step.command)
        put, status = page.steps('"vips": ["192.0.2.10"]')
        mine.follow(put, loose=("8",))
        mine.eventually("paifang status", "in step")
        mine.follow(status)
        (bad,) = page.steps('"port": 70000')
        mine.follow(bad)
        mine.run("""curl -sf -H "$AUTH" -X PUT $API/v1/server_groups/green -d '{"servers": []}'""")
        (many,) = page.steps("/v1/changes?dry_run=1")
        tag = mine.run('curl -sD- -o /dev/null -H "$AUTH" $API/v1/backend_services/shop').out
        (found,) = re.findall(r'ETag: "(o[0-9a-f]+)"', tag)
        assert '"dry_run": true' in mine.run(many.command.replace("o5d41…", found)).out
        (watch,) = page.steps("/v1/watch")
        seen = mine.leave_running(watch.command, "event: node")
        assert "event: reset" in seen.text


def test_nodes(mine: Machine) -> None:
    with follow("nodes.md") as page:
        page.take("--ca ./ca")  # the fixture ran it
        (invite,) = page.steps("paifang node invite")
        done = mine.follow(invite)
        mine.run(done.out)
        mine.run("test -s /etc/paifang/l7-3/key.pem")
        (revoke,) = page.steps("paifang node revoke")
        mine.run(revoke.command)
        drain, undrain = page.steps("paifang drain l7-1")
        mine.run(drain.command)
        mine.run(undrain.command)


def user(made: Machine) -> None:
    """The variables that the pages have from the one on the API."""
    made.run('API=$PAIFANG_API; AUTH="Authorization: Bearer $PAIFANG_TOKEN"')


def keys(text: str) -> set[str]:
    """Those of a JSON document, of one that a page has shortened too."""
    return set(re.findall(r'"(\w+)":', text))


def test_observing(mine: Machine) -> None:
    with follow("observing.md") as page:
        user(mine)
        for begin in ("/v1/topology", "/v1/series?of"):
            (step,) = page.steps(begin)
            eventually(lambda step=step: keys(mine.run(step.command).out) >= keys(step.shown))  # type: ignore[misc]
            assert keys(step.shown) > {"connections_per_s"}
        table, after = page.steps("$ paifang events")
        form = r"(?m)^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d  \w+ +(node|server) +\S"
        assert len(re.findall(form, table.shown)) == 2
        assert 1 <= len(re.findall(form, mine.eventually(table.command, form))) <= 2
        printed = mine.run(after.command.replace("after=41", "after=0")).out
        assert keys(printed) >= {"events", "id", "at", "kind", "severity", "object", "text", "fields", "next"}
        assert keys(after.shown) <= keys(printed) | {"before", "version", "why"}
        (talkers,) = page.steps("/v1/talkers?tier")
        found = json.loads(mine.run(talkers.command).out)
        assert (found["tier"], found["nodes"], found["talkers"]) == ("l4", 0, []), "this cluster has no L4 nodes"
        assert found.keys() == keys(talkers.shown) & found.keys()


# A TLS 1.3 handshake of the node l7-1, which a certificate of the key server's directory is for.
SIGN = """
import asyncio
from pathlib import Path
from certs.authority import key_id
from control.node.identity import Identity
from cryptography.x509 import load_pem_x509_certificate
from keyserver.client import KeyClient

async def sign():
    client = KeyClient(["10.0.0.5:8473"], identity=Identity.load(Path("l7-1")), deadline_s=20)
    await client.start()
    leaf = load_pem_x509_certificate(Path("../web.pem").read_bytes())
    content = b" " * 64 + b"TLS 1.3, server CertificateVerify" + bytes(33)
    await client.sign(key_id(leaf.public_key()), 0x0403, content, "example.test")
    await client.close()

asyncio.run(sign())
"""


def test_key_server(mine: Machine) -> None:
    with follow("key-server.md") as page:
        (issue,) = page.steps("paifang keyserver issue")
        mine.run(issue.command)
        mine.run("paifang keyserver check web.pem keys/web.key; cp keys/web.key /etc/paifang/keys/")
        mine.run("mkdir -p ks && cd ks && cp ../web.pem fullchain.pem")
        mine.run("(umask 077; openssl ecparam -name prime256v1 -genkey -noout -out privkey.pem)")
        (check,) = page.steps("paifang keyserver check fullchain.pem")
        mine.follow(check, code=1)

        (socket,) = page.steps("--allow-uid 33")
        near = mine.leave_running(socket.command, "ready")
        init, own, remote = page.steps("paifang certs init")
        for command in (init.command, own.command, "paifang certs issue ./ca --role l7 --name l7-1 --out ./l7-1"):
            mine.run(command)
        far = mine.leave_running(remote.command, "ready")
        mine.write("sign.py", SIGN)
        mine.run(f"PYTHONPATH={ROOT} {sys.executable} sign.py")
        line = mine.run("tail -n 1 /var/log/paifang/keys.jsonl").out
        assert agree(page.take('"shape":"tls13-server"').text, line)

        (ping,) = page.steps("paifang keyserver ping")
        assert "refused client" in mine.run(ping.command, code=1).err, "root is not uid 33"
        mine.run("install -d -o 33 /run/www && cp -r l7-1 /run/www/ && chown -R 33 /run/www/l7-1 && cd /run/www")
        mine.follow(Step(f"setpriv --reuid 33 --regid 33 --clear-groups {ping.command}", ping.shown))
        mine.run("cd /run/home")
        mine.stop(near)
        mine.stop(far)

        mine.run("mkdir -p /root")
        for step in page.steps("openssl rand -base64 33"):
            mine.run(step.command)
        mine.run("grep -q 'BEGIN ENCRYPTED PRIVATE KEY' /etc/paifang/keys/web.key")
        mine.run(page.take("ticket-secret").text)
        mine.run("test $(stat -c %a /etc/paifang/ticket-secret) = 600")


def test_operations(mine: Machine) -> None:
    """What is backed up while it runs comes back on a control plane that has nothing else."""
    state = "/var/lib/paifang/control"
    with follow("operations.md") as page:
        for begin in ("paifang drain l7-1", "paifang weigh"):
            for step in page.steps(begin):
                mine.run(step.command)
        mine.run("paifang token revoke ops; paifang token create ops --role operate --out old.token")
        (rotate,) = page.steps("paifang token rotate")
        mine.run(rotate.command.replace(" ci ", " ops "))
        for secret in ("old.token", "ci.token"):
            mine.run(f"PAIFANG_TOKEN=$(cat {secret}) paifang token show")

        mine.run("install -d /var/lib/paifang-l4; paifang l4 --make-cluster-key /var/lib/paifang-l4/cluster.key")
        make, append = page.steps("--make-cluster-key")
        mine.run(make.command)
        mine.run(append.command)
        read = "import sys; from l4fast.sync_keys import parse_secrets as parse; s = parse(sys.stdin.read())"
        told = mine.run(
            f'python -c "{read}; print(len(s.keys), s.seed is not None)" </var/lib/paifang-l4/cluster.key'
        ).out
        assert told == "2 True\n"

        mine.run(f"rm -rf /var/lib/paifang-control; ln -s {state} /var/lib/paifang-control")
        mine.stop(mine.running)
        mine.running = with_access_keys(mine, state)
        known = {command: mine.run(command).out for command in KNOWN}
        before = mine.run("paifang audit verify").out.split()[-1]
        *copies, check, keyfile, authority, export = page.steps("pragma integrity_check")
        for step in copies:
            mine.run(step.command)
        assert mine.run(check.command).out == "ok\n"
        for step in (keyfile, authority, export):
            mine.run(step.command)
        mine.run("curl -sf -H \"Authorization: Bearer $PAIFANG_TOKEN\" -X PATCH $PAIFANG_API/v1/instances/shop"
                 """ -d '{"description": "made after the backup"}' >/dev/null""")  # fmt: skip
        mine.eventually("paifang status", "in step")
        after = mine.run("paifang audit verify").out.split()[-1]

        mine.stop(mine.running)
        mine.run(f"rm /var/lib/paifang-control; mv {state} {state}.lost; mv ca ca.lost; mkdir {state}")
        mine.run(f"ln -s {state} /var/lib/paifang-control")
        for step in page.steps("install -m 0600 /var/backups"):
            mine.run(step.command)
        mine.running = with_access_keys(mine, state)
        assert {command: mine.run(command).out for command in KNOWN} == known
        assert "made after the backup" not in known["paifang export"]
        mine.run(f"paifang audit verify --noted {before}")
        mine.run(f"paifang audit verify --noted {after}", code=1)
        mine.eventually("paifang status", "in step")  # the node takes the older version, by the CA that came back
        (invite,) = Page("nodes.md").steps("paifang node invite")
        mine.run(mine.run(invite.command.replace("l7-3", "l7-4")).out)
        mine.run("test -s /etc/paifang/l7-4/key.pem; diff -r ca ca.lost")
        mine.run("paifang apply /var/backups/paifang/site.toml; rm /var/lib/paifang-control")


KNOWN = (
    "paifang export",
    "curl -s $PAIFANG_API/v1/healthz | jq .version",
    "paifang history --json",
    "paifang token access-key",
    "PAIFANG_TOKEN=$(cat old.token) paifang token show --json | jq .id",
    "sqlite3 /var/lib/paifang-control/control.db 'select hex(value) from records where key = \"cookies\"'",
)


def with_access_keys(made: Machine, state: str) -> Left:
    """The control plane with an API that has access keys."""
    return made.leave_running(
        f"paifang control --state {state} --nodes 10.0.0.5:8471 --identity ./control-id --ca ./ca"
        " --alibaba 127.0.0.1:8480",
        "node API on",
    )


def test_asking_an_l7_node_and_what_it_counted(mine: Machine) -> None:
    """Last: it ends the node, which delivers on its way out."""
    mine.eventually("curl -s http://10.0.0.8/", "hello")
    with follow("proxy.md") as page:
        status, connections, drain = page.steps("paifang l7 ask")
        for step in (status, connections, drain):
            mine.run(step.command.replace("DIR", "/var/lib/paifang/l7"))
    with follow("metering.md") as page:
        mine.eventually("paifang metering", "shop +web")
        month, hours, bytes_out = (
            Step(this_month(step.command), this_month(step.shown)) for step in page.steps("$ paifang metering")
        )
        mine.follow(month, loose=("2210", "311"))
        mine.run(hours.command)
        assert re.search(r"^\S+,shop,web,", mine.run("cat shop.csv").out, re.M)
        mine.run('AUTH="Authorization: Bearer $PAIFANG_TOKEN"; API=$PAIFANG_API')
        assert int(mine.run(bytes_out.command).out) > 0


def this_month(text: str) -> str:
    """The page's November as the month in which the test runs, and its day's hours as those up to the next one."""
    now = datetime.now(UTC)
    after = (now.replace(day=1) + timedelta(days=31)).strftime("%Y-%m")
    begun, ends = ((now + timedelta(hours=hours)).strftime("%Y-%m-%dT%H:00Z") for hours in (-1, 1))
    text = text.replace("2026-11-20T08:00Z", begun).replace("2026-11-20T18:00Z", ends)
    return text.replace("2026-12-01", f"{after}-01").replace("2026-11-01", now.strftime("%Y-%m-01"))
