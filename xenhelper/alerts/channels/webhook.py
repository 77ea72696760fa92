"""A POST of JSON to a URL."""

import http.client
import json
import urllib.error
import urllib.request

from xenhelper.alerts.message import Message
from xenhelper.alertsettings import Alerts
from xenhelper.errors import XenhelperError

_SECONDS = 20.0


def configured(settings: Alerts) -> bool:
    """A URL is given."""
    return bool(settings.webhook)


def where(settings: Alerts) -> str:
    """The URL without what may be secret in it."""
    return settings.webhook.split("?")[0]


def send(message: Message, settings: Alerts) -> None:
    """Taken when it answers 2xx. Raises XenhelperError or OSError."""
    headers = {"Content-Type": "application/json", "User-Agent": "xenhelper", "X-Xenhelper-Id": message.id}
    headers |= _headers(settings.webhook_headers_file)
    data = json.dumps(message.json()).encode()
    # the scheme is http or https by the configuration's check
    request = urllib.request.Request(settings.webhook, data, headers, method="POST")  # noqa: S310
    try:
        with _opener().open(request, timeout=_SECONDS) as answer:
            answer.read(65536)
    except urllib.error.HTTPError as error:
        raise XenhelperError(f"{where(settings)} answered {error.code} {error.reason}") from error
    except urllib.error.URLError as error:
        raise XenhelperError(f"{where(settings)}: {error.reason}") from error
    except http.client.HTTPException as error:
        raise XenhelperError(f"{where(settings)}: {type(error).__name__} {error}") from error


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """A redirected POST becomes a GET, and the alert would be lost."""

    def redirect_request(self, *_: object) -> None:
        return None


def _opener() -> urllib.request.OpenerDirector:
    return urllib.request.build_opener(_NoRedirect)


def _headers(path: str) -> dict[str, str]:
    if not path:
        return {}
    found = {}
    with open(path, encoding="utf-8") as file:
        for line in file:
            name, colon, value = line.strip().partition(":")
            if not line.strip() or line.startswith("#"):
                continue
            if not colon or not name.isascii() or not name.replace("-", "").isalnum():
                raise XenhelperError(f"{path}: not a `Name: value` line: {name[:40]!r}")
            found[name] = value.strip()
    return found
