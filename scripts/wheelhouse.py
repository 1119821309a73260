"""Signs a folder of packages for machines that no network reaches, and verifies one before anything of it is installed.

    python scripts/wheelhouse.py sign FOLDER KEY          # KEY: a P-256 key as `loradeck adapter key` makes it
    python scripts/wheelhouse.py verify FOLDER KEY.pub    # a KEY.pub that came another way than the folder

The list, SHA256SUMS, has every file of the folder; its signature is openssl's, so that without this script
`openssl dgst -sha256 -verify KEY.pub -signature SHA256SUMS.sig SHA256SUMS` and `sha256sum --check --strict SHA256SUMS`
check the same, but for files that are in no list. It needs Python's own library and openssl, before any install.
"""

import hashlib
import subprocess
import sys
from pathlib import Path

LIST, SIGNATURE = "SHA256SUMS", "SHA256SUMS.sig"


class NotWhole(Exception):
    """The folder is not what was signed, or cannot be signed."""


def sums(folder: Path) -> dict[str, str]:
    """SHA-256 of every file of a folder, by its path in there; the list and its signature are left out.

    Raises: NotWhole: something in it is neither a file nor a folder.
    """
    found = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_symlink() or not (path.is_file() or path.is_dir()) or "\n" in name:
            raise NotWhole(f"{name!r} is neither a file nor a folder")
        if path.is_file() and name not in (LIST, SIGNATURE):
            with path.open("rb") as file:
                found[name] = hashlib.file_digest(file, "sha256").hexdigest()
    return found


def sign(folder: Path, key: Path) -> int:
    """Writes the list and its signature, and returns the number of files.

    Raises: NotWhole: it is empty, others can read the key, or openssl cannot use it.
    """
    if key.stat().st_mode & 0o077:
        raise NotWhole(f"others may read {key}: chmod 600 {key}")
    found = sums(folder)
    if not found:
        raise NotWhole(f"{folder} is empty")
    (folder / LIST).write_text("".join(f"{digest}  {name}\n" for name, digest in found.items()))
    _openssl("-sign", key, "-out", folder / SIGNATURE, folder / LIST)
    return len(found)


def verify(folder: Path, key: Path) -> int:
    """Checks that a folder has exactly the files that were signed with a key, and returns their number.

    Raises: NotWhole: a file was changed, removed or added, or the list is not signed with that key.
    """
    if not (folder / LIST).is_file() or not (folder / SIGNATURE).is_file():
        raise NotWhole(f"{folder} has no {LIST} with {SIGNATURE}")
    _openssl("-verify", key, "-signature", folder / SIGNATURE, folder / LIST)
    lines = (line.partition("  ") for line in (folder / LIST).read_text().splitlines())
    listed, found = {name: digest for digest, _, name in lines}, sums(folder)
    wrong = [f"{name} is missing" for name in listed.keys() - found.keys()]
    wrong += [f"{name} is in no list" for name in found.keys() - listed.keys()]
    wrong += [f"{name} was changed" for name in listed.keys() & found.keys() if listed[name] != found[name]]
    if wrong:
        raise NotWhole("; ".join(sorted(wrong)))
    return len(found)


def _openssl(*words: object) -> None:
    done = subprocess.run(["openssl", "dgst", "-sha256", *map(str, words)], capture_output=True, text=True, check=False)
    if done.returncode:
        raise NotWhole(f"openssl: {(done.stderr or done.stdout).strip().splitlines()[0]}")


def main() -> None:
    """Runs `sign` or `verify`; exits with 1 where the folder is not whole."""
    asked = {"sign": sign, "verify": verify}.get(sys.argv[1] if len(sys.argv) == 4 else "")
    if asked is None:
        sys.exit("wheelhouse.py sign FOLDER KEY, or wheelhouse.py verify FOLDER KEY.pub")
    try:
        sys.stdout.write(f"{asked(Path(sys.argv[2]), Path(sys.argv[3]))} files: {sys.argv[1]} holds\n")
    except (NotWhole, OSError) as error:
        sys.exit(f"NOT WHOLE: {error}")


if __name__ == "__main__":
    main()
