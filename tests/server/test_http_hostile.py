"""What arrives over a raw socket and should not: every case ends in the documented status or in a closed connection, and
the server goes on. The cases run against the HTTP layer alone (tests/support/http_echo.c: short time limits) and,
where nothing depends on those, against asdmd; what the dialects must refuse runs against asdmd."""

import base64
import binascii
import json
import re
import socket
import struct
import subprocess
import threading
import time
import zlib

import pytest

HEADER_MS, BODY_MS, IDLE_MS, CONNECTIONS = 700, 900, 1500, 200
HOST = b"Host: test\r\n"
CLOSED = 0  # no status: the connection ended


class Echo:
    """http_echo on a free port; `text` is what it wrote on stderr, once ended."""

    def __init__(self, program, log, keys="-", threads=4, limits=(HEADER_MS, BODY_MS, IDLE_MS, CONNECTIONS), tls=()):
        self.log = log
        command = [program, keys, threads, *limits, *tls]
        self.process = subprocess.Popen([str(word) for word in command], stdin=subprocess.PIPE,
                                        stdout=subprocess.PIPE, stderr=open(log, "wb"))
        line = self.process.stdout.readline()
        assert line, log.read_text()
        self.port = int(line)

    def end(self):
        self.process.stdin.close()
        code = self.process.wait(30)
        text = self.log.read_text()
        assert code == 0 and "Sanitizer" not in text and "runtime error" not in text, text[-5000:]
        return text


@pytest.fixture(scope="module")
def echo_path(build_dir):
    path = build_dir / "tests" / "http_echo"
    if not path.exists():
        pytest.fail(f"{path} is missing: build first", pytrace=False)
    return path


@pytest.fixture(scope="module")
def echo(echo_path, tmp_path_factory):
    server = Echo(echo_path, tmp_path_factory.mktemp("echo") / "log")
    try:
        yield server
        server.end()
    finally:
        server.process.kill()
        server.process.wait()


@pytest.fixture
def start_echo(echo_path, tmp_path):
    started = []

    def start(**options):
        started.append(Echo(echo_path, tmp_path / f"log-{len(started)}", **options))
        return started[-1]

    yield start
    for server in started:
        if server.process.poll() is None:
            server.end()


@pytest.fixture(params=["echo", "asdmd"])
def server(request):
    return request.getfixturevalue("echo" if request.param == "echo" else "daemon")


def connect(port):
    client = socket.create_connection(("127.0.0.1", port), timeout=10)
    client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return client


def read_all(client, seconds=8):
    """Everything until the end; (bytes, whether it ended)."""
    text, until = b"", time.monotonic() + seconds
    while time.monotonic() < until:
        client.settimeout(max(0.01, until - time.monotonic()))
        try:
            piece = client.recv(1 << 16)
        except TimeoutError:
            return text, False
        except ConnectionError:
            return text, True
        if not piece:
            return text, True
        text += piece
    return text, False


def send_all(client, payload):
    try:
        client.sendall(payload)
    except ConnectionError:
        pass  # refused before the end; what matters is the answer


def talk(port, payload, half_close=False, seconds=8):
    with connect(port) as client:
        send_all(client, payload)
        if half_close:
            try:
                client.shutdown(socket.SHUT_WR)
            except OSError:
                pass
        return read_all(client, seconds)


def statuses(answer):
    return [int(code) for code in re.findall(rb"^HTTP/1\.[01] (\d{3})", answer, re.MULTILINE)]


def is_alive(port):
    answer, ended = talk(port, b"GET /healthz HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
    return ended and statuses(answer) == [200]


def get(target=b"/healthz", headers=b"", version=b"HTTP/1.1", method=b"GET", host=HOST):
    return method + b" " + target + b" " + version + b"\r\n" + host + headers + b"\r\n"


def post(headers, body=b"", target=b"/v1/jobs"):
    return get(target, headers, method=b"POST") + body


CHUNKED = b"Transfer-Encoding: chunked\r\n"
SMUGGLED = b"GET /version HTTP/1.1\r\nHost: test\r\n\r\n"
CLOSE = b"Connection: close\r\n"


def length(text):
    return b"Content-Length: " + text + b"\r\n"


# name: (what is sent, the statuses that may come before the connection ends)
CASES = {
    # where a body ends
    "length_and_chunked": (post(length(b"5") + CHUNKED, b"0\r\n\r\n" + SMUGGLED), [400]),
    "chunked_and_length": (post(CHUNKED + length(b"5"), b"0\r\n\r\n" + SMUGGLED), [400]),
    "two_lengths_differ": (post(length(b"5") + length(b"6"), b"hello!" + SMUGGLED), [400]),
    "two_lengths_same": (post(length(b"5") + length(b"5"), b"hello" + SMUGGLED), [400]),
    "length_list": (post(length(b"5, 5"), b"hello"), [400]),
    "length_negative": (post(length(b"-1"), b"hello"), [400]),
    "length_plus": (post(length(b"+5"), b"hello"), [400]),
    "length_hex": (post(length(b"0x5"), b"hello"), [400]),
    "length_empty": (post(length(b""), b"hello"), [400]),
    "length_words": (post(length(b"5 5"), b"hello"), [400]),
    "length_fraction": (post(length(b"5.0"), b"hello"), [400]),
    "length_above_64_bits": (post(length(b"18446744073709551621"), b"hello"), [400, 413]),
    "length_64_bits": (post(length(b"18446744073709551615"), b"hello"), [400, 413]),
    "length_digits": (post(length(b"9" * 400), b"hello"), [400, 413]),
    "length_huge": (post(length(b"99999999999"), b"hello"), [413]),
    "length_huge_get": (get(headers=length(b"99999999999")), [413]),
    "length_unicode_digits": (post(length("٥".encode()), b"hello"), [400]),
    "te_space_before_colon": (post(b"Transfer-Encoding : chunked\r\n", b"0\r\n\r\n" + SMUGGLED), [400]),
    "length_space_before_colon": (post(b"Content-Length : 5\r\n", b"hello" + SMUGGLED), [400]),
    "te_tab_before_colon": (post(b"Transfer-Encoding\t: chunked\r\n", b"0\r\n\r\n" + SMUGGLED), [400]),
    "te_identity": (post(b"Transfer-Encoding: identity\r\n", b"hello"), [400]),
    "te_gzip_chunked": (post(b"Transfer-Encoding: gzip, chunked\r\n", b"0\r\n\r\n"), [400]),
    "te_chunked_twice": (post(CHUNKED + CHUNKED, b"0\r\n\r\n" + SMUGGLED), [400]),
    "te_chunked_identity": (post(CHUNKED + b"Transfer-Encoding: identity\r\n", b"0\r\n\r\n" + SMUGGLED), [400]),
    "te_quoted": (post(b'Transfer-Encoding: "chunked"\r\n', b"0\r\n\r\n"), [400]),
    "te_vertical_tab": (post(b"Transfer-Encoding: \x0bchunked\r\n", b"0\r\n\r\n"), [400]),
    "te_xchunked": (post(b"Transfer-Encoding: xchunked\r\n", b"0\r\n\r\n"), [400]),
    "te_in_1_0": (get(b"/v1/jobs", CHUNKED, b"HTTP/1.0", b"POST") + b"0\r\n\r\n", [400]),
    "te_get": (get(headers=CHUNKED + length(b"3")) + b"0\r\n\r\n", [400]),
    "chunk_size_overflow": (post(CHUNKED, b"fffffffffffffffff\r\nhello\r\n0\r\n\r\n"), [CLOSED, 400, 413]),
    "chunk_size_max": (post(CHUNKED, b"ffffffffffffffff\r\nhello\r\n0\r\n\r\n"), [CLOSED, 400, 413]),
    "chunk_size_negative": (post(CHUNKED, b"-5\r\nhello\r\n0\r\n\r\n"), [CLOSED, 400]),
    "chunk_size_word": (post(CHUNKED, b"zz\r\nhello\r\n0\r\n\r\n"), [CLOSED, 400]),
    "chunk_no_line_end": (post(CHUNKED, b"5\r\nhelloXX0\r\n\r\n"), [CLOSED, 400]),
    # lines
    "fold": (get(headers=b"X-A: b\r\n c: d\r\n"), [400]),
    "fold_tab": (get(headers=b"X-A: b\r\n\tContent-Length: 5\r\n"), [400]),
    "fold_first": (get(host=b" Host: a\r\n" + HOST), [400]),
    "bare_lf_header": (get(headers=b"X-A: b\nX-B: c\r\n"), [400]),
    "bare_lf_everywhere": (b"GET /healthz HTTP/1.1\nHost: test\n\n", [400]),
    "bare_lf_request_line": (b"GET /healthz HTTP/1.1\nHost: test\r\n\r\n", [400]),
    "bare_lf_at_end": (b"GET /healthz HTTP/1.1\r\nHost: test\r\n\n", [400]),
    "bare_cr": (get(headers=b"X-A: b\rX-B: c\r\n"), [400]),
    "nul_in_value": (get(headers=b"X-A: b\0c\r\n"), [400]),
    "nul_in_name": (get(headers=b"X\0A: b\r\n"), [400]),
    "nul_hides_line": (get(headers=b"X-A: b\0\0Y: c\r\n"), [400]),
    "nul_hides_pair": (get(headers=b"X-A: b\0\0Y\0 c\r\n"), [400]),
    "nul_in_target": (get(b"/healthz\0/../x"), [400]),
    "nul_fakes_version": (get(b"/healthz\0HTTP/1.1\0\0 x"), [CLOSED, 400]),
    "nul_first": (b"\0" + get(), [400]),
    "control_in_value": (get(headers=b"X-A: b\x01c\r\n"), [400]),
    "escape_in_value": (get(headers=b"X-A: \x1b[31m\r\n"), [400]),
    "delete_in_value": (get(headers=b"X-A: \x7f\r\n"), [400]),
    "name_with_space": (get(headers=b"X A: b\r\n"), [400]),
    "name_empty": (get(headers=b": b\r\n"), [400]),
    "name_not_ascii": (get(headers=b"X-\xc3\xa9: b\r\n"), [400]),
    "no_colon": (get(headers=b"X-A\r\n"), [400]),
    # request line
    "host_missing": (get(host=b""), [400]),
    "host_twice": (get(host=HOST + b"Host: other\r\n"), [400]),
    "host_twice_same": (get(host=HOST + HOST), [400]),
    "host_bad": (get(host=b"Host: a/b@c\r\n"), [400]),
    "host_empty": (get(host=b"Host:\r\n"), [400]),
    "host_list": (get(host=b"Host: a, b\r\n"), [400]),
    "http_0_9": (b"GET /healthz\r\n\r\n", [400, 505]),
    "http_2_preface": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", [400, 505]),
    "http_1_2": (get(version=b"HTTP/1.2"), [400, 505]),
    "http_2_0": (get(version=b"HTTP/2.0"), [400, 505]),
    "http_lower": (get(version=b"http/1.1"), [400, 505]),
    "http_long_version": (get(version=b"HTTP/1.10"), [400, 505]),
    "version_word": (get(version=b"ICY/1.1"), [400, 505]),
    "two_spaces": (b"GET  /healthz HTTP/1.1\r\n" + HOST + b"\r\n", [400]),
    "space_in_target": (get(b"/healthz x"), [CLOSED, 400]),
    "tab_in_line": (b"GET\t/healthz HTTP/1.1\r\n" + HOST + b"\r\n", [400, 505]),
    "method_bad": (get(method=b"G@T"), [400]),
    "method_long": (get(method=b"A" * 3000), [400, 431, 414]),
    "only_line_ends": (b"\r\n" * 20000, [400, 431, 414, 413]),
    "binary": (bytes(range(256)) * 40 + b"\r\n\r\n", [400, 431, 414, 413]),
    "tls_hello": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\0" * 600 + b"\r\n\r\n", [CLOSED, 400, 431]),
    # target
    "percent_nul": (get(b"/healthz%00"), [400]),
    "percent_dots": (get(b"/%2e%2e%2fetc/passwd"), [400]),
    "percent_dot_segments": (get(b"/a/%2e%2e/healthz"), [400]),
    "percent_slash": (get(b"/v1%2fjobs"), [400]),
    "percent_backslash": (get(b"/v1%5cjobs"), [400]),
    "backslash": (get(b"/v1\\jobs"), [400]),
    "dots": (get(b"/../../etc/passwd"), [400]),
    "dots_end": (get(b"/v1/.."), [400]),
    "percent_cut": (get(b"/healthz%2"), [400]),
    "percent_bad": (get(b"/healthz%zz"), [400]),
    "percent_newline": (get(b"/healthz%0d%0aX-A:%20b"), [400]),
    "not_utf8": (get(b"/\xff\xfe"), [400]),
    "percent_not_utf8": (get(b"/%ff%fe"), [400]),
    "percent_overlong": (get(b"/%c0%af%c0%ae"), [400]),
    "percent_surrogate": (get(b"/%ed%a0%80"), [400]),
    "query_nul": (get(b"/healthz?a=%00"), [400]),
    "query_bad_escape": (get(b"/healthz?a=%"), [400]),
    "query_not_utf8": (get(b"/healthz?a=%ff"), [400]),
    "query_twice": (get(b"/healthz?a=1&a=2"), [400]),
    "query_many": (get(b"/healthz?" + b"&".join(b"a%d=1" % i for i in range(100))), [400]),
    "fragment": (get(b"/healthz#a"), [400]),
    "no_slash": (get(b"healthz"), [400]),
    "asterisk": (get(b"*", method=b"OPTIONS"), [400]),
    "authority_form": (get(b"test:80", method=b"CONNECT"), [400]),
    "absolute_other_host": (get(b"http://other/healthz"), [400]),
    "absolute_user": (get(b"http://a@test/healthz"), [400]),
    "absolute_ftp": (get(b"ftp://test/healthz"), [400]),
    "absolute_no_path": (get(b"http://test"), [400]),
    "target_9k": (get(b"/" + b"a" * 9000), [414]),
    "target_100k": (get(b"/" + b"a" * 100000), [414, 431]),
    "target_endless": (b"GET /" + b"a" * 3000000, [414, 431]),
    # bombs
    "headers_200": (get(headers=b"".join(b"X-%d: b\r\n" % i for i in range(200))), [431]),
    "headers_100000": (get(headers=b"X: b\r\n" * 100000), [431, 413]),
    "header_64k": (get(headers=b"X-A: " + b"b" * 65536 + b"\r\n"), [431, 413]),
    "header_name_64k": (get(headers=b"b" * 65536 + b": a\r\n"), [431, 413]),
    "cookies": (get(headers=b"Cookie: " + b"a=b; " * 20000 + b"\r\n"), [431, 413]),
    # meaning
    "expect_other": (post(b"Expect: 200-maybe\r\n" + length(b"5"), b"hello"), [417]),
    "authorization_twice": (get(headers=b"Authorization: Bearer a\r\nAuthorization: Bearer b\r\n"), [400]),
    "content_type_twice": (post(b"Content-Type: a/b\r\nContent-Type: c/d\r\n" + length(b"2"), b"{}"), [400]),
    "gzip_body": (post(b"Content-Encoding: gzip\r\n" + length(b"2"), b"{}"), [415]),
    "body_for_get": (get(headers=length(b"5000")) + b"a" * 5000, [413]),
    "body_for_unknown": (post(length(b"5"), b"hello", b"/nothing"), [404]),
    "method_other": (get(b"/v1/jobs", length(b"5"), method=b"PUT") + b"hello", [405]),
    "trace": (get(headers=CLOSE, method=b"TRACE"), [405]),
    "brew": (get(headers=CLOSE, method=b"BREW"), [405]),
    "unknown": (get(b"/nothing/here", CLOSE), [404]),
    "double_slash": (get(b"//healthz", CLOSE), [404]),
    "options": (get(b"/v1/jobs", CLOSE + b"Origin: http://evil\r\n", method=b"OPTIONS"), [405]),
}


@pytest.mark.parametrize("name", CASES)
def test_refused(server, name):
    payload, allowed = CASES[name]
    # asdmd waits a minute for a chunk that is said to be huge: the client ends it.
    answer, ended = talk(server.port, payload, half_close=name == "chunk_size_max")
    assert ended, answer[-300:]
    codes = statuses(answer)
    # What follows a request that is refused is not read as another one (libmicrohttpd sends the header of a refusal of
    # its own twice). A client that is cut off while it still sends may see nothing of the answer.
    assert set(codes) <= set(allowed) and len(codes) <= 1 + (b"<html>" in answer), answer[:500]
    assert b"/etc/passwd" not in answer and b"Access-Control" not in answer
    if len(payload) < 4096 and CLOSED not in allowed:
        assert codes, "closed without an answer"
    assert is_alive(server.port)


FINE = {
    "plain": get(headers=CLOSE),
    "http_1_0": get(version=b"HTTP/1.0"),
    "http_1_0_no_host": get(version=b"HTTP/1.0", host=b""),
    "head": get(method=b"HEAD", headers=CLOSE),
    "absolute": get(b"http://test/healthz", CLOSE),
    "escaped_letter": get(b"/health%7a", CLOSE),
    "empty_value": get(headers=b"X-A:\r\nX-B: \t \r\n" + CLOSE),
    "utf8_value": get(headers="X-A: é\r\n".encode() + CLOSE),
    "tab_value": get(headers=b"X-A: a\tb\r\n" + CLOSE),
    "length_zero": get(headers=length(b"0") + CLOSE),
    "body_for_get": get(headers=length(b"5") + CLOSE) + b"hello",
    "chunked_for_get": get(headers=CHUNKED + CLOSE) + b"0\r\n\r\n",
    "length_zeros": get(headers=length(b"0000") + CLOSE),
    "line_end_first": b"\r\n" + get(headers=CLOSE),
    "query": get(b"/healthz?a=%20b+c&d&=&e=", CLOSE),
    "headers_90": get(headers=b"".join(b"X-%d: b\r\n" % i for i in range(90)) + CLOSE),
}


@pytest.mark.parametrize("name", FINE)
def test_accepted(server, name):
    """The neighbours of what is refused are taken."""
    answer, ended = talk(server.port, FINE[name])
    assert ended and statuses(answer) == [200], answer


def test_headers_of_every_answer(server):
    for target in (b"/healthz", b"/nothing"):
        answer, _ = talk(server.port, get(target, CLOSE + b"x-request-id: my-id_1\r\n"))
        assert b"\r\nx-request-id: my-id_1\r\n" in answer
        assert b"\r\nX-Content-Type-Options: nosniff\r\n" in answer and b"\r\nCache-Control: no-store\r\n" in answer
        assert b"\r\nServer:" not in answer
        answer, _ = talk(server.port, get(target, CLOSE + b"x-request-id: a b\r\n"))
        assert re.search(rb"\r\nx-request-id: req_[0-9a-f]{24}\r\n", answer), answer


def test_pipelined_in_order(server):
    targets = [b"/healthz", b"/nothing", b"/healthz?a=1", b"/healthz", b"/none"] * 20
    payload = b"".join(get(target, b"x-request-id: n%d\r\n" % i) for i, target in enumerate(targets))
    answer, ended = talk(server.port, payload + get(headers=CLOSE))
    assert ended
    assert statuses(answer) == [404 if b"no" in target else 200 for target in targets] + [200]
    ids = [int(found) for found in re.findall(rb"x-request-id: n(\d+)", answer.replace(b'"n', b""))]
    assert ids == list(range(len(targets)))


def test_byte_by_byte(server):
    with connect(server.port) as client:
        for byte in get(headers=CLOSE):
            client.sendall(bytes([byte]))
        answer, ended = read_all(client)
    assert ended and statuses(answer) == [200]


@pytest.mark.parametrize("cut", [1, 10, 25, 40, 70, 90])
def test_left_in_the_middle(server, cut):
    """Closed or half-closed after some bytes of a request."""
    payload = post(length(b"50"), b"half of it")
    connect(server.port).close()
    with connect(server.port) as client:
        client.sendall(payload[:cut])
    answer, ended = talk(server.port, payload[:cut], half_close=True)
    assert ended and statuses(answer) in ([], [400])
    with connect(server.port) as client:  # a reset
        client.sendall(payload[:cut])
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    assert is_alive(server.port)


# ---- the HTTP layer alone


def test_expect_continue(echo):
    with connect(echo.port) as client:
        client.sendall(post(b"Expect: 100-continue\r\n" + length(b"5") + CLOSE))
        client.settimeout(5)
        assert client.recv(100).startswith(b"HTTP/1.1 100")
        client.sendall(b"hello")
        answer, ended = read_all(client)
    assert ended and statuses(answer) == [200] and answer.endswith(b"hello")


def test_expect_refused_before_the_body(echo):
    answer, ended = talk(echo.port, post(b"Expect: 100-continue\r\n" + length(b"5000000")))
    assert ended and statuses(answer) == [413]


def test_chunked(echo):
    body = b"5\r\nhello\r\n6;name=value\r\n world\r\n0\r\nTrailer: x\r\n\r\n"
    answer, ended = talk(echo.port, post(CHUNKED + CLOSE, body))
    assert ended and statuses(answer) == [200] and answer.endswith(b"hello world")


def test_chunked_above_the_limit(echo):
    chunk = b"10000\r\n" + b"x" * 65536 + b"\r\n"
    answer, ended = talk(echo.port, post(CHUNKED, chunk * 17 + b"0\r\n\r\n"))
    assert ended and statuses(answer) == [413]
    answer, ended = talk(echo.port, post(CHUNKED, chunk * 200))
    assert ended and statuses(answer) in ([], [413])
    assert is_alive(echo.port)


def test_early_refusal_reaches_a_client_that_sends_on(echo):
    """The answer is not overtaken by a reset."""
    for _ in range(10):
        answer, ended = talk(echo.port, post(length(b"3000000"), b"x" * 3000000))
        assert ended and statuses(answer) == [413]


def test_full_body(echo):
    body = bytes(range(256)) * 4096
    answer, ended = talk(echo.port, post(length(b"%d" % len(body)) + CLOSE, body))
    assert ended and answer.endswith(body)


def ends_within(client, low_ms, high_ms, start):
    _, ended = read_all(client, 10)
    took_ms = (time.monotonic() - start) * 1000
    assert ended and low_ms <= took_ms <= high_ms, took_ms


def test_silent_connection(echo):
    start = time.monotonic()
    with connect(echo.port) as client:
        ends_within(client, HEADER_MS - 150, HEADER_MS + 600, start)


def trickle(client, payload, seconds):
    """One byte every 50 ms; returns when the server ends it."""
    until = time.monotonic() + seconds
    client.settimeout(0.05)
    for byte in payload:
        if time.monotonic() > until:
            return False
        try:
            client.sendall(bytes([byte]))
            if client.recv(1000) == b"":
                return True
        except TimeoutError:
            pass
        except ConnectionError:
            return True
    return False


def test_slow_header(echo):
    start = time.monotonic()
    with connect(echo.port) as client:
        assert trickle(client, b"GET /healthz HTTP/1.1\r\nX-A: " + b"a" * 1000, 5)
    assert HEADER_MS - 150 <= (time.monotonic() - start) * 1000 <= HEADER_MS + 800
    assert is_alive(echo.port)


def test_slow_second_header(echo):
    with connect(echo.port) as client:
        client.sendall(get())
        client.settimeout(5)
        assert client.recv(1000).startswith(b"HTTP/1.1 200")
        start = time.monotonic()
        assert trickle(client, get(headers=b"X-A: " + b"a" * 1000), 5)
    assert (time.monotonic() - start) * 1000 <= HEADER_MS + 900


def test_slow_body(echo):
    start = time.monotonic()
    with connect(echo.port) as client:
        client.sendall(post(length(b"1000")))
        assert trickle(client, b"a" * 1000, 5)
    assert BODY_MS - 150 <= (time.monotonic() - start) * 1000 <= BODY_MS + 800
    with connect(echo.port) as client:
        client.sendall(post(CHUNKED))
        assert trickle(client, b"1\r\na\r\n" * 1000, 5)
    assert is_alive(echo.port)


def test_idle_connection(echo):
    with connect(echo.port) as client:
        client.sendall(get())
        client.settimeout(5)
        assert client.recv(1000).startswith(b"HTTP/1.1 200")
        ends_within(client, IDLE_MS - 200, IDLE_MS + 700, time.monotonic())


def test_slow_answer_outlives_the_limits(echo):
    """Waiting for the server is not the client's fault."""
    answer, ended = talk(echo.port, get(b"/slow?ms=2500", CLOSE))
    assert ended and statuses(answer) == [200] and answer.endswith(b"slow\n")


def test_answers_in_order_when_the_first_is_slow(echo):
    answer, ended = talk(echo.port, get(b"/slow?ms=300") + get() + get(b"/slow?ms=10", CLOSE))
    assert ended and statuses(answer) == [200] * 3
    assert answer.index(b"slow") < answer.index(b"{}") < answer.rindex(b"slow")


def test_events(echo):
    answer, ended = talk(echo.port, get(b"/events?count=5&ms=20", CLOSE))
    assert ended and answer.count(b"event: tick\ndata: xxxx\n\n") == 5 and answer.endswith(b"0\r\n\r\n")


def counts(port):
    answer, _ = talk(port, get(b"/gone", CLOSE))
    return [int(word) for word in answer.split(b"\r\n\r\n", 1)[1].split()]


@pytest.mark.parametrize("how", ["close", "half", "reset"])
@pytest.mark.parametrize("target", [b"/slow?ms=1500", b"/events?count=15&ms=100", b"/events?count=15&ms=100&bytes=900000"])
def test_gone_is_told_once(echo, how, target):
    started, gone, _ = counts(echo.port)
    with connect(echo.port) as client:
        client.sendall(get(target))
        time.sleep(0.15)
        if how == "half":
            client.shutdown(socket.SHUT_WR)
            time.sleep(0.6)
        elif how == "reset":
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    until = time.monotonic() + 1.0
    while counts(echo.port)[1] == gone and time.monotonic() < until:
        time.sleep(0.02)
    assert counts(echo.port)[:2] == [started + 1, gone + 1]
    time.sleep(1.6)
    started, gone_after, done = counts(echo.port)
    assert gone_after == gone + 1 and done == started


def test_stalled_reader(echo):
    """A client that asks for much and reads nothing does not stop the others."""
    clients = [connect(echo.port) for _ in range(10)]
    for client in clients:
        client.sendall(get(b"/big?bytes=8000000"))
    for _ in range(20):
        assert is_alive(echo.port)
    for client in clients:
        client.close()


def test_race_of_answer_and_leaving(start_echo):
    """Answers at the moment at which clients go."""
    server = start_echo()

    def worker(seed):
        for i in range(60):
            with connect(server.port) as client:
                what = (b"/slow?ms=%d" % (i % 7), b"/events?count=4&ms=%d" % (i % 3))[(i + seed) % 2]
                client.sendall(get(what))
                time.sleep((i * 7 + seed) % 11 / 1000)
    threads = [threading.Thread(target=worker, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    time.sleep(0.5)
    started, _, done = counts(server.port)
    assert started == done
    server.end()


def test_end_with_open_requests(start_echo):
    """The end does not wait for clients, nor breaks on suspended connections."""
    server = start_echo()
    clients = [connect(server.port) for _ in range(30)]
    for i, client in enumerate(clients):
        client.sendall((get(b"/slow?ms=700"), get(b"/events?count=9&ms=70"), get(), post(length(b"9")))[i % 4])
    time.sleep(0.2)
    start = time.monotonic()
    server.end()
    assert time.monotonic() - start < 5
    for client in clients:
        client.close()


def test_more_connections_than_allowed(start_echo):
    server = start_echo(limits=(5000, 5000, 5000, 20))
    clients = [connect(server.port) for _ in range(20)]
    time.sleep(0.3)
    answer, ended = talk(server.port, get())
    assert ended and statuses(answer) == [503] and b"\r\nRetry-After: " in answer
    for client in clients:
        client.close()
    time.sleep(0.5)
    assert is_alive(server.port)


def test_many_slow_clients(echo):
    """They are shed, and others served meanwhile."""
    clients = [connect(echo.port) for _ in range(CONNECTIONS - 20)]
    for client in clients:
        client.sendall(b"POST /v1/jobs HTTP/1.1\r\n")
    assert is_alive(echo.port)
    time.sleep(HEADER_MS / 1000 + 0.5)
    for client in clients:
        client.settimeout(1)
        try:
            assert client.recv(100) == b""
        except ConnectionError:
            pass
        client.close()


def hash_of(key):
    import hashlib
    return hashlib.sha256(key.encode()).hexdigest()


def test_keys(start_echo, tmp_path):
    keys = tmp_path / "keys"
    keys.write_text(f"anna {hash_of('secret-key-of-anna')}\n")
    server = start_echo(keys=keys)

    def code(headers, target=b"/v1/jobs", method=b"GET", body=b""):
        answer, ended = talk(server.port, get(target, headers + CLOSE, method=method) + body)
        assert ended
        return statuses(answer), answer

    basic = base64.b64encode(b"x:secret-key-of-anna")
    assert code(b"Authorization: Bearer secret-key-of-anna\r\n")[0] == [200]
    assert code(b"Authorization: Basic " + basic + b"\r\n")[0] == [200]
    assert code(b"", b"/healthz")[0] == [200]
    for wrong in (b"", b"Authorization: Bearer \r\n", b"Authorization: Bearer wrong\r\n", b"Authorization: Basic !\r\n",
                  b"Authorization: Digest secret-key-of-anna\r\n", b"Authorization: secret-key-of-anna\r\n"):
        codes, answer = code(wrong)
        assert codes == [401]
        assert b"WWW-Authenticate: Bearer" in answer and b"WWW-Authenticate: Basic" in answer
    # Before the body is read: it never comes.
    codes, answer = code(length(b"1000"), method=b"POST")
    assert codes == [401]
    log = server.end()
    assert "secret-key" not in log and '"caller":"anna"' in log


def test_log(start_echo):
    server = start_echo()
    talk(server.port, get(b"/v1/jobs/job_1?token=hidden", CLOSE + b"x-request-id: abc\r\n"))
    talk(server.port, get(b"/%1b", CLOSE))
    lines = [json.loads(line) for line in server.end().splitlines()]
    first = next(line for line in lines if line.get("request_id") == "abc")
    assert first["path"] == "/v1/jobs/job_1" and first["route"] == "/v1/jobs/{id}" and first["status"] == 200
    assert first["method"] == "GET" and first["remote"] == "127.0.0.1" and first["bytes_out"] > 0
    assert "hidden" not in server.log.read_text() and "\x1b" not in server.log.read_text()


def test_tls(start_echo, tmp_path):
    import ssl
    certificate, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    made = subprocess.run(["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj",
                           "/CN=test", "-keyout", key, "-out", certificate], capture_output=True)
    if made.returncode:
        pytest.skip("needs openssl")
    server = start_echo(tls=(certificate, key))
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE

    def secure(payload):
        with context.wrap_socket(connect(server.port)) as client:
            client.sendall(payload)
            return read_all(client)

    for target, ending in ((b"/healthz", b"{}\n"), (b"/slow", b"slow\n"), (b"/events", b"0\r\n\r\n")):
        answer, ended = secure(get(target, CLOSE))
        assert ended and statuses(answer) == [200] and answer.endswith(ending)
    assert len(secure(get(b"/big?bytes=5000000", CLOSE))[0]) > 5000000
    assert b"https://test|" in secure(get(b"/v1/jobs", CLOSE))[0]
    assert statuses(secure(get(headers=b"A: b\nC: d\r\n"))[0]) == [400]
    assert statuses(talk(server.port, get())[0]) == []  # plain text to a TLS port
    old = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    old.check_hostname, old.verify_mode = False, ssl.CERT_NONE
    old.maximum_version = ssl.TLSVersion.TLSv1_1
    with pytest.raises((ssl.SSLError, ConnectionError)):
        old.wrap_socket(connect(server.port))
    with connect(server.port):  # a handshake that never comes
        assert secure(get(headers=CLOSE))[1]


# ---- what the dialects refuse (asdmd)

JOB = {"kind": "t2i", "prompt": "a"}


def send_job(daemon, body, content_type=b"application/json", target=b"/v1/jobs"):
    answer, ended = talk(daemon.port, post(b"Content-Type: " + content_type + b"\r\n" + length(b"%d" % len(body)) +
                                           CLOSE, body, target), seconds=30)
    assert ended
    return statuses(answer), answer


JSON_TRAPS = {
    "empty": b"",
    "cut": b'{"prompt": "a',
    "trailing": b'{"prompt": "a"} x',
    "two": b'{"prompt": "a"}{"prompt": "b"}',
    "array": b'[{"prompt": "a"}]',
    "scalar": b"1",
    "duplicate": b'{"prompt": "a", "prompt": "b"}',
    "duplicate_escaped": b'{"prompt": "a", "prom\\u0070t": "b"}',
    "nul_escape": b'{"prompt": "a\\u0000b"}',
    "nul": b'{"prompt": "a\0b"}',
    "lone_surrogate": b'{"prompt": "\\ud800"}',
    "not_utf8": b'{"prompt": "\xff"}',
    "deep": b'{"prompt": ' + b"[" * 100000 + b"]" * 100000 + b"}",
    "deep_17": b'{"prompt": ' + b"[" * 17 + b"]" * 17 + b"}",
    "many_nodes": b'{"prompt": [' + b"1," * 100000 + b"1]}",
    "comment": b'{"prompt": "a" /* b */}',
    "trailing_comma": b'{"prompt": "a",}',
    "nan": b'{"prompt": "a", "seed": NaN}',
    "bom": b'\xef\xbb\xbf{"prompt": "a"}',
    "single_quotes": b"{'prompt': 'a'}",
    "control": b'{"prompt": "a\nb"}',
}


@pytest.mark.parametrize("name", JSON_TRAPS)
def test_json_trap(daemon, name):
    codes, answer = send_job(daemon, JSON_TRAPS[name])
    assert codes == [400] and b'"error"' in answer, answer
    assert is_alive(daemon.port)


VALUE_TRAPS = {
    "unknown": {"promt": "a"},
    "case": {"Prompt": "a"},
    "number_as_text": {"steps": "20"},
    "huge_number": {"steps": 1e308},
    "fraction": {"steps": 2.5},
    "negative": {"count": -1},
    "big_seed": {"seed": 2**70},
    "width": {"width": 2**31},
    "width_odd": {"width": 257},
    "prompt_type": {"prompt": ["a"]},
    "prompt_long": {"prompt": "a " * 10_000_000},
    "null_kind": {"kind": "x"},
    "image_url": {"kind": "i2i", "init_image": "http://127.0.0.1/x.png"},
    "image_file": {"kind": "i2i", "init_image": "file:///etc/passwd"},
    "image_text": {"kind": "i2i", "init_image": "not base64!"},
    "image_not_png": {"kind": "i2i", "init_image": base64.b64encode(b"GIF89a" + b"\0" * 100).decode()},
}


@pytest.mark.parametrize("name", VALUE_TRAPS)
def test_value_trap(daemon, name):
    codes, answer = send_job(daemon, json.dumps(JOB | VALUE_TRAPS[name]).encode())
    assert codes == [422] or (name == "prompt_long" and codes in ([400], [413])), answer[:1000]
    assert is_alive(daemon.port)


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", binascii.crc32(kind + data))


def png(width, height, data, bits=8, colour=2, extra=b""):
    header = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + extra + chunk(b"IDAT", data) + chunk(b"IEND", b"")


PNG_BOMBS = {
    "huge_sides": png(2**31 - 1, 2**31 - 1, zlib.compress(b"\0" * 100)),
    "wide": png(100000, 1, zlib.compress(b"\0" * 300001)),
    "many_pixels": png(16000, 16000, zlib.compress(b"\0" * 1000)),
    "zero": png(0, 8, zlib.compress(b"")),
    "inflates": png(16384, 16384, zlib.compress(b"\0" * 50_000_000, 9)),
    "text_bomb": png(8, 8, zlib.compress(b"\0" * 100), extra=chunk(b"zTXt", b"a\0\0" + zlib.compress(b"\0" * 50_000_000))),
    "profile_bomb": png(8, 8, zlib.compress(b"\0" * 100),
                        extra=chunk(b"iCCP", b"a\0\0" + zlib.compress(b"\0" * 50_000_000))),
    "short": png(64, 64, zlib.compress(b"\0" * 100)),
    "bad_stream": png(64, 64, b"not deflate"),
    "bad_crc": png(64, 64, zlib.compress(b"\0" * 64 * 193))[:-20] + b"\0" * 20,
    "cut": png(64, 64, zlib.compress(b"\0" * 64 * 193))[:50],
    "bits": png(64, 64, zlib.compress(b"\0" * 64 * 193), bits=3),
}


@pytest.mark.parametrize("name", PNG_BOMBS)
def test_png_bomb(daemon, name):
    body = json.dumps(JOB | {"kind": "i2i", "init_image": base64.b64encode(PNG_BOMBS[name]).decode()}).encode()
    start = time.monotonic()
    codes, answer = send_job(daemon, body)
    assert codes == [422] and b"init_image" in answer, answer
    assert time.monotonic() - start < 5 and is_alive(daemon.port)


def form(*parts, end=b"--B--\r\n"):
    return b"".join(b"--B\r\n" + part + b"\r\n" for part in parts) + end


def field(name, value, extra=b""):
    return b'Content-Disposition: form-data; name="' + name + b'"' + extra + b"\r\n\r\n" + value


B = b"multipart/form-data; boundary=B"
PROMPT = field(b"prompt", b"a")
MULTIPART_TRAPS = {
    "no_boundary": (b"multipart/form-data", form(PROMPT)),
    "empty_boundary": (b'multipart/form-data; boundary=""', form(PROMPT)),
    "long_boundary": (b"multipart/form-data; boundary=" + b"B" * 71, form(PROMPT)),
    "other_boundary": (b"multipart/form-data; boundary=C", form(PROMPT)),
    "boundary_with_space": (b'multipart/form-data; boundary="B "', form(PROMPT)),
    "two_boundaries": (b"multipart/form-data; boundary=B; boundary=C", form(PROMPT)),
    "empty": (B, b""),
    "no_end": (B, form(PROMPT, end=b"")),
    "cut": (B, form(PROMPT)[:-3]),
    "only_end": (B, b"--B--\r\n"),
    "no_disposition": (B, form(b"Content-Type: text/plain\r\n\r\na")),
    "two_dispositions": (B, form(b'Content-Disposition: form-data; name="a"\r\n' + PROMPT)),
    "no_name": (B, form(b"Content-Disposition: form-data\r\n\r\na")),
    "attachment": (B, form(b'Content-Disposition: attachment; name="prompt"\r\n\r\na')),
    "quote_open": (B, form(b'Content-Disposition: form-data; name="prompt\r\n\r\na')),
    "no_header_end": (B, b'--B\r\nContent-Disposition: form-data; name="prompt"\r\n'),
    "header_large": (B, form(b"X: " + b"a" * 20000 + b"\r\n" + PROMPT)),
    "parts_65": (B, form(*[field(b"f%d" % i, b"a") for i in range(65)])),
    "bare_lf": (B, form(PROMPT).replace(b"\r\n", b"\n")),
    "encoded": (B, form(b"Content-Transfer-Encoding: base64\r\n" + field(b"prompt", b"YQ=="))),
    "nul_in_name": (B, form(field(b"pro\0mpt", b"a"))),
    "junk_after": (B, form(PROMPT) + b"junk"),
    "junk_boundary": (B, form(PROMPT, end=b"--Bx--\r\n")),
    "prompt_not_utf8": (B, form(field(b"prompt", b"\xff"))),
    "mixed": (b"multipart/mixed; boundary=B", form(PROMPT)),
    "no_image": (B, form(PROMPT)),
    "image_not_png": (B, form(PROMPT, field(b"image", b"GIF89a", b'; filename="../../etc/passwd"'))),
    "image_bomb": (B, form(PROMPT, field(b"image", PNG_BOMBS["many_pixels"], b'; filename="a.png"'))),
}


@pytest.mark.parametrize("name", MULTIPART_TRAPS)
def test_multipart_trap(daemon, name):
    content_type, body = MULTIPART_TRAPS[name]
    codes, answer = send_job(daemon, body, content_type, b"/v1/images/edits")
    assert codes in ([400], [415], [422]) and b'"error"' in answer, answer
    assert is_alive(daemon.port)
