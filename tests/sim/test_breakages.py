"""Each deliberate breakage of the product is caught within 2,000 schedules."""

import pytest

from tests.sim import breakages, shims

LIMIT = 2000


@pytest.mark.parametrize("name", breakages.BREAKAGES)
def test_breakage_is_caught(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with shims.installed():
        *_, (count, failure) = breakages.schedules_until_caught(name, LIMIT)
    with capsys.disabled():
        print(f"\n  {name}: {'caught by schedule' if failure else 'NOT caught in'} {count}: {failure}"[:160])
    assert failure is not None, f"{name}: {LIMIT} schedules broke no promise; the model is too kind"
