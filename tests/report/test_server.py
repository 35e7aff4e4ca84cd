"""The page is served to this machine alone, to who knows the token, and shows the record as it is now."""

import threading
import urllib.error
import urllib.request

import pytest

from bilevel.report.server import Server


@pytest.fixture
def server(tmp_path):
    running = Server(tmp_path)
    threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    yield running
    running.shutdown()
    running.server_close()


def get(address, **headers):
    with urllib.request.urlopen(urllib.request.Request(address, headers=headers), timeout=10) as answer:
        return answer.read().decode()


def test_the_page_follows_the_runs(server, write_run):
    assert "No run in" in get(server.address)
    write_run("first")
    assert "cleaning: test accuracy 0.9" in get(server.address)
    write_run("second")
    html = get(server.address)
    assert "2 runs compared" in html and 'http-equiv="refresh"' in html


def test_nobody_else_is_answered(server):
    assert server.server_address[0] == "127.0.0.1"
    for address in (server.address[:-2], f"http://127.0.0.1:{server.server_port}/", f"{server.address}metrics.jsonl"):
        with pytest.raises(urllib.error.HTTPError, match="404"):
            get(address)
    with pytest.raises(urllib.error.HTTPError, match="404"):
        get(server.address, Host="elsewhere.example")
    with pytest.raises(urllib.error.HTTPError, match="501"):
        urllib.request.urlopen(urllib.request.Request(server.address, data=b"x", method="POST"), timeout=10)
