"""Checks the cache that `deltamem pull` writes and reads against Hugging Face's own client.

    python tests/hub/check_huggingface_hub.py target/debug/deltamem

Needs the Python package huggingface_hub and the program openssl; neither is needed to use or test
deltamem. Both get the built-in model's files, a branch and two commits from a small hub in this script,
one after the other into one cache, in either order:

1. what `pull` fetched is complete for `snapshot_download(local_files_only=True)`, has the names, links,
   blobs and refs that the client makes itself, and `scan_cache_dir` has no warning;
2. what the client fetched is complete for `deltamem list`, costs `pull` not a byte, and runs;
3. over TLS `pull` trusts whom the system (here: SSL_CERT_FILE) trusts and nobody else, and does not
   follow a redirect to plain http;
4. what `pull` left half done does not disturb the client, and it finishes after a client that failed.
"""

import hashlib
import json
import os
import shutil
import ssl
import subprocess
import sys
import tempfile
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

PROGRAM = str(Path(sys.argv[1]).resolve())
NANO = Path(__file__).parents[2] / "models/nano"
NAMES = [
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "chat_template.jinja",
    "model.safetensors",
    "delta_mem_config.json",
    "delta_mem_adapter.safetensors",
]
REPO = "ada/nano"
COMMITS = ["1" * 40, "2" * 40]
LARGE = 100_000


def files(commit):
    found = {name: (NANO / name).read_bytes() for name in NAMES}
    found["sub/notes.txt"] = f"of {commit}".encode()
    return found


def etag(data):
    if len(data) > LARGE:
        return hashlib.sha256(data).hexdigest()
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


class Hub(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    head = COMMITS[0]
    n_bytes = 0
    cut_after = None

    def log_message(self, *_):
        pass

    def answer(self, status, body=b"", **headers):
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "HEAD":
            return
        if Hub.cut_after is not None and len(body) > LARGE:
            self.wfile.write(body[: Hub.cut_after])
            self.close_connection = True
            return
        Hub.n_bytes += len(body) if self.path.startswith("/") and "/api/" not in self.path else 0
        self.wfile.write(body)

    def do_HEAD(self):
        self.do_GET()

    def do_GET(self):
        path = self.path.split("?")[0]
        if path.startswith(f"/api/models/{REPO}/tree/"):
            commit = path.rsplit("/", 1)[1]
            entries = []
            for name, data in files(commit).items():
                entry = {"type": "file", "path": name, "size": len(data), "oid": etag(data)}
                if len(data) > LARGE:
                    entry["lfs"] = {"oid": etag(data), "size": len(data), "pointerSize": 1}
                entries.append(entry)
            return self.answer(200, json.dumps(entries).encode(), Content_Type="application/json")
        if path.startswith(f"/api/models/{REPO}"):
            revision = path.rsplit("/", 1)[1] if "/revision/" in path else "main"
            commit = Hub.head if revision == "main" else revision
            siblings = []
            for name, data in files(commit).items():
                sibling = {"rfilename": name, "size": len(data), "blobId": etag(data)}
                if len(data) > LARGE:
                    sibling["lfs"] = {"sha256": etag(data), "size": len(data), "pointerSize": 1}
                siblings.append(sibling)
            body = {"id": REPO, "modelId": REPO, "sha": commit, "siblings": siblings, "tags": []}
            return self.answer(200, json.dumps(body).encode(), Content_Type="application/json")
        if path.startswith("/bytes/"):
            _, _, commit, name = path.split("/", 3)
            return self.bytes_of(files(commit)[name], '"bucket"')
        revision, name = path.split("/resolve/")[1].split("/", 1)
        commit = Hub.head if revision == "main" else revision
        data = files(commit).get(name)
        if data is None:
            return self.answer(404, X_Error_Code="EntryNotFound")
        if len(data) > LARGE:
            return self.answer(
                302,
                Location=f"http://localhost:{self.server.server_port}/bytes/{commit}/{name}",
                X_Linked_Etag=f'"{etag(data)}"',
                X_Linked_Size=str(len(data)),
                X_Repo_Commit=commit,
            )
        return self.bytes_of(data, f'"{etag(data)}"', X_Repo_Commit=commit)

    def bytes_of(self, data, tag, **headers):
        asked = self.headers.get("Range", "")
        if asked.startswith("bytes=") and asked.endswith("-"):
            first = int(asked[6:-1])
            if first >= len(data):
                return self.answer(416, Content_Range=f"bytes */{len(data)}")
            headers["Content_Range"] = f"bytes {first}-{len(data) - 1}/{len(data)}"
            return self.answer(206, data[first:], ETag=tag, **headers)
        return self.answer(200, data, ETag=tag, **headers)


def main():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    folder = Path(tempfile.mkdtemp())
    os.environ["HF_ENDPOINT"] = f"http://127.0.0.1:{server.server_port}"
    os.environ["HF_HOME"] = str(folder)
    os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
    os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"
    os.environ["NO_PROXY"] = "127.0.0.1,localhost"
    import huggingface_hub as hf

    cache = folder / "hub"
    patterns = [*NAMES]

    def deltamem(*arguments, code=0):
        done = subprocess.run([PROGRAM, *arguments], capture_output=True, text=True)
        assert done.returncode == code, done
        return done.stdout

    def client(**more):
        return Path(hf.snapshot_download(REPO, allow_patterns=patterns, **more))

    def tree():
        """Links with their targets, files with their hashes; the client's own notes aside."""
        found = {}
        for path in sorted((cache / "models--ada--nano").rglob("*")):
            name = str(path.relative_to(cache))
            if not any(part in path.parts for part in ("blobs", "snapshots", "refs")):
                continue
            if path.is_symlink():
                found[name] = os.readlink(path)
            elif path.is_file():
                found[name] = hashlib.sha256(path.read_bytes()).hexdigest()
        return found

    def forget():
        shutil.rmtree(cache, ignore_errors=True)
        Hub.n_bytes, Hub.head, Hub.cut_after = 0, COMMITS[0], None

    # 1: ours, then theirs
    deltamem("pull", REPO)
    ours = tree()
    Hub.n_bytes = 0
    snapshot = client(local_files_only=True)
    assert sorted(p.name for p in snapshot.iterdir()) == sorted(NAMES), snapshot
    client()
    assert Hub.n_bytes == 0, "the client fetches what is here"
    scan = hf.scan_cache_dir()
    assert not scan.warnings, scan.warnings
    (repo,) = scan.repos
    listed = json.loads(deltamem("list", "--json"))["repos"][0]
    assert repo.size_on_disk == listed["size_bytes"], (repo.size_on_disk, listed["size_bytes"])
    assert {r.commit_hash: sorted(r.refs) for r in repo.revisions} == {COMMITS[0]: ["main"]}

    # 2: theirs, then ours
    forget()
    client()
    theirs = tree()
    assert ours == theirs, (set(ours.items()) ^ set(theirs.items()))
    before = Hub.n_bytes
    deltamem("pull", REPO)
    assert Hub.n_bytes == before, "we fetch what is here"
    (revision,) = json.loads(deltamem("list", "--json"))["repos"][0]["revisions"]
    assert revision["is_complete"], revision
    reply = deltamem("generate", "--cpu", "--model", REPO, "Hello!")
    assert reply.strip(), reply

    # a newer commit beside it, and the older one away: the client still has the newer one
    Hub.head = COMMITS[1]
    patterns.append("sub/notes.txt")
    client()
    deltamem("rm", "--yes", f"{REPO}@{COMMITS[0]}")
    assert client(local_files_only=True).name == COMMITS[1]
    assert not hf.scan_cache_dir().warnings
    deltamem("rm", "--yes", REPO)
    assert not hf.scan_cache_dir().repos

    # 3: TLS, with a certificate that nobody knows but who is told
    forget()
    key, certificate = folder / "key.pem", folder / "certificate.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"]
        + ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"]
        + ["-addext", "basicConstraints=critical,CA:FALSE"]
        + ["-keyout", str(key), "-out", str(certificate)],
        check=True,
        capture_output=True,
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    secure = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    secure.socket = context.wrap_socket(secure.socket, server_side=True)
    threading.Thread(target=secure.serve_forever, daemon=True).start()
    endpoint = {"HF_ENDPOINT": f"https://localhost:{secure.server_port}"}
    trusted = {"SSL_CERT_FILE": str(certificate)}
    for name, more, code, said in [
        ("config.json", {}, 1, "[network]"),
        ("config.json", trusted, 0, "in the cache"),
        ("model.safetensors", trusted, 1, "[refused]"),
    ]:
        arguments = [PROGRAM, "pull", f"{REPO}:{name}"]
        done = subprocess.run(
            arguments, capture_output=True, text=True, env={**os.environ, **endpoint, **more}
        )
        assert done.returncode == code and said in done.stderr, done
        print(f"TLS: {done.stderr.strip().splitlines()[-1]}")

    # 4: half done
    patterns[:] = ["model.safetensors"]
    weights = len(files(COMMITS[0])["model.safetensors"])
    for first, second in [("client", "pull"), ("pull", "client")]:
        forget()
        Hub.cut_after = 1_000_000
        run = {"client": client, "pull": lambda: deltamem("pull", f"{REPO}:model.safetensors")}
        if first == "client":
            try:
                run[first]()
            except Exception:  # whatever the client calls it
                pass
        else:
            part = cache / "models--ada--nano/blobs"
            part.mkdir(parents=True)
            data = files(COMMITS[0])["model.safetensors"]
            (part / f"{etag(data)}.incomplete").write_bytes(data[:1_000_000])
        Hub.cut_after, Hub.n_bytes = None, 0
        run[second]()
        path = cache / f"models--ada--nano/snapshots/{COMMITS[0]}/model.safetensors"
        assert path.read_bytes() == files(COMMITS[0])["model.safetensors"]
        print(f"{second} after half of {first}: {Hub.n_bytes} of {weights} bytes fetched")
    shutil.rmtree(folder)
    print(f"the cache is that of huggingface_hub {hf.__version__}")


main()
