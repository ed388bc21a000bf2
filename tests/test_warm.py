"""A warm process is started, is signalled and ends as a cold one does."""

import os
import signal
import subprocess
import sys

import pytest
import warm

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="processes start warm on Linux only")

PROGRAM = """
import atexit, os, sys, threading, time
print([*sys.argv, sys.path[0], os.getcwd(), os.environ["GIVEN"], sys.stdin.read(), __name__])
print("to the other stream", file=sys.stderr)
atexit.register(print, "at exit")
threading.Timer(0.1, print, ["from a thread"]).start()
"""


@pytest.fixture(autouse=True)
def interruptible():
    """What a shell starts in the background ignores SIGINT, and so does what the tests start in turn."""
    earlier = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, earlier)


@pytest.fixture
def both():
    """Run a command cold and warm."""

    def run(*words: str, **settings) -> list[subprocess.CompletedProcess]:
        settings |= {"capture_output": True, "text": True, "check": False}
        return [subprocess.run([python, *words], **settings) for python in (sys.executable, warm.python("libraries"))]

    return run


@pytest.mark.parametrize("kind", ["file", "module", "code"])
def test_it_gets_what_a_cold_one_gets(both, tmp_path, kind):
    (tmp_path / "program.py").write_text(PROGRAM)
    words = {"file": ["program.py"], "module": ["-m", "program"], "code": ["-c", PROGRAM]}[kind]
    environment = {**os.environ, "GIVEN": "1"}
    cold, warmed = both(*words, "a b", "--c", cwd=tmp_path, env=environment, input="in")
    assert (warmed.stdout, warmed.stderr, warmed.returncode) == (cold.stdout, cold.stderr, 0)
    assert cold.stdout.split("\n")[1:] == ["from a thread", "at exit", ""]


@pytest.mark.parametrize(
    "end",
    [
        "sys.exit(3)",
        "sys.exit('message')",
        "raise SystemExit(-1)",
        "os._exit(7)",
        "1 / 0",
        "os.kill(os.getpid(), signal.SIGKILL)",
        "os.kill(os.getpid(), signal.SIGTERM)",
        "os.kill(os.getpid(), signal.SIGINT)",
    ],
)
def test_it_ends_as_a_cold_one(both, end):
    cold, warmed = both("-c", f"import os, signal, sys\n{end}")
    assert warmed.returncode == cold.returncode != 0
    assert warmed.stderr.splitlines()[-1:] == cold.stderr.splitlines()[-1:]


def test_what_a_library_has_set_since_is_there(monkeypatch):
    monkeypatch.setenv("MPLBACKEND", "pdf")
    code = "import matplotlib; print(matplotlib.get_backend())"
    done = subprocess.run([warm.python("libraries"), "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "pdf\n"


def test_it_starts_others_warm():
    code = (
        "import subprocess, sys; subprocess.run([sys.executable, '-c', 'import sys; print(\"torch\" in sys.modules)'])"
    )
    done = subprocess.run([warm.python("libraries"), "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "True\n"


def test_nothing_of_ours_is_imported_unasked():
    code = "import sys; print({'hf_fer', 'transformers', 'huggingface_hub'} & {*sys.modules})"
    done = subprocess.run([warm.python("libraries"), "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_a_signal_reaches_it_and_those_it_has_started(signum):
    """The output ends when nobody has it open any more."""
    code = (
        "import subprocess, sys, time\n"
        "subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])\n"
        "print('started', flush=True)\n"
        "time.sleep(600)"
    )
    process = subprocess.Popen(
        [warm.python("libraries"), "-c", code], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    assert process.stdout.readline() == b"started\n"
    process.send_signal(signum)
    assert process.communicate(timeout=60)[0] == b""
    assert process.returncode == -signum


@pytest.mark.parametrize(("preload", "name"), [("libraries", "LC_ALL"), ("hugging_face", "HF_HOME")])
def test_a_variable_that_has_been_read_is_refused(preload, name):
    environment = {**os.environ, name: "another"}
    done = subprocess.run(
        [warm.python(preload), "-c", ""], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == warm.NO_SERVER
    assert f"{name} had other values" in done.stderr
