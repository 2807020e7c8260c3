"""What the documents promise exists and runs."""

import importlib
import re

import pytest

from tests.paths import ROOT


@pytest.mark.parametrize("package", ["attention_blocks", "lightning_modules", "datamodules"])
def test_every_public_name_is_in_the_index(package: str) -> None:
    index = (ROOT / "docs" / "index.md").read_text(encoding="utf-8")
    missing = [name for name in importlib.import_module(package).__all__ if f"`{name}`" not in index]
    # Modules of a package stand in __all__ under their own headings.
    assert not missing, f"docs/index.md lacks {missing}; give each a line"


def test_the_readme_contract_example_runs(capsys: pytest.CaptureFixture[str]) -> None:
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), flags=re.DOTALL)
    [example] = [block for block in blocks if "padding_mask" in block]
    exec(example, {})  # noqa: S102 # it is our own text
    shapes = ["torch.Size([2, 1, 32]) torch.Size([2, 1, 7])", "torch.Size([2, 1, 64]) torch.Size([2, 4, 1, 7])"]
    assert capsys.readouterr().out.splitlines() == shapes


def test_every_link_of_the_documents_leads_somewhere() -> None:
    for document in [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")]:
        for target in re.findall(r"\]\(([^)#:]+)\)", document.read_text(encoding="utf-8")):
            assert (document.parent / target).exists(), f"{document.name} links to {target}, which is not there"


def test_no_document_has_the_roles_of_docstrings() -> None:
    for document in [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")]:
        assert ":`" not in document.read_text(encoding="utf-8"), f"{document.name} has a role such as :class:"
