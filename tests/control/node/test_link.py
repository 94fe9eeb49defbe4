"""The link against a control plane of the test's own, over real mutual TLS."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from importlib.metadata import version
from pathlib import Path

import pytest
from aiohttp import web

from control.node import link as link_module
from control.node.identity import Identity, peer_of
from control.node.link import Backoff, ControlLink, LinkError
from control.node.metering import Metering
from control.node.tasks import Tasks
from control.reconcile import SILENT_AFTER_S
from core.config import from_dict, to_dict
from core.delta import difference
from core.model import Instance, Model
from tests.control.conftest import Authority


def model(*names: str) -> Model:
    return from_dict({"instances": [{"name": name} for name in names]})


class Control:
    """Serves `config` as version `version` by long poll and keeps the reports."""

    def __init__(self, identity: Identity) -> None:
        self.identity = identity
        self.version, self.config = 0, Model()
        self.besides: dict[str, object] = {}
        self.changed = asyncio.Condition()
        self.reports: list[dict[str, object]] = []
        self.reported = asyncio.Condition()
        self.peers: set[tuple[str, str]] = set()
        self.port = 0
        self.polls = 0
        self.tags: list[str] = []
        self.identities: list[dict[str, object]] = []

    async def publish(self, version: int, config: Model) -> None:
        async with self.changed:
            self.version, self.config = version, config
            self.changed.notify_all()

    async def wait_report(self, wanted: Callable[[dict[str, object]], bool]) -> dict[str, object]:
        async with asyncio.timeout(10), self.reported:
            while not (found := [report for report in self.reports if wanted(report)]):
                await self.reported.wait()
        return found[0]

    async def _config(self, request: web.Request) -> web.Response:
        assert request.transport is not None
        self.peers.add(peer_of(request.transport.get_extra_info("ssl_object")))
        self.polls += 1
        after = int(request.query["after"])
        self.tags.append(request.query["tag"])
        async with self.changed:
            try:
                async with asyncio.timeout(float(request.query["wait"])):
                    await self.changed.wait_for(lambda: self.version != after)
            except TimeoutError:
                return web.Response(status=204)
            answer = {"version": self.version, "config": to_dict(self.config), **self.besides}
            return web.json_response(answer)

    async def _report(self, request: web.Request) -> web.Response:
        async with self.reported:
            report = await request.json()
            self.identities.append(report["report"].pop("identity"))
            assert report["report"].pop("software") == version("paifang")
            self.reports.append(report)
            self.reported.notify_all()
        return web.Response(status=204)

    @asynccontextmanager
    async def serving(self, port: int = 0) -> AsyncIterator[str]:
        app = web.Application()
        app.add_routes([web.get("/v1/node/config", self._config), web.post("/v1/node/report", self._report)])
        runner = web.AppRunner(app, shutdown_timeout=0.1)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", port, ssl_context=self.identity.server_context({"l7"}))
        await site.start()
        self.port = runner.addresses[0][1]
        try:
            yield f"https://127.0.0.1:{self.port}"
        finally:
            await runner.cleanup()


class Node:
    """Applies what it is given unless an instance is called "bad"; remembers."""

    def __init__(self, directory: Path) -> None:
        self.state = directory / "state"
        self.applied: list[tuple[int, Model]] = []
        self.bad: set[str] = {"bad"}
        self.event = asyncio.Event()
        self.secrets: list[bytes] = []

    async def apply(self, config: Model, version: int) -> None:
        if self.bad & config.instances.keys():
            raise RuntimeError("port 443 is in use")
        self.applied.append((version, config))
        self.event.set()

    async def wait_applied(self) -> None:
        async with asyncio.timeout(10):
            await self.event.wait()
        self.event.clear()

    async def wait_kept(self, version: int) -> None:
        """Until the copy is of this version, which is after it is reported."""
        copy = self.state / "config.json"
        async with asyncio.timeout(20):
            while not copy.exists() or json.loads(copy.read_text())["version"] != version:
                await asyncio.sleep(0.01)

    @asynccontextmanager
    async def linked(self, identity: Identity, url: str) -> AsyncIterator[ControlLink]:
        link = ControlLink(
            url=url, identity=identity, state=self.state, apply=self.apply, report=lambda: {"up": 1},
            take_cookie_secret=self.secrets.append,
        )  # fmt: skip
        tasks = Tasks()
        task = tasks.spawn(link.run(), "link")
        try:
            yield link
            assert not task.done()
        finally:
            await tasks.close()
            await asyncio.sleep(0.02)  # aiohttp closes TLS transports in the next turns


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(link_module, "BACKOFF_S", (0.01, 0.05))
    monkeypatch.setattr(link_module, "RETRY_REJECTED_S", (0.05, 0.1))


@pytest.fixture
async def control(authority: Authority) -> Control:
    return Control(Identity.load(authority.issue("control", "c")))


@pytest.fixture
def l7(authority: Authority) -> Identity:
    return Identity.load(authority.issue("l7", "l7-1"))


async def test_versions_are_followed_kept_and_reported(control: Control, l7: Identity, tmp_path: Path) -> None:
    node = Node(tmp_path)
    await control.publish(3, model("a"))
    async with control.serving() as url, node.linked(l7, url) as link:
        await node.wait_applied()
        await control.publish(4, model("a", "b"))
        await node.wait_applied()
        report = await control.wait_report(lambda report: report["version"] == 4)
        assert link.version == 4
        assert link.connected
        await node.wait_kept(4)
    assert node.applied == [(3, model("a")), (4, model("a", "b"))]
    assert report == {"version": 4, "rejected": None, "report": {"up": 1}}
    assert control.identities[-1] == {"ends": l7.ends, "problem": ""}
    assert control.peers == {("l7", "l7-1")}
    kept = json.loads((node.state / "config.json").read_text())
    assert kept == {"version": 4, "config": to_dict(model("a", "b"))}


async def test_changes_alone_are_read_by_whoever_has_the_version_before(
    control: Control, l7: Identity, tmp_path: Path
) -> None:
    node = Node(tmp_path)
    control.besides = {"tag": "t1"}
    await control.publish(1, model("a"))
    async with control.serving() as url, node.linked(l7, url):
        await node.wait_applied()
        await control.wait_report(lambda report: report["version"] == 1)
        control.besides = {"tag": "t2", "changes": difference(model("a"), model("a", "b")), "config": {"nonsense": []}}
        await control.publish(2, Model())
        await node.wait_applied()
        control.besides = {"tag": "t3", "changes": {"delete": {"instances": ["nobody"]}}}
        await control.publish(3, Model())
        while "t2" not in control.tags[-2:]:  # what cannot be applied is asked for again
            await asyncio.sleep(0.01)
        control.besides = {}
        await control.publish(4, model("c"))
        await node.wait_applied()
    assert node.applied == [(1, model("a")), (2, model("a", "b")), (4, model("c"))]
    assert node.applied[1][1].instances["a"] is node.applied[0][1].instances["a"]


async def test_a_refused_version_is_reported_and_the_old_one_stays(
    control: Control, l7: Identity, tmp_path: Path
) -> None:
    node = Node(tmp_path)
    await control.publish(1, model("a"))
    async with control.serving() as url, node.linked(l7, url) as link:
        await node.wait_applied()
        await control.publish(2, model("bad"))
        report = await control.wait_report(lambda report: report["rejected"] is not None)
        assert report["rejected"] == {"version": 2, "why": "port 443 is in use"}
        assert link.version == 1
        await node.wait_kept(1)
        node.bad.clear()  # the port becomes free: the version is tried again without a new one
        await node.wait_applied()
        await control.wait_report(lambda report: report == {"version": 2, "rejected": None, "report": {"up": 1}})


async def test_a_node_starts_from_its_copy_and_catches_up(control: Control, l7: Identity, tmp_path: Path) -> None:
    node = Node(tmp_path)
    await control.publish(5, model("a"))
    async with control.serving() as url, node.linked(l7, url):
        await node.wait_applied()
    port = control.port
    node.applied.clear()
    async with node.linked(l7, f"https://127.0.0.1:{port}") as link:
        await node.wait_applied()
        assert (link.version, link.connected) == (5, False)
        await control.publish(6, model("b"))
        async with control.serving(port):
            await node.wait_applied()
            assert link.version == 6
    assert node.applied == [(5, model("a")), (6, model("b"))]


async def test_the_secret_of_cookies_comes_before_the_configuration_and_is_kept(
    control: Control, l7: Identity, tmp_path: Path
) -> None:
    control.besides = {"cookie_secret": "ab" * 32}
    await control.publish(1, model("a"))
    async with control.serving() as url:
        node = Node(tmp_path)
        async with node.linked(l7, url):
            await node.wait_applied()
            assert node.secrets == [bytes.fromhex("ab" * 32)]
            await control.wait_report(lambda report: report["version"] == 1)
            async with asyncio.timeout(10):
                while not (node.state / "config.json").exists():
                    await asyncio.sleep(0.01)
    assert (node.state / "config.json").stat().st_mode & 0o777 == 0o600
    again = Node(tmp_path)
    async with again.linked(l7, url):  # nobody answers there any more
        await again.wait_applied()
        assert again.secrets == node.secrets


async def test_the_same_configuration_is_not_applied_twice(control: Control, l7: Identity, tmp_path: Path) -> None:
    """A rollback to what runs gives a new version number and nothing to do."""
    node = Node(tmp_path)
    await control.publish(1, model("a"))
    async with control.serving() as url, node.linked(l7, url):
        await node.wait_applied()
        await control.publish(2, model("a"))
        await control.wait_report(lambda report: report["version"] == 2)
    assert node.applied == [(1, model("a"))]


async def test_where_the_first_version_is_refused_the_copy_runs(control: Control, l7: Identity, tmp_path: Path) -> None:
    node = Node(tmp_path)
    node.state.mkdir()
    (node.state / "config.json").write_text(json.dumps({"version": 1, "config": to_dict(model("old"))}))
    await control.publish(2, model("bad"))
    async with control.serving() as url, node.linked(l7, url):
        await node.wait_applied()
        report = await control.wait_report(lambda report: report["version"] == 1)
    assert report["rejected"] == {"version": 2, "why": "port 443 is in use"}


async def test_a_torn_copy_is_not_fatal(
    control: Control, l7: Identity, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    node = Node(tmp_path)
    node.state.mkdir()
    (node.state / "config.json").write_text('{"version": 1, "con')
    async with control.serving():
        pass
    async with node.linked(l7, f"https://127.0.0.1:{control.port}"):
        await control.publish(1, model("a"))
        async with control.serving(control.port):
            await node.wait_applied()
    assert "the last good configuration is lost" in caplog.text


async def test_whoever_is_not_control_is_not_believed(authority: Authority, l7: Identity, tmp_path: Path) -> None:
    impostor = Control(Identity.load(authority.issue("l7", "l7-2")))
    await impostor.publish(1, model("a"))
    node = Node(tmp_path)
    async with impostor.serving() as url, node.linked(l7, url) as link:
        await asyncio.sleep(0.3)
        assert (link.version, link.connected, impostor.polls) == (0, False, 0)
    assert node.applied == []


async def test_nonsense_from_control_changes_nothing(control: Control, l7: Identity, tmp_path: Path) -> None:
    node = Node(tmp_path)
    await control.publish(0, Model(instances={"a": Instance("a")}))  # 0 is no version
    async with control.serving() as url, node.linked(l7, url) as link:
        await control.publish(-1, model("a"))
        while control.polls < 3:
            await asyncio.sleep(0.01)
        assert not link.connected
        await control.publish(1, model("a"))
        await node.wait_applied()


async def test_the_next_control_node_is_followed_where_one_goes_and_all_get_reports(
    control: Control, authority: Authority, l7: Identity, tmp_path: Path
) -> None:
    node, other = Node(tmp_path), Control(Identity.load(authority.issue("control", "other")))
    await control.publish(1, model("a"))
    await other.publish(1, model("a"))
    async with other.serving() as second:
        async with control.serving() as first, node.linked(l7, f"{first},{second}") as link:
            await node.wait_applied()
            for each in (control, other):
                await each.wait_report(lambda report: report["version"] == 1)
            assert other.polls == 0
            await control.publish(2, model("a", "b"))
            await node.wait_applied()
            for each in (control, other):
                await each.wait_report(lambda report: report["version"] == 2)
        async with node.linked(l7, f"{first},{second}") as link:  # the first is gone
            await other.publish(3, model("c"))
            while link.version != 3:
                await asyncio.sleep(0.01)
            await other.publish(4, model("d"))
            while link.version != 4:
                await asyncio.sleep(0.01)
            assert link.connected


def test_only_https(authority: Authority, l7: Identity, tmp_path: Path) -> None:
    node = Node(tmp_path)
    with pytest.raises(LinkError, match="https://HOST:8471"):
        ControlLink(url="http://x", identity=l7, state=tmp_path, apply=node.apply, report=dict)


def test_backoff_doubles_to_its_limit_with_jitter() -> None:
    backoff = Backoff(1.0, 4.0)
    delays = [backoff.next() for _ in range(4)]
    for delay, nominal in zip(delays, [1.0, 2.0, 4.0, 4.0], strict=True):
        assert nominal / 2 <= delay <= nominal
    backoff.reset()
    assert backoff.next() <= 1.0


async def test_what_metering_cannot_do_is_among_the_problems(l7: Identity, tmp_path: Path) -> None:
    class Empty:
        def look(self, _: object) -> None:
            return None

    async def apply(_: Model, __: int) -> None:
        pass

    (tmp_path / "metering.db").write_bytes(b"no database" * 1000)
    metering = Metering(tmp_path, Empty())
    link = ControlLink(
        url="https://127.0.0.1:1", identity=l7, state=tmp_path, apply=apply, report=lambda: {"problems": ["one"]},
        metering=metering,
    )  # fmt: skip
    assert link._current_report()["report"]["problems"] == ["one"]  # type: ignore[index]
    assert not await metering.acquire()
    first, second = link._current_report()["report"]["problems"]  # type: ignore[index]
    assert (first, second.startswith("metering: ")) == ("one", True)
    await metering.let_go()


async def test_a_report_of_a_change_lets_the_change_go_first(
    control: Control, l7: Identity, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits: list[float] = []

    def hurry_s(cost_s: float) -> float:
        waits.append(cost_s)
        return 0.0

    monkeypatch.setattr(link_module, "hurry_s", hurry_s)
    node = Node(tmp_path)
    await control.publish(1, model("a"))
    async with control.serving() as url, node.linked(l7, url):
        await node.wait_applied()
        await control.wait_report(lambda report: report["version"] == 1)
    assert waits
    assert all(0 <= cost_s < 60 for cost_s in waits)


def test_long_reports_are_rarer_and_let_the_change_go_first() -> None:
    assert link_module.report_every_s(0.001) == 1.0
    assert link_module.report_every_s(0.1) == pytest.approx(2.0)
    assert link_module.report_every_s(3.0) == 2.5 < SILENT_AFTER_S
    assert link_module.hurry_s(0.001) == pytest.approx(0.004)
    assert link_module.hurry_s(0.1) == pytest.approx(0.4)
    assert link_module.hurry_s(3.0) == 1.0
