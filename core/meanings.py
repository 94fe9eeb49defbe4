"""What the reference page says of the model beyond types and ranges: rules between objects, what attributes are for.

A test holds it to the model, so that no attribute is without its word.
"""

from __future__ import annotations

from collections.abc import Mapping

from core.acme import Acme
from core.model import (
    ACCESS_LIST_ENTRIES,
    HASH_SCHEDULERS,
    L4_SCHEDULERS,
    L7_SCHEDULERS,
    MOST_POOL_ADDRESSES,
    AccessList,
    Authentication,
    AvailabilityGroup,
    BackendService,
    Basic,
    CaCertificate,
    Certificate,
    Certified,
    Compression,
    Condition,
    Cors,
    DnsName,
    Ejection,
    ErrorPage,
    FixedReply,
    ForwardAuth,
    HeaderChange,
    HealthCheck,
    Instance,
    Jwt,
    Kind,
    Listener,
    Maintenance,
    Mirror,
    Node,
    RateLimit,
    Redirect,
    RedirectMap,
    Rewrite,
    Rule,
    Server,
    ServerGroup,
    Share,
    StickySession,
)
from core.reader import in_words
from core.redirects import ENTRIES_MOST

# What holds between objects, in the order of the kinds. `core.checks` enforces it.
RULES = {
    Kind.NODES: "Two nodes of one role have different addresses. An address in a `source_pool` stands nowhere else. "
    f"A pool has at most {MOST_POOL_ADDRESSES} addresses of each IP version.",
    Kind.ACCESS_LISTS: f"At most {ACCESS_LIST_ENTRIES:,} networks, each of which stands once in a list. White with an "
    "empty list admits nobody, black with an empty list everybody.",
    Kind.REDIRECT_MAPS: f"`entries_file` and `entries` exclude each other. At most {ENTRIES_MOST:,} entries, each FROM "
    "once; none leads round in a circle. See [redirect maps](redirects.md).",
    Kind.CERTIFICATES: "`chain_file` and `chain` exclude each other; `key_file` needs one of them; `domains` stands "
    "where there is no `chain_file`.",
    Kind.CA_CERTIFICATES: "`bundle_file` and `bundle` exclude each other, one of them is given; `crl_file` and `crl` "
    "exclude each other.",
    Kind.SERVER_GROUPS: "An address and port stand once in a group.",
    Kind.AVAILABILITY_GROUPS: "An address and port stand once in a group. In a group with `dns`, `file` or "
    "`registered` members need not name zones, and the nodes look at how it is spread. See "
    "[servers](upstreams.md#members-from-dns).",
    Kind.BACKEND_SERVICES: "The scheduler is one of "
    f"{in_words(sorted(L7_SCHEDULERS), 'and')} for http, h2 and h2c, {in_words(sorted(L4_SCHEDULERS), 'and')} for "
    "tcp and udp. A service of protocol udp is checked by udp unless its check has another type. "
    "`health_check = false` turns checks off: every server then counts as healthy. `ejection = false` turns ejection "
    "off. Following fallbacks comes to an end. With sh and ch there is no slow start. A group with unix sockets is for "
    "services of http, h2 and h2c.",
    Kind.AUTHENTICATIONS: "One of `basic`, `jwt`, `forward` and `certificate`. "
    "Rules with `certificate` are of listeners with `ca_certificate`. `forward`, and `jwt` with `jwks_url`, have a "
    "`backend_service` of http, h2 or h2c, the others none. `jwt` has one of `jwks`, `jwks_url` and `secret_file`; "
    "with the last, and only then, its algorithms are of HS256, HS384 and HS512. The fields that servers are told have "
    "different names, none of which the L7 tier acts on or `request_headers` of a rule change.",
    Kind.INSTANCES: "A VIP is the address of no server and of no node. An instance of type dnlb keeps no sessions: its "
    f"services are scheduled by {in_words(sorted(HASH_SCHEDULERS), 'or')}; in mode nat it has one VIP of each IP "
    "version, and no other nat listener of its protocol shares its servers' ports. Packets are not translated between "
    "IP versions: a VIP of a tcp or udp listener needs servers of its own version, and uses those of a group that has "
    "both; a VIP of an http or https listener behind l4 nodes needs l7 nodes that have an address of its version.",
    Kind.LISTENERS: "http and https listeners belong to an instance of type alb and forward to backend services of "
    "protocol http, h2 or h2c, by `backend_service`, by rules, or both; an http listener may redirect what no rule "
    "matches to an https listener of its instance. "
    "tcp and udp listeners belong to an instance of type nlb or dnlb with VIPs, and "
    "forward to a `backend_service` of their own protocol. Two listeners never share address, transport "
    "and port: http and https are of TCP, and without `vips` an instance answers on every address. An https "
    "listener has certificates; its `acme_backend_service` is of protocol tcp, with a scheduler that http has too. In "
    "the modes dr and tunnel the servers have the listener's port. Mode fullnat needs "
    "an instance of type nlb and, on every l4 node, a `source_pool` with addresses of each IP version of its VIPs. "
    "`acl` and `access_list` are given together; they look at the address that a connection comes from, in both tiers. "
    "Limits are of the whole cluster, kept by the l4 nodes for tcp and udp, by the l7 nodes for http and https; "
    "0 is no limit. See [L4](l4.md#limits) and [the proxy](proxy.md#limits).",
    Kind.RULES: "Rules are for http and https listeners. A rule has one of `backend_service`, `split`, `redirect`, "
    "`redirect_map` and `fixed_reply`, and not both `path` and `url`. Domains are compared without regard to case; "
    "those of other alphabets are given in their ASCII form (`xn--…`). Paths are given as they are forwarded "
    "([decision 0020](decisions/0020-paths.md)). A rule that could never be reached, because another one that matches "
    "the same requests comes first, is an error.",
}

ACME_RULES = (
    "Names with `*` and addresses cannot be proved. http-01 needs an http listener, tls-alpn-01 an https one; "
    "no listener has an `acme_backend_service`, since `paifang up` adds its own objects, named `paifang-acme…`. "
    "See [certificates](certificates.md#on-one-machine)."
)

NAME = "what others call it by"
ABOUT = {"description": "what it is, for people", "tags": "what it belongs to, for people and for finding it"}
# What each attribute is for, where its name and the prose do not say it all. A test holds it to the model.
MEANINGS: Mapping[type, Mapping[str, str]] = {
    Node: {
        "name": "as in its certificate",
        "role": "what runs there",
        "address": "where its peers, and the L4 tier, reach it",
        "address_v6": "where the L4 tier hands an l7 node the traffic of IPv6 VIPs, if `address` is of IPv4",
        "health_port": "answers `GET /ready`",
        "zone": "the fault domain that an l7 node stands in; see [servers](upstreams.md#zones)",
        "source_pool": "what mode fullnat puts in the clients' place on this l4 node; routed to it",
        **ABOUT,
    },
    AccessList: {"name": NAME, "entries": "clients' addresses", **ABOUT},
    RedirectMap: {
        "name": NAME,
        "entries_file": "a file with the entries; see [redirect maps](redirects.md)",
        "entries": "the same as text: lines of FROM TO, or FROM TO STATUS",
        "status": "of entries that say none: 301, 302, 303, 307 or 308",
        "keep_query": "whether the request's query is added to TO, where FROM has none",
        **ABOUT,
    },
    Certificate: {
        "name": NAME,
        "chain_file": "the leaf and its intermediates, PEM",
        "chain": "the same as text",
        "key_file": "the private key, for the key server alone",
        "domains": "what a development certificate is issued for",
        **ABOUT,
    },
    CaCertificate: {
        "name": NAME,
        "bundle_file": "the authorities, PEM; each is trusted, self-signed or not",
        "bundle": "the same as text",
        "crl_file": "revocation lists of theirs, PEM",
        "crl": "the same as text",
        **ABOUT,
    },
    ServerGroup: {"name": NAME, "servers": "where traffic goes", **ABOUT},
    AvailabilityGroup: {
        "name": NAME,
        "members": "where traffic goes",
        "dns": "names of more members",
        "file": "on the nodes, in TOML or (`….json`) JSON, with more members; see "
        "[servers](upstreams.md#members-from-a-file)",
        "registered": "whether members may register themselves; see "
        "[servers](upstreams.md#members-that-register-themselves)",
        "min_zones": "how many zones the members stand in at least",
        "min_racks": "how many racks, of all zones together",
        "max_percent_per_zone": "how much of the weight may stand in one zone; 0: any part",
        "resolvers": "the name servers that are asked; none: those of the node's /etc/resolv.conf",
        **ABOUT,
    },
    DnsName: {
        "name": "absolute, from the root",
        "type": "the records that are asked for",
        "port": "of the members; none for srv",
        "weight": "of each member; of srv records that of the heaviest, the others' in proportion",
        "zone": "the fault domain of the members",
    },
    Server: {
        "address": "where it is reached; a socket's path for services of http, h2 and h2c",
        "port": "where it is reached; none of a socket",
        "weight": "its part of the traffic, relative to the others'; 0 drains it",
        "zone": "the fault domain, such as a data centre",
        "rack": "the fault domain within the zone",
    },
    BackendService: {
        "name": NAME,
        "protocol": "what the servers speak: http is HTTP/1.1, h2 is HTTP/2 by TLS, h2c is HTTP/2 without; see "
        "[servers](upstreams.md#http2)",
        "server_group": "its servers",
        "availability_group": "its servers",
        "scheduler": "who gets the next connection or request: in turn (rr), by weight (wrr), the least busy (lc), the "
        "least busy for its weight (wlc), by consistent hash of the client's address (sh), of both addresses and ports "
        "(tch), of these and the protocol (maglev), by the better of two in latency and open requests (p2c), by "
        "consistent hash of `hash_key` up to 1.25 times the fair share (ch)",
        "hash_key": "what ch hashes: the client's address, the path, or a field or cookie; requests without it go "
        "by the client's address",
        "health_check": "how servers are checked",
        "connect_timeout_s": "how long the L7 tier waits for a connection to a server",
        "first_byte_timeout_s": "from the end of a request to the first byte of its answer; 0: the listener's "
        "`request_timeout_s`",
        "idle_timeout_s": "between two reads of an answer; 0: the listener's `request_timeout_s`",
        "total_timeout_s": "from a request's head to the end of its answer, but for WebSockets; 0: no limit",
        "server_max_connections": "to each server from each L7 node, whose worker processes have equal parts of it, "
        "one at least; 0: no limit",
        "server_max_queue": "requests that may wait for each server that takes any, on each L7 node, when all servers "
        "have as many connections as they may",
        "queue_timeout_s": "how long a request waits so; then 503",
        "queue_target_s": "how long it should wait while more comes than the servers do: once a queue has not been "
        "empty for ten times as long, the newest go first, and older ones get 503; 0: they wait in their order; see "
        "[limits](limits.md#overload)",
        "retry_percent": "of the requests that may be sent a second time",
        "retry_min_per_s": "how many may be in any case, of each L7 node; its workers have equal parts",
        "ejection": "leaves out servers that fail requests",
        "slow_start_s": "a server that is added or comes back gets its share of requests in steps over this time; 0: "
        "at once",
        "tls": "whether servers are spoken to by TLS; see [servers](upstreams.md#tls-and-sockets)",
        "tls_verify": "whether their certificates are verified",
        "tls_server_name": "the name in their certificates, which is sent as SNI too; empty: a server's address",
        "tls_ca_certificate": "the authorities of their certificates; empty: those that the L7 node's machine trusts",
        "proxy_protocol": "the version of the PROXY protocol by which servers are told whose a connection is; see "
        "[the page](proxy-protocol.md#towards-servers)",
        "fallback": "takes the requests that no server of this service takes; without it they get 503",
        "sticky_session": "keeps clients at their servers",
        **ABOUT,
    },
    Ejection: {
        "failures": "requests in a row that a server fails: no connection, or none that lasts to a sound answer; 0: "
        "not counted",
        "errors": "answers in a row with a status of 5xx; 0: not counted",
        "first_s": "how long the first ejection lasts",
        "longest_s": "how long any lasts at most",
        "max_percent": "of the servers that may be out, those included that their checks have found unhealthy; "
        "otherwise none is ejected",
    },
    StickySession: {
        "type": "whose the cookie is",
        "cookie": "its name; with type server that of the servers' own, which has to be given",
        "cookie_timeout_s": "how long it is good after its last renewal; with type server that is the servers' to say",
    },
    HealthCheck: {
        "type": "how to ask",
        "interval_s": "from one check to the next",
        "timeout_s": "after which a check has failed",
        "rise": "successes in a row that make a server healthy",
        "fall": "failures in a row that make a server unhealthy",
        "port": "where to ask; 0: the server's own port",
        "method": "of the request",
        "uri": "of the request",
        "domain": "the request's Host; empty: the server's address",
        "codes": "statuses that mean healthy",
        "service": "what is asked for; empty: the server as a whole",
        "request": "what is sent",
        "expect": "what the reply contains",
    },
    Instance: {
        "name": NAME,
        "type": "layer 7 (alb), layer 4 (nlb), layer 4 without sessions (dnlb)",
        "vips": "the addresses that clients know",
        "bandwidth_in_mbit_s": "what clients may send to all its listeners together",
        "bandwidth_out_mbit_s": "what may be sent to them",
        "modification_protection": "whether the API refuses to change it or its listeners",
        "deletion_protection": "whether the API refuses to delete it or its listeners",
        **ABOUT,
    },
    Listener: {
        "name": NAME,
        "instance": "whose addresses it answers on",
        "protocol": "what clients speak",
        "port": "where it answers",
        "backend_service": "where requests go that no rule matches; all traffic of tcp and udp",
        "mode": "destination rewritten (nat), source too (fullnat), or the VIP kept and the packet handed over on the "
        "LAN (dr) or inside another one (tunnel)",
        "certificates": "the first is for clients that name no domain, or one that none covers",
        "established_timeout_s": "after which a silent TCP session is forgotten by the L4 tier",
        "udp_idle_timeout_s": "after which a silent UDP session is forgotten",
        "persistence_timeout_s": "how long after its last new connection a client finds the same server; 0: not kept",
        "persistence_prefix": "how many leading bits of an IPv4 address make one client",
        "persistence_prefix_v6": "the same of an IPv6 address",
        "idle_timeout_s": "how long a connection may wait for its next request",
        "request_timeout_s": "how long a server may take to answer; then 504",
        "trusted_proxies": "whose X-Forwarded-* headers are believed",
        "proxy_protocol": "whether connections begin with a header of the PROXY protocol, version 1 or 2; see "
        "[the page](proxy-protocol.md)",
        "proxy_protocol_from": "who sends it, and may tell any client's address by it: networks of your proxies alone",
        "bandwidth_in_mbit_s": "what clients may send",
        "bandwidth_out_mbit_s": "what may be sent to them; of tcp and udp in the modes nat and fullnat, since other "
        "answers do not pass the L4 tier",
        "max_connections": "connections at a time",
        "max_new_connections_per_s": "connections that may begin in a second",
        "acl": "who may connect: everybody (off), those in the list (white), or everybody else (black)",
        "access_list": "the list",
        "tls_policy": "versions and cipher suites; see [TLS](tls.md)",
        "hsts_max_age_s": "how long browsers use https alone for this host (Strict-Transport-Security); 0: not said",
        "hsts_include_subdomains": "the same for its subdomains",
        "hsts_preload": "consent to be in browsers' lists",
        "ca_certificate": "asks clients for a certificate of these authorities",
        "client_certificate": "whether a client without one is admitted (optional)",
        "client_certificate_fields": "in which fields servers are told of it; see [TLS](tls.md#client-certificates)",
        "handshake_timeout_s": "how long a TLS handshake may take",
        "max_handshakes_per_client": "TLS handshakes at a time of one IPv4 address or IPv6 /64, in each worker "
        "process; 0: any number",
        "head_timeout_s": "from a request head's first byte to its last",
        "body_timeout_s": "how long a request body may pause",
        "min_body_rate_bytes_s": "what a request body has to come at on the whole; 0: only pauses count",
        "send_timeout_s": "how long a client may leave an answer unread",
        "max_connections_per_client": "connections at a time of one IPv4 address or IPv6 /64, in each worker process; "
        "0: any number",
        "acme_backend_service": "where an ACME CA's handshakes (ALPN `acme-tls/1`) are led, byte by byte: the issuer",
        "https_redirect_port": "redirects requests that no rule matches to https on this port; 0: does not",
        "x_forwarded_for": "whether servers are told the client's address (X-Forwarded-For, X-Real-IP)",
        "x_forwarded_proto": "whether they are told http or https (X-Forwarded-Proto)",
        "x_forwarded_port": "whether they are told the listener's port (X-Forwarded-Port)",
        "x_forwarded_client_port": "whether they are told the client's port (X-Forwarded-Client-srcport)",
        "x_forwarded_slb_ip": "whether they are told the address that the client came to (SLB-IP)",
        "x_forwarded_slb_id": "whether they are told the instance's name (SLB-ID)",
        "underscored_fields": "whether fields of requests whose names have an underscore pass; see "
        "[fields](proxy.md#the-way-of-a-request)",
        "cors": "which pages of other origins may ask and read; see [response headers](response-headers.md#cors)",
        "security_headers": "fields that tell browsers to be careful; see "
        "[response headers](response-headers.md#presets)",
        "http2": "whether clients are offered HTTP/2 in the TLS handshake; see [HTTP/2](http2.md)",
        "http2_prior_knowledge": "whether a connection that begins as one of HTTP/2 is one, without TLS",
        "drain": "whether sessions go on for a while with a server that has been removed, or with all servers when the "
        "listener has; see [L4](l4.md#draining)",
        "drain_timeout_s": "how long; then they end",
        "enabled": "whether it answers; a stopped listener keeps its port and its settings",
        "rate_limits": "how many requests it takes in a second; see [limits](limits.md)",
        "max_head_bytes": "how long a request's head may be; longer ones get 431",
        "max_body_bytes": "how long a request's body may be; longer ones get 413; 0: any length",
        "max_requests": "requests at a time; more get 503; 0: any number",
        "max_requests_per_client": "the same of one IPv4 address or IPv6 /64, in each worker process; more get 429",
        "compression": "compresses answers; see [compression](compression.md)",
        "error_pages": "what clients get with errors; see [error pages](error-pages.md)",
        "maintenance": "closes it to all but testers; see [maintenance](error-pages.md#maintenance)",
        **ABOUT,
    },
    Acme: {
        "email": "where the CA may write to",
        "agree_tos": "whether you agree to the CA's terms of service; has to be true",
        "directory": "the CA's directory",
        "directory_ca_file": "what its own certificate is checked against, PEM; none: what the machine trusts",
        "challenge": "how the CA proves names: http-01 with http on port 80, else tls-alpn-01 with https on port 443 "
        "(auto)",
    },
    Rule: {
        "name": NAME,
        "listener": "whose requests it is for",
        "backend_service": "where they go",
        "domain": "the request's host: exact, or `*.` and what follows",
        "url": "what the request's path starts with, by whole segments",
        "path": "the request's whole path",
        "pattern": "what the request's path looks like, besides `url`: `/users/*/photos`",
        "methods": "one of which the request has",
        "headers": "fields that it has to have, as the client sent them; names without regard to case",
        "queries": "parameters that its query has to have, decoded",
        "cookies": "cookies that it has to have",
        "priority": "who is asked first: 1 before 2 before all without one; 0: none",
        "redirect": "sends the client elsewhere",
        "redirect_map": "sends those clients elsewhere whose request the map has; others are for the rules that follow",
        "fixed_reply": "answers without a server",
        "split": "where they go, each to one of these",
        "split_by": "what always goes to the same part of a split: the client's address, the path, or a field or "
        "cookie; requests without it go by the client's address; empty: the parts take turns",
        "rewrite": "what the server is asked for instead",
        "request_headers": "changes of what the server gets",
        "response_headers": "changes of what the client gets",
        "authentication": "how whoever asks proves who that is; see [authentication](authentication.md)",
        "cors": "which pages of other origins may ask and read; see [response headers](response-headers.md#cors)",
        "security_headers": "fields that tell browsers to be careful; see "
        "[response headers](response-headers.md#presets)",
        "scheduler": "as of a backend service",
        "hash_key": "as of a backend service",
        "health_check": "as of a backend service",
        "sticky_session": "as of a backend service",
        "rate_limits": "how many requests go by it in a second, besides the listener's; see [limits](limits.md)",
        "mirror": "copies of its requests, whose answers nobody gets; see [limits](limits.md#mirrored-requests)",
        "shed_first": "whether its requests are refused first when a queue grows; see [limits](limits.md#overload)",
        "acl": "whose requests are answered, besides what the listener says: everybody's (off), those of clients in "
        "the list (white), or everybody else's (black); the others get 403",
        "access_list": "the list",
        "max_body_bytes": "in place of the listener's; 0: the listener's",
        "max_requests": "requests at a time that go by it, besides the listener's; more get 503; 0: any number",
        "max_requests_per_client": "the same of one client; more get 429",
        "compression": "as of the listener, in place of all of it; `codings = []` turns it off",
        "error_pages": "as of the listener, which are asked for what these are not for",
        "maintenance": "as of the listener, in place of all of it",
        **ABOUT,
    },
    Compression: {
        "codings": "what answers may be compressed by, the first that the client likes best; none: not at all",
        "zstd_level": "more compresses better and takes longer",
        "brotli_level": "more compresses better and takes longer",
        "gzip_level": "more compresses better and takes longer",
        "min_bytes": "shorter answers are left alone, where their length is known; an empty one always is",
        "types": "of answers that are compressed; `*` stands for any characters",
        "personal": "answers to requests with cookies or credentials, and those that set cookies, are not compressed "
        "(never), only style sheets, scripts, pictures, fonts and what `Cache-Control: public` says is for all "
        "(static), or as all others (always)",
    },
    Maintenance: {
        "enabled": "whether it is closed; what else stands here can be kept for the next time",
        "retry_after_s": "what clients are told to wait (Retry-After); 0: nothing",
        "clients": "who gets in, by address",
        "headers": "who gets in, by a field with one of the values, which one of these has to hold",
        "cookies": "the same of cookies",
        "content_type": "of the page",
        "body": "the page, as of an error page",
        "body_file": "the same as a file, UTF-8",
    },
    ErrorPage: {
        "status": "that it is for",
        "content_type": "of the page; what stands for something in it is escaped for HTML, XML or JSON",
        "body": "the page",
        "body_file": "the same as a file, UTF-8",
        "servers": "whether it takes the place of servers' answers of this status too",
    },
    Share: {
        "backend_service": "where its part goes",
        "weight": "its part, relative to the others'",
        "headers": "fields, one of which sends a request there whatever the weights",
        "cookies": "cookies, one of which does, where no part's `headers` do",
    },
    Mirror: {
        "backend_service": "where copies go",
        "percent": "of the requests, evenly",
        "max_body_bytes": "requests with a longer body are not copied",
    },
    RateLimit: {
        "rate_per_s": "of the whole cluster; each L7 node lets through its part",
        "burst": "how many may come at once; 0: as many as in a second, one at least",
        "key": "what is counted apart: clients' addresses (source), paths, or the values of a field or cookie; none: "
        "all requests together",
        "prefix": "how many leading bits of an IPv4 address make one client, with the key `source`",
        "prefix_v6": "the same of an IPv6 address",
        "max_delay_s": "how long a request may wait for its turn; 0: what is more is refused at once",
        "dry_run": "only counts what it would have refused",
    },
    Rewrite: {"host": "for the server", "path": "for the server", "query": "for the server"},
    HeaderChange: {
        "name": "none of those that the L7 tier acts on, such as Connection, Host, X-Forwarded-For",
        "action": "what happens to it",
        "value": "of `set` and `add`",
    },
    Cors: {
        "origins": "of the pages: scheme, host and port, if it is not the scheme's own",
        "methods": "that scripts may send; GET, HEAD and POST can always be sent",
        "headers": "fields that scripts may send besides the usual ones",
        "exposed_headers": "fields of answers that scripts may read besides the usual ones",
        "credentials": "whether scripts may send cookies and the like, and read what comes back",
        "max_age_s": "how long browsers remember what they were told",
    },
    Authentication: {
        "name": NAME,
        "basic": "by name and password",
        "jwt": "by a signed token",
        "forward": "by another service's word",
        "certificate": "by the certificate that the listener has verified",
        "backend_service": "that service; with `jwks_url`, the one that has the keys",
        "user_field": "tells servers who it is; empty: they are not told",
        "pass_credentials": "whether servers get the Authorization field, or the field of the token, as well",
        **ABOUT,
    },
    Basic: {
        "users_file": "a line for each user: NAME:HASH",
        "realm": "what browsers call it when they ask for the password",
        "max_failures_per_min": "of one IPv4 address or IPv6 /64, in each worker process; 0: any number",
    },
    Jwt: {
        "jwks": "the keys",
        "jwks_url": "where the keys are",
        "jwks_interval_s": "how often they are fetched anew",
        "secret_file": "the secret: all of the file but line ends at its end",
        "algorithms": "what tokens may be signed by",
        "issuer": "the claim `iss`; empty: any",
        "audiences": "one of which is in the claim `aud`; none: any",
        "leeway_s": "how far clocks may be apart",
        "token": "where requests have it",
        "required_claims": "claims and what they are, have among their items or, of `scope`, among their words; "
        "an empty text: that they are there",
        "claim_fields": "claims that servers are told, and by which fields",
        "realm": "what the refusal calls it",
    },
    Certified: {
        "common_names": "of its subject",
        "names": "alternative ones: host names, mail addresses, URIs",
        "issuers": "the name of its issuer, as RFC 4514 writes it: `CN=Partners,O=Example`",
        "sha256": "the hash of its DER",
    },
    ForwardAuth: {
        "path": "what is asked for; a query may follow a ?",
        "host": "the Host; empty: that of the request",
        "request_fields": "of the client, which it is shown",
        "copied_fields": "of its answer, which servers get",
        "timeout_s": "how long it may take",
        "fail_open": "whether requests pass when it does not answer",
    },
    Condition: {"name": "what it has to have", "values": "one of which it has to have"},
    Redirect: {
        "status": "301, 302, 303, 307 or 308; the last two keep the method",
        "protocol": "of the new place",
        "host": "of the new place",
        "port": "of the new place; 0: the request's, or the protocol's own where `protocol` or `host` change",
        "path": "of the new place",
        "query": "of the new place",
    },
    FixedReply: {
        "status": "3xx are for `redirect`",
        "content_type": "of the body",
        "body": "sent as UTF-8",
    },
}

# Tables inside objects, and below which kind they are explained.
INNER: Mapping[type, Kind] = {
    Server: Kind.SERVER_GROUPS,
    DnsName: Kind.AVAILABILITY_GROUPS,
    HealthCheck: Kind.BACKEND_SERVICES,
    Ejection: Kind.BACKEND_SERVICES,
    StickySession: Kind.BACKEND_SERVICES,
    Compression: Kind.LISTENERS,
    ErrorPage: Kind.LISTENERS,
    Maintenance: Kind.LISTENERS,
    Condition: Kind.RULES,
    Basic: Kind.AUTHENTICATIONS,
    Jwt: Kind.AUTHENTICATIONS,
    ForwardAuth: Kind.AUTHENTICATIONS,
    Certified: Kind.AUTHENTICATIONS,
    Cors: Kind.RULES,
    Redirect: Kind.RULES,
    FixedReply: Kind.RULES,
    Share: Kind.RULES,
    Rewrite: Kind.RULES,
    HeaderChange: Kind.RULES,
    RateLimit: Kind.RULES,
    Mirror: Kind.RULES,
}
