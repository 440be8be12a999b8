"""Fetching images from URLs that strangers wrote: only from public addresses, bounded, and to be taken up again."""

from __future__ import annotations

import hashlib
import http.client
import ipaddress
import os
import socket
import ssl
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from urllib.parse import SplitResult, urljoin, urlsplit

LARGEST = 20 << 20  # bytes of an image
AT_ONCE = 16
TRIES = 4
REDIRECTS = 5
TIMEOUT = 20.0  # seconds that a server may be silent
DEADLINE = 120.0  # seconds of one try: a server that drips is no better than a silent one
CHUNK = 1 << 16


class Refused(Exception):
    """What no second try can mend; its text is the reason."""


class Retry(Exception):
    """What may go better later.

    Attributes
    ----------
    wait : float
        Seconds that the server asked for.
    """

    def __init__(self, reason: str, wait: float = 0.0) -> None:
        super().__init__(reason)
        self.wait = wait


@dataclass(frozen=True)
class Limits:
    """How much, how long and how often; ``pause`` is the first wait in seconds, doubled with every try."""

    largest: int = LARGEST
    tries: int = TRIES
    pause: float = 1.0
    timeout: float = TIMEOUT
    deadline: float = DEADLINE


def download(
    urls: Iterable[str], folder: Path, limits: Limits | None = None, at_once: int = AT_ONCE
) -> dict[str, Path | str]:
    """Fetch URLs into a folder; what is there already is not fetched again, what was cut off is gone on with.

    Every address that a host's name stands for must be public, on every redirect too, and the connection goes to the
    address that was looked at, so that a name cannot change its meaning in between. Proxies are not used.

    Parameters
    ----------
    urls : iterable of str
        http or https.
    folder : Path
        Files are named by the hash of their URL.

    Returns
    -------
    dict
        URL -> its file, or the reason why there is none.
    """
    folder.mkdir(parents=True, exist_ok=True)
    wanted = sorted(set(urls))
    with ThreadPoolExecutor(at_once) as pool:
        try:
            found = list(pool.map(partial(_fetch_or_reason, folder=folder, limits=limits or Limits()), wanted))
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return dict(zip(wanted, found, strict=True))


def _fetch_or_reason(url: str, folder: Path, limits: Limits) -> Path | str:
    path = folder / hashlib.sha256(url.encode()).hexdigest()[:40]
    if path.is_file():
        return path
    reason = ""
    for attempt in range(limits.tries):
        try:
            _fetch(url, path, limits)
            return path
        except Refused as error:
            return str(error)
        except ValueError as error:  # a host or a redirect that is no address
            return f"{url[:200]!r} cannot be fetched: {error}"
        except (Retry, OSError, http.client.HTTPException) as error:
            reason = f"{error or type(error).__name__} ({limits.tries} tries)"
            if attempt + 1 < limits.tries:
                time.sleep(max(limits.pause * 2**attempt, min(getattr(error, "wait", 0.0), 60.0)))
    return reason


def _fetch(url: str, path: Path, limits: Limits) -> None:
    for _ in range(REDIRECTS + 1):
        parts = _check_url(url)
        connection = _connect(parts, limits.timeout)
        try:
            location = _request(connection, parts, path, limits)
        finally:
            connection.close()
        if location is None:
            return
        url = urljoin(url, location)
    raise Refused(f"more than {REDIRECTS} redirects")


def _check_url(url: str) -> SplitResult:
    try:
        parts = urlsplit(url)
        parts.port  # noqa: B018  # raises where it is no number
        url.encode("ascii")
    except ValueError:
        raise Refused(f"{url[:200]!r} is not a URL") from None
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise Refused(f"{url[:200]!r}: only http and https are fetched")
    return parts


def is_public(address: str) -> bool:
    """Tell whether an IP address is one of the open internet: not loopback, private, link-local, or a way to those."""
    ip = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(ip, ipaddress.IPv6Address):
        inner = ip.ipv4_mapped or ip.sixtofour
        nat64 = ip in ipaddress.ip_network("64:ff9b::/96") or ip in ipaddress.ip_network("64:ff9b:1::/48")
        if inner is not None or nat64 or ip.teredo:
            return inner is not None and is_public(str(inner))
    return ip.is_global and not ip.is_multicast


def _connect(parts: SplitResult, timeout: float) -> http.client.HTTPConnection:
    """Connect to the first of a host's addresses, after all of them were looked at."""
    host = str(parts.hostname)
    port = parts.port or {"http": 80, "https": 443}[parts.scheme]
    addresses = [str(found[4][0]) for found in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)]
    for address in addresses:
        if not is_public(address):
            raise Refused(f"{host} is {address}, which is not a public address")
    reached = socket.create_connection((addresses[0], port), timeout=timeout)
    connection = http.client.HTTPConnection(host, port, timeout=timeout)
    if parts.scheme == "https":
        try:
            reached = ssl.create_default_context().wrap_socket(reached, server_hostname=host)
        except BaseException:
            reached.close()
            raise
    connection.sock = reached
    connection.auto_open = 0  # never to an address that was not looked at
    return connection


def _request(connection: http.client.HTTPConnection, parts: SplitResult, path: Path, limits: Limits) -> str | None:
    """Ask for what is missing and store it; returns where the server sends us instead, if it does."""
    draft, tag = path.with_suffix(".part"), path.with_suffix(".etag")
    headers = {"User-Agent": "nestrec", "Accept": "image/*", "Accept-Encoding": "identity"}
    have = draft.stat().st_size if draft.is_file() and tag.is_file() else 0
    if have:  # the rest, if the file is still the same, else all of it
        headers |= {"Range": f"bytes={have}-", "If-Range": tag.read_text()}
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    connection.request("GET", target, headers=headers)
    response = connection.getresponse()
    if response.status in (301, 302, 303, 307, 308):
        return response.headers.get("Location") or ""
    if response.status not in (200, 206):
        draft.unlink(missing_ok=True)  # such as 416: what is there does not fit
        _raise_for(response)
    if response.status == 206 and not str(response.headers.get("Content-Range")).startswith(f"bytes {have}-"):
        draft.unlink(missing_ok=True)
        raise Retry("the server sent another range than was asked for")
    etag = response.headers.get("ETag", "")
    if etag.startswith('"'):
        tag.write_text(etag)
    else:
        tag.unlink(missing_ok=True)
    _store(response, draft, have if response.status == 206 else 0, limits)
    os.replace(draft, path)
    tag.unlink(missing_ok=True)
    return None


def _raise_for(response: http.client.HTTPResponse) -> None:
    reason = f"HTTP {response.status} {response.reason}"
    if response.status in (408, 416, 425, 429) or response.status >= 500:
        wait = str(response.headers.get("Retry-After", ""))
        raise Retry(reason, float(wait) if wait.isdecimal() else 0.0)
    raise Refused(reason)


def _store(response: http.client.HTTPResponse, draft: Path, have: int, limits: Limits) -> None:
    """Write the body behind the first ``have`` bytes, within the limits."""
    missing = response.length  # None where the server does not say
    ends = time.monotonic() + limits.deadline
    with open(draft, "ab" if have else "wb") as file:
        while chunk := response.read1(CHUNK):
            have += len(chunk)
            if have > limits.largest:
                file.close()
                draft.unlink()
                raise Refused(f"larger than {limits.largest} bytes")
            file.write(chunk)
            missing = None if missing is None else missing - len(chunk)
            if time.monotonic() > ends:
                raise Retry(f"not finished after {limits.deadline:g} s")
    if missing:
        raise Retry(f"cut off {missing} bytes before its end")
