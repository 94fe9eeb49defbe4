"""The pages about what the control plane keeps: two control nodes with an etcd of three, as the page on stores has it.

An L7 node follows both of them; members and certificates come to it by the pages' commands. Certificates are got from
a real ACME server of the machine.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from certs.authority import private_pem
from tests.docs.blocks import ROOT
from tests.docs.machine import Left, Machine, machine
from tests.docs.pages import Page, follow

pytestmark = [pytest.mark.root, pytest.mark.timeout(240)]

NETWORK = """
ip netns add servers
ip link add eth0 type veth peer name eth1 netns servers
ip -n servers link set eth1 up; ip link set eth0 up; ip -n servers addr add 10.0.0.31/24 dev eth1
for last in 5 6 7 8 9 11; do ip addr add 10.0.0.$last/24 dev eth0; done
mkdir -p /var/lib/paifang /run/paifang /run/acme /srv/a; install -d -m 700 /etc/paifang/keys
echo hello > /srv/a/index.html
echo 10.0.0.6 control >> /etc/hosts
openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -subj /CN=control -days 2 \
    -addext subjectAltName=DNS:control,DNS:localhost,IP:127.0.0.1 -keyout api.key -out api.pem 2>/dev/null
"""
IDENTITIES = """
paifang certs init ./ca
for last in 5 6; do
    paifang certs issue ./ca --role control --name control-$last --ip 10.0.0.$last --out ./id-$last
done
mv id-5 control-id
paifang certs issue ./ca --role l7 --name l7-1 --ip 10.0.0.11 --out ./l7-1
paifang certs init ./etcd
paifang certs issue ./etcd --role control --name m --ip 10.0.0.7 --ip 10.0.0.8 --ip 10.0.0.9 --out ./members
paifang certs issue ./etcd --role control --name c --out ./client
cp client/ca.pem etcd-ca.pem; cp client/cert.pem client.pem; cp client/key.pem client-key.pem
"""
MEMBER = """exec etcd --name m{0} --data-dir /run/m{0} --logger zap --log-level warn \\
    --listen-client-urls https://10.0.0.{0}:2379 --advertise-client-urls https://10.0.0.{0}:2379 \\
    --listen-peer-urls http://10.0.0.{0}:2380 --initial-advertise-peer-urls http://10.0.0.{0}:2380 \\
    --initial-cluster m7=http://10.0.0.7:2380,m8=http://10.0.0.8:2380,m9=http://10.0.0.9:2380 \\
    --client-cert-auth --trusted-ca-file etcd-ca.pem --cert-file members/cert.pem --key-file members/key.pem"""
NODE = """
[[nodes]]
name = "l7-1"
role = "l7"
address = "10.0.0.11"
"""
GROUP = """
[[availability_groups]]
name = "app"
registered = true

[[backend_services]]
name = "app"
protocol = "http"
availability_group = "app"

[[listeners]]
name = "app"
protocol = "http"
port = 8081
backend_service = "app"
"""
ACME = {
    "listenAddress": "127.0.0.1:14000", "managementListenAddress": "127.0.0.1:15000", "certificate": "api.pem",
    "privateKey": "api.key", "httpPort": 80, "tlsPort": 443, "ocspResponderURL": "",
    "externalAccountBindingRequired": False, "certificateValidityPeriod": 0,
}  # fmt: skip


@pytest.fixture(scope="module")
def mine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    """`running` is the first control node."""
    with machine(tmp_path_factory.mktemp("kept")) as made:
        made.run(NETWORK)
        made.run(IDENTITIES)
        for last in (7, 8, 9):
            made.leave_running(MEMBER.format(last), "")
        health = "curl -s --cacert etcd-ca.pem --cert client.pem --key client-key.pem https://10.0.0.7:2379/health"
        made.eventually(health, '"true"')
        made.running = control(made)
        made.run("export PAIFANG_API=http://127.0.0.1:8470 PAIFANG_TOKEN=$(cat /var/lib/paifang/control/token)")
        made.write("site.toml", NODE)
        made.run("paifang apply site.toml")
        second(made)
        node(made)
        yield made


def control(made: Machine) -> Left:
    """The first control node, as the page on stores starts it."""
    (start,) = Page("stores.md").block("--etcd-cert").steps
    return made.leave_running(start.command, r"user API on .*\n.*node API on")


def second(made: Machine) -> None:
    """The same on the second machine. Its API is the one that the page on servers asks."""
    (start,) = Page("stores.md").block("--etcd-cert").steps
    command = start.command.replace("10.0.0.5", "10.0.0.6").replace("/control ", "/control-6 ")
    command = command.replace("control-id", "id-6")
    made.leave_running(command + " --api 10.0.0.6:8470 --api-tls-cert api.pem --api-tls-key api.key", "node API on")


def node(made: Machine) -> None:
    """The L7 node, as the page on stores starts it; keys are on its machine."""
    made.leave_running("paifang keyserver --keys /etc/paifang/keys --socket /run/paifang/keys.sock", "ready")
    l7, _ = Page("stores.md").block("paifang l7 --control").steps
    rest = (
        "--name l7-1 --identity ./l7-1 --state /var/lib/paifang/l7 --workers 1 --keyserver unix:/run/paifang/keys.sock"
    )
    made.leave_running(l7.command.replace("…", rest), r"configuration \d+ runs")


def test_the_control_plane_with_etcd(mine: Machine) -> None:
    """What one control node takes the other has; a node goes from one to the other."""
    with follow("stores.md") as page:
        page.take("--etcd-cert")  # the fixture ran it,
        page.take("paifang l7 --control")  # and this; the L4 nodes' line is test_lab_page's
        there = "PAIFANG_API=https://control:8470 PAIFANG_CA=api.pem paifang"
        assert "l7-1" in mine.run(f"{there} status").out
        mine.stop(mine.running)
        mine.write("site.toml", NODE + GROUP)
        mine.eventually(f"{there} apply site.toml", "version 2")
        mine.eventually("curl -s http://10.0.0.11:8081/", "no_healthy_server")
        mine.running = control(mine)


def test_a_member_registers_itself(mine: Machine) -> None:
    with follow("upstreams.md") as page:
        mine.write("site.toml", NODE + GROUP)
        mine.run("paifang apply site.toml")
        mine.leave_running("ip netns exec servers python3 -m http.server 80 --bind 10.0.0.31 --directory /srv/a", "")
        (put,) = page.steps("/members/")
        mine.run("TOKEN=$PAIFANG_TOKEN; export CURL_CA_BUNDLE=$PWD/api.pem")
        assert '"member": "10.0.0.31:80"' in mine.run(put.command).out
        mine.eventually("curl -s http://10.0.0.11:8081/", "hello")


def some_chain() -> tuple[str, str]:
    """A chain of `Some CA` that ends in nine days, and its key."""
    now = datetime.now(UTC)
    root, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    issuer = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "Some CA")])
    names = x509.SubjectAlternativeName([x509.DNSName("shop.test"), x509.DNSName("*.shop.test")])
    leaf = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "shop.test")]))
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=80))
        .not_valid_after(now + timedelta(days=9, hours=12))
        .add_extension(names, critical=False)
        .add_extension(x509.ExtendedKeyUsage([x509.ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .sign(root, hashes.SHA256())
    )
    return leaf.public_bytes(Encoding.PEM).decode(), private_pem(key).decode()


def test_certificates(mine: Machine) -> None:
    with follow("certificates.md") as page:
        chain, key = some_chain()
        mine.write("/etc/paifang/shop.pem", chain)
        mine.write("/etc/paifang/keys/shop.key", key, mode="600")
        mine.write(
            "site.toml",
            NODE + '[[certificates]]\nname = "shop"\nchain_file = "/etc/paifang/shop.pem"\n'
            '[[listeners]]\nname = "web"\nprotocol = "https"\nport = 443\ncertificates = ["shop"]\n'
            'servers = ["192.0.2.10:8080"]\n',
        )
        mine.run("paifang apply site.toml")
        (listed,) = page.steps("$ paifang certs list")
        mine.eventually("paifang certs list", "expires in 9 days, on ")
        mine.follow(listed)

        install, issuer = page.steps("paifang keyserver acme")
        assert install.command == "pip install 'paifang[acme]'"
        assert re.search(r"^acme = \[", (ROOT / "pyproject.toml").read_text(), re.M)
        http01 = next(block.text for block in page.blocks if "/.well-known/acme-challenge" in block.text)
        mine.write("site.toml", NODE + http01)
        mine.run("paifang apply site.toml && cp /var/lib/paifang/control/token /run/acme/token")
        mine.eventually("curl -s -o /dev/null -w '%{http_code}' http://10.0.0.11/", "50")
        mine.write("pebble.json", json.dumps({"pebble": ACME}))
        off = "-http01 '' -https01 '' -tlsalpn01 '' -defaultIPv6 ''"
        mine.leave_running(f"pebble-challtestsrv -dns01 127.0.0.1:8053 -defaultIPv4 10.0.0.11 {off}", "DNS")
        mine.leave_running(
            "PEBBLE_VA_NOSLEEP=1 PEBBLE_WFE_NONCEREJECT=0 pebble -config pebble.json -dnsserver 127.0.0.1:8053",
            "[Ll]istening on",
        )
        mine.leave_running(f"{issuer.command} --directory https://127.0.0.1:14000/dir --directory-ca api.pem", "")
        mine.eventually("paifang certs list", r"shop +shop\.example, .* CN=Pebble ")
