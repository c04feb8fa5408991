"""Downloads from the model hub: its own client and command line against a local hub."""

import hashlib
import json
import os
import re
import shlex
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote

import pytest

from tests.conftest import REPOSITORY

COMMIT = "0123456789abcdef0123456789abcdef01234567"
BESIDE = (".gitattributes", "README.md", "ckpt/epoch=4-step=1400000.ckpt", "onnx/model.safetensors", "optimizer.pt")
REPOSITORIES = {
    "HKUSTAudio/xcodec2": ("config.json", "model.safetensors", "last.ckpt", *BESIDE),
    "neuphonic/neucodec": ("meta.yaml", "pytorch_model.bin", *BESIDE),
    "openai/whisper-large-v3": ("normalizer.json", "model.safetensors", *BESIDE),
    "someone/judge": ("config.json", "vocab.json", "model.safetensors", "pytorch_model.bin", "tf_model.h5", *BESIDE),
    "funasr/paraformer-zh": ("config.yaml", "tokens.json", "am.mvn", "model.pt", "example/a.wav", "README.md"),
    "someone/empty": ("config.json",),
}


class Hub(BaseHTTPRequestHandler):
    """Answers like huggingface.co: a repository's file list, and its files, whose content is their name."""

    def do_HEAD(self) -> None:
        self._answer(False)

    def do_GET(self) -> None:
        self._answer(True)

    def _answer(self, with_body: bool) -> None:
        path = unquote(self.path.partition("?")[0])
        if found := re.fullmatch(r"/api/models/([^/]+/[^/]+)/(?:revision|tree)/.*", path):
            files = REPOSITORIES.get(found[1])
            about = {"id": found[1], "sha": COMMIT, "siblings": [{"rfilename": name} for name in files or ()]}
            if "/tree/" in path:
                about = [{"type": "file", "path": name, "size": len(name), "oid": "0" * 40} for name in files or ()]
            self._send(
                200 if files else 404, json.dumps(about).encode(), with_body, {"Content-Type": "application/json"}
            )
        elif found := re.fullmatch(r"/([^/]+/[^/]+)/resolve/[^/]+/(.+)", path):
            there = found[2] in REPOSITORIES.get(found[1], ())
            if with_body and there:
                self.server.fetched.append(found[2])
            tag = hashlib.sha1(found[2].encode(), usedforsecurity=False).hexdigest()
            headers = {"X-Repo-Commit": COMMIT, "ETag": f'"{tag}"', "Accept-Ranges": "bytes"}
            self._send(200 if there else 404, found[2].encode(), with_body, headers)
        else:
            self._send(404, b"{}", with_body, {})

    def _send(self, status: int, body: bytes, with_body: bool, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        if with_body:
            self.wfile.write(body)

    def log_message(self, *arguments: object) -> None:
        pass


@pytest.fixture(scope="module")
def hub() -> Iterator[ThreadingHTTPServer]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()


def run(command: list[str], hub: ThreadingHTTPServer, folder: Path, offline: bool = False) -> str:
    """Output of a command with this hub only and its own cache."""
    settings = {
        "HF_ENDPOINT": f"http://127.0.0.1:{hub.server_port}", "HF_HOME": str(folder),
        "HF_HUB_OFFLINE": str(int(offline)), "HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_TELEMETRY": "1",
        "PYTHONPATH": str(REPOSITORY),
    }  # fmt: skip
    environment = {name: value for name, value in os.environ.items() if "proxy" not in name.lower()} | settings
    hub.fetched = []
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


LOADERS = """
from pathlib import Path
from modules.codec.formats.weights import local_path
from modules.verifiers.embeddings.audio_models import AudioModel
from modules.verifiers.embeddings.funasr_models import FunASRModel
print(local_path(Path("HKUSTAudio/xcodec2")))
print(local_path(Path("neuphonic/neucodec")))
print(AudioModel("someone/judge", "AutoModelForCTC").folder)
print(FunASRModel("funasr/paraformer-zh", 1.0)._folder)
for name in ("someone/empty", "someone/absent"):
    try:
        AudioModel(name, "AutoModelForCTC").folder
    except FileNotFoundError as error:
        print(str(error).splitlines()[0])
"""


def test_loaders_download_only_what_they_read(hub, tmp_path):
    """Guards against downloading 14.9 GB where 3.29 are read, weights in two formats, and a cached model that needs the
    hub."""
    wanted = [
        {"config.json", "model.safetensors"},
        {"pytorch_model.bin"},
        {"config.json", "vocab.json", "model.safetensors"},
        {"config.yaml", "tokens.json", "am.mvn", "model.pt"},
    ]
    for offline in (False, True):
        *folders, empty, absent = run([sys.executable, "-c", LOADERS], hub, tmp_path, offline).splitlines()
        for folder, names in zip(folders, wanted, strict=True):
            assert {str(one.relative_to(folder)) for one in Path(folder).rglob("*") if one.is_file()} == names
        assert "someone/empty" in empty and "someone/absent" in absent
        assert bool(hub.fetched) is not offline


def test_documented_downloads_fetch_single_files(hub, tmp_path):
    """Guards against a documented command that downloads a whole repository, or nothing."""
    lines = []
    for path in (*REPOSITORY.glob("configs/**/*.yaml"), *REPOSITORY.glob("docs/**/*.md"), REPOSITORY / "README.md"):
        lines += re.findall(r"(hf download [^`\n]+)", path.read_text())
    assert len(lines) >= 7
    for number, line in enumerate(sorted(set(lines))):
        assert "--include" in line, line
        (tmp_path / str(number)).mkdir()
        hf = str(Path(sys.executable).with_name("hf"))
        run([hf, *shlex.split(line)[1:]], hub, tmp_path / str(number))
        expected = ["normalizer.json"] if "whisper" in line else ["config.json", "model.safetensors"]
        assert sorted(set(hub.fetched)) == expected
