"""The address that other machines reach this process's node by, and the network interface that has it."""

from __future__ import annotations

import ipaddress
import os
import socket

import psutil

LOOPBACK = "127.0.0.1"
NODE_ADDRESS = "OMNIOPSD_NODE_ADDRESS"
"""Set in every actor to what Ray knows its node by. Guessing it takes a default route, which a private network
need not have, and finds the wrong one where there are several."""


def node_address() -> str:
    """The address of this node; loopback in a process that is no actor."""
    return os.environ.get(NODE_ADDRESS, LOOPBACK)


def interface_of(address: str) -> str | None:
    """The interface whose network holds an address, the narrowest one; None when there is none."""
    wanted, found = ipaddress.ip_address(address), []
    for name, addresses in psutil.net_if_addrs().items():
        for one in addresses:
            if one.family == socket.AF_INET and one.netmask:
                network = ipaddress.ip_interface(f"{one.address}/{one.netmask}").network
                if wanted in network:
                    found.append((network.prefixlen, name))
    return max(found)[1] if found else None
