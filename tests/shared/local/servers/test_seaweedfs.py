"""The client that waits for SeaweedFS is the stack's own, whatever AWS account the operator uses."""

from contextlib import closing

import pytest

from heatmill.local.ports import free_ports
from heatmill.local.servers.seaweedfs import Buckets, Credentials, endpoint


def test_an_aws_profile_that_does_not_exist_is_no_obstacle(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_PROFILE", "nope")
    (port,) = free_ports(1)
    with closing(Buckets(endpoint(port), Credentials("key", "secret"), ["bucket"])) as buckets:
        assert not buckets.answer()
