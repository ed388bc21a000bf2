"""
Python processes that start with everything imported.

`[warm.python(), "run.py", ...]` starts what `[sys.executable, "run.py", ...]` starts, without the seconds that the
imports take: a server imports once and forks for each command. The command is a process of its own, with its own
arguments, environment, folder, streams, signals and exit status. `sys.executable` in it is the same program, so that
launchers start their workers this way, too.

Tests of a start itself (its messages, what it reads from the environment, what it imports) start a cold process. A
variable that the imported modules have read already is refused if its value differs from the server's.

As a program, `warm.py serve FOLDER PRELOAD` is a server and `warm.py start FOLDER ARGUMENT ...` one command.
"""

import array
import atexit
import contextlib
import json
import os
import signal
import socket
import sys
from collections.abc import Mapping

TESTS = os.path.dirname(os.path.abspath(__file__))

# Each server is forked from the one before, so that nothing is imported twice.
PRELOADS = {
    "libraries": (
        *("numpy", "scipy.signal", "scipy.stats", "pandas", "pyarrow.parquet", "sklearn.metrics"),
        *("matplotlib.figure", "matplotlib.backends.backend_agg", "cv2", "av", "soundfile", "jinja2", "PIL.Image"),
        *("pydicom", "torch", "torch._dynamo", "torch.distributed.launcher.api", "torchaudio", "torchvision"),
    ),
    "hugging_face": (
        *("datasets", "evaluate", "accelerate", "accelerate.commands.launch", "peft", "timm", "transformers.trainer"),
        *("transformers.pipelines",),
    ),
    "hf_fer": ("hf_fer.experiment.one_run", "hf_fer.experiment.stages", "hf_fer.cli"),
}
# Prefixes of variables that are read at import. Without KMP_ and LD_: scikit-learn and OpenCV set some themselves.
READ_BY_LIBRARIES = ("LANG", "LC_", "MALLOC_", "MKL_", "MPL", "NUMEXPR_", "OMP_", "OPENBLAS_", "PYTHON")
READ_BY_HUGGING_FACE = ("DATASETS_", "DISABLE_", "HF_", "HOME", "HUGGING", "SAFETENSORS_", "TRANSFORMERS_", "XDG_")
READ_LATER = ("HF_TOKEN", "PYTHONBREAKPOINT", "PYTHONPATH", "PYTHONUNBUFFERED", "PYTHON_EXEC")
NO_MATTER = ("HF_HUB_DISABLE_TELEMETRY",)  # Gradio sets it where it is imported; the tests are offline

PASSED_ON = (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)
NO_SERVER = 120
"""Exit status of a command that the server did not run."""

servers: dict[tuple, tuple] = {}


def python(preload: str = "hf_fer") -> str:
    """
    The program to start in place of `sys.executable`.

    Args:
        preload: on Linux, `libraries`, without those that read HF_HOME and similar variables when they are imported;
            `hugging_face`, which adds those; or `hf_fer`, which adds this package with all its systems. Elsewhere the
            program is `sys.executable`, because libraries of macOS cannot be forked and Windows has no fork.
    """
    import subprocess
    import tempfile
    import time
    from pathlib import Path

    if sys.platform != "linux":
        return sys.executable
    key = (preload, *sorted(read(os.environ, preload).items()))  # what libraries set since is another server's
    if key not in servers:
        names = list(PRELOADS)
        before = names[: names.index(preload)]
        starter = python(before[-1]) if before else sys.executable
        folder = tempfile.mkdtemp(prefix="hf_fer_warm_")
        program, log = (os.path.join(folder, name) for name in ("python", "log"))
        with open(program, "w") as file:
            file.write(f'#!/bin/sh\nexec "{sys.executable}" -I -S "{__file__}" start "{folder}" "$@"\n')
        os.chmod(program, 0o755)
        with open(log, "w") as file:
            command = [starter, __file__, "serve", folder, preload]
            server = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=file, stderr=file)
        servers[key] = server, program
        if len(servers) == 1:
            atexit.register(stop)
        while not os.path.exists(os.path.join(folder, "socket")):
            assert server.poll() is None, Path(log).read_text()
            time.sleep(0.01)
    return servers[key][1]


def stop() -> None:
    """End the servers, each before the one that it was forked from."""
    import shutil

    for server, program in reversed(servers.values()):
        server.stdin.close()
        server.wait()
        shutil.rmtree(os.path.dirname(program))
    servers.clear()


def send(connection: socket.socket, message: dict) -> None:
    data = json.dumps(message).encode()
    connection.sendall(len(data).to_bytes(4, "big") + data)


def receive(connection: socket.socket) -> dict | None:
    """The next message, or None where the other side has ended."""
    data, size = b"", 4
    while len(data) < size:
        more = connection.recv(size - len(data))
        if not more:
            return None
        data += more
        if len(data) == size == 4:
            size += int.from_bytes(data, "big")
    return json.loads(data[4:])


def start(folder: str, arguments: list[str]) -> None:
    """Have a command run by the server, pass signals on to it, and end as it does."""
    process = 0

    def pass_on(signum: int, frame: object) -> None:
        os.killpg(process, signum)

    ignored = [signum for signum in PASSED_ON if signal.getsignal(signum) == signal.SIG_IGN]
    signal.pthread_sigmask(signal.SIG_BLOCK, PASSED_ON)
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(os.path.join(folder, "socket"))
        streams = array.array("i", [0, 1, 2]).tobytes()
        connection.sendmsg([b"\0"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, streams)])
        command = {"arguments": arguments, "folder": os.getcwd(), "environment": dict(os.environ), "ignored": ignored}
        send(connection, command)
        for stream in range(3):  # the end of the output is that of the command's output
            os.close(stream)
        answer = receive(connection)
        if answer is None:
            os._exit(NO_SERVER)
        process = answer["process"]
        for signum in PASSED_ON:
            if signum not in ignored:
                signal.signal(signum, pass_on)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, PASSED_ON)
        answer = receive(connection)
    end(NO_SERVER if answer is None else answer["status"])


def end(status: int) -> None:
    """End at once, with an exit status or, if it is negative, by a signal."""
    if status < 0:
        if status != -signal.SIGKILL:
            signal.signal(-status, signal.SIG_DFL)
        os.kill(os.getpid(), -status)
    os._exit(status)


def read(environment: Mapping[str, str], preload: str) -> dict[str, str]:
    """The variables that are read when the modules are imported."""
    prefixes = READ_BY_LIBRARIES + (READ_BY_HUGGING_FACE if preload != "libraries" else ())
    others = (*READ_LATER, *NO_MATTER, *(() if preload == "hf_fer" else ("HF_FER_SYSTEMS",)))
    return {name: value for name, value in environment.items() if name.startswith(prefixes) and name not in others}


def load(preload: str) -> None:
    """Import and do no more: what is computed might start a thread, which a fork would lack."""
    import gc
    import importlib
    from pathlib import Path

    for name in PRELOADS[preload]:
        importlib.import_module(name)
    if preload == "hf_fer":
        from hf_fer.task.base import task_names
        from hf_fer.task.find import load_task

        for name in task_names():
            load_task(name)
    elif preload == "libraries":
        assert "huggingface_hub" not in sys.modules
    assert ("hf_fer" in sys.modules) == (preload == "hf_fer")
    threads = [path.read_text().strip() for path in Path("/proc/self/task").glob("*/comm")]
    assert len([name for name in threads if name != "jemalloc_bg_thd"]) == 1, (
        threads
    )  # jemalloc itself looks after its thread at a fork
    gc.collect()
    gc.freeze()


def serve(folder: str, preload: str) -> dict:
    """Answer until the standard input ends; returns in each forked process, with its command."""
    import selectors

    before, own = dict(os.environ), read(os.environ, preload)
    load(preload)
    added = {name: value for name, value in os.environ.items() if name not in before}
    running: dict[int, socket.socket] = {}
    wake, waker = socket.socketpair()
    waker.setblocking(False)
    signal.signal(signal.SIGCHLD, lambda signum, frame: None)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.set_wakeup_fd(waker.fileno(), warn_on_full_buffer=False)
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(os.path.join(folder, "new"))
    listener.listen(64)
    os.rename(os.path.join(folder, "new"), os.path.join(folder, "socket"))
    selector = selectors.DefaultSelector()
    for place in (0, listener, wake):
        selector.register(place, selectors.EVENT_READ)
    while True:
        for key, _ in selector.select():
            if key.fileobj == 0:
                for process in running:
                    kill_group(process)
                os._exit(0)
            elif key.fileobj is listener:
                connection, _ = listener.accept()
                _, streams, _, _ = socket.recv_fds(connection, 1, 3)
                command = receive(connection)
                names = {name for name, _ in read(command["environment"], preload).items() ^ own.items()}
                process = None if names else os.fork()
                if process == 0:
                    for place in (listener, wake, waker, connection, selector, *running.values()):
                        place.close()
                    return {**command, "streams": streams, "environment": {**added, **command["environment"]}}
                if names:
                    message = f"warm.py: {', '.join(sorted(names))} had other values when modules were imported\n"
                    os.write(streams[2], message.encode())
                    connection.close()
                else:
                    with contextlib.suppress(PermissionError, ProcessLookupError):  # it has done so itself
                        os.setpgid(process, process)
                    running[process] = connection
                    selector.register(connection, selectors.EVENT_READ, process)
                    send(connection, {"process": process})
                for stream in streams:
                    os.close(stream)
            elif key.fileobj is wake:
                wake.recv(2**12)
                while running:
                    process, status = os.waitpid(-1, os.WNOHANG)
                    if process == 0:
                        break
                    connection = running.pop(process)
                    with contextlib.suppress(KeyError):
                        selector.unregister(connection)
                    with contextlib.suppress(BrokenPipeError):
                        send(connection, {"status": os.waitstatus_to_exitcode(status)})
                    connection.close()
            elif key.data in running:  # what waits for the command was killed
                kill_group(key.data)
                selector.unregister(key.fileobj)


def kill_group(process: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process, signal.SIGKILL)


def become(command: dict, program: str) -> None:
    """Make a process that has just been forked the command's, up to its first line."""
    import random

    import numpy

    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    for signum in PASSED_ON:  # a job in the background of a shell ignores SIGINT
        default = signal.default_int_handler if signum == signal.SIGINT else signal.SIG_DFL
        signal.signal(signum, signal.SIG_IGN if signum in command["ignored"] else default)
    os.setpgid(0, 0)
    for number, stream in enumerate(command["streams"]):
        os.dup2(stream, number)
        os.close(stream)
    os.chdir(command["folder"])
    given = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    own = [path for path in sys.path if path not in (TESTS, *given)]
    os.environ.clear()
    os.environ.update(command["environment"])
    asked = [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path]
    sys.path[:] = [*asked, *own]
    sys.stdout.reconfigure(write_through=bool(os.environ.get("PYTHONUNBUFFERED")))
    sys.executable = program
    random.seed()
    numpy.random.seed()


def interpret(arguments: list[str]) -> None:
    """`python -c CODE ...`, `python -m MODULE ...` or `python FILE ...`; of the interpreter's own flags, -u."""
    import runpy
    import types

    sys.orig_argv[1:] = arguments
    if arguments[0] == "-u":
        sys.stdout.reconfigure(write_through=True)
        arguments = arguments[1:]
    if arguments[0] == "-m":
        module, sys.argv = arguments[1], arguments[1:]
        sys.path.insert(0, os.getcwd())
        sys.modules.pop(module, None)
        runpy.run_module(module, run_name="__main__", alter_sys=True)
        return
    main = sys.modules["__main__"] = types.ModuleType("__main__")
    if arguments[0] == "-c":
        code, sys.argv = compile(arguments[1], "<string>", "exec"), ["-c", *arguments[2:]]
        sys.path.insert(0, "")
    else:
        main.__file__, sys.argv = arguments[0], arguments
        with open(arguments[0], "rb") as file:
            code = compile(file.read(), arguments[0], "exec")
        sys.path.insert(0, os.path.dirname(os.path.abspath(arguments[0])))
    exec(code, main.__dict__)


def status_of(error: BaseException | None) -> int:
    """The exit status that the interpreter gives to what ended a program; shows what it would show."""
    if isinstance(error, SystemExit):
        if error.code is None or isinstance(error.code, int):
            return (error.code or 0) & 0xFF
        print(error.code, file=sys.stderr)
        return 1
    if error is not None:
        sys.excepthook(type(error), error, error.__traceback__)
    return 0 if error is None else -signal.SIGINT if isinstance(error, KeyboardInterrupt) else 1


def main() -> None:
    import threading

    if sys.argv[1] == "start":
        start(sys.argv[2], sys.argv[3:])
    command = serve(sys.argv[2], sys.argv[3])
    failure = None
    try:
        become(command, os.path.join(sys.argv[2], "python"))
        interpret(command["arguments"])
    except BaseException as error:
        failure = error
    status = status_of(failure)
    # All that the interpreter does at its end, except for taking every module apart.
    threading._shutdown()
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(BrokenPipeError, ValueError):
            stream.flush()
    end(status)


if __name__ == "__main__":
    main()
