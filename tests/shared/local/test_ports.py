"""Ports are free when they are chosen, and another one is taken where the wanted one is not."""

import socket
from contextlib import closing

from heatmill.local.ports import CANDIDATES, LOOPBACK, free_ports, is_free, port_near
from heatmill.local.servers.seaweedfs import ObjectStorePorts


def test_ports_are_different_and_free_and_never_given_to_outgoing_connections() -> None:
    ports = free_ports(20)
    assert len(set(ports)) == 20
    assert all(is_free(port) and port in CANDIDATES for port in ports)
    assert not set(free_ports(50, apart_from=ports)) & set(ports)


def test_a_free_port_is_kept_a_taken_one_replaced_and_zero_is_any() -> None:
    (port,) = free_ports(1)
    assert port_near(port) == port
    with closing(socket.create_server((LOOPBACK, port))):
        assert not is_free(port)
        assert port_near(port) != port
    assert port_near(0) in CANDIDATES


def test_the_object_store_has_each_port_once_and_its_admin_where_it_looks_for_it() -> None:
    ports = ObjectStorePorts.choose()
    assert ports.are_free
    assert len(set(vars(ports).values())) == 10
    assert ports.admin_grpc == ports.admin + 10_000
    assert f"-s3.port={ports.s3}" in ports.options
    assert f"-filer.port.grpc={ports.filer_grpc}" in ports.options
    with closing(socket.create_server((LOOPBACK, ports.volume))):
        assert not ports.are_free
