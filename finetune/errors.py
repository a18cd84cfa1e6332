"""What goes wrong because of the user's input, told in the user's words."""


class UserError(Exception):
    """The input or the configuration is at fault; the command ends with exit code 2.

    Args:
        *problems: Each names the place (file and line, or key), the value found, what was
            expected and the fix. All problems found are reported together.
    """

    def __init__(self, *problems: str) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems
