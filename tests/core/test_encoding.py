"""What an encoder writes is what is written at once, whatever it has written before."""

import json
from dataclasses import replace

from core.config import from_dict, to_dict
from core.encoding import Encoder
from core.model import Model

SITE = from_dict(
    {
        "server_groups": [{"name": "g", "servers": [{"address": "192.0.2.1", "port": 80}], "description": 'é"'}],
        "backend_services": [{"name": "b", "protocol": "http", "server_group": "g"}],
        "instances": [{"name": "i"}, {"name": "j"}],
        "listeners": [{"name": "w", "instance": "i", "protocol": "http", "port": 80, "backend_service": "b"}],
    }
)


def test_models_that_follow_each_other() -> None:
    web = SITE.listeners["w"]
    models = [
        Model(),
        SITE,
        SITE,
        replace(SITE, listeners={"w": replace(web, port=81)}),
        replace(SITE, listeners={"v": replace(web, name="v"), "w": web}),
        replace(SITE, listeners={"w": web, "v": replace(web, name="v")}),
        replace(SITE, listeners={}),
        from_dict(to_dict(SITE)),
        Model(),
        SITE,
    ]
    encoder = Encoder()
    for model in models:
        assert encoder.encode(model) == json.dumps(to_dict(model))


def test_what_has_not_changed_is_not_written_again() -> None:
    encoder = Encoder()
    encoder.encode(SITE)
    web = SITE.listeners["w"]
    object.__setattr__(web, "port", 81)  # nobody does that to a frozen object; here it shows what is looked at
    try:
        assert '"port": 81' not in encoder.encode(replace(SITE, instances={"i": SITE.instances["i"]}))
        assert '"port": 81' in encoder.encode(replace(SITE, listeners={"w": replace(web)}))
    finally:
        object.__setattr__(web, "port", 80)
