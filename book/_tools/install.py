"""Make .venv ready with the pinned requirements and the package itself.

    python3 book/_tools/install.py [requirements-peers.txt ...]

It needs the standard library only, and is written so that an old Python can still read it and
say what is wrong. Where nothing has changed it returns at once. What is installed is noted in
.venv/installed.json, which is away while pip works: after a kill the environment is made anew.
"""

import argparse
import hashlib
import json
import os
import shutil
import subprocess
import sys
import textwrap

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
VENV = os.path.join(ROOT, ".venv")
PYTHON = os.path.join(VENV, *(("Scripts", "python.exe") if os.name == "nt" else ("bin", "python")))
NOTE = os.path.join(VENV, "installed.json")
OLDEST, NEWEST = (3, 11), (3, 13)
GIGABYTES = 4

WRONG_PYTHON = """
The book needs Python 3.11, 3.12 or 3.13, and this is {version}. {hint}
"""
FOUND_PYTHON = """
This machine has {name}: put PYTHON={name} after the command, as in `make book PYTHON={name}`.
"""
NO_PYTHON = """
Install one (from python.org, your system's packages, or with `uv python install 3.12`) and put its
path after the command, as in `make book PYTHON=/path/to/python3.12`.
"""
NO_GIT = """
The book needs git, which is not on the PATH: the site tells when each page last changed. Install
it (`apt install git`, `brew install git`, or from git-scm.com), then run the same command again.
"""
NO_VENV = """
This Python cannot make virtual environments. On Debian and Ubuntu the module is a package of its
own: `sudo apt install python{version}-venv`. Then run the same command again.
"""
NO_ROOM = """
The environment needs about {needed} GB of disk, and {place} has {free:.1f} GB left. Nothing has
been changed: free some space and run the same command again.
"""
PIP_FAILED = """
pip did not finish; its own message is above. The first installation needs the network (behind a
proxy, set HTTPS_PROXY), room on the disk, and room for temporary files (TMPDIR chooses where).
Then run the same command again.
"""


def stop(message, **values):
    """Leave with one clear paragraph."""
    text = " ".join(message.format(**values).split())
    sys.exit("\n" + textwrap.fill(text, 88, break_on_hyphens=False) + "\n")


def check_python(version):
    if OLDEST <= version <= NEWEST:
        return
    names = [f"python3.{minor}" for minor in range(NEWEST[1], OLDEST[1] - 1, -1)]
    found = [name for name in names if shutil.which(name)]
    hint = FOUND_PYTHON.format(name=found[0]) if found else NO_PYTHON
    stop(WRONG_PYTHON, version=dotted(version), hint=hint)


def check_machine():
    """Stop where an installation could not succeed, and say what to do."""
    if not shutil.which("git"):
        stop(NO_GIT)
    try:
        import ensurepip  # noqa: F401
        import venv  # noqa: F401
    except ImportError:
        stop(NO_VENV, version=dotted(sys.version_info[:2]))
    free = shutil.disk_usage(ROOT).free / 1e9
    if free < GIGABYTES:
        stop(NO_ROOM, needed=GIGABYTES, place=ROOT, free=free)


def dotted(version):
    return ".".join(map(str, version))


def digest(name):
    """Everything a requirements file stands for here: its text, the package and this folder."""
    parts = [ROOT.encode()]
    for path in (name, "pyproject.toml"):
        with open(os.path.join(ROOT, path), "rb") as file:
            parts.append(file.read())
    return hashlib.sha256(b"\0".join(parts)).hexdigest()


def installed():
    """What the note says, or nothing where the environment is missing or was left half-made."""
    if not (os.path.exists(NOTE) and os.path.exists(PYTHON)):
        return {}
    with open(NOTE) as file:
        return json.load(file)


def write_note(note):
    with open(NOTE + ".part", "w") as file:
        json.dump(note, file, indent=1)
    os.replace(NOTE + ".part", NOTE)


def pip(*arguments):
    command = [PYTHON, "-m", "pip", "--disable-pip-version-check", "install", *arguments]
    subprocess.run(command, check=True, cwd=ROOT)


def install(files):
    """Bring .venv to the wanted state."""
    note = installed()
    wanted = {name: digest(name) for name in ["requirements.txt", *files]}
    if wanted.items() <= note.items():
        return
    check_machine()
    print(f"Installing {', '.join(wanted)} into .venv (once; a few minutes)", flush=True)
    if note:
        os.remove(NOTE)
    else:
        subprocess.run([sys.executable, "-m", "venv", "--clear", VENV], check=True)
    try:
        pip(*[word for name in wanted for word in ("-r", name)])
        pip("--quiet", "--no-build-isolation", "--no-deps", "--editable", ".")
    except subprocess.CalledProcessError:
        if note:
            write_note(note)
        stop(PIP_FAILED)
    write_note({**note, **wanted})


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("files", nargs="*", help="more requirements, as requirements-peers.txt")
    check_python(sys.version_info[:2])
    install(parser.parse_args().files)
