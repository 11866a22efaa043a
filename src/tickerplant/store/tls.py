"""The files of certificates and keys that an address of the database names, and refused certificates."""

from __future__ import annotations

import ssl
from typing import Final
from urllib.parse import parse_qsl, urlsplit

from tickerplant.core.errors import StoreRefused

FILES: Final = ("sslrootcert", "sslcert", "sslkey", "sslcrl")
"""Parameters of an address whose values are files."""

NO_TLS: Final = "rejected SSL upgrade"
"""Words of the driver's error for a server without TLS."""


def check_files(dsn: str) -> None:
    """Raise StoreRefused, with one line, if a file that the address names cannot be read or used.

    The driver's error does not name the file, and looks like that of a database whose socket does not exist yet.
    """
    given = {name: value for name, value in parse_qsl(urlsplit(dsn).query) if name.startswith("ssl")}
    files = {name: given[name] for name in FILES if name in given}
    if not files or given.get("sslmode") == "disable":
        return
    for name, path in files.items():
        try:
            with open(path, "rb") as file:
                file.read(1)
        except OSError as error:
            raise StoreRefused(
                f"the file {path} cannot be read ({error.strerror}); correct {name} in store (--store)"
            ) from None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    for name in ("sslrootcert", "sslcrl"):
        if name in files:
            try:
                context.load_verify_locations(cafile=files[name])
            except ssl.SSLError:
                raise StoreRefused(
                    f"the file {files[name]} contains no certificate in PEM format; correct {name} in store (--store)"
                ) from None
    if "sslcert" in files and "sslkey" in files:
        try:
            context.load_cert_chain(files["sslcert"], files["sslkey"], password=lambda: given.get("sslpassword", ""))
        except ssl.SSLError:
            raise StoreRefused(
                f"the certificate {files['sslcert']} cannot be used; correct sslcert, sslkey and sslpassword in store "
                "(--store)"
            ) from None


def refusal(error: BaseException) -> str:
    """Return one line for an error of TLS that waiting does not remove; "" for any other error."""
    if isinstance(error, ssl.SSLCertVerificationError):
        reason = str(getattr(error, "verify_message", "") or error).rstrip(".")
        return (
            f"the certificate of the database is refused: {reason}; correct the server's certificate, or sslrootcert "
            "in store (--store)"
        )
    if isinstance(error, ConnectionError) and NO_TLS in str(error):
        return f"the database has no TLS ({error}); set ssl = on in its postgresql.conf, or correct sslmode in --store"
    return ""
