"""Oracle: servers of our own that answer, refuse, break, or never answer, and a clock."""

import time

import pytest

from spectral_ft.tracking.server import fault_of_server

from .servers import ANSWERS, accepting, saying, serving


def test_a_server_that_knows_the_user_is_fine(somebody, monkeypatch):
    with serving() as server:
        monkeypatch.setenv("WANDB_BASE_URL", server.address)
        assert fault_of_server(seconds=5) is None


@pytest.mark.parametrize(("status", "said"), [(401, "refused the key (401)"), (500, "answered with an error (500)")])
def test_a_server_that_refuses_is_quoted(somebody, monkeypatch, status, said):
    with serving(status=status) as server:
        monkeypatch.setenv("WANDB_BASE_URL", server.address)
        assert fault_of_server(seconds=5) == said


def test_a_key_that_nobody_has_is_refused(somebody, monkeypatch):
    monkeypatch.setitem(ANSWERS, "viewer", {"viewer": None})
    with serving() as server:
        monkeypatch.setenv("WANDB_BASE_URL", server.address)
        assert fault_of_server(seconds=5) == "refused the key (no user has it)"


def test_an_answer_of_another_form_is_a_fault(somebody, monkeypatch):
    monkeypatch.setitem(ANSWERS, "viewer", [])
    with serving() as server:
        monkeypatch.setenv("WANDB_BASE_URL", server.address)
        assert fault_of_server(seconds=5).startswith("cannot be reached")


NONSENSE = {
    "BadStatusLine": b"SSH-2.0-OpenSSH_9.6\r\n",
    "IncompleteRead": b'HTTP/1.1 200 OK\r\nContent-Length: 900\r\n\r\n{"data',
    "LineTooLong": b"HTTP/1.1 200 " + b"x" * 70000,
}


@pytest.mark.parametrize("name", NONSENSE)
def test_what_is_no_web_server_is_a_fault_on_one_line(somebody, monkeypatch, name):
    with saying(NONSENSE[name]) as address:
        monkeypatch.setenv("WANDB_BASE_URL", address)
        assert fault_of_server(seconds=5) == f"cannot be reached (its server's answer is not whole: {name})"


def test_a_closed_port_is_told_at_once(somebody):
    began = time.monotonic()
    assert "refused" in fault_of_server(seconds=5)
    assert time.monotonic() - began < 2


def test_a_server_that_never_answers_costs_the_given_time(somebody, monkeypatch):
    with accepting() as address:
        monkeypatch.setenv("WANDB_BASE_URL", address)
        began = time.monotonic()
        assert fault_of_server(seconds=0.5) == "did not answer within 0.5 s"
        assert time.monotonic() - began < 2


def test_an_address_that_is_none_is_a_fault(somebody, monkeypatch):
    monkeypatch.setenv("WANDB_BASE_URL", "wandb.example.org")
    assert "cannot be reached" in fault_of_server(seconds=1)
