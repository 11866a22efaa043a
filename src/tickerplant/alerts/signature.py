"""The headers of a webhook: the alert id, and the signature that proves the sender."""

from __future__ import annotations

import hashlib
import hmac
from typing import Final

from tickerplant.store.repositories.alerts import PendingWebhook

SIGNATURE: Final = "X-Tickerplant-Signature"
ALERT_ID: Final = "X-Tickerplant-Alert-Id"


def headers_of(post: PendingWebhook, now_s: int) -> dict[str, str]:
    """Return the headers of a webhook, with a signature if its rule has a secret."""
    headers = {"Content-Type": "application/json", ALERT_ID: post.alert_id}
    if post.secret:
        headers[SIGNATURE] = signature(post.secret, post.body.encode(), now_s)
    return headers


def signature(secret: str, body: bytes, now_s: int) -> str:
    """Return `t=…,v1=…`: Unix time in seconds, and the HMAC-SHA256 of `t.body` under the secret, in hexadecimal."""
    digest = hmac.new(secret.encode(), f"{now_s}.".encode() + body, hashlib.sha256).hexdigest()
    return f"t={now_s},v1={digest}"
