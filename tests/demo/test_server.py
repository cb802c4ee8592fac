"""The port of the page, and what is said if it can't be served."""

import os
import socket

import pytest

from timesformer_hf.demo.server import FIRST_PORT, LOOPBACK, choose_port, serving


@pytest.fixture
def taken():
    """A port on which something listens, and whose next one is free."""
    while True:
        with socket.create_server((LOOPBACK, 0)) as server:
            port = server.getsockname()[1]
            if port < 60_000:
                with socket.socket() as next_one:
                    try:
                        next_one.bind((LOOPBACK, port + 1))
                    except OSError:
                        continue
                yield port
                return


def test_a_port_that_is_taken(taken):
    with pytest.raises(ValueError, match=f"port {taken} is taken; the next free one is --port {taken + 1}"):
        choose_port(LOOPBACK, taken)
    assert choose_port(LOOPBACK, taken + 1) == taken + 1


def test_without_a_port_the_first_free_one_is_taken(taken, monkeypatch):
    monkeypatch.setattr("timesformer_hf.demo.server.FIRST_PORT", taken)
    assert choose_port(LOOPBACK, None) == taken + 1
    assert FIRST_PORT == 7860


def test_all_ports_are_taken(monkeypatch):
    monkeypatch.setattr("timesformer_hf.demo.server._is_free", lambda host, port: False)
    for port in (None, 65535):
        with pytest.raises(ValueError, match="is taken; and so are those after it"):
            choose_port(LOOPBACK, port)


@pytest.mark.parametrize("host", ["192.0.2.1", "no.such.host.invalid", ""])
def test_a_host_that_is_not_here(host):
    with pytest.raises(ValueError, match=f"--host {host} is not an address of this machine"):
        choose_port(host, None)


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="a normal user of Unix may not use such ports")
def test_a_port_of_the_system():
    with pytest.raises(ValueError, match="--port 80: this user may not serve there"):
        choose_port(LOOPBACK, 80)


def test_without_gradio(monkeypatch):
    monkeypatch.setattr("timesformer_hf.output.extras.importlib.util.find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r'gradio, matplotlib, not installed: pip install "timesformer_hf\[demo\]"'):
        serving().__enter__()
