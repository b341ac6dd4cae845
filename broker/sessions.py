"""The broker's token: which one to use now, keeping it encrypted, signing in and out.

A token is encrypted at rest with a key derived from SECRET_KEY. It is never logged, shown or part of an error.
"""

from __future__ import annotations

import base64
import logging
import secrets
import time
from datetime import UTC, datetime
from typing import NamedTuple
from urllib.parse import parse_qs, urlsplit

from cryptography.fernet import Fernet, InvalidToken
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from django.conf import settings

from broker.models import BrokerSession
from broker.upstox.protocol import AuthExpired, BrokerError, login_dialog_url, token_expires_ms
from broker.upstox.rest import UpstoxRest

logger = logging.getLogger(__name__)

SIMULATED_TOKEN = "simulated-token"  # noqa: S105 - public: the simulated exchange accepts it
KEY_PURPOSE = b"tradingok broker token v1"


class Token(NamedTuple):
    """A token to use.

    Attributes:
        token: the secret.
        source: "environment", "session" or "exchange".
        expires_ms: when it dies at the latest, ms UTC; 0 where it never does or nobody knows.
    """

    token: str
    source: str
    expires_ms: int

    def __repr__(self) -> str:
        return f"Token(source={self.source!r}, expires_ms={self.expires_ms})"


class SignInRefused(Exception):
    """A sign-in that cannot go on; the text is for the person who signs in."""


def token_current(now_ms: int | None = None) -> Token:
    """Return the token to use now. Ask again before each authorise: a new login takes effect without a restart.

    With the simulated exchange (TRADINGOK_EXCHANGE_URL): a session signed in there, else its public token; a real
    broker's token is never sent to it. With the broker: UPSTOX_ACCESS_TOKEN, else the newest session that has not expired.

    Raises:
        AuthExpired: there is none; its text says what to do.
    """
    now = round(time.time() * 1000) if now_ms is None else now_ms
    if not settings.EXCHANGE_URL and settings.UPSTOX_ACCESS_TOKEN:
        token = settings.UPSTOX_ACCESS_TOKEN
        expires = token_expires_ms(now, token)
        if expires <= now:
            raise AuthExpired("the token in UPSTOX_ACCESS_TOKEN has expired: set a new one and restart, or use an analytics token")
        return Token(token, "environment", expires if token.count(".") == 2 else 0)
    for session in BrokerSession.objects.filter(broker=_broker(), revoked_at=None, expires_at__gt=_moment(now)).order_by("-expires_at")[
        :10
    ]:
        opened = _decrypt(session)
        if opened:
            return Token(opened, "session", round(session.expires_at.timestamp() * 1000))
    if settings.EXCHANGE_URL:
        return Token(SIMULATED_TOKEN, "exchange", 0)
    raise AuthExpired(
        "no valid broker token: sign in from the admin (Broker sessions) or with `manage.py brokerlogin`, or set UPSTOX_ACCESS_TOKEN"
    )


def session_store(token: str, *, user_id: str = "", issued_ms: int | None = None) -> BrokerSession:
    """Keep a token, encrypted; the tokens of older sessions are erased (the broker revokes them too).

    Args:
        token: access or analytics token.
        user_id: the broker's client code.
        issued_ms: when it was issued, ms UTC; now by default.
    """
    issued = round(time.time() * 1000) if issued_ms is None else issued_ms
    older = list(BrokerSession.objects.filter(broker=_broker()).values_list("pk", flat=True))
    session = BrokerSession.objects.create(
        broker=_broker(),
        user_id=user_id[:40],
        token_encrypted=_fernet().encrypt(token.encode()),
        issued_at=_moment(issued),
        expires_at=_moment(token_expires_ms(issued, token)),
    )
    BrokerSession.objects.filter(pk__in=older).update(token_encrypted=b"")
    logger.info("broker session of %s stored, valid until %s", user_id or "an unnamed user", session.expires_at.isoformat())
    return session


def session_end(session: BrokerSession) -> str:
    """Log a session out at the broker and erase its token here, whatever the broker says.

    Returns:
        "" or what the broker said against it.
    """
    token, problem = _decrypt(session), ""
    if token and session.expires_at > datetime.now(UTC):
        try:
            with UpstoxRest(settings.UPSTOX_API_URL, token) as rest:
                rest.logout()
        except BrokerError as error:
            problem = str(error)
    BrokerSession.objects.filter(pk=session.pk).update(token_encrypted=b"", revoked_at=datetime.now(UTC))
    logger.info("broker session of %s ended", session.user_id or "an unnamed user")
    return problem


def sign_in_begin(redirect_uri: str = "") -> tuple[str, str]:
    """Begin a sign-in.

    Args:
        redirect_uri: where the broker sends the browser back to; UPSTOX_REDIRECT_URI by default.

    Returns:
        The dialog's address for the person, and the state that must come back with the code. Keep it with the person's session.

    Raises:
        SignInRefused: the app's id, secret or redirect URI is not set.
    """
    redirect = _redirect_uri(redirect_uri)
    missing = [name for name in ("UPSTOX_CLIENT_ID", "UPSTOX_CLIENT_SECRET") if not getattr(settings, name)]
    if missing or not redirect:
        raise SignInRefused(f"set {', '.join(missing + ([] if redirect else ['UPSTOX_REDIRECT_URI']))} to those of your Upstox app first")
    state = secrets.token_urlsafe(24)
    return login_dialog_url(settings.UPSTOX_API_URL, client_id=settings.UPSTOX_CLIENT_ID, redirect_uri=redirect, state=state), state


def sign_in_finish(*, code: str, state: str, expected_state: str, redirect_uri: str = "") -> BrokerSession:
    """Change the code that came back into a stored session. A code works once, even when this fails.

    Raises:
        SignInRefused: the state is not the one that was sent, or there is no code: nothing was asked of the broker.
        BrokerError: the broker refused the code or cannot be reached; begin again.
    """
    if not expected_state or not secrets.compare_digest(state.encode(), expected_state.encode()):
        raise SignInRefused("this answer does not belong to the sign-in that was begun here: begin again")
    if not code:
        raise SignInRefused("the broker sent no code: begin again")
    with UpstoxRest(settings.UPSTOX_API_URL) as rest:
        login = rest.login(
            code=code,
            client_id=settings.UPSTOX_CLIENT_ID,
            client_secret=settings.UPSTOX_CLIENT_SECRET,
            redirect_uri=_redirect_uri(redirect_uri),
        )
    return session_store(login.token, user_id=login.user_id)


def parse_callback(address: str) -> tuple[str, str]:
    """Return code and state of the address that the broker sent the browser to; "" for what it lacks."""
    try:
        query = parse_qs(urlsplit(address.strip()).query)
    except ValueError:
        return "", ""
    return query.get("code", [""])[0], query.get("state", [""])[0]


def _redirect_uri(given: str) -> str:
    return settings.UPSTOX_REDIRECT_URI or given


def _broker() -> str:
    return "exchange" if settings.EXCHANGE_URL else "upstox"


def _moment(ms: int) -> datetime:
    return datetime.fromtimestamp(ms / 1000, UTC)


def _fernet() -> Fernet:
    derived = HKDF(algorithm=SHA256(), length=32, salt=None, info=KEY_PURPOSE).derive(settings.SECRET_KEY.encode())
    return Fernet(base64.urlsafe_b64encode(derived))


def _decrypt(session: BrokerSession) -> str:
    """Return the token, "" where it was erased or SECRET_KEY has changed since."""
    if not session.token_encrypted:
        return ""
    try:
        return _fernet().decrypt(bytes(session.token_encrypted)).decode()
    except InvalidToken:
        logger.warning("broker session %s cannot be decrypted: SECRET_KEY has changed; sign in again", session.pk)
        return ""
