"""What the README says is run."""

import re
import shlex
from pathlib import Path

import pytest

from sonido_bench.cli import build_parser, main

README = (Path(__file__).parents[1] / "README.md").read_text()


def block(language: str, containing: str) -> str:
    blocks = re.findall(rf"```{language}\n(.*?)```", README, flags=re.DOTALL)
    return next(text for text in blocks if containing in text)


def test_the_example_extractor_keeps_the_contract(tmp_path, monkeypatch, capsys):
    code = block("python", "class Bands")
    written = [line for line in code[code.index("class Bands") :].splitlines() if line.strip()]
    assert len(written) <= 15
    (tmp_path / "my_module.py").write_text(code)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    assert main(["check-extractor", "my_module:Bands"]) == 0
    assert main(["check-extractor", "my_module:Bands@random"]) == 0
    assert "FAIL" not in capsys.readouterr().out


def test_the_listed_commands_exist():
    lines = [shlex.split(line, comments=True) for line in block("", "sonido-bench status").splitlines()]
    assert len(lines) >= 10
    for program, *arguments in lines:
        assert program == "sonido-bench"
        if arguments[0] != "fit":  # LightningCLI's; tests/test_configs.py runs it
            assert build_parser().parse_args(arguments).command


@pytest.mark.parametrize("link", re.findall(r"\]\((?!http)([^)#]+)\)", README))
def test_links_lead_somewhere(link):
    assert (Path(__file__).parents[1] / link).exists()
