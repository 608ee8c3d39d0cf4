"""The token of a Ray cluster: one of its own for a Ray started here, the right one for another.

A Ray with tokens takes no call without its token, and a process that is in another mode than the
cluster can connect and then loses its workers one by one. So a process asks the cluster first. How
Ray keeps its mode and its token in a process lies in its internals; only this module touches them.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Any

import grpc
import ray
from ray._common.tls_utils import load_certs_from_env
from ray.core.generated.gcs_service_pb2 import GetClusterIdReply, GetClusterIdRequest
from ray.exceptions import AuthenticationError

from atoll.errors import EngineError, InvalidExperimentError

MODE, TOKEN, TOKEN_PATH = "RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"
TOKEN_FILE = "~/.ray/auth_token"
MODES = ("token", "disabled")
# How long a head that has just been started may take until it answers: as long as Ray itself waits.
ANSWER_SECONDS = 20.0
EXPECTED = (
    f"the head's token ('ray get-auth-token' prints it there) in {TOKEN}, in a file named by "
    f"{TOKEN_PATH}, or in {TOKEN_FILE}"
)
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
    mode = asked_mode() or "token"
    with _kept(MODE), _kept(TOKEN):
        if mode == "token" and not os.environ.get(TOKEN) and not os.environ.get(TOKEN_PATH):
            os.environ[TOKEN] = secrets.token_hex(32)
        _set_mode(mode)
        if mode == "token":
            token()
        yield
    _refresh()


@contextmanager
def agreed_with(address: str, where: str) -> Iterator[None]:
    """Within this context this process connects as a running Ray wants it, and stays so connected.

    What it starts later, other programs say, are left to the user's own settings.

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
    mode = "disabled" if _takes(address, None, where) else "token"
    if mode == "disabled":
        if asked == "token":
            raise EngineError(
                f"{where}: this Ray asks for no token, and {MODE} = 'token'; expected a Ray that "
                f"was started with {MODE}=token, or {MODE}=disabled where its network is trusted"
            )
    elif not _takes(address, token_to_show(where), where):
        raise EngineError(is_wrong(where))
    with _kept(MODE):
        _set_mode(mode)
        yield


def token_to_show(where: str) -> str:
    """Return the token for a Ray that asks for one; ``where`` is the setting that names it.

    Raises
    ------
    EngineError
        If there is none at hand, or the user wants to show none.
    """
    if asked_mode() == "disabled":
        raise EngineError(
            f"{where}: this Ray asks for a token, and {MODE} = 'disabled'; expected {MODE} = "
            "'token', or none"
        )
    found = token()
    if found is None:
        raise EngineError(f"{where}: this Ray asks for a token; expected {EXPECTED}")
    return found


def is_wrong(where: str) -> str:
    """Return what is said where a Ray does not take the token that it was shown."""
    path = os.environ.get(TOKEN_PATH)
    source = TOKEN if os.environ.get(TOKEN) else f"{TOKEN_PATH} = {path!r}" if path else TOKEN_FILE
    return f"{where}: this Ray does not take the token of {source}; expected {EXPECTED}"


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
    chain, key, authority = load_certs_from_env()
    return grpc.secure_channel(address, grpc.ssl_channel_credentials(authority, key, chain))


@contextmanager
def _kept(name: str) -> Iterator[None]:
    """Within this context an environment variable may be changed."""
    before = os.environ.get(name)
    try:
        yield
    finally:
        if before is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = before


def _set_mode(mode: str) -> None:
    os.environ[MODE] = mode
    _refresh()


def _refresh() -> None:
    """Let Ray's native part look again at the environment: the mode first, then the token."""
    ray._raylet.Config.initialize("")
    _loader().reset_cache()


def _loader() -> Any:
    return ray._raylet.AuthenticationTokenLoader.instance()
