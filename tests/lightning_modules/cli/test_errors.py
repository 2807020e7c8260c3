from __future__ import annotations

import pytest

from lightning_modules.cli.errors import refuse, user_errors


def test_an_error_is_one_line_and_status_two(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        refuse(ValueError("top must be 1 or more, got 0"))
    assert ended.value.code == 2
    assert capsys.readouterr().err == "attention-blocks: error: top must be 1 or more, got 0\n"


@pytest.mark.parametrize("error", [ValueError("wrong"), FileNotFoundError("not there")])
def test_errors_of_the_user_are_refused(error: Exception) -> None:
    with pytest.raises(SystemExit), user_errors():
        raise error


def test_bugs_keep_their_traceback() -> None:
    with pytest.raises(ZeroDivisionError), user_errors():
        raise ZeroDivisionError
