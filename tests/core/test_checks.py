"""Each rule across objects, by the smallest change to a sound configuration that breaks it, and what is then said."""

from __future__ import annotations

import pytest

from core.config import from_dict, load
from core.errors import ConfigErrors

SOUND = """
nodes = [{ name = "l4-1", role = "l4", address = "10.0.0.11" }, { name = "l7-1", role = "l7", address = "10.0.0.21" }]
certificates = [
  { name = "site", domains = ["example.com"] }, { name = "own", chain_file = "c.pem", key_file = "k.pem" },
]
ca_certificates = [{ name = "partners", bundle_file = "ca.pem" }]
server_groups = [
  { name = "s", servers = [{ address = "unix:/run/app.sock" }] },
  { name = "be", servers = [{ address = "10.0.0.31", port = 80 }, { address = "10.0.0.32", port = 80 }] },
]
availability_groups = [
  { name = "spread", members = [
    { address = "10.0.0.31", port = 80, zone = "a" }, { address = "10.0.0.32", port = 80, zone = "b" },
  ] },
]
access_lists = [{ name = "known", entries = ["198.51.100.0/24"] }]
backend_services = [
  { name = "web", protocol = "http", server_group = "be" },
  { name = "api", protocol = "http", server_group = "be" },
  { name = "stream", protocol = "tcp", availability_group = "spread" },
  { name = "dns", protocol = "udp", server_group = "be", scheduler = "maglev" },
]
instances = [
  { name = "site", vips = ["192.0.2.1"] },
  { name = "fast", type = "nlb", vips = ["192.0.2.2"] },
  { name = "local" },
]
listeners = [
  { name = "http", instance = "site", protocol = "http", port = 80, backend_service = "web" },
  { name = "https", instance = "site", protocol = "https", port = 443, certificates = ["site", "own"] },
  { name = "tcp", instance = "fast", protocol = "tcp", port = 80, backend_service = "stream", mode = "dr" },
  { name = "udp", instance = "fast", protocol = "udp", port = 80, backend_service = "dns", udp_idle_timeout_s = 30 },
  { name = "dev", instance = "local", protocol = "http", port = 8000, backend_service = "web" },
]
rules = [
  { name = "all", listener = "https", backend_service = "web" },
  { name = "img", listener = "https", backend_service = "web", domain = "*.example.com", url = "/img" },
]
"""


def errors(text: str) -> list[str]:
    try:
        load(text, path="f", format="toml")
    except ConfigErrors as error:
        return [str(each).partition(": ")[2] for each in error.errors]
    return []


def test_the_example_is_sound() -> None:
    assert errors(SOUND) == []


CASES = [
    # Answers
    (
        'name = "udp", ',
        'name = "udp", maintenance = {}, ',
        "listeners.udp.maintenance: maintenance is for http and https listeners, and this one is udp; remove it",
    ),
    (
        'name = "http", ',
        'name = "http", maintenance = { body = "a", body_file = "a" }, ',
        "listeners.http.maintenance.body_file: body and body_file exclude each other; give one of them",
    ),
    (
        'name = "all", ',
        'name = "all", maintenance = { body = "${hosts}" }, ',
        "rules.all.maintenance.body: ${hosts} stands for nothing; did you mean host?",
    ),
    (
        'name = "all", ',
        'name = "all", maintenance = { headers = [{ name = "Cookie" }] }, ',
        "rules.all.maintenance.headers[0].name: Cookie has an attribute of its own; give cookies instead",
    ),
    (
        'name = "http", ',
        'name = "http", error_pages = [{ status = "502" }], ',
        "listeners.http.error_pages[0]: a page without anything on it; give body or body_file",
    ),
    (
        'name = "http", ',
        'name = "http", error_pages = [{ status = "502", body = "x", body_file = "x" }], ',
        "listeners.http.error_pages[0].body_file: body and body_file exclude each other; give one of them",
    ),
    (
        'name = "http", ',
        'name = "http", error_pages = [{ status = "5xx", body = "${status} ${x-y}" }], ',
        "listeners.http.error_pages[0].body: ${x-y} stands for nothing; known are ${status}, ${reason}, ${error}, "
        "${host} and ${request_id}",
    ),
    (
        'name = "all", ',
        'name = "all", error_pages = [{ status = "4xx", body = "a" }, '
        '{ status = "4xx", content_type = "Text/HTML", body = "b" }], ',
        "rules.all.error_pages[1]: a page of text/html for 4xx is in the list already; remove one",
    ),
    (
        'name = "http", ',
        'name = "http", error_pages = [{ status = "302", body = "a" }], ',
        "listeners.http.error_pages[0].status: '302' does not fit; give a status of 400 to 599, or 4xx or 5xx",
    ),
    (
        'name = "all", listener = "https", backend_service = "web"',
        'name = "all", listener = "https", error_pages = [{ status = "4xx", body = "a" }], fixed_reply = {}',
        "rules.all.error_pages: error_pages is for what is forwarded, and fixed_reply is not; "
        "remove it, or give backend_service or split",
    ),
    (
        'name = "tcp", ',
        'name = "tcp", compression = {}, ',
        "listeners.tcp.compression: compression is for http and https listeners, and this one is tcp; remove it",
    ),
    (
        'name = "http", ',
        'name = "http", compression = { codings = [] }, ',
        "listeners.http.compression.codings: no coding, so that nothing is compressed; remove compression",
    ),
    (
        'name = "all", ',
        'name = "all", compression = { codings = [] }, ',
        "rules.all.compression.codings: no coding, which turns compression off, and it is not on at https; "
        "remove compression",
    ),
    (
        'name = "all", ',
        'name = "all", compression = { codings = ["gzip", "br", "gzip"] }, ',
        "rules.all.compression.codings[2]: gzip is in the list already; remove one",
    ),
    (
        'name = "http", ',
        'name = "http", compression = { types = [] }, ',
        "listeners.http.compression.types: types is empty, so that nothing is compressed; give some, or remove it",
    ),
    (
        'name = "http", ',
        'name = "http", compression = { types = ["Text/html"] }, ',
        "listeners.http.compression.types[0]: 'Text/html' does not fit; give a media type in small letters, such as "
        "text/html, text/* or application/*+json",
    ),
    (
        'name = "all", listener = "https", backend_service = "web"',
        'name = "all", listener = "https", compression = {}, fixed_reply = {}',
        "rules.all.compression: compression is for what is forwarded, and fixed_reply is not; "
        "remove it, or give backend_service or split",
    ),
    # TLS
    (
        'name = "http", ',
        'name = "http", tls_policy = "tls_1_3", ',
        "listeners.http.tls_policy: tls_policy is for https listeners, and this one is http; remove it",
    ),
    (
        'name = "http", ',
        'name = "http", ca_certificate = "partners", ',
        "listeners.http.ca_certificate: ca_certificate is for https listeners, and this one is http; remove it",
    ),
    (
        'name = "https", ',
        'name = "https", ca_certificate = "partner", ',
        "listeners.https.ca_certificate: none of the ca certificates is named 'partner'; did you mean partners?",
    ),
    (
        'name = "https", ',
        'name = "https", client_certificate = "optional", ',
        "listeners.https.client_certificate: no authorities to verify a client's certificate by; "
        "give ca_certificate too, or remove it",
    ),
    (
        'name = "https", ',
        'name = "https", client_certificate_fields = "ssl_client", ',
        "listeners.https.client_certificate_fields: no authorities to verify a client's certificate by; "
        "give ca_certificate too, or remove it",
    ),
    (
        'bundle_file = "ca.pem"',
        'bundle_file = "ca.pem", bundle = "x"',
        "ca_certificates.partners.bundle: bundle and bundle_file exclude each other; give one of them",
    ),
    (
        'bundle_file = "ca.pem"',
        'bundle_file = "ca.pem", crl_file = "crl.pem", crl = "x"',
        "ca_certificates.partners.crl: crl and crl_file exclude each other; give one of them",
    ),
    (
        'bundle_file = "ca.pem"',
        'crl_file = "crl.pem"',
        "ca_certificates.partners: no authorities; give bundle_file, or the PEM text as bundle",
    ),
    (
        'name = "http", ',
        'name = "http", hsts_max_age_s = 600, ',
        "listeners.http.hsts_max_age_s: hsts_max_age_s is for https listeners, and this one is http; remove it",
    ),
    (
        'name = "https", ',
        'name = "https", hsts_include_subdomains = true, ',
        "listeners.https.hsts_include_subdomains: no time for which it would hold; "
        "give hsts_max_age_s too, or remove it",
    ),
    *(
        (
            'name = "https", ',
            f'name = "https", hsts_preload = true, {others}, ',
            "listeners.https.hsts_preload: browsers' lists take domains with all of their subdomains, and for a year "
            "at least; give hsts_include_subdomains = true and hsts_max_age_s of at least 31536000, or remove it",
        )
        for others in (
            "hsts_max_age_s = 31_536_000",
            "hsts_max_age_s = 31_535_999, hsts_include_subdomains = true",
        )
    ),
    (
        'name = "https", ',
        'name = "https", hsts_max_age_s = 63_072_001, ',
        "listeners.https.hsts_max_age_s: 63072001 is out of range; give a whole number from 0 to 63072000 s",
    ),
    (
        'name = "http", ',
        'name = "http", https_redirect_port = 443, ',
        "listeners.http.https_redirect_port: what no rule matches is redirected, so that nothing would reach its "
        "backend_service; remove it, or the backend_service",
    ),
    (
        'port = 80, backend_service = "web" },',
        "port = 80, https_redirect_port = 444 },",
        "listeners.http.https_redirect_port: no https listener of instance site has port 444; give 443",
    ),
    (
        'port = 8000, backend_service = "web" },',
        "port = 8000, https_redirect_port = 443 },",
        "listeners.dev.https_redirect_port: no https listener of instance local has port 443; add the https listener",
    ),
    (
        'certificates = ["site", "own"] },',
        'certificates = ["site", "own"], https_redirect_port = 443 },',
        "listeners.https.https_redirect_port: https_redirect_port is for http listeners, and this one is https; "
        "remove it",
    ),
    # nodes
    (
        'name = "l4-1", role = "l4", address = "10.0.0.11"',
        'name = "l4-1", role = "l7", address = "10.0.0.21"',
        "nodes.l7-1.address: 10.0.0.21 is the address of the l7 node l4-1 too; remove one",
    ),
    (
        'name = "l7-1", role = "l7"',
        'name = "l7-1", source_pool = ["10.0.9.1"], role = "l7"',
        "nodes.l7-1.source_pool: source_pool is for l4 nodes, and this one is l7; remove it",
    ),
    (
        'name = "l4-1", role = "l4"',
        f'name = "l4-1", source_pool = {[f"10.0.9.{n}" for n in range(17)]}, role = "l4"',
        "nodes.l4-1.source_pool: 17 IPv4 addresses; at most 16 are supported; "
        "add nodes if so many connections are needed",
    ),
    *(
        (
            'name = "l4-1", role = "l4"',
            f'name = "l4-1", source_pool = ["10.0.9.1", "{address}"], role = "l4"',
            f"nodes.l4-1.source_pool[1]: {address} is {what}; give an address that nothing else has",
        )
        for address, what in (
            ("10.0.9.1", "in the source_pool of l4-1 already"),
            ("192.0.2.2", "a VIP of fast"),
            ("10.0.0.21", "the address of node l7-1"),
            ("10.0.0.31", "a server in spread"),
        )
    ),
    (
        'backend_service = "stream", mode = "dr"',
        'backend_service = "stream", mode = "fullnat"',
        "listeners.tcp.mode: mode fullnat takes its IPv4 source addresses from each node's pool, and l4-1 has "
        "none; give the node source_pool",
    ),
    (
        'name = "l4-1", role = "l4"',
        'name = "l4-1", address_v6 = "2001:db8::11", role = "l4"',
        "nodes.l4-1.address_v6: address_v6 is for l7 nodes, and this one is l4; remove it",
    ),
    (
        'role = "l7", address = "10.0.0.21"',
        'role = "l7", address = "2001:db8::21", address_v6 = "2001:db8::22"',
        "nodes.l7-1.address_v6: address is of IPv6 already, 2001:db8::21; give the IPv4 address there, or remove one",
    ),
    (
        'role = "l7", address = "10.0.0.21" }',
        'role = "l7", address = "10.0.0.21", address_v6 = "2001:db8::21" }, '
        '{ name = "l7-2", role = "l7", address = "2001:db8::21" }',
        "nodes.l7-2.address: 2001:db8::21 is the address of the l7 node l7-1 too; remove one",
    ),
    # certificates
    (
        'domains = ["example.com"]',
        "domains = []",
        "certificates.site: neither a chain nor domains; give chain_file, or domains for a development certificate",
    ),
    (
        'chain_file = "c.pem", key_file',
        'domains = ["a.b"], key_file',
        "certificates.own.key_file: a key without its chain; give chain_file too, or domains alone",
    ),
    (
        'chain_file = "c.pem"',
        'chain_file = "c.pem", chain = "PEM"',
        "certificates.own.chain: chain and chain_file exclude each other; give one of them",
    ),
    (
        'chain_file = "c.pem"',
        'chain_file = "c.pem", domains = ["a.b"]',
        "certificates.own.domains: domains are for a development certificate; the names of chain_file are in its "
        "leaf; remove domains, or chain_file and key_file",
    ),
    # groups
    (
        '{ name = "be", servers = [{ address = "10.0.0.31", port = 80 }',
        '{ name = "be", servers = [{ address = "10.0.0.32", port = 80, weight = 1 }',
        "server_groups.be.servers[1]: 10.0.0.32:80 is in the list already, at position 0; "
        "remove one, and raise the other's weight if it should get more",
    ),
    (
        'port = 80, zone = "b"',
        'port = 80, zone = "a"',
        "availability_groups.spread.members: all members are in zone 'a'; losing it loses all; "
        "spread them over two zones, or use a server group",
    ),
    # backend services
    (
        '"web", protocol = "http", server_group = "be"',
        '"web", protocol = "http"',
        "backend_services.web: no servers; give server_group or availability_group",
    ),
    (
        '"web", protocol = "http", server_group = "be"',
        '"web", protocol = "http", server_group = "be", availability_group = "spread"',
        "backend_services.web.availability_group: server_group and availability_group exclude each other; "
        "give one of them",
    ),
    (
        '"web", protocol = "http"',
        '"web", protocol = "http", scheduler = "maglev"',
        "backend_services.web.scheduler: the L7 tier, which schedules http services, has no maglev; "
        "give ch, lc, p2c, rr, sh, wlc or wrr",
    ),
    (
        '"web", protocol = "http"',
        '"web", protocol = "http", health_check = { type = "udp" }',
        "backend_services.web.health_check.type: a check by udp says nothing about a service of protocol http; "
        "give tcp or http",
    ),
    (
        '"web", protocol = "http"',
        '"web", protocol = "http", health_check = { uri = "/up" }',
        "backend_services.web.health_check.uri: uri is for http checks, and this is a tcp check; "
        'remove it, or give type = "http"',
    ),
    (
        'scheduler = "maglev"',
        'health_check = { codes = "200" }',
        "backend_services.dns.health_check.codes: codes is for http checks, and this is a udp check; "
        'remove it, or give type = "http"',
    ),
    (
        'scheduler = "maglev"',
        "connect_timeout_s = 1",
        "backend_services.dns.connect_timeout_s: connect_timeout_s is for http services, and this one is udp; "
        "remove it",
    ),
    # how the L7 tier treats servers
    (
        'scheduler = "maglev"',
        "ejection = { failures = 3 }",
        "backend_services.dns.ejection: ejection is for http services, and this one is udp; remove it",
    ),
    (
        'scheduler = "maglev"',
        'fallback = "web"',
        "backend_services.dns.fallback: fallback is for http services, and this one is udp; remove it",
    ),
    (
        '"web", protocol = "http"',
        '"web", protocol = "http", ejection = { first_s = 30, longest_s = 20 }',
        "backend_services.web.ejection: longest_s (20) is less than first_s (30); raise longest_s, or lower first_s",
    ),
    (
        '"web", protocol = "http"',
        '"web", protocol = "http", ejection = { failures = 0 }',
        "backend_services.web.ejection: neither failures nor errors count; give one of them, or ejection = false",
    ),
    (
        '"web", protocol = "http"',
        '"web", protocol = "http", hash_key = "path"',
        "backend_services.web.hash_key: the scheduler wrr hashes no key of the request; "
        'give scheduler = "ch", or remove it',
    ),
    (
        '"web", protocol = "http"',
        '"web", protocol = "http", scheduler = "ch", hash_key = "cookie"',
        "backend_services.web.hash_key: 'cookie' does not fit; give source, path, header:NAME or cookie:NAME",
    ),
    (
        'scheduler = "maglev"',
        'scheduler = "p2c"',
        "backend_services.dns.scheduler: the L4 tier, which schedules udp services, has no p2c; "
        "give lc, maglev, rr, sh, tch, wlc or wrr",
    ),
    (
        '"web", protocol = "http"',
        '"web", protocol = "http", tls_server_name = "a.test"',
        "backend_services.web.tls_server_name: servers are not asked by TLS; give tls = true too, or remove it",
    ),
    (
        '"web", protocol = "http"',
        '"web", protocol = "h2c", tls = true',
        'backend_services.web.tls: h2c is HTTP/2 without TLS; give protocol = "h2", or remove it',
    ),
    (
        '"web", protocol = "http"',
        '"web", protocol = "h2c", tls_verify = false',
        'backend_services.web.tls_verify: servers are not asked by TLS; give protocol = "h2", or remove it',
    ),
    (
        '"web", protocol = "http"',
        '"web", protocol = "h2", tls_verify = false, tls_ca_certificate = "partners"',
        "backend_services.web.tls_ca_certificate: certificates that are not verified need no authority; "
        "remove it, or tls_verify",
    ),
    (
        '"web", protocol = "http"',
        '"web", protocol = "h2", health_check = { type = "grpc", uri = "/x" }',
        "backend_services.web.health_check.uri: uri is for http checks, and this is a grpc check; "
        'remove it, or give type = "http"',
    ),
    (
        '"web", protocol = "http"',
        '"web", protocol = "http", health_check = { type = "grpc" }',
        "backend_services.web.health_check.type: a check by grpc says nothing about a service of protocol http; "
        "give tcp or http",
    ),
    (
        '"web", protocol = "http"',
        '"web", protocol = "h2c", scheduler = "maglev"',
        "backend_services.web.scheduler: the L7 tier, which schedules h2c services, has no maglev; "
        "give ch, lc, p2c, rr, sh, wlc or wrr",
    ),
    (
        '"web", protocol = "http"',
        '"web", protocol = "http", tls = true, tls_verify = false, tls_ca_certificate = "partners"',
        "backend_services.web.tls_ca_certificate: certificates that are not verified need no authority; "
        "remove it, or tls_verify",
    ),
    (
        '"web", protocol = "http"',
        '"web", protocol = "http", tls = true, tls_ca_certificate = "partner"',
        "backend_services.web.tls_ca_certificate: none of the ca certificates is named 'partner'; "
        "did you mean partners?",
    ),
    (
        '{ address = "10.0.0.32", port = 80 }] },',
        '{ address = "unix:/run/app.sock", port = 80 }] },',
        "server_groups.be.servers[1].port: a socket has a path and no port; remove it",
    ),
    (
        '{ address = "10.0.0.32", port = 80 }] },',
        '{ address = "10.0.0.32" }] },',
        "server_groups.be.servers[1]: port is missing; give a whole number from 1 to 65535",
    ),
    (
        '{ address = "10.0.0.32", port = 80 }] },',
        '{ address = "unix:run/app.sock" }] },',
        "server_groups.be.servers[1].address: 'unix:run/app.sock' is not the path of a socket; "
        "give unix: and an absolute path of at most 107 bytes",
    ),
    (
        '{ address = "10.0.0.32", port = 80 }] },',
        '{ address = "unix:/run/app.sock" }] },',
        "backend_services.dns: a server of it is a unix socket, and this service is udp; "
        "give it servers with IP addresses, or protocol http, h2 or h2c",
    ),
    (
        '"web", protocol = "http", server_group = "be"',
        '"web", protocol = "http", server_group = "s", health_check = { port = 8080 } },\n'
        '  { name = "w2", protocol = "http", server_group = "be"',
        "backend_services.web.health_check.port: a server of it is a unix socket, which has no ports to be asked on; "
        "remove it",
    ),
    (
        '"web", protocol = "http", server_group = "be"',
        '"web", protocol = "http", server_group = "s", tls = true },\n'
        '  { name = "w2", protocol = "http", server_group = "be"',
        "backend_services.web.tls: a server of it is a unix socket, and no name to verify its certificate by; "
        "give tls_server_name",
    ),
    (
        'role = "l4", address = "10.0.0.11"',
        'role = "l4", zone = "a", address = "10.0.0.11"',
        "nodes.l4-1.zone: zone is for l7 nodes, and this one is l4; remove it",
    ),
    # members from DNS
    (
        '{ name = "spread", members',
        '{ name = "named", dns = [{ name = "a.test" }] }, { name = "spread", members',
        "availability_groups.named.dns[0]: port is missing; give a whole number from 1 to 65535",
    ),
    (
        '{ name = "spread", members',
        '{ name = "named", dns = [{ name = "a.test", type = "srv", port = 1 }] }, { name = "spread", members',
        "availability_groups.named.dns[0].port: srv records have ports of their own; remove it",
    ),
    (
        '{ name = "spread", members',
        '{ name = "n", dns = [{ name = "a.t", type = "srv" }, { name = "a.t", type = "srv" }] }, '
        '{ name = "spread", members',
        "availability_groups.n.dns[1]: a.t is in the list already; remove one",
    ),
    (
        '{ name = "spread", members',
        '{ name = "n", dns = [{ name = "a.t", port = 1 }], resolvers = ["1.2.3.444:53"] }, { name = "spread", members',
        "availability_groups.n.resolvers[0]: '1.2.3.444' is not an IP address; "
        "give an address and port such as '127.0.0.1:53'",
    ),
    (
        '{ name = "spread", members',
        '{ name = "n", dns = [{ name = "a.t", port = 1 }], resolvers = ["1.2.3.4:99999"] }, { name = "spread", members',
        "availability_groups.n.resolvers[0]: 99999 is no port; give an address and port such as '127.0.0.1:53'",
    ),
    (
        '{ name = "spread", members',
        '{ name = "spread", min_zones = 3, members',
        "availability_groups.spread.members: the members stand in 2 zones, and min_zones is 3; "
        "spread them over 3 zones, or use a server group",
    ),
    (
        '{ name = "spread", members',
        '{ name = "spread", min_racks = 1, members',
        "availability_groups.spread.members: the members stand in 0 racks, and min_racks is 1; "
        "spread them over more racks, or lower min_racks",
    ),
    (
        '{ name = "spread", members',
        '{ name = "spread", max_percent_per_zone = 49, members',
        "availability_groups.spread.members: zone 'a' has 50 % of the weight, and max_percent_per_zone is 49; "
        "add members in other zones, or lower weights there",
    ),
    (
        '{ name = "spread", members',
        '{ name = "spread", file = "members.toml", members',
        "availability_groups.spread.file: 'members.toml' does not fit; "
        "give an absolute path such as /etc/paifang/members.toml",
    ),
    (
        '"web", protocol = "http"',
        '"web", protocol = "http", queue_timeout_s = 1',
        "backend_services.web.queue_timeout_s: nobody waits for a server without server_max_connections; "
        "give server_max_connections too, or remove it",
    ),
    (
        '"web", protocol = "http"',
        '"web", protocol = "http", scheduler = "sh", slow_start_s = 30',
        "backend_services.web.slow_start_s: with sh, a slow start would move clients from server to server; "
        "remove it, or give another scheduler",
    ),
    (
        '"web", protocol = "http"',
        '"web", protocol = "http", fallback = "dns"',
        "backend_services.web.fallback: 'dns' is a service of protocol udp, and this one is http; "
        "name a service of protocol http, h2 or h2c",
    ),
    (
        '"web", protocol = "http"',
        '"web", protocol = "http", fallback = "web"',
        "backend_services.web.fallback: this service is its own fallback, by way of those that it names; "
        "break the circle",
    ),
    (
        '"web", protocol = "http"',
        '"web", protocol = "http", fallback = "wbe"',
        "backend_services.web.fallback: none of the backend services is named 'wbe'; did you mean web?",
    ),
    # references
    (
        'backend_service = "dns"',
        'backend_service = "dsn"',
        "listeners.udp.backend_service: none of the backend services is named 'dsn'; did you mean dns?",
    ),
    (
        'certificates = ["site", "own"]',
        'certificates = ["site", "zz"]',
        "listeners.https.certificates[1]: none of the certificates is named 'zz'; known are site, own",
    ),
    # options of listeners
    (
        'protocol = "http", port = 80,',
        'protocol = "http", port = 80, mode = "dr",',
        "listeners.http.mode: mode is for tcp and udp listeners, and this one is http; remove it",
    ),
    (
        "udp_idle_timeout_s = 30",
        "idle_timeout_s = 30",
        "listeners.udp.idle_timeout_s: idle_timeout_s is for http and https listeners, and this one is udp; remove it",
    ),
    (
        "udp_idle_timeout_s = 30",
        "established_timeout_s = 30",
        "listeners.udp.established_timeout_s: established_timeout_s is for tcp, http and https listeners, "
        "and this one is udp; remove it",
    ),
    (
        'certificates = ["site", "own"]',
        "certificates = []",
        "listeners.https: an https listener without certificates; give certificates, or domains to try it out",
    ),
    (
        'certificates = ["site", "own"]',
        'certificates = ["site", "site"]',
        "listeners.https.certificates[1]: 'site' is in the list already; remove one",
    ),
    # where listeners forward to
    (
        'port = 80, backend_service = "web"',
        'port = 80, backend_service = "stream"',
        "listeners.http.backend_service: stream is a tcp service, and a listener of http needs http, h2 or h2c; "
        "refer to one of protocol http, h2 or h2c",
    ),
    (
        'port = 8000, backend_service = "web"',
        "port = 8000",
        "listeners.dev: nowhere to forward to; give backend_service or servers, or add [[rules]] of this listener",
    ),
    (
        'backend_service = "dns",',
        "",
        "listeners.udp: backend_service is missing; give one of protocol udp, or servers",
    ),
    (
        'instance = "fast", protocol = "udp"',
        'instance = "site", protocol = "udp"',
        "listeners.udp.instance: a listener of udp needs an instance of type nlb or dnlb with vips; "
        "site is of type alb; refer to an instance of type nlb or dnlb with vips",
    ),
    (
        'instance = "fast", protocol = "udp"',
        'protocol = "udp"',
        "listeners.udp.instance: a listener of udp needs an instance of type nlb or dnlb with vips; "
        "default is of type alb without vips; refer to an instance of type nlb or dnlb with vips",
    ),
    (
        'type = "nlb", vips = ["192.0.2.2"]',
        'type = "nlb"',
        "listeners.udp.instance: a listener of udp needs an instance of type nlb or dnlb with vips; "
        "fast is of type nlb without vips; refer to an instance of type nlb or dnlb with vips",
    ),
    (
        'instance = "local"',
        'instance = "fast"',
        "listeners.dev.instance: a listener of http needs an instance of type alb; fast is of type nlb; "
        "refer to an instance of type alb",
    ),
    (
        'protocol = "tcp", port = 80',
        'protocol = "tcp", port = 81',
        "listeners.tcp.backend_service: mode dr keeps the port, 81, and 10.0.0.31:80 in stream has another; "
        "give the servers the listener's port, or use mode nat",
    ),
    (
        'protocol = "tcp", port = 80, backend_service = "stream", mode = "dr"',
        'protocol = "tcp", port = 81, backend_service = "stream", mode = "tunnel"',
        "listeners.tcp.backend_service: mode tunnel keeps the port, 81, and 10.0.0.31:80 in stream has another; "
        "give the servers the listener's port, or use mode nat",
    ),
    (
        'servers = [{ address = "10.0.0.31", port = 80 }',
        'servers = [{ address = "127.0.0.1", port = 8000 }',
        "listeners.dev.backend_service: 127.0.0.1:8000 in web is where this listener answers itself; "
        "change the listener's port or the server's",
    ),
    (
        'servers = [{ address = "10.0.0.31", port = 80 }',
        'servers = [{ address = "127.0.0.1", port = 80 }',
        "listeners.udp.backend_service: 127.0.0.1:80 in dns is the L4 node itself, where mode nat does not lead; "
        "give the server's address on the network, or use mode dr",
    ),
    # stateless instances
    (
        'type = "nlb"',
        'type = "dnlb"',
        "listeners.tcp.backend_service: an instance of type dnlb keeps no sessions, and stream is scheduled by wrr; "
        "give the service the scheduler maglev, sh or tch",
    ),
    (
        'type = "nlb", vips = ["192.0.2.2"]',
        'type = "dnlb", vips = ["192.0.2.2", "192.0.2.3"]',
        "listeners.udp.mode: fast has 2 IPv4 VIPs and keeps no sessions: an answer may be any VIP's; "
        "give it one of each IP version, or use mode dr",
    ),
    # limits
    (
        'port = 80, backend_service = "web" }',
        'port = 80, backend_service = "web", max_new_connections_per_s = 1000001 }',
        "listeners.http.max_new_connections_per_s: 1000001 is out of range; give a whole number from 0 to 1000000",
    ),
    (
        'backend_service = "stream", mode = "dr" }',
        'backend_service = "stream", mode = "dr", bandwidth_out_mbit_s = 9 }',
        "listeners.tcp.bandwidth_out_mbit_s: the L4 tier keeps it, and answers in mode dr do not pass there; "
        "remove it, or use mode nat",
    ),
    (
        'type = "nlb", vips = ["192.0.2.2"]',
        'type = "nlb", vips = ["192.0.2.2"], bandwidth_out_mbit_s = 9',
        "listeners.tcp.mode: fast has bandwidth_out_mbit_s: the L4 tier keeps it, and answers in mode dr do not pass "
        "there; use mode nat, or give the listener an instance of its own",
    ),
    (
        'name = "local" }',
        'name = "local", bandwidth_in_mbit_s = 40961 }',
        "instances.local.bandwidth_in_mbit_s: 40961 is out of range; give a whole number from 0 to 40960 Mbit/s",
    ),
    # IP versions
    (
        'type = "nlb", vips = ["192.0.2.2"]',
        'type = "nlb", vips = ["192.0.2.2", "2001:db8::2"]',
        "listeners.tcp.backend_service: the servers of stream are all of IPv4, and VIP 2001:db8::2 of fast needs IPv6; "
        "add servers of IPv6, or give the VIP an instance of its own",
    ),
    (
        'vips = ["192.0.2.1"]',
        'vips = ["192.0.2.1", "2001:db8::1"]',
        "instances.site.vips[1]: no l7 node has an address of IPv6, which L4 nodes need to bring it the VIP's traffic; "
        "give the l7 nodes address_v6",
    ),
    # persistence
    (
        "udp_idle_timeout_s = 30",
        "persistence_prefix_v6 = 64",
        "listeners.udp.persistence_prefix_v6: a prefix of clients without a time for which they keep their server; "
        "give persistence_timeout_s too, or remove it",
    ),
    (
        "udp_idle_timeout_s = 30",
        "persistence_prefix = 24",
        "listeners.udp.persistence_prefix: a prefix of clients without a time for which they keep their server; "
        "give persistence_timeout_s too, or remove it",
    ),
    (
        'protocol = "https", port = 443',
        'protocol = "https", port = 443, persistence_timeout_s = 60',
        "listeners.https.persistence_timeout_s: persistence_timeout_s is for tcp and udp listeners, and this one is "
        "https; remove it",
    ),
    # drain
    (
        "udp_idle_timeout_s = 30",
        "drain_timeout_s = 20",
        "listeners.udp.drain_timeout_s: a time to drain for, and nothing is drained; "
        "give drain = true too, or remove it",
    ),
    (
        'protocol = "https", port = 443',
        'protocol = "https", port = 443, drain = true',
        "listeners.https.drain: drain is for tcp and udp listeners, and this one is https; remove it",
    ),
    # rules
    (
        'name = "all", listener = "https"',
        'name = "all", listener = "tcp"',
        "rules.all.listener: tcp is a listener of tcp, which has no requests to look into; "
        "refer to a listener of http or https",
    ),
    (
        '"https", backend_service = "web" }',
        '"https", backend_service = "dns" }',
        "rules.all.backend_service: dns is a udp service, and rules forward to http; "
        "refer to one of protocol http, h2 or h2c",
    ),
    (
        '"https", backend_service = "web" }',
        '"https", backend_service = "web", domain = "*.Example.com", url = "/img" }',
        "rules.img: rule all of the same listener has domain '*.example.com' and url '/img' too; remove or change one",
    ),
    (
        'url = "/img" }',
        'url = "/img", priority = 4 }, { name = "jpg", listener = "https", priority = 5, backend_service = "web", '
        'domain = "a.example.com", path = "/img/jpg", methods = ["GET"] }',
        "rules.jpg: rule img of the same listener comes before it and matches all that it does; "
        "give it a priority below 4, or remove it",
    ),
    (
        'url = "/img" }',
        'url = "/img", methods = ["GET"] }, { name = "jpg", listener = "https", backend_service = "web", '
        'domain = "*.example.com", url = "/img", methods = ["GET"] }',
        "rules.jpg: rule img of the same listener has domain '*.example.com' and url '/img' and the same conditions "
        "too; remove or change one",
    ),
    (
        'url = "/img" }',
        'url = "/img", path = "/img/x" }',
        "rules.img.url: path is the whole path, and url what it starts with: they exclude each other; give one of them",
    ),
    (
        'url = "/img" }',
        'url = "/%69mg" }',
        "rules.img.url: no request is for it: %69 is written as i; give the path as it is forwarded",
    ),
    (
        'url = "/img" }',
        'path = "/img?x" }',
        "rules.img.path: no request is for it: a path has no ?; give the path as it is forwarded",
    ),
    (
        'domain = "*.example.com"',
        'domain = "*.Bücher.example"',
        "rules.img.domain: '*.Bücher.example' does not fit; give *.xn--bcher-kva.example",
    ),
    (
        'domain = "*.example.com"',
        'domain = "straße.de"',
        "rules.img.domain: 'straße.de' does not fit; give xn--strae-oqa.de",
    ),
    (
        'url = "/img" }',
        'methods = ["GET", "TRACE"] }',
        "rules.img.methods[1]: TRACE is never served; remove it",
    ),
    (
        'url = "/img" }',
        'headers = [{ name = "X" }, { name = "Host", values = ["a"] }] }',
        "rules.img.headers[1].name: Host has an attribute of its own; give domain instead",
    ),
    (
        'url = "/img" }',
        'headers = [{ name = "X_Y" }] }',
        "rules.img.headers[0].name: 'X_Y' is not the name of a field that is passed on; "
        "give one of letters, digits and '-'",
    ),
    (
        '"https", backend_service = "web" }',
        '"https" }',
        "rules.all: nothing happens to what it matches; "
        "give backend_service, split, redirect, redirect_map or fixed_reply",
    ),
    (
        '"https", backend_service = "web" }',
        '"https", split = [{ backend_service = "web" }, { backend_service = "wbe" }] }',
        "rules.all.split[1].backend_service: none of the backend services is named 'wbe'; did you mean web?",
    ),
    (
        '"https", backend_service = "web" }',
        '"https", split = [{ backend_service = "web" }, { backend_service = "dns" }] }',
        "rules.all.split[1].backend_service: dns is a udp service, and rules forward to http; "
        "refer to one of protocol http, h2 or h2c",
    ),
    (
        '"https", backend_service = "web" }',
        '"https", split = [{ backend_service = "web" }, { backend_service = "web" }] }',
        "rules.all.split[1].backend_service: web has a share already; give each service one",
    ),
    (
        '"https", backend_service = "web" }',
        '"https", split = [{ backend_service = "web", weight = 0 }] }',
        "rules.all.split: all weights are 0, so that nothing is forwarded; give one of them a weight",
    ),
    (
        '"https", backend_service = "web" }',
        '"https", backend_service = "web", split_by = "source" }',
        "rules.all.split_by: there is no split; remove it, or give split",
    ),
    (
        '"https", backend_service = "web" }',
        '"https", split = [{ backend_service = "web", headers = [{ name = "Cookie" }] }] }',
        "rules.all.split[0].headers[0].name: Cookie has an attribute of its own; give cookies instead",
    ),
    (
        '"https", backend_service = "web" }',
        '"https", split = [{ backend_service = "web", headers = [{ name = "X-A", values = ["1", "2"] }] }, '
        '{ backend_service = "api", headers = [{ name = "x-a", values = ["2"] }] }] }',
        "rules.all.split[1].headers[0]: x-a with the value '2' sends requests to web already; "
        "remove it from one of the two",
    ),
    (
        '"https", backend_service = "web" }',
        '"https", split = [{ backend_service = "web", cookies = [{ name = "c" }] }, '
        '{ backend_service = "api", cookies = [{ name = "c", values = ["2"] }] }] }',
        "rules.all.split[1].cookies[0]: c with the value '2' sends requests to web already; "
        "remove it from one of the two",
    ),
    (
        '"https", backend_service = "web" }',
        '"https", fixed_reply = {}, rewrite = { path = "/x" } }',
        "rules.all.rewrite: rewrite is for what is forwarded, and fixed_reply is not; "
        "remove it, or give backend_service or split",
    ),
    (
        '"https", backend_service = "web" }',
        '"https", backend_service = "web", rewrite = { path = "/x/./${rest}" } }',
        "rules.all.rewrite.path: no path has the segments '.' and '..'; write it as it is forwarded",
    ),
    (
        '"https", backend_service = "web" }',
        '"https", backend_service = "web", rewrite = {} }',
        "rules.all.rewrite: changes nothing; give host, path or query",
    ),
    (
        '"https", backend_service = "web" }',
        '"https", backend_service = "web", request_headers = [{ name = "Host", value = "x" }] }',
        "rules.all.request_headers[0].name: Host is what the L7 tier itself says, and others rely on it; "
        "rewrite host instead",
    ),
    (
        '"https", backend_service = "web" }',
        '"https", backend_service = "web", request_headers = [{ name = "x-forwarded-FOR", action = "remove" }] }',
        "rules.all.request_headers[0].name: x-forwarded-FOR is what the L7 tier itself says, and others rely on it; "
        "remove it",
    ),
    (
        '"https", backend_service = "web" }',
        '"https", backend_service = "web", response_headers = [{ name = "Content-Length", value = "3" }] }',
        "rules.all.response_headers[0].name: Content-Length is what the L7 tier itself says, and others rely on it; "
        "remove it",
    ),
    (
        '"https", backend_service = "web" }',
        '"https", backend_service = "web", response_headers = [{ name = "X", value = "a\\r\\nY: b" }] }',
        "rules.all.response_headers[0].value: 'a\\r\\nY: b' does not fit; "
        "give printable text of at most 1024 characters",
    ),
    (
        '"https", backend_service = "web" }',
        '"https", backend_service = "web", response_headers = [{ name = "a b" }] }',
        "rules.all.response_headers[0].name: 'a b' does not fit; give a field name of at most 128 characters",
    ),
    (
        '"https", backend_service = "web" }',
        '"https", backend_service = "web", response_headers = [{ name = "a:b" }] }',
        "rules.all.response_headers[0].name: 'a:b' is not the name of a field that is passed on; "
        "give one of letters, digits and '-'",
    ),
    (
        '"https", backend_service = "web" }',
        '"https", backend_service = "web", response_headers = [{ name = "x", action = "remove", value = "y" }] }',
        'rules.all.response_headers[0].value: what is removed has no value; remove it, or give action = "set"',
    ),
    (
        '"https", backend_service = "web" }',
        '"https", backend_service = "web", request_headers = [{ name = "x", value = "1" }, { name = "X" }] }',
        'rules.all.request_headers[1]: X is set or added already; give action = "add" to the later one',
    ),
    (
        '"https", backend_service = "web" }',
        '"https", backend_service = "web", redirect = { host = "b.test" } }',
        "rules.all.redirect: backend_service and redirect exclude each other; give one of them",
    ),
    (
        '"https", backend_service = "web" }',
        '"https", redirect = { protocol = "https", port = 443 } }',
        "rules.all.redirect: leads back to where it came from; give protocol, host, port, path or query",
    ),
    (
        '"https", backend_service = "web" }',
        '"https", domain = "a.b", path = "/c", redirect = { host = "a.b", path = "/c", query = "d" } }',
        "rules.all.redirect: leads back to where it came from; give protocol, host, port, path or query",
    ),
    (
        '"https", backend_service = "web" }',
        '"https", redirect = { status = 304, path = "/x" } }',
        "rules.all.redirect.status: 304 redirects no request; give 301, 302, 303, 307 or 308",
    ),
    (
        '"https", backend_service = "web" }',
        '"https", redirect = { path = "/x/../${rest}" } }',
        "rules.all.redirect.path: no path has the segments '.' and '..'; write it as it is forwarded",
    ),
    (
        '"https", backend_service = "web" }',
        '"https", redirect = { path = "/${query}" } }',
        "rules.all.redirect.path: '/${query}' does not fit; give a path that starts with '/', ${path} or ${rest}, and "
        "in which ${host} and ${1} may stand too",
    ),
    (
        '"https", backend_service = "web" }',
        '"https", backend_service = "web", pattern = "/a/**/b" }',
        "rules.all.pattern: ** stands for all that follows, and nothing comes after that; "
        "give a path such as /users/*/photos, or url or path instead",
    ),
    (
        '"https", backend_service = "web" }',
        '"https", backend_service = "web", path = "/a", pattern = "/*" }',
        "rules.all.pattern: path is the whole path already; give one of them",
    ),
    (
        '"https", backend_service = "web" }',
        '"https", backend_service = "web", pattern = "/*/x", rewrite = { path = "/${1}", query = "${2}" } }',
        "rules.all.rewrite.query: ${2} stands for nothing: pattern has 1 *; give a pattern with so many, or remove it",
    ),
    (
        '"https", backend_service = "web" }',
        '"https", redirect = { path = "/x/${1}" } }',
        "rules.all.redirect.path: ${1} stands for nothing: pattern has no *; give a pattern with so many, or remove it",
    ),
    (
        '"https", backend_service = "web" }',
        '"https", fixed_reply = { status = 302 } }',
        "rules.all.fixed_reply.status: a 3xx without a Location leads nowhere; give redirect instead",
    ),
    (
        '"https", backend_service = "web" }',
        '"https", fixed_reply = { status = 204, body = "x" } }',
        "rules.all.fixed_reply.body: an answer of status 204 has none; remove it",
    ),
    # rules with a scheduler, a check or stickiness of their own
    (
        '"https", backend_service = "web" }',
        '"https", fixed_reply = {}, scheduler = "rr" }',
        "rules.all.scheduler: scheduler is for what is forwarded, and fixed_reply is not; "
        "remove it, or give backend_service or split",
    ),
    (
        '"https", backend_service = "web" }',
        '"https", backend_service = "web", scheduler = "maglev" }',
        "rules.all.scheduler: the L7 tier, which schedules http services, has no maglev; "
        "give ch, lc, p2c, rr, sh, wlc or wrr",
    ),
    (
        '"https", backend_service = "web" }',
        '"https", backend_service = "web", hash_key = "path" }',
        'rules.all.hash_key: the scheduler wrr hashes no key of the request; give scheduler = "ch", or remove it',
    ),
    (
        '"https", backend_service = "web" }',
        '"https", split = [{ backend_service = "web" }], health_check = { type = "udp" } }',
        "rules.all.health_check.type: a check by udp says nothing about a service of protocol http; give tcp or http",
    ),
    (
        '"https", backend_service = "web" }',
        '"https", backend_service = "web", sticky_session = { type = "server" } }',
        "rules.all.sticky_session.cookie: no server sets a cookie of the name 'SERVERID' unless it is told to; "
        "give the name of the servers' own cookie",
    ),
    # sticky sessions
    (
        'name = "api", protocol = "http", server_group = "be"',
        'name = "api", protocol = "http", server_group = "be", sticky_session = { type = "server" }',
        "backend_services.api.sticky_session.cookie: no server sets a cookie of the name 'SERVERID' unless it is told "
        "to; give the name of the servers' own cookie",
    ),
    (
        'name = "api", protocol = "http", server_group = "be"',
        'name = "api", protocol = "http", server_group = "be", '
        'sticky_session = { type = "server", cookie = "SID", cookie_timeout_s = 5 }',
        "backend_services.api.sticky_session.cookie_timeout_s: how long their cookie is good is for the servers to "
        'say; remove it, or give type = "insert"',
    ),
    (
        'name = "stream", protocol = "tcp"',
        'name = "stream", protocol = "tcp", sticky_session = {}',
        "backend_services.stream.sticky_session: sticky_session is for http services, and this one is tcp; remove it",
    ),
    # clashes
    (
        'protocol = "https", port = 443',
        'protocol = "https", port = 80',
        "listeners.https.port: listener http has tcp port 80 on 192.0.2.1 already; "
        "change one of the ports, or give their instances vips of their own",
    ),
    (
        'name = "fast", type = "nlb", vips = ["192.0.2.2"]',
        'name = "fast", type = "nlb", vips = ["192.0.2.3", "192.0.2.1"]',
        "listeners.tcp.port: listener http has tcp port 80 on 192.0.2.1 already; "
        "change one of the ports, or give their instances vips of their own",
    ),
    (
        'name = "dev", instance = "local", protocol = "http", port = 8000',
        'name = "dev", instance = "local", protocol = "http", port = 80',
        "listeners.dev.port: listener http has tcp port 80 on every address already; "
        "change one of the ports, or give their instances vips of their own",
    ),
    (
        "port = 8000",
        "port = 8472",
        "listeners.dev.port: node l7-1 answers on port 8472 whether it is ready; "
        "change the listener's port or the node's health_port",
    ),
    # access lists
    (
        'entries = ["198.51.100.0/24"]',
        'entries = ["198.51.100.0/24", "10.0.0.0/8", "198.51.100.0/24"]',
        "access_lists.known.entries[2]: 198.51.100.0/24 is in the list already, at position 0; remove one",
    ),
    (
        'mode = "dr" }',
        'mode = "dr", access_list = "known" }',
        "listeners.tcp.access_list: acl is off, so that 'known' would admit and refuse nobody; "
        'give acl = "white" or "black", or remove it',
    ),
    (
        "udp_idle_timeout_s = 30 }",
        'acl = "white" }',
        "listeners.udp.acl: white without a list; give access_list",
    ),
    (
        'port = 8000, backend_service = "web" }',
        'port = 8000, backend_service = "web", acl = "black", access_list = "knwon" }',
        "listeners.dev.access_list: none of the access lists is named 'knwon'; did you mean known?",
    ),
    # the ACME issuer
    (
        'port = 80, backend_service = "web" }',
        'port = 80, backend_service = "web", acme_backend_service = "stream" }',
        "listeners.http.acme_backend_service: acme_backend_service is for https listeners, and this one is http; "
        "remove it",
    ),
    (
        'certificates = ["site", "own"] }',
        'certificates = ["site", "own"], acme_backend_service = "web" }',
        "listeners.https.acme_backend_service: web is a http service, and the issuer is spoken to by tcp; "
        "refer to one of protocol tcp",
    ),
    (
        'certificates = ["site", "own"] },\n  { name = "tcp", instance = "fast", protocol = "tcp", port = 80, '
        'backend_service = "stream", mode = "dr" },',
        'certificates = ["site", "own"], acme_backend_service = "steam" },',
        "listeners.https.acme_backend_service: none of the backend services is named 'steam'; did you mean stream?",
    ),
    # VIPs
    (
        'vips = ["192.0.2.1"]',
        'vips = ["192.0.2.1", "192.0.2.1"]',
        "instances.site.vips[1]: 192.0.2.1 is in the list already; remove one",
    ),
    (
        'vips = ["192.0.2.1"]',
        'vips = ["10.0.0.32"]',
        "instances.site.vips[0]: 10.0.0.32 is the address of a server in spread; give an address that no machine has",
    ),
    (
        'vips = ["192.0.2.1"]',
        'vips = ["10.0.0.11"]',
        "instances.site.vips[0]: 10.0.0.11 is the address of node l4-1; give an address that no machine has",
    ),
    (
        'type = "nlb", vips = ["192.0.2.2"]',
        'type = "nlb", vips = ["127.0.0.2"]',
        "listeners.tcp.instance: fast has a loopback VIP, which no packet reaches; change it",
    ),
]


@pytest.mark.parametrize(("right", "wrong", "message"), CASES)
def test_what_is_said_of_a_broken_rule(right: str, wrong: str, message: str) -> None:
    assert SOUND.count(right) == 1, f"{right!r} stands {SOUND.count(right)} times in the example"
    said = errors(SOUND.replace(right, wrong))
    assert message in said
    assert len(said) <= 4, said  # one fault is not reported from every side


STATELESS = SOUND.replace('type = "nlb"', 'type = "dnlb"').replace('"spread" }', '"spread", scheduler = "sh" }')
SECOND = '{ name = "dns2", instance = "%s", protocol = "udp", port = 53, backend_service = "dns"%s },\n]\nrules'


def test_without_sessions_nothing_is_drained() -> None:
    drained = STATELESS.replace("udp_idle_timeout_s = 30", "drain = true")
    why = "an instance of type dnlb keeps no sessions that could go on"
    assert f"listeners.udp.drain: {why}; remove it, or use type nlb" in errors(drained)


def test_a_redirect_needs_nothing_to_forward_to_and_may_have_rules() -> None:
    redirecting = SOUND.replace('port = 80, backend_service = "web" },', "port = 80, https_redirect_port = 443 },")
    assert errors(redirecting) == []
    ruled = 'rules = [{ name = "some", listener = "http", backend_service = "web" },'
    assert errors(redirecting.replace("rules = [", ruled)) == []


@pytest.mark.parametrize(
    "rule",
    [
        'redirect = { protocol = "http" }',
        'redirect = { status = 308, path = "/x${path}", query = "" }',
        'queries = [{ name = "old" }], redirect = { query = "new=1" }',
        "fixed_reply = {}",
        'pattern = "/u/*/**", redirect = { path = "/${2}/${1}" }',
        'domain = "EXAMPLE.com", path = "/", methods = ["PROPFIND"], fixed_reply = { status = 405, body = "no" }',
        'split = [{ backend_service = "web", weight = 0 }, { backend_service = "api" }], rewrite = { query = "" }',
        'split_by = "cookie:c", split = [{ backend_service = "web", cookies = [{ name = "c", values = ["1"] }] }, '
        '{ backend_service = "api", cookies = [{ name = "c", values = ["2"] }, { name = "d" }] }]',
        'fixed_reply = {}, response_headers = [{ name = "a" }, { name = "a", action = "add", value = "b" }]',
        'headers = [{ name = "X-A" }], cookies = [{ name = "c", values = ["*"] }], priority = 7, fixed_reply = {}',
    ],
)
def test_other_actions_are_sound(rule: str) -> None:
    assert (
        errors(
            SOUND.replace(
                'name = "all", listener = "https", backend_service = "web"', 'name = "all", listener = "https", ' + rule
            )
        )
        == []
    )


def test_the_issuer_is_reached_by_the_l7_tier() -> None:
    led = SOUND.replace(
        'certificates = ["site", "own"] }', 'certificates = ["site"], acme_backend_service = "issuer" }'
    )
    service = '{ name = "issuer", protocol = "tcp", server_group = "be"%s },\n  { name = "web"'
    assert errors(led.replace('{ name = "web"', service % "")) == []
    where = "listeners.https.acme_backend_service: "
    assert errors(led.replace('{ name = "web"', service % ', scheduler = "maglev"')) == [
        f"{where}the L7 tier, which leads to issuer here, has no maglev; "
        "give the service the scheduler lc, rr, sh, wlc or wrr"
    ]
    itself = led.replace('{ name = "web"', service % "").replace(
        "port = 80 }, {", "port = 80 }, { address = '192.0.2.1', port = 443 }, {"
    )
    assert f"{where}192.0.2.1:443 in issuer is where this listener answers itself; " in "\n".join(errors(itself))


STICKY = """
instances = [{ name = "i" }]
server_groups = [{ name = "a", servers = [{ address = "10.0.0.1", port = 80 }] },
                 { name = "b", servers = [{ address = "10.0.0.2", port = 80 }] }]
backend_services = [
  { name = "a", protocol = "http", server_group = "a", sticky_session = {} },
  { name = "b", protocol = "http", server_group = "b", sticky_session = {} },
  { name = "a2", protocol = "http", server_group = "a", sticky_session = {} },
]
listeners = [{ name = "web", instance = "i", protocol = "http", port = 80, backend_service = "a" }]
rules = [{ name = "r", listener = "web", %s }]
"""


def test_a_rules_own_stickiness_may_have_the_cookie_of_its_service() -> None:
    """Its servers are those of the service, whose clients stay by the same cookie."""
    rule = 'url = "/b", backend_service = "a", sticky_session = { cookie_timeout_s = 9 }'
    assert errors(STICKY % rule) == []
    rule = 'url = "/b", split = [{ backend_service = "b" }], sticky_session = { cookie_timeout_s = 9 }'
    assert errors(STICKY % rule) == [
        "backend_services.a.sticky_session: listener web also leads to b, with the same cookie SERVERID and other "
        "servers; give one of the two another cookie"
    ]


def test_a_slow_start_does_not_go_with_every_scheduler_of_a_rule() -> None:
    slow = STICKY.replace('server_group = "b",', 'server_group = "b", slow_start_s = 9,')
    assert errors(slow % 'domain = "b.test", backend_service = "b", scheduler = "rr"') == []
    assert errors(slow % 'domain = "b.test", backend_service = "b", scheduler = "sh"') == [
        "rules.r.scheduler: with sh, a slow start would move clients from server to server; give another scheduler"
    ]


@pytest.mark.parametrize(
    ("rule", "clash"),
    [
        ('url = "/b", backend_service = "b"', True),
        ('domain = "b.test", backend_service = "b"', False),
        ('url = "/b", backend_service = "a2"', False),
        ('domain = "b.test", split = [{ backend_service = "a" }, { backend_service = "b" }]', False),
        ('url = "/b", split = [{ backend_service = "a" }, { backend_service = "b" }]', True),
    ],
)
def test_two_sets_of_servers_do_not_share_a_cookie(rule: str, clash: bool) -> None:
    said = errors(STICKY % rule)
    assert bool(said) is clash
    assert all("with the same cookie SERVERID and other servers; give one of the two another cookie" in e for e in said)
    assert errors((STICKY % rule).replace('"b", sticky_session = {}', '"b", sticky_session = { cookie = "B" }')) == []


def test_a_stateless_instance_with_hashes_is_sound() -> None:
    assert errors(STATELESS) == []


def test_a_listener_has_no_more_than_its_instance() -> None:
    given = SOUND.replace('name = "local" }', 'name = "local", bandwidth_in_mbit_s = 9 }')
    whole = given.replace('port = 8000, backend_service = "web"', 'port = 8000, backend_service = "web", %s')
    assert errors(whole % "bandwidth_in_mbit_s = 9, bandwidth_out_mbit_s = 10, max_new_connections_per_s = 9") == []
    assert errors(whole % "bandwidth_in_mbit_s = 10") == [
        "listeners.dev.bandwidth_in_mbit_s: 10 Mbit/s is more than local has in all, 9; lower it, or remove it"
    ]


def test_a_stateless_instance_has_no_connections_to_limit() -> None:
    given = STATELESS.replace("udp_idle_timeout_s = 30", "max_connections = 9, max_new_connections_per_s = 9")
    assert errors(given) == [
        "listeners.udp.max_connections: an instance of type dnlb keeps no sessions that could be counted; "
        "remove it, or use type nlb",
        "listeners.udp.max_new_connections_per_s: an instance of type dnlb keeps no sessions, and no datagram is the "
        "first; remove it, or use type nlb",
    ]
    assert errors(STATELESS.replace('mode = "dr" }', 'mode = "dr", max_new_connections_per_s = 9 }')) == []


@pytest.mark.parametrize(
    ("instance", "mode", "shared"), [("fast", "", 2), ("kept", "", 1), ("kept", ', mode = "dr"', 0)]
)
def test_stateless_answers_must_be_told_apart_by_the_server_alone(instance: str, mode: str, shared: int) -> None:
    """Whether the other listener keeps sessions or not, unless its answers do not come this way."""
    text = STATELESS.replace("]\nrules", SECOND % (instance, mode)).replace(
        '  { name = "local" },', '  { name = "local" }, { name = "kept", type = "nlb", vips = ["192.0.2.9"] },'
    )
    said = [
        error for error in errors(text.replace("port = 53", "port = 80" if mode else "port = 53")) if "answers" in error
    ]
    why = "10.0.0.31:80 answers for {} too, and no session tells whose it is; use mode dr, or servers of another port"
    both = [
        f"listeners.udp.backend_service: {why.format('dns2')}",
        f"listeners.dns2.backend_service: {why.format('udp')}",
    ]
    assert said == both[:shared]


def test_a_stateless_instance_keeps_no_clients() -> None:
    said = errors(STATELESS.replace("udp_idle_timeout_s = 30", "persistence_timeout_s = 30"))
    assert said == [
        "listeners.udp.persistence_timeout_s: an instance of type dnlb keeps nothing of its clients; "
        'remove it, and give the service scheduler = "sh"'
    ]


@pytest.mark.parametrize(
    ("attributes", "said"),
    [
        ('rate_limits = [{ rate_per_s = 5 }, { rate_per_s = 5.0 }]',
         "rate_limits[1]: the same limit stands in the list already; remove one"),
        ('rate_limits = [{ rate_per_s = 5, prefix = 24 }]',
         "rate_limits[0].prefix: prefix is for the key source, and this limit has none; give the key source, or remove "
         "it"),
        ('rate_limits = [{ rate_per_s = 5, key = "header:A", prefix_v6 = 48 }]',
         "rate_limits[0].prefix_v6: prefix_v6 is for the key source, and this limit has header:A; give the key source, "
         "or remove it"),
        ('rate_limits = [{ rate_per_s = 5, dry_run = true, max_delay_s = 1.5 }]',
         "rate_limits[0].max_delay_s: a limit that only counts delays nothing; remove it, or dry_run"),
        ('access_list = "known"', "access_list: acl is off, so that 'known' would admit and refuse nobody; "
         'give acl = "white" or "black", or remove it'),
        ('acl = "white"', "acl: white without a list; give access_list"),
    ],
)  # fmt: skip
def test_limits_of_rules_and_listeners_have_an_effect(attributes: str, said: str) -> None:
    rule = f'{{ name = "r", listener = "http", backend_service = "web", {attributes} }}'
    assert errors(SOUND.replace("rules = [", f"rules = [\n{rule},")) == [f"rules.r.{said}"]
    listener = f'name = "l", instance = "site", protocol = "http", port = 81, backend_service = "web", {attributes}'
    assert errors(SOUND.replace("listeners = [", f"listeners = [\n{{ {listener} }},")) == [f"listeners.l.{said}"]


@pytest.mark.parametrize(
    ("service", "rule", "said"),
    [
        ("server_max_connections = 9, queue_target_s = 0.05", "shed_first = true", []),
        ("server_max_connections = 9", "shed_first = true",
         ["rules.r.shed_first: nothing is shed: no backend service of the rule has queue_target_s; give the backend "
          "service queue_target_s, or remove it"]),
        ("queue_target_s = 0.05", "",
         ["backend_services.more.queue_target_s: nobody waits for a server without server_max_connections; give "
          "server_max_connections too, or remove it"]),
        ("server_max_connections = 9, queue_target_s = 0.05, queue_timeout_s = 0.4", "",
         ["backend_services.more.queue_target_s: it counts once a queue has not been empty for 10 times as long, and "
          "nobody waits so long in it; lower it, or raise queue_timeout_s"]),
    ],
    ids=["sound", "no target", "no queue", "too late"],
)  # fmt: skip
def test_a_target_needs_a_queue_and_shedding_a_target(service: str, rule: str, said: list[str]) -> None:
    service = f'{{ name = "more", protocol = "http", server_group = "be", {service} }}'
    rule = f'{{ name = "r", listener = "http", backend_service = "more"{rule and ", "}{rule} }}'
    text = SOUND.replace("backend_services = [", f"backend_services = [\n{service},")
    assert errors(text.replace("rules = [", f"rules = [\n{rule},")) == said


@pytest.mark.parametrize(
    ("rule", "said"),
    [
        ('backend_service = "web", mirror = { backend_service = "api" }', []),
        ('backend_service = "web", mirror = { backend_service = "web" }',
         ["rules.r.mirror.backend_service: web gets these requests already; name another backend service"]),
        ('fixed_reply = { body = "x" }, mirror = { backend_service = "api" }',
         ["rules.r.mirror: mirror is for what is forwarded, and fixed_reply is not; remove it, or give backend_service "
          "or split"]),
        ('backend_service = "web", mirror = { backend_service = "apu" }',
         ["rules.r.mirror.backend_service: none of the backend services is named 'apu'; did you mean api?"]),
    ],
    ids=["sound", "itself", "not forwarded", "unknown"],
)  # fmt: skip
def test_copies_go_to_another_service(rule: str, said: list[str]) -> None:
    rule = f'{{ name = "r", listener = "http", {rule} }}'
    assert errors(SOUND.replace("rules = [", f"rules = [\n{rule},")) == said


@pytest.mark.parametrize(
    "option",
    ["rate_limits = [{ rate_per_s = 1 }]", "max_body_bytes = 1", "max_head_bytes = 2000", "max_requests = 1",
     "max_requests_per_client = 1"],
)  # fmt: skip
def test_limits_of_requests_are_for_listeners_that_see_any(option: str) -> None:
    listener = f'name = "l", instance = "site", protocol = "tcp", port = 81, backend_service = "stream", {option}'
    name = option.partition(" ")[0]
    said = errors(SOUND.replace("listeners = [", f"listeners = [\n{{ {listener} }},"))
    assert any(each.startswith(f"listeners.l.{name}: {name} is for http and https listeners") for each in said)


def test_an_access_list_has_room_for_so_many() -> None:
    networks = [f"10.{n >> 8}.{n & 255}.{low}" for n in range(400) for low in range(256)]
    from_dict({"access_lists": [{"name": "a", "entries": networks[:100_000]}]})
    with pytest.raises(ConfigErrors, match=r"access_lists\.a\.entries: 100,001 networks; a list has at most 100,000"):
        from_dict({"access_lists": [{"name": "a", "entries": networks[:100_001]}]})


def test_a_member_without_zone_is_named() -> None:
    said = errors(SOUND.replace(', zone = "a"', ""))
    assert (
        "availability_groups.spread.members[0]: zone is missing; name the fault domain that this member stands in"
        in said
    )


def test_what_a_broken_object_is_referred_by_is_not_reported() -> None:
    said = errors(SOUND.replace('"web", protocol = "http"', '"web", protocol = "htp"'))
    why = "'htp' is not known; did you mean http? give tcp, udp, http, h2 or h2c"
    assert said == [f"backend_services.web.protocol: {why}"]


@pytest.mark.parametrize("given", ['vips = ["127.0.0.1"]', "vips = []"])
def test_servers_on_the_same_machine_are_fine_for_http(given: str) -> None:
    text = f"""
    instances = [{{ name = "default", {given} }}]
    listeners = [{{ protocol = "http", port = 8000, servers = ["127.0.0.1:9000"] }}]
    """
    assert errors(text) == []


def test_the_same_port_on_vips_of_their_own_is_fine() -> None:
    text = SOUND.replace('name = "local"', 'name = "local", vips = ["192.0.2.9"]').replace("port = 8000", "port = 80")
    assert errors(text) == []


def test_the_l7_tier_on_every_address_leaves_the_ports_of_the_l4_tier_alone() -> None:
    assert errors(SOUND.replace('protocol = "udp", port = 80', 'protocol = "udp", port = 8000')) == []
    text = SOUND.replace('mode = "dr"', 'mode = "nat"').replace(
        'protocol = "tcp", port = 80', 'protocol = "tcp", port = 8000'
    )
    assert errors(text) == []


def test_full_nat_needs_sessions() -> None:
    text = STATELESS.replace('role = "l4"', 'role = "l4", source_pool = ["10.0.9.1"]')
    (error,) = errors(text.replace('mode = "dr"', 'mode = "fullnat"'))
    assert error == (
        "listeners.tcp.mode: an instance of type dnlb keeps no sessions, without which fullnat cannot tell whose an "
        "answer is; use another mode, or an instance of type nlb"
    )


def test_full_nat_with_a_pool_is_sound() -> None:
    text = SOUND.replace('role = "l4"', 'role = "l4", source_pool = ["10.0.9.1"]')
    assert errors(text.replace('mode = "dr"', 'mode = "fullnat"')) == []


DUAL = (
    SOUND.replace('vips = ["192.0.2.2"]', 'vips = ["192.0.2.2", "2001:db8::2"]')
    .replace('vips = ["192.0.2.1"]', 'vips = ["192.0.2.1", "2001:db8::1"]')
    .replace('"10.0.0.32"', '"2001:db8::32"')
    .replace('"10.0.0.21"', '"10.0.0.21", address_v6 = "2001:db8::21"')
)


def test_both_ip_versions_side_by_side_are_sound() -> None:
    assert errors(DUAL) == []


def test_an_empty_group_is_of_no_version() -> None:
    both = 'servers = [{ address = "10.0.0.31", port = 80 }, { address = "2001:db8::32", port = 80 }]'
    assert DUAL.count(both) == 1
    assert errors(DUAL.replace(both, "servers = []")) == []


def test_full_nat_needs_a_pool_of_each_version() -> None:
    text = DUAL.replace('mode = "dr"', 'mode = "fullnat"')
    (error,) = errors(text.replace('role = "l4"', 'role = "l4", source_pool = ["2001:db8:9::1"]'))
    assert error == (
        "listeners.tcp.mode: mode fullnat takes its IPv4 source addresses from each node's pool, and l4-1 has none; "
        "give the node source_pool"
    )
    pool = [f"10.0.9.{n}" for n in range(16)] + [f"2001:db8:9::{n:x}" for n in range(1, 17)]
    assert errors(text.replace('role = "l4"', f'role = "l4", source_pool = {pool}')) == []


def test_a_stateless_nat_instance_may_have_a_vip_of_each_version() -> None:
    text = DUAL.replace('type = "nlb"', 'type = "dnlb"').replace('"spread" }', '"spread", scheduler = "sh" }')
    assert errors(text) == []
    (error,) = errors(text.replace('"2001:db8::2"', '"2001:db8::2", "2001:db8::3"'))
    assert "fast has 2 IPv6 VIPs and keeps no sessions" in error


def test_the_l7_nodes_second_address_is_no_vip() -> None:
    (error,) = errors(DUAL.replace('"192.0.2.1", "2001:db8::1"', '"192.0.2.1", "2001:db8::21"'))
    assert error.startswith("instances.site.vips[1]: 2001:db8::21 is the address of node l7-1; ")


def test_pages_are_not_without_number() -> None:
    listed = ", ".join(f'{{ status = "{400 + n}", body = "a" }}' for n in range(33))
    text = SOUND.replace('name = "http", ', f'name = "http", error_pages = [{listed}], ')
    assert errors(text) == ["listeners.http.error_pages: 33 of them; at most 32 are kept; remove some"]
