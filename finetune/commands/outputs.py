"""Files that a command is told to write, looked at before its work and not after it."""

from pathlib import Path

from finetune.errors import UserError


def check_outputs(**files: Path | None) -> None:
    """Do nothing if each of these files can be written.

    Args:
        **files: By the option that names them; None where it was not given.

    Raises:
        UserError: One is a folder, or the folder that it is to lie in is not there.
    """
    problems = []
    for option, path in files.items():
        if path is not None and path.is_dir():
            problems.append(f"--{option} {path}: is a folder; name a file in it")
        elif path is not None and not path.parent.is_dir():
            problems.append(
                f"--{option} {path}: there is no folder {path.parent} to write it to; make it, or "
                "name a file elsewhere"
            )
    if problems:
        raise UserError(*problems)
