"""TLS settings become an SSLContext. Files that cannot be used are a SettingsError, found at the first connection."""

from __future__ import annotations

import ssl

from redisaq.errors import SettingsError
from redisaq.link.address import TLSOptions


def make_context(options: TLSOptions) -> ssl.SSLContext:
    """Return a context that verifies the server unless `options` say otherwise. Reads files: some milliseconds.

    Raises:
        SettingsError: a file is missing, or is not what it should be.
    """
    problem = f"the CA file {options.ca_file} cannot be used"
    try:
        context = ssl.create_default_context(ssl.Purpose.SERVER_AUTH, cafile=options.ca_file)
        if options.cert_file:
            problem = f"the client certificate {options.cert_file}" + (f" with the key {options.key_file}" if options.key_file else "")
            problem += " cannot be used"
            # An encrypted key would otherwise be asked for on the terminal, in the middle of an event loop.
            context.load_cert_chain(options.cert_file, options.key_file, password=_refuse_password)
    except (OSError, ValueError) as error:
        raise SettingsError(f"{problem}: {error}") from error
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_RENEGOTIATION  # so that a write never has to wait for a read
    context.check_hostname = options.check_hostname
    if not options.verify:
        context.verify_mode = ssl.CERT_NONE
    return context


def _refuse_password() -> str:
    raise ValueError("its key is encrypted; give an unencrypted one")
