"""Which address and interface ranks meet at."""

from __future__ import annotations

import socket
from types import SimpleNamespace

import psutil
import pytest

from cluster.addresses import LOOPBACK, NODE_ADDRESS, interface_of, node_address


def of(address: str, netmask: str | None) -> SimpleNamespace:
    return SimpleNamespace(family=socket.AF_INET, address=address, netmask=netmask)


@pytest.fixture(autouse=True)
def interfaces(monkeypatch: pytest.MonkeyPatch) -> None:
    found = {
        "lo": [of("127.0.0.1", "255.0.0.0"), SimpleNamespace(family=socket.AF_INET6, address="::1", netmask=None)],
        "wide": [of("10.0.0.7", "255.0.0.0")],
        "private": [of("10.213.4.2", "255.255.255.0"), of("10.1.1.1", None)],
    }  # fmt: skip
    monkeypatch.setattr(psutil, "net_if_addrs", lambda: found)


@pytest.mark.parametrize(
    ("address", "name"),
    [("127.0.0.3", "lo"), ("10.213.4.2", "private"), ("10.9.9.9", "wide"), ("192.0.2.1", None)],
)
def test_the_narrowest_network_that_holds_the_address(address: str, name: str | None) -> None:
    assert interface_of(address) == name


def test_an_actor_has_the_address_that_ray_gave_it_and_others_are_on_loopback(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv(NODE_ADDRESS, raising=False)
    assert node_address() == LOOPBACK
    monkeypatch.setenv(NODE_ADDRESS, "10.213.4.2")
    assert node_address() == "10.213.4.2"
