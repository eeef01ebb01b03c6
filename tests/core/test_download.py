"""Downloads from a server of this machine: resumed, checked, atomic, stopped, or refused with a reason."""

from __future__ import annotations

import hashlib
import os
import threading
import time
from collections.abc import Iterator
from http.client import HTTPMessage
from pathlib import Path
from types import SimpleNamespace
from urllib.request import Request

import pytest
from file_server import FileServer, serving

from oneshot_core.features import download as module
from oneshot_core.features.download import DownloadError, download, hub_url
from oneshot_core.writing import claim

DATA = os.urandom(3_000_000)
SHA256 = hashlib.sha256(DATA).hexdigest()


class Stop(Exception):
    """What a user's stop button raises."""


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[FileServer]:
    """Serve DATA as /a.bin, without pauses."""
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(module, "PAUSE_SECONDS", 0.0)
    monkeypatch.setattr(module, "REPORT_SECONDS", 0.0)
    monkeypatch.setattr(module, "TIMEOUT_SECONDS", 5.0)
    with serving() as state:
        state.files["/a.bin"] = DATA
        yield state


@pytest.fixture
def target(tmp_path) -> Path:
    return tmp_path / "models" / "a.bin"


def part_of(target: Path) -> Path:
    return target.with_name("a.bin.part")


def leave_part(target: Path, data: bytes) -> None:
    target.parent.mkdir()
    part_of(target).write_bytes(data)


def check_whole(target: Path) -> None:
    assert target.read_bytes() == DATA
    assert list(target.parent.iterdir()) == [target]  # neither a part nor a lock is left


def test_a_file_arrives_once(server, target):
    seen: list[tuple[int, int | None]] = []
    assert download(f"{server.url}/a.bin", str(target), progress=lambda *at: seen.append(at)) == target
    check_whole(target)
    known = [at for at in seen if at[1] is not None]  # before the answer comes, nothing is known
    assert known[0] == (0, len(DATA)) and known[-1] == seen[-1] == (len(DATA), len(DATA))
    assert known == sorted(known)
    download(f"{server.url}/a.bin", target, progress=lambda *at: pytest.fail("it is there"))
    assert server.asked == [("/a.bin", None)]


def test_a_cut_connection_is_continued(server, target):
    server.cuts = [1_000_000, 500_000]
    download(f"{server.url}/a.bin", target, sha256=SHA256)
    check_whole(target)
    assert [wanted for _, wanted in server.asked] == [None, "bytes=1000000-", "bytes=1500000-"]


def test_a_silent_connection_is_continued(server, target, monkeypatch):
    monkeypatch.setattr(module, "TIMEOUT_SECONDS", 0.2)
    server.stalls = [1.0]
    download(f"{server.url}/a.bin", target, sha256=SHA256)
    check_whole(target)
    assert len(server.asked) == 2


def test_the_part_stays_when_all_tries_are_cut(server, target):
    server.cuts = [100] * module.TRIES
    with pytest.raises(
        DownloadError, match=r"ended after 500 of 3000000 bytes; 500 bytes are kept in .*part"
    ):
        download(f"{server.url}/a.bin", target, sha256=SHA256)
    assert not target.exists() and part_of(target).stat().st_size == 100 * module.TRIES
    download(f"{server.url}/a.bin", target, sha256=SHA256)
    check_whole(target)
    assert server.asked[-1] == ("/a.bin", "bytes=500-")


def test_a_server_without_ranges_starts_again(server, target):
    leave_part(target, DATA[:1000])
    server.ranges, server.cuts = False, [2000]
    download(f"{server.url}/a.bin", target, sha256=SHA256)
    check_whole(target)
    assert [wanted for _, wanted in server.asked] == ["bytes=1000-", "bytes=2000-"]


def test_without_a_hash_nothing_is_joined(server, target):
    leave_part(target, b"another file")
    download(f"{server.url}/a.bin", target)
    check_whole(target)
    assert [wanted for _, wanted in server.asked] == ["bytes=12-", None]


def test_a_wrong_hash_is_refused_and_thrown_away(server, target):
    with pytest.raises(DownloadError, match=f"SHA-256 {SHA256}, wanted 0123abcd"):
        download(f"{server.url}/a.bin", target, sha256="0123ABCD")
    assert not list(target.parent.iterdir())
    download(f"{server.url}/a.bin", target, sha256=SHA256[:8])  # the first digits are enough
    check_whole(target)


def test_a_foreign_part_is_replaced(server, target, caplog):
    leave_part(target, b"x" * 1000)
    download(f"{server.url}/a.bin", target, sha256=SHA256)
    check_whole(target)
    assert [wanted for _, wanted in server.asked] == ["bytes=1000-", None]
    assert "did not belong to" in caplog.text


def test_a_part_of_full_length_is_only_checked(server, target):
    leave_part(target, DATA)
    download(f"{server.url}/a.bin", target, sha256=SHA256)
    check_whole(target)
    assert server.asked == [("/a.bin", f"bytes={len(DATA)}-")]


def test_a_part_that_is_too_long_is_replaced(server, target):
    leave_part(target, DATA + b"more")
    download(f"{server.url}/a.bin", target, sha256=SHA256)
    check_whole(target)
    assert [wanted for _, wanted in server.asked] == [f"bytes={len(DATA) + 4}-", None]


def hub(server: FileServer, sha256: str = SHA256, size: int = len(DATA)) -> str:
    """Serve the file as the hub does: its hash and size with a redirect to the storage."""
    server.redirects["/file"] = "/a.bin?signed"
    server.files["/a.bin?signed"] = DATA
    server.headers["/file"] = {"X-Linked-Etag": f'"{sha256}"', "X-Linked-Size": str(size)}
    return f"{server.url}/file"


def test_the_hubs_hash_is_checked_across_the_redirect_and_allows_resuming(server, target):
    url = hub(server)
    server.cuts = [1000]
    download(url, target)
    check_whole(target)
    assert server.asked[-1] == ("/a.bin?signed", "bytes=1000-")
    target.unlink()
    with pytest.raises(DownloadError, match="wanted 000"):
        download(hub(server, sha256="0" * 64), target)


def test_answers_that_contradict_themselves_are_refused(server, target):
    with pytest.raises(DownloadError, match=f"offers {len(DATA)} bytes for a file of 17 bytes"):
        download(hub(server, size=17), target)
    server.headers["/a.bin"] = {"Content-Encoding": "gzip"}
    with pytest.raises(DownloadError, match="encoding 'gzip'"):
        download(f"{server.url}/a.bin", target)
    server.headers["/a.bin"] = {"Content-Length": str(10**16)}
    with pytest.raises(DownloadError, match=r"needs 10,000,000,000,000,000 more bytes in .*models"):
        download(f"{server.url}/a.bin", target)
    assert not target.exists() and not part_of(target).exists()


def test_errors_of_the_server_are_told(server, target):
    with pytest.raises(DownloadError, match="/none answered 404") as caught:
        download(f"{server.url}/none", target)
    assert caught.value.absent
    for status in (403, 503):
        server.status["/a.bin"] = status
        with pytest.raises(DownloadError, match=f"answered {status}") as caught:
            download(f"{server.url}/a.bin", target)
        assert not caught.value.absent
    server.status["/a.bin"] = 206
    with pytest.raises(DownloadError, match="answered 206 to a request for the whole file"):
        download(f"{server.url}/a.bin", target)
    assert len(server.asked) == 4  # none of them is tried again


def test_nobody_there_is_told_at_once(target, monkeypatch):
    monkeypatch.setattr(module, "PAUSE_SECONDS", 60.0)
    with serving() as gone:
        pass
    with pytest.raises(DownloadError, match="refused"):
        download(f"{gone.url}/a.bin", target)


@pytest.mark.parametrize("url", ["file:///etc/hostname", "ftp://127.0.0.1/a", "a.bin"])
def test_only_web_addresses_are_opened(url, server, target):
    with pytest.raises(DownloadError, match="only http and https"):
        download(url, target)
    server.redirects["/elsewhere"] = "ftp://127.0.0.1/a"
    with pytest.raises(DownloadError, match="which is refused"):
        download(f"{server.url}/elsewhere", target)


def test_a_secure_address_leads_to_a_secure_one():
    redirects = module._Redirects()
    given = Request("https://one/a", headers={"Range": "bytes=5-"})
    with pytest.raises(DownloadError, match="which is refused: not https"):
        redirects.redirect_request(given, SimpleNamespace(), 302, "Found", HTTPMessage(), "http://two/a")
    followed = redirects.redirect_request(given, SimpleNamespace(), 308, "", HTTPMessage(), "https://two/a")
    assert followed is not None and followed.get_header("Range") == "bytes=5-"


@pytest.mark.parametrize("error", [Stop, OSError])
def test_the_callback_stops_a_download_that_goes_on_later(server, target, error):
    server.stalls = [1.0]

    def stop(done: int, total: int | None) -> None:
        if done > 100_000:
            raise error("stopped")

    with pytest.raises(error, match="^stopped$"):
        download(f"{server.url}/a.bin", target, sha256=SHA256, progress=stop)
    kept = part_of(target).stat().st_size
    assert 100_000 < kept < len(DATA) and not target.exists()
    download(f"{server.url}/a.bin", target, sha256=SHA256)
    check_whole(target)
    assert server.asked[-1] == ("/a.bin", f"bytes={kept}-")


def test_two_at_once_download_once(server, target):
    server.stalls = [0.3]
    both = [threading.Thread(target=download, args=(f"{server.url}/a.bin", target)) for _ in range(2)]
    for thread in both:
        thread.start()
    for thread in both:
        thread.join()
    check_whole(target)
    assert len(server.asked) == 1


def test_waiting_for_another_process_can_be_stopped(server, target):
    def stop(done: int, total: int | None) -> None:
        raise Stop

    target.parent.mkdir()
    held = claim(target.with_name(".a.bin.part.lock"))
    assert held is not None
    with pytest.raises(Stop):
        download(f"{server.url}/a.bin", target, progress=stop)
    held.release()
    assert not server.asked


def test_a_folder_that_cannot_be_made_is_named(server, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DownloadError, match=r"file.*cannot be written"):
        download(f"{server.url}/a.bin", tmp_path / "file" / "a.bin")


def test_the_callback_is_not_called_for_every_packet(server, target, monkeypatch):
    monkeypatch.setattr(module, "REPORT_SECONDS", 60.0)
    seen: list[float] = []
    download(f"{server.url}/a.bin", target, progress=lambda *_: seen.append(time.monotonic()))
    assert len(seen) == 2  # the beginning and the end


def test_the_hubs_address_follows_the_environment(monkeypatch):
    monkeypatch.delenv("HF_ENDPOINT", raising=False)
    assert hub_url("a/b", "c d.bin") == "https://huggingface.co/a/b/resolve/main/c%20d.bin"
    monkeypatch.setenv("HF_ENDPOINT", "https://mirror.example/")
    assert hub_url("a/b", "c.bin") == "https://mirror.example/a/b/resolve/main/c.bin"


def test_a_stalled_download_is_stopped_at_once(server, target, monkeypatch):
    """ComfyUI's cancel: the server has sent half and then says nothing."""
    monkeypatch.setattr(module, "REPORT_SECONDS", 0.05)
    server.stalls.append(4.0)
    asked = time.monotonic() + 0.5

    def progress(done: int, total: int | None) -> None:
        if time.monotonic() > asked:
            raise Stop

    with pytest.raises(Stop):
        download(f"{server.url}/a.bin", target, progress=progress)
    assert time.monotonic() - asked < 1.0
    assert not target.exists()
