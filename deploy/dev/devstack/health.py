"""Health questions, each asked in the server's own protocol. A probe returns None when healthy, else what is wrong."""
import http.client
import socket
import struct
from urllib.parse import urlsplit


def http_ok(url, timeout_s=2.0, body=None):
    """GET answers 2xx (and exactly `body`, when given)."""
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.hostname, parts.port, timeout=timeout_s)
    try:
        connection.request("GET", (parts.path or "/") + ("?" + parts.query if parts.query else ""))
        answer = connection.getresponse()
        text = answer.read(4096)
    except (OSError, http.client.HTTPException) as error:
        return "no answer from {}: {}".format(url, error or type(error).__name__)
    finally:
        connection.close()
    if not 200 <= answer.status < 300:
        return "{} answers {}".format(url, answer.status)
    if body is not None and text != body:
        return "{} answers {!r}".format(url, text[:80])
    return None


def redis_ok(port, password, timeout_s=2.0):
    """AUTH and PING are answered (while it loads its log, PING is not)."""
    try:
        with socket.create_connection(("127.0.0.1", port), timeout_s) as link:
            link.sendall("AUTH {}\r\nPING\r\n".format(password).encode())
            answer = b""
            while answer.count(b"\r\n") < 2:
                more = link.recv(512)
                if not more:
                    break
                answer += more
    except OSError as error:
        return "no answer on port {}: {}".format(port, error)
    return None if answer == b"+OK\r\n+PONG\r\n" else "answers {!r}".format(answer[:80])


def kafka_call(port, api, version, body, timeout_s=3.0):
    """One request of Kafka's protocol (header version 1), and the answer's bytes from the correlation id on."""
    request = struct.pack(">hhih", api, version, 1, 10) + b"soma-stack" + body
    with socket.create_connection(("127.0.0.1", port), timeout_s) as link:
        link.settimeout(timeout_s)
        link.sendall(struct.pack(">i", len(request)) + request)
        return _exactly(link, struct.unpack(">i", _exactly(link, 4))[0])


def kafka_ok(port):
    """A Metadata request (version 1, no topics) names this broker and an active controller."""
    try:
        answer = kafka_call(port, 3, 1, struct.pack(">i", 0))
    except (OSError, struct.error) as error:
        return "no answer on port {}: {}".format(port, error)
    brokers = struct.unpack_from(">i", answer, 4)[0]
    if brokers < 1:
        return "no broker is registered yet"
    at = 8
    for _ in range(brokers):
        at += 4
        host = struct.unpack_from(">h", answer, at)[0]
        at += 2 + host + 4
        rack = struct.unpack_from(">h", answer, at)[0]
        at += 2 + max(rack, 0)
    controller = struct.unpack_from(">i", answer, at)[0]
    return None if controller >= 0 else "no controller is active yet"


def _exactly(link, count):
    data = b""
    while len(data) < count:
        more = link.recv(count - len(data))
        if not more:
            raise OSError("closed the connection")
        data += more
    return data


_GRPC_PATH = b"/grpc.health.v1.Health/Check"
_DATA, _HEADERS, _SETTINGS, _PING, _GOAWAY = 0, 1, 4, 6, 7


def grpc_ok(port, timeout_s=5.0):
    """grpc.health.v1 Check answers SERVING. HTTP/2 by hand, so that asking costs no gRPC library."""
    headers = b"\x83\x86" + b"".join(  # :method POST and :scheme http by table index, the rest as plain literals
        b"\x00" + bytes([len(key)]) + key + bytes([len(value)]) + value
        for key, value in ((b":path", _GRPC_PATH), (b":authority", b"127.0.0.1"),
                           (b"content-type", b"application/grpc"), (b"te", b"trailers")))
    opening = (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + _frame(_SETTINGS, 0, 0, b"")
               + _frame(_HEADERS, 0x4, 1, headers) + _frame(_DATA, 0x1, 1, bytes(5)))
    try:
        with socket.create_connection(("127.0.0.1", port), timeout_s) as link:
            link.settimeout(timeout_s)
            link.sendall(opening)
            for _ in range(20):
                head = _exactly(link, 9)
                payload = _exactly(link, int.from_bytes(head[:3], "big"))
                if head[3] == _DATA and payload:
                    return None if payload == b"\x00\x00\x00\x00\x02\x08\x01" else "the health service does not say SERVING"
                if head[3] == _GOAWAY or (head[3] == _HEADERS and head[4] & 0x1):
                    return "the health service refuses the call"
                if head[3] in (_SETTINGS, _PING) and not head[4] & 0x1:
                    link.sendall(_frame(head[3], 0x1, 0, payload if head[3] == _PING else b""))
    except OSError as error:
        return "no answer on port {}: {}".format(port, error)
    return "the health service does not answer the call"


def _frame(kind, flags, stream, payload):
    return len(payload).to_bytes(3, "big") + bytes([kind, flags]) + stream.to_bytes(4, "big") + payload
