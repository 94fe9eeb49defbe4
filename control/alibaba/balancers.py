"""Which objects of ours one load balancer of the API is. Pure.

A LoadBalancerId is the name of an instance. At Alibaba Cloud one load balancer has listeners of all protocols; here an
instance is of one tier. So a load balancer may be two instances with the same VIPs: the one that it is named after, and
a companion of the other tier, NAME.l4 or NAME.l7, which comes with the first listener that needs it and goes with the
last. What is set for a load balancer is set for both.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from control.alibaba.call import Draft
from control.alibaba.errors import no_balancer, no_listener
from core.fields import Kind
from core.model import Instance, InstanceType, Listener, Model, Protocol

L4 = (Protocol.TCP, Protocol.UDP)
SUFFIX = {True: ".l4", False: ".l7"}


def is_l4(instance: Instance) -> bool:
    """Whether an instance is for tcp and udp."""
    return instance.type is not InstanceType.ALB


@dataclass(frozen=True, slots=True)
class Balancer:
    """A load balancer: its instance, and the companion if there is one."""

    main: Instance
    other: Instance | None

    @property
    def id(self) -> str:
        return self.main.name

    @property
    def instances(self) -> tuple[Instance, ...]:
        return (self.main,) if self.other is None else (self.main, self.other)

    def listeners(self, model: Model) -> list[Listener]:
        """Its listeners, by port."""
        names = {each.name for each in self.instances}
        found = [each for each in model.listeners.values() if each.instance in names]
        return sorted(found, key=lambda each: (each.port, each.protocol))

    def listener(self, model: Model, protocol: Protocol | None, port: int) -> Listener:
        """Raises SlbError. Without a protocol: the only one of that port, or that of tcp."""
        found = [each for each in self.listeners(model) if each.port == port and protocol in (None, each.protocol)]
        if not found:
            raise no_listener("any" if protocol is None else protocol.value, port)
        return next((each for each in found if each.protocol is not Protocol.UDP), found[0])


def _companion(model: Model, main: Instance) -> Instance | None:
    found = model.instances.get(main.name + SUFFIX[not is_l4(main)])
    return found if found is not None and is_l4(found) is not is_l4(main) else None


def _main(model: Model, instance: Instance) -> Instance | None:
    """The instance that this one is the companion of."""
    suffix = SUFFIX[is_l4(instance)]
    if not instance.name.endswith(suffix):
        return None
    found = model.instances.get(instance.name.removesuffix(suffix))
    return found if found is not None and is_l4(found) is not is_l4(instance) else None


def all_of(model: Model) -> Iterator[Balancer]:
    """Every load balancer, in the order of the configuration."""
    for instance in model.instances.values():
        if _main(model, instance) is None:
            yield Balancer(instance, _companion(model, instance))


def find(model: Model, identity: str) -> Balancer:
    """The load balancer of this ID. Raises SlbError."""
    instance = model.instances.get(identity)
    if instance is None or _main(model, instance) is not None:
        raise no_balancer(identity)
    return Balancer(instance, _companion(model, instance))


def of_listener(model: Model, listener: Listener) -> Balancer:
    """The load balancer that a listener is of."""
    instance = model.instances[listener.instance]
    main = _main(model, instance) or instance
    return Balancer(main, _companion(model, main))


def instance_for(draft: Draft, balancer: Balancer, protocol: Protocol) -> str:
    """The name of the instance that gets a listener of this protocol, which is made if it is not there."""
    wanted = protocol in L4
    for each in balancer.instances:
        if is_l4(each) is wanted:
            return each.name
    made = dataclasses.replace(
        balancer.main, name=balancer.id + SUFFIX[wanted], type=InstanceType.NLB if wanted else InstanceType.ALB,
        tags=(), description=f"the layer {4 if wanted else 7} part of {balancer.id}",
    )  # fmt: skip
    draft.put(made)
    return made.name


def update(draft: Draft, balancer: Balancer, **changes: Any) -> None:
    """Set something for a load balancer; its tags and description are those of the main instance alone."""
    draft.put(dataclasses.replace(balancer.main, **changes))
    both = {name: value for name, value in changes.items() if name not in ("tags", "description")}
    if balancer.other is not None and both:
        draft.put(dataclasses.replace(balancer.other, **both))


def without_companion(draft: Draft, balancer: Balancer, gone: Listener) -> None:
    """Remove the companion if the listener that goes is its last one."""
    other = balancer.other
    if other is None or gone.instance != other.name:
        return
    if all(each.name == gone.name for each in balancer.listeners(draft.model) if each.instance == other.name):
        draft.delete(Kind.INSTANCES, other.name)
