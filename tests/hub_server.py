"""A loopback stand-in for the Hugging Face Hub, spoken to by the real ``huggingface_hub`` client in tests.

``HubServer`` keeps model and dataset repositories in a folder and serves the part of the Hub's HTTP API that
creating, uploading, listing and downloading need. As on the Hub, a repository starts with a commit of its own
that holds ``.gitattributes``, and the client is told which files to send with Git LFS. The only branch is
``main``; other revisions are full commit hashes. All requests need the token, reads too, apart from the
transfer of LFS contents, for which the Hub gives out presigned addresses.

The client must run with ``HF_HUB_DISABLE_XET=1``: where ``hf_xet`` is installed it would otherwise send large
files to a Xet storage service, which this server is not.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from fnmatch import fnmatch
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

LFS_PATTERNS = ("*.safetensors", "*.bin", "*.pt", "*.onnx", "*.parquet", "*.arrow", "*.zip", "*.npz")

_REPO = r"(?P<repo_id>[\w-][\w.-]*(?:/[\w-][\w.-]*)?)"
_API = rf"/api/(?P<kind>models|datasets|spaces)/{_REPO}"
_WEB = rf"/(?:(?P<kind>datasets|spaces)/)?{_REPO}"
_LFS = rf"{_WEB}\.git/info/lfs/objects"
_REVISION = r"(?P<revision>[^/]+)"


@dataclass
class Response:
    """An answer to send."""

    body: bytes = b""
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)


def json_response(value: Any, status: int = 200) -> Response:
    """An answer with a JSON body."""
    return Response(json.dumps(value).encode(), status, {"Content-Type": "application/json"})


class HubError(Exception):
    """An error answer; ``code`` goes out as ``X-Error-Code``, from which the client picks its exception."""

    def __init__(self, status: int, message: str, code: str = "", commit: str = "") -> None:
        super().__init__(message)
        headers = {"X-Error-Message": message, "X-Error-Code": code, "X-Repo-Commit": commit}
        self.response = json_response({"error": message}, status)
        self.response.headers.update({name: value for name, value in headers.items() if value})


def git_hash(content: bytes) -> str:
    """The name git gives to a blob with this content."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


@dataclass(frozen=True)
class Commit:
    """A commit of ``main``, with the hash of the content at each path.

    That is a 40-digit git hash for a file in git and a 64-digit SHA-256 for one in LFS; the client compares
    it with its own copy before an upload, and gets it as ETag in a download.
    """

    oid: str
    title: str
    files: dict[str, str]


class Repo:
    """A repository on disk: contents in ``objects``, named by their hash, and the list of commits."""

    def __init__(self, folder: Path) -> None:
        self.objects = folder / "objects"
        self._log = folder / "commits.json"

    def exists(self) -> bool:
        """Whether the repository was created."""
        return self._log.exists()

    def create(self) -> None:
        """Create the repository with its first commit."""
        attributes = "".join(f"{pattern} filter=lfs diff=lfs merge=lfs -text\n" for pattern in LFS_PATTERNS)
        self.objects.mkdir(parents=True)
        self._log.write_text("[]")
        self.commit("initial commit", {".gitattributes": self.add(attributes.encode())})

    def commits(self) -> list[Commit]:
        """The commits, oldest first."""
        return [Commit(**fields) for fields in json.loads(self._log.read_text())]

    def at(self, revision: str) -> Commit:
        """The commit that ``main`` or a full commit hash names."""
        commits = self.commits()
        named = {commit.oid: commit for commit in commits} | {"main": commits[-1]}
        if revision not in named:
            raise HubError(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        return named[revision]

    def commit(self, title: str, files: dict[str, str]) -> Commit:
        """Append a commit with this listing."""
        commits = self.commits()
        identity = json.dumps([len(commits), title, files])
        commits.append(Commit(hashlib.sha1(identity.encode()).hexdigest(), title, files))
        self._log.write_text(json.dumps([asdict(commit) for commit in commits]))
        return commits[-1]

    def add(self, content: bytes) -> str:
        """Store the content of a file in git and return its hash."""
        oid = git_hash(content)
        (self.objects / oid).write_bytes(content)
        return oid

    def tree(self, commit: Commit) -> list[dict[str, Any]]:
        """Every folder and file of a commit, as the Hub's tree listings describe them."""
        folders = {str(parent) for path in commit.files for parent in PurePosixPath(path).parents} - {"."}
        items = [{"type": "directory", "path": path, "oid": git_hash(path.encode())} for path in folders]
        return items + [self._tree_file(path, oid) for path, oid in commit.files.items()]

    def _tree_file(self, path: str, oid: str) -> dict[str, Any]:
        """A file of a tree listing; what git holds in place of an LFS content is a pointer to it."""
        size = (self.objects / oid).stat().st_size
        if len(oid) == 40:
            return {"type": "file", "path": path, "size": size, "oid": oid}
        pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{oid}\nsize {size}\n".encode()
        lfs = {"oid": oid, "size": size, "pointerSize": len(pointer)}
        return {"type": "file", "path": path, "size": size, "oid": git_hash(pointer), "lfs": lfs}


@dataclass(frozen=True)
class Request:
    """A request whose route was found: ``groups`` are the decoded named groups of the route's pattern."""

    hub: HubServer
    groups: dict[str, str]
    query: dict[str, list[str]]
    body: bytes

    @property
    def repo(self) -> Repo:
        """The repository that the path names; outside ``/api`` it names the kind of datasets only."""
        return self.hub.repo(self.groups.get("kind", "models"), self.groups["repo_id"])

    @property
    def page(self) -> str:
        """The web address of that repository."""
        return self.hub.page(self.groups.get("kind", "models"), self.groups["repo_id"])

    @property
    def commit(self) -> Commit:
        """The commit that the path names."""
        return self.repo.at(self.groups.get("revision", "main"))


class HubServer:
    """The Hub of a test: a context manager that serves the repositories under ``root`` on a loopback port.

    ``requests`` collects the method and path of every request in order of arrival. ``faults`` are the statuses that
    the next commits are answered with in place of being made; 0 hangs up.
    """

    user = "tester"
    lfs_threshold = 10 * 1024 * 1024

    def __init__(self, root: Path, token: str = "hf_test") -> None:
        self.root = root
        self.token = token
        self.requests: list[tuple[str, str]] = []
        self.faults: list[int] = []
        self.lock = threading.Lock()
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), partial(_Handler, self))
        self.url = f"http://127.0.0.1:{self._http.server_port}"

    def __enter__(self) -> HubServer:
        threading.Thread(target=self._http.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._http.shutdown()
        self._http.server_close()

    def environment(self, cache_dir: Path) -> dict[str, str]:
        """What to add to a subprocess's environment for it to use this Hub and to cache in ``cache_dir``."""
        return {
            "HF_ENDPOINT": self.url,
            "HF_TOKEN": self.token,
            "HF_HOME": str(cache_dir),
            "HF_HUB_CACHE": str(cache_dir / "hub"),
            "HF_HUB_OFFLINE": "0",
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "HF_HUB_DISABLE_PROGRESS_BARS": "1",
            "NO_PROXY": "127.0.0.1",
            "no_proxy": "127.0.0.1",
        }

    def repo_files(self, repo_id: str, repo_type: str = "model", revision: str = "main") -> dict[str, bytes]:
        """The files of a repository and their contents."""
        with self.lock:
            repo = self.repo(f"{repo_type}s", repo_id)
            return {path: (repo.objects / oid).read_bytes() for path, oid in repo.at(revision).files.items()}

    def commits(self, repo_id: str, repo_type: str = "model") -> list[str]:
        """The titles of a repository's commits, oldest first, beginning with the Hub's "initial commit"."""
        with self.lock:
            return [commit.title for commit in self.repo(f"{repo_type}s", repo_id).commits()]

    def repo(self, kind: str, repo_id: str) -> Repo:
        """An existing repository."""
        repo = Repo(self.root / kind / repo_id)
        if not repo.exists():
            raise HubError(404, "Repository not found", "RepoNotFound")
        return repo

    def page(self, kind: str, repo_id: str) -> str:
        """The web address of a repository."""
        return f"{self.url}/{repo_id}" if kind == "models" else f"{self.url}/{kind}/{repo_id}"


_Endpoint = Callable[[Request], Response]
_ROUTES: list[tuple[str, re.Pattern[str], bool, _Endpoint]] = []


def route(method: str, pattern: str, needs_token: bool = True) -> Callable[[_Endpoint], _Endpoint]:
    """Register the function that answers a method on the paths that match a pattern."""

    def register(endpoint: _Endpoint) -> _Endpoint:
        _ROUTES.append((method, re.compile(pattern), needs_token, endpoint))
        return endpoint

    return register


@route("GET", "/api/whoami-v2")
def whoami(request: Request) -> Response:
    """``whoami``."""
    return json_response({"type": "user", "name": request.hub.user, "fullname": request.hub.user, "orgs": []})


@route("POST", "/api/validate-yaml")
def validate_card(request: Request) -> Response:
    """The check of a README's metadata that precedes its commit; everything passes."""
    return json_response({"errors": [], "warnings": []})


@route("POST", "/api/repos/create")
def create_repo(request: Request) -> Response:
    """``create_repo``; an existing repository is a conflict, which the client's ``exist_ok`` accepts."""
    wanted = json.loads(request.body)
    kind, repo_id = (
        f"{wanted.get('type', 'model')}s",
        f"{wanted['organization'] or request.hub.user}/{wanted['name']}",
    )
    repo = Repo(request.hub.root / kind / repo_id)
    answer = {"url": request.hub.page(kind, repo_id)}
    if repo.exists():
        return json_response({**answer, "error": f"You already created {repo_id}"}, 409)
    repo.create()
    return json_response(answer)


@route("GET", rf"{_API}(?:/revision/{_REVISION})?")
def repo_info(request: Request) -> Response:
    """``model_info`` and ``dataset_info``, and with them ``list_repo_files``."""
    siblings = [{"rfilename": path} for path in request.commit.files]
    return json_response(
        {"id": request.groups["repo_id"], "sha": request.commit.oid, "siblings": siblings, "tags": []}
    )


@route("GET", rf"{_API}/tree/{_REVISION}(?:/(?P<path>.+))?")
def list_tree(request: Request) -> Response:
    """``list_repo_tree``, in one page."""
    folder, commit = request.groups.get("path"), request.commit
    prefix = f"{folder}/" if folder else ""
    items = [item for item in request.repo.tree(commit) if item["path"].startswith(prefix)]
    if folder and not items:
        raise HubError(404, f"{folder} does not exist on this revision", "EntryNotFound", commit.oid)
    if request.query.get("recursive") != ["true"]:
        items = [item for item in items if "/" not in item["path"].removeprefix(prefix)]
    return json_response(items)


@route("POST", rf"{_API}/preupload/{_REVISION}")
def preupload(request: Request) -> Response:
    """Tell the client how to send each file, and the hash of what the revision already has in its place."""
    present = request.commit.files

    def plan(file: dict[str, Any]) -> dict[str, Any]:
        path = file["path"]
        binary = b"\0" in base64.b64decode(file["sample"])
        listed = any(fnmatch(PurePosixPath(path).name, pattern) for pattern in LFS_PATTERNS)
        mode = "lfs" if binary or listed or file["size"] > request.hub.lfs_threshold else "regular"
        return {"path": path, "uploadMode": mode, "shouldIgnore": False, "oid": present.get(path)}

    return json_response({"files": [plan(file) for file in json.loads(request.body)["files"]]})


@route("POST", rf"{_LFS}/batch")
def lfs_batch(request: Request) -> Response:
    """Answer with the address to upload to for each LFS content that is not stored yet."""
    repo, storage = request.repo, f"{request.page}.git/info/lfs/objects"

    def plan(wanted: dict[str, Any]) -> dict[str, Any]:
        if (repo.objects / wanted["oid"]).exists():
            return wanted
        actions = {"upload": {"href": f"{storage}/{wanted['oid']}"}, "verify": {"href": f"{storage}/verify"}}
        return {**wanted, "actions": actions}

    return json_response({"objects": [plan(wanted) for wanted in json.loads(request.body)["objects"]]})


@route("PUT", _LFS + r"/(?P<oid>[0-9a-f]{64})", needs_token=False)
def lfs_upload(request: Request) -> Response:
    """Store an LFS content."""
    oid = request.groups["oid"]
    if hashlib.sha256(request.body).hexdigest() != oid:
        raise HubError(400, "The content does not have the announced SHA-256")
    (request.repo.objects / oid).write_bytes(request.body)
    return Response()


@route("POST", rf"{_LFS}/verify")
def lfs_verify(request: Request) -> Response:
    """Confirm that an LFS content arrived whole."""
    wanted = json.loads(request.body)
    stored = request.repo.objects / wanted["oid"]
    if not stored.exists() or stored.stat().st_size != wanted["size"]:
        raise HubError(400, "The content was not uploaded, or has another size")
    return Response()


def _apply(repo: Repo, files: dict[str, str], key: str, value: dict[str, Any]) -> dict[str, str]:
    """The listing after one operation of a commit."""
    path = value["path"]
    if key == "file":
        return {**files, path: repo.add(base64.b64decode(value["content"]))}
    if key == "lfsFile":
        if not (repo.objects / value["oid"]).exists():
            raise HubError(400, f"The LFS content of {path} was not uploaded")
        return {**files, path: value["oid"]}
    if key not in ("deletedFile", "deletedFolder"):
        raise HubError(400, f"Unknown commit operation {key}")
    kept = {name: oid for name, oid in files.items() if not f"{name}/".startswith(f"{path.rstrip('/')}/")}
    if kept == files:
        raise HubError(404, "A file with this name doesn't exist", "EntryNotFound")
    return kept


@route("POST", rf"{_API}/commit/{_REVISION}")
def create_commit(request: Request) -> Response:
    """``create_commit``, and with it ``upload_file`` and ``upload_folder``: one JSON operation per line."""
    repo = request.repo
    if request.groups["revision"] != "main" or "create_pr" in request.query:
        raise HubError(400, "This server takes commits on main only, and no pull requests")
    header, *operations = [json.loads(line) for line in request.body.splitlines()]
    head = repo.at("main")
    if not head.oid.startswith(header["value"].get("parentCommit", "")):
        raise HubError(412, "A commit has happened since. Please refresh and try again.")
    files = head.files
    for operation in operations:
        files = _apply(repo, files, operation["key"], operation["value"])
    oid = repo.commit(header["value"]["summary"], files).oid
    return json_response({"success": True, "commitOid": oid, "commitUrl": f"{request.page}/commit/{oid}"})


@route("GET", rf"{_WEB}/resolve/{_REVISION}/(?P<path>.+)")
def resolve_file(request: Request) -> Response:
    """A file's content, or with HEAD only what describes it: ``hf_hub_download`` and ``file_exists``."""
    commit = request.commit
    oid = commit.files.get(request.groups["path"])
    if oid is None:
        raise HubError(404, "Entry not found", "EntryNotFound", commit.oid)
    content = (request.repo.objects / oid).read_bytes()
    headers = {"ETag": f'"{oid}"', "X-Repo-Commit": commit.oid}
    if len(oid) == 64:
        headers |= {"X-Linked-ETag": f'"{oid}"', "X-Linked-Size": str(len(content))}
    return Response(content, headers=headers)


class _Handler(BaseHTTPRequestHandler):
    """Carries requests to the endpoints, one at a time, and their answers back."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def __init__(self, hub: HubServer, *args: Any) -> None:
        self.hub = hub
        super().__init__(*args)

    def _answer(self) -> None:
        """Answer one request."""
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        with self.hub.lock:
            self.hub.requests.append((self.command, self.path))
            faulty = self.command == "POST" and "/commit/" in self.path and self.hub.faults
            try:
                if faulty and (status := self.hub.faults.pop(0)):
                    raise HubError(status, "Something is wrong")
                if faulty:
                    self.close_connection = True
                    return
                response = self._dispatch(body)
            except HubError as error:
                response = error.response
        self.send_response(response.status)
        for name, value in {**response.headers, "Content-Length": str(len(response.body))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(response.body)

    do_GET = do_HEAD = do_POST = do_PUT = _answer

    def _dispatch(self, body: bytes) -> Response:
        """Run the endpoint that the method and path select."""
        address = urlsplit(self.path)
        for method, pattern, needs_token, endpoint in _ROUTES:
            match = pattern.fullmatch(address.path)
            if match and method == self.command.replace("HEAD", "GET"):
                if needs_token:
                    self._check_token()
                groups = {name: unquote(value) for name, value in match.groupdict().items() if value}
                return endpoint(Request(self.hub, groups, parse_qs(address.query), body))
        raise HubError(404, f"This server does not answer {self.command} {address.path}")

    def _check_token(self) -> None:
        """Refuse a request that does not carry the token."""
        authorization = self.headers.get("Authorization")
        if authorization is None:
            raise HubError(401, "Invalid username or password.")
        if authorization != f"Bearer {self.hub.token}":
            raise HubError(401, "Invalid credentials in Authorization header")

    def log_message(self, format: str, *args: Any) -> None:
        """Keep the log of requests out of the test's output."""
