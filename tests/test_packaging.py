"""What pyproject.toml promises."""

import re
import tomllib
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).parents[1]
PROJECT = tomllib.loads((CHECKOUT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
EXTRAS = {k: v for k, v in PROJECT["optional-dependencies"].items() if k not in ("dev", "all")}


@pytest.mark.parametrize("extra", EXTRAS)
def test_an_extra_installs_what_the_package_uses(extra):
    files = [*(CHECKOUT / "src").rglob("*.py"), *(CHECKOUT / "configs").rglob("*.yaml")]
    sources = [path.read_text(encoding="utf-8") for path in files]
    for requirement in EXTRAS[extra]:
        name = re.match(r"[\w-]+", requirement)[0].replace("-", "_")
        used = re.compile(rf'(import|from) {name}\b|"{name}"|package:{name}\b')
        assert any(used.search(source) for source in sources), name


def test_all_is_every_extra():
    (everything,) = PROJECT["optional-dependencies"]["all"]
    assert set(re.findall(r"\w+", everything)) - {"intarsia"} == set(EXTRAS)
