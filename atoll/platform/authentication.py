"""The token of a Ray cluster: one of its own for a Ray started here, the right one for another.

A Ray with tokens takes no call without its token, and a process that is in another mode than the
cluster can connect and then loses its workers one by one. So a process asks the cluster first. How
Ray keeps its mode and its token in a process lies in its internals; only this module touches them.
"""

from __future__ import annotations

import importlib
import os
import secrets
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Any

import grpc
from ray.core.generated.gcs_service_pb2 import GetClusterIdReply, GetClusterIdRequest
from ray.exceptions import AuthenticationError

from atoll.errors import EngineError, InvalidExperimentError

MODE, TOKEN, TOKEN_PATH = "RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"
TOKEN_FILE = "~/.ray/auth_token"
MODES = ("token", "disabled")
# How long a head that has just been started may take until it answers: as long as Ray itself waits.
ANSWER_SECONDS = 20.0
CALL = "/ray.rpc.NodeInfoGcsService/GetClusterId"


@contextmanager
def own_token() -> Iterator[None]:
    """Within this context a Ray that is started asks for a token that only its processes know.

    The user's own ``RAY_AUTH_MODE``, ``RAY_AUTH_TOKEN`` or ``RAY_AUTH_TOKEN_PATH`` stand. Without
    them Ray would write a token that every user of the machine can read into the home folder, which
    may be one of many machines or not writable, and later clusters would silently take it over.

    Raises
    ------
    EngineError
        If what the user's settings name is no mode, or cannot be read.
    """
    before = {name: os.environ.get(name) for name in (MODE, TOKEN)}
    mode = asked_mode() or "token"
    if mode == "token" and not os.environ.get(TOKEN) and not os.environ.get(TOKEN_PATH):
        os.environ[TOKEN] = secrets.token_hex(32)
    _set_mode(mode)
    try:
        if mode == "token":
            token()
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
        _refresh()


def agree_with(address: str, where: str) -> None:
    """Put this process into the mode of a running Ray.

    Parameters
    ----------
    address : str
        Its head's, ``HOST:PORT``.
    where : str
        The setting that names it, for errors.

    Raises
    ------
    EngineError
        If no Ray answers there, or it asks for a token that this process does not have, or it asks
        for none although ``RAY_AUTH_MODE`` says that it must.
    """
    asked = asked_mode()
    if _takes(address, None, where):
        if asked == "token":
            raise EngineError(
                f"{where}: this Ray asks for no token, and {MODE} = 'token'; expected a Ray that "
                f"was started with {MODE}=token, or {MODE}=disabled where its network is trusted"
            )
        _set_mode("disabled")
        return
    if asked == "disabled":
        raise EngineError(
            f"{where}: this Ray asks for a token, and {MODE} = 'disabled'; expected {MODE} = "
            "'token', or none"
        )
    found = token()
    if found is None:
        raise EngineError(f"{where}: this Ray asks for a token; expected {expected_token()}")
    if not _takes(address, found, where):
        raise EngineError(
            f"{where}: this Ray does not take the token of {token_source()}; expected "
            f"{expected_token()}"
        )
    _set_mode("token")


def asked_mode() -> str | None:
    """Return the mode that the user asks for, or None.

    Raises
    ------
    InvalidExperimentError
        If it is none of Ray's.
    """
    mode = os.environ.get(MODE, "").lower()
    if mode and mode not in MODES:
        raise InvalidExperimentError(f"{MODE} = {mode!r}: expected 'token' or 'disabled'")
    return mode or None


def token() -> str | None:
    """Return the token that Ray would use here, or None if there is none.

    Raises
    ------
    EngineError
        If the file that it should be in cannot be read.
    """
    loader = _loader()
    loader.reset_cache()
    try:
        if loader.has_token(ignore_auth_mode=True):
            return str(loader.get_raw_token(ignore_auth_mode=True))
    except AuthenticationError as error:
        raise EngineError(
            f"{TOKEN_PATH} = {os.environ.get(TOKEN_PATH)!r}: cannot be read or is empty; expected "
            "a file that holds the token"
        ) from error
    return None


def token_source() -> str:
    """Return where the token is from, for messages."""
    if os.environ.get(TOKEN):
        return TOKEN
    path = os.environ.get(TOKEN_PATH)
    return f"{TOKEN_PATH} = {path!r}" if path else TOKEN_FILE


def expected_token() -> str:
    """Return where a token can be put, for messages."""
    return (
        f"the head's token ('ray get-auth-token' prints it there) in {TOKEN}, in a file named by "
        f"{TOKEN_PATH}, or in {TOKEN_FILE}"
    )


def _takes(address: str, found: str | None, where: str) -> bool:
    """Tell whether the head takes calls with this token, or with none."""
    metadata = () if found is None else (("authorization", f"Bearer {found}"),)
    with closing(_channel(address)) as channel:
        call = channel.unary_unary(
            CALL,
            request_serializer=GetClusterIdRequest.SerializeToString,
            response_deserializer=GetClusterIdReply.FromString,
        )
        try:
            call(
                GetClusterIdRequest(),
                metadata=metadata,
                timeout=ANSWER_SECONDS,
                wait_for_ready=True,
            )
        except grpc.RpcError as error:
            status: Any = error
            if status.code() == grpc.StatusCode.UNAUTHENTICATED:
                return False
            raise EngineError(
                f"{where}: no Ray answers ({status.details()}); expected the address of a running "
                "head, HOST:6379"
            ) from error
    return True


def _channel(address: str) -> Any:
    if os.environ.get("RAY_USE_TLS", "0").lower() not in ("1", "true"):
        return grpc.insecure_channel(address)
    tls: Any = importlib.import_module("ray._common.tls_utils")
    chain, key, authority = tls.load_certs_from_env()
    return grpc.secure_channel(address, grpc.ssl_channel_credentials(authority, key, chain))


def _set_mode(mode: str) -> None:
    os.environ[MODE] = mode
    _refresh()


def _refresh() -> None:
    """Let Ray's native part look again at the environment: the mode first, then the token."""
    raylet: Any = importlib.import_module("ray._raylet")
    raylet.Config.initialize("")
    _loader().reset_cache()


def _loader() -> Any:
    raylet: Any = importlib.import_module("ray._raylet")
    return raylet.AuthenticationTokenLoader.instance()
