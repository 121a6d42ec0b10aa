"""Fetching published networks, from a server that behaves and from some that do not."""

import hashlib
import pickle
import socket
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import torch

from thingstuff import published
from thingstuff.checkpoint import Checkpoint, load_checkpoint
from thingstuff.convert.classes import coco_labels
from thingstuff.convert.detectron2 import RELEASED, ReleasedFile, all_modules
from thingstuff.convert.mapping import foreign_names, network_shapes
from thingstuff.errors import InputError
from thingstuff.published import PUBLISHED, cache_folder, published_checkpoint
from thingstuff.recipes import panoptic_fpn_r50_3x_coco, tiny_scenes

CONTENT = bytes(range(256)) * 4096
NAME = "coco/some-network"


class Server:
    """Serves one file, in the way the test wants, and notes what it was asked for."""

    def __init__(self, content: bytes):
        self.content = content
        self.ranges: list[str | None] = []
        self.breaks_off_at: list[int] = []
        self.knows_ranges = True
        self.status = 200

    def handler(self):
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                wanted = self.headers["Range"]
                server.ranges.append(wanted)
                if server.status != 200:
                    self.send_error(server.status)
                    return
                start = int(wanted[6:-1]) if wanted and server.knows_ranges else 0
                if start and start >= len(server.content):
                    self.send_error(416)
                    return
                self.send_response(206 if start else 200)
                if start:
                    end = len(server.content) - 1
                    self.send_header("Content-Range", f"bytes {start}-{end}/{len(server.content)}")
                body = server.content[start:]
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                if server.breaks_off_at:
                    body = body[: server.breaks_off_at.pop(0)]
                self.wfile.write(body)

            def log_message(self, format, *args):
                pass

        return Handler


@contextmanager
def serving(server: Server):
    httpd = ThreadingHTTPServer(("127.0.0.1", 0), server.handler())
    thread = threading.Thread(target=httpd.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"http://127.0.0.1:{httpd.server_address[1]}/"
    finally:
        httpd.shutdown()
        httpd.server_close()
        thread.join()


def a_release(content: bytes, sha256: str | None = None) -> dict[str, ReleasedFile]:
    prefix = hashlib.md5(content).hexdigest()[:6]
    file = ReleasedFile("some_network", "folder/some.pkl", prefix, sha256, panoptic_fpn_r50_3x_coco)
    return {NAME: file}


@pytest.fixture
def fetched(monkeypatch):
    """Replaces the conversion, which has its own tests; keeps what would have been converted."""
    contents = []

    def convert(file):
        contents.append(file.read_bytes())
        return Checkpoint({"weight": torch.ones(2)}, tiny_scenes(), coco_labels(), credit="a licence")

    monkeypatch.setattr(published, "convert_detectron2", convert)
    return contents


def fetch(address, cache, content=CONTENT, **options):
    return published_checkpoint(
        NAME, cache=cache, base_url=address, released=a_release(content), **{"timeout": 5.0} | options
    )


def test_the_names_and_what_is_known_of_their_files():
    assert list(PUBLISHED) == ["coco/panoptic-fpn-r50-1x", "coco/panoptic-fpn-r50-3x", "coco/panoptic-fpn-r101-3x"]
    numbers = {name: file.path for name, file in PUBLISHED.items()}
    assert numbers == {
        "coco/panoptic-fpn-r50-1x": "COCO-PanopticSegmentation/panoptic_fpn_R_50_1x/139514544/model_final_dbfeb4.pkl",
        "coco/panoptic-fpn-r50-3x": "COCO-PanopticSegmentation/panoptic_fpn_R_50_3x/139514569/model_final_c10459.pkl",
        "coco/panoptic-fpn-r101-3x": "COCO-PanopticSegmentation/panoptic_fpn_R_101_3x/139514519/model_final_cafdb1.pkl",
    }
    assert [file.recipe().name for file in PUBLISHED.values()] == [
        "panoptic_fpn_r50_coco",
        "panoptic_fpn_r50_3x_coco",
        "panoptic_fpn_r101_3x_coco",
    ]
    assert all("CC BY-SA 3.0" in file.credit and "Detectron2" in file.credit for file in RELEASED)


def test_fetches_once_shows_the_licence_once_and_leaves_nothing_else(tmp_path, fetched, capsys):
    server = Server(CONTENT)
    with serving(server) as address:
        first = fetch(address, tmp_path)
        shown = capsys.readouterr().err
        second = fetch(address, tmp_path)
    assert first == second == tmp_path / "coco" / "some-network.safetensors"
    assert load_checkpoint(first).credit == "a licence"
    assert fetched == [CONTENT]
    assert server.ranges == [None]
    assert "CC BY-SA 3.0" in shown
    assert capsys.readouterr().err == ""
    assert {file.suffix for file in first.parent.iterdir()} <= {".safetensors", ".lock"}


def test_goes_on_at_once_where_it_broke_off(tmp_path, fetched):
    server = Server(CONTENT)
    server.breaks_off_at = [1000, 5000]
    with serving(server) as address:
        fetch(address, tmp_path)
    assert server.ranges == [None, "bytes=1000-", "bytes=6000-"]
    assert fetched == [CONTENT]


def test_goes_on_at_the_next_call(tmp_path, fetched):
    server = Server(CONTENT)
    server.breaks_off_at = [700_000, 0, 0]
    with serving(server) as address:
        with pytest.raises(InputError, match=r"broke off after 700000 of 1048576 bytes.*0\.7 MB are kept"):
            fetch(address, tmp_path)
        assert fetched == []
        fetch(address, tmp_path)
    assert server.ranges[-1] == "bytes=700000-"
    assert fetched == [CONTENT]


def test_a_server_without_ranges_sends_everything_again(tmp_path, fetched):
    server = Server(CONTENT)
    server.knows_ranges = False
    server.breaks_off_at = [1000]
    with serving(server) as address:
        fetch(address, tmp_path)
    assert fetched == [CONTENT]


def test_a_download_that_was_whole_already_is_used(tmp_path, fetched):
    part = tmp_path / "coco" / "some-network.pkl.part"
    part.parent.mkdir()
    part.write_bytes(CONTENT)
    with serving(Server(CONTENT)) as address:
        fetch(address, tmp_path)
    assert fetched == [CONTENT]


def test_wrong_bytes_are_refused_and_deleted(tmp_path, fetched):
    wrong = r"not the published file \(its md5 is [0-9a-f]{32}, .*deleted; try again"
    with serving(Server(CONTENT[::-1])) as address, pytest.raises(InputError, match=wrong):
        fetch(address, tmp_path)
    assert fetched == []
    assert [file for file in (tmp_path / "coco").iterdir() if file.suffix != ".lock"] == []


def test_the_whole_hash_counts_where_it_is_known(tmp_path, fetched):
    with serving(Server(CONTENT)) as address, pytest.raises(InputError, match="its sha256 is"):
        published_checkpoint(NAME, cache=tmp_path, base_url=address, released=a_release(CONTENT, "0" * 64))
    assert fetched == []


def test_a_server_that_never_answers(tmp_path, fetched):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"http://127.0.0.1:{silent.getsockname()[1]}/"
        with pytest.raises(InputError, match=r"cannot be fetched from http.* \(timed out\)") as caught:
            fetch(address, tmp_path, timeout=0.1)
    message = str(caught.value)
    assert "\n" not in message
    assert f"thingstuff convert detectron2 FILE {tmp_path / 'coco' / 'some-network.safetensors'}" in message


def test_no_server_at_all(tmp_path, fetched):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    with pytest.raises(InputError, match=r"cannot be fetched from .*Connection refused"):
        fetch(f"http://127.0.0.1:{port}/", tmp_path)


def test_a_file_that_is_not_there_is_asked_for_once(tmp_path, fetched):
    server = Server(CONTENT)
    server.status = 404
    with serving(server) as address, pytest.raises(InputError, match=r"cannot be fetched from .*Not Found"):
        fetch(address, tmp_path)
    assert len(server.ranges) == 1


def test_what_the_advice_says_works_without_a_network(tmp_path, fetched):
    kept = tmp_path / "coco" / "some-network.safetensors"
    kept.parent.mkdir()
    kept.write_bytes(b"converted by hand")
    assert fetch("http://127.0.0.1:9/", tmp_path) == kept


def test_unknown_names_list_the_known(tmp_path):
    with pytest.raises(InputError, match=r"'coco/none'; there are: coco/panoptic-fpn-r50-1x, "):
        published_checkpoint("coco/none", cache=tmp_path)


def test_a_cache_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"cannot be made.*set THINGSTUFF_CACHE"):
        published_checkpoint("coco/panoptic-fpn-r50-1x", cache=tmp_path / "file")


def test_cache_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("THINGSTUFF_CACHE", str(tmp_path / "here"))
    assert cache_folder() == tmp_path / "here"
    monkeypatch.delenv("THINGSTUFF_CACHE")
    monkeypatch.setattr(published.sys, "platform", "linux")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "thingstuff"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert cache_folder() == tmp_path / "home" / ".cache" / "thingstuff"


def test_a_whole_network_from_the_server_to_the_checkpoint(tmp_path):
    """The real conversion at the end of the real download, with a network of constant weights."""
    recipe = panoptic_fpn_r50_3x_coco()
    names = foreign_names(shapes := network_shapes(recipe, coco_labels()), all_modules("resnet50"))
    arrays = {name: torch.full(shapes[ours], 0.25).numpy() for name, ours in names.items()}
    content = pickle.dumps({"model": arrays, "__author__": "Detectron2 Model Zoo"}, protocol=4)
    server = Server(content)
    server.breaks_off_at = [50_000_000]
    with serving(server) as address:
        path = fetch(address, tmp_path, content)
    checkpoint = load_checkpoint(path)
    assert server.ranges == [None, "bytes=50000000-"]
    assert (checkpoint.labels.num_stuff, checkpoint.labels.num_things) == (53, 80)
    assert checkpoint.recipe.picture.channel_order == "bgr"
    assert all(bool((tensor == 0.25).all()) for tensor in checkpoint.weights.values())
    checkpoint.network()
