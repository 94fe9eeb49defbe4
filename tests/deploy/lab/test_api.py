from pathlib import Path

import pytest

from deploy.lab.api import Api
from deploy.lab.errors import LabError


def test_a_control_plane_that_has_no_token_yet(tmp_path: Path) -> None:
    """`lab status` while `lab up` is at work."""
    with pytest.raises(LabError, match=r"the control plane does not answer: .*No such file"):
        Api("pftnone-control", tmp_path / "token").status()
