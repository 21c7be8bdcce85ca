"""The tree of errors: who descends from whom, what they say, and that they survive a copy and a pickle."""

from __future__ import annotations

import copy
import pickle

import pytest

import psession
from psession import errors

ALL = [kind for name in errors.__all__ if isinstance(kind := getattr(errors, name), type)]


@pytest.mark.parametrize("kind", ALL)
def test_every_error_is_a_session_error_and_public(kind: type[errors.SessionError]) -> None:
    assert issubclass(kind, errors.SessionError)
    assert getattr(psession, kind.__name__) is kind
    assert kind.__doc__


@pytest.mark.parametrize(
    ("kind", "other"),
    [
        (errors.SessionTimeoutError, TimeoutError),
        (errors.PortNotFoundError, LookupError),
        (errors.MessageError, ValueError),
        (errors.MalformedMessageError, errors.MessageError),
        (errors.MessageTooLargeError, errors.MessageError),
        (errors.PortClosedError, errors.SessionAbortError),
        (errors.PortClosedError, errors.SessionInvalidError),
    ],
)
def test_an_error_can_be_caught_as_what_it_also_is(kind: type[Exception], other: type[Exception]) -> None:
    assert issubclass(kind, other)


@pytest.mark.parametrize("kind", ALL)
def test_data_travels_as_attributes_and_text_is_made_of_it(kind: type[errors.SessionError]) -> None:
    error = kind("no reply", port="heater", sid=7, attempts=3, waited=4.0)
    assert (error.why, error.port, error.sid, error.attempts, error.waited) == ("no reply", "heater", 7, 3, 4.0)
    assert str(error) == "port 'heater', session 7: no reply (3 attempts, 4 s)"


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (errors.SessionError(), "SessionError"),
        (errors.SessionError("why"), "why"),
        (errors.SessionError("why", port="p"), "port 'p': why"),
        (errors.SessionError("why", sid=1), "session 1: why"),
        (errors.SessionError("why", attempts=1, waited=0.25), "why (1 attempt, 0.25 s)"),
    ],
)
def test_what_is_not_known_is_not_said(error: errors.SessionError, text: str) -> None:
    assert str(error) == text


@pytest.mark.parametrize("kind", ALL)
def test_an_error_survives_pickle_and_copy_with_its_data(kind: type[errors.SessionError]) -> None:
    error = kind("why", port="p", sid=7, attempts=3, waited=4.0)
    for twin in (pickle.loads(pickle.dumps(error)), copy.copy(error), copy.deepcopy(error)):
        assert type(twin) is kind
        assert (str(twin), twin.__dict__, twin.args) == (str(error), error.__dict__, error.args)


def test_the_tree_in_the_docstring_names_every_error() -> None:
    for kind in ALL:
        assert kind.__name__ in errors.__doc__


def test_what_an_error_knows_is_in_its_repr_as_well() -> None:
    error = errors.SessionTimeoutError("no reply", port="lamp", sid=5, attempts=2, waited=3.0)
    assert repr(error) == "SessionTimeoutError(\"port 'lamp', session 5: no reply (2 attempts, 3 s)\")"
