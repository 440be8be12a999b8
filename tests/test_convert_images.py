"""Images: verified, listed, re-encoded; and fetched from nowhere but the open internet."""

from __future__ import annotations

import hashlib
import io
import socket
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import pytest

from nestrec_recbole import NestRecError
from nestrec_recbole.convert import Images, Options, amazon2023, convert, sequences
from nestrec_recbole.convert import download as download_module
from nestrec_recbole.convert.download import Limits, download, is_public
from nestrec_recbole.data.atomic import read_columns

pillow = pytest.importorskip("PIL.Image")

QUICK = Limits(largest=100_000, tries=3, pause=0.01, timeout=2.0, deadline=5.0)


def picture(size: tuple[int, int] = (64, 48), kind: str = "JPEG", mode: str = "RGB") -> bytes:
    buffer = io.BytesIO()
    pillow.effect_noise(size, 50).convert(mode).save(buffer, format=kind)
    return buffer.getvalue()


@pytest.fixture
def posters(tmp_path: Path) -> Path:
    """Of items a to g; the history holds h too, and nobody has met x."""
    folder = tmp_path / "posters"
    folder.mkdir()
    files = {
        "a.jpg": picture(),
        "b.png": picture(kind="PNG", mode="RGBA"),
        "c.jpg": picture()[:-500],
        "d.jpg": b"<html>404</html>",
        "e.jpg": picture((20, 400)),
        "f.tiff": picture(kind="TIFF"),
        "g.jpg": b"",
        "x.jpg": picture(),
    }
    for name, content in files.items():
        (folder / name).write_bytes(content)
    (tmp_path / "s.txt").write_text("u a b c d e f g h\n")
    return folder


def listed(path: Path) -> dict[str, str]:
    return {line.split("\t")[0]: line.split("\t")[-1] for line in path.read_text().splitlines()[1:]}


def test_images_are_verified_and_bad_ones_listed_with_the_reason(posters: Path, tmp_path: Path) -> None:
    report = convert(sequences(tmp_path / "s.txt"), "d", Options(images=Images(posters)), tmp_path)
    assert listed(tmp_path / "d" / "images.tsv") == {"a": str(posters / "a.jpg"), "b": str(posters / "b.png")}
    column = read_columns(tmp_path / "d" / "d.item", ["item_id", "image"]).set_index("item_id").image.dropna()
    assert column.to_dict() == listed(tmp_path / "d" / "images.tsv") and report["fields"]["image"] == 2 / 8
    reasons = listed(tmp_path / "d" / "images_bad.tsv")
    assert set(reasons) == set("cdefg") and report["images"] == {"listed": 2, "bad": 5}
    assert "truncated" in reasons["c"] and "cannot be read as an image" in reasons["d"]
    assert reasons["e"] == "20 x 400 pixels; expected 32 at least" and "cannot be read as an image" in reasons["f"]
    assert not (tmp_path / "d" / "images").exists()


def test_a_column_with_the_name_of_the_images_is_refused(posters: Path, tmp_path: Path) -> None:
    """DuckDB ignores case: the file would hold the column twice."""
    (tmp_path / "i.csv").write_text("item_id,Image\na,cover\n")
    corpus = sequences(tmp_path / "s.txt", items=tmp_path / "i.csv")
    with pytest.raises(NestRecError, match="field 'Image' of items and that of their images have the same name"):
        convert(corpus, "d", Options(images=Images(posters)), tmp_path)


def test_images_are_resized_and_encoded_anew(posters: Path, tmp_path: Path) -> None:
    images = Images(posters, resize=32, format="jpeg", min_size=16)
    convert(sequences(tmp_path / "s.txt"), "d", Options(images=images), tmp_path)
    assert listed(tmp_path / "d" / "images.tsv") == {item: f"images/{item}.jpg" for item in "abe"}
    for item, size in {"a": (32, 24), "b": (32, 24), "e": (2, 32)}.items():
        with pillow.open(tmp_path / "d" / "images" / f"{item}.jpg") as image:
            assert (image.format, image.mode, image.size) == ("JPEG", "RGB", size)


def test_copies_are_the_same_bytes_and_names_stay_in_the_folder(posters: Path, tmp_path: Path) -> None:
    (posters / "a.jpg").rename(posters / "%2e.jpg")
    (tmp_path / "s.txt").write_text("u b %2e\n")
    convert(sequences(tmp_path / "s.txt"), "d", Options(images=Images(posters, copy=True)), tmp_path)
    names = listed(tmp_path / "d" / "images.tsv")
    assert names == {"%2e": "images/%252e.jpg", "b": "images/b.png"}
    assert (tmp_path / "d" / names["b"]).read_bytes() == (posters / "b.png").read_bytes()


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"format": "jpg"}, "did you mean 'jpeg'"),
        ({"folder": Path("nowhere")}, "no such folder"),
        ({"resize": 0}, "expected pixels"),
    ],
)
def test_options_that_make_no_sense(given: dict[str, Any], words: str) -> None:
    with pytest.raises(NestRecError, match=words):
        Images(**given)


# -- downloads --------------------------------------------------------------------------------------------------


class Server(BaseHTTPRequestHandler):
    """Serves what ``answers`` says, and remembers what it was asked."""

    answers: ClassVar[dict[str, Callable[[Server], None]]] = {}
    asked: ClassVar[list[tuple[str, str | None]]] = []

    def do_GET(self) -> None:
        self.asked.append((self.path, self.headers.get("Range")))
        self.answers[self.path](self)

    def send(self, status: int, body: bytes = b"", **headers: str) -> None:
        self.send_response(status)
        for name, value in {"Content_Length": str(len(body)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        """Keep quiet."""


@pytest.fixture
def server() -> Iterator[str]:
    Server.answers, Server.asked = {}, []
    running = ThreadingHTTPServer(("127.0.0.1", 0), Server)
    threading.Thread(target=running.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{running.server_port}"
    running.shutdown()
    running.server_close()


@pytest.fixture
def all_public(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only here: a server on loopback takes the part of one on the internet."""
    monkeypatch.setattr(download_module, "is_public", lambda address: True)


@pytest.mark.parametrize(
    "address",
    [
        *(
            "127.0.0.1",
            "127.8.8.8",
            "10.1.2.3",
            "172.16.0.1",
            "192.168.1.1",
            "169.254.169.254",
            "0.0.0.0",
            "100.64.0.1",
        ),
        *("::1", "::", "fe80::1", "fe80::1%eth0", "fc00::1", "::ffff:127.0.0.1", "::ffff:10.0.0.1", "64:ff9b::7f00:1"),
        *("2002:7f00:1::", "2001:0:1::1", "224.0.0.1", "255.255.255.255", "ff02::1", "240.0.0.1"),
    ],
)
def test_addresses_that_are_not_public(address: str) -> None:
    assert not is_public(address)


@pytest.mark.parametrize("address", ["8.8.8.8", "2606:4700::1111", "::ffff:8.8.8.8"])
def test_addresses_that_are_public(address: str) -> None:
    assert is_public(address)


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "127.1", "2130706433", "0x7f000001", "[::1]", "0.0.0.0"])
def test_loopback_is_refused_in_any_spelling(host: str, server: str, tmp_path: Path) -> None:
    Server.answers["/a"] = lambda s: s.send(200, b"secret")
    url = f"http://{host}:{server.rpartition(':')[2]}/a"
    found = download([url], tmp_path, QUICK)[url]
    assert not isinstance(found, Path) and Server.asked == [] and list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "url", ["file:///etc/passwd", "ftp://8.8.8.8/a", "gopher://x", "nothing", "http://", "http://a:b/"]
)
def test_only_http(url: str, tmp_path: Path) -> None:
    assert "only http and https" in (reason := str(download([url], tmp_path)[url])) or "is not a URL" in reason


def test_one_private_address_among_public_ones_is_enough(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (ip, 80)) for ip in ("8.8.8.8", "192.168.0.1")]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: found)
    monkeypatch.setattr(socket, "create_connection", lambda *_, **__: pytest.fail("it connects"))
    reason = download(["http://example.org/a"], tmp_path)["http://example.org/a"]
    assert reason == "example.org is 192.168.0.1, which is not a public address"


def test_a_redirect_to_a_private_address_is_refused(
    server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(download_module, "is_public", lambda address: address == "127.0.0.1")
    Server.answers["/a"] = lambda s: s.send(302, Location="http://127.0.0.2:1/meta-data")
    Server.answers["/b"] = lambda s: s.send(301, Location="file:///etc/passwd")
    Server.answers["/c"] = lambda s: s.send(302, Location="/c")
    found = {url[-1]: reason for url, reason in download([f"{server}/{x}" for x in "abc"], tmp_path, QUICK).items()}
    assert found["a"] == "127.0.0.2 is 127.0.0.2, which is not a public address"
    assert "only http and https are fetched" in str(found["b"]) and found["c"] == "more than 5 redirects"


def test_the_connection_goes_to_the_address_that_was_checked(
    server: str, tmp_path: Path, all_public: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A name that means another address on the second look-up gains nothing: there is no second look-up."""
    answers = iter([[(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", 0))]])
    original = socket.getaddrinfo

    def look_up(host: str, *rest: Any, **more: Any) -> Any:
        return next(answers) if host == "rebinding.test" else original(host, *rest, **more)

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    Server.answers["/a"] = lambda s: s.send(200, s.headers["Host"].encode())
    port = server.rpartition(":")[2]
    (found,) = download([f"http://rebinding.test:{port}/a"], tmp_path, QUICK).values()
    assert Path(found).read_text() == f"rebinding.test:{port}"


def test_retries_with_back_off_and_gives_up_on_what_is_gone(server: str, tmp_path: Path, all_public: None) -> None:
    failures = iter([503, 429])

    def moody(s: Server) -> None:
        status = next(failures, 200)
        s.send(status, b"good" if status == 200 else b"")

    Server.answers = {"/moody": moody, "/gone": lambda s: s.send(404), "/down": lambda s: s.send(500)}
    found = download([f"{server}{path}" for path in Server.answers], tmp_path, QUICK)
    assert Path(found[f"{server}/moody"]).read_bytes() == b"good"
    assert str(found[f"{server}/gone"]).startswith("HTTP 404") and "(3 tries)" in str(found[f"{server}/down"])
    asked = [path for path, _ in Server.asked]
    assert (asked.count("/moody"), asked.count("/gone"), asked.count("/down")) == (3, 1, 3)


def test_a_cut_off_download_goes_on_where_it_stopped(server: str, tmp_path: Path, all_public: None) -> None:
    body = bytes(range(256)) * 200

    def cut(s: Server) -> None:
        begin = int((s.headers.get("Range") or "bytes=0-")[6:-1])
        if begin:
            assert s.headers["If-Range"] == '"v1"'
            s.send(206, body[begin:], ETag='"v1"', Content_Range=f"bytes {begin}-{len(body) - 1}/{len(body)}")
        else:
            s.send(200, body[:30_000], ETag='"v1"', Content_Length=str(len(body)))
            s.close_connection = True

    Server.answers["/cut"] = cut
    (found,) = download([f"{server}/cut"], tmp_path, QUICK).values()
    assert Path(found).read_bytes() == body and Server.asked == [("/cut", None), ("/cut", "bytes=30000-")]
    download([f"{server}/cut"], tmp_path, QUICK)
    assert len(Server.asked) == 2  # it is there
    assert [path.name for path in tmp_path.iterdir()] == [hashlib.sha256(f"{server}/cut".encode()).hexdigest()[:40]]


def test_what_is_too_large_is_not_kept(server: str, tmp_path: Path, all_public: None) -> None:
    Server.answers["/big"] = lambda s: s.send(200, bytes(QUICK.largest + 1))
    (found,) = download([f"{server}/big"], tmp_path, QUICK).values()
    assert found == "larger than 100000 bytes" and list(tmp_path.iterdir()) == []


def test_images_are_downloaded_only_when_asked_for(server: str, tmp_path: Path, all_public: None) -> None:
    from corpora import meta, review, write_lines

    Server.answers = {"/a": lambda s: s.send(200, picture()), "/b": lambda s: s.send(404)}
    records = [meta(item, images=[{"variant": "MAIN", "large": f"{server}/{item}"}]) for item in "ab"]
    reviews = write_lines(tmp_path / "r.jsonl", [review("u", "a", 1), review("u", "b", 2)])
    corpus = amazon2023([reviews], [write_lines(tmp_path / "m.jsonl", records)])
    convert(corpus, "d", data_path=tmp_path)
    assert Server.asked == [] and listed(tmp_path / "d" / "images.tsv") == {"a": f"{server}/a", "b": f"{server}/b"}
    convert(corpus, "d", Options(images=Images(download=True)), data_path=tmp_path)
    assert listed(tmp_path / "d" / "images.tsv") == {"a": "images/a.jpg"}
    assert listed(tmp_path / "d" / "images_bad.tsv") == {"b": "HTTP 404 Not Found"}


def test_what_is_no_host_is_a_reason(tmp_path: Path) -> None:
    found = download(["http://a..b/c.jpg", "http://[half"], tmp_path, QUICK)
    assert all(isinstance(reason, str) for reason in found.values())


def test_altering_no_images_is_an_error() -> None:
    with pytest.raises(NestRecError, match="no images to copy or alter"):
        Images(resize=32)


def test_too_many_pixels_are_a_reason(posters: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pillow, "MAX_IMAGE_PIXELS", 2000)  # from twice that on, Pillow raises
    convert(sequences(tmp_path / "s.txt"), "d", Options(images=Images(posters)), tmp_path)
    assert "expected 2,000 at most" in listed(tmp_path / "d" / "images_bad.tsv")["a"]
