from rich.table import Table

from datamodules.summary_text import summary_text


def test_nothing_in_a_title_or_note_is_markup() -> None:
    table = Table("split")
    table.add_row("train")
    lines = summary_text("photos [red]: 3 images", table, ["Skipped [bold].", "  a.jpg"]).splitlines()
    assert lines[0] == "photos [red]: 3 images"
    assert lines[-2:] == ["Skipped [bold].", "  a.jpg"]
    assert all(line == line.rstrip() for line in lines)
